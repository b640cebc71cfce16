//! Takes a directory into a pool and prints, as one line of JSON, what it cost: `ingest DIR POOL [NAME]`.
//! With a name, the tree is published as an image; without, it is only stored.

use std::path::Path;
use std::process::ExitCode;

use model::{ImageConfig, ImageRecord, Sha256, Timestamp};
use store::{RefChange, Store};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [dir, pool] => run(dir, pool, None),
        [dir, pool, name] => run(dir, pool, Some(name)),
        _ => {
            complain("usage: ingest DIR POOL [NAME]");
            return ExitCode::from(2);
        }
    }
    .map_or_else(
        |error| {
            complain(&error.to_string());
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

#[expect(clippy::print_stderr, reason = "a program's own output")]
fn complain(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "a program's own output")]
fn report(line: &serde_json::Value) {
    println!("{line}");
}

fn run(dir: &str, pool: &str, name: Option<&str>) -> Result<(), Box<dyn std::error::Error>> {
    let began = std::time::Instant::now();
    let store = Store::open(pool)?;
    let mut writer = store.writer()?;
    let tree = writer.directory(Path::new(dir))?;
    let id = writer.tree(&tree)?;
    let changes = match name {
        None => Vec::new(),
        Some(name) => {
            let config = b"{}";
            let record = ImageRecord {
                tree: id,
                arch: model::Arch::HOST,
                config: ImageConfig::default(),
                oci_config: writer.blob(config)?,
                oci_id: Sha256::from_bytes([0; 32]),
                layers: Vec::new(),
                source: format!("dir:{name}"),
                inputs: Vec::new(),
                created: Timestamp::from_nanos(0),
                size: model::ByteSize::bytes(tree.content_size()),
                slim: None,
            };
            vec![RefChange::Set(name.parse()?, writer.image(&record)?)]
        }
    };
    let tally = writer.tally();
    writer.publish(&changes)?;
    let wall = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds();
    let status = store.status()?;
    report(&serde_json::json!({
        "tree": id.to_string(),
        "files": tree.len(),
        "bytes": tree.content_size(),
        "new_bytes": tally.new_bytes,
        "objects": tally.objects,
        "new_objects": tally.new_objects,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "mb_per_cpu_second": tree.content_size() as f64 / 1e6 / cpu,
        "stored_bytes": status.stored.get(),
    }));
    Ok(())
}

/// Processor time of this process so far, all threads, user and system, in seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
