//! Names and image records: small files, read without a lock and without the index.
//!
//! A ref is the file `refs/BLAKE3-of-the-name`, because a name may be longer than a file name and hold slashes:
//! ```text
//! skep ref 1
//! NAME
//! IMAGE ID
//! BLAKE3 of the lines above
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use model::{ImageName, ImageRecord, ObjectId};

use crate::durable;
use crate::error::{Context, Error, Result};
use crate::fail::{self, Point};
use crate::layout::{Paths, names};
use crate::object::Kind;

const HEAD: &str = "skep ref 1";

/// The name of a name's file.
pub(crate) fn file_name(name: &ImageName) -> String {
    Kind::Chunk.id_of(name.as_str().as_bytes()).to_string()
}

fn path_of(paths: &Paths, name: &ImageName) -> PathBuf {
    paths.refs.join(file_name(name))
}

fn encode(name: &ImageName, id: &ObjectId) -> String {
    let body = format!("{HEAD}\n{name}\n{id}\n");
    let check = Kind::Chunk.id_of(body.as_bytes());
    format!("{body}{check}\n")
}

/// Reads a ref's text. What it says must be exactly what would be written for it.
pub(crate) fn decode(text: &str) -> Option<(ImageName, ObjectId)> {
    let mut lines = text.lines().skip(1);
    let (name, id) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
    (encode(&name, &id) == text).then_some((name, id))
}

fn read(path: PathBuf) -> Result<Option<(ImageName, ObjectId)>> {
    match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("read", &path),
        Ok(bytes) => {
            let decoded = std::str::from_utf8(&bytes).ok().and_then(decode);
            let damaged = || Error::damaged(path.display().to_string(), "it is not a ref as it was written");
            decoded.map(Some).ok_or_else(damaged)
        }
    }
}

pub(crate) fn resolve(paths: &Paths, name: &ImageName) -> Result<Option<ObjectId>> {
    let path = path_of(paths, name);
    match read(path.clone())? {
        None => Ok(None),
        Some((found, id)) if found == *name => Ok(Some(id)),
        Some(_) => Err(Error::damaged(path.display().to_string(), "it is the ref of another name")),
    }
}

/// A ref's file and what it says.
pub(crate) type Found = (PathBuf, Result<(ImageName, ObjectId)>);

/// Every ref by its file, damaged ones with their error.
pub(crate) fn each(paths: &Paths) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for file in names(&paths.refs)? {
        let path = paths.refs.join(file);
        match read(path.clone()).transpose() {
            // Removed since the directory was listed.
            None => {}
            Some(Ok((name, _))) if path_of(paths, &name) != path => {
                let error = Error::damaged(path.display().to_string(), "it is the ref of another name");
                found.push((path, Err(error)));
            }
            Some(result) => found.push((path, result)),
        }
    }
    Ok(found)
}

/// Every ref, in order of names.
pub(crate) fn all(paths: &Paths) -> Result<Vec<(ImageName, ObjectId)>> {
    let mut refs = each(paths)?.into_iter().map(|(_, result)| result).collect::<Result<Vec<_>>>()?;
    refs.sort();
    Ok(refs)
}

pub(crate) fn set(paths: &Paths, name: &ImageName, id: &ObjectId) -> Result<()> {
    durable::write_file(&paths.tmp, &path_of(paths, name), encode(name, id).as_bytes(), durable::SMALL)
}

/// Tells whether there was such a name.
pub(crate) fn remove(paths: &Paths, name: &ImageName) -> Result<bool> {
    let path = path_of(paths, name);
    fail::point(Point::RefRemove).context("remove", &path)?;
    match fs::remove_file(&path) {
        Ok(()) => durable::sync_dir(&paths.refs, Point::SmallDirSync).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("remove", &path),
    }
}

/// Puts an image record's file in place.
pub(crate) fn write_image(paths: &Paths, id: &ObjectId, json: &[u8]) -> Result<()> {
    durable::write_file(&paths.tmp, &paths.image_file(id), json, durable::SMALL)
}

/// An image record from its bytes, which must have that id.
pub(crate) fn parse_image(id: &ObjectId, json: &[u8]) -> Result<ImageRecord> {
    let what = || format!("image record {id}");
    if Kind::Image.id_of(json) != *id {
        return Err(Error::damaged(what(), "it does not have its hash"));
    }
    serde_json::from_slice(json).map_err(|why| Error::damaged(what(), why.to_string()))
}

/// An image record from its file.
pub(crate) fn read_image(paths: &Paths, id: &ObjectId) -> Result<ImageRecord> {
    let path = paths.image_file(id);
    match fs::read(&path) {
        Ok(json) => parse_image(id, &json),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::Missing(*id)),
        Err(error) => Err(error).context("read", &path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_ref_reads_back_and_no_other_text_does(name in "[!-,.-~][!-~]{0,40}", flip in 0usize..4000, bits: [u8; 32]) {
            let name: ImageName = name.parse().unwrap();
            let id = ObjectId::from_bytes(bits);
            let text = encode(&name, &id);
            prop_assert_eq!(decode(&text), Some((name, id)));
            let mut broken = text.clone().into_bytes();
            broken[flip / 8 % text.len()] ^= 1 << (flip % 7);
            let read = std::str::from_utf8(&broken).ok().and_then(decode);
            prop_assert_eq!(read, None);
        }
    }
}
