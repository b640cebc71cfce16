//! The table as the kernel's filter program. First what needs a look at the number alone: for such calls the kernel remembers
//! the answer and does not run the program. It learns these answers when the filter is installed, by going through the
//! program for each number that there is: **what is looked for among many is searched by halves**. (One number after the
//! other, installing took 0.24 ms, a fortieth of the start of a cell.)

use abi::layout::{LIBOS, LIBOS_SIZE};
use sys::seccomp::Instruction;
use sys::seccomp::code::{
    ALLOW, FAIL, KILL, LOAD_ADDRESS, LOAD_ARCH, LOAD_NUMBER, X86_64, answer, jump, jump_if_any_bit, jump_if_at_least,
    jump_if_equal, load_argument,
};

use super::Kind;
use super::table::{ALLOWED, FATAL, Group, When, Whose};

/// The filter of a tender.
pub(super) fn compile(kind: Kind) -> Vec<Instruction> {
    let fatal = match kind {
        Kind::Machines => answer(KILL),
        Kind::Processes => answer(FAIL | libc::EPERM as u32),
    };
    let is_here = |it: &&Group| match it.whose {
        Whose::Tender => true,
        // Those for processes, of which machines have none, are not in their filter.
        Whose::Keeper | Whose::Guest => kind == Kind::Processes,
    };
    let groups = || ALLOWED.iter().filter(is_here);
    let is_plain = |it: &&Group| it.when == When::Always && it.whose != Whose::Guest;
    let is_device = |it: &&Group| it.calls == [libc::SYS_ioctl];
    let mut code = vec![LOAD_ARCH, jump_if_equal(X86_64, 1, 0), answer(KILL), LOAD_NUMBER];
    groups().filter(is_device).for_each(|it| add(&mut code, it));
    let plain = groups().filter(is_plain).flat_map(|it| it.calls);
    code.extend(search(plain, answer(ALLOW)));
    if kind == Kind::Processes {
        let mut guest = Vec::new();
        groups().filter(|it| it.whose == Whose::Guest).for_each(|it| add(&mut guest, it));
        code.extend(only_for_libos(guest));
    }
    let rest = |it: &&Group| !is_plain(it) && !is_device(it) && it.whose != Whose::Guest;
    groups().filter(rest).for_each(|it| add(&mut code, it));
    code.extend(search(FATAL, fatal));
    code.push(answer(FAIL | libc::ENOSYS as u32));
    code
}

/// That answer for those numbers; for others what comes behind. The number is loaded.
fn search<'a>(numbers: impl IntoIterator<Item = &'a i64>, answer: Instruction) -> Vec<Instruction> {
    let mut numbers: Vec<u32> = numbers.into_iter().map(|it| *it as u32).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let ranges: Vec<[u32; 2]> =
        numbers.chunk_by(|one, next| one + 1 == *next).map(|it| [it[0], it[0] + (it.len() as u32 - 1)]).collect();
    halves(&ranges, answer)
}

fn halves(ranges: &[[u32; 2]], answer: Instruction) -> Vec<Instruction> {
    match ranges {
        [] => Vec::new(),
        [[first, last]] => vec![jump_if_at_least(*first, 0, 2), jump_if_at_least(*last + 1, 1, 0), answer],
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (begin, low, high) = (high[0][0], halves(low, answer), halves(high, answer));
            // Either half may be longer than a comparison can skip.
            let mut code = vec![jump_if_at_least(begin, 0, 1), jump(low.len() as u32 + 1)];
            code.extend(low);
            code.push(jump(high.len() as u32));
            code.extend(high);
            code
        }
    }
}

/// Those instructions, only where the call's own is in the library operating system. The number is loaded, and again
/// behind.
fn only_for_libos(guest: Vec<Instruction>) -> Vec<Instruction> {
    let [low, high] = LOAD_ADDRESS;
    // What jumps over lands on the load behind.
    let over = |rest: usize| jump((rest + guest.len()) as u32);
    let mut code = vec![
        high,
        jump_if_equal((LIBOS >> 32) as u32, 1, 0),
        over(4),
        low,
        jump_if_at_least((LIBOS + LIBOS_SIZE) as u32, 0, 1),
        over(1),
        LOAD_NUMBER,
    ];
    code.extend(guest);
    code.push(LOAD_NUMBER);
    code
}

/// A group's calls. The number is loaded, and again behind.
fn add(code: &mut Vec<Instruction>, group: &Group) {
    let body = body(group.when);
    for number in group.calls {
        code.push(jump_if_equal(*number as u32, 0, body.len() as u8));
        code.extend(&body);
    }
}

/// What decides about a call, to the end.
fn body(when: When) -> Vec<Instruction> {
    let yes = answer(ALLOW);
    let no = |errno: i32| answer(FAIL | errno as u32);
    match when {
        When::Always => vec![yes],
        When::OneOf { argument, values, otherwise } => {
            let mut code = vec![load_argument(argument)[0]];
            let count = values.len() as u8;
            code.extend((0..count).zip(values).map(|(index, it)| jump_if_equal(*it, count - index, 0)));
            code.extend([no(otherwise), yes]);
            code
        }
        When::Without { argument, bits, otherwise } => {
            vec![load_argument(argument)[0], jump_if_any_bit(bits, 0, 1), no(otherwise), yes]
        }
        When::Within { argument, bit, bits, otherwise } => vec![
            load_argument(argument)[0],
            jump_if_any_bit(!bits, 1, 0),
            jump_if_any_bit(bit, 1, 0),
            no(otherwise),
            yes,
        ],
        When::Null { argument, otherwise } => {
            let [low, high] = load_argument(argument);
            vec![low, jump_if_equal(0, 0, 2), high, jump_if_equal(0, 1, 0), no(otherwise), yes]
        }
    }
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;

    /// What becomes of a call of that number, if these instructions and no others say it.
    fn run(code: &[Instruction], number: u32) -> Option<u32> {
        let mut at = 0;
        loop {
            let it = code.get(at)?;
            at += 1 + match it.code {
                0x05 => it.k as usize,
                0x35 => usize::from(if number >= it.k { it.jt } else { it.jf }),
                0x06 => return Some(it.k),
                other => panic!("instruction {other:#x}"),
            };
        }
    }

    proptest! {
        #[test]
        fn those_that_are_searched_for_are_found_and_no_others(
            numbers in prop::collection::vec(0..600i64, 0..300), x32 in 0x4000_0000..0x4000_0300u32
        ) {
            let code = search(&numbers, answer(ALLOW));
            for number in (0..700).chain([x32]) {
                let found = run(&code, number) == Some(answer(ALLOW).k);
                prop_assert_eq!(found, numbers.contains(&i64::from(number)), "{}", number);
            }
        }
    }
}
