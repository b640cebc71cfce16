//! What every guest with memory of its own shares: that memory, and the virtual machine that it is in.
//!
//! A guest of a [`Machine`] runs **in user mode alone**, from its first instruction on: what it needs of a processor are pages,
//! exceptions that stay in user mode and a way out, all of which work so on every KVM, and natively also where the guest's
//! kernel mode is emulated instruction by instruction. See [`Machine`] for the state that makes it so. The exception is a
//! [`System`], which has a kernel of its own.

mod error;
mod machine;
mod memory;
mod system;
mod window;

pub use error::{Error, Result};
pub use machine::{Detour, Exit, Host, Interrupter, Kept, Layout, Machine, Registers, Start};
pub use memory::{Frozen, Laid, Memory, Region, Room};
pub use system::{
    Entry, KeptProcessor, KeptSystem, LINES, LINES_AT, Level, OWN_AT, Pause, Place, System, Touch, Virtual,
};
pub use window::{Part, Sharing, Window};
