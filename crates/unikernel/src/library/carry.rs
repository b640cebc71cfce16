//! A library's data: what has changed since it was loaded, and what becomes of it.
//!
//! The rule. What is in memory is compared with what the old file makes of it; words that the loader fills in are nobody's
//! data. **What has changed is carried over if it lies in an object that both libraries export by the same name, version
//! and size**, and what is unchanged begins as the new library has it. A changed word that points into the old library is
//! carried over as a pointer to the same name in the new one. What has changed and has no name cannot be carried over: the
//! library is refused, or begins afresh there if the user says so.
//!
//! A library with named data that can be written is replaced only when no thread is in it, and nothing else in memory points
//! to that data or into its code, but to functions that lead on: else two copies would be written.

use std::collections::BTreeSet;

use super::elf::{Bytes, Shape, WRITE, number};
use super::linked::{Kind, Linked, Symbol, kind, tag};
use super::place::New;
use super::words::Data;
use super::{Trouble, shown};

/// The old library as it is in memory.
pub(crate) struct Old<'a, B> {
    pub(crate) shape: &'a Shape,
    pub(crate) linked: &'a Linked,
    pub(crate) bytes: &'a B,
    pub(crate) base: u64,
    /// The file that it was mapped from.
    pub(crate) file: Option<&'a [u8]>,
}

/// What goes into the new library.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Bytes, by their places in it.
    pub(crate) bytes: Vec<(u64, Vec<u8>)>,
    /// Where objects of the old one are that can be written and have names, from where to where.
    pub(crate) named: Vec<(u64, u64)>,
}

/// An object of the old library, and the same in the new one.
struct Pair<'a> {
    name: &'a [u8],
    at: u64,
    size: u64,
    new: Option<u64>,
}

/// What a file makes of memory.
struct Fresh {
    image: Vec<u8>,
    /// Words that the loader fills in by what is elsewhere.
    filled_in: BTreeSet<u64>,
}

impl<B: Bytes> Old<'_, B> {
    /// Tells what goes into the new one.
    pub(crate) fn carry(&self, new: &New, base: u64, data: Data) -> Result<Carried, Trouble> {
        let objects = self.objects(new);
        let mut carried = Carried::default();
        let regions: Vec<(u64, u64)> = self.regions().collect();
        let in_regions = |it: &Pair<'_>| regions.iter().any(|(begin, end)| it.at >= *begin && it.at + it.size <= *end);
        carried.named = objects.iter().filter(|it| in_regions(it)).map(|it| (it.at, it.at + it.size)).collect();
        let Some(Fresh { image: fresh, filled_in }) = self.fresh()? else {
            return match data {
                Data::Fresh => Ok(carried),
                Data::Carried => {
                    Err("its old file is not there, so what has changed since cannot be told".to_owned().into())
                }
            };
        };
        let mut nameless = 0;
        for (begin, end) in regions {
            let memory = self.bytes.bytes(begin, end - begin)?;
            let changed = |at: &u64| {
                memory.get((at - begin) as usize) != fresh.get(*at as usize) && !filled_in.contains(&(at / 8 * 8))
            };
            let mut done = begin;
            for at in (begin..end).filter(changed) {
                if at < done {
                    continue;
                }
                let object = objects.iter().find(|it| at >= it.at && at < it.at + it.size);
                let Some((object, to)) = object.and_then(|it| Some((it, it.new?))) else {
                    if let Some(object) = object {
                        return Err(format!("its data '{}' is another in the new one", shown(object.name)).into());
                    }
                    nameless += 1;
                    continue;
                };
                let word = at / 8 * 8;
                let value = number::<8>(&memory, (word.max(begin) - begin) as usize);
                let whole = word >= object.at.max(begin) && word + 8 <= object.at + object.size;
                if whole && self.holds(value) {
                    let value = self.translate(value, new, base, &objects).ok_or_else(|| {
                        let name = shown(object.name);
                        format!("its data '{name}' points to a part of it that has no name")
                    })?;
                    carried.bytes.push((to + (word - object.at), value.to_le_bytes().to_vec()));
                    done = word + 8;
                } else {
                    let byte = memory.get((at - begin) as usize).copied().unwrap_or_default();
                    carried.bytes.push((to + (at - object.at), vec![byte]));
                    done = at + 1;
                }
            }
        }
        if nameless > 0 && data == Data::Carried {
            let why = format!("{nameless} bytes of its data have changed and have no name by which they could be kept");
            return Err(why.into());
        }
        Ok(carried)
    }

    fn holds(&self, address: u64) -> bool {
        (self.base..self.base + self.shape.length()).contains(&address)
    }

    /// What stays writable.
    fn regions(&self) -> impl Iterator<Item = (u64, u64)> {
        let writable = self.shape.segments.iter().filter(|it| it.rights & WRITE != 0);
        writable.map(|it| self.shape.writable(it)).filter(|(begin, end)| begin < end)
    }

    fn objects(&self, new: &New) -> Vec<Pair<'_>> {
        let objects = self.linked.exported().filter(|(_, it)| it.kind() == Kind::Object && it.size > 0);
        let inside = objects.filter(|(_, it)| self.shape.segment(it.value, it.size).is_some());
        let pair = |(index, it): (u32, &Symbol)| {
            let name = self.linked.name(it);
            let same = new.linked.find(name, self.linked.version(index));
            let same = same.filter(|same| same.kind() == Kind::Object && same.size == it.size);
            let same = same.filter(|same| {
                let segment = new.shape.segment(same.value, same.size);
                segment.is_some_and(|segment| {
                    let (begin, end) = new.shape.writable(segment);
                    same.value >= begin && same.value + same.size <= end
                })
            });
            // What is constant in both needs no carrying, and never changes.
            (name, it.value, it.size, same.map(|it| it.value))
        };
        inside.map(pair).map(|(name, at, size, new)| Pair { name, at, size, new }).collect()
    }

    /// The same place in the new library of what an address of the old one names.
    fn translate(&self, address: u64, new: &New, base: u64, objects: &[Pair<'_>]) -> Option<u64> {
        let at = address - self.base;
        let function = self.linked.exported().find(|(_, it)| it.kind() == Kind::Function && it.value == at);
        if let Some((index, it)) = function {
            let same = new.linked.find(self.linked.name(it), self.linked.version(index))?;
            return Some(base.wrapping_add(same.value));
        }
        let object = objects.iter().find(|it| at >= it.at && at < it.at + it.size)?;
        Some(base.wrapping_add(object.new?).wrapping_add(at - object.at))
    }

    /// What the file makes of memory, and which words the loader fills in by what is elsewhere.
    fn fresh(&self) -> Result<Option<Fresh>, Trouble> {
        let Some(file) = self.file else { return Ok(None) };
        let shape = Shape::parse(file)?;
        if shape.headers != self.shape.headers || shape.build_id != self.shape.build_id {
            return Ok(None);
        }
        let mut image = shape.lay_out(file)?;
        let mut filled_in = BTreeSet::new();
        let mut put = |at: u64, value: u64| {
            let end = at.checked_add(8);
            if let Some(word) = end.and_then(|end| image.get_mut(at as usize..end as usize)) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        };
        let before = shape.lay_out(file)?;
        for at in &self.linked.relative {
            put(*at, number::<8>(&before, *at as usize).wrapping_add(self.base));
        }
        for it in &self.linked.relocations {
            let own = self.linked.symbol(it.symbol).filter(|symbol| symbol.is_defined());
            match (it.kind, own) {
                (kind::RELATIVE, _) => put(it.at, self.base.wrapping_add(it.addend)),
                (kind::WORD, Some(own)) => put(it.at, self.base.wrapping_add(own.value).wrapping_add(it.addend)),
                _ => drop(filled_in.insert(it.at)),
            }
        }
        // The loader's own words in front of the functions that are looked up when they are called first.
        let table = self.linked.place(tag::PROCEDURES).unwrap_or_default();
        filled_in.extend((0..3).map(|index| table.wrapping_add(8 * index)));
        Ok(Some(Fresh { image, filled_in }))
    }
}
