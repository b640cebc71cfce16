//! Machines: a board around processors that are made from descriptions, or are the host's own.
//!
//! A board answers what a description leaves to it (time, interrupts, firmware), has devices at physical addresses, and
//! tells a kernel of all that in a device tree. **Invariant: what a guest writes anywhere is bytes;** each device checks
//! what it is told, and the worst that a guest can do to a device is to make it useless for itself.

mod arch;
mod arm;
mod bells;
pub mod boot;
mod bus;
mod clock;
mod console;
mod devices;
mod disk;
mod error;
mod gic;
mod input;
mod inside;
mod machine;
mod native;
mod pc;
mod pl011;
mod plic;
mod power;
mod processor;
mod riscv;
mod saved;
mod share;
mod tree;
mod virtio;
mod watch;

pub use arch::{Arch, isa, know, tier, translations, translator};
pub use boot::Image;
pub use console::{Output, Serial};
pub use devices::Devices;
pub use disk::{Access, Disk, Format, SeedFile};
pub use error::{Error, Result};
pub use inside::{DiskFile, Guest, Module, Network, Origin, System, boot, run};
pub use machine::{End, Frozen, MOST_PROCESSORS, Machine, Outside, Pair, Parted, Start, Thaw};
pub use saved::SavedMachine;
pub use share::Share;
pub use virtio::balloon::Balloon;
pub use virtio::console::Port;
pub use virtio::keyboard::{Keyboard, Keys};
pub use virtio::network::Card;
pub use virtio::vsock::Sockets;
pub use watch::Interrupter;
