//! The one tar that a tree is: what an image that was built here has as its layer.
//!
//! **The same tree gives the same bytes, always:** entries in the tree's own order, the first name of a file with its
//! content and further names as hard links, ustar headers, and PAX records exactly where ustar cannot say something. So
//! such a layer needs no recipe, and an image's OCI digest does not depend on who built it.

use std::collections::HashMap;
use std::io::Write;

use store::{Content, InodeId, Kind, Metadata, Reader, Tree};

use super::header::{BLOCK, GID, Header, LINK, MAJOR, MINOR, MODE, MTIME, SIZE, UID};
use super::pax::record;
use crate::{Error, Result};

/// Writes a tree as a tar. Sockets have no form in a tar and are left out.
pub(crate) fn write(tree: &Tree, reader: &Reader, out: &mut impl Write) -> Result<()> {
    let failed = |error| Error::io("a layer", error);
    let mut named: HashMap<InodeId, Vec<u8>> = HashMap::new();
    let mut walk = tree.walk();
    while let Some((path, entry)) = walk.advance() {
        let mut name = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        if entry.node.kind == Kind::Directory {
            name.push(b'/');
        }
        let first = if entry.names > 1 { named.get(&entry.inode) } else { None };
        let content = match (&entry.node.kind, first) {
            (Kind::Socket, _) => continue,
            (Kind::File(content), None) => *content,
            _ => Content::EMPTY,
        };
        out.write_all(&headers(&name, &entry.node.meta, &entry.node.kind, first.map(Vec::as_slice))).map_err(failed)?;
        if content.size > 0 {
            std::io::copy(&mut reader.content(&content)?, out).map_err(|error| Error::read("stored content", error))?;
            out.write_all(padding(content.size)).map_err(failed)?;
        }
        if entry.names > 1 && first.is_none() {
            named.insert(entry.inode, name);
        }
    }
    out.write_all(&[0; 2 * BLOCK]).map_err(failed)
}

/// The zeros behind content of that size.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let count = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    &ZEROS[..count]
}

/// The header of a file or directory of an archive, whose name is short and plain.
pub(crate) fn plain_header(kind: u8, name: &str, size: u64) -> Result<[u8; BLOCK]> {
    let mut header = Header::new(kind);
    let mode = if kind == b'5' { 0o755 } else { 0o644 };
    let fits = header.set_path(name.as_bytes())
        && header.set_number(SIZE, size)
        && [(MODE, mode), (UID, 0), (GID, 0), (MTIME, 0)]
            .into_iter()
            .all(|(field, value)| header.set_number(field, value));
    if fits { Ok(header.seal()) } else { Err(Error::limit("bytes of a file of an archive", "8 GiB")) }
}

/// An entry's header, with an extended header before it when ustar does not hold it all.
fn headers(name: &[u8], meta: &Metadata, kind: &Kind, first: Option<&[u8]>) -> Vec<u8> {
    let (letter, link, size) = match (first, kind) {
        (Some(first), _) => (b'1', first, 0),
        (None, Kind::Directory) => (b'5', &[][..], 0),
        (None, Kind::Symlink(target)) => (b'2', &target[..], 0),
        (None, Kind::CharDevice(_)) => (b'3', &[][..], 0),
        (None, Kind::BlockDevice(_)) => (b'4', &[][..], 0),
        (None, Kind::Fifo) => (b'6', &[][..], 0),
        (None, Kind::File(content)) => (b'0', &[][..], content.size),
        (None, Kind::Socket) => return Vec::new(),
    };
    let mut header = Header::new(letter);
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    if !header.set_path(name) {
        header.set_path(&tail(name));
        records.push((b"path".to_vec(), name.to_vec()));
    }
    if !header.set_text(LINK, link) {
        header.set_text(LINK, &tail(link));
        records.push((b"linkpath".to_vec(), link.to_vec()));
    }
    for (field, key, value) in [(SIZE, "size", size), (UID, "uid", meta.uid.into()), (GID, "gid", meta.gid.into())] {
        if !header.set_number(field, value) {
            header.set_number(field, 0);
            records.push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
        }
    }
    let seconds = u64::try_from(meta.mtime.seconds).ok();
    if meta.mtime.nanos != 0 || !seconds.is_some_and(|seconds| header.set_number(MTIME, seconds)) {
        header.set_number(MTIME, seconds.filter(|seconds| *seconds < 1 << 33).unwrap_or(0));
        records.push((b"mtime".to_vec(), time(meta.mtime.seconds, meta.mtime.nanos).into_bytes()));
    }
    header.set_number(MODE, meta.mode.into());
    if let Kind::CharDevice(device) | Kind::BlockDevice(device) = kind {
        header.set_number(MAJOR, device.major.into());
        header.set_number(MINOR, device.minor.into());
    }
    if first.is_none() {
        for (attribute, value) in &meta.xattrs {
            records.push(([b"SCHILY.xattr.", &**attribute].concat(), value.to_vec()));
        }
    }
    let mut out = Vec::new();
    if !records.is_empty() {
        records.sort();
        let text: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut extended = Header::new(b'x');
        extended.set_path(&[b"PaxHeaders/", tail(name).as_slice()].concat());
        extended.set_number(SIZE, text.len() as u64);
        extended.set_number(MODE, 0o644);
        out.extend_from_slice(&extended.seal());
        out.extend_from_slice(&text);
        out.extend_from_slice(padding(text.len() as u64));
    }
    out.extend_from_slice(&header.seal());
    out
}

/// The end of a name that fits everywhere, for readers that pass over extended headers.
fn tail(name: &[u8]) -> Vec<u8> {
    let base = name.strip_suffix(b"/").unwrap_or(name).rsplit(|&byte| byte == b'/').next().unwrap_or(name);
    base.get(..80.min(base.len())).unwrap_or(base).to_vec()
}

/// Seconds with nine digits behind the point, none when there is no fraction.
fn time(seconds: i64, nanos: u32) -> String {
    match nanos {
        0 => seconds.to_string(),
        // The fraction of a `timespec` counts upward from a negative second, that of a decimal number downward.
        _ if seconds < 0 => {
            let whole = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            format!("-{}.{:09}", -whole / 1_000_000_000, -whole % 1_000_000_000)
        }
        _ => format!("{seconds}.{nanos:09}"),
    }
}
