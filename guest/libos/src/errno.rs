//! Linux's error numbers, as far as they are given here.

/// A positive error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a system call gives.
pub type Result<T = usize> = core::result::Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident = $number:literal),+ $(,)?) => { $(pub const $name: Errno = Errno($number);)+ };
}

errnos! {
    EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, E2BIG = 7, ENOEXEC = 8, EBADF = 9, EAGAIN = 11,
    ENOMEM = 12, EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17, EINVAL = 22, ENAMETOOLONG = 36, ENOSYS = 38,
    ELOOP = 40, ETIMEDOUT = 110, ESPIPE = 29, EPIPE = 32, EDESTADDRREQ = 89, EMSGSIZE = 90, ENOPROTOOPT = 92,
    EPROTONOSUPPORT = 93, ESOCKTNOSUPPORT = 94, EOPNOTSUPP = 95, EAFNOSUPPORT = 97, EADDRINUSE = 98, EADDRNOTAVAIL = 99,
    ENETDOWN = 100, ENETUNREACH = 101, ECONNRESET = 104, EISCONN = 106, ENOTCONN = 107, ECONNREFUSED = 111,
    EALREADY = 114, EINPROGRESS = 115,
}

/// A system call that a signal interrupted, to be made again if the signal's handler says so: never seen by programs.
pub const ERESTART: Errno = Errno(512);

/// The same of one that waits for a signal alone, which is never made again after a handler.
pub const ERESTARTNOHAND: Errno = Errno(514);

/// A raw answer as a result.
pub fn from_raw(answer: i64) -> Result {
    if (-4095..0).contains(&answer) { Err(Errno(-answer as i32)) } else { Ok(answer as usize) }
}

/// A result as what a program finds in its register.
pub fn to_raw(result: Result) -> u64 {
    match result {
        Ok(value) => value as u64,
        Err(Errno(number)) => (-i64::from(number)) as u64,
    }
}
