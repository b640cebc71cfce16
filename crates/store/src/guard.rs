//! What happens when the index's database panics: on a damaged page redb may meet what it holds to be impossible.
//!
//! **A damaged index never ends a process by a signal, and never without a word.** Everything that reads or writes the
//! index runs inside of [`guarded`]. Where panics unwind, one becomes an [`Error::Index`]. Where they abort, as in the
//! release profile (so that no child between `fork` and `exec` can unwind into its parent's frames), there is no way back
//! to the caller: the hook says the same error and ends the process in order. To the pool that is a `kill -9`, which it
//! is made for; the kernel releases the locks. Opening an existing index with [`crate::index::Trust::Verify`] checks all
//! pages first and is not known to panic, so that `skep pool fsck --repair` gets through.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::error::{Error, Result};

/// How a process ends whose index is damaged: not to be mistaken for the exit code of a program that it ran.
const EXIT: i32 = 125;

thread_local! {
    /// Whether this thread is at work on the index.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Does what may panic because the index is damaged.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(install);
    let outer = INSIDE.replace(true);
    // What a panic leaves half changed is in the database's objects alone, of which none is used again after an error.
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outer);
    result.unwrap_or_else(|_| Err(damaged()))
}

fn damaged() -> Error {
    Error::Index("it is damaged".to_owned())
}

/// Puts a hook before the one there is, which sees every panic that is not the index's.
fn install() {
    let next = panic::take_hook();
    panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        // A thread that is going away has no flag any more, and is not at work.
        if !INSIDE.try_with(Cell::get).unwrap_or(false) {
            next(info);
        } else if cfg!(panic = "abort") {
            last_words();
        }
    }));
}

#[expect(clippy::print_stderr, reason = "the process ends here: there is no caller left to tell")]
fn last_words() -> ! {
    eprintln!("error: {}", damaged());
    std::process::exit(EXIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_index_is_an_error_and_the_thread_goes_on() {
        let result: Result<u8> = guarded(|| {
            guarded(|| Ok(()))?;
            panic!("a page is what it is not")
        });
        assert!(matches!(result, Err(Error::Index(_))));
        assert!(!INSIDE.get());
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }
}
