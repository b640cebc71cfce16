//! A new library on its way into a cell, and what is known of it when it is there.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sys::Errno;

use super::elf::{EXECUTE, LARGEST, Shape};
use super::place::New;
use super::standing::{Module, Standing};
use super::words::{Library, Request, State};
use super::{Malformed, shown};
use crate::files::{File, Waiting};

/// A library that took another's place in a process.
#[derive(Clone)]
pub(crate) struct Replaced {
    pub(crate) version: String,
    /// The library itself, while it is the latest there.
    pub(crate) update: Option<Arc<Update>>,
    /// Where the process's loader has it.
    pub(crate) anchor: u64,
    pub(crate) base: u64,
    /// Where the one is whose place it took, and how long that is.
    pub(crate) old: u64,
}

/// A new library, and what is wanted of it.
pub(crate) struct Update {
    pub(crate) request: Request,
    pub(crate) new: New,
    pub(crate) bytes: Vec<u8>,
    pub(crate) file: Arc<File>,
}

impl Update {
    /// Reads a new library.
    pub(crate) fn read(file: &OwnedFd, request: Request) -> Result<Self, String> {
        let length = rustix::fs::fstat(file).map_err(|errno| errno.to_string())?.st_size as u64;
        if length > LARGEST {
            return Err("the new library is larger than can be".to_owned());
        }
        let mut bytes = vec![0; length as usize];
        let read = rustix::io::pread(file, &mut bytes, 0).map_err(|errno| errno.to_string())?;
        bytes.truncate(read);
        let copy = sealed_copy(&bytes).map_err(|errno| errno.to_string())?;
        let new = New::read(&bytes)?;
        if new.linked.soname() != request.soname.as_bytes() {
            let name = shown(new.linked.soname());
            return Err(format!("its own name is '{name}', and not {}", request.soname));
        }
        Ok(Self { request, new, bytes, file: File::new(copy, Waiting::Yes, b"") })
    }
}

/// A file with those bytes that nobody changes any more: what was checked is what is mapped.
fn sealed_copy(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let file = rustix::fs::memfd_create("library", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// A library of a process, and those whose place it took.
pub(crate) fn describe(
    number: u32,
    it: &Module<'_>,
    standing: &Standing<'_>,
    replaced: &[Replaced],
    versions: &BTreeMap<Vec<u8>, String>,
) -> Vec<Library> {
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let shape = |base| -> Result<Shape, Malformed> { Shape::parse(&standing.at(base)) };
    let library = |base: u64, state: State| {
        let build_id = shape(base).map(|it| it.build_id).unwrap_or_default();
        Library {
            process: number,
            state,
            base,
            soname: String::from_utf8_lossy(it.linked.soname()).into_owned(),
            path: String::from_utf8_lossy(&it.path).into_owned(),
            version: versions.get(&build_id).cloned().unwrap_or_default(),
            build_id: hex(&build_id),
        }
    };
    let line: Vec<&Replaced> = replaced.iter().filter(|replaced| replaced.anchor == it.base).collect();
    let Some(latest) = line.last() else { return vec![library(it.base, State::Current)] };
    let latest = Library { version: latest.version.clone(), ..library(latest.base, State::Current) };
    let mut libraries = vec![latest];
    for (index, old) in line.iter().enumerate().rev() {
        let code = shape(old.old).map(|it| it.segments).unwrap_or_default();
        let code = code.iter().filter(|it| it.rights & EXECUTE != 0);
        let code: Vec<_> = code.map(|it| old.old + it.at..old.old + it.end()).collect();
        let inside = standing.is_held_by_threads(|word| code.iter().any(|it| it.contains(&word)));
        let mut library = library(old.old, if inside { State::InUse } else { State::Replaced });
        if let Some(before) = index.checked_sub(1).and_then(|it| line.get(it)) {
            library.version.clone_from(&before.version);
        }
        libraries.push(library);
    }
    libraries
}
