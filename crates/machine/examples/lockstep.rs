//! Boots a kernel twice at once, translated and interpreted, and compares them after each stretch:
//! `lockstep (turn|wanted) (patient|eager|regions) MOST KERNEL INITRD (arm64|riscv64)`.
//!
//! It ends well if both did the same until they were switched off, or for so many instructions, and their memories are the
//! same then.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "it tells of both, beside what one of them tells")]

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use dbt::{Mode, Stretch};
use machine::{Arch, Devices, Image, Outside, Pair, Serial, Start};

/// Instructions between two lines that say how far it is.
const SAID: u64 = 100_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [stretch, effort, most, kernel, initrd, architecture] = arguments.as_slice() else { panic!("six arguments") };
    let stretch = if stretch == "turn" { Stretch::Turn } else { Stretch::Wanted };
    let leads = match effort.as_str() {
        "eager" => Mode::TranslateAll,
        "regions" => Mode::TranslateRegions,
        _ => Mode::Translate,
    };
    let most: u64 = most.parse().unwrap_or_else(|error| panic!("{most}: {error}"));
    let read = |name: &str| std::fs::read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (kernel, initrd) = (read(kernel), read(initrd));
    let (arch, console) = match architecture.as_str() {
        "arm64" => (Arch::Arm64, "ttyAMA0"),
        _ => (Arch::Riscv64, "ttyS0"),
    };
    let command_line = format!("console={console} panic=-1");
    let start = |mode| Start {
        kernel: Image::Bytes(&kernel),
        initrd: &initrd,
        command_line: &command_line,
        memory: 256 << 20,
        processors: 1,
        mode,
        serial: Serial { output: output(mode), input: None },
        devices: Devices::default(),
        outside: Outside::Nothing,
    };
    let isa = machine::isa(arch).unwrap_or_else(|error| panic!("{error}"));
    let mut pair = Pair::new(&isa, leads, start).unwrap_or_else(|error| panic!("{error}"));
    let began = Instant::now();
    let end = loop {
        match pair.run(stretch, SAID.min(most.saturating_sub(pair.instructions()))) {
            Ok(None) if pair.instructions() < most => {}
            Ok(end) => break end,
            Err(parted) => {
                println!("{parted}");
                if let Some(at) = pair.differs_at() {
                    println!("memory differs from {at:#x} on");
                }
                return ExitCode::FAILURE;
            }
        }
        let (instructions, stretches) = (pair.instructions() / 1_000_000, pair.stretches());
        eprintln!("[{instructions} million instructions, {stretches} stretches, {:.1?}]", began.elapsed());
    };
    if let Some(at) = pair.differs_at() {
        println!("memory differs at {at:#x}");
        return ExitCode::FAILURE;
    }
    let (instructions, stretches, blocks) = (pair.instructions(), pair.stretches(), pair.blocks());
    let (lookalikes, time) = (pair.lookalikes(), began.elapsed());
    println!(
        "the same: {instructions} instructions, {stretches} stretches, {lookalikes} places that registers alone would have \
         taken for an end, {blocks} blocks, {time:.1?}, {end:?}"
    );
    ExitCode::SUCCESS
}

/// One of both says what the kernel says.
fn output(mode: Mode) -> Box<dyn Write + Send> {
    if mode == Mode::Interpret { Box::new(std::io::sink()) } else { Box::new(std::io::stderr()) }
}
