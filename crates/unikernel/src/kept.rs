//! Files that a guest keeps for when its program opens them again: see [`abi::kept`].
//!
//! A file that the program has closed is out of its table here, too: its number is free, and nobody finds it by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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
        self.kept.settle(&self.living.port.kept, &mut self.table);
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
    /// The same, as the port says.
    fn settle(&mut self, entries: &[AtomicU32], table: &mut Table) {
        self.0.retain(|number, one| {
            let said = entries.iter().map(|it| (it, it.load(Ordering::Relaxed)));
            let said = said.into_iter().find(|it| it.1 & (TAKEN | NUMBER) == TAKEN | number);
            let Some((entry, said)) = said else { return false };
            let wanted = if said & CLOSED == 0 { Place::Open } else { Place::Closed };
            let goes_on = one.move_to(wanted, u64::from(*number), table) && said & GIVEN_UP == 0;
            if !goes_on {
                entry.store(0, Ordering::Relaxed);
            }
            goes_on
        });
    }

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

#[cfg(test)]
mod properties {
    use abi::kept::MOST;
    use proptest::prelude::*;

    use super::*;
    use crate::files::Waiting;

    /// No number reaches it.
    const LIMIT: usize = 6;

    fn entry() -> impl Strategy<Value = u32> {
        let flags = prop::sample::select(vec![TAKEN, TAKEN | CLOSED, TAKEN | GIVEN_UP, TAKEN | CLOSED | GIVEN_UP, 0]);
        prop_oneof![4 => (flags, 0..LIMIT as u32 + 2).prop_map(|(a, b)| a | b), 1 => any::<u32>()]
    }

    #[derive(Clone, Debug)]
    enum Step {
        Say(usize, u32),
        Keep(u64),
        Open,
        Close(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = || 0..LIMIT as u64;
        prop_oneof![
            4 => (0..MOST, entry()).prop_map(|(a, b)| Step::Say(a, b)),
            2 => number().prop_map(Step::Keep),
            1 => Just(Step::Open),
            1 => number().prop_map(Step::Close),
        ]
    }

    proptest! {
        #[test]
        fn whatever_a_guest_says_no_number_is_anothers(steps in prop::collection::vec(step(), 0..100)) {
            let null = std::fs::File::open("/dev/null").unwrap();
            let file = || File::new(null.try_clone().unwrap().into(), Waiting::No, b"/dev/null");
            let status = rustix::fs::fstat(&null).unwrap();
            let (mut kept, mut table) = (Kept::default(), Table::new(LIMIT));
            let entries = [const { AtomicU32::new(0) }; MOST];
            for _ in 0..4 {
                table.add(file(), OnExec::Keep, 0).unwrap();
            }
            for step in steps {
                match step {
                    Step::Say(at, word) => entries[at].store(word, Ordering::Relaxed),
                    Step::Keep(number) => {
                        if let Ok(file) = table.get(number).cloned() {
                            let one = One { file, on_exec: OnExec::Keep, status, place: Place::Open };
                            kept.0.insert(number as u32, one);
                        }
                    }
                    Step::Open => drop(table.add(file(), OnExec::Keep, 0)),
                    Step::Close(number) => drop(table.close(number)),
                }
                let before = table.clone();
                let files: BTreeMap<u32, Arc<File>> = kept.0.iter().map(|it| (*it.0, it.1.file.clone())).collect();
                kept.settle(&entries, &mut table);
                prop_assert!(kept.0.len() <= MOST);
                for number in 0..LIMIT as u64 + 4 {
                    // What somebody has is his; what comes and goes is what was kept under that number.
                    let is_kept = |it: &Arc<File>| files.get(&(number as u32)).is_some_and(|kept| Arc::ptr_eq(it, kept));
                    match (before.get(number), table.get(number)) {
                        (Ok(before), Ok(after)) => prop_assert!(Arc::ptr_eq(before, after)),
                        (Ok(it), Err(_)) | (Err(_), Ok(it)) => prop_assert!(is_kept(it), "{number}"),
                        (Err(_), Err(_)) => {}
                    }
                }
                for (number, one) in &kept.0 {
                    let named = entries.iter().any(|it| it.load(Ordering::Relaxed) & (TAKEN | NUMBER) == TAKEN | number);
                    prop_assert!(named, "{number} is kept, of which nobody speaks");
                    if one.place == Place::Closed {
                        let is_it = table.get(u64::from(*number)).is_ok_and(|it| Arc::ptr_eq(it, &one.file));
                        prop_assert!(!is_it, "{number} is closed and in the table");
                    }
                }
            }
        }
    }
}
