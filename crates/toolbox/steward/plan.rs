//! What the steward is executed with: its arguments are the numbers of `Steward` in `src/steward.rs`, in that order, a
//! request for a security label, the files to try, and the program's arguments; its environment is the program's.

use crate::Failure;
use crate::kernel::{self, Errno, call};

/// All that the two processes need.
pub(crate) struct Plan {
    /// Where failures are told, and by closing it that the program runs.
    control: usize,
    /// Where the end is told. Its other end is the caller's alone.
    ending: usize,
    /// A file with the filters that the program installs.
    filters: Option<usize>,
    /// Whether the streams are a terminal that becomes the program's controlling one.
    pub(crate) terminal: bool,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
    pub(crate) steps: Steps,
    label: *const u8,
    candidates: &'static [*const u8],
    arguments: *const *const u8,
    environment: *const *const u8,
    /// Where the strings lie, but for the name that it goes by: the beginning, the last byte of the arguments, the end.
    strings: [*mut u8; 3],
}

/// What failures are told as.
pub(crate) struct Steps {
    pub(crate) handshake: u8,
    pub(crate) fork: u8,
    pub(crate) terminal: u8,
    pub(crate) capabilities: u8,
    pub(crate) label: u8,
    pub(crate) seccomp: u8,
    not_found: u8,
    not_executable: u8,
}

/// The report that the caller reads, see `protocol` in the container crate.
const FAILED: u8 = 3;
const ENDED: u8 = 4;
const MADE: u8 = 5;

const NOENT: Errno = Errno(2);
const ACCES: Errno = Errno(13);
const NOTDIR: Errno = Errno(20);
const INVAL: Errno = Errno(22);

impl Plan {
    /// Reads the arguments; nothing when they are not what they should be.
    ///
    /// # Safety
    /// `stack` must be where the kernel has put what the program was executed with.
    pub(crate) unsafe fn read(stack: *const usize) -> Option<Self> {
        // SAFETY: as the kernel lays it out: a count, so many strings, a null, the environment, a null.
        unsafe {
            let count = *stack;
            let first = stack.add(1).cast::<*const u8>();
            let all = core::slice::from_raw_parts(first, count);
            let environment = first.add(count + 1);
            let mut numbers = Numbers(*all.get(1)?);
            let mut next = || numbers.next();
            let (control, ending) = (next()? as usize, next()? as usize);
            let filters = Some(next()? as usize).filter(|it| *it != 0);
            let terminal = next()? != 0;
            let (effective, inheritable, ambient) = (next()?, next()?, next()?);
            let candidates = next()? as usize;
            let mut step = || next().map(|it| it as u8);
            let steps = Steps {
                handshake: step()?,
                fork: step()?,
                terminal: step()?,
                capabilities: step()?,
                label: step()?,
                seccomp: step()?,
                not_found: step()?,
                not_executable: step()?,
            };
            let label = *all.get(2)?;
            let last = 3 + candidates;
            let last_argument = *all.get(count.checked_sub(1)?)?;
            let last_byte = last_argument.add(length(last_argument));
            let mut end = last_argument;
            let mut variable = environment;
            while !(*variable).is_null() {
                end = *variable;
                variable = variable.add(1);
            }
            let end = end.add(length(end));
            Some(Self {
                control,
                ending,
                filters,
                terminal,
                effective,
                inheritable,
                ambient,
                steps,
                label,
                candidates: all.get(3..last)?,
                arguments: all.get(last..)?.as_ptr(),
                environment,
                strings: [*all.get(1)?, last_byte, end].map(<*const u8>::cast_mut),
            })
        }
    }

    /// Whether nobody holds the other end of the socket by which the end is told.
    pub(crate) fn caller_is_gone(&self) -> bool {
        const POLLHUP: u64 = 0x10;
        // A descriptor, what is asked for (a hang-up is told unasked), what is.
        let mut polled = self.ending as u64;
        let ready = call(kernel::POLL, [&raw mut polled as usize, 1, 0, 0, 0, 0]);
        ready.is_err() || polled >> 48 & POLLHUP != 0
    }

    pub(crate) fn tell_failure(&self, failure: &Failure) {
        self.tell(self.control, FAILED, failure.step, failure.errno.0, 0, None);
    }

    pub(crate) fn tell_made(&self, pid: u32, pidfd: i32) {
        self.tell(self.control, MADE, 0, 0, pid, Some(pidfd));
    }

    pub(crate) fn tell_end(&self, code: u8) {
        self.tell(self.ending, ENDED, 0, i32::from(code) << 8, 0, None);
    }

    fn tell(&self, socket: usize, tag: u8, step: u8, value: i32, index: u32, descriptor: Option<i32>) {
        const NOSIGNAL: usize = 0x4000;
        const SOL_SOCKET: u64 = 1;
        const SCM_RIGHTS: u64 = 1;
        let record = [u32::from_le_bytes([tag, step, 0, 0]), value as u32, index];
        let part = [record.as_ptr() as usize, size_of_val(&record)];
        // A header (its length, 16 and the 4 of a descriptor; what it is) and the descriptor.
        let rights = [20, SCM_RIGHTS << 32 | SOL_SOCKET, descriptor.unwrap_or(0) as u32 as u64];
        let rights_length = if descriptor.is_some() { size_of_val(&rights) } else { 0 };
        let message = [0, 0, part.as_ptr() as usize, 1, rights.as_ptr() as usize, rights_length, 0];
        // Nobody to tell when the caller is gone.
        while call(kernel::SENDMSG, [socket, message.as_ptr() as usize, NOSIGNAL, 0, 0, 0]) == Err(kernel::INTR) {}
    }

    /// Has the next program get that label.
    pub(crate) fn request_label(&self) -> Result<(), Errno> {
        const AT_FDCWD: usize = -100isize as usize;
        const WRONLY_CLOEXEC: usize = 0o2_000_001;
        // SAFETY: it is a string that the kernel put there.
        let length = unsafe { length(self.label) };
        if length == 0 {
            return Ok(());
        }
        let path = c"/proc/self/attr/exec".as_ptr() as usize;
        let file = call(kernel::OPENAT, [AT_FDCWD, path, WRONLY_CLOEXEC, 0, 0, 0])?;
        call(kernel::WRITE, [file, self.label as usize, length, 0, 0, 0]).map(drop)
    }

    /// Puts the process under the filters in their file: each a count and so many instructions, in 8 bytes each.
    pub(crate) fn install_filters(&self) -> Result<(), Errno> {
        const PROT_READ: usize = 1;
        const MAP_PRIVATE: usize = 2;
        const SET_MODE_FILTER: usize = 1;
        let Some(file) = self.filters else { return Ok(()) };
        let mut total = [0; 8];
        // Its writer left it at its end.
        let read = call(kernel::PREAD, [file, total.as_mut_ptr() as usize, total.len(), 0, 0, 0])?;
        if read != total.len() {
            return Err(INVAL);
        }
        let total = u64::from_le_bytes(total) as usize;
        let start = call(kernel::MMAP, [0, total, PROT_READ, MAP_PRIVATE, file, 0])?;
        let mut offset = 8;
        while offset < total {
            // SAFETY: the file is mapped to its end, and as its writer filled it.
            let count = unsafe { *((start + offset) as *const u64) } as usize;
            let program = [count, start + offset + 8];
            call(kernel::SECCOMP, [SET_MODE_FILTER, 0, program.as_ptr() as usize, 0, 0, 0])?;
            offset += 8 + 8 * count;
        }
        Ok(())
    }

    /// What is held beyond the three streams goes when the program is executed, and not before.
    pub(crate) fn close_on_exec(&self) -> Result<(), Errno> {
        const F_SETFD: usize = 2;
        for fd in [Some(self.control), Some(self.ending), self.filters].into_iter().flatten() {
            call(kernel::FCNTL, [fd, F_SETFD, 1, 0, 0, 0])?;
        }
        Ok(())
    }

    /// Lets go of everything but the socket for the end, and of every string.
    ///
    /// # Safety
    /// Nothing that follows may use a string.
    pub(crate) unsafe fn forget(&self) {
        let [mut byte, last_of_arguments, end] = self.strings;
        while byte < end {
            // Without a zero at the end of the arguments, the kernel shows what is before the first one: its name.
            let value = if byte == last_of_arguments { b'.' } else { 0 };
            // SAFETY: the strings lie there, one after the other, writable.
            byte = unsafe {
                byte.write_volatile(value);
                byte.add(1)
            };
        }
        // Its closing says that the program runs, as soon as the program has closed it, too.
        for fd in [0, 1, 2, self.control].into_iter().chain(self.filters) {
            let _ = call(kernel::CLOSE, [fd, 0, 0, 0, 0, 0]);
        }
    }

    /// Tries each file as `execvp` does: one that may not be executed is remembered but does not end the search. Returns
    /// only when all failed.
    pub(crate) fn execute(&self) -> Failure {
        let mut worst = Failure { step: self.steps.not_found, errno: NOENT };
        for candidate in self.candidates {
            let (arguments, environment) = (self.arguments as usize, self.environment as usize);
            match call(kernel::EXECVE, [*candidate as usize, arguments, environment, 0, 0, 0]) {
                Err(NOENT | NOTDIR) => {}
                Err(ACCES) => worst = Failure { step: self.steps.not_executable, errno: ACCES },
                Err(errno) => return Failure { step: self.steps.not_executable, errno },
                Ok(_) => {}
            }
        }
        worst
    }
}

/// Decimal numbers with something between them.
struct Numbers(*const u8);

impl Numbers {
    /// # Safety
    /// It must be inside a string that ends with a zero byte.
    unsafe fn next(&mut self) -> Option<u64> {
        let mut number = None;
        loop {
            // SAFETY: the zero byte has not been passed.
            let byte = unsafe { *self.0 };
            match byte {
                b'0'..=b'9' => {
                    let before: u64 = number.unwrap_or(0);
                    number = Some(before.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?);
                }
                0 => return number,
                _ if number.is_some() => return number,
                _ => {}
            }
            // SAFETY: this was not the zero byte.
            self.0 = unsafe { self.0.add(1) };
        }
    }
}

/// # Safety
/// `text` must be a string that ends with a zero byte.
unsafe fn length(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the zero byte has not been passed. (Volatile, or the compiler makes a call of the C library of it.)
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
