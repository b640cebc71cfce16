//! The filter over the process's system calls. It is installed before the program is loaded and is never lifted; a new
//! process has it, too.

use super::signals::host_return_end;
use super::{host, host_call_end};
use crate::errno::Result;
use crate::number;

#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// What the kernel tells of a call, by offset.
mod field {
    pub const NUMBER: u32 = 0;
    pub const ARCHITECTURE: u32 = 4;
    pub const ADDRESS_LOW: u32 = 8;
    pub const ADDRESS_HIGH: u32 = 12;
    pub const FIRST_ARGUMENT: u32 = 16;
}

const X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const KILL: u32 = 0x8000_0000;

/// Whatever their arguments: moving bytes through descriptors that it was given, and within them, which are the port's
/// socket, files lent for being mapped and what [`super::lent`] has; memory of its own, sleeping on its own memory and descriptors, moving a
/// new process's socket to its place, its own end. A program that jumps to the instruction can
/// - read, write, send and receive what its tender would have read, written, sent and received for it: they are the same
///   open files, opened as it may use them, and no call here makes descriptors or carries them anywhere;
/// - wait where its tender would have waited, or for ever, or steal its own wake-ups, which is nobody's loss but its own;
/// - keep open what it should have closed, so that whoever is at the other end does not see its end: as any process can.
const ALLOWED: [u32; 23] = [
    number::READ,
    number::WRITE,
    number::PREAD,
    number::PWRITE,
    number::FSTAT,
    number::LSEEK,
    number::FSYNC,
    number::FDATASYNC,
    number::EPOLL_WAIT,
    number::RECVFROM,
    number::SENDTO,
    number::WRITEV,
    number::READV,
    number::PPOLL,
    number::MMAP,
    number::MPROTECT,
    number::MUNMAP,
    number::MREMAP,
    number::MADVISE,
    number::FUTEX,
    number::CLOSE,
    number::DUP2,
    number::EXIT_GROUP,
];

/// Those that are allowed with one first argument only.
const ALLOWED_WITH: [(u32, usize); 2] = [
    (number::RECVMSG, super::SOCKET),
    // A process beside this one, with nothing shared: `CLONE_PARENT | SIGCHLD`.
    (number::CLONE, 0x8000 | 17),
];

const fn load(field: u32) -> Instruction {
    Instruction { code: 0x20, if_true: 0, if_false: 0, value: field }
}

const fn give(value: u32) -> Instruction {
    Instruction { code: 0x06, if_true: 0, if_false: 0, value }
}

/// Skips so many instructions when what was loaded is that value, or is not.
const fn compare(value: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code: 0x15, if_true, if_false, value }
}

const LENGTH: usize = 19 + 2 * ALLOWED.len() + 5 * ALLOWED_WITH.len();

pub fn install() -> Result<()> {
    const NO_NEW_PRIVILEGES: usize = 38;
    const SET_FILTER: usize = 1;
    let mut code = [give(TRAP); LENGTH];
    let mut used = 0;
    let mut put = |instruction| {
        code[used] = instruction;
        used += 1;
    };
    // Only the addresses are taken.
    let (ours, returning) = (&raw const host_call_end as u64, &raw const host_return_end as u64);
    put(load(field::ARCHITECTURE));
    put(compare(X86_64, 1, 0));
    put(give(KILL));
    put(load(field::NUMBER));
    // Our own handlers' way back; the program's own handlers were never the host's.
    put(compare(number::RT_SIGRETURN, 0, 6));
    put(load(field::ADDRESS_LOW));
    put(compare(returning as u32, 0, 3));
    put(load(field::ADDRESS_HIGH));
    put(compare((returning >> 32) as u32, 0, 1));
    put(give(ALLOW));
    put(give(TRAP));
    put(load(field::ADDRESS_LOW));
    put(compare(ours as u32, 1, 0));
    put(give(TRAP));
    put(load(field::ADDRESS_HIGH));
    put(compare((ours >> 32) as u32, 1, 0));
    put(give(TRAP));
    put(load(field::NUMBER));
    for number in ALLOWED {
        put(compare(number, 0, 1));
        put(give(ALLOW));
    }
    for (number, argument) in ALLOWED_WITH {
        put(compare(number, 0, 4));
        put(load(field::FIRST_ARGUMENT));
        put(compare(argument as u32, 0, 1));
        put(give(ALLOW));
        put(load(field::NUMBER));
    }
    put(give(TRAP));
    let program = Program { length: used as u16, instructions: code.as_ptr() };
    host(number::PRCTL, [NO_NEW_PRIVILEGES, 1, 0, 0, 0, 0])?;
    host(number::SECCOMP, [SET_FILTER, 0, &raw const program as usize, 0, 0, 0]).map(drop)
}
