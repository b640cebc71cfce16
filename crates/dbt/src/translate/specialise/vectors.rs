//! Operations on more than 64 bits, and with floating-point numbers: those for which the host has an instruction or two.

use isa::ops::float::mode;
use isa::ops::{Binary, Float, Intrinsic, Unary, mask64};
use isa::plan::{Id, Op};

use super::super::ir::{Class, Ir, Val, Vector};
use super::{Done, Maker, Unknown, Work};

impl<'i> Maker<'i> {
    /// Whether a value is in a vector register.
    pub(super) fn is_vector(&self, value: Val) -> bool {
        self.of(value).is_some_and(|ir| ir.class() == Class::Vector)
    }

    /// Whether vector registers have to do with it, though its value has no more than 64 bits.
    pub(super) fn is_of_vectors(&self, work: &Work<'i>, op: &Op) -> bool {
        let of = |id: Id| work.values[id as usize];
        match *op {
            Op::Slice(a, _) => work.plan.nodes[a as usize].width > 64,
            Op::Intrinsic { .. } | Op::Float { .. } => true,
            Op::Binary(Binary::And | Binary::Or | Binary::Xor, a, b) => self.is_vector(of(a)) || self.is_vector(of(b)),
            Op::Binary(_, a, _) => work.plan.nodes[a as usize].width > 64,
            _ => false,
        }
    }

    pub(super) fn wide_operation(&mut self, work: &mut Work<'i>, op: Op, width: u8) -> Done<Val> {
        let of = |work: &Work<'_>, id: Id| work.values[id as usize];
        let bits = |work: &Work<'_>, id: Id| work.plan.nodes[id as usize].width;
        Ok(match op {
            Op::Const(value) => Val::Number(value),
            Op::Wide(number) => self.constant(work.plan.wide[number as usize]),
            Op::Zext(a) => of(work, a),
            Op::Slice(a, low) => self.part(of(work, a), low, width)?,
            Op::Concat(a, b) => match (bits(work, b), of(work, a), of(work, b)) {
                (_, Val::Number(0), b) => b,
                (64, a, b) => self.join(a, b),
                _ => return Err(Unknown),
            },
            Op::Select(condition, yes, no) => match of(work, condition) {
                Val::Number(0) => of(work, no),
                Val::Number(_) => of(work, yes),
                Val::Value(_) => return Err(Unknown),
            },
            Op::Unary(Unary::Invert, a) => {
                let ones = self.constant(u128::MAX);
                self.logic(Binary::Xor, of(work, a), ones)
            }
            Op::Binary(operator @ (Binary::And | Binary::Or | Binary::Xor), a, b) => {
                self.logic(operator, of(work, a), of(work, b))
            }
            Op::Binary(operator @ (Binary::ShiftLeft | Binary::ShiftRight), a, by) => match of(work, by) {
                Val::Number(0) => of(work, a),
                Val::Number(by @ 8..=120) if by % 8 == 0 && width == 128 => {
                    let bytes = by as i8 / 8;
                    let bytes = if operator == Binary::ShiftLeft { bytes } else { -bytes };
                    self.vector(Vector::Shift { of: of(work, a), bytes })
                }
                _ => return Err(Unknown),
            },
            Op::Read { .. } | Op::Write { .. } | Op::Load { .. } | Op::Store { .. } | Op::CompareAndSwap { .. } => {
                return self.wide_access(work, op, width);
            }
            Op::Intrinsic { which, lane, of: ids } => {
                let operands = ids.map(|id| of(work, id));
                self.lanes(which, lane, bits(work, ids[0]), operands)?
            }
            Op::Float { which, lane, mode, of: ids } => {
                let (how, operands, width) = (of(work, mode), ids.map(|id| of(work, id)), bits(work, ids[0]));
                self.float(work, which, (lane, width), how, operands)?
            }
            _ => return Err(Unknown),
        })
    }

    fn wide_access(&mut self, work: &mut Work<'i>, op: Op, width: u8) -> Done<Val> {
        let loaded = self.operation(work, op, width)?;
        if let (Op::Load { .. }, Val::Value(value)) = (op, loaded)
            && let Ir::Load { class, .. } = &mut self.block.code[value as usize]
        {
            *class = Class::Vector;
        }
        Ok(loaded)
    }

    /// What goes to a vector register alone is loaded to one.
    pub(super) fn load_as_vector(&mut self, work: &Work<'i>, value: Val) {
        let Val::Value(number) = value else { return };
        if let Some(Ir::Load { class, width: 32 | 64, .. }) = self.block.code.get_mut(number as usize)
            && number as usize >= work.begin
        {
            *class = Class::Vector;
        }
    }

    fn vector(&mut self, vector: Vector) -> Val {
        self.pure(Ir::Vector(vector))
    }

    pub(super) fn width_of_vector(&self, vector: &Vector) -> u8 {
        match *vector {
            Vector::Const { high: 0, .. } => 64,
            Vector::Part { width, .. } => width,
            Vector::Logic(Binary::And, a, b) => self.bits(a).min(self.bits(b)),
            Vector::Logic(_, a, b) => self.bits(a).max(self.bits(b)),
            Vector::Float { which: Float::Order, .. } => 4,
            Vector::Float { which: Float::Widen, width, .. } => width * 2,
            Vector::Float {
                which:
                    Float::Narrow
                    | Float::ToSignedHalf
                    | Float::ToUnsignedHalf
                    | Float::OfSignedHalf
                    | Float::OfUnsignedHalf,
                width,
                ..
            } => width / 2,
            Vector::Float { width, .. } => width,
            Vector::Lanes { which: Intrinsic::Truncate, .. } => 64,
            Vector::Read { .. }
            | Vector::Const { .. }
            | Vector::Join { .. }
            | Vector::Shift { .. }
            | Vector::Lanes { .. } => 128,
        }
    }

    fn constant(&mut self, value: u128) -> Val {
        let (low, high) = (value as u64, (value >> 64) as u64);
        if high == 0 { Val::Number(low) } else { self.vector(Vector::Const { low, high }) }
    }

    fn join(&mut self, high: Val, low: Val) -> Val {
        match (high, low) {
            (Val::Number(0), low) => low,
            (Val::Number(high), Val::Number(low)) => self.vector(Vector::Const { low, high }),
            (high, low) => self.vector(Vector::Join { high, low }),
        }
    }

    fn logic(&mut self, operator: Binary, a: Val, b: Val) -> Val {
        match (operator, a, b) {
            (Binary::And, _, Val::Number(0)) | (Binary::And, Val::Number(0), _) => Val::Number(0),
            (Binary::Or | Binary::Xor, a, Val::Number(0)) => a,
            (Binary::Or | Binary::Xor, Val::Number(0), b) => b,
            (_, Val::Number(a), Val::Number(b)) => Val::Number(isa::ops::binary64(operator, 64, a, b)),
            _ => self.vector(Vector::Logic(operator, a, b)),
        }
    }

    /// Bits of a value of more than 64.
    fn part(&mut self, of: Val, low: u8, width: u8) -> Done<Val> {
        if low >= self.bits(of) {
            return Ok(Val::Number(0));
        }
        if low == 0 && width >= self.bits(of) {
            return Ok(of);
        }
        match (of, self.of(of)) {
            (Val::Number(number), _) => return Ok(Val::Number(number >> low & mask64(width))),
            (_, Some(Ir::Vector(Vector::Join { high, low: below }))) if low >= 64 || low + width <= 64 => {
                let (half, low) = if low >= 64 { (high, low - 64) } else { (below, low) };
                return self.part_of_half(half, low, width);
            }
            (_, Some(Ir::Vector(Vector::Const { low: below, high }))) if low >= 64 || low + width <= 64 => {
                let (half, low) = if low >= 64 { (high, low - 64) } else { (below, low) };
                return Ok(Val::Number(half >> low & mask64(width)));
            }
            (_, Some(ir)) if ir.class() == Class::General => return Ok(self.slice(of, 64, low, width)),
            _ => {}
        }
        if width > 64 || (low < 64 && low + width > 64) {
            return Err(Unknown);
        }
        if (low == 0 && matches!(width, 32 | 64)) || (low == 64 && width == 64) {
            return Ok(self.vector(Vector::Part { of, low, width }));
        }
        let half = if low < 64 && self.bits(of) <= 64 {
            of
        } else {
            self.vector(Vector::Part { of, low: low / 64 * 64, width: 64 })
        };
        Ok(self.pure(Ir::Slice { of: half, low: low % 64, width }))
    }

    fn part_of_half(&mut self, half: Val, low: u8, width: u8) -> Done<Val> {
        if self.is_vector(half) { self.part(half, low, width) } else { Ok(self.slice(half, 64, low, width)) }
    }

    /// Lanes, if the host has what is to be done with them.
    fn lanes(&mut self, which: Intrinsic, lane: u8, width: u8, of: [Val; 3]) -> Done<Val> {
        use Intrinsic as I;
        let [a, b, _] = of;
        let by_number = matches!(b, Val::Number(_));
        let is_known = match which {
            I::Add | I::Subtract | I::ZipLow | I::ZipHigh => true,
            I::Multiply => matches!(lane, 16 | 32),
            I::Equal | I::Greater => true,
            I::Above | I::SignedMax | I::SignedMin | I::UnsignedMax | I::UnsignedMin => lane < 64,
            I::SignedAddSaturated
            | I::SignedSubtractSaturated
            | I::UnsignedAddSaturated
            | I::UnsignedSubtractSaturated => lane < 32,
            I::ShiftLeft | I::ShiftRight => by_number,
            I::SignedShiftRight => by_number && matches!(lane, 16 | 32),
            I::Even | I::Odd => true,
            I::LookUp => lane == 8,
            I::Splat => true,
            I::SignExtend | I::ZeroExtend => lane < 64,
            I::Truncate => matches!(lane, 16 | 32 | 64),
            I::Get => {
                let Val::Number(number) = b else { return Err(Unknown) };
                let low = number.min(15) as u8 * lane;
                return if low < width { self.part(a, low, lane) } else { Err(Unknown) };
            }
            I::Set => by_number,
            _ => false,
        };
        let is_whole = match which {
            I::Splat => true,
            I::SignExtend | I::ZeroExtend => width == 64,
            _ => width == 128,
        };
        if is_known && is_whole { Ok(self.vector(Vector::Lanes { which, lane, of })) } else { Err(Unknown) }
    }

    /// A floating-point operation, rounded as usual.
    fn float(
        &mut self,
        work: &mut Work<'i>,
        which: Float,
        (lane, width): (u8, u8),
        how: Val,
        of: [Val; 3],
    ) -> Done<Val> {
        use Float as F;
        let Val::Number(how) = how else { return Err(Unknown) };
        let how = how as u8;
        let rounding = how & mode::ROUNDING;
        let is_scalar = lane == width;
        let is_plain = matches!(lane, 32 | 64) && how & (mode::FLUSH | mode::ALTERNATIVE_HALF) == 0;
        let is_nearest = rounding == mode::Rounding::Even as u8;
        let is_known = match which {
            F::Add | F::Subtract | F::Multiply | F::Root | F::MultiplyAdd => is_nearest,
            // In half a vector, zeros above would be divided by zeros.
            F::Divide => is_nearest && (is_scalar || width == 128),
            F::Minimum | F::Maximum | F::MinimumNumber | F::MaximumNumber => true,
            F::Equal | F::Greater | F::GreaterEqual => true,
            F::Order => is_scalar,
            F::Integral | F::IntegralExact => rounding <= 3,
            F::ToSigned | F::ToUnsigned | F::ToSignedHalf | F::ToUnsignedHalf => {
                let is_wide = lane == 64 || which == F::ToSigned;
                is_scalar && is_wide && rounding <= 3 && of[1] == Val::Number(0)
            }
            F::OfSigned | F::OfSignedHalf | F::OfUnsigned | F::OfUnsignedHalf => {
                let fits = matches!(which, F::OfSigned | F::OfSignedHalf) || self.bits(of[0]) < 64;
                let is_wide = lane == 64 || which == F::OfSigned;
                is_scalar && is_nearest && fits && is_wide && of[1] == Val::Number(0)
            }
            F::Widen => is_scalar && lane == 32,
            F::Narrow => is_scalar && lane == 64 && is_nearest,
            _ => false,
        };
        if !(is_plain && is_known) || work.has_accessed {
            return Err(Unknown);
        }
        let at = self.state_before(work);
        Ok(self.effect(Ir::Vector(Vector::Float { which, lane, width, rounding, of, at })))
    }
}
