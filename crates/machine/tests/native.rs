//! Programs on a bare machine of the host's own kind: a few instructions of a kernel, which any KVM executes, and one that emulates
//! them in no time that anybody notices.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it lacks")]

mod said;

use std::time::Duration;

use machine::{Devices, End, Frozen, Image, Machine, Outside, Serial, Start, Thaw};

use said::Said;

/// Says its text, and switches off if the first slot has a device of virtio in it; else it faults.
#[rustfmt::skip]
const SAY_AND_LOOK: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, 0x48, 0x8d, 0x35, 0x2b, 0, 0, 0, // dx = 0x3f8; rsi = the text
    0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // each: al = a byte; if it is none, on; out
    0xb8, 0x83, 0, 0, 0xd0, 0x48, 0x89, 0x04, 0x25, 0xf8, 0xbf, 0, 0, // the last entry of the tables leads to the slots
    0x81, 0x3c, 0x25, 0, 0, 0xe0, 0x3f, b'v', b'i', b'r', b't', 0x75, 0x07, // is that "virt"?
    0x66, 0xba, 0, 0x06, 0xb0, 0x34, 0xee, // out to 0x600: off
    0x0f, 0x0b, // a fault, for which there is no table
    b's', b'a', b'i', b'd', 0,
];
const START_AGAIN: &[u8] = &[0x66, 0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xeb, 0xfe];
const FAULT: &[u8] = &[0x0f, 0x0b];
const GO_ON: &[u8] = &[0xeb, 0xfe];
/// Interrupts are off, so nothing wakes it.
const WAIT: &[u8] = &[0xf4, 0xeb, 0xfd];

/// An ELF file of a program at 16 MiB.
fn kernel(program: &[u8]) -> Vec<u8> {
    const TO: u64 = 16 << 20;
    const HEADERS: u64 = 64 + 56;
    let length = program.len() as u64;
    let words = |words: &[u64]| words.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<_>>();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[TO, 64, 0]));
    file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(words(&[1 | 7 << 32, HEADERS, TO, TO, length, length, 0x1000]));
    file.extend_from_slice(program);
    file
}

fn machine(program: &[u8], processors: usize) -> Option<(Machine, Said)> {
    let Ok(kvm) = vm::Machine::open() else {
        println!("skipped: needs /dev/kvm");
        return None;
    };
    let said = Said::default();
    let start = Start {
        kernel: Image::Bytes(&kernel(program)),
        initrd: &[],
        command_line: "",
        memory: 64 << 20,
        processors,
        mode: dbt::Mode::Translate,
        serial: Serial { output: Box::new(said.clone()), input: None },
        devices: Devices::default(),
        outside: Outside::Host,
    };
    Some((Machine::native(&vm::Host::from(kvm), start).unwrap(), said))
}

/// Longer than any of this takes.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_program_says_something_finds_a_device_and_switches_off() {
    for processors in [1, 2] {
        let Some((mut machine, said)) = machine(SAY_AND_LOOK, processors) else { return };
        assert_eq!(machine.run_for(LONG), Some(End::PowerOff));
        assert_eq!(*said.0.lock().unwrap(), b"said");
    }
}

#[test]
fn what_starts_again_or_faults_without_end_ends() {
    for program in [START_AGAIN, FAULT] {
        let Some((mut machine, _)) = machine(program, 1) else { return };
        assert_eq!(machine.run_for(LONG), Some(End::Reboot));
    }
}

#[test]
fn what_goes_on_or_waits_stands_still_when_it_is_told() {
    for program in [GO_ON, WAIT] {
        let Some((mut machine, _)) = machine(program, 2) else { return };
        assert_eq!(machine.run_for(Duration::from_millis(10)), None);
        let interrupter = machine.interrupter();
        interrupter.interrupt();
        assert_eq!(machine.run_for(LONG), None, "it is interrupted before it begins");
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            interrupter.interrupt();
        });
        assert_eq!(machine.run_for(LONG), None);
        other.join().unwrap();
    }
}

/// Says all letters, slowly. Which is next is in a register with a number and in memory; if these differ, it faults.
#[rustfmt::skip]
const SAY_LETTERS: &[u8] = &[
    0xb9, 0x02, 0x01, 0, 0xc0, 0x31, 0xd2, 0xb8, 0x61, 0, 0, 0, // ecx = the register; edx:eax = 'a'
    0xc6, 0x04, 0x25, 0, 0, 0, 2, 0x61, // at 32 MiB: 'a'
    0x0f, 0x30, // each: set the register
    0x0f, 0x31, 0x8d, 0xb8, 0, 0, 0x40, 0, // edi = the counter and four millions, so that it is slow on any processor
    0x0f, 0x31, 0x29, 0xf8, 0x78, 0xfa, // wait for that
    0xb9, 0x02, 0x01, 0, 0xc0, 0x0f, 0x32, // eax = the register
    0x3a, 0x04, 0x25, 0, 0, 0, 2, 0x75, 0x1b, // is it what is in memory?
    0x66, 0xba, 0xf8, 0x03, 0xee, // out to 0x3f8
    0x31, 0xd2, 0xff, 0xc0, 0xfe, 0x04, 0x25, 0, 0, 0, 2, // the next one
    0x3c, 0x7b, 0x75, 0xcc, // on, until behind 'z'
    0x66, 0xba, 0, 0x06, 0xb0, 0x34, 0xee, // out to 0x600: off
    0x0f, 0x0b,
];
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

fn thaw(frozen: Frozen) -> (machine::Result<Machine>, Said) {
    let said = Said::default();
    let serial = Serial { output: Box::new(said.clone()), input: None };
    let thaw = Thaw { mode: dbt::Mode::Translate, serial, devices: Devices::default() };
    (Machine::thaw_native(&vm::Host::from(vm::Machine::open().unwrap()), frozen, thaw), said)
}

/// Runs it until it has said so much.
fn run_until(machine: &mut Machine, said: &Said, length: usize) {
    while said.0.lock().unwrap().len() < length {
        assert_eq!(machine.run_for(Duration::from_millis(2)), None);
    }
}

/// The same, by its parts as text.
fn changed(frozen: &Frozen, change: impl Fn(&mut serde_json::Value)) -> Frozen {
    let mut value = serde_json::to_value(&frozen.machine).unwrap();
    change(&mut value);
    Frozen { machine: serde_json::from_value(value).unwrap(), memory: frozen.memory.clone() }
}

#[test]
fn a_copy_goes_on_from_where_its_original_stood() {
    let Some((mut machine, said)) = machine(SAY_LETTERS, 2) else { return };
    for length in [2, 5, 6] {
        run_until(&mut machine, &said, length);
        let before = said.0.lock().unwrap().len();
        let (copy, copys) = thaw(changed(&machine.freeze().unwrap(), |_| ()));
        assert_eq!(copy.unwrap().run_for(LONG), Some(End::PowerOff));
        assert_eq!(*copys.0.lock().unwrap(), LETTERS[before..], "from {before} on");
    }
    assert_eq!(machine.run_for(LONG), Some(End::PowerOff));
    assert_eq!(*said.0.lock().unwrap(), LETTERS);
}

#[test]
fn what_was_kept_is_judged() {
    use serde_json::{Value, json};
    let Some((mut machine, said)) = machine(SAY_LETTERS, 1) else { return };
    run_until(&mut machine, &said, 1);
    let frozen = machine.freeze().unwrap();
    let check = |path: &str, with: Value, wanted: &str| {
        let (thawed, _) = thaw(changed(&frozen, |it| *it.pointer_mut(path).unwrap() = with.clone()));
        let error = thawed.err().unwrap_or_else(|| panic!("{path}: {with}")).to_string();
        assert!(error.starts_with("the machine cannot go on from where it was kept: "), "{path}: {error}");
        assert!(error.contains(wanted), "{path}: {error}");
    };
    check("/architecture", "aarch64".into(), "another architecture");
    check("/processors", json!([]), "other processors");
    check("/board/version", 2.into(), "another version of this program");
    check("/board", Value::Null, "another version of this program");
    check("/board/system/irqchips", json!([]), "other interrupt controllers");
    check("/board/system/irqchips/2", json!([1, 2]), "an interrupt controller has 2 bytes and not 520");
    check("/board/system/cpuid", json!([]), "its processor is one of");
    check("/board/system/cpuid/0", json!([0, 0, 0]), "invalid length 3");
    check("/processors/0/regs", json!([7]), "regs has 1 bytes and not 144");
    check("/processors/0/xsave", json!([]), "xsave has 0 bytes and not 4096");
    check("/processors/0", json!({"mp_state": 0}), "missing field");
    check("/processors/0/msrs", json!([[0x4711_4711, 1]]), "register 0x47114711 of its processor cannot be 0x1");
    check("/devices", json!([]), "other devices");
    // Features are words of bits: one that no processor has.
    let (thawed, _) = thaw(changed(&frozen, |it| {
        let leaves = it.pointer_mut("/board/system/cpuid").and_then(Value::as_array_mut).unwrap();
        let leaf = leaves.iter_mut().find(|it| it[0] == 1).unwrap();
        leaf[6] = json!(u32::MAX);
    }));
    let error = thawed.err().unwrap().to_string();
    assert!(error.contains("the host's processor has not all that its has: it lacks bit "), "{error}");
    assert!(error.contains("bit 10 of edx of leaf 0x1.0"), "{error}");
}
