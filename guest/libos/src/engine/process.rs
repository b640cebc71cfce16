//! The engine without a virtual machine: a process of the host, under a filter that leaves it a dozen system calls.
//!
//! The filter tells by **the address of the instruction**: one `syscall` instruction in this module may reach the host,
//! and with those few numbers only; every other one in the process traps, and its signal's handler leads it to
//! [`call_entry`]. A program that jumps here by itself gets no more than the library operating system has: memory of its
//! own, and the port.

mod filter;
pub mod lent;
pub mod rings;
mod signals;

use core::arch::{global_asm, naked_asm};
use core::sync::atomic::{AtomicI32, Ordering};

use abi::layout::{PAGE, PORT};
use abi::port::{CALLED, DOZING, Engine, Port};
use abi::{VERSION, call};

use super::{Nest, Part, Room, Source, port};
use crate::errno::{EINVAL, Result, from_raw};
use crate::number;
use crate::space::Protection;

/// The descriptor of the port, as the tender left it.
const PORT_DESCRIPTOR: usize = 3;
/// The descriptor of the socket over which further descriptors come.
const SOCKET: usize = 4;

const SHARED: usize = 1;
const PRIVATE: usize = 2;
const FIXED: usize = 0x10;
const ANONYMOUS: usize = 0x20;
const NORESERVE: usize = 0x4000;

global_asm!(
    ".globl host_call, host_call_end",
    "host_call:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    "host_call_end:",
    "ret",
);

unsafe extern "C" {
    fn host_call(number: usize, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> i64;
    /// Only its address counts: the one from which system calls pass the filter.
    static host_call_end: u8;
}

fn host(number: u32, arguments: [usize; 6]) -> Result {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: each caller in this module gives what the call needs; memory that a call maps or unmaps is the program's,
    // to which nothing in here holds references.
    from_raw(unsafe { host_call(number as usize, a, b, c, d, e, f) })
}

/// Where the host starts the program: with the port and the socket open and nothing else.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "and rsp, -16", "call {start}", "ud2", start = sym start)
}

extern "C" fn start() -> ! {
    let shared = [PORT, size_of::<Port>(), 3, SHARED | FIXED, PORT_DESCRIPTOR, 0];
    if host(number::MMAP, shared).is_err() || port().version != VERSION || port().engine != Engine::Process as u32 {
        stop();
    }
    let _ = host(number::CLOSE, [PORT_DESCRIPTOR, 0, 0, 0, 0, 0]);
    if signals::install().is_err() || filter::install().is_err() {
        stop();
    }
    crate::begin()
}

pub fn stop() -> ! {
    loop {
        let _ = host(number::EXIT_GROUP, [127, 0, 0, 0, 0, 0]);
    }
}

/// Whoever maps so much at once, to write to it, will use most of it. (Stacks and what allocators take by and by are smaller.)
const LARGE: usize = 32 << 20;
const HUGE_PAGE: usize = 14;

pub fn map(at: usize, length: usize, protection: Protection, source: Source) -> Result<u64> {
    let rights = protection.bits() as usize;
    match source {
        Source::Anonymous => {
            host(number::MMAP, [at, length, rights, PRIVATE | FIXED | ANONYMOUS | NORESERVE, usize::MAX, 0])?;
            if length >= LARGE && protection.contains(Protection::WRITE) {
                // It only helps: a fork copies an entry for each large page, and not five hundred.
                let _ = host(number::MADVISE, [at, length, HUGE_PAGE, 0, 0, 0]);
            }
        }
        Source::Private(Part { descriptor, offset, .. }) => {
            let file = lend(descriptor, offset, length, protection, 0)?;
            let mapped = host(number::MMAP, [at, length, rights, PRIVATE | FIXED, file.0, offset as usize]);
            mapped?;
        }
        Source::Shared { descriptor, offset } => {
            let file = lend(descriptor, offset, length, protection, call::MAP_SHARED)?;
            let mapped = host(number::MMAP, [at, length, rights, SHARED | FIXED, file.0, offset as usize]);
            mapped?;
            return Ok(file.1);
        }
    }
    Ok(0)
}

/// The copy, if there is one and room for its trampolines; else the file.
pub fn map_code(at: usize, length: usize, protection: Protection, file: Part, room: Room<'_>) -> Result<Option<Nest>> {
    let lent = lend(file.descriptor, file.offset, length, protection, call::MAP_CODE)?;
    let descriptor = lent.0;
    let map =
        |at, length, rights, offset| host(number::MMAP, [at, length, rights, PRIVATE | FIXED, descriptor, offset]);
    let rights = protection.bits() as usize;
    let Some(nest) = abi::patched::Nest::of(lent.1) else {
        return map(at, length, rights, file.offset as usize).map(|_| None);
    };
    let (there, size) = (nest.beside(at), nest.length());
    if !room(there, size) {
        drop(lent);
        return self::map(at, length, protection, Source::Private(file)).map(|_| None);
    }
    map(there, size, (Protection::READ | Protection::EXECUTE).bits() as usize, length)?;
    if let Err(errno) = map(at, length, rights, 0) {
        let _ = unmap(there, size);
        return Err(errno);
    }
    Ok(Some((there, size)))
}

/// A file lent by the tender for the time of mapping it, and what else the tender says of it: which memory it is.
struct Lent(usize, u64);

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = host(number::CLOSE, [self.0, 0, 0, 0, 0, 0]);
    }
}

/// `more` says beside the protection what it is for: a bit of [`call::MAP`]'s.
fn lend(descriptor: i32, offset: u64, length: usize, protection: Protection, more: u64) -> Result<Lent> {
    let how = u64::from(protection.bits()) | more;
    let answer = crate::port::ask(call::MAP, [descriptor as u64, offset, length as u64, how, 0, 0], 0);
    answer.result?;
    let [file] = receive()?;
    Ok(Lent(file, answer.limit))
}

/// Receives descriptors that the tender has sent already.
fn receive<const N: usize>() -> Result<[usize; N]> {
    #[repr(C)]
    struct Message {
        name: usize,
        name_length: usize,
        parts: *mut [usize; 2],
        part_count: usize,
        control: *mut Control,
        control_length: usize,
        flags: usize,
    }
    #[repr(C)]
    struct Control {
        length: usize,
        level: i32,
        kind: i32,
        descriptors: [i32; 4],
    }
    let mut byte = 0u8;
    let mut part = [&raw mut byte as usize, 1];
    let mut control = Control { length: 0, level: 0, kind: 0, descriptors: [-1; 4] };
    let mut message = Message {
        name: 0,
        name_length: 0,
        parts: &raw mut part,
        part_count: 1,
        control: &raw mut control,
        control_length: size_of::<Control>(),
        flags: 0,
    };
    host(number::RECVMSG, [SOCKET, &raw mut message as usize, 0, 0, 0, 0])?;
    let header = 16;
    if control.length < header + 4 * N || N > 4 {
        return Err(EINVAL);
    }
    Ok(core::array::from_fn(|at| control.descriptors[at] as usize))
}

pub fn unmap(at: usize, length: usize) -> Result<()> {
    host(number::MUNMAP, [at, length, 0, 0, 0, 0]).map(drop)
}

pub fn protect(at: usize, length: usize, protection: Protection) -> Result<()> {
    host(number::MPROTECT, [at, length, protection.bits() as usize, 0, 0, 0]).map(drop)
}

pub fn rewrite(at: usize, bytes: &[u8], rights: Protection) -> Result<()> {
    let page = at - at % PAGE;
    protect(page, PAGE, Protection::READ | Protection::WRITE)?;
    for (offset, byte) in bytes.iter().enumerate() {
        // SAFETY: it is writable, and no code of ours.
        unsafe { ((at + offset) as *mut u8).write_volatile(*byte) };
    }
    protect(page, PAGE, rights)
}

pub fn relocate(from: usize, length: usize, to: usize, new_length: usize) -> Result<()> {
    const MAY_MOVE_TO: usize = 1 | 2;
    host(number::MREMAP, [from, length, new_length, MAY_MOVE_TO, to, 0]).map(drop)
}

pub fn discard(at: usize, length: usize) -> Result<()> {
    const DONT_NEED: usize = 4;
    host(number::MADVISE, [at, length, DONT_NEED, 0, 0, 0]).map(drop)
}

/// How many turns to spend on hoping that the tender answers at once, which it does when it has a processor of its own:
/// more after it did, fewer after it did not. (With more programs than processors it does not, and hoping took half of all
/// that a call took.)
static PATIENCE: AtomicI32 = AtomicI32::new(1000);
const LEAST_PATIENCE: i32 = 20;
const MOST_PATIENCE: i32 = 2000;

pub fn ring() {
    const WAIT: usize = 0;
    const WAKE: usize = 1;
    let call = &port().call;
    let word = call.state.as_ptr() as usize;
    if call.state.swap(CALLED, Ordering::AcqRel) == DOZING {
        let _ = host(number::FUTEX, [word, WAKE, 1, 0, 0, 0]);
    }
    let patience = PATIENCE.load(Ordering::Relaxed);
    for _ in 0..patience {
        if call.state.load(Ordering::Acquire) != CALLED {
            PATIENCE.store((patience + patience / 4 + 8).min(MOST_PATIENCE), Ordering::Relaxed);
            return;
        }
        core::hint::spin_loop();
    }
    PATIENCE.store((patience / 2).max(LEAST_PATIENCE), Ordering::Relaxed);
    loop {
        call.sleeping.store(1, Ordering::SeqCst);
        if call.state.load(Ordering::SeqCst) != CALLED {
            call.sleeping.store(0, Ordering::Relaxed);
            return;
        }
        let _ = host(number::FUTEX, [word, WAIT, CALLED as usize, 0, 0, 0]);
    }
}

pub fn fork(purpose: u64) -> Result {
    // The new process is the tender's child, like this one, so that the tender learns how it ends.
    const AS_SIBLING: usize = 0x8000;
    const SIGCHLD: usize = 17;
    let child = crate::port::call(call::FORK, [purpose, 0, 0, 0, 0, 0])?;
    let [port, socket] = receive()?;
    let made = host(number::CLONE, [AS_SIBLING | SIGCHLD, 0, 0, 0, 0, 0]);
    if made == Ok(0) {
        adopt(port, socket);
        if purpose == call::FORK_AS_CELL {
            // Some of its files are others than its maker's.
            lent::forget_all();
        }
        return Ok(0);
    }
    let _ = host(number::CLOSE, [port, 0, 0, 0, 0, 0]);
    // With this end of the socket closed, the tender gives up a child that never spoke.
    let _ = host(number::CLOSE, [socket, 0, 0, 0, 0, 0]);
    made.map(|_| child)
}

/// What a new process does first: it takes up its own port, and tells the tender which process of the host it is, which
/// the kernel adds to the word.
fn adopt(port: usize, socket: usize) {
    lent::adopt();
    let mapped = host(number::MMAP, [PORT, size_of::<Port>(), 3, SHARED | FIXED, port, 0]);
    let moved = host(number::DUP2, [socket, SOCKET, 0, 0, 0, 0]);
    let _ = host(number::CLOSE, [socket, 0, 0, 0, 0, 0]);
    let _ = host(number::CLOSE, [port, 0, 0, 0, 0, 0]);
    let word = b"!";
    let told = host(number::WRITE, [SOCKET, word.as_ptr() as usize, 1, 0, 0, 0]);
    if mapped.is_err() || moved.is_err() || told != Ok(1) {
        stop();
    }
}
