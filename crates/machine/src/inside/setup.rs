//! What a machine for a cell has, and what is done in it before its first program.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::guest::Network;
use super::link::Link;
use super::root::{CLOSE_ON_EXEC, HERE};
use super::script::{Call, Script, Value};
use super::spawn::ROOT;
use crate::arch::Arch;
use crate::devices::Devices;
use crate::disk::Access;
use crate::error::{Error, Result};
use crate::share::Share;
use crate::virtio::console::Port;
use crate::virtio::network::Card;

/// What the guest knows the programs' root by.
const TAG: &str = "root";
/// How the guest's kernel speaks with the host about it: what it has read it does not keep, since the host may change it,
/// but for files that programs map.
const SHARING: &str = "trans=virtio,version=9p2000.L,cache=mmap,msize=262144";

/// What the kernel is told: its messages go to the serial port, and it does not stay after it gave up.
pub(super) fn command_line(arch: Arch) -> &'static str {
    match arch {
        Arch::Riscv64 => "console=ttyS0 panic=-1 loglevel=6",
        Arch::Arm64 => "console=ttyAMA0 panic=-1 loglevel=6",
        // Looking for a bus of cards would leave the guest some thirty thousand times, and a kernel whose tables are of the reduced
        // kind would want to be started again by a firmware of EFI, which there is none of.
        Arch::Amd64 => "console=ttyS0 panic=-1 loglevel=6 pci=off reboot=acpi",
    }
}

/// The machine's devices.
pub(super) fn devices(line: Port, root: OwnedFd, network: Option<&Network>) -> Result<Devices> {
    let share = Share { tag: TAG.into(), directory: root, access: Access::ReadWrite };
    Ok(Devices { shares: vec![share], ..console_and_card(line, network)? })
}

/// The agent's line, and what a machine has of a network.
pub(super) fn console_and_card(line: Port, network: Option<&Network>) -> Result<Devices> {
    let null = || std::fs::File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    // Port 0 is the guest's console, which nobody uses.
    let console = null().map(|output| Port { name: "console".into(), input: None, output });
    let card = |it: &Network| {
        let frames = it.frames.try_clone().map_err(Error::Watching)?;
        rustix::io::ioctl_fionbio(&frames, true).map_err(|errno| Error::Watching(errno.into()))?;
        Ok(Card { address: it.hardware, frames, source: Some(it.address) })
    };
    Ok(Devices {
        ports: console.into_iter().chain([line]).collect(),
        cards: network.map(card).into_iter().collect::<Result<_>>()?,
        ..Devices::default()
    })
}

/// Makes the machine ready for programs. Gives the agent's descriptor by which ends of programs are heard of.
pub(super) fn prepare(link: &mut Link, hostname: &str, network: Option<&Network>, has: Has) -> Result<i32> {
    let mut script = Script::new();
    let (tag, kind, how) = (script.text(TAG), script.text("9p"), script.text(SHARING));
    let root = script.text(ROOT);
    let mounted = script.call(Call::Mount, [tag.into(), root.into(), kind.into(), 0.into(), how.into()]);
    if has == Has::Disks {
        own_devices(&mut script);
    }
    for (kind, place, flags, how) in OWN {
        let (kind, how) = (script.text(kind), script.text(how));
        let place = script.text(format!("{ROOT}{place}"));
        script.call(Call::Mount, [kind.into(), place.into(), kind.into(), Value::Number(*flags), how.into()]);
    }
    let name = script.data(hostname.as_bytes());
    script.call(Call::Sethostname, [name.into(), (hostname.len() as i64).into()]);
    connect(&mut script, network);
    let ends = script.data(&(1u64 << 16).to_le_bytes());
    let flags = CLOSE_ON_EXEC | 0o4000;
    let ends = script.call(Call::Signalfd4, [(-1).into(), ends.into(), 8.into(), flags.into()]);
    let answer = link.call(script)?;
    match (answer[mounted], answer[ends]) {
        (0, ends) if ends >= 0 => Ok(ends as i32),
        (0, errno) | (errno, _) => {
            let why = std::io::Error::from_raw_os_error(-(errno as i32));
            Err(Error::Agent { why: format!("mounting the cell's root in the machine: {why}") })
        }
    }
}

/// Whether programs find devices of their own machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    /// Those that every container has.
    Nothing,
    /// Disks, which are found by name.
    Disks,
}

/// Has the machine's kernel's own devices in the place of the root's, with what belongs there beside.
fn own_devices(script: &mut Script) {
    let (kind, dev) = (script.text("devtmpfs"), script.text(format!("{ROOT}/dev")));
    let flags = NO_SET_USER | NO_EXECUTION;
    script.call(Call::Mount, [kind.into(), dev.into(), kind.into(), Value::Number(flags), 0.into()]);
    for name in ["pts", "shm", "mqueue"] {
        let place = script.text(format!("{ROOT}/dev/{name}"));
        script.call(Call::Mkdirat, [HERE.into(), place.into(), 0o755.into()]);
    }
    for (name, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        let (to, place) = (script.text(format!("/proc/self/fd{to}")), script.text(format!("{ROOT}/dev/{name}")));
        script.call(Call::Symlinkat, [to.into(), HERE.into(), place.into()]);
    }
}

const NO_SET_USER: i64 = 2;
const NO_DEVICES: i64 = 4;
const NO_EXECUTION: i64 = 8;

/// File systems that are the guest kernel's own: what, where, how.
const OWN: &[(&str, &str, i64, &str)] = &[
    ("proc", "/proc", NO_SET_USER | NO_DEVICES | NO_EXECUTION, ""),
    ("sysfs", "/sys", NO_SET_USER | NO_DEVICES | NO_EXECUTION, ""),
    ("devpts", "/dev/pts", NO_SET_USER | NO_EXECUTION, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("tmpfs", "/dev/shm", NO_SET_USER | NO_DEVICES, "mode=1777"),
    ("mqueue", "/dev/mqueue", NO_SET_USER | NO_DEVICES | NO_EXECUTION, ""),
];

/// The guest's name of its only card.
const CARD: &str = "eth0";
const INTERNET: u16 = 2;

/// Brings the interfaces up.
pub(super) fn connect(script: &mut Script, network: Option<&Network>) {
    raise(script, "lo");
    if let Some(network) = network {
        give_address(script, network);
    }
}

/// Brings an interface up.
fn raise(script: &mut Script, interface: &str) {
    const SET_FLAGS: i64 = 0x8914;
    const UP_AND_RUNNING: u16 = 0x41;
    with_socket(script, SET_FLAGS, &request(interface, &UP_AND_RUNNING.to_le_bytes()));
}

/// Gives the card its address and the way out.
fn give_address(script: &mut Script, network: &Network) {
    const SET_ADDRESS: i64 = 0x8916;
    const SET_MASK: i64 = 0x891c;
    const ADD_ROUTE: i64 = 0x890b;
    let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(network.prefix.min(32))).unwrap_or(0));
    with_socket(script, SET_ADDRESS, &request(CARD, &place(network.address)));
    with_socket(script, SET_MASK, &request(CARD, &place(mask)));
    raise(script, CARD);
    with_socket(script, ADD_ROUTE, &route(Some(network.gateway)));
}

/// Gives a card that was another's the address and the way out that it has here. What went over its connections goes
/// nowhere: their other ends know the other's address.
pub(super) fn reconnect(script: &mut Script, network: &Network) {
    const SET_HARDWARE: i64 = 0x8924;
    const REMOVE_ROUTE: i64 = 0x890c;
    const ETHERNET: [u8; 2] = [1, 0];
    with_socket(script, SET_HARDWARE, &request(CARD, &[&ETHERNET[..], &network.hardware].concat()));
    with_socket(script, REMOVE_ROUTE, &route(None));
    give_address(script, network);
}

/// `struct rtentry` for everything that has no other: padding, to where, by what, of which mask, flags, and much that is
/// not said.
fn route(gateway: Option<Ipv4Addr>) -> Vec<u8> {
    const UP: u16 = 1;
    const BY_GATEWAY: u16 = 2;
    let any = place(Ipv4Addr::UNSPECIFIED);
    let flags = if gateway.is_some() { UP | BY_GATEWAY } else { UP };
    let by = gateway.map_or([0; 16], place);
    let mut route = [&[0; 8][..], &any, &by, &any, &flags.to_le_bytes()].concat();
    route.resize(120, 0);
    route
}

/// `struct ifreq`: an interface's name, and what is said of it.
fn request(interface: &str, what: &[u8]) -> Vec<u8> {
    let mut request = interface.as_bytes().to_vec();
    request.resize(16, 0);
    request.extend_from_slice(what);
    request.resize(40, 0);
    request
}

/// `struct sockaddr_in`.
fn place(address: Ipv4Addr) -> [u8; 16] {
    let mut place = [0; 16];
    place[..2].copy_from_slice(&INTERNET.to_le_bytes());
    place[4..8].copy_from_slice(&address.octets());
    place
}

/// Asks something of the guest's kernel by a socket.
fn with_socket(script: &mut Script, what: i64, request: &[u8]) {
    const DATAGRAMS: i64 = 2;
    let request = script.data(request);
    let socket = script.call(Call::Socket, [i64::from(INTERNET).into(), DATAGRAMS.into(), 0.into()]);
    script.call(Call::Ioctl, [socket.into(), what.into(), request.into()]);
    script.call(Call::Close, [socket.into()]);
}
