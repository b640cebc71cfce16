//! The library's file in the cell's root: programs that are executed later find the new one there.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::elf::{LARGEST, Shape};
use super::linked::{Depth, Linked};

/// Reads the file by which a program's loader found a library. The path is what the guest says; so is the file.
pub(crate) fn read(path: &[u8]) -> Option<Vec<u8>> {
    const NEVER_WAIT: i32 = 0o4000;
    if !path.starts_with(b"/") {
        return None;
    }
    let file = OpenOptions::new().read(true).custom_flags(NEVER_WAIT).open(OsStr::from_bytes(path)).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() || meta.len() > LARGEST {
        return None;
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Puts the new library where the old one was found, or says why not. Nothing but a library of that name is replaced.
pub(crate) fn replace(path: &[u8], soname: &[u8], bytes: &[u8]) -> Result<(), String> {
    let old = read(path).ok_or("its file is not there any more")?;
    let shape = Shape::parse(old.as_slice())?;
    let image = shape.lay_out(&old)?;
    if Linked::parse(image.as_slice(), shape.dynamic, 0, Depth::Symbols)?.soname() != soname {
        return Err("its file is another library by now".to_owned());
    }
    let path = Path::new(OsStr::from_bytes(path));
    put(path, bytes).map_err(|error| error.to_string())
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = free_name(path)?;
    let written = write(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn free_name(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = OsStr::new(".").to_owned();
    hidden.push(name);
    hidden.push(".new");
    Ok(path.with_file_name(hidden))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // One that is there is of an update that did not come to its end, or not ours: it is not written through.
    let _ = fs::remove_file(path);
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.sync_all()
}
