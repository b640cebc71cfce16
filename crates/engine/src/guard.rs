//! A process that waits for the end of a builder, to end the cells that the builder cannot end any more.
//!
//! Whoever watches an image leaves cells behind when it is killed, or interrupted at its terminal, and a workload may never
//! end by itself. **The guard learns of any end**: it holds a pipe of which the builder has the other side.

use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::build::builder;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::launch::release_standard_streams;
use crate::table::Engine;

/// The word by which the binary knows that it is to be a guard.
pub const GUARD: &str = "guard-builder";

/// As long as this is there, the guard waits.
pub(crate) struct Guard(#[expect(dead_code, reason = "it is closed with the builder")] OwnedFd);

fn failed(e: impl Into<std::io::Error>) -> Error {
    Error::io("starting a guard", e.into())
}

impl Engine {
    /// Has the cells of the calling process ended when it ends, however it does.
    pub(crate) fn guard_builds(&self) -> Result<Guard> {
        let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        let (_, label) = crate::build::builder_label()?;
        let number = sys::process::number(theirs.as_fd()).to_string();
        let (data, run) = (self.home.data().as_os_str(), self.home.run().as_os_str());
        let words = [OsStr::new("skep"), OsStr::new(GUARD), data, run, OsStr::new(&label), OsStr::new(&number)];
        let words: std::result::Result<Vec<_>, _> = words.map(|it| CString::new(it.as_bytes())).into_iter().collect();
        sys::process::reexec_read_only(&words.map_err(failed)?, &[theirs.as_fd()]).map_err(failed)?;
        Ok(Guard(ours))
    }
}

/// Guards in this process, which was executed for it: `args` are those after [`GUARD`].
pub fn guard_main(args: impl IntoIterator<Item = OsString>) -> Result<()> {
    let mut args = args.into_iter();
    let mut next = || args.next().ok_or_else(|| failed(std::io::ErrorKind::InvalidInput));
    let home = Home::of_parts(PathBuf::from(next()?), PathBuf::from(next()?));
    let builder = next()?.to_str().and_then(builder).ok_or_else(|| failed(std::io::ErrorKind::InvalidInput))?;
    let number = next()?.to_str().and_then(|it| it.parse().ok()).unwrap_or(-1);
    let pipe = sys::inherit::adopt(number).map_err(failed)?;
    release_standard_streams()?;
    rustix::process::chdir("/").map_err(failed)?;
    // Nothing is ever written: it is at its end when the builder is.
    let _ = std::fs::File::from(pipe).read(&mut [0]);
    // A process closes its files shortly before it is gone. One that nobody reaps is left to the next build.
    for _ in 0..500 {
        if !builder.is_alive() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Engine::open(home)?.remove_orphaned_builds()
}
