//! The platform-level interrupt controller of RISC-V ("RISC-V Platform-Level Interrupt Controller Specification", 1.0.0),
//! with a context for each processor: its supervisor mode.

use serde::{Deserialize, Serialize};

use crate::bus::Line;
use crate::error::Result;
use crate::saved::unfit;

/// Bytes that its registers take.
pub(crate) const SIZE: u64 = 0x400_0000;
/// Sources, of which 0 is none.
pub(crate) const SOURCES: u32 = 32;

const PENDING: u64 = 0x1000;
/// A context's words of sources that may interrupt it.
const ENABLE: u64 = 0x2000;
const ENABLE_STEP: u64 = 0x80;
/// A context's threshold, and behind it where it claims and completes.
const CONTEXT: u64 = 0x20_0000;
const CONTEXT_STEP: u64 = 0x1000;

/// The controller.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plic {
    priorities: [u32; SOURCES as usize],
    /// Pending by an edge.
    latched: u32,
    /// Lines as they are.
    lines: u32,
    /// Claimed and not completed.
    active: u32,
    contexts: Vec<Context>,
}

/// What a processor wants to hear of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    enabled: u32,
    threshold: u32,
}

/// Where a register of a context is.
enum Register {
    Enable(usize),
    Threshold(usize),
    Claim(usize),
}

fn register(offset: u64) -> Option<Register> {
    if let Some(at) = offset.checked_sub(CONTEXT) {
        let context = (at / CONTEXT_STEP) as usize;
        return match at % CONTEXT_STEP {
            0 => Some(Register::Threshold(context)),
            4 => Some(Register::Claim(context)),
            _ => None,
        };
    }
    let at = offset.checked_sub(ENABLE)?;
    (at % ENABLE_STEP == 0).then_some(Register::Enable((at / ENABLE_STEP) as usize))
}

impl Plic {
    /// For so many processors.
    pub(crate) fn new(processors: usize) -> Plic {
        let contexts = vec![Context::default(); processors];
        Plic { priorities: [0; SOURCES as usize], latched: 0, lines: 0, active: 0, contexts }
    }

    /// Takes on what another was, if that was of as many processors.
    pub(crate) fn restore(&mut self, other: Plic) -> Result<()> {
        if other.contexts.len() != self.contexts.len() {
            return unfit("its interrupts go to other processors");
        }
        *self = other;
        Ok(())
    }

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

    /// Whether a processor's line is raised.
    pub(crate) fn is_raised(&self, processor: usize) -> bool {
        self.best(processor) != 0
    }

    /// The pending source of the highest priority above the threshold; of equals, the lowest.
    fn best(&self, context: usize) -> u32 {
        let Some(Context { enabled, threshold }) = self.contexts.get(context) else { return 0 };
        let ready = self.pending() & enabled & !self.active;
        let candidates = (1..SOURCES).filter(|source| ready >> source & 1 != 0);
        let above = candidates.filter(|source| self.priorities[*source as usize] > *threshold);
        above.max_by_key(|source| (self.priorities[*source as usize], SOURCES - source)).unwrap_or(0)
    }

    pub(crate) fn read(&mut self, offset: u64) -> u64 {
        let of = |context: usize| self.contexts.get(context).cloned().unwrap_or_default();
        let value = match (offset, register(offset)) {
            (0..PENDING, _) => self.priorities.get(offset as usize / 4).copied().unwrap_or(0),
            (PENDING, _) => self.pending() & !self.active,
            (_, Some(Register::Enable(context))) => of(context).enabled,
            (_, Some(Register::Threshold(context))) => of(context).threshold,
            (_, Some(Register::Claim(context))) => {
                let source = self.best(context);
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
        match (offset, register(offset)) {
            (0..PENDING, _) => {
                if let Some(priority) = self.priorities.get_mut(offset as usize / 4) {
                    *priority = value & 7;
                }
            }
            (_, Some(Register::Enable(context))) => {
                self.contexts.get_mut(context).into_iter().for_each(|it| it.enabled = value & !1);
            }
            (_, Some(Register::Threshold(context))) => {
                self.contexts.get_mut(context).into_iter().for_each(|it| it.threshold = value & 7);
            }
            (_, Some(Register::Claim(_))) => self.active &= !1u32.checked_shl(value).unwrap_or(0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLD: u64 = CONTEXT;
    const CLAIM: u64 = CONTEXT + 4;

    #[test]
    fn a_source_is_claimed_by_one_of_those_that_hear_of_it() {
        let mut plic = Plic::new(2);
        plic.write(4, 1);
        plic.write(ENABLE + ENABLE_STEP, 0b10);
        plic.set_line(1, Line::Edge);
        assert!(!plic.is_raised(0) && plic.is_raised(1) && !plic.is_raised(2));
        plic.write(ENABLE, 0b10);
        assert_eq!([plic.read(CLAIM + CONTEXT_STEP), plic.read(CLAIM), plic.read(CLAIM + 9 * CONTEXT_STEP)], [1, 0, 0]);
        plic.write(ENABLE + 9 * ENABLE_STEP, u64::MAX);
        assert_eq!(plic.read(ENABLE + ENABLE_STEP), 0b10);
    }

    #[test]
    fn the_most_urgent_is_claimed_once_until_it_is_completed() {
        let mut plic = Plic::new(1);
        plic.write(ENABLE, 0b1110);
        for (source, priority) in [(1, 1), (2, 3), (3, 3)] {
            plic.write(source * 4, priority);
        }
        assert!(!plic.is_raised(0));
        plic.set_line(1, Line::Edge);
        plic.set_line(2, Line::Edge);
        plic.set_line(3, Line::Edge);
        assert_eq!([plic.read(CLAIM), plic.read(CLAIM), plic.read(CLAIM), plic.read(CLAIM)], [2, 3, 1, 0]);
        plic.set_line(2, Line::Edge);
        assert!(!plic.is_raised(0), "it was not completed");
        plic.write(CLAIM, 2);
        assert_eq!(plic.read(CLAIM), 2);
        plic.write(THRESHOLD, 3);
        plic.set_line(1, Line::Edge);
        assert!(!plic.is_raised(0), "it is not above the threshold");
        plic.write(CLAIM, u64::MAX);
    }

    #[test]
    fn a_line_that_stays_raised_is_pending_again_when_it_was_completed() {
        let mut plic = Plic::new(1);
        plic.write(ENABLE, 0b10);
        plic.write(4, 1);
        plic.set_line(1, Line::High);
        assert_eq!(plic.read(CLAIM), 1);
        assert!(!plic.is_raised(0), "it is handled");
        plic.write(CLAIM, 1);
        assert!(plic.is_raised(0), "nobody has lowered it");
        plic.set_line(1, Line::Low);
        assert!(!plic.is_raised(0));
    }
}
