//! A virtual processor's time-stamp counter: the host's own, so that a guest reads the time without asking for it.
//!
//! The kernel has the counter of each new processor begin near nothing, as a real one's would. What tells guests the time
//! says what the host's counter was when ([`rdtsc`](core::arch::x86_64::_rdtsc) here and there is to be one clock), and a
//! copy of a guest goes on in another machine: **no machine's counter may be off from the host's**. Where it was, time went
//! on until the rate was next corrected, and then it stood still or leapt.

use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

/// Makes the counter of `vcpu` the host's.
pub(super) fn share(vcpu: &VcpuFd) {
    if !has_no_offset(vcpu) {
        let now = kvm_msr_entry { index: TIME_STAMP_COUNTER, data: ticks(), ..Default::default() };
        // Software KVM lets user mode read the host's counter anyway; others have had this since their first version.
        let _ = Msrs::from_entries(&[now]).map(|it| vcpu.set_msrs(&it));
    }
}

/// The number of its model-specific register.
const TIME_STAMP_COUNTER: u32 = 0x10;

/// Takes the offset away, exactly; kernels before 5.16 know only of writing the counter, which is late by the time it takes.
fn has_no_offset(vcpu: &VcpuFd) -> bool {
    const SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
    let offset = 0_u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw const offset) as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads that structure, and the word that it leads to.
    unsafe { libc::ioctl(vcpu.as_raw_fd(), SET_DEVICE_ATTR, &raw const attribute) == 0 }
}

fn ticks() -> u64 {
    // SAFETY: reads a counter that every processor of this architecture has.
    unsafe { core::arch::x86_64::_rdtsc() }
}
