//! Descriptors that tell of signals and of processes, and what terminals ask of processes before they tell them anything. Each is an event descriptor of the host's, which is set as long as
//! there is something to be told.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::{BY_KILL, BY_TKILL, Info};
use rustix::event::{EventfdFlags, eventfd};
use sys::Errno;

use super::Reply;
use crate::files::{File, Made, OnExec, Table, Waiting};
use crate::member::Member;
use crate::signals::Sender;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, ..]: [u64; 6]) -> Option<Reply> {
    Some(
        match i64::from(number) {
            libc::SYS_signalfd4 => of_signals(member, a, b, d),
            libc::SYS_pidfd_open => of_process(member, a as i32, b),
            libc::SYS_pidfd_send_signal => send(member, a, b as i32, c, d),
            libc::SYS_read | libc::SYS_readv | libc::SYS_write | libc::SYS_writev => {
                let file = member.table.get(a).ok()?;
                match (file.made, i64::from(number)) {
                    (Made::Signals, libc::SYS_read) => {
                        return Some(Reply::Signals {
                            set: file.signals.load(Ordering::Relaxed),
                            waiting: file.waiting(),
                        });
                    }
                    (Made::Signals | Made::Process(_), _) => Err(Errno::INVAL),
                    (_, libc::SYS_read | libc::SYS_readv) if file.is_terminal() => return wait_for_terminal(member),
                    _ => return None,
                }
            }
            _ => return None,
        }
        .into(),
    )
}

/// A process that reads a terminal which another group of its session has is stopped until it has it.
fn wait_for_terminal(member: &Member) -> Option<Reply> {
    const SIGTTIN: i32 = 21;
    if !member.family.is_in_background(member.number) {
        return None;
    }
    if member.family.is_in_orphaned_group(member.number) {
        return Some(Err(Errno::IO).into());
    }
    let sender = Sender { process: member.number, user: member.credentials.user };
    let _ = member.family.kill(sender, 0, SIGTTIN);
    Some(Reply::AfterMoment)
}

fn new(made: Made, waiting: Waiting, path: &[u8]) -> Result<Arc<File>, Errno> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    Ok(File::made(fd, waiting, path, made))
}

fn of_signals(member: &mut Member, number: u64, set: u64, flags: u64) -> Result<u64, Errno> {
    let known = u64::from((libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) as u32);
    if flags & !known != 0 {
        return Err(Errno::INVAL);
    }
    if number as i32 != -1 {
        let file = member.table.get(number)?;
        if file.made != Made::Signals {
            return Err(Errno::INVAL);
        }
        file.signals.store(set, Ordering::Relaxed);
        return Ok(number);
    }
    let file = new(Made::Signals, Waiting::by(flags), b"anon_inode:[signalfd]")?;
    file.signals.store(set, Ordering::Relaxed);
    member.table.add(file, OnExec::by(flags), 0)
}

/// Makes an event descriptor say whether there is something.
fn set(file: &File, there: bool) {
    let _ = rustix::io::read(file.as_fd(), &mut [0; 8]);
    if there {
        let _ = rustix::io::write(file.as_fd(), &1u64.to_ne_bytes());
    }
}

/// Those signals are pending in the process with these descriptors.
pub(crate) fn note_pending(table: &Table, pending: u64) {
    let files = table.each().map(|it| it.1).filter(|it| it.made == Made::Signals);
    files.for_each(|it| set(it, it.signals.load(Ordering::Relaxed) & pending != 0));
}

/// What a new process has in the place of its maker's descriptors that tell of signals: what is pending there is not
/// pending here.
pub(crate) fn be_of_another(table: &mut Table) -> Result<(), Errno> {
    let mut others: Vec<(Arc<File>, Arc<File>)> = Vec::new();
    for file in table.files_mut().filter(|it| it.made == Made::Signals) {
        let known = others.iter().find(|it| Arc::ptr_eq(&it.0, file)).map(|it| it.1.clone());
        let own = match known {
            Some(own) => own,
            None => {
                let own = new(Made::Signals, file.waiting(), &file.path)?;
                own.signals.store(file.signals.load(Ordering::Relaxed), Ordering::Relaxed);
                others.push((file.clone(), own.clone()));
                own
            }
        };
        *file = own;
    }
    Ok(())
}

/// pidfd_open.
fn of_process(member: &mut Member, number: i32, flags: u64) -> Result<u64, Errno> {
    if flags & !u64::from(libc::PIDFD_NONBLOCK) != 0 || number <= 0 {
        return Err(Errno::INVAL);
    }
    let file = member.family.clone().teller(member.number, number as u32, Waiting::by(flags))?;
    member.table.add(file, OnExec::Close, 0)
}

/// A descriptor that tells of a process, which is readable from its end on.
pub(crate) fn teller(process: u32, waiting: Waiting) -> Result<Arc<File>, Errno> {
    new(Made::Process(process), waiting, b"anon_inode:[pidfd]")
}

/// The process has ended.
pub(crate) fn tell_end(file: &File) {
    set(file, true);
}

/// Which process a descriptor tells of, and whether its holder wants to wait.
pub(crate) fn process_of(member: &Member, descriptor: u64) -> Result<(u32, Waiting), Errno> {
    let file = member.table.get(descriptor)?;
    match file.made {
        Made::Process(process) => Ok((process, file.waiting())),
        _ => Err(Errno::BADF),
    }
}

/// pidfd_send_signal.
fn send(member: &Member, descriptor: u64, signal: i32, said: u64, flags: u64) -> Result<u64, Errno> {
    if flags != 0 {
        return Err(Errno::INVAL);
    }
    let (process, _) = process_of(member, descriptor)?;
    let sender = Sender { process: member.number, user: member.credentials.user };
    let first = Info::from(sender.process, sender.user.real);
    let mut info = Info { signal, code: BY_KILL, thread: 0, first, second: 0 };
    if said != 0 {
        let bytes: [u8; 32] = member.memory.number(said)?;
        let [head, code, first, second] =
            [0, 8, 16, 24].map(|at| bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes));
        if head as i32 != signal {
            return Err(Errno::INVAL);
        }
        let code = code as i32;
        if (code >= 0 || code == BY_TKILL) && process != member.number {
            return Err(Errno::PERM);
        }
        info = Info { code, first, second, ..info };
    }
    member.family.send_to_one(sender, process as i32, info).map(|()| 0)
}
