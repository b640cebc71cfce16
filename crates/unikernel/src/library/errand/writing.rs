//! The errand on which the first process of a cell is written into a file, as a core.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::{Ledger, Next, PATIENCE_WRITING, Purpose, Stood, Visit};
use crate::family::Family;
use crate::library::standing::{Pages, Standing};

impl Ledger {
    /// Writes the first process of a cell into a file, as a core.
    pub(crate) fn write_core(&self, family: &Family, cell: u32, file: OwnedFd) -> Result<(), String> {
        self.run(family, cell, Purpose::Core(Arc::new(file.into()))).map(drop)
    }

    /// A process that stands still is written down, if it is the first of its cell.
    pub(super) fn written(
        &self,
        number: u32,
        file: &std::fs::File,
        stood: Stood<'_>,
        family: &Family,
    ) -> (Visit, Next) {
        if self.books().errand.as_ref().is_none_or(|it| it.cell != number) {
            return (Visit::Unchanged, Next::GoOn);
        }
        let Stood { memory, report, words } = stood;
        let pages = Pages::new(memory);
        let written = Standing::read(&pages, report, words).map_err(str::to_owned).and_then(|standing| {
            let mut file = std::io::BufWriter::new(file);
            let name = family.name_of(number);
            let end = Instant::now() + PATIENCE_WRITING;
            let goes_on = || Instant::now() < end && !family.is_killed(number);
            standing.write_core(number, &name, &mut file, goes_on).map_err(|error| error.to_string())
        });
        match written {
            Ok(()) => (Visit::Done, Next::GoOn),
            Err(why) => (Visit::Failed(why), Next::GoOn),
        }
    }
}
