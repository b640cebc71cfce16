//! Where things are in a guest's address space. The same in every engine, so that one guest program serves them all.
//!
//! ```text
//! 0x0000_0000_1000 …  the program, where it wants to be
//! 0x0000_5500_…       position-independent programs, and their heap behind them
//! …0x6e00_0000_0000   mappings, downwards
//! …0x6f00_0000_0000   the first thread's stack, downwards
//! 0x7000_0000_0000    the library operating system
//! 0x7010_0000_0000    its heap
//! 0x7020_0000_0000    the port
//! 0x7040_0000_0000    the guest's whole memory, one to one (only where the guest has page tables of its own)
//! ```

/// The unit of mapping, in bytes.
pub const PAGE: usize = 4096;

/// Nothing of a program is mapped below this: a null pointer must fault.
pub const LOWEST: usize = 0x1_0000;

/// Where position-independent programs are loaded, before randomisation.
pub const PROGRAM: usize = 0x5500_0000_0000;

/// The end of the region in which mappings are placed, before randomisation.
pub const MAPPINGS_END: usize = 0x6e00_0000_0000;

/// The end of the first thread's stack, before randomisation.
pub const STACK_END: usize = 0x6f00_0000_0000;

/// The end of what a program may map.
pub const PROGRAM_END: usize = 0x6f00_0000_0000;

/// Where the library operating system is linked to be; the guest's linker script says the same.
pub const LIBOS: usize = 0x7000_0000_0000;

/// The most that it may take.
pub const LIBOS_SIZE: usize = 0x1000_0000;

/// Its heap, which grows upwards from here.
pub const HEAP: usize = 0x7010_0000_0000;

/// The most that its heap may take, in bytes.
pub const HEAP_SIZE: usize = 1 << 30;

/// The port, one page.
pub const PORT: usize = 0x7020_0000_0000;

/// The guest's memory, one to one.
pub const LINEAR: usize = 0x7040_0000_0000;
