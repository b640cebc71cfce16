//! A whole system of a disk's: its own process 1, on the distribution's kernel, with its serial port for a console.
//!
//! The agent is process 1 until it has found the disk's root: it loads the kernel's modules, looks through the disks and their
//! parts for one with a `/sbin/init`, gives the network card its address, says that it is ready, and becomes that program.
//! Nothing of ours is in the machine from then on. **A machine that starts again before it was ready gave up; one that does
//! later is started again.**

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sys::signal::{self, SignalSet};
use unikernel::control::{Order, Word};

use super::guest::Network;
use super::root::{self, Module};
use super::setup;
use crate::arch::{Arch, tier, translations};
use crate::boot::Image;
use crate::console::Serial;
use crate::devices::Devices;
use crate::disk::{Access, Disk, Format, SeedFile};
use crate::error::{Error, Result};
use crate::machine::gdb::Door;
use crate::machine::{End, Machine, Outside, Start};
use crate::virtio::console::Port;
use crate::virtio::keyboard::{Keyboard, Keys};
use crate::virtio::vsock::Sockets;
use crate::watch::Interrupter;

/// A machine for a system of its own.
#[derive(Debug)]
pub struct System {
    /// What its processors are.
    pub arch: Arch,
    /// What virtual machines are made with, if its processors are the host's own.
    pub kvm: Option<OwnedFd>,
    /// What it has translated when it ran before, and where it adds to that.
    pub translations: Option<File>,
    /// Its kernel's image.
    pub kernel: File,
    /// Its kernel's modules, in the order in which they are loaded.
    pub modules: Vec<Module>,
    /// Bytes of its memory.
    pub memory: u64,
    /// How many processors it has.
    pub processors: usize,
    /// What it is called, if it asks its seed.
    pub hostname: String,
    /// Its disks.
    pub disks: Vec<DiskFile>,
    /// What its seed has, if it has one.
    pub seed: Option<Vec<SeedFile>>,
    /// Its console's input and output.
    pub console: [OwnedFd; 2],
    /// Its network card, if it has one.
    pub network: Option<Network>,
    /// Where it and the host meet, if they do.
    pub sockets: Option<Sockets>,
    /// Where debuggers come from.
    pub control: Option<OwnedFd>,
    /// The directory of this process's own descriptors in a `/proc`, which becomes its working directory.
    pub descriptors: OwnedFd,
}

/// A disk of which the file is open.
#[derive(Debug)]
pub struct DiskFile {
    /// The file.
    pub file: File,
    /// How it is read.
    pub format: Format,
    /// Whether the guest may write.
    pub access: Access,
}

/// What the agent says: that it becomes the disk's program, that it has not found one, that it could not become it.
pub(super) const READY: u8 = b'r';
pub(super) const NOTHING: u8 = b'n';
pub(super) const NO_PROGRAM: u8 = b'x';

/// Signals at which a system is asked to shut down: HUP, INT, QUIT, TERM and PWR.
const ASKING: [i32; 5] = [1, 2, 3, 15, 30];

/// Runs it until it is switched off; gives a wait status.
pub fn boot(system: System) -> Result<i32> {
    let signals = signal::descriptor(SignalSet::ALL).map_err(|errno| Error::Watching(errno.into()))?;
    let asked = Arc::new(AtomicBool::new(false));
    let presses: Arc<std::sync::Mutex<Option<Keys>>> = Arc::default();
    {
        let (asked, presses) = (Arc::clone(&asked), Arc::clone(&presses));
        thread::spawn(move || hear_signals(&signals, &asked, &presses));
    }
    let door = Arc::new(Door::default());
    if let Some(control) = &system.control {
        let (door, control) = (Arc::clone(&door), control.try_clone().map_err(Error::Watching)?);
        thread::spawn(move || receive_debuggers(&control, &door));
    }
    if rustix::termios::isatty(&system.console[0])
        && let Ok(raw) = sys::pty::RawMode::enter(system.console[0].as_fd())
    {
        // Keys mean what the guest's terminal says they do.
        std::mem::forget(raw);
    }
    let descriptors = system.descriptors.try_clone().map_err(Error::Watching)?;
    crate::share::find_links_in(descriptors).map_err(|errno| Error::Watching(errno.into()))?;
    let archive = root::of_disk(system.arch, &system.modules, system.network.as_ref());
    loop {
        let (keyboard, keys) = Keyboard::new().map_err(Error::Watching)?;
        *presses.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(keys);
        let (end, said) = run_once(&system, &archive, keyboard, &door)?;
        match (end, said) {
            (_, NOTHING) => return Err(Error::NoRoot),
            (_, NO_PROGRAM) => return Err(Error::NoInit),
            (End::PowerOff, _) => return Ok(0),
            (End::Reboot, _) if asked.load(Ordering::Acquire) => return Ok(0),
            (End::Reboot, READY) => {}
            (End::Reboot, _) => return Err(Error::GaveUpAtStart),
        }
    }
}

/// From its kernel's first instruction to where it is switched off or started again; and what the agent said.
fn run_once(system: &System, archive: &[u8], keyboard: Keyboard, door: &Door) -> Result<(End, u8)> {
    let copy = |it: &OwnedFd| it.try_clone().map_err(Error::Watching);
    let (line, port) = line()?;
    let mut devices = Devices { keyboard: Some(keyboard), ..setup::console_and_card(port, system.network.as_ref())? };
    for (number, it) in system.disks.iter().enumerate() {
        let file = it.file.try_clone().map_err(Error::Watching)?;
        devices.disks.push(disk((number, DiskFile { file, ..*it }))?);
    }
    devices.sockets = system.sockets.as_ref().map(another).transpose()?;
    devices.disks.extend(system.seed.as_ref().map(|it| Disk::seed(&with_network(it, system))));
    let start = Start {
        kernel: Image::File(&system.kernel),
        initrd: archive,
        command_line: setup::command_line(system.arch),
        memory: system.memory,
        processors: system.processors,
        mode: tier(),
        serial: Serial {
            output: Box::new(File::from(copy(&system.console[1])?)),
            input: Some(copy(&system.console[0])?),
        },
        devices,
        outside: Outside::Host,
    };
    let kvm = system.kvm.as_ref().map(copy).transpose()?;
    let mut machine = Machine::of_arch(system.arch, kvm, start)?;
    let kept = system.translations.as_ref().map(File::try_clone).transpose().map_err(Error::Watching)?;
    if let Some(kept) = kept.and_then(|it| translations(system.arch, it).ok()) {
        machine.share(kept);
    }
    let said = Arc::new(AtomicU8::new(0));
    let hearing = {
        let (said, interrupter) = (Arc::clone(&said), machine.interrupter());
        thread::spawn(move || hear_agent(line, &said, &interrupter))
    };
    let has_failed = || matches!(said.load(Ordering::Acquire), NOTHING | NO_PROGRAM);
    let end = machine.run_with(door, has_failed).unwrap_or(End::PowerOff);
    let failure = machine.failure();
    // The line's other end goes with the machine.
    drop(machine);
    let _ = hearing.join();
    if let Some(why) = failure {
        return Err(Error::Native { why });
    }
    Ok((end, said.load(Ordering::Acquire)))
}

/// The same sockets, for when it starts again.
fn another(sockets: &Sockets) -> Result<Sockets> {
    let copy = |it: &OwnedFd| it.try_clone().map_err(Error::Watching);
    Ok(Sockets {
        address: sockets.address,
        listener: sockets.listener.as_ref().map(copy).transpose()?,
        directory: copy(&sockets.directory)?,
        name: sockets.name.clone(),
    })
}

/// A disk by its number.
pub(super) fn disk((number, it): (usize, DiskFile)) -> Result<Disk> {
    let failed = |source| Error::File { doing: "opening", path: format!("disk {number}").into(), source };
    Disk::of(it.file, it.format, it.access, &format!("skep-{number}")).map_err(failed)
}

/// The line on which the agent says one word.
fn line() -> Result<(OwnedFd, Port)> {
    let failed = |errno: rustix::io::Errno| Error::Watching(errno.into());
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    rustix::io::ioctl_fionbio(&theirs, true).map_err(failed)?;
    Ok((ours, Port { name: "line".into(), input: None, output: theirs }))
}

fn hear_agent(line: OwnedFd, said: &AtomicU8, interrupter: &Interrupter) {
    let mut word = [0];
    if File::from(line).read_exact(&mut word).is_ok() {
        said.store(word[0], Ordering::Release);
        if word[0] != READY {
            interrupter.interrupt();
        }
    }
}

/// Whoever asks for anything else than to be a debugger is told nothing, and waits for the end.
fn receive_debuggers(control: &OwnedFd, door: &Door) {
    let mut waiting = Vec::new();
    while let Ok(connection) = rustix::net::accept_with(control, SocketFlags::CLOEXEC) {
        let mut bytes = [0; 64];
        let Ok((length, [debugger, ..])) = sys::socket::receive(&connection, &mut bytes) else { continue };
        match (Order::of(&bytes[..length]), debugger) {
            (Some(Order::Debugger), Some(debugger)) => {
                door.enter(debugger);
                let _ = Word::Started { number: 0 }.say(&connection);
            }
            _ => waiting.push(connection),
        }
    }
}

fn hear_signals(signals: &OwnedFd, asked: &AtomicBool, keys: &std::sync::Mutex<Option<Keys>>) {
    loop {
        let mut waiting = [rustix::event::PollFd::new(signals, rustix::event::PollFlags::IN)];
        let _ = rustix::event::poll(&mut waiting, None);
        while let Ok(Some(it)) = signal::next(signals.as_fd()) {
            if it.pid != std::process::id() && ASKING.contains(&it.signal) {
                asked.store(true, Ordering::Release);
                if let Some(keys) = &*keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
                    keys.press();
                }
            }
        }
    }
}

/// What the seed is to say beside what it says: who it is, and how it is connected.
fn with_network(files: &[SeedFile], system: &System) -> Vec<SeedFile> {
    let mut files = files.to_vec();
    let mut unless_given = |name: &str, content: String| {
        if !files.iter().any(|file| file.name == name) {
            files.push(SeedFile { name: name.into(), content: content.into_bytes() });
        }
    };
    let name = &system.hostname;
    unless_given("meta-data", format!("instance-id: {name}\nlocal-hostname: {name}\n"));
    unless_given("user-data", "#cloud-config\n".into());
    if let Some(network) = &system.network {
        unless_given(
            "network-config",
            network_config(network.address, network.prefix, network.gateway, network.hardware),
        );
    }
    files
}

/// cloud-init's "Networking Config Version 2".
fn network_config(address: Ipv4Addr, prefix: u8, gateway: Ipv4Addr, hardware: [u8; 6]) -> String {
    let hardware = hardware.map(|byte| format!("{byte:02x}")).join(":");
    format!(
        "version: 2\nethernets:\n  card:\n    match: {{ macaddress: '{hardware}' }}\n    addresses: [{address}/{prefix}]\n    \
         routes: [{{ to: 0.0.0.0/0, via: {gateway} }}]\n    nameservers: {{ addresses: [{gateway}] }}\n"
    )
}
