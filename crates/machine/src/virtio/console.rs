//! A console, and streams between programs of the guest and programs of the host.
//!
//! Port 0 is the guest's `hvc0`. The others have names, by which a program of the guest finds them
//! (`/dev/virtio-ports/NAME`). **Invariant: nothing is kept.** Bytes go from a descriptor to the guest's buffers and from
//! the guest's buffers to a descriptor; who does not read makes the other side wait.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, write};
use serde::{Deserialize, Serialize};

use super::{Broken, Cause, Chain, Device, Queues};
use crate::error::Result as Outcome;
use crate::input::{Input, Taken};
use crate::saved::{self, data, of_data, unfit};

/// What is copied at once.
const PIECE: u64 = 64 << 10;
const MULTIPORT: u64 = 1 << 1;
/// The queues by which ports are spoken of.
const TO_DRIVER: usize = 2;
const FROM_DRIVER: usize = 3;

const DEVICE_READY: u16 = 0;
const ADD: u16 = 1;
const PORT_READY: u16 = 3;
const IS_CONSOLE: u16 = 4;
const OPEN: u16 = 6;
const NAME: u16 = 7;

/// A stream between the guest and the host.
pub struct Port {
    /// What a program of the guest finds it by.
    pub name: String,
    /// What the guest reads. Nothing if it reads nothing.
    pub input: Option<OwnedFd>,
    /// What the guest writes. A descriptor that does not block makes only the guest's writer wait.
    pub output: OwnedFd,
}

struct State {
    name: String,
    input: Option<Input>,
    output: OwnedFd,
    /// Whether somebody in the guest has it open.
    is_open: bool,
    /// What the guest wrote and the host did not take yet, and how far it was taken.
    pending: Option<(Chain, Vec<u8>, usize)>,
    /// How much of the next chain was taken already, by the device that this one goes on for.
    was_taken: u64,
}

/// What a port is to its guest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPort {
    name: String,
    is_open: bool,
    /// How much of the chain was taken that is not done yet.
    taken: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedConsole {
    ports: Vec<SavedPort>,
    messages: VecDeque<(u32, u16, u16)>,
}

/// All ports, of which the first is the console.
pub(crate) struct Console {
    ports: Vec<State>,
    /// What is to be said about ports.
    messages: VecDeque<(u32, u16, u16)>,
}

/// The queue by which a port is written to by the device.
fn input_queue(port: usize) -> usize {
    if port == 0 { 0 } else { 2 + 2 * port }
}

impl Console {
    pub(crate) fn new(ports: Vec<Port>) -> Console {
        let state = |Port { name, input, output }: Port| State {
            name,
            input: input.map(Input::new),
            output,
            is_open: false,
            pending: None,
            was_taken: 0,
        };
        Console { ports: ports.into_iter().map(state).collect(), messages: VecDeque::new() }
    }

    /// What the driver says about ports.
    fn hear(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        // Each is answered with three at most, which wait until there is room: a driver that makes none is not heard.
        while self.messages.len() <= 4 * self.ports.len() {
            let Some(mut chain) = queues.pop(FROM_DRIVER)? else { break };
            let [a, b, c, d, event, event_high, value, value_high] = chain.read_array::<8>(queues.ram)?;
            let port = u32::from_le_bytes([a, b, c, d]);
            let (event, value) = (u16::from_le_bytes([event, event_high]), u16::from_le_bytes([value, value_high]));
            self.answer(port, event, value);
            queues.push(FROM_DRIVER, &chain)?;
        }
        Ok(())
    }

    fn answer(&mut self, number: u32, event: u16, value: u16) {
        if event == DEVICE_READY && value == 1 {
            self.messages.extend((0..self.ports.len() as u32).map(|port| (port, ADD, 1)));
            return;
        }
        let Some(state) = self.ports.get_mut(number as usize) else { return };
        match event {
            PORT_READY if value == 1 => {
                if number == 0 {
                    self.messages.push_back((number, IS_CONSOLE, 1));
                    state.is_open = true;
                }
                self.messages.push_back((number, NAME, 1));
                self.messages.push_back((number, OPEN, 1));
            }
            OPEN => state.is_open = value != 0,
            _ => {}
        }
    }

    /// Says what is to be said.
    fn say(&mut self, queues: &mut Queues<'_>) -> Result<(), Broken> {
        while let Some((port, event, value)) = self.messages.front().copied() {
            let Some(mut chain) = queues.pop(TO_DRIVER)? else { break };
            self.messages.pop_front();
            let mut bytes = port.to_le_bytes().to_vec();
            bytes.extend(event.to_le_bytes());
            bytes.extend(value.to_le_bytes());
            if event == NAME {
                bytes.extend(self.ports[port as usize].name.bytes());
            }
            bytes.truncate(chain.room() as usize);
            chain.write(queues.ram, &bytes)?;
            queues.push(TO_DRIVER, &chain)?;
        }
        Ok(())
    }

    /// From the host to the guest.
    fn input(&mut self, queues: &mut Queues<'_>, number: usize) -> Result<(), Broken> {
        let state = &mut self.ports[number];
        let Some(input) = state.input.as_mut().filter(|_| state.is_open) else { return Ok(()) };
        while let Some(mut chain) = queues.pop(input_queue(number))? {
            if chain.room() == 0 {
                return Err(Broken);
            }
            match input.take(chain.room().min(PIECE) as usize) {
                Taken::Bytes(bytes) => {
                    chain.write(queues.ram, &bytes)?;
                    queues.push(input_queue(number), &chain)?;
                }
                nothing => {
                    queues.put_back(input_queue(number));
                    // That it has ended, a console does not tell its guest: that would hang it up.
                    if nothing == Taken::Ended && number != 0 {
                        self.messages.push_back((number as u32, OPEN, 0));
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// From the guest to the host.
    fn output(&mut self, queues: &mut Queues<'_>, number: usize) -> Result<(), Broken> {
        let queue = input_queue(number) + 1;
        let state = &mut self.ports[number];
        loop {
            let (mut chain, bytes, mut done) = match state.pending.take() {
                Some(pending) => pending,
                None => {
                    let Some(mut chain) = queues.pop(queue)? else { return Ok(()) };
                    let taken = std::mem::take(&mut state.was_taken).min(chain.left());
                    chain.read(queues.ram, &mut vec![0; taken as usize])?;
                    (chain, Vec::new(), 0)
                }
            };
            let mut bytes = bytes;
            loop {
                if done == bytes.len() {
                    bytes.resize(chain.left().min(PIECE) as usize, 0);
                    chain.read(queues.ram, &mut bytes)?;
                    done = 0;
                }
                if bytes.is_empty() {
                    break;
                }
                match write(&state.output, &bytes[done..]) {
                    Ok(size) => done += size,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        state.pending = Some((chain, bytes, done));
                        return Ok(());
                    }
                    // Nobody reads it any more: it is lost.
                    Err(_) => done = bytes.len(),
                }
            }
            queues.push(queue, &chain)?;
        }
    }
}

impl Device for Console {
    fn id(&self) -> u32 {
        3
    }

    fn features(&self) -> u64 {
        MULTIPORT
    }

    fn queues(&self) -> usize {
        2 + 2 * self.ports.len().max(1)
    }

    fn configuration(&self) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        bytes[4..8].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        bytes
    }

    /// A driver that knows of one port alone does not say that it has it open.
    fn agreed(&mut self, features: u64) {
        if let Some(console) = self.ports.first_mut().filter(|_| features & MULTIPORT == 0) {
            console.is_open = true;
        }
    }

    fn reset(&mut self) {
        self.messages.clear();
        for state in &mut self.ports {
            (state.is_open, state.pending, state.was_taken) = (false, None, 0);
        }
    }

    fn save(&self) -> Outcome<saved::State> {
        let taken = |(chain, bytes, done): &(Chain, Vec<u8>, usize)| chain.taken() - (bytes.len() - done) as u64;
        let port = |it: &State| SavedPort {
            name: it.name.clone(),
            is_open: it.is_open,
            taken: it.pending.as_ref().map(taken),
        };
        data(&SavedConsole { ports: self.ports.iter().map(port).collect(), messages: self.messages.clone() })
    }

    fn undone(&self) -> Vec<usize> {
        let undone = self.ports.iter().enumerate().filter(|(_, it)| it.pending.is_some());
        undone.map(|(number, _)| input_queue(number) + 1).collect()
    }

    fn restore(&mut self, state: saved::State) -> Outcome<()> {
        let it: SavedConsole = of_data(state)?;
        let is_same = it.ports.iter().map(|it| &it.name).eq(self.ports.iter().map(|it| &it.name));
        if !is_same || it.messages.iter().any(|(port, ..)| *port as usize >= self.ports.len()) {
            return unfit("its console has other ports");
        }
        for (port, it) in self.ports.iter_mut().zip(it.ports) {
            (port.is_open, port.was_taken) = (it.is_open, it.taken.unwrap_or(0));
        }
        self.messages = it.messages;
        Ok(())
    }

    fn work(&mut self, queues: &mut Queues<'_>, _cause: Cause) -> Result<(), Broken> {
        self.hear(queues)?;
        for number in 0..self.ports.len() {
            self.output(queues, number)?;
            self.input(queues, number)?;
        }
        self.say(queues)
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let inputs = self.ports.iter().filter_map(|state| state.input.as_ref()).map(AsFd::as_fd);
        inputs.chain(self.ports.iter().map(|state| state.output.as_fd())).collect()
    }
}
