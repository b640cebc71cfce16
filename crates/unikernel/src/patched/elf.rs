//! What of a program's or library's file is code, and where functions begin in it (System V gABI, chapters 4 and 5; LSB, the
//! header of exception tables).
//!
//! **The file may be hostile**: every place is looked up in what there is, and what cannot be is not there.

use std::ops::Range;

const PAGE: u64 = 4096;
/// No copy is made of a longer text.
const LONGEST: u64 = 64 << 20;
const HEADER: usize = 56;
const MOST_HEADERS: usize = 64;
/// A loaded part of a file.
const LOADED: u64 = 1;

/// The code of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// Where it is in the file, in whole pages.
    pub(super) part: Range<u64>,
    /// Where its first page is in memory, by the file's own account.
    pub(super) address: u64,
    /// Whether the file wants to be at its addresses, and where its memory ends then, in whole pages.
    pub(super) fixed: Option<u64>,
    /// What is code in it, as places in the file.
    pub(super) code: Range<usize>,
    /// Its functions, in order; none begins within another.
    pub(super) functions: Vec<Function>,
}

/// A function, as places in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) part: Range<usize>,
    pub(super) landing: Landing,
}

/// Whether exceptions lead into a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Landing {
    None,
    /// They do, or it is not known.
    Perhaps,
}

/// A function by its address, and how long it is.
type Extent = (u64, u64, Landing);

fn number<const N: usize>(file: &[u8], at: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    bytes[..N].copy_from_slice(file.get(at..at.checked_add(N)?)?);
    Some(u64::from_le_bytes(bytes))
}

struct Segment {
    flags: u64,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

impl Text {
    /// The code of that file, if it has some of which a copy could be mapped in its place.
    pub(super) fn of(file: &[u8]) -> Option<Self> {
        if !file.starts_with(b"\x7fELF\x02\x01\x01") || number::<2>(file, 18)? != 62 || number::<2>(file, 54)? != 56 {
            return None;
        }
        let kind = number::<2>(file, 16)?;
        let (at, count) = (usize::try_from(number::<8>(file, 32)?).ok()?, number::<2>(file, 56)? as usize);
        let table = file.get(at..at.checked_add(count.min(MOST_HEADERS + 1) * HEADER)?)?;
        if !(2..=3).contains(&kind) || count > MOST_HEADERS {
            return None;
        }
        let segments = |wanted: u64| {
            table.chunks_exact(HEADER).filter(move |it| number::<4>(it, 0) == Some(wanted)).filter_map(segment)
        };
        let code = segments(LOADED).find(|it| it.flags & 1 != 0)?;
        let whole = code.offset.checked_add(code.in_file).filter(|it| *it <= file.len() as u64)?;
        let is_right = code.flags & 2 == 0 && code.in_file == code.in_memory && code.in_file <= LONGEST;
        if !is_right || code.offset % PAGE != code.address % PAGE || code.address > i64::MAX as u64 {
            return None;
        }
        let into = code.offset % PAGE;
        let mut ends = segments(LOADED).map(|it| it.address.checked_add(it.in_memory));
        let end = ends.try_fold(0, |end, it| it.map(|it| it.max(end)))?.checked_next_multiple_of(PAGE)?;
        let mut text = Self {
            part: code.offset - into..whole.checked_next_multiple_of(PAGE)?,
            address: code.address - into,
            fixed: (kind == 2).then_some(end),
            code: code.offset as usize..whole as usize,
            functions: Vec::new(),
        };
        let extents = unwound(file).unwrap_or_default().into_iter().chain(symbols(file).unwrap_or_default());
        text.functions = text.functions(extents);
        Some(text)
    }

    /// Those of them that are in the file's code. Who says least of one is believed.
    fn functions(&self, extents: impl Iterator<Item = Extent>) -> Vec<Function> {
        let place = |address: u64| {
            let place = address.checked_sub(self.address)?.checked_add(self.part.start)?;
            usize::try_from(place).ok().filter(|it| self.code.contains(it))
        };
        let function = |(address, length, landing): Extent| {
            let begin = place(address)?;
            let end = begin.checked_add(usize::try_from(length).ok()?).filter(|it| *it <= self.code.end)?;
            (begin < end).then_some((begin, landing, end))
        };
        let mut all: Vec<_> = extents.filter_map(function).collect();
        all.sort_unstable();
        all.dedup_by_key(|it| it.0);
        let begins: Vec<usize> = all.iter().skip(1).map(|it| it.0).chain([self.code.end]).collect();
        // What another begins in is not known to its end.
        let within = |((begin, landing, end), next): ((usize, Landing, usize), usize)| Function {
            part: begin..end.min(next),
            landing: if end > next { Landing::Perhaps } else { landing },
        };
        all.into_iter().zip(begins).map(within).collect()
    }
}

fn segment(header: &[u8]) -> Option<Segment> {
    Some(Segment {
        flags: number::<4>(header, 4)?,
        offset: number::<8>(header, 8)?,
        address: number::<8>(header, 16)?,
        in_file: number::<8>(header, 32)?,
        in_memory: number::<8>(header, 40)?,
    })
}

/// The sections of a file: kind, name, address and content.
fn sections(file: &[u8]) -> Option<impl Iterator<Item = (u64, &[u8], u64, &[u8])>> {
    const SECTION: usize = 64;
    const MOST_SECTIONS: usize = 1024;
    const LONGEST_NAME: usize = 16;
    let (at, count) = (usize::try_from(number::<8>(file, 40)?).ok()?, number::<2>(file, 60)? as usize);
    if number::<2>(file, 58)? as usize != SECTION {
        return None;
    }
    let all = file.get(at..at.checked_add(count * SECTION)?)?.chunks_exact(SECTION);
    let content = move |section: &[u8]| {
        let begin = usize::try_from(number::<8>(section, 24)?).ok()?;
        file.get(begin..begin.checked_add(usize::try_from(number::<8>(section, 32)?).ok()?)?)
    };
    if count > MOST_SECTIONS {
        return None;
    }
    let names = all.clone().nth(number::<2>(file, 62)? as usize).and_then(content).unwrap_or_default();
    Some(all.filter_map(move |it| {
        let name = names.get(number::<4>(it, 0)? as usize..)?;
        let name = name[..name.len().min(LONGEST_NAME)].split(|it| *it == 0).next()?;
        Some((number::<4>(it, 4)?, name, number::<8>(it, 16)?, content(it)?))
    }))
}

/// Functions that have names.
fn symbols(file: &[u8]) -> Option<Vec<Extent>> {
    /// What is linked and what is only told: there is one of each.
    const TABLES: [u64; 2] = [2, 11];
    const SYMBOL: usize = 24;
    const FUNCTION: u64 = 2;
    let mut found = Vec::new();
    for (_, _, _, table) in sections(file)?.filter(|it| TABLES.contains(&it.0)).take(TABLES.len()) {
        for symbol in table.chunks_exact(SYMBOL) {
            let is_function = number::<1>(symbol, 4)? & 15 == FUNCTION && number::<2>(symbol, 6)? != 0;
            let extent = (number::<8>(symbol, 8)?, number::<8>(symbol, 16)?, Landing::Perhaps);
            found.extend(Some(extent).filter(|_| is_function));
        }
    }
    Some(found)
}

/// Functions of which the table for exceptions tells.
fn unwound(file: &[u8]) -> Option<Vec<Extent>> {
    /// A distance from where it stands, in four bytes: as every compiler writes it.
    const USUAL: u8 = 0x1b;
    let (_, _, address, table) = sections(file)?.find(|it| it.1 == b".eh_frame")?;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(length @ 1..) = number::<4>(table, at).map(|it| it as usize) {
        let here = at + 4;
        let Some(record) = here.checked_add(length).and_then(|end| table.get(here..end)) else { break };
        let common = number::<4>(record, 0).filter(|it| *it != 0).and_then(|it| here.checked_sub(it as usize));
        if let Some((USUAL, landing)) = common.and_then(|it| encoding(table.get(it..)?))
            && let (Some(distance), Some(size)) = (number::<4>(record, 4), number::<4>(record, 8))
        {
            let begin = address.wrapping_add(here as u64 + 4);
            found.push((begin.wrapping_add_signed(i64::from(distance as u32 as i32)), size, landing));
        }
        at = here + length;
    }
    Some(found)
}

/// How records that refer to this one write addresses.
fn encoding(common: &[u8]) -> Option<(u8, Landing)> {
    // Behind its length, its kind and a version: how what is behind is to be read, and three numbers of a byte each.
    let text = common.get(9..)?;
    let end = text.iter().take(8).position(|it| *it == 0)?;
    let data = text.get(end + 1 + 3 + 1..)?;
    match &text[..end] {
        b"zR" | b"zRS" => Some((*data.first()?, Landing::None)),
        b"zPLR" => Some((*data.get(6)?, Landing::Perhaps)),
        _ => None,
    }
}
