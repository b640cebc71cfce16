//! Compares a directory of the host with the tree it should be.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use store::{Kind, Reader, Tree};

/// The extended attributes of a file, links not followed.
fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0u8; 65536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    names.truncate(length);
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0u8; 65536];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// Fails unless the directory `root` is `tree` in everything that can be seen.
pub(crate) fn same(tree: &Tree, reader: &Reader, root: &Path) {
    let mut inodes = BTreeMap::new();
    let mut seen = 0;
    for (path, entry) in tree.walk() {
        let shown = String::from_utf8_lossy(&path).into_owned();
        let host = root.join(OsStr::from_bytes(&path));
        let host = if path.is_empty() { root.join(".") } else { host };
        let found = fs::symlink_metadata(&host).unwrap_or_else(|why| panic!("{shown}: {why}"));
        let meta = &entry.node.meta;
        assert_eq!((found.uid(), found.gid()), (meta.uid, meta.gid), "owner of {shown}");
        assert_eq!(
            (found.mtime(), found.mtime_nsec()),
            (meta.mtime.seconds, meta.mtime.nanos.into()),
            "time of {shown}"
        );
        let kind = found.file_type();
        match &entry.node.kind {
            Kind::Directory => {
                assert!(kind.is_dir(), "{shown}");
                let mut names: Vec<_> =
                    fs::read_dir(&host).unwrap().map(|it| it.unwrap().file_name().as_bytes().to_vec()).collect();
                names.sort();
                let expected: Vec<_> = tree.children(&path).map(|(name, _)| name.to_vec()).collect();
                assert!(names == expected, "names in {shown}: {} and {}", names.len(), expected.len());
            }
            Kind::File(content) => {
                assert!(kind.is_file(), "{shown}");
                assert_eq!(found.size(), content.size, "size of {shown}");
                if content.size <= 64 << 20 {
                    let mut expected = Vec::new();
                    reader.content(content).unwrap().read_to_end(&mut expected).unwrap();
                    assert!(fs::read(&host).unwrap() == expected, "bytes of {shown}");
                }
            }
            Kind::Symlink(target) => assert_eq!(fs::read_link(&host).unwrap().as_os_str().as_bytes(), &**target),
            Kind::CharDevice(device) | Kind::BlockDevice(device) => {
                assert!(kind.is_char_device() || kind.is_block_device(), "{shown}");
                assert_eq!(found.rdev(), rustix::fs::makedev(device.major, device.minor), "number of {shown}");
            }
            Kind::Fifo => assert!(kind.is_fifo(), "{shown}"),
            Kind::Socket => assert!(kind.is_socket(), "{shown}"),
        }
        if !kind.is_symlink() {
            assert_eq!(found.mode() & 0o7777, u32::from(meta.mode), "mode of {shown}");
        }
        let expected: BTreeMap<Vec<u8>, Vec<u8>> =
            meta.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        assert_eq!(xattrs(&host), expected, "attributes of {shown}");
        if entry.names > 1 {
            let first = *inodes.entry(entry.inode).or_insert(found.ino());
            assert_eq!(first, found.ino(), "{shown} is not a hard link");
            assert!(found.nlink() >= entry.names.into(), "names of {shown}");
        }
        seen += 1;
    }
    assert!(seen > 0);
}
