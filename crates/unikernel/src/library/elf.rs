//! A library as its headers and its dynamic section describe it, in a file or in a guest's memory (System V gABI, chapters 4
//! and 5; GNU's hash table and versions).
//!
//! **Either may be hostile**: every address is looked up in what there is, every count has a bound, and what cannot be is
//! an error that says so. Addresses in here are relative to where the library is.

use std::collections::BTreeMap;

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
const MOST_ENTRIES: u64 = 512;
const MOST_SYMBOLS: u64 = 1 << 18;
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

/// What kind of thing a symbol names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: u32,
    info: u8,
    other: u8,
    section: u16,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

/// What a symbol's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Function,
    /// A function that says which function it is.
    Indirect,
    ThreadsData,
    Other,
}

impl Symbol {
    fn of(entry: &[u8]) -> Self {
        Self {
            name: number::<4>(entry, 0) as u32,
            info: entry.get(4).copied().unwrap_or_default(),
            other: entry.get(5).copied().unwrap_or_default(),
            section: number::<2>(entry, 6) as u16,
            value: number::<8>(entry, 8),
            size: number::<8>(entry, 16),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.info & 15 {
            0 => Kind::Other,
            1 => Kind::Object,
            2 => Kind::Function,
            6 => Kind::ThreadsData,
            10 => Kind::Indirect,
            _ => Kind::Other,
        }
    }

    pub(crate) fn is_weak(&self) -> bool {
        self.info >> 4 == 2
    }

    /// Whether others can use it: defined, global or weak, not hidden, and something that has a name.
    pub(crate) fn is_exported(&self) -> bool {
        const ABSOLUTE: u16 = 0xfff1;
        let visible = matches!(self.other & 3, 0 | 3);
        self.section != 0 && self.section != ABSOLUTE && matches!(self.info >> 4, 1 | 2 | 10) && visible && self.name != 0
    }

    pub(crate) fn is_defined(&self) -> bool {
        self.section != 0
    }
}

/// An entry of a table of relocations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relocation {
    pub(crate) at: u64,
    pub(crate) kind: u32,
    pub(crate) symbol: u32,
    pub(crate) addend: u64,
}

impl Relocation {
    fn of(entry: &[u8; 24]) -> Self {
        Self {
            at: number::<8>(entry, 0),
            kind: number::<4>(entry, 8) as u32,
            symbol: number::<4>(entry, 12) as u32,
            addend: number::<8>(entry, 16),
        }
    }
}

/// Kinds of relocations.
pub(crate) mod kind {
    pub(crate) const NONE: u32 = 0;
    pub(crate) const WORD: u32 = 1;
    pub(crate) const COPY: u32 = 5;
    pub(crate) const GLOBAL: u32 = 6;
    pub(crate) const JUMP: u32 = 7;
    pub(crate) const RELATIVE: u32 = 8;
    pub(crate) const INDIRECT: u32 = 37;
}

/// Tags of the dynamic section.
pub(crate) mod tag {
    pub(crate) const NEEDED: u64 = 1;
    pub(crate) const JUMPS_SIZE: u64 = 2;
    pub(crate) const HASH: u64 = 4;
    pub(crate) const PROCEDURES: u64 = 3;
    pub(crate) const STRINGS: u64 = 5;
    pub(crate) const SYMBOLS: u64 = 6;
    pub(crate) const RELOCATIONS: u64 = 7;
    pub(crate) const RELOCATIONS_SIZE: u64 = 8;
    pub(crate) const STRINGS_SIZE: u64 = 10;
    pub(crate) const INIT: u64 = 12;
    pub(crate) const FINI: u64 = 13;
    pub(crate) const SONAME: u64 = 14;
    pub(crate) const JUMPS: u64 = 23;
    pub(crate) const TEXT_RELOCATIONS: u64 = 22;
    pub(crate) const DEBUG: u64 = 21;
    pub(crate) const INIT_ARRAY: u64 = 25;
    pub(crate) const FINI_ARRAY: u64 = 26;
    pub(crate) const INIT_ARRAY_SIZE: u64 = 27;
    pub(crate) const FINI_ARRAY_SIZE: u64 = 28;
    pub(crate) const RELATIVE_SIZE: u64 = 35;
    pub(crate) const RELATIVE: u64 = 36;
    pub(crate) const GNU_HASH: u64 = 0x6fff_fef5;
    pub(crate) const VERSIONS: u64 = 0x6fff_fff0;
    pub(crate) const DEFINED: u64 = 0x6fff_fffc;
    pub(crate) const DEFINED_COUNT: u64 = 0x6fff_fffd;
    pub(crate) const WANTED: u64 = 0x6fff_fffe;
    pub(crate) const WANTED_COUNT: u64 = 0x6fff_ffff;
}

/// What the dynamic section leads to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Linked {
    tags: Vec<(u64, u64)>,
    strings: Vec<u8>,
    symbols: Vec<Symbol>,
    versions: Vec<u16>,
    /// The names of versions by their numbers, of those that it defines and of those that it wants.
    version_names: BTreeMap<u16, Vec<u8>>,
    /// The versions that it defines.
    pub(crate) defined: Vec<Vec<u8>>,
    /// The versions that it wants, and of whom.
    pub(crate) wanted: Vec<(Vec<u8>, Vec<u8>)>,
    table: Table,
    pub(crate) relocations: Vec<Relocation>,
    /// Places of words to which the library's address is added.
    pub(crate) relative: Vec<u64>,
    base: u64,
}

/// GNU's hash table: which symbols may have a name.
#[derive(Clone, Debug, Default)]
struct Table {
    /// The first symbol that is in it.
    first: u64,
    buckets: Vec<u8>,
    chains: Vec<u8>,
}

fn hash(name: &[u8]) -> u32 {
    name.iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)))
}

impl Table {
    /// Reads it. How many symbols there are it does not say: the last chain ends with the last of them.
    fn read(it: &(impl Bytes + ?Sized), table: u64) -> Result<Self, Malformed> {
        let head = it.bytes(table, 16)?;
        let [buckets, first, filter] = [0, 4, 8].map(|at| number::<4>(&head, at));
        if buckets > MOST_SYMBOLS || filter > MOST_SYMBOLS || first > MOST_SYMBOLS {
            return Err("its table of symbols is larger than can be");
        }
        let begin = table.wrapping_add(16 + filter * 8);
        let all = it.bytes(begin, buckets * 4)?;
        let last = all.chunks_exact(4).map(|it| number::<4>(it, 0)).max().unwrap_or_default();
        let mut table = Self { first, buckets: all, chains: Vec::new() };
        if last < first {
            return Ok(table);
        }
        let chains = begin.wrapping_add(buckets * 4);
        for index in last..MOST_SYMBOLS {
            let entry = it.bytes(chains.wrapping_add((index - first) * 4), 4)?;
            if number::<4>(&entry, 0) & 1 != 0 {
                table.chains = it.bytes(chains, (index + 1 - first) * 4)?;
                return Ok(table);
            }
        }
        Err("a chain of its symbols has no end")
    }

    /// How many symbols there are.
    fn count(&self) -> u64 {
        self.first + self.chains.len() as u64 / 4
    }

    /// The symbols that may have that name.
    fn like(&self, name: &[u8]) -> impl Iterator<Item = u32> {
        let hash = hash(name);
        let buckets = self.buckets.len() as u32 / 4;
        let bucket = hash.checked_rem(buckets).map(|it| number::<4>(&self.buckets, it as usize * 4));
        let begin = bucket.filter(|it| *it >= self.first && *it != 0).map(|it| (it - self.first) as usize * 4);
        let chain = begin.and_then(|it| self.chains.get(it..)).unwrap_or_default();
        let mut ended = false;
        let chain = chain.as_chunks::<4>().0.iter().map(|it| u32::from_le_bytes(*it)).take_while(move |it| {
            let goes_on = !ended;
            ended = it & 1 != 0;
            goes_on
        });
        let first = bucket.unwrap_or_default() as u32;
        chain.enumerate().filter(move |(_, it)| it | 1 == hash | 1).map(move |(index, _)| first + index as u32)
    }
}

/// How much of a library is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// All.
    Whole,
    /// What concerns its symbols, and not what it needs to be moved.
    Symbols,
}

impl Linked {
    /// Reads it. `base` is where the library is, when its loader has made addresses of its dynamic section.
    pub(crate) fn parse(
        it: &(impl Bytes + ?Sized),
        dynamic: u64,
        base: u64,
        depth: Depth,
    ) -> Result<Self, Malformed> {
        let mut linked = Self { base, ..Self::default() };
        for index in 0.. {
            let entry = it.bytes(dynamic.wrapping_add(index * 16), 16)?;
            let (tag, value) = (number::<8>(&entry, 0), number::<8>(&entry, 8));
            if tag == 0 {
                break;
            }
            if index >= MOST_ENTRIES {
                return Err("its dynamic section has no end");
            }
            linked.tags.push((tag, value));
        }
        if let (Some(at), Some(length)) = (linked.place(tag::STRINGS), linked.tag(tag::STRINGS_SIZE)) {
            linked.strings = it.bytes(at, length)?;
        }
        for (at, length) in [(tag::RELOCATIONS, tag::RELOCATIONS_SIZE), (tag::JUMPS, tag::JUMPS_SIZE)] {
            if let (Some(at), Some(length)) = (linked.place(at), linked.tag(length)) {
                let table = it.bytes(at, length)?;
                let entries = table.as_chunks::<24>().0.iter().map(Relocation::of);
                linked.relocations.extend(entries.filter(|it| depth == Depth::Whole || it.symbol != 0));
            }
        }
        if depth == Depth::Whole {
            linked.read_relative(it)?;
        }
        linked.read_symbols(it)?;
        linked.read_versions(it)?;
        Ok(linked)
    }

    pub(crate) fn tag(&self, wanted: u64) -> Option<u64> {
        self.tags.iter().find(|(tag, _)| *tag == wanted).map(|(_, value)| *value)
    }

    /// Where a tag leads. Some loaders replace what the file says by addresses.
    pub(crate) fn place(&self, wanted: u64) -> Option<u64> {
        self.tag(wanted).map(|it| if self.base != 0 && it >= self.base { it - self.base } else { it })
    }

    fn read_relative(&mut self, it: &(impl Bytes + ?Sized)) -> Result<(), Malformed> {
        let (Some(at), Some(length)) = (self.place(tag::RELATIVE), self.tag(tag::RELATIVE_SIZE)) else { return Ok(()) };
        let table = it.bytes(at, length)?;
        let mut next = 0u64;
        for entry in table.chunks_exact(8).map(|it| number::<8>(it, 0)) {
            if entry & 1 == 0 {
                self.relative.push(entry);
                next = entry.wrapping_add(8);
            } else {
                let bits = (0..63).filter(|bit| entry >> (bit + 1) & 1 != 0);
                self.relative.extend(bits.map(|bit| next.wrapping_add(8 * bit)));
                next = next.wrapping_add(63 * 8);
            }
        }
        Ok(())
    }

    fn read_symbols(&mut self, it: &(impl Bytes + ?Sized)) -> Result<(), Malformed> {
        let Some(at) = self.place(tag::SYMBOLS) else { return Ok(()) };
        let used = self.relocations.iter().map(|it| u64::from(it.symbol) + 1).max().unwrap_or_default();
        let count = match (self.place(tag::GNU_HASH), self.place(tag::HASH)) {
            (Some(table), _) => {
                self.table = Table::read(it, table)?;
                self.table.count()
            }
            (None, Some(table)) => number::<4>(&it.bytes(table, 8)?, 4),
            (None, None) => 0,
        };
        let count = count.max(used);
        if count > MOST_SYMBOLS {
            return Err("it has more symbols than can be");
        }
        self.symbols = it.bytes(at, count * 24)?.chunks_exact(24).map(Symbol::of).collect();
        if let Some(at) = self.place(tag::VERSIONS) {
            self.versions = it.bytes(at, count * 2)?.chunks_exact(2).map(|it| number::<2>(it, 0) as u16).collect();
        }
        Ok(())
    }

    fn read_versions(&mut self, it: &(impl Bytes + ?Sized)) -> Result<(), Malformed> {
        const MOST: u64 = 4096;
        let lists = [(tag::DEFINED, tag::DEFINED_COUNT), (tag::WANTED, tag::WANTED_COUNT)];
        for (list, count) in lists {
            let (Some(mut at), Some(count)) = (self.place(list), self.tag(count)) else { continue };
            for _ in 0..count.min(MOST) {
                let entry = it.bytes(at, if list == tag::DEFINED { 20 } else { 16 })?;
                let next = if list == tag::DEFINED {
                    let name = it.bytes(at.wrapping_add(number::<4>(&entry, 12)), 8)?;
                    let name = text(&self.strings, number::<4>(&name, 0) as usize).to_vec();
                    const BASE: u64 = 1;
                    if number::<2>(&entry, 2) & BASE == 0 {
                        self.defined.push(name.clone());
                    }
                    self.version_names.insert(number::<2>(&entry, 4) as u16, name);
                    number::<4>(&entry, 16)
                } else {
                    self.read_wanted(it, at, &entry)?;
                    number::<4>(&entry, 12)
                };
                if next == 0 {
                    break;
                }
                at = at.wrapping_add(next);
            }
        }
        Ok(())
    }

    fn read_wanted(&mut self, it: &(impl Bytes + ?Sized), at: u64, entry: &[u8]) -> Result<(), Malformed> {
        let of = text(&self.strings, number::<4>(entry, 4) as usize).to_vec();
        let mut at = at.wrapping_add(number::<4>(entry, 8));
        for _ in 0..number::<2>(entry, 2) {
            let one = it.bytes(at, 16)?;
            let name = text(&self.strings, number::<4>(&one, 8) as usize).to_vec();
            self.version_names.insert(number::<2>(&one, 6) as u16 & 0x7fff, name.clone());
            self.wanted.push((of.clone(), name));
            let next = number::<4>(&one, 12);
            if next == 0 {
                break;
            }
            at = at.wrapping_add(next);
        }
        Ok(())
    }

    /// A text of its table.
    pub(crate) fn text(&self, at: u64) -> &[u8] {
        text(&self.strings, usize::try_from(at).unwrap_or(usize::MAX))
    }

    pub(crate) fn name(&self, symbol: &Symbol) -> &[u8] {
        text(&self.strings, symbol.name as usize)
    }

    pub(crate) fn soname(&self) -> &[u8] {
        self.tag(tag::SONAME).map(|it| self.text(it)).unwrap_or_default()
    }

    /// The libraries that it needs.
    pub(crate) fn needed(&self) -> impl Iterator<Item = &[u8]> {
        self.tags.iter().filter(|(tag, _)| *tag == tag::NEEDED).map(|(_, value)| self.text(*value))
    }

    pub(crate) fn symbol(&self, index: u32) -> Option<&Symbol> {
        self.symbols.get(index as usize)
    }

    pub(crate) fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// The version of a symbol, by its number; none for those that have none.
    pub(crate) fn version(&self, index: u32) -> Option<&[u8]> {
        let number = self.versions.get(index as usize)? & 0x7fff;
        if number < 2 { None } else { self.version_names.get(&number).map(Vec::as_slice) }
    }

    /// The exported symbols.
    pub(crate) fn exported(&self) -> impl Iterator<Item = (u32, &Symbol)> {
        self.symbols.iter().enumerate().filter(|(_, it)| it.is_exported()).map(|(index, it)| (index as u32, it))
    }

    /// The exported symbol of that name and version. Without a version: the one that is meant by its name alone.
    pub(crate) fn find(&self, name: &[u8], version: Option<&[u8]>) -> Option<&Symbol> {
        let all = 0..if self.table.buckets.is_empty() { self.symbols.len() as u32 } else { 0 };
        let likely = self.table.like(name).chain(all);
        let named = likely.filter_map(|index| Some((index, self.symbol(index).filter(|it| it.is_exported())?)));
        let mut fitting = named.filter(|(index, it)| self.name(it) == name && match (version, self.version(*index)) {
            (_, None) => true,
            (Some(wanted), Some(has)) => wanted == has,
            (None, Some(_)) => self.versions.get(*index as usize).is_none_or(|it| it & 0x8000 == 0),
        });
        fitting.next().map(|(_, it)| it)
    }
}

fn text(strings: &[u8], at: usize) -> &[u8] {
    strings.get(at..).and_then(|it| it.split(|byte| *byte == 0).next()).unwrap_or_default()
}
