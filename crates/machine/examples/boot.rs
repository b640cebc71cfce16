//! Boots a kernel with its console on standard output: `boot KERNEL INITRD COMMAND-LINE ISA…`.

use std::sync::Arc;
use std::time::Instant;

use machine::{Machine, Start};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let read = |name: &str| std::fs::read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let sources: Vec<isa::Source> = arguments[3..]
        .iter()
        .map(|name| isa::Source { name: name.clone(), text: String::from_utf8(read(name)).expect("text") })
        .collect();
    let isa = isa::compile(&sources).unwrap_or_else(|error| panic!("{error}"));
    let start = Start {
        kernel: &read(&arguments[0]),
        initrd: &read(&arguments[1]),
        command_line: &arguments[2],
        memory: 512 << 20,
        mode: if std::env::var_os("INTERPRET").is_some() { dbt::Mode::Interpret } else { dbt::Mode::Translate },
        output: Box::new(std::io::stdout()),
    };
    let mut machine = Machine::new(Arc::new(isa), start).unwrap_or_else(|error| panic!("{error}"));
    let began = Instant::now();
    loop {
        let end = if std::env::var_os("INTERPRET").is_some() {
            machine.run(100_000_000)
        } else {
            machine.run_for(std::time::Duration::from_secs(2))
        };
        let (count, time) = (machine.count(), began.elapsed());
        let blocks = machine.blocks();
        eprintln!("[{count} instructions, {blocks} blocks, {time:.1?}, at {:#x}]", machine.pc());
        if let Some(end) = end {
            eprintln!("[{end:?}]");
            return;
        }
    }
}
