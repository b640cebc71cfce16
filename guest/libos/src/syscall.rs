//! The system calls: which are answered here, and by whom.
//!
//! What is not in the table is the tender's, under Linux's own number; and what the tender does not know either is ENOSYS,
//! and is counted.

mod memory;
pub mod process;
mod ready;
pub mod signals;
mod threads;
mod time;
pub mod timers;

use abi::call;
pub use ready::Asked;

use crate::errno::{EAGAIN, EINTR, ENOSYS, ERESTART, ETIMEDOUT, Result, to_raw};
use crate::frame::{Frame, NOT_A_CALL};
use crate::thread::{self, Wake};
use crate::{engine, kept, number, port, signal};

/// Comes from the program's system call.
pub extern "C" fn entered(frame: &mut Frame) {
    crate::patch::consider(frame);
    let arguments = frame.arguments();
    let result = answer(frame.call, arguments, frame);
    if let Some(result) = result {
        frame.rax = to_raw(result);
    }
    process::copy_if_wanted();
    crate::library::stand_still_if_wanted();
    let interrupted = frame.call != NOT_A_CALL && matches!(result, Some(Err(it)) if it.0 >= ERESTART.0);
    if interrupted || signal::is_due() {
        signal::deliver(frame);
    }
}

/// What the call gives; nothing when the frame says it already.
fn answer(number: u64, arguments: [u64; 6], frame: &mut Frame) -> Option<Result> {
    let [a, b, c, d, e, f] = arguments;
    let Ok(number) = u32::try_from(number) else { return Some(forward(number as u32, arguments)) };
    Some(match number {
        number::MMAP => memory::map(a, b, c, d, e as i32, f),
        number::MPROTECT => memory::protect(a, b, c),
        number::MUNMAP => memory::unmap(a, b),
        number::BRK => memory::set_heap(a),
        number::MREMAP => memory::resize(a, b, c, d, e),
        number::MADVISE => memory::advise(a, b, c as i32),
        number::MSYNC => memory::synchronise(a, b),
        number::MLOCK | number::MLOCK2 | number::MUNLOCK | number::MLOCKALL | number::MUNLOCKALL => Ok(0),
        number::PROCESS_VM_READV => memory::copy_between(a, [d, e], [b, c], f),
        number::PROCESS_VM_WRITEV => memory::copy_between(a, [b, c], [d, e], f),
        number::SHMAT => memory::attach(a, b, c),
        number::SHMDT => memory::detach(a),
        number::MINCORE => memory::resident(a, b, c),

        number::RT_SIGACTION => signal::set_action(a as i32, b, c, d),
        number::RT_SIGPROCMASK => signal::set_mask(a, b, c, d),
        number::RT_SIGPENDING => signal::pending(a),
        number::RT_SIGSUSPEND => signals::suspend(a),
        number::PAUSE => signal::suspend(None),
        number::RT_SIGTIMEDWAIT => signals::wait(a, b, c),
        number::SIGALTSTACK => signal::set_stack(a, b, frame.rsp),
        number::RT_SIGRETURN => {
            signal::leave_handler(frame);
            return None;
        }
        number::KILL => signals::kill(a as i32, b as i32),
        number::TKILL => signals::kill_thread(None, a as i32, b as i32),
        number::TGKILL => signals::kill_thread(Some(a as i32), b as i32, c as i32),
        number::RT_SIGQUEUEINFO => signals::queue(a as i32, b as i32, c),
        number::RT_TGSIGQUEUEINFO => signals::queue_for_thread(a as i32, b as i32, c as i32, d),
        number::SIGNALFD | number::SIGNALFD4 => signals::file(number, arguments),
        number::TIMER_CREATE => timers::create(arguments),
        number::TIMER_GETOVERRUN => timers::overrun(a),

        number::CLONE => threads::clone(frame, a, b, c, d, e),
        number::CLONE3 => threads::clone3(frame, a, b),
        number::FORK | number::VFORK => threads::fork(frame),
        number::EXIT => threads::exit(a as i32),
        number::EXIT_GROUP => process::exit(a as i32),
        number::EXECVE => match process::execute(frame, a, b, c) {
            Ok(()) => return None,
            Err(errno) => Err(errno),
        },
        number::FUTEX => crate::futex::call(a, b as u32, c as u32, d, e, f as u32),
        number::SET_TID_ADDRESS => threads::set_clear_address(a),
        number::SET_ROBUST_LIST => threads::set_robust_list(a),
        number::GETTID => Ok(thread::current() as usize),
        number::GETPID => Ok(process::number() as usize),
        number::SCHED_YIELD => {
            thread::yield_now();
            Ok(0)
        }
        number::SCHED_GETAFFINITY => threads::affinity(b, c),
        number::SCHED_SETAFFINITY | number::SCHED_SETSCHEDULER | number::SCHED_SETPARAM | number::MEMBARRIER => Ok(0),
        number::SCHED_GETSCHEDULER => Ok(0),
        number::SCHED_GETPARAM => crate::user::write(b, 0u32).map(|()| 0),
        number::SCHED_GET_PRIORITY_MAX | number::SCHED_GET_PRIORITY_MIN => Ok(0),
        number::GETCPU => threads::processor(a, b),
        number::ARCH_PRCTL => threads::set_pointer(a, b),
        number::PRCTL => process::control(a, b, c),
        number::UNAME => process::name_of_system(a),
        number::RSEQ => Err(ENOSYS),

        number::CLOCK_GETTIME => time::get(a, b),
        number::CLOCK_GETRES => time::resolution(a, b),
        number::GETTIMEOFDAY => time::of_day(a, b),
        number::TIME => time::seconds(a),
        number::NANOSLEEP => time::sleep(a, b),
        number::CLOCK_NANOSLEEP => time::sleep_by(a, b, c, d),

        number::POLL => ready::poll(a, b, time::milliseconds(c as i32)),
        number::PPOLL => ready::poll_masked(a, b, c, d),
        number::SELECT => ready::select(a, [b, c, d], time::microseconds(e), 0),
        number::PSELECT6 => ready::select_masked(a, [b, c, d], e, f),
        number::EPOLL_WAIT => ready::events([a, b, c], time::milliseconds(d as i32), 0),
        number::EPOLL_PWAIT => ready::events([a, b, c], time::milliseconds(d as i32), e),
        number::EPOLL_PWAIT2 => ready::events([a, b, c], time::timeout(d), e),
        _ => forward(number, arguments),
    })
}

/// Whether a call that moved less than it was asked to, and may wait, is to go on with the rest.
fn wants_all(number: u32, flags: u64) -> bool {
    const WAIT_FOR_ALL: u64 = 0x100;
    matches!(number, number::WRITE | number::SENDTO) || number == number::RECVFROM && flags & WAIT_FOR_ALL != 0
}

/// Lets the stack in here answer, or the tender, as soon as it can.
pub fn forward(number: u32, arguments: [u64; 6]) -> Result {
    match crate::net::answer(number, arguments) {
        Some(result) => result,
        None => forward_to_tender(number, arguments),
    }
}

/// Lets the tender answer, as soon as it can.
pub fn forward_to_tender(number: u32, mut arguments: [u64; 6]) -> Result {
    if number >= call::BOOT {
        return Err(ENOSYS);
    }
    let mut done = 0;
    loop {
        match forward_once(number, arguments) {
            Ok(part) if part > 0 && (part as u64) < arguments[2] && wants_all(number, arguments[3]) => {
                done += part;
                arguments[1] += part as u64;
                arguments[2] -= part as u64;
            }
            Ok(part) => return Ok(done + part),
            Err(_) if done > 0 => return Ok(done),
            other => return other,
        }
    }
}

/// mq_timedsend and mq_timedreceive, which say otherwise that it is too late.
fn is_of_queue(number: u32) -> bool {
    matches!(number, 242 | 243)
}

fn forward_once(number: u32, arguments: [u64; 6]) -> Result {
    if let Some(result) = kept::directly(number, arguments) {
        return result;
    }
    let result = forward_any(number, arguments);
    kept::after(number, &arguments, &result);
    result
}

/// Nothing is known any more of the descriptors that such a call gives another meaning.
fn forget_changed(number: u32, [a, b, ..]: [u64; 6]) {
    match number {
        number::CLOSE => engine::forget(a),
        number::DUP2 | number::DUP3 if a as u32 != b as u32 => engine::forget(b),
        number::CLOSE_RANGE => engine::forget_all(),
        // Whether it may open what is kept is to be asked anew.
        number::SETUID
        | number::SETGID
        | number::SETREUID
        | number::SETREGID
        | number::SETGROUPS
        | number::SETRESUID
        | number::SETRESGID
        | number::SETFSUID
        | number::SETFSGID
        | number::CAPSET => {
            kept::let_all_go();
            signals::forget_user();
        }
        _ => {}
    }
}

/// fcntl: who waited for a lock does not any more.
const CANCEL_LOCK: u64 = 1029;

fn forward_any(number: u32, arguments: [u64; 6]) -> Result {
    let mut deadline = None;
    forget_changed(number, arguments);
    if let Some(result) = crate::pipe::directly(number, arguments) {
        return result;
    }
    if let Some(result) = engine::directly(number, arguments) {
        return result;
    }
    loop {
        let answer = port::ask(number, arguments, thread::patience(None));
        if answer.wait == 0 {
            if answer.result == Err(ENOSYS) {
                let _ = port::call(call::UNKNOWN, [u64::from(number), 0, 0, 0, 0, 0]);
            }
            return answer.result;
        }
        if answer.wait & call::WAIT_RING != 0 {
            if crate::pipe::take_up(number, arguments[0], answer.limit)
                && let Some(result) = crate::pipe::directly(number, arguments)
            {
                return result;
            }
            continue;
        }
        if answer.wait & call::WAIT_SIGNALS != 0 {
            let willing = answer.wait & call::WITHOUT_WAITING == 0;
            return signal::files::read(answer.limit, arguments[1], arguments[2], willing);
        }
        if answer.wait & call::WAIT_A_MOMENT != 0 {
            const MOMENT: u64 = 5_000_000;
            match thread::sleep(Some(crate::clock::monotonic().saturating_add(MOMENT))) {
                Wake::Signal => {
                    if number == number::FCNTL {
                        let _ = port::call(number, [arguments[0], CANCEL_LOCK, 0, 0, 0, 0]);
                    }
                    return Err(ERESTART);
                }
                Wake::Up | Wake::Timeout => continue,
            }
        }
        let descriptor = match answer.wait & (call::WAIT_CHILD | call::WAIT_CHANGE) {
            0 => arguments[(answer.wait >> call::WAIT_ARGUMENT & 7).min(5) as usize],
            call::WAIT_CHANGE => call::CHANGES,
            _ => call::CHILDREN,
        };
        if answer.limit != 0 {
            deadline = deadline.or(Some(crate::clock::monotonic().saturating_add(answer.limit)));
        }
        let cookie = thread::watch(descriptor, answer.wait & 0xffff)?;
        let why = thread::sleep(deadline);
        thread::unwatch(cookie);
        match why {
            Wake::Up => {}
            // What has become of a child comes before the signal that tells of it.
            Wake::Signal if descriptor == call::CHILDREN => {
                let answer = port::ask(number, arguments, 0);
                return if answer.wait == 0 { answer.result } else { Err(ERESTART) };
            }
            // These are never made again by themselves.
            Wake::Signal if descriptor == call::CHANGES => return Err(EINTR),
            Wake::Signal => return Err(ERESTART),
            Wake::Timeout if is_of_queue(number) => return Err(ETIMEDOUT),
            Wake::Timeout => return Err(EAGAIN),
        }
    }
}

/// There is nothing more to do for this process.
pub fn end(status: u32) -> ! {
    crate::net::end();
    let _ = port::call(call::EXIT, [u64::from(status), 0, 0, 0, 0, 0]);
    engine::stop()
}
