//! Where the arms of an `if` or of a `match` meet: what they give, and the variables that they change.
//!
//! Arms that do nothing but compute are both computed, and a `Select` takes one of the values; a condition that is fixed
//! stays a branch, which a translator decides.

use super::builder::{Arm, bits_of, fits};
use super::elaborate::{Binding, Elaborator, Flow, Value};
use crate::error::{Error, Place, Result};
use crate::plan::{Id, Op};

/// An arm, how it ended, and what its variables were then.
pub(super) struct Built<'a> {
    pub(super) arm: Arm,
    flow: Flow,
    bindings: Vec<Binding<'a>>,
}

/// How arms have met.
pub(super) struct Met {
    variables: Vec<(usize, Joined)>,
    value: Option<Joined>,
    is_return: bool,
}

/// What arms have in common.
enum Joined {
    Same(Value),
    Tuple(Vec<Joined>),
    Slot(u16, u8),
}

/// What comes behind arms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// Statements that may use the variables which arms have changed.
    More,
    /// The function's end: what followed was built into the arms.
    Nothing,
}

impl<'a> Elaborator<'_, 'a> {
    /// Goes on with one of two arms, or builds both.
    pub(super) fn branch(
        &mut self,
        condition: Value,
        expected: Option<u8>,
        behind: Behind,
        mut arm: impl FnMut(&mut Self, bool) -> Result<Flow>,
    ) -> Result<Flow> {
        let id = match condition {
            Value::Int(number) => return arm(self, number != 0),
            Value::Bits(id) => id,
            Value::Tuple(_) => return Err(Error::at(Place::default(), "a condition is one bit")),
        };
        if let Some(known) = self.builder.known(id) {
            return arm(self, known != 0);
        }
        let yes = self.arm(|this| arm(this, true))?;
        let no = self.arm(|this| arm(this, false))?;
        let is_straight = !self.builder.is_node_fixed(id)
            && [&yes, &no]
                .iter()
                .all(|built| !matches!(built.flow, Flow::Diverged) && self.builder.is_harmless(&built.arm));
        if is_straight {
            return self.straight(id, yes, no, expected, behind);
        }
        let mut arms = [yes, no];
        let flow = self.meet(&mut arms, expected, behind)?;
        let [yes, no] = arms.map(|built| built.arm);
        self.builder.branch(id, yes, no);
        self.after(flow)
    }

    /// Both arms are computed, and then one of their values is taken.
    fn straight(
        &mut self,
        condition: Id,
        yes: Built<'a>,
        no: Built<'a>,
        expected: Option<u8>,
        behind: Behind,
    ) -> Result<Flow> {
        self.builder.splice(yes.arm);
        self.builder.splice(no.arm);
        let common = if behind == Behind::More { self.bindings.len() } else { 0 };
        for at in 0..common {
            let (yes, no) = (&yes.bindings[at].value, &no.bindings[at].value);
            if yes != no {
                self.bindings[at].value = self.choose(condition, yes.clone(), no.clone(), None)?;
            }
        }
        let is_return = matches!(yes.flow, Flow::Returned(_)) || matches!(no.flow, Flow::Returned(_));
        let (Some(yes), Some(no)) = (yes.flow.value(), no.flow.value()) else { return Ok(Flow::Diverged) };
        let value = self.choose(condition, yes, no, expected)?;
        Ok(if is_return { Flow::Returned(value) } else { Flow::Value(value) })
    }

    fn choose(&mut self, condition: Id, yes: Value, no: Value, expected: Option<u8>) -> Result<Value> {
        if yes == no {
            return Ok(yes);
        }
        if let (Value::Tuple(yes), Value::Tuple(no)) = (&yes, &no) {
            let both = yes.iter().zip(no);
            return both
                .map(|(yes, no)| self.choose(condition, yes.clone(), no.clone(), None))
                .collect::<Result<_>>()
                .map(Value::Tuple);
        }
        let width = self.common_width(&[&yes, &no], expected)?;
        let yes = self.sized(yes, width, Place::default())?;
        let no = self.sized(no, width, Place::default())?;
        Ok(Value::Bits(self.builder.pure(Op::Select(condition, yes, no), width)))
    }

    fn common_width(&self, values: &[&Value], expected: Option<u8>) -> Result<u8> {
        values
            .iter()
            .find_map(|value| match value {
                Value::Bits(id) => Some(self.builder.width(*id)),
                _ => None,
            })
            .or(expected)
            .ok_or_else(|| Error::at(Place::default(), "the arms are numbers of no width: give the result a type"))
    }

    pub(super) fn arm(&mut self, build: impl FnOnce(&mut Self) -> Result<Flow>) -> Result<Built<'a>> {
        let bindings = self.bindings.clone();
        let before = self.builder.begin_arm();
        let flow = build(self);
        let arm = self.builder.end_arm(before);
        let bindings = std::mem::replace(&mut self.bindings, bindings);
        Ok(Built { arm, flow: flow?, bindings })
    }

    /// Values that arms give, and variables that they change, go through slots.
    pub(super) fn meet(&mut self, arms: &mut [Built<'a>], expected: Option<u8>, behind: Behind) -> Result<Met> {
        let live: Vec<usize> = (0..arms.len()).filter(|at| !matches!(arms[*at].flow, Flow::Diverged)).collect();
        let mut met = Met { variables: Vec::new(), value: None, is_return: false };
        if live.is_empty() {
            return Ok(met);
        }
        let common = if behind == Behind::More { self.bindings.len() } else { 0 };
        for at in 0..common {
            let values: Vec<Value> = live.iter().map(|arm| arms[*arm].bindings[at].value.clone()).collect();
            let joined = self.join(arms, &live, values, None)?;
            met.variables.push((at, joined));
        }
        met.is_return = live.iter().any(|arm| matches!(arms[*arm].flow, Flow::Returned(_)));
        let values: Vec<Value> = live.iter().filter_map(|arm| arms[*arm].flow.clone().value()).collect();
        met.value = Some(self.join(arms, &live, values, expected)?);
        Ok(met)
    }

    fn join(
        &mut self,
        arms: &mut [Built<'a>],
        live: &[usize],
        values: Vec<Value>,
        expected: Option<u8>,
    ) -> Result<Joined> {
        let first = &values[0];
        if values.iter().all(|value| value == first) {
            return Ok(Joined::Same(first.clone()));
        }
        if let Value::Tuple(parts) = first {
            let count = parts.len();
            let mut joined = Vec::new();
            for at in 0..count {
                let part = |value: &Value| match value {
                    Value::Tuple(parts) if parts.len() == count => Ok(parts[at].clone()),
                    _ => Err(Error::at(Place::default(), "the arms give different numbers of values")),
                };
                let parts = values.iter().map(part).collect::<Result<_>>()?;
                joined.push(self.join(arms, live, parts, None)?);
            }
            return Ok(Joined::Tuple(joined));
        }
        let width = self.common_width(&values.iter().collect::<Vec<_>>(), expected)?;
        let slot = self.builder.slot();
        for (arm, value) in live.iter().zip(values) {
            let number = match value {
                Value::Int(number) if fits(number, width) => Err(bits_of(number, width)),
                Value::Bits(id) if self.builder.width(id) == width => Ok(id),
                _ => return Err(Error::at(Place::default(), "the arms give values of different widths")),
            };
            self.builder.within(&mut arms[*arm].arm, |builder| {
                let id = number.unwrap_or_else(|number| builder.constant(number, width));
                builder.effect(Op::Put(slot, id), 0);
            });
        }
        Ok(Joined::Slot(slot, width))
    }

    /// What holds behind arms that have met.
    pub(super) fn after(&mut self, met: Met) -> Result<Flow> {
        for (at, joined) in met.variables {
            self.bindings[at].value = self.joined(joined);
        }
        let Some(value) = met.value else { return Ok(Flow::Diverged) };
        let value = self.joined(value);
        Ok(if met.is_return { Flow::Returned(value) } else { Flow::Value(value) })
    }

    fn joined(&mut self, joined: Joined) -> Value {
        match joined {
            Joined::Same(value) => value,
            Joined::Tuple(parts) => Value::Tuple(parts.into_iter().map(|part| self.joined(part)).collect()),
            Joined::Slot(slot, width) => Value::Bits(self.builder.effect(Op::Get(slot), width)),
        }
    }
}
