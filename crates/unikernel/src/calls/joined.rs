//! Shared memory of System V where other cells share it (`--ipc`): which there is, whose, how large and how often attached is
//! the host's account, in the IPC namespace that all are in; **what it holds is a file beside POSIX' shared memory**, since a guest
//! maps files. So the host's segment stays empty: it is attached to be counted, and let go by the host however a tender ends.
//!
//! Programs of the cells can reach the file, as they can reach each other's memory. The tender only opens it and hands it on.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, ftruncate, openat, unlinkat};
use sys::Errno;

use super::messages::call;
use super::segments::{Holding, Perm};
use crate::files::{File, OnExec, Waiting};
use crate::identity::as_tender;
use crate::member::Member;

const GET: u32 = libc::SYS_shmget as u32;
const ATTACH: u32 = libc::SYS_shmat as u32;
const DETACH: u32 = libc::SYS_shmdt as u32;
const CONTROL: u32 = libc::SYS_shmctl as u32;

/// `struct shmid_ds`.
const SIZE: usize = 112;

/// The host's word of a process's attachment.
#[derive(Debug)]
pub(super) struct Hold {
    id: i32,
    at: u64,
}

/// A child has attached what its maker has.
impl Clone for Hold {
    fn clone(&self) -> Self {
        // Nothing is not let go either.
        let at = call(ATTACH, [self.id as u64, 0, libc::SHM_RDONLY as u64, 0], None);
        Self { id: self.id, at: at.unwrap_or(0) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Nobody has looked into it.
        let _ = call(DETACH, [self.at, 0, 0, 0], None);
        forget_if_gone(self.id);
    }
}

pub(super) fn get(member: &Member, key: i32, size: u64, flags: i32) -> Result<u64, Errno> {
    const BOTH: i32 = libc::IPC_CREAT | libc::IPC_EXCL;
    // Another cell may make or remove it in between, but not for ever.
    for _ in 0..16 {
        if key != libc::IPC_PRIVATE && flags & BOTH != BOTH {
            match call(GET, [key as u64, size, 0, 0], None) {
                Ok(id) => {
                    let wanted = (flags >> 6 | flags >> 3 | flags) as u32 & 6;
                    let allowed = describe(id as i32)?.0.allows(&member.credentials, wanted);
                    return if allowed { Ok(id) } else { Err(Errno::ACCESS) };
                }
                Err(Errno::NOENT) if flags & libc::IPC_CREAT != 0 => {}
                Err(errno) => return Err(errno),
            }
        }
        // The host keeps no memory for what stays empty.
        let how = flags & 0o777 | BOTH | libc::SHM_NORESERVE;
        match call(GET, [key as u64, size, how as u64, 0], None) {
            Ok(id) => return make(member, id as i32, size).map(|()| id),
            Err(Errno::EXIST) if key != libc::IPC_PRIVATE && flags & libc::IPC_EXCL == 0 => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EXIST)
}

/// Furnishes a new one.
fn make(member: &Member, id: i32, size: u64) -> Result<(), Errno> {
    // Of one with that number whose tender was killed.
    let _ = as_tender(|| unlinkat(CWD, path(id), AtFlags::empty()));
    if let Err(errno) = content(id, size, OFlags::RDWR) {
        let _ = call(CONTROL, [id as u64, libc::IPC_RMID as u64, 0, 0], None);
        return Err(errno);
    }
    let (user, group) = (member.credentials.user.effective, member.credentials.group.effective);
    if (user, group) != (0, 0)
        && let Ok((_, mut bytes)) = describe(id)
    {
        bytes[4..8].copy_from_slice(&user.to_ne_bytes());
        bytes[8..12].copy_from_slice(&group.to_ne_bytes());
        // An ordinary user's cell has nobody but root to the host.
        let _ = call(CONTROL, [id as u64, libc::IPC_SET as u64, 0, 0], Some((2, &mut bytes)));
    }
    Ok(())
}

/// Gives the guest a descriptor to map, and how long it is.
pub(super) fn attach(member: &mut Member, id: i32, flags: i32) -> Result<(u64, u64), Errno> {
    member.attached.has_room()?;
    let read_only = flags & libc::SHM_RDONLY;
    let (perm, bytes) = describe(id)?;
    if !perm.allows(&member.credentials, if read_only != 0 { 4 } else { 6 }) {
        return Err(Errno::ACCESS);
    }
    let size = bytes[48..56].try_into().map_or(0, u64::from_ne_bytes);
    let at = call(ATTACH, [id as u64, 0, read_only as u64, 0], None)?;
    let hold = Hold { id, at };
    let file = content(id, size, if read_only != 0 { OFlags::RDONLY } else { OFlags::RDWR })?;
    let descriptor = member.table.add(File::new(file, Waiting::Yes, b"/SYSV"), OnExec::Close, 0)?;
    member.attached.push(id, Holding::Joint(hold));
    Ok((descriptor, size))
}

pub(super) fn control(member: &Member, id: i32, operation: i32, at: u64) -> Result<u64, Errno> {
    let (perm, mut bytes) = describe(id)?;
    match operation {
        libc::IPC_STAT if !perm.allows(&member.credentials, 4) => Err(Errno::ACCESS),
        libc::IPC_STAT => member.memory.write(at, &bytes).map(|()| 0),
        libc::IPC_SET | libc::IPC_RMID if !perm.owns(&member.credentials) => Err(Errno::PERM),
        libc::IPC_SET => {
            bytes = member.memory.number(at)?;
            call(CONTROL, [id as u64, libc::IPC_SET as u64, 0, 0], Some((2, &mut bytes)))
        }
        libc::IPC_RMID => {
            let done = call(CONTROL, [id as u64, libc::IPC_RMID as u64, 0, 0], None);
            forget_if_gone(id);
            done
        }
        libc::SHM_LOCK | libc::SHM_UNLOCK => Ok(0),
        _ => Err(Errno::INVAL),
    }
}

fn describe(id: i32) -> Result<(Perm, [u8; SIZE]), Errno> {
    let mut bytes = [0; SIZE];
    call(CONTROL, [id as u64, libc::IPC_STAT as u64, 0, 0], Some((2, &mut bytes)))?;
    let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
    let perm = Perm { mode: word(20) & 0o777, owner: [word(4), word(8)], creator: [word(12), word(16)] };
    Ok((perm, bytes))
}

fn path(id: i32) -> String {
    format!("/dev/shm/.sysv-{id}")
}

/// What a segment holds: that file, which begins as nothing.
fn content(id: i32, size: u64, access: OFlags) -> Result<OwnedFd, Errno> {
    // Whatever a program has put there.
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| as_tender(|| openat(CWD, path(id), careful | flags, Mode::RUSR | Mode::WUSR));
    let file = open(OFlags::RDWR | OFlags::CREATE)?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    let whole = size.next_multiple_of(4096);
    if stat.st_size.unsigned_abs() < whole {
        let room = rustix::fs::fstatfs(&file)?;
        if whole > room.f_blocks.saturating_mul(room.f_bsize as u64) {
            return Err(Errno::NOMEM);
        }
        ftruncate(&file, whole)?;
    }
    if access == OFlags::RDWR { Ok(file) } else { open(access) }
}

fn forget_if_gone(id: i32) {
    if matches!(describe(id), Err(Errno::INVAL | Errno::IDRM)) {
        let _ = as_tender(|| unlinkat(CWD, path(id), AtFlags::empty()));
    }
}
