//! From a block to instructions of the host.
//!
//! One pass forward. Each value has a register from where it is made to where it is last used, or a place on the stack if
//! there are too many. What a block knows of guest registers is written to the state where it is left, and in the cold code
//! of accesses that might throw; the hot path writes nothing that nobody looks at.
//!
//! | register | holds |
//! |---|---|
//! | rbp | the processor's state |
//! | r14 | the tables of the mode and address space |
//! | rax, rcx, rdx | nothing for longer than an operation |
//! | the others but rsp | values |

use isa::ops::{Binary, Unary, mask64};

use super::ir::{Block, Exit, Ir, StateId, Test, TestKind, Val, Value};
use super::sets;
use super::x64::{Alu, Code, Condition, Fixup, Group, Mem, Reg, Shift, Size};
use crate::state::head;

const VALUES: [Reg; 10] = [
    Reg::Rbx,
    Reg::Rsi,
    Reg::Rdi,
    Reg::R8,
    Reg::R9,
    Reg::R10,
    Reg::R11,
    Reg::R12,
    Reg::R13,
    Reg::R15,
];
/// Those that a call does not keep.
const LOST: [Reg; 6] = [Reg::Rsi, Reg::Rdi, Reg::R8, Reg::R9, Reg::R10, Reg::R11];
/// Places on the stack. A value that finds none makes the block too big, which is then cut.
pub(super) const PLACES: usize = 64;

/// Code of a block.
pub(super) struct Compiled {
    pub(super) bytes: Vec<u8>,
    /// Jumps that may go straight to another block: where their four bytes are, and where the other begins.
    pub(super) links: Vec<(usize, i64)>,
    /// Code that leaves because the block does not hold any more.
    pub(super) stale: usize,
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Nowhere,
    Host(Reg),
    Stack(usize),
}

/// Where an operand is.
#[derive(Debug, Clone, Copy)]
enum Source {
    Number(u64),
    Host(Reg),
    Stack(usize),
}

/// Code that is seldom reached.
enum Cold {
    Access { jumps: Fixup, back: usize, flush: Vec<(u32, Source)>, save: Vec<Reg>, address: Source, value: Option<Source>, meta: u64, to: Option<Reg> },
    Exit { jumps: Fixup, flush: Vec<(u32, Source)>, to: Target },
}

#[derive(Clone, Copy)]
enum Target {
    Direct(i64),
    Indirect(Source),
    Interpreter(u32),
}

struct Generator<'b> {
    block: &'b Block,
    code: Code,
    /// Where each value is last used; 0 if it is not.
    last: Vec<u32>,
    places: Vec<Place>,
    hosts: [Option<Value>; 16],
    stack: Vec<Option<Value>>,
    cold: Vec<Cold>,
    links: Vec<(usize, i64)>,
    /// The number of the first link.
    first_link: u64,
    at: u32,
}

/// A value had no place.
pub(super) struct TooBig;

/// Generates code for a block, the links of which have numbers from `first_link` on.
pub(super) fn generate(block: &Block, first_link: u64) -> Result<Compiled, TooBig> {
    let count = block.code.len();
    let mut generator = Generator {
        block,
        code: Code::default(),
        last: last_uses(block),
        places: vec![Place::Nowhere; count],
        hosts: [None; 16],
        stack: vec![None; PLACES],
        cold: Vec::new(),
        links: Vec::new(),
        first_link,
        at: 0,
    };
    for (at, ir) in block.code.iter().enumerate() {
        generator.at = at as u32;
        if ir.is_pure() && generator.last[at] == 0 {
            continue;
        }
        generator.operation(at as Value, *ir)?;
        generator.release();
    }
    let stale = generator.finish();
    Ok(Compiled { bytes: generator.code.bytes, links: generator.links, stale })
}

fn last_uses(block: &Block) -> Vec<u32> {
    let mut last = vec![0; block.code.len()];
    for (at, ir) in block.code.iter().enumerate().rev() {
        if ir.is_pure() && last[at] == 0 {
            continue;
        }
        let mut used = |value: Val| {
            if let Val::Value(value) = value {
                let last = &mut last[value as usize];
                *last = (*last).max(at as u32);
            }
        };
        ir.each(&mut used);
        if let Some(state) = ir.state() {
            block.states[state as usize].dirty.iter().for_each(|(_, value)| used(*value));
        }
    }
    last
}

fn slot(place: usize) -> Mem {
    Mem::at(Reg::Rsp, (place * 8) as i32)
}

fn state(offset: u32) -> Mem {
    Mem::at(Reg::Rbp, (head::SIZE + offset) as i32)
}

fn header(word: u32) -> Mem {
    Mem::at(Reg::Rbp, (word * 8) as i32)
}

fn imm(value: Val, size: Size) -> Option<i32> {
    match value {
        Val::Number(number) => match size {
            Size::S32 => Some(number as u32 as i32),
            Size::S64 => i32::try_from(number as i64).ok(),
        },
        Val::Value(_) => None,
    }
}

impl Generator<'_> {
    /// Values that were last used by this operation leave their places.
    fn release(&mut self) {
        let at = self.at;
        for host in &mut self.hosts {
            if let Some(value) = *host
                && self.last[value as usize] <= at
            {
                self.places[value as usize] = Place::Nowhere;
                *host = None;
            }
        }
        for place in &mut self.stack {
            if place.is_some_and(|value| self.last[value as usize] <= at) {
                *place = None;
            }
        }
    }

    fn source(&self, value: Val) -> Source {
        match value {
            Val::Number(number) => Source::Number(number),
            Val::Value(value) => match self.places[value as usize] {
                Place::Host(reg) => Source::Host(reg),
                Place::Stack(place) => Source::Stack(place),
                // Only what nobody uses is nowhere.
                Place::Nowhere => Source::Number(0),
            },
        }
    }

    fn move_to(&mut self, to: Reg, from: Source) {
        match from {
            Source::Number(number) => self.code.mov_imm(to, number),
            Source::Host(reg) => self.code.mov(Size::S64, to, reg),
            Source::Stack(place) => self.code.load(64, to, slot(place)),
        }
    }

    /// Moves an operand to one of the registers that hold nothing.
    fn into(&mut self, value: Val, to: Reg) {
        let from = self.source(value);
        self.move_to(to, from);
    }

    /// The register of an operand: its own, or `scratch`, where it then is.
    fn operand(&mut self, value: Val, scratch: Reg) -> Reg {
        if let Source::Host(reg) = self.source(value) {
            return reg;
        }
        self.into(value, scratch);
        scratch
    }

    /// A register for the value that is being made. What is used by this operation stays where it is.
    fn destination(&mut self, value: Value) -> Result<Reg, TooBig> {
        let reg = match VALUES.into_iter().find(|reg| self.hosts[*reg as usize].is_none()) {
            Some(reg) => reg,
            None => self.evict()?,
        };
        self.hosts[reg as usize] = Some(value);
        self.places[value as usize] = Place::Host(reg);
        Ok(reg)
    }

    /// The same; the register of an operand that is not needed any more is taken over, with the operand in it.
    fn destination_from(&mut self, value: Value, first: Val) -> Result<Reg, TooBig> {
        if let Val::Value(operand) = first
            && self.last[operand as usize] <= self.at
            && let Place::Host(reg) = self.places[operand as usize]
        {
            self.hosts[reg as usize] = Some(value);
            self.places[value as usize] = Place::Host(reg);
            self.places[operand as usize] = Place::Nowhere;
            return Ok(reg);
        }
        // Operands of this operation are not moved by making room.
        let from = self.source(first);
        let reg = self.destination(value)?;
        self.move_to(reg, from);
        Ok(reg)
    }

    /// The value that is used last of all goes to the stack.
    fn evict(&mut self) -> Result<Reg, TooBig> {
        let mut used = Vec::new();
        self.block.code[self.at as usize].each(|value| used.push(value));
        let is_used = |value: Value| used.contains(&Val::Value(value));
        let candidates = VALUES.into_iter().filter_map(|reg| Some((reg, self.hosts[reg as usize]?)));
        let (reg, value) = candidates
            .filter(|(_, value)| !is_used(*value))
            .max_by_key(|(_, value)| self.last[*value as usize])
            .ok_or(TooBig)?;
        let place = self.stack.iter().position(Option::is_none).ok_or(TooBig)?;
        self.code.store(64, slot(place), reg);
        self.stack[place] = Some(value);
        self.places[value as usize] = Place::Stack(place);
        self.hosts[reg as usize] = None;
        Ok(reg)
    }

    fn operation(&mut self, own: Value, ir: Ir) -> Result<(), TooBig> {
        match ir {
            Ir::Read { offset } => {
                let to = self.destination(own)?;
                self.code.load(64, to, state(offset));
            }
            Ir::Page { plus } => {
                let to = self.destination(own)?;
                self.code.load(64, to, header(head::PAGE));
                self.code.alu_imm(Alu::Add, Size::S64, to, plus as i32);
            }
            Ir::Unary(operator, width, a) => self.unary(own, operator, width, a)?,
            Ir::Binary(operator, width, a, b) => self.binary(own, operator, width, a, b)?,
            Ir::Select(_, condition, yes, no) => {
                let condition = self.operand(condition, Reg::Rax);
                self.code.test(Size::S32, condition, condition);
                // A move touches no flag, but a number zero would.
                let yes = match self.source(yes) {
                    Source::Host(reg) => reg,
                    other => {
                        self.move_keeping_flags(Reg::Rcx, other);
                        Reg::Rcx
                    }
                };
                let no = self.source(no);
                let to = self.destination(own)?;
                self.move_keeping_flags(to, no);
                self.code.cmov(Condition::NotEqual, Size::S64, to, yes);
            }
            Ir::Slice { of, low, width } => {
                let to = self.destination_from(own, of)?;
                if low > 0 {
                    self.code.shift_imm(Shift::Shr, Size::S64, to, low);
                }
                if low + width < 64 {
                    self.trim(to, width);
                }
            }
            Ir::Sext { of, from, to: width } => self.sext(own, of, from, width)?,
            Ir::Flags { width, a, b, carry } => self.flags(own, width, a, b, carry)?,
            Ir::Load { address, width, how, at } => self.load(own, address, width, how, at)?,
            Ir::Store { address, value, width, how, at } => self.store(address, value, width, how, at),
            Ir::Interpret { instruction, word, at } => self.interpret(instruction, word, at),
            Ir::ExitIf { test, to, at } => self.exit_if(test, to, at),
            Ir::Exit { to, at } => {
                let flush = self.flush_of(at);
                self.flush(&flush);
                let to = self.target(to, at);
                self.leave(to);
            }
            Ir::Nothing => {}
        }
        Ok(())
    }

    fn move_keeping_flags(&mut self, to: Reg, from: Source) {
        match from {
            Source::Number(0) => {
                // The form of four bytes does not clear by itself.
                self.code.mov_imm32(to, 0);
            }
            other => self.move_to(to, other),
        }
    }

    /// Leaves so many low bits.
    fn trim(&mut self, reg: Reg, width: u8) {
        match width {
            8 => self.code.movzx8(reg, reg),
            16 => self.code.movzx16(reg, reg),
            32 => self.code.mov(Size::S32, reg, reg),
            64 => {}
            1..=31 => self.code.alu_imm(Alu::And, Size::S32, reg, mask64(width) as i32),
            _ => {
                self.code.shift_imm(Shift::Shl, Size::S64, reg, 64 - width);
                self.code.shift_imm(Shift::Shr, Size::S64, reg, 64 - width);
            }
        }
    }

    fn trim_result(&mut self, reg: Reg, width: u8) {
        if !matches!(width, 32 | 64) {
            self.trim(reg, width);
        }
    }

    fn unary(&mut self, own: Value, operator: Unary, width: u8, a: Val) -> Result<(), TooBig> {
        let size = Size::of(width);
        let to = self.destination_from(own, a)?;
        match operator {
            Unary::Invert if width == 1 => self.code.alu_imm(Alu::Xor, Size::S32, to, 1),
            Unary::Invert => {
                self.code.group(Group::Not, size, to);
                self.trim_result(to, width);
            }
            Unary::Negate => {
                self.code.group(Group::Neg, size, to);
                self.trim_result(to, width);
            }
            Unary::LeadingZeros => self.code.count(0xbd, size, to, to),
            Unary::TrailingZeros => self.code.count(0xbc, size, to, to),
            Unary::Ones => self.code.count(0xb8, size, to, to),
            // Whoever specialises does not let the last one through.
            Unary::ReverseBytes | Unary::ReverseBits => self.code.bswap(size, to),
        }
        Ok(())
    }

    fn binary(&mut self, own: Value, operator: Binary, width: u8, a: Val, b: Val) -> Result<(), TooBig> {
        let size = Size::of(width);
        match operator {
            Binary::Add | Binary::Subtract | Binary::And | Binary::Or | Binary::Xor => {
                let operation = match operator {
                    Binary::Add => Alu::Add,
                    Binary::Subtract => Alu::Sub,
                    Binary::And => Alu::And,
                    Binary::Or => Alu::Or,
                    _ => Alu::Xor,
                };
                let to = self.from_left(own, a, b)?;
                self.apply(operation, size, to, b);
                if matches!(operator, Binary::Add | Binary::Subtract) {
                    self.trim_result(to, width);
                }
            }
            Binary::Multiply => {
                let to = self.from_left(own, a, b)?;
                let b = self.operand(b, Reg::Rcx);
                self.code.imul(size, to, b);
                self.trim_result(to, width);
            }
            Binary::MultiplyHigh | Binary::SignedMultiplyHigh => {
                self.into(a, Reg::Rax);
                let b = self.operand(b, Reg::Rcx);
                let group = if operator == Binary::MultiplyHigh { Group::Mul } else { Group::Imul };
                self.code.group(group, size, b);
                let to = self.destination(own)?;
                self.code.mov(size, to, Reg::Rdx);
            }
            Binary::Divide | Binary::SignedDivide | Binary::Remainder | Binary::SignedRemainder => {
                self.divide(operator, size, a, b);
                let is_quotient = matches!(operator, Binary::Divide | Binary::SignedDivide);
                let to = self.destination(own)?;
                self.code.mov(size, to, if is_quotient { Reg::Rax } else { Reg::Rdx });
            }
            Binary::ShiftLeft => self.shift(own, Shift::Shl, width, a, b)?,
            Binary::ShiftRight => self.shift(own, Shift::Shr, width, a, b)?,
            Binary::SignedShiftRight => self.shift(own, Shift::Sar, width, a, b)?,
            Binary::RotateRight => {
                self.into(b, Reg::Rcx);
                let to = self.from_left(own, a, b)?;
                self.code.shift_cl(Shift::Ror, size, to);
            }
            Binary::Equal | Binary::Less | Binary::SignedLess => {
                let condition = match operator {
                    Binary::Equal => Condition::Equal,
                    Binary::Less => Condition::Below,
                    _ => Condition::Less,
                };
                self.compare(size, a, b);
                self.code.setcc(condition, Reg::Rax);
                let to = self.destination(own)?;
                self.code.movzx8(to, Reg::Rax);
            }
        }
        Ok(())
    }

    /// As `destination_from`, when the right operand is used after: its register is not taken.
    fn from_left(&mut self, own: Value, a: Val, b: Val) -> Result<Reg, TooBig> {
        if a == b {
            // Taking it over would leave the other operand nowhere.
            let from = self.source(a);
            let to = self.destination(own)?;
            self.move_to(to, from);
            return Ok(to);
        }
        self.destination_from(own, a)
    }

    fn apply(&mut self, operation: Alu, size: Size, to: Reg, b: Val) {
        if let Some(number) = imm(b, size) {
            self.code.alu_imm(operation, size, to, number);
            return;
        }
        match self.source(b) {
            Source::Host(reg) => self.code.alu(operation, size, to, reg),
            Source::Stack(place) => self.code.alu_mem(operation, size, to, slot(place)),
            Source::Number(number) => {
                self.code.mov_imm(Reg::Rcx, number);
                self.code.alu(operation, size, to, Reg::Rcx);
            }
        }
    }

    fn compare(&mut self, size: Size, a: Val, b: Val) {
        let a = self.operand(a, Reg::Rax);
        if b == Val::Number(0) {
            self.code.test(size, a, a);
        } else {
            self.apply(Alu::Cmp, size, a, b);
        }
    }

    fn shift(&mut self, own: Value, operation: Shift, width: u8, a: Val, b: Val) -> Result<(), TooBig> {
        let size = Size::of(width);
        match b {
            Val::Number(by) => {
                let to = self.destination_from(own, a)?;
                let most = if size == Size::S32 { 31 } else { 63 };
                if by >= u64::from(width) && operation != Shift::Sar {
                    self.code.mov_imm(to, 0);
                } else {
                    self.code.shift_imm(operation, size, to, by.min(most) as u8);
                }
                if operation == Shift::Shl {
                    self.trim_result(to, width);
                }
            }
            b => {
                let by = self.operand(b, Reg::Rcx);
                let a = self.operand(a, Reg::Rax);
                let to = self.destination(own)?;
                self.code.shift_by(operation, size, to, a, by);
                if operation == Shift::Shl {
                    self.trim_result(to, width);
                }
            }
        }
        Ok(())
    }

    /// The quotient in rax, the remainder in rdx. By zero: nothing, and the dividend.
    fn divide(&mut self, operator: Binary, size: Size, a: Val, b: Val) {
        let is_signed = matches!(operator, Binary::SignedDivide | Binary::SignedRemainder);
        self.into(b, Reg::Rcx);
        self.into(a, Reg::Rax);
        self.code.test(size, Reg::Rcx, Reg::Rcx);
        let zero = self.code.jcc(Condition::Equal);
        let mut ends = Vec::new();
        if is_signed {
            // The least number by -1 would fault; by -1, the quotient is the negative.
            self.code.alu_imm(Alu::Cmp, size, Reg::Rcx, -1);
            let plain = self.code.jcc(Condition::NotEqual);
            self.code.group(Group::Neg, size, Reg::Rax);
            self.code.mov_imm(Reg::Rdx, 0);
            ends.push(self.code.jmp());
            self.code.land(plain);
            self.code.cqo(size);
            self.code.group(Group::Idiv, size, Reg::Rcx);
        } else {
            self.code.mov_imm(Reg::Rdx, 0);
            self.code.group(Group::Div, size, Reg::Rcx);
        }
        ends.push(self.code.jmp());
        self.code.land(zero);
        self.code.mov(size, Reg::Rdx, Reg::Rax);
        self.code.mov_imm(Reg::Rax, 0);
        ends.into_iter().for_each(|end| self.code.land(end));
    }

    fn sext(&mut self, own: Value, of: Val, from: u8, width: u8) -> Result<(), TooBig> {
        let size = Size::of(width);
        if matches!(from, 8 | 16 | 32) {
            let of = self.operand(of, Reg::Rax);
            let to = self.destination(own)?;
            self.code.movsx(from, size, to, of);
            self.trim_result(to, width);
            return Ok(());
        }
        let to = self.destination_from(own, of)?;
        let by = if size == Size::S32 { 32 - from } else { 64 - from };
        self.code.shift_imm(Shift::Shl, size, to, by);
        self.code.shift_imm(Shift::Sar, size, to, by);
        self.trim_result(to, width);
        Ok(())
    }

    /// N, Z, C and V: the host's flags, put together.
    fn flags(&mut self, own: Value, width: u8, a: Val, b: Val, carry: Val) -> Result<(), TooBig> {
        let size = Size::of(width);
        self.into(a, Reg::Rax);
        match carry {
            Val::Number(0) => self.apply(Alu::Add, size, Reg::Rax, b),
            carry => {
                let b = self.operand(b, Reg::Rcx);
                self.into(carry, Reg::Rdx);
                // One and all ones: a carry.
                self.code.alu_imm(Alu::Add, Size::S32, Reg::Rdx, -1);
                self.code.alu(Alu::Adc, size, Reg::Rax, b);
            }
        }
        self.code.lahf();
        self.code.setcc(Condition::Overflow, Reg::Rax);
        let to = self.destination(own)?;
        self.code.mov_imm32(Reg::Rcx, 0xc101);
        self.code.pext(Size::S32, to, Reg::Rax, Reg::Rcx);
        Ok(())
    }

    /// Leaves rcx with what is added to the address, or goes to cold code.
    fn look_up(&mut self, address: Reg, bytes: u8, table: i32) -> Fixup {
        self.code.mov(Size::S64, Reg::Rcx, address);
        self.code.shift_imm(Shift::Shr, Size::S64, Reg::Rcx, 8);
        self.code.alu_imm(Alu::And, Size::S32, Reg::Rcx, ((sets::ENTRIES - 1) << 4) as i32);
        // An access that reaches into the next page has that page's tag.
        self.code.lea(Reg::Rdx, Mem::at(address, i32::from(bytes) - 1));
        self.code.alu_imm(Alu::And, Size::S64, Reg::Rdx, -4096);
        let entry = Mem { base: Reg::R14, index: Some(Reg::Rcx), disp: table };
        self.code.alu_mem(Alu::Cmp, Size::S64, Reg::Rdx, entry);
        let cold = self.code.jcc(Condition::NotEqual);
        self.code.load(64, Reg::Rcx, Mem { disp: table + 8, ..entry });
        cold
    }

    fn load(&mut self, own: Value, address: Val, width: u8, how: u8, at: StateId) -> Result<(), TooBig> {
        // First of all, because making room for it is not done again in the cold code.
        let to = if self.last[own as usize] > 0 { self.destination(own)? } else { Reg::Rdx };
        let from = self.operand(address, Reg::Rax);
        let source = self.source(address);
        let flush = self.flush_of(at);
        let jumps = self.look_up(from, width / 8, sets::READ);
        self.code.load(width, to, Mem { base: Reg::Rcx, index: Some(from), disp: 0 });
        let save = self.saved(Some(to));
        let meta = self.meta(width, how, at);
        let back = self.code.here();
        let to = Some(to);
        self.cold.push(Cold::Access { jumps, back, flush, save, address: source, value: None, meta, to });
        Ok(())
    }

    fn store(&mut self, address: Val, value: Val, width: u8, how: u8, at: StateId) {
        let to = self.operand(address, Reg::Rax);
        let (address, source) = (self.source(address), self.source(value));
        let flush = self.flush_of(at);
        let jumps = self.look_up(to, width / 8, sets::WRITE);
        let from = self.operand(value, Reg::Rdx);
        self.code.store(width, Mem { base: Reg::Rcx, index: Some(to), disp: 0 }, from);
        let save = self.saved(None);
        let meta = self.meta(width, how, at);
        let back = self.code.here();
        self.cold.push(Cold::Access { jumps, back, flush, save, address, value: Some(source), meta, to: None });
    }

    fn meta(&self, width: u8, how: u8, at: StateId) -> u64 {
        u64::from(width) | u64::from(how) << 8 | u64::from(self.block.states[at as usize].pc) << 16
    }

    /// Registers that a call would lose and that hold something that is used later.
    fn saved(&self, but: Option<Reg>) -> Vec<Reg> {
        let is_live = |reg: &Reg| {
            Some(*reg) != but
                && self.hosts[*reg as usize].is_some_and(|value| self.last[value as usize] > self.at)
        };
        LOST.into_iter().filter(is_live).collect()
    }

    fn flush_of(&self, at: StateId) -> Vec<(u32, Source)> {
        let dirty = &self.block.states[at as usize].dirty;
        dirty.iter().map(|(offset, value)| (*offset, self.source(*value))).collect()
    }

    fn flush(&mut self, flush: &[(u32, Source)]) {
        for (offset, source) in flush {
            let to = state(*offset);
            match *source {
                Source::Host(reg) => self.code.store(64, to, reg),
                Source::Number(number) => match i32::try_from(number as i64) {
                    Ok(number) => self.code.store_imm(to, number),
                    Err(_) => {
                        self.code.mov_imm(Reg::Rdx, number);
                        self.code.store(64, to, Reg::Rdx);
                    }
                },
                Source::Stack(place) => {
                    self.code.load(64, Reg::Rdx, slot(place));
                    self.code.store(64, to, Reg::Rdx);
                }
            }
        }
    }

    fn interpret(&mut self, instruction: u32, word: u32, at: StateId) {
        let flush = self.flush_of(at);
        self.flush(&flush);
        self.code.mov(Size::S64, Reg::Rdi, Reg::Rbp);
        self.code.mov_imm(Reg::Rsi, instruction.into());
        self.code.mov_imm(Reg::Rdx, word.into());
        self.code.mov_imm(Reg::Rcx, self.block.states[at as usize].pc.into());
        self.code.call(header(head::INTERPRET));
        self.code.test(Size::S32, Reg::Rax, Reg::Rax);
        let stay = self.code.jcc(Condition::Equal);
        self.code.mov_imm(Reg::Rax, 0);
        self.code.jmp_mem(header(head::LEAVE));
        self.code.land(stay);
    }

    fn target(&self, to: Exit, at: StateId) -> Target {
        match to {
            Exit::Direct { plus } => Target::Direct(plus),
            Exit::Indirect(value) => Target::Indirect(self.source(value)),
            Exit::Interpreter => Target::Interpreter(self.block.states[at as usize].pc),
        }
    }

    fn exit_if(&mut self, test: Test, to: Exit, at: StateId) {
        self.compare(Size::of(test.width), test.a, test.b);
        let condition = match test.kind {
            TestKind::Equal => Condition::Equal,
            TestKind::NotEqual => Condition::NotEqual,
            TestKind::Below => Condition::Below,
            TestKind::NotBelow => Condition::AboveEqual,
            TestKind::Less => Condition::Less,
            TestKind::NotLess => Condition::GreaterEqual,
        };
        let jumps = self.code.jcc(condition);
        let flush = self.flush_of(at);
        let to = self.target(to, at);
        self.cold.push(Cold::Exit { jumps, flush, to });
    }

    fn leave(&mut self, to: Target) {
        match to {
            Target::Direct(plus) if (0..4096).contains(&plus) => self.link(plus),
            Target::Direct(plus) => {
                self.code.load(64, Reg::Rax, header(head::PAGE));
                self.code.alu_imm(Alu::Add, Size::S64, Reg::Rax, plus as i32);
                self.code.jmp_mem(header(head::LOOK_UP));
            }
            Target::Indirect(source) => {
                self.move_to(Reg::Rax, source);
                self.code.jmp_mem(header(head::LOOK_UP));
            }
            Target::Interpreter(pc) => {
                self.set_pc(pc.into());
                self.code.mov_imm(Reg::Rax, head::INTERPRET_NEXT);
                self.code.jmp_mem(header(head::LEAVE));
            }
        }
    }

    fn set_pc(&mut self, plus: i64) {
        self.code.load(64, Reg::Rax, header(head::PAGE));
        self.code.alu_imm(Alu::Add, Size::S64, Reg::Rax, plus as i32);
        self.code.store(64, header(head::PC), Reg::Rax);
    }

    /// A jump within the page, which may once go straight to another block. Whoever turns back looks for interrupts.
    fn link(&mut self, plus: i64) {
        let interrupted = (plus <= i64::from(self.block.begin)).then(|| {
            self.code.load(64, Reg::Rcx, header(head::ATTENTION));
            self.code.cmp_mem_imm(Mem::at(Reg::Rcx, 0), 0);
            self.code.jcc(Condition::NotEqual)
        });
        let number = self.first_link + self.links.len() as u64;
        let Fixup(at) = self.code.jmp();
        self.code.land(Fixup(at));
        self.links.push((at, plus));
        self.set_pc(plus);
        self.code.mov_imm(Reg::Rax, number);
        self.code.jmp_mem(header(head::LEAVE));
        if let Some(interrupted) = interrupted {
            self.code.land(interrupted);
            self.set_pc(plus);
            self.code.mov_imm(Reg::Rax, 0);
            self.code.jmp_mem(header(head::LEAVE));
        }
    }

    /// Cold code. Gives where what leaves a stale block is.
    fn finish(&mut self) -> usize {
        for cold in std::mem::take(&mut self.cold) {
            match cold {
                Cold::Exit { jumps, flush, to } => {
                    self.code.land(jumps);
                    self.flush(&flush);
                    self.leave(to);
                }
                Cold::Access { jumps, back, flush, save, address, value, meta, to } => {
                    self.code.land(jumps);
                    self.flush(&flush);
                    self.access(&save, address, value, meta, to);
                    self.code.jmp_to(back);
                }
            }
        }
        let stale = self.code.here();
        self.set_pc(self.block.begin.into());
        self.code.mov_imm(Reg::Rax, 0);
        self.code.jmp_mem(header(head::LEAVE));
        stale
    }

    /// An access by the processor.
    fn access(&mut self, save: &[Reg], address: Source, value: Option<Source>, meta: u64, to: Option<Reg>) {
        self.move_to(Reg::Rax, address);
        if let Some(value) = value {
            self.move_to(Reg::Rcx, value);
        }
        save.iter().for_each(|reg| self.code.push(*reg));
        let is_odd = save.len() % 2 == 1;
        if is_odd {
            self.code.push(Reg::Rax);
        }
        self.code.mov(Size::S64, Reg::Rdi, Reg::Rbp);
        self.code.mov(Size::S64, Reg::Rsi, Reg::Rax);
        self.code.mov_imm(Reg::Rdx, meta);
        self.code.call(header(if value.is_some() { head::STORE } else { head::LOAD }));
        if is_odd {
            self.code.pop(Reg::Rcx);
        }
        save.iter().rev().for_each(|reg| self.code.pop(*reg));
        self.code.test(Size::S32, Reg::Rdx, Reg::Rdx);
        let done = self.code.jcc(Condition::Equal);
        self.code.mov_imm(Reg::Rax, 0);
        self.code.jmp_mem(header(head::LEAVE));
        self.code.land(done);
        if let Some(to) = to {
            self.code.mov(Size::S64, to, Reg::Rax);
        }
    }
}
