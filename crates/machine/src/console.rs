//! A serial port of the kind 16550: the machine's console.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::bus::{self, Device};

/// Where a console writes to.
pub type Output = Box<dyn Write + Send>;

/// A line to the interrupt controller, which the port raises by an edge.
#[derive(Debug, Clone, Default)]
struct Line(Arc<AtomicBool>);

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
}

impl Device for Console {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        u8::try_from(offset).map_or(0, |offset| self.port.read(offset)).into()
    }

    /// What can't be written is lost: a console whose reader is gone does not stop a machine.
    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        if let Ok(offset) = u8::try_from(offset) {
            let _ = self.port.write(offset, value as u8);
        }
    }

    fn line(&mut self) -> bus::Line {
        if self.line.0.swap(false, Ordering::AcqRel) { bus::Line::Edge } else { bus::Line::Low }
    }

    /// As much as the port has room for.
    fn type_in(&mut self, bytes: &[u8]) -> usize {
        let room = self.port.fifo_capacity().min(bytes.len());
        self.port.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }
}
