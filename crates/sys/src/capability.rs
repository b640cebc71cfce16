//! Capabilities of the calling thread, as sets of the kernel's numbers.

#![expect(unsafe_code, reason = "capset and prctl take raw structures and numbers")]

use crate::{Result, check};

/// A set of capabilities: bit `n` stands for capability number `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// Whether that number is in it.
    pub const fn contains(self, number: u8) -> bool {
        number < 64 && self.0 >> number & 1 == 1
    }

    /// Those that are in `other`, too.
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// Sets the effective and permitted sets to `set` and the inheritable one to nothing. Fork-safe.
pub fn set(set: CapabilitySet) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |bits: u32| Half { effective: bits, permitted: bits, inheritable: 0 };
    let halves = [half(set.0 as u32), half((set.0 >> 32) as u32)];
    // SAFETY: version 3 takes one header and two halves, laid out as the kernel's structures.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) }).map(drop)
}

/// Sets the inheritable set, and the ambient one, which must be among it and permitted: what a program has that is
/// executed by somebody other than root. Fork-safe.
pub fn hand_on(inheritable: CapabilitySet, ambient: CapabilitySet) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 takes one header and writes two halves.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) })?;
    halves[0].inheritable = inheritable.0 as u32;
    halves[1].inheritable = (inheritable.0 >> 32) as u32;
    // SAFETY: as in `set`.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) })?;
    clear_ambient()?;
    for number in (0..64u64).filter(|number| ambient.0 >> number & 1 == 1) {
        let raise = libc::PR_CAP_AMBIENT_RAISE;
        // SAFETY: prctl with plain numbers.
        check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, raise, number, 0, 0) })?;
    }
    Ok(())
}

/// Makes those permitted capabilities effective that are in `set`, and no others; the others stay permitted. Fork-safe.
pub fn use_only(set: CapabilitySet) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 takes one header and writes two halves.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) })?;
    for (half, wanted) in halves.iter_mut().zip([set.0 as u32, (set.0 >> 32) as u32]) {
        half.effective = half.permitted & wanted;
    }
    // SAFETY: as in `set`.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) }).map(drop)
}

/// Makes every permitted capability effective. Fork-safe.
pub fn use_permitted() -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 takes one header and writes two halves.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) })?;
    for half in &mut halves {
        half.effective = half.permitted;
    }
    // SAFETY: as in `set`.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, halves.as_ptr()) }).map(drop)
}

/// Lets the thread keep its permitted capabilities when it stops being root, until it executes a program. Fork-safe.
pub fn keep_over_user_change() -> Result<()> {
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }).map(drop)
}

/// The effective set of the calling thread. Fork-safe.
pub fn effective() -> Result<CapabilitySet> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 takes one header and writes two halves.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, halves.as_mut_ptr()) })?;
    Ok(CapabilitySet(u64::from(halves[0].effective) | u64::from(halves[1].effective) << 32))
}

/// Takes every capability that is not in `keep` out of the bounding set. Needs `SETPCAP`. Fork-safe.
pub fn bound(keep: CapabilitySet) -> Result<()> {
    for number in 0..64u8 {
        if keep.contains(number) {
            continue;
        }
        // SAFETY: prctl with plain numbers.
        match check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, u64::from(number), 0, 0, 0) }) {
            Ok(_) => {}
            // Past the last capability that this kernel knows.
            Err(crate::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Empties the ambient set. Fork-safe.
pub fn clear_ambient() -> Result<()> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: prctl with plain numbers.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, clear, 0, 0, 0) }).map(drop)
}
