//! signalfd: descriptors that tell of signals. The tender has the descriptor and the set; what is pending is known here.

use abi::signal::{BY_KERNEL, BY_TIMER};

use super::pending::{self, Info};
use crate::errno::{EAGAIN, EINVAL, ERESTART, Result};
use crate::thread::Wake;
use crate::user;

/// `struct signalfd_siginfo`.
const SIZE: usize = 128;

/// read, of a descriptor with that set.
pub fn read(set: u64, into: u64, room: u64, willing: bool) -> Result {
    let most = room as usize / SIZE;
    if most == 0 {
        return Err(EINVAL);
    }
    let (mut done, mut why) = (0, Wake::Up);
    while done < most {
        pending::collect();
        let Some(info) = pending::take(set) else {
            if done > 0 {
                break;
            }
            if !willing {
                return Err(EAGAIN);
            }
            if why == Wake::Signal {
                return Err(ERESTART);
            }
            why = super::sleep_for(set, None);
            continue;
        };
        user::write(into + (done * SIZE) as u64, record(&info))?;
        done += 1;
    }
    pending::tell();
    Ok(done * SIZE)
}

fn record(info: &Info) -> [u8; SIZE] {
    const SIGCHLD: i32 = 17;
    let it = &info.of;
    let mut bytes = [0; SIZE];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &it.signal.to_le_bytes());
    put(8, &it.code.to_le_bytes());
    let (low, high) = (it.first as u32, (it.first >> 32) as u32);
    match it.code {
        BY_TIMER => {
            put(24, &low.to_le_bytes());
            put(32, &high.to_le_bytes());
        }
        BY_KERNEL => {}
        _ => {
            put(12, &low.to_le_bytes());
            put(16, &high.to_le_bytes());
        }
    }
    if it.signal == SIGCHLD && it.code > 0 {
        put(40, &(it.second as u32).to_le_bytes());
    } else {
        put(44, &(it.second as u32).to_le_bytes());
        put(48, &it.second.to_le_bytes());
    }
    bytes
}
