//! A program that does cases: code, blocks of registers, and memory that cases load from and store to. It is run by qemu's
//! user mode, or, in a machine with nothing else in it, by generated code of our own.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dbt::{Mode, Processor, Ram, Stop};
use isa::Isa;

use crate::board::Nothing;
use crate::target::{BLOCK, CODE, Target, set_word};

/// Where the memory of cases is: so near to the code that instructions can say how far it is.
pub(crate) const DATA: u64 = 0x0ffc_0000;
/// Its bytes.
pub(crate) const DATA_SIZE: usize = 128 << 10;
const TEXT: u64 = 0x1000_0000;
/// Code of all cases is before it.
const BLOCKS: u64 = TEXT + (2 << 20);

/// Who runs a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    Qemu,
    Translator,
}

/// An instruction with what it is done on.
#[derive(Clone)]
pub(crate) struct Case {
    /// Which of the description's.
    pub(crate) instruction: usize,
    pub(crate) word: u32,
    pub(crate) size: u8,
    /// Registers before it.
    pub(crate) before: Vec<u8>,
    /// What they are afterwards, as the interpreter says.
    pub(crate) expected: Vec<u8>,
    /// What it did to memory: where, and what was there before.
    pub(crate) stored: Option<(usize, Vec<u8>)>,
}

/// Addresses of the instructions of so many cases.
pub(crate) fn places(target: &dyn Target, count: usize) -> Vec<u64> {
    let (begin, save) = (cases_begin(target), save_begin(target));
    let length = target.case(begin, save, 0, 4).0.len() as u64;
    (0..count as u64).map(|number| target.case(begin + number * length, save, 0, 4).1).collect()
}

fn save_begin(target: &dyn Target) -> u64 {
    TEXT + target.load(BLOCKS).len() as u64
}

fn cases_begin(target: &dyn Target) -> u64 {
    let load = target.load(BLOCKS).len();
    save_begin(target) + target.save(load, first_length(target)).len() as u64
}

/// How long it takes to load the first block's address, which is left out later.
fn first_length(target: &dyn Target) -> usize {
    if target.machine() == 183 { 16 } else { 8 }
}

/// What became of the registers of each case, and of memory. The error says how it ended instead.
pub(crate) fn run(
    engine: Engine,
    target: &dyn Target,
    isa: &Arc<Isa>,
    cases: &[Case],
    data: &[u8],
) -> Result<(Vec<Vec<u8>>, Vec<u8>), String> {
    let (text, blocks) = assembled(target, cases);
    let (blocks, memory) = match engine {
        Engine::Qemu => by_qemu(target, text, &blocks, data)?,
        Engine::Translator => by_translator(target, isa, text, &blocks, data)?,
    };
    Ok((blocks[..cases.len() * BLOCK].chunks(BLOCK).map(<[u8]>::to_vec).collect(), memory))
}

/// Code, at the end of which is what the last block jumps to; and blocks.
fn assembled(target: &dyn Target, cases: &[Case]) -> (Vec<u8>, Vec<u8>) {
    let load = target.load(BLOCKS);
    let mut text = load.clone();
    text.extend(target.save(load.len(), first_length(target)));
    let save = save_begin(target);
    let length = target.case(0, 0, 0, 4).0.len();
    let mut blocks = Vec::with_capacity((cases.len() + 1) * BLOCK);
    for case in cases {
        let at = TEXT + text.len() as u64;
        let (mut code, _) = target.case(at, save, case.word, case.size);
        // Each takes as much room as the longest.
        code.resize(length, 0);
        text.extend(code);
        let mut block = case.before.clone();
        set_word(&mut block, CODE, at);
        blocks.extend(block);
    }
    let mut last = vec![0; BLOCK];
    set_word(&mut last, CODE, TEXT + text.len() as u64);
    blocks.extend(last);
    (text, blocks)
}

type Found = Result<(Vec<u8>, Vec<u8>), String>;

/// Longer than any program takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn by_translator(target: &dyn Target, isa: &Arc<Isa>, mut text: Vec<u8>, blocks: &[u8], data: &[u8]) -> Found {
    text.extend(target.halt());
    let begin = TEXT + text.len() as u64;
    text.extend(target.begin(begin, TEXT));
    let length = (BLOCKS - DATA) as usize + blocks.len();
    let memory = vm::Memory::new(length.next_multiple_of(4096)).expect("memory");
    let ram = Ram::new(Arc::new(memory), DATA);
    for (at, content) in [(DATA, data), (TEXT, &text), (BLOCKS, blocks)] {
        ram.copy_in(at, content).expect("a program fits");
    }
    let processor = Processor::new(Arc::clone(isa), Mode::TranslateAll, ram.clone(), &mut Nothing, &[begin]);
    let mut processor = processor.expect("a processor");
    let attention = processor.attention();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if is_done.recv_timeout(PATIENCE).is_err() {
            attention.store(1, Ordering::Release);
        }
    });
    let stop = processor.run_fast(&mut Nothing);
    let _ = done.send(());
    watch.join().expect("a watch");
    if stop != Stop::Waiting {
        return Err(format!("it does not end, and is at {:#x}", processor.pc()));
    }
    let (mut after, mut memory) = (vec![0; blocks.len()], vec![0; DATA_SIZE]);
    ram.copy_out(BLOCKS, &mut after).expect("blocks");
    ram.copy_out(DATA, &mut memory).expect("memory");
    Ok((after, memory))
}

fn by_qemu(target: &dyn Target, mut text: Vec<u8>, blocks: &[u8], data: &[u8]) -> Found {
    text.extend(target.exit(&[(BLOCKS, blocks.len() as u64), (DATA, DATA_SIZE as u64)]));
    let program = elf(target.machine(), &[(TEXT, &text), (DATA, data), (BLOCKS, blocks)]);
    let file = std::env::temp_dir().join(format!("skep-differential-{}-{}", target.name(), std::process::id()));
    std::fs::write(&file, program).expect("a program is written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).expect("a program's permissions");
    let output = execute(target, &file);
    std::fs::remove_file(&file).expect("a program is removed");
    let output = output?;
    if output.len() != blocks.len() + DATA_SIZE {
        return Err(format!("{} bytes were written, not {}", output.len(), blocks.len() + DATA_SIZE));
    }
    let memory = output[blocks.len()..].to_vec();
    Ok((output, memory))
}

fn execute(target: &dyn Target, file: &std::path::Path) -> Result<Vec<u8>, String> {
    let mut child = Command::new(target.qemu())
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu begins");
    let mut output = Vec::new();
    child.stdout.take().expect("a pipe").read_to_end(&mut output).expect("a program's output");
    let status = child.wait().expect("qemu ends");
    if status.success() { Ok(output) } else { Err(format!("qemu: {status}")) }
}

/// Segments, each of which may be read, written and executed.
fn elf(machine: u16, segments: &[(u64, &[u8])]) -> Vec<u8> {
    let header = 64 + 56 * segments.len();
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend(2u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(segments[0].0.to_le_bytes());
    file.extend(64u64.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    // Of RISC-V: compressed instructions, and floating-point numbers of 64 bits in registers.
    file.extend(if machine == 243 { 5u32 } else { 0 }.to_le_bytes());
    for half in [64u16, 56, segments.len() as u16, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let mut offset = header.next_multiple_of(4096);
    for (address, content) in segments {
        file.extend(1u32.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        for word in [offset as u64, *address, *address, content.len() as u64, content.len() as u64, 4096] {
            file.extend(word.to_le_bytes());
        }
        offset = (offset + content.len()).next_multiple_of(4096);
    }
    for (_, content) in segments {
        file.resize(file.len().next_multiple_of(4096), 0);
        file.extend(*content);
    }
    file
}
