//! What a program finds on its stack: arguments, environment, and the auxiliary vector (System V ABI for x86-64, 3.4).

use alloc::vec::Vec;

use abi::layout::PAGE;

use super::{Command, Surroundings};
use crate::user;

/// What the auxiliary vector says of the program itself.
pub struct Auxiliary {
    pub headers: usize,
    pub count: usize,
    pub base: usize,
    pub entry: usize,
}

/// Most of a stack is for the program.
const MOST: usize = 2 << 20;

/// Writes it below `end`; gives the stack pointer, or nothing when it is too much.
pub fn build(end: usize, command: &Command, it: &Auxiliary, around: &Surroundings, random: [u64; 2]) -> Option<usize> {
    let mut at = end as u64 - 16;
    let lowest = (end - MOST) as u64;
    let mut put = |bytes: &[u8]| {
        at = at.checked_sub(bytes.len() as u64 + 1).filter(|it| *it >= lowest)?;
        user::write_all(at, bytes).ok()?;
        Some(at)
    };
    let path = put(&command.path)?;
    let platform = put(b"x86_64")?;
    let environment = command.environment.iter().map(|it| put(it)).collect::<Option<Vec<_>>>()?;
    let arguments = command.arguments.iter().map(|it| put(it)).collect::<Option<Vec<_>>>()?;
    let random_at = (at - 16) & !15;
    user::write(random_at, random).ok()?;
    let auxiliary: [(u64, u64); 19] = [
        (16, around.capabilities),
        (6, PAGE as u64),
        (17, 100),
        (3, it.headers as u64),
        (4, 56),
        (5, it.count as u64),
        (7, it.base as u64),
        (8, 0),
        (9, it.entry as u64),
        (11, u64::from(around.uid)),
        (12, u64::from(around.uid)),
        (13, u64::from(around.gid)),
        (14, u64::from(around.gid)),
        (23, 0),
        (25, random_at),
        (26, around.capabilities2),
        (31, path),
        (15, platform),
        (0, 0),
    ];
    let mut words = Vec::with_capacity(arguments.len() + environment.len() + 48);
    words.push(arguments.len() as u64);
    words.extend(arguments);
    words.push(0);
    words.extend(environment);
    words.push(0);
    words.extend(auxiliary.into_iter().flat_map(|(kind, value)| [kind, value]));
    let stack = random_at.checked_sub(8 * words.len() as u64)? & !15;
    if stack < lowest {
        return None;
    }
    user::write_all(stack, &words).ok()?;
    Some(stack as usize)
}
