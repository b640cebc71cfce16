//! Libraries of running unikernel cells: which there are, and which may take another's place.
//!
//! The rules of what may, before the tender looks at the library itself, are here, and **what is not known is refused**: the
//! library's origin is proved by a signature or by a digest that the user names, and it is no older than the one it replaces.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use image::{LibraryFile, LibraryVersion};
use model::{ImageRecord, Sha256, Verb};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;
use unikernel::control::{Line, Order, Word};
use unikernel::library::{Request, State, write_request};

use crate::boundary::boundary_for;
use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::family;
use crate::table::Engine;

/// A library that a process of a cell has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappedLibrary {
    /// The process, by its number in the family.
    pub process: u32,
    /// Its own name.
    pub soname: String,
    /// The file in the cell.
    pub path: String,
    /// What its linker called this build.
    pub build_id: String,
    /// Its version, if anybody knows.
    pub version: String,
    /// `current`; `in use` when it was replaced and a thread is still in it, else `replaced`.
    pub state: &'static str,
    /// Where it is.
    pub base: u64,
}

/// What is wanted of an update.
#[derive(Clone, Copy, Debug)]
pub struct LibraryUpdate<'a> {
    /// The library's own name.
    pub soname: &'a str,
    /// The image that the new one is taken from.
    pub image: &'a ImageRecord,
    /// The digest that the user says its file has.
    pub digest: Option<Sha256>,
    /// What becomes of the old one's data.
    pub data: LibraryData,
}

/// What becomes of a library's data.
pub use unikernel::library::Data as LibraryData;

/// What an update did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LibraryReport {
    /// How many processes have the new library.
    pub processes: u32,
    /// For how long they stood still, in nanoseconds.
    pub stood_still: u64,
    /// Its version, if it is known.
    pub version: String,
    /// Why programs that are executed later get the old one; empty when they do not.
    pub root: String,
}

/// Why a library was not replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LibraryRefusal {
    /// The image has no such library.
    NotInImage,
    /// No process of the cell has it.
    NotInCell,
    /// Nobody vouches for the image.
    Unsigned,
    /// It is another file than the user named.
    Digest(Sha256),
    /// It is older.
    Older {
        /// The version in the cell.
        present: String,
        /// The one that was to take its place.
        new: String,
    },
    /// Nobody knows which is newer.
    UnknownAge,
    /// The tender's reason.
    Tender(String),
}

impl fmt::Display for LibraryRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInImage => write!(f, "the image has none"),
            Self::NotInCell => write!(f, "no process of the cell has it"),
            Self::Unsigned => write!(f, "no signature vouches for its image"),
            Self::Digest(is) => write!(f, "its file is another than the one you named: {is}"),
            Self::Older { present, new } => write!(f, "version {new} is older than {present}"),
            Self::UnknownAge => write!(f, "it cannot be told whether it is older than the present one"),
            Self::Tender(why) => f.write_str(why),
        }
    }
}

/// Who says that a library is what it claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provenance {
    /// Whoever signed the source that its image was made from.
    Signed,
    /// Nobody.
    Unknown,
}

impl Provenance {
    fn of(image: &ImageRecord) -> Self {
        if image::is_signed(image) { Self::Signed } else { Self::Unknown }
    }
}

/// Whether one library may take the other's place, by what is known of both from outside.
fn judge(
    present: Option<&LibraryVersion>,
    new: &LibraryFile,
    provenance: Provenance,
    named: Option<Sha256>,
) -> std::result::Result<(), LibraryRefusal> {
    match named {
        Some(named) if named != new.digest => return Err(LibraryRefusal::Digest(new.digest)),
        None if provenance == Provenance::Unknown => return Err(LibraryRefusal::Unsigned),
        _ => {}
    }
    let order = present.zip(new.version.as_ref()).and_then(|(present, new)| new.compare(present));
    match (order, present, &new.version) {
        (Some(std::cmp::Ordering::Less), Some(present), Some(new)) => {
            Err(LibraryRefusal::Older { present: present.to_text(), new: new.to_text() })
        }
        // Whoever names the very file has decided that.
        (None, ..) if named.is_none() => Err(LibraryRefusal::UnknownAge),
        _ => Ok(()),
    }
}

impl Engine {
    /// The libraries of a running cell's processes.
    pub fn libraries(&self, cell: &Cell) -> Result<Vec<MappedLibrary>> {
        Self::must_run(cell)?;
        if matches!(cell.record.state, model::State::Paused { .. }) {
            // Nobody in it comes to where he could stand still.
            let refusal =
                model::IllegalTransition { from: cell.record.state.word(), input: "be asked for its libraries" };
            return Err(Error::State { cell: cell.spec.name.clone(), refusal });
        }
        boundary_for(&cell.spec, Verb::Libraries)?;
        let line = family::connect(cell)?;
        line.ask(Order::Libraries { cell: family::first_process(cell) }, &[]).map_err(family::silent)?;
        must_answer(&line)?;
        let reader = self.store().reader()?;
        let mut libraries = Vec::new();
        while let Some(word) = line.hear().map_err(family::silent)? {
            let it = match word {
                Word::Library(it) => it,
                Word::Unchanged(why) => return Err(Error::Refused(why)),
                _ => continue,
            };
            let version = match it.version.is_empty() {
                false => it.version,
                true => {
                    let known = image::library_version(&reader, &cell.spec.image.tree, &it.path, &it.soname)?;
                    known.map(|it| it.to_text()).unwrap_or_default()
                }
            };
            let state = match it.state {
                State::Current => "current",
                State::InUse => "in use",
                State::Replaced => "replaced",
            };
            let (process, soname, path) = (it.process, it.soname, it.path);
            let (build_id, base) = (it.build_id, it.base);
            libraries.push(MappedLibrary { process, soname, path, build_id, version, state, base });
        }
        Ok(libraries)
    }

    /// Puts a library of an image in the place of the one that a running cell's processes have by the same name.
    pub fn update_library(&self, cell: &Cell, update: &LibraryUpdate<'_>) -> Result<LibraryReport> {
        let refused = |why| Error::Library { soname: update.soname.to_owned(), why };
        let present = self.libraries(cell)?;
        let mut present = present.iter().filter(|it| it.soname == update.soname && it.state == "current").peekable();
        if present.peek().is_none() {
            return Err(refused(LibraryRefusal::NotInCell));
        }
        let reader = self.store().reader()?;
        let new = image::library(&reader, update.image, update.soname)?;
        let new = new.ok_or_else(|| refused(LibraryRefusal::NotInImage))?;
        for it in present {
            let version = LibraryVersion::of_text(&it.version);
            judge(version.as_ref(), &new, Provenance::of(update.image), update.digest).map_err(refused)?;
        }
        let version = new.version.as_ref().map(LibraryVersion::to_text).unwrap_or_default();
        let request = Request { soname: update.soname.to_owned(), version: version.clone(), data: update.data };
        let (file, request) = (in_memory(&new.bytes)?, write_request(&request).map_err(family::silent)?);
        let line = family::connect(cell)?;
        let order = Order::Update { cell: family::first_process(cell) };
        line.ask(order, &[file.as_fd(), request.as_fd()]).map_err(family::silent)?;
        must_answer(&line)?;
        match line.hear().map_err(family::silent)? {
            Some(Word::Updated(it)) => {
                Ok(LibraryReport { processes: it.processes, stood_still: it.stood_still, version, root: it.root })
            }
            Some(Word::Unchanged(why)) => Err(refused(LibraryRefusal::Tender(why))),
            _ => Err(family::silent(sys::Errno::PIPE)),
        }
    }
}

/// The tender gives every errand up in time; one that says nothing for longer is paused.
fn must_answer(line: &Line) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(15);
    match family::is_readable(line, PATIENCE) {
        true => Ok(()),
        false => Err(family::silent(sys::Errno::TIMEDOUT)),
    }
}

fn in_memory(bytes: &[u8]) -> Result<OwnedFd> {
    let write = || {
        let file = memfd_create("library", MemfdFlags::CLOEXEC)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        Ok(file)
    };
    write().map_err(|errno: sys::Errno| Error::io("handing over the library", errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_vouched_for_and_no_older() {
        let of = |text: &str| LibraryVersion::of_text(text);
        use Provenance::{Signed, Unknown};
        let (own, other) = (Sha256::from_bytes([1; 32]), Sha256::from_bytes([2; 32]));
        let file = |version: &str| LibraryFile {
            path: "/lib/liba.so.1".into(),
            bytes: Vec::new(),
            digest: own,
            version: of(version),
        };
        let check = |present: &str, new: &str, signed: Provenance, named: Option<Sha256>, ok: bool| {
            let judged = judge(of(present).as_ref(), &file(new), signed, named);
            assert_eq!(judged.is_ok(), ok, "{present} {new} {signed:?} {named:?}: {judged:?}");
        };
        check("1.0-1", "1.0-2", Signed, None, true);
        check("1.0-1", "1.0-1", Signed, None, true);
        check("1.0-2", "1.0-1", Signed, None, false);
        // A named file is trusted, but not with going back.
        check("1.0-2", "1.0-1", Signed, Some(own), false);
        check("1.0-1", "1.0-2", Unknown, Some(own), true);
        check("1.0-1", "1.0-2", Unknown, None, false);
        check("1.0-1", "1.0-2", Signed, Some(other), false);
        // What is not known is refused unless the file is named.
        for (present, new) in [("", "1.0-1"), ("1.0-1", ""), ("", ""), ("so 1.2", "1.0-1")] {
            check(present, new, Signed, None, false);
            check(present, new, Unknown, Some(own), true);
        }
    }
}
