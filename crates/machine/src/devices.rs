//! What a machine has beside its processor, its memory and its serial port: chosen when it starts.

use rustix::io::Errno;

use crate::bus::{Bus, Place};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::machine::Outside;
use crate::share::{Server, Share};
use crate::virtio::balloon::{Balloon, Inflatable};
use crate::virtio::block::Block;
use crate::virtio::console::{Console, Port};
use crate::virtio::entropy::Entropy;
use crate::virtio::keyboard::{Input, Keyboard};
use crate::virtio::network::{Card, Network};
use crate::virtio::share::Directory;
use crate::virtio::vsock::{Sockets, Vsock};
use crate::virtio::{Device, mmio};

/// Devices that a board has room for.
const MOST: usize = 20;

/// A machine's devices.
#[derive(Default)]
pub struct Devices {
    /// Streams to the guest. The first is its console `hvc0`; the others have names.
    pub ports: Vec<Port>,
    /// Its disks: `/dev/vda` and so on.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub cards: Vec<Card>,
    /// What gives memory back that the guest does not need.
    pub balloon: Option<Balloon>,
    /// What it is asked to shut down by.
    pub keyboard: Option<Keyboard>,
    /// Sockets between it and its host.
    pub sockets: Option<Sockets>,
    /// Directories that it can mount.
    pub shares: Vec<Share>,
}

/// Devices, in the order of their slots.
pub(crate) type Slots = Vec<Box<dyn Device>>;

impl Devices {
    pub(crate) fn build(self, outside: Outside) -> Result<Slots> {
        let mut slots: Slots = Vec::new();
        if outside == Outside::Host {
            slots.push(Box::new(Entropy));
        }
        if !self.ports.is_empty() {
            slots.push(Box::new(Console::new(self.ports)));
        }
        slots.extend(self.disks.into_iter().map(|disk| Box::new(Block::new(disk)) as Box<dyn Device>));
        slots.extend(self.cards.into_iter().map(|card| Box::new(Network::new(card)) as Box<dyn Device>));
        slots.extend(self.balloon.map(|balloon| Box::new(Inflatable::new(balloon)) as Box<dyn Device>));
        slots.extend(self.keyboard.map(|it| Box::new(Input::new(it)) as Box<dyn Device>));
        for share in self.shares {
            let failed =
                |errno: Errno| Error::File { doing: "sharing", path: (&share.tag).into(), source: errno.into() };
            let server = Server::new(share.directory, share.access).map_err(failed)?;
            slots.push(Box::new(Directory::new(share.tag, server)));
        }
        if let Some(sockets) = self.sockets {
            let vsock = Vsock::new(sockets).map_err(|errno| Error::Watching(errno.into()))?;
            slots.push(Box::new(vsock));
        }
        if slots.len() > MOST {
            return Err(Error::Devices { count: slots.len(), most: MOST });
        }
        Ok(slots)
    }
}

/// Where a board has the first of its slots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct First {
    pub(crate) base: u64,
    pub(crate) interrupt: u32,
}

impl First {
    /// Where a slot is.
    pub(crate) fn slot(self, number: usize) -> Place {
        Place {
            base: self.base + number as u64 * mmio::SIZE,
            size: mmio::SIZE,
            interrupt: self.interrupt + number as u32,
        }
    }
}

/// Puts devices onto a board's bus.
pub(crate) fn plug(bus: &mut Bus, first: First, slots: Slots, ram: &dbt::Ram) {
    for (number, device) in slots.into_iter().enumerate() {
        bus.add(first.slot(number), Box::new(mmio::Slot::new(device, ram.clone())));
    }
}
