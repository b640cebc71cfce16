//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a machine could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the user's or of the image's.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A kernel that is none.
    #[error("this is no kernel for {architecture}: {why}")]
    Kernel {
        /// For which.
        architecture: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A kernel that cannot be read.
    #[error("reading a kernel: {why}")]
    Image {
        /// What the host said.
        why: String,
    },
    /// What is to be loaded is more than there is memory.
    #[error("{what} of {needed} bytes does not fit the machine's memory of {memory} bytes: give it more with --memory")]
    Room {
        /// What was to be loaded.
        what: &'static str,
        /// Its size.
        needed: u64,
        /// The machine's memory.
        memory: u64,
    },
    /// A description that came with the program does not compile.
    #[error("the description of the processor: {why}")]
    Description {
        /// Where, and what is wrong.
        why: String,
    },
    /// Who executes the host's wishes in the guest does not answer.
    #[error("the machine's process 1: {why}")]
    Agent {
        /// What happened.
        why: String,
    },
    /// The machine ended, and its program had not.
    #[error("its kernel gave up, or was told to start again: 'skep logs --kernel' has its last words")]
    GaveUp,
    /// The same, of a whole system, before its own process 1 began.
    #[error("its kernel gave up before the disk's system began: its last words are above")]
    GaveUpAtStart,
    /// A disk from which nothing can be started.
    #[error("no disk, and no part of one, has a file system of Linux (ext4) with a /sbin/init")]
    NoRoot,
    /// A program for something else.
    #[error("the machine's kernel does not execute the disk's /sbin/init: is it for another processor?")]
    NoInit,
    /// A program that the machine's kernel does not execute.
    #[error("the machine's kernel does not execute {}: {source}", path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host's own processor could not do something for a machine.
    #[error("{why}")]
    Native {
        /// What.
        why: String,
    },
    /// Nobody handed over what virtual machines are made with.
    #[error("a machine of this host's own kind needs /dev/kvm")]
    NoKvm,
    /// More memory than the board has room for.
    #[error("the machine would have {memory} bytes of memory, and it can have {most}: give it less with --memory")]
    TooMuchMemory {
        /// How much it would have.
        memory: u64,
        /// How much it can have.
        most: u64,
    },
    /// There is a description, and no board for its processors.
    #[error("there is no board for processors of {architecture}")]
    NoBoard {
        /// Of which.
        architecture: String,
    },
    /// A machine has some processors, and not too many.
    #[error("the machine would have {count} processors, and it can have 1 to {most}")]
    Processors {
        /// How many there would be.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// More devices than there is room for.
    #[error("the machine would have {count} devices, and there is room for {most}")]
    Devices {
        /// How many there would be.
        count: usize,
        /// How many there can be.
        most: usize,
    },
    /// A state that was kept, and does not fit.
    #[error("the machine cannot go on from where it was kept: {why}")]
    Saved {
        /// What does not fit.
        why: String,
    },
    /// A machine that cannot be kept or copied.
    #[error("{why}")]
    Unkept {
        /// Because of what it has.
        why: String,
    },
    /// What a machine waits for.
    #[error("waiting for a machine's devices: {0}")]
    Watching(io::Error),
    /// The tree that tells the kernel of the machine could not be made.
    #[error("describing the machine to its kernel: {0}")]
    Tree(#[from] vm_fdt::Error),
    /// The processor.
    #[error(transparent)]
    Processor(#[from] dbt::Error),
    /// The machine's memory, or a virtual processor.
    #[error(transparent)]
    Memory(#[from] vm::Error),
}
