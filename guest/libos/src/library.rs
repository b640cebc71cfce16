//! Standing still while the tender changes a library under the program: it is told where everything is, and says what is to
//! be mapped, unmapped and made writable. What it writes, it writes by itself.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use abi::library::{FILE, FILL, MAP, ORDER, PROTECT, RESERVE, SHARED, UNMAP, VISIT};

use crate::engine::{self, Part, Source};
use crate::errno::{EINVAL, Result, to_raw};
use crate::space::{Place, Protection, SPACE, Sharing};
use crate::sync::Local;
use crate::{port, thread};

/// Where the program's headers are, and how many: what leads to the list of its libraries.
static PROGRAM: Local<(usize, usize)> = Local::new((0, 0));

/// As many orders as there is room for.
const MOST_ORDERS: usize = 2048;

/// A program was loaded.
pub fn note_program(headers: usize, count: usize) {
    *PROGRAM.get() = (headers, count);
}

/// Stands still for as long as the tender wants. Every thread's registers are in its frame.
pub fn stand_still_if_wanted() {
    if engine::port().libraries.load(Ordering::Relaxed) != 0 {
        stand_still();
    }
}

#[cold]
fn stand_still() {
    let mut orders = vec![0u64; MOST_ORDERS * ORDER];
    let mut result = 0;
    loop {
        let report = report();
        let (from, into) = (report.as_ptr() as u64, orders.as_mut_ptr() as u64);
        let count = match port::call(VISIT, [result, from, report.len() as u64, into, orders.len() as u64, 0]) {
            Ok(count @ 1..=MOST_ORDERS) => count,
            _ => return,
        };
        let carried_out = orders.chunks_exact(ORDER).take(count).try_for_each(carry_out);
        result = to_raw(carried_out.map(|()| 0));
    }
}

fn report() -> Vec<u64> {
    let (headers, count) = *PROGRAM.get();
    let places = thread::places();
    let mut report = vec![headers as u64, count as u64, 0, places.len() as u64];
    for (begin, end, rights, sharing) in SPACE.get().areas() {
        let shared = if sharing == Sharing::Shared { SHARED } else { 0 };
        report.extend([begin as u64, end as u64, u64::from(rights.bits()) | shared]);
        report[2] += 1;
    }
    for (it, pointer) in places {
        report.extend([it.rip, it.rsp, pointer, it.call, it.rax, it.rcx, it.rdx, it.rbx, it.rbp, it.rsi, it.rdi]);
        report.extend([it.r8, it.r9, it.r10, it.r11, it.r12, it.r13, it.r14, it.r15]);
    }
    report
}

fn carry_out(order: &[u64]) -> Result<()> {
    let &[what, at, length, rights, offset] = order else { return Err(EINVAL) };
    let (at, length) = (at as usize, length as usize);
    let rights = Protection::from_bits(rights as u8).ok_or(EINVAL)?;
    let mut space = SPACE.get();
    let (place, source) = match what {
        PROTECT => return space.protect(at, length, rights),
        UNMAP => return space.unmap(at, length),
        RESERVE => (Place::AtFree(at), Source::Anonymous),
        FILL => (Place::At(at), Source::Anonymous),
        MAP => (Place::At(at), Source::Private(Part { descriptor: FILE, offset, ahead: 0 })),
        _ => return Err(EINVAL),
    };
    space.map(place, length, rights, source).map(drop)
}
