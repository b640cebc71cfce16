//! Files and shared memory in a member's address space: a process of the host is sent what it maps, a machine has it put
//! into its window.

use std::os::fd::AsFd;

use abi::call;
use abi::futex::SIZE;
use abi::layout::kvm::MOST_WINDOW;
use abi::patched::HAS;
use rustix::fs::OFlags;
use sys::Errno;

use crate::calls::Reply;
use crate::member::{Body, Member};
use crate::{futexes, process};

impl Member {
    /// Has a part of a file mapped: sends it to the member, or puts it into its machine.
    pub(crate) fn lend(&mut self, [descriptor, offset, length, how, ahead, _]: [u64; 6]) -> Result<Reply, Errno> {
        const WRITE: u64 = 2;
        const PAGE: u64 = 4096;
        let is_new = descriptor == abi::library::FILE as u64;
        let file = match is_new {
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
        let stat = rustix::fs::fstat(&*file)?;
        let family = self.family.clone();
        let copy = if is_new { None } else { family.copies.of(&stat) };
        if let Some(copy) = copy.filter(|it| how & call::MAP_CODE != 0 && it.is_of(offset, length)) {
            let at = match &mut self.body {
                Body::Process(socket) => process::send(socket, &[copy.file().as_fd()]).map(|()| 0),
                Body::Machine(_, Some(guest)) => guest.map_copy(copy.file().as_fd(), copy.length()),
                Body::Machine(_, None) => Err(Errno::NOSYS),
            }?;
            return Ok(Reply::Mapped { at, memory: copy.word() });
        }
        // For code, what will be mapped next stands by itself.
        let length = if how & call::MAP_CODE != 0 { length.saturating_add(ahead).min(MOST_WINDOW) } else { length };
        let at = match &mut self.body {
            Body::Process(socket) => process::send(socket, &[file.as_fd()]).map(|()| 0),
            Body::Machine(_, Some(guest)) => guest.map(&file, offset, length, how),
            Body::Machine(_, None) => Err(Errno::NOSYS),
        }?;
        let there = || stat.st_size.unsigned_abs().saturating_sub(offset).min(HAS - 1);
        let memory = match how & call::MAP_SHARED != 0 {
            true => futexes::identity(&*file).unwrap_or(0),
            false => there() | if copy.is_some() { HAS } else { 0 },
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
