//! What the arithmetic instructions do, a line for each. Control, memory and exchange are in [`super::machine`].

use super::{
    code::{Cmp, Code, Extra, Inst, Op, PrmtMode},
    float::{self as fp, HalfOp},
    frame::{Frame, Lane},
};

/// Runs one instruction on the lanes of `mask`.
///
/// Inlined into one function for each instruction set of the host ([`super::level`]).
#[inline(always)]
pub fn alu(code: &Code, inst: &Inst, r: &Frame, mask: u32) {
    let &Inst { d, a, b, c, imm, mods, .. } = inst;
    let (ab, abc) = ([a, b], [a, b, c]);
    match inst.op {
        // ---- moves ----
        Op::Mov32 => r.map1(d, a, mask, |x: u32| x),
        Op::Mov64 => r.map1(d, a, mask, |x: u64| x),
        Op::Pack16 => r.map2(d, ab, mask, |x: u32, y: u32| x & 0xffff | y << 16),
        Op::Pack32 => r.map2(d, ab, mask, |x: u32, y: u32| u64::from(x) | u64::from(y) << 32),
        Op::Low16 => r.map1(d, a, mask, |x: u32| x & 0xffff),
        Op::High16 => r.map1(d, a, mask, |x: u32| x >> 16),
        Op::Low32 => r.map1(d, a, mask, |x: u64| x as u32),
        Op::High32 => r.map1(d, a, mask, |x: u64| (x >> 32) as u32),
        Op::Zext32 => r.map1(d, a, mask, |x: u32| u64::from(x)),
        Op::Sext32 => r.map1(d, a, mask, |x: i32| i64::from(x)),
        Op::Selp32 => select::<u32>(r, d, ab, r.pred(c), mask),
        Op::Selp64 => select::<u64>(r, d, ab, r.pred(c), mask),

        // ---- integers ----
        Op::Add16 => r.map2(d, ab, mask, |x: u16, y: u16| x.wrapping_add(y)),
        Op::Add32 => r.map2(d, ab, mask, |x: u32, y: u32| x.wrapping_add(y)),
        Op::Add64 => r.map2(d, ab, mask, |x: u64, y: u64| x.wrapping_add(y)),
        Op::Sub16 => r.map2(d, ab, mask, |x: u16, y: u16| x.wrapping_sub(y)),
        Op::Sub32 => r.map2(d, ab, mask, |x: u32, y: u32| x.wrapping_sub(y)),
        Op::Sub64 => r.map2(d, ab, mask, |x: u64, y: u64| x.wrapping_sub(y)),
        Op::AddSatS32 => r.map2(d, ab, mask, |x: i32, y: i32| x.saturating_add(y)),
        Op::SubSatS32 => r.map2(d, ab, mask, |x: i32, y: i32| x.saturating_sub(y)),
        Op::AddU16x2 => pairs(r, inst, mask, |x, y| x.wrapping_add(y)),
        Op::Neg16 => r.map1(d, a, mask, |x: u16| x.wrapping_neg()),
        Op::Neg32 => r.map1(d, a, mask, |x: u32| x.wrapping_neg()),
        Op::Neg64 => r.map1(d, a, mask, |x: u64| x.wrapping_neg()),
        Op::AddC32 => carry(r, inst, mask, |x: u32, y: u32, c| {
            let sum = u64::from(x) + u64::from(y) + u64::from(c);
            (sum as u32, sum >> 32 != 0)
        }),
        Op::AddC64 => carry(r, inst, mask, |x: u64, y: u64, c| {
            let sum = u128::from(x) + u128::from(y) + u128::from(c);
            (sum as u64, sum >> 64 != 0)
        }),
        Op::SubC32 => carry(r, inst, mask, |x: u32, y: u32, c| {
            let less = u64::from(y) + u64::from(c);
            (x.wrapping_sub(less as u32), u64::from(x) < less)
        }),
        Op::SubC64 => carry(r, inst, mask, |x: u64, y: u64, c| {
            let less = u128::from(y) + u128::from(c);
            (x.wrapping_sub(less as u64), u128::from(x) < less)
        }),
        Op::MulLo16 => r.map2(d, ab, mask, |x: u16, y: u16| x.wrapping_mul(y)),
        Op::MulLo32 => r.map2(d, ab, mask, |x: u32, y: u32| x.wrapping_mul(y)),
        Op::MulLo64 => r.map2(d, ab, mask, |x: u64, y: u64| x.wrapping_mul(y)),
        Op::MulHiU16 => r.map2(d, ab, mask, |x: u16, y: u16| (u32::from(x) * u32::from(y) >> 16) as u16),
        Op::MulHiS16 => r.map2(d, ab, mask, |x: i16, y: i16| (i32::from(x) * i32::from(y) >> 16) as i16),
        Op::MulHiU32 => r.map2(d, ab, mask, |x: u32, y: u32| (u64::from(x) * u64::from(y) >> 32) as u32),
        Op::MulHiS32 => r.map2(d, ab, mask, |x: i32, y: i32| (i64::from(x) * i64::from(y) >> 32) as i32),
        Op::MulHiU64 => r.map2(d, ab, mask, |x: u64, y: u64| (u128::from(x) * u128::from(y) >> 64) as u64),
        Op::MulHiS64 => r.map2(d, ab, mask, |x: i64, y: i64| (i128::from(x) * i128::from(y) >> 64) as i64),
        Op::MulWideU16 => r.map2(d, ab, mask, |x: u16, y: u16| u32::from(x) * u32::from(y)),
        Op::MulWideS16 => r.map2(d, ab, mask, |x: i16, y: i16| i32::from(x) * i32::from(y)),
        Op::MulWideU32 => r.map2(d, ab, mask, |x: u32, y: u32| u64::from(x) * u64::from(y)),
        Op::MulWideS32 => r.map2(d, ab, mask, |x: i32, y: i32| i64::from(x) * i64::from(y)),
        Op::Mul24U => r.map2(d, ab, mask, |x: u32, y: u32| (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff)),
        Op::Mul24S => r.map2(d, ab, mask, |x: i32, y: i32| (x << 8 >> 8).wrapping_mul(y << 8 >> 8)),
        Op::MadLo16 => r.map3(d, abc, mask, |x: u16, y: u16, z: u16| x.wrapping_mul(y).wrapping_add(z)),
        Op::MadLo32 => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| x.wrapping_mul(y).wrapping_add(z)),
        Op::MadLo64 => r.map3(d, abc, mask, |x: u64, y: u64, z: u64| x.wrapping_mul(y).wrapping_add(z)),
        Op::MadWideU16 => {
            r.map3(d, abc, mask, |x: u16, y: u16, z: u32| (u32::from(x) * u32::from(y)).wrapping_add(z))
        }
        Op::MadWideS16 => {
            r.map3(d, abc, mask, |x: i16, y: i16, z: i32| (i32::from(x) * i32::from(y)).wrapping_add(z))
        }
        Op::MadWideU32 => {
            r.map3(d, abc, mask, |x: u32, y: u32, z: u64| (u64::from(x) * u64::from(y)).wrapping_add(z))
        }
        Op::MadWideS32 => {
            r.map3(d, abc, mask, |x: i32, y: i32, z: i64| (i64::from(x) * i64::from(y)).wrapping_add(z))
        }
        // Division by zero gives all ones, its remainder the dividend, as on the device.
        Op::DivU16 => r.map2(d, ab, mask, |x: u16, y: u16| x.checked_div(y).unwrap_or(!0)),
        Op::DivS16 => r.map2(d, ab, mask, |x: i16, y: i16| if y == 0 { -1 } else { x.wrapping_div(y) }),
        Op::DivU32 => r.map2(d, ab, mask, |x: u32, y: u32| x.checked_div(y).unwrap_or(!0)),
        Op::DivS32 => r.map2(d, ab, mask, |x: i32, y: i32| if y == 0 { -1 } else { x.wrapping_div(y) }),
        Op::DivU64 => r.map2(d, ab, mask, |x: u64, y: u64| x.checked_div(y).unwrap_or(!0)),
        Op::DivS64 => r.map2(d, ab, mask, |x: i64, y: i64| if y == 0 { -1 } else { x.wrapping_div(y) }),
        Op::RemU16 => r.map2(d, ab, mask, |x: u16, y: u16| x.checked_rem(y).unwrap_or(x)),
        Op::RemS16 => r.map2(d, ab, mask, |x: i16, y: i16| if y == 0 { x } else { x.wrapping_rem(y) }),
        Op::RemU32 => r.map2(d, ab, mask, |x: u32, y: u32| x.checked_rem(y).unwrap_or(x)),
        Op::RemS32 => r.map2(d, ab, mask, |x: i32, y: i32| if y == 0 { x } else { x.wrapping_rem(y) }),
        Op::RemU64 => r.map2(d, ab, mask, |x: u64, y: u64| x.checked_rem(y).unwrap_or(x)),
        Op::RemS64 => r.map2(d, ab, mask, |x: i64, y: i64| if y == 0 { x } else { x.wrapping_rem(y) }),
        Op::MinU16 => r.map2(d, ab, mask, |x: u16, y: u16| x.min(y)),
        Op::MinS16 => r.map2(d, ab, mask, |x: i16, y: i16| x.min(y)),
        Op::MinU32 => r.map2(d, ab, mask, |x: u32, y: u32| x.min(y)),
        Op::MinS32 => r.map2(d, ab, mask, |x: i32, y: i32| x.min(y)),
        Op::MinU64 => r.map2(d, ab, mask, |x: u64, y: u64| x.min(y)),
        Op::MinS64 => r.map2(d, ab, mask, |x: i64, y: i64| x.min(y)),
        Op::MaxU16 => r.map2(d, ab, mask, |x: u16, y: u16| x.max(y)),
        Op::MaxS16 => r.map2(d, ab, mask, |x: i16, y: i16| x.max(y)),
        Op::MaxU32 => r.map2(d, ab, mask, |x: u32, y: u32| x.max(y)),
        Op::MaxS32 => r.map2(d, ab, mask, |x: i32, y: i32| x.max(y)),
        Op::MaxU64 => r.map2(d, ab, mask, |x: u64, y: u64| x.max(y)),
        Op::MaxS64 => r.map2(d, ab, mask, |x: i64, y: i64| x.max(y)),
        Op::MinU16x2 => pairs(r, inst, mask, |x, y| x.min(y)),
        Op::MinS16x2 => pairs(r, inst, mask, |x, y| (x as i16).min(y as i16) as u16),
        Op::MaxU16x2 => pairs(r, inst, mask, |x, y| x.max(y)),
        Op::MaxS16x2 => pairs(r, inst, mask, |x, y| (x as i16).max(y as i16) as u16),
        Op::AbsS16 => r.map1(d, a, mask, |x: i16| x.wrapping_abs()),
        Op::AbsS32 => r.map1(d, a, mask, |x: i32| x.wrapping_abs()),
        Op::AbsS64 => r.map1(d, a, mask, |x: i64| x.wrapping_abs()),
        Op::SadU16 => r.map3(d, abc, mask, |x: u16, y: u16, z: u16| z.wrapping_add(x.abs_diff(y))),
        Op::SadS16 => r.map3(d, abc, mask, |x: i16, y: i16, z: u16| z.wrapping_add(x.abs_diff(y))),
        Op::SadU32 => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| z.wrapping_add(x.abs_diff(y))),
        Op::SadS32 => r.map3(d, abc, mask, |x: i32, y: i32, z: u32| z.wrapping_add(x.abs_diff(y))),
        Op::SadU64 => r.map3(d, abc, mask, |x: u64, y: u64, z: u64| z.wrapping_add(x.abs_diff(y))),
        Op::SadS64 => r.map3(d, abc, mask, |x: i64, y: i64, z: u64| z.wrapping_add(x.abs_diff(y))),
        Op::Dp4aUU => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp4a(x, y, z, false, false)),
        Op::Dp4aUS => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp4a(x, y, z, false, true)),
        Op::Dp4aSU => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp4a(x, y, z, true, false)),
        Op::Dp4aSS => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp4a(x, y, z, true, true)),
        Op::Dp2aUU => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp2a(x, y, z, false, false, mods)),
        Op::Dp2aUS => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp2a(x, y, z, false, true, mods)),
        Op::Dp2aSU => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp2a(x, y, z, true, false, mods)),
        Op::Dp2aSS => r.map3(d, abc, mask, |x: u32, y: u32, z: u32| dp2a(x, y, z, true, true, mods)),

        // ---- bits ----
        Op::And32 => r.map2(d, ab, mask, |x: u32, y: u32| x & y),
        Op::And64 => r.map2(d, ab, mask, |x: u64, y: u64| x & y),
        Op::Or32 => r.map2(d, ab, mask, |x: u32, y: u32| x | y),
        Op::Or64 => r.map2(d, ab, mask, |x: u64, y: u64| x | y),
        Op::Xor32 => r.map2(d, ab, mask, |x: u32, y: u32| x ^ y),
        Op::Xor64 => r.map2(d, ab, mask, |x: u64, y: u64| x ^ y),
        Op::Not16 => r.map1(d, a, mask, |x: u16| !x),
        Op::Not32 => r.map1(d, a, mask, |x: u32| !x),
        Op::Not64 => r.map1(d, a, mask, |x: u64| !x),
        Op::Cnot16 | Op::Cnot32 => r.map1(d, a, mask, |x: u32| u32::from(x == 0)),
        Op::Cnot64 => r.map1(d, a, mask, |x: u64| u64::from(x == 0)),
        // Amounts beyond the width are clamped to it.
        Op::Shl16 => r.map2(d, ab, mask, |x: u16, n: u32| if n > 15 { 0 } else { x << n }),
        Op::Shl32 => r.map2(d, ab, mask, |x: u32, n: u32| if n > 31 { 0 } else { x << n }),
        Op::Shl64 => r.map2(d, ab, mask, |x: u64, n: u32| if n > 63 { 0 } else { x << n }),
        Op::ShrU16 => r.map2(d, ab, mask, |x: u16, n: u32| if n > 15 { 0 } else { x >> n }),
        Op::ShrU32 => r.map2(d, ab, mask, |x: u32, n: u32| if n > 31 { 0 } else { x >> n }),
        Op::ShrU64 => r.map2(d, ab, mask, |x: u64, n: u32| if n > 63 { 0 } else { x >> n }),
        Op::ShrS16 => r.map2(d, ab, mask, |x: i16, n: u32| x >> n.min(15)),
        Op::ShrS32 => r.map2(d, ab, mask, |x: i32, n: u32| x >> n.min(31)),
        Op::ShrS64 => r.map2(d, ab, mask, |x: i64, n: u32| x >> n.min(63)),
        Op::ShfL => r.map3(d, abc, mask, |low: u32, high: u32, n: u32| {
            let n = if mods == 1 { n & 31 } else { n.min(32) };
            ((u64::from(high) << 32 | u64::from(low)) << n >> 32) as u32
        }),
        Op::ShfR => r.map3(d, abc, mask, |low: u32, high: u32, n: u32| {
            let n = if mods == 1 { n & 31 } else { n.min(32) };
            ((u64::from(high) << 32 | u64::from(low)) >> n) as u32
        }),
        Op::Lop3 => {
            // Each bit of the table is one combination of the operands' bits.
            let t: [u32; 8] = std::array::from_fn(|i| (imm as u32 >> i & 1).wrapping_neg());
            r.map3(d, abc, mask, |x: u32, y: u32, z: u32| {
                !x & (!y & (!z & t[0] | z & t[1]) | y & (!z & t[2] | z & t[3]))
                    | x & (!y & (!z & t[4] | z & t[5]) | y & (!z & t[6] | z & t[7]))
            });
        }
        Op::Prmt => r.map3(d, abc, mask, |x: u32, y: u32, s: u32| prmt(x, y, s, mods)),
        Op::BfeU32 => r.map3(d, abc, mask, |x: u32, p: u32, n: u32| bfe(x.into(), p, n, 32, false) as u32),
        Op::BfeS32 => {
            r.map3(d, abc, mask, |x: i32, p: u32, n: u32| bfe(i64::from(x) as u64, p, n, 32, true) as i32)
        }
        Op::BfeU64 => r.map3(d, abc, mask, |x: u64, p: u32, n: u32| bfe(x, p, n, 64, false)),
        Op::BfeS64 => r.map3(d, abc, mask, |x: u64, p: u32, n: u32| bfe(x, p, n, 64, true)),
        Op::Bfi32 => {
            let len = r.load::<u32>(imm as u32);
            let (x, y, p) = (r.load::<u32>(a), r.load::<u32>(b), r.load::<u32>(c));
            let out = std::array::from_fn(|i| bfi(x[i].into(), y[i].into(), p[i], len[i], 32) as u32);
            r.store::<u32>(d, mask, out);
        }
        Op::Bfi64 => {
            let len = r.load::<u32>(imm as u32);
            let (x, y, p) = (r.load::<u64>(a), r.load::<u64>(b), r.load::<u32>(c));
            let out = std::array::from_fn(|i| bfi(x[i], y[i], p[i], len[i], 64));
            r.store::<u64>(d, mask, out);
        }
        Op::BfindU32 => r.map1(d, a, mask, |x: u32| bfind(x.into(), 32, mods)),
        Op::BfindS32 => r.map1(d, a, mask, |x: i32| bfind(u64::from((x ^ x >> 31) as u32), 32, mods)),
        Op::BfindU64 => r.map1(d, a, mask, |x: u64| bfind(x, 64, mods)),
        Op::BfindS64 => r.map1(d, a, mask, |x: i64| bfind((x ^ x >> 63) as u64, 64, mods)),
        Op::Popc32 => r.map1(d, a, mask, |x: u32| x.count_ones()),
        Op::Popc64 => r.map1(d, a, mask, |x: u64| x.count_ones()),
        Op::Clz32 => r.map1(d, a, mask, |x: u32| x.leading_zeros()),
        Op::Clz64 => r.map1(d, a, mask, |x: u64| x.leading_zeros()),
        Op::Brev32 => r.map1(d, a, mask, |x: u32| x.reverse_bits()),
        Op::Brev64 => r.map1(d, a, mask, |x: u64| x.reverse_bits()),
        Op::Fns => r.map3(d, abc, mask, fns),
        Op::BmskClamp => r.map2(d, ab, mask, |p: u32, n: u32| bmsk(p.min(32), n.min(32))),
        Op::BmskWrap => r.map2(d, ab, mask, |p: u32, n: u32| bmsk(p & 31, n & 31)),

        // ---- predicates ----
        Op::PSet => r.set_pred(d, mask, u32::from(mods & 1).wrapping_neg()),
        Op::PMov => r.set_pred(d, mask, r.pred(a)),
        Op::PNot => r.set_pred(d, mask, !r.pred(a)),
        Op::PAnd => r.set_pred(d, mask, r.pred(a) & r.pred(b)),
        Op::POr => r.set_pred(d, mask, r.pred(a) | r.pred(b)),
        Op::PXor => r.set_pred(d, mask, r.pred(a) ^ r.pred(b)),
        Op::SetpU16 | Op::SetpU32 => r.set_pred(d, mask, compare::<u32>(r, ab, mods)),
        Op::SetpS16 => r.set_pred(d, mask, compare::<i16>(r, ab, mods)),
        Op::SetpS32 => r.set_pred(d, mask, compare::<i32>(r, ab, mods)),
        Op::SetpU64 => r.set_pred(d, mask, compare::<u64>(r, ab, mods)),
        Op::SetpS64 => r.set_pred(d, mask, compare::<i64>(r, ab, mods)),
        Op::SetpF32 => r.set_pred(d, mask, compare_float(r, ab, mods, |x: f32| x)),
        Op::SetpF32Ftz => r.set_pred(d, mask, compare_float(r, ab, mods, fp::flush)),
        Op::SetpF64 => r.set_pred(d, mask, compare_float(r, ab, mods, |x: f64| x)),
        Op::SetpF16 => r.set_pred(d, mask, compare_float(r, ab, mods, fp::f16_to_f32)),
        Op::SetpF16Ftz => {
            r.set_pred(d, mask, compare_float(r, ab, mods, |x: u16| fp::f16_to_f32(fp::flush_f16(x))));
        }
        Op::SetpBf16 => {
            r.set_pred(d, mask, compare_float(r, ab, mods, |x: u16| f32::from_bits(u32::from(x) << 16)));
        }
        Op::TestpF32 => r.set_pred(
            d,
            mask,
            r.test([a, a], |x: f32, _: f32| testp(x.into(), x.is_normal(), x.is_subnormal(), mods)),
        ),
        Op::TestpF64 => r.set_pred(
            d,
            mask,
            r.test([a, a], |x: f64, _: f64| testp(x, x.is_normal(), x.is_subnormal(), mods)),
        ),

        // ---- f32 ----
        Op::AddF32 => r.map2(d, ab, mask, |x: f32, y: f32| fp::canon(x + y)),
        Op::SubF32 => r.map2(d, ab, mask, |x: f32, y: f32| fp::canon(x - y)),
        Op::MulF32 => r.map2(d, ab, mask, |x: f32, y: f32| fp::canon(x * y)),
        Op::FmaF32 => r.map3(d, abc, mask, |x: f32, y: f32, z: f32| fp::canon(x.mul_add(y, z))),
        Op::DivF32 => r.map2(d, ab, mask, |x: f32, y: f32| fp::canon(x / y)),
        Op::RcpF32 => r.map1(d, a, mask, |x: f32| fp::canon(1.0 / x)),
        Op::SqrtF32 => r.map1(d, a, mask, |x: f32| fp::canon(x.sqrt())),
        Op::AbsF32 => r.map1(d, a, mask, |x: f32| x.abs()),
        Op::NegF32 => r.map1(d, a, mask, |x: f32| -x),
        Op::MinF32 => r.map2(d, ab, mask, fp::min_f32),
        Op::MaxF32 => r.map2(d, ab, mask, fp::max_f32),
        // PTX: the sign of a, the magnitude of b.
        Op::CopysignF32 => r.map2(d, ab, mask, |x: f32, y: f32| y.copysign(x)),
        Op::AddF32X => r.map2(d, ab, mask, |x: f32, y: f32| fp::add_f32(x, y, mods)),
        Op::SubF32X => r.map2(d, ab, mask, |x: f32, y: f32| fp::add_f32(x, -y, mods)),
        Op::MulF32X => r.map2(d, ab, mask, |x: f32, y: f32| fp::mul_f32(x, y, mods)),
        Op::FmaF32X => r.map3(d, abc, mask, |x: f32, y: f32, z: f32| fp::fma_f32(x, y, z, mods)),
        Op::DivF32X => r.map2(d, ab, mask, |x: f32, y: f32| fp::div_f32(x, y, mods)),
        Op::RcpF32X => r.map1(d, a, mask, |x: f32| fp::div_f32(1.0, x, mods)),
        Op::SqrtF32X => r.map1(d, a, mask, |x: f32| fp::sqrt_f32(x, mods)),
        Op::AbsF32X => r.map1(d, a, mask, |x: f32| fp::flush(x).abs()),
        Op::NegF32X => r.map1(d, a, mask, |x: f32| -fp::flush(x)),
        Op::MinF32X => r.map2(d, ab, mask, |x: f32, y: f32| fp::pick_f32(x, y, mods, true)),
        Op::MaxF32X => r.map2(d, ab, mask, |x: f32, y: f32| fp::pick_f32(x, y, mods, false)),
        Op::DivApprox => r.map2(d, ab, mask, |x: f32, y: f32| fp::div_approx(x, y, mods)),
        Op::RcpApprox => r.map1(d, a, mask, |x: f32| fp::div_f32(1.0, x, mods)),
        Op::SqrtApprox => r.map1(d, a, mask, |x: f32| fp::sqrt_f32(x, mods)),
        Op::RsqrtApprox => r.map1(d, a, mask, |x: f32| fp::rsqrt(x, mods)),
        Op::SinApprox => r.map1(d, a, mask, |x: f32| fp::sin(x, mods)),
        Op::CosApprox => r.map1(d, a, mask, |x: f32| fp::cos(x, mods)),
        Op::Lg2Approx => r.map1(d, a, mask, |x: f32| fp::lg2(x, mods)),
        Op::Ex2Approx => r.map1(d, a, mask, |x: f32| fp::ex2(x, mods)),
        Op::TanhApprox => r.map1(d, a, mask, |x: f32| fp::tanh(x)),

        // ---- f64 ----
        Op::AddF64 => r.map2(d, ab, mask, |x: f64, y: f64| x + y),
        Op::SubF64 => r.map2(d, ab, mask, |x: f64, y: f64| x - y),
        Op::MulF64 => r.map2(d, ab, mask, |x: f64, y: f64| x * y),
        Op::FmaF64 => r.map3(d, abc, mask, |x: f64, y: f64, z: f64| x.mul_add(y, z)),
        Op::DivF64 => r.map2(d, ab, mask, |x: f64, y: f64| x / y),
        Op::RcpF64 => r.map1(d, a, mask, |x: f64| 1.0 / x),
        Op::SqrtF64 => r.map1(d, a, mask, |x: f64| x.sqrt()),
        Op::AbsF64 => r.map1(d, a, mask, |x: f64| x.abs()),
        Op::NegF64 => r.map1(d, a, mask, |x: f64| -x),
        Op::MinF64 => r.map2(d, ab, mask, fp::min_f64),
        Op::MaxF64 => r.map2(d, ab, mask, fp::max_f64),
        Op::CopysignF64 => r.map2(d, ab, mask, |x: f64, y: f64| y.copysign(x)),
        Op::AddF64X => r.map2(d, ab, mask, |x: f64, y: f64| fp::add_f64(x, y, mods)),
        Op::SubF64X => r.map2(d, ab, mask, |x: f64, y: f64| fp::add_f64(x, -y, mods)),
        Op::MulF64X => r.map2(d, ab, mask, |x: f64, y: f64| fp::mul_f64(x, y, mods)),
        Op::FmaF64X => r.map3(d, abc, mask, |x: f64, y: f64, z: f64| fp::fma_f64(x, y, z, mods)),
        Op::DivF64X => r.map2(d, ab, mask, |x: f64, y: f64| fp::div_f64(x, y, mods)),
        Op::RcpF64X => r.map1(d, a, mask, |x: f64| fp::div_f64(1.0, x, mods)),
        Op::SqrtF64X => r.map1(d, a, mask, |x: f64| fp::sqrt_f64(x, mods)),
        Op::RcpApproxF64 => r.map1(d, a, mask, |x: f64| fp::high_word(x, mods, |x| 1.0 / x)),
        Op::RsqrtApproxF64 => r.map1(d, a, mask, |x: f64| fp::high_word(x, mods, |x| 1.0 / x.sqrt())),

        // ---- halves ----
        Op::AddHalf => halves(r, inst, mask, HalfOp::Add),
        Op::SubHalf => halves(r, inst, mask, HalfOp::Sub),
        Op::MulHalf => halves(r, inst, mask, HalfOp::Mul),
        Op::FmaHalf => halves(r, inst, mask, HalfOp::Fma),
        Op::MinHalf => halves(r, inst, mask, HalfOp::Min),
        Op::MaxHalf => halves(r, inst, mask, HalfOp::Max),
        Op::AbsHalf => halves(r, inst, mask, HalfOp::Abs),
        Op::NegHalf => halves(r, inst, mask, HalfOp::Neg),
        Op::Ex2Half => halves(r, inst, mask, HalfOp::Ex2),
        Op::TanhHalf => halves(r, inst, mask, HalfOp::Tanh),

        // ---- conversions ----
        Op::F32FromU32 => r.map1(d, a, mask, |x: u32| x as f32),
        Op::F32FromS32 => r.map1(d, a, mask, |x: i32| x as f32),
        Op::F32FromF16 => r.map1(d, a, mask, |x: u16| fp::canon(fp::f16_to_f32(x))),
        Op::F32FromBf16 => r.map1(d, a, mask, |x: u16| fp::canon(f32::from_bits(u32::from(x) << 16))),
        Op::F16FromF32 => r.map1(d, a, mask, fp::f32_to_f16),
        Op::Bf16FromF32 => r.map1(d, a, mask, fp::f32_to_bf16),
        Op::F64FromF32 => r.map1(d, a, mask, |x: f32| f64::from(x)),
        Op::F32FromF64 => r.map1(d, a, mask, |x: f64| fp::canon(x as f32)),
        Op::S32FromF32 => r.map1(d, a, mask, |x: f32| x as i32),
        Op::Cvt => convert(code, r, inst, mask),
        Op::CvtPack => {
            let Extra::Cvt(cvt) = code.extras[imm as usize] else { return };
            let half = super::code::Cvt { dst: half_of(cvt.dst), ..cvt };
            r.map2(d, ab, mask, |high: u32, low: u32| {
                let part = |x: u32| fp::convert(x.into(), &half) as u32;
                part(low) | part(high) << 16
            });
        }
        // The rest is for `machine`.
        _ => debug_assert!(false, "{:?} is not arithmetic", inst.op),
    }
}

fn half_of(ty: crate::ptx::Type) -> crate::ptx::Type {
    if ty == crate::ptx::Type::F16x2 { crate::ptx::Type::F16 } else { crate::ptx::Type::Bf16 }
}

#[inline(always)]
fn select<T: Lane>(r: &Frame, d: u32, [a, b]: [u32; 2], p: u32, mask: u32) {
    let (a, b) = (r.load::<T>(a), r.load::<T>(b));
    let out = std::array::from_fn(|i| if p >> i & 1 != 0 { a[i] } else { b[i] });
    r.store::<T>(d, mask, out);
}

#[inline(always)]
fn pairs(r: &Frame, inst: &Inst, mask: u32, f: impl Fn(u16, u16) -> u16) {
    r.map2(inst.d, [inst.a, inst.b], mask, |x: u32, y: u32| {
        u32::from(f(x as u16, y as u16)) | u32::from(f((x >> 16) as u16, (y >> 16) as u16)) << 16
    });
}

#[inline(always)]
fn carry<T: Lane<Slot = T> + Default>(
    r: &Frame,
    inst: &Inst,
    mask: u32,
    f: impl Fn(T, T, bool) -> (T, bool),
) {
    let (a, b, c) = (r.load::<T>(inst.a), r.load::<T>(inst.b), r.pred(inst.c));
    let mut carries = 0;
    let out = std::array::from_fn(|i| {
        let (x, over) = f(a[i], b[i], c >> i & 1 != 0);
        carries |= u32::from(over) << i;
        x
    });
    r.store::<T>(inst.d, mask, out);
    r.set_pred(inst.imm as u32, mask, carries);
}

#[inline(always)]
fn halves(r: &Frame, inst: &Inst, mask: u32, op: HalfOp) {
    let mods = inst.mods;
    r.map3(inst.d, [inst.a, inst.b, inst.c], mask, |x: u32, y: u32, z: u32| fp::half(op, x, y, z, mods));
}

#[inline(always)]
fn compare<T: Lane + Ord>(r: &Frame, ab: [u32; 2], cmp: u16) -> u32 {
    match cmp {
        x if x == Cmp::Eq as u16 => r.test(ab, |x: T, y: T| x == y),
        x if x == Cmp::Ne as u16 => r.test(ab, |x: T, y: T| x != y),
        x if x == Cmp::Lt as u16 => r.test(ab, |x: T, y: T| x < y),
        x if x == Cmp::Le as u16 => r.test(ab, |x: T, y: T| x <= y),
        x if x == Cmp::Gt as u16 => r.test(ab, |x: T, y: T| x > y),
        _ => r.test(ab, |x: T, y: T| x >= y),
    }
}

#[inline(always)]
fn compare_float<T: Lane, F: PartialOrd + Copy>(
    r: &Frame,
    ab: [u32; 2],
    cmp: u16,
    f: impl Fn(T) -> F,
) -> u32 {
    // The unordered comparisons are the negated opposites of the ordered ones.
    match cmp {
        x if x == Cmp::Eq as u16 => r.test(ab, |x: T, y: T| f(x) == f(y)),
        x if x == Cmp::Ne as u16 => r.test(ab, |x: T, y: T| f(x) < f(y) || f(x) > f(y)),
        x if x == Cmp::Lt as u16 => r.test(ab, |x: T, y: T| f(x) < f(y)),
        x if x == Cmp::Le as u16 => r.test(ab, |x: T, y: T| f(x) <= f(y)),
        x if x == Cmp::Gt as u16 => r.test(ab, |x: T, y: T| f(x) > f(y)),
        x if x == Cmp::Ge as u16 => r.test(ab, |x: T, y: T| f(x) >= f(y)),
        x if x == Cmp::Equ as u16 => !r.test(ab, |x: T, y: T| f(x) < f(y) || f(x) > f(y)),
        x if x == Cmp::Neu as u16 => !r.test(ab, |x: T, y: T| f(x) == f(y)),
        x if x == Cmp::Ltu as u16 => !r.test(ab, |x: T, y: T| f(x) >= f(y)),
        x if x == Cmp::Leu as u16 => !r.test(ab, |x: T, y: T| f(x) > f(y)),
        x if x == Cmp::Gtu as u16 => !r.test(ab, |x: T, y: T| f(x) <= f(y)),
        x if x == Cmp::Geu as u16 => !r.test(ab, |x: T, y: T| f(x) < f(y)),
        x if x == Cmp::Num as u16 => r.test(ab, |x: T, y: T| f(x) == f(x) && f(y) == f(y)),
        _ => r.test(ab, |x: T, y: T| f(x) != f(x) || f(y) != f(y)),
    }
}

fn testp(x: f64, normal: bool, subnormal: bool, class: u16) -> bool {
    match class {
        0 => x.is_finite(),
        1 => x.is_infinite(),
        2 => !x.is_nan(),
        3 => x.is_nan(),
        4 => normal,
        _ => subnormal,
    }
}

#[inline(always)]
fn dp4a(x: u32, y: u32, z: u32, x_signed: bool, y_signed: bool) -> u32 {
    let part = |v: u32, i: u32, signed: bool| {
        let byte = (v >> (8 * i)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..4).fold(z, |sum, i| sum.wrapping_add((part(x, i, x_signed) * part(y, i, y_signed)) as u32))
}

#[inline(always)]
fn dp2a(x: u32, y: u32, z: u32, x_signed: bool, y_signed: bool, high: u16) -> u32 {
    (0..2).fold(z, |sum, i| {
        let word = (x >> (16 * i)) as u16;
        let byte = (y >> (8 * (i + 2 * u32::from(high)))) as u8;
        let a = if x_signed { i32::from(word as i16) } else { i32::from(word) };
        let b = if y_signed { i32::from(byte as i8) } else { i32::from(byte) };
        sum.wrapping_add(a.wrapping_mul(b) as u32)
    })
}

#[inline(always)]
fn prmt(x: u32, y: u32, s: u32, mode: u16) -> u32 {
    let bytes = u64::from(y) << 32 | u64::from(x);
    let at = s & 3;
    let pick = |i: u32| match mode {
        m if m == PrmtMode::F4e as u16 => at + i,
        m if m == PrmtMode::B4e as u16 => at.wrapping_sub(i) & 7,
        m if m == PrmtMode::Rc8 as u16 => at,
        m if m == PrmtMode::Ecl as u16 => i.max(at),
        m if m == PrmtMode::Ecr as u16 => i.min(at),
        m if m == PrmtMode::Rc16 as u16 => (at & 1) * 2 + (i & 1),
        _ => s >> (4 * i) & 15,
    };
    (0..4).fold(0, |out, i| {
        let n = pick(i);
        let byte = (bytes >> (8 * (n & 7))) as u8;
        // Bit 3 of a selector spreads the sign.
        let byte = if n & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
        out | u32::from(byte) << (8 * i)
    })
}

#[inline(always)]
fn bfe(x: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if len == 0 {
        return 0;
    }
    let top = width - 1;
    let sign = signed && x >> (pos + len - 1).min(top) & 1 != 0;
    // Past the top of the register there are copies of the sign.
    let have = if pos > top { 0 } else { len.min(width - pos) };
    let bits = if have == 0 { 0 } else { x >> pos & (u64::MAX >> (64 - have)) };
    if sign && have < 64 { bits | u64::MAX << have } else { bits }
}

#[inline(always)]
fn bfi(x: u64, y: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos >= width || len == 0 {
        return y;
    }
    let field = u64::MAX >> (64 - len.min(width - pos)) << pos;
    y & !field | x << pos & field
}

#[inline(always)]
fn bfind(x: u64, width: u32, shift: u16) -> u32 {
    match x {
        0 => u32::MAX,
        _ if shift == 1 => x.leading_zeros() - (64 - width),
        _ => 63 - x.leading_zeros(),
    }
}

fn bmsk(pos: u32, len: u32) -> u32 {
    ((((1u64 << len) - 1) << pos) & 0xffff_ffff) as u32
}

fn fns(x: u32, base: u32, offset: u32) -> u32 {
    let mut left = offset as i32;
    let step = if left < 0 { -1 } else { 1 };
    if left == 0 {
        return if x >> (base & 31) & 1 != 0 { base } else { u32::MAX };
    }
    let mut at = base as i32;
    while (0..32).contains(&at) {
        if x >> at & 1 != 0 {
            left -= step;
            if left == 0 {
                return at as u32;
            }
        }
        at += step;
    }
    u32::MAX
}

/// The conversions that have no operation of their own.
#[inline(never)]
fn convert(code: &Code, r: &Frame, inst: &Inst, mask: u32) {
    let Extra::Cvt(cvt) = code.extras[inst.imm as usize] else { return };
    let from = match inst.mods {
        1 => r.load::<u64>(inst.a),
        _ => r.load::<u32>(inst.a).map(u64::from),
    };
    let out = from.map(|x| fp::convert(x, &cvt));
    if cvt.reg == 64 {
        r.store::<u64>(inst.d, mask, out);
    } else {
        r.store::<u32>(inst.d, mask, out.map(|x| x as u32));
    }
}
