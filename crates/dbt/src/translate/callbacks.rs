//! What generated code calls back: accesses to pages that it does not know, and instructions.

#![expect(unsafe_code, reason = "generated code calls back with a pointer to its processor")]

use isa::Isa;

use super::PAGE;
use super::run::PLAIN_CONTROL;
use crate::board::Board;
use crate::processor::{End, Processor};
use crate::state::head;
use crate::tlb::Access;

/// What generated code calls back with.
pub(super) struct Run<'r> {
    pub(super) processor: *mut Processor,
    pub(super) board: *mut (dyn Board + 'r),
    pub(super) isa: *const Isa,
}

/// A value, and whether something was thrown instead: two registers.
#[repr(C)]
pub(super) struct Pair {
    value: u64,
    has_thrown: u64,
}

/// What generated code gave, as references.
///
/// # Safety
/// `state` is that of a processor whose generated code is calling.
unsafe fn context<'r>(state: *mut u64) -> (&'r mut Processor, &'r mut dyn Board, &'r Isa) {
    // SAFETY: the caller says so: then the word points to what `run_translated` keeps until the code is back.
    unsafe {
        let run = &mut *(*state.add(head::RUN as usize) as *mut Run<'r>);
        (&mut *run.processor, &mut *run.board, &*run.isa)
    }
}

/// The instruction may look at flags that are in the host's control word still.
fn take_float_flags(processor: &mut Processor) {
    let mut control = 0u32;
    let plain = PLAIN_CONTROL;
    // SAFETY: stores the word, and sets it to what it was without its flags.
    unsafe {
        std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack, preserves_flags));
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const plain, options(nostack, preserves_flags, readonly));
    }
    processor.add_float_flags(control);
}

fn thrown_at(processor: &mut Processor) -> Pair {
    let pc = processor.pc;
    processor.state.set_head(head::PC, pc);
    Pair { value: 0, has_thrown: 1 }
}

pub(super) extern "sysv64" fn load(state: *mut u64, address: u64, meta: u64) -> Pair {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + (meta >> 16);
    let (width, how) = (meta as u8, (meta >> 8) as u8);
    match processor.load(isa, board, address, width, how) {
        Ok(value) => {
            processor.remember(address, Access::Read, how);
            processor.state.set_head(head::WIDE, value as u64);
            processor.state.set_head(head::WIDE + 1, (value >> 64) as u64);
            Pair { value: value as u64, has_thrown: 0 }
        }
        Err(thrown) => {
            processor.enter(isa, board, thrown);
            thrown_at(processor)
        }
    }
}

pub(super) extern "sysv64" fn store(state: *mut u64, address: u64, meta: u64, value: u64) -> Pair {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + (meta >> 16);
    let (width, how) = (meta as u8, (meta >> 8) as u8);
    let value = match width {
        128 => u128::from(processor.state.head(head::WIDE + 1)) << 64 | u128::from(processor.state.head(head::WIDE)),
        _ => value.into(),
    };
    match processor.store(isa, board, address, width, value, how) {
        Ok(()) => {
            processor.remember(address, Access::Write, how);
            Pair { value: 0, has_thrown: 0 }
        }
        Err(thrown) => {
            processor.enter(isa, board, thrown);
            thrown_at(processor)
        }
    }
}

/// Looks for a page that is to be written. Gives 0 if generated code can write to it.
pub(super) extern "sysv64" fn touch(state: *mut u64, address: u64, meta: u64) -> u64 {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + (meta >> 16);
    let size = u64::from(meta as u8 / 8);
    let is_across = address % PAGE + size > PAGE;
    let is_found = !is_across
        && processor.translate(isa, board, Access::Write, address, 0).is_ok()
        && processor.remember(address, Access::Write, 0);
    if !is_found {
        let pc = processor.pc;
        processor.state.set_head(head::PC, pc);
    }
    u64::from(!is_found)
}

/// Does an instruction. Gives 0 if the next one comes behind it, in the same modes.
pub(super) extern "sysv64" fn interpret(state: *mut u64, number: u64, word: u64, plus: u64) -> u64 {
    // SAFETY: generated code calls with its state.
    let (processor, board, isa) = unsafe { context(state) };
    processor.pc = processor.state.head(head::PAGE) + plus;
    let before = (processor.key, processor.space());
    processor.counts[number as usize] += 1;
    take_float_flags(processor);
    match processor.interpret(isa, board, number as usize, word as u32) {
        End::Next | End::Give(_) => {
            processor.pc = processor.pc.wrapping_add(isa.instructions[number as usize].size.into());
            let is_same = (processor.key, processor.space()) == before;
            if is_same && !processor.must_attend && !processor.is_waiting && !processor.has_dropped {
                return 0;
            }
        }
        End::Jump(to) => processor.pc = to,
        End::Throw(thrown) => {
            processor.enter(isa, board, thrown);
        }
    }
    let pc = processor.pc;
    processor.state.set_head(head::PC, pc);
    1
}
