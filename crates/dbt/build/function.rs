//! A plan becomes a function: control is the plan's, and values are variables.
//!
//! **Invariant: effects stand in the plan's order.** A function does what `src/interpreter.rs` does with the same plan, which
//! `src/generated/tests.rs` compares.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::reach;
use isa::plan::{Id, MOST_ARGUMENTS, Node, Op, Plan};
use isa::{Instruction, Isa};

/// A module of all functions that are made of a description.
pub(crate) fn module(isa: &Isa) -> String {
    let mut text = format!("mod {} {{\nuse super::*;\n", isa.name);
    let mut entries = String::new();
    for (number, entry) in isa.entries.iter().enumerate() {
        let body = Function::of(isa, &entry.plan, None).body();
        let parameters = "cpu: &mut Processor, isa: &Isa, board: &mut dyn Board, arguments: &Arguments";
        let _ = writeln!(text, "/// {}\nfn entry_{number}({parameters}) -> End {{\n{body}}}", entry.name);
        let _ = write!(entries, "entry_{number}, ");
    }
    let mut instructions = String::new();
    // Two that differ in bits which are given may do the same.
    let mut made = HashMap::new();
    for (number, instruction) in isa.instructions.iter().enumerate() {
        let body = Function::of(isa, &instruction.plan, Some(instruction)).body();
        let known = *made.entry(body).or_insert_with_key(|body| {
            let parameters = "cpu: &mut Processor, isa: &Isa, board: &mut dyn Board, word: u32";
            let _ =
                writeln!(text, "/// {}\nfn instruction_{number}({parameters}) -> End {{\n{body}}}", instruction.name);
            number
        });
        let _ = write!(instructions, "instruction_{known}, ");
    }
    let _ = writeln!(
        text,
        "pub(super) const CODE: Code = Code {{\ndigest: {},\nentries: &[{entries}],\ninstructions: &[{instructions}],\n}};\n}}",
        isa.digest
    );
    text
}

/// A plan that is being written down.
pub(crate) struct Function<'p> {
    pub(crate) isa: &'p Isa,
    pub(crate) plan: &'p Plan,
    pub(crate) instruction: Option<&'p Instruction>,
    /// How each value is written.
    values: Vec<String>,
    /// Where an arm of a switch begins, and for which values.
    arms: HashMap<Id, String>,
    outlive: Vec<bool>,
    text: String,
}

impl<'p> Function<'p> {
    fn of(isa: &'p Isa, plan: &'p Plan, instruction: Option<&'p Instruction>) -> Function<'p> {
        let (values, arms, outlive) = (Vec::new(), HashMap::new(), reach::outlive(plan));
        Function { isa, plan, instruction, values, arms, outlive, text: String::new() }
    }

    fn body(mut self) -> String {
        let jumps = self.plan.nodes.iter().any(|node| matches!(node.op, Op::Jump(_)));
        if jumps {
            self.line("let mut end = End::Next;");
        }
        for (slot, width) in slots(self.plan).into_iter().enumerate() {
            self.line(&format!("let mut slot_{slot}: {} = 0;", word(width)));
        }
        for (at, node) in self.plan.nodes.iter().enumerate() {
            if self.outlive[at] {
                self.line(&format!("let mut v{at}: {} = 0;", word(node.width)));
            }
        }
        for (at, node) in self.plan.nodes.iter().enumerate() {
            if let Some(values) = self.arms.remove(&(at as Id)) {
                self.line(&format!("{values} => {{"));
            }
            self.node(at, *node);
        }
        self.line(if jumps { "end" } else { "End::Next" });
        self.text
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    pub(crate) fn value(&self, id: Id) -> &str {
        &self.values[id as usize]
    }

    fn node(&mut self, at: usize, node: Node) {
        let mut own = String::new();
        match node.op {
            Op::If(condition, _) => self.line(&format!("if {} != 0 {{", self.value(condition))),
            Op::Else(_) => self.line("} else {"),
            Op::End | Op::Leave(_) => self.line("}"),
            Op::Switch(value, table) => self.switch(value, table),
            Op::Put(slot, value) => self.line(&format!("slot_{slot} = {};", self.value(value))),
            Op::Nothing => {}
            Op::Jump(to) => self.line(&format!("end = End::Jump({});", self.value(to))),
            Op::Give(value) => self.line(&format!("return End::Give({} as u128);", self.value(value))),
            Op::Throw { entry, arguments, count } => {
                let given = self.arguments(arguments, count, MOST_ARGUMENTS);
                self.line(&format!("return End::Throw(Thrown {{ entry: {entry}, arguments: [{given}] }});"));
            }
            op => match self.expression(op, node.width, at as Id) {
                Written::Again(text) => own = text,
                Written::Once(text) => {
                    own = format!("v{at}");
                    let begin = if self.outlive[at] { "" } else { "let " };
                    self.line(&format!("{begin}v{at} = {text};"));
                }
                Written::Effect(text) => self.line(&format!("{text};")),
            },
        }
        self.values.push(own);
    }

    fn switch(&mut self, value: Id, table: u32) {
        let table = &self.plan.tables[table as usize];
        for (value, label) in &table.arms {
            if *label == table.other {
                continue;
            }
            let values = self.arms.entry(*label).or_default();
            if !values.is_empty() {
                values.push_str(" | ");
            }
            let _ = write!(values, "{value}");
        }
        self.arms.insert(table.other, "_".into());
        self.line(&format!("match {} {{", self.value(value)));
    }

    /// Those of a call, and zeros up to `least`.
    pub(crate) fn arguments(&self, at: u32, count: u8, least: usize) -> String {
        let ids = &self.plan.arguments[at as usize..at as usize + usize::from(count)];
        let mut list: Vec<String> = ids.iter().map(|id| format!("{} as u64", self.value(*id))).collect();
        list.resize(list.len().max(least), "0".into());
        list.join(", ")
    }
}

/// How the value of an operation is written.
pub(crate) enum Written {
    /// Wherever it is used, again.
    Again(String),
    /// Once, as a variable.
    Once(String),
    /// It has none.
    Effect(String),
}

/// What holds a value of so many bits.
pub(crate) fn word(width: u8) -> &'static str {
    if width <= 64 { "u64" } else { "u128" }
}

/// The widths of a plan's slots.
fn slots(plan: &Plan) -> Vec<u8> {
    let mut widths = vec![0; plan.slots.into()];
    for node in &plan.nodes {
        match node.op {
            Op::Put(slot, value) => widths[usize::from(slot)] = plan.nodes[value as usize].width,
            Op::Get(slot) => widths[usize::from(slot)] = node.width,
            _ => {}
        }
    }
    widths
}
