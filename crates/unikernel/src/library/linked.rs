//! What a library's dynamic section leads to: its symbols and their versions, and how it is linked to others (System V gABI,
//! chapter 5; GNU's hash table and versions). As hostile as the headers, and read as carefully.

use std::collections::BTreeMap;

use super::Malformed;
use super::elf::{Bytes, number};

const MOST_ENTRIES: u64 = 512;
const MOST_SYMBOLS: u64 = 1 << 18;

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
        self.section != 0
            && self.section != ABSOLUTE
            && matches!(self.info >> 4, 1 | 2 | 10)
            && visible
            && self.name != 0
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
    pub(crate) fn parse(it: &(impl Bytes + ?Sized), dynamic: u64, base: u64, depth: Depth) -> Result<Self, Malformed> {
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
        let mut fitting = named.filter(|(index, it)| {
            self.name(it) == name
                && match (version, self.version(*index)) {
                    (_, None) => true,
                    (Some(wanted), Some(has)) => wanted == has,
                    (None, Some(_)) => self.versions.get(*index as usize).is_none_or(|it| it & 0x8000 == 0),
                }
        });
        fitting.next().map(|(_, it)| it)
    }
}

fn text(strings: &[u8], at: usize) -> &[u8] {
    strings.get(at..).and_then(|it| it.split(|byte| *byte == 0).next()).unwrap_or_default()
}
