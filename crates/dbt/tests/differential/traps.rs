//! Instructions of floating-point numbers and vectors while those are switched off: each traps, and does nothing before.

use std::sync::Arc;

use dbt::{Mode, Outcome, Processor, Ram};
use isa::plan::Op;

use crate::board::Nothing;
use crate::cases::description;
use crate::program::{DATA, DATA_SIZE};
use crate::target::{BLOCK, END, Target};
use crate::values::Random;

/// How many instructions trap; the names of those that do not.
pub(crate) fn run(target: &dyn Target) -> (usize, Vec<String>) {
    let isa = Arc::new(description(target.name()));
    let ram = Ram::new(Arc::new(vm::Memory::new(DATA_SIZE).expect("memory")), DATA);
    let processor = Processor::new(Arc::clone(&isa), Mode::Interpret, ram, &mut Nothing, &[DATA]);
    let mut processor = processor.expect("a processor");
    let mut random = Random::new(3);
    let bank = target.without_float(&mut processor.registers());
    let mut before = vec![0; BLOCK];
    target.special(&mut random, &mut before);
    let (mut trapped, mut wrong) = (0, Vec::new());
    for instruction in &isa.instructions {
        let is_float = |op: &Op| match *op {
            Op::Float { .. } => true,
            Op::Read { register, .. } | Op::Write { register, .. } => isa.registers[usize::from(register)].name == bank,
            _ => false,
        };
        let is_it = |word: u32| isa.decode(word).is_some_and(|found| std::ptr::eq(found, instruction));
        if !instruction.plan.nodes.iter().any(|node| is_float(&node.op)) {
            continue;
        }
        let words = (0..1000).map(|_| instruction.value | random.next() as u32 & !instruction.mask);
        let Some(word) = words.into_iter().find(|word| is_it(*word)) else {
            wrong.push(format!("{}: no bits are it", instruction.name));
            continue;
        };
        target.put(&mut processor.registers(), &before);
        target.without_float(&mut processor.registers());
        let outcome = processor.try_word(&mut Nothing, DATA, word);
        let mut after = before.clone();
        target.take(&mut processor.registers(), &mut after);
        if outcome == Outcome::Failed && after[..END] == before[..END] {
            trapped += 1;
        } else {
            wrong.push(format!("{} {word:08x}: {outcome:?}", instruction.name));
        }
    }
    (trapped, wrong)
}
