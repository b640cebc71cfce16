//! Code that all blocks share: how one goes into generated code and leaves it, and what a block's cold code calls.
//!
//! A block asks for something with an address in rax, what is to be known of the access in edx, and perhaps a value in rcx. What
//! keeps its registers, calls, and looks whether anything was thrown is here once: it was a third of all code when each
//! access had its own, most of which never ran.

use super::accesses::Saved;
use super::vectors::VECTORS;
use super::{LOST, PLACES, STATE_AT, WIDE_PLACES, header};
use crate::state::head;
use crate::tlb::PAGE_BITS;
use crate::translate::ir::Table;
use crate::translate::sets::{self, Alignment, Jumps};
use crate::translate::x64::{Alu, Code, Condition, Mem, Reg, Size, Xmm};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    Load,
    Store,
    /// A page is looked for that is to be written.
    Touch,
}

const ERRANDS: [Errand; 3] = [Errand::Load, Errand::Store, Errand::Touch];
const SAVED: [Saved; 2] = [Saved::General, Saved::All];

/// Where the address of what looks for a page is found: with an address in rax and in edx how many bytes behind its first are
/// wanted, it leaves rcx with what is added, and the host's flags say "equal" if it is there.
pub(super) fn look(table: Table) -> u32 {
    head::LOOKS + table as u32
}

/// Where the address of what is called is found, in the head.
pub(super) fn word(errand: Errand, saved: Saved) -> u32 {
    head::ERRANDS + errand as u32 + if saved == Saved::All { ERRANDS.len() as u32 } else { 0 }
}

/// Code of all of it, and where its parts begin.
pub(crate) struct Shared {
    pub(crate) code: Vec<u8>,
    /// Goes from us to generated code, and comes back.
    pub(crate) enter: usize,
    /// Leaves with a reason in rax.
    pub(crate) leave: usize,
    /// Leaves for the address in rax.
    pub(crate) unknown: usize,
    /// What blocks and regions call, by its word in the head.
    pub(crate) errands: Vec<(u32, usize)>,
}

pub(crate) fn shared(alignment: Alignment) -> Shared {
    let mut code = Code::default();
    let kept = [Reg::Rbp, Reg::Rbx, Reg::R12, Reg::R13, Reg::R14, Reg::R15];
    let frame = (PLACES * 8 + WIDE_PLACES * 16 + 8) as i32;
    kept.iter().for_each(|reg| code.push(*reg));
    code.alu_imm(Alu::Sub, Size::S64, Reg::Rsp, frame);
    code.lea(Size::S64, Reg::Rbp, Mem::at(Reg::Rdi, STATE_AT));
    code.load(64, Reg::R14, header(head::SET));
    code.float_control(header(head::FLOAT_CONTROL), false);
    code.jmp_reg(Reg::Rsi);
    let leave = code.here();
    code.float_control(header(head::FLOAT_LEFT), true);
    code.alu_imm(Alu::Add, Size::S64, Reg::Rsp, frame);
    kept.iter().rev().for_each(|reg| code.pop(*reg));
    code.ret();
    let unknown = code.here();
    // It may have had to make room for other code in the first table.
    jump(&mut code, alignment, Jumps::Second);
    code.store(64, header(head::PC), Reg::Rax);
    code.mov_imm(Reg::Rax, 0);
    code.jmp_mem(header(head::LEAVE));
    let mut errands = Vec::new();
    for saved in SAVED {
        for errand in ERRANDS {
            errands.push((word(errand, saved), code.here()));
            run(&mut code, errand, saved);
        }
    }
    for table in [Table::Read, Table::Write] {
        errands.push((look(table), code.here()));
        search(&mut code, table);
    }
    errands.extend(super::regions::calls(&mut code));
    Shared { code: code.bytes, enter: 0, leave, unknown, errands }
}

/// Leaves rcx so that an address has its entry there.
pub(super) fn entry(code: &mut Code, address: Reg, table: Table) -> Mem {
    // What is rotated out to the top is cut away with the rest.
    code.rotated(Reg::Rcx, address, PAGE_BITS as u8 - sets::ENTRY_BITS);
    code.alu_imm(Alu::And, Size::S32, Reg::Rcx, ((sets::ENTRIES - 1) << sets::ENTRY_BITS) as i32);
    Mem::sum(Reg::R14, Reg::Rcx, table.offset())
}

/// Goes to the code for the address in rax if a table of jumps has it and nobody wants the processor. If not, it goes on here,
/// with the address in rax.
pub(super) fn jump(code: &mut Code, alignment: Alignment, table: Jumps) {
    code.load(64, Reg::Rcx, header(head::ATTENTION));
    code.cmp_mem_imm(Mem::at(Reg::Rcx, 0), 0);
    let interrupted = code.jcc(Condition::NotEqual);
    // An address that is a multiple of the alignment is its slot, and a scale makes an offset of that. What is rotated out to the
    // top is cut away with the rest.
    code.rotated(Reg::Rcx, Reg::Rax, alignment.fold(table));
    code.alu(Alu::Xor, Size::S32, Reg::Rcx, Reg::Rax);
    code.alu_imm(Alu::And, Size::S32, Reg::Rcx, ((table.entries() - 1) << alignment.bits()) as i32);
    let entry = Mem { scale: alignment.shift(), ..Mem::sum(Reg::R14, Reg::Rcx, table.offset()) };
    code.alu_mem(Alu::Cmp, Size::S64, Reg::Rax, entry);
    let unknown = code.jcc(Condition::NotEqual);
    code.alu_imm(Alu::And, Size::S64, Reg::Rax, -4096);
    code.store(64, header(head::PAGE), Reg::Rax);
    code.jmp_mem(Mem { disp: entry.disp + 8, ..entry });
    code.land(interrupted);
    code.land(unknown);
}

fn search(code: &mut Code, table: Table) {
    let entry = entry(code, Reg::Rax, table);
    code.alu(Alu::Add, Size::S64, Reg::Rdx, Reg::Rax);
    code.alu_imm(Alu::And, Size::S64, Reg::Rdx, -4096);
    code.alu_mem(Alu::Cmp, Size::S64, Reg::Rdx, entry);
    code.load(64, Reg::Rcx, Mem { disp: entry.disp + 8, ..entry });
    code.ret();
}

/// Runs an errand. The stack is eight bytes off its alignment, as after every call.
fn run(code: &mut Code, errand: Errand, saved: Saved) {
    let vectors = if saved == Saved::All { VECTORS } else { 0 };
    let room = i32::from(vectors) * 16 + 8;
    let slot = |number: u8| Mem::at(Reg::Rsp, i32::from(number) * 16);
    // An even number of them.
    LOST.iter().for_each(|reg| code.push(*reg));
    code.alu_imm(Alu::Sub, Size::S64, Reg::Rsp, room);
    (0..vectors).for_each(|number| code.vector_store(128, slot(number), Xmm(number)));
    code.lea(Size::S64, Reg::Rdi, Mem::at(Reg::Rbp, -STATE_AT));
    code.mov(Size::S64, Reg::Rsi, Reg::Rax);
    code.call(header(match errand {
        Errand::Load => head::LOAD,
        Errand::Store => head::STORE,
        Errand::Touch => head::TOUCH,
    }));
    (0..vectors).for_each(|number| code.vector_load(128, Xmm(number), slot(number)));
    code.lea(Size::S64, Reg::Rsp, Mem::at(Reg::Rsp, room));
    LOST.iter().rev().for_each(|reg| code.pop(*reg));
    let failed = match errand {
        Errand::Touch => Reg::Rax,
        Errand::Load | Errand::Store => Reg::Rdx,
    };
    code.test(Size::S32, failed, failed);
    let fails = code.jcc(Condition::NotEqual);
    code.ret();
    code.land(fails);
    // Nobody comes back to the block.
    code.lea(Size::S64, Reg::Rsp, Mem::at(Reg::Rsp, 8));
    code.mov_imm(Reg::Rax, if errand == Errand::Touch { head::INTERPRET_NEXT } else { 0 });
    code.jmp_mem(header(head::LEAVE));
}
