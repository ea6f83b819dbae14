//! Atomics: what each lane finds and what is left, lanes taking turns from the lowest.

use half::{bf16, f16};

use crate::{Case, run, warp};

#[test]
fn atomics_take_turns() {
    run(cases());
}

/// The new value from the old one and a lane's operand.
type Step = fn(u64, u64) -> u64;

/// An operation: its name with the type, the bits of a value, the first value, what it does with the lane's operand.
struct Operation {
    op: &'static str,
    bits: usize,
    start: u64,
    /// The operand of lane i is `i` converted to this type.
    operand: fn(u64) -> u64,
    step: Step,
}

fn operations() -> Vec<Operation> {
    fn int(i: u64) -> u64 {
        i
    }
    fn f32_of(i: u64) -> u64 {
        (i as f32).to_bits().into()
    }
    fn f64_of(i: u64) -> u64 {
        (i as f64).to_bits()
    }
    fn f16_of(i: u64) -> u64 {
        f16::from_f32(i as f32).to_bits().into()
    }
    fn bf16_of(i: u64) -> u64 {
        bf16::from_f32(i as f32).to_bits().into()
    }
    /// Both halves of a register.
    fn f16x2_of(i: u64) -> u64 {
        f16_of(i) | f16_of(2 * i) << 16
    }
    fn bf16x2_of(i: u64) -> u64 {
        bf16_of(i) | bf16_of(2 * i) << 16
    }
    fn add_f16(a: u64, b: u64) -> u64 {
        let v = |x: u64| f16::from_bits(x as u16).to_f64();
        f16::from_f64(v(a) + v(b)).to_bits().into()
    }
    fn add_bf16(a: u64, b: u64) -> u64 {
        let v = |x: u64| bf16::from_bits(x as u16).to_f64();
        bf16::from_f64(v(a) + v(b)).to_bits().into()
    }
    let of = |op, bits, start, operand, step| Operation { op, bits, start, operand, step };
    vec![
        of("add.u32", 32, 0xffff_fff0, int, |old, i| (old + i) & 0xffff_ffff),
        of("add.s32", 32, 10, int, |old, i| old + i),
        of("min.s32", 32, 0x8000_0001, int, |old, i| if (old as i32) < i as i32 { old } else { i }),
        of("min.u32", 32, 20, int, u64::min),
        of("max.s32", 32, 0x8000_0001, int, |old, i| if old as i32 > i as i32 { old } else { i }),
        of("max.u32", 32, 20, int, u64::max),
        of("and.b32", 32, 0x1f, int, |old, i| old & i),
        of("or.b32", 32, 0, int, |old, i| old | i),
        of("xor.b32", 32, 1, int, |old, i| old ^ i),
        of("exch.b32", 32, 99, int, |_, i| i),
        of("inc.u32", 32, 3, int, |old, i| if old >= i { 0 } else { old + 1 }),
        of("dec.u32", 32, 3, int, |old, i| if old == 0 || old > i { i } else { old - 1 }),
        of("add.f32", 32, 0x3f80_0000, f32_of, |old, x| {
            (f32::from_bits(old as u32) + f32::from_bits(x as u32)).to_bits().into()
        }),
        of("add.u64", 64, u64::MAX - 3, int, u64::wrapping_add),
        of("min.u64", 64, 1 << 40, int, u64::min),
        of("max.u64", 64, 5, int, u64::max),
        of("min.s64", 64, 1 << 63, int, |old, i| (old as i64).min(i as i64) as u64),
        of("max.s64", 64, 1 << 63, int, |old, i| (old as i64).max(i as i64) as u64),
        of("and.b64", 64, 0x1f << 40 | 0x1f, int, |old, i| old & i),
        of("or.b64", 64, 1 << 40, int, |old, i| old | i),
        of("xor.b64", 64, 1 << 40, int, |old, i| old ^ i),
        of("exch.b64", 64, 99, int, |_, i| i),
        of("add.f64", 64, 0x3ff0_0000_0000_0000, f64_of, |old, x| {
            (f64::from_bits(old) + f64::from_bits(x)).to_bits()
        }),
        of("add.noftz.f16", 16, 0x3c00, f16_of, add_f16),
        of("add.noftz.bf16", 16, 0x3f80, bf16_of, add_bf16),
        of("add.noftz.f16x2", 32, 0x3c00_3c00, f16x2_of, |old, x| {
            add_f16(old & 0xffff, x & 0xffff) | add_f16(old >> 16, x >> 16) << 16
        }),
        of("add.noftz.bf16x2", 32, 0x3f80_3f80, bf16x2_of, |old, x| {
            add_bf16(old & 0xffff, x & 0xffff) | add_bf16(old >> 16, x >> 16) << 16
        }),
    ]
}

/// A state space: its name in the opcode, the register with the address, set-up included in [`PROLOGUE`].
const SPACES: [(&str, &str); 3] = [(".global", "%d0"), (".shared", "%d6"), ("", "%d7")];

/// Copies the input to shared memory, and finds its generic address.
const PROLOGUE: &str = "mov.u64 %d6, s; cvta.shared.u64 %d7, %d6; ld.global.u64 %d8, [%d0]; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u64 [%d6], %d8;
bar.sync 0; mad.wide.u32 %d9, %r0, 8, %d0; ld.global.u64 %d3, [%d9+8]; cvt.u32.u64 %r1, %d3; cvt.u16.u64 %h1, %d3;
";

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for Operation { op, bits, start, operand, step } in operations() {
        let (old, register, untyped) = match bits {
            16 => ("%h5", "%h1", "b16"),
            32 => ("%r5", "%r1", "b32"),
            _ => ("%d5", "%d3", "b64"),
        };
        let check = move |op: &str, body: &str, address: &str, space: &str, returns: bool| {
            let body = format!(
                "{PROLOGUE}{body} st.global.{untyped} [%d1], {old}; bar.sync 0;
ld{space}.{untyped} {old}, [{address}]; st.global.{untyped} [%d1+8], {old};"
            );
            let input: Vec<u64> = [start].into_iter().chain((0..32).map(operand)).collect();
            let got = warp(&body, &input, 4);
            let take =
                |at: usize| (u64::from(got[at]) | u64::from(got[at + 1]) << 32) & (u64::MAX >> (64 - bits));
            let mut value = start;
            for lane in 0..32 {
                if returns {
                    assert_eq!(take(4 * lane), value, "{op} lane {lane}");
                }
                value = step(value, operand(lane as u64));
            }
            assert_eq!(take(2), value, "{op} afterwards");
        };
        for (space, address) in SPACES {
            all.push(Case::new(format!("atom{space}.{op}"), move |op| {
                check(op, &format!("{op} {old}, [{address}], {register};"), address, space, true);
            }));
            if !op.starts_with("exch") {
                all.push(Case::new(format!("red{space}.{op}"), move |op| {
                    check(op, &format!("{op} [{address}], {register};"), address, space, false);
                }));
            }
        }
    }
    for (space, address) in SPACES {
        for (bits, new, expected, old) in
            [(16, "%h2", "%h1", "%h5"), (32, "%r2", "%r1", "%r5"), (64, "%d2", "%d3", "%d5")]
        {
            all.push(Case::new(format!("atom{space}.cas.b{bits}"), move |op| {
                // The value is 5; lane i expects i and would write 77: lane 5 finds what it expects.
                let body = format!("{PROLOGUE}mov.u32 %r2, 77; mov.u16 %h2, 77; mov.u64 %d2, 77;
{op} {old}, [{address}], {expected}, {new}; st.global.b{bits} [%d1], {old}; ld{space}.b{bits} {old}, [{address}]; st.global.b{bits} [%d1+8], {old};");
                let input: Vec<u64> = [5].into_iter().chain(0..32).collect();
                let got = warp(&body, &input, 4);
                for lane in 0..32 {
                    assert_eq!([got[4 * lane], got[4 * lane + 2]], [if lane <= 5 { 5 } else { 77 }, 77], "{op} lane {lane}");
                }
            }));
        }
    }
    all
}
