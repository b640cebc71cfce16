//! Files and shared memory in a member's address space: a process of the host is sent what it maps, a machine has it put
//! into its window.

use std::os::fd::AsFd;

use abi::call;
use abi::futex::SIZE;
use abi::layout::kvm::MOST_WINDOW;
use rustix::fs::OFlags;
use sys::Errno;

use crate::calls::Reply;
use crate::files::File;
use crate::member::{Body, Member};
use crate::{futexes, process};

/// How many bytes of a file there are from an offset on.
fn there(file: &File, offset: u64) -> u64 {
    rustix::fs::fstat(file).map_or(0, |it| it.st_size.unsigned_abs().saturating_sub(offset))
}

impl Member {
    /// Has a part of a file mapped: sends it to the member, or puts it into its machine.
    pub(crate) fn lend(&mut self, [descriptor, offset, length, how, ..]: [u64; 6]) -> Result<Reply, Errno> {
        const WRITE: u64 = 2;
        const PAGE: u64 = 4096;
        let file = match descriptor == abi::library::FILE as u64 {
            true => self.family.libraries.file(self.number)?,
            false => self.table.get(descriptor)?.clone(),
        };
        let flags = rustix::fs::fcntl_getfl(&*file)?;
        let mode = flags & OFlags::RWMODE;
        if mode == OFlags::WRONLY || flags.contains(OFlags::PATH) {
            return Err(Errno::ACCESS);
        }
        if how & call::MAP_SHARED != 0 && how & WRITE != 0 && mode != OFlags::RDWR {
            return Err(Errno::ACCESS);
        }
        // What a mapping can be at all.
        if length == 0 || length > MOST_WINDOW || offset % PAGE != 0 || offset > i64::MAX as u64 - MOST_WINDOW {
            return Err(Errno::INVAL);
        }
        let at = match &mut self.body {
            Body::Process(socket) => process::send(socket, &[file.as_fd()]).map(|()| 0),
            Body::Machine(_, Some(guest)) => guest.map(&file, offset, length, how),
            Body::Machine(_, None) => Err(Errno::NOSYS),
        }?;
        let memory = match how & call::MAP_SHARED != 0 {
            true => futexes::identity(&*file).unwrap_or(0),
            false => there(&file, offset),
        };
        Ok(Reply::Mapped { at, memory })
    }

    /// Has the counters mapped.
    pub(crate) fn hand_over_counters(&mut self) -> Result<u64, Errno> {
        // Where other cells have sleepers, too, the guest cannot see that there are none.
        let file = self.family.futexes.counters(u32::from(self.family.board.is_some()))?;
        match &mut self.body {
            Body::Process(socket) => process::send(socket, &[file.as_fd()]).map(|()| 0),
            Body::Machine(_, Some(guest)) => guest.map_shared(file.as_fd(), SIZE),
            Body::Machine(_, None) => Err(Errno::NOSYS),
        }
    }
}
