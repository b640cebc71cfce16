//! Touching files as another user: for a while and while staying privileged, which mounting over id-mapped layers needs; or
//! as that user alone, which a thread needs that acts for somebody.

#![expect(unsafe_code, reason = "setfsuid for one thread has no wrapper (the C library's acts on all threads)")]

use rustix::thread::{CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits};

use crate::{Errno, Result, check};

/// Puts the calling thread's file identity back.
struct Restore {
    bits: CapabilitiesSecureBits,
    uid: u32,
    gid: u32,
}

impl Restore {
    fn set(uid: u32, gid: u32) -> (u32, u32) {
        // SAFETY: plain numbers; both calls cannot fail, they return what was before.
        let gid = unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
        // SAFETY: as above.
        let uid = unsafe { libc::syscall(libc::SYS_setfsuid, uid) };
        (uid as u32, gid as u32)
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        Self::set(self.uid, self.gid);
        // It was so before, so it may be so again.
        let _ = set_capabilities_secure_bits(self.bits);
    }
}

/// The calling thread touches files as that user with these groups from now on, with no more rights than that user has;
/// as user 0 again with all that it is permitted. Other threads are as they were.
pub fn become_for_files(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    // SAFETY: `groups` is that many group ids. (The C library's function would change all threads.)
    let grouped = check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) });
    // Also without: whoever cannot lose all rights is to lose as many as can be lost.
    Restore::set(uid, gid);
    grouped?;
    // Asking for an impossible id changes nothing and tells what is set.
    if Restore::set(u32::MAX, u32::MAX) == (uid, gid) { Ok(()) } else { Err(Errno::PERM) }
}

/// Runs `work` with the calling thread owning new files as `uid` and `gid`, but with all its capabilities.
pub fn with<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T> {
    let bits = capabilities_secure_bits()?;
    // Else the kernel takes the capabilities that concern files away together with uid 0.
    set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP)?;
    let (old_uid, old_gid) = Restore::set(uid, gid);
    let restore = Restore { bits, uid: old_uid, gid: old_gid };
    // Asking for an impossible id changes nothing and tells what is set.
    if Restore::set(u32::MAX, u32::MAX) != (uid, gid) {
        return Err(Errno::PERM);
    }
    let done = work();
    drop(restore);
    Ok(done)
}
