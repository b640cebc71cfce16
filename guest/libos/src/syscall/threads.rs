//! Threads and processes made, and what they say of themselves.

use crate::errno::{EINVAL, EPERM, Result};
use crate::frame::{Frame, NOT_A_CALL};
use crate::{engine, futex, number, port, signal, thread, user};

use super::process;

mod flag {
    pub const MEMORY: u64 = 0x100;
    pub const DESCRIPTOR: u64 = 0x1000;
    pub const WAIT_FOR_EXEC: u64 = 0x4000;
    pub const THREAD: u64 = 0x1_0000;
    pub const SET_POINTER: u64 = 0x8_0000;
    pub const SET_NUMBER_IN_PARENT: u64 = 0x10_0000;
    pub const CLEAR_NUMBER: u64 = 0x20_0000;
    pub const SET_NUMBER_IN_CHILD: u64 = 0x100_0000;
    /// New namespaces: there is nobody to be hidden from.
    pub const NAMESPACES: u64 = 0x7e02_0000;
}

#[derive(Default)]
struct Request {
    flags: u64,
    stack: u64,
    parent_number: u64,
    child_number: u64,
    pointer: u64,
    /// Where a descriptor that tells of the new process goes.
    descriptor: u64,
}

/// clone.
pub fn clone(frame: &Frame, flags: u64, stack: u64, parent_number: u64, child_number: u64, pointer: u64) -> Result {
    let both = flag::DESCRIPTOR | flag::SET_NUMBER_IN_PARENT;
    if flags & both == both {
        return Err(EINVAL);
    }
    make(frame, &Request { flags, stack, parent_number, child_number, pointer, descriptor: parent_number })
}

/// clone3.
pub fn clone3(frame: &Frame, arguments: u64, size: u64) -> Result {
    const LEAST: u64 = 64;
    if size < LEAST {
        return Err(EINVAL);
    }
    let [flags, descriptor, child_number, parent_number, _exit_signal, stack, stack_size, pointer]: [u64; 8] =
        user::read(arguments)?;
    let stack = if stack == 0 { 0 } else { stack.checked_add(stack_size).ok_or(EINVAL)? };
    make(frame, &Request { flags, stack, parent_number, child_number, pointer, descriptor })
}

/// fork and vfork. A new process has a copy of the memory in any case, so none need wait for it to execute something.
pub fn fork(frame: &Frame) -> Result {
    make(frame, &Request::default())
}

fn make(frame: &Frame, it: &Request) -> Result {
    if it.flags & flag::NAMESPACES != 0 {
        return Err(EPERM);
    }
    let has = |flag| it.flags & flag != 0;
    if has(flag::THREAD) != has(flag::MEMORY) && !has(flag::WAIT_FOR_EXEC) && has(flag::THREAD) {
        return Err(EINVAL);
    }
    if !has(flag::THREAD) {
        return make_process(it);
    }
    let number = port::call(number::GETTID, [0; 6])? as u32;
    if has(flag::SET_NUMBER_IN_PARENT) {
        user::write(it.parent_number, number)?;
    }
    if has(flag::SET_NUMBER_IN_CHILD) {
        user::write(it.child_number, number)?;
    }
    let mut begin = Frame { rax: 0, call: NOT_A_CALL, ..frame.clone() };
    if it.stack != 0 {
        begin.rsp = it.stack;
    }
    thread::spawn(number, &begin, has(flag::SET_POINTER).then_some(it.pointer));
    if has(flag::CLEAR_NUMBER) {
        thread::with(number, |thread| thread.clear_at_end = it.child_number);
    }
    Ok(number as usize)
}

fn make_process(it: &Request) -> Result {
    let has = |flag| it.flags & flag != 0;
    let child = engine::fork(abi::call::FORK_AS_CHILD)?;
    if child != 0 {
        if has(flag::SET_NUMBER_IN_PARENT) {
            user::write(it.parent_number, child as u32)?;
        }
        if has(flag::DESCRIPTOR) {
            let made = port::call(number::PIDFD_OPEN, [child as u64, 0, 0, 0, 0, 0])?;
            user::write(it.descriptor, made as u32)?;
        }
        return Ok(child);
    }
    process::be_new();
    let number = process::number();
    thread::keep_current_only(number);
    signal::pending::forget_all();
    super::timers::forget_all();
    if has(flag::SET_NUMBER_IN_CHILD) {
        let _ = user::write(it.child_number, number);
    }
    thread::with_current(|thread| thread.clear_at_end = if has(flag::CLEAR_NUMBER) { it.child_number } else { 0 });
    if has(flag::SET_POINTER) {
        thread::set_thread_pointer(it.pointer);
    }
    if it.stack != 0 {
        // SAFETY: the current thread's frame is what this call came with, and is left by it.
        unsafe { (*thread::frame_of_current()).rsp = it.stack };
    }
    Ok(0)
}

/// exit: of one thread.
pub fn exit(code: i32) -> Result {
    let (clear, robust) = thread::with_current(|it| (it.clear_at_end, it.robust_list));
    give_up_locks(thread::current(), robust);
    if clear != 0 && user::write(clear, 0u32).is_ok() {
        let _ = futex::wake_all_kinds(clear, 1);
    }
    thread::end_current();
    process::exit(code)
}

/// The whole process ends, and each of its threads.
pub fn give_up_all_locks() {
    for number in thread::numbers() {
        let list = thread::with(number, |it| core::mem::take(&mut it.robust_list)).unwrap_or(0);
        give_up_locks(number, list);
    }
}

/// Marks the robust futexes of a thread that ended as left behind, and wakes one that waits for each
/// (Documentation/locking/robust-futexes).
fn give_up_locks(own: u32, list: u64) {
    const OWNER_DIED: u32 = 0x4000_0000;
    const MOST: usize = 2048;
    if list == 0 {
        return;
    }
    let Ok([mut entry, offset, _]) = user::read::<[u64; 3]>(list) else { return };
    for _ in 0..MOST {
        if entry & !1 == list {
            return;
        }
        let word = (entry & !1).wrapping_add(offset);
        let Ok(next) = user::read::<u64>(entry & !1) else { return };
        if let Ok(value) = user::read::<u32>(word)
            && value & 0x3fff_ffff == own
            && user::write(word, value & 0x8000_0000 | OWNER_DIED).is_ok()
        {
            let _ = futex::wake_all_kinds(word, 1);
        }
        entry = next;
    }
}

/// set_tid_address.
pub fn set_clear_address(at: u64) -> Result {
    thread::with_current(|it| it.clear_at_end = at);
    Ok(thread::current() as usize)
}

/// set_robust_list.
pub fn set_robust_list(at: u64) -> Result {
    thread::with_current(|it| it.robust_list = at);
    Ok(0)
}

/// sched_getaffinity: there is one processor.
pub fn affinity(size: u64, into: u64) -> Result {
    if size < 8 || size % 8 != 0 {
        return Err(EINVAL);
    }
    user::write(into, 1u64)?;
    Ok(8)
}

/// getcpu.
pub fn processor(processor: u64, node: u64) -> Result {
    user::write_if(processor, 0u32)?;
    user::write_if(node, 0u32)?;
    Ok(0)
}

/// arch_prctl.
pub fn set_pointer(code: u64, value: u64) -> Result {
    const SET: u64 = 0x1002;
    const GET: u64 = 0x1003;
    match code {
        // An address that is not canonical would fault in here.
        SET if value >> 47 != 0 => return Err(EPERM),
        SET => thread::set_thread_pointer(value),
        GET => user::write(value, thread::thread_pointer())?,
        _ => return Err(EINVAL),
    }
    Ok(0)
}
