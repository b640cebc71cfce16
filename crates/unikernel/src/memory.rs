//! A guest's memory as the tender sees it: by the guest's own addresses, each access checked, nothing kept.

#![expect(unsafe_code, reason = "another process's memory")]

use rustix::process::Pid;
use sys::Errno;

/// How to reach a guest's memory.
pub(crate) trait Memory: Send + Sync {
    /// Copies from there; all of it or EFAULT.
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno>;

    /// Copies to there; all of it or EFAULT.
    fn write(&self, at: u64, from: &[u8]) -> Result<(), Errno>;
}

impl dyn Memory + '_ {
    /// So many bytes from there, of which no guest may ask for more than a call can use.
    pub(crate) fn bytes(&self, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Whether something can be written there.
    pub(crate) fn is_writable(&self, at: u64) -> bool {
        // Nothing of a member runs while its call is answered.
        let mut byte = [0];
        self.read(at, &mut byte).and_then(|()| self.write(at, &byte)).is_ok()
    }

    /// A little-endian number.
    pub(crate) fn number<const N: usize>(&self, at: u64) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// A zero-terminated string, with its zero.
    pub(crate) fn string(&self, at: u64, longest: usize) -> Result<Vec<u8>, Errno> {
        const PAGE: u64 = 4096;
        let mut text = Vec::new();
        let mut at = at;
        while text.len() < longest {
            let part = (PAGE - at % PAGE).min((longest - text.len()) as u64) as usize;
            let begin = text.len();
            text.resize(begin + part, 0);
            self.read(at, &mut text[begin..])?;
            if let Some(zero) = text[begin..].iter().position(|it| *it == 0) {
                text.truncate(begin + zero + 1);
                return Ok(text);
            }
            at += part as u64;
        }
        Err(Errno::NAMETOOLONG)
    }
}

/// The memory of a process of the host.
pub(crate) struct OfProcess(pub(crate) Pid);

impl Memory for OfProcess {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Errno> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: the local buffer is ours for the time of the call; the remote one is only an address.
        let copied = unsafe { libc::process_vm_readv(self.0.as_raw_nonzero().get(), &local, 1, &remote, 1, 0) };
        whole(copied, into.len())
    }

    fn write(&self, at: u64, from: &[u8]) -> Result<(), Errno> {
        let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: from.len() };
        // SAFETY: the local buffer is only read; the remote one is only an address.
        let copied = unsafe { libc::process_vm_writev(self.0.as_raw_nonzero().get(), &local, 1, &remote, 1, 0) };
        whole(copied, from.len())
    }
}

fn whole(copied: isize, length: usize) -> Result<(), Errno> {
    if copied == length as isize { Ok(()) } else { Err(Errno::FAULT) }
}
