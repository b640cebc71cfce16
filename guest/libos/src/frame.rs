//! A program's registers while the library operating system runs.

/// What a thread's program has in its registers, at the top of the thread's stack in here. Ends with what `iretq` takes.
#[repr(C, align(16))]
#[derive(Clone)]
pub struct Frame {
    /// The lower halves of the vector registers; the upper ones stay where they are, since nothing in here uses them.
    pub xmm: [u128; 16],
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r11: u64,
    pub rcx: u64,
    pub rax: u64,
    /// The number of the system call, or [`NOT_A_CALL`].
    pub call: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
    /// Fills up to a multiple of 16 bytes.
    pub padding: u64,
}

const _: () = assert!(size_of::<Frame>() == 256 + 22 * 8 && size_of::<Frame>() % 16 == 0);

/// In [`Frame::call`] of a program that was interrupted or faulted.
pub const NOT_A_CALL: u64 = u64::MAX;

/// The selectors of a program's code and data, the same as those that Linux gives its programs: `iretq` to them works as
/// well in a process of the host as in a virtual machine that runs in user mode alone.
pub const CODE: u64 = 0x33;
pub const DATA: u64 = 0x2b;

impl Frame {
    /// Where a thread begins.
    pub fn at(rip: usize, rsp: usize) -> Self {
        // SAFETY: every field may be zero.
        let zero: Self = unsafe { core::mem::zeroed() };
        Self { rip: rip as u64, rsp: rsp as u64, cs: CODE, ss: DATA, rflags: 0x202, call: NOT_A_CALL, ..zero }
    }

    /// The arguments of the system call.
    pub fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }
}
