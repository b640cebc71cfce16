//! Locks between processes: `flock` on files of the pool, given back by the kernel when their holder dies.
//!
//! Two locks exist. **The writer's lock** is held by the one process that writes packs, the index and refs. **The pin**
//! is held shared by whoever relies on files staying where they are (readers, a root file system being unpacked, a cell
//! being started) and exclusively, for a moment, by a collector that removes files. A collector takes the writer's lock
//! first and never waits long for the pin, so the two cannot deadlock.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    #[expect(dead_code, reason = "holding the descriptor is holding the lock")]
    file: File,
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path).context("open", path)
}

/// Takes the lock, waiting up to `patience`. Returns nothing when somebody else kept it all that time.
fn acquire(file: &File, path: &Path, operation: FlockOperation, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("lock", path),
        }
    }
}

/// The writer's lock. Its file holds the process id of its last holder, for the message of whoever waits in vain.
pub(crate) fn writer(path: &Path, patience: Duration) -> Result<Lock> {
    let mut file = open(path)?;
    if !acquire(&file, path, FlockOperation::NonBlockingLockExclusive, patience)? {
        let mut text = String::new();
        let _ = file.read_to_string(&mut text);
        return Err(Error::Busy { holder: text.trim().parse().ok() });
    }
    let pid = format!("{:<10}\n", std::process::id());
    file.write_all_at(pid.as_bytes(), 0).context("write", path)?;
    Ok(Lock { file })
}

/// The pin, shared.
pub(crate) fn pin(path: &Path) -> Result<Lock> {
    let file = open(path)?;
    // A collector holds it for the time of some unlinks.
    match acquire(&file, path, FlockOperation::NonBlockingLockShared, Duration::from_secs(60))? {
        true => Ok(Lock { file }),
        false => Err(Error::Busy { holder: None }),
    }
}

/// The pin, exclusively; nothing when somebody holds it shared for longer than `patience`.
pub(crate) fn unpin(path: &Path, patience: Duration) -> Result<Option<Lock>> {
    let file = open(path)?;
    let got = acquire(&file, path, FlockOperation::NonBlockingLockExclusive, patience)?;
    Ok(got.then_some(Lock { file }))
}
