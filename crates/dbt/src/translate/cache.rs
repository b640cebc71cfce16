//! Where generated code is.
//!
//! **Invariant: no page can be written and executed at one address.** The same memory is mapped twice, once to be written
//! and once to be executed.

#![expect(unsafe_code, reason = "memory is mapped to be executed, and what is in it is called")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Bytes of code that there is room for; what is not used takes no memory. A compiler at work has more than 64 MiB of it.
const SIZE: usize = 256 << 20;

/// Memory for code.
pub(super) struct Cache {
    file: File,
    write: NonNull<u8>,
    execute: NonNull<u8>,
    used: usize,
    /// So much of it takes no faults any more.
    ready: usize,
}

// SAFETY: it owns its mappings, which are written through `&mut` alone.
unsafe impl Send for Cache {}

impl Cache {
    /// Nothing if the host does not allow it.
    pub(super) fn new() -> Option<Cache> {
        let file = memfd_create("code", MemfdFlags::CLOEXEC).ok()?;
        ftruncate(&file, SIZE as u64).ok()?;
        let map = |rights| {
            // SAFETY: a new mapping.
            let at = unsafe { mmap(std::ptr::null_mut(), SIZE, rights, MapFlags::SHARED, &file, 0) };
            NonNull::new(at.ok()?.cast::<u8>())
        };
        let write = map(ProtFlags::READ | ProtFlags::WRITE)?;
        let execute = map(ProtFlags::READ | ProtFlags::EXEC)?;
        Some(Cache { file: file.into(), write, execute, used: 0, ready: 0 })
    }

    /// Where so many bytes of code are going to be, if they are added next. Nothing if there is no room for them.
    pub(super) fn room(&self, length: usize) -> Option<usize> {
        let at = self.used.next_multiple_of(16);
        (SIZE.checked_sub(at)? >= length).then_some(at)
    }

    /// Adds code; gives where it is from the beginning. Nothing if there is no more room.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Option<usize> {
        let at = self.room(bytes.len())?;
        self.used = at + bytes.len();
        if self.used > self.ready {
            self.make_ready();
        }
        self.write_at(at, bytes);
        Some(at)
    }

    /// Has the host give its pages, many at once: each would be a fault where it is written, and one where it is executed.
    /// Those that are there when they are asked for are mapped sixteen at a time, so they are written by a call first.
    fn make_ready(&mut self) {
        const STEP: usize = 1 << 20;
        static NOTHING: [u8; 1 << 16] = [0; 1 << 16];
        let (from, to) = (self.ready, self.used.next_multiple_of(STEP).min(SIZE));
        self.ready = to;
        // Nothing is lost if any of it fails.
        for at in (from..to).step_by(NOTHING.len()) {
            let _ = self.file.write_at(&NOTHING, at as u64);
        }
        for at in [self.write, self.execute] {
            // SAFETY: inside the mapping, as `used` is.
            let _ = unsafe { madvise(at.as_ptr().add(from).cast(), to - from, Advice::LinuxPopulateRead) };
        }
    }

    /// How much is used.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Forgets what is behind this.
    pub(super) fn truncate(&mut self, used: usize) {
        self.used = used;
    }

    fn write_at(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= SIZE, "code is written inside the cache");
        // SAFETY: inside the mapping, as was checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.write.as_ptr().add(at), bytes.len()) };
    }

    /// The four bytes at `at`, which end a jump, make it go to `to`.
    pub(super) fn direct(&mut self, at: usize, to: usize) {
        let distance = to as i64 - (at as i64 + 4);
        self.write_at(at, &(distance as i32).to_le_bytes());
    }

    /// What begins at `at` becomes a jump to `to`.
    pub(super) fn replace(&mut self, at: usize, to: usize) {
        self.write_at(at, &[0xe9]);
        self.direct(at + 1, to);
    }

    /// Where code is executed.
    pub(super) fn address(&self, at: usize) -> u64 {
        self.execute.as_ptr() as u64 + at as u64
    }

    /// Calls code with two arguments.
    pub(super) fn call(&self, at: usize, state: *mut u64, code: u64) -> u64 {
        // SAFETY: the translator generated a function of this type there.
        let function: extern "sysv64" fn(*mut u64, u64) -> u64 = unsafe { std::mem::transmute(self.address(at)) };
        function(state, code)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        for at in [self.write, self.execute] {
            // SAFETY: ours, and nothing of it runs any more.
            let _ = unsafe { munmap(at.as_ptr().cast(), SIZE) };
        }
    }
}
