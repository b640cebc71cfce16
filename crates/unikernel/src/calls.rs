//! The system calls that a tender answers: those about files, sockets, processes and the system.
//!
//! Most are passed on to the host as they are, with the guest's descriptors and memory in place of numbers and pointers, as
//! [`table`] says. The others have a function here each. **No call waits**: see [`abi::port`].

mod descriptors;
mod identities;
mod joined;
mod legacy;
mod locks;
pub(crate) mod messages;
mod pass;
mod paths;
pub(crate) mod polling;
mod processes;
pub(crate) mod queues;
pub(crate) mod segments;
mod sockets;
mod system;
pub(crate) mod table;
pub(crate) mod tellers;
mod timers;
mod vectors;
mod waiting;

use abi::call;
pub(crate) use paths::{absolute, path_of};
pub(crate) use sockets::broken_pipe;
use sys::Errno;

use crate::files::Waiting;
use crate::member::Member;

/// The answer to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// What it gave.
    Done(Result<u64, Errno>),
    /// Nothing yet: the guest is to try again once one of the events is there on the descriptor that is that argument.
    Later { events: u32, argument: u32 },
    /// It is mapped there, and that is which memory it is.
    Mapped { at: u64, memory: u64 },
    /// The guest is to do it by itself, in the memory of a pipe that is mapped there.
    Ring { at: u64 },
    /// The same, but after so many nanoseconds at most; 0 for ever.
    LaterWithin { events: u32, argument: u32, limit: u64 },
    /// Nothing yet: again when another process has changed a message queue or a semaphore, after so many nanoseconds at
    /// most.
    AfterChange { limit: u64 },
    /// Nothing yet: again when a child has changed.
    AfterChild,
    /// Nothing yet, and nothing that would tell when.
    AfterMoment,
    /// The guest has those signals itself, if there are any.
    Signals { set: u64, waiting: Waiting },
}

impl From<Result<u64, Errno>> for Reply {
    fn from(result: Result<u64, Errno>) -> Self {
        Self::Done(result)
    }
}

pub(crate) const IN: u32 = 1;
pub(crate) const OUT: u32 = 4;

impl Reply {
    /// As the port has it: the result, and what to wait for.
    pub(crate) fn words(self) -> (i64, u32) {
        const AGAIN: i64 = -(libc::EAGAIN as i64);
        match self {
            Self::Done(Ok(value)) => (value as i64, 0),
            Self::Done(Err(errno)) => (-i64::from(errno.raw_os_error()), 0),
            Self::Later { events, argument } | Self::LaterWithin { events, argument, .. } => {
                (AGAIN, events | argument << call::WAIT_ARGUMENT)
            }
            Self::Mapped { at, .. } => (at as i64, 0),
            Self::Ring { .. } => (AGAIN, call::WAIT_RING),
            Self::AfterChange { .. } => (AGAIN, IN | call::WAIT_CHANGE),
            Self::AfterChild => (AGAIN, IN | call::WAIT_CHILD),
            Self::AfterMoment => (AGAIN, call::WAIT_A_MOMENT),
            Self::Signals { waiting: Waiting::Yes, .. } => (AGAIN, call::WAIT_SIGNALS),
            Self::Signals { waiting: Waiting::No, .. } => (AGAIN, call::WAIT_SIGNALS | call::WITHOUT_WAITING),
        }
    }
}

/// Answers a system call of Linux.
pub(crate) fn answer(member: &mut Member, number: u32, arguments: [u64; 6]) -> Reply {
    let (number, arguments) = legacy::modern(number, arguments);
    if let Some(reply) = crate::pipes::hand_over(member, number, arguments[0]) {
        return reply;
    }
    let closed = locks::closed_by(member, number, arguments);
    let special = locks::answer(member, number, arguments)
        .or_else(|| tellers::answer(member, number, arguments))
        .or_else(|| descriptors::answer(member, number, arguments))
        .or_else(|| identities::answer(member, number, arguments))
        .or_else(|| paths::answer(member, number, arguments))
        .or_else(|| vectors::answer(member, number, arguments))
        .or_else(|| sockets::answer(member, number, arguments))
        .or_else(|| polling::answer(member, number, arguments))
        .or_else(|| processes::answer(member, number, arguments))
        .or_else(|| waiting::answer(member, number, arguments))
        .or_else(|| timers::answer(member, number, arguments))
        .or_else(|| messages::answer(member, number, arguments))
        .or_else(|| queues::answer(member, number, arguments))
        .or_else(|| segments::answer(member, number, arguments))
        .or_else(|| system::answer(member, number, arguments));
    member.give_up_locks(&closed);
    match special {
        Some(reply) => reply,
        None => match table::row_of(number) {
            Some(row) => pass::on(member, row, arguments),
            None => Err(Errno::NOSYS).into(),
        },
    }
}
