//! Clocks that know what day it is: PL031 on Arm's boards (of `vm-superio`), Goldfish's on RISC-V's.
//!
//! **Invariant: they only tell the time.** Alarms are for machines that sleep, which none of ours does.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use vm_superio::rtc_pl031::NoEvents;
use vm_superio::{Rtc, RtcState};

use crate::bus::{Device, Line};
use crate::error::Result;
use crate::saved::{State, data, of_data};

/// Bytes that a clock's registers take.
pub(crate) const SIZE: u64 = 0x1000;

/// PL031.
#[derive(Default)]
pub(crate) struct Pl031(Rtc<NoEvents>);

impl Device for Pl031 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let mut bytes = [0; 4];
        if offset.is_multiple_of(4) && offset < SIZE {
            self.0.read(offset as u16, &mut bytes);
        }
        u32::from_le_bytes(bytes).into()
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        if offset.is_multiple_of(4) && offset < SIZE {
            self.0.write(offset as u16, &(value as u32).to_le_bytes());
        }
    }

    fn line(&mut self) -> Line {
        Line::Low
    }

    fn save(&self) -> Result<State> {
        let RtcState { lr: load, offset, mr: matched, imsc: mask, ris: raw } = self.0.state();
        data(&SavedPl031 { load, offset, matched, mask, raw })
    }

    fn restore(&mut self, state: State) -> Result<()> {
        let SavedPl031 { load: lr, offset, matched: mr, mask: imsc, raw: ris } = of_data(state)?;
        self.0 = Rtc::from_state(&RtcState { lr, offset, mr, imsc, ris }, NoEvents);
        Ok(())
    }
}

/// Its registers. What time it is, the host knows.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPl031 {
    load: u32,
    offset: i64,
    matched: u32,
    mask: u32,
    raw: u32,
}

/// Goldfish's: nanoseconds since 1970, of which the lower half is read first.
#[derive(Default)]
pub(crate) struct Goldfish {
    high: u32,
}

impl Device for Goldfish {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        match offset {
            0 => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_nanos() as u64);
                self.high = (now >> 32) as u32;
                now & 0xffff_ffff
            }
            4 => self.high.into(),
            _ => 0,
        }
    }

    fn write(&mut self, _offset: u64, _size: u8, _value: u64) {}

    fn line(&mut self) -> Line {
        Line::Low
    }

    fn save(&self) -> Result<State> {
        data(&self.high)
    }

    fn restore(&mut self, state: State) -> Result<()> {
        self.high = of_data(state)?;
        Ok(())
    }
}
