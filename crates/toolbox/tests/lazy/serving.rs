//! What is unpacked when, and what happens to readers when the server fails.

use crate::fixture::{Pool, Root, SERVER, able, noise, put};
use store::Tree;

/// Not a test: this binary as a server, when it is executed with a pool and a descriptor behind the words for libtest.
#[test]
fn server() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args.last().and_then(|it| it.to_str()?.parse::<u32>().ok()).is_some() {
        toolbox::lazy::server_main(args).unwrap();
    }
}

fn three_files() -> Pool {
    Pool::new(|writer| {
        let mut tree = Tree::default();
        for (number, name) in ["etc/one", "etc/two", "bin/three"].into_iter().enumerate() {
            put(&mut tree, name, writer.file(&*noise(100_000, number as u64)).unwrap());
        }
        tree
    })
}

#[test]
fn a_file_is_unpacked_when_it_is_read_and_not_before() {
    if !able() {
        return;
    }
    let pool = three_files();
    let root = pool.mount();
    assert_eq!(std::fs::metadata(root.path("etc/one")).unwrap().len(), 100_000);
    assert_eq!(std::fs::read_dir(root.path("etc")).unwrap().count(), 2);
    assert!(pool.unpacked().is_empty());
    assert!(root.read("etc/two").unwrap() == noise(100_000, 1));
    assert_eq!(pool.unpacked().len(), 1);
    assert!(root.read("etc/one").unwrap() == noise(100_000, 0));
    assert_eq!(pool.unpacked().len(), 2);
}

/// Executing and mapping, not only reading, brings a file.
#[test]
fn a_program_runs_that_is_not_unpacked_yet() {
    let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|it| std::fs::read(it).ok()) else {
        return eprintln!("skipped: busybox is not installed");
    };
    if !able() {
        return;
    }
    let pool = Pool::new(|writer| {
        let mut tree = Tree::default();
        put(&mut tree, "bin/busybox", writer.file(&*busybox).unwrap());
        put(&mut tree, "etc/motd", writer.file(&b"welcome\n"[..]).unwrap());
        tree.metadata_mut("bin/busybox").unwrap().mode = 0o755;
        tree
    });
    let root = Root::writable(pool.start(SERVER));
    let mut chroot = std::process::Command::new("chroot");
    chroot.arg(root.path("").to_str().unwrap().replace("self", &std::process::id().to_string()));
    let script = "/bin/busybox cat /etc/motd && /bin/busybox cp /bin/busybox /cmp && /cmp /cmp /bin/busybox";
    let output = chroot.args(["/bin/busybox", "sh", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"welcome\n");
    assert_eq!(pool.unpacked().len(), 2);
}

#[test]
fn a_server_of_its_own_serves_too() {
    if !able() {
        return;
    }
    let pool = three_files();
    let root = Root::of(pool.start(SERVER));
    assert!(root.read("bin/three").unwrap() == noise(100_000, 2));
}
