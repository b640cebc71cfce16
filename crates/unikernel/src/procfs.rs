//! The few files of `/proc` that ordinary programs read, written for the guest: the tender has no `/proc` of its own to
//! show, and a guest must not see the host's.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use sys::Errno;

use crate::member::Member;

/// What is in that file; nothing when there is none.
pub(crate) fn content(member: &Member, path: &[u8]) -> Option<Vec<u8>> {
    let path = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?;
    let own = member.number.to_string();
    let text = match path {
        "meminfo" => memory(),
        "cpuinfo" => processors(),
        "stat" => "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n".to_owned(),
        "uptime" => format!("{}.00 0.00\n", rustix::system::sysinfo().uptime),
        "loadavg" => "0.00 0.00 0.00 1/1 1\n".to_owned(),
        "version" => "Linux version (skep unikernel)\n".to_owned(),
        "filesystems" => "nodev\tproc\nnodev\ttmpfs\n".to_owned(),
        "mounts" => "overlay / overlay rw 0 0\n".to_owned(),
        "sys/vm/overcommit_memory" => "1\n".to_owned(),
        "sys/net/core/somaxconn" => "4096\n".to_owned(),
        "sys/kernel/pid_max" => "4194304\n".to_owned(),
        "sys/kernel/ngroups_max" => "65536\n".to_owned(),
        "sys/kernel/random/boot_id" => "00000000-0000-4000-8000-000000000000\n".to_owned(),
        "sys/kernel/osrelease" => format!("{}\n", rustix::system::uname().release().to_string_lossy()),
        _ => {
            let (process, name) = path.split_once('/')?;
            if process != "self" && process != own && process != "thread-self" {
                return None;
            }
            return own_file(member, name);
        }
    };
    Some(text.into_bytes())
}

fn own_file(member: &Member, name: &str) -> Option<Vec<u8>> {
    let program = &member.program;
    let comm = || {
        let name = program.path.rsplit(|it| *it == b'/').next().unwrap_or_default();
        String::from_utf8_lossy(&name[..name.len().min(15)]).into_owned()
    };
    Some(match name {
        "cmdline" => [&program.arguments[..], b"\0"].concat(),
        "comm" => format!("{}\n", comm()).into_bytes(),
        "stat" => {
            let (parent, group, session) =
                member.family.with(member.number, |it| (it.parent, it.group, it.session)).unwrap_or((0, 0, 0));
            let zeroes = " 0".repeat(46);
            format!("{} ({}) R {parent} {group} {session}{zeroes}\n", member.number, comm()).into_bytes()
        }
        "statm" => b"0 0 0 0 0 0 0\n".to_vec(),
        "status" => {
            let it = &member.credentials;
            let mut text = format!("Name:\t{}\nState:\tR (running)\nPid:\t{}\n", comm(), member.number);
            for (word, three) in [("Uid", it.user), ("Gid", it.group)] {
                let _ = writeln!(
                    text,
                    "{word}:\t{}\t{}\t{}\t{}",
                    three.real, three.effective, three.saved, three.effective
                );
            }
            text.push_str("VmRSS:\t0 kB\nThreads:\t1\n");
            text.into_bytes()
        }
        "mounts" => b"overlay / overlay rw 0 0\n".to_vec(),
        "mountinfo" => b"1 1 0:1 / / rw - overlay overlay rw\n".to_vec(),
        "cgroup" => b"0::/\n".to_vec(),
        "oom_score_adj" => b"0\n".to_vec(),
        "maps" | "smaps" | "limits" => Vec::new(),
        _ => return None,
    })
}

fn memory() -> String {
    let host = rustix::system::sysinfo();
    let unit = u64::from(host.mem_unit) / 1024;
    let (unit, divisor) = if unit == 0 { (1, 1024) } else { (unit, 1) };
    let kilobytes = |it: u64| it * unit / divisor;
    format!(
        "MemTotal:       {} kB\nMemFree:        {} kB\nMemAvailable:   {} kB\n",
        kilobytes(host.totalram as u64),
        kilobytes(host.freeram as u64),
        kilobytes(host.freeram as u64)
    )
}

fn processors() -> String {
    "processor\t: 0\nvendor_id\t: unknown\nmodel name\t: skep unikernel\n\n".to_owned()
}

/// A file with that content.
pub(crate) fn file(content: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create("proc", MemfdFlags::CLOEXEC)?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = &rest[written..];
    }
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}
