//! What a program may say of a socket and ask of it.

use smoltcp::socket::tcp;
use smoltcp::time::Duration;

use super::Stack;
use super::side::Which;
use super::socket::{Kind, Socket};
use super::stream::KEEP_ALIVE;
use crate::errno::{EINVAL, ENOPROTOOPT, Result};
use crate::user;

/// What was said.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub reuses: bool,
    /// Seconds that a close may take; with 0 it is at once, and what was sent is lost.
    pub linger: Option<u32>,
    /// How long to wait to receive and to send at most, in nanoseconds; 0 for ever.
    pub patience: [u64; 2],
    keeps_alive: bool,
    keep_alive_after: u32,
    is_hasty: bool,
    broadcasts: bool,
    receive_room: u32,
    send_room: u32,
    /// Those that change nothing here: what was said is told again.
    rest: [u32; REST.len()],
}

/// As Linux begins with.
const ROOM: u32 = 131_072;

impl Default for Options {
    fn default() -> Self {
        Self {
            reuses: false,
            linger: None,
            patience: [0; 2],
            keeps_alive: false,
            keep_alive_after: KEEP_ALIVE.secs() as u32,
            is_hasty: false,
            broadcasts: false,
            receive_room: ROOM,
            send_room: ROOM,
            rest: REST.map(|it| it.2),
        }
    }
}

/// What is received is acknowledged with what is sent, if that is soon.
const ACKNOWLEDGES_AFTER: Duration = Duration::from_millis(10);

const SOCKET: u32 = 1;
const IP: u32 = 0;
const TCP: u32 = 6;

/// Level, name, and what it is at first.
const REST: [(u32, u32, u32); 22] = [
    (SOCKET, 1, 0),  // SO_DEBUG
    (SOCKET, 5, 0),  // SO_DONTROUTE
    (SOCKET, 10, 0), // SO_OOBINLINE
    (SOCKET, 12, 0), // SO_PRIORITY
    (SOCKET, 15, 0), // SO_REUSEPORT
    (SOCKET, 18, 1), // SO_RCVLOWAT
    (SOCKET, 19, 1), // SO_SNDLOWAT
    (SOCKET, 29, 0), // SO_TIMESTAMP
    (SOCKET, 36, 0), // SO_MARK
    (SOCKET, 46, 0), // SO_BUSY_POLL
    (SOCKET, 49, 0), // SO_INCOMING_CPU
    (IP, 1, 0),      // IP_TOS
    (IP, 2, 64),     // IP_TTL
    (IP, 10, 1),     // IP_MTU_DISCOVER
    (IP, 11, 0),     // IP_RECVERR
    (IP, 24, 0),     // IP_BIND_ADDRESS_NO_PORT
    (TCP, 3, 0),     // TCP_CORK
    (TCP, 5, 75),    // TCP_KEEPINTVL
    (TCP, 6, 9),     // TCP_KEEPCNT
    (TCP, 9, 0),     // TCP_DEFER_ACCEPT
    (TCP, 12, 1),    // TCP_QUICKACK
    (TCP, 18, 0),    // TCP_USER_TIMEOUT
];

const REUSE_ADDRESS: u32 = 2;
const TYPE: u32 = 3;
const ERROR: u32 = 4;
const BROADCAST: u32 = 6;
const SEND_ROOM: u32 = 7;
const RECEIVE_ROOM: u32 = 8;
const KEEPS_ALIVE: u32 = 9;
const LINGER: u32 = 13;
const RECEIVE_PATIENCE: u32 = 20;
const SEND_PATIENCE: u32 = 21;
const LISTENS: u32 = 30;
const PROTOCOL: u32 = 38;
const DOMAIN: u32 = 39;
const NO_DELAY: u32 = 1;
const SEGMENT: u32 = 2;
const KEEP_ALIVE_AFTER: u32 = 4;

impl Options {
    /// Tells the stack.
    pub fn apply(&self, socket: &mut tcp::Socket<'_>, which: Which) {
        // What goes nowhere is not worth gathering.
        let is_near = which == Which::Inside;
        socket.set_nagle_enabled(!self.is_hasty && !is_near);
        socket.set_ack_delay((!is_near).then_some(ACKNOWLEDGES_AFTER));
        let after = Duration::from_secs(u64::from(self.keep_alive_after));
        socket.set_keep_alive(self.keeps_alive.then_some(after));
    }
}

/// setsockopt.
pub fn set(socket: &mut Socket, stack: &mut Stack, [level, name, at, length]: [u64; 4]) -> Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let (level, name) = (level as u32, name as u32);
    let options = &mut socket.options;
    match (level, name) {
        (SOCKET, RECEIVE_PATIENCE | SEND_PATIENCE) => {
            if length < 16 {
                return Err(EINVAL);
            }
            let [seconds, microseconds] = user::read::<[u64; 2]>(at)?;
            let time = seconds.saturating_mul(SECOND).saturating_add(microseconds.saturating_mul(1000));
            options.patience[usize::from(name == SEND_PATIENCE)] = time;
            return Ok(());
        }
        (SOCKET, LINGER) => {
            if length < 8 {
                return Err(EINVAL);
            }
            let [is_on, seconds] = user::read::<[u32; 2]>(at)?;
            options.linger = (is_on != 0).then_some(seconds);
            return Ok(());
        }
        _ => {}
    }
    let value = match length {
        // IP's may be bytes.
        1..=3 if level == IP => u32::from(user::read::<u8>(at)?),
        0..=3 => return Err(EINVAL),
        _ => user::read::<u32>(at)?,
    };
    match (level, name) {
        (SOCKET, REUSE_ADDRESS) => options.reuses = value != 0,
        (SOCKET, BROADCAST) => options.broadcasts = value != 0,
        (SOCKET, SEND_ROOM) => options.send_room = value.min(ROOM * 2).max(2304).saturating_mul(2),
        (SOCKET, RECEIVE_ROOM) => options.receive_room = value.min(ROOM * 2).max(1152).saturating_mul(2),
        (SOCKET, KEEPS_ALIVE) => options.keeps_alive = value != 0,
        (TCP, NO_DELAY) => options.is_hasty = value != 0,
        (TCP, KEEP_ALIVE_AFTER) if (1..=32_767).contains(&value) => options.keep_alive_after = value,
        (TCP, KEEP_ALIVE_AFTER) => return Err(EINVAL),
        _ => {
            let at = REST.iter().position(|it| (it.0, it.1) == (level, name)).ok_or(ENOPROTOOPT)?;
            options.rest[at] = value;
        }
    }
    if let Kind::Connected(it) = &socket.kind {
        options.apply(stack.tcp(it.place), it.place.0);
        stack.is_due = true;
    }
    Ok(())
}

/// getsockopt.
pub fn get(socket: &mut Socket, [level, name, at, size_at]: [u64; 4]) -> Result<()> {
    const SECOND: u64 = 1_000_000_000;
    const STREAM: u32 = 1;
    const DATAGRAM: u32 = 2;
    const INTERNET: u32 = 2;
    const UDP: u32 = 17;
    let options = &socket.options;
    let number = match (level as u32, name as u32) {
        (SOCKET, RECEIVE_PATIENCE | SEND_PATIENCE) => {
            let time = options.patience[usize::from(name as u32 == SEND_PATIENCE)];
            return give(at, size_at, &[time / SECOND, time % SECOND / 1000].map(u64::to_ne_bytes).concat());
        }
        (SOCKET, LINGER) => {
            let words = [u32::from(options.linger.is_some()), options.linger.unwrap_or(0)];
            return give(at, size_at, &words.map(u32::to_ne_bytes).concat());
        }
        (SOCKET, ERROR) => socket.take_error().map_or_else(|it| it.0 as u32, |()| 0),
        (SOCKET, TYPE) => {
            if socket.is_stream() {
                STREAM
            } else {
                DATAGRAM
            }
        }
        (SOCKET, PROTOCOL) => {
            if socket.is_stream() {
                TCP
            } else {
                UDP
            }
        }
        (SOCKET, DOMAIN) => INTERNET,
        (SOCKET, LISTENS) => u32::from(matches!(socket.kind, Kind::Listening(_))),
        (SOCKET, REUSE_ADDRESS) => u32::from(options.reuses),
        (SOCKET, BROADCAST) => u32::from(options.broadcasts),
        (SOCKET, SEND_ROOM) => options.send_room,
        (SOCKET, RECEIVE_ROOM) => options.receive_room,
        (SOCKET, KEEPS_ALIVE) => u32::from(options.keeps_alive),
        (TCP, NO_DELAY) => u32::from(options.is_hasty),
        (TCP, KEEP_ALIVE_AFTER) => options.keep_alive_after,
        (TCP, SEGMENT) => 1460,
        (level, name) => {
            let at = REST.iter().position(|it| (it.0, it.1) == (level, name)).ok_or(ENOPROTOOPT)?;
            options.rest[at]
        }
    };
    give(at, size_at, &number.to_ne_bytes())
}

/// Gives as much of a value as there is room for.
fn give(at: u64, size_at: u64, value: &[u8]) -> Result<()> {
    let room = user::read::<u32>(size_at)?;
    if room > i32::MAX as u32 {
        return Err(EINVAL);
    }
    let length = value.len().min(room as usize);
    user::write_bytes(at, &value[..length])?;
    user::write(size_at, length as u32)
}
