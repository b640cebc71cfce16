//! Installing system call filters.

#![expect(unsafe_code, reason = "seccomp(2) takes a raw pointer to the program")]

pub mod code;

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::{Errno, Result, check};

/// One instruction of a classic BPF program, laid out as the kernel's `sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Puts the calling thread under `filter` for good. It must have set no-new-privileges or have `SYS_ADMIN`. Fork-safe.
pub fn install(filter: &[Instruction]) -> Result<()> {
    load(filter, 0).map(drop)
}

/// As [`install`], and returns the descriptor on which calls that the filter answers with "ask the listener" arrive. Once
/// the listener has a call in hand, only a deadly signal takes its thread away: a handler runs after the answer.
pub fn install_with_listener(filter: &[Instruction]) -> Result<OwnedFd> {
    let fd = load(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE)?;
    // SAFETY: with this flag the kernel returns a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, since Linux 5.19.
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

fn load(filter: &[Instruction], flags: libc::c_ulong) -> Result<libc::c_long> {
    let len = u16::try_from(filter.len()).map_err(|_| Errno::TOOBIG)?;
    let program = Program { len, filter: filter.as_ptr() };
    // SAFETY: the program points to `len` instructions; the kernel copies and checks them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) })
}

/// A call that a filter announces to its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Names this call to the kernel.
    pub id: u64,
    /// The thread that made it, by the listener's number (0: in no namespace that it sees).
    pub pid: u32,
    /// The call's number.
    pub number: u32,
    /// The architecture whose number it is (`AUDIT_ARCH_*`).
    pub arch: u32,
    /// Its arguments, as the registers have them.
    pub arguments: [u64; 6],
}

#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction_pointer: u64,
    arguments: [u64; 6],
}

/// `SECCOMP_IOCTL_NOTIF_RECV`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
/// `SECCOMP_IOCTL_NOTIF_ID_VALID`.
const VALID: libc::c_ulong = 0x4008_2102;
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, since Linux 6.6.
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: libc::c_ulong = 1;
/// `SECCOMP_IOCTL_NOTIF_SEND`.
const SEND: libc::c_ulong = 0xc018_2101;

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// The next call that is announced on a descriptor of [`install_with_listener`], waiting for one if need be (poll it to
/// know). The thread that made it stays stopped until it is killed or the descriptor closed.
pub fn next(listener: impl AsFd) -> Result<Announced> {
    let mut notification = Notification::default();
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel fills a structure of just this layout and size (80 bytes, as the request number says), which
    // must be zero before.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd, RECEIVE, &raw mut notification) })?;
    let Notification { id, pid, number, arch, arguments, .. } = notification;
    Ok(Announced { id, pid, number: number as u32, arch, arguments })
}

/// Has whoever makes an announced call and whoever answers take turns on one processor, as one of them always waits: a
/// wake-up on the same processor costs a fraction of one on another. A kernel before 6.6 does not know how to.
pub fn take_turns(listener: impl AsFd) -> Result<()> {
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: this request takes its flags by value.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd, SET_FLAGS, SYNC_WAKE_UP) }).map(drop)
}

/// Whether whoever made that announced call waits still: if so, what was just read of the process by its number was its own,
/// and not a later one's.
pub fn is_waiting(listener: impl AsFd, id: u64) -> bool {
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the 8 bytes of `id`, as the request number says.
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd, VALID, &raw const id) }).is_ok()
}

/// Lets an announced call happen as if nobody had asked. That its thread is gone is an error ([`Errno::NOENT`]).
pub fn let_go_on(listener: impl AsFd, id: u64) -> Result<()> {
    let answer = Answer { id, value: 0, error: 0, flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 };
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the kernel reads a structure of just this layout and size (24 bytes, as the request number says).
    check(unsafe { libc::syscall(libc::SYS_ioctl, fd, SEND, &raw const answer) }).map(drop)
}
