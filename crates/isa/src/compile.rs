//! Items become tables: names are collected first, so that order does not matter, but for constants.

mod assign;
mod builder;
mod builtins;
mod elaborate;
mod expr;
mod instruction;
mod meet;
mod simplify;
mod symbols;
mod systems;

use self::elaborate::{Elaborator, Flow, Value};
use self::symbols::Symbols;
use crate::ast::{Expr, Function, Item, RegisterKind, Type};
use crate::decode::Decoder;
use crate::error::{Error, Place, Result};
use crate::plan::Op;
use crate::tables::{Entry, Extern, Isa};

/// Compiles what sources say, whose digest is given.
pub(crate) fn compile(items: &[Item], digest: u64) -> Result<Isa> {
    let mut symbols = Symbols::default();
    let (name, unit) = arch(items, &symbols)?;
    collect(items, &mut symbols)?;
    registers(items, &mut symbols)?;
    systems(items, &mut symbols)?;
    let symbols = symbols;

    let entries = symbols.entries.iter().map(|function| entry(&symbols, function)).collect::<Result<_>>()?;
    let mut instructions = Vec::new();
    let mut places = Vec::new();
    for item in items {
        if let Item::Instruction(described) = item {
            let before = instructions.len();
            instruction::compile(&symbols, described, unit, &mut instructions)?;
            places.extend((before..instructions.len()).map(|_| described.name.place));
        }
    }
    let decoder = Decoder::new(&instructions).map_err(|clash| {
        let (one, other) = (&instructions[clash.0].name, &instructions[clash.1].name);
        Error::at(places[clash.1], format!("'{one}' and '{other}' have bits in common: say 'when' each is meant"))
    })?;
    let externs = symbols.externs.iter();
    let externs =
        externs.map(|signature| Extern { name: signature.name.text.clone(), is_sync: signature.is_sync }).collect();
    let names = instruction::lists(&symbols);
    Ok(Isa { name, digest, unit, registers: symbols.registers, externs, entries, instructions, decoder, names })
}

fn arch(items: &[Item], symbols: &Symbols<'_>) -> Result<(String, u8)> {
    let found = items.iter().find_map(|item| match item {
        Item::Arch { name, unit } => Some((name, unit)),
        _ => None,
    });
    let (name, unit) = found.ok_or_else(|| Error::at(Place::default(), "there is no 'arch NAME unit BITS;'"))?;
    match number(symbols, unit)? {
        bits @ (16 | 32) => Ok((name.clone(), bits as u8)),
        bits => Err(Error::at(unit.place, format!("instructions of {bits} bits are not known"))),
    }
}

fn collect<'a>(items: &'a [Item], symbols: &mut Symbols<'a>) -> Result<()> {
    for item in items {
        match item {
            Item::Const { name, .. } | Item::Instruction(crate::ast::Instruction { name, .. }) => symbols.take(name)?,
            Item::Register(register) => symbols.take(&register.name)?,
            Item::Names { name, list } => {
                symbols.take(name)?;
                symbols.names.insert(&name.text, list);
            }
            Item::Extern(signature) => {
                symbols.take(&signature.name)?;
                symbols.externs.push(signature);
            }
            Item::Function(function) => {
                symbols.take(&function.signature.name)?;
                symbols.functions.insert(&function.signature.name.text, function);
            }
            Item::Entry(function) => {
                symbols.take(&function.signature.name)?;
                symbols.entries.push(function);
            }
            Item::Arch { .. } | Item::System(_) => {}
        }
    }
    for item in items {
        if let Item::Const { name, value } = item {
            let value = number(symbols, value)?;
            symbols.constants.insert(&name.text, value);
        }
    }
    Ok(())
}

fn registers<'a>(items: &'a [Item], symbols: &mut Symbols<'a>) -> Result<()> {
    for item in items {
        let Item::Register(register) = item else { continue };
        let (width, count) = {
            let mut elaborator = Elaborator::new(symbols);
            let width = elaborator.width_of(&register.class, register.name.place)?;
            let count = register.count.as_ref().map(|count| elaborator.int(count)).transpose()?;
            (width, count)
        };
        let count = match count {
            None => None,
            Some(count @ 1..=4096) => Some(count as u32),
            Some(_) => return Err(Error::at(register.name.place, "a bank has 1 to 4,096 registers")),
        };
        symbols.add_register(&register.name.text, width, count, register.kind);
    }
    Ok(())
}

/// Those of which a body is missing are plain registers, unless there is one already.
fn systems<'a>(items: &'a [Item], symbols: &mut Symbols<'a>) -> Result<()> {
    for item in items {
        let Item::System(system) = item else { continue };
        let key = number(symbols, &system.key)?;
        if let Some((_, other)) = symbols.systems.iter().find(|(other, _)| *other == key) {
            let message = format!("'{}' has this key already", other.name.text);
            return Err(Error::at(system.name.place, message));
        }
        symbols.systems.push((key, system));
        let is_plain =
            (system.reads.is_some() && system.read.is_none()) || (system.writes.is_some() && system.write.is_none());
        if is_plain && !symbols.is_register(&system.name.text) {
            symbols.add_register(&system.name.text, 64, None, RegisterKind::One);
        }
    }
    Ok(())
}

/// A number that needs nothing but constants.
fn number<'a>(symbols: &Symbols<'a>, expr: &'a Expr) -> Result<i128> {
    Elaborator::new(symbols).int(expr)
}

fn entry(symbols: &Symbols<'_>, function: &Function) -> Result<Entry> {
    let signature = &function.signature;
    let mut elaborator = Elaborator::new(symbols);
    if signature.parameters.len() > crate::plan::MOST_ARGUMENTS {
        return Err(Error::at(signature.name.place, "an entry has at most six parameters"));
    }
    for (number, (name, class)) in signature.parameters.iter().enumerate() {
        let width = elaborator.width_of(class, name.place)?;
        let id = elaborator.builder.effect(Op::Argument(number as u8), width);
        elaborator.bind(&name.text, Value::Bits(id));
    }
    let width = match &signature.result {
        Type::Tuple(none) if none.is_empty() => None,
        class => Some(elaborator.width_of(class, signature.name.place)?),
    };
    match (elaborator.outermost(&function.body, width)?, width) {
        (Flow::Value(value) | Flow::Returned(value), Some(width)) => {
            let value = elaborator.sized(value, width, signature.name.place)?;
            elaborator.builder.effect(Op::Give(value), 0);
        }
        (Flow::Value(_) | Flow::Returned(_) | Flow::Diverged, _) => {}
    }
    let arguments = signature.parameters.len() as u8;
    Ok(Entry { name: signature.name.text.clone(), arguments, plan: elaborator.builder.finish() })
}
