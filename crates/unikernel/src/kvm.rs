//! The engine with a virtual machine: a member is a machine of its own, whose memory is the guest's from the first page
//! table on.

mod build;
mod space;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use abi::call;
use abi::layout::kvm::{BELLS, DOORBELL_PHYSICAL, MEMORY_STEP, MOST_MEMORY, PORT, TAP, WINDOW, bell};
use sys::Errno;
use vm::{Exit, Frozen, Host as Kvm, Interrupter, Layout, Machine, Memory, Region, Registers, Sharing, Window};

pub(crate) use self::space::{OfGuest, Space};
use crate::error::{Error, Result};
use crate::files::File;
use crate::pipes::Bells;
use crate::port::Mapped;

/// How much of files can be mapped at first, and by how much it grows.
const WINDOW_STEP: usize = 64 << 20;

/// A member's machine.
pub(crate) struct Guest {
    machine: Machine,
    layout: Layout,
    space: Arc<Space>,
    /// Those that it rings by itself, by their numbers from 1 on, and the side of each.
    bells: Vec<(Bells, usize)>,
}

/// What a copy of a member is made of, once its maker stands still.
pub(crate) struct Seed {
    memory: Vec<Frozen>,
    windows: Vec<Window>,
    registers: Registers,
    layout: Layout,
}

fn failed(error: vm::Error) -> Error {
    Error::Machine(error)
}

impl Guest {
    /// A machine that begins with the library operating system.
    pub(crate) fn first(kvm: &Kvm, port: &Arc<Mapped>) -> Result<Self> {
        let memory = Memory::new(MEMORY_STEP as usize).map_err(failed)?;
        let built = build::build(&memory)?;
        let space = Space::new(built.layout.tables, vec![memory], vec![Window::new(WINDOW_STEP).map_err(failed)?]);
        let mut machine = assemble(kvm, &space, port)?;
        machine.begin(&built.layout, &built.start).map_err(failed)?;
        Ok(Self { machine, layout: built.layout, space, bells: Vec::new() })
    }

    /// A copy of another.
    pub(crate) fn grow(kvm: &Kvm, seed: Seed, port: &Arc<Mapped>) -> Result<Self> {
        let memory = seed.memory.iter().map(Memory::thaw).collect::<std::result::Result<_, _>>().map_err(failed)?;
        let space = Space::new(seed.layout.tables, memory, seed.windows);
        let mut machine = assemble(kvm, &space, port)?;
        machine.resume(&seed.registers, &seed.layout).map_err(failed)?;
        Ok(Self { machine, layout: seed.layout, space, bells: Vec::new() })
    }

    /// What a copy of this is made of. It stands still, in a call.
    pub(crate) fn seed(&self) -> Result<Seed> {
        let memory = self.space.memory();
        Ok(Seed {
            memory: memory.iter().map(|it| it.freeze()).collect::<std::result::Result<_, _>>().map_err(failed)?,
            windows: self
                .space
                .windows()
                .iter()
                .map(|it| it.copy())
                .collect::<std::result::Result<_, _>>()
                .map_err(failed)?,
            registers: self.machine.registers().map_err(failed)?,
            layout: self.layout,
        })
    }

    pub(crate) fn space(&self) -> Arc<Space> {
        self.space.clone()
    }

    /// The calling thread will run it.
    pub(crate) fn adopt(&self) -> Result<Interrupter> {
        self.machine.adopt().map_err(failed)
    }

    pub(crate) fn run(&mut self) -> Exit {
        self.machine.run()
    }

    /// Makes the guest look at its port, if it is not in the middle of doing so.
    pub(crate) fn tap(&mut self) {
        // What is pending is looked for on every way out of the library operating system; and an interrupt in there would
        // meet a stack that may be in use.
        if self.machine.is_outside(abi::layout::LIBOS as u64..abi::layout::HEAP as u64) {
            self.machine.interrupt(TAP);
        }
    }

    pub(crate) fn whereabouts(&self) -> String {
        self.machine.whereabouts()
    }

    /// Maps a part of a file; gives its physical address.
    pub(crate) fn map(&mut self, file: &File, offset: u64, length: u64, how: u64) -> std::result::Result<u64, Errno> {
        let sharing = if how & call::MAP_SHARED != 0 && how & 2 != 0 { Sharing::Shared } else { Sharing::ReadOnly };
        let length = usize::try_from(length).map_err(|_| Errno::NOMEM)?;
        self.place(file.as_fd(), offset, length, sharing)
    }

    /// Maps memory that members share; gives its physical address.
    pub(crate) fn map_shared(&mut self, memory: BorrowedFd<'_>, length: usize) -> std::result::Result<u64, Errno> {
        self.place(memory, 0, length, Sharing::Shared)
    }

    fn place(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
        sharing: Sharing,
    ) -> std::result::Result<u64, Errno> {
        let no_memory = |_| Errno::NOMEM;
        for (physical, window) in self.space.windows_by_address() {
            if let Some(at) = window.map(file, offset, length, sharing).map_err(no_memory)? {
                return Ok(physical + at as u64);
            }
        }
        let room = length.next_multiple_of(WINDOW_STEP);
        let window = Arc::new(Window::new(room).map_err(no_memory)?);
        let physical = self.space.next_window(room).ok_or(Errno::NOMEM)?;
        self.machine.add(physical, window.clone()).map_err(no_memory)?;
        self.space.add_window(physical, window.clone());
        let at = window.map(file, offset, length, sharing).map_err(no_memory)?.ok_or(Errno::NOMEM)?;
        Ok(physical + at as u64)
    }

    /// The number by which the guest rings a pipe's bell from now on; 0 when there is none to be had.
    pub(crate) fn bell(&mut self, bells: &Bells, side: usize) -> u64 {
        let known = |it: &(Bells, usize)| Arc::ptr_eq(&it.0, bells) && it.1 == side;
        if let Some(at) = self.bells.iter().position(known) {
            return at as u64 + 1;
        }
        let address = |at: usize| DOORBELL_PHYSICAL + bell(at + 1) as u64;
        // The place of one that nobody can hear any more.
        let free = self.bells.iter().position(|it| Arc::strong_count(&it.0) == 1);
        let at = match free {
            Some(at) => {
                let (old, side) = &self.bells[at];
                self.machine.remove_bell(address(at), old[*side].as_fd());
                at
            }
            None if self.bells.len() + 1 < BELLS => self.bells.len(),
            None => return 0,
        };
        if self.machine.add_bell(address(at), bells[side].as_fd()).is_err() {
            return 0;
        }
        let new = (bells.clone(), side);
        match self.bells.get_mut(at) {
            Some(place) => *place = new,
            None => self.bells.push(new),
        }
        at as u64 + 1
    }

    /// The calls that only such a guest makes.
    pub(crate) fn own_call(&mut self, number: u32, [a, b, ..]: [u64; 6]) -> std::result::Result<u64, Errno> {
        match number {
            call::GROW => self.grow_memory(a),
            call::RELEASE => {
                for (physical, window) in self.space.windows_by_address() {
                    if (physical..physical + window.length() as u64).contains(&a) {
                        window.release((a - physical) as usize);
                    }
                }
                Ok(0)
            }
            call::DISCARD => {
                let (memory, offset) = self.space.own(a).ok_or(Errno::FAULT)?;
                memory.discard(offset, b as usize).ok_or(Errno::INVAL).map(|()| 0)
            }
            _ => Err(Errno::NOSYS),
        }
    }

    fn grow_memory(&mut self, length: u64) -> std::result::Result<u64, Errno> {
        let before = self.space.length();
        if length != MEMORY_STEP || before + length > MOST_MEMORY {
            return Err(Errno::NOMEM);
        }
        let memory = Arc::new(Memory::new(length as usize).map_err(|_| Errno::NOMEM)?);
        self.machine.add(before, memory.clone()).map_err(|_| Errno::NOMEM)?;
        self.space.add_memory(memory);
        Ok(before + length)
    }
}

fn assemble(kvm: &Kvm, space: &Space, port: &Arc<Mapped>) -> Result<Machine> {
    let mut machine = Machine::new(kvm).map_err(failed)?;
    let mut physical = 0;
    for memory in space.memory() {
        let length = memory.length() as u64;
        machine.add(physical, memory).map_err(failed)?;
        physical += length;
    }
    for (physical, window) in space.windows_by_address() {
        machine.add(physical, window).map_err(failed)?;
    }
    machine.add(PORT, port.clone()).map_err(failed)?;
    debug_assert!(physical <= WINDOW);
    Ok(machine)
}
