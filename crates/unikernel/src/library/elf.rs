//! A library as its headers describe it, in a file or in a guest's memory (System V gABI, chapters 4 and 5).
//!
//! **Either may be hostile**: every address is looked up in what there is, every count has a bound, and what cannot be is
//! an error that says so. Addresses in here are relative to where the library is.

use super::Malformed;

/// Where a library's bytes come from.
pub(crate) trait Bytes {
    /// Copies from there; all of it or nothing.
    fn read(&self, at: u64, into: &mut [u8]) -> Option<()>;

    /// So many bytes from there.
    fn bytes(&self, at: u64, length: u64) -> Result<Vec<u8>, Malformed> {
        if length > LONGEST_TABLE {
            return Err("a table is too long");
        }
        let mut bytes = vec![0; length as usize];
        self.read(at, &mut bytes).ok_or("a table lies where nothing is")?;
        Ok(bytes)
    }

    /// A number.
    fn word(&self, at: u64) -> Result<u64, Malformed> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes).ok_or("an address leads to where nothing is")?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl Bytes for [u8] {
    fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        let at = usize::try_from(at).ok()?;
        into.copy_from_slice(self.get(at..at.checked_add(into.len())?)?);
        Some(())
    }
}

const LONGEST_TABLE: u64 = 16 << 20;
/// The most memory that a library may take.
pub(crate) const LARGEST: u64 = 64 << 20;
const MOST_HEADERS: u64 = 64;
pub(crate) const PAGE: u64 = 4096;

/// A number of `N` bytes in a table.
pub(crate) fn number<const N: usize>(table: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    if let Some(part) = table.get(at..).and_then(|it| it.get(..N)) {
        bytes[..N].copy_from_slice(part);
    }
    u64::from_le_bytes(bytes)
}

/// A part of a library that belongs in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) at: u64,
    pub(crate) offset: u64,
    pub(crate) in_file: u64,
    pub(crate) in_memory: u64,
    /// In the numbers of mmap.
    pub(crate) rights: u64,
}

pub(crate) const READ: u64 = 1;
pub(crate) const WRITE: u64 = 2;
pub(crate) const EXECUTE: u64 = 4;

impl Segment {
    pub(crate) fn end(&self) -> u64 {
        self.at + self.in_memory
    }

    pub(crate) fn holds(&self, at: u64, length: u64) -> bool {
        at >= self.at && at.checked_add(length).is_some_and(|end| end <= self.end())
    }

    /// The pages that it takes.
    pub(crate) fn pages(&self) -> (u64, u64) {
        (self.at - self.at % PAGE, self.end().next_multiple_of(PAGE))
    }
}

/// What the program headers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) segments: Vec<Segment>,
    pub(crate) dynamic: u64,
    /// What is made read-only once it is linked.
    pub(crate) sealed: Option<(u64, u64)>,
    pub(crate) has_threads_data: bool,
    pub(crate) build_id: Vec<u8>,
    /// What the headers say, to be compared with another's.
    pub(crate) headers: Vec<u8>,
}

const DYNAMIC: u64 = 2;
const NOTE: u64 = 4;
const THREADS_DATA: u64 = 7;
const SEALED: u64 = 0x6474_e552;

impl Shape {
    /// Reads a shared library's headers, which are at its beginning.
    pub(crate) fn parse(it: &(impl Bytes + ?Sized)) -> Result<Self, Malformed> {
        let head = it.bytes(0, 64)?;
        if !head.starts_with(b"\x7fELF\x02\x01\x01") || number::<2>(&head, 18) != 62 {
            return Err("it is no ELF file for this processor");
        }
        if number::<2>(&head, 16) != 3 {
            return Err("it is no shared library");
        }
        let (at, count) = (number::<8>(&head, 32), number::<2>(&head, 56));
        if number::<2>(&head, 54) != 56 || !(1..=MOST_HEADERS).contains(&count) {
            return Err("its program headers are none");
        }
        let table = it.bytes(at, count * 56)?;
        let mut shape = Self { headers: [head, table.clone()].concat(), ..Self::default() };
        for header in table.chunks_exact(56) {
            shape.take(it, header)?;
        }
        shape.check()?;
        Ok(shape)
    }

    fn take(&mut self, it: &(impl Bytes + ?Sized), header: &[u8]) -> Result<(), Malformed> {
        const LOADED: u64 = 1;
        let word = |at| number::<8>(header, at);
        let (offset, at, in_file, in_memory) = (word(8), word(16), word(32), word(40));
        match number::<4>(header, 0) {
            LOADED => {
                let flags = number::<4>(header, 4);
                let rights = flags >> 2 & READ | flags & WRITE | flags << 2 & EXECUTE;
                if at.checked_add(in_memory).is_none_or(|end| end > LARGEST) || in_file > in_memory {
                    return Err("a segment is larger than can be");
                }
                if at % PAGE != offset % PAGE || offset.checked_add(in_file).is_none_or(|end| end > LARGEST) {
                    return Err("a segment is not where its pages are");
                }
                self.segments.push(Segment { at, offset, in_file, in_memory, rights });
            }
            DYNAMIC => self.dynamic = at,
            THREADS_DATA => self.has_threads_data = true,
            SEALED => self.sealed = Some((at, at.checked_add(in_memory).ok_or("its sealed part has no end")?)),
            NOTE if self.build_id.is_empty() => {
                // One that cannot be read tells nothing.
                let notes = it.bytes(at, in_memory.min(4096)).unwrap_or_default();
                self.build_id = build_id(&notes).unwrap_or_default();
            }
            _ => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Malformed> {
        if self.segments.is_empty() || self.segments[0].at >= PAGE || self.dynamic == 0 {
            return Err("its headers lack what makes it a library");
        }
        if self.segments.windows(2).any(|two| two[0].pages().1 > two[1].pages().0) {
            return Err("its segments share pages");
        }
        Ok(())
    }

    /// How much memory it takes.
    pub(crate) fn length(&self) -> u64 {
        self.segments.last().map_or(0, |it| it.pages().1)
    }

    /// The segment that holds all of that.
    pub(crate) fn segment(&self, at: u64, length: u64) -> Option<&Segment> {
        self.segments.iter().find(|it| it.holds(at, length))
    }

    /// The part of a segment that stays writable, behind what is sealed.
    pub(crate) fn writable(&self, segment: &Segment) -> (u64, u64) {
        let begin = match self.sealed {
            Some((at, end)) if segment.holds(at, 0) => (end - end % PAGE).clamp(segment.at, segment.end()),
            _ => segment.at,
        };
        if segment.rights & WRITE == 0 { (segment.at, segment.at) } else { (begin, segment.end()) }
    }

    /// The library as it is in memory before it is linked, out of its file.
    pub(crate) fn lay_out(&self, file: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut image = vec![0; self.length() as usize];
        for it in &self.segments {
            let from = file.get(it.offset as usize..(it.offset + it.in_file) as usize);
            let into = image.get_mut(it.at as usize..(it.at + it.in_file) as usize);
            into.zip(from).map(|(into, from)| into.copy_from_slice(from)).ok_or("its file is cut short")?;
        }
        Ok(image)
    }
}

fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    const BUILD_ID: u64 = 3;
    let mut rest = notes;
    while rest.len() >= 12 {
        let [name, length, kind] = [0, 4, 8].map(|at| number::<4>(rest, at) as usize);
        let begin = 12 + name.checked_next_multiple_of(4)?;
        if kind as u64 == BUILD_ID && rest.get(12..16) == Some(b"GNU\0") {
            return rest.get(begin..begin.checked_add(length)?).filter(|it| it.len() <= 64).map(<[u8]>::to_vec);
        }
        rest = rest.get(begin.checked_add(length.checked_next_multiple_of(4)?)?..)?;
    }
    None
}
