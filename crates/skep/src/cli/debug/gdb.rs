//! `skep debug CELL --gdb`: gdb at the processor of a machine.
//!
//! Nothing in the cell listens. A connection is made here, and handed to who runs the machine: gdb's own pipe (standard input
//! and output), or the first that comes to a port of the loopback or to a socket by that path.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use engine::{Cell, Engine};

use crate::error::{CommandError, Result};
use crate::output;

/// What stands for gdb's pipe.
pub(super) const PIPE: &str = "-";

/// Lets one debugger at the cell's machine.
pub(super) fn serve(engine: &Engine, cell: &Cell, address: &str) -> Result<()> {
    match address {
        PIPE => through_pipe(engine, cell),
        path if path.contains('/') => {
            let listener = UnixListener::bind(path).map_err(|error| cannot_listen(path, &error))?;
            output::note(format!("waiting for gdb: target remote {path}"));
            let accepted = listener.accept();
            let _ = std::fs::remove_file(Path::new(path));
            hand_over(engine, cell, accepted?.0.into())
        }
        _ => {
            let place = loopback(address)?;
            let listener = TcpListener::bind(place).map_err(|error| cannot_listen(address, &error))?;
            output::note(format!("waiting for gdb: target remote {}", listener.local_addr()?));
            let (stream, _) = listener.accept()?;
            let _ = stream.set_nodelay(true);
            hand_over(engine, cell, stream.into())
        }
    }
}

fn hand_over(engine: &Engine, cell: &Cell, connection: OwnedFd) -> Result<()> {
    Ok(engine.connect_debugger(cell, connection.as_fd())?)
}

fn cannot_listen(address: &str, error: &std::io::Error) -> CommandError {
    CommandError::failed(format!("listening at {address}: {error}"))
}

/// A port of the loopback: whoever reaches it can do everything in the machine, so nobody else's is one.
fn loopback(text: &str) -> Result<SocketAddr> {
    let wrong = || {
        CommandError::usage(format!("'{text}' is no place for a debugger of this machine"))
            .hinted("a port (of the loopback), 127.0.0.1:PORT, a path with a '/', or nothing for gdb's pipe")
    };
    let port = text.strip_prefix(':').unwrap_or(text);
    let place = match port.parse() {
        Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Err(_) => text.parse().map_err(|_| wrong())?,
    };
    let is_loopback = match place.ip() {
        IpAddr::V4(it) => it.is_loopback(),
        IpAddr::V6(it) => it.is_loopback(),
    };
    if is_loopback { Ok(place) } else { Err(wrong()) }
}

/// Passes on what gdb says and hears, until either side has ended.
fn through_pipe(engine: &Engine, cell: &Cell) -> Result<()> {
    // A key that interrupts gdb goes to what it started, too, and means the machine.
    sys::signal::block(sys::signal::SignalSet::of(&[2])).map_err(std::io::Error::from)?;
    let (ours, theirs) = UnixStream::pair()?;
    engine.connect_debugger(cell, theirs.as_fd())?;
    drop(theirs);
    let inward = ours.try_clone()?;
    std::thread::spawn(move || {
        let _ = pass(std::io::stdin().lock(), &inward);
        let _ = inward.shutdown(std::net::Shutdown::Both);
    });
    match pass(&ours, std::io::stdout().lock()) {
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Err(error.into()),
        _ => Ok(()),
    }
}

fn pass(mut from: impl Read, mut to: impl Write) -> std::io::Result<()> {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes)? {
            0 => return Ok(()),
            count => to.write_all(&bytes[..count])?,
        }
        to.flush()?;
    }
}
