//! Processes by their pidfd: signals, waiting, what the kernel tells of them, and running our own program again.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::exec::StringArray;
use crate::mount::Reach;
use crate::namespace::Namespaces;
use crate::{Errno, Result};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with that code.
    Code(u8),
    /// That signal ended it.
    Signal(i32),
}

impl Ended {
    /// Reads the status word that `wait(2)` stores.
    pub const fn from_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code((status >> 8 & 0xff) as u8),
            signal => Self::Signal(signal),
        }
    }
}

/// A pidfd of a live process.
pub fn open(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// Sends a signal by number. That the process is gone already is an error ([`Errno::SRCH`]).
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    rustix::process::pidfd_send_signal(pidfd, crate::signal::named(signal)?)
}

/// Kills at once; that the process is gone already is fine.
pub fn kill(pidfd: impl AsFd) -> Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Err(Errno::SRCH) => Ok(()),
        other => other,
    }
}

/// Waits for a child to end and reaps it.
pub fn wait(pidfd: impl AsFd) -> Result<Ended> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(None) => return Err(Errno::CHILD),
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code((code & 0xff) as u8),
                    (None, signal) => Ended::Signal(signal.unwrap_or(libc::SIGKILL)),
                });
            }
        }
    }
}

/// Whether the process has ended.
pub fn has_ended(pidfd: impl AsFd) -> Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut polled, Some(&none))).map(|ready| ready > 0)
}

/// When a process started, in clock ticks since the machine did: with its number, what names it once and for all.
pub fn start_time(pid: u32) -> Result<u64> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).map_err(|_| Errno::SRCH)?;
    parse_start_time(&text).ok_or(Errno::SRCH)
}

/// The 22nd field of `/proc/PID/stat`. The second is the program's name in parentheses and may hold any bytes.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(after_name + 1..)?).ok()?;
    // The state, right after the name, is the third field.
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The directory of this process's own descriptors, in a `/proc` that nobody else sees: for one that will live where there
/// is none.
pub fn own_descriptors() -> Result<OwnedFd> {
    let none: [(&std::ffi::CStr, &std::ffi::CStr); 0] = [];
    let proc = crate::mount::new_file_system(c"proc", &none, rustix::mount::MountAttrFlags::empty())?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::openat(&proc, "self/fd", flags, rustix::fs::Mode::empty())
}

/// Our own program's file, such that nobody who gets hold of the descriptor (as `/proc/PID/exe` hands it out) can write
/// to the file: a read-only mount of it, visible nowhere. Without the privilege to make one, the plain file, which its
/// permissions must protect.
pub fn own_program() -> Result<OwnedFd> {
    read_only_view(c"/proc/self/exe")
}

fn read_only_view(path: &CStr) -> Result<OwnedFd> {
    let plain = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if is_read_only(&plain) {
        // As when our own program was executed from such a mount: a mount that is nowhere cannot be copied everywhere.
        return Ok(plain);
    }
    match crate::mount::clone_tree(CWD, path, Reach::One) {
        Err(Errno::PERM) => Ok(plain),
        Err(error) => Err(error),
        Ok(mount) => {
            crate::mount::set_attributes(&mount, MountAttrFlags::MOUNT_ATTR_RDONLY, Reach::One)?;
            Ok(mount)
        }
    }
}

/// Executes our own program again, from [`own_program`], with the same arguments and environment, unless it runs so
/// already. To be done before anything of it can be seen in a hostile place: whoever executes `/proc/self/exe` there would
/// be able to write to the plain file as soon as it does not run. Returns when that is so, or cannot be had (only root can
/// make such a mount; for others the file's permissions must do).
pub fn protect_own_program() -> Result<()> {
    let running = rustix::fs::openat(CWD, c"/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if is_read_only(&running) {
        return Ok(());
    }
    let program = own_program()?;
    if !is_read_only(&program) {
        return Ok(());
    }
    let arguments = std::env::args_os().filter_map(|it| CString::new(it.into_encoded_bytes()).ok()).collect();
    crate::exec::execve_file(program.as_fd(), &StringArray::new(arguments), &own_environment())
        .map(|never| match never {})
}

fn is_read_only(file: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|it| it.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn own_environment() -> StringArray {
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let mut both = name.into_encoded_bytes();
        both.push(b'=');
        both.extend_from_slice(value.as_encoded_bytes());
        CString::new(both).ok()
    });
    StringArray::new(environment.collect())
}

/// Runs our own program again, from [`own_program`], as a child in a session of its own, with `arguments` (the first is
/// the name that it goes by), the caller's environment and, of all descriptors, the three standard ones and `keep`.
pub fn reexec_read_only(arguments: &[CString], keep: &[BorrowedFd<'_>]) -> Result<crate::fork::Child> {
    let program = own_program()?;
    let arguments = StringArray::new(arguments.to_vec());
    let environment = own_environment();
    crate::fork::spawn(Namespaces::empty(), None, || {
        let failed = (|| {
            rustix::process::setsid()?;
            crate::exec::close_on_exec_from(3)?;
            for fd in keep {
                rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
            }
            crate::exec::execve_file(program.as_fd(), &arguments, &environment)
        })();
        match failed {
            Ok(never) => match never {},
            Err(_) => 127,
        }
    })
}

/// The number of a descriptor, to be passed to a program that inherits it.
pub fn number(fd: BorrowedFd<'_>) -> i32 {
    fd.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_read_whatever_the_name() {
        let check = |stat: &[u8], expected| assert_eq!(parse_start_time(stat), expected);
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        check(format!("7 (a) {rest}").as_bytes(), Some(4242));
        check(format!("7 (a) b) S 0 (x) {rest}").as_bytes(), Some(4242));
        check(b"7 (\xff\xfe) S 1", None);
        check(b"", None);
        let (first, second) = (start_time(std::process::id()).unwrap(), start_time(std::process::id()).unwrap());
        assert_eq!(first, second);
        assert_eq!(start_time(u32::MAX), Err(Errno::SRCH));
    }

    /// While a program runs, its file is "busy" for writing, but that ends with the process; so this asks for a file that
    /// does not run, and of the real one only whether its mount is the same.
    #[test]
    fn our_own_program_cannot_be_written_through_what_we_hand_out() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = CString::new(file.path().as_os_str().as_encoded_bytes()).unwrap();
        let view = read_only_view(&path).unwrap();
        let again = format!("/proc/self/fd/{}", view.as_raw_fd());
        let write = rustix::fs::openat(CWD, again.as_str(), OFlags::WRONLY, Mode::empty());
        assert_eq!(write.unwrap_err(), Errno::ROFS);
        assert!(rustix::fs::openat(CWD, again.as_str(), OFlags::RDONLY, Mode::empty()).is_ok());
        let flags = rustix::fs::fstatvfs(own_program().unwrap()).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    }

    #[test]
    fn our_own_program_runs_again() {
        let (ours, theirs) = crate::socket::pair().unwrap();
        let argv = ["sys", "--list", "--quiet"].map(|it| CString::new(it).unwrap());
        let child = reexec_read_only(&argv, &[theirs.as_fd()]).unwrap();
        assert_eq!(wait(&child.pidfd).unwrap(), Ended::Code(0));
        drop((ours, theirs));
    }
}
