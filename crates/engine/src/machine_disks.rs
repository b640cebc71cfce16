//! A machine's disks, its seed and its sockets, on their way from who starts a cell to who runs its machine.
//!
//! Files are opened here, as the user who starts the cell, and looked at as far as that shows that they are disks. The
//! machine is in namespaces of its own by then and finds no file of the host's: descriptors come to it over a socket, in which they wait.
//! **From here on the lock on a disk's file is held**, which belongs to the open file and not to a process.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use machine::{Access, Disk, DiskFile, Format, SeedFile};
use model::{DiskFormat, DiskSpec, MachineSpec, MountAccess};

use crate::error::{Error, Result};
use crate::machine::{pack, read_all, unpack};
use crate::machine_sockets::{self as sockets, Door, Place};

/// What stands for the seed where a disk would have its specification.
const SEED: &[u8] = b"seed";
/// What stands before the name of sockets.
const SOCKETS: &[u8] = b"sockets:";
/// Files that a seed may have (cloud-init, "NoCloud"), and bytes in each at most.
const SEED_NAMES: [&str; 4] = ["user-data", "meta-data", "vendor-data", "network-config"];
const MOST_SEED: u64 = 16 << 20;
/// The address of every machine: each has a host to itself.
const ADDRESS: u32 = 3;

/// What a machine is given of the host's.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) disks: Vec<DiskFile>,
    pub(crate) seed: Option<Vec<SeedFile>>,
    pub(crate) sockets: Option<machine::Sockets>,
}

/// A socket in which they wait. A copy of a machine has no door for programs of the host: that is the other's.
pub(crate) fn hand_over(machine: &MachineSpec, door: Door) -> Result<OwnedFd> {
    let failed = |errno: rustix::io::Errno| Error::io("handing over a machine's disks", errno);
    let (ours, theirs) = sys::socket::pair().map_err(failed)?;
    for disk in &machine.disks {
        let file = open(disk)?;
        let spec = serde_json::to_vec(disk).map_err(|e| Error::io("handing over a disk", std::io::Error::from(e)))?;
        sys::socket::send(&ours, &spec, &[file.as_fd()]).map_err(failed)?;
    }
    if let Some(path) = &machine.cloud_init {
        sys::socket::send(&ours, SEED, &[seed(path)?.as_fd()]).map_err(failed)?;
    }
    if let Some(path) = &machine.vsock {
        let Place { directory, name } = Place::of(path)?;
        let listener = match door {
            Door::Open => Some(sockets::listen(path)?),
            Door::None => None,
        };
        let word = [SOCKETS, name.as_bytes()].concat();
        let all: Vec<_> = std::iter::once(&directory).chain(&listener).map(AsFd::as_fd).collect();
        sys::socket::send(&ours, &word, &all).map_err(failed)?;
    }
    Ok(theirs)
}

/// What waits there.
pub(crate) fn receive(socket: &OwnedFd) -> std::io::Result<Received> {
    let mut received = Received::default();
    let mut bytes = vec![0; 16 << 10];
    loop {
        let (length, [Some(descriptor), listener, ..]) = sys::socket::receive(socket, &mut bytes)? else {
            return Ok(received);
        };
        if let Some(name) = bytes[..length].strip_prefix(SOCKETS) {
            let name = String::from_utf8_lossy(name).into_owned();
            received.sockets = Some(machine::Sockets { address: ADDRESS, listener, directory: descriptor, name });
        } else if &bytes[..length] == SEED {
            let files = unpack(&read_all(&descriptor)?).into_iter();
            received.seed = Some(files.map(|it| SeedFile { name: it.name, content: it.content }).collect());
        } else {
            let spec: DiskSpec = serde_json::from_slice(&bytes[..length])?;
            received.disks.push(DiskFile { file: descriptor.into(), format: format(&spec), access: access(&spec) });
        }
    }
}

fn format(disk: &DiskSpec) -> Format {
    match disk.format {
        DiskFormat::Raw => Format::Raw,
        DiskFormat::Qcow2 => Format::Qcow2,
    }
}

fn access(disk: &DiskSpec) -> Access {
    match disk.access {
        MountAccess::ReadOnly => Access::ReadOnly,
        MountAccess::ReadWrite => Access::ReadWrite,
    }
}

/// Opens a disk's file, takes its lock, and sees whether it is what it is said to be.
fn open(disk: &DiskSpec) -> Result<File> {
    let failed = |error| Error::at("opening the disk", &disk.file, error);
    let write = disk.access == MountAccess::ReadWrite;
    let file = File::options().read(true).write(write).open(&disk.file).map_err(failed)?;
    let copy = file.try_clone().map_err(failed)?;
    Disk::of(copy, format(disk), access(disk), "").map_err(failed)?;
    Ok(file)
}

/// The seed's files, as one.
fn seed(path: &Path) -> Result<OwnedFd> {
    let failed = |error| Error::at("reading", path, error);
    let names = SEED_NAMES.iter().map(|name| (OsStr::new(name), path.join(name)));
    let files: Vec<_> = match std::fs::metadata(path).map_err(failed)?.is_dir() {
        true => names.filter(|(_, file)| file.is_file()).collect(),
        // A file alone is what the user says.
        false => vec![(OsStr::new(SEED_NAMES[0]), path.to_owned())],
    };
    if files.is_empty() {
        let why = format!("there is none of {} in it", SEED_NAMES.join(", "));
        return Err(failed(std::io::Error::new(std::io::ErrorKind::NotFound, why)));
    }
    for (_, file) in &files {
        if std::fs::metadata(file).map_err(failed)?.len() > MOST_SEED {
            return Err(failed(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it may have 16 MiB")));
        }
    }
    pack(files.iter().map(|(name, file)| (*name, file.as_path())))
}
