//! A serial port of the kind 16550: the machine's console.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, SerialState, Trigger};

use crate::bus::{self, Device};
use crate::error::{Error, Result};
use crate::input::{Input, Taken};
use crate::saved::{State, data, of_data};

/// Where a console writes to.
pub type Output = Box<dyn Write + Send>;

/// What a machine's serial port is connected to.
pub struct Serial {
    /// Where it writes to.
    pub output: Output,
    /// What was typed. Nothing if nobody types, or by [`crate::Machine::type_in`].
    pub input: Option<OwnedFd>,
}

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
    port: Uart<Line, NoEvents, Output>,
    line: Line,
    input: Option<Input>,
}

/// Bytes that the port's registers take.
pub(crate) const SIZE: u64 = 0x100;

impl Console {
    pub(crate) fn new(output: Output, input: Option<OwnedFd>) -> Console {
        let line = Line::default();
        Console { port: Uart::new(line.clone(), output), line, input: input.map(Input::new) }
    }

    /// As much of the input as the port has room for.
    fn fill(&mut self) {
        let room = self.port.fifo_capacity();
        if let Some(Taken::Bytes(bytes)) = self.input.as_mut().map(|input| input.take(room)) {
            let _ = self.port.enqueue_raw_bytes(&bytes);
        }
    }
}

/// Its registers, in the order of [`SerialState`]'s, what it has received, and whether its line is raised.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedConsole {
    registers: [u8; 9],
    received: Vec<u8>,
    is_raised: bool,
}

impl Device for Console {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let value = u8::try_from(offset).map_or(0, |offset| self.port.read(offset));
        // There is room again.
        if offset == 0 {
            self.fill();
        }
        value.into()
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

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.input.iter().map(AsFd::as_fd).collect()
    }

    fn ready(&mut self) {
        self.fill();
    }

    fn save(&self) -> Result<State> {
        let it = self.port.state();
        let registers = [
            it.baud_divisor_low,
            it.baud_divisor_high,
            it.interrupt_enable,
            it.interrupt_identification,
            it.line_control,
            it.line_status,
            it.modem_control,
            it.modem_status,
            it.scratch,
        ];
        data(&SavedConsole { registers, received: it.in_buffer, is_raised: self.line.0.load(Ordering::Acquire) })
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let SavedConsole { registers, received, is_raised } = of_data(state)?;
        let [low, high, enable, identification, line, line_status, modem, modem_status, scratch] = registers;
        let state = SerialState {
            baud_divisor_low: low,
            baud_divisor_high: high,
            interrupt_enable: enable,
            interrupt_identification: identification,
            line_control: line,
            line_status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: received,
        };
        let nowhere: Output = Box::new(io::sink());
        let output = std::mem::replace(&mut self.port, Uart::new(self.line.clone(), nowhere)).into_writer();
        let port = Uart::from_state(&state, self.line.clone(), NoEvents, output);
        self.port = port.map_err(|error| Error::Saved { why: format!("its serial port: {error}") })?;
        self.line.0.store(is_raised, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::pl011::Pl011;

    /// What a kernel reads of a port that was typed more into than it has room for.
    fn typed(make: impl FnOnce(Option<OwnedFd>) -> Box<dyn Device>, has_more: impl Fn(&mut dyn Device) -> bool) {
        let (mut host, guest) = UnixStream::pair().unwrap();
        let mut port = make(Some(guest.into()));
        assert_eq!(port.descriptors().len(), 1);
        let text: Vec<u8> = (0..200).collect();
        host.write_all(&text).unwrap();
        assert!(!has_more(&mut *port));
        port.ready();
        let mut read = Vec::new();
        while has_more(&mut *port) {
            read.push(port.read(0, 4) as u8);
        }
        assert_eq!(read, text);
        drop(host);
        port.ready();
        assert!(!has_more(&mut *port), "it has ended");
    }

    #[test]
    fn a_port_takes_what_it_has_room_for_and_the_rest_when_it_was_read() {
        let sink = || Box::new(io::sink());
        typed(|input| Box::new(Console::new(sink(), input)), |port| port.read(5, 1) & 1 != 0);
        typed(|input| Box::new(Pl011::new(sink(), input)), |port| port.read(0x18, 4) & 0x10 == 0);
    }
}
