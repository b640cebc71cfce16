//! The serial port of Arm's boards: PL011 ("PrimeCell UART (PL011) Technical Reference Manual", DDI 0183).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::bus::{Device, Line};
use crate::console::Output;
use crate::error::Result;
use crate::input::{Input, Taken};
use crate::saved::{State, data, of_data, unfit};

/// Bytes that its registers take.
pub(crate) const SIZE: u64 = 0x1000;

const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const INTEGER_RATE: u64 = 0x24;
const FRACTION_RATE: u64 = 0x28;
const LINE: u64 = 0x2c;
const CONTROL: u64 = 0x30;
const LEVELS: u64 = 0x34;
const MASK: u64 = 0x38;
const RAW: u64 = 0x3c;
const MASKED: u64 = 0x40;
const CLEAR: u64 = 0x44;

const RECEIVED: u32 = 1 << 4;
const SENT: u32 = 1 << 5;
const TIMEOUT: u32 = 1 << 6;
/// Its identity, a byte in each word from 0xfe0.
const IDENTITY: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
/// What the port holds that was not read.
const ROOM: usize = 32;

/// The port.
pub(crate) struct Pl011 {
    output: Output,
    input: Option<Input>,
    received: VecDeque<u8>,
    raw: u32,
    mask: u32,
    /// Registers that keep what they are given: rates, line, control, levels.
    kept: [u32; 5],
}

impl Pl011 {
    pub(crate) fn new(output: Output, input: Option<OwnedFd>) -> Pl011 {
        Pl011 {
            output,
            input: input.map(Input::new),
            received: VecDeque::new(),
            raw: 0,
            mask: 0,
            kept: [0, 0, 0, 0x300, 0x12],
        }
    }

    /// As much of the input as there is room for.
    fn fill(&mut self) {
        let room = ROOM - self.received.len();
        if let Some(Taken::Bytes(bytes)) = self.input.as_mut().map(|input| input.take(room)) {
            self.type_in(&bytes);
        }
    }

    fn kept(offset: u64) -> Option<usize> {
        [INTEGER_RATE, FRACTION_RATE, LINE, CONTROL, LEVELS].iter().position(|it| *it == offset)
    }
}

/// What it has received, and its registers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPl011 {
    received: Vec<u8>,
    raw: u32,
    mask: u32,
    kept: [u32; 5],
}

impl Device for Pl011 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let value = match offset {
            DATA => {
                let byte = self.received.pop_front().unwrap_or(0);
                self.fill();
                if self.received.is_empty() {
                    self.raw &= !(RECEIVED | TIMEOUT);
                }
                byte.into()
            }
            // Nothing is ever on its way: what is sent is sent at once.
            FLAGS => 0x80 | if self.received.is_empty() { 0x10 } else { 0 },
            MASK => self.mask,
            RAW => self.raw,
            MASKED => self.raw & self.mask,
            0xfe0.. => IDENTITY.get((offset as usize - 0xfe0) / 4).copied().unwrap_or(0).into(),
            offset => Pl011::kept(offset).map_or(0, |at| self.kept[at]),
        };
        value.into()
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        let value = value as u32;
        match offset {
            DATA => {
                // A console whose reader is gone does not stop a machine.
                let _ = self.output.write_all(&[value as u8]).and_then(|()| self.output.flush());
                self.raw |= SENT;
            }
            MASK => self.mask = value & 0x7ff,
            CLEAR => self.raw &= !value,
            offset => {
                if let Some(at) = Pl011::kept(offset) {
                    self.kept[at] = value;
                }
            }
        }
    }

    fn line(&mut self) -> Line {
        if self.raw & self.mask == 0 { Line::Low } else { Line::High }
    }

    /// As much as there is room for.
    fn type_in(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(ROOM - self.received.len());
        self.received.extend(&bytes[..taken]);
        if taken > 0 {
            self.raw |= RECEIVED | TIMEOUT;
        }
        taken
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.input.iter().map(AsFd::as_fd).collect()
    }

    fn ready(&mut self) {
        self.fill();
    }

    fn save(&self) -> Result<State> {
        let received = self.received.iter().copied().collect();
        data(&SavedPl011 { received, raw: self.raw, mask: self.mask, kept: self.kept })
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let it: SavedPl011 = of_data(state)?;
        if it.received.len() > ROOM {
            return unfit("its serial port holds more than it can");
        }
        self.received = it.received.into();
        (self.raw, self.mask, self.kept) = (it.raw, it.mask, it.kept);
        Ok(())
    }
}
