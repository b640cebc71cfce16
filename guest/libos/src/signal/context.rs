//! What a handler finds on its stack, laid out as Linux does on x86-64 (`struct rt_sigframe`): programs look into it and
//! change it.

use super::{Action, Info, bit, flag};
use crate::errno::{EFAULT, Result};
use crate::frame::{CODE, DATA, Frame, NOT_A_CALL};
use crate::space::{Protection, SPACE};
use crate::{extended, thread, user};

/// `struct ucontext`, and around it the return address and the signal's description.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    restorer: u64,
    flags: u64,
    link: u64,
    stack: [u64; 3],
    /// r8…r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags.
    registers: [u64; 18],
    selectors: u64,
    error: u64,
    vector: u64,
    old_mask: u64,
    address: u64,
    extended: u64,
    reserved: [u64; 8],
    mask: u64,
    info: [u64; 16],
}

// SAFETY: numbers, without padding.
unsafe impl user::Plain for Record {}

/// Marks an extended state that is more than the legacy one, at this offset and behind its end.
const MAGIC_AT: u64 = 464;
const MAGIC_BEGIN: u32 = 0x4650_5853;
const MAGIC_END: u32 = 0x4650_5845;

/// Makes the frame go to the handler.
pub fn enter(frame: &mut Frame, info: &Info, action: &Action) -> Result<()> {
    let (alternate, mask, saved) =
        thread::with_current(|it| (it.signals.alternate, it.signals.mask, it.signals.saved_mask.take()));
    let wants_alternate = action.flags & flag::ONSTACK != 0 && alternate.flags & super::STACK_DISABLED == 0;
    let top = match wants_alternate && !alternate.holds(frame.rsp) {
        true => alternate.base + alternate.size,
        false => frame.rsp.wrapping_sub(128),
    };
    let area = top.wrapping_sub(extended::size() as u64 + 4) & !63;
    save_extended(frame, area)?;
    let at = (area.wrapping_sub(size_of::<Record>() as u64) & !15).wrapping_sub(8);
    let mut record = Record {
        restorer: action.restorer,
        // There is an extended state; the selectors are saved.
        flags: 0x7,
        link: 0,
        stack: [alternate.base, alternate.flags as u64, alternate.size],
        registers: registers(frame),
        selectors: CODE | DATA << 48,
        error: 0,
        vector: info.vector,
        old_mask: 0,
        address: if info.vector != 0 { info.of.first } else { 0 },
        extended: area,
        reserved: [0; 8],
        mask: saved.unwrap_or(mask),
        info: [0; 16],
    };
    record.info = words(info);
    user::write(at, record)?;
    let itself = if action.flags & flag::NODEFER != 0 { 0 } else { bit(info.signal()) };
    thread::with_current(|it| it.signals.mask |= action.mask | itself);
    frame.rip = action.handler;
    frame.rsp = at;
    frame.rdi = info.signal() as u64;
    frame.rsi = at + core::mem::offset_of!(Record, info) as u64;
    frame.rdx = at + core::mem::offset_of!(Record, flags) as u64;
    frame.rax = 0;
    frame.rflags = 0x202;
    frame.call = NOT_A_CALL;
    Ok(())
}

/// Makes the frame go to where the handler's context says.
pub fn leave(frame: &mut Frame) -> Result<()> {
    // The handler's return took the return address.
    let record: Record = user::read(frame.rsp.wrapping_sub(8))?;
    let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags] = record.registers;
    // What a program may change of the flags.
    const CHANGEABLE: u64 = 0xcd5;
    let rflags = rflags & CHANGEABLE | 0x202;
    let xmm = frame.xmm;
    *frame = Frame {
        xmm,
        r15,
        r14,
        r13,
        r12,
        rbp,
        rbx,
        r10,
        r9,
        r8,
        rdx,
        rsi,
        rdi,
        r11,
        rcx,
        rax,
        call: NOT_A_CALL,
        rip,
        cs: CODE,
        rflags,
        rsp,
        ss: DATA,
        padding: 0,
    };
    thread::with_current(|it| it.signals.mask = record.mask & !bit(super::SIGKILL) & !bit(super::SIGSTOP));
    if record.extended != 0 {
        load_extended(frame, record.extended)?;
    }
    Ok(())
}

fn registers(it: &Frame) -> [u64; 18] {
    [
        it.r8, it.r9, it.r10, it.r11, it.r12, it.r13, it.r14, it.r15, it.rdi, it.rsi, it.rbp, it.rbx, it.rdx, it.rax,
        it.rcx, it.rsp, it.rip, it.rflags,
    ]
}

fn words(info: &Info) -> [u64; 16] {
    let mut words = [0; 16];
    words[0] = info.of.signal as u64;
    words[1] = info.of.code as u32 as u64;
    words[2] = info.of.first;
    words[3] = info.of.second;
    words
}

/// Writes a signal's description.
pub fn write_info(at: u64, info: &Info) -> Result<()> {
    user::write(at, words(info))
}

/// The registers in the order of the processor's own format: behind 160 bytes of control and floating point.
const VECTORS: usize = 160;

fn save_extended(frame: &Frame, at: u64) -> Result<()> {
    let size = extended::size();
    if !SPACE.get().is_mapped(at as usize, size + 4, Protection::WRITE) {
        return Err(EFAULT);
    }
    // SAFETY: it is mapped, writable, and aligned; the header must be zero before.
    unsafe {
        crate::string::zero(at as usize, size);
        extended::save_to(at as *mut u8);
        ((at as usize + VECTORS) as *mut [u128; 16]).write_unaligned(frame.xmm);
    }
    let features = user::read::<u64>(at + 512)? | 2;
    user::write(at + 512, features)?;
    user::write(at + MAGIC_AT, [MAGIC_BEGIN, size as u32 + 4, features as u32, (features >> 32) as u32, size as u32])?;
    user::write(at + size as u64, MAGIC_END)
}

fn load_extended(frame: &mut Frame, at: u64) -> Result<()> {
    let size = extended::size();
    if at % 64 != 0 || !SPACE.get().is_mapped(at as usize, size, Protection::READ) {
        return Err(EFAULT);
    }
    // A copy, of which all is set that the processor refuses when it is wrong.
    let mut copy = extended::Extended::new();
    copy.fill(at as usize);
    copy.restore();
    // SAFETY: it is readable.
    frame.xmm = unsafe { ((at as usize + VECTORS) as *const [u128; 16]).read_unaligned() };
    Ok(())
}
