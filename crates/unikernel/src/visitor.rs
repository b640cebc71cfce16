//! A process of the host that stands for a further program in a family: what is done to it is passed on to the program,
//! and it ends as the program does.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use sys::Errno;
use sys::signal::{self, By, SignalSet};

use crate::control::{CommandText, Line, Order, Word, write_command};

/// Asks for the program in that cell, on the calling process's standard streams; gives its wait status. For a process that
/// does nothing else. Fork-safe.
pub fn accompany(line: &Line, cell: u32, command: &CommandText<'_>) -> Result<i32, Errno> {
    const KILLED: i32 = 9;
    let signals = signal::descriptor(SignalSet::ALL)?;
    let text = write_command(command)?;
    let (stdin, stdout, stderr) = (rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr());
    line.ask(Order::Run { cell }, &[stdin, stdout, stderr, text.as_fd()])?;
    drop(text);
    loop {
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(line, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let [_, said] = fds.map(|it| !it.revents().is_empty());
        while let Ok(Some(it)) = signal::next(signals.as_fd()) {
            // The program may have ended a moment ago.
            let order = if it.by == By::Kernel { Order::Key(it.signal) } else { Order::Signal(it.signal) };
            let _ = line.ask(order, &[]);
        }
        if !said {
            continue;
        }
        match line.hear() {
            Ok(Some(Word::Ended { status })) => return Ok(status),
            Ok(Some(Word::Refused(errno))) | Err(errno) => return Err(errno),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(KILLED),
        }
    }
}
