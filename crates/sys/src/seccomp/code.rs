//! The instructions of which a filter is made.

use super::Instruction;

/// `AUDIT_ARCH_X86_64`.
pub const X86_64: u32 = 0xc000_003e;
/// `AUDIT_ARCH_I386`.
pub const I386: u32 = 0x4000_0003;

/// The call happens.
pub const ALLOW: u32 = 0x7fff_0000;
/// The listener is asked.
pub const ASK: u32 = 0x7fc0_0000;
/// The call fails, with the number that is added to this.
pub const FAIL: u32 = 0x0005_0000;
/// The process ends.
pub const KILL: u32 = 0x8000_0000;

/// The fields of the kernel's `seccomp_data`, as words: the call's number.
pub const LOAD_NUMBER: Instruction = load(0);
/// Whose numbers it is of.
pub const LOAD_ARCH: Instruction = load(4);
/// The lower and the upper half of the address behind the call's instruction.
pub const LOAD_ADDRESS: [Instruction; 2] = [load(8), load(12)];
/// The first argument, its lower half.
pub const LOAD_ARGUMENT_0: Instruction = load_argument(0)[0];

const fn load(at: u32) -> Instruction {
    Instruction { code: 0x20, jt: 0, jf: 0, k: at }
}

/// The lower and the upper half of an argument.
pub const fn load_argument(index: u32) -> [Instruction; 2] {
    [load(16 + 8 * index), load(20 + 8 * index)]
}

/// Ends with that.
pub const fn answer(k: u32) -> Instruction {
    Instruction { code: 0x06, jt: 0, jf: 0, k }
}

/// Skips so many instructions.
pub const fn jump(k: u32) -> Instruction {
    Instruction { code: 0x05, jt: 0, jf: 0, k }
}

/// Skips so many instructions, whether what is loaded is `k` or not.
pub const fn jump_if_equal(k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: 0x15, jt, jf, k }
}

/// The same, whether it is at least `k`.
pub const fn jump_if_at_least(k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: 0x35, jt, jf, k }
}

/// The same, whether it has any bit of `k`.
pub const fn jump_if_any_bit(k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: 0x45, jt, jf, k }
}
