//! `skep image slim`

use std::path::{Path, PathBuf};

use engine::{Engine, SlimRequest};
use image::slim::{Answer, Glob, Report, TreePath, Workload};
use model::{ByteSize, ImageName, ImageRef, SlimRecord};

use super::select::{self, Found, Pull, Scripts, Wanted};
use crate::error::{CommandError, Kind, Result};
use crate::output::{self, Reporter};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Observe this command in the image, beside its own
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["http", "workload"])]
    exec: Option<String>,
    /// Observe the image's service answering a request for this path
    #[arg(long, value_name = "PATH", conflicts_with = "workload")]
    http: Option<String>,
    /// Observe what a file says, in TOML: [[step]] and [[unseen]] with exec, http, tcp or restart
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// The port that the service listens on [default: the image's, or the first that it opens]
    #[arg(long, value_name = "PORT", requires = "http")]
    port: Option<u16>,
    /// Keep these paths too, like /usr/share/app/**/*.html
    #[arg(long, value_name = "GLOB")]
    keep: Vec<Glob>,
    /// Call the slim image NAME [default: the image's name and '-slim']
    #[arg(long, value_name = "NAME")]
    tag: Option<ImageName>,
    /// Tell why a path was kept or not; of a slim image, without making anything
    #[arg(long, value_name = "PATH")]
    explain: Option<PathBuf>,
    /// Write report.json and seccomp.json into this directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// The image
    #[arg(value_name = "IMAGE")]
    image: ImageRef,
}

pub(super) fn execute(engine: &Engine, args: &Args) -> Result<()> {
    let security = image::SecurityUpdates::Include;
    let wanted = Wanted { arch: None, pull: Pull::Missing, security, scripts: Scripts::Skip };
    let found = select::image(engine, &args.image, &wanted)?;
    let workload = workload(args)?;
    let slim = match (workload, &found.record.slim) {
        (Some(workload), _) => make(engine, args, &found, &workload)?,
        // It was made before: there is only something to tell.
        (None, Some(_)) if args.explain.is_some() || args.report.is_some() || args.json => found,
        (None, _) => {
            return Err(CommandError::usage("what shall the image be seen to do?")
                .hinted("give --http /, --exec 'COMMAND' or --workload FILE"));
        }
    };
    tell(engine, args, &slim)
}

fn workload(args: &Args) -> Result<Option<Workload>> {
    if let Some(path) = &args.http {
        let plain = path.starts_with('/') && path.bytes().all(|it| it.is_ascii_graphic());
        if !plain {
            return Err(CommandError::usage(format!("'{path}' is no path to ask for")).hinted("like --http /"));
        }
        return Ok(Some(Workload::of_http(path, args.port)));
    }
    if let Some(command) = &args.exec {
        return Ok(Some(Workload::of_command(image::slim::words(command)?)));
    }
    let Some(path) = &args.workload else { return Ok(None) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| CommandError::new(Kind::NotFound, format!("{}: {error}", path.display())))?;
    let workload =
        Workload::parse(&text).map_err(|error| CommandError::usage(format!("{}: {error}", path.display())))?;
    Ok(Some(workload))
}

fn make(engine: &Engine, args: &Args, found: &Found, workload: &Workload) -> Result<Found> {
    if !rustix::process::geteuid().is_root() {
        return Err(CommandError::new(Kind::Unsupported, "what a cell uses can be watched by root alone")
            .hinted("run this as root"));
    }
    let image = args.image.to_string();
    let name = match &args.tag {
        Some(name) => name.clone(),
        None => slim_name(&image)?,
    };
    let request =
        SlimRequest { image: &image, id: found.id, record: &found.record, workload, keep: &args.keep, name: &name };
    let slimmed = engine.slim(&request, &Reporter::new())?;
    Ok(Found { name: slimmed.image.name, id: slimmed.image.id, record: slimmed.image.record })
}

/// `deb:nginx-light` becomes `nginx-light-slim`.
fn slim_name(image: &str) -> Result<ImageName> {
    let plain = image.strip_prefix("deb:").unwrap_or(image);
    let plain: String = plain.chars().map(|it| if it == ',' || it == '@' { '-' } else { it }).collect();
    format!("{plain}-slim")
        .parse()
        .map_err(|_| CommandError::usage(format!("'{image}' with '-slim' is no name")).hinted("give one with --tag"))
}

fn tell(engine: &Engine, args: &Args, found: &Found) -> Result<()> {
    let Some(slim) = &found.record.slim else { return Ok(()) };
    let reader = engine.store().reader()?;
    let report = Report::of(&reader, slim)?;
    if let Some(dir) = &args.report {
        write_report(dir, &report, &reader.blob(&slim.seccomp)?)?;
    }
    if args.json {
        return output::json(&report);
    }
    if let Some(path) = &args.explain {
        return explain(&reader, found, slim, &report, path);
    }
    summary(found, &report)
}

fn write_report(dir: &Path, report: &Report, seccomp: &[u8]) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let json = serde_json::to_vec_pretty(report).map_err(CommandError::failed)?;
    std::fs::write(dir.join("report.json"), json)?;
    std::fs::write(dir.join("seccomp.json"), seccomp)?;
    Ok(())
}

fn summary(found: &Found, report: &Report) -> Result<()> {
    let removed = 100.0 * report.after.removed_of(&report.before);
    let (before, after) = (ByteSize::bytes(report.before.bytes), ByteSize::bytes(report.after.bytes));
    output::line(format!("{} {}", found.id.short(), found.name))?;
    output::line(format!(
        "{before} -> {after}: {removed:.1} % removed, {} of {} files kept",
        report.after.files, report.before.files
    ))?;
    let missed: usize = report.rounds.iter().map(|it| it.missed.len()).sum();
    let grown = match missed {
        0 => "missed nothing".to_owned(),
        count => format!("missed {count} paths in {} rounds, which were added", report.rounds.len() - 1),
    };
    output::line(format!(
        "proved with {} steps and {} unseen ones on the slim image, which {grown}; {} system calls",
        report.steps.len(),
        report.unseen.len(),
        report.calls.len()
    ))?;
    let listed: Vec<String> = report.listed().map(ToString::to_string).collect();
    if listed.is_empty() {
        return Ok(());
    }
    output::line(format!("listed, though less is there than in the original ('--keep' helps): {}", listed.join(" ")))
}

fn explain(reader: &store::Reader, found: &Found, slim: &SlimRecord, report: &Report, path: &Path) -> Result<()> {
    let asked = TreePath::new(path.as_os_str().as_encoded_bytes());
    let (tree, complement) = (reader.tree(&found.record.tree)?, reader.tree(&slim.complement)?);
    match report.explain(&asked, &tree, &complement) {
        Answer::Kept(chain) => chain.iter().try_for_each(|(path, why)| output::line(format!("{path}: {why}"))),
        Answer::Way => output::line(format!("{asked}: a directory on the way to something")),
        Answer::Removed => output::line(format!("{asked}: removed, nothing needed it; '--keep {asked}' keeps it")),
        Answer::Unknown => {
            Err(CommandError::new(Kind::NotFound, format!("{} has no {asked}, and {} had none", found.name, slim.name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::slim_name;

    #[test]
    fn slim_images_are_named_after_their_originals() {
        for (image, name) in [("deb:nginx-light", "nginx-light-slim"), ("web", "web-slim"), ("deb:a,b@x", "a-b-x-slim")]
        {
            assert_eq!(slim_name(image).unwrap().to_string(), name);
        }
    }
}
