//! A serial port of the kind 16550: the machine's console.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// Where a console writes to.
pub type Output = Box<dyn Write + Send>;

/// A line to the interrupt controller, which the port raises by an edge.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line(Arc<AtomicBool>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.store(true, Ordering::Release);
        Ok(())
    }
}

/// The port.
pub(crate) struct Console {
    port: Serial<Line, NoEvents, Output>,
    line: Line,
}

/// Bytes that the port's registers take.
pub(crate) const SIZE: u64 = 0x100;

impl Console {
    pub(crate) fn new(output: Output) -> Console {
        let line = Line::default();
        Console { port: Serial::new(line.clone(), output), line }
    }

    /// Whether it has asked for attention since the last time.
    pub(crate) fn take_interrupt(&self) -> bool {
        self.line.0.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn read(&mut self, offset: u64) -> u64 {
        u8::try_from(offset).map_or(0, |offset| self.port.read(offset)).into()
    }

    /// What can't be written is lost: a console whose reader is gone does not stop a machine.
    pub(crate) fn write(&mut self, offset: u64, value: u64) {
        if let Ok(offset) = u8::try_from(offset) {
            let _ = self.port.write(offset, value as u8);
        }
    }

    /// A character from the firmware.
    pub(crate) fn put(&mut self, byte: u8) {
        let _ = self.port.write(0, byte);
    }

    /// What was typed, as much as the port has room for; gives how much that was.
    pub(crate) fn type_in(&mut self, bytes: &[u8]) -> usize {
        let room = self.port.fifo_capacity().min(bytes.len());
        self.port.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }
}
