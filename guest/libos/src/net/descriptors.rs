//! The numbers of sockets that are in here, and of sets that hold some: what makes one another's, and what is said of one.

use super::calls::{CLOSES_ON_EXEC, NONBLOCKING, of};
use super::socket::Kind;
use super::{What, attend, with};
use crate::errno::{EINVAL, Result};
use crate::syscall::forward_to_tender;
use crate::{number, user};

/// dup and its kin: another number for the same.
pub fn duplicate(number: u32, arguments: [u64; 6], what: What, closes_on_exec: bool) -> Result {
    let new = forward_to_tender(number, arguments)?;
    with(|it| it.enter(new as u64, what, closes_on_exec));
    Ok(new)
}

/// dup2 and dup3.
pub fn replace(number: u32, arguments: [u64; 6]) -> Option<Result> {
    let [from, to, flags, ..] = arguments;
    let (old, new) = with(|it| (it.what(from), it.what(to)));
    if old.is_none() && new.is_none() {
        return None;
    }
    let replaced = forward_to_tender(number, arguments);
    if replaced.is_ok() {
        if new.is_some() {
            super::close(to);
        }
        if let Some(old) = old {
            with(|it| it.enter(to, old.what, number == number::DUP3 && flags & CLOSES_ON_EXEC != 0));
        }
    }
    Some(replaced)
}

/// close_range, of what is in here.
pub fn close_range(first: u64, last: u64, flags: u64) {
    const ON_EXEC: u64 = 4;
    let count = with(|it| it.open.len()) as u64;
    for descriptor in u64::from(first as u32)..count.min(u64::from(last as u32).saturating_add(1)) {
        if flags & ON_EXEC == 0 {
            super::close(descriptor);
        } else {
            set_on_exec(descriptor, true);
        }
    }
}

fn set_on_exec(descriptor: u64, closes: bool) {
    with(|it| {
        if let Some(Some(open)) = it.open.get_mut(descriptor as u32 as usize) {
            open.closes_on_exec = closes;
        }
    });
}

/// fcntl.
pub fn control(descriptor: u64, operation: u64, argument: u64, what: What) -> Option<Result> {
    const DUPLICATE: u64 = 0;
    const SET_DESCRIPTOR_FLAGS: u64 = 2;
    const GET_FLAGS: u64 = 3;
    const SET_FLAGS: u64 = 4;
    const DUPLICATE_TO_CLOSE: u64 = 1030;
    const READ_WRITE: usize = 2;
    match (operation, what) {
        (DUPLICATE | DUPLICATE_TO_CLOSE, _) => {
            let arguments = [descriptor, operation, argument, 0, 0, 0];
            Some(duplicate(number::FCNTL, arguments, what, operation == DUPLICATE_TO_CLOSE))
        }
        (SET_DESCRIPTOR_FLAGS, _) => {
            set_on_exec(descriptor, argument & 1 != 0);
            None
        }
        (GET_FLAGS, What::Socket(id)) => {
            Some(of(id, |it, _| Ok(READ_WRITE | if it.waits { 0 } else { NONBLOCKING as usize })))
        }
        (SET_FLAGS, What::Socket(id)) => Some(of(id, |it, _| {
            it.waits = argument & NONBLOCKING == 0;
            Ok(0)
        })),
        _ => None,
    }
}

/// ioctl.
pub fn device(descriptor: u64, request: u64, argument: u64, what: What) -> Option<Result> {
    const SET_NONBLOCKING: u64 = 0x5421;
    const BYTES_TO_READ: u64 = 0x541b;
    const BYTES_TO_SEND: u64 = 0x5411;
    const CLOSE_ON_EXEC: u64 = 0x5451;
    const KEEP_ON_EXEC: u64 = 0x5450;
    let What::Socket(id) = what else { return None };
    Some(match request {
        SET_NONBLOCKING => user::read::<u32>(argument).and_then(|wanted| {
            of(id, |it, _| {
                it.waits = wanted == 0;
                Ok(0)
            })
        }),
        BYTES_TO_READ | BYTES_TO_SEND => {
            attend();
            let count = of(id, |it, stack| {
                if matches!(it.kind, Kind::Listening(_)) {
                    return Err(EINVAL);
                }
                Ok(match &it.kind {
                    Kind::Connected(it) if request == BYTES_TO_SEND => stack.tcp(it.place).send_queue(),
                    _ if request == BYTES_TO_SEND => 0,
                    Kind::Datagrams(it) => {
                        let first = it.places.iter().find_map(|it| stack.udp(*it).peek().ok().map(|it| it.0.len()));
                        first.unwrap_or(0)
                    }
                    _ => it.has(stack).queue,
                })
            });
            count.and_then(|it| user::write(argument, it as u32)).map(|()| 0)
        }
        CLOSE_ON_EXEC | KEEP_ON_EXEC => {
            set_on_exec(descriptor, request == CLOSE_ON_EXEC);
            return None;
        }
        _ => return None,
    })
}
