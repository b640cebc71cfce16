//! Which pages of a mapping this process has of its own (Documentation/admin-guide/mm/pagemap.rst).

#![expect(unsafe_code, reason = "an ioctl of /proc/self/pagemap")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::MountAttrFlags;
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

use crate::{Errno, Result, check};

const PAGE: usize = 4096;

/// `struct pm_scan_arg`.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;

static TABLE: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Opens this process's table for a process that will live where there is no `/proc`: from that one, else from one that
/// nobody else sees.
pub fn prepare(other: Option<BorrowedFd<'_>>) {
    let open = |proc: BorrowedFd<'_>| {
        let open = || openat(proc, "self/pagemap", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        open().or_else(|_| as_dumpable(open)).ok()
    };
    TABLE.get_or_init(|| {
        let none: [(&CStr, &CStr); 0] = [];
        let own = || crate::mount::new_file_system(c"proc", &none, MountAttrFlags::empty()).ok();
        other.and_then(open).or_else(|| open(own()?.as_fd()))
    });
}

/// Does something as a process whose files in `/proc` are its own: those of one that took on other users are the kernel's.
fn as_dumpable<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = dumpable_behavior()?;
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    let done = act();
    set_dumpable_behavior(before)?;
    done
}

fn table() -> Result<&'static OwnedFd> {
    let open = || openat(CWD, "/proc/self/pagemap", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
    TABLE.get_or_init(open).as_ref().ok_or(Errno::NOENT)
}

/// The parts of a private mapping of a file that were written to: `(offset, length)` in bytes, in order.
pub fn written(at: usize, length: usize) -> Result<Vec<(usize, usize)>> {
    // Present or swapped out, and no page of the file.
    match scan(at, length, IS_FILE, IS_FILE) {
        Err(Errno::NOTTY) => look(at, length),
        other => other,
    }
}

/// The same page by page, for kernels that do not scan (before Linux 6.7).
fn look(at: usize, length: usize) -> Result<Vec<(usize, usize)>> {
    const IS_FILE: u64 = 1 << 61;
    const IS_THERE: u64 = 3 << 62;
    const ENTRY: usize = 8;
    let table = table()?;
    let mut found = Vec::new();
    let mut entries = vec![0; 512 * ENTRY];
    let mut offset = 0;
    while offset < length {
        let wanted = ((length - offset) / PAGE * ENTRY).min(entries.len());
        let read = rustix::io::pread(table, &mut entries[..wanted], ((at + offset) / PAGE * ENTRY) as u64)?;
        if read < ENTRY {
            break;
        }
        for entry in entries[..read].chunks_exact(ENTRY) {
            let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
            if entry & IS_FILE == 0 && entry & IS_THERE != 0 {
                add(&mut found, offset, PAGE);
            }
            offset += PAGE;
        }
    }
    Ok(found)
}

fn add(found: &mut Vec<(usize, usize)>, offset: usize, length: usize) {
    match found.last_mut() {
        Some((before, size)) if *before + *size == offset => *size += length,
        _ => found.push((offset, length)),
    }
}

fn scan(at: usize, length: usize, inverted: u64, mask: u64) -> Result<Vec<(usize, usize)>> {
    const REQUEST: libc::c_ulong = 0xc060_6610;
    let table = table()?;
    let mut found: Vec<(usize, usize)> = Vec::new();
    let mut regions = vec![Region::default(); 1024];
    let mut start = at as u64;
    let end = (at + length) as u64;
    while start < end {
        let mut request = Scan {
            size: size_of::<Scan>() as u64,
            flags: 0,
            start,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: inverted,
            category_mask: mask,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            return_mask: IS_PRESENT,
        };
        // SAFETY: the request has the kernel's layout, and room for as many regions as it says.
        let count = check(unsafe { libc::ioctl(table.as_raw_fd(), REQUEST, &raw mut request) }.into())? as usize;
        for region in &regions[..count.min(regions.len())] {
            add(&mut found, region.start as usize - at, (region.end - region.start) as usize);
        }
        if request.walk_end <= start {
            break;
        }
        start = request.walk_end;
    }
    debug_assert!(found.iter().all(|it| it.0 % PAGE == 0));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

    #[test]
    fn what_was_written_is_found_page_by_page_as_by_scanning() {
        const PAGES: usize = 1300;
        let file = rustix::fs::memfd_create("pages", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, (PAGES * PAGE) as u64).unwrap();
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping.
        let at = unsafe { mmap(std::ptr::null_mut(), PAGES * PAGE, rights, MapFlags::PRIVATE, &file, 0) }.unwrap();
        for page in [0, 1, 7, 511, 512, 513, 1299] {
            // SAFETY: inside the mapping.
            unsafe { at.cast::<u8>().add(page * PAGE).write(1) };
        }
        // SAFETY: the same; what is only read is the file's.
        assert_eq!(unsafe { at.cast::<u8>().add(20 * PAGE).read() }, 0);
        let expected: Vec<_> =
            [(0, 2), (7, 1), (511, 3), (1299, 1)].iter().map(|it| (it.0 * PAGE, it.1 * PAGE)).collect();
        assert_eq!(look(at as usize, PAGES * PAGE), Ok(expected.clone()));
        assert_eq!(written(at as usize, PAGES * PAGE), Ok(expected));
        // SAFETY: nothing refers to it.
        unsafe { munmap(at, PAGES * PAGE) }.unwrap();
    }
}
