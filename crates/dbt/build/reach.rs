//! Which values are used behind the arm that they are made in: if the other arm ends, they are those of both.

use isa::plan::{Id, Op, Plan};

/// Whether each value needs a variable that outlives its arm.
pub(crate) fn outlive(plan: &Plan) -> Vec<bool> {
    let arms = arms(plan);
    let mut outlives = vec![false; plan.nodes.len()];
    for (at, node) in plan.nodes.iter().enumerate() {
        node.op.each_operand(&plan.arguments, at as Id, |operand| {
            let operand = written(plan, operand);
            outlives[operand] |= !is_within(&arms, at, arms.of[operand]);
        });
    }
    outlives
}

/// The operation whose variable a value is written by.
fn written(plan: &Plan, mut id: Id) -> usize {
    while let Op::Zext(narrow) = plan.nodes[id as usize].op {
        id = narrow;
    }
    id as usize
}

/// Arms by numbers; 0 is no arm, but all of the plan.
struct Arms {
    /// The arm that each operation stands in.
    of: Vec<usize>,
    /// The arm that each arm is in.
    outer: Vec<usize>,
}

fn is_within(arms: &Arms, at: usize, arm: usize) -> bool {
    let mut inner = arms.of[at];
    while inner != arm && inner != 0 {
        inner = arms.outer[inner];
    }
    inner == arm
}

fn arms(plan: &Plan) -> Arms {
    let mut arms = Arms { of: Vec::new(), outer: vec![0] };
    let mut open = vec![0];
    let mut begin = |open: &mut Vec<usize>| {
        arms.outer.push(open.last().copied().unwrap_or(0));
        open.push(arms.outer.len() - 1);
    };
    let mut of = Vec::new();
    for node in &plan.nodes {
        of.push(open.last().copied().unwrap_or(0));
        match node.op {
            Op::If(..) | Op::Switch(..) => begin(&mut open),
            // Behind the last arm of a switch there is none, and its end ends that.
            Op::Else(_) | Op::Leave(_) => {
                open.pop();
                begin(&mut open);
            }
            Op::End => {
                open.pop();
            }
            _ => {}
        }
    }
    arms.of = of;
    arms
}
