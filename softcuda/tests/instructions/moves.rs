//! Packing, carries, comparisons with two results, special registers.

use std::cmp::Ordering;

use half::f16;

use crate::{Case, block, run, warp};

#[test]
fn values_move_as_the_isa_says() {
    run(cases());
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let input = || {
        (0..32u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x8001_7fff_8000_ffff).collect::<Vec<_>>()
    };
    let own = "mad.wide.u32 %d2, %r0, 8, %d0; ld.global.u64 %d3, [%d2]; cvt.u32.u64 %r1, %d3;";
    for (bits, count) in [(32, 2), (64, 2), (64, 4)] {
        let (letter, whole) =
            (if bits / count == 16 { "h" } else { "r" }, if bits == 32 { "%r1" } else { "%d3" });
        let list = |first: usize| {
            let all: Vec<String> = (0..count).map(|i| format!("%{letter}{}", first + i)).collect();
            format!("{{{}}}", all.join(", "))
        };
        let (parts, part) = (list(4), bits / count);
        let low = move |x: u64, n: usize| x & (u64::MAX >> (64 - n));
        all.push(Case::new(format!("mov.b{bits} (unpack {count})"), {
            let parts = parts.clone();
            move |op| {
                let mut body = format!("{own} {op} {parts}, {whole};\n");
                (0..count).for_each(|i| {
                    body += &format!("st.global.u{part} [%d1+{}], %{letter}{};\n", 4 * i, 4 + i)
                });
                let got = warp(&body, &input(), 4);
                for (lane, x) in input().into_iter().enumerate() {
                    for i in 0..count {
                        assert_eq!(
                            u64::from(got[4 * lane + i]),
                            low(x >> (part * i), part),
                            "{op} lane {lane} part {i}"
                        );
                    }
                }
            }
        }));
        all.push(Case::new(format!("mov.b{bits} (pack {count})"), move |op| {
            // The parts come by loads, in reverse.
            let mut body = own.to_string();
            (0..count).for_each(|i| {
                body +=
                    &format!("ld.global.u{part} %{letter}{}, [%d2+{}];\n", 4 + i, part / 8 * (count - 1 - i))
            });
            let whole = if bits == 32 { "%r12" } else { "%d12" };
            body += &format!("{op} {whole}, {parts}; st.global.u{bits} [%d1], {whole};");
            let got = warp(&body, &input(), 2);
            for (lane, x) in input().into_iter().enumerate() {
                let want = (0..count).fold(0, |out, i| out << part | low(x >> (part * i), part));
                assert_eq!(
                    u64::from(got[2 * lane]) | u64::from(got[2 * lane + 1]) << 32,
                    want,
                    "{op} lane {lane}"
                );
            }
        }));
    }
    pairs(&mut all);
    halves(&mut all);
    carries(&mut all);
    all
}

type Test = fn(Ordering) -> bool;

/// The comparisons, on an order.
const COMPARISONS: [(&str, Test); 6] = [
    ("eq", Ordering::is_eq),
    ("ne", Ordering::is_ne),
    ("lt", Ordering::is_lt),
    ("le", Ordering::is_le),
    ("gt", Ordering::is_gt),
    ("ge", Ordering::is_ge),
];

/// `setp` with the negation as its second result.
fn pairs(all: &mut Vec<Case>) {
    for (name, holds) in COMPARISONS {
        for ty in ["u32", "s32", "f32"] {
            for combination in ["", ".and", ".or", ".xor"] {
                all.push(Case::new(format!("setp.{name}{combination}.{ty} (p|q)"), move |op| {
                    // Lanes are compared with 16, as floats by exact conversion; the third operand is true for odd lanes.
                    let convert = if ty == "f32" { "cvt.rn.f32.u32 %r1, %r0; mov.f32 %r2, 0f41800000;" } else { "mov.u32 %r1, %r0; mov.u32 %r2, 16;" };
                    let third = if combination.is_empty() { "" } else { ", %p3" };
                    let body = format!("{convert} and.b32 %r3, %r0, 1; setp.eq.u32 %p3, %r3, 1; {op} %p1|%p2, %r1, %r2{third};
selp.u32 %r4, 1, 0, %p1; selp.u32 %r5, 1, 0, %p2; st.global.v2.u32 [%d1], {{%r4, %r5}};");
                    let got = warp(&body, &[0], 2);
                    for lane in 0..32u32 {
                        let (yes, odd) = (holds(lane.cmp(&16)), lane % 2 == 1);
                        let combine = |x: bool| u32::from(match combination {
                            ".and" => x & odd,
                            ".or" => x | odd,
                            ".xor" => x ^ odd,
                            _ => x,
                        });
                        assert_eq!(got[2 * lane as usize..][..2], [combine(yes), combine(!yes)], "{op} lane {lane}");
                    }
                }));
            }
        }
    }
}

/// Comparisons of pairs of f16: two predicates, or a pair of ones and zeros.
fn halves(all: &mut Vec<Case>) {
    let pair = |low: f32, high: f32| {
        u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
    };
    let values =
        [(0.0, 1.0), (-0.0, 2.0), (1.0, -1.0), (65504.0, 0.5), (f32::NAN, 3.0), (6e-8, f32::INFINITY)];
    let b = (0.0, 1.0);
    for (name, holds) in COMPARISONS {
        let want = move |a: f32, b: f32| a.partial_cmp(&b).is_some_and(holds);
        let input =
            move || values.iter().map(|&(low, high)| u64::from(pair(low, high))).collect::<Vec<u64>>();
        let read = format!(
            "rem.u32 %r1, %r0, {}; mad.wide.u32 %d2, %r1, 8, %d0; ld.global.u32 %r2, [%d2]; mov.u32 %r3, {};",
            values.len(),
            pair(b.0, b.1)
        );
        let text = read.clone();
        all.push(Case::new(format!("setp.{name}.f16x2 (p|q)"), move |op| {
            let body = format!("{text} {op} %p1|%p2, %r2, %r3; selp.u32 %r4, 1, 0, %p1; selp.u32 %r5, 1, 0, %p2; st.global.v2.u32 [%d1], {{%r4, %r5}};");
            let got = warp(&body, &input(), 2);
            for lane in 0..32 {
                let a = values[lane % values.len()];
                assert_eq!(got[2 * lane..][..2], [u32::from(want(a.0, b.0)), u32::from(want(a.1, b.1))], "{op} of {a:?}");
            }
        }));
        all.push(Case::new(format!("set.{name}.f16x2.f16x2"), move |op| {
            let body = format!("{read} {op} %r4, %r2, %r3; st.global.u32 [%d1], %r4;");
            let got = warp(&body, &input(), 1);
            for lane in 0..32 {
                let a = values[lane % values.len()];
                let one = |yes| if yes { 1.0 } else { 0.0 };
                assert_eq!(got[lane], pair(one(want(a.0, b.0)), one(want(a.1, b.1))), "{op} of {a:?}");
            }
        }));
    }
}

/// Sums, differences and products by the carry, for all pairs of edge values with and without a carry before.
fn carries(all: &mut Vec<Case>) {
    let forms = [
        "add.cc",
        "addc",
        "addc.cc",
        "sub.cc",
        "subc",
        "subc.cc",
        "mad.lo.cc",
        "mad.hi.cc",
        "madc.lo",
        "madc.hi",
        "madc.lo.cc",
        "madc.hi.cc",
    ];
    for (bits, r, types) in [(32, "r", ["u32", "s32"]), (64, "d", ["u64", "s64"])] {
        for ty in types {
            for form in forms {
                all.push(Case::new(format!("{form}.{ty}"), move |op| carry(op, form, ty, bits, r)));
            }
        }
    }
}

fn carry(op: &str, form: &str, ty: &str, bits: u32, r: &str) {
    let mask = u64::MAX >> (64 - bits);
    let edges = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX >> 1, 1 << 63, u64::MAX - 1, u64::MAX];
    let mut input = Vec::new();
    for a in edges {
        for b in edges {
            for before in [0, 1] {
                input.extend([a & mask, b & mask, before]);
            }
        }
    }
    let threads = (input.len() as u32 / 3).next_multiple_of(32);
    input.resize(3 * threads as usize, 0);
    let (minus, product) = (form.starts_with("sub"), form.starts_with("mad"));
    // A third factor where there is one: a ^ b.
    let third = if product { format!(", %{r}7") } else { String::new() };
    let set = if minus {
        format!("sub.cc.{ty} %{r}9, 0, %{r}6;")
    } else {
        format!("add.cc.{ty} %{r}9, %{r}6, -1;")
    };
    let read = if minus {
        format!("subc.{ty} %{r}8, 0, 0; and.b{bits} %{r}8, %{r}8, 1;")
    } else {
        format!("addc.{ty} %{r}8, 0, 0;")
    };
    let body = format!("mad.wide.u32 %d2, %r0, 24, %d0; ld.global.u{bits} %{r}4, [%d2]; ld.global.u{bits} %{r}5, [%d2+8]; ld.global.u{bits} %{r}6, [%d2+16];
xor.b{bits} %{r}7, %{r}4, %{r}5; {set} {op} %{r}10, %{r}4, %{r}5{third}; {read} st.global.u{bits} [%d1], %{r}10; st.global.u{bits} [%d1+8], %{r}8;");
    let got = block(threads, "", &body, &input, 4);
    let take = |at: usize| u64::from(got[at]) | u64::from(got[at + 1]) << 32;
    for (i, x) in input.chunks(3).enumerate() {
        let [a, b, before] = [x[0], x[1], x[2]].map(u128::from);
        let carried = if form.contains("c.cc") || form == "addc" || form == "subc" || form.starts_with("madc")
        {
            before
        } else {
            0
        };
        let (sum, over) = if minus {
            (a.wrapping_sub(b + carried), u128::from(a < b + carried))
        } else {
            let signed = |x: u128| {
                if ty.starts_with('s') {
                    ((x as u64) << (64 - bits)) as i64 as i128 >> (64 - bits)
                } else {
                    x as i128
                }
            };
            let whole = signed(a).wrapping_mul(signed(b));
            let part = if form.contains(".hi") { whole >> bits } else { whole } as u128 & u128::from(mask);
            let terms = if product { [part, a ^ b] } else { [a, b] };
            let sum = terms[0] + terms[1] + carried;
            (sum, sum >> bits)
        };
        let after = if form.ends_with(".cc") { over } else { before };
        assert_eq!([take(4 * i), take(4 * i + 2)], [sum as u64 & mask, after as u64], "{op} of {x:x?}");
    }
}

#[test]
fn special_registers_say_where_a_thread_is() {
    let body = "mov.u32 %r1, %lanemask_lt; mov.u32 %r2, %lanemask_ge; mov.u32 %r3, %lanemask_le; mov.u32 %r4, %lanemask_gt; mov.u32 %r5, %lanemask_eq;
mov.u32 %r6, %laneid; mov.u32 %r7, %warpid; mov.u32 %r8, %ntid.x; mov.u32 %r9, %nctaid.y; mov.u32 %r10, %nwarpid; mov.u32 %r11, %ctaid.x; mov.u32 %r12, %tid.y;
mov.u64 %d2, %clock64; mov.u64 %d3, %clock64; setp.lt.u64 %p1, %d2, %d3; selp.u32 %r13, 1, 0, %p1;
st.global.v4.u32 [%d1], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%d1+16], {%r5, %r6, %r7, %r8}; st.global.v4.u32 [%d1+32], {%r9, %r10, %r11, %r12}; st.global.u32 [%d1+48], %r13;";
    let got = block(64, "", body, &[0], 16);
    for thread in 0..64u32 {
        let (lane, bit) = (thread % 32, 1u32 << (thread % 32));
        let (below, above) = (bit - 1, !(bit - 1) & !bit);
        let want = [below, !below, below | bit, above, bit, lane, thread / 32, 64, 1, 2, 0, 0, 1];
        assert_eq!(got[16 * thread as usize..][..13], want, "thread {thread}");
    }
}
