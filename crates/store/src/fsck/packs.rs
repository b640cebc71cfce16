//! Packs and the index: every object hashed, every row of the index compared.

use std::collections::HashMap;

use model::ObjectId;

use super::{DamageState, Fsck, Repair, reason};
use crate::error::Result;
use crate::index::{Change, Index, IndexReader, Trust};
use crate::pack::{Location, PackFile, PackNumber, PackWriter, RecordCheck, Sealed, file_name, salvage};

/// What the packs hold, as far as it is whole.
#[derive(Default)]
struct Found {
    whole: Vec<Sealed>,
    damaged: Vec<PackNumber>,
    /// Where each whole object is; all of its places, if there are several, are equal.
    objects: HashMap<ObjectId, Vec<Location>>,
}

impl Fsck<'_> {
    pub(super) fn packs(&mut self) -> Result<()> {
        let mut found = self.read_packs()?;
        let index_is_sound = match self.index_rows(&found) {
            Ok(()) => true,
            Err(why) => {
                self.found(self.name_of(&self.paths.index), why, DamageState::Mended);
                false
            }
        };
        if self.repair == Repair::CheckOnly || (index_is_sound && found.damaged.is_empty()) {
            return Ok(());
        }
        self.rescue(&mut found)?;
        Index::replace(self.paths, &found.whole)
    }

    fn read_packs(&mut self) -> Result<Found> {
        let mut found = Found::default();
        let numbers = self.paths.pack_numbers()?;
        self.progress.begin("checking packs", Some(numbers.len() as u64));
        for number in numbers {
            self.report.packs += 1;
            let pack = PackFile::open(&self.paths.packs, number)?;
            let name = format!("packs/{}", file_name(number));
            match pack.verify(RecordCheck::Ids) {
                Ok((footer, wrong)) => {
                    let wrong: HashMap<_, _> = wrong.into_iter().collect();
                    self.report.objects += footer.totals().0;
                    for (id, location) in footer.locations(number) {
                        if !wrong.contains_key(&id) {
                            found.objects.entry(id).or_default().push(location);
                        }
                    }
                    match wrong.values().next() {
                        None => found.whole.push(Sealed { number, footer, size: pack.size()? }),
                        Some(why) => {
                            let why = format!("{} of its objects are damaged: {why}", wrong.len());
                            self.bad.extend(wrong.keys());
                            self.found(name, why, DamageState::Lost);
                            found.damaged.push(number);
                        }
                    }
                }
                Err(error) => {
                    self.found(name, reason(&error), DamageState::Lost);
                    found.damaged.push(number);
                }
            }
            self.progress.advance(1);
        }
        self.bad.retain(|id| !found.objects.contains_key(id));
        self.progress.end();
        Ok(found)
    }

    /// What is wrong with the index, if anything.
    fn index_rows(&self, found: &Found) -> Result<(), String> {
        if !self.paths.index.exists() {
            return if found.objects.is_empty() && found.damaged.is_empty() {
                Ok(())
            } else {
                Err("it is not there".into())
            };
        }
        let index = Index::open(self.paths, Trust::Verify).map_err(|error| reason(&error))?;
        let snapshot = index.snapshot().map_err(|error| reason(&error))?;
        compare(&snapshot, found).map_err(|error| reason(&error))?
    }

    /// Copies what is whole in damaged packs and sets those aside.
    fn rescue(&mut self, found: &mut Found) -> Result<()> {
        let last = found.whole.iter().map(|pack| pack.number).chain(found.damaged.iter().copied()).max();
        let next = last.map_or(1, |last| last.saturating_add(1));
        let mut packs = PackWriter::new(self.paths.packs.clone(), self.paths.tmp.clone(), next)?;
        let mut held: std::collections::HashSet<ObjectId> = Default::default();
        found.whole.iter().for_each(|pack| held.extend(pack.footer.locations(pack.number).map(|(id, _)| id)));
        for number in &found.damaged {
            salvage(&self.paths.packs.join(file_name(*number)), |id, kind, bytes| {
                if held.insert(id) { packs.add(id, kind, bytes) } else { Ok(()) }
            })?;
        }
        found.whole.extend(packs.finish()?);
        self.bad.retain(|id| !held.contains(id));
        for number in &found.damaged {
            self.set_aside(&self.paths.packs.join(file_name(*number)))?;
        }
        Ok(())
    }
}

/// Compares every row of the index with what the packs hold, and the other way round.
fn compare(snapshot: &IndexReader, found: &Found) -> Result<Result<(), String>> {
    let known = snapshot.packs()?;
    let mut wrong = None;
    let mut rows = 0u64;
    snapshot.for_each(|id, location| {
        rows += 1;
        let right = found.objects.get(&id).is_some_and(|places| places.contains(&location));
        // A row for a damaged object is not the index's fault.
        if !right && !found.damaged.contains(&location.pack) {
            wrong.get_or_insert_with(|| format!("its row for object {id} is wrong"));
        }
        Ok(())
    })?;
    for pack in &found.whole {
        if known.contains_key(&pack.number) {
            for (id, _) in pack.footer.locations(pack.number) {
                if snapshot.get(&id)?.is_none() {
                    wrong.get_or_insert_with(|| format!("it does not know object {id}"));
                }
            }
        }
    }
    for (number, info) in known {
        let size = found.whole.iter().find(|pack| pack.number == number).map(|pack| pack.size);
        if size.is_some_and(|size| size != info.size) || (size.is_none() && !found.damaged.contains(&number)) {
            wrong.get_or_insert_with(|| format!("pack {} is missing or not as it says", file_name(number)));
        }
    }
    if rows != snapshot.len()? {
        wrong.get_or_insert_with(|| "its count of rows is wrong".to_owned());
    }
    Ok(wrong.map_or(Ok(()), Err))
}

impl Index {
    /// Puts an index of just these packs in place of whatever there is, in one step.
    pub(crate) fn replace(paths: &crate::layout::Paths, packs: &[Sealed]) -> Result<()> {
        Self::create_with(paths, |index| match packs {
            [] => Ok(()),
            packs => index.add(packs, &Change::default()),
        })
    }
}
