//! Several processes and threads at once, full disks, and users without privileges.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store::{Error, Layout, Omission, Repair, Rootfs, Store};
use tempfile::TempDir;

use crate::faults::fast_dir;
use crate::faults::scenario::{name, publish, verify};

fn pool() -> (TempDir, Store) {
    let dir = fast_dir();
    let store = Store::open(dir.path().join("pool")).unwrap();
    (dir, store)
}

fn tree_of(store: &Store, image: u64) -> model::ObjectId {
    store.image(&store.resolve(&name(image)).unwrap().unwrap()).unwrap().tree
}

#[test]
fn a_second_writer_is_told_who_is_first() {
    let (_dir, store) = pool();
    let first = store.writer().unwrap();
    let second = store.clone().with_patience(Duration::from_millis(20)).writer();
    let holder = std::process::id();
    assert!(matches!(second, Err(Error::Busy { holder: Some(pid) }) if pid == holder));
    drop(first);
    publish(&store, 1).unwrap();
}

#[test]
fn a_second_writer_waits_for_the_first() {
    let (_dir, store) = pool();
    std::thread::scope(|scope| {
        for image in 1..=6 {
            let store = &store;
            scope.spawn(move || publish(store, image).unwrap());
        }
    });
    (1..=6).try_for_each(|image| verify(&store, image)).unwrap();
    assert!(store.fsck(Repair::CheckOnly, &()).unwrap().is_sound());
}

#[test]
fn what_a_dropped_writer_was_given_is_forgotten() {
    let (_dir, store) = pool();
    let mut writer = store.writer().unwrap();
    let id = writer.blob(b"never published").unwrap();
    drop(writer);
    assert!(matches!(store.reader().unwrap().blob(&id), Err(Error::Missing(_))));
}

#[test]
fn readers_read_on_while_a_writer_writes() {
    let (_dir, store) = pool();
    publish(&store, 1).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) || rounds < 3 {
                    verify(&store, 1).unwrap();
                    rounds += 1;
                }
            });
        }
        // One long session, and an open reader that must find what is published after it was opened.
        let reader = store.reader().unwrap();
        assert!(reader.tree(&tree_of(&store, 1)).is_ok());
        for image in 2..=8 {
            publish(&store, image).unwrap();
            assert!(reader.tree(&tree_of(&store, image)).is_ok(), "a reader sees what is new");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_collector_leaves_a_reader_its_packs() {
    let (_dir, store) = pool();
    publish(&store, 1).unwrap();
    publish(&store, 2).unwrap();
    let tree = tree_of(&store, 1);
    let reader = store.reader().unwrap();
    let kept = reader.tree(&tree).unwrap();
    store.untag(&name(1)).unwrap();
    let report = store.gc(&[], &()).unwrap();
    assert!(report.deferred && report.packs_condemned > 0 && report.packs_removed == 0, "{report:?}");
    for (path, entry) in kept.walk() {
        let store::Kind::File(content) = entry.node.kind else { continue };
        let mut bytes = Vec::new();
        reader.content(&content).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, content.size, "{}", String::from_utf8_lossy(&path));
    }
    drop(reader);
    let report = store.gc(&[], &()).unwrap();
    assert!(!report.deferred && report.packs_removed > 0, "{report:?}");
    verify(&store, 2).unwrap();
    assert!(store.reader().unwrap().tree(&tree).is_err(), "what nothing needs is gone");
}

#[test]
fn a_collector_keeps_what_runs() {
    let (_dir, store) = pool();
    publish(&store, 1).unwrap();
    let tree = tree_of(&store, 1);
    let composed = store.rootfs(&tree, Layout::Composed, &()).unwrap();
    let plain = store.rootfs(&tree, Layout::Plain, &()).unwrap();
    store.untag(&name(1)).unwrap();
    store.gc(&[tree], &()).unwrap();
    assert_eq!(store.rootfs(&tree, Layout::Composed, &()).unwrap(), composed);
    assert_eq!(store.rootfs(&tree, Layout::Plain, &()).unwrap(), plain);
    assert!(store.fsck(Repair::CheckOnly, &()).unwrap().is_sound());
    store.gc(&[], &()).unwrap();
    let status = store.status().unwrap();
    assert_eq!((status.objects, status.packs, status.images), (0, 0, 0), "{status:?}");
    let Rootfs::Composed { metadata, objects } = composed else { panic!() };
    assert!(!metadata.exists());
    let left = std::fs::read_dir(objects).unwrap().flatten().flat_map(|fan| std::fs::read_dir(fan.path()).unwrap());
    assert_eq!(left.count(), 0);
}

#[test]
fn a_store_that_is_mostly_garbage_shrinks() {
    let (_dir, store) = pool();
    for image in 1..=8 {
        publish(&store, image).unwrap();
    }
    let before = store.status().unwrap();
    for image in 2..=8 {
        store.untag(&name(image)).unwrap();
    }
    let report = store.gc(&[], &()).unwrap();
    let after = store.status().unwrap();
    assert!(after.unique.get() < before.unique.get() / 3, "{report:?}\n{before:?}\n{after:?}");
    verify(&store, 1).unwrap();
    assert_eq!(store.gc(&[], &()).unwrap().packs_condemned, 0, "a second collection finds nothing");
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    if !crate::mount::allowed() {
        return eprintln!("skipped: mounting needs root");
    }
    let disk = crate::mount::tmpfs("3m");
    let store = Store::open(disk.path().join("pool")).unwrap();
    publish(&store, 1).unwrap();
    let mut stored = vec![1];
    let full = (2..40).find_map(|image| match publish(&store, image) {
        Ok(()) => {
            stored.push(image);
            None
        }
        Err(error) => Some(error),
    });
    let error = full.expect("three megabytes are not endless");
    assert!(error.to_string().contains("No space") || error.to_string().contains("28"), "{error}");
    stored.iter().try_for_each(|image| verify(&store, *image)).unwrap();
    for image in &stored[1..] {
        store.untag(&name(*image)).ok();
    }
    let unpacked = store.rootfs(&tree_of(&store, 1), Layout::Composed, &());
    assert!(store.fsck(Repair::CheckOnly, &()).unwrap().is_sound(), "{unpacked:?}");
    verify(&store, 1).unwrap();
}

const USER_POOL: &str = "SKEP_TEST_USER_POOL";

/// Not a test of its own: what runs as an unprivileged user.
#[test]
fn child_of_an_unprivileged_user() {
    let Some(dir) = std::env::var_os(USER_POOL).map(PathBuf::from) else { return };
    assert_ne!(rustix::process::geteuid().as_raw(), 0);
    let store = Store::open(dir).unwrap();
    publish(&store, 1).unwrap();
    let tree = {
        let mut writer = store.writer().unwrap();
        let tree = crate::rootfs::everything(&mut writer);
        let id = writer.tree(&tree).unwrap();
        writer.publish(&[]).unwrap();
        id
    };
    for _ in 0..2 {
        let Rootfs::Plain { dir, missing } = store.rootfs(&tree, Layout::Plain, &()).unwrap() else { panic!() };
        assert_eq!(missing, [Omission::Owners, Omission::Devices, Omission::Attributes]);
        assert_eq!(std::fs::metadata(dir.join("bin/tiny")).unwrap().mode() & 0o7777, 0o755);
        assert!(!dir.join("null").exists() && dir.join("pipe").exists());
    }
    store.rootfs(&tree_of(&store, 1), Layout::Composed, &()).unwrap();
    store.gc(&[], &()).unwrap();
    verify(&store, 1).unwrap();
    assert!(store.fsck(Repair::CheckOnly, &()).unwrap().is_sound());
    assert!(!store.dir().join("plain").join(tree.to_string()).exists());
}

#[test]
fn an_unprivileged_user_has_a_pool_too() {
    let dir = fast_dir();
    let test = ["--exact", "together::child_of_an_unprivileged_user", "--test-threads=1"];
    let mut command = Command::new(std::env::current_exe().unwrap());
    if rustix::process::geteuid().is_root() {
        const NOBODY: u32 = 65534;
        chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        // The test binary may lie where that user cannot reach it.
        let program = dir.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    let output = command.args(test).env(USER_POOL, dir.path().join("pool")).env("TMPDIR", dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(Path::new(&dir.path().join("pool/format")).exists());
}
