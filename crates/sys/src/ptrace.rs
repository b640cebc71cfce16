//! Reading the system call filters that a process is under, which the kernel shows only to a tracer.

#![expect(unsafe_code, reason = "ptrace has no safe wrapper")]

use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::seccomp::Instruction;
use crate::{Errno, Result, check};

/// How long a process may take to come to a stop: one that is frozen, or sleeps in the kernel where no signal reaches it,
/// does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// `PTRACE_EVENT_STOP`, as it stands in a wait status.
const SEIZED_STOP: i32 = 128;

/// `PTRACE_SECCOMP_GET_FILTER`.
const GET_FILTER: libc::c_uint = 0x420c;

/// The most filters and instructions that the kernel lets a process have, and then some.
const MAX_FILTERS: usize = 4096;

/// The filters of a process, the first installed first. The process is stopped for that moment, and goes on as it was.
///
/// # Errors
/// [`Errno::PERM`] when somebody else traces it, or the caller lacks `SYS_ADMIN` (in the first user namespace) or is under
/// a filter itself; [`Errno::TIMEDOUT`] when it does not come to a stop; [`Errno::SRCH`] when it is gone.
pub fn filters(pid: u32) -> Result<Vec<Vec<Instruction>>> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let tracee = Tracee::seize(pid)?;
    tracee.stop()?;
    let mut found = Vec::new();
    // The kernel counts from the one installed first.
    while found.len() < MAX_FILTERS {
        match tracee.filter(found.len() as u64) {
            Ok(filter) => found.push(filter),
            Err(Errno::NOENT) => break,
            // It has none at all.
            Err(Errno::INVAL) if found.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A process that this thread traces; let go when dropped.
struct Tracee {
    pid: Pid,
}

fn request(request: libc::c_uint, pid: Pid, address: u64, data: u64) -> Result<libc::c_long> {
    // SAFETY: none of the requests made here writes to memory of ours but through `data`, which the callers see to.
    check(unsafe { libc::syscall(libc::SYS_ptrace, request, pid.as_raw_nonzero().get(), address, data) })
}

impl Tracee {
    fn seize(pid: Pid) -> Result<Self> {
        request(libc::PTRACE_SEIZE, pid, 0, 0).map(|_| Self { pid })
    }

    /// Brings it to a stop that nobody else can see.
    fn stop(&self) -> Result<()> {
        request(libc::PTRACE_INTERRUPT, self.pid, 0, 0)?;
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(5);
        // Not by waiting: it may be frozen for good.
        loop {
            match waitpid(Some(self.pid), WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WALL as u32)) {
                Ok(Some((_, status))) if status.stopped() && status.as_raw() >> 16 == SEIZED_STOP => return Ok(()),
                // A signal that arrived just now: it is handed on when the tracee goes on.
                Ok(Some((_, status))) if status.stopped() => self.hand_on(status.as_raw() >> 8 & 0xff)?,
                Ok(Some(_)) => return Err(Errno::SRCH),
                Ok(None) if Instant::now() > deadline => return Err(Errno::TIMEDOUT),
                Ok(None) => std::thread::sleep(pause),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    fn hand_on(&self, signal: i32) -> Result<()> {
        request(libc::PTRACE_CONT, self.pid, 0, signal as u64).map(drop)
    }

    fn filter(&self, index: u64) -> Result<Vec<Instruction>> {
        let count = request(GET_FILTER, self.pid, index, 0)?;
        let mut filter = vec![Instruction { code: 0, jt: 0, jf: 0, k: 0 }; count as usize];
        // The kernel writes `count` instructions: filters do not change.
        request(GET_FILTER, self.pid, index, filter.as_mut_ptr() as u64)?;
        Ok(filter)
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // Works on a stopped one only; one that never stopped is let go when this thread ends.
        let _ = request(libc::PTRACE_DETACH, self.pid, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork;
    use crate::namespace::Namespaces;

    /// Lets everything pass, in a way of its own: `ld [0]; ret ALLOW` with `padding` loads before.
    fn harmless(padding: usize) -> Vec<Instruction> {
        let load = Instruction { code: 0x20, jt: 0, jf: 0, k: 0 };
        let mut filter = vec![load; padding + 1];
        filter.push(Instruction { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 });
        filter
    }

    #[test]
    fn filters_are_read_in_the_order_in_which_they_were_installed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let wanted = [harmless(3), harmless(0), harmless(7)];
        for count in 0..=wanted.len() {
            let installed = wanted.get(..count).unwrap_or_default();
            let (ours, theirs) = crate::socket::pair().unwrap();
            let child = fork::spawn(Namespaces::empty(), None, || {
                let done = installed.iter().try_for_each(|it| crate::seccomp::install(it));
                let _ = crate::socket::send(&theirs, &[u8::from(done.is_ok())], &[]);
                let _ = crate::socket::receive(&theirs, &mut [0]);
                7
            });
            let child = child.unwrap();
            let mut told = [0];
            crate::socket::receive(&ours, &mut told).unwrap();
            assert_eq!(told, [1]);
            assert_eq!(filters(child.pid).unwrap(), installed);
            crate::socket::send(&ours, &[0], &[]).unwrap();
            let ended = crate::process::wait(&child.pidfd).unwrap();
            assert_eq!(ended, crate::process::Ended::Code(7), "it went on as if nothing had been");
        }
    }

    #[test]
    fn a_process_that_is_gone_has_none() {
        assert_eq!(filters(u32::MAX), Err(Errno::SRCH));
    }
}
