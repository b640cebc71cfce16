//! The process as a whole: what it is, becoming another program, ending.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::boot::Header;

use crate::errno::{EINVAL, EPERM, Result};
use crate::frame::{Frame, NOT_A_CALL};
use crate::loader::{self, Command, Ready, Start, Surroundings};
use crate::sync::Local;
use crate::{engine, number as calls, port, signal, thread, user};

static NUMBER: AtomicU32 = AtomicU32::new(0);

static AROUND: Local<Surroundings> = Local::new(Surroundings { uid: 0, gid: 0, capabilities: 0, capabilities2: 0 });

/// `comm`, as prctl sets it.
static NAME: Local<[u8; 16]> = Local::new([0; 16]);

/// What the tender said of the first program.
pub fn begin(around: Surroundings, header: &Header) {
    *AROUND.get() = around;
    NUMBER.store(header.pid, Ordering::Relaxed);
}

/// The process's number.
pub fn number() -> u32 {
    NUMBER.load(Ordering::Relaxed)
}

/// The process is a copy: it learns its number.
pub fn be_new() {
    let number = port::call(calls::GETPID, [0; 6]).unwrap_or_default();
    NUMBER.store(number as u32, Ordering::Relaxed);
    crate::pipe::adopt();
    crate::net::adopt();
}

/// Somebody outside wants the process as it stands to be the first of another cell, so many times: a copy with all of its
/// threads, each of which goes on where it is. A thread keeps its number, which the program may know; the process does not.
pub fn copy_if_wanted() {
    while engine::port().copies.load(Ordering::Relaxed) != 0 {
        let had_link = crate::net::park();
        let made = engine::fork(abi::call::FORK_AS_CELL);
        match made {
            // The copy's port wants nothing.
            Ok(0) => {
                be_new();
                signal::pending::tell_anew();
            }
            _ => crate::net::go_on(had_link),
        }
        if made.is_err() {
            return;
        }
    }
}

/// exit_group.
pub fn exit(code: i32) -> ! {
    super::threads::give_up_all_locks();
    super::end((code as u32 & 0xff) << 8)
}

/// execve. The frame is then the new program's.
pub fn execute(frame: &mut Frame, path: u64, arguments: u64, environment: u64) -> Result<()> {
    const LONGEST: usize = 4095;
    const MOST: usize = 2 << 20;
    const GETEUID: u32 = 107;
    const GETEGID: u32 = 108;
    if engine::port().sealed.load(Ordering::Relaxed) != 0 {
        // Another program is new code.
        let _ = port::call(abi::call::UNKNOWN, [u64::from(calls::EXECVE | abi::call::OUTSIDE), 0, 0, 0, 0, 0]);
        return Err(EPERM);
    }
    let mut budget = MOST - (128 << 10);
    let path = user::string(path, LONGEST)?;
    let mut arguments = user::strings(arguments, &mut budget)?;
    if arguments.is_empty() {
        arguments.push(alloc::vec::Vec::new());
    }
    let environment = user::strings(environment, &mut budget)?;
    let ready = loader::open(Command { path, arguments, environment })?;
    let [uid, gid] = [GETEUID, GETEGID].map(|number| port::call(number, [0; 6]).unwrap_or_default() as u32);
    {
        let mut around = AROUND.get();
        (around.uid, around.gid) = (uid, gid);
    }
    // From here on there is nothing to go back to.
    match become_program(&ready) {
        Ok(start) => *frame = Frame { call: NOT_A_CALL, ..Frame::at(start.entry, start.stack) },
        Err(_) => signal::die(signal::SIGKILL),
    }
    Ok(())
}

/// Replaces the process's program.
pub fn become_program(ready: &Ready) -> Result<Start> {
    thread::keep_current_only(number());
    signal::reset();
    thread::with_current(|it| {
        (it.clear_at_end, it.robust_list) = (0, 0);
    });
    thread::set_thread_pointer(0);
    let around = *AROUND.get();
    let start = loader::load(ready, &around)?;
    let path = &ready.command.path;
    let arguments = ready.command.arguments.join(&0u8);
    let words = [path.as_ptr() as u64, path.len() as u64, arguments.as_ptr() as u64, arguments.len() as u64, 0, 0];
    port::call(abi::call::EXECUTED, words)?;
    engine::forget_all();
    crate::net::executed();
    super::memory::forget_attached();
    super::timers::forget_all();
    let name = path.rsplit(|it| *it == b'/').next().unwrap_or_default();
    set_name(name);
    Ok(start)
}

fn set_name(name: &[u8]) {
    let length = name.len().min(15);
    let mut new = [0; 16];
    new[..length].copy_from_slice(&name[..length]);
    *NAME.get() = new;
}

/// prctl.
pub fn control(operation: u64, a: u64, _b: u64) -> Result {
    const SET_DEATH_SIGNAL: u64 = 1;
    const GET_DUMPABLE: u64 = 3;
    const SET_DUMPABLE: u64 = 4;
    const GET_KEEP_CAPABILITIES: u64 = 7;
    const SET_KEEP_CAPABILITIES: u64 = 8;
    const SET_NAME: u64 = 15;
    const GET_NAME: u64 = 16;
    const CAPABILITY_BOUND_READ: u64 = 23;
    const SET_TIMER_SLACK: u64 = 29;
    const SET_CHILD_SUBREAPER: u64 = 36;
    const SET_NO_NEW_PRIVILEGES: u64 = 38;
    const GET_NO_NEW_PRIVILEGES: u64 = 39;
    const SET_THP_DISABLE: u64 = 41;
    match operation {
        SET_NAME => {
            let mut name = user::string(a, 4096)?;
            name.truncate(15);
            set_name(&name);
            Ok(0)
        }
        GET_NAME => user::write(a, *NAME.get()).map(|()| 0),
        GET_DUMPABLE | GET_NO_NEW_PRIVILEGES => Ok(1),
        GET_KEEP_CAPABILITIES => Ok(0),
        CAPABILITY_BOUND_READ if a > 40 => Err(EINVAL),
        CAPABILITY_BOUND_READ => port::call(calls::PRCTL, [operation, a, 0, 0, 0, 0]),
        SET_DEATH_SIGNAL if a > 64 => Err(EINVAL),
        SET_DUMPABLE if a > 1 => Err(EINVAL),
        SET_DEATH_SIGNAL
        | SET_DUMPABLE
        | SET_KEEP_CAPABILITIES
        | SET_TIMER_SLACK
        | SET_CHILD_SUBREAPER
        | SET_NO_NEW_PRIVILEGES
        | SET_THP_DISABLE => Ok(0),
        _ => Err(EINVAL),
    }
}

/// uname.
pub fn name_of_system(into: u64) -> Result {
    const FIELD: usize = 65;
    let mut fields = [[0u8; FIELD]; 6];
    port::call(calls::UNAME, [fields.as_mut_ptr() as u64, 0, 0, 0, 0, 0])?;
    user::write_all(into, &fields)?;
    Ok(0)
}
