//! Expressions, by precedence: the operators are those of Rust, and bind as they do there.

use super::Parser;
use crate::ast::{Binary, Expr, ExprKind, Unary};
use crate::error::Result;
use crate::lexer::Word;

/// Loosest first.
const LEVELS: &[&[(&str, Binary)]] = &[
    &[("||", Binary::Or)],
    &[("&&", Binary::And)],
    &[
        ("==", Binary::Equal),
        ("!=", Binary::Unequal),
        ("<=", Binary::LessEqual),
        (">=", Binary::GreaterEqual),
        ("<", Binary::Less),
        (">", Binary::Greater),
    ],
    &[("|", Binary::BitOr)],
    &[("^", Binary::BitXor)],
    &[("&", Binary::BitAnd)],
    &[("<<", Binary::ShiftLeft), (">>", Binary::ShiftRight)],
    &[("+", Binary::Add), ("-", Binary::Subtract)],
    &[("*", Binary::Multiply)],
];

impl Parser {
    pub(super) fn expr(&mut self) -> Result<Expr> {
        self.level(0)
    }

    fn level(&mut self, level: usize) -> Result<Expr> {
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.level(level + 1)?;
        while let Some((_, operator)) = operators.iter().find(|(sign, _)| self.is_sign(sign)) {
            let place = self.place();
            self.advance();
            let right = self.level(level + 1)?;
            left = Expr { kind: ExprKind::Binary(*operator, Box::new(left), Box::new(right)), place };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr> {
        let place = self.place();
        let operator = match self.word() {
            Word::Sign("-") => Unary::Negate,
            Word::Sign("~") => Unary::Invert,
            Word::Sign("!") => Unary::Not,
            _ => return self.postfix(),
        };
        self.advance();
        Ok(Expr { kind: ExprKind::Unary(operator, Box::new(self.unary()?)), place })
    }

    fn postfix(&mut self) -> Result<Expr> {
        let mut expr = self.primary()?;
        while self.is_sign("[") {
            let place = self.place();
            self.advance();
            let first = Box::new(self.expr()?);
            let base = Box::new(expr);
            let kind = if self.take_sign(":") {
                ExprKind::Slice(base, first, Box::new(self.expr()?))
            } else {
                ExprKind::Index(base, first)
            };
            self.sign("]")?;
            expr = Expr { kind, place };
        }
        Ok(expr)
    }

    fn primary(&mut self) -> Result<Expr> {
        let place = self.place();
        let kind = match self.word().clone() {
            Word::Number(value, _) => {
                self.advance();
                ExprKind::Number(value)
            }
            Word::Name(name) => match name.as_str() {
                "if" => return self.if_expr(),
                "match" => return self.match_expr(),
                _ => {
                    let name = self.name()?;
                    if self.take_sign("(") {
                        ExprKind::Call(name, self.list(")", Parser::expr)?)
                    } else {
                        ExprKind::Name(name.text)
                    }
                }
            },
            Word::Sign("(") => {
                self.advance();
                let mut list = self.list(")", Parser::expr)?;
                match list.len() {
                    1 => return Ok(list.remove(0)),
                    _ => ExprKind::Tuple(list),
                }
            }
            Word::Sign("{") => ExprKind::Block(self.block()?),
            _ => return Err(self.unexpected("an expression")),
        };
        Ok(Expr { kind, place })
    }
}
