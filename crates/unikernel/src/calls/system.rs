//! What a process asks of the system as a whole, and of its own limits.

use rustix::time::{ClockId, clock_gettime};
use sys::Errno;

use super::Reply;
use crate::member::Member;

pub(crate) fn answer(member: &mut Member, number: u32, [a, b, c, d, ..]: [u64; 6]) -> Option<Reply> {
    Some(
        match i64::from(number) {
            libc::SYS_uname => names(member, a),
            libc::SYS_sysinfo => information(member, a),
            libc::SYS_prlimit64 => limits(member, a, b, c, d),
            libc::SYS_getrlimit => limits(member, 0, a, 0, b),
            libc::SYS_setrlimit => limits(member, 0, a, b, 0),
            libc::SYS_getrusage => usage(member, a as i32, b),
            libc::SYS_clock_settime => Err(Errno::PERM),
            libc::SYS_times => times(member, a),
            libc::SYS_clock_gettime => processor_time(member, a as i32, b),
            libc::SYS_getpriority => Ok(20),
            libc::SYS_setpriority | libc::SYS_personality => Ok(0),
            libc::SYS_prctl if a == libc::PR_CAPBSET_READ as u64 => {
                Ok(u64::from(crate::identity::capabilities().contains(b as u8)))
            }
            libc::SYS_capget => capabilities(member, a, b),
            libc::SYS_capset => Ok(0),
            _ => return None,
        }
        .into(),
    )
}

/// uname: the host's name as the cell has it, and a Linux of which programs that look at its version find enough.
fn names(member: &Member, into: u64) -> Result<u64, Errno> {
    const FIELD: usize = 65;
    let host = rustix::system::uname();
    let node = host.nodename().to_bytes();
    let release = host.release().to_bytes();
    let fields: [&[u8]; 6] = [b"Linux", node, release, b"#1 skep unikernel", b"x86_64", b"(none)"];
    let mut bytes = [0u8; 6 * FIELD];
    for (place, field) in bytes.chunks_exact_mut(FIELD).zip(fields) {
        let length = field.len().min(FIELD - 1);
        place[..length].copy_from_slice(&field[..length]);
    }
    member.memory.write(into, &bytes).map(|()| 0)
}

/// sysinfo: the host's uptime and memory.
fn information(member: &Member, into: u64) -> Result<u64, Errno> {
    let host = rustix::system::sysinfo();
    let mut bytes = [0u8; 112];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    put(0, host.uptime as u64);
    put(32, host.totalram as u64);
    put(40, host.freeram as u64);
    bytes[80..82].copy_from_slice(&(member.family.alive() as u16).to_ne_bytes());
    bytes[104..108].copy_from_slice(&host.mem_unit.to_ne_bytes());
    member.memory.write(into, &bytes).map(|()| 0)
}

fn limits(member: &mut Member, who: u64, resource: u64, new: u64, old: u64) -> Result<u64, Errno> {
    const STACK: u64 = 3;
    const CORE: u64 = 4;
    const OPEN_FILES: u64 = 7;
    const RESOURCES: u64 = 16;
    if who != 0 && who as u32 != member.number {
        return Err(Errno::SRCH);
    }
    let (soft, hard) = match resource {
        STACK => (8 << 20, u64::MAX),
        CORE => (0, 0),
        OPEN_FILES => (member.table.limit as u64, member.table.limit as u64),
        _ if resource < RESOURCES => (u64::MAX, u64::MAX),
        _ => return Err(Errno::INVAL),
    };
    if new != 0 {
        let wanted = u64::from_ne_bytes(member.memory.number(new)?);
        let highest = u64::from_ne_bytes(member.memory.number(new + 8)?);
        if wanted > highest {
            return Err(Errno::INVAL);
        }
        if resource == OPEN_FILES {
            if highest > hard {
                return Err(Errno::PERM);
            }
            member.table.limit = wanted as usize;
        }
    }
    if old != 0 {
        member.memory.write(old, &[soft.to_ne_bytes(), hard.to_ne_bytes()].concat())?;
    }
    Ok(0)
}

/// The processor time that a member has used so far, in nanoseconds, with what its engine does for it.
fn used(member: &Member) -> u64 {
    member.family.used_by(member.number)
}

/// clock_gettime, of a clock that counts the time of the calling process, or of another by its number.
fn processor_time(member: &Member, clock: i32, into: u64) -> Result<u64, Errno> {
    let whose = match !(clock >> 3) {
        number @ 1.. if clock < 0 => number as u32,
        _ => member.number,
    };
    member.family.with(whose, |_| ()).map_err(|_| Errno::INVAL)?;
    let used = member.family.used_by(whose);
    let bytes = [used / 1_000_000_000, used % 1_000_000_000].map(u64::to_ne_bytes).concat();
    member.memory.write(into, &bytes).map(|()| 0)
}

/// getrusage: what was used is a process's own; what its children used is not kept.
fn usage(member: &Member, who: i32, into: u64) -> Result<u64, Errno> {
    let mut bytes = [0u8; 144];
    match who {
        libc::RUSAGE_SELF | libc::RUSAGE_THREAD => {
            let used = used(member);
            bytes[..8].copy_from_slice(&(used / 1_000_000_000).to_ne_bytes());
            bytes[8..16].copy_from_slice(&(used % 1_000_000_000 / 1000).to_ne_bytes());
        }
        libc::RUSAGE_CHILDREN => {}
        _ => return Err(Errno::INVAL),
    }
    member.memory.write(into, &bytes).map(|()| 0)
}

fn times(member: &Member, into: u64) -> Result<u64, Errno> {
    const TICK: u64 = 10_000_000;
    if into != 0 {
        let bytes = [used(member) / TICK, 0, 0, 0].map(u64::to_ne_bytes).concat();
        member.memory.write(into, &bytes)?;
    }
    let now = clock_gettime(ClockId::Monotonic);
    Ok((now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64) / TICK)
}

/// capget: the guest's administrator may what the cell's may.
fn capabilities(member: &Member, header: u64, data: u64) -> Result<u64, Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let version = u32::from_ne_bytes(member.memory.number(header)?);
    if version != VERSION_3 {
        member.memory.write(header, &VERSION_3.to_ne_bytes())?;
        return if data == 0 { Ok(0) } else { Err(Errno::INVAL) };
    }
    let all = if member.credentials.user.effective == 0 { crate::identity::capabilities().0 } else { 0 };
    let (low, high) = (all as u32, (all >> 32) as u32);
    let bytes = [low, low, 0, high, high, 0].map(u32::to_ne_bytes).concat();
    if data != 0 {
        member.memory.write(data, &bytes)?;
    }
    Ok(0)
}
