//! Machines of the host's own kind: new ones, and those that go on from what another was.
//!
//! Their processors and interrupt controllers are the host's kernel's. Memory is an offset in it for each address, with a hole
//! where devices are ([`pc`]).

use std::sync::Arc;

use dbt::Ram;
use vm::{Host, Memory, Region, System, Virtual};

use super::frozen::processors;
use super::{Frozen, MOST_PROCESSORS, Machine, Outside, Start, Thaw, boxed};
use crate::bells::Bells;
use crate::console::Serial;
use crate::devices::Slots;
use crate::error::{Error, Result};
use crate::native::Native;
use crate::pc;
use crate::saved::{of_data, unfit};

impl Machine {
    /// A machine on processors of the host's own kind, that is about to start its kernel.
    pub fn native(host: &Host, mut start: Start<'_>) -> Result<Machine> {
        if !(1..=MOST_PROCESSORS).contains(&start.processors) {
            return Err(Error::Processors { count: start.processors, most: MOST_PROCESSORS });
        }
        let mut system = System::new(host)?;
        let (end, most) = (pc::end(start.memory), system.addresses_end());
        if end > most {
            return Err(Error::TooMuchMemory { memory: start.memory, most: pc::most(most) });
        }
        let slots = std::mem::take(&mut start.devices).build(start.outside)?;
        if slots.len() > pc::MOST_SLOTS {
            return Err(Error::Devices { count: slots.len(), most: pc::MOST_SLOTS });
        }
        let ram = give(&mut system, Memory::new(end as usize)?, start.processors)?;
        let entry = pc::load(&ram, &start, slots.len())?;
        // All but the first begin when they are switched on.
        Machine::on_host(system, &ram, (start.serial, slots), |number, processor| match number {
            0 => Ok(processor.begin(&entry)?),
            _ => Ok(()),
        })
    }

    /// The same, one that goes on. The host's processor has to have all that the other's had.
    pub fn thaw_native(host: &Host, frozen: Frozen, thaw: Thaw) -> Result<Machine> {
        let Frozen { machine, memory } = frozen;
        let count = processors(&machine, pc::NAME)?;
        let mut system = pc::like(host, &machine.board)?;
        if memory.length() as u64 > system.addresses_end() {
            return unfit("it has more memory than the host's processor reaches");
        }
        let ram = give(&mut system, Memory::thaw(&memory)?, count)?;
        let slots = thaw.devices.build(Outside::Host)?;
        let mut thawed = Machine::on_host(system, &ram, (thaw.serial, slots), |number, processor| {
            processor.resume(&of_data(machine.processors[number].clone())?).map_err(pc::misfit)
        })?;
        let place = &thawed.processors[0].place;
        place.restore_board(machine.board)?;
        place.bus().restore(machine.devices)?;
        let mut seated = thawed.processors.iter_mut().zip(machine.seats);
        seated.try_for_each(|(it, seat)| it.place.restore(seat))?;
        Ok(thawed)
    }

    /// A machine around memory that its system was given. `ready` is told each processor and its number.
    fn on_host(
        system: System,
        ram: &Ram,
        (serial, slots): (Serial, Slots),
        ready: impl Fn(usize, &Virtual) -> Result<()>,
    ) -> Result<Machine> {
        let (system, bells) = (Arc::new(system), Arc::new(Bells::new(ram)));
        let places = pc::board(&system, ram, &bells, (serial, slots)).into_iter().map(boxed).collect();
        Machine::of_parts(pc::NAME, ram, (Arc::clone(&bells), places), |number, _| {
            let processor = system.processor(number, ram.processors())?;
            ready(number, &processor)?;
            Ok(Box::new(Native::new(number, processor, Arc::clone(&bells))))
        })
    }
}

/// Gives a virtual machine memory, in which an address is an offset, for so many processors.
fn give(system: &mut System, memory: Memory, processors: usize) -> Result<Ram> {
    let memory = Arc::new(memory);
    let Some(parts) = pc::parts(memory.length() as u64) else {
        return unfit("its memory ends where devices are");
    };
    for part in parts {
        system.add(part.start, Arc::clone(&memory) as Arc<dyn Region>, part)?;
    }
    Ok(Ram::with_hole(memory, pc::HOLE, processors))
}
