//! Instructions: patterns of bits, conditions, and how they are written in assembly.

use super::{Parser, parse_expression};
use crate::ast::{Assembly, AssemblyPart, Bits, Block, Instruction, Item};
use crate::error::{Error, Place, Result};
use crate::lexer::Word;

impl Parser {
    /// `insn NAME = sf 00 100010 sh imm12:12 rn:5 rd:5 each sf when … asm "…" { … }`
    pub(super) fn instruction(&mut self) -> Result<Item> {
        self.keyword("insn")?;
        let name = self.name()?;
        self.sign("=")?;
        let mut instruction = Instruction {
            name,
            pattern: Vec::new(),
            each: Vec::new(),
            when: Vec::new(),
            assembly: Vec::new(),
            body: Block::default(),
        };
        while !(self.is_sign("{") || self.is_clause()) {
            instruction.pattern.push(self.bits()?);
        }
        while !self.is_sign("{") {
            self.clause(&mut instruction)?;
        }
        instruction.body = self.block()?;
        Ok(Item::Instruction(instruction))
    }

    fn is_clause(&self) -> bool {
        ["each", "when", "asm"].iter().any(|keyword| self.is_keyword(keyword))
    }

    fn bits(&mut self) -> Result<Bits> {
        if let Word::Number(_, digits) = self.word() {
            let digits = digits.clone();
            if !digits.chars().all(|digit| matches!(digit, '0' | '1')) {
                return Err(self.unexpected("a pattern's bits"));
            }
            self.advance();
            return Ok(Bits::Given { digits });
        }
        let name = self.name()?;
        if !self.take_sign(":") {
            return Ok(Bits::Field { name, width: 1 });
        }
        let Word::Number(width @ 1..=32, _) = *self.word() else { return Err(self.unexpected("a width of 1 to 32")) };
        self.advance();
        Ok(Bits::Field { name, width: width as u32 })
    }

    fn clause(&mut self, instruction: &mut Instruction) -> Result<()> {
        if self.take_keyword("each") {
            instruction.each.push(self.name()?);
            while self.take_sign(",") {
                instruction.each.push(self.name()?);
            }
        } else if self.take_keyword("when") {
            instruction.when.push(self.condition()?);
        } else if self.take_keyword("asm") {
            let place = self.place();
            let text = self.text()?;
            // The place of the text is that of its opening quote.
            let inner = Place { offset: place.offset + 1, ..place };
            let when = if self.take_keyword("when") { Some(self.condition()?) } else { None };
            instruction.assembly.push(Assembly { parts: assembly(inner, &text)?, when });
        } else {
            return Err(self.unexpected("'each', 'when', 'asm' or the body"));
        }
        Ok(())
    }
}

/// Splits `add {r(rd)}, #{imm}`. Two opening braces are one that is meant as it is.
fn assembly(place: Place, text: &str) -> Result<Vec<AssemblyPart>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            parts.push(AssemblyPart::Text(rest[..open].into()));
        }
        if let Some(behind) = rest[open..].strip_prefix("{{") {
            parts.push(AssemblyPart::Text("{".into()));
            rest = behind;
            continue;
        }
        let here = Place { offset: place.offset + (text.len() - rest.len() + open) as u32, ..place };
        let length = rest[open..].find('}').ok_or_else(|| Error::at(here, "this brace is not closed"))?;
        parts.push(operand(Place { offset: here.offset + 1, ..here }, &rest[open + 1..open + length])?);
        rest = &rest[open + length + 1..];
    }
    if !rest.is_empty() {
        parts.push(AssemblyPart::Text(rest.into()));
    }
    Ok(parts)
}

/// What stands between braces.
fn operand(place: Place, text: &str) -> Result<AssemblyPart> {
    let after = Place { offset: place.offset + 2, ..place };
    if let Some(rest) = text.strip_prefix("x:") {
        return Ok(AssemblyPart::Hexadecimal(parse_expression(after, rest)?));
    }
    if let Some(rest) = text.strip_prefix("s:") {
        return Ok(AssemblyPart::Signed(parse_expression(after, rest)?));
    }
    Ok(AssemblyPart::Operand(parse_expression(place, text)?))
}
