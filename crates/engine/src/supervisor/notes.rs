//! What comes up while a cell runs and belongs into its record.

use model::EventKind;

use super::Supervisor;
use crate::disk::Durability;
use crate::error::Error;

/// So many missed files are named in a cell's record; the journal has them all.
const MAX_MISSED: usize = 1000;

impl Supervisor {
    /// Writes down, once a run, that the log lacks something.
    pub(super) fn note_lost_output(&mut self, error: &Error) {
        let what = "log";
        if self.cell.record.degraded.iter().any(|it| it.what == what) {
            return;
        }
        let why = format!("output was lost: {error}");
        self.note(EventKind::Degraded { what: what.to_owned(), why: why.clone() });
        self.cell.record.degraded.push(model::Degraded { what: what.to_owned(), why });
        // With a full disk this fails, too; the next record that is written has it.
        let _ = self.cell.write_record(&self.lock, Durability::Relaxed);
    }

    pub(super) fn on_notice(&mut self) {
        let Some(run) = &mut self.run else { return };
        if let Ok(Some(exit)) = run.live.notice() {
            run.verdict = Some(exit);
            let _ = run.live.kill();
        }
        self.note_missed();
        self.note_unknown();
    }

    /// Writes down which system calls its boundary does not have.
    pub(super) fn note_unknown(&mut self) {
        let unknown = self.run.as_mut().map(|run| run.live.unknown()).unwrap_or_default();
        let traps = self.run.as_ref().map_or(0, |run| run.live.traps());
        if unknown.is_empty() && self.cell.record.traps == traps {
            return;
        }
        self.cell.record.traps = traps;
        for it in unknown {
            let known = &mut self.cell.record.unknown;
            match known.iter_mut().find(|known| known.call == it.call) {
                Some(known) => known.times = it.times,
                None => known.push(it),
            }
        }
        let _ = self.cell.write_record(&self.lock, Durability::Relaxed);
    }

    /// Writes down what slimming should not have taken away.
    pub(super) fn note_missed(&mut self) {
        let missed = self.run.as_mut().map(|run| run.live.missed()).unwrap_or_default();
        if missed.is_empty() {
            return;
        }
        for it in missed {
            self.note(EventKind::Missed(it.clone()));
            if self.cell.record.missed.len() < MAX_MISSED && !self.cell.record.missed.contains(&it) {
                self.cell.record.missed.push(it);
            }
        }
        let _ = self.cell.write_record(&self.lock, Durability::Relaxed);
    }
}
