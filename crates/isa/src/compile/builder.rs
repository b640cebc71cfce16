//! Operations are put together here: constants are folded, equal ones shared, arms kept apart until they meet.
//!
//! While a plan grows, an operation's id is when it was made, and lists say in which order operations stand; `finish`
//! leaves out what nothing needs and numbers the rest by its place.

use std::collections::HashMap;

use super::simplify;
use crate::ops::{mask, mask64};
use crate::plan::{Id, Node, Op, Plan};

/// A plan that grows.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) plan: Plan,
    /// What stands where, of the arm that is being built.
    order: Vec<Id>,
    /// Equal operations that were made in this arm and those around it.
    seen: Vec<HashMap<(Op, u8), Id>>,
    /// Modes may have changed: what is read of them is not fixed any more.
    modes_changed: bool,
}

/// Operations of one arm.
pub(super) struct Arm {
    order: Vec<Id>,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder { seen: vec![HashMap::new()], ..Builder::default() }
    }

    pub(super) fn node(&self, id: Id) -> Node {
        self.plan.nodes[id as usize]
    }

    pub(super) fn op(&self, id: Id) -> Op {
        self.node(id).op
    }

    pub(super) fn width(&self, id: Id) -> u8 {
        self.node(id).width
    }

    /// A number.
    pub(super) fn constant(&mut self, value: u128, width: u8) -> Id {
        let value = value & mask(width);
        if width <= 64 {
            return self.pure(Op::Const(value as u64), width);
        }
        let number = self.plan.wide.iter().position(|wide| *wide == value).unwrap_or_else(|| {
            self.plan.wide.push(value);
            self.plan.wide.len() - 1
        });
        self.pure(Op::Wide(number as u32), width)
    }

    /// Its value if it is a number.
    pub(super) fn known(&self, id: Id) -> Option<u128> {
        match self.op(id) {
            Op::Const(value) => Some(value.into()),
            Op::Wide(number) => Some(self.plan.wide[number as usize]),
            _ => None,
        }
    }

    /// An operation without an effect; perhaps one that is there already, or a simpler one.
    pub(super) fn pure(&mut self, op: Op, width: u8) -> Id {
        if let Some(simpler) = simplify::simplify(self, op, width) {
            return simpler;
        }
        if let Some(id) = self.seen.iter().rev().find_map(|seen| seen.get(&(op, width))) {
            return *id;
        }
        let id = self.effect(op, width);
        if let Some(seen) = self.seen.last_mut() {
            seen.insert((op, width), id);
        }
        id
    }

    /// An operation that stands where it is made.
    pub(super) fn effect(&mut self, op: Op, width: u8) -> Id {
        let id = self.plan.nodes.len() as Id;
        let fixed = self.is_fixed(&op, id);
        self.plan.nodes.push(Node { op, width, fixed });
        self.order.push(id);
        id
    }

    /// A register's value, which may be another one the next time.
    pub(super) fn read(&mut self, register: u16, index: Option<Id>, width: u8, is_mode: bool) -> Id {
        let own = self.plan.nodes.len() as Id;
        let id = self.effect(Op::Read { register, index: index.unwrap_or(own) }, width);
        self.plan.nodes[id as usize].fixed = is_mode && !self.modes_changed;
        id
    }

    pub(super) fn write(&mut self, register: u16, index: Option<Id>, value: Id, is_mode: bool) {
        let own = self.plan.nodes.len() as Id;
        self.effect(Op::Write { register, index: index.unwrap_or(own), value }, 0);
        self.modes_changed |= is_mode;
    }

    /// From here on, modes are not known.
    pub(super) fn forget_modes(&mut self) {
        self.modes_changed = true;
    }

    fn is_fixed(&self, op: &Op, own: Id) -> bool {
        let may_be = op.is_pure() && !matches!(op, Op::Argument(_) | Op::Pc | Op::Read { .. } | Op::Get(_));
        let mut all = may_be;
        op.each_operand(&self.plan.arguments, own, |id| all &= self.node(id).fixed);
        all
    }

    pub(super) fn is_node_fixed(&self, id: Id) -> bool {
        self.node(id).fixed
    }

    pub(super) fn slot(&mut self) -> u16 {
        self.plan.slots += 1;
        self.plan.slots - 1
    }

    pub(super) fn arguments(&mut self, list: &[Id]) -> (u32, u8) {
        let at = self.plan.arguments.len() as u32;
        self.plan.arguments.extend_from_slice(list);
        (at, list.len() as u8)
    }

    /// What is made from here on belongs to an arm.
    pub(super) fn begin_arm(&mut self) -> Arm {
        self.seen.push(HashMap::new());
        Arm { order: std::mem::take(&mut self.order) }
    }

    /// Gives the arm's operations, and goes on with what was before it.
    pub(super) fn end_arm(&mut self, before: Arm) -> Arm {
        self.seen.pop();
        Arm { order: std::mem::replace(&mut self.order, before.order) }
    }

    /// Adds to the end of an arm.
    pub(super) fn within(&mut self, arm: &mut Arm, make: impl FnOnce(&mut Builder)) {
        std::mem::swap(&mut self.order, &mut arm.order);
        self.seen.push(HashMap::new());
        make(self);
        self.seen.pop();
        std::mem::swap(&mut self.order, &mut arm.order);
    }

    /// Whether it does no harm to compute all of it when it is not wanted.
    pub(super) fn is_harmless(&self, arm: &Arm) -> bool {
        arm.order.iter().all(|id| {
            let op = self.op(*id);
            match op {
                Op::If(condition, _) | Op::Switch(condition, _) => self.is_node_fixed(condition),
                Op::Else(_) | Op::End | Op::Leave(_) | Op::Put(..) => true,
                _ => op.is_pure(),
            }
        })
    }

    /// Puts an arm's operations where we are, whether it is wanted or not.
    pub(super) fn splice(&mut self, arm: Arm) {
        self.order.extend(arm.order);
    }

    /// `If`, one arm, `Else`, the other, `End`.
    pub(super) fn branch(&mut self, condition: Id, yes: Arm, no: Arm) {
        let test = self.effect(Op::If(condition, 0), 0);
        self.splice(yes);
        let middle = self.effect(Op::Else(0), 0);
        self.splice(no);
        let end = self.effect(Op::End, 0);
        self.plan.nodes[test as usize].op = Op::If(condition, middle);
        self.plan.nodes[middle as usize].op = Op::Else(end);
    }

    /// One of many arms. The last one is for any other value.
    pub(super) fn switch(&mut self, value: Id, arms: Vec<(Vec<u64>, Arm)>) {
        let table = self.plan.tables.len() as u32;
        self.plan.tables.push(crate::plan::Table::default());
        self.effect(Op::Switch(value, table), 0);
        let mut leaves = Vec::new();
        for (values, arm) in arms {
            let label = self.effect(Op::Nothing, 0);
            let table = &mut self.plan.tables[table as usize];
            table.arms.extend(values.iter().map(|value| (*value, label)));
            table.other = label;
            self.splice(arm);
            leaves.push(self.effect(Op::Leave(0), 0));
        }
        let end = self.effect(Op::End, 0);
        for leave in leaves {
            self.plan.nodes[leave as usize].op = Op::Leave(end);
        }
        self.plan.tables[table as usize].arms.sort_unstable();
    }

    /// Leaves out what nothing needs, and numbers by place.
    pub(super) fn finish(self) -> Plan {
        let Builder { mut plan, order, .. } = self;
        let needed = needed(&plan, &order);
        // A place for what is left out, too: that of the next that is not.
        let mut places = vec![0; plan.nodes.len()];
        let mut kept = 0;
        for id in &order {
            places[*id as usize] = kept;
            kept += Id::from(needed[*id as usize]);
        }
        let mut nodes = Vec::with_capacity(kept as usize);
        for id in order.into_iter().filter(|id| needed[*id as usize]) {
            let node = plan.nodes[id as usize];
            nodes.push(Node { op: renumber(node.op, &|id| places[id as usize]), ..node });
        }
        plan.nodes = nodes;
        plan.arguments.iter_mut().for_each(|id| *id = places[*id as usize]);
        for table in &mut plan.tables {
            table.arms.iter_mut().for_each(|(_, label)| *label = places[*label as usize]);
            table.other = places[table.other as usize];
        }
        plan
    }
}

/// Which operations have an effect, or are used by one that has.
fn needed(plan: &Plan, order: &[Id]) -> Vec<bool> {
    let mut needed = vec![false; plan.nodes.len()];
    for id in order.iter().rev() {
        let node = &plan.nodes[*id as usize];
        if needed[*id as usize] || !node.op.is_pure() {
            needed[*id as usize] = true;
            node.op.each_operand(&plan.arguments, *id, |operand| needed[operand as usize] = true);
        }
    }
    needed
}

fn renumber(op: Op, to: &impl Fn(Id) -> Id) -> Op {
    match op {
        Op::Const(_) | Op::Wide(_) | Op::Field(_) | Op::Argument(_) | Op::Pc | Op::Size => op,
        Op::Get(_) | Op::End | Op::Nothing | Op::Call { .. } | Op::Throw { .. } => op,
        Op::Read { register, index } => Op::Read { register, index: to(index) },
        Op::Write { register, index, value } => Op::Write { register, index: to(index), value: to(value) },
        Op::Unary(operator, a) => Op::Unary(operator, to(a)),
        Op::Binary(operator, a, b) => Op::Binary(operator, to(a), to(b)),
        Op::Select(a, b, c) => Op::Select(to(a), to(b), to(c)),
        Op::Slice(a, low) => Op::Slice(to(a), low),
        Op::Concat(a, b) => Op::Concat(to(a), to(b)),
        Op::Zext(a) => Op::Zext(to(a)),
        Op::Sext(a) => Op::Sext(to(a)),
        Op::SumFlags(a, b, c) => Op::SumFlags(to(a), to(b), to(c)),
        Op::Intrinsic { which, lane, of } => Op::Intrinsic { which, lane, of: of.map(to) },
        Op::Float { which, lane, mode, of } => Op::Float { which, lane, mode: to(mode), of: of.map(to) },
        Op::Load { address, how } => Op::Load { address: to(address), how },
        Op::Store { address, value, how } => Op::Store { address: to(address), value: to(value), how },
        Op::CompareAndSwap { address, old, new, how } => {
            Op::CompareAndSwap { address: to(address), old: to(old), new: to(new), how }
        }
        Op::Atomic { kind, address, value, how } => Op::Atomic { kind, address: to(address), value: to(value), how },
        Op::PhysicalLoad(a) => Op::PhysicalLoad(to(a)),
        Op::PhysicalSwap { address, old, new } => Op::PhysicalSwap { address: to(address), old: to(old), new: to(new) },
        Op::Put(slot, a) => Op::Put(slot, to(a)),
        Op::If(condition, other) => Op::If(to(condition), to(other)),
        Op::Else(end) => Op::Else(to(end)),
        Op::Leave(end) => Op::Leave(to(end)),
        Op::Switch(value, table) => Op::Switch(to(value), table),
        Op::Jump(a) => Op::Jump(to(a)),
        Op::Give(a) => Op::Give(to(a)),
    }
}

/// Whether a number that was written fits a width, as it is or with a sign.
pub(super) fn fits(value: i128, width: u8) -> bool {
    if width >= 127 {
        return true;
    }
    (-(1i128 << (width - 1))..1i128 << width).contains(&value)
}

/// A written number as bits.
pub(super) fn bits_of(value: i128, width: u8) -> u128 {
    if width <= 64 { (value as u64 & mask64(width)).into() } else { value as u128 & mask(width) }
}
