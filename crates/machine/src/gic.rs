//! The interrupt controller of Arm's boards: GICv3 ("Arm Generic Interrupt Controller Architecture Specification", IHI
//! 0069), with one security state, affinity routing, and one processor.
//!
//! Interrupts 0 to 15 come from processors, 16 to 31 belong to one, the others to all.

use serde::{Deserialize, Serialize};

/// Bytes that the distributor's and a redistributor's registers take.
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

/// The controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Gic {
    control: u32,
    enabled: [u32; WORDS],
    /// Pending by an edge, or because software said so.
    latched: [u32; WORDS],
    /// Lines as they are.
    lines: [u32; WORDS],
    active: [u32; WORDS],
    group: [u32; WORDS],
    /// Which are triggered by an edge.
    edge: [u32; WORDS],
    #[serde(with = "crate::saved::array")]
    priorities: [u8; COUNT],
    is_asleep: bool,
    // The processor's interface.
    mask: u8,
    group_enabled: bool,
    interface_control: u64,
    /// What is being handled, with its priority; the last is the most urgent.
    running: Vec<(u32, u8)>,
}

impl Default for Gic {
    fn default() -> Gic {
        let mut edge = [0; WORDS];
        edge[0] = 0xffff;
        Gic {
            control: 0x40,
            enabled: [0; WORDS],
            latched: [0; WORDS],
            lines: [0; WORDS],
            active: [0; WORDS],
            group: [0; WORDS],
            edge,
            priorities: [0; COUNT],
            is_asleep: true,
            mask: 0,
            group_enabled: false,
            interface_control: 0,
            running: Vec::new(),
        }
    }
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
const IDENTITY: u64 = 0xffe8;
/// Version 3.
const VERSION: u32 = 0x3b;

impl Gic {
    /// A line is raised, or not.
    pub(crate) fn set_line(&mut self, interrupt: u32, is_raised: bool) {
        let (word, bit) = (interrupt as usize / 32, 1 << (interrupt % 32));
        if is_raised && self.lines[word] & bit == 0 {
            self.latched[word] |= self.edge[word] & bit;
        }
        self.lines[word] = if is_raised { self.lines[word] | bit } else { self.lines[word] & !bit };
    }

    fn pending(&self, word: usize) -> u32 {
        self.latched[word] | self.lines[word] & !self.edge[word]
    }

    /// The most urgent that may interrupt what runs.
    fn best(&self) -> Option<(u32, u8)> {
        if !self.group_enabled || self.control & 2 == 0 {
            return None;
        }
        let mut best: Option<(u32, u8)> = None;
        for word in 0..WORDS {
            let mut ready = self.pending(word) & self.enabled[word] & !self.active[word] & self.group[word];
            while ready != 0 {
                let interrupt = word as u32 * 32 + ready.trailing_zeros();
                ready &= ready - 1;
                let priority = self.priorities[interrupt as usize] & PRIORITY;
                if best.is_none_or(|(_, least)| priority < least) {
                    best = Some((interrupt, priority));
                }
            }
        }
        best.filter(|(_, priority)| *priority < self.mask && *priority < self.running_priority())
    }

    fn running_priority(&self) -> u8 {
        self.running.last().map_or(IDLE, |(_, priority)| *priority)
    }

    /// Whether the processor's line is raised.
    pub(crate) fn is_raised(&self) -> bool {
        self.best().is_some()
    }

    fn acknowledge(&mut self) -> u64 {
        let Some((interrupt, priority)) = self.best() else { return SPURIOUS };
        let (word, bit) = (interrupt as usize / 32, 1 << (interrupt % 32));
        self.latched[word] &= !bit;
        self.active[word] |= bit;
        self.running.push((interrupt, priority));
        interrupt.into()
    }

    fn end(&mut self, interrupt: u64) {
        if let Some(at) = self.running.iter().rposition(|(running, _)| u64::from(*running) == interrupt) {
            self.running.remove(at);
        }
        // Mode 1 only lowers the priority; DIR does the rest.
        if self.interface_control & 2 == 0 {
            self.deactivate(interrupt);
        }
    }

    fn deactivate(&mut self, interrupt: u64) {
        if let Some(word) = self.active.get_mut(interrupt as usize / 32) {
            *word &= !(1 << (interrupt % 32));
        }
    }

    /// The processor sends itself an interrupt: the target is in the list, or everybody but itself.
    fn send(&mut self, value: u64) {
        let is_to_others = value >> 40 & 1 != 0;
        if !is_to_others && value & 1 != 0 {
            self.latched[0] |= 1 << (value >> 24 & 15);
        }
    }

    /// A system register of the interface, by op1, CRn, CRm and op2 as they stand in an instruction.
    pub(crate) fn read_register(&mut self, key: u64) -> u64 {
        match register(key) {
            Some(Interface::Mask) => self.mask.into(),
            Some(Interface::Acknowledge) => self.acknowledge(),
            Some(Interface::Highest) => self.best().map_or(SPURIOUS, |(interrupt, _)| interrupt.into()),
            Some(Interface::Running) => self.running_priority().into(),
            // Five bits of priority, sixteen of identity.
            Some(Interface::Control) => self.interface_control | 4 << 8,
            Some(Interface::Enable) => 7,
            Some(Interface::GroupEnable) => self.group_enabled.into(),
            Some(Interface::End | Interface::Deactivate | Interface::Send) | None => 0,
        }
    }

    /// Gives it a value.
    pub(crate) fn write_register(&mut self, key: u64, value: u64) {
        match register(key) {
            Some(Interface::Mask) => self.mask = value as u8 & PRIORITY,
            Some(Interface::End) => self.end(value & 0xff_ffff),
            Some(Interface::Deactivate) => self.deactivate(value & 0xff_ffff),
            Some(Interface::Send) => self.send(value),
            Some(Interface::Control) => self.interface_control = value & 2,
            Some(Interface::GroupEnable) => self.group_enabled = value & 1 != 0,
            Some(Interface::Acknowledge | Interface::Highest | Interface::Running | Interface::Enable) | None => {}
        }
    }

    /// The distributor.
    pub(crate) fn read_distributor(&self, offset: u64) -> u64 {
        match offset {
            0 => self.control.into(),
            // Lines, and ten bits of identity.
            4 => (WORDS as u64 - 1) | 9 << 19,
            IDENTITY => VERSION.into(),
            _ => self.read_common(offset, 1).into(),
        }
    }

    pub(crate) fn write_distributor(&mut self, offset: u64, value: u64) {
        match offset {
            // One security state, routing by affinity.
            0 => self.control = value as u32 & 0x13 | 0x50,
            _ => self.write_common(offset, value as u32, 1),
        }
    }

    /// The redistributor of the processor.
    pub(crate) fn read_redistributor(&self, offset: u64) -> u64 {
        match offset {
            // The last, of processor 0.
            8 => 0x10,
            0x14 if self.is_asleep => 6,
            IDENTITY => VERSION.into(),
            0x1_0000.. => self.read_common(offset - 0x1_0000, 0).into(),
            _ => 0,
        }
    }

    pub(crate) fn write_redistributor(&mut self, offset: u64, value: u64) {
        match offset {
            0x14 => self.is_asleep = value & 2 != 0,
            0x1_0000.. => self.write_common(offset - 0x1_0000, value as u32, 0),
            _ => {}
        }
    }

    /// The word of a register with a bit for each interrupt. The redistributor has the first, the distributor the others.
    fn word(offset: u64, base: u64, first: usize) -> Option<usize> {
        let word = (offset.checked_sub(base)? / 4) as usize;
        let is_own = if first == 0 { word == 0 } else { (1..WORDS).contains(&word) };
        is_own.then_some(word)
    }

    fn read_common(&self, offset: u64, first: usize) -> u32 {
        let bits = |base: u64, of: &dyn Fn(usize) -> u32| Gic::word(offset, base, first).map_or(0, of);
        match offset {
            GROUP..SET_ENABLE => bits(GROUP, &|word| self.group[word]),
            SET_ENABLE..CLEAR_ENABLE => bits(SET_ENABLE, &|word| self.enabled[word]),
            CLEAR_ENABLE..SET_PENDING => bits(CLEAR_ENABLE, &|word| self.enabled[word]),
            SET_PENDING..CLEAR_PENDING => bits(SET_PENDING, &|word| self.pending(word)),
            CLEAR_PENDING..SET_ACTIVE => bits(CLEAR_PENDING, &|word| self.pending(word)),
            SET_ACTIVE..CLEAR_ACTIVE => bits(SET_ACTIVE, &|word| self.active[word]),
            CLEAR_ACTIVE..PRIORITIES => bits(CLEAR_ACTIVE, &|word| self.active[word]),
            PRIORITIES..0x800 => {
                let at = (offset - PRIORITIES) as usize & !3;
                let byte = |number: usize| u32::from(self.priorities.get(at + number).copied().unwrap_or(0));
                byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
            }
            CONFIGURATION..0xd00 => {
                let at = (offset - CONFIGURATION) as usize / 4 * 16;
                let word = self.edge.get(at / 32).copied().unwrap_or(0) >> (at % 32);
                (0..16).fold(0, |value, number| value | (word >> number & 1) << (2 * number + 1))
            }
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u64, value: u32, first: usize) {
        let at = |base: u64| Gic::word(offset, base, first);
        match offset {
            GROUP..SET_ENABLE => at(GROUP).into_iter().for_each(|word| self.group[word] = value),
            SET_ENABLE..CLEAR_ENABLE => at(SET_ENABLE).into_iter().for_each(|word| self.enabled[word] |= value),
            CLEAR_ENABLE..SET_PENDING => at(CLEAR_ENABLE).into_iter().for_each(|word| self.enabled[word] &= !value),
            SET_PENDING..CLEAR_PENDING => at(SET_PENDING).into_iter().for_each(|word| self.latched[word] |= value),
            CLEAR_PENDING..SET_ACTIVE => at(CLEAR_PENDING).into_iter().for_each(|word| self.latched[word] &= !value),
            SET_ACTIVE..CLEAR_ACTIVE => at(SET_ACTIVE).into_iter().for_each(|word| self.active[word] |= value),
            CLEAR_ACTIVE..PRIORITIES => at(CLEAR_ACTIVE).into_iter().for_each(|word| self.active[word] &= !value),
            PRIORITIES..0x800 => {
                let at = (offset - PRIORITIES) as usize & !3;
                let own = self.priorities.iter_mut().skip(at).take(4);
                own.zip(value.to_le_bytes()).for_each(|(priority, byte)| *priority = byte & PRIORITY);
            }
            CONFIGURATION..0xd00 => {
                let at = (offset - CONFIGURATION) as usize / 4 * 16;
                // Those of processors are always edges.
                let Some(word) = self.edge.get_mut(at / 32).filter(|_| at > 0) else { return };
                for number in 0..16 {
                    let bit = 1 << (at % 32 + number);
                    *word = if value >> (2 * number + 1) & 1 != 0 { *word | bit } else { *word & !bit };
                }
            }
            _ => {}
        }
    }

    /// One priority, written as a byte.
    pub(crate) fn write_priority(&mut self, interrupt: u64, value: u8) {
        if let Some(priority) = self.priorities.get_mut(interrupt as usize) {
            *priority = value & PRIORITY;
        }
    }
}

/// Registers of the processor's interface.
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
