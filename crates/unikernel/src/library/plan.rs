//! What has to be done to one process so that a new library takes the old one's place: which pages its guest maps and makes
//! writable, and what is then written where. Made while the process stands still; nothing is changed by making it.

use std::collections::{BTreeMap, BTreeSet};

use abi::library::{FILL, MAP, ORDER, PROTECT, RESERVE, SHARED, UNMAP};

use super::carry::{Carried, Old};
use super::elf::{Bytes, EXECUTE, PAGE, READ, Segment, Shape, WRITE};
use super::linked::{Depth, Kind, Linked, Relocation, kind, tag};
use super::place::New;
use super::standing::{Module, Standing};
use super::words::{Data, Request};
use super::{Trouble, shown};

/// What the guest is told to do.
pub(crate) type Order = [u64; ORDER];

/// The whole plan.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Where the new library will be.
    pub(crate) base: u64,
    /// Where the loader's list has the old one.
    pub(crate) anchor: u64,
    /// Where the old one is.
    pub(crate) old: u64,
    /// The file by which the program's loader found it.
    pub(crate) path: Vec<u8>,
    /// What the guest does first.
    pub(crate) prepare: Vec<Order>,
    /// What is then written.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// What the guest does in the end, if all went well, and if not.
    pub(crate) commit: Vec<Order>,
    pub(crate) roll_back: Vec<Order>,
}

/// A library that took another's place before.
pub(crate) struct Before<'a> {
    /// Where it is, and its dynamic section.
    pub(crate) base: u64,
    pub(crate) dynamic: u64,
    pub(crate) file: &'a [u8],
}

pub(crate) struct Planner<'a> {
    pub(crate) standing: &'a Standing<'a>,
    pub(crate) new: &'a New,
    pub(crate) base: u64,
    modules: &'a [Module<'a>],
    /// Which of them the loader has in the old one's place.
    anchor: usize,
    /// The old one.
    pub(crate) old: &'a Module<'a>,
    pub(crate) shape: Shape,
    /// What the loader found for what the old one needs.
    bound: BTreeMap<Vec<u8>, u64>,
}

/// Makes it; nothing when the process does not have the library. `original` reads the file that a path leads to.
pub(crate) fn plan<'b>(
    standing: &Standing<'_>,
    new: &New,
    request: &Request,
    before: impl Fn(u64) -> Option<Before<'b>>,
    original: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<Option<Plan>, Trouble> {
    let modules = standing.modules()?;
    let Some(anchor) = modules.iter().position(|it| it.linked.soname() == request.soname.as_bytes()) else {
        return Ok(None);
    };
    let found = &modules[anchor];
    let earlier = before(found.base);
    let ((at, dynamic), file) = match &earlier {
        Some(it) => ((it.base, it.dynamic), Some(it.file.to_vec())),
        None => ((found.base, found.dynamic), original(&found.path)),
    };
    let old = &standing.module(at, found.path.clone(), dynamic, Depth::Whole)?;
    let shape = Shape::parse(&old.bytes)?;
    let base = standing.gap_below(old.base, new.shape.length()).ok_or("there is no room near the old one")?;
    let mut planner = Planner { standing, new, base, modules: &modules, anchor, old, shape, bound: BTreeMap::new() };
    planner.bound = planner.bound_by_old()?;
    planner.plan(request.data, file.as_deref()).map(Some)
}

impl Planner<'_> {
    fn plan(&self, data: Data, file: Option<&[u8]>) -> Result<Plan, Trouble> {
        self.check_old(file)?;
        self.check_needs()?;
        let slots = self.slots()?;
        let old =
            Old { shape: &self.shape, linked: &self.old.linked, bytes: &self.old.bytes, base: self.old.base, file };
        let carried = old.carry(self.new, self.base, data)?;
        let jumps = self.jumps()?;
        self.check_state(&carried, &slots, &jumps)?;

        let mut image = self.new.link(self.base, |symbol| self.resolve(symbol))?;
        for (at, bytes) in &carried.bytes {
            if let Some(into) = image.get_mut(*at as usize..*at as usize + bytes.len()) {
                into.copy_from_slice(bytes);
            }
        }
        let mut plan = Plan {
            base: self.base,
            anchor: self.modules[self.anchor].base,
            old: self.old.base,
            path: self.modules[self.anchor].path.clone(),
            ..Plan::default()
        };
        self.map(&mut plan, &image);
        plan.writes.extend(self.symbols());
        plan.writes.extend(slots.iter().map(|(at, value)| (*at, value.to_le_bytes().to_vec())));
        plan.writes.extend(jumps);
        self.open_pages(&mut plan)?;
        Ok(plan)
    }

    /// The new library's pages.
    fn map(&self, plan: &mut Plan, image: &[u8]) {
        let length = self.new.shape.length();
        plan.prepare.push([RESERVE, self.base, length, 0, 0]);
        plan.roll_back.push([UNMAP, self.base, length, 0, 0]);
        for it in &self.new.shape.segments {
            let (begin, end) = it.pages();
            if it.rights & WRITE == 0 {
                self.map_from_file(plan, it);
                continue;
            }
            plan.prepare.push([FILL, self.base + begin, end - begin, it.rights, 0]);
            let bytes = image.get(begin as usize..end as usize).unwrap_or_default();
            plan.writes.push((self.base + begin, bytes.to_vec()));
            let (writable, _) = self.new.shape.writable(it);
            if writable > it.at {
                let sealed = writable - writable % PAGE - begin;
                plan.commit.push([PROTECT, self.base + begin, sealed, READ, 0]);
            }
        }
        plan.commit.retain(|it| it[2] > 0);
    }

    /// Maps a segment that is as in the file, along with the one before it if that is in front of it there, too: each
    /// mapping is a call to us.
    fn map_from_file(&self, plan: &mut Plan, it: &Segment) {
        let (begin, end) = it.pages();
        let (at, offset) = (self.base + begin, it.offset - it.offset % PAGE);
        let before = plan.prepare.iter_mut().rev().find(|order| order[0] == MAP);
        match before {
            Some([_, first, length, _, from]) if *first + *length == at && *from + *length == offset => {
                *length += end - begin;
            }
            _ => plan.prepare.push([MAP, at, end - begin, READ, offset]),
        }
        if it.rights != READ {
            plan.commit.push([PROTECT, at, end - begin, it.rights, 0]);
        }
    }

    /// Has pages made writable that are not, for as long as they are written to.
    fn open_pages(&self, plan: &mut Plan) -> Result<(), Trouble> {
        let own = self.base..self.base + self.new.shape.length();
        let mut pages = BTreeMap::new();
        for (at, bytes) in plan.writes.iter().filter(|(at, _)| !own.contains(at)) {
            for page in (at / PAGE..=(at + bytes.len() as u64 - 1) / PAGE).map(|it| it * PAGE) {
                let area = self.standing.area(page).ok_or("a page that has to be changed is not there")?;
                if area.rights & SHARED != 0 {
                    return Err("a page that has to be changed is not the process's own".into());
                }
                if area.rights & WRITE == 0 {
                    pages.insert(page, area.rights);
                }
            }
        }
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        for (page, rights) in pages {
            match runs.last_mut() {
                Some((_, end, same)) if *end == page && *same == rights => *end += PAGE,
                _ => runs.push((page, page + PAGE, rights)),
            }
        }
        for (begin, end, rights) in runs {
            plan.prepare.push([PROTECT, begin, end - begin, READ | WRITE, 0]);
            let back = [PROTECT, begin, end - begin, rights, 0];
            plan.commit.push(back);
            plan.roll_back.push(back);
        }
        Ok(())
    }

    fn old_range(&self) -> std::ops::Range<u64> {
        self.old.base..self.old.base.saturating_add(self.shape.length())
    }

    /// The old one is of a kind that can be left behind.
    fn check_old(&self, file: Option<&[u8]>) -> Result<(), Trouble> {
        if self.shape.has_threads_data {
            return Err("the old one has data of its own for each thread".into());
        }
        if self.old.linked.exported().any(|(_, it)| it.kind() == Kind::Indirect) {
            return Err("the old one has functions that choose functions".into());
        }
        let image = file.and_then(|it| self.shape.lay_out(it).ok());
        let whole = image.and_then(|image| {
            let linked = Linked::parse(image.as_slice(), self.shape.dynamic, 0, Depth::Whole).ok()?;
            Some(New { shape: self.shape.clone(), linked, image })
        });
        match whole {
            Some(it) if !it.does_nothing_by_itself() => Err("the old one has something to do at its end".into()),
            _ => Ok(()),
        }
    }

    /// Every library that it needs is there, and everybody finds the versions that he wants.
    fn check_needs(&self) -> Result<(), Trouble> {
        let here = |name: &[u8]| self.modules.iter().any(|it| it.linked.soname() == name);
        if let Some(missing) = self.new.linked.needed().find(|it| !here(it)) {
            return Err(format!("the new one needs {}, which the program does not have", shown(missing)).into());
        }
        let soname = self.old.linked.soname();
        for module in self.others() {
            let mut wanted = module.linked.wanted.iter().filter(|(of, _)| of == soname);
            if let Some((_, version)) = wanted.find(|(_, it)| !self.new.linked.defined.contains(it)) {
                let (user, version) = (self.name_of(module), shown(version));
                return Err(format!("{user} wants its version {version}, which the new one lacks").into());
            }
        }
        Ok(())
    }

    fn others(&self) -> impl Iterator<Item = &Module<'_>> {
        self.modules.iter().enumerate().filter(|(index, _)| *index != self.anchor).map(|(_, it)| it)
    }

    fn name_of(&self, module: &Module<'_>) -> String {
        match (module.path.as_slice(), module.linked.soname()) {
            (b"", b"") => "the program".to_owned(),
            (path, b"") => shown(path),
            (_, soname) => shown(soname),
        }
    }

    /// The words by which others reach into the old library, and what is to be in them.
    fn slots(&self) -> Result<Vec<(u64, u64)>, Trouble> {
        let mut slots = Vec::new();
        for module in self.others() {
            let mut ours: BTreeMap<u32, Option<(u64, Option<u64>)>> = BTreeMap::new();
            let filled_in = [kind::WORD, kind::GLOBAL, kind::JUMP, kind::COPY];
            for it in module.linked.relocations.iter().filter(|it| it.symbol != 0 && filled_in.contains(&it.kind)) {
                let pair = ours.entry(it.symbol).or_insert_with(|| self.pair(module, it.symbol));
                let Some((old, new)) = *pair else { continue };
                let missing = || -> Trouble {
                    let symbol = module.linked.symbol(it.symbol).map(|it| shown(module.linked.name(it)));
                    let (user, symbol) = (self.name_of(module), symbol.unwrap_or_default());
                    format!("{user} needs '{symbol}', which the new one lacks").into()
                };
                if it.kind == kind::COPY {
                    self.check_copy(module, it)?;
                    continue;
                }
                let addend = if it.kind == kind::WORD { it.addend } else { 0 };
                let value = module.bytes.word(it.at)?;
                if value == self.old.base.wrapping_add(old).wrapping_add(addend) {
                    let new = new.ok_or_else(missing)?;
                    let at = module.base.wrapping_add(it.at);
                    slots.push((at, self.base.wrapping_add(new).wrapping_add(addend)));
                } else if it.kind == kind::JUMP && new.is_none() {
                    // Not looked up yet.
                    return Err(missing());
                }
            }
        }
        Ok(slots)
    }

    /// The place of another's symbol in the old library, if it has one, and in the new one.
    fn pair(&self, module: &Module<'_>, symbol: u32) -> Option<(u64, Option<u64>)> {
        let name = module.linked.name(module.linked.symbol(symbol)?);
        let version = module.linked.version(symbol);
        let old = self.old.linked.find(name, version)?;
        let new = self.new.linked.find(name, version).filter(|it| it.kind() == old.kind());
        Some((old.value, new.map(|it| it.value)))
    }

    /// The program has a copy of an object, with room for no more than the old one had.
    fn check_copy(&self, module: &Module<'_>, it: &Relocation) -> Result<(), Trouble> {
        let Some(symbol) = module.linked.symbol(it.symbol) else { return Ok(()) };
        let name = module.linked.name(symbol);
        let find = |linked: &Linked| linked.find(name, module.linked.version(it.symbol)).map(|it| it.size);
        match (find(&self.old.linked), find(&self.new.linked)) {
            (None, _) => Ok(()),
            (Some(old), Some(new)) if old == new => Ok(()),
            _ => {
                let (user, name) = (self.name_of(module), shown(name));
                Err(format!("{user} has a copy of '{name}', which is another in the new one").into())
            }
        }
    }

    /// What the loader found for the old one. What it has not looked up yet is found by the old one's own way to it.
    fn bound_by_old(&self) -> Result<BTreeMap<Vec<u8>, u64>, Trouble> {
        let linked = &self.old.linked;
        let mut bound = BTreeMap::new();
        for it in linked.relocations.iter().filter(|it| [kind::GLOBAL, kind::JUMP].contains(&it.kind)) {
            let Some(symbol) = linked.symbol(it.symbol).filter(|it| !it.is_defined()) else { continue };
            let mut value = self.old.bytes.word(it.at)?;
            if value == 0 {
                continue;
            }
            if self.old_range().contains(&value) {
                value = self.stub_before(value, it.at).unwrap_or(value);
            }
            bound.insert(linked.name(symbol).to_vec(), value);
        }
        Ok(bound)
    }

    /// Where a jump over a word is that the loader has not filled in: it leads to right behind itself until then.
    fn stub_before(&self, value: u64, slot: u64) -> Option<u64> {
        const LENGTH: u64 = 6;
        let at = value.checked_sub(self.old.base)?.checked_sub(LENGTH)?;
        let mut code = [0; LENGTH as usize];
        self.old.bytes.read(at, &mut code)?;
        let [0xff, 0x25, a, b, c, d] = code else { return None };
        let distance = i64::from(i32::from_le_bytes([a, b, c, d])) as u64;
        ((at + LENGTH).wrapping_add(distance) == slot).then_some(self.old.base + at)
    }

    /// What a symbol of the new library is.
    fn resolve(&self, index: u32) -> Result<u64, Trouble> {
        let linked = &self.new.linked;
        let Some(symbol) = linked.symbol(index).filter(|_| index != 0) else { return Ok(0) };
        let (name, version) = (linked.name(symbol), linked.version(index));
        if symbol.is_defined() && !symbol.is_exported() {
            return Ok(self.base.wrapping_add(symbol.value));
        }
        if !symbol.is_defined()
            && let Some(value) = self.bound.get(name)
        {
            return Ok(*value);
        }
        for (index, module) in self.modules.iter().enumerate() {
            let (base, linked) = match index == self.anchor {
                true => (self.base, linked),
                false => (module.base, &module.linked),
            };
            let Some(found) = linked.find(name, version) else { continue };
            return match found.kind() {
                Kind::Indirect => self.found_by_others(name).ok_or_else(|| {
                    format!("it needs '{}', a function that chooses functions and was not asked yet", shown(name))
                        .into()
                }),
                Kind::ThreadsData => Err(format!("it needs '{}', which each thread has", shown(name)).into()),
                _ => Ok(base.wrapping_add(found.value)),
            };
        }
        if symbol.is_weak() {
            return Ok(0);
        }
        Err(format!("it needs '{}', which nobody has", shown(name)).into())
    }

    /// What another library's word for that name is, filled in by the loader.
    fn found_by_others(&self, name: &[u8]) -> Option<u64> {
        let mut words = self.others().flat_map(|module| {
            let kinds = [kind::GLOBAL, kind::JUMP];
            let same = move |it: &&Relocation| {
                kinds.contains(&it.kind)
                    && module.linked.symbol(it.symbol).is_some_and(|it| module.linked.name(it) == name)
            };
            let filled_in = module.linked.relocations.iter().filter(same);
            filled_in.filter_map(move |it| Some((module, module.bytes.word(it.at).ok()?)))
        });
        // One that was not looked up yet leads into its own library.
        let (_, value) = words.find(|(module, value)| {
            let code = self.standing.area(*value).filter(|it| it.rights & EXECUTE != 0);
            let home = code.map(|it| it.begin..it.end);
            home.is_some_and(|it| !it.contains(&module.base)) && value.abs_diff(module.base) > super::elf::LARGEST
        })?;
        Some(value)
    }

    fn code(&self) -> impl Iterator<Item = std::ops::Range<u64>> {
        let code = self.shape.segments.iter().filter(|it| it.rights & EXECUTE != 0);
        code.map(|it| self.old.base.wrapping_add(it.at)..self.old.base.wrapping_add(it.end()))
    }

    /// Whether a thread may come back into the old library.
    fn is_inside(&self) -> bool {
        let code: Vec<_> = self.code().collect();
        self.standing.is_held_by_threads(|word| code.iter().any(|it| it.contains(&word)))
    }

    /// See [`super::carry`].
    fn check_state(&self, carried: &Carried, slots: &[(u64, u64)], jumps: &[(u64, Vec<u8>)]) -> Result<(), Trouble> {
        if carried.named.is_empty() {
            return Ok(());
        }
        if !self.standing.is_in_calls() {
            return Err(Trouble::NotHere("a thread makes no system call, and the old one has data"));
        }
        if self.is_inside() {
            return Err(Trouble::NotNow("a thread is in the old one, which has data that both would write"));
        }
        let objects = carried.named.iter().map(|(begin, end)| self.old.base + begin..self.old.base + end);
        let parts: Vec<_> = objects.chain(self.code()).collect();
        // Functions that begin with a jump lead on.
        let leads_on: BTreeSet<u64> = jumps.iter().map(|it| it.0).collect();
        let is_old = |word: u64| parts.iter().any(|it| it.contains(&word)) && !leads_on.contains(&word);
        if self.standing.is_held_by_threads(is_old) {
            return Err(Trouble::NotNow("a thread holds a pointer to data of the old one"));
        }
        let rebound: BTreeSet<u64> = slots.iter().map(|it| it.0).collect();
        let own = self.old_range();
        let found = self.standing.is_in_memory(is_old, |at| rebound.contains(&at) || own.contains(&at));
        match found {
            None => Err("it has data, and there is too much memory to look for pointers to it".into()),
            Some(true) => Err(Trouble::NotNow("the program keeps a pointer to data or code of the old one")),
            Some(false) => Ok(()),
        }
    }

    /// Where the symbols of the library in the loader's list are, as they are to be: whoever looks one up finds the new one.
    fn symbols(&self) -> Option<(u64, Vec<u8>)> {
        const ENTRY: u64 = 24;
        let anchor = &self.modules[self.anchor];
        let linked = &anchor.linked;
        let at = linked.place(tag::SYMBOLS)?;
        let mut table = anchor.bytes.bytes(at, linked.symbols().len() as u64 * ENTRY).ok()?;
        for (index, symbol) in linked.exported() {
            let entry = table.get_mut(index as usize * ENTRY as usize..)?;
            match self.new.linked.find(linked.name(symbol), linked.version(index)) {
                Some(new) => {
                    let value = self.base.wrapping_add(new.value).wrapping_sub(anchor.base);
                    entry.get_mut(8..16)?.copy_from_slice(&value.to_le_bytes());
                }
                // It is not there any more: nobody defines it.
                None => entry.get_mut(6..8)?.fill(0),
            }
        }
        Some((anchor.base.wrapping_add(at), table))
    }
}
