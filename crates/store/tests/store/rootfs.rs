//! Root file systems, composed and plain, compared name by name with the tree that went in.

use std::path::Path;

use model::ObjectId;
use store::{Content, Device, Kind, Layout, Metadata, Mtime, Node, RefChange, Rootfs, Store, Tree, Writer};
use tempfile::TempDir;

use crate::{compare, mount};

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn meta(mode: u16) -> Metadata {
    Metadata { mtime: Mtime { seconds: 1_700_000_000, nanos: 123_456_789 }, ..Metadata::new(mode) }
}

fn with_xattrs(mut meta: Metadata, xattrs: &[(&str, &[u8])]) -> Metadata {
    for (name, value) in xattrs {
        meta.xattrs.insert(name.as_bytes().into(), (*value).into());
    }
    meta
}

/// A tree with one of everything that is hard.
pub(crate) fn everything(writer: &mut Writer) -> Tree {
    let mut tree = Tree::new(meta(0o755));
    let mut file = |bytes: &[u8]| writer.file(bytes).unwrap();
    let (tiny, small, large) = (file(b"tiny"), file(&noise(5000, 1)), file(&noise(3_000_000, 2)));
    let edge = [63, 64, 65, 4095, 4096, 4097, 65536, 65537].map(|length| (length, file(&noise(length, 3))));
    let mut sparse = writer.begin_file();
    sparse.write(&noise(100_000, 4)).unwrap();
    sparse.zeros(30 << 20).unwrap();
    sparse.write(b"end").unwrap();
    sparse.zeros(1 << 20).unwrap();
    let sparse = sparse.finish().unwrap();
    let mut huge = writer.begin_file();
    huge.zeros(1 << 40).unwrap();
    let huge = huge.finish().unwrap();

    let mut insert = |path: &str, meta: Metadata, kind: Kind| {
        tree.insert(path, Node { meta, kind }).unwrap();
    };
    let dir = Kind::Directory;
    for path in ["bin", "etc", "etc/deep", "etc/deep/deeper", "big", "-odd", "!odd", "empty", "tmp"] {
        insert(path, meta(0o755), dir.clone());
    }
    insert("tmp", meta(0o1777), dir.clone());
    insert("bin/tiny", meta(0o755), Kind::File(tiny));
    insert("bin/su", Metadata { uid: 0, gid: 5, ..meta(0o6755) }, Kind::File(large));
    insert("bin/same", Metadata { uid: 70_000, gid: 70_001, ..meta(0o640) }, Kind::File(large));
    insert("etc/none", meta(0o000), Kind::File(Content::EMPTY));
    insert("etc/small", meta(0o644), Kind::File(small));
    insert("etc/old", Metadata { mtime: Mtime { seconds: -5, nanos: 1 }, ..meta(0o644) }, Kind::File(small));
    insert("sparse", meta(0o644), Kind::File(sparse));
    insert("huge", meta(0o644), Kind::File(huge));
    for (length, content) in edge {
        insert(&format!("etc/deep/{length}"), meta(0o644), Kind::File(content));
    }
    for length in [1, 10, 60, 255, 4000, 4095] {
        let target = "x".repeat(length);
        insert(&format!("etc/link{length}"), meta(0o777), Kind::Symlink(target.into_bytes().into()));
    }
    insert("null", meta(0o666), Kind::CharDevice(Device { major: 1, minor: 3 }));
    insert("disk", meta(0o660), Kind::BlockDevice(Device { major: 259, minor: 70_000 }));
    insert("pipe", meta(0o644), Kind::Fifo);
    insert("socket", meta(0o755), Kind::Socket);
    insert(&"n".repeat(255), meta(0o644), Kind::File(small));
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let xattrs: &[(&str, &[u8])] = &[("security.capability", &capability), ("user.note", b"hello"), ("user.none", b"")];
    insert("bin/ping", with_xattrs(meta(0o755), xattrs), Kind::File(small));
    insert(
        "bin/odd",
        with_xattrs(meta(0o755), &[("trusted.overlay.metacopy", b""), ("trusted.x", &noise(3000, 9))]),
        Kind::File(tiny),
    );
    insert("opaque", with_xattrs(meta(0o755), &[("trusted.overlay.opaque", b"y")]), dir.clone());
    insert("opaque/in", meta(0o644), Kind::File(small));
    for number in 0..10_000 {
        insert(&format!("big/file-{number:05}"), meta(0o644), Kind::File(if number % 2 == 0 { tiny } else { small }));
    }
    let mut deep = String::from("deep");
    for _ in 0..100 {
        insert(&deep, meta(0o755), dir.clone());
        deep.push_str("/deep");
    }
    tree.link("bin/su", "etc/deep/su").unwrap();
    tree.link("bin/tiny", "bin/tiny2").unwrap();
    tree.link("etc/link10", "bin/link").unwrap();
    tree.link("pipe", "bin/pipe").unwrap();
    tree
}

fn pool_with(make: impl FnOnce(&mut Writer) -> Tree) -> (TempDir, Store, Tree, ObjectId) {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path().join("pool")).unwrap();
    let mut writer = store.writer().unwrap();
    let tree = make(&mut writer);
    let id = writer.tree(&tree).unwrap();
    writer.publish(&[] as &[RefChange]).unwrap();
    (dir, store, tree, id)
}

fn fsck_erofs(image: &Path) {
    let Ok(output) = std::process::Command::new("fsck.erofs").arg(image).output() else {
        return eprintln!("fsck.erofs is not installed: not asked");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_composed_root_is_the_tree() {
    if !mount::allowed() {
        return eprintln!("skipped: mounting needs root");
    }
    let (_dir, store, tree, id) = pool_with(everything);
    let rootfs = store.rootfs(&id, Layout::Composed, &()).unwrap();
    let Rootfs::Composed { metadata, .. } = &rootfs else { panic!("{rootfs:?}") };
    fsck_erofs(metadata);
    let mounted = mount::composed(&rootfs);
    compare::same(&tree, &store.reader().unwrap(), &mounted.path());
    assert_eq!(store.rootfs(&id, Layout::Composed, &()).unwrap(), rootfs);
}

#[test]
fn a_stored_tree_reads_back() {
    let (_dir, store, tree, id) = pool_with(everything);
    assert!(store.reader().unwrap().tree(&id).unwrap() == tree);
}

#[test]
fn a_plain_root_is_the_tree() {
    if !mount::allowed() {
        return eprintln!("skipped: devices and owners need root");
    }
    let (_dir, store, mut tree, id) = pool_with(everything);
    let rootfs = store.rootfs(&id, Layout::Plain, &()).unwrap();
    let Rootfs::Plain { dir, missing } = &rootfs else { panic!("{rootfs:?}") };
    assert!(missing.is_empty(), "{missing:?}");
    // Nothing shows the escaped form as it was but an overlay on top.
    for (path, name) in [("bin/odd", "metacopy"), ("opaque", "opaque")] {
        let xattrs = &mut tree.metadata_mut(path).unwrap().xattrs;
        let value = xattrs.remove(format!("trusted.overlay.{name}").as_bytes()).unwrap();
        xattrs.insert(format!("trusted.overlay.overlay.{name}").into_bytes().into(), value);
    }
    compare::same(&tree, &store.reader().unwrap(), dir);
    assert_eq!(store.rootfs(&id, Layout::Plain, &()).unwrap(), rootfs);
}

#[test]
fn equal_files_of_different_images_are_one_inode() {
    let (_dir, store, _, _) = pool_with(|_| Tree::default());
    let roots: Vec<_> = (0..2)
        .map(|image| {
            let mut writer = store.writer().unwrap();
            let mut tree = Tree::default();
            let shared = writer.file(&*noise(9000, 1)).unwrap();
            let own = writer.file(&*noise(9000, 3 + 2 * image)).unwrap();
            tree.insert("shared", Node::file(meta(0o644), shared)).unwrap();
            tree.insert("own", Node::file(meta(0o644), own)).unwrap();
            let id = writer.tree(&tree).unwrap();
            writer.publish(&[]).unwrap();
            let Rootfs::Plain { dir, .. } = store.rootfs(&id, Layout::Plain, &()).unwrap() else { panic!() };
            dir
        })
        .collect();
    use std::os::unix::fs::MetadataExt;
    let inode = |root: &Path, name: &str| std::fs::metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode(&roots[0], "shared"), inode(&roots[1], "shared"));
    assert_ne!(inode(&roots[0], "own"), inode(&roots[1], "own"));
}

#[test]
fn a_deletion_of_a_nested_overlay_does_not_delete_here() {
    if !mount::allowed() {
        return eprintln!("skipped: mounting needs root");
    }
    let (_dir, store, _, id) = pool_with(|_| {
        let mut tree = Tree::default();
        tree.insert("d", Node::directory(meta(0o755))).unwrap();
        let whiteout = Kind::CharDevice(Device { major: 0, minor: 0 });
        tree.insert("d/gone", Node { meta: meta(0o000), kind: whiteout }).unwrap();
        tree
    });
    let mounted = mount::composed(&store.rootfs(&id, Layout::Composed, &()).unwrap());
    let mut value = [0; 8];
    let gone = mounted.path().join("d/gone");
    assert_eq!(rustix::fs::lgetxattr(&gone, "trusted.overlay.whiteout", &mut value[..]), Ok(0));
    assert_eq!(rustix::fs::lgetxattr(mounted.path().join("d"), "trusted.overlay.opaque", &mut value[..]), Ok(1));
}

#[test]
fn a_host_directory_goes_in_and_comes_out() {
    if !mount::allowed() {
        return eprintln!("skipped: devices and owners need root");
    }
    let (_dir, store, mut tree, id) = pool_with(everything);
    // A terabyte of nothing goes in only where the file system has holes; every one that this runs on has.
    let Rootfs::Plain { dir, .. } = store.rootfs(&id, Layout::Plain, &()).unwrap() else { panic!() };
    let again = TempDir::new().unwrap();
    let second = Store::open(again.path().join("pool")).unwrap();
    let mut writer = second.writer().unwrap();
    let ingested = writer.directory(&dir).unwrap();
    let ingested_id = writer.tree(&ingested).unwrap();
    writer.publish(&[]).unwrap();
    for (path, name) in [("bin/odd", "metacopy"), ("opaque", "opaque")] {
        let xattrs = &mut tree.metadata_mut(path).unwrap().xattrs;
        let value = xattrs.remove(format!("trusted.overlay.{name}").as_bytes()).unwrap();
        xattrs.insert(format!("trusted.overlay.overlay.{name}").into_bytes().into(), value);
    }
    // Equal files are one inode on the host, so compare names one by one.
    assert_eq!(ingested.walk().count(), tree.walk().count());
    for ((left_path, left), (right_path, right)) in ingested.walk().zip(tree.walk()) {
        assert_eq!(String::from_utf8_lossy(&left_path), String::from_utf8_lossy(&right_path));
        assert!(left.node == right.node, "{}", String::from_utf8_lossy(&left_path));
    }
    assert!(second.reader().unwrap().tree(&ingested_id).unwrap() == ingested);
}

#[test]
fn an_ingest_never_leaves_its_directory() {
    let dir = TempDir::new().unwrap();
    let inside = dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../outside", inside.join("link")).unwrap();
    std::os::unix::fs::symlink("../outside/secret", inside.join("file")).unwrap();
    let store = Store::open(dir.path().join("pool")).unwrap();
    let tree = store.writer().unwrap().directory(&inside).unwrap();
    let kinds: Vec<_> = tree.walk().map(|(path, entry)| (path, entry.node.kind.clone())).collect();
    assert_eq!(kinds.len(), 3);
    assert_eq!(kinds[1], (b"file".to_vec(), Kind::Symlink((*b"../outside/secret").into())));
    assert_eq!(kinds[2], (b"link".to_vec(), Kind::Symlink((*b"../outside").into())));
}
