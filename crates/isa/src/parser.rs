//! Words become items. A hand-written recursive descent: one function for each thing that the language has.
//!
//! `docs/reference/isa.md` describes the language. Whatever is refused is refused at the word at which it can't go on.

mod blocks;
mod expressions;
mod instructions;

use crate::ast::{Expr, ExprKind, Function, Item, Name, Register, RegisterKind, Signature, System, Type};
use crate::error::{Error, Place, Result};
use crate::lexer::{self, Token, Word};

/// Reads source number `source`.
pub(crate) fn parse(source: u32, text: &str) -> Result<Vec<Item>> {
    let mut parser = Parser { tokens: lexer::split(source, text)?, at: 0 };
    let mut items = Vec::new();
    while *parser.word() != Word::End {
        items.push(parser.item()?);
    }
    Ok(items)
}

/// Reads one expression, which stands in a text at `place`.
fn parse_expression(place: Place, text: &str) -> Result<Expr> {
    let mut tokens = lexer::split(place.source, text)?;
    tokens.iter_mut().for_each(|token| token.place.offset += place.offset);
    let mut parser = Parser { tokens, at: 0 };
    let expr = parser.expr()?;
    if *parser.word() == Word::End { Ok(expr) } else { Err(parser.unexpected("the end of the expression")) }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn word(&self) -> &Word {
        &self.tokens[self.at].word
    }

    fn place(&self) -> Place {
        self.tokens[self.at].place
    }

    fn advance(&mut self) {
        // The last is the end, which is never left.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn unexpected(&self, wanted: &str) -> Error {
        let found = match self.word() {
            Word::Name(name) => format!("'{name}'"),
            Word::Number(_, digits) => format!("'{digits}'"),
            Word::Text(text) => format!("\"{text}\""),
            Word::Sign(sign) => format!("'{sign}'"),
            Word::End => "the end of the file".into(),
        };
        Error::at(self.place(), format!("{wanted} was expected, and there is {found}"))
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.word(), Word::Sign(found) if *found == sign)
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.word(), Word::Name(found) if found == keyword)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is = self.is_sign(sign);
        if is {
            self.advance();
        }
        is
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let is = self.is_keyword(keyword);
        if is {
            self.advance();
        }
        is
    }

    fn sign(&mut self, sign: &str) -> Result<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.unexpected(&format!("'{sign}'"))) }
    }

    fn keyword(&mut self, keyword: &str) -> Result<()> {
        if self.take_keyword(keyword) { Ok(()) } else { Err(self.unexpected(&format!("'{keyword}'"))) }
    }

    fn name(&mut self) -> Result<Name> {
        let place = self.place();
        let Word::Name(text) = self.word() else { return Err(self.unexpected("a name")) };
        let text = text.clone();
        self.advance();
        Ok(Name { text, place })
    }

    fn text(&mut self) -> Result<String> {
        let Word::Text(text) = self.word() else { return Err(self.unexpected("a text in quotes")) };
        let text = text.clone();
        self.advance();
        Ok(text)
    }

    /// What `one` reads, with commas between, up to the sign `end`, which is taken.
    fn list<T>(&mut self, end: &str, mut one: impl FnMut(&mut Parser) -> Result<T>) -> Result<Vec<T>> {
        let mut list = Vec::new();
        while !self.take_sign(end) {
            list.push(one(self)?);
            if !self.is_sign(end) {
                self.sign(",")?;
            }
        }
        Ok(list)
    }

    fn item(&mut self) -> Result<Item> {
        let Word::Name(keyword) = self.word() else { return Err(self.unexpected("an item")) };
        match keyword.as_str() {
            "arch" => self.arch(),
            "bank" => self.register(RegisterKind::Bank),
            "reg" => self.register(RegisterKind::One),
            "mode" => self.register(RegisterKind::Mode),
            "const" => self.constant(),
            "names" => self.names(),
            "extern" => {
                self.advance();
                let mut signature = self.signature()?;
                signature.is_sync = self.take_keyword("sync");
                self.sign(";")?;
                Ok(Item::Extern(signature))
            }
            "fn" => Ok(Item::Function(self.function()?)),
            "entry" => {
                self.advance();
                Ok(Item::Entry(self.function()?))
            }
            "sysreg" => self.system(),
            "insn" => self.instruction(),
            _ => Err(self
                .unexpected("an item (arch, bank, reg, mode, const, names, extern fn, fn, entry fn, sysreg or insn)")),
        }
    }

    fn arch(&mut self) -> Result<Item> {
        self.keyword("arch")?;
        let name = self.name()?.text;
        self.keyword("unit")?;
        let unit = self.expr()?;
        self.sign(";")?;
        Ok(Item::Arch { name, unit })
    }

    fn register(&mut self, kind: RegisterKind) -> Result<Item> {
        self.advance();
        let name = self.name()?;
        let mut count = None;
        if kind == RegisterKind::Bank {
            self.sign("[")?;
            count = Some(self.expr()?);
            self.sign("]")?;
        }
        self.sign(":")?;
        let class = self.class()?;
        self.sign(";")?;
        Ok(Item::Register(Register { name, count, class, kind }))
    }

    fn constant(&mut self) -> Result<Item> {
        self.keyword("const")?;
        let name = self.name()?;
        self.sign("=")?;
        let value = self.expr()?;
        self.sign(";")?;
        Ok(Item::Const { name, value })
    }

    /// `names NAME = "a", "b", "x" 0..30;`
    fn names(&mut self) -> Result<Item> {
        self.keyword("names")?;
        let name = self.name()?;
        self.sign("=")?;
        let mut list = Vec::new();
        for part in self.list(";", |parser| {
            let text = parser.text()?;
            let Word::Number(from, _) = *parser.word() else { return Ok(vec![text]) };
            parser.advance();
            parser.sign("..")?;
            let Word::Number(to, _) = *parser.word() else { return Err(parser.unexpected("a number")) };
            parser.advance();
            Ok((from..to.min(from + 1024)).map(|number| format!("{text}{number}")).collect())
        })? {
            list.extend(part);
        }
        Ok(Item::Names { name, list })
    }

    fn signature(&mut self) -> Result<Signature> {
        self.keyword("fn")?;
        let name = self.name()?;
        self.sign("(")?;
        let parameters = self.list(")", |parser| {
            let name = parser.name()?;
            parser.sign(":")?;
            Ok((name, parser.class()?))
        })?;
        let result = if self.take_sign("->") { self.class()? } else { Type::Tuple(Vec::new()) };
        Ok(Signature { name, parameters, result, is_sync: false })
    }

    fn function(&mut self) -> Result<Function> {
        let signature = self.signature()?;
        Ok(Function { signature, body: self.block()? })
    }

    /// `int`, `u32`, `bits(W)`, `(u64, u4)`.
    fn class(&mut self) -> Result<Type> {
        if self.take_sign("(") {
            return Ok(Type::Tuple(self.list(")", Parser::class)?));
        }
        let name = self.name()?;
        if name.text == "int" {
            return Ok(Type::Int);
        }
        if name.text == "bits" {
            self.sign("(")?;
            let width = self.expr()?;
            self.sign(")")?;
            return Ok(Type::Bits(Box::new(width)));
        }
        let width = name.text.strip_prefix('u').and_then(|digits| digits.parse::<u128>().ok());
        let width = width.ok_or_else(|| Error::at(name.place, format!("'{}' is no type", name.text)))?;
        Ok(Type::Bits(Box::new(Expr { kind: ExprKind::Number(width), place: name.place })))
    }

    /// `sysreg NAME at KEY reads 1 writes 1 { read { … } write(v) { … } }`, or `;` instead of the braces.
    fn system(&mut self) -> Result<Item> {
        self.keyword("sysreg")?;
        let name = self.name()?;
        self.keyword("at")?;
        let key = self.expr()?;
        let reads = if self.take_keyword("reads") { Some(self.expr()?) } else { None };
        let writes = if self.take_keyword("writes") { Some(self.expr()?) } else { None };
        let mut system = System { name, key, reads, writes, read: None, write: None };
        if self.take_sign(";") {
            return Ok(Item::System(Box::new(system)));
        }
        self.sign("{")?;
        while !self.take_sign("}") {
            if self.take_keyword("read") {
                system.read = Some(self.block()?);
            } else if self.take_keyword("write") {
                self.sign("(")?;
                let value = self.name()?;
                self.sign(")")?;
                system.write = Some((value, self.block()?));
            } else {
                return Err(self.unexpected("'read' or 'write'"));
            }
        }
        Ok(Item::System(Box::new(system)))
    }
}
