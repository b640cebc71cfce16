//! Instructions as they are written.

use std::fmt::Write as _;

use crate::fixed;
use crate::ops::signed;
use crate::plan::{Op, Plan};
use crate::tables::{Instruction, Isa, Part};

impl Isa {
    /// How an instruction is written; nothing if these bits are none, or its description does not say.
    pub fn disassemble(&self, word: u32) -> Option<String> {
        let instruction = &self.instructions[self.decoder.decode(&self.instructions, word)?];
        let value = |plan: &Plan| fixed::evaluate(plan, &instruction.fields, word);
        let holds = |when: &Option<Plan>| when.as_ref().is_none_or(|when| value(when) == 1);
        let assembly = instruction.assembly.iter().find(|assembly| holds(&assembly.when))?;
        let mut text = String::new();
        for part in &assembly.parts {
            // Writing into a text does not fail.
            let _ = match part {
                Part::Text(given) => write!(text, "{given}"),
                Part::Decimal(plan) => write!(text, "{}", value(plan)),
                Part::Hexadecimal(plan) => write!(text, "{:#x}", value(plan)),
                Part::Signed(plan) => write!(text, "{}", signed(value(plan), given_width(plan))),
                Part::Named(list, plan) => {
                    let number = value(plan);
                    let name = usize::try_from(number).ok().and_then(|number| self.names[*list].get(number));
                    write!(text, "{}", name.map_or("?", String::as_str))
                }
            };
        }
        Some(text)
    }

    /// The instruction that these bits are.
    pub fn decode(&self, word: u32) -> Option<&Instruction> {
        self.decoder.decode(&self.instructions, word).map(|at| &self.instructions[at])
    }
}

/// The width of what a plan gives.
fn given_width(plan: &Plan) -> u8 {
    plan.nodes
        .iter()
        .find_map(|node| match node.op {
            Op::Give(value) => Some(plan.nodes[value as usize].width),
            _ => None,
        })
        .unwrap_or(64)
}
