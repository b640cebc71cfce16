//! The engine with a virtual machine: a member is a machine of its own, whose memory is the guest's from the first page
//! table on.

mod aside;
mod build;
mod first;
mod locked;
mod shells;
mod space;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use abi::call;
use abi::layout::kvm::{BELLS, DOORBELL_PHYSICAL, MEMORY_STEP, MOST_MEMORY, TABLES, TAP, WINDOW, bell};
use sys::Errno;
use vm::{Exit, Frozen, Interrupter, Kept, Layout, Machine, Memory, Part, Region, Registers, Room, Sharing, Window};

use self::first::First;
pub use self::first::{Beginning, Machines};
use self::locked::Locked;
pub(crate) use self::shells::{Kvm, Shell};
pub(crate) use self::space::{OfGuest, Space};
use crate::error::{Error, Result};
use crate::files::File;
use crate::pipes::Bells;
use crate::port::Mapped;
use crate::snapshot::SavedMachine;

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
    windows: Vec<Content>,
    registers: Registers,
    layout: Layout,
    locked: Option<Arc<Locked>>,
}

/// Who writes a guest's page tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TablesOf {
    /// The guest.
    Guest,
    /// The tender, as the guest asks and no code comes up by it.
    Tender,
}

/// A window's length, and what is in it.
pub(crate) type Content = (usize, BTreeMap<usize, Part>);

fn failed(error: vm::Error) -> Error {
    Error::Machine(error)
}

impl Guest {
    /// A machine in which the library operating system has made its first call, and its port.
    pub(crate) fn first(kvm: &Kvm) -> Result<(Self, Arc<Mapped>)> {
        let First::Asking { shell, memory, layout } = kvm.first()? else { return Err(Error::Image) };
        let Shell { machine, window, port, .. } = shell;
        let space = Space::new(layout.tables, vec![memory], vec![window]);
        Ok((Self { machine, layout, space, bells: Vec::new() }, port))
    }

    /// A copy of another, in that shell if there is one. The port is the shell's.
    pub(crate) fn grow(kvm: &Kvm, seed: Seed, port: &Arc<Mapped>, shell: Option<Shell>) -> Result<Self> {
        let (mut machine, space) = fill(kvm, shell, port, seed.layout.tables, &seed.memory, seed.windows)?;
        // Its real tables are where its maker's are, so all of its state is its maker's.
        if let Some(locked) = seed.locked {
            lock(&mut machine, &space, locked)?;
        }
        machine.resume(&seed.registers, &seed.layout).map_err(failed)?;
        Ok(Self { machine, layout: seed.layout, space, bells: Vec::new() })
    }

    /// One that goes on from where another was kept, in that shell if there is one. The port is the shell's.
    pub(crate) fn go_on(
        kvm: &Kvm,
        saved: &SavedMachine,
        port: &Arc<Mapped>,
        shell: Option<Shell>,
        whose: TablesOf,
    ) -> Result<Self> {
        let (tables, windows) = (saved.layout.tables, saved.windows.clone());
        let (mut machine, space) = fill(kvm, shell, port, tables, &saved.memory, windows)?;
        let mut real = saved.layout;
        if whose == TablesOf::Tender {
            let locked = Locked::of(&space, tables)?;
            real.tables = locked.root();
            lock(&mut machine, &space, locked)?;
        }
        machine.resume_kept(&saved.kept, &real).map_err(failed)?;
        Ok(Self { machine, layout: saved.layout, space, bells: Vec::new() })
    }

    /// What of its processor can be kept. It stands still, in a call.
    pub(crate) fn keep(&self) -> Result<(Kept, Layout)> {
        // What goes on from there takes the guest's own tables at their word.
        if self.space.locked().is_some_and(|it| !it.agrees(&self.space, self.layout.tables)) {
            return Err(Error::Unkept("a sealed process that has changed what it executes".to_owned()));
        }
        Ok((self.machine.registers().map_err(failed)?.keep(), self.layout))
    }

    /// What a copy of this is made of. It stands still, in a call.
    pub(crate) fn seed(&self) -> Result<Seed> {
        let memory = self.space.memory();
        Ok(Seed {
            memory: memory.iter().map(|it| it.freeze()).collect::<std::result::Result<_, _>>().map_err(failed)?,
            windows: self.space.windows().iter().map(|it| (it.length(), it.content())).collect(),
            registers: self.machine.registers().map_err(failed)?,
            layout: self.layout,
            locked: self.space.locked().map(|it| it.copy()).transpose()?,
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

    /// Makes the guest look at its port.
    pub(crate) fn tap(&mut self) {
        self.machine.interrupt(TAP);
    }

    /// Lets it go on: it looks at its port soon.
    pub(crate) fn leave_alone(&mut self) {
        self.machine.give_up_interrupt();
    }

    /// Has zeroes where files became shorter. Says whether any did.
    pub(crate) fn mend(&self) -> bool {
        self.space.windows().iter().any(|it| it.mend())
    }

    /// Whether it stopped in the middle of the library operating system.
    pub(crate) fn is_within_libos(&self) -> bool {
        !self.machine.is_outside(abi::layout::LIBOS as u64..abi::layout::HEAP as u64)
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

    /// Maps the beginning of a copy of code; gives its physical address.
    pub(crate) fn map_copy(&mut self, copy: BorrowedFd<'_>, length: u64) -> std::result::Result<u64, Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::NOMEM)?;
        self.place(copy, 0, length, Sharing::ReadOnly)
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

    /// A part of a file is mapped no more.
    pub(crate) fn release(&self, part: u64) {
        for (physical, window) in self.space.windows_by_address() {
            // What is executed from there is executed for good: nothing else takes its place.
            if (physical..physical + window.length() as u64).contains(&part) {
                let offset = (part - physical) as usize;
                let room = window.room(offset).unwrap_or(0) as u64;
                if !self.space.locked().is_some_and(|it| it.holds(part, room)) {
                    window.release(offset);
                }
            }
        }
    }

    /// The calls that only such a guest makes.
    pub(crate) fn own_call(&mut self, number: u32, arguments: [u64; 6]) -> std::result::Result<u64, Errno> {
        let [a, b, ..] = arguments;
        match number {
            call::GROW => self.grow_memory(a),
            call::FOLLOW => self.follow(arguments),
            call::DISCARD => {
                let (memory, offset) = self.space.own(a).ok_or(Errno::FAULT)?;
                if self.space.locked().is_some_and(|it| it.holds(a, b)) {
                    return Err(Errno::PERM);
                }
                memory.discard(offset, b as usize).ok_or(Errno::INVAL).map(|()| 0)
            }
            _ => Err(Errno::NOSYS),
        }
    }

    /// Makes the real page tables what the guest's own say.
    fn follow(&mut self, ranges: [u64; 6]) -> std::result::Result<u64, Errno> {
        let locked = self.space.locked().cloned().ok_or(Errno::NOSYS)?;
        for [at, length] in ranges.as_chunks::<2>().0 {
            let changes = locked.follow(&self.space, self.layout.tables, *at, *length)?;
            for some in changes.chunks(aside::MOST) {
                let detour = aside::order(locked.memory(), some).ok_or(Errno::FAULT)?;
                self.machine.detour(&detour).map_err(|_| Errno::IO)?;
            }
        }
        Ok(0)
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

/// Addresses for a guest's first memory, with its port.
fn room(port: &Mapped) -> Result<Arc<Room>> {
    Room::behind(port.file(), MEMORY_STEP as usize).map(Arc::new).map_err(failed)
}

/// A machine with that in it.
fn fill(
    kvm: &Kvm,
    shell: Option<Shell>,
    port: &Arc<Mapped>,
    tables: u64,
    memory: &[Frozen],
    mut windows: Vec<Content>,
) -> Result<(Machine, Arc<Space>)> {
    // A first window may be larger than a shell's; when there is none yet, there is one now.
    let shell = shell.filter(|it| windows.first().is_none_or(|first| first.0 == it.window.length()));
    if shell.is_some() && windows.is_empty() {
        windows.push((WINDOW_STEP, BTreeMap::new()));
    }
    let mut first_room = Some(match &shell {
        Some(shell) => shell.room.clone(),
        None => room(port)?,
    });
    let mut first_window = shell.as_ref().map(|it| it.window.clone());
    let thaw = |frozen: &Frozen| match first_room.take() {
        Some(room) => Memory::thaw_in(room, frozen),
        None => Memory::thaw(frozen),
    };
    let memory = memory.iter().map(thaw).collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
    let open = |(length, parts): Content| {
        let window = match first_window.take() {
            Some(window) => window,
            None => Arc::new(Window::new(length)?),
        };
        Ok(window.fill(parts)?.map(|()| window))
    };
    let windows = windows.into_iter().map(open).collect::<std::result::Result<Option<Vec<_>>, _>>();
    let windows = windows.map_err(failed)?.ok_or(Error::Damaged("its mapped files lie over each other"))?;
    let space = Space::new(tables, memory, windows);
    match shell {
        None => Ok((assemble(kvm, &space)?, space)),
        Some(Shell { mut machine, .. }) => {
            add(&mut machine, &space, Having::First)?;
            Ok((machine, space))
        }
    }
}

/// Gives a machine real page tables.
fn lock(machine: &mut Machine, space: &Space, locked: Arc<Locked>) -> Result<()> {
    machine.add(TABLES, locked.memory().clone()).map_err(failed)?;
    space.lock(locked);
    Ok(())
}

/// What of its space a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Having {
    Nothing,
    /// The first piece of memory and the first window.
    First,
}

fn add(machine: &mut Machine, space: &Space, having: Having) -> Result<()> {
    let skipped = usize::from(having == Having::First);
    let mut physical = 0;
    for (index, memory) in space.memory().into_iter().enumerate() {
        let length = memory.length() as u64;
        if index >= skipped {
            machine.add(physical, memory).map_err(failed)?;
        }
        physical += length;
    }
    for (physical, window) in space.windows_by_address().into_iter().skip(skipped) {
        machine.add(physical, window).map_err(failed)?;
    }
    debug_assert!(physical <= WINDOW);
    Ok(())
}

fn assemble(kvm: &Kvm, space: &Space) -> Result<Machine> {
    let mut machine = Machine::new(kvm.host()).map_err(failed)?;
    add(&mut machine, space, Having::Nothing)?;
    Ok(machine)
}
