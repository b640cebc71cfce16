//! PSCI ("Arm Power State Coordination Interface", DEN 0022, 1.1): a function in x0, arguments from x1, a result in x0.

use dbt::Registers;

use super::Board;
use crate::machine::End;

const VERSION: u32 = 0x8400_0000;
const AFFINITY_INFO: u32 = 0xc400_0004;
const MIGRATE_INFO: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
/// Of the calling convention ("SMC Calling Convention", DEN 0028).
const CONVENTION_VERSION: u32 = 0x8000_0000;

const NOT_SUPPORTED: i64 = -1;

impl Board {
    pub(super) fn firmware(&mut self, registers: &mut Registers<'_>) {
        let function = registers.get("X", 0) as u32;
        let argument = registers.get("X", 1) as u64;
        let result = match function {
            VERSION | CONVENTION_VERSION => 0x1_0001,
            FEATURES => match argument as u32 {
                VERSION | SYSTEM_OFF | SYSTEM_RESET | AFFINITY_INFO | CONVENTION_VERSION => 0,
                _ => NOT_SUPPORTED,
            },
            // On.
            AFFINITY_INFO if argument == 0 => 0,
            // No trusted system that would have to move.
            MIGRATE_INFO => 2,
            SYSTEM_OFF => {
                self.end = Some(End::PowerOff);
                0
            }
            SYSTEM_RESET => {
                self.end = Some(End::Reboot);
                0
            }
            _ => NOT_SUPPORTED,
        };
        registers.set("X", 0, u128::from(result as u64));
    }
}
