//! Memory of the library operating system's own, for tables and threads' stacks.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;

use abi::layout::{HEAP, HEAP_SIZE};
use linked_list_allocator::Heap;

use crate::engine::{self, Source};
use crate::space::Protection;
use crate::sync::Local;

/// By how much the heap grows at once: no more than a small guest will ever need.
const STEP: usize = 128 << 10;

struct Growing {
    heap: Heap,
    size: usize,
}

struct Allocator(Local<Growing>);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(Local::new(Growing { heap: Heap::empty(), size: 0 }));

impl Growing {
    fn grow(&mut self, least: usize) -> Option<()> {
        let more = least.checked_add(STEP)?.next_multiple_of(STEP);
        if self.size + more > HEAP_SIZE {
            return None;
        }
        engine::map(HEAP + self.size, more, Protection::READ | Protection::WRITE, Source::Anonymous).ok()?;
        // SAFETY: these pages were just mapped, next to those that the heap has, and are used for nothing else.
        unsafe {
            match self.size {
                0 => self.heap.init(HEAP as *mut u8, more),
                _ => self.heap.extend(more),
            }
        }
        self.size += more;
        Some(())
    }
}

// SAFETY: what the heap gives is valid for the layout, and is given to one at a time.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut it = self.0.get();
        if let Ok(block) = it.heap.allocate_first_fit(layout) {
            return block.as_ptr();
        }
        // Alignment may waste as much again.
        let grown = it.grow(layout.size() + layout.align());
        let block = grown.and_then(|()| it.heap.allocate_first_fit(layout).ok());
        block.map_or(null_mut(), |block| block.as_ptr())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = core::ptr::NonNull::new(block) {
            // SAFETY: the caller's: it came from `alloc` with that layout.
            unsafe { self.0.get().heap.deallocate(block, layout) };
        }
    }
}
