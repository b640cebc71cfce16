//! Which blocks belong to a loop.

use std::collections::BTreeSet;

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::ir::{Block, Exit, Ir};
use super::super::specialise::LAST;
use super::lower;

/// More blocks than this, or more instructions, take too long to compile.
const MOST_BLOCKS: usize = 80;
const MOST_INSTRUCTIONS: u32 = 600;
/// So often blocks are made anew because others begin in the midst of them.
const PASSES: usize = 6;

/// How much a region is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::translate) enum Extent {
    /// The innermost loop that a place is in.
    Loop,
    /// Whatever is reached from there: for those who look for what is wrong with it.
    Everything,
}

/// A loop: blocks of one page that go to each other.
#[derive(Debug)]
pub(in crate::translate) struct Region {
    /// The head is the first.
    pub(in crate::translate) blocks: Vec<Block>,
    /// Which begins where.
    index: FxHashMap<u32, usize>,
}

/// The region of what begins at an offset of a page. `make` makes the block that begins somewhere and ends where others
/// begin; `is_known` says whether a block was ever run.
pub(in crate::translate) fn form(
    head: u32,
    extent: Extent,
    is_known: &dyn Fn(u32) -> bool,
    make: &mut dyn FnMut(u32, &FxHashSet<u32>) -> Block,
) -> Option<Region> {
    let mut begins = vec![head];
    let mut known = FxHashSet::from_iter([head]);
    let mut blocks = Vec::new();
    for _ in 0..PASSES {
        let before = begins.len();
        blocks.clear();
        let mut at = 0;
        let mut instructions = 0;
        while at < begins.len() {
            let block = make(begins[at], &known);
            at += 1;
            instructions += block.instructions;
            if at > MOST_BLOCKS || instructions > MOST_INSTRUCTIONS {
                return None;
            }
            if lower::is_known(&block) {
                for to in goals(&block, is_known) {
                    if known.insert(to) {
                        begins.push(to);
                    }
                }
            }
            blocks.push(block);
        }
        if begins.len() == before {
            break;
        }
    }
    blocks.retain(lower::is_known);
    let region = Region::of(blocks);
    region.index.get(&head)?;
    match extent {
        Extent::Loop => region.innermost_around(head),
        Extent::Everything => Some(region),
    }
}

/// Where a block goes that a region may go, too.
fn goals<'b>(block: &'b Block, is_known: &'b dyn Fn(u32) -> bool) -> impl Iterator<Item = u32> + 'b {
    block.code.iter().filter_map(move |ir| match *ir {
        Ir::Exit { to, .. } => inside(to),
        // What turns back does so often; of other branches, those that were taken.
        Ir::ExitIf { to, .. } => inside(to).filter(|to| *to <= block.begin || is_known(*to)),
        _ => None,
    })
}

fn inside(to: Exit) -> Option<u32> {
    match to {
        Exit::Direct { plus: plus @ 0..LAST } => Some(plus as u32),
        _ => None,
    }
}

impl Region {
    fn of(blocks: Vec<Block>) -> Region {
        let index = blocks.iter().enumerate().map(|(at, block)| (block.begin, at)).collect();
        Region { blocks, index }
    }

    /// Blocks of the region that one goes to.
    fn next(&self, block: &Block) -> impl Iterator<Item = usize> {
        block.code.iter().filter_map(|ir| match *ir {
            Ir::Exit { to, .. } | Ir::ExitIf { to, .. } => self.to(to),
            _ => None,
        })
    }

    /// The block of the region that an exit leads to.
    pub(super) fn to(&self, exit: Exit) -> Option<usize> {
        inside(exit).and_then(|begin| self.index.get(&begin).copied())
    }

    /// The innermost loop that a block is in. Nothing if it is in none.
    ///
    /// It begins at the block that it turns back to, whichever it was found at: a loop that is entered in its midst, too, is
    /// none to a compiler, which then keeps in registers what it should not.
    fn innermost_around(self, block: u32) -> Option<Region> {
        let at = *self.index.get(&block)?;
        let next: Vec<Vec<usize>> = self.blocks.iter().map(|block| self.next(block).collect()).collect();
        let begin = |at: usize| self.blocks[at].begin;
        let headers: BTreeSet<usize> = (0..next.len())
            .flat_map(|from| next[from].iter().copied().filter(move |to| begin(*to) <= begin(from)))
            .collect();
        let loops = headers.into_iter().map(|header| (header, self.loop_of(header, &next)));
        let (header, blocks) =
            loops.filter(|(_, blocks)| blocks.contains(&at)).min_by_key(|(_, blocks)| blocks.len())?;
        let header_begin = self.blocks[header].begin;
        let mut blocks: Vec<Block> =
            self.blocks.into_iter().enumerate().filter_map(|(at, it)| blocks.contains(&at).then_some(it)).collect();
        let begin = blocks.iter().position(|it| it.begin == header_begin)?;
        blocks.swap(0, begin);
        Some(Region::of(blocks))
    }

    /// What comes back to a header, and does not go through what is before it.
    fn loop_of(&self, header: usize, next: &[Vec<usize>]) -> BTreeSet<usize> {
        let begin = |at: usize| self.blocks[at].begin;
        let mut found = BTreeSet::from([header]);
        loop {
            let more: Vec<usize> = (0..next.len())
                .filter(|at| !found.contains(at) && begin(*at) > begin(header))
                .filter(|at| next[*at].iter().any(|to| found.contains(to)))
                .collect();
            if more.is_empty() {
                return found;
            }
            found.extend(more);
        }
    }
}
