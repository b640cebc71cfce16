//! A shared library in an image: its file, and which package it is of, by what Debian's package manager notes in images with
//! and without it. **What an image says of its packages is text that it brought along**; who vouches for it is told apart.

use std::io::Read;

use model::{ImageRecord, ObjectId, Sha256, Source};
use sha2::Digest;
use store::{Kind, Reader, Tree};

use crate::Result;

/// The most that a library's file may be long.
const LARGEST: u64 = 64 << 20;

/// A library of an image.
#[derive(Clone, Debug)]
pub struct LibraryFile {
    /// Where it is, without links.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
    /// The digest of that.
    pub digest: Sha256,
    /// Its version.
    pub version: Option<LibraryVersion>,
}

/// How new a library is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LibraryVersion {
    /// Its package's version.
    Package(String),
    /// What its file's name adds to its own name: `1.2.13` of `libz.so.1.2.13`.
    Name(String),
}

/// What stands before a version that was told by a name.
const BY_NAME: &str = "so ";

impl LibraryVersion {
    /// Takes up what [`LibraryVersion::to_text`] gave.
    pub fn of_text(text: &str) -> Option<Self> {
        match text.strip_prefix(BY_NAME) {
            Some(name) => Some(Self::Name(name.to_owned())),
            None if text.is_empty() => None,
            None => Some(Self::Package(text.to_owned())),
        }
    }

    /// For people, and to be kept.
    pub fn to_text(&self) -> String {
        match self {
            Self::Package(text) => text.clone(),
            Self::Name(text) => format!("{BY_NAME}{text}"),
        }
    }

    /// Which is newer, by Debian's rules; nothing when the two are of different kinds.
    pub fn compare(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Package(a), Self::Package(b)) | (Self::Name(a), Self::Name(b)) => {
                Some(crate::deb::compare_versions(a, b))
            }
            _ => None,
        }
    }
}

/// Whether an image came from a source of which every file was checked by a signature: the machine's package sources, of which
/// apt checks that.
pub fn is_signed(record: &ImageRecord) -> bool {
    matches!(record.source.parse::<Source>(), Ok(Source::Deb(_)))
}

/// The library of that name in an image.
pub fn library(reader: &Reader, record: &ImageRecord, soname: &str) -> Result<Option<LibraryFile>> {
    let tree = reader.tree(&record.tree)?;
    let Some(path) = find(&tree, soname) else { return Ok(None) };
    let Some(bytes) = content(&tree, reader, &path)? else { return Ok(None) };
    let digest = Sha256::from_bytes(sha2::Sha256::digest(&bytes).into());
    let version = version(&tree, reader, &path, soname)?;
    Ok(Some(LibraryFile { path: format!("/{}", String::from_utf8_lossy(&path)), bytes, digest, version }))
}

/// The version of the library that a path of a root file system leads to.
pub fn library_version(reader: &Reader, tree: &ObjectId, path: &str, soname: &str) -> Result<Option<LibraryVersion>> {
    let tree = reader.tree(tree)?;
    match tree.resolve(path) {
        Some(path) => version(&tree, reader, &path, soname),
        None => Ok(None),
    }
}

fn find(tree: &Tree, soname: &str) -> Option<Vec<u8>> {
    const USUAL: &[&str] =
        &["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib"];
    let there = |path: &[u8]| {
        let path = tree.resolve(path)?;
        matches!(tree.get(&path)?.node.kind, Kind::File(_)).then_some(path)
    };
    if let Some(found) = USUAL.iter().find_map(|dir| there(format!("{dir}/{soname}").as_bytes())) {
        return Some(found);
    }
    let mut walk = tree.walk();
    while let Some((path, _)) = walk.advance() {
        if path.rsplit(|it| *it == b'/').next() == Some(soname.as_bytes())
            && let Some(found) = there(path)
        {
            return Some(found);
        }
    }
    None
}

fn content(tree: &Tree, reader: &Reader, path: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(entry) = tree.get(path) else { return Ok(None) };
    let Kind::File(content) = &entry.node.kind else { return Ok(None) };
    let mut bytes = Vec::new();
    let read = reader.content(content)?.take(LARGEST).read_to_end(&mut bytes);
    read.map_err(|error| crate::Error::io(String::from_utf8_lossy(path), error))?;
    Ok(Some(bytes))
}

fn version(tree: &Tree, reader: &Reader, path: &[u8], soname: &str) -> Result<Option<LibraryVersion>> {
    if let Some(version) = package_version(tree, reader, path)? {
        return Ok(Some(LibraryVersion::Package(version)));
    }
    let name = String::from_utf8_lossy(path.rsplit(|it| *it == b'/').next().unwrap_or_default()).into_owned();
    let is_longer = name.strip_prefix(soname).is_some_and(|rest| rest.starts_with('.'));
    let numbers = name.split_once(".so.").filter(|_| is_longer).map(|(_, numbers)| numbers.to_owned());
    Ok(numbers.map(LibraryVersion::Name))
}

/// The version of the package that lists the file.
fn package_version(tree: &Tree, reader: &Reader, path: &[u8]) -> Result<Option<String>> {
    const LISTS: [&str; 2] = ["var/lib/dpkg/status.d", "var/lib/dpkg/info"];
    for dir in LISTS {
        let lists = tree.children(dir).filter_map(|(name, _)| name.strip_suffix(b".md5sums").map(<[u8]>::to_vec));
        for package in lists.collect::<Vec<_>>() {
            let of = |suffix: &[u8]| [dir.as_bytes(), b"/", &package, suffix].concat();
            let Some(list) = content(tree, reader, &of(b".md5sums"))? else { continue };
            if !String::from_utf8_lossy(&list).lines().any(|line| is_listed(line, path)) {
                continue;
            }
            let own = content(tree, reader, &of(b""))?;
            let control = match own {
                Some(own) => own,
                None => content(tree, reader, b"var/lib/dpkg/status")?.unwrap_or_default(),
            };
            let name = String::from_utf8_lossy(&package).into_owned();
            let name = name.split(':').next().unwrap_or_default();
            return Ok(version_in(&String::from_utf8_lossy(&control), name));
        }
    }
    Ok(None)
}

/// Whether a line of a list of digests is about a file. `/lib` may be a link to `/usr/lib`.
fn is_listed(line: &str, path: &[u8]) -> bool {
    let plain = |it: &str| it.strip_prefix("usr/").unwrap_or(it).to_owned();
    let Some((_, listed)) = line.split_once("  ") else { return false };
    std::str::from_utf8(path).is_ok_and(|path| plain(path) == plain(listed))
}

fn version_in(status: &str, package: &str) -> Option<String> {
    let field = |paragraph: &str, name: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map(|it| it.trim().to_owned())
    };
    let mut paragraphs = status.split("\n\n");
    let found = paragraphs.find(|it| field(it, "Package").as_deref() == Some(package))?;
    field(found, "Version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_list_their_files() {
        let line = "0123456789abcdef0123456789abcdef  lib/x86_64-linux-gnu/libz.so.1.2.13";
        assert!(is_listed(line, b"usr/lib/x86_64-linux-gnu/libz.so.1.2.13"));
        assert!(!is_listed(line, b"usr/lib/x86_64-linux-gnu/libz.so.1"));
        let status =
            "Package: zlib1g-dev\nVersion: 9\n\nPackage: zlib1g\nStatus: installed\nVersion: 1:1.2.13.dfsg-1\n";
        assert_eq!(version_in(status, "zlib1g").as_deref(), Some("1:1.2.13.dfsg-1"));
        assert_eq!(version_in(status, "zlib"), None);
    }

    #[test]
    fn versions_of_one_kind_compare() {
        use std::cmp::Ordering;
        let of = |text: &str| LibraryVersion::of_text(text);
        let check = |a: &str, b: &str, order: Option<Ordering>| {
            let (a, b) = (of(a).unwrap(), of(b).unwrap());
            assert_eq!(a.compare(&b), order, "{a:?} {b:?}");
            assert_eq!(of(&a.to_text()), Some(a));
        };
        check("1:1.2.13.dfsg-1", "1:1.2.13.dfsg-1+deb12u1", Some(Ordering::Less));
        check("so 1.10", "so 1.9", Some(Ordering::Greater));
        check("so 1.2.13", "1:1.2.13", None);
        assert_eq!(of(""), None);
    }
}
