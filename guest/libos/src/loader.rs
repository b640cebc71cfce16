//! Programs in memory: an ELF file and its interpreter, mapped as their headers say.
//!
//! A header may say anything. What it asks for is checked against the file and the address space before anything is
//! mapped; what cannot be is ENOEXEC.

mod header;
mod stack;

use alloc::vec;
use alloc::vec::Vec;

use abi::layout::{PAGE, PROGRAM, STACK_END};

use self::header::{Elf, Kind, Segment};
use crate::engine::{Part, Source};
use crate::errno::{E2BIG, EACCES, ELOOP, ENOEXEC, Errno, Result};
use crate::space::{Place, Protection, SPACE};
use crate::{number, port, string};

/// Linux's numbers of the calls made here.
const STACK_SIZE: usize = 8 << 20;

/// What to execute.
#[derive(Clone, Debug)]
pub struct Command {
    pub path: Vec<u8>,
    pub arguments: Vec<Vec<u8>>,
    pub environment: Vec<Vec<u8>>,
}

/// What a program is told of its surroundings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    pub uid: u32,
    pub gid: u32,
    pub capabilities: u64,
    pub capabilities2: u64,
}

/// Where a loaded program begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub entry: usize,
    pub stack: usize,
}

/// A program whose files are open and well-formed, and which may replace the present one.
pub struct Ready {
    program: File,
    elf: Elf,
    interpreter: Option<(File, Elf)>,
    pub command: Command,
}

struct File(i32);

impl Drop for File {
    fn drop(&mut self) {
        let _ = port::call(number::CLOSE, [self.0 as u64, 0, 0, 0, 0, 0]);
    }
}

impl File {
    fn open(path: &[u8]) -> Result<Self> {
        const CWD: u64 = -100i64 as u64;
        const CLOSE_ON_EXEC: u64 = 0o2000000;
        const EXECUTE: u64 = 1;
        const EFFECTIVE: u64 = 0x200;
        let mut text = path.to_vec();
        text.push(0);
        let path = text.as_ptr() as u64;
        port::call(number::FACCESSAT2, [CWD, path, EXECUTE, EFFECTIVE, 0, 0])?;
        let descriptor = port::call(number::OPENAT, [CWD, path, CLOSE_ON_EXEC, 0, 0, 0])?;
        Ok(Self(descriptor as i32))
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut read = 0;
        while read < length {
            let into = bytes[read..].as_mut_ptr() as u64;
            let arguments = [self.0 as u64, into, (length - read) as u64, offset + read as u64, 0, 0];
            match port::call(number::PREAD, arguments)? {
                0 => break,
                more => read += more.min(length - read),
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Opens a program, and whatever it takes to execute it. Scripts lead to their interpreters.
pub fn open(mut command: Command) -> Result<Ready> {
    const DEEPEST: usize = 5;
    for _ in 0..DEEPEST {
        let program = File::open(&command.path)?;
        let beginning = program.read(0, PAGE).map_err(|it| if it == Errno(21) { EACCES } else { it })?;
        if let Some(rest) = beginning.strip_prefix(b"#!") {
            command = interpreted(command, rest)?;
            continue;
        }
        let elf = Elf::parse(&beginning, |offset, length| program.read(offset, length))?;
        let interpreter = match &elf.interpreter {
            None => None,
            Some(path) => {
                let file = File::open(path)?;
                let beginning = file.read(0, PAGE)?;
                let elf = Elf::parse(&beginning, |offset, length| file.read(offset, length))?;
                Some((file, elf))
            }
        };
        return Ok(Ready { program, elf, interpreter, command });
    }
    Err(ELOOP)
}

/// The command that executes a script, of which the first line is given without `#!`.
fn interpreted(command: Command, rest: &[u8]) -> Result<Command> {
    const LONGEST: usize = 254;
    let rest = &rest[..rest.len().min(LONGEST)];
    let line = rest.split(|it| *it == b'\n').next().unwrap_or_default().trim_ascii();
    let blank = line.iter().position(|it| matches!(it, b' ' | b'\t'));
    let (path, argument) = match blank {
        None => (line, None),
        Some(at) => (&line[..at], Some(line[at..].trim_ascii())),
    };
    if path.is_empty() {
        return Err(ENOEXEC);
    }
    let mut arguments = vec![path.to_vec()];
    arguments.extend(argument.map(<[u8]>::to_vec));
    arguments.push(command.path);
    arguments.extend(command.arguments.into_iter().skip(1));
    Ok(Command { path: path.to_vec(), arguments, environment: command.environment })
}

/// Replaces what is mapped by the program. When it fails, there is nothing to go back to.
pub fn load(ready: &Ready, surroundings: &Surroundings) -> Result<Start> {
    let random: [u64; 4] = random()?;
    SPACE.get().reset(random[0] as usize)?;
    crate::patch::forget();
    let bias = match ready.elf.kind {
        Kind::Fixed => 0,
        Kind::Movable => PROGRAM + (random[1] as usize & 0xff_ffff) * PAGE,
    };
    place(&ready.program, &ready.elf, bias)?;
    let (entry, base) = match &ready.interpreter {
        None => (ready.elf.entry.wrapping_add(bias), 0),
        Some((file, elf)) => {
            let base = match elf.kind {
                Kind::Fixed => 0,
                Kind::Movable => room_for(elf)?,
            };
            place(file, elf, base)?;
            (elf.entry.wrapping_add(base), base)
        }
    };
    let gap = (random[2] as usize & 0x1fff) * PAGE;
    SPACE.get().begin_heap((ready.elf.end() + bias).next_multiple_of(PAGE) + gap);
    let end = STACK_END - (random[3] as usize & 0xffff) * PAGE;
    let rights = Protection::READ | Protection::WRITE;
    SPACE.get().map(Place::AtFree(end - STACK_SIZE), STACK_SIZE, rights, Source::Anonymous)?;
    let auxiliary = stack::Auxiliary {
        headers: ready.elf.headers_at(bias),
        count: ready.elf.count,
        base,
        entry: ready.elf.entry + bias,
    };
    crate::library::note_program(auxiliary.headers, auxiliary.count);
    let stack =
        stack::build(end, &ready.command, &auxiliary, surroundings, [random[0] ^ random[2], random[1] ^ random[3]])
            .ok_or(E2BIG)?;
    Ok(Start { entry, stack })
}

fn random<const N: usize>() -> Result<[u64; N]> {
    let mut words = [0u64; N];
    port::call(number::GETRANDOM, [words.as_mut_ptr() as u64, 8 * N as u64, 0, 0, 0, 0])?;
    Ok(words)
}

fn room_for(elf: &Elf) -> Result<usize> {
    let length = elf.end();
    let at = SPACE.get().map(Place::Anywhere(0), length, Protection::empty(), Source::Anonymous)?;
    SPACE.get().unmap(at, length)?;
    Ok(at)
}

fn place(file: &File, elf: &Elf, bias: usize) -> Result<()> {
    /// Nobody has more mapped at once because a header says so.
    const MOST_AHEAD: u64 = 16 << 20;
    let end = |it: &Segment| it.offset.saturating_add(it.in_file as u64);
    let last = elf.segments.iter().map(end).max().unwrap_or(0);
    let ahead = |it: &Segment| last.saturating_sub(end(it)).min(MOST_AHEAD) as usize;
    elf.segments.iter().try_for_each(|it| place_segment(file, it, bias, ahead(it)))
}

fn place_segment(file: &File, segment: &Segment, bias: usize, ahead: usize) -> Result<()> {
    let begin = segment.address.checked_add(bias).ok_or(ENOEXEC)?;
    let (page, into) = (begin - begin % PAGE, begin % PAGE);
    let (file_end, end) = (begin + segment.in_file, begin + segment.in_memory);
    let mut mapped_to = page;
    if segment.in_file > 0 {
        let source = Source::Private(Part { descriptor: file.0, offset: segment.offset - into as u64, ahead });
        SPACE.get().map(Place::At(page), into + segment.in_file, segment.rights, source)?;
        mapped_to = file_end.next_multiple_of(PAGE);
        let beyond = mapped_to.min(end.next_multiple_of(PAGE)) - file_end;
        if beyond > 0 && end > file_end && segment.rights.contains(Protection::WRITE) {
            // SAFETY: the rest of the last page, which was just mapped writable.
            unsafe { string::zero(file_end, beyond) };
        }
    }
    let end = end.next_multiple_of(PAGE);
    if end > mapped_to {
        SPACE.get().map(Place::At(mapped_to), end - mapped_to, segment.rights, Source::Anonymous)?;
    }
    Ok(())
}
