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
//! 0x7030_0000_0000    the rings of pipes
//! 0x7031_0000_0000    counters of sleepers
//! 0x7032_0000_0000    files of its own (only where the guest has page tables of its own)
//! 0x7033_0000_0000    the link
//! 0x7040_0000_0000    the guest's whole memory, one to one (the same)
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

/// Where it says at which address calls come in that the program makes by a jump, with the address to come back to in rcx: see
/// [`crate::patched`].
pub const PATCHED_ENTRY: usize = LIBOS + 24;

/// The most that it may take.
pub const LIBOS_SIZE: usize = 0x1000_0000;

/// Its heap, which grows upwards from here.
pub const HEAP: usize = 0x7010_0000_0000;

/// The most that its heap may take, in bytes.
pub const HEAP_SIZE: usize = 1 << 30;

/// The port, one page.
pub const PORT: usize = 0x7020_0000_0000;

/// The rings of pipes, each with [`RING_ROOM`].
pub const RINGS: usize = 0x7030_0000_0000;

/// The distance between them, in bytes.
pub const RING_ROOM: usize = 128 << 10;

/// How many places there are for rings.
pub const RING_PLACES: usize = 4096;

/// The counters of [`crate::futex`].
pub const COUNTERS: usize = 0x7031_0000_0000;

/// The link of [`crate::link`].
pub const LINK: usize = 0x7033_0000_0000;

/// The guest's memory, one to one.
pub const LINEAR: usize = 0x7040_0000_0000;

/// Where things are in a guest with page tables of its own.
pub mod kvm {
    /// The descriptor table, the task state, the gates and the stack for what interrupts a program, by virtual address.
    pub const CONTROL: usize = 0x7021_0000_0000;
    /// The descriptor table, in its first page.
    pub const DESCRIPTORS: usize = CONTROL;
    /// The task state, in the same page.
    pub const TASK: usize = CONTROL + 0x100;
    /// What the processor is to find on its stack when it leaves kernel mode, in the same page.
    pub const WAYS_BACK: usize = CONTROL + 0x200;
    /// The gates, one page.
    pub const GATES: usize = CONTROL + 0x1000;
    /// The end of the stack for interrupts and faults.
    pub const TRAP_STACK_END: usize = CONTROL + 0x6000;
    /// The end of the stack on which a system call instruction comes in, in the lowest of that stack's pages. **It is not the
    /// guest's to choose**: where the instruction leads to kernel mode, what is on it says how that is left.
    pub const CALL_STACK_END: usize = CONTROL + 0x3000;
    /// How many pages all that has.
    pub const CONTROL_PAGES: usize = 6;
    /// The end of the stack on which the guest begins.
    pub const BOOT_STACK_END: usize = 0x7022_0001_0000;
    /// How many pages it has.
    pub const BOOT_STACK_PAGES: usize = 8;
    /// The page behind which there is nothing: writing to it stops the guest.
    pub const DOORBELL: usize = 0x7023_0000_0000;

    /// Files that the library operating system has mapped for itself.
    pub const FILES: usize = 0x7032_0000_0000;
    /// Room for each of them, in bytes.
    pub const FILE_ROOM: usize = 4 << 30;

    /// The guest's memory begins at physical address 0.
    pub const MEMORY: u64 = 0;
    /// The most of it.
    pub const MOST_MEMORY: u64 = 16 << 30;
    /// It grows by that much.
    pub const MEMORY_STEP: u64 = 64 << 20;
    /// Files that the guest maps, by physical address.
    pub const WINDOW: u64 = 0x10_0000_0000;
    /// The most of them.
    pub const MOST_WINDOW: u64 = 16 << 30;
    /// The port, by physical address: in the place of the first page of memory, which is nobody's.
    pub const PORT: u64 = MEMORY;
    /// The doorbell, by physical address.
    pub const DOORBELL_PHYSICAL: u64 = 0x21_0000_0000;

    /// The page tables of a guest that may not change them, by physical address. It does not map them.
    pub const TABLES: u64 = 0x22_0000_0000;
    /// The most of them, in bytes.
    pub const MOST_TABLES: u64 = 64 << 20;

    /// How many bells there are behind the doorbell.
    pub const BELLS: usize = 64;

    /// Where in the page of the doorbell a bell is, which from 1 on ring without stopping the guest.
    pub const fn bell(number: usize) -> usize {
        8 * number
    }

    /// The interrupt that makes a guest look at its port.
    pub const TAP: u8 = 0x20;

    /// What the first words of the library operating system are: this number, where a guest begins, where its system call
    /// instructions go, and what [`super::PATCHED_ENTRY`] says.
    pub const MAGIC: u64 = 0x706b_7376_6d00_0001;

    /// A page table entry: there is a page.
    pub const PRESENT: u64 = 1;
    /// It may be written to.
    pub const WRITABLE: u64 = 2;
    /// It is user mode's, as everything here.
    pub const USER: u64 = 4;
    /// Accessed and written to already, so that the processor need not say so.
    pub const USED: u64 = 0x60;
    /// It is two mebibytes long.
    pub const LARGE: u64 = 0x80;
    /// It may not be executed.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The physical address in it.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}
