//! The open files of a cell that is made as a copy of another.
//!
//! Fork shares every open file. A cell of its own must not share some: the standard streams are its own, so that its
//! output is; an epoll instance is its own, or each would be told of the other's connections; and a connection over the
//! network stays the original's alone: the copy finds it hung up. Listening sockets are shared, so that whichever is
//! free answers; so are pipes, event and timer descriptors, and the positions of files.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, PoisonError};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, getpeername, socketpair};
use sys::Errno;

use crate::calls::polling::EPOLL;
use crate::family::Streams;
use crate::files::{File, Table, Waiting};
use crate::interests::{Interest, Interests};

/// Which file takes the place of which.
pub(crate) struct Exchange(Vec<(Arc<File>, Arc<File>)>);

impl Exchange {
    /// What a cell with that table has to exchange, given its streams and the new ones.
    pub(crate) fn plan(table: &mut Table, old: &Streams, new: &[Arc<File>; 3]) -> Result<Self, Errno> {
        let mut exchange = Self(Vec::new());
        for (old, new) in old.iter().zip(new) {
            exchange.0.extend(old.upgrade().map(|it| (it, new.clone())));
        }
        for file in table.files_mut() {
            if exchange.find(file).is_some() {
                continue;
            }
            let new = if file.path == EPOLL {
                epoll::create(CreateFlags::CLOEXEC)?
            } else if is_connection(file) {
                let flags = SocketFlags::CLOEXEC;
                // The other end is closed at once.
                socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?.0
            } else {
                continue;
            };
            let new = File::new(new, file.waiting(), &file.path);
            exchange.0.push((file.clone(), new));
        }
        for (old, new) in exchange.0.iter().filter(|(it, _)| it.path == EPOLL) {
            let interests = old.interests.lock().unwrap_or_else(PoisonError::into_inner);
            *new.interests.lock().unwrap_or_else(PoisonError::into_inner) = exchange.interests(new, &interests);
        }
        Ok(exchange)
    }

    /// Puts into a new epoll instance what was in the old one.
    fn interests(&self, set: &File, old: &Interests) -> Interests {
        let mut interests = Interests::default();
        for it in old.iter() {
            let Some(file) = it.file.upgrade() else { continue };
            let file = self.of(&file);
            let events = EventFlags::from_bits_retain(it.events);
            if epoll::add(set, &*file, EventData::new_u64(it.number), events).is_ok() {
                interests.put(file.as_fd().as_raw_fd(), Interest { file: Arc::downgrade(&file), ..it.clone() });
            }
        }
        interests
    }

    fn find(&self, file: &Arc<File>) -> Option<&Arc<File>> {
        self.0.iter().find(|(old, _)| Arc::ptr_eq(old, file)).map(|(_, new)| new)
    }

    /// What is to be used in the place of that.
    pub(crate) fn of(&self, file: &Arc<File>) -> Arc<File> {
        self.find(file).unwrap_or(file).clone()
    }

    /// Exchanges them in the copy's table.
    pub(crate) fn apply(&self, table: &mut Table) {
        table.files_mut().for_each(|it| *it = self.of(it));
    }
}

/// New streams as files.
pub(crate) fn streams(new: [std::os::fd::OwnedFd; 3]) -> [Arc<File>; 3] {
    new.map(|it| File::new(it, Waiting::Yes, b""))
}

/// Whether the file is a connection with somebody over the network.
fn is_connection(file: &File) -> bool {
    if file.end().is_some() {
        return false;
    }
    let Ok(domain) = rustix::net::sockopt::socket_domain(file) else { return false };
    [AddressFamily::INET, AddressFamily::INET6].contains(&domain)
        && rustix::net::sockopt::socket_type(file) == Ok(SocketType::STREAM)
        && getpeername(file).is_ok()
}
