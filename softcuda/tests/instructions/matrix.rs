//! Matrices: `ldmatrix`, `stmatrix` and `mma`, by the ISA's tables of fragments.
#![allow(
    clippy::needless_range_loop,
    reason = "registers and lanes are indices as the ISA's tables have them"
)]

use half::{bf16, f16};

use crate::{Case, run, warp};

#[test]
fn matrices_are_laid_out_as_the_isa_says() {
    run(cases());
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (count, x) in [(1, "x1"), (2, "x2"), (4, "x4")] {
        for trans in ["", ".trans"] {
            let of = |op: &str| format!("{op}.sync.aligned.m8n8.{x}{trans}.shared.b16");
            all.push(Case::new(of("ldmatrix"), move |op| load(op, count, !trans.is_empty())));
            all.push(Case::new(of("stmatrix"), move |op| store(op, count, !trans.is_empty())));
        }
    }
    for shape in shapes() {
        all.push(Case::new(format!("mma.sync.aligned.{}", shape.op), move |op| product(op, &shape)));
    }
    all
}

const REGISTERS: [&str; 4] = ["%r10", "%r11", "%r12", "%r13"];

/// Row and column of the element `half` in the register of a lane.
fn place(lane: usize, half: usize, trans: bool) -> (usize, usize) {
    let (row, column) = (lane / 4, lane % 4 * 2 + half);
    if trans { (column, row) } else { (row, column) }
}

fn load(op: &str, count: usize, trans: bool) {
    // 16-bit element e of shared memory is e; rows of 8 elements follow each other.
    let mut body = "mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 16, %r1; shl.b32 %r3, %r0, 3;\n".to_string();
    for i in 0..8 {
        body +=
            &format!("add.u32 %r4, %r3, {i}; cvt.u16.u32 %h1, %r4; st.shared.u16 [%r2+{}], %h1;\n", 2 * i);
    }
    body += &format!("bar.sync 0; {op} {{{}}}, [%r2];\n", REGISTERS[..count].join(", "));
    for (i, r) in REGISTERS[..count].iter().enumerate() {
        body += &format!("st.global.u32 [%d1+{}], {r};\n", 4 * i);
    }
    let got = warp(&body, &[0], 4);
    for lane in 0..32 {
        for matrix in 0..count {
            let element = |half| {
                let (row, column) = place(lane, half, trans);
                (64 * matrix + 8 * row + column) as u32
            };
            assert_eq!(
                got[4 * lane + matrix],
                element(0) | element(1) << 16,
                "{op} lane {lane} matrix {matrix}"
            );
        }
    }
}

fn store(op: &str, count: usize, trans: bool) {
    // Register r of lane l holds 64 r + 2 l and the number after it.
    let mut body = "mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 16, %r1; shl.b32 %r3, %r0, 1;\n".to_string();
    for (i, r) in REGISTERS[..count].iter().enumerate() {
        body += &format!("add.u32 %r4, %r3, {}; mad.lo.u32 {r}, %r4, 0x10001, 0x10000;\n", 64 * i);
    }
    body += &format!(
        "{op} [%r2], {{{}}}; bar.sync 0; ld.shared.v4.u32 {{%r20, %r21, %r22, %r23}}, [%r2]; st.global.v4.u32 [%d1], {{%r20, %r21, %r22, %r23}};\n",
        REGISTERS[..count].join(", ")
    );
    let got = warp(&body, &[0], 4);
    for matrix in 0..count {
        for lane in 0..32 {
            for half in 0..2 {
                let (row, column) = place(lane, half, trans);
                let bits = got[4 * (8 * matrix + row) + column / 2] >> (16 * (column % 2)) & 0xffff;
                assert_eq!(bits as usize, 64 * matrix + 2 * lane + half, "{op} matrix {matrix} lane {lane}");
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

/// A shape of `mma`.
struct Shape {
    op: String,
    k: usize,
    /// Elements of a and b in a register.
    per: usize,
    /// Registers of a and b.
    a: usize,
    b: usize,
    a_bits: fn(i32) -> u32,
    b_bits: fn(i32) -> u32,
    sums: Sums,
    /// Added to what a and b hold: unsigned bytes are not negative.
    a_offset: i32,
    b_offset: i32,
    /// Clamp sums.
    satfinite: bool,
}

/// What c and d hold.
#[derive(Clone, Copy, PartialEq)]
enum Sums {
    F32,
    F16,
    S32,
}

fn shapes() -> Vec<Shape> {
    let h = |x: i32| u32::from(f16::from_f32(x as f32).to_bits());
    let b = |x: i32| u32::from(bf16::from_f32(x as f32).to_bits());
    let t = |x: i32| (x as f32).to_bits();
    let byte = |x: i32| (x & 255) as u32;
    type Bits = fn(i32) -> u32;
    let float = |op: &str, k, per, regs: [usize; 2], bits: Bits, sums| Shape {
        op: op.to_string(),
        k,
        per,
        a: regs[0],
        b: regs[1],
        a_bits: bits,
        b_bits: bits,
        sums,
        a_offset: 0,
        b_offset: 0,
        satfinite: false,
    };
    let mut all = vec![
        float("m16n8k16.row.col.f32.f16.f16.f32", 16, 2, [4, 2], h as Bits, Sums::F32),
        float("m16n8k8.row.col.f32.f16.f16.f32", 8, 2, [2, 1], h, Sums::F32),
        float("m16n8k16.row.col.f16.f16.f16.f16", 16, 2, [4, 2], h, Sums::F16),
        float("m16n8k8.row.col.f16.f16.f16.f16", 8, 2, [2, 1], h, Sums::F16),
        float("m16n8k16.row.col.f32.bf16.bf16.f32", 16, 2, [4, 2], b, Sums::F32),
        float("m16n8k8.row.col.f32.bf16.bf16.f32", 8, 2, [2, 1], b, Sums::F32),
        float("m16n8k8.row.col.f32.tf32.tf32.f32", 8, 1, [4, 2], t, Sums::F32),
        float("m16n8k4.row.col.f32.tf32.tf32.f32", 4, 1, [2, 1], t, Sums::F32),
    ];
    // Bytes, signed or not, at both ends of their range.
    for (k, regs) in [(32, [4, 2]), (16, [2, 1])] {
        for (ta, a_offset) in [("s8", -125), ("u8", 252)] {
            for (tb, b_offset) in [("s8", 125), ("u8", 253)] {
                for satfinite in [false, true] {
                    let clamp = if satfinite { ".satfinite" } else { "" };
                    let op = format!("m16n8k{k}.row.col{clamp}.s32.{ta}.{tb}.s32");
                    let of = float(&op, k, 4, regs, byte, Sums::S32);
                    all.push(Shape { a_offset, b_offset, satfinite, ..of });
                }
            }
        }
    }
    all
}

fn product(op: &str, m: &Shape) {
    // Small integers: every sum is exact in every format. Sums of bytes come near the ends of s32.
    let va = |row: usize, k: usize| (row * 3 + k * 5) as i32 % 7 - 3 + m.a_offset;
    let vb = |k: usize, column: usize| (k * 2 + column * 3) as i32 % 5 - 2 + m.b_offset;
    let vc = |row: usize, column: usize| {
        let small = (row + 2 * column) as i32 % 9 - 4;
        match (m.sums, row % 3) {
            (Sums::S32, 1) => i32::MAX - 1000 + small,
            (Sums::S32, 2) => i32::MIN + 1000 + small,
            _ => small,
        }
    };
    let registers = if m.sums == Sums::F16 { 2 } else { 4 };
    let place_c = |l: usize, i: usize| ((l >> 2) + if i < 2 { 0 } else { 8 }, l % 4 * 2 + (i & 1));
    let sum_bits = |x: i32| match m.sums {
        Sums::F16 => u32::from(f16::from_f32(x as f32).to_bits()),
        Sums::F32 => (x as f32).to_bits(),
        Sums::S32 => x as u32,
    };
    // Each lane reads its registers from the input, 16 words apart.
    let mut words = vec![0u32; 32 * 16];
    for l in 0..32 {
        let at = &mut words[16 * l..16 * l + 16];
        let width = 32 / m.per;
        for e in 0..m.per {
            for r in 0..m.a {
                let (row, k) = place_a(m.k, m.per, l, r, e);
                at[r] |= (m.a_bits)(va(row, k)) << (width * e % 32);
            }
            for r in 0..m.b {
                let (k, column) = place_b(m.k, m.per, l, r, e);
                at[4 + r] |= (m.b_bits)(vb(k, column)) << (width * e % 32);
            }
        }
        for i in 0..4 {
            let (row, column) = place_c(l, i);
            let bits = sum_bits(vc(row, column));
            if m.sums == Sums::F16 { at[6 + i / 2] |= bits << (16 * (i % 2)) } else { at[6 + i] = bits }
        }
    }
    let input: Vec<u64> = words.chunks(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
    let list =
        |first: usize, n: usize| (first..first + n).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
    let mut body = "mad.wide.u32 %d2, %r0, 64, %d0;\n".to_string();
    for i in 0..10 {
        body += &format!("ld.global.u32 %r{}, [%d2+{}];\n", 10 + i, 4 * i);
    }
    let [d, a, b, c] = [list(20, registers), list(10, m.a), list(14, m.b), list(16, registers)];
    body += &format!("{op} {{{d}}}, {{{a}}}, {{{b}}}, {{{c}}};\n");
    for i in 0..registers {
        body += &format!("st.global.u32 [%d1+{}], %r{};\n", 4 * i, 20 + i);
    }
    let got = warp(&body, &input, 4);
    for l in 0..32 {
        for i in 0..4 {
            let (row, column) = place_c(l, i);
            let dot = (0..m.k).map(|k| i64::from(va(row, k) * vb(k, column))).sum::<i64>();
            let sum = i64::from(vc(row, column)) + dot;
            let want = match m.satfinite {
                true => sum.clamp(i32::MIN.into(), i32::MAX.into()) as i32,
                false => sum as i32,
            };
            let bits = match m.sums {
                Sums::F16 => got[4 * l + i / 2] >> (16 * (i % 2)) & 0xffff,
                _ => got[4 * l + i],
            };
            assert_eq!(bits, sum_bits(want), "{op} row {row} column {column}");
        }
    }
}
