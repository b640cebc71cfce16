//! What becomes of sockets when the process is made twice, becomes another program, or ends.

use alloc::vec::Vec;

use super::link::{self, Link};
use super::{Open, Stack, close, is_on, patience, turn, with};
use crate::{clock, port};

/// The process is a copy of another.
pub fn adopt() {
    if !is_on() {
        return;
    }
    let had_link = with(Stack::give_up);
    if had_link {
        Link::let_go();
    }
}

/// The process is about to be made twice for somebody outside, who shall not find the link's memory in it. What to say
/// afterwards.
pub fn park() -> bool {
    let has_link = is_on() && with(|it| it.outside.is_some());
    if has_link {
        Link::let_go();
    }
    has_link
}

/// The one that was there before has it again.
pub fn go_on(had_link: bool) {
    // It is this process's still, so nobody else can have it.
    if had_link && Link::take_up().is_err() {
        with(Stack::give_up);
    }
}

/// The process has become another program.
pub fn executed() {
    if is_on() {
        let closed = with(|it| {
            it.waiting.clear();
            it.sets.values_mut().for_each(|it| _ = it.forget_watch());
            let closing = |(at, it): (usize, &Option<Open>)| it.filter(|it| it.closes_on_exec).map(|_| at as u64);
            it.open.iter().enumerate().filter_map(closing).collect::<Vec<_>>()
        });
        closed.into_iter().for_each(close);
    }
}

/// The process ends: what it has sent goes out before.
pub fn end() {
    /// What was sent is worth some time; that the other side knows of the end, less.
    const LONGEST: u64 = 2_000_000_000;
    const LONGEST_FOR_THE_END: u64 = 250_000_000;
    if !is_on() {
        return;
    }
    let open = with(|it| it.open.len());
    (0..open as u64).for_each(close);
    let begun = clock::monotonic();
    loop {
        turn();
        let (unsent, unknown) = with(|it| it.unfinished());
        let most = if unsent > 0 { LONGEST } else { LONGEST_FOR_THE_END };
        let passed = clock::monotonic() - begun;
        let loaded = with(|it| it.outside.is_some()) && link::is_loaded();
        if passed >= most || unsent + unknown == 0 && !loaded {
            return;
        }
        let wait = patience().unwrap_or(most).min(most - passed);
        let mut cookies = [0u64; 4];
        let _ = port::call(abi::call::WAIT, [cookies.as_mut_ptr() as u64, 4, wait, 0, 0, 0]);
        if unsent + unknown == 0 {
            return;
        }
    }
}
