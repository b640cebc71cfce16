//! The interrupt controller of Arm's boards: GICv3 ("Arm Generic Interrupt Controller Architecture Specification", IHI
//! 0069), with one security state and affinity routing: processor `n` has affinity 0.0.0.`n`.
//!
//! Interrupts 0 to 15 come from processors, 16 to 31 belong to one, the others to all; each of those goes to the processor
//! that it was routed to.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::saved::unfit;

/// Processors that interrupts can be sent to: a list has sixteen.
pub(crate) const MOST_PROCESSORS: usize = 16;
/// Bytes that the distributor's and each redistributor's registers take.
pub(crate) const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
pub(crate) const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;

/// How many interrupts there are; a multiple of 32.
const COUNT: usize = 96;
const WORDS: usize = COUNT / 32;
/// No interrupt.
const SPURIOUS: u64 = 1023;
/// Bits of a priority that count.
const PRIORITY: u8 = 0xf8;
/// The priority at which nothing runs.
const IDLE: u8 = 0xff;

/// Thirty-two interrupts.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bank {
    enabled: u32,
    /// Pending by an edge, or because software said so.
    latched: u32,
    /// Lines as they are.
    lines: u32,
    active: u32,
    group: u32,
    /// Which are triggered by an edge.
    edge: u32,
    priorities: [u8; 32],
    /// Which processor each goes to.
    routes: [u8; 32],
}

impl Bank {
    fn pending(&self) -> u32 {
        self.latched | self.lines & !self.edge
    }
}

/// What a processor has of its own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    /// Interrupts 0 to 31.
    bank: Bank,
    is_asleep: bool,
    // Its interface.
    mask: u8,
    group_enabled: bool,
    control: u64,
    /// What is being handled, with its priority; the last is the most urgent.
    running: Vec<(u32, u8)>,
}

impl Own {
    fn new() -> Own {
        let bank = Bank { edge: 0xffff, ..Bank::default() };
        Own { bank, is_asleep: true, mask: 0, group_enabled: false, control: 0, running: Vec::new() }
    }

    fn running_priority(&self) -> u8 {
        self.running.last().map_or(IDLE, |(_, priority)| *priority)
    }
}

/// The controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gic {
    control: u32,
    /// Interrupts from 32 on.
    shared: [Bank; WORDS - 1],
    each: Vec<Own>,
}

/// Registers of a bit for each interrupt, by the offset of their first word.
const GROUP: u64 = 0x80;
const SET_ENABLE: u64 = 0x100;
const CLEAR_ENABLE: u64 = 0x180;
const SET_PENDING: u64 = 0x200;
const CLEAR_PENDING: u64 = 0x280;
const SET_ACTIVE: u64 = 0x300;
const CLEAR_ACTIVE: u64 = 0x380;
const PRIORITIES: u64 = 0x400;
const CONFIGURATION: u64 = 0xc00;
/// Routes, of eight bytes each.
const ROUTES: u64 = 0x6000;
const IDENTITY: u64 = 0xffe8;
/// Version 3.
const VERSION: u32 = 0x3b;

impl Gic {
    /// For so many processors.
    pub(crate) fn new(processors: usize) -> Gic {
        let each = (0..processors.clamp(1, MOST_PROCESSORS)).map(|_| Own::new()).collect();
        Gic { control: 0x40, shared: Default::default(), each }
    }

    /// Takes on what another was, if that was of as many processors, and routed to none but those.
    pub(crate) fn restore(&mut self, other: Gic) -> Result<()> {
        let count = self.each.len();
        let is_routed = other.shared.iter().flat_map(|bank| bank.routes).all(|route| usize::from(route) < count);
        if other.each.len() != count || !is_routed {
            return unfit("its interrupts go to other processors");
        }
        *self = other;
        Ok(())
    }

    fn bank(&self, processor: usize, word: usize) -> &Bank {
        if word == 0 { &self.each[processor].bank } else { &self.shared[word - 1] }
    }

    fn bank_mut(&mut self, processor: usize, word: usize) -> &mut Bank {
        if word == 0 { &mut self.each[processor].bank } else { &mut self.shared[word - 1] }
    }

    /// A line is raised, or not; one of a processor's own if it is below 32. Says whether it is news.
    pub(crate) fn set_line(&mut self, processor: usize, interrupt: u32, is_raised: bool) -> bool {
        let bit = 1 << (interrupt % 32);
        let bank = self.bank_mut(processor, interrupt as usize / 32);
        let was_raised = bank.lines & bit != 0;
        if is_raised && !was_raised {
            bank.latched |= bank.edge & bit;
        }
        bank.lines = if is_raised { bank.lines | bit } else { bank.lines & !bit };
        is_raised != was_raised
    }

    /// The most urgent that may interrupt what a processor runs.
    fn best(&self, processor: usize) -> Option<(u32, u8)> {
        let own = &self.each[processor];
        if !own.group_enabled || self.control & 2 == 0 {
            return None;
        }
        let mut best: Option<(u32, u8)> = None;
        for word in 0..WORDS {
            let bank = self.bank(processor, word);
            let mut ready = bank.pending() & bank.enabled & !bank.active & bank.group;
            while ready != 0 {
                let bit = ready.trailing_zeros();
                ready &= ready - 1;
                let is_ours = word == 0 || usize::from(bank.routes[bit as usize]) == processor;
                let priority = bank.priorities[bit as usize] & PRIORITY;
                if is_ours && best.is_none_or(|(_, least)| priority < least) {
                    best = Some((word as u32 * 32 + bit, priority));
                }
            }
        }
        best.filter(|(_, priority)| *priority < own.mask && *priority < own.running_priority())
    }

    /// Whether a processor's line is raised.
    pub(crate) fn is_raised(&self, processor: usize) -> bool {
        self.best(processor).is_some()
    }

    fn acknowledge(&mut self, processor: usize) -> u64 {
        let Some((interrupt, priority)) = self.best(processor) else { return SPURIOUS };
        let bank = self.bank_mut(processor, interrupt as usize / 32);
        bank.latched &= !(1 << (interrupt % 32));
        bank.active |= 1 << (interrupt % 32);
        self.each[processor].running.push((interrupt, priority));
        interrupt.into()
    }

    fn end(&mut self, processor: usize, interrupt: u64) {
        let own = &mut self.each[processor];
        if let Some(at) = own.running.iter().rposition(|(running, _)| u64::from(*running) == interrupt) {
            own.running.remove(at);
        }
        // Mode 1 only lowers the priority; DIR does the rest.
        if own.control & 2 == 0 {
            self.deactivate(processor, interrupt);
        }
    }

    fn deactivate(&mut self, processor: usize, interrupt: u64) {
        if interrupt < COUNT as u64 {
            self.bank_mut(processor, interrupt as usize / 32).active &= !(1 << (interrupt % 32));
        }
    }

    /// A processor sends an interrupt: to those in the list, or to all others.
    fn send(&mut self, processor: usize, value: u64) {
        let is_to_others = value >> 40 & 1 != 0;
        // Affinities above the lowest, and the range that the list is of.
        let is_here = value & 0x00ff_f0ff_00ff_0000 == 0;
        for (number, own) in self.each.iter_mut().enumerate() {
            if if is_to_others { number != processor } else { is_here && value >> number & 1 != 0 } {
                own.bank.latched |= 1 << (value >> 24 & 15);
            }
        }
    }

    /// A system register of a processor's interface, by op1, CRn, CRm and op2 as they stand in an instruction.
    pub(crate) fn read_register(&mut self, processor: usize, key: u64) -> u64 {
        let own = &self.each[processor];
        match register(key) {
            Some(Interface::Mask) => own.mask.into(),
            Some(Interface::Acknowledge) => self.acknowledge(processor),
            Some(Interface::Highest) => self.best(processor).map_or(SPURIOUS, |(interrupt, _)| interrupt.into()),
            Some(Interface::Running) => own.running_priority().into(),
            // Five bits of priority, sixteen of identity.
            Some(Interface::Control) => own.control | 4 << 8,
            Some(Interface::Enable) => 7,
            Some(Interface::GroupEnable) => own.group_enabled.into(),
            Some(Interface::End | Interface::Deactivate | Interface::Send) | None => 0,
        }
    }

    /// Gives it a value. Says whether others may have been interrupted.
    pub(crate) fn write_register(&mut self, processor: usize, key: u64, value: u64) -> bool {
        let own = &mut self.each[processor];
        match register(key) {
            Some(Interface::Mask) => own.mask = value as u8 & PRIORITY,
            Some(Interface::End) => self.end(processor, value & 0xff_ffff),
            Some(Interface::Deactivate) => self.deactivate(processor, value & 0xff_ffff),
            Some(Interface::Send) => self.send(processor, value),
            Some(Interface::Control) => own.control = value & 2,
            Some(Interface::GroupEnable) => own.group_enabled = value & 1 != 0,
            Some(Interface::Acknowledge | Interface::Highest | Interface::Running | Interface::Enable) | None => {}
        }
        register(key) == Some(Interface::Send)
    }

    /// The distributor.
    pub(crate) fn read_distributor(&self, offset: u64) -> u64 {
        match offset {
            0 => self.control.into(),
            // Lines, and ten bits of identity.
            4 => (WORDS as u64 - 1) | 9 << 19,
            ROUTES..0x8000 => match Gic::route(offset) {
                Some((word, bit)) => self.shared[word - 1].routes[bit].into(),
                None => 0,
            },
            IDENTITY => VERSION.into(),
            _ => self.read_common(offset, Which::Shared).into(),
        }
    }

    pub(crate) fn write_distributor(&mut self, offset: u64, value: u64) {
        match offset {
            // One security state, routing by affinity.
            0 => self.control = value as u32 & 0x13 | 0x50,
            ROUTES..0x8000 => {
                // One that goes to any goes to the first; one that goes to none that there is, too.
                let is_there = value & !0xff == 0 && (value as usize) < self.each.len();
                if let Some((word, bit)) = Gic::route(offset) {
                    self.shared[word - 1].routes[bit] = if is_there { value as u8 } else { 0 };
                }
            }
            _ => self.write_common(offset, value as u32, Which::Shared),
        }
    }

    /// The interrupt whose route is there. The upper half of a route is nothing.
    fn route(offset: u64) -> Option<(usize, usize)> {
        let interrupt = ((offset - ROUTES) / 8) as usize;
        ((32..COUNT).contains(&interrupt) && offset.is_multiple_of(8)).then_some((interrupt / 32, interrupt % 32))
    }

    /// Processors' redistributors, one behind the other.
    pub(crate) fn read_redistributor(&self, offset: u64) -> u64 {
        let (processor, offset) = ((offset / REDISTRIBUTOR_SIZE) as usize, offset % REDISTRIBUTOR_SIZE);
        let Some(own) = self.each.get(processor) else { return 0 };
        match offset {
            // Its number, and whether it is the last; its affinity.
            8 => (processor as u64) << 8 | u64::from(processor + 1 == self.each.len()) << 4 | (processor as u64) << 32,
            12 => processor as u64,
            0x14 if own.is_asleep => 6,
            IDENTITY => VERSION.into(),
            0x1_0000.. => self.read_common(offset - 0x1_0000, Which::Own(processor)).into(),
            _ => 0,
        }
    }

    pub(crate) fn write_redistributor(&mut self, offset: u64, value: u64) {
        let (processor, offset) = ((offset / REDISTRIBUTOR_SIZE) as usize, offset % REDISTRIBUTOR_SIZE);
        let Some(own) = self.each.get_mut(processor) else { return };
        match offset {
            0x14 => own.is_asleep = value & 2 != 0,
            0x1_0000.. => self.write_common(offset - 0x1_0000, value as u32, Which::Own(processor)),
            _ => {}
        }
    }

    /// The bank of a register with so many bits for each interrupt, and the first of its interrupts there.
    fn place(&self, offset: u64, base: u64, bits: u64, which: Which) -> Option<(usize, usize, usize)> {
        let first = (offset - base) / 4 * 32 / bits;
        let word = first as usize / 32;
        let processor = match which {
            Which::Own(processor) if word == 0 => processor,
            Which::Shared if (1..WORDS).contains(&word) => 0,
            _ => return None,
        };
        Some((processor, word, first as usize % 32))
    }

    fn read_common(&self, offset: u64, which: Which) -> u32 {
        let at = |base: u64, bits| {
            self.place(offset, base, bits, which).map(|(processor, word, first)| (self.bank(processor, word), first))
        };
        let word = |base: u64, of: fn(&Bank) -> u32| at(base, 1).map_or(0, |(bank, _)| of(bank));
        match offset {
            GROUP..SET_ENABLE => word(GROUP, |bank| bank.group),
            SET_ENABLE..CLEAR_ENABLE => word(SET_ENABLE, |bank| bank.enabled),
            CLEAR_ENABLE..SET_PENDING => word(CLEAR_ENABLE, |bank| bank.enabled),
            SET_PENDING..CLEAR_PENDING => word(SET_PENDING, Bank::pending),
            CLEAR_PENDING..SET_ACTIVE => word(CLEAR_PENDING, Bank::pending),
            SET_ACTIVE..CLEAR_ACTIVE => word(SET_ACTIVE, |bank| bank.active),
            CLEAR_ACTIVE..PRIORITIES => word(CLEAR_ACTIVE, |bank| bank.active),
            PRIORITIES..0x800 => at(PRIORITIES, 8).map_or(0, |(bank, first)| {
                bank.priorities[first..first + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
            }),
            CONFIGURATION..0xd00 => at(CONFIGURATION, 2).map_or(0, |(bank, first)| {
                (0..16).fold(0, |value, number| value | (bank.edge >> (first + number) & 1) << (2 * number + 1))
            }),
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, value: u32, which: Which) {
        let (base, bits) = match offset {
            PRIORITIES..0x800 => (PRIORITIES, 8),
            CONFIGURATION..0xd00 => (CONFIGURATION, 2),
            GROUP..PRIORITIES => (offset & !0x7f, 1),
            _ => return,
        };
        let Some((processor, word, first)) = self.place(offset, base, bits, which) else { return };
        let bank = self.bank_mut(processor, word);
        match base {
            GROUP => bank.group = value,
            SET_ENABLE => bank.enabled |= value,
            CLEAR_ENABLE => bank.enabled &= !value,
            SET_PENDING => bank.latched |= value,
            CLEAR_PENDING => bank.latched &= !value,
            SET_ACTIVE => bank.active |= value,
            CLEAR_ACTIVE => bank.active &= !value,
            PRIORITIES => {
                let own = bank.priorities[first..first + 4].iter_mut();
                own.zip(value.to_le_bytes()).for_each(|(priority, byte)| *priority = byte & PRIORITY);
            }
            // Those of processors are always edges.
            CONFIGURATION if word > 0 || first > 0 => {
                for number in 0..16 {
                    let bit = 1 << (first + number);
                    bank.edge = if value >> (2 * number + 1) & 1 != 0 { bank.edge | bit } else { bank.edge & !bit };
                }
            }
            _ => {}
        }
    }

    /// One priority of those that all have, written as a byte.
    pub(crate) fn write_priority(&mut self, interrupt: u64, value: u8) {
        if (32..COUNT as u64).contains(&interrupt) {
            self.shared[interrupt as usize / 32 - 1].priorities[interrupt as usize % 32] = value & PRIORITY;
        }
    }
}

/// Whose registers: the distributor has those of all, a redistributor those of its processor.
#[derive(Debug, Clone, Copy)]
enum Which {
    Shared,
    Own(usize),
}

/// Registers of a processor's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interface {
    Mask,
    Acknowledge,
    End,
    Highest,
    Running,
    Deactivate,
    Send,
    Control,
    Enable,
    GroupEnable,
}

/// By op0, op1, CRn, CRm and op2.
fn register(key: u64) -> Option<Interface> {
    let (crn, crm, op2) = (key >> 7 & 15, key >> 3 & 15, key & 7);
    Some(match (crn, crm, op2) {
        (4, 6, 0) => Interface::Mask,
        (12, 11, 1) => Interface::Deactivate,
        (12, 11, 3) => Interface::Running,
        (12, 11, 5) => Interface::Send,
        (12, 12, 0) => Interface::Acknowledge,
        (12, 12, 1) => Interface::End,
        (12, 12, 2) => Interface::Highest,
        (12, 12, 4) => Interface::Control,
        (12, 12, 5) => Interface::Enable,
        (12, 12, 7) => Interface::GroupEnable,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL_ENABLE: u64 = 2;
    const OWN: u64 = 0x1_0000;

    fn key(crm: u64, op2: u64) -> u64 {
        12 << 7 | crm << 3 | op2
    }

    /// With every processor ready for every interrupt.
    fn gic(processors: usize) -> Gic {
        let mut gic = Gic::new(processors);
        gic.write_distributor(0, CONTROL_ENABLE);
        for (processor, base) in (0..processors).map(|it| (it, it as u64 * REDISTRIBUTOR_SIZE + OWN)) {
            gic.write_redistributor(base + GROUP, u64::MAX);
            gic.write_redistributor(base + SET_ENABLE, 0xffff_ffff);
            gic.write_register(processor, 4 << 7 | 6 << 3, 0xf8);
            gic.write_register(processor, key(12, 7), 1);
        }
        for word in 1..WORDS as u64 {
            gic.write_distributor(GROUP + 4 * word, 0xffff_ffff);
            gic.write_distributor(SET_ENABLE + 4 * word, 0xffff_ffff);
        }
        gic
    }

    #[test]
    fn processors_interrupt_those_that_they_mean() {
        let mut gic = gic(3);
        assert!(gic.write_register(0, key(11, 5), 5 << 24 | 0b110));
        assert_eq!([0, 1, 2].map(|it| gic.is_raised(it)), [false, true, true]);
        assert_eq!(gic.read_register(1, key(12, 0)), 5);
        assert_eq!(gic.read_register(1, key(12, 0)), SPURIOUS);
        gic.write_register(1, key(12, 1), 5);
        assert!(!gic.is_raised(1) && gic.is_raised(2), "each has its own");
        gic.write_register(2, key(11, 5), 1 << 40 | 3 << 24);
        assert_eq!([gic.read_register(0, key(12, 2)), gic.read_register(1, key(12, 2))], [3, 3]);
        assert_eq!(gic.read_register(2, key(12, 2)), 5, "not to itself");
        gic.write_register(0, key(11, 5), 1 << 16 | 9 << 24 | 7);
        assert_eq!(gic.read_register(1, key(12, 2)), 3, "that went to processors that are not there");
    }

    #[test]
    fn a_shared_interrupt_goes_where_it_is_routed() {
        let mut gic = gic(2);
        assert!(gic.set_line(0, 40, true) && !gic.set_line(0, 40, true));
        assert!(gic.is_raised(0) && !gic.is_raised(1));
        gic.write_distributor(ROUTES + 8 * 40, 1);
        assert!(!gic.is_raised(0) && gic.is_raised(1));
        assert_eq!(gic.read_distributor(ROUTES + 8 * 40), 1);
        gic.write_distributor(ROUTES + 8 * 40, 7);
        gic.write_distributor(ROUTES + 8 * 4000 % 0x2000, u64::MAX);
        assert!(gic.is_raised(0), "there is no eighth");
        assert_eq!(gic.read_register(0, key(12, 0)), 40);
        assert!(!gic.is_raised(0));
    }

    #[test]
    fn redistributors_say_whose_they_are() {
        let gic = gic(2);
        assert_eq!(gic.read_redistributor(8), 0);
        assert_eq!(gic.read_redistributor(REDISTRIBUTOR_SIZE + 8), 1 << 32 | 1 << 8 | 1 << 4);
        assert_eq!(gic.read_redistributor(2 * REDISTRIBUTOR_SIZE + 8), 0);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_written_breaks_it(writes in proptest::collection::vec((0u64..0x1_0000, 0..4u8, proptest::num::u64::ANY), 0..200)) {
            let mut gic = gic(2);
            for (offset, what, value) in writes {
                match what {
                    0 => gic.write_distributor(offset, value),
                    1 => gic.write_redistributor(offset << 3, value),
                    2 => gic.write_priority(offset, value as u8),
                    _ => drop(gic.write_register(1, offset, value)),
                }
                gic.read_distributor(offset);
                gic.read_redistributor(offset << 3);
                gic.read_register(0, offset);
            }
        }
    }
}
