//! State that everything shares. A guest has one processor and threads change only where they say so, hence no lock is
//! needed; what is needed is that nobody holds a part of the state while it lets others run, and that is checked.

use core::cell::{RefCell, RefMut};

/// A value of which there is one, borrowed by one at a time.
pub struct Local<T>(RefCell<T>);

// SAFETY: there is one processor. An interrupt that comes while this program runs only notes that it came
// (`entry::interrupted`), so it never meets a borrow.
unsafe impl<T> Sync for Local<T> {}

impl<T> Local<T> {
    pub const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Borrows it. **Not to be held while another thread may run**: the next to borrow it would panic.
    pub fn get(&self) -> RefMut<'_, T> {
        self.0.borrow_mut()
    }
}
