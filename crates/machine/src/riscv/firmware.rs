//! Calls of the firmware: extension in a7, function in a6, arguments from a0; an error in a0 and a value in a1.

use std::sync::atomic::Ordering;

use dbt::tlb::PAGE_BITS;
use dbt::{Forget, Registers};

use super::{CONSOLE, Seat};
use crate::machine::End;
use crate::power::Switch;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -2;
const INVALID_PARAMETER: i64 = -3;
const ALREADY_AVAILABLE: i64 = -6;

const LEGACY_PUT: u64 = 1;
const BASE: u64 = 0x10;
const TIMER: u64 = 0x5449_4d45;
const IPI: u64 = 0x73_5049;
const REMOTE_FENCE: u64 = 0x5246_4e43;
const HART_STATE: u64 = 0x48_534d;
const RESET: u64 = 0x5352_5354;
const DEBUG_CONSOLE: u64 = 0x4442_434e;

const EXTENSIONS: &[u64] = &[BASE, TIMER, IPI, REMOTE_FENCE, HART_STATE, RESET, DEBUG_CONSOLE];
const PAGE: u64 = 1 << PAGE_BITS;
/// Version 2.0.
const VERSION: u64 = 2 << 24;

/// More pages than these are all pages.
const MOST_PAGES: u64 = 64;

impl Seat {
    pub(super) fn firmware(&mut self, registers: &mut Registers<'_>) {
        let argument = |registers: &Registers<'_>, number: u32| registers.get("X", 10 + number) as u64;
        let (extension, function) = (argument(registers, 7), argument(registers, 6));
        let given = [0, 1, 2, 3, 4].map(|number| argument(registers, number));
        let (error, value) = match (extension, function) {
            (LEGACY_PUT, _) => {
                self.put(given[0] as u8);
                (SUCCESS, 0)
            }
            (BASE, 0) => (SUCCESS, VERSION),
            // Of which making: none of those that are registered.
            (BASE, 1) => (SUCCESS, 0xffff),
            (BASE, 3) => (SUCCESS, u64::from(EXTENSIONS.contains(&given[0]))),
            (BASE, _) => (SUCCESS, 0),
            (TIMER, 0) => {
                self.deadline = given[0];
                (SUCCESS, 0)
            }
            (IPI, 0) => (self.interrupt(given[0], given[1]), 0),
            (REMOTE_FENCE, function) => (self.fence(registers, function, given), 0),
            (HART_STATE, function) => self.hart_state(function, given),
            (RESET, 0) => {
                self.board.power.finish(if given[0] == 0 { End::PowerOff } else { End::Reboot });
                (SUCCESS, 0)
            }
            (DEBUG_CONSOLE, 0) => self.write_console(given[0], given[1]),
            (DEBUG_CONSOLE, 2) => {
                self.put(given[0] as u8);
                (SUCCESS, 0)
            }
            _ => (NOT_SUPPORTED, 0),
        };
        registers.set("X", 10, error as u64 as u128);
        if extension > 8 {
            registers.set("X", 11, value.into());
        }
    }

    /// The processors that a mask means, of which bit 0 is `base`; all if that is all ones. Nothing if there is none such.
    fn harts(&self, mask: u64, base: u64) -> Option<Vec<usize>> {
        let count = self.board.bells.count();
        if base == u64::MAX {
            return Some((0..count).collect());
        }
        let meant = (0..64).filter(|bit| mask >> bit & 1 != 0).map(|bit| base.checked_add(bit));
        meant.map(|hart| hart.filter(|it| *it < count as u64).map(|it| it as usize)).collect()
    }

    fn interrupt(&self, mask: u64, base: u64) -> i64 {
        let Some(harts) = self.harts(mask, base) else { return INVALID_PARAMETER };
        for hart in harts {
            self.board.software[hart].store(true, Ordering::SeqCst);
            self.board.bells.ring(hart);
        }
        SUCCESS
    }

    /// Instructions, or pages of a range of addresses: everywhere, or in one address space.
    fn fence(&self, registers: &mut Registers<'_>, function: u64, given: [u64; 5]) -> i64 {
        let [mask, base, begin, size, space] = given;
        let Some(harts) = self.harts(mask, base) else { return INVALID_PARAMETER };
        let first = begin & !(PAGE - 1);
        let pages = begin.saturating_add(size).saturating_sub(first).div_ceil(PAGE);
        let is_all = (begin == 0 && size == 0) || pages > MOST_PAGES;
        let what: Vec<Forget> = match function {
            0 => vec![Forget::Code],
            1 if is_all => vec![Forget::Everything],
            2 if is_all => vec![Forget::Space(space as u32 & 0xffff)],
            1 | 2 => (0..pages).map(|page| Forget::Page(first + page * PAGE)).collect(),
            // Of hypervisors, which there are none of.
            _ => return NOT_SUPPORTED,
        };
        for hart in harts {
            what.iter().for_each(|it| registers.have_forget(hart, *it));
        }
        SUCCESS
    }

    fn hart_state(&self, function: u64, [hart, start, opaque, ..]: [u64; 5]) -> (i64, u64) {
        let power = &self.board.power;
        match function {
            0 => match power.start(hart, [start, hart, opaque]) {
                Ok(()) => (SUCCESS, 0),
                Err(Some(_)) => (ALREADY_AVAILABLE, 0),
                Err(None) => (INVALID_PARAMETER, 0),
            },
            1 => {
                power.stop(self.number);
                (SUCCESS, 0)
            }
            2 => match power.switch(hart) {
                Some(Switch::On) => (SUCCESS, 0),
                Some(Switch::Off) => (SUCCESS, 1),
                Some(Switch::Starting(_)) => (SUCCESS, 2),
                None => (INVALID_PARAMETER, 0),
            },
            _ => (NOT_SUPPORTED, 0),
        }
    }

    fn put(&self, byte: u8) {
        self.board.bus.write(CONSOLE.base, 1, byte.into());
    }

    /// Writes what is in memory there, a part of it if it is long.
    fn write_console(&self, length: u64, address: u64) -> (i64, u64) {
        let mut bytes = vec![0; length.min(4096) as usize];
        if self.board.ram.copy_out(address, &mut bytes).is_none() {
            return (INVALID_PARAMETER, 0);
        }
        bytes.iter().for_each(|byte| self.put(*byte));
        (SUCCESS, bytes.len() as u64)
    }
}
