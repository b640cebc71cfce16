//! From bits to an instruction: a tree, each node of which looks at a few neighbouring bits.
//!
//! Where two instructions fit, the one with more given bits is meant, then the one with more conditions. Two of which
//! neither is more special are a mistake of the description.

use serde::{Deserialize, Serialize};

use crate::fixed;
use crate::ops::mask64;
use crate::tables::Instruction;

/// Finds an instruction from its bits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Decoder {
    nodes: Vec<Node>,
    /// Children of nodes.
    children: Vec<u32>,
    /// Instructions of leaves, the most special first.
    candidates: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Node {
    /// These bits say which child.
    Bits { low: u8, width: u8, children: u32 },
    /// One of these.
    Leaf { from: u32, count: u32 },
}

/// Two instructions that can't be told apart.
pub(crate) struct Clash(pub(crate) usize, pub(crate) usize);

/// Leaves may have this many instructions.
const FEW: usize = 2;
/// Bits that a node looks at.
const MOST_BITS: u8 = 8;

impl Decoder {
    /// For these instructions, which it names by their index.
    pub(crate) fn new(instructions: &[Instruction]) -> Result<Decoder, Clash> {
        let mut decoder = Decoder::default();
        let mut all: Vec<u32> = (0..instructions.len() as u32).collect();
        // The most special first, everywhere.
        all.sort_by_key(|at| {
            let instruction = &instructions[*at as usize];
            std::cmp::Reverse((instruction.mask.count_ones(), instruction.when.len()))
        });
        decoder.grow(instructions, &all, 0)?;
        Ok(decoder)
    }

    fn grow(&mut self, instructions: &[Instruction], set: &[u32], seen: u32) -> Result<u32, Clash> {
        let at = self.nodes.len() as u32;
        let Some((low, width)) = (set.len() > FEW).then(|| split(instructions, set, seen)).flatten() else {
            check(instructions, set)?;
            self.nodes.push(Node::Leaf { from: self.candidates.len() as u32, count: set.len() as u32 });
            self.candidates.extend_from_slice(set);
            return Ok(at);
        };
        let children = self.children.len() as u32;
        self.nodes.push(Node::Bits { low, width, children });
        self.children.resize(self.children.len() + (1 << width), 0);
        let mask = (mask64(width) as u32) << low;
        for value in 0..1u32 << width {
            let fits = |at: &u32| {
                let instruction = &instructions[*at as usize];
                (instruction.value ^ value << low) & instruction.mask & mask == 0
            };
            let part: Vec<u32> = set.iter().copied().filter(fits).collect();
            let child = self.grow(instructions, &part, seen | mask)?;
            self.children[(children + value) as usize] = child;
        }
        Ok(at)
    }

    /// The instruction that these bits are, by its index.
    #[inline]
    pub fn decode(&self, instructions: &[Instruction], word: u32) -> Option<usize> {
        let mut at = 0;
        loop {
            match self.nodes[at] {
                Node::Bits { low, width, children } => {
                    let value = u64::from(word >> low) & mask64(width);
                    at = self.children[children as usize + value as usize] as usize;
                }
                Node::Leaf { from, count } => {
                    let candidates = &self.candidates[from as usize..(from + count) as usize];
                    return candidates.iter().map(|at| *at as usize).find(|at| is(&instructions[*at], word));
                }
            }
        }
    }
}

fn is(instruction: &Instruction, word: u32) -> bool {
    word & instruction.mask == instruction.value
        && instruction.when.iter().all(|when| fixed::evaluate(when, &instruction.fields, word) == 1)
}

/// Neighbouring bits which are given in as many of these as can be.
fn split(instructions: &[Instruction], set: &[u32], seen: u32) -> Option<(u8, u8)> {
    let given = |bit: u8| {
        let bit = 1u32 << bit;
        if seen & bit != 0 {
            return 0;
        }
        let masks = set.iter().map(|at| &instructions[*at as usize]).filter(|instruction| instruction.mask & bit != 0);
        let ones = masks.clone().filter(|instruction| instruction.value & bit != 0).count();
        let count = masks.count();
        // A bit that is the same in all tells nothing.
        if ones == 0 || ones == count { 0 } else { count }
    };
    let counts: Vec<usize> = (0..32).map(given).collect();
    let most = *counts.iter().max()?;
    if most == 0 {
        return None;
    }
    let best = counts.iter().position(|count| *count == most)?;
    // As far as neighbours tell (nearly) as much.
    let is_good = |bit: usize| counts[bit] * 10 >= most * 9;
    let (mut low, mut high) = (best, best);
    while high + 1 < 32 && high - low + 1 < MOST_BITS.into() && is_good(high + 1) {
        high += 1;
    }
    while low > 0 && high - low + 1 < MOST_BITS.into() && is_good(low - 1) {
        low -= 1;
    }
    Some((low as u8, (high - low + 1) as u8))
}

/// Whether each pair that has bits in common has an order.
fn check(instructions: &[Instruction], set: &[u32]) -> Result<(), Clash> {
    for (number, one) in set.iter().enumerate() {
        for other in &set[number + 1..] {
            let (a, b) = (&instructions[*one as usize], &instructions[*other as usize]);
            let is_common = (a.value ^ b.value) & a.mask & b.mask == 0;
            // One is more special if all bits that the other gives are given in it, too.
            let is_ordered = a.mask != b.mask && (a.mask & b.mask == b.mask || a.mask & b.mask == a.mask);
            if is_common && !is_ordered && a.when.is_empty() && b.when.is_empty() {
                return Err(Clash((*one).min(*other) as usize, (*one).max(*other) as usize));
            }
        }
    }
    Ok(())
}
