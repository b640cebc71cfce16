//! Boots a kernel with its serial port on standard input and output:
//! `boot [--processors N] [--translations FILE] [--disk FILE]… [--port NAME=SOCKET]… [--share DIR]… [--net OWN=PEER]… [--balloon] [--console] KERNEL INITRD COMMAND-LINE (arm64|riscv64|ISA…)`.
//!
//! `--processors` says how many there are. `--translations` keeps code for the next boot in a file. `--console` has the guest's `hvc0` on standard input and output.

#![expect(clippy::print_stderr, reason = "it tells of the machine beside what the machine tells")]

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use machine::{
    Access, Arch, Balloon, Card, Devices, Disk, Format, Image, Machine, Outside, Port, Serial, Share, Start,
};

fn main() {
    let (devices, processors, kept, arguments) = devices();
    // Who has a console types there.
    let typed = if devices.ports.is_empty() { std::io::stdin().as_fd().try_clone_to_owned().ok() } else { None };
    let read = |name: &str| std::fs::read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let open = |name: &str| File::open(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let arch = match arguments[3].as_str() {
        "arm64" => Some(Arch::Arm64),
        "riscv64" => Some(Arch::Riscv64),
        _ => None,
    };
    let isa = match arch {
        Some(arch) => machine::isa(arch).unwrap_or_else(|error| panic!("{error}")),
        None => Arc::new(compiled(&arguments[3..])),
    };
    let start = Start {
        kernel: Image::File(&open(&arguments[0])),
        initrd: &read(&arguments[1]),
        command_line: &arguments[2],
        memory: 512 << 20,
        processors,
        mode: if std::env::var_os("INTERPRET").is_some() { dbt::Mode::Interpret } else { machine::tier() },
        serial: Serial { output: Box::new(std::io::stdout()), input: typed },
        devices,
        outside: Outside::Host,
    };
    let mut machine = Machine::new(isa, start).unwrap_or_else(|error| panic!("{error}"));
    if let (Some(arch), Some(path)) = (arch, kept) {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.unwrap_or_else(|error| panic!("{path}: {error}"));
        machine.share(machine::translations(arch, file).unwrap_or_else(|error| panic!("{error}")));
    }
    let began = Instant::now();
    loop {
        let end = if std::env::var_os("INTERPRET").is_some() {
            machine.run(100_000_000)
        } else {
            machine.run_for(std::time::Duration::from_secs(2))
        };
        let (count, time) = (machine.count(), began.elapsed());
        let blocks = machine.blocks();
        eprintln!("[{count} instructions, {blocks} blocks, {time:.1?}, at {:x?}]", machine.places());
        if let Some(end) = end {
            eprintln!("[{end:?}]");
            for (name, count) in machine.interpreted().into_iter().take(20) {
                eprintln!("{count:12} {name}");
            }
            return;
        }
    }
}

/// A description that is being worked on.
fn compiled(files: &[String]) -> isa::Isa {
    let text = |name: &String| std::fs::read_to_string(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let sources: Vec<isa::Source> =
        files.iter().map(|name| isa::Source { name: name.clone(), text: text(name) }).collect();
    isa::compile(&sources).unwrap_or_else(|error| panic!("{error}"))
}

/// Options, and what is left.
fn devices() -> (Devices, usize, Option<String>, Vec<String>) {
    let mut devices = Devices::default();
    let mut left = Vec::new();
    let (mut processors, mut kept) = (1, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("a value");
        match argument.as_str() {
            "--disk" => {
                let path = value();
                let format = if path.ends_with(".qcow2") { Format::Qcow2 } else { Format::Raw };
                let disk = Disk::open(Path::new(&path), format, Access::ReadWrite, "disk");
                devices.disks.push(disk.unwrap_or_else(|error| panic!("{error}")));
            }
            "--processors" => processors = value().parse().expect("a number"),
            "--translations" => kept = Some(value()),
            "--balloon" => devices.balloon = Some(Balloon::new().expect("a balloon")),
            "--console" => {
                let input = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input");
                let output = std::io::stdout().as_fd().try_clone_to_owned().expect("standard output");
                devices.ports.insert(0, Port { name: "console".into(), input: Some(input), output });
            }
            "--port" => {
                let value = value();
                let (name, path) = value.split_once('=').expect("NAME=SOCKET");
                let output = UnixStream::connect(path).unwrap_or_else(|error| panic!("{path}: {error}"));
                output.set_nonblocking(true).expect("a socket");
                let input = Some(output.try_clone().expect("a socket").into());
                devices.ports.push(Port { name: name.into(), input, output: output.into() });
            }
            "--share" => {
                let directory = std::fs::File::open(value()).expect("a directory").into();
                let tag = format!("share{}", devices.shares.len());
                devices.shares.push(Share { tag, directory, access: Access::ReadWrite });
            }
            "--net" => {
                let value = value();
                let (own, peer) = value.split_once('=').expect("OWN=PEER");
                let own = UnixDatagram::bind(own).unwrap_or_else(|error| panic!("{own}: {error}"));
                own.connect(peer).unwrap_or_else(|error| panic!("{peer}: {error}"));
                own.set_nonblocking(true).expect("a socket");
                let address = [2, 0, 0, 0, 0, 1 + devices.cards.len() as u8];
                devices.cards.push(Card { address, frames: own.into(), source: None });
            }
            _ => left.push(argument),
        }
    }
    (devices, processors, kept, left)
}
