//! Calls of the firmware: extension in a7, function in a6, arguments from a0; an error in a0 and a value in a1.

use dbt::Registers;

use super::{Board, CONSOLE};
use crate::machine::End;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -2;
const INVALID_PARAMETER: i64 = -3;

const LEGACY_PUT: u64 = 1;
const BASE: u64 = 0x10;
const TIMER: u64 = 0x5449_4d45;
const IPI: u64 = 0x73_5049;
const REMOTE_FENCE: u64 = 0x5246_4e43;
const HART_STATE: u64 = 0x48_534d;
const RESET: u64 = 0x5352_5354;
const DEBUG_CONSOLE: u64 = 0x4442_434e;

const EXTENSIONS: &[u64] = &[BASE, TIMER, IPI, REMOTE_FENCE, HART_STATE, RESET, DEBUG_CONSOLE];
/// Version 2.0.
const VERSION: u64 = 2 << 24;

impl Board {
    pub(super) fn firmware(&mut self, registers: &mut Registers<'_>) {
        let argument = |registers: &Registers<'_>, number: u32| registers.get("X", 10 + number) as u64;
        let (extension, function) = (argument(registers, 7), argument(registers, 6));
        let given = [argument(registers, 0), argument(registers, 1), argument(registers, 2)];
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
            (IPI, 0) => {
                registers.set("software_pending", 0, 1);
                (SUCCESS, 0)
            }
            // There is one processor, which did its own fences before it asked for those of others.
            (REMOTE_FENCE, _) => (SUCCESS, 0),
            // Started.
            (HART_STATE, 2) => {
                if given[0] == 0 {
                    (SUCCESS, 0)
                } else {
                    (INVALID_PARAMETER, 0)
                }
            }
            (RESET, 0) => {
                self.end = Some(if given[0] == 0 { End::PowerOff } else { End::Reboot });
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

    fn put(&mut self, byte: u8) {
        self.bus.write(CONSOLE.base, 1, byte.into());
    }

    /// Writes what is in memory there, a part of it if it is long.
    fn write_console(&mut self, length: u64, address: u64) -> (i64, u64) {
        let mut bytes = vec![0; length.min(4096) as usize];
        if self.ram.copy_out(address, &mut bytes).is_none() {
            return (INVALID_PARAMETER, 0);
        }
        bytes.iter().for_each(|byte| self.put(*byte));
        (SUCCESS, bytes.len() as u64)
    }
}
