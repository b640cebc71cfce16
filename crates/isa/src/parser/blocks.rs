//! Statements and what is made of them.

use super::Parser;
use crate::ast::{Arm, Block, Expr, ExprKind, Statement};
use crate::error::{Error, Result};
use crate::lexer::Word;

impl Parser {
    pub(super) fn block(&mut self) -> Result<Block> {
        self.sign("{")?;
        let mut block = Block::default();
        while !self.take_sign("}") {
            if let Some(statement) = self.keyword_statement()? {
                block.statements.push(statement);
                continue;
            }
            let expr = self.expr()?;
            if self.take_sign("=") {
                let value = self.expr()?;
                self.sign(";")?;
                block.statements.push(Statement::Assign { target: expr, value });
            } else if self.take_sign(";") {
                block.statements.push(Statement::Do(expr));
            } else if self.is_sign("}") {
                block.value = Some(Box::new(expr));
            } else if let Some(statement) = as_statement(expr) {
                block.statements.push(statement);
            } else {
                return Err(self.unexpected("';' or '}'"));
            }
        }
        Ok(block)
    }

    fn keyword_statement(&mut self) -> Result<Option<Statement>> {
        let Word::Name(keyword) = self.word() else { return Ok(None) };
        match keyword.as_str() {
            "let" => self.binding(false).map(Some),
            "var" => self.binding(true).map(Some),
            "for" => self.for_statement().map(Some),
            "return" => {
                let place = self.place();
                self.advance();
                let value = if self.is_sign(";") { None } else { Some(self.expr()?) };
                self.sign(";")?;
                Ok(Some(Statement::Return { value, place }))
            }
            "throw" => {
                self.advance();
                let call = self.expr()?;
                let ExprKind::Call(entry, arguments) = call.kind else {
                    return Err(Error::at(call.place, "what is thrown is an entry with its arguments"));
                };
                self.sign(";")?;
                Ok(Some(Statement::Throw { entry, arguments }))
            }
            _ => Ok(None),
        }
    }

    fn binding(&mut self, is_variable: bool) -> Result<Statement> {
        self.advance();
        let names = if self.take_sign("(") { self.list(")", Parser::name)? } else { vec![self.name()?] };
        let class = if self.take_sign(":") { Some(self.class()?) } else { None };
        self.sign("=")?;
        let value = self.expr()?;
        self.sign(";")?;
        Ok(Statement::Let { names, class, value, is_variable })
    }

    fn for_statement(&mut self) -> Result<Statement> {
        self.advance();
        let name = self.name()?;
        self.keyword("in")?;
        let from = self.expr()?;
        self.sign("..")?;
        let to = self.expr()?;
        Ok(Statement::For { name, from, to, body: self.block()? })
    }

    /// A condition before a brace.
    pub(super) fn condition(&mut self) -> Result<Expr> {
        self.expr()
    }

    pub(super) fn if_expr(&mut self) -> Result<Expr> {
        let place = self.place();
        self.keyword("if")?;
        let condition = Box::new(self.condition()?);
        let yes = self.block()?;
        let no = if !self.take_keyword("else") {
            Block::default()
        } else if self.is_keyword("if") {
            Block { statements: Vec::new(), value: Some(Box::new(self.if_expr()?)) }
        } else {
            self.block()?
        };
        Ok(Expr { kind: ExprKind::If(condition, yes, no), place })
    }

    pub(super) fn match_expr(&mut self) -> Result<Expr> {
        let place = self.place();
        self.keyword("match")?;
        let of = Box::new(self.condition()?);
        self.sign("{")?;
        let mut arms = Vec::new();
        while !self.take_sign("}") {
            arms.push(self.arm()?);
        }
        Ok(Expr { kind: ExprKind::Match(of, arms), place })
    }

    /// `1 | 2 => …,` or `_ => …`.
    fn arm(&mut self) -> Result<Arm> {
        let mut values = Vec::new();
        if !self.take_keyword("_") {
            // One level below '|', which here separates.
            values.push(self.arm_value()?);
            while self.take_sign("|") {
                values.push(self.arm_value()?);
            }
        }
        self.sign("=>")?;
        let body = if self.is_sign("{") {
            self.block()?
        } else {
            Block { statements: Vec::new(), value: Some(Box::new(self.expr()?)) }
        };
        if !self.take_sign(",") && !self.is_sign("}") && body.value.is_some() && body.statements.is_empty() {
            return Err(self.unexpected("','"));
        }
        Ok(Arm { values, body })
    }

    fn arm_value(&mut self) -> Result<Expr> {
        let place = self.place();
        match self.word().clone() {
            Word::Number(value, _) => {
                self.advance();
                Ok(Expr { kind: ExprKind::Number(value), place })
            }
            Word::Name(_) => {
                let name = self.name()?;
                let kind = if self.take_sign("(") {
                    ExprKind::Call(name, self.list(")", Parser::expr)?)
                } else {
                    ExprKind::Name(name.text)
                };
                Ok(Expr { kind, place })
            }
            _ => Err(self.unexpected("a number, a constant or '_'")),
        }
    }
}

/// An `if` or `match` needs no semicolon behind it.
fn as_statement(expr: Expr) -> Option<Statement> {
    match expr.kind {
        ExprKind::If(condition, yes, no) => Some(Statement::If { condition: *condition, yes, no }),
        ExprKind::Match(of, arms) => Some(Statement::Match { of: *of, arms }),
        _ => None,
    }
}
