//! A guest that stands still: where everything of it is, which libraries its program has, where its threads are. All of it is
//! what the guest says, and so are the lists in its memory that its loader keeps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use abi::library::{AREA, HEAD, SHARED, THREAD};

use super::elf::{Bytes, EXECUTE, PAGE, READ, Shape, WRITE, number};
use super::linked::{Depth, Linked, tag};
use super::{Malformed, Trouble};
use crate::core_file::{self, Part, Process, Registers};
use crate::memory::Memory;

/// A part of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// In the numbers of mmap, with [`SHARED`].
    pub(crate) rights: u64,
}

/// A thread's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) at: u64,
    stack: u64,
    pointer: u64,
    call: u64,
    registers: [u64; THREAD - 4],
}

impl Thread {
    fn registers(&self) -> Registers {
        let [ax, cx, dx, bx, bp, si, di, r8, r9, r10, r11, r12, r13, r14, r15] = self.registers;
        Registers {
            general: [r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di],
            call: self.call,
            at: self.at,
            stack: self.stack,
            pointer: self.pointer,
        }
    }
}

/// What a guest reports.
pub(crate) struct Standing<'a> {
    pages: &'a Pages<'a>,
    /// Where the program's headers are, and how many.
    headers: (u64, u64),
    areas: Vec<Area>,
    pub(crate) threads: Vec<Thread>,
    /// The words of all stacks in use, once they were read.
    stacks: RefCell<Option<Vec<u64>>>,
}

/// A library in memory, or the program.
pub(crate) struct Module<'a> {
    pub(crate) base: u64,
    pub(crate) path: Vec<u8>,
    /// Its dynamic section.
    pub(crate) dynamic: u64,
    pub(crate) linked: Linked,
    pub(crate) bytes: InMemory<'a>,
}

/// Memory from some address on.
#[derive(Clone, Copy)]
pub(crate) struct InMemory<'a> {
    pages: &'a Pages<'a>,
    base: u64,
}

/// A guest's memory while it stands still: what was read once is not read again.
pub(crate) struct Pages<'a> {
    memory: &'a dyn Memory,
    read: RefCell<BTreeMap<u64, [u8; PAGE as usize]>>,
    /// How much more is read for one change: whoever has larger tables has made them up.
    left: Cell<u64>,
}

/// The most that is read of tables, and the most of all stacks, and of all memory.
const MOST_READ: u64 = 256 << 20;

impl<'a> Pages<'a> {
    pub(crate) fn new(memory: &'a dyn Memory) -> Self {
        Self { memory, read: RefCell::default(), left: Cell::new(MOST_READ) }
    }

    /// Copies a part of a page.
    fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        let (begin, inside) = (at - at % PAGE, (at % PAGE) as usize);
        let mut pages = self.read.borrow_mut();
        let page = match pages.entry(begin) {
            std::collections::btree_map::Entry::Occupied(it) => it.into_mut(),
            std::collections::btree_map::Entry::Vacant(it) => {
                self.left.set(self.left.get().checked_sub(PAGE)?);
                let mut page = [0; PAGE as usize];
                self.memory.read(begin, &mut page).ok()?;
                it.insert(page)
            }
        };
        into.copy_from_slice(page.get(inside..inside + into.len())?);
        Some(())
    }
}

impl Bytes for InMemory<'_> {
    fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        let at = self.base.checked_add(at)?;
        if at % PAGE + into.len() as u64 <= PAGE {
            return self.pages.read(at, into);
        }
        self.pages.left.set(self.pages.left.get().checked_sub(into.len() as u64)?);
        self.pages.memory.read(at, into).ok()
    }
}

/// The most that a report may tell, in words.
const MOST_WORDS: u64 = 1 << 18;
/// The most of a stack that is looked through.
const DEEPEST: u64 = 8 << 20;
/// What a function may use below its stack.
const RED_ZONE: u64 = 128;
const MOST_MODULES: usize = 512;

impl<'a> Standing<'a> {
    /// Reads what the guest reports.
    pub(crate) fn read(pages: &'a Pages<'a>, report: u64, words: u64) -> Result<Self, Malformed> {
        if words > MOST_WORDS {
            return Err("it has more areas or threads than can be looked at");
        }
        let all = pages.memory.bytes(report, words as usize * 8).map_err(|_| "its report cannot be read")?;
        let all: Vec<u64> = all.chunks_exact(8).map(|it| number::<8>(it, 0)).collect();
        let (&[headers, count, areas, threads], rest) =
            all.split_first_chunk::<HEAD>().ok_or("its report is cut short")?;
        let wrong = "its report is not what it says";
        let split = usize::try_from(areas).ok().and_then(|it| it.checked_mul(AREA)).ok_or(wrong)?;
        let (areas, rest) = rest.split_at_checked(split).ok_or(wrong)?;
        if usize::try_from(threads).ok().and_then(|it| it.checked_mul(THREAD)) != Some(rest.len()) {
            return Err(wrong);
        }
        let areas = areas.as_chunks::<AREA>().0.iter().map(|&[begin, end, rights]| Area { begin, end, rights });
        let areas: Vec<Area> = areas.collect();
        let ordered = areas.windows(2).all(|it| it[0].end <= it[1].begin) && areas.iter().all(|it| it.begin < it.end);
        if !ordered {
            return Err("its areas are in no order");
        }
        let thread = |it: &[u64; THREAD]| {
            let [at, stack, pointer, call, registers @ ..] = *it;
            Thread { at, stack, pointer, call, registers }
        };
        let threads = rest.as_chunks::<THREAD>().0.iter().map(thread).collect();
        Ok(Self { pages, headers: (headers, count), areas, threads, stacks: RefCell::default() })
    }

    /// Writes all of it as a core.
    pub(crate) fn write_core(
        &self,
        number: u32,
        name: &[u8],
        file: &mut (impl std::io::Write + std::io::Seek),
        goes_on: impl Fn() -> bool,
    ) -> std::io::Result<()> {
        /// More would take longer than anybody waits.
        const MOST: u64 = 64 << 30;
        let memory = self.pages.memory;
        let wrong = |it: &Area| !(it.begin | it.end).is_multiple_of(PAGE) || it.end > abi::layout::PROGRAM_END as u64;
        let readable = self.areas.iter().filter(|it| it.rights & READ != 0).map(|it| it.end - it.begin);
        if self.areas.iter().any(wrong) || readable.sum::<u64>() > MOST {
            return Err(std::io::Error::other("it has more memory than can be written down"));
        }
        let parts: Vec<Part> =
            self.areas.iter().map(|it| Part { begin: it.begin, end: it.end, rights: it.rights }).collect();
        let threads: Vec<Registers> = self.threads.iter().map(Thread::registers).collect();
        // The file's own header is in the page of its program headers, as linkers lay it out.
        let (at, count) = self.headers;
        let begin = at - at % PAGE;
        let shift = if begin >= abi::layout::PROGRAM as u64 { begin } else { 0 };
        let entry = self.at(begin).bytes(0, 64).map_or(0, |it| super::elf::number::<8>(&it, 24).wrapping_add(shift));
        let process = Process { number, name, headers: (at, count), entry, threads: &threads, parts: &parts };
        let read = |at, page: &mut [u8]| match goes_on() {
            true => Ok(memory.read(at, page).is_ok()),
            false => Err(std::io::Error::other("it took too long")),
        };
        core_file::write(&process, read, file)?;
        file.flush()
    }

    pub(crate) fn area(&self, at: u64) -> Option<&Area> {
        let after = self.areas.partition_point(|it| it.begin <= at);
        self.areas.get(after.checked_sub(1)?).filter(|it| it.end > at)
    }

    /// A free place of that length below another, and not far from it.
    pub(crate) fn gap_below(&self, at: u64, length: u64) -> Option<u64> {
        const FARTHEST: u64 = 1 << 30;
        let mut end = at;
        for area in self.areas.iter().rev().filter(|it| it.begin < at) {
            if area.end <= end && end - area.end >= length {
                break;
            }
            end = end.min(area.begin);
        }
        let place = end.checked_sub(length)?;
        (place >= abi::layout::LOWEST as u64 && at - place < FARTHEST).then_some(place - place % PAGE)
    }

    /// What is at that address on.
    pub(crate) fn at(&self, base: u64) -> InMemory<'a> {
        InMemory { pages: self.pages, base }
    }

    /// The program and its libraries, by the list that its loader keeps for debuggers; nothing for a static program. While the
    /// loader is at work, the list is anything.
    pub(crate) fn modules(&self) -> Result<Vec<Module<'a>>, Trouble> {
        let Some(debug) = self.debug()? else { return Ok(Vec::new()) };
        const LOADING: Trouble = Trouble::NotNow("its loader is loading");
        let words = self.at(debug).bytes(0, 40).map_err(|_| LOADING)?;
        let [first, state, loader] = [number::<8>(&words, 8), number::<4>(&words, 24), number::<8>(&words, 32)];
        if debug == 0 || first == 0 || state != 0 || self.is_within(loader) {
            return Err(LOADING);
        }
        let mut modules = Vec::new();
        let mut next = first;
        while next != 0 {
            if modules.len() == MOST_MODULES {
                return Err("its list of libraries has no end".into());
            }
            let module = self.listed(next).map_err(Trouble::NotNow)?;
            next = module.1;
            modules.push(module.0);
        }
        Ok(modules)
    }

    /// One of the list, and where the next is.
    fn listed(&self, at: u64) -> Result<(Module<'a>, u64), Malformed> {
        let entry = self.at(at).bytes(0, 32)?;
        let [base, name, dynamic, next] = [0, 8, 16, 24].map(|at| number::<8>(&entry, at));
        let path = self.pages.memory.string(name, 4096).unwrap_or_default();
        let path = path.strip_suffix(b"\0").unwrap_or_default().to_vec();
        Ok((self.module(base, path, dynamic, Depth::Symbols)?, next))
    }

    /// What is there, by its dynamic section.
    pub(crate) fn module(&self, base: u64, path: Vec<u8>, dynamic: u64, depth: Depth) -> Result<Module<'a>, Malformed> {
        if base > abi::layout::PROGRAM_END as u64 {
            return Err("its list of libraries leads to where no program can be");
        }
        let bytes = self.at(base);
        let linked = Linked::parse(&bytes, dynamic.wrapping_sub(base), base, depth)?;
        Ok(Module { base, path, dynamic, linked, bytes })
    }

    /// Where the program's loader says what debuggers want to know.
    fn debug(&self) -> Result<Option<u64>, Malformed> {
        const PROGRAM_HEADERS: u64 = 6;
        const DYNAMIC: u64 = 2;
        let (at, count) = self.headers;
        if at == 0 || count > 64 {
            return Ok(None);
        }
        let table = self.at(at).bytes(0, count * 56)?;
        let find = |kind| table.chunks_exact(56).find(|it| number::<4>(it, 0) == kind).map(|it| number::<8>(it, 16));
        let Some(dynamic) = find(DYNAMIC) else { return Ok(None) };
        let bias = find(PROGRAM_HEADERS).map_or(0, |it| at.wrapping_sub(it));
        let begin = self.at(bias.wrapping_add(dynamic));
        for index in 0..512 {
            let entry = begin.bytes(index * 16, 16)?;
            match number::<8>(&entry, 0) {
                0 => return Ok(None),
                tag::DEBUG => return Ok(Some(number::<8>(&entry, 8))),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether every thread is in a system call. One that was interrupted may have pointers where they are not looked for, in
    /// its vector registers.
    pub(crate) fn is_in_calls(&self) -> bool {
        self.threads.iter().all(|it| it.call != u64::MAX)
    }

    /// Whether a thread is in the code of the library there.
    fn is_within(&self, base: u64) -> bool {
        let Ok(shape) = Shape::parse(&self.at(base)) else { return false };
        let code = shape.segments.iter().filter(|it| it.rights & EXECUTE != 0);
        let mut code = code.map(|it| base.saturating_add(it.at)..base.saturating_add(it.end()));
        code.any(|code| self.threads.iter().any(|it| code.contains(&it.at)))
    }

    /// Whether a thread may come back to such an address: it is there, or has it in a register or on its stack.
    pub(crate) fn is_held_by_threads(&self, wanted: impl Fn(u64) -> bool) -> bool {
        let in_use = || self.threads.iter().filter_map(|it| self.stack_of(it));
        if in_use().map(|(begin, end)| end - begin).sum::<u64>() > MOST_READ {
            // More than can be looked through: it may be.
            return true;
        }
        let mut stacks = self.stacks.borrow_mut();
        let stacks = stacks.get_or_insert_with(|| in_use().flat_map(|(begin, end)| self.words(begin, end)).collect());
        let mut registers = self.threads.iter().flat_map(|it| it.registers.into_iter().chain([it.at]));
        registers.any(&wanted) || stacks.iter().any(|it| wanted(*it))
    }

    /// The part of a stack that is in use: up to the end of the area, or to the thread's own data, which is above it.
    fn stack_of(&self, thread: &Thread) -> Option<(u64, u64)> {
        let area = self.area(thread.stack)?;
        let begin = (thread.stack.saturating_sub(RED_ZONE)).max(area.begin) / 8 * 8;
        let own = (thread.pointer > thread.stack && thread.pointer < area.end).then_some(thread.pointer);
        Some((begin, own.unwrap_or(area.end).min(begin.saturating_add(DEEPEST))))
    }

    /// The words between; what cannot be read is nothing.
    fn words(&self, begin: u64, end: u64) -> Vec<u64> {
        const PART: u64 = 64 << 10;
        let mut words = Vec::new();
        for at in (begin..end).step_by(PART as usize) {
            let length = PART.min(end - at) as usize;
            let bytes = self.pages.memory.bytes(at, length).unwrap_or_else(|_| vec![0; length]);
            words.extend(bytes.as_chunks::<8>().0.iter().map(|it| u64::from_le_bytes(*it)));
        }
        words
    }

    /// The part of a thread's stack that it does not use: below it, if that is a stack and nothing else. A thread of the C
    /// library has its own data above its stack and a page that nobody may touch below; the first one's stack is by itself.
    fn unused(&self, thread: &Thread) -> std::ops::Range<u64> {
        let nothing = 0..0;
        let Some(area) = self.area(thread.stack) else { return nothing };
        let is_first = area.begin >= abi::layout::MAPPINGS_END as u64;
        let has_own = thread.pointer > thread.stack && thread.pointer < area.end;
        let is_guarded = || {
            let below = area.begin.checked_sub(1).and_then(|it| self.area(it));
            below.is_some_and(|it| it.rights & (READ | WRITE | EXECUTE) == 0)
        };
        if is_first || has_own && is_guarded() { area.begin..thread.stack.saturating_sub(RED_ZONE) } else { nothing }
    }

    /// Whether such an address is in any memory that the program alone can write, but for some places and what is below
    /// stacks. Nothing when that is more than can be looked through.
    pub(crate) fn is_in_memory(&self, wanted: impl Fn(u64) -> bool, is_excepted: impl Fn(u64) -> bool) -> Option<bool> {
        let own = || self.areas.iter().filter(|it| it.rights & (WRITE | SHARED) == WRITE);
        if own().map(|it| it.end - it.begin).sum::<u64>() > MOST_READ {
            return None;
        }
        let mut unused: Vec<_> = self.threads.iter().map(|it| self.unused(it)).filter(|it| !it.is_empty()).collect();
        unused.sort_unstable_by_key(|it| it.start);
        let used = |area: &Area| {
            let (mut begin, mut parts) = (area.begin, Vec::new());
            for it in unused.iter().filter(|it| it.start >= area.begin && it.end <= area.end) {
                parts.push((begin, it.start.max(begin)));
                begin = it.end.next_multiple_of(8).max(begin);
            }
            parts.push((begin, area.end.max(begin)));
            parts
        };
        let mut words = own().flat_map(used).flat_map(|(begin, end)| {
            let words = self.words(begin, end).into_iter().enumerate();
            words.map(move |(index, word)| (begin + 8 * index as u64, word))
        });
        Some(words.any(|(at, word)| wanted(word) && !is_excepted(at)))
    }
}
