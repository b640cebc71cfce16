//! System calls of x86-64, each as much as is needed here.

use core::arch::asm;

/// The kernel's number for what went wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

pub(crate) const INTR: Errno = Errno(4);

pub(crate) const READ: usize = 0;
pub(crate) const WRITE: usize = 1;
pub(crate) const CLOSE: usize = 3;
pub(crate) const MMAP: usize = 9;
const RT_SIGPROCMASK: usize = 14;
pub(crate) const IOCTL: usize = 16;
pub(crate) const PREAD: usize = 17;
pub(crate) const GETPID: usize = 39;
pub(crate) const SENDMSG: usize = 46;
pub(crate) const CLONE: usize = 56;
pub(crate) const EXECVE: usize = 59;
pub(crate) const WAIT4: usize = 61;
pub(crate) const KILL: usize = 62;
pub(crate) const FCNTL: usize = 72;
pub(crate) const GETPPID: usize = 110;
pub(crate) const SETSID: usize = 112;
const CAPGET: usize = 125;
const CAPSET: usize = 126;
pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
const PRCTL: usize = 157;
const EXIT_GROUP: usize = 231;
pub(crate) const OPENAT: usize = 257;
pub(crate) const POLL: usize = 7;
pub(crate) const SECCOMP: usize = 317;

/// Makes a system call.
pub(crate) fn call(number: usize, arguments: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: what the callers pass is what the kernel expects of that call; it writes to memory only where they say.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

pub(crate) fn exit(code: u8) -> ! {
    loop {
        let _ = call(EXIT_GROUP, [usize::from(code), 0, 0, 0, 0, 0]);
    }
}

fn prctl(what: usize, value: usize) -> Result<(), Errno> {
    call(PRCTL, [what, value, 0, 0, 0, 0]).map(drop)
}

/// Takes a capability out of the ambient set.
pub(crate) fn lower_ambient(number: usize) -> Result<(), Errno> {
    const PR_CAP_AMBIENT: usize = 47;
    const LOWER: usize = 3;
    call(PRCTL, [PR_CAP_AMBIENT, LOWER, number, 0, 0, 0]).map(drop)
}

/// Hides memory, links and descriptors in `/proc` from everybody without `SYS_PTRACE`, and takes its name.
pub(crate) fn hide() {
    const PR_SET_DUMPABLE: usize = 4;
    const PR_SET_NAME: usize = 15;
    let _ = prctl(PR_SET_DUMPABLE, 0);
    let _ = prctl(PR_SET_NAME, c"skep-debug".as_ptr() as usize);
}

pub(crate) fn signal_with_parent(signal: usize) {
    const PR_SET_PDEATHSIG: usize = 1;
    let _ = prctl(PR_SET_PDEATHSIG, signal);
}

pub(crate) fn adopt_orphans() -> Result<(), Errno> {
    const PR_SET_CHILD_SUBREAPER: usize = 36;
    prctl(PR_SET_CHILD_SUBREAPER, 1)
}

pub(crate) fn no_new_privileges() -> Result<(), Errno> {
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    prctl(PR_SET_NO_NEW_PRIVS, 1)
}

/// Blocks exactly the signals of that set.
pub(crate) fn block_signals(set: u64) -> Result<(), Errno> {
    const SIG_SETMASK: usize = 2;
    call(RT_SIGPROCMASK, [SIG_SETMASK, &raw const set as usize, 0, size_of::<u64>(), 0, 0]).map(drop)
}

const VERSION_3: u32 = 0x2008_0522;

/// The permitted capabilities.
pub(crate) fn permitted() -> Result<u64, Errno> {
    let header = [VERSION_3, 0];
    let mut halves = [0u32; 6];
    call(CAPGET, [header.as_ptr() as usize, halves.as_mut_ptr() as usize, 0, 0, 0, 0])?;
    Ok(u64::from(halves[1]) | u64::from(halves[4]) << 32)
}

/// What is not among the permitted ones stays so.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    let has = self::permitted()?;
    let (effective, permitted) = (effective & has, permitted & has);
    let header = [VERSION_3, 0];
    let low = [effective as u32, permitted as u32, inheritable as u32];
    let high = [(effective >> 32) as u32, (permitted >> 32) as u32, (inheritable >> 32) as u32];
    let halves = [low, high];
    call(CAPSET, [header.as_ptr() as usize, halves.as_ptr() as usize, 0, 0, 0, 0]).map(drop)
}

/// Fills a buffer from a descriptor as far as it goes.
pub(crate) fn read(fd: usize, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|it| !it.is_empty()) {
        match call(READ, [fd, rest.as_mut_ptr() as usize, rest.len(), 0, 0, 0]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(length)
}

/// What the compiler calls to clear a buffer.
///
/// # Safety
/// As of the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(start: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rep stosb", inout("rdi") start => _, inout("rcx") length => _, in("al") value as u8, options(nostack));
    }
    start
}
