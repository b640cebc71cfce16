//! The program's memory that bytes of a call come from or go to, in one part or several.

use alloc::vec;
use alloc::vec::Vec;

use crate::errno::{EINVAL, EMSGSIZE, Result};
use crate::user;

/// Parts of the program's memory, and how far they are used up.
pub struct Parts {
    all: Vec<[u64; 2]>,
    /// The part that is next, and how much of it is used.
    at: usize,
    used: u64,
}

impl Parts {
    pub fn one(at: u64, length: u64) -> Self {
        Self { all: vec![[at, length.min(i64::MAX as u64)]], at: 0, used: 0 }
    }

    /// As readv and sendmsg list them.
    pub fn listed(list: u64, count: u64) -> Result<Self> {
        const MOST: u64 = 1024;
        if count > MOST {
            return Err(EINVAL);
        }
        let all = user::read_all::<[u64; 2]>(list, count as usize)?;
        if all.iter().any(|it| it[1] > i64::MAX as u64) {
            return Err(EINVAL);
        }
        Ok(Self { all, at: 0, used: 0 })
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        let rest = self.all.iter().skip(self.at).fold(0u64, |sum, it| sum.saturating_add(it[1]));
        rest.saturating_sub(self.used) as usize
    }

    pub fn is_done(&self) -> bool {
        self.left() == 0
    }

    /// Goes on with each part, up to so many bytes.
    fn each(&mut self, most: usize, mut act: impl FnMut(u64, core::ops::Range<usize>) -> Result<()>) -> Result {
        let mut done = 0;
        while done < most
            && let Some([begin, length]) = self.all.get(self.at).copied()
        {
            let part = ((length - self.used) as usize).min(most - done);
            if part > 0 {
                match act(begin.wrapping_add(self.used), done..done + part) {
                    Ok(()) => {}
                    Err(_) if done > 0 => return Ok(done),
                    Err(errno) => return Err(errno),
                }
            }
            self.used += part as u64;
            done += part;
            if self.used == length {
                (self.at, self.used) = (self.at + 1, 0);
            }
        }
        Ok(done)
    }

    /// Takes bytes from the program.
    pub fn read(&mut self, into: &mut [u8]) -> Result {
        self.each(into.len(), |at, part| user::read_into(at, &mut into[part]))
    }

    /// Gives bytes to the program.
    pub fn write(&mut self, from: &[u8]) -> Result {
        self.each(from.len(), |at, part| user::write_bytes(at, &from[part]))
    }
}

/// `struct msghdr`.
pub struct Header {
    pub name: u64,
    pub name_length: u32,
    pub parts: Parts,
    at: u64,
}

impl Header {
    pub fn read(at: u64) -> Result<Self> {
        let [name, name_length, list, count, ..]: [u64; 7] = user::read(at)?;
        let parts = Parts::listed(list, count).map_err(|it| if count > 1024 { EMSGSIZE } else { it })?;
        Ok(Self { name, name_length: name_length as u32, parts, at })
    }

    /// What is said of a message that was received: there is nothing beside it.
    pub fn answer(&self, flags: u32) -> Result<()> {
        const CONTROL_LENGTH: u64 = 40;
        const FLAGS: u64 = 48;
        user::write(self.at + CONTROL_LENGTH, 0u64)?;
        user::write(self.at + FLAGS, flags)
    }

    /// Where the length of the name goes.
    pub fn name_length_at(&self) -> u64 {
        self.at + 8
    }
}
