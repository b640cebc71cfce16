//! A source of entropy: the host's.

use rustix::rand::{GetRandomFlags, getrandom};

use super::{Broken, Cause, Device, Queues};

/// Bytes that one request is given at most.
const MOST: u64 = 64 << 10;

/// The source.
pub(crate) struct Entropy;

impl Device for Entropy {
    fn id(&self) -> u32 {
        4
    }

    fn queues(&self) -> usize {
        1
    }

    fn work(&mut self, queues: &mut Queues<'_>, _cause: Cause) -> Result<(), Broken> {
        while let Some(mut chain) = queues.pop(0)? {
            let mut bytes = vec![0; chain.room().min(MOST) as usize];
            let given = getrandom(&mut bytes, GetRandomFlags::empty()).unwrap_or(0);
            chain.write(queues.ram, &bytes[..given])?;
            queues.push(0, &chain)?;
        }
        Ok(())
    }
}
