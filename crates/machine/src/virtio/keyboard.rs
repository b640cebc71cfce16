//! A keyboard ("Input Device") with the three keys by which a machine is asked to shut down: Control, Alt and Delete.
//!
//! What becomes of them is the guest's: Linux tells process 1, and shuts down as that wants it to, or starts again at once if
//! there is nobody who wants to be told.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::{Broken, Cause, Device, Queues};

const EVENTS: usize = 0;
const LIGHTS: usize = 1;

/// Kinds of events (Linux, `input-event-codes.h`).
const SYNCHRONIZE: u16 = 0;
const KEY: u16 = 1;
/// Left Control, left Alt, Delete.
const KEYS: [u16; 3] = [29, 56, 111];

/// What a driver asks for.
const NAME: u8 = 1;
const BITS: u8 = 0x11;

/// The keyboard of a machine.
pub struct Keyboard(Arc<OwnedFd>);

/// Who presses its keys.
#[derive(Clone)]
pub struct Keys(Arc<OwnedFd>);

impl Keyboard {
    /// A keyboard, and who presses its keys.
    pub fn new() -> std::io::Result<(Keyboard, Keys)> {
        let pressed = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Keyboard(Arc::clone(&pressed)), Keys(pressed)))
    }
}

impl Keys {
    /// Presses Control, Alt and Delete together, and lets them go.
    pub fn press(&self) {
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// The device.
pub(crate) struct Input {
    pressed: Arc<OwnedFd>,
    /// What the driver is to be told still: kind, code, value.
    events: VecDeque<(u16, u16, u32)>,
    asked: [u8; 2],
}

impl Input {
    pub(crate) fn new(keyboard: Keyboard) -> Input {
        Input { pressed: keyboard.0, events: VecDeque::new(), asked: [0; 2] }
    }

    fn press(&mut self) {
        let all = |value| KEYS.iter().map(move |key| (KEY, *key, value)).chain([(SYNCHRONIZE, 0, 0)]);
        self.events.extend(all(1).chain(all(0)));
    }
}

impl Device for Input {
    fn id(&self) -> u32 {
        18
    }

    fn queues(&self) -> usize {
        2
    }

    fn configuration(&self) -> Vec<u8> {
        let value = match self.asked {
            [NAME, 0] => b"skep keyboard".to_vec(),
            [BITS, kind] if u16::from(kind) == KEY => {
                let mut bits = vec![0; 16];
                KEYS.iter().for_each(|key| bits[usize::from(*key) / 8] |= 1 << (key % 8));
                bits
            }
            _ => Vec::new(),
        };
        let mut bytes = vec![0; 8 + 128];
        bytes[..2].copy_from_slice(&self.asked);
        bytes[2] = value.len() as u8;
        bytes[8..8 + value.len()].copy_from_slice(&value);
        bytes
    }

    fn write_configuration(&mut self, offset: u64, value: u64) {
        if let Some(byte) = usize::try_from(offset).ok().and_then(|at| self.asked.get_mut(at)) {
            *byte = value as u8;
        }
    }

    fn reset(&mut self) {
        self.events.clear();
        self.asked = [0; 2];
    }

    fn work(&mut self, queues: &mut Queues<'_>, cause: Cause) -> Result<(), Broken> {
        if cause == Cause::Ready && rustix::io::read(&*self.pressed, &mut [0; 8]).is_ok() {
            self.press();
        }
        while let Some((kind, code, value)) = self.events.front().copied() {
            let Some(mut chain) = queues.pop(EVENTS)? else { break };
            self.events.pop_front();
            let event = [&kind.to_le_bytes()[..], &code.to_le_bytes(), &value.to_le_bytes()].concat();
            chain.write(queues.ram, &event)?;
            queues.push(EVENTS, &chain)?;
        }
        // There are no lights.
        while let Some(chain) = queues.pop(LIGHTS)? {
            queues.push(LIGHTS, &chain)?;
        }
        Ok(())
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.pressed.as_fd()]
    }
}
