//! The platform-level interrupt controller of RISC-V ("RISC-V Platform-Level Interrupt Controller Specification", 1.0.0),
//! with one context: supervisor mode of the first processor.

use serde::{Deserialize, Serialize};

use crate::bus::Line;

/// Bytes that its registers take.
pub(crate) const SIZE: u64 = 0x400_0000;
/// Sources, of which 0 is none.
pub(crate) const SOURCES: u32 = 32;

const PENDING: u64 = 0x1000;
const ENABLE: u64 = 0x2000;
const THRESHOLD: u64 = 0x20_0000;
const CLAIM: u64 = 0x20_0004;

/// The controller.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plic {
    priorities: [u32; SOURCES as usize],
    /// Pending by an edge.
    latched: u32,
    /// Lines as they are.
    lines: u32,
    /// Claimed and not completed.
    active: u32,
    enabled: u32,
    threshold: u32,
}

impl Plic {
    /// A source's line, as it is now.
    pub(crate) fn set_line(&mut self, source: u32, line: Line) {
        let bit = 1 << (source % SOURCES);
        match line {
            Line::Low => self.lines &= !bit,
            Line::High => self.lines |= bit,
            Line::Edge => self.latched |= bit,
        }
    }

    fn pending(&self) -> u32 {
        self.latched | self.lines
    }

    /// Whether the processor's line is raised.
    pub(crate) fn is_raised(&self) -> bool {
        self.best() != 0
    }

    /// The pending source of the highest priority above the threshold; of equals, the lowest.
    fn best(&self) -> u32 {
        let ready = self.pending() & self.enabled & !self.active;
        let candidates = (1..SOURCES).filter(|source| ready >> source & 1 != 0);
        let above = candidates.filter(|source| self.priorities[*source as usize] > self.threshold);
        above.max_by_key(|source| (self.priorities[*source as usize], SOURCES - source)).unwrap_or(0)
    }

    pub(crate) fn read(&mut self, offset: u64) -> u64 {
        let value = match offset {
            0..PENDING => self.priorities.get(offset as usize / 4).copied().unwrap_or(0),
            PENDING => self.pending() & !self.active,
            ENABLE => self.enabled,
            THRESHOLD => self.threshold,
            CLAIM => {
                let source = self.best();
                self.latched &= !(1 << source);
                self.active |= 1 << source;
                // Source 0 is none.
                self.active &= !1;
                source
            }
            _ => 0,
        };
        value.into()
    }

    pub(crate) fn write(&mut self, offset: u64, value: u64) {
        let value = value as u32;
        match offset {
            0..PENDING => {
                if let Some(priority) = self.priorities.get_mut(offset as usize / 4) {
                    *priority = value & 7;
                }
            }
            ENABLE => self.enabled = value & !1,
            THRESHOLD => self.threshold = value & 7,
            CLAIM => self.active &= !1u32.checked_shl(value).unwrap_or(0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_is_claimed_once_until_it_is_completed() {
        let mut plic = Plic::default();
        plic.write(ENABLE, 0b1110);
        for (source, priority) in [(1, 1), (2, 3), (3, 3)] {
            plic.write(source * 4, priority);
        }
        assert!(!plic.is_raised());
        plic.set_line(1, Line::Edge);
        plic.set_line(2, Line::Edge);
        plic.set_line(3, Line::Edge);
        assert_eq!([plic.read(CLAIM), plic.read(CLAIM), plic.read(CLAIM), plic.read(CLAIM)], [2, 3, 1, 0]);
        plic.set_line(2, Line::Edge);
        assert!(!plic.is_raised(), "it was not completed");
        plic.write(CLAIM, 2);
        assert_eq!(plic.read(CLAIM), 2);
        plic.write(THRESHOLD, 3);
        plic.set_line(1, Line::Edge);
        assert!(!plic.is_raised(), "it is not above the threshold");
        plic.write(CLAIM, u64::MAX);
    }

    #[test]
    fn a_line_that_stays_raised_is_pending_again_when_it_was_completed() {
        let mut plic = Plic::default();
        plic.write(ENABLE, 0b10);
        plic.write(4, 1);
        plic.set_line(1, Line::High);
        assert_eq!(plic.read(CLAIM), 1);
        assert!(!plic.is_raised(), "it is handled");
        plic.write(CLAIM, 1);
        assert!(plic.is_raised(), "nobody has lowered it");
        plic.set_line(1, Line::Low);
        assert!(!plic.is_raised());
    }
}
