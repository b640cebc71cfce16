//! What the first process of a guest shall be, as the tender writes it and the guest reads it.
//!
//! A [`Header`], and then zero-terminated strings one after the other: the program's path, its arguments, its environment.

/// The fixed part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// How many arguments follow the path.
    pub arguments: u32,
    /// How many variables follow the arguments.
    pub variables: u32,
    /// Who the program runs as.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number.
    pub pid: u32,
    /// How many processors it is told of.
    pub processors: u32,
    /// The most memory that it may have, in bytes.
    pub memory: u64,
    /// What the processor has beyond the baseline, as AT_HWCAP tells.
    pub capabilities: u64,
    /// As AT_HWCAP2 tells.
    pub capabilities2: u64,
}

impl Header {
    /// Its size, in bytes.
    pub const SIZE: usize = size_of::<Self>();
}
