//! PSCI ("Arm Power State Coordination Interface", DEN 0022, 1.1): a function in x0, arguments from x1, a result in x0.

use dbt::Registers;

use super::Seat;
use crate::machine::End;
use crate::power::Switch;

const VERSION: u32 = 0x8400_0000;
const PROCESSOR_OFF: u32 = 0x8400_0002;
const PROCESSOR_ON: u32 = 0xc400_0003;
const AFFINITY_INFO: u32 = 0xc400_0004;
const MIGRATE_INFO: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
/// Of the calling convention ("SMC Calling Convention", DEN 0028).
const CONVENTION_VERSION: u32 = 0x8000_0000;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;

impl Seat {
    pub(super) fn firmware(&mut self, registers: &mut Registers<'_>) {
        let function = registers.get("X", 0) as u32;
        let [first, second, third] = [1, 2, 3].map(|number| registers.get("X", number) as u64);
        let power = &self.board.power;
        let result = match function {
            VERSION | CONVENTION_VERSION => 0x1_0001,
            FEATURES => match first as u32 {
                VERSION | PROCESSOR_OFF | PROCESSOR_ON | AFFINITY_INFO | SYSTEM_OFF | SYSTEM_RESET
                | CONVENTION_VERSION => SUCCESS,
                _ => NOT_SUPPORTED,
            },
            PROCESSOR_ON => match power.start(first, [second, third, first]) {
                Ok(()) => SUCCESS,
                Err(Some(Switch::On)) => ALREADY_ON,
                Err(Some(_)) => ON_PENDING,
                Err(None) => INVALID_PARAMETERS,
            },
            PROCESSOR_OFF => {
                power.stop(self.number);
                SUCCESS
            }
            AFFINITY_INFO => match power.switch(first) {
                Some(Switch::On) => 0,
                Some(Switch::Off) => 1,
                Some(Switch::Starting(_)) => 2,
                None => INVALID_PARAMETERS,
            },
            // No trusted system that would have to move.
            MIGRATE_INFO => 2,
            SYSTEM_OFF => {
                power.finish(End::PowerOff);
                SUCCESS
            }
            SYSTEM_RESET => {
                power.finish(End::Reboot);
                SUCCESS
            }
            _ => NOT_SUPPORTED,
        };
        registers.set("X", 0, u128::from(result as u64));
    }
}
