//! Statements become operations.
//!
//! What comes after an `if` of which one arm may return is built into the other arms, so that a plan's control only ever
//! goes forward and meets again.

use super::builder::Builder;
use super::expr::located;
use super::meet::Behind;
use super::symbols::Symbols;
use crate::ast::{self, Block, Expr, ExprKind, Function, Name, Statement, Type};
use crate::error::{Error, Place, Result};
use crate::plan::{Id, Op};

/// What an expression is worth.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A number that is known now, of no width.
    Int(i128),
    /// What an operation gives.
    Bits(Id),
    Tuple(Vec<Value>),
}

impl Value {
    pub(super) fn nothing() -> Value {
        Value::Tuple(Vec::new())
    }
}

/// How statements ended.
#[derive(Debug, Clone)]
pub(super) enum Flow {
    /// At their end.
    Value(Value),
    /// The function's end.
    Returned(Value),
    /// Nothing comes after it.
    Diverged,
}

/// What a name stands for.
#[derive(Clone)]
pub(super) struct Binding<'a> {
    pub(super) name: &'a str,
    pub(super) value: Value,
    pub(super) is_variable: bool,
}

/// What is still to be done when the statements at hand are.
pub(super) struct Rest<'r, 'a> {
    what: Remaining<'a>,
    depth: usize,
    then: Option<&'r Rest<'r, 'a>>,
}

enum Remaining<'a> {
    Statements(&'a [Statement], Option<&'a Expr>),
    Loop { name: &'a Name, next: i128, end: i128, body: &'a Block },
}

/// Makes one plan.
pub(super) struct Elaborator<'s, 'a> {
    pub(super) symbols: &'s Symbols<'a>,
    pub(super) builder: Builder,
    pub(super) bindings: Vec<Binding<'a>>,
    /// Where the bindings of the function at hand begin.
    pub(super) frame: usize,
    /// How deep calls are.
    depth: u32,
    /// Bytes of the instruction.
    pub(super) size: Option<u8>,
}

const DEEPEST: u32 = 64;
const LONGEST_LOOP: i128 = 256;

impl<'s, 'a> Elaborator<'s, 'a> {
    pub(super) fn new(symbols: &'s Symbols<'a>) -> Elaborator<'s, 'a> {
        Elaborator { symbols, builder: Builder::new(), bindings: Vec::new(), frame: 0, depth: 0, size: None }
    }

    pub(super) fn bind(&mut self, name: &'a str, value: Value) {
        self.bindings.push(Binding { name, value, is_variable: false });
    }

    pub(super) fn lookup(&self, name: &str) -> Option<&Value> {
        self.bindings[self.frame..].iter().rev().find(|binding| binding.name == name).map(|binding| &binding.value)
    }

    /// What is built does not see the names around it.
    pub(super) fn in_own_frame(&mut self, build: impl FnOnce(&mut Self) -> Result<Flow>) -> Result<Flow> {
        let (frame, depth) = (self.frame, self.bindings.len());
        self.frame = depth;
        let flow = build(self);
        self.frame = frame;
        self.bindings.truncate(depth);
        flow
    }

    /// An instruction's or an entry's own statements.
    pub(super) fn outermost(&mut self, body: &'a Block, expected: Option<u8>) -> Result<Flow> {
        self.statements(&body.statements, body.value.as_deref(), expected, None)
    }

    /// A block in the midst of others.
    pub(super) fn block(&mut self, block: &'a Block, expected: Option<u8>) -> Result<Flow> {
        let depth = self.bindings.len();
        let flow = self.statements(&block.statements, block.value.as_deref(), expected, None);
        self.bindings.truncate(depth);
        flow
    }

    fn statements(
        &mut self,
        statements: &'a [Statement],
        value: Option<&'a Expr>,
        expected: Option<u8>,
        then: Option<&Rest<'_, 'a>>,
    ) -> Result<Flow> {
        for (number, statement) in statements.iter().enumerate() {
            if may_return(statement) {
                let what = Remaining::Statements(&statements[number + 1..], value);
                let rest = Rest { what, depth: self.bindings.len(), then };
                return self.returning(statement, expected, &rest);
            }
            match self.statement(statement)? {
                Flow::Value(_) => {}
                ended => return Ok(ended),
            }
        }
        let value = match (value, then) {
            (Some(expr), Some(rest)) if expr_may_return(expr) => return self.returning_expr(expr, expected, rest),
            (Some(expr), _) => match self.flow(expr, if then.is_some() { None } else { expected })? {
                Flow::Value(value) => value,
                ended => return Ok(ended),
            },
            (None, _) => Value::nothing(),
        };
        match then {
            Some(rest) => self.rest(rest, expected),
            None => Ok(Flow::Value(value)),
        }
    }

    fn rest(&mut self, rest: &Rest<'_, 'a>, expected: Option<u8>) -> Result<Flow> {
        self.bindings.truncate(rest.depth);
        match rest.what {
            Remaining::Statements(statements, value) => self.statements(statements, value, expected, rest.then),
            Remaining::Loop { next, end, .. } if next >= end => match rest.then {
                Some(then) => self.rest(then, expected),
                None => Ok(Flow::Value(Value::nothing())),
            },
            Remaining::Loop { name, next, end, body } => {
                let what = Remaining::Loop { name, next: next + 1, end, body };
                let after = Rest { what, depth: rest.depth, then: rest.then };
                self.bind(&name.text, Value::Int(next));
                self.statements(&body.statements, body.value.as_deref(), expected, Some(&after))
            }
        }
    }

    /// A statement that may return, and what comes after it if it does not.
    fn returning(&mut self, statement: &'a Statement, expected: Option<u8>, rest: &Rest<'_, 'a>) -> Result<Flow> {
        match statement {
            Statement::Return { value: Some(value), .. } => Ok(Flow::Returned(self.value(value, expected)?)),
            Statement::Return { value: None, .. } => Ok(Flow::Returned(Value::nothing())),
            Statement::If { condition, yes, no } => self.returning_if(condition, yes, no, expected, rest),
            Statement::Match { of, arms } => self.returning_match(of, arms, expected, rest),
            Statement::For { name, from, to, body } => {
                let (next, end) = self.range(from, to)?;
                let what = Remaining::Loop { name, next, end, body };
                self.rest(&Rest { what, depth: self.bindings.len(), then: Some(rest) }, expected)
            }
            // The others do not return.
            _ => Ok(Flow::Diverged),
        }
    }

    fn returning_expr(&mut self, expr: &'a Expr, expected: Option<u8>, rest: &Rest<'_, 'a>) -> Result<Flow> {
        match &expr.kind {
            ExprKind::If(condition, yes, no) => self.returning_if(condition, yes, no, expected, rest),
            ExprKind::Match(of, arms) => self.returning_match(of, arms, expected, rest),
            ExprKind::Block(block) => self.statements(&block.statements, block.value.as_deref(), expected, Some(rest)),
            _ => Err(Error::at(expr.place, "this can't return")),
        }
    }

    fn returning_if(
        &mut self,
        condition: &'a Expr,
        yes: &'a Block,
        no: &'a Block,
        expected: Option<u8>,
        rest: &Rest<'_, 'a>,
    ) -> Result<Flow> {
        let value = self.value(condition, Some(1))?;
        let flow = self.branch(value, expected, Behind::Nothing, |this, is| {
            let block = if is { yes } else { no };
            this.statements(&block.statements, block.value.as_deref(), expected, Some(rest))
        });
        flow.map_err(|error| located(error, condition.place))
    }

    fn returning_match(
        &mut self,
        of: &'a Expr,
        arms: &'a [ast::Arm],
        expected: Option<u8>,
        rest: &Rest<'_, 'a>,
    ) -> Result<Flow> {
        self.switch(of, arms, expected, Behind::Nothing, &mut |this, block| {
            this.statements(&block.statements, block.value.as_deref(), expected, Some(rest))
        })
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<Flow> {
        match statement {
            Statement::Let { names, class, value, is_variable } => {
                self.binding(names, class.as_ref(), value, *is_variable)?
            }
            Statement::Assign { target, value } => self.assign(target, value)?,
            Statement::If { condition, yes, no } => {
                let condition_value = self.value(condition, Some(1))?;
                let flow = self
                    .branch(condition_value, None, Behind::More, |this, is| this.unvalued(if is { yes } else { no }));
                return flow.map_err(|error| located(error, condition.place));
            }
            Statement::Match { of, arms } => {
                return self.switch(of, arms, None, Behind::More, &mut |this, block| this.unvalued(block));
            }
            Statement::For { name, from, to, body } => {
                let (from, to) = self.range(from, to)?;
                for number in from..to {
                    let depth = self.bindings.len();
                    self.bind(&name.text, Value::Int(number));
                    let flow = self.unvalued(body)?;
                    self.bindings.truncate(depth);
                    if !matches!(flow, Flow::Value(_)) {
                        return Ok(flow);
                    }
                }
            }
            Statement::Throw { entry, arguments } => return self.throw(entry, arguments),
            Statement::Return { place, .. } => return Err(Error::at(*place, "a value can't return")),
            Statement::Do(expr) => return self.flow(expr, None),
        }
        Ok(Flow::Value(Value::nothing()))
    }

    /// A block of which only the effects count.
    fn unvalued(&mut self, block: &'a Block) -> Result<Flow> {
        Ok(match self.block(block, None)? {
            Flow::Value(_) => Flow::Value(Value::nothing()),
            ended => ended,
        })
    }

    fn range(&mut self, from: &'a Expr, to: &'a Expr) -> Result<(i128, i128)> {
        let (first, end) = (self.int(from)?, self.int(to)?);
        if end - first > LONGEST_LOOP {
            return Err(Error::at(to.place, format!("a loop has at most {LONGEST_LOOP} turns")));
        }
        Ok((first, end))
    }

    fn binding(
        &mut self,
        names: &'a [Name],
        class: Option<&'a Type>,
        value: &'a Expr,
        is_variable: bool,
    ) -> Result<()> {
        let expected = match class {
            Some(Type::Bits(width)) => Some(self.width(width)?),
            _ => None,
        };
        let mut found = self.value(value, expected)?;
        if let Some(class) = class {
            found = self.convert(found, class, value.place)?;
        }
        if is_variable && matches!(found, Value::Int(_)) && class.is_none() {
            return Err(Error::at(value.place, "a variable needs a type: write 'var name: u64 = …'"));
        }
        let values = match (found, names) {
            (one, [_]) => vec![one],
            (Value::Tuple(values), names) if values.len() == names.len() => values,
            _ => return Err(Error::at(value.place, format!("there are not {} values", names.len()))),
        };
        for (name, value) in names.iter().zip(values) {
            self.bindings.push(Binding { name: &name.text, value, is_variable });
        }
        Ok(())
    }

    /// One of many arms.
    pub(super) fn switch(
        &mut self,
        of: &'a Expr,
        arms: &'a [ast::Arm],
        expected: Option<u8>,
        behind: Behind,
        body: &mut dyn FnMut(&mut Self, &'a Block) -> Result<Flow>,
    ) -> Result<Flow> {
        let value = self.value(of, None)?;
        let (id, known) = match value {
            Value::Int(number) => (None, Some(number)),
            Value::Bits(id) => (Some(id), self.builder.known(id).map(|known| known as i128)),
            Value::Tuple(_) => return Err(Error::at(of.place, "several values can't be matched")),
        };
        let mut keys = Vec::new();
        for arm in arms {
            keys.push(arm.values.iter().map(|value| self.int(value)).collect::<Result<Vec<_>>>()?);
        }
        if let Some(known) = known {
            let found = keys.iter().position(|keys| keys.is_empty() || keys.contains(&known));
            return match found {
                Some(at) => body(self, &arms[at].body),
                None => Err(Error::at(of.place, format!("no arm is for {known}"))),
            };
        }
        let Some(id) = id else { return Ok(Flow::Diverged) };
        let every = 1u128.checked_shl(self.builder.width(id).into()).unwrap_or(0);
        let listed = keys.iter().map(Vec::len).sum::<usize>() as u128;
        if !keys.last().is_some_and(Vec::is_empty) && listed != every {
            return Err(Error::at(of.place, "values are missing: end with an arm for '_'"));
        }
        self.arms(id, keys, expected, behind, &mut |this, at| body(this, &arms[at].body))
    }

    /// Builds a switch of which the last arm is for any other value.
    pub(super) fn arms(
        &mut self,
        value: Id,
        keys: Vec<Vec<i128>>,
        expected: Option<u8>,
        behind: Behind,
        body: &mut dyn FnMut(&mut Self, usize) -> Result<Flow>,
    ) -> Result<Flow> {
        let mut built = Vec::new();
        for at in 0..keys.len() {
            built.push(self.arm(|this| body(this, at))?);
        }
        let met = self.meet(&mut built, expected, behind)?;
        let keys = keys.into_iter().map(|keys| keys.into_iter().map(|key| key as u64).collect());
        self.builder.switch(value, keys.zip(built.into_iter().map(|built| built.arm)).collect());
        self.after(met)
    }

    fn throw(&mut self, entry: &'a Name, arguments: &'a [Expr]) -> Result<Flow> {
        let (number, function) = self.symbols.entry(&entry.text, entry.place)?;
        let parameters = &function.signature.parameters;
        let (at, count) = self.call_arguments(entry.place, parameters, arguments)?;
        self.builder.effect(Op::Throw { entry: number, arguments: at, count }, 0);
        Ok(Flow::Diverged)
    }

    /// Operands of a call to outside the plan.
    pub(super) fn call_arguments(
        &mut self,
        place: Place,
        parameters: &'a [(Name, Type)],
        arguments: &'a [Expr],
    ) -> Result<(u32, u8)> {
        if parameters.len() != arguments.len() || arguments.len() > crate::plan::MOST_ARGUMENTS {
            return Err(Error::at(place, format!("this takes {} arguments", parameters.len())));
        }
        let mut list = Vec::new();
        for ((_, class), argument) in parameters.iter().zip(arguments) {
            let width = self.width_of(class, place)?;
            list.push(self.bits(argument, width)?);
        }
        Ok(self.builder.arguments(&list))
    }

    /// A function becomes part of its caller.
    pub(super) fn inline(&mut self, function: &'a Function, arguments: Vec<Value>, place: Place) -> Result<Flow> {
        let signature = &function.signature;
        if signature.parameters.len() != arguments.len() {
            let count = signature.parameters.len();
            return Err(Error::at(place, format!("'{}' takes {count} arguments", signature.name.text)));
        }
        if self.depth >= DEEPEST {
            return Err(Error::at(place, format!("'{}' calls itself without end", signature.name.text)));
        }
        let (frame, depth) = (self.frame, self.bindings.len());
        let mut converted = Vec::new();
        self.frame = depth;
        for ((name, class), value) in signature.parameters.iter().zip(arguments) {
            let value = self.convert(value, class, place)?;
            self.bind(&name.text, value.clone());
            converted.push(value);
        }
        self.depth += 1;
        let expected = match &signature.result {
            Type::Bits(width) => Some(self.width(width)?),
            _ => None,
        };
        let flow = self.statements(&function.body.statements, function.body.value.as_deref(), expected, None)?;
        let flow = match flow.value() {
            Some(value) => Flow::Value(self.convert(value, &signature.result, place)?),
            None => Flow::Diverged,
        };
        self.depth -= 1;
        self.frame = frame;
        self.bindings.truncate(depth);
        Ok(flow)
    }
}

impl Flow {
    pub(super) fn value(self) -> Option<Value> {
        match self {
            Flow::Value(value) | Flow::Returned(value) => Some(value),
            Flow::Diverged => None,
        }
    }
}

fn may_return(statement: &Statement) -> bool {
    match statement {
        Statement::Return { .. } => true,
        Statement::If { yes, no, .. } => block_may_return(yes) || block_may_return(no),
        Statement::Match { arms, .. } => arms.iter().any(|arm| block_may_return(&arm.body)),
        Statement::For { body, .. } => block_may_return(body),
        _ => false,
    }
}

fn block_may_return(block: &Block) -> bool {
    block.statements.iter().any(may_return) || block.value.as_deref().is_some_and(expr_may_return)
}

/// An `else if`, or what stands last in a block.
fn expr_may_return(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::If(_, yes, no) => block_may_return(yes) || block_may_return(no),
        ExprKind::Match(_, arms) => arms.iter().any(|arm| block_may_return(&arm.body)),
        ExprKind::Block(block) => block_may_return(block),
        _ => false,
    }
}
