//! The compiled filter, run by an interpreter of the few instructions that it uses.

use super::*;

/// What the filter answers to a call.
fn run(program: &[Instruction], arch: u32, number: u32, argument: u32) -> u32 {
    let (mut at, mut accumulator) = (0usize, 0u32);
    for _ in 0..1000 {
        let it = program[at];
        at += 1;
        let branch = |holds: bool| usize::from(if holds { it.jt } else { it.jf });
        match it.code {
            0x20 => {
                accumulator = match it.k {
                    0 => number,
                    4 => arch,
                    16 => argument,
                    other => panic!("load of {other}"),
                }
            }
            0x06 => return it.k,
            0x05 => at += it.k as usize,
            0x15 => at += branch(accumulator == it.k),
            0x35 => at += branch(accumulator >= it.k),
            0x45 => at += branch(accumulator & it.k != 0),
            other => panic!("instruction {other:#x}"),
        }
    }
    panic!("the filter does not end");
}

fn capabilities(extra: &[Capability]) -> BTreeSet<Capability> {
    Capability::DEFAULT.iter().chain(extra).copied().collect()
}

fn number(name: &str) -> u32 {
    u32::from(TABLE.iter().find(|row| row.0 == name).unwrap().1)
}

const REFUSED: u32 = RET_ERRNO | EPERM;
const MISSING: u32 = RET_ERRNO | ENOSYS;

#[test]
fn the_tree_says_what_the_table_says_for_every_number() {
    let set = capabilities(&[]);
    let program = compile(&set, Refusal::Error, Watch::Nothing);
    assert!(program.len() < 4096, "{}", program.len());
    for arch in [AUDIT_ARCH_X86_64, AUDIT_ARCH_I386] {
        for nr in (0..700).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX]) {
            let row = TABLE.iter().find(|row| {
                let known = if arch == AUDIT_ARCH_X86_64 { row.1 } else { row.2 };
                known != NONE && u32::from(known) == nr
            });
            if row.is_none() && nr < 440 {
                // A gap: the kernel has no such call, so any answer will do.
                continue;
            }
            let expected = match row.map(|row| row.3.action(&set)) {
                None | Some(Action::Missing) => MISSING,
                Some(Action::Refuse) => REFUSED,
                Some(_) => RET_ALLOW,
            };
            assert_eq!(run(&program, arch, nr, 0), expected, "{nr} {row:?}");
        }
    }
}

#[test]
fn arguments_decide_where_they_must() {
    let program = compile(&capabilities(&[]), Refusal::Error, Watch::Nothing);
    let check = |name: &str, argument, expected| {
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, number(name), argument), expected, "{name} {argument:#x}");
    };
    check("clone", 0x11, RET_ALLOW);
    for namespace in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        check("clone", 0x11 | namespace, REFUSED);
    }
    check("clone3", 0, MISSING);
    check("personality", 0xffff_ffff, RET_ALLOW);
    check("personality", 8, RET_ALLOW);
    check("personality", 0x4_0000, REFUSED);
    check("socket", 2, RET_ALLOW);
    check("socket", AF_VSOCK, REFUSED);
    check("mount", 0, REFUSED);
    check("bpf", 0, REFUSED);
    check("io_uring_setup", 0, REFUSED);
    check("keyctl", 0, REFUSED);
    check("ptrace", 0, RET_ALLOW);
}

#[test]
fn capabilities_open_what_needs_them() {
    let program = compile(&capabilities(&[Capability::SysAdmin]), Refusal::Error, Watch::Nothing);
    for name in ["mount", "unshare", "clone3", "bpf", "setns", "pivot_root"] {
        assert_eq!(run(&program, AUDIT_ARCH_X86_64, number(name), 0), RET_ALLOW, "{name}");
    }
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, number("clone"), 0x2000_0000), RET_ALLOW);
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, number("init_module"), 0), REFUSED);
}

#[test]
fn other_architectures_have_no_calls() {
    let program = compile(&capabilities(&[]), Refusal::Error, Watch::Nothing);
    assert_eq!(run(&program, 0xc000_00b7, number("read"), 0), MISSING);
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, 0x4000_0000 | number("read"), 0), MISSING, "x32");
}

#[test]
fn strict_announces_what_default_refuses_but_not_what_is_missing() {
    let program = compile(&capabilities(&[]), Refusal::Announce, Watch::Nothing);
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, number("mount"), 0), RET_USER_NOTIF);
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, number("clone3"), 0), MISSING);
    assert_eq!(run(&program, AUDIT_ARCH_X86_64, number("read"), 0), RET_ALLOW);
}

#[test]
fn names_and_numbers_are_unique() {
    let mut names: Vec<_> = TABLE.iter().map(|row| row.0).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TABLE.len());
    assert_eq!(syscall_name(0), Some("read"));
    assert_eq!(syscall_name(165), Some("mount"));
    assert_eq!(syscall_name(9999), None);
}

#[test]
fn what_is_watched_is_announced_if_it_is_allowed() {
    let set = capabilities(&[]);
    let answer = |watch, refusal, name: &str, argument| {
        run(&compile(&set, refusal, watch), AUDIT_ARCH_X86_64, number(name), argument)
    };
    let check = |watch, name: &str, expected| assert_eq!(answer(watch, Refusal::Error, name, 0), expected, "{name}");
    for (name, misses, uses) in [
        ("openat", RET_USER_NOTIF, RET_USER_NOTIF),
        ("execve", RET_USER_NOTIF, RET_USER_NOTIF),
        ("getdents64", RET_USER_NOTIF, RET_USER_NOTIF),
        ("listen", RET_ALLOW, RET_USER_NOTIF),
        ("clone", RET_ALLOW, RET_USER_NOTIF),
        ("socket", RET_ALLOW, RET_USER_NOTIF),
        ("read", RET_ALLOW, RET_ALLOW),
        // The child sends its listener by this one: nobody could answer for it yet.
        ("sendmsg", RET_ALLOW, RET_ALLOW),
        ("mount", REFUSED, REFUSED),
        ("clone3", MISSING, MISSING),
    ] {
        check(Watch::Nothing, name, if misses == RET_USER_NOTIF { RET_ALLOW } else { misses });
        check(Watch::Misses, name, misses);
        check(Watch::MissesNoted, name, misses);
        check(Watch::Uses, name, uses);
    }
    assert_eq!(answer(Watch::Uses, Refusal::Error, "clone", NAMESPACE_FLAGS), REFUSED);
    // Without a profile everything goes on, announced or not.
    assert_eq!(answer(Watch::Uses, Refusal::Nothing, "mount", 0), RET_USER_NOTIF);
    assert_eq!(answer(Watch::Misses, Refusal::Nothing, "mount", 0), RET_ALLOW);
}

#[test]
fn announced_calls_have_the_names_of_their_architecture() {
    let call = |number, arch| Announced { id: 0, pid: 0, number, arch, arguments: [0; 6] };
    assert_eq!(announced_name(&call(257, AUDIT_ARCH_X86_64)), Some("openat"));
    assert_eq!(announced_name(&call(295, AUDIT_ARCH_I386)), Some("openat"));
    assert_eq!(announced_name(&call(9999, AUDIT_ARCH_X86_64)), None);
}
