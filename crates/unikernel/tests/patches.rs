//! The library operating system's patcher, compiled for the host: what it takes for a place, and what it writes there, as
//! a decoder reads it that knows nothing of it.

extern crate alloc;

#[path = "../../../guest/libos/src/patch/site.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "the guest's, of which this needs a part")]
mod site;

use core::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};
use proptest::prelude::*;
use site::{BEHIND, Interrupted, JUMP, LONGEST, Site};

/// Where the code is of which a test tells.
const HERE: usize = 0x5500_0000_0000;
/// The call instruction ends so far behind.
const BACK: usize = 24;
/// All of it.
const WHOLE: usize = 48;
/// No trampoline is further away.
const NEAR: i64 = 1 << 30;

const CALL: [u8; 2] = [0x0f, 0x05];
const COMPARE: [u8; 6] = [0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff];

/// Code, of which a part can be read.
#[derive(Clone, Debug)]
struct Text {
    bytes: Vec<u8>,
    readable: Range<usize>,
    number: u64,
}

impl Text {
    /// What the patcher makes of it if that is what anybody comes back to.
    fn site(&self, interrupted: &Interrupted) -> Option<Site> {
        let read = |at: usize, into: &mut [u8]| {
            let begin = at.checked_sub(HERE)?;
            let part = begin..begin.checked_add(into.len())?;
            let is_readable = self.readable.start <= part.start && part.end <= self.readable.end;
            is_readable.then(|| into.copy_from_slice(&self.bytes[part]))
        };
        site::before(HERE + BACK, self.number, read, |it| interrupted.is_any_within(it))
    }

    fn can_read(&self, part: Range<usize>) -> bool {
        self.readable.contains(&part.start) && part.end <= self.readable.end
    }

    /// The instruction that begins there, as far as it can be read.
    fn instruction(&self, at: usize) -> Instruction {
        instruction(&self.bytes[at..self.readable.end.max(at)], HERE + at)
    }
}

fn instruction(bytes: &[u8], at: usize) -> Instruction {
    Decoder::with_ip(64, bytes, at as u64, DecoderOptions::NONE).decode()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Number,
    LastArgument,
    Zero,
}

/// What that text is according to the decoder.
fn shape(it: &Text) -> Option<Shape> {
    let (long, short) = (BACK - 7, BACK - 4);
    let is_call = |at: usize| it.can_read(at..at + 2) && it.instruction(at).code() == Code::Syscall;
    if !it.can_read(long..BACK) || !is_call(BACK - 2) {
        return None;
    }
    // With the byte before it, an instruction may be one on another register.
    let is_itself = |at: usize| {
        !it.can_read(at - 1..at)
            || !(0x40..0x50).contains(&it.bytes[at - 1])
            || [0x40, 0x42, 0x48, 0x4a].contains(&it.bytes[at - 1])
    };
    let first = it.instruction(long);
    let sets = first.code() == Code::Mov_r32_imm32 && first.op0_register() == Register::EAX && first.len() == JUMP;
    if sets && u64::from(first.immediate32()) == it.number && is_itself(long) {
        return Some(Shape::Number);
    }
    let loads = first.code() == Code::Mov_r64_rm64 && first.op0_register() == Register::R9;
    let from = (first.memory_base(), first.memory_index(), first.memory_displacement64(), first.len());
    if loads && from == (Register::RSP, Register::None, 8, JUMP) && it.bytes[long + 3] == 0x24 {
        return Some(Shape::LastArgument);
    }
    let zero = it.instruction(short);
    let registers = (zero.op0_register(), zero.op1_register(), zero.len());
    let zeroes = zero.code() == Code::Xor_rm32_r32 && registers == (Register::EAX, Register::EAX, 2);
    let compares = it.can_read(BACK..BACK + 6) && {
        let compare = it.instruction(BACK);
        // Of several ways to write it the patcher knows the one that compilers choose.
        let is_usual = it.bytes[BACK] == COMPARE[0];
        is_usual && (compare.code(), compare.len()) == (Code::Cmp_RAX_imm32, 6) && compare.immediate32to64() == -4096
    };
    (zeroes && compares && it.number == 0 && is_itself(short)).then_some(Shape::Zero)
}

/// Checks what would be written for that text, instruction by instruction.
fn check(text: &Text, shape: Shape, site: &Site, distance: i64, entry: usize) {
    let nest = (HERE as i64 + distance) as usize;
    let code = site.trampoline(nest, entry);
    assert!(code.len() <= LONGEST);
    assert_eq!(site.takes_the_call(), shape == Shape::Zero);
    let (begin, back) = if shape == Shape::Zero { (BACK - 4, BACK + 6) } else { (BACK - 7, BACK) };

    // At the place: a jump to the trampoline, and nothing else has changed.
    assert_eq!(site.begin, HERE + begin);
    let mut after = text.clone();
    after.bytes[begin..begin + JUMP].copy_from_slice(&site.jump(nest));
    let jump = after.instruction(begin);
    assert_eq!((jump.code(), jump.near_branch_target(), jump.len()), (Code::Jmp_rel32_64, nest as u64, JUMP));
    assert!(begin + JUMP <= back && text.can_read(begin..back), "all that changes was looked at");
    if shape != Shape::Zero {
        assert_eq!(after.instruction(BACK - 2).code(), Code::Syscall, "whoever is about to call does");
    }

    // In the trampoline: what was there, then what the processor does at a call, then to whoever answers it.
    let at = |offset: usize| instruction(&code[offset..], nest + offset);
    let first = at(0);
    match shape {
        Shape::Zero => assert_eq!(
            (first.code(), first.op0_register(), first.immediate32()),
            (Code::Mov_r32_imm32, Register::EAX, 0)
        ),
        _ => assert_eq!(code[..JUMP], text.bytes[begin..begin + JUMP]),
    }
    assert_eq!(first.len(), JUMP);
    let flags = at(5);
    assert_eq!((flags.code(), flags.op0_register(), flags.immediate32()), (Code::Mov_r32_imm32, Register::R11D, 0x202));
    let returns = at(11);
    let comes_back = if shape == Shape::Zero { nest + BEHIND } else { HERE + back };
    assert_eq!(
        (returns.code(), returns.op0_register(), returns.immediate64()),
        (Code::Mov_r64_imm64, Register::RCX, comes_back as u64)
    );
    let leaves = at(21);
    assert_eq!(
        (leaves.code(), leaves.op0_kind(), leaves.memory_base()),
        (Code::Jmp_rm64, OpKind::Memory, Register::RIP)
    );
    let word = (leaves.memory_displacement64() - nest as u64) as usize;
    assert_eq!(word, 21 + leaves.len());
    assert_eq!(code[word..word + 8], entry.to_le_bytes());
    if shape != Shape::Zero {
        assert_eq!(code.len(), word + 8);
        return;
    }
    // Behind the call: a call once more for who was interrupted, the comparison, and back behind that.
    assert_eq!((at(word + 8).code(), word + 8), (Code::Syscall, BEHIND - 2));
    assert_eq!(code[BEHIND..BEHIND + 6], COMPARE);
    let home = at(BEHIND + 6);
    assert_eq!((home.code(), home.near_branch_target()), (Code::Jmp_rel32_64, (HERE + back) as u64));
    assert_eq!(code.len(), BEHIND + 6 + home.len());
}

/// Bytes before a call: one of the shapes, or nearly, or any.
fn before() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..512u32, any::<u32>()];
    prop_oneof![
        number.prop_map(|it| [&[0xb8][..], &it.to_le_bytes()].concat()),
        Just(vec![0x4c, 0x8b, 0x4c, 0x24, 0x08]),
        Just(vec![0x31, 0xc0]),
        prop::collection::vec(any::<u8>(), 0..8),
    ]
}

/// A text in which the shapes are as often as what resembles them.
fn text() -> impl Strategy<Value = Text> {
    let prefix = prop_oneof![any::<u8>(), 0x40..0x50u8, Just(0x90u8)];
    let behind = prop_oneof![Just(COMPARE.to_vec()), prop::collection::vec(any::<u8>(), 6)];
    let around = prop::collection::vec(any::<u8>(), WHOLE);
    let change = prop::option::weighted(0.2, (BACK - 9..BACK + 7, any::<u8>()));
    let readable = prop_oneof![3 => Just(0..WHOLE), 1 => (0..WHOLE, 0..=WHOLE).prop_map(|(a, b)| a.min(b)..a.max(b))];
    let number = prop::option::weighted(0.3, prop_oneof![0..3u64, any::<u64>()]);
    (around, before(), prefix, behind, change, readable, number).prop_map(
        |(mut bytes, before, prefix, behind, change, readable, number)| {
            let begin = BACK - 2 - before.len();
            bytes[begin - 1] = prefix;
            bytes[begin..BACK - 2].copy_from_slice(&before);
            bytes[BACK - 2..BACK].copy_from_slice(&CALL);
            bytes[BACK..BACK + 6].copy_from_slice(&behind);
            let (at, byte) = change.unwrap_or((0, 0));
            bytes[at] = byte;
            // Mostly the one that is set there.
            let set = match before[..] {
                [0xb8, a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
                _ => 0,
            };
            Text { bytes, readable, number: number.unwrap_or(set) }
        },
    )
}

fn noted(places: impl IntoIterator<Item = u64>) -> Interrupted {
    let mut all = Interrupted::new();
    places.into_iter().for_each(|it| all.note(it));
    all
}

#[test]
fn the_three_shapes_are_replaced() {
    let text = |before: &[u8], number: u64| {
        let mut bytes = vec![0x90; WHOLE];
        bytes[BACK - 2 - before.len()..BACK - 2].copy_from_slice(before);
        bytes[BACK - 2..BACK].copy_from_slice(&CALL);
        bytes[BACK..BACK + 6].copy_from_slice(&COMPARE);
        Text { bytes, readable: 0..WHOLE, number }
    };
    for (before, number, shape) in [
        (&[0xb8, 39, 0, 0, 0][..], 39, Some(Shape::Number)),
        (&[0x4c, 0x8b, 0x4c, 0x24, 0x08], 202, Some(Shape::LastArgument)),
        (&[0x31, 0xc0], 0, Some(Shape::Zero)),
        // `mov r8d, -1`, `xor r8d, r8d`, and the end of `lea rdi, [rax + 0x100]`.
        (&[0x41, 0xb8, 0xff, 0xff, 0xff, 0xff], 9, None),
        (&[0x41, 0xb8, 9, 0, 0, 0], 9, None),
        (&[0x45, 0x31, 0xc0], 0, None),
        (&[0x48, 0x8d, 0xb8, 0, 1, 0, 0], 39, None),
    ] {
        let text = text(before, number);
        assert_eq!(self::shape(&text), shape, "{before:x?}");
        let site = text.site(&Interrupted::new());
        assert_eq!(site.is_some(), shape.is_some(), "{before:x?}");
        if let (Some(site), Some(shape)) = (site, shape) {
            check(&text, shape, &site, -4096, 0x7000_0000_1000);
        }
    }
}

#[test]
fn where_too_many_places_are_known_any_may_be_one() {
    let most = Interrupted::MOST as u64;
    assert!(!noted(0..most - 1).is_any_within(&(most..most + 9)));
    assert!(noted(0..most + 9).is_any_within(&(most + 20..most + 29)));
    // The same ones again are no more.
    assert!(!noted((0..most * 2).map(|it| it % 64)).is_any_within(&(64..99)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(8192)))]

    #[test]
    fn what_is_replaced_is_what_a_decoder_reads(text in text(), distance in -NEAR + 1..NEAR, entry: usize) {
        let site = text.site(&Interrupted::new());
        let shape = shape(&text);
        prop_assert_eq!(site.is_some(), shape.is_some(), "{:?}", shape);
        if let (Some(site), Some(shape)) = (site, shape) {
            check(&text, shape, &site, distance, entry);
        }
    }

    #[test]
    fn who_comes_back_finds_what_he_left(text in text(), places in prop::collection::vec(0..WHOLE, 0..4)) {
        let Some(site) = text.site(&noted(places.iter().map(|it| (HERE + it) as u64))) else { return Ok(()) };
        let begin = site.begin - HERE;
        // Where the call's own instruction goes, too, nobody is in what goes.
        let end = if site.takes_the_call() { BACK + 6 } else { begin };
        for place in places {
            prop_assert!(place <= begin || place >= end, "{place} of {begin}");
        }
    }

    #[test]
    fn any_bytes_at_any_place_are_read_within_bounds(bytes: [u8; 16], back: usize, number: u64, has in 0..24usize) {
        // All addresses lead to the same bytes, of which so many can be read at a time.
        let read = |_: usize, into: &mut [u8]| (into.len() <= has.min(16)).then(|| into.copy_from_slice(&bytes[..into.len()]));
        if let Some(site) = site::before(back, number, read, |_| false) {
            prop_assert!(site.begin < back && back - site.begin <= 7);
        }
    }
}
