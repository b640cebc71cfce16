//! Sockets of a snapshot. Those that wait for somebody are made again; what was connected is not.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, getpeername, getsockname, listen,
    socket_with, socketpair, sockopt,
};
use serde::{Deserialize, Serialize};
use sys::Errno;

use crate::error::{Error, Result};
use crate::files::File;

/// A socket that is connected with nobody.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedSocket {
    domain: u16,
    kind: u32,
    address: Option<Address>,
    listens: bool,
    reuses_address: bool,
    reuses_port: bool,
    only_v6: bool,
    kept_alive: bool,
}

/// What it is bound to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum Address {
    Internet(SocketAddr),
    Path(Vec<u8>),
    Abstract(Vec<u8>),
}

/// How many connections may wait: the host does not say what was asked for, and has a limit of its own.
const BACKLOG: i32 = 4096;

const DOMAINS: [AddressFamily; 3] = [AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6];

impl SavedSocket {
    pub(super) fn listens(&self) -> bool {
        self.listens
    }

    pub(super) fn is_right(&self) -> bool {
        let path = match &self.address {
            Some(Address::Path(path)) => !path.contains(&0) && path.len() < 108,
            Some(Address::Abstract(name)) => name.len() < 108,
            Some(Address::Internet(_)) | None => true,
        };
        path && DOMAINS.iter().any(|it| it.as_raw() == self.domain)
    }
}

/// What the socket is; nothing when it is connected.
pub(super) fn keep(file: &File) -> Result<Option<SavedSocket>> {
    let host = Error::host("looking at a socket");
    let domain = sockopt::socket_domain(file).map_err(&host)?;
    if !DOMAINS.contains(&domain) {
        return Err(Error::Unkept(format!("a socket of family {}", domain.as_raw())));
    }
    let listens = sockopt::socket_acceptconn(file).unwrap_or(false);
    if !listens && getpeername(file).is_ok() {
        return Ok(None);
    }
    let name = getsockname(file).map_err(&host)?;
    let address = match SocketAddrUnix::try_from(name.clone()) {
        Ok(it) => match (it.path_bytes(), it.abstract_name()) {
            (Some(path), _) => Some(Address::Path(path.to_vec())),
            (_, Some(name)) => Some(Address::Abstract(name.to_vec())),
            _ => None,
        },
        Err(_) => SocketAddr::try_from(name).ok().filter(|it| it.port() != 0).map(Address::Internet),
    };
    Ok(Some(SavedSocket {
        domain: domain.as_raw(),
        kind: sockopt::socket_type(file).map_err(host)?.as_raw(),
        address,
        listens,
        reuses_address: sockopt::socket_reuseaddr(file).unwrap_or(false),
        reuses_port: sockopt::socket_reuseport(file).unwrap_or(false),
        only_v6: domain == AddressFamily::INET6 && sockopt::ipv6_v6only(file).unwrap_or(false),
        kept_alive: sockopt::socket_keepalive(file).unwrap_or(false),
    }))
}

/// Makes it again.
pub(super) fn open(it: &SavedSocket) -> Result<OwnedFd> {
    let host = Error::host("making a socket of a snapshot again");
    let (domain, kind) = (AddressFamily::from_raw(it.domain), SocketType::from_raw(it.kind));
    let socket = socket_with(domain, kind, SocketFlags::CLOEXEC, None).map_err(&host)?;
    if domain != AddressFamily::UNIX {
        sockopt::set_socket_reuseaddr(&socket, it.reuses_address).map_err(&host)?;
        sockopt::set_socket_reuseport(&socket, it.reuses_port).map_err(&host)?;
        sockopt::set_socket_keepalive(&socket, it.kept_alive).map_err(&host)?;
    }
    if domain == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, it.only_v6).map_err(&host)?;
    }
    let (bound, name) = match &it.address {
        None => (Ok(()), String::new()),
        Some(Address::Internet(address)) => (bind_soon(&socket, &(*address).into()), address.to_string()),
        Some(Address::Path(path)) => {
            let is_socket = |it: &rustix::fs::Stat| FileType::from_raw_mode(it.st_mode) == FileType::Socket;
            // Nobody answers there any more: it is what is left of this one.
            if rustix::fs::lstat(&path[..]).is_ok_and(|it| is_socket(&it)) {
                let _ = rustix::fs::unlink(&path[..]);
            }
            let bound = SocketAddrUnix::new(&path[..]).and_then(|it| bind(&socket, &it));
            (bound, String::from_utf8_lossy(path).into_owned())
        }
        Some(Address::Abstract(name)) => {
            let bound = SocketAddrUnix::new_abstract_name(name).and_then(|it| bind_soon(&socket, &it.into()));
            (bound, String::from_utf8_lossy(name).into_owned())
        }
    };
    bound.map_err(|errno| Error::Elsewhere(format!("listening on {name}: {errno}")))?;
    if it.listens {
        listen(&socket, BACKLOG).map_err(host)?;
    }
    Ok(socket)
}

/// Binds it, as soon as whoever it is a copy of has let go of the address.
fn bind_soon(socket: &OwnedFd, address: &SocketAddrAny) -> std::result::Result<(), Errno> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    loop {
        match bind(socket, address) {
            Err(Errno::ADDRINUSE) if begun.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(1)),
            done => return done,
        }
    }
}

/// A connection whose other end is gone.
pub(super) fn hung_up() -> std::result::Result<OwnedFd, Errno> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?.0)
}

/// What is between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ends {
    /// Of a pipe, the reading one first.
    Pipe,
    /// Of a pair of sockets of that type.
    Sockets(u32),
}

impl Ends {
    /// Sockets between which bytes are in order.
    pub(super) const STREAM: Self = Self::Sockets(SocketType::STREAM.as_raw());
}

/// A new pair.
pub(super) fn pair(ends: Ends) -> std::result::Result<(OwnedFd, OwnedFd), Errno> {
    match ends {
        Ends::Pipe => rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC),
        Ends::Sockets(kind) => socketpair(AddressFamily::UNIX, SocketType::from_raw(kind), SocketFlags::CLOEXEC, None),
    }
}
