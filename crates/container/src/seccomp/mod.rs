//! The system call filter: which calls a cell's programs may make, compiled to the kernel's filter programs.
//!
//! An allow list. Calls that ordinary programs need are let through; calls that administer the machine need the
//! capability that the cell would need for them anyway; the rest is refused with `EPERM` ([`model::Seccomp::Default`]) or
//! announced to the supervisor ([`model::Seccomp::Strict`]). **What the table does not know does not exist**: new
//! calls, and all calls of the x32 interface, fail with `ENOSYS`.
//!
//! The filter is a binary search over ranges of call numbers, about eight comparisons for any call, and building it
//! takes some microseconds, so nothing is cached.

mod paths;
mod table;

use std::collections::BTreeSet;

use model::{Capability, Seccomp, Security, Watch};
use sys::seccomp::code::{
    ALLOW as RET_ALLOW, ASK as RET_USER_NOTIF, FAIL as RET_ERRNO, I386 as AUDIT_ARCH_I386, LOAD_ARCH, LOAD_ARGUMENT_0,
    LOAD_NUMBER, X86_64 as AUDIT_ARCH_X86_64, answer, jump, jump_if_any_bit, jump_if_at_least, jump_if_equal,
};
use sys::seccomp::{Announced, Instruction};

pub use paths::{BASELINE, Named, named_paths};
use table::{NONE, TABLE};

/// What the default profile has for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Let through.
    Always,
    /// Refused to everybody.
    Never,
    /// Let through with that capability, or with `SYS_ADMIN` where the kernel takes that instead.
    Needs(Capability),
    /// `clone`: without `SYS_ADMIN` only when it makes no namespace.
    CloneFlags,
    /// `clone3`, whose flags lie in memory where a filter cannot look: does not exist without `SYS_ADMIN`.
    Clone3,
    /// `personality`: only to ask, and for what makes no difference to security.
    Persona,
    /// `socket`: not `AF_VSOCK`, which reaches past every namespace to the hypervisor.
    Families,
}

/// What is done with a call that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It fails with `EPERM`.
    Error,
    /// The listener is told.
    Announce,
    /// Nothing is refused.
    Nothing,
}

/// The fate of a range of call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Ask,
    Refuse,
    Missing,
    CloneFlags,
    Persona,
    Families,
}

/// Numbers below this are looked up; the kernel has used less than 500.
const NUMBERS: usize = 512;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;
const AF_VSOCK: u32 = 40;
/// Ask, `PER_LINUX`, `PER_LINUX32`, and the two with another `uname`.
const PERSONAS: [u32; 5] = [0xffff_ffff, 0, 8, 0x2_0000, 0x2_0008];

/// The name of a system call of x86-64.
pub fn syscall_name(number: u32) -> Option<&'static str> {
    TABLE.iter().find(|row| row.1 != NONE && u32::from(row.1) == number).map(|row| row.0)
}

/// The number of a call.
pub fn syscall_number(name: &str) -> Option<u32> {
    TABLE.iter().find(|row| row.0 == name && row.1 != NONE).map(|row| row.1.into())
}

/// The name of a call that a listener was told of, whichever of the two architectures made it.
pub fn announced_name(call: &Announced) -> Option<&'static str> {
    let number = |row: &(&'static str, u16, u16, Rule)| if call.arch == AUDIT_ARCH_I386 { row.2 } else { row.1 };
    TABLE.iter().find(|row| number(row) != NONE && u32::from(number(row)) == call.number).map(|row| row.0)
}

/// The filter that programs under `security` run with, if they run with one.
pub fn filter_of(security: &Security) -> Option<Vec<Instruction>> {
    let refusal = Refusal::of(security.seccomp)?;
    Some(compile(&security.capabilities, refusal, Watch::Nothing))
}

impl Refusal {
    /// What a profile does with a call that it refuses; nothing when there is no profile.
    pub(crate) const fn of(profile: Seccomp) -> Option<Self> {
        match profile {
            Seccomp::Unconfined => None,
            Seccomp::Default => Some(Self::Error),
            Seccomp::Strict => Some(Self::Announce),
        }
    }
}

/// The filter for programs with those capabilities. What is watched is announced to the listener if it is allowed.
pub(crate) fn compile(capabilities: &BTreeSet<Capability>, refusal: Refusal, watch: Watch) -> Vec<Instruction> {
    let answers = Answers::new(refusal, watch);
    let native = tree(&ranges(capabilities, watch, |row| row.1), answers);
    let compat = tree(&ranges(capabilities, watch, |row| row.2), answers);
    let mut program = Vec::with_capacity(native.len() + compat.len() + 8);
    program.push(LOAD_ARCH);
    // The distance to the second tree may pass what a conditional jump can reach.
    program.push(jump_if_equal(AUDIT_ARCH_X86_64, 0, 1));
    program.push(jump(3));
    program.push(jump_if_equal(AUDIT_ARCH_I386, 1, 0));
    program.push(answer(RET_ERRNO | ENOSYS));
    program.push(jump(1 + native.len() as u32));
    // Here the number is looked at by the one tree or the other; x32 numbers are beyond every range of the first.
    program.push(LOAD_NUMBER);
    program.extend(native);
    program.push(LOAD_NUMBER);
    program.extend(compat);
    program
}

/// The fates of all numbers as ranges: `(first, fate)` in ascending order, each up to the next. A number between those of
/// the table that no call has goes with its neighbour: the kernel itself refuses it, and a smaller filter loads faster.
fn ranges(
    capabilities: &BTreeSet<Capability>,
    watch: Watch,
    number: impl Fn(&(&str, u16, u16, Rule)) -> u16,
) -> Vec<(u32, Action)> {
    let mut actions = [None; NUMBERS];
    for row in TABLE {
        if let Some(slot) = actions.get_mut(usize::from(number(row))) {
            *slot = Some(match row.3.action(capabilities) {
                Action::Allow if paths::is_announced(row.0, watch) => Action::Ask,
                action => action,
            });
        }
    }
    let mut ranges: Vec<(u32, Action)> = Vec::with_capacity(100);
    let mut beyond = 0;
    for (number, action) in (0u32..).zip(actions) {
        let Some(action) = action else { continue };
        if ranges.last().is_none_or(|last| last.1 != action) {
            ranges.push((if ranges.is_empty() { 0 } else { number }, action));
        }
        beyond = number + 1;
    }
    ranges.push((beyond, Action::Missing));
    ranges
}

impl Rule {
    fn action(self, capabilities: &BTreeSet<Capability>) -> Action {
        let has = |it| capabilities.contains(&it);
        let admin = has(Capability::SysAdmin);
        match self {
            Self::Always => Action::Allow,
            Self::Never => Action::Refuse,
            Self::Needs(Capability::Bpf | Capability::Perfmon | Capability::Syslog) if admin => Action::Allow,
            Self::Needs(capability) if has(capability) => Action::Allow,
            Self::Needs(_) => Action::Refuse,
            Self::CloneFlags | Self::Clone3 if admin => Action::Allow,
            Self::CloneFlags => Action::CloneFlags,
            Self::Clone3 => Action::Missing,
            Self::Persona => Action::Persona,
            Self::Families => Action::Families,
        }
    }
}

/// A search for the range that holds the number, which is in the accumulator.
fn tree(ranges: &[(u32, Action)], answers: Answers) -> Vec<Instruction> {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    match (low, high) {
        (_, []) => vec![answers.missing],
        ([], [(_, action), ..]) => action.leaf(answers),
        (low, [(first, _), ..]) => {
            let left = tree(low, answers);
            let mut code = Vec::with_capacity(2 * left.len() + 2);
            match u8::try_from(left.len()) {
                Ok(over) => code.push(jump_if_at_least(*first, over, 0)),
                Err(_) => code.extend([jump_if_at_least(*first, 0, 1), jump(left.len() as u32)]),
            }
            code.extend(left);
            code.extend(tree(high, answers));
            code
        }
    }
}

/// What the filter answers.
#[derive(Clone, Copy)]
struct Answers {
    refuse: Instruction,
    /// To a call that is refused whatever the profile: programs make it in vain on many machines.
    error: Instruction,
    missing: Instruction,
    /// To a call that is allowed by its arguments.
    allow: Instruction,
}

impl Answers {
    fn new(refusal: Refusal, watch: Watch) -> Self {
        let error = answer(RET_ERRNO | EPERM);
        let allow = answer(if watch == Watch::Uses { RET_USER_NOTIF } else { RET_ALLOW });
        match refusal {
            Refusal::Error => Self { refuse: error, error, missing: answer(RET_ERRNO | ENOSYS), allow },
            Refusal::Announce => Self { refuse: answer(RET_USER_NOTIF), ..Self::new(Refusal::Error, watch) },
            Refusal::Nothing => Self { refuse: allow, error: allow, missing: allow, allow },
        }
    }
}

impl Action {
    fn leaf(self, answers: Answers) -> Vec<Instruction> {
        let Answers { refuse, error, missing, allow } = answers;
        match self {
            Self::Allow => vec![answer(RET_ALLOW)],
            Self::Ask => vec![answer(RET_USER_NOTIF)],
            Self::Refuse => vec![refuse],
            Self::Missing => vec![missing],
            Self::CloneFlags => vec![LOAD_ARGUMENT_0, jump_if_any_bit(NAMESPACE_FLAGS, 0, 1), refuse, allow],
            Self::Families => vec![LOAD_ARGUMENT_0, jump_if_equal(AF_VSOCK, 0, 1), error, allow],
            Self::Persona => {
                let mut code = vec![LOAD_ARGUMENT_0];
                let last = PERSONAS.len() as u8;
                code.extend((0..last).zip(PERSONAS).map(|(index, it)| jump_if_equal(it, last - index, 0)));
                code.extend([error, allow]);
                code
            }
        }
    }
}

#[cfg(test)]
mod tests;
