//! Programs on a bare machine: a few instructions that tell a device what to do, and see what comes of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use machine::{Access, Devices, Disk, End, Format, Frozen, Image, Machine, Outside, Port, Serial, Start, Thaw};

/// Where a kernel that asks for `OFFSET` is.
const IMAGE: u64 = 0x8020_0000;
const OFFSET: u64 = 0x20_0000;
/// What a device writes to; before that, it is a function.
const PAGE: u64 = IMAGE + 0x1000;
/// What is to be written where: addresses and words.
const TABLE: usize = 0x2000;
const DESCRIPTORS: u64 = IMAGE + 0x3000;
const AVAILABLE: u64 = IMAGE + 0x4000;
const USED: u64 = IMAGE + 0x5000;
const REQUEST: u64 = IMAGE + 0x6000;
/// The second slot: the first is the source of entropy.
const SLOT: u64 = 0x1000_2000;
const PLIC: u64 = 0x0c00_0000;
const SOURCE: u32 = 12;

/// Calls the function at `PAGE` and puts what it gives, writes the table, calls and puts again, and switches off.
#[rustfmt::skip]
const CALL_TWICE: &[u32] = &[
    0x8020_14b7, 0x0204_9493, 0x0204_d493, // s1 = PAGE
    0x0004_80e7, 0x0480_00ef, // s1(); put
    0x0004_8413, 0x0000_13b7, 0x0074_0433, // s0 = TABLE
    0x0004_3283, 0x0002_8a63, 0x0084_3303, 0x0062_a023, 0x0104_0413, 0xfedf_f06f, // each: *address = word
    0x0004_80e7, 0x01c0_00ef, // s1(); put
    0x5352_58b7, 0x3548_8893, 0x0000_0813, 0x0000_0513, 0x0000_0593, 0x0000_0073, // off
    0x0010_0893, 0x0000_0073, 0x0000_8067, // put
    0x0000_0013, 0x0000_0013, 0x0000_0013,
];

/// Writes the table, waits for an interrupt until something was used, puts the byte at `PAGE`, and switches off.
#[rustfmt::skip]
const WAIT: &[u32] = &[
    0x8020_14b7, 0x0204_9493, 0x0204_d493, // s1 = PAGE
    0x0004_8413, 0x0000_13b7, 0x0074_0433, // s0 = TABLE
    0x0004_3283, 0x0002_8a63, 0x0084_3303, 0x0062_a023, 0x0104_0413, 0xfedf_f06f, // each: *address = word
    0x2000_0293, 0x1042_9073, // external interrupts
    0x1050_0073, 0x0000_43b7, 0x0093_83b3, 0x0023_d283, 0xfe02_88e3, // wait, until USED[1] != 0
    0x0004_c503, 0xf99f_f0ef, 0xf7df_f06f, // put, off
];
const JUMP_TO_CALL_TWICE: u32 = 0x0400_006f;
const JUMP_TO_WAIT: u32 = 0x0b00_006f;

/// `a0 = byte; return`.
fn function(byte: u8) -> [u8; 8] {
    let mut code = [0; 8];
    code[..4].copy_from_slice(&((u32::from(byte) << 20) | 0x513).to_le_bytes());
    code[4..].copy_from_slice(&0x0000_8067u32.to_le_bytes());
    code
}

/// A kernel with these descriptors, all of one request in the first queue.
fn kernel(jump: u32, descriptors: &[(u64, u32, u16)]) -> Vec<u8> {
    let mut image = vec![0; 0x8000];
    let mut put = |at: u64, bytes: &[u8]| image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    put(0, &jump.to_le_bytes());
    put(8, &OFFSET.to_le_bytes());
    put(16, &0x8000u64.to_le_bytes());
    put(56, b"RSC\x05");
    let words = CALL_TWICE.iter().chain(WAIT);
    words.enumerate().for_each(|(number, word)| put(64 + 4 * number as u64, &word.to_le_bytes()));
    put(PAGE - IMAGE, &function(b'1'));
    for (number, (at, size, flags)) in descriptors.iter().enumerate() {
        let place = DESCRIPTORS - IMAGE + 16 * number as u64;
        put(place, &at.to_le_bytes());
        put(place + 8, &size.to_le_bytes());
        put(place + 12, &flags.to_le_bytes());
        put(place + 14, &(number as u16 + 1).to_le_bytes());
    }
    put(AVAILABLE - IMAGE + 2, &1u16.to_le_bytes());
    let low = |address: u64| address as u32;
    let registers = [
        (PLIC + u64::from(SOURCE) * 4, 1),
        (PLIC + 0x2000, 1 << SOURCE),
        (SLOT + 0x70, 3),
        (SLOT + 0x24, 1),
        (SLOT + 0x20, 1),
        (SLOT + 0x70, 11),
        (SLOT + 0x38, 8),
        (SLOT + 0x80, low(DESCRIPTORS)),
        (SLOT + 0x90, low(AVAILABLE)),
        (SLOT + 0xa0, low(USED)),
        (SLOT + 0x44, 1),
        (SLOT + 0x70, 15),
        (SLOT + 0x50, 0),
    ];
    for (number, (address, word)) in registers.iter().enumerate() {
        let place = (TABLE + 16 * number) as u64;
        put(place, &address.to_le_bytes());
        put(place + 8, &word.to_le_bytes());
    }
    image
}

/// What a machine says.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Without the zeros that a program says while it is being switched off.
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap();
        bytes.iter().filter(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn description() -> Arc<isa::Isa> {
    let descriptions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../isa/riscv64");
    Arc::new(isa::compile(&isa::Source::all_in(&descriptions).unwrap()).unwrap())
}

fn machine(kernel: &[u8], devices: Devices, mode: dbt::Mode) -> (Machine, Said) {
    let said = Said::default();
    let start = Start {
        kernel: Image::Bytes(kernel),
        initrd: &[],
        command_line: "",
        memory: 16 << 20,
        processors: 1,
        mode,
        serial: Serial { output: Box::new(said.clone()), input: None },
        devices,
        outside: Outside::Host,
    };
    (Machine::new(description(), start).unwrap(), said)
}

const LONG: Duration = Duration::from_secs(3600);
const NEXT: u16 = 1;
const WRITE: u16 = 2;

#[test]
fn code_that_a_device_brings_is_what_runs() {
    for mode in [dbt::Mode::Interpret, dbt::Mode::Translate, dbt::Mode::TranslateAll, dbt::Mode::TranslateRegions] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut sector = vec![0; 512];
        sector[..8].copy_from_slice(&function(b'2'));
        std::fs::write(file.path(), sector).unwrap();
        let disk = Disk::open(file.path(), Format::Raw, Access::ReadOnly, "").unwrap();
        let devices = Devices { disks: vec![disk], ..Devices::default() };
        let request = [(REQUEST, 16, NEXT), (PAGE, 512, NEXT | WRITE), (REQUEST + 0x100, 1, WRITE)];
        let (mut machine, said) = machine(&kernel(JUMP_TO_CALL_TWICE, &request), devices, mode);
        assert_eq!(machine.run_for(LONG), Some(End::PowerOff));
        assert_eq!(said.text(), "12", "{mode:?}");
    }
}

/// A console, and its other end.
fn console() -> (Devices, UnixStream) {
    let (host, guest) = UnixStream::pair().unwrap();
    let input = Some(guest.try_clone().unwrap().into());
    let port = Port { name: "console".into(), input, output: guest.into() };
    (Devices { ports: vec![port], ..Devices::default() }, host)
}

/// A machine that waits for a byte, and the other end.
fn waiting() -> (Machine, Said, UnixStream) {
    let (devices, host) = console();
    let (machine, said) = machine(&kernel(JUMP_TO_WAIT, &[(PAGE, 64, WRITE)]), devices, dbt::Mode::Translate);
    (machine, said, host)
}

#[test]
fn a_machine_that_waits_is_woken_by_what_comes() {
    let (mut machine, said, mut host) = waiting();
    let running = std::thread::spawn(move || machine.run_for(LONG));
    // Time to fall asleep; if it does not take it, it finds the byte when it looks.
    std::thread::sleep(Duration::from_millis(50));
    host.write_all(b"x").unwrap();
    assert_eq!(running.join().unwrap(), Some(End::PowerOff));
    assert_eq!(said.text(), "x");
}

#[test]
fn a_machine_that_waits_can_be_interrupted_and_goes_on() {
    let (mut machine, said, mut host) = waiting();
    let interrupter = machine.interrupter();
    for delay in [0, 50] {
        let interrupter = interrupter.clone();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(delay));
            interrupter.interrupt();
        });
        assert_eq!(machine.run_for(LONG), None);
        other.join().unwrap();
    }
    assert_eq!(machine.run_for(Duration::from_millis(20)), None);
    host.write_all(b"y").unwrap();
    assert_eq!(machine.run_for(LONG), Some(End::PowerOff));
    assert_eq!(said.text(), "y");
}

/// A machine that goes on where another stood.
fn copy(frozen: Frozen, devices: Devices) -> machine::Result<(Machine, Said)> {
    let said = Said::default();
    let serial = Serial { output: Box::new(said.clone()), input: None };
    let thaw = Thaw { mode: dbt::Mode::Translate, serial, devices };
    Ok((Machine::thaw(description(), frozen, thaw)?, said))
}

#[test]
fn copies_of_a_machine_that_waits_are_each_woken_by_what_comes_to_them() {
    let (mut first, said, mut host) = waiting();
    assert_eq!(first.run_for(Duration::from_millis(50)), None);
    let copies = ["a", "b"].map(|text| {
        let (devices, mut host) = console();
        let (mut machine, said) = copy(first.freeze().unwrap(), devices).unwrap();
        host.write_all(text.as_bytes()).unwrap();
        assert_eq!(machine.run_for(LONG), Some(End::PowerOff));
        said.text()
    });
    assert_eq!(copies, ["a", "b"]);
    host.write_all(b"c").unwrap();
    assert_eq!(first.run_for(LONG), Some(End::PowerOff));
    assert_eq!(said.text(), "c");
}

#[test]
fn a_machine_that_has_other_devices_does_not_go_on() {
    let (mut first, _, _host) = waiting();
    let refused = copy(first.freeze().unwrap(), Devices::default()).err().unwrap();
    assert!(refused.to_string().contains("other devices"), "{refused}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [0; 512]).unwrap();
    let disk = Disk::open(file.path(), Format::Raw, Access::ReadOnly, "").unwrap();
    let devices = Devices { disks: vec![disk], ..Devices::default() };
    let (mut other, _) = machine(&kernel(JUMP_TO_WAIT, &[]), devices, dbt::Mode::Translate);
    assert!(other.freeze().unwrap_err().to_string().contains("disk"));
}
