//! Instructions of more than one lane, and of memory, against the ISA's description: shuffles, votes, reductions,
//! atomics, loads and stores of every width, matrix fragments.
#![allow(
    clippy::needless_range_loop,
    reason = "registers and lanes are indices as the ISA's tables have them"
)]

mod gpu;

use gpu::Gpu;
use half::{bf16, f16};

/// Runs `body` with one warp. It finds its lane in %r0, in and out in %d0 and %d1, and has %r1…, %d2…, %h, %p to use;
/// lane values of 64 bits come from `input`, `words` results of 32 bits a lane go to `[%d1 + 4 words lane]`.
fn warp(body: &str, input: &[u64], words: usize) -> Vec<u32> {
    let ptx = format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.shared .align 16 .b8 s[2048];
.visible .entry k(.param .u64 in, .param .u64 out) {{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %d<20>;
ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.u32 %r0, %laneid;
mad.wide.u32 %d1, %r0, {}, %d1;\n{body}\nret;\n}}\n",
        4 * words
    );
    let mut gpu = Gpu::new(&ptx);
    let (from, to) = (gpu.put(input), gpu.put(&vec![0u32; 32 * words]));
    gpu.run("k", 1, 32, &[from, to]).unwrap();
    gpu.get(to, 32 * words)
}

#[test]
fn shuffles() {
    // The pseudocode of the ISA.
    let model = |mode: &str, lane: i32, b: i32, c: i32| {
        let (bval, cval, mask) = (b & 31, c & 31, c >> 8 & 31);
        let max = (lane & mask) | (cval & !mask);
        let min = lane & mask;
        let (j, ok) = match mode {
            "up" => (lane - bval, lane - bval >= max),
            "down" => (lane + bval, lane + bval <= max),
            "bfly" => (lane ^ bval, lane ^ bval <= max),
            _ => (min | (bval & !mask), min | (bval & !mask) <= max),
        };
        (if ok { j } else { lane } as u32, u32::from(ok))
    };
    for mode in ["up", "down", "bfly", "idx"] {
        for b in [0, 1, 3, 16, 31] {
            // Whole warps, and segments of 8 and 16 lanes.
            for c in [0x1f, 0x00, 0x181f, 0x1800, 0x100f, 0x1000] {
                let body = format!(
                    "add.u32 %r1, %r0, 100; shfl.sync.{mode}.b32 %r2|%p1, %r1, {b}, {c}, 0xffffffff;
selp.u32 %r3, 1, 0, %p1; st.global.v2.u32 [%d1], {{%r2, %r3}};"
                );
                let got = warp(&body, &[0], 2);
                for lane in 0..32 {
                    let (from, ok) = model(mode, lane as i32, b, c);
                    assert_eq!(
                        got[2 * lane..2 * lane + 2],
                        [from + 100, ok],
                        "{mode} {b} {c:#x} lane {lane}"
                    );
                }
            }
        }
    }
}

#[test]
fn votes_matches_and_reductions() {
    let body = "setp.lt.u32 %p1, %r0, 5; setp.lt.u32 %p2, %r0, 32;
vote.sync.ballot.b32 %r1, %p1, 0xffffffff; vote.sync.all.pred %p3, %p1, 0xffffffff; vote.sync.any.pred %p4, %p1, 0xffffffff;
vote.sync.uni.pred %p5, %p2, 0xffffffff; vote.sync.uni.pred %p6, %p1, 0xffffffff; vote.sync.all.pred %p7, !%p1, 0xffffffff;
selp.u32 %r2, 1, 0, %p3; selp.u32 %r3, 2, 0, %p4; selp.u32 %r4, 4, 0, %p5; selp.u32 %r5, 8, 0, %p6; selp.u32 %r6, 16, 0, %p7;
add.u32 %r2, %r2, %r3; add.u32 %r2, %r2, %r4; add.u32 %r2, %r2, %r5; add.u32 %r2, %r2, %r6;
and.b32 %r7, %r0, 3; match.any.sync.b32 %r8, %r7, 0xffffffff; match.all.sync.b32 %r9|%p8, %r7, 0xffffffff;
activemask.b32 %r10; st.global.v4.u32 [%d1], {%r1, %r2, %r8, %r9}; st.global.u32 [%d1+16], %r10;";
    let got = warp(body, &[0], 8);
    for lane in 0..32 {
        let same = 0x1111_1111 << (lane % 4);
        assert_eq!(got[8 * lane..8 * lane + 5], [31, 2 + 4, same, 0, u32::MAX], "lane {lane}");
    }
    let value = |i: u32| i.wrapping_mul(0x9e37_79b9).wrapping_add(12345);
    let values = || (0..32).map(value);
    let cases: [(&str, u32); 8] = [
        ("add.u32", values().fold(0, u32::wrapping_add)),
        ("min.u32", values().min().unwrap()),
        ("max.u32", values().max().unwrap()),
        ("min.s32", values().map(|x| x as i32).min().unwrap() as u32),
        ("max.s32", values().map(|x| x as i32).max().unwrap() as u32),
        ("and.b32", values().fold(u32::MAX, |a, b| a & b)),
        ("or.b32", values().fold(0, |a, b| a | b)),
        ("xor.b32", values().fold(0, |a, b| a ^ b)),
    ];
    for (op, want) in cases {
        let body = format!(
            "mad.lo.u32 %r1, %r0, 0x9e3779b9, 12345; redux.sync.{op} %r2, %r1, 0xffffffff; st.global.u32 [%d1], %r2;"
        );
        assert_eq!(warp(&body, &[0], 1), [want; 32], "redux {op}");
    }
}

#[test]
fn lanes_that_diverged_meet_at_a_sync() {
    // Odd lanes do more first, by another way; both halves shuffle with their own mask, then all together.
    let body = "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 1; mov.u32 %r2, 7;
@%p1 bra ODD;
shfl.sync.bfly.b32 %r3, %r0, 2, 31, 0x55555555; bra JOIN;
ODD: add.u32 %r2, %r2, 1; shfl.sync.bfly.b32 %r3, %r0, 4, 31, 0xaaaaaaaa;
JOIN: bar.warp.sync 0xffffffff; shfl.sync.idx.b32 %r4, %r2, 1, 31, 0xffffffff; st.global.v2.u32 [%d1], {%r3, %r4};";
    let got = warp(body, &[0], 2);
    for lane in 0..32u32 {
        let want = if lane % 2 == 1 { lane ^ 4 } else { lane ^ 2 };
        assert_eq!(got[2 * lane as usize..][..2], [want, 8], "lane {lane}");
    }
}

#[test]
fn atomics_in_global_and_shared_memory() {
    // Old value of lane i, and what is left: lanes take turns from the lowest.
    type Step = fn(u64, u64) -> u64;
    let cases: [(&str, &str, u64, Step); 14] = [
        ("add.u32", "%r1", 10, |old, i| old + i),
        ("add.s32", "%r1", 10, |old, i| old + i),
        ("min.s32", "%r1", 20, |old, i| old.min(i)),
        ("max.u32", "%r1", 20, |old, i| old.max(i)),
        ("and.b32", "%r1", 0x1f, |old, i| old & i),
        ("or.b32", "%r1", 0, |old, i| old | i),
        ("xor.b32", "%r1", 1, |old, i| old ^ i),
        ("exch.b32", "%r1", 99, |_, i| i),
        ("inc.u32", "%r1", 3, |old, i| if old >= i { 0 } else { old + 1 }),
        ("dec.u32", "%r1", 3, |old, i| if old == 0 || old > i { i } else { old - 1 }),
        ("add.f32", "%r2", 0x3f80_0000, |old, i| {
            u64::from((f32::from_bits(old as u32) + i as f32).to_bits())
        }),
        ("add.u64", "%d3", u64::MAX - 3, |old, i| old.wrapping_add(i)),
        ("max.s64", "%d3", 5, |old, i| old.max(i)),
        ("add.f64", "%d4", 0x3ff0_0000_0000_0000, |old, i| (f64::from_bits(old) + i as f64).to_bits()),
    ];
    for (op, register, start, step) in cases {
        let wide = register.starts_with("%d");
        let (old, b) = if wide { ("%d5", "b64") } else { ("%r5", "b32") };
        for space in ["global", "shared", "generic"] {
            let (address, name) = match space {
                "global" => ("%d0", ".global"),
                "shared" => ("%d6", ".shared"),
                _ => ("%d7", ""),
            };
            let body = format!(
                "mov.u32 %r1, %r0; cvt.rn.f32.u32 %r2, %r0; cvt.u64.u32 %d3, %r0; cvt.rn.f64.u32 %d4, %r0;
mov.u64 %d6, s; cvta.shared.u64 %d7, %d6; ld.global.u64 %d8, [%d0]; setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u64 [%d6], %d8;
bar.sync 0;
atom{name}.{op} {old}, [{address}], {register}; st.global.{b} [%d1], {old}; bar.sync 0;
ld{name}.{b} {old}, [{address}]; st.global.{b} [%d1+8], {old};"
            );
            let got = warp(&body, &[start], 4);
            let take = |at: usize| u64::from(got[at]) | if wide { u64::from(got[at + 1]) << 32 } else { 0 };
            let mut value = start;
            for lane in 0..32 {
                assert_eq!(take(4 * lane), value, "{op} {space} lane {lane}");
                value = step(value, lane as u64);
            }
            assert_eq!(take(2), value, "{op} {space} afterwards");
        }
    }
    // cas: lane 5 finds what it expects; red has no result; halves add in pairs.
    let body = "mov.u32 %r1, 77; atom.global.cas.b32 %r2, [%d0], %r0, %r1; ld.global.u32 %r3, [%d0]; st.global.v2.u32 [%d1], {%r2, %r3};";
    let got = warp(body, &[5], 2);
    for lane in 0..32 {
        assert_eq!(got[2 * lane..2 * lane + 2], [if lane <= 5 { 5 } else { 77 }, 77]);
    }
    let one = u32::from(f16::from_f32(1.0).to_bits()) * 0x1_0001;
    let body = format!(
        "red.global.add.noftz.f16x2 [%d0], {one}; ld.global.u32 %r3, [%d0]; st.global.u32 [%d1], %r3;"
    );
    assert_eq!(warp(&body, &[0], 1), [u32::from(f16::from_f32(32.0).to_bits()) * 0x1_0001; 32]);
}

#[test]
fn loads_and_stores_of_every_width() {
    let input: Vec<u64> =
        (0..128u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x8080_8080_8080_8080).collect();
    let bytes: Vec<u8> = input.iter().flat_map(|x| x.to_le_bytes()).collect();
    let at = |addr: usize, n: usize| {
        let mut x = [0; 8];
        x[..n].copy_from_slice(&bytes[addr..addr + n]);
        u64::from_le_bytes(x)
    };
    for (ty, n) in [
        ("u8", 1),
        ("s8", 1),
        ("b8", 1),
        ("u16", 2),
        ("s16", 2),
        ("b16", 2),
        ("u32", 4),
        ("s32", 4),
        ("f32", 4),
        ("u64", 8),
        ("f64", 8),
    ] {
        for (count, vector) in [(1, ""), (2, ".v2"), (4, ".v4")] {
            if n * count > 16 {
                continue;
            }
            let signed = ty.starts_with('s');
            let registers: Vec<String> = (0..count).map(|i| format!("%d{}", 4 + i)).collect();
            let list =
                if count == 1 { registers[0].clone() } else { format!("{{{}}}", registers.join(", ")) };
            // Through 64-bit registers, which extend; then back through shared memory at the element's width.
            let mut body = format!(
                "mul.wide.u32 %d2, %r0, {}; add.u64 %d3, %d0, %d2; ld.global{vector}.{ty} {list}, [%d3];\n",
                n * count
            );
            for (i, r) in registers.iter().enumerate() {
                body += &format!("st.global.u64 [%d1+{}], {r};\n", 8 * i);
            }
            body += &format!(
                "mov.u64 %d10, s; add.u64 %d10, %d10, %d2; st.shared{vector}.{ty} [%d10], {list};\n"
            );
            for i in 0..count {
                let back = ty.replace('s', "u").replace('f', "b");
                body += &format!(
                    "ld.shared.{back} %d11, [%d10+{}]; st.global.u64 [%d1+{}], %d11;\n",
                    n * i,
                    32 + 8 * i
                );
            }
            let got = warp(&body, &input, 16);
            for lane in 0..32 {
                for i in 0..count {
                    let word =
                        |k: usize| u64::from(got[16 * lane + k]) | u64::from(got[16 * lane + k + 1]) << 32;
                    let raw = at((lane * count + i) * n, n);
                    let shift = 64 - 8 * n as u32;
                    let want = if signed { ((raw << shift) as i64 >> shift) as u64 } else { raw };
                    assert_eq!(word(2 * i), want, "ld{vector}.{ty} lane {lane} element {i}");
                    assert_eq!(word(8 + 2 * i), raw, "st{vector}.{ty} lane {lane} element {i}");
                }
            }
        }
    }
}

#[test]
fn matrices_from_and_to_shared_memory() {
    for (count, x) in [(1, "x1"), (2, "x2"), (4, "x4")] {
        for trans in ["", ".trans"] {
            let registers = ["%r10", "%r11", "%r12", "%r13"][..count].join(", ");
            // 16-bit element e of shared memory is e; rows of 8 elements follow each other.
            let mut body = "mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 16, %r1; shl.b32 %r3, %r0, 3;\n".to_string();
            for i in 0..8 {
                body += &format!(
                    "add.u32 %r4, %r3, {i}; cvt.u16.u32 %h1, %r4; st.shared.u16 [%r2+{}], %h1;\n",
                    2 * i
                );
            }
            body += &format!(
                "bar.sync 0; ldmatrix.sync.aligned.m8n8.{x}{trans}.shared.b16 {{{registers}}}, [%r2];\n"
            );
            for (i, r) in ["%r10", "%r11", "%r12", "%r13"][..count].iter().enumerate() {
                body += &format!("st.global.u32 [%d1+{}], {r};\n", 4 * i);
            }
            let got = warp(&body, &[0], 4);
            for lane in 0..32 {
                for matrix in 0..count {
                    let element = |row: usize, column: usize| (64 * matrix + 8 * row + column) as u32;
                    let (row, column) = (lane / 4, lane % 4 * 2);
                    let want = match trans {
                        "" => element(row, column) | element(row, column + 1) << 16,
                        _ => element(column, row) | element(column + 1, row) << 16,
                    };
                    assert_eq!(got[4 * lane + matrix], want, "{x}{trans} lane {lane} matrix {matrix}");
                }
            }
        }
    }
}

/// Where an element of a fragment is: row and column of register `r`, element `e` in it, for lane `l`. From the tables
/// of the ISA, one by one: `(k, elements in a register)` names the shape.
fn place_a(k: usize, per: usize, l: usize, r: usize, e: usize) -> (usize, usize) {
    let (group, t) = (l >> 2, l % 4);
    let i = r * per + e;
    match (k, per) {
        // m16n8k8 f16: row = group for a0, a1, group + 8 for a2, a3.
        (8, 2) => (if i < 2 { group } else { group + 8 }, t * 2 + (i & 1)),
        (16, 2) => (
            if i < 2 || (4..6).contains(&i) { group } else { group + 8 },
            t * 2 + (i & 1) + if i >= 4 { 8 } else { 0 },
        ),
        // tf32
        (4, 1) => (if i == 0 { group } else { group + 8 }, t),
        (8, 1) => (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { t } else { t + 4 }),
        // s8, u8
        (16, 4) => (if i < 4 { group } else { group + 8 }, t * 4 + (i & 3)),
        _ => (
            if i < 4 || (8..12).contains(&i) { group } else { group + 8 },
            t * 4 + (i & 3) + if i >= 8 { 16 } else { 0 },
        ),
    }
}

fn place_b(k: usize, per: usize, l: usize, r: usize, e: usize) -> (usize, usize) {
    let (group, t) = (l >> 2, l % 4);
    let i = r * per + e;
    let row = match (k, per) {
        (8, 2) => t * 2 + i,
        (16, 2) => t * 2 + (i & 1) + if i >= 2 { 8 } else { 0 },
        (4, 1) => t,
        (8, 1) => {
            if i == 0 {
                t
            } else {
                t + 4
            }
        }
        (16, 4) => t * 4 + i,
        _ => t * 4 + (i & 3) + if i >= 4 { 16 } else { 0 },
    };
    (row, group)
}

#[test]
fn products_of_every_shape() {
    struct Shape {
        op: &'static str,
        k: usize,
        per: usize,
        a: usize,
        b: usize,
        bits: fn(i32) -> u32,
        /// Registers of c and d, and how to write and read a sum.
        half_sums: bool,
        int: bool,
    }
    let h = |x: i32| u32::from(f16::from_f32(x as f32).to_bits());
    let b = |x: i32| u32::from(bf16::from_f32(x as f32).to_bits());
    let t = |x: i32| (x as f32).to_bits();
    let s = |x: i32| u32::from(x as i8 as u8);
    let shape = |op, k, per, a, b, bits, half_sums, int| Shape { op, k, per, a, b, bits, half_sums, int };
    let shapes = [
        shape("m16n8k16.row.col.f32.f16.f16.f32", 16, 2, 4, 2, h as fn(i32) -> u32, false, false),
        shape("m16n8k8.row.col.f32.f16.f16.f32", 8, 2, 2, 1, h, false, false),
        shape("m16n8k16.row.col.f16.f16.f16.f16", 16, 2, 4, 2, h, true, false),
        shape("m16n8k8.row.col.f16.f16.f16.f16", 8, 2, 2, 1, h, true, false),
        shape("m16n8k16.row.col.f32.bf16.bf16.f32", 16, 2, 4, 2, b, false, false),
        shape("m16n8k8.row.col.f32.bf16.bf16.f32", 8, 2, 2, 1, b, false, false),
        shape("m16n8k8.row.col.f32.tf32.tf32.f32", 8, 1, 4, 2, t, false, false),
        shape("m16n8k4.row.col.f32.tf32.tf32.f32", 4, 1, 2, 1, t, false, false),
        shape("m16n8k32.row.col.s32.s8.s8.s32", 32, 4, 4, 2, s, false, true),
        shape("m16n8k16.row.col.s32.s8.s8.s32", 16, 4, 2, 1, s, false, true),
    ];
    // Small integers: every sum is exact in every format.
    let (va, vb, vc) = (
        |row: usize, k: usize| (row * 3 + k * 5) as i32 % 7 - 3,
        |k: usize, column: usize| (k * 2 + column * 3) as i32 % 5 - 2,
        |row: usize, column: usize| (row + 2 * column) as i32 % 9 - 4,
    );
    for m in &shapes {
        let sums = if m.half_sums { 2 } else { 4 };
        let place_c = |l: usize, i: usize| ((l >> 2) + if i < 2 { 0 } else { 8 }, l % 4 * 2 + (i & 1));
        let sum_bits = |x: i32| match (m.half_sums, m.int) {
            (true, _) => h(x),
            (_, true) => x as u32,
            _ => t(x),
        };
        // Each lane reads its registers from the input, 16 words apart.
        let mut words = vec![0u32; 32 * 16];
        for l in 0..32 {
            let at = &mut words[16 * l..16 * l + 16];
            let width = 32 / m.per;
            for e in 0..m.per {
                for r in 0..m.a {
                    let (row, k) = place_a(m.k, m.per, l, r, e);
                    at[r] |= (m.bits)(va(row, k)) << (width * e % 32);
                }
                for r in 0..m.b {
                    let (k, column) = place_b(m.k, m.per, l, r, e);
                    at[4 + r] |= (m.bits)(vb(k, column)) << (width * e % 32);
                }
            }
            for i in 0..4 {
                let (row, column) = place_c(l, i);
                let bits = sum_bits(vc(row, column));
                if m.half_sums { at[6 + i / 2] |= bits << (16 * (i % 2)) } else { at[6 + i] = bits }
            }
        }
        let input: Vec<u64> = words.chunks(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
        let list = |first: usize, n: usize| {
            (first..first + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ")
        };
        let mut body = "mad.wide.u32 %d2, %r0, 64, %d0;\n".to_string();
        for i in 0..10 {
            body += &format!("ld.global.u32 %r{}, [%d2+{}];\n", 10 + i, 4 * i);
        }
        body += &format!(
            "mma.sync.aligned.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
            m.op,
            list(20, sums),
            list(10, m.a),
            list(14, m.b),
            list(16, sums)
        );
        for i in 0..sums {
            body += &format!("st.global.u32 [%d1+{}], %r{};\n", 4 * i, 20 + i);
        }
        let got = warp(&body, &input, 4);
        for l in 0..32 {
            for i in 0..4 {
                let (row, column) = place_c(l, i);
                let want = vc(row, column) + (0..m.k).map(|k| va(row, k) * vb(k, column)).sum::<i32>();
                let bits = match m.half_sums {
                    true => got[4 * l + i / 2] >> (16 * (i % 2)) & 0xffff,
                    false => got[4 * l + i],
                };
                assert_eq!(bits, sum_bits(want), "{} row {row} column {column}", m.op);
            }
        }
    }
}

#[test]
fn wide_additions_by_the_carry() {
    // 128-bit sum, difference and product of pairs, by 64- and 32-bit steps.
    let (a, b) =
        (0xffff_ffff_ffff_fff0_0123_4567_89ab_cdefu128, 0x0000_0000_0000_0011_ffff_ffff_ffff_ff01u128);
    let body = "ld.global.u64 %d2, [%d0]; ld.global.u64 %d3, [%d0+8]; ld.global.u64 %d4, [%d0+16]; ld.global.u64 %d5, [%d0+24];
add.cc.u64 %d6, %d2, %d4; addc.u64 %d7, %d3, %d5; sub.cc.u64 %d8, %d2, %d4; subc.u64 %d9, %d3, %d5;
mul.lo.u64 %d10, %d2, %d4; mul.hi.u64 %d11, %d2, %d4;
mov.b64 {%r1, %r2}, %d2; mov.b64 {%r3, %r4}, %d4;
mul.lo.u32 %r5, %r1, %r3; mul.hi.u32 %r6, %r1, %r3; mad.lo.cc.u32 %r6, %r1, %r4, %r6; madc.hi.u32 %r7, %r1, %r4, 0;
mad.lo.cc.u32 %r6, %r2, %r3, %r6; madc.hi.cc.u32 %r7, %r2, %r3, %r7; addc.u32 %r8, 0, 0;
mad.lo.cc.u32 %r7, %r2, %r4, %r7; madc.hi.u32 %r8, %r2, %r4, %r8;
mov.b64 %d12, {%r5, %r6}; mov.b64 %d13, {%r7, %r8};
st.global.v2.u64 [%d1], {%d6, %d7}; st.global.v2.u64 [%d1+16], {%d8, %d9}; st.global.v2.u64 [%d1+32], {%d10, %d11};
st.global.v2.u64 [%d1+48], {%d12, %d13};";
    let input = [a as u64, (a >> 64) as u64, b as u64, (b >> 64) as u64];
    let got = warp(body, &input, 16);
    let wide = |i: usize| (0..4).fold(0u128, |x, k| x | u128::from(got[4 * i + k]) << (32 * k));
    let product = u128::from(a as u64) * u128::from(b as u64);
    assert_eq!(
        [wide(0), wide(1), wide(2), wide(3)],
        [a.wrapping_add(b), a.wrapping_sub(b), product, product]
    );
}

#[test]
fn packing_special_registers_and_spaces() {
    let body = "mov.u32 %r1, %lanemask_lt; mov.u32 %r2, %lanemask_ge; mov.u32 %r3, %ntid.x; mov.u32 %r4, %nctaid.y;
cvt.u16.u32 %h1, %r0; mov.u16 %h2, 0x1234; mov.b32 %r5, {%h1, %h2}; mov.b32 {%h3, %h4}, %r5; cvt.u32.u16 %r6, %h4;
mov.u64 %d2, s; cvta.shared.u64 %d3, %d2; isspacep.shared %p1, %d3; isspacep.global %p2, %d0; isspacep.global %p3, %d3;
selp.u32 %r7, 1, 0, %p1; @%p2 add.u32 %r7, %r7, 2; @%p3 add.u32 %r7, %r7, 4;
st.global.v4.u32 [%d1], {%r1, %r2, %r3, %r4}; st.global.v2.u32 [%d1+16], {%r5, %r6}; st.global.u32 [%d1+24], %r7;";
    let got = warp(body, &[0], 8);
    for lane in 0..32u32 {
        let want = [(1u32 << lane) - 1, u32::MAX << lane, 32, 1, lane | 0x1234_0000, 0x1234, 3];
        assert_eq!(got[8 * lane as usize..][..7], want, "lane {lane}");
    }
}
