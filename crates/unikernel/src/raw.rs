//! The host's system calls by number, for calls of guests that are passed on as they are. Whatever a guest's pointer
//! pointed to has become a buffer of the tender's by then.

#![expect(unsafe_code, reason = "a system call whose number is data")]

use sys::Errno;

/// An argument as the kernel will see it.
pub(crate) enum Argument<'a> {
    /// A number.
    Number(u64),
    /// Memory that the kernel reads or writes, as long as the call's other arguments say at most.
    Memory(&'a mut [u8]),
}

/// Makes the system call.
///
/// # Safety
/// The kernel must take the call's pointers from [`Argument::Memory`] alone, and reach no further from each than its
/// length: which arguments are pointers and how long what they point to is stands in [`crate::calls::table`], once.
pub(crate) unsafe fn call(number: u32, arguments: &mut [Argument<'_>; 6]) -> Result<u64, Errno> {
    let words = arguments.each_mut().map(|it| match it {
        Argument::Number(number) => *number,
        Argument::Memory([]) => 0,
        Argument::Memory(memory) => memory.as_mut_ptr() as u64,
    });
    let [a, b, c, d, e, f] = words;
    // SAFETY: the caller's.
    let result = unsafe { libc::syscall(i64::from(number), a, b, c, d, e, f) };
    if result >= 0 {
        return Ok(result as u64);
    }
    Err(Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)))
}
