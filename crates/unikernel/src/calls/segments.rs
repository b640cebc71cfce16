//! Shared memory of System V: files in memory, kept by the family under their keys and numbers. The library operating
//! system maps one by a descriptor that it is given for that time. Where other cells share them, [`joined`] keeps them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use sys::Errno;

use super::Reply;
use super::joined::{self, Hold};
use crate::creds::{Credentials, Privilege};
use crate::files::{File, OnExec, Waiting};
use crate::member::Member;

/// A family's segments.
#[derive(Default)]
pub(crate) struct Segments {
    state: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    segments: BTreeMap<i32, Segment>,
    last: i32,
}

/// Who may use one.
pub(super) struct Perm {
    pub(super) mode: u32,
    pub(super) owner: [u32; 2],
    pub(super) creator: [u32; 2],
}

struct Segment {
    /// 0 when there is none, or no more.
    key: i32,
    memory: Arc<File>,
    size: u64,
    perm: Perm,
    processes: [u32; 2],
    /// When it was attached, detached and changed last, in seconds.
    times: [u64; 3],
    fate: Fate,
    /// One for each attachment.
    users: Arc<()>,
}

/// What becomes of a segment that nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Removed,
}

/// What a process has attached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached(Vec<(i32, Holding)>);

/// An attachment, by who counts it.
#[derive(Clone, Debug)]
pub(super) enum Holding {
    /// The family.
    Own(#[expect(dead_code, reason = "it is counted")] Arc<()>),
    /// The host, for all cells that share it.
    Joint(#[expect(dead_code, reason = "it is let go when it is dropped")] Hold),
}

impl Attached {
    pub(super) fn has_room(&self) -> Result<(), Errno> {
        if self.0.len() < MOST_ATTACHED { Ok(()) } else { Err(Errno::MFILE) }
    }

    pub(super) fn push(&mut self, id: i32, holding: Holding) {
        self.0.push((id, holding));
    }
}

const MOST: usize = 4096;
/// How often one process may have some attached.
const MOST_ATTACHED: usize = 16 << 10;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, ..]: [u64; 6]) -> Option<Reply> {
    let is_joint = member.family.board.is_some();
    Some(match i64::from(number) {
        libc::SYS_shmget if is_joint => joined::get(member, a as i32, b, c as i32).into(),
        libc::SYS_shmget => get(member, a as i32, b, c as i32).into(),
        libc::SYS_shmat => match if is_joint { joined::attach } else { attach }(member, a as i32, c as i32) {
            Ok((descriptor, size)) => Reply::Mapped { at: descriptor, memory: size },
            Err(errno) => Err(errno).into(),
        },
        // By its number: which address that was, the library operating system knows.
        libc::SYS_shmdt => detach(member, a as i32).into(),
        libc::SYS_shmctl if is_joint => joined::control(member, a as i32, b as i32, c).into(),
        libc::SYS_shmctl => control(member, a as i32, b as i32, c).into(),
        _ => return None,
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

impl Segments {
    fn table(&self) -> MutexGuard<'_, Table> {
        let mut table = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        table.segments.retain(|_, it| it.fate == Fate::Kept || Arc::strong_count(&it.users) > 1);
        table
    }
}

impl Perm {
    /// Whether a process may use it so: 4 to read, 2 to write.
    pub(super) fn allows(&self, who: &Credentials, wanted: u32) -> bool {
        let groups = [who.group.effective].into_iter().chain(who.groups.iter().copied());
        let shift = if [self.owner[0], self.creator[0]].contains(&who.user.effective) {
            6
        } else if groups.into_iter().any(|it| [self.owner[1], self.creator[1]].contains(&it)) {
            3
        } else {
            0
        };
        who.privilege() == Privilege::Root || self.mode >> shift & wanted == wanted
    }

    /// Whether a process may change or remove it.
    pub(super) fn owns(&self, who: &Credentials) -> bool {
        who.privilege() == Privilege::Root || [self.owner[0], self.creator[0]].contains(&who.user.effective)
    }
}

impl Segment {
    /// `struct shmid_ds`.
    fn describe(&self) -> Vec<u8> {
        const DEST: u32 = 0o1000;
        let dest = if self.fate == Fate::Removed { DEST } else { 0 };
        let mut bytes = Vec::with_capacity(112);
        let [[uid, gid], [cuid, cgid]] = [self.perm.owner, self.perm.creator];
        for word in [self.key as u32, uid, gid, cuid, cgid, self.perm.mode | dest] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.resize(48, 0);
        for word in [self.size].into_iter().chain(self.times) {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        for word in self.processes {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&(Arc::strong_count(&self.users) as u64 - 1).to_ne_bytes());
        bytes.resize(112, 0);
        bytes
    }
}

fn get(member: &Member, key: i32, size: u64, flags: i32) -> Result<u64, Errno> {
    let mut table = member.family.segments.table();
    let known = table.segments.iter().find(|(_, it)| key != libc::IPC_PRIVATE && it.key == key);
    if let Some((id, it)) = known {
        const BOTH: i32 = libc::IPC_CREAT | libc::IPC_EXCL;
        let wanted = (flags >> 6 | flags >> 3 | flags) as u32 & 6;
        return match () {
            () if flags & BOTH == BOTH => Err(Errno::EXIST),
            () if !it.perm.allows(&member.credentials, wanted) => Err(Errno::ACCESS),
            () if size > it.size => Err(Errno::INVAL),
            () => Ok(*id as u64),
        };
    }
    if key != libc::IPC_PRIVATE && flags & libc::IPC_CREAT == 0 {
        return Err(Errno::NOENT);
    }
    if size == 0 {
        return Err(Errno::INVAL);
    }
    if table.segments.len() >= MOST {
        return Err(Errno::NOSPC);
    }
    let id = (1..=i32::MAX).map(|step| table.last.wrapping_add(step) & i32::MAX);
    let id = id.into_iter().find(|it| !table.segments.contains_key(it)).ok_or(Errno::NOSPC)?;
    table.last = id;
    let own = [member.credentials.user.effective, member.credentials.group.effective];
    let segment = Segment {
        key,
        memory: File::new(memory(size)?, Waiting::Yes, b"/SYSV"),
        size,
        perm: Perm { mode: flags as u32 & 0o777, owner: own, creator: own },
        processes: [member.number, 0],
        times: [0, 0, now()],
        fate: Fate::Kept,
        users: Arc::default(),
    };
    table.segments.insert(id, segment);
    Ok(id as u64)
}

fn memory(size: u64) -> Result<OwnedFd, Errno> {
    let most = abi::layout::kvm::MOST_WINDOW;
    if size > most {
        return Err(Errno::NOMEM);
    }
    crate::fixed::memory("sysv", size.next_multiple_of(4096))
}

/// Gives the guest a descriptor to map, and how long it is.
fn attach(member: &mut Member, id: i32, flags: i32) -> Result<(u64, u64), Errno> {
    member.attached.has_room()?;
    let (memory, size) = {
        let mut table = member.family.segments.table();
        let it = table.segments.get_mut(&id).ok_or(Errno::INVAL)?;
        let wanted = if flags & libc::SHM_RDONLY != 0 { 4 } else { 6 };
        if !it.perm.allows(&member.credentials, wanted) {
            return Err(Errno::ACCESS);
        }
        (it.times[0], it.processes[1]) = (now(), member.number);
        member.attached.push(id, Holding::Own(it.users.clone()));
        (it.memory.clone(), it.size)
    };
    let added = member.table.add(memory, OnExec::Close, 0);
    if added.is_err() {
        member.attached.0.pop();
    }
    Ok((added?, size))
}

fn detach(member: &mut Member, id: i32) -> Result<u64, Errno> {
    let at = member.attached.0.iter().position(|it| it.0 == id).ok_or(Errno::INVAL)?;
    member.attached.0.swap_remove(at);
    let number = member.number;
    if let Some(it) = member.family.segments.table().segments.get_mut(&id) {
        (it.times[1], it.processes[1]) = (now(), number);
    }
    Ok(0)
}

fn control(member: &Member, id: i32, operation: i32, at: u64) -> Result<u64, Errno> {
    let mut table = member.family.segments.table();
    let it = table.segments.get_mut(&id).ok_or(Errno::INVAL)?;
    let who = &member.credentials;
    match operation {
        libc::IPC_STAT if !it.perm.allows(who, 4) => Err(Errno::ACCESS),
        libc::IPC_STAT => member.memory.write(at, &it.describe()).map(|()| 0),
        libc::IPC_SET | libc::IPC_RMID if !it.perm.owns(who) => Err(Errno::PERM),
        libc::IPC_SET => {
            let bytes: [u8; 48] = member.memory.number(at)?;
            let word = |at: usize| bytes[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
            it.perm.owner = [word(4), word(8)];
            (it.perm.mode, it.times[2]) = (word(20) & 0o777, now());
            Ok(0)
        }
        libc::IPC_RMID => {
            (it.key, it.fate) = (libc::IPC_PRIVATE, Fate::Removed);
            Ok(0)
        }
        libc::SHM_LOCK | libc::SHM_UNLOCK => Ok(0),
        _ => Err(Errno::INVAL),
    }
}
