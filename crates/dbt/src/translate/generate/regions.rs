//! What is around a region's code (`region`): how blocks get there and away, and what it calls.
//!
//! A region is a function of the state and the set, which gives the number of the way that it is left by. It keeps no register
//! but the stack's and rbp. It is called with the stack as it is between blocks, and whatever throws in the midst of it goes
//! back to there.

use super::super::ir::Block;
use super::super::region::{Way, flags};
use super::super::x64::{Alu, Code, Condition, Mem, Reg, Shift, Size, Xmm};
use super::{Compiled, Generator, LOST, Room, STATE_AT, Seams, Site, Target, header};
use crate::state::head;

/// What a region calls, by its word in the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::translate) enum Call {
    /// Given the state, an address, and what is to be known of the access; leaves what it finds in the head.
    Load,
    /// The same, and a value.
    Store,
    /// Given the state: what its flags are is computed.
    Flags,
    /// The same, for who is about to leave: keeps rbp and r8.
    Leave,
}

const CALLS: [Call; 4] = [Call::Load, Call::Store, Call::Flags, Call::Leave];

/// Bytes of the jump of each way: a region gives its number times this.
pub(in crate::translate) const WAY_BYTES: usize = 8;

impl Call {
    pub(in crate::translate) fn word(self) -> u32 {
        head::REGIONS + self as u32
    }
}

/// Adds the code of what regions call; gives where each begins.
pub(in crate::translate) fn calls(code: &mut Code) -> Vec<(u32, usize)> {
    let settle = code.here();
    settle_flags(code);
    let mut all = Vec::new();
    for call in CALLS {
        match call {
            Call::Leave => all.push((call.word(), settle)),
            _ => {
                all.push((call.word(), code.here()));
                keeping_all(code, call, settle);
            }
        }
    }
    all
}

fn flags_word(number: u32) -> Mem {
    header(head::FLAGS + number)
}

/// Flags that are not in the state are computed and put there, if there are any. Changes what a call may, but not r8.
fn settle_flags(code: &mut Code) {
    code.load(64, Reg::Rsi, flags_word(flags::KIND));
    code.test(Size::S32, Reg::Rsi, Reg::Rsi);
    let some = code.jcc(Condition::NotEqual);
    code.ret();
    code.land(some);
    code.store_imm(flags_word(flags::KIND), 0);
    code.load(64, Reg::Rax, flags_word(flags::FIRST));
    code.load(64, Reg::Rdx, flags_word(flags::SECOND));
    code.load(64, Reg::Rdi, flags_word(flags::CARRY));
    let which = |code: &mut Code, bits: u8| {
        code.mov(Size::S32, Reg::Rcx, Reg::Rsi);
        code.alu_imm(Alu::And, Size::S32, Reg::Rcx, bits.into());
    };
    which(code, flags::CARRY_IN_WORD);
    let in_word = code.jcc(Condition::NotEqual);
    which(code, flags::CARRY_IS_ONE);
    code.mov(Size::S32, Reg::Rdi, Reg::Rcx);
    code.shift_imm(Shift::Shr, Size::S32, Reg::Rdi, flags::CARRY_IS_ONE.ilog2() as u8);
    code.land(in_word);
    which(code, flags::WHICH);
    code.shift_imm(Shift::Shr, Size::S64, Reg::Rsi, flags::OFFSET_AT);
    code.alu_imm(Alu::Cmp, Size::S32, Reg::Rcx, flags::NUMBER.into());
    let number = code.jcc(Condition::Equal);
    code.alu_imm(Alu::Cmp, Size::S32, Reg::Rcx, flags::SUM64.into());
    let long = code.jcc(Condition::Equal);
    // One and all ones: a carry.
    code.alu_imm(Alu::Add, Size::S32, Reg::Rdi, -1);
    code.alu(Alu::Adc, Size::S32, Reg::Rax, Reg::Rdx);
    let done = code.jmp();
    code.land(long);
    code.alu_imm(Alu::Add, Size::S32, Reg::Rdi, -1);
    code.alu(Alu::Adc, Size::S64, Reg::Rax, Reg::Rdx);
    code.land(done);
    code.lahf();
    code.setcc(Condition::Overflow, Reg::Rax);
    code.mov_imm32(Reg::Rcx, 0xc101);
    code.pext(Size::S32, Reg::Rax, Reg::Rax, Reg::Rcx);
    code.land(number);
    code.store(64, Mem::sum(Reg::Rbp, Reg::Rsi, -128), Reg::Rax);
    code.ret();
}

/// A call that keeps every register, as Cranelift's `preserve_all` has it: it is cold, and what is around it is not.
fn keeping_all(code: &mut Code, call: Call, settle: usize) {
    const VECTORS: u8 = 16;
    // With what was pushed, and the address to come back to, the stack is as calls need it.
    const ROOM: i32 = VECTORS as i32 * 16 + 8;
    let slot = |number: u8| Mem::at(Reg::Rsp, i32::from(number) * 16);
    let kept: Vec<Reg> = [Reg::Rax, Reg::Rcx, Reg::Rdx].into_iter().chain(LOST).chain([Reg::Rbp]).collect();
    kept.iter().for_each(|reg| code.push(*reg));
    code.alu_imm(Alu::Sub, Size::S64, Reg::Rsp, ROOM);
    (0..VECTORS).for_each(|number| code.vector_store(128, slot(number), Xmm(number)));
    code.lea(Size::S64, Reg::Rbp, Mem::at(Reg::Rdi, STATE_AT));
    let pushed = |reg: Reg| {
        let from_top = kept.iter().rev().position(|it| *it == reg).unwrap_or(0) as i32;
        Mem::at(Reg::Rsp, ROOM + from_top * 8)
    };
    code.call_to(settle);
    let called = match call {
        Call::Load => Some(head::LOAD),
        Call::Store => Some(head::STORE),
        Call::Flags | Call::Leave => None,
    };
    let fails = called.map(|word| {
        for reg in [Reg::Rdi, Reg::Rsi, Reg::Rdx, Reg::Rcx] {
            code.load(64, reg, pushed(reg));
        }
        code.call(header(word));
        code.test(Size::S32, Reg::Rdx, Reg::Rdx);
        code.jcc(Condition::NotEqual)
    });
    (0..VECTORS).for_each(|number| code.vector_load(128, Xmm(number), slot(number)));
    code.lea(Size::S64, Reg::Rsp, Mem::at(Reg::Rsp, ROOM));
    kept.iter().rev().for_each(|reg| code.pop(*reg));
    code.ret();
    if let Some(fails) = fails {
        code.land(fails);
        // Nobody comes back to the region.
        code.load(64, Reg::Rsp, header(head::STACK));
        code.mov_imm(Reg::Rax, 0);
        code.jmp_mem(header(head::LEAVE));
    }
}

/// Puts a region's code where blocks can go to.
pub(in crate::translate) fn enclose(body: &[u8], ways: &[Way], begin: u32, site: Site, has_flags: bool) -> Compiled {
    let block = Block::default().again(begin);
    let mut around = Generator::of(&block, site, &mut Room::default());
    around.code.lea(Size::S64, Reg::Rdi, Mem::at(Reg::Rbp, -STATE_AT));
    around.code.mov(Size::S64, Reg::Rsi, Reg::R14);
    around.code.store(64, header(head::STACK), Reg::Rsp);
    let calls = around.code.call_ahead();
    around.code.mov(Size::S64, Reg::R8, Reg::Rax);
    around.code.load(64, Reg::R14, header(head::SET));
    if has_flags {
        around.code.call(header(Call::Leave.word()));
    }
    let table = around.code.lea_ahead(Reg::Rcx);
    around.code.lea(Size::S64, Reg::Rcx, Mem::sum(Reg::Rcx, Reg::R8, 0));
    around.code.jmp_reg(Reg::Rcx);
    around.code.land(table);
    let mut jumps = Vec::new();
    for _ in ways {
        jumps.push(around.code.jmp());
        around.code.bytes.resize(around.code.here() + WAY_BYTES - 5, 0xcc);
    }
    for (way, jump) in ways.iter().zip(jumps) {
        around.code.land(jump);
        match *way {
            Way::Direct(plus) => around.leave(Target::Direct(plus)),
            Way::Indirect => {
                around.code.load(64, Reg::Rax, header(head::PC));
                around.look_up_code();
            }
            Way::Interpreter(pc) => around.leave(Target::Interpreter(pc)),
            Way::Attention(pc) => around.leave(Target::Poll(pc)),
        }
    }
    let stale = around.finish();
    around.code.bytes.resize(around.code.here().next_multiple_of(32), 0xcc);
    around.code.land(calls);
    around.code.bytes.extend_from_slice(body);
    Compiled { seams: Seams { stale: stale as u32, ..around.seams }, bytes: around.code.bytes }
}
