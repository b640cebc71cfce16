//! Answering for a watched program from the first call that it makes.
//!
//! A program whose calls are announced stands still at each until somebody answers, from its `execve` on: before whoever
//! starts it could be told that it runs. So starting takes an [`Attendant`] that is let work meanwhile. **The starting
//! thread never waits for such a program without attending to it.**

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use sys::Errno;

use crate::protocol::{self, Report};

/// Who answers for a watched program.
pub trait Attendant {
    /// Takes over the descriptor on which the program's calls are announced.
    fn listen(&mut self, listener: OwnedFd) -> sys::Result<()>;

    /// Readable when there is something to answer.
    fn questions(&self) -> BorrowedFd<'_>;

    /// Answers what there is to answer.
    fn attend(&mut self) -> sys::Result<()>;
}

/// The next report of a child, as [`protocol::receive`] gives it, attending meanwhile. The listener of a watched program
/// goes to its attendant.
pub(crate) fn receive(
    control: BorrowedFd<'_>,
    attendant: &mut Option<&mut dyn Attendant>,
) -> sys::Result<Option<(Report, [Option<OwnedFd>; sys::socket::MAX_DESCRIPTORS])>> {
    loop {
        let Some(attendant) = attendant else { return protocol::receive(control) };
        let mut fds = [
            PollFd::from_borrowed_fd(control, PollFlags::IN),
            PollFd::from_borrowed_fd(attendant.questions(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let [told, asked] = fds.map(|it| !it.revents().is_empty());
        if asked {
            attendant.attend()?;
        }
        if told {
            match protocol::receive(control)? {
                Some((Report::Listener, [Some(listener), ..])) => attendant.listen(listener)?,
                other => return Ok(other),
            }
        }
    }
}
