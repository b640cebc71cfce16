//! An instruction: where its fields are, when it is meant, what it does, how it is written.

use super::elaborate::{Elaborator, Value};
use super::symbols::Symbols;
use crate::ast::{self, AssemblyPart, Bits, Expr, ExprKind};
use crate::error::{Error, Result};
use crate::plan::{Op, Plan};
use crate::tables::{Assembly, Field, Instruction, Part};

/// Fields that are numbers in one of the instructions that `each` makes.
type Given<'a> = Vec<(&'a str, u64)>;
/// Not more than this many from one description.
const MOST_VARIANTS: u64 = 4096;

/// Adds it, once for each value of the fields behind `each`.
pub(super) fn compile<'a>(
    symbols: &Symbols<'a>,
    described: &'a ast::Instruction,
    unit: u8,
    list: &mut Vec<Instruction>,
) -> Result<()> {
    let layout = Layout::of(described, unit)?;
    let mut widths = Vec::new();
    for name in &described.each {
        let field = layout.fields.iter().find(|field| field.name == name.text);
        widths.push(field.ok_or_else(|| Error::at(name.place, format!("there is no field '{}'", name.text)))?.width);
    }
    let variants = 1u64 << widths.iter().map(|width| u32::from(*width)).sum::<u32>().min(63);
    if variants > MOST_VARIANTS {
        return Err(Error::at(
            described.name.place,
            format!("'each' would make more than {MOST_VARIANTS} instructions"),
        ));
    }
    for variant in 0..variants {
        let mut given = Vec::new();
        let mut rest = variant;
        for (name, width) in described.each.iter().zip(&widths) {
            given.push((name.text.as_str(), rest & crate::ops::mask64(*width)));
            rest >>= width;
        }
        if let Some(instruction) = one(symbols, described, &layout, given)? {
            list.push(instruction);
        }
    }
    Ok(())
}

/// Every list of names, in the order that `Part::Named` counts.
pub(super) fn lists(symbols: &Symbols<'_>) -> Vec<Vec<String>> {
    names(symbols).into_iter().map(|name| symbols.names[name].to_vec()).collect()
}

fn names<'a>(symbols: &Symbols<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = symbols.names.keys().copied().collect();
    names.sort_unstable();
    names
}

struct Layout {
    mask: u32,
    value: u32,
    size: u8,
    fields: Vec<Field>,
}

impl Layout {
    fn of(described: &ast::Instruction, unit: u8) -> Result<Layout> {
        let width = |bits: &Bits| match bits {
            Bits::Given { digits } => digits.len() as u32,
            Bits::Field { width, .. } => *width,
        };
        let total: u32 = described.pattern.iter().map(width).sum();
        if !(total == 32 || (total == 16 && unit == 16)) {
            return Err(Error::at(described.name.place, format!("the pattern has {total} bits")));
        }
        let mut layout = Layout { mask: 0, value: 0, size: (total / 8) as u8, fields: Vec::new() };
        let mut low = total;
        for bits in &described.pattern {
            low -= width(bits);
            match bits {
                Bits::Given { digits } => {
                    let value = u32::from_str_radix(digits, 2).unwrap_or(0);
                    layout.mask |= (crate::ops::mask64(digits.len() as u8) as u32) << low;
                    layout.value |= value << low;
                }
                Bits::Field { name, width } => {
                    if layout.fields.iter().any(|field| field.name == name.text) {
                        return Err(Error::at(name.place, format!("there is a field '{}' already", name.text)));
                    }
                    layout.fields.push(Field { name: name.text.clone(), low: low as u8, width: *width as u8 });
                }
            }
        }
        Ok(layout)
    }
}

/// One instruction, unless its conditions can't hold.
fn one<'a>(
    symbols: &Symbols<'a>,
    described: &'a ast::Instruction,
    layout: &Layout,
    given: Given<'a>,
) -> Result<Option<Instruction>> {
    let maker = Maker { symbols, described, layout, given };
    let mut when = Vec::new();
    for condition in &described.when {
        match maker.condition(condition)? {
            Condition::Never => return Ok(None),
            Condition::Always => {}
            Condition::If(plan) => when.push(plan),
        }
    }
    let mut elaborator = maker.elaborator();
    elaborator.outermost(&described.body, None)?;
    let plan = elaborator.builder.finish();
    let mut assembly = Vec::new();
    for written in &described.assembly {
        let when = match written.when.as_ref().map(|when| maker.condition(when)).transpose()? {
            Some(Condition::Never) => continue,
            Some(Condition::If(plan)) => Some(plan),
            Some(Condition::Always) | None => None,
        };
        let parts = written.parts.iter().map(|part| maker.part(part)).collect::<Result<_>>()?;
        assembly.push(Assembly { when, parts });
    }
    let (mut mask, mut value) = (layout.mask, layout.value);
    for (name, number) in &maker.given {
        for field in layout.fields.iter().filter(|field| field.name == *name) {
            mask |= (crate::ops::mask64(field.width) as u32) << field.low;
            value |= (*number as u32) << field.low;
        }
    }
    let name = described.name.text.clone();
    Ok(Some(Instruction { name, mask, value, size: layout.size, fields: layout.fields.clone(), when, assembly, plan }))
}

enum Condition {
    Never,
    Always,
    If(Plan),
}

struct Maker<'m, 'a> {
    symbols: &'m Symbols<'a>,
    described: &'a ast::Instruction,
    layout: &'m Layout,
    given: Given<'a>,
}

impl<'m, 'a> Maker<'m, 'a> {
    /// One that knows the instruction's fields.
    fn elaborator(&self) -> Elaborator<'m, 'a> {
        let mut elaborator = Elaborator::new(self.symbols);
        elaborator.size = Some(self.layout.size);
        let names = self.described.pattern.iter().filter_map(|bits| match bits {
            Bits::Field { name, .. } => Some(name.text.as_str()),
            Bits::Given { .. } => None,
        });
        for (number, (name, field)) in names.zip(&self.layout.fields).enumerate() {
            let value = match self.given.iter().find(|(given, _)| *given == name) {
                Some((_, value)) => Value::Int((*value).into()),
                None => Value::Bits(elaborator.builder.pure(Op::Field(number as u8), field.width)),
            };
            elaborator.bind(name, value);
        }
        elaborator
    }

    fn condition(&self, expr: &'a Expr) -> Result<Condition> {
        let mut elaborator = self.elaborator();
        let value = elaborator.bits(expr, 1)?;
        Ok(match elaborator.builder.known(value) {
            Some(0) => Condition::Never,
            Some(_) => Condition::Always,
            None => Condition::If(self.fixed(elaborator, value, expr)?),
        })
    }

    /// A plan that gives a value which only depends on the instruction.
    fn fixed(&self, mut elaborator: Elaborator<'m, 'a>, value: u32, expr: &Expr) -> Result<Plan> {
        elaborator.builder.effect(Op::Give(value), 0);
        let plan = elaborator.builder.finish();
        let is_fixed = |op: &Op| {
            !matches!(
                op,
                Op::Read { .. } | Op::Write { .. } | Op::Float { .. } | Op::Call { .. } | Op::Load { .. } | Op::Pc
            )
        };
        if plan.nodes.iter().all(|node| is_fixed(&node.op)) {
            return Ok(plan);
        }
        Err(Error::at(expr.place, "this may only depend on the instruction's own bits"))
    }

    fn part(&self, part: &'a AssemblyPart) -> Result<Part> {
        Ok(match part {
            AssemblyPart::Text(text) => Part::Text(text.clone()),
            AssemblyPart::Hexadecimal(expr) => Part::Hexadecimal(self.operand(expr)?),
            AssemblyPart::Signed(expr) => Part::Signed(self.operand(expr)?),
            AssemblyPart::Operand(expr) => match &expr.kind {
                ExprKind::Call(name, arguments) if self.symbols.names.contains_key(name.text.as_str()) => {
                    let [argument] = arguments.as_slice() else {
                        return Err(Error::at(name.place, "a list of names takes one number"));
                    };
                    let number = names(self.symbols).iter().position(|known| *known == name.text);
                    Part::Named(number.unwrap_or(0), self.operand(argument)?)
                }
                _ => Part::Decimal(self.operand(expr)?),
            },
        })
    }

    fn operand(&self, expr: &'a Expr) -> Result<Plan> {
        let mut elaborator = self.elaborator();
        let value = match elaborator.value(expr, None)? {
            Value::Bits(id) => id,
            number => elaborator.sized(number, 64, expr.place)?,
        };
        self.fixed(elaborator, value, expr)
    }
}
