//! What is asked of libraries and said of them, as it goes over the line.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};
use sys::Errno;

/// A library that a process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// The process, by its number in the family.
    pub process: u32,
    /// How it is.
    pub state: State,
    /// Where it is.
    pub base: u64,
    /// Its own name, which others ask for.
    pub soname: String,
    /// The file that it was mapped from; of one that took another's place, the other's.
    pub path: String,
    /// What tells its builds apart; empty when its linker left that out.
    pub build_id: String,
    /// Its version, as whoever put it there said.
    pub version: String,
}

/// How a library of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is the one that is used.
    Current,
    /// It was replaced, and a thread is still in it.
    InUse,
    /// It was replaced, and nobody is in it; what led into it leads on to the current one.
    Replaced,
}

impl State {
    fn number(self) -> u32 {
        match self {
            Self::Current => 0,
            Self::InUse => 1,
            Self::Replaced => 2,
        }
    }
}

/// What came of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// How many processes have the new library.
    pub processes: u32,
    /// For how long they stood still, from when all of them did until the last went on, in nanoseconds.
    pub stood_still: u64,
    /// Why programs that are executed later get the old one; empty when they get the new one.
    pub root: String,
}

/// What becomes of a library's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Data {
    /// Whatever has changed since it was loaded is carried over by its name; what has no name is a refusal.
    #[default]
    Carried,
    /// What has no name begins afresh.
    Fresh,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The name of the library.
    pub soname: String,
    /// Its new version, for whoever lists.
    pub version: String,
    /// What becomes of its data.
    pub data: Data,
}

/// The longest text of a word.
pub(crate) const LONGEST: usize = 4096;

pub(crate) fn library_word(it: &Library) -> ([u32; 4], Vec<u8>) {
    let base = it.base.to_string();
    let texts = [&it.soname, &it.path, &it.build_id, &it.version, &base].map(String::as_str);
    ([16, it.process, it.state.number(), 0], cut(&texts.join("\0")))
}

pub(crate) fn library_of([_, process, state, _]: [u32; 4], text: &[u8]) -> Option<Library> {
    let text = String::from_utf8_lossy(text);
    let mut texts = text.split('\0').map(str::to_owned);
    let mut next = || texts.next().unwrap_or_default();
    let state = [State::Current, State::InUse, State::Replaced].into_iter().find(|it| it.number() == state)?;
    let (soname, path, build_id, version) = (next(), next(), next(), next());
    Some(Library { process, state, base: next().parse().unwrap_or_default(), soname, path, build_id, version })
}

pub(crate) fn updated_word(it: &Updated) -> ([u32; 4], Vec<u8>) {
    ([17, it.processes, it.stood_still as u32, (it.stood_still >> 32) as u32], cut(&it.root))
}

pub(crate) fn updated_of([_, processes, low, high]: [u32; 4], text: &[u8]) -> Updated {
    let root = String::from_utf8_lossy(text).into_owned();
    Updated { processes, stood_still: u64::from(high) << 32 | u64::from(low), root }
}

/// A text as it goes over the line.
pub(crate) fn cut(text: &str) -> Vec<u8> {
    text.bytes().take(LONGEST).collect()
}

/// Makes a file that holds the request.
pub fn write_request(it: &Request) -> Result<OwnedFd, Errno> {
    let fresh = [u8::from(it.data == Data::Fresh)];
    let text = [&fresh, it.soname.as_bytes(), b"\0", it.version.as_bytes()].concat();
    let file = memfd_create("request", MemfdFlags::CLOEXEC)?;
    rustix::io::write(&file, &text)?;
    Ok(file)
}

/// Reads what [`write_request`] wrote; nothing if somebody else did.
pub fn read_request(file: &OwnedFd) -> Option<Request> {
    let mut bytes = [0; LONGEST];
    let length = rustix::io::pread(file, &mut bytes, 0).ok()?;
    let (fresh, text) = bytes[..length].split_first()?;
    let (soname, version) = std::str::from_utf8(text).ok()?.split_once('\0')?;
    let plain = |it: &str| !it.chars().any(char::is_control);
    if soname.is_empty() || !plain(soname) || !plain(version) {
        return None;
    }
    Some(Request {
        soname: soname.to_owned(),
        version: version.to_owned(),
        data: if *fresh == 0 { Data::Carried } else { Data::Fresh },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_said_survives_the_line() {
        let request = Request { soname: "libz.so.1".into(), version: "1:1.2".into(), ..Request::default() };
        let fresh = Request { data: Data::Fresh, ..request.clone() };
        for it in [request, fresh] {
            assert_eq!(read_request(&write_request(&it).unwrap()), Some(it));
        }
        for wrong in [Request::default(), Request { soname: "a\nb".into(), ..Request::default() }] {
            assert_eq!(read_request(&write_request(&wrong).unwrap()), None);
        }
        for state in [State::Current, State::InUse, State::Replaced] {
            let library = Library {
                process: 3,
                state,
                base: 0x6dff_1234_5000,
                soname: "libz.so.1".into(),
                path: "/lib/libz.so.1".into(),
                build_id: "00ff".into(),
                version: String::new(),
            };
            let (words, text) = library_word(&library);
            assert_eq!(library_of(words, &text), Some(library));
        }
        let updated = Updated { processes: 2, stood_still: 1 << 33, root: "it is read-only".into() };
        let (words, text) = updated_word(&updated);
        assert_eq!(updated_of(words, &text), updated);
    }
}
