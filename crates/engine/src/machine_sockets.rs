//! Where programs of the host and of a machine meet (`--vsock PATH`): the socket at PATH, and those at `PATH_PORT` that programs
//! of the host listen at.
//!
//! **A path belongs to whoever listens there**: a socket that nobody listens at any more is removed, another's never.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use model::CellSpec;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::error::{Error, Result};

/// Whether programs of the host may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    None,
}

/// A path, taken apart.
pub(crate) struct Place {
    pub(crate) directory: OwnedFd,
    pub(crate) name: String,
}

impl Place {
    pub(crate) fn of(path: &Path) -> Result<Place> {
        let invalid = || Error::at("making a socket at", path, std::io::Error::from(Errno::INVAL));
        let name = path.file_name().and_then(|it| it.to_str()).ok_or_else(invalid)?.to_owned();
        let parent = path.parent().ok_or_else(invalid)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())
            .map_err(|errno| Error::at("opening", parent, std::io::Error::from(errno)))?;
        Ok(Place { directory, name })
    }

    /// A name for it that is short enough for any socket.
    fn short(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{}", self.directory.as_raw_fd(), self.name).into()
    }

    /// Whether somebody listens there.
    fn is_answered(&self) -> bool {
        let connect = || {
            let socket = stream()?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(self.short())?)
        };
        !matches!(connect(), Err(Errno::CONNREFUSED | Errno::NOENT))
    }
}

fn stream() -> std::result::Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Listens at a path.
pub(crate) fn listen(path: &Path) -> Result<OwnedFd> {
    const WAITING: i32 = 128;
    let place = Place::of(path)?;
    if !place.is_answered() {
        let _ = rustix::fs::unlink(place.short());
    }
    let listen = || {
        let socket = stream()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(place.short())?)?;
        rustix::net::listen(&socket, WAITING)?;
        Ok(socket)
    };
    listen().map_err(|errno: Errno| Error::at("listening at", path, std::io::Error::from(errno)))
}

/// Removes what a cell's machine has left: a socket that nobody listens at any more.
pub(crate) fn leave(spec: &CellSpec) {
    let Some(path) = spec.machine.as_ref().and_then(|it| it.vsock.as_ref()) else { return };
    let Ok(place) = Place::of(path) else { return };
    let is_socket = rustix::fs::lstat(place.short())
        .is_ok_and(|it| rustix::fs::FileType::from_raw_mode(it.st_mode) == rustix::fs::FileType::Socket);
    if is_socket && !place.is_answered() {
        let _ = rustix::fs::unlink(place.short());
    }
}
