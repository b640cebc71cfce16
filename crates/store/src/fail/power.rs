//! A power cut, played: what no fsync has made durable is damaged before the process dies.
//!
//! When a point is armed with `power`, the store notes which files it wrote and which names it gave. The cut then takes
//! back some of the names that were given since their directory was last made durable, and cuts files short that were not
//! made durable themselves. Unarmed, each note is one load and one branch. The index is redb's own business.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Action, plan};

#[derive(Default)]
struct Journal {
    /// Files whose bytes are not durable.
    unsynced: BTreeSet<PathBuf>,
    /// Names that are not durable.
    renames: Vec<Rename>,
}

struct Rename {
    from: PathBuf,
    to: PathBuf,
    /// What had the name before.
    before: Option<PathBuf>,
}

static JOURNAL: Mutex<Option<Journal>> = Mutex::new(None);

fn note(change: impl FnOnce(&mut Journal)) {
    if plan().is_some_and(|plan| matches!(plan.action, Action::Power)) {
        let mut journal = JOURNAL.lock().unwrap_or_else(PoisonError::into_inner);
        change(journal.get_or_insert_default());
    }
}

/// A file is being written.
pub(crate) fn writing(path: &Path) {
    note(|journal| {
        journal.unsynced.insert(path.to_owned());
    });
}

/// A file's bytes are durable.
pub(crate) fn synced(path: &Path) {
    note(|journal| {
        journal.unsynced.remove(path);
    });
}

/// Everything is durable.
pub(crate) fn all_synced() {
    note(|journal| *journal = Journal::default());
}

/// The names in a directory are durable.
pub(crate) fn dir_synced(dir: &Path) {
    note(|journal| journal.renames.retain(|rename| rename.to.parent() != Some(dir)));
}

/// A file is about to get another name.
pub(crate) fn renaming(from: &Path, to: &Path) {
    note(|journal| {
        let before = from.with_extension("before");
        let before = fs::hard_link(to, &before).is_ok().then_some(before);
        if journal.unsynced.remove(from) {
            journal.unsynced.insert(to.to_owned());
        }
        journal.renames.push(Rename { from: from.to_owned(), to: to.to_owned(), before });
    });
}

/// Takes back what a power cut may take back; which part of it, `seed` decides.
pub(super) fn cut(seed: u64) {
    let journal = JOURNAL.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
    let mut coin = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    for path in &journal.unsynced {
        if let Ok(file) = OpenOptions::new().write(true).open(path)
            && let Ok(length) = file.metadata().map(|it| it.len())
        {
            let _ = file.set_len(coin() % (length + 1));
            // Its length may have arrived without its bytes.
            let _ = if coin() % 2 == 0 { file.set_len(length) } else { Ok(()) };
        }
    }
    for rename in journal.renames.iter().rev().filter(|_| coin() % 4 != 0) {
        let _ = fs::rename(&rename.to, &rename.from);
        let _ = rename.before.as_ref().map(|before| fs::rename(before, &rename.to));
    }
}
