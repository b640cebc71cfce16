//! The transport: registers in memory, version 2 ("Virtio Over MMIO").

use std::os::fd::BorrowedFd;

use dbt::Ram;

use super::queue::{self, Queue, Queues};
use super::{Cause, Device};
use crate::bus::{self, Line};

/// Bytes between one device's registers and the next one's.
pub(crate) const SIZE: u64 = 0x1000;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VENDOR: u32 = u32::from_le_bytes(*b"skep");
/// What the transport offers for every device: tables beside queues, and the standard itself.
const FEATURES: u64 = 1 << 28 | VERSION_1;
const VERSION_1: u64 = 1 << 32;

const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;

const INTERRUPT_USED: u32 = 1;
const INTERRUPT_CONFIGURATION: u32 = 2;

const CONFIGURATION: u64 = 0x100;

/// A device and its transport.
pub(crate) struct Slot {
    device: Box<dyn Device>,
    ram: Ram,
    queues: Vec<Queue>,
    status: u32,
    interrupt: u32,
    /// Which half of the features the driver looks at, and which it writes.
    looks_at: u32,
    writes: u32,
    accepted: u64,
    selected: u32,
    /// Which configuration it is.
    generation: u32,
}

impl Slot {
    pub(crate) fn new(device: Box<dyn Device>, ram: Ram) -> Slot {
        let queues = vec![Queue::default(); device.queues()];
        let (status, interrupt, looks_at, writes, accepted, selected) = (0, 0, 0, 0, 0, 0);
        Slot { device, ram, queues, status, interrupt, looks_at, writes, accepted, selected, generation: 0 }
    }

    fn features(&self) -> u64 {
        self.device.features() | FEATURES
    }

    fn queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.selected as usize)
    }

    fn is_running(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    fn work(&mut self, cause: Cause) {
        if !self.is_running() {
            return;
        }
        let mut queues = Queues { ram: &self.ram, queues: &mut self.queues, must_tell: false, has_changed: false };
        let done = self.device.work(&mut queues, cause);
        if queues.must_tell {
            self.interrupt |= INTERRUPT_USED;
        }
        if queues.has_changed {
            self.interrupt |= INTERRUPT_CONFIGURATION;
            self.generation = self.generation.wrapping_add(1);
        }
        if done.is_err() {
            self.status |= NEEDS_RESET;
            self.interrupt |= INTERRUPT_CONFIGURATION;
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        self.queues.fill(Queue::default());
        (self.status, self.interrupt, self.accepted) = (0, 0, 0);
        (self.looks_at, self.writes, self.selected) = (0, 0, 0);
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let mut value = value & 0xff & !NEEDS_RESET | self.status & NEEDS_RESET;
        let is_acceptable = self.accepted & !self.features() == 0 && self.accepted & VERSION_1 != 0;
        if value & FEATURES_OK != 0 && !is_acceptable {
            value &= !FEATURES_OK;
        }
        if value & FEATURES_OK == 0 {
            value &= !DRIVER_OK;
        }
        let was_running = self.is_running();
        self.status = value;
        if !was_running && self.is_running() {
            self.device.agreed(self.accepted);
            self.work(Cause::Ready);
        }
    }

    fn accept(&mut self, half: u32) {
        // What was agreed on stays.
        if self.status & FEATURES_OK != 0 {
            return;
        }
        match self.writes {
            0 => self.accepted = self.accepted & !0xffff_ffff | u64::from(half),
            1 => self.accepted = self.accepted & 0xffff_ffff | u64::from(half) << 32,
            _ => {}
        }
    }

    fn set_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queue() else { return };
        if offset == 0x044 {
            let is_ready = value & 1 != 0 && queue.is_sound();
            if is_ready != queue.is_ready {
                *queue = queue.afresh(is_ready);
            }
            return;
        }
        // A queue in use stays what it is.
        if queue.is_ready {
            return;
        }
        let low = |at: u64| at & !0xffff_ffff | u64::from(value);
        let high = |at: u64| at & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x038 => queue.size = u16::try_from(value).unwrap_or(0),
            0x080 => queue.table = low(queue.table),
            0x084 => queue.table = high(queue.table),
            0x090 => queue.available = low(queue.available),
            0x094 => queue.available = high(queue.available),
            0x0a0 => queue.used = low(queue.used),
            0x0a4 => queue.used = high(queue.used),
            _ => {}
        }
    }

    fn register(&mut self, offset: u64) -> u32 {
        match offset {
            0x000 => MAGIC,
            0x004 => 2,
            0x008 => self.device.id(),
            0x00c => VENDOR,
            0x010 => match self.looks_at {
                0 => self.features() as u32,
                1 => (self.features() >> 32) as u32,
                _ => 0,
            },
            0x034 => self.queue().map_or(0, |_| queue::MOST.into()),
            0x044 => self.queue().map_or(0, |queue| queue.is_ready.into()),
            0x060 => self.interrupt,
            0x070 => self.status,
            // There is no memory that is shared.
            0x0b0..0x0c0 => u32::MAX,
            0x0fc => self.generation,
            _ => 0,
        }
    }

    fn read_configuration(&self, offset: u64, size: u8) -> u64 {
        let bytes = self.device.configuration();
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        (0..u64::from(size.min(8))).fold(0, |value, number| value | u64::from(byte(offset + number)) << (8 * number))
    }
}

impl bus::Device for Slot {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match offset {
            CONFIGURATION.. => self.read_configuration(offset - CONFIGURATION, size),
            _ if size == 4 => self.register(offset).into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if offset >= CONFIGURATION {
            return self.device.write_configuration(offset - CONFIGURATION, value);
        }
        if size != 4 {
            return;
        }
        let value = value as u32;
        match offset {
            0x014 => self.looks_at = value,
            0x020 => self.accept(value),
            0x024 => self.writes = value,
            0x030 => self.selected = value,
            0x050 => self.work(Cause::Notified(value as usize)),
            0x064 => self.interrupt &= !value,
            0x070 => self.set_status(value),
            _ => self.set_queue(offset, value),
        }
    }

    fn line(&mut self) -> Line {
        if self.interrupt == 0 { Line::Low } else { Line::High }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.device.descriptors()
    }

    fn ready(&mut self) {
        self.work(Cause::Ready);
    }
}
