//! A machine with its programs, in files: one that says what it is, and those that have its memory.
//!
//! For a copy that begins at once the memory is in the files in which it is anyway, which nobody can write to any more; for
//! one that may begin later, in a file as long as the memory with a hole where that is zero. **What a file says is checked
//! before anything is made of it.**

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use vm::{Laid, Memory, Region as _};

use crate::error::{Error, Result};
use crate::machine::Frozen;
use crate::saved::{SavedMachine, data, of_data, unfit};

/// What its programs are to whoever runs it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedInside {
    /// Where its agent serves.
    pub(super) server: u64,
    /// The agent's descriptor for ends of programs.
    pub(super) ends: i32,
    pub(super) sessions: Vec<SavedSession>,
}

/// A program, by the agent's descriptors of its streams.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedSession {
    pub(super) process: i64,
    /// What it is called.
    pub(super) name: String,
    /// Whether it is the one that the machine is for.
    pub(super) is_first: bool,
    pub(super) input: Option<i32>,
    /// Each with the number of the stream.
    pub(super) outputs: Vec<(i32, usize)>,
    pub(super) terminal: Option<i32>,
    pub(super) status: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// What this is a state of: programs of other versions may have others.
    version: u32,
    machine: SavedMachine,
    inside: SavedInside,
    memory: SavedMemory,
}

const VERSION: u32 = 1;
/// Bytes that a file says at most.
const MOST: u64 = 256 << 20;
const PAGE: usize = 4096;
const PIECE: usize = 256 << 10;

/// The first file that has memory has all of it; parts are laid over that: where, how long, in which file, and where in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedMemory {
    length: u64,
    parts: Vec<[u64; 4]>,
}

/// The files for a copy that begins at once.
pub(super) fn hand_out(frozen: Frozen, inside: SavedInside) -> Result<Vec<Arc<OwnedFd>>> {
    let Frozen { machine, memory } = frozen;
    memory.seal()?;
    let (base, over) = memory.layers();
    let mut files = vec![base];
    let mut parts = Vec::new();
    for it in over {
        let known = files.iter().position(|file| Arc::ptr_eq(file, &it.file));
        let number = known.unwrap_or_else(|| {
            files.push(&it.file);
            files.len() - 1
        });
        parts.push([it.offset as u64, it.length as u64, number as u64, it.from]);
    }
    let memory = SavedMemory { length: memory.length() as u64, parts };
    let state = memfd_create("machine", MemfdFlags::CLOEXEC).map_err(|errno| writing(errno.into()))?;
    let mut state = File::from(state);
    put(&mut state, Saved { version: VERSION, machine, inside, memory })?;
    Ok(std::iter::once(Arc::new(state.into())).chain(files.into_iter().cloned()).collect())
}

/// Writes the files for one that may begin later.
pub(super) fn write(frozen: Frozen, inside: SavedInside, state: OwnedFd, bytes: OwnedFd) -> Result<()> {
    let Frozen { machine, memory } = frozen;
    let length = memory.length();
    let file = File::from(bytes);
    file.set_len(length as u64).map_err(writing)?;
    let memory = Memory::thaw(&memory)?;
    let mut piece = vec![0; PIECE];
    for (begin, size) in memory.used()? {
        for at in (begin..begin + size).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(begin + size - at)];
            memory.read(at, piece).ok_or_else(|| writing(std::io::ErrorKind::UnexpectedEof.into()))?;
            write_pages(&file, at, piece).map_err(writing)?;
        }
    }
    let memory = SavedMemory { length: length as u64, parts: Vec::new() };
    put(&mut File::from(state), Saved { version: VERSION, machine, inside, memory })
}

/// Writes pages that are not zero, as many at once as follow each other.
fn write_pages(file: &File, at: usize, bytes: &[u8]) -> std::io::Result<()> {
    let is_something = |it: &&[u8]| it.iter().any(|byte| *byte != 0);
    let mut done = 0;
    while done < bytes.len() {
        let pages = || bytes[done..].chunks(PAGE);
        let zero: usize = pages().take_while(|it| !is_something(it)).map(<[u8]>::len).sum();
        let begin = done + zero;
        let run: usize = bytes[begin..].chunks(PAGE).take_while(is_something).map(<[u8]>::len).sum();
        file.write_all_at(&bytes[begin..begin + run], (at + begin) as u64)?;
        done = begin + run;
    }
    Ok(())
}

fn put(state: &mut File, saved: Saved) -> Result<()> {
    state.write_all(data(&saved)?.to_string().as_bytes()).map_err(writing)
}

/// A machine of such files.
pub(super) fn read(files: Vec<OwnedFd>) -> Result<(Frozen, SavedInside)> {
    let mut files = files.into_iter();
    let (Some(state), Some(base)) = (files.next(), files.next()) else { return unfit("files are missing") };
    let mut text = Vec::new();
    let mut state = File::from(state);
    state.rewind().and_then(|()| (&state).take(MOST).read_to_end(&mut text)).map_err(reading)?;
    let value = serde_json::from_slice(&text).map_err(|error| reading(error.into()))?;
    let Saved { version, machine, inside, memory } = of_data(value)?;
    if version != VERSION {
        return unfit("it was kept by another version of this program");
    }
    let files: Vec<Arc<OwnedFd>> = std::iter::once(base).chain(files).map(Arc::new).collect();
    let laid = |it: &[u64; 4]| {
        let [offset, length, file, from] = *it;
        let number = |it: u64| usize::try_from(it).ok();
        let file = Arc::clone(files.get(number(file)?)?);
        Some(Laid { offset: number(offset)?, length: number(length)?, file, from })
    };
    let over = memory.parts.iter().map(laid).collect::<Option<Vec<Laid>>>();
    let (Some(over), Ok(length)) = (over, usize::try_from(memory.length)) else {
        return unfit("its memory is in files that are missing");
    };
    match vm::Frozen::of_layers(length, Arc::clone(&files[0]), over)? {
        Some(memory) => Ok((Frozen { machine, memory }, inside)),
        None => unfit("its memory is not all there"),
    }
}

fn writing(error: std::io::Error) -> Error {
    Error::Unkept { why: format!("writing what the machine is: {error}") }
}

fn reading(error: std::io::Error) -> Error {
    Error::Saved { why: format!("reading what it was: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside() -> SavedInside {
        let first = SavedSession {
            process: 81,
            name: "sh".into(),
            is_first: true,
            input: Some(9),
            outputs: vec![(10, 1), (12, 2)],
            terminal: None,
            status: None,
        };
        SavedInside { server: 0x2_1000, ends: 8, sessions: vec![first] }
    }

    fn frozen(memory: &Memory) -> Frozen {
        let machine = SavedMachine {
            architecture: "none".into(),
            processors: Vec::new(),
            seats: Vec::new(),
            ticks: 0,
            board: serde_json::Value::Null,
            devices: Vec::new(),
        };
        Frozen { machine, memory: memory.freeze().unwrap() }
    }

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    #[test]
    fn what_is_written_is_read() {
        let memory = Memory::new(4 << 20).unwrap();
        let mut expected = vec![0; memory.length()];
        // Pages here and there, before and after it was frozen first, and some that are zero again.
        for round in 0..3u8 {
            for page in (usize::from(round)..1024).step_by(7 + usize::from(round)) {
                let bytes = vec![if page % 5 == 0 { 0 } else { page as u8 }; PAGE - 3];
                memory.write(page * PAGE, &bytes).unwrap();
                expected[page * PAGE..][..bytes.len()].copy_from_slice(&bytes);
            }
            let mut found = vec![1; memory.length()];
            let (state, bytes) = (file(), file());
            write(frozen(&memory), inside(), state.try_clone().unwrap(), bytes.try_clone().unwrap()).unwrap();
            let (kept, again) = read(vec![state, bytes]).unwrap();
            Memory::thaw(&kept.memory).unwrap().read(0, &mut found).unwrap();
            assert!(found == expected, "kept, {round}");
            assert_eq!(format!("{again:?}"), format!("{:?}", inside()));
            let files = hand_out(frozen(&memory), inside()).unwrap();
            let files = files.iter().map(|it| it.try_clone().unwrap()).collect();
            let (kept, _) = read(files).unwrap();
            Memory::thaw(&kept.memory).unwrap().read(0, &mut found).unwrap();
            assert!(found == expected, "handed out, {round}");
        }
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let memory = Memory::new(1 << 20).unwrap();
        memory.write(0, b"something").unwrap();
        memory.freeze().unwrap();
        memory.write(PAGE, b"more").unwrap();
        let files = || -> Vec<OwnedFd> {
            let files = hand_out(frozen(&memory), inside()).unwrap();
            files.iter().map(|it| it.try_clone().unwrap()).collect()
        };
        assert_eq!(files().len(), 3);
        assert!(read(files()).is_ok());
        for count in 0..3 {
            assert!(read(files().into_iter().take(count).collect()).is_err(), "{count} files");
        }
        let mut short = files();
        short[1] = file();
        assert!(read(short).is_err(), "a file that is not as long");
        for (what, by) in [
            ("\"version\":1", "\"version\":2"),
            ("\"length\":1048576", "\"length\":1048577"),
            ("[4096,4096,1,4096]", "[4096,4096,9,4096]"),
            ("[4096,4096,1,4096]", "[4096,4096,1,1044481]"),
        ] {
            let mut files = files();
            let mut text = String::new();
            let mut state = File::from(files.remove(0));
            state.rewind().unwrap();
            state.read_to_string(&mut text).unwrap();
            assert!(text.contains(what), "{what} in {text}");
            let mut other = tempfile::tempfile().unwrap();
            other.write_all(text.replace(what, by).as_bytes()).unwrap();
            files.insert(0, other.into());
            assert!(read(files).is_err(), "{by}");
        }
        // Whoever has its files cannot write to them.
        assert!(File::from(files().remove(1)).write_all_at(b"x", 0).is_err());
    }
}
