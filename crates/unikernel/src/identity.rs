//! As whom a thread of the tender touches files: a member's own as the member's process, every other as the tender.
//!
//! Where the tender may not become others, or the cell has no others, all threads are the tender, and a member's account of
//! who it is decides nothing about files.

use std::cell::RefCell;
use std::sync::OnceLock;

use sys::capability::CapabilitySet;
use sys::file_identity::become_for_files;

/// Somebody to whom files belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) groups: Vec<u32>,
}

/// The tender, if it may become others.
static TENDER: OnceLock<Option<Identity>> = OnceLock::new();

thread_local! {
    /// Who the thread is; nothing while nobody has looked.
    static NOW: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

/// Looks whether the tender may become others, and what it may: at its begin, by its first thread, before it gives up what it
/// does not need.
pub(crate) fn begin() {
    capabilities();
    TENDER.get_or_init(|| {
        let tender = Identity {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            groups: rustix::process::getgroups().ok()?.iter().map(|it| it.as_raw()).collect(),
        };
        /// Somebody else than whoever it is, with the highest number that a cell has in any case where it has several.
        const OTHER: u32 = 65534;
        // Rights over files that it lacks itself it could not take from others.
        let root = tender.user == 0;
        let became = root && become_for_files(OTHER, OTHER, &[OTHER]).is_ok();
        let is_back = become_for_files(tender.user, tender.group, &tender.groups).is_ok();
        (became && is_back).then_some(tender)
    });
}

/// What root of a guest may do beyond others, by its own account: what the tender itself might at its begin.
pub(crate) fn capabilities() -> CapabilitySet {
    static OWN: OnceLock<CapabilitySet> = OnceLock::new();
    *OWN.get_or_init(|| as_tender(|| sys::capability::effective().unwrap_or_default()))
}

/// Whether files are touched as the members' processes.
pub(crate) fn is_kept() -> bool {
    TENDER.get().is_some_and(Option::is_some)
}

impl Identity {
    /// The calling thread is that one from now on. Where that cannot be, it has as few rights as it can have.
    pub(crate) fn take_on(&self) {
        if !is_kept() {
            return;
        }
        NOW.with_borrow_mut(|now| {
            if now.as_ref() == Some(self) {
                return;
            }
            *now = Some(self.clone());
            if become_for_files(self.user, self.group, &self.groups).is_err() {
                /// The user whom no file belongs to.
                const NOBODY: u32 = 65534;
                let _ = become_for_files(NOBODY, NOBODY, &[]);
            }
        });
    }
}

/// The calling thread is the tender from now on.
pub(crate) fn be_tender() {
    if let Some(Some(tender)) = TENDER.get() {
        tender.take_on();
    }
}

/// Does something as the tender.
pub(crate) fn as_tender<T>(work: impl FnOnce() -> T) -> T {
    let before = NOW.with_borrow(Clone::clone);
    be_tender();
    let done = work();
    if let Some(before) = before {
        before.take_on();
    }
    done
}
