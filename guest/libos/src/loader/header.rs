//! The headers of an ELF file, read as something that a stranger wrote (System V ABI, chapters 4 and 5).

use alloc::vec::Vec;

use abi::layout::{LOWEST, PAGE, PROGRAM_END};

use crate::errno::{ENOEXEC, Result};
use crate::space::Protection;

/// What is to be known of a program's file.
pub struct Elf {
    pub kind: Kind,
    pub entry: usize,
    pub segments: Vec<Segment>,
    pub interpreter: Option<Vec<u8>>,
    /// How many program headers there are, and where in the file.
    pub count: usize,
    headers: usize,
}

/// Whether it cares where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Fixed,
    Movable,
}

/// A part of the file that belongs in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub address: usize,
    pub offset: u64,
    pub in_file: usize,
    pub in_memory: usize,
    pub rights: Protection,
}

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const MOST_HEADERS: usize = 64;
const LONGEST_PATH: usize = 4096;

impl Elf {
    /// Reads the headers, of which `beginning` is the file's first page; `read` gives further parts.
    pub fn parse(beginning: &[u8], read: impl Fn(u64, usize) -> Result<Vec<u8>>) -> Result<Self> {
        const LOADED: u32 = 1;
        const INTERPRETER: u32 = 3;
        let head = beginning.get(..HEADER).ok_or(ENOEXEC)?;
        // 64 bits, little-endian, version 1; x86-64.
        if !head.starts_with(b"\x7fELF\x02\x01\x01")
            || half(head, 18) != 62
            || half(head, 54) as usize != PROGRAM_HEADER
        {
            return Err(ENOEXEC);
        }
        let kind = match half(head, 16) {
            2 => Kind::Fixed,
            3 => Kind::Movable,
            _ => return Err(ENOEXEC),
        };
        let (headers, count) = (word(head, 32), half(head, 56) as usize);
        if count == 0 || count > MOST_HEADERS {
            return Err(ENOEXEC);
        }
        let length = count * PROGRAM_HEADER;
        let table = match usize::try_from(headers).ok().and_then(|at| beginning.get(at..at.checked_add(length)?)) {
            Some(table) => table.to_vec(),
            None => read(headers, length)?,
        };
        if table.len() != length {
            return Err(ENOEXEC);
        }
        let mut elf = Self {
            kind,
            entry: word(head, 24) as usize,
            segments: Vec::new(),
            interpreter: None,
            count,
            headers: headers as usize,
        };
        for header in table.chunks_exact(PROGRAM_HEADER) {
            match single(header, 0) {
                LOADED if word(header, 40) > 0 => elf.segments.push(segment(header)?),
                INTERPRETER => {
                    let length = usize::try_from(word(header, 32)).map_err(|_| ENOEXEC)?;
                    if length > LONGEST_PATH {
                        return Err(ENOEXEC);
                    }
                    let mut path = read(word(header, 8), length)?;
                    path.truncate(path.iter().position(|it| *it == 0).ok_or(ENOEXEC)?);
                    elf.interpreter = Some(path);
                }
                _ => {}
            }
        }
        let ordered = elf.segments.is_sorted_by(|a, b| a.address + a.in_memory <= b.address);
        let lowest = elf.segments.first().ok_or(ENOEXEC)?.address;
        if !ordered || (kind == Kind::Fixed && lowest < LOWEST) {
            return Err(ENOEXEC);
        }
        Ok(elf)
    }

    /// Behind its last byte.
    pub fn end(&self) -> usize {
        self.segments.last().map_or(0, |it| it.address + it.in_memory)
    }

    /// Where its program headers are in memory.
    pub fn headers_at(&self, bias: usize) -> usize {
        let holds = |it: &&Segment| (it.offset as usize..it.offset as usize + it.in_file).contains(&self.headers);
        self.segments.iter().find(holds).map_or(0, |it| it.address + bias + (self.headers - it.offset as usize))
    }
}

fn segment(header: &[u8]) -> Result<Segment> {
    let [offset, address, in_file, in_memory] = [8, 16, 32, 40].map(|at| word(header, at));
    let flags = single(header, 4);
    let page = PAGE as u64;
    let end = address.checked_add(in_memory).ok_or(ENOEXEC)?;
    if in_file > in_memory
        || end > PROGRAM_END as u64 / 2
        || offset % page != address % page
        || offset > i64::MAX as u64
    {
        return Err(ENOEXEC);
    }
    let mut rights = Protection::empty();
    for (bit, right) in [(4, Protection::READ), (2, Protection::WRITE), (1, Protection::EXECUTE)] {
        if flags & bit != 0 {
            rights |= right;
        }
    }
    let (address, in_file, in_memory) = (address as usize, in_file as usize, in_memory as usize);
    Ok(Segment { address, offset, in_file, in_memory, rights })
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..at + N).and_then(|it| it.try_into().ok()).unwrap_or([0; N])
}

fn half(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(from, at))
}

fn single(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(from, at))
}

fn word(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(from, at))
}
