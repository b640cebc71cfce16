//! A lazy root file system is its tree: every name, every attribute, every byte.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use store::{Content, Device, Kind, Layout, Metadata, Node, Tree, Writer};
use sys::exec::{GroupChange, become_user};
use sys::mount::{Reach, clone_tree, map_owners};
use sys::namespace::{IdMap, user_namespace};
use toolbox::lazy::{Lazy, Scratch, Serving};

use crate::compare;
use crate::fixture::{Pool, Root, SERVER, able, descriptor_path, meta, noise, put, tmpfs};

/// One of everything that is hard.
fn everything(writer: &mut Writer) -> Tree {
    let mut tree = Tree::new(meta(0o755));
    for (number, length) in [1, 63, 64, 65, 4095, 4096, 4097, 65_536, 65_537, 3_000_000].into_iter().enumerate() {
        put(&mut tree, &format!("sizes/{length}"), writer.file(&*noise(length, number as u64)).unwrap());
    }
    put(&mut tree, "sizes/none", Content::EMPTY);
    let mut sparse = writer.begin_file();
    sparse.zeros(1 << 20).unwrap();
    sparse.write(&noise(100_000, 4)).unwrap();
    sparse.zeros(30 << 20).unwrap();
    put(&mut tree, "sizes/sparse", sparse.finish().unwrap());
    let small = writer.file(&*noise(5000, 9)).unwrap();
    let mut insert = |path: &str, meta: Metadata, kind: Kind| {
        tree.make_parents(path, &crate::fixture::meta(0o755)).unwrap();
        tree.insert(path, Node { meta, kind }).unwrap();
    };
    insert("tmp", meta(0o1777), Kind::Directory);
    insert("bin/su", Metadata { uid: 0, gid: 5, ..meta(0o6755) }, Kind::File(small));
    insert("bin/other", Metadata { uid: 70_000, gid: 70_001, ..meta(0o640) }, Kind::File(small));
    insert("bin/secret", meta(0o000), Kind::File(small));
    insert("dev/null", meta(0o666), Kind::CharDevice(Device { major: 1, minor: 3 }));
    insert("dev/disk", meta(0o660), Kind::BlockDevice(Device { major: 259, minor: 70_000 }));
    insert("dev/pipe", meta(0o644), Kind::Fifo);
    insert("dev/socket", meta(0o755), Kind::Socket);
    insert(&"n".repeat(255), meta(0o644), Kind::File(small));
    for length in [1, 60, 255, 4000] {
        insert(&format!("links/{length}"), meta(0o777), Kind::Symlink("x".repeat(length).into_bytes().into()));
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut capable = meta(0o755);
    for (name, value) in [("security.capability", &capability[..]), ("user.note", b"hello"), ("user.none", b"")] {
        capable.xattrs.insert(name.as_bytes().into(), value.into());
    }
    insert("bin/ping", capable, Kind::File(small));
    let mut escaped = meta(0o755);
    escaped.xattrs.insert((*b"trusted.overlay.opaque").into(), (*b"y").into());
    insert("opaque", escaped, Kind::Directory);
    insert("opaque/in", meta(0o644), Kind::File(small));
    tree.link("bin/su", "bin/su2").unwrap();
    tree.link("links/60", "links/again").unwrap();
    tree.link("dev/pipe", "dev/pipe2").unwrap();
    tree
}

#[test]
fn a_lazy_root_is_the_tree() {
    if !able() {
        return;
    }
    let pool = Pool::new(everything);
    for serving in [Serving::Thread, SERVER] {
        let root = Root::of(pool.start(serving));
        compare::same(&pool.tree, &pool.store.reader().unwrap(), &root.dir());
    }
    // And with something writable above, as a session has it.
    let root = Root::writable(pool.start(SERVER));
    compare::same(&pool.tree, &pool.store.reader().unwrap(), &root.dir());
}

#[test]
fn thousands_of_files_are_all_there() {
    if !able() {
        return;
    }
    let bytes_of = |number: u64| noise(100 + number as usize % 3000, number);
    let pool = Pool::new(|writer| {
        let mut tree = Tree::default();
        for number in 0..6000 {
            let content = writer.file(&*bytes_of(number)).unwrap();
            put(&mut tree, &format!("dir-{}/file-{number}", number % 50), content);
        }
        tree
    });
    let root = Root::of(pool.start(SERVER));
    let seen: BTreeSet<_> = (0..50)
        .flat_map(|dir| std::fs::read_dir(root.path(format!("dir-{dir}"))).unwrap())
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(seen.len(), 6000);
    for number in 0..6000 {
        assert!(root.read(&format!("dir-{}/file-{number}", number % 50)).unwrap() == bytes_of(number), "{number}");
    }
}

#[test]
fn a_huge_file_takes_no_time_and_no_room() {
    if !able() {
        return;
    }
    let size = 1u64 << 40;
    let pool = Pool::new(|writer| {
        let mut tree = Tree::default();
        let mut huge = writer.begin_file();
        huge.zeros(size - 3).unwrap();
        huge.write(b"end").unwrap();
        put(&mut tree, "huge", huge.finish().unwrap());
        tree
    });
    let root = pool.mount();
    let mut file = std::fs::File::open(root.path("huge")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut end = [1; 5];
    file.seek(SeekFrom::Start(size - 5)).unwrap();
    file.read_exact(&mut end).unwrap();
    assert_eq!(&end, b"\0\0end");
    let name = pool.unpacked()[0].clone();
    let unpacked = pool.fresh().join("asked").join(&name[..2]).join(&name[2..]);
    assert!(std::fs::metadata(unpacked).unwrap().blocks() < 2048);
}

#[test]
fn many_first_readers_of_one_file_get_the_same() {
    if !able() {
        return;
    }
    let bytes = noise(20 << 20, 5);
    let pool = Pool::new(|writer| {
        let mut tree = Tree::default();
        put(&mut tree, "one", writer.file(&*bytes).unwrap());
        tree.link("one", "two").unwrap();
        tree
    });
    let (first, second) = (Root::of(pool.start(SERVER)), pool.mount());
    std::thread::scope(|scope| {
        for number in 0..16 {
            let root = if number % 2 == 0 { &first } else { &second };
            let (name, bytes) = (if number % 4 < 2 { "one" } else { "two" }, &bytes);
            scope.spawn(move || assert!(root.read(name).unwrap() == *bytes));
        }
    });
    assert_eq!(pool.unpacked().len(), 1);
    let names = std::fs::read_dir(pool.fresh()).unwrap().map(|it| it.unwrap().file_name());
    assert!(!names.into_iter().any(|it| it.to_string_lossy().starts_with("aside")));
}

#[test]
fn owners_are_those_of_a_user_namespace() {
    if !able() {
        return;
    }
    let pool = Pool::new(everything);
    let map = IdMap { outside_uid: 300_000, outside_gid: 400_000, count: 65_536 };
    let namespace = user_namespace(map).unwrap();
    let root = Root::of(Lazy::start(&pool.store, &pool.id, Some(namespace.as_fd()), SERVER).unwrap());
    let found = std::fs::metadata(root.path("bin/su")).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (300_000, 400_005, 0o6755));
    assert!(root.read("bin/su").unwrap() == noise(5000, 9));
}

/// As in a session in a target with a user namespace: everything belongs to ids that the namespace has, whoever asks first.
#[test]
fn a_user_namespace_has_it_writable_too() {
    if !able() {
        return;
    }
    let pool = Pool::new(everything);
    let map = IdMap { outside_uid: 300_000, outside_gid: 400_000, count: 65_536 };
    let namespace = user_namespace(map).unwrap();
    let lazy = Lazy::start(&pool.store, &pool.id, Some(namespace.as_fd()), SERVER).unwrap();
    let memory = tmpfs();
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&memory, name, Mode::from_raw_mode(0o755)).unwrap();
    }
    let mapped = clone_tree(&memory, c"", Reach::One).unwrap();
    map_owners(&mapped, namespace.as_fd(), Reach::One).unwrap();
    let open = |name: &str| rustix::fs::openat(&mapped, name, OFlags::PATH, Mode::empty()).unwrap();
    let (upper, work) = (open("upper"), open("work"));
    let scratch = Scratch { upper: upper.as_fd(), work: work.as_fd() };
    // The overlay writes as who mounted it.
    let mount = sys::file_identity::with(300_000, 400_000, || lazy.mount(Some(scratch))).unwrap().unwrap();
    let root = descriptor_path(&mount);
    let user = std::thread::spawn({
        let root = root.clone();
        move || {
            become_user(300_007, 400_007, &[], GroupChange::Set).unwrap();
            assert!(std::fs::read(root.join("sizes/4097")).unwrap() == noise(4097, 6));
            assert!(std::fs::read(root.join("bin/other")).is_err());
            assert!(std::fs::write(root.join("bin/su"), "x").is_err());
            std::fs::write(root.join("tmp/mine"), "written").unwrap();
        }
    });
    user.join().unwrap();
    let owners = |path: &str| std::fs::symlink_metadata(root.join(path)).map(|it| (it.uid(), it.gid())).unwrap();
    assert_eq!(owners("tmp/mine"), (300_007, 400_007));
    let owner = std::thread::spawn({
        let root = root.clone();
        move || {
            become_user(300_000, 400_000, &[], GroupChange::Set).unwrap();
            std::fs::write(root.join("bin/su"), "changed").unwrap();
        }
    });
    owner.join().unwrap();
    assert_eq!(std::fs::read(root.join("bin/su")).unwrap(), b"changed");
    assert_eq!(owners("bin/su"), (300_000, 400_005));
}

/// What was unpacked one by one is not unpacked again when the whole tree is.
#[test]
fn a_whole_unpacking_takes_over_what_is_fresh() {
    if !able() {
        return;
    }
    let pool = Pool::new(everything);
    let root = pool.mount();
    assert!(root.read("bin/other").unwrap() == noise(5000, 9));
    let name = pool.unpacked()[0].clone();
    let (fan, rest) = name.split_at(2);
    pool.store.rootfs(&pool.id, Layout::Composed, &()).unwrap();
    let inode = |dir: &Path| std::fs::metadata(dir.join(fan).join(rest)).unwrap().ino();
    assert_eq!(inode(&pool.store.dir().join("objects")), inode(&pool.fresh().join("asked")));
    // And from now on nothing is left to be unpacked.
    assert!(root.read("sizes/3000000").unwrap() == noise(3_000_000, 9));
    assert_eq!(pool.unpacked(), [name]);
}
