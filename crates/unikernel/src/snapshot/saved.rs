//! What a snapshot is on disk: two files. One holds bytes in whole pages, as they are mapped when it goes on: memory, and
//! what files were mapped. The other, of this module, says in JSON where each page belongs and what the tender knew.
//!
//! **A snapshot may be hostile**: [`Saved::read`] gives one of which every number has been checked, and nothing here
//! believes a number before. What the guest's own memory holds is the guest's affair, as ever.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::layout::kvm::{MEMORY_STEP, MOST_MEMORY, MOST_WINDOW};
use abi::signal::Info;
use rustix::fs::fstat;
use serde::{Deserialize, Serialize};
use vm::{Frozen, Kept, Laid, Layout, Part, Sharing};

use super::files::SavedFile;
use crate::error::{Error, Result};
use crate::kvm::Content;

/// Of this format; another's are refused.
const VERSION: u32 = 2;

const PAGE: u64 = 4096;

/// No snapshot says more about itself.
const LONGEST: u64 = 32 << 20;

/// All that a process is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    version: u32,
    /// The contract that its library operating system was built for.
    abi: u32,
    /// The processor that it ran on, as programs see it.
    processor: String,
    /// BLAKE3 of the bytes, and how many there are.
    digest: String,
    length: u64,
    /// The guest's clock.
    pub(crate) monotonic: u64,
    /// The system calls that had been made.
    pub(super) calls: Vec<u32>,
    layout: [u64; 5],
    general: [u64; 18],
    bases: [u64; 2],
    extended: Vec<u64>,
    memory: Vec<SavedMemory>,
    windows: Vec<SavedWindow>,
    pub(crate) process: SavedProcess,
}

/// A piece of a guest's memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedMemory {
    pub(crate) length: u64,
    /// Where it is not zero: offset, length, and where in the bytes that is.
    pub(crate) parts: Vec<[u64; 3]>,
}

/// A window with what is mapped in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedWindow {
    pub(crate) length: u64,
    pub(crate) parts: Vec<SavedPart>,
}

/// A part of a file that was mapped.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedPart {
    pub(crate) at: u64,
    pub(crate) room: u64,
    pub(crate) length: u64,
    /// Where in the bytes its content is.
    pub(crate) from: u64,
}

/// What the tender knows of a process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedProcess {
    pub(crate) files: Vec<SavedFile>,
    /// Descriptors: number, which of the files, whether it is closed on exec.
    pub(crate) descriptors: Vec<(u32, u32, bool)>,
    pub(crate) limit: u32,
    pub(crate) directory: Vec<u8>,
    pub(crate) umask: u32,
    /// Real, effective and saved user, the same of the group.
    pub(crate) identities: [u32; 6],
    pub(crate) groups: Vec<u32>,
    pub(crate) program: Vec<u8>,
    pub(crate) arguments: Vec<u8>,
    pub(crate) name: Vec<u8>,
    /// What its threads wait for: cookie, which of the files, events.
    pub(crate) watches: Vec<(u64, u32, u32)>,
    /// Cookies that are due at once.
    pub(crate) ready: Vec<u64>,
    /// Timers: signal, nanoseconds left, interval.
    pub(crate) timers: Vec<(u32, u64, u64)>,
    /// Those that it has not taken.
    pub(crate) signals: Vec<SavedSignal>,
    pub(crate) threads: u32,
    /// Numbers up to here may be known to it as those of its threads.
    pub(crate) numbers: u32,
}

/// A signal on its way.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedSignal {
    signal: i32,
    code: i32,
    thread: u32,
    first: u64,
    second: u64,
}

impl SavedSignal {
    pub(crate) fn of(it: &Info) -> Self {
        let Info { signal, code, thread, first, second } = *it;
        Self { signal, code, thread, first, second }
    }

    pub(crate) fn info(self) -> Info {
        let Self { signal, code, thread, first, second } = self;
        Info { signal, code, thread, first, second }
    }
}

/// The machine of a snapshot, ready to be made.
#[derive(Clone, Debug)]
pub(crate) struct SavedMachine {
    pub(crate) layout: Layout,
    pub(crate) kept: Kept,
    pub(crate) memory: Vec<Frozen>,
    pub(crate) windows: Vec<Content>,
}

/// What of a snapshot is written by others.
pub(crate) struct Pieces {
    pub(crate) digest: String,
    pub(crate) length: u64,
    pub(crate) calls: Vec<u32>,
    pub(crate) layout: Layout,
    pub(crate) kept: Kept,
    pub(crate) memory: Vec<SavedMemory>,
    pub(crate) windows: Vec<SavedWindow>,
}

/// The processor as programs see it: what they have looked at, they go by for ever.
fn processor() -> String {
    let [first, second] = sys::probe::hardware_capabilities();
    let leaf = |it: u32| {
        let found = core::arch::x86_64::__cpuid_count(it, 0);
        // Whether the system saves extended registers is not the processor's affair; which processor of many answers is
        // in none of these.
        format!("{:x}-{:x}-{:x}", found.ebx, found.ecx, found.edx)
    };
    format!("{first:x}-{second:x}-{}", leaf(7))
}

impl Saved {
    pub(crate) fn new(it: Pieces, process: SavedProcess) -> Self {
        let Layout { tables, descriptors, interrupts, task, call_entry } = it.layout;
        let words = it.kept.extended.as_chunks::<8>().0.iter().map(|it| u64::from_le_bytes(*it));
        let mut extended: Vec<u64> = words.collect();
        extended.truncate(extended.iter().rposition(|it| *it != 0).map_or(0, |last| last + 1));
        Self {
            version: VERSION,
            abi: abi::VERSION,
            processor: processor(),
            digest: it.digest,
            length: it.length,
            monotonic: crate::clock::monotonic(),
            calls: it.calls,
            layout: [tables, descriptors, interrupts, task, call_entry],
            general: it.kept.general,
            bases: it.kept.bases,
            extended,
            memory: it.memory,
            windows: it.windows,
            process,
        }
    }

    pub(crate) fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|_| Error::Damaged("it says too much about itself"))
    }

    /// Reads one, of which everything is as it must be but the bytes themselves.
    pub(crate) fn read(file: &OwnedFd) -> Result<(Self, Vec<u8>)> {
        let length = fstat(file).map_err(Error::host("looking at a snapshot"))?.st_size as u64;
        if length > LONGEST {
            return Err(Error::Damaged("it says too much about itself"));
        }
        let mut text = vec![0; length as usize];
        read_whole(file, &mut text, 0)?;
        let saved = Self::parse(&text)?;
        Ok((saved, text))
    }

    fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Header {
            version: u32,
        }
        let unreadable = |_| Error::Damaged("it does not read");
        let header: Header = serde_json::from_slice(text).map_err(unreadable)?;
        if header.version != VERSION {
            return Err(Error::Elsewhere("another version of skep made it".to_owned()));
        }
        let saved: Self = serde_json::from_slice(text).map_err(unreadable)?;
        saved.check()?;
        Ok(saved)
    }

    /// Whether every number leads somewhere.
    fn check(&self) -> Result<()> {
        let wrong = Error::Damaged;
        let inside = |[offset, length, from]: [u64; 3], room: u64| {
            let ends = |begin: u64, room: u64| begin.checked_add(length).is_some_and(|it| it <= room);
            (offset | length | from).is_multiple_of(PAGE) && ends(offset, room) && ends(from, self.length)
        };
        let memory: u64 = self.memory.iter().map(|it| it.length).fold(0, u64::saturating_add);
        let steps = self.memory.iter().all(|it| it.length == MEMORY_STEP);
        if self.memory.is_empty() || !steps || memory > MOST_MEMORY {
            return Err(wrong("its memory is of no size that there is"));
        }
        if !self.memory.iter().all(|it| it.parts.iter().all(|part| part[1] > 0 && inside(*part, it.length))) {
            return Err(wrong("its memory leads nowhere"));
        }
        let windows = self.windows.iter().map(|it| it.length).fold(0, u64::saturating_add);
        let mapped = |it: &SavedWindow| {
            it.parts.iter().all(|part| {
                let within = part.at.checked_add(part.room).is_some_and(|end| end <= it.length);
                within && part.length <= part.room && inside([part.at, part.length, part.from], it.length)
            })
        };
        if windows > MOST_WINDOW || !self.windows.iter().all(|it| it.length.is_multiple_of(PAGE) && mapped(it)) {
            return Err(wrong("its mapped files lead nowhere"));
        }
        if self.extended.len() > 512 {
            return Err(wrong("it has more registers than there are"));
        }
        self.process.check()
    }

    /// Refuses one that cannot go on here.
    pub(crate) fn must_fit(&self) -> Result<()> {
        if self.abi != abi::VERSION {
            return Err(Error::Elsewhere("another version of skep made it".to_owned()));
        }
        if self.processor != processor() {
            return Err(Error::Elsewhere("it ran on another kind of processor".to_owned()));
        }
        Ok(())
    }

    /// Refuses bytes that are not those that were written.
    pub(crate) fn must_be_of(&self, bytes: &OwnedFd) -> Result<()> {
        let length = fstat(bytes).map_err(Error::host("looking at a snapshot"))?.st_size as u64;
        if length != self.length || digest(bytes, length)? != self.digest {
            return Err(Error::Changed);
        }
        Ok(())
    }

    /// The machine. The bytes are as long as [`Saved::must_be_of`] says.
    pub(crate) fn machine(&self, bytes: &Arc<OwnedFd>) -> Result<SavedMachine> {
        let [tables, descriptors, interrupts, task, call_entry] = self.layout;
        let mut extended: Vec<u8> = self.extended.iter().flat_map(|it| it.to_le_bytes()).collect();
        extended.resize(4096, 0);
        let memory = |it: &SavedMemory| {
            let laid = |[offset, length, from]: [u64; 3]| Laid {
                offset: offset as usize,
                length: length as usize,
                file: bytes.clone(),
                from,
            };
            let frozen = Frozen::of_parts(it.length as usize, it.parts.iter().copied().map(laid).collect());
            frozen.map_err(Error::Machine)?.ok_or(Error::Damaged("parts of its memory lie over each other"))
        };
        let part = |it: &SavedPart| {
            let (length, room, sharing) = (it.length as usize, it.room as usize, Sharing::ReadOnly);
            (it.at as usize, Part { file: bytes.clone(), offset: it.from, length, room, sharing })
        };
        Ok(SavedMachine {
            layout: Layout { tables, descriptors, interrupts, task, call_entry },
            kept: Kept { general: self.general, bases: self.bases, extended },
            memory: self.memory.iter().map(memory).collect::<Result<_>>()?,
            windows: self.windows.iter().map(|it| (it.length as usize, it.parts.iter().map(part).collect())).collect(),
        })
    }
}

impl SavedProcess {
    fn check(&self) -> Result<()> {
        const MOST: usize = 64 << 10;
        const MOST_DESCRIPTORS: u32 = 1 << 20;
        let file = |it: u32| (it as usize) < self.files.len();
        let lists = [self.files.len(), self.descriptors.len(), self.groups.len(), self.watches.len()];
        let few = lists.into_iter().chain([self.ready.len(), self.timers.len()]).all(|it| it <= MOST);
        let right = few
            && self.limit <= MOST_DESCRIPTORS
            && self.descriptors.iter().all(|it| it.0 < self.limit && file(it.1))
            && self.watches.iter().all(|it| file(it.1))
            && self.timers.iter().all(|it| (1..=64).contains(&it.0))
            && self.signals.len() <= MOST
            && self.signals.iter().all(|it| (1..=64).contains(&it.signal))
            && self.files.iter().all(|it| it.is_right(self.files.len()))
            && !self.directory.contains(&0)
            && self.threads >= 1;
        if right { Ok(()) } else { Err(Error::Damaged("its files lead nowhere")) }
    }
}

/// BLAKE3 of the first so many bytes of a file.
pub(crate) fn digest(file: &OwnedFd, length: u64) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 256 << 10];
    let mut at = 0;
    while at < length {
        let part = piece.len().min((length - at) as usize);
        read_whole(file, &mut piece[..part], at)?;
        hasher.update(&piece[..part]);
        at += part as u64;
    }
    Ok(hasher.finalize().to_string())
}

fn read_whole(file: &OwnedFd, into: &mut [u8], at: u64) -> Result<()> {
    let mut done = 0;
    while done < into.len() {
        match rustix::io::pread(file, &mut into[done..], at + done as u64).map_err(Error::host("reading a snapshot"))? {
            0 => return Err(Error::Changed),
            count => done += count,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sound() -> Saved {
        let layout = Layout { tables: 4096, descriptors: 0, interrupts: 0, task: 0, call_entry: 0 };
        let kept = Kept { general: [0; 18], bases: [0; 2], extended: vec![0; 4096] };
        let memory = vec![SavedMemory { length: MEMORY_STEP, parts: vec![[0, 8192, 4096]] }];
        let parts = vec![SavedPart { at: 4096, room: 8192, length: 4096, from: 0 }];
        let windows = vec![SavedWindow { length: 1 << 20, parts }];
        let pieces = Pieces { digest: String::new(), length: 12288, calls: vec![0], layout, kept, memory, windows };
        let process = SavedProcess { threads: 1, limit: 64, directory: b"/".to_vec(), ..SavedProcess::default() };
        Saved::new(pieces, process)
    }

    #[test]
    fn what_is_written_is_read_and_what_leads_nowhere_is_not() {
        let parse = |it: &Saved| Saved::parse(&it.text().unwrap());
        assert!(parse(&sound()).is_ok());
        let wrong: &[fn(&mut Saved)] = &[
            |it| it.version = 1,
            |it| it.memory.clear(),
            |it| it.memory[0].length += 4096,
            |it| it.memory[0].parts[0] = [0, 8192, 8192],
            |it| it.memory[0].parts[0] = [0, u64::MAX - 4095, 0],
            |it| it.memory[0].parts[0] = [MEMORY_STEP, 4096, 0],
            |it| it.windows[0].length = u64::MAX,
            |it| it.windows[0].parts[0].room = !4095,
            |it| it.windows[0].parts[0].from = 12288,
            |it| it.windows[0].parts[0].length = 12288,
            |it| it.extended = vec![1; 513],
            |it| it.process.descriptors = vec![(0, 0, false)],
            |it| it.process.watches = vec![(1, 7, 1)],
            |it| it.process.timers = vec![(0, 1, 1)],
            |it| it.process.signals = vec![SavedSignal { signal: 65, ..SavedSignal::default() }],
            |it| it.process.threads = 0,
        ];
        for (index, change) in wrong.iter().enumerate() {
            let mut saved = sound();
            change(&mut saved);
            assert!(parse(&saved).is_err(), "{index}");
        }
    }

    proptest! {
        /// However it is bent, it is refused or of parts that can be made; nothing panics.
        #[test]
        fn a_bent_snapshot_is_refused_or_sound(places in proptest::collection::vec((any::<prop::sample::Index>(), b' '..b'~'), 0..6)) {
            let mut text = sound().text().unwrap();
            for (place, byte) in places {
                let at = place.index(text.len());
                text[at] = byte;
            }
            if let Ok(saved) = Saved::parse(&text) {
                let bytes = Arc::new(crate::procfs::file(&[0; 12288]).unwrap());
                let machine = saved.machine(&bytes);
                for (length, parts) in machine.iter().flat_map(|it| &it.windows) {
                    let _ = vm::Window::of_parts(*length, parts.clone());
                }
            }
        }
    }
}
