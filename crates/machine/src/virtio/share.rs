//! A shared directory: messages of 9P, one in a chain, with room for the reply behind it.

use super::{Broken, Cause, Device, Queues};
use crate::saved::State;
use crate::share::{self, Server};

/// The mount tag can be read.
const TAG: u64 = 1;

/// The transport of a server.
pub(crate) struct Directory {
    tag: String,
    server: Server,
}

impl Directory {
    pub(crate) fn new(tag: String, server: Server) -> Directory {
        Directory { tag, server }
    }
}

impl Device for Directory {
    fn id(&self) -> u32 {
        9
    }

    fn features(&self) -> u64 {
        TAG
    }

    fn queues(&self) -> usize {
        1
    }

    fn configuration(&self) -> Vec<u8> {
        let tag = &self.tag.as_bytes()[..self.tag.len().min(u16::MAX.into())];
        [&(tag.len() as u16).to_le_bytes(), tag].concat()
    }

    fn save(&self) -> crate::error::Result<State> {
        self.server.save()
    }

    fn restore(&mut self, state: State) -> crate::error::Result<()> {
        self.server.restore(state)
    }

    fn reset(&mut self) {
        self.server.reset();
    }

    fn work(&mut self, queues: &mut Queues<'_>, _cause: Cause) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(0)? {
            if chain.left() > share::MOST_BYTES.into() {
                return Err(Broken);
            }
            let mut message = vec![0; chain.left() as usize];
            chain.read(queues.ram, &mut message)?;
            let reply = self.server.answer(&message).ok_or(Broken)?;
            // What it made no room for, a driver does not want.
            let size = reply.len().min(chain.room() as usize);
            chain.write(queues.ram, &reply[..size])?;
            queues.push(0, &chain)?;
        }
        Ok(())
    }
}
