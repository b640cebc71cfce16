//! Keeping a process for later, and going on from where it was kept.
//!
//! A process is kept as it would be copied: it comes to where a fork is made, and what the copy would be made of goes to
//! disk. So what goes on later does so as any copy of a cell does, with a number, randomness and a clock of its own.
//! **What cannot be kept is refused by name.** A family goes on from a snapshot only where its process would find the
//! same processor and the same library operating system.

mod files;
mod nursery;
mod saved;
mod sockets;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::fs::{Mode, OFlags};
use vm::{Part, Region, Sharing};

use self::nursery::{Nursery, Unborn};
pub(crate) use self::saved::SavedMachine;
use self::saved::{Pieces, Saved, SavedMemory, SavedPart, SavedProcess, SavedWindow};
use crate::calls::messages::Undo;
use crate::calls::segments::Attached;
use crate::clock;
use crate::control::Word;
use crate::creds::{Credentials, Three};
use crate::desk::Listener;
use crate::error::{Error, Result};
use crate::family::{Family, Living, Origin};
use crate::files::{File, OnExec, Table};
use crate::kvm::{Kvm, OfGuest};
use crate::member::{Body, KILLED, Member, Program};
use crate::timers::{Kind, Timer, Timers, Which};
use crate::waits::{Awaited, Waits};

/// A snapshot to begin with, by its two files.
#[derive(Debug)]
pub struct Snapshot {
    /// What it says about itself.
    pub state: OwnedFd,
    /// Its pages.
    pub bytes: OwnedFd,
    /// BLAKE3 of what it says about itself, when that must be it.
    pub digest: Option<String>,
}

/// An order to keep a process.
pub(crate) struct KeepOrder {
    pub(crate) state: OwnedFd,
    pub(crate) bytes: OwnedFd,
    pub(crate) listener: Listener,
}

const PAGE: usize = 4096;

/// Pages are copied so many at once.
const PIECE: usize = 64 << 10;

/// So many zeroes are written rather than leaving a gap, since each part is mapped by itself.
const SMALL_GAP: usize = 32 * PAGE;

/// A process has come to where it can be kept.
pub(crate) fn carry_out(member: &mut Member, order: &KeepOrder) {
    order.listener.tell(&match keep(member, order) {
        Ok(()) => Word::Kept,
        Err(error) => Word::Unkept { why: error.to_string() },
    });
}

fn keep(member: &mut Member, order: &KeepOrder) -> Result<()> {
    let others = member.family.others(member.number);
    if others > 0 {
        return Err(Error::Unkept(format!("a cell of {} processes, of which each is a machine,", others + 1)));
    }
    let process = keep_process(member)?;
    let Body::Machine(_, Some(guest)) = &member.body else {
        return Err(Error::Unkept("a process of the host: the kvm engine can keep one; this".to_owned()));
    };
    let mut writer = Writer { file: &order.bytes, at: 0, hasher: blake3::Hasher::new() };
    let space = guest.space();
    let memory = space.memory().iter().map(|it| writer.memory(it)).collect::<Result<_>>()?;
    let windows = space.windows().iter().map(|it| writer.window(it)).collect::<Result<_>>()?;
    let (kept, layout) = guest.keep()?;
    let (digest, calls) = (writer.hasher.finalize().to_string(), member.family.gate.seen());
    let saved = Saved::new(Pieces { digest, calls, length: writer.at, layout, kept, memory, windows }, process);
    write_whole(&order.state, &saved.text()?, 0)
}

/// Where pages go.
struct Writer<'a> {
    file: &'a OwnedFd,
    at: u64,
    hasher: blake3::Hasher,
}

fn write_whole(file: &OwnedFd, bytes: &[u8], at: u64) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let written = rustix::io::pwrite(file, &bytes[done..], at + done as u64);
        done += written.map_err(Error::host("writing a snapshot"))?;
    }
    Ok(())
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        write_whole(self.file, bytes, self.at)?;
        self.hasher.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// All pages that are not zero.
    fn memory(&mut self, memory: &vm::Memory) -> Result<SavedMemory> {
        let mut parts: Vec<[u64; 3]> = Vec::new();
        let mut piece = vec![0; PIECE];
        for (begin, length) in memory.used().map_err(Error::Machine)? {
            for offset in (begin..begin + length).step_by(PIECE) {
                let piece = &mut piece[..PIECE.min(begin + length - offset)];
                memory.read(offset, piece).ok_or(Error::Damaged("memory ended early"))?;
                for (index, page) in piece.chunks(PAGE).enumerate() {
                    if page.iter().any(|it| *it != 0) {
                        self.page(&mut parts, offset + index * PAGE, page)?;
                    }
                }
            }
        }
        Ok(SavedMemory { length: memory.length() as u64, parts })
    }

    /// A page, behind those before it.
    fn page(&mut self, parts: &mut Vec<[u64; 3]>, offset: usize, page: &[u8]) -> Result<()> {
        static NOTHING: [u8; SMALL_GAP] = [0; SMALL_GAP];
        let gap = parts.last().map(|it| offset - (it[0] + it[1]) as usize);
        match (gap, parts.last_mut()) {
            (Some(gap), Some(last)) if gap <= SMALL_GAP => {
                last[1] += (gap + PAGE) as u64;
                self.put(&NOTHING[..gap])?;
            }
            _ => parts.push([offset as u64, PAGE as u64, self.at]),
        }
        self.put(page)
    }

    /// What of files is mapped: it goes along, so that nothing can be another file by then.
    fn window(&mut self, window: &vm::Window) -> Result<SavedWindow> {
        let mut parts = Vec::new();
        for (at, part) in window.content() {
            if part.sharing == Sharing::Shared {
                return Err(Error::Unkept("a file that is mapped to be written to".to_owned()));
            }
            let from = self.at;
            self.file(&part)?;
            let [at, room, length] = [at, part.room, part.length].map(|it| it as u64);
            parts.push(SavedPart { at, room, length, from });
        }
        Ok(SavedWindow { length: window.length() as u64, parts })
    }

    fn file(&mut self, part: &Part) -> Result<()> {
        let mut piece = vec![0; PIECE];
        for offset in (0..part.length).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(part.length - offset)];
            let mut done = 0;
            while done < piece.len() {
                let read = rustix::io::pread(&*part.file, &mut piece[done..], part.offset + (offset + done) as u64);
                match read.map_err(Error::host("reading a mapped file"))? {
                    // Behind the end of a file are zeroes.
                    0 => break,
                    count => done += count,
                }
            }
            piece[done..].fill(0);
            self.put(piece)?;
        }
        Ok(())
    }
}

fn keep_process(member: &Member) -> Result<SavedProcess> {
    let mut files: Vec<Arc<File>> = Vec::new();
    let mut index = |file: &Arc<File>| {
        files.iter().position(|it| Arc::ptr_eq(it, file)).unwrap_or_else(|| {
            files.push(file.clone());
            files.len() - 1
        }) as u32
    };
    let descriptors = member.table.each().map(|(at, file, on_exec)| (at as u32, index(file), on_exec == OnExec::Close));
    let descriptors = descriptors.collect();
    let Awaited { files: watched, children, mut ready } = member.living.waits.all();
    let watches = watched.iter().map(|(cookie, file, events)| (*cookie, index(file), *events)).collect();
    // It has no children any more, and whoever waits for some shall hear that at once.
    ready.extend(children);
    let removed = |_| Error::Unkept("a working directory that was removed".to_owned());
    let Credentials { user, group, groups, .. } = &member.credentials;
    let port = &member.living.port;
    let timers = Timers::own(&member.family, member.number);
    if member.family.timers.has_made(member.number) {
        return Err(Error::Unkept("a timer that it made".to_owned()));
    }
    Ok(SavedProcess {
        files: files::keep(member, &files)?,
        descriptors,
        limit: member.table.limit as u32,
        directory: crate::calls::path_of(member.cwd.as_fd()).map_err(removed)?,
        umask: member.umask,
        identities: [user.real, user.effective, user.saved, group.real, group.effective, group.saved],
        groups: groups.clone(),
        program: member.program.path.clone(),
        arguments: member.program.arguments.clone(),
        name: member.family.with(member.number, |it| it.name.clone()).unwrap_or_default(),
        watches,
        ready,
        timers: timers.into_iter().map(|(signal, it)| (signal, it.left, it.interval)).collect(),
        signals: port.letters().all(&port.signals).iter().map(saved::SavedSignal::of).collect(),
        threads: port.threads.load(Ordering::Relaxed).max(1),
        numbers: member.family.last_number(),
    })
}

/// The system calls of the host that a family had made when it was kept, by what its snapshot says about itself.
pub fn calls_of(state: &OwnedFd) -> Result<Vec<u32>> {
    Ok(Saved::read(state)?.0.calls)
}

/// What names a snapshot: BLAKE3 of what it says about itself, which says the same of its pages.
pub fn digest_of(state: &[u8]) -> String {
    blake3::hash(state).to_string()
}

/// A snapshot that has been looked at, to be begun from as often as one likes.
pub(crate) struct Template {
    saved: Saved,
    machine: SavedMachine,
    /// Sockets on which somebody that began here listens, by which of the files they are.
    listening: Mutex<BTreeMap<usize, Weak<File>>>,
    nursery: Arc<Nursery>,
}

impl Template {
    /// Looks at a snapshot: whether it is whole, sound, and can go on here.
    pub(crate) fn of(snapshot: Snapshot) -> Result<Self> {
        let (saved, text) = Saved::read(&snapshot.state)?;
        if snapshot.digest.is_some_and(|it| it != digest_of(&text)) {
            return Err(Error::Changed);
        }
        saved.must_fit()?;
        saved.must_be_of(&snapshot.bytes)?;
        let machine = saved.machine(&Arc::new(snapshot.bytes))?;
        Ok(Self { saved, machine, listening: Mutex::default(), nursery: Nursery::new() })
    }

    /// Opens its files. A socket on which a process that began here listens already is shared, so that whoever is free
    /// answers.
    fn open_files(&self, streams: &[Arc<File>; 3]) -> Result<Vec<Arc<File>>> {
        let mut shared = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let files = files::open(&self.saved.process.files, streams, |index| shared.get(&index)?.upgrade())?;
        let listening = files::listening(&self.saved.process.files);
        *shared = listening.filter_map(|it| Some((it, Arc::downgrade(files.get(it)?)))).collect();
        Ok(files)
    }

    /// Begins a process from it, the first of a cell. Gives its number.
    pub(crate) fn begin(
        &self,
        family: &Arc<Family>,
        kvm: &Arc<Kvm>,
        streams: &[Arc<File>; 3],
        listener: Option<Listener>,
    ) -> Result<u32> {
        let it = &self.saved.process;
        clock::be_later_than(self.saved.monotonic);
        let number = family.number().map_err(Error::host("numbering a process"))?;
        family.number_after(it.numbers);
        let sealed = family.gate.code();
        let unborn = match listener {
            // The family's first: there may never be another.
            None => Unborn::new(kvm, &self.machine, sealed)?,
            Some(_) => self.nursery.take(kvm, &self.machine, sealed)?,
        };
        let port = unborn.port.clone();
        clock::write(&port.clock);
        for signal in &it.signals {
            // What finds no room is lost, and nobody waits for it.
            let _ = port.letters().send(&port.signals, signal.info());
        }
        port.threads.store(it.threads, Ordering::Relaxed);
        let files = self.open_files(streams)?;
        let mut table = Table::new(it.limit as usize);
        for (at, file, closed) in &it.descriptors {
            let on_exec = if *closed { OnExec::Close } else { OnExec::Keep };
            let put = table.put(*at as usize, files[*file as usize].clone(), on_exec);
            put.map_err(Error::host("opening a file of a snapshot again"))?;
        }
        let waits = Arc::new(Waits::new()?);
        for (cookie, file, events) in &it.watches {
            let watched = waits.watch(&files[*file as usize], *events, *cookie);
            watched.map_err(Error::host("waiting for a file of a snapshot again"))?;
        }
        waits.be_ready(&it.ready);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let cwd = rustix::fs::open(&it.directory[..], flags, Mode::empty());
        let cwd = cwd.map_err(Error::host("entering the working directory of a snapshot"))?;
        let living = Living { port, waits, handle: unborn.handle.clone() };
        let origin = Origin::Cell { streams: streams.each_ref().map(Arc::downgrade), listener, name: it.name.clone() };
        family.add(number, origin, living.clone());
        let [real, effective, saved, group, effective_group, saved_group] = it.identities;
        let member = Member {
            number,
            family: family.clone(),
            living,
            memory: Box::new(OfGuest(unborn.space.clone())),
            body: Body::Machine(kvm.clone(), None),
            table,
            kept: crate::kept::Kept::default(),
            cwd: Arc::new(cwd),
            umask: it.umask & 0o777,
            credentials: Credentials::new(
                Three { real, effective, saved },
                Three { real: group, effective: effective_group, saved: saved_group },
                it.groups.clone(),
            ),
            program: Program { path: it.program.clone(), arguments: it.arguments.clone() },
            boot: None,
            logged: 0,
            attached: Attached::default(),
            undo: Undo::default(),
            waited: None,
        };
        if unborn.be(member).is_none() {
            family.end(number, KILLED);
            return Err(Error::Elsewhere("its machine did not begin".to_owned()));
        }
        for (signal, left, interval) in &it.timers {
            let signal = *signal as i32;
            let timer = Timer { left: (*left).max(1), interval: *interval };
            Timers::set(family, number, Which::Own(signal), Kind::own(signal), timer);
        }
        if it.threads > 1 {
            Timers::beat(family);
        }
        Ok(number)
    }
}
