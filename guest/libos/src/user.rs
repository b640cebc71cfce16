//! Memory of the program, which may be anything: every address is looked up before it is touched.

use alloc::vec::Vec;

use crate::errno::{E2BIG, EFAULT, ENAMETOOLONG, Result};
use crate::space::{Protection, SPACE};

/// Something without padding and of which every pattern of bits is a value.
///
/// # Safety
/// Just that.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($kind:ty),+) => { $(unsafe impl Plain for $kind {})+ };
}
// SAFETY: numbers.
plain!(u8, u16, u32, u64, usize, i32, i64);
// SAFETY: an array of them has no padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

fn check(at: usize, length: usize, rights: Protection) -> Result<()> {
    if SPACE.get().is_mapped(at, length, rights) { Ok(()) } else { Err(EFAULT) }
}

/// Reads a value.
pub fn read<T: Plain>(at: u64) -> Result<T> {
    check(at as usize, size_of::<T>(), Protection::READ)?;
    // SAFETY: it is mapped and readable, and any bytes are a value.
    Ok(unsafe { (at as *const T).read_unaligned() })
}

/// Writes a value.
pub fn write<T: Plain>(at: u64, value: T) -> Result<()> {
    check(at as usize, size_of::<T>(), Protection::WRITE)?;
    // SAFETY: it is mapped and writable, and it is the program's.
    unsafe { (at as *mut T).write_unaligned(value) };
    Ok(())
}

/// Writes a value where there is a place for it.
pub fn write_if<T: Plain>(at: u64, value: T) -> Result<()> {
    if at == 0 { Ok(()) } else { write(at, value) }
}

/// Reads so many values.
pub fn read_all<T: Plain>(at: u64, count: usize) -> Result<Vec<T>> {
    let length = count.checked_mul(size_of::<T>()).ok_or(EFAULT)?;
    check(at as usize, length, Protection::READ)?;
    let mut values = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: as above.
        values.push(unsafe { (at as *const T).add(index).read_unaligned() });
    }
    Ok(values)
}

/// Fills a buffer from there.
pub fn read_into(at: u64, into: &mut [u8]) -> Result<()> {
    check(at as usize, into.len(), Protection::READ)?;
    // SAFETY: it is mapped and readable; the buffer is not the program's.
    unsafe { core::ptr::copy_nonoverlapping(at as *const u8, into.as_mut_ptr(), into.len()) };
    Ok(())
}

/// Writes bytes.
pub fn write_bytes(at: u64, from: &[u8]) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    check(at as usize, from.len(), Protection::WRITE)?;
    // SAFETY: it is mapped and writable; the bytes are not the program's.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), at as *mut u8, from.len()) };
    Ok(())
}

/// Writes values one after the other.
pub fn write_all<T: Plain>(at: u64, values: &[T]) -> Result<()> {
    check(at as usize, size_of_val(values), Protection::WRITE)?;
    for (index, value) in values.iter().enumerate() {
        // SAFETY: as above.
        unsafe { (at as *mut T).add(index).write_unaligned(*value) };
    }
    Ok(())
}

/// A zero-terminated string, without its zero.
pub fn string(at: u64, longest: usize) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut at = at as usize;
    loop {
        // To the end of the page, where the rights may change.
        let part = 4096 - at % 4096;
        check(at, part, Protection::READ)?;
        for _ in 0..part {
            // SAFETY: the whole part is readable.
            let byte = unsafe { *(at as *const u8) };
            if byte == 0 {
                return Ok(text);
            }
            if text.len() == longest {
                return Err(ENAMETOOLONG);
            }
            text.push(byte);
            at += 1;
        }
    }
}

/// The strings that a zero-terminated array of pointers points to.
pub fn strings(at: u64, budget: &mut usize) -> Result<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    if at == 0 {
        return Ok(strings);
    }
    loop {
        let pointer: u64 = read(at + 8 * strings.len() as u64)?;
        if pointer == 0 {
            return Ok(strings);
        }
        let text = string(pointer, *budget).map_err(|e| if e == ENAMETOOLONG { E2BIG } else { e })?;
        *budget = budget.checked_sub(text.len() + 9).ok_or(E2BIG)?;
        strings.push(text);
    }
}
