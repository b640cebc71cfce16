//! The library operating system: what stands between an unmodified Linux program and the virtual machine that it is alone
//! in. It loads the program beside itself and answers its system calls, those about memory, threads, signals and time by
//! itself, the others by asking the tender, who holds the files.
//!
//! It shares its privilege and its address space with the program: **the boundary is around both**, and nothing in here
//! protects anybody from the program but the program from its own mistakes.

#![no_std]
#![no_main]

extern crate alloc;

mod clock;
mod engine;
mod entry;
mod errno;
mod extended;
mod fault;
mod frame;
mod futex;
mod heap;
mod kept;
mod library;
mod loader;
mod net;
mod number;
mod patch;
mod pipe;
mod port;
mod signal;
mod space;
mod string;
mod sync;
mod syscall;
mod thread;
mod user;

use alloc::vec;
use alloc::vec::Vec;

use abi::boot::Header;
use loader::{Command, Surroundings};

/// The engine has made the port and memory usable: loads the first program and goes to it.
fn begin() -> ! {
    match boot() {
        Ok(never) => match never {},
        // As a shell says of a command that cannot be executed.
        Err(errno) => {
            let code = if errno == errno::ENOENT { 127 } else { 126 };
            port::log(&alloc::format!("cannot execute the program: error {}", errno.0));
            let _ = port::call(abi::call::EXIT, [code << 8, 0, 0, 0, 0, 0]);
            engine::stop()
        }
    }
}

fn boot() -> errno::Result<core::convert::Infallible> {
    let length = port::call(abi::call::BOOT, [0; 6])?;
    let mut text = vec![0u8; length];
    port::call(abi::call::BOOT, [text.as_mut_ptr() as u64, length as u64, 0, 0, 0, 0])?;
    let header: Header = match text.get(..Header::SIZE) {
        // SAFETY: it is numbers.
        Some(bytes) => unsafe { bytes.as_ptr().cast::<Header>().read_unaligned() },
        None => return Err(errno::EINVAL),
    };
    let mut strings = text[Header::SIZE..].split(|it| *it == 0).map(<[u8]>::to_vec);
    let path = strings.next().ok_or(errno::EINVAL)?;
    let arguments: Vec<_> = strings.by_ref().take(header.arguments as usize).collect();
    let environment: Vec<_> = strings.take(header.variables as usize).collect();
    thread::begin(header.pid);
    let around = Surroundings {
        uid: header.uid,
        gid: header.gid,
        capabilities: header.capabilities,
        capabilities2: header.capabilities2,
    };
    let ready = loader::open(Command { path, arguments, environment })?;
    syscall::process::begin(around, &header);
    let start = syscall::process::become_program(&ready)?;
    drop(ready);
    entry::leave_to(&frame::Frame::at(start.entry, start.stack))
}
