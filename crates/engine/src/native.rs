//! Machines of the host's own kind, whose kernel the host's processor executes: whether there can be any here.
//!
//! That `/dev/kvm` opens says little. Where a guest's kernel is emulated instruction by instruction, Debian's does not come
//! to its end in five minutes, so such a machine is refused before anything is fetched for it. **What decides is a measurement**
//! ([`sys::kvm`]), not what the host says of itself.

use std::os::fd::OwnedFd;

use model::{Arch, Boundary, CellSpec};

use crate::error::{Error, Result};

/// Whether such machines can be had here; if not, why.
///
/// # Errors
/// [`Error::NoNativeMachine`].
pub fn native_machines() -> Result<()> {
    if Arch::HOST != Arch::Amd64 {
        return Err(Error::NoNativeMachine { why: format!("there is no board for processors of {}", Arch::HOST) });
    }
    let why = match sys::kvm::measure() {
        Ok(speed) if speed.kind() == sys::kvm::Kind::Hardware => return Ok(()),
        Ok(speed) => format!("a guest's kernel is emulated by this host's KVM, and would take hours to start: {speed}"),
        Err(errno) => format!("there is no KVM to be had (/dev/kvm: {errno})"),
    };
    Err(Error::NoNativeMachine { why })
}

/// Whether a cell is such a machine.
pub(crate) fn is_native(spec: &CellSpec) -> bool {
    spec.boundary == Boundary::Machine && spec.image.arch == Arch::HOST
}

/// What a cell's virtual machine is made with, if it is one.
pub(crate) fn open_kvm(spec: &CellSpec) -> Result<Option<OwnedFd>> {
    is_native(spec).then(unikernel::open_kvm).transpose().map_err(Error::from)
}
