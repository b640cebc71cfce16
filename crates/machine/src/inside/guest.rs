//! What a machine for a cell is made of.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use unikernel::Command;

use super::root::Module;
use super::whole::DiskFile;
use crate::arch::Arch;
use crate::virtio::vsock::Sockets;

/// A machine, and the program that it is for.
#[derive(Debug)]
pub struct Guest {
    /// What its processors are.
    pub arch: Arch,
    /// What it begins with.
    pub origin: Origin,
    /// What virtual machines are made with, if its processors are the host's own.
    pub kvm: Option<OwnedFd>,
    /// What it calls itself.
    pub hostname: String,
    /// The program.
    pub command: Command,
    /// Its standard streams.
    pub streams: [OwnedFd; 3],
    /// Where further programs are asked for.
    pub control: Option<OwnedFd>,
    /// Its network card, if it has one.
    pub network: Option<Network>,
    /// Its disks.
    pub disks: Vec<DiskFile>,
    /// What other machines of its image have translated, and where it adds to that.
    pub translations: Option<File>,
    /// Where it and the host meet, if they do.
    pub sockets: Option<Sockets>,
    /// Where the kernel's own messages go.
    pub log: File,
    /// The directory that is the programs' root.
    pub root: OwnedFd,
    /// The directory of this process's own descriptors in a `/proc`, which becomes its working directory.
    pub descriptors: OwnedFd,
}

/// What a machine begins with.
#[derive(Debug)]
pub enum Origin {
    /// Its kernel.
    Kernel {
        /// The image.
        image: File,
        /// The kernel's modules, in the order in which they are loaded.
        modules: Vec<Module>,
        /// Bytes of its memory.
        memory: u64,
        /// How many processors it has.
        processors: usize,
    },
    /// Where another stood, by the files that were written of that: what it was first.
    Frozen(Vec<OwnedFd>),
}

/// A network that a machine is on.
#[derive(Debug)]
pub struct Network {
    /// Where frames go and come from.
    pub frames: OwnedFd,
    /// The card's address.
    pub hardware: [u8; 6],
    /// The machine's address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// The way out.
    pub gateway: Ipv4Addr,
}
