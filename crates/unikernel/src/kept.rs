//! Files that a guest keeps for when its program opens them again: see [`abi::kept`].
//!
//! A file that the program has closed is out of its table here, too: its number is free, and nobody finds it by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::kept::{CLOSED, GIVEN_UP, LONGEST, NUMBER, STATUS, TAKEN};
use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use sys::Errno;

use crate::files::{File, OnExec, Table};
use crate::member::Member;
use crate::port::Mapped;

/// What a member keeps, by its number.
#[derive(Default)]
pub(crate) struct Kept(BTreeMap<u32, One>);

struct One {
    file: Arc<File>,
    on_exec: OnExec,
    status: Stat,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the table.
    Open,
    /// Only here.
    Closed,
}

impl One {
    /// Puts it into the table or takes it out; whether that can be.
    fn move_to(&mut self, place: Place, number: u64, table: &mut Table) -> bool {
        let is_it = table.get(number).map(|it| Arc::ptr_eq(it, &self.file));
        let moved = match (self.place, place) {
            (Place::Open, Place::Closed) => is_it == Ok(true) && table.close(number).is_ok(),
            (Place::Closed, Place::Open) => {
                is_it.is_err() && table.put(number as usize, self.file.clone(), self.on_exec).is_ok()
            }
            _ => true,
        };
        self.place = place;
        moved
    }
}

/// A file that changed so short a time ago may change once more without showing it, on kernels whose clocks for files are
/// coarse.
const SETTLED: Duration = Duration::from_millis(20);

impl Member {
    /// Begins to keep a file.
    pub(crate) fn keep(&mut self, [number, status_at, content_at, room, ..]: [u64; 6]) -> Result<u64, Errno> {
        let file = self.table.get(number)?.clone();
        let on_exec = self.table.on_exec(number)?;
        let status = rustix::fs::fstat(&*file)?;
        let flags = rustix::fs::fcntl_getfl(&*file)?;
        let is_read = flags & (OFlags::RWMODE | OFlags::PATH | OFlags::APPEND) == OFlags::RDONLY;
        let is_plain = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile && file.path.starts_with(b"/");
        if !is_read || !is_plain || rustix::fs::seek(&*file, SeekFrom::Current(0))? != 0 {
            return Err(Errno::INVAL);
        }
        let size = status.st_size.unsigned_abs();
        if size <= room.min(LONGEST as u64) {
            let mut content = vec![0; size as usize];
            if rustix::io::pread(&*file, &mut content[..], 0)? != content.len() {
                return Err(Errno::BUSY);
            }
            self.memory.write(content_at, &content)?;
        }
        // After its content was read.
        if !is_settled(&status) || !is_still(&file, &status) {
            return Err(Errno::BUSY);
        }
        self.memory.write(status_at, &status_bytes(&status))?;
        self.kept.0.insert(number as u32, One { file, on_exec, status, place: Place::Open });
        Ok(size)
    }

    /// Does what the guest said of its files since the last call.
    pub(crate) fn settle_kept(&mut self) {
        if self.kept.0.is_empty() {
            return;
        }
        let port = self.living.port.clone();
        let table = &mut self.table;
        self.kept.0.retain(|number, one| {
            let said = port.kept.iter().find(|it| it.load(Ordering::Relaxed) & (TAKEN | NUMBER) == TAKEN | number);
            let Some(said) = said else { return false };
            let wanted = if said.load(Ordering::Relaxed) & CLOSED == 0 { Place::Open } else { Place::Closed };
            let moved = one.move_to(wanted, u64::from(*number), table);
            let goes_on = moved && said.load(Ordering::Relaxed) & GIVEN_UP == 0;
            if !goes_on {
                said.store(0, Ordering::Relaxed);
            }
            goes_on
        });
    }

    /// Gives up those whose number somebody else got by the call that was just made.
    pub(crate) fn yield_kept(&mut self) {
        let table = &self.table;
        let is_lost = |number: u32, one: &One| {
            let there = table.get(u64::from(number));
            match one.place {
                Place::Closed => there.is_ok(),
                Place::Open => !there.is_ok_and(|file| Arc::ptr_eq(file, &one.file)),
            }
        };
        self.kept.forget_if(&self.living.port, is_lost);
    }

    /// Gives up those that are not what their paths lead to any more.
    pub(crate) fn check_kept(&mut self) {
        self.kept.forget_if(&self.living.port, |_, one| !is_still(&one.file, &one.status));
    }
}

impl Kept {
    fn forget_if(&mut self, port: &Mapped, is_lost: impl Fn(u32, &One) -> bool) {
        self.0.retain(|number, one| {
            let is_lost = is_lost(*number, one);
            if is_lost {
                let entry = port.kept.iter().find(|it| it.load(Ordering::Relaxed) & NUMBER == *number);
                entry.inspect(|it| it.store(0, Ordering::Relaxed));
            }
            !is_lost
        });
    }
}

fn is_settled(status: &Stat) -> bool {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let latest = (status.st_mtime, status.st_mtime_nsec).max((status.st_ctime, status.st_ctime_nsec));
    let since = (now.tv_sec - latest.0) as i128 * 1_000_000_000 + i128::from(now.tv_nsec) - latest.1 as i128;
    since > SETTLED.as_nanos() as i128
}

/// Whether the file's path leads to it still, and it is as it was.
fn is_still(file: &File, status: &Stat) -> bool {
    let essence = |it: &Stat| {
        let times = [it.st_mtime as u64, it.st_mtime_nsec, it.st_ctime as u64, it.st_ctime_nsec];
        (it.st_dev, it.st_ino, it.st_size, it.st_mode, it.st_nlink, it.st_uid, it.st_gid, times)
    };
    rustix::fs::stat(&file.path[..]).is_ok_and(|now| essence(&now) == essence(status))
}

/// `struct stat`, as fstat writes it.
fn status_bytes(it: &Stat) -> [u8; STATUS] {
    let words = [
        it.st_dev,
        it.st_ino,
        it.st_nlink,
        u64::from(it.st_mode) | u64::from(it.st_uid) << 32,
        u64::from(it.st_gid),
        it.st_rdev,
        it.st_size as u64,
        it.st_blksize as u64,
        it.st_blocks as u64,
        it.st_atime as u64,
        it.st_atime_nsec,
        it.st_mtime as u64,
        it.st_mtime_nsec,
        it.st_ctime as u64,
        it.st_ctime_nsec,
        0,
        0,
        0,
    ];
    let mut bytes = [0; STATUS];
    bytes.chunks_exact_mut(8).zip(words).for_each(|(place, word)| place.copy_from_slice(&word.to_ne_bytes()));
    bytes
}
