//! `/proc/PID/mountinfo`: what is mounted where, as a process sees it. Parsed as bytes, whole: there are optional fields
//! and octal escapes, and a mount may be hidden by a later one.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The mounts told by the bytes of the file, in the order in which they were mounted. Lines that make no sense are left
/// out.
pub fn parse(bytes: &[u8]) -> Vec<Mount> {
    bytes.split(|b| *b == b'\n').filter_map(Mount::parse).collect()
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which no other mount has now.
    pub id: u64,
    /// The number of the mount that it is mounted in.
    pub parent: u64,
    /// Which directory of its file system it shows.
    pub root: PathBuf,
    /// Where it is mounted, as seen from the root directory of whom the file tells about.
    pub mount_point: PathBuf,
    /// The kind of file system.
    pub kind: Vec<u8>,
    /// Whether this mount (and not the file system as a whole) can be written.
    pub access: Access,
    /// Options of the file system.
    pub options: Vec<String>,
}

/// Whether a mount can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It can.
    ReadWrite,
    /// It cannot.
    ReadOnly,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|b| *b == b' ').filter(|it| !it.is_empty());
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
        let id = number(fields.next()?)?;
        let parent = number(fields.next()?)?;
        let _device = fields.next()?;
        let root = unescape(fields.next()?);
        let mount_point = unescape(fields.next()?);
        let attributes = fields.next()?;
        let read_only = attributes.split(|b| *b == b',').any(|it| it == b"ro");
        let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        // Then any number of optional fields, ended by a hyphen.
        fields.by_ref().find(|it| *it == b"-")?;
        let kind = fields.next()?.to_vec();
        let _source = fields.next()?;
        let options = String::from_utf8_lossy(fields.next().unwrap_or_default());
        let options = options.split(',').map(str::to_owned).collect();
        Some(Self { id, parent, root, mount_point, kind, access, options })
    }

    /// Whether this mount, made later, covers `earlier`; `all` are those of the same file.
    pub fn hides(&self, earlier: &Self, all: &[Self]) -> bool {
        earlier.mount_point.starts_with(&self.mount_point) && !self.is_under(earlier, all)
            || self.mount_point == earlier.mount_point
    }

    /// Whether `self` is an ancestor of `of` in the mount tree (and so does not cover it).
    fn is_under(&self, of: &Self, all: &[Self]) -> bool {
        let mut current = of.parent;
        for _ in 0..all.len() {
            if current == self.id {
                return true;
            }
            match all.iter().find(|it| it.id == current) {
                Some(up) if up.parent != current => current = up.parent,
                _ => return false,
            }
        }
        false
    }
}

/// A path with the kernel's escapes (`\040` for a space) undone.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(first));
        rest = if octal.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    Path::new(std::ffi::OsStr::from_bytes(&out)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_and_escapes() {
        let found =
            parse(b"33 31 0:30 /a /cg/cpu\\040and\\134x ro,nosuid shared:1 master:2 - cgroup cgroup rw,cpu\nrubbish\n");
        let expected = Mount {
            id: 33,
            parent: 31,
            root: "/a".into(),
            mount_point: "/cg/cpu and\\x".into(),
            kind: b"cgroup".to_vec(),
            access: Access::ReadOnly,
            options: vec!["rw".into(), "cpu".into()],
        };
        assert_eq!(found, [expected]);
    }

    proptest::proptest! {
        #[test]
        fn escaping_is_undone(path in proptest::collection::vec(1u8..=255, 1..40)) {
            let escaped: Vec<u8> = path.iter().flat_map(|b| match b {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{b:03o}").into_bytes(),
                _ => vec![*b],
            }).collect();
            let back = unescape(&escaped);
            proptest::prop_assert_eq!(back.as_os_str().as_bytes(), path.as_slice());
        }
    }
}
