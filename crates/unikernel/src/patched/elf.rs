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
/// A loaded part of a file, and the table of functions that exceptions need.
const LOADED: u64 = 1;
const FUNCTIONS: u64 = 0x6474_e550;

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
    /// Where functions begin, as places in the file, in order.
    pub(super) starts: Vec<usize>,
    /// Those of them of which it is known that no exception leads into the function.
    pub(super) plain: Vec<usize>,
}

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
            starts: Vec::new(),
            plain: Vec::new(),
        };
        let functions = segments(FUNCTIONS).next();
        let mut starts = functions.and_then(|it| functions_of(file, &it)).unwrap_or_default();
        starts.extend(symbols(file).unwrap_or_default());
        let unwound = unwound(file).unwrap_or_default();
        starts.extend(unwound.iter().map(|it| it.0));
        text.starts = text.places(starts.into_iter());
        text.plain = text.places(unwound.into_iter().filter(|it| it.1 == Landing::None).map(|it| it.0));
        Some(text)
    }

    /// Those addresses as places in the file's code, in order.
    fn places(&self, addresses: impl Iterator<Item = u64>) -> Vec<usize> {
        let place = |address: u64| address.checked_sub(self.address)?.checked_add(self.part.start);
        let places = addresses.filter_map(place).filter_map(|it| usize::try_from(it).ok());
        let mut places: Vec<usize> = places.filter(|it| self.code.contains(it)).collect();
        places.sort_unstable();
        places.dedup();
        places
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

/// The sorted table of functions, as every linker writes it: pairs of distances from the table.
fn functions_of(file: &[u8], table: &Segment) -> Option<Vec<u64>> {
    const USUAL: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
    let begin = usize::try_from(table.offset).ok()?;
    let whole = file.get(begin..begin.checked_add(usize::try_from(table.in_file).ok()?)?)?;
    if !whole.starts_with(&USUAL) {
        return None;
    }
    let count = number::<4>(whole, 8)? as usize;
    let entries = whole.get(12..)?.chunks_exact(8).take(count);
    let first = |it: &[u8]| number::<4>(it, 0).map(|it| i64::from(it as u32 as i32));
    Some(entries.filter_map(first).map(|it| table.address.wrapping_add_signed(it)).collect())
}

/// The sections of a file: kind, name, address and content.
fn sections(file: &[u8]) -> Option<impl Iterator<Item = (u64, &[u8], u64, &[u8])>> {
    const SECTION: usize = 64;
    let (at, count) = (usize::try_from(number::<8>(file, 40)?).ok()?, number::<2>(file, 60)? as usize);
    if number::<2>(file, 58)? as usize != SECTION {
        return None;
    }
    let all = file.get(at..at.checked_add(count * SECTION)?)?.chunks_exact(SECTION);
    let content = move |section: &[u8]| {
        let begin = usize::try_from(number::<8>(section, 24)?).ok()?;
        file.get(begin..begin.checked_add(usize::try_from(number::<8>(section, 32)?).ok()?)?)
    };
    let names = all.clone().nth(number::<2>(file, 62)? as usize).and_then(content).unwrap_or_default();
    Some(all.filter_map(move |it| {
        let name = names.get(number::<4>(it, 0)? as usize..)?.split(|it| *it == 0).next()?;
        Some((number::<4>(it, 4)?, name, number::<8>(it, 16)?, content(it)?))
    }))
}

/// Where functions begin that have names.
fn symbols(file: &[u8]) -> Option<Vec<u64>> {
    const TABLES: [u64; 2] = [2, 11];
    const SYMBOL: usize = 24;
    const FUNCTION: u64 = 2;
    let mut found = Vec::new();
    for (_, _, _, table) in sections(file)?.filter(|it| TABLES.contains(&it.0)) {
        for symbol in table.chunks_exact(SYMBOL) {
            let is_function = number::<1>(symbol, 4)? & 15 == FUNCTION && number::<2>(symbol, 6)? != 0;
            found.extend(number::<8>(symbol, 8).filter(|_| is_function));
        }
    }
    Some(found)
}

/// Whether exceptions lead into a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landing {
    None,
    Some,
}

/// Where functions begin of which the table for exceptions tells: programs with all in one have no sorted one.
fn unwound(file: &[u8]) -> Option<Vec<(u64, Landing)>> {
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
            && let Some(distance) = number::<4>(record, 4)
        {
            let begin = address.wrapping_add(here as u64 + 4);
            found.push((begin.wrapping_add_signed(i64::from(distance as u32 as i32)), landing));
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
        b"zPLR" => Some((*data.get(6)?, Landing::Some)),
        _ => None,
    }
}
