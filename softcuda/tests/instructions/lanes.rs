//! Every arithmetic form against its model: Rust's own arithmetic, and exact big-integer arithmetic for rounding. Inputs
//! are all combinations of edge values, and random bits.

use std::collections::BTreeSet;

use crate::{
    forms::{Form, Want, forms},
    gpu::Gpu,
};

/// xorshift64*: the same inputs on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Bits of a register by its letter in a form's signature.
fn bits(letter: char) -> u32 {
    match letter {
        'w' | 'h' | 'b' => 16,
        'd' | 'F' => 64,
        'p' => 1,
        _ => 32,
    }
}

/// Edge values by letter.
fn edges(letter: char) -> Vec<u64> {
    let f32s = [
        0.0f32,
        1.0,
        1.5,
        2.0,
        0.5,
        3.0,
        1e-3,
        0.1,
        1e10,
        16_777_216.0,
        16_777_217.0,
        0.999_999_94,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-40,
        1e-45,
        f32::INFINITY,
        2.5,
        65_520.0,
        65_504.0,
        2_147_483_648.0,
        4_294_967_296.0,
        1e-38,
        3e38,
        0.333_333_34,
    ];
    let f64s = [
        0.0f64,
        1.0,
        1.5,
        2.0,
        0.5,
        3.0,
        0.1,
        1e10,
        9_007_199_254_740_993.0,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        1e-310,
        f64::INFINITY,
        1e-160,
        1e160,
        2.5,
        1e-38,
        3.402_823_6e38,
        1e-45,
        9.223_372_036_854_776e18,
    ];
    let halves = [
        0x0000, 0x3c00, 0x3c01, 0x4000, 0x3800, 0x7bff, 0x0400, 0x03ff, 0x0001, 0x7c00, 0x7e00, 0x3555,
        0x6400,
    ];
    let brains = [
        0x0000, 0x3f80, 0x3f81, 0x4000, 0x3f00, 0x7f7f, 0x0080, 0x007f, 0x0001, 0x7f80, 0x7fc0, 0x3eab,
        0x4b80,
    ];
    let signed =
        |values: Vec<u64>, sign: u64| values.iter().flat_map(|&v| [v, v | sign]).collect::<Vec<u64>>();
    match letter {
        'f' => {
            let mut all = signed(f32s.iter().map(|x| u64::from(x.to_bits())).collect(), 1 << 31);
            all.push(0x7fc0_0001);
            all
        }
        'F' => {
            let mut all = signed(f64s.iter().map(|x| x.to_bits()).collect(), 1 << 63);
            all.push(0x7ff8_0000_0000_0000);
            all
        }
        'h' => signed(halves.to_vec(), 0x8000),
        'b' => signed(brains.to_vec(), 0x8000),
        'w' => vec![0, 1, 2, 3, 7, 255, 256, 0x7fff, 0x8000, 0xffff, 0x1234, 0xfffe],
        's' => vec![0, 1, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 0xffff_ffff],
        'd' => vec![
            0,
            1,
            2,
            7,
            255,
            65_536,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            1 << 32,
            0x7fff_ffff_ffff_ffff,
            1 << 63,
            u64::MAX,
            0x0123_4567_89ab_cdef,
            u64::MAX - 1,
        ],
        'p' => vec![0, 1],
        _ => vec![
            0,
            1,
            2,
            3,
            7,
            31,
            32,
            255,
            256,
            65_535,
            65_536,
            0x00ff_ffff,
            0x0100_0001,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1234_5678,
            0xdead_beef,
            0xffff_fffe,
            0x8000_8000,
        ],
    }
}

/// Inputs of a form: all combinations of edges if they are few, a sample of them and random bits besides.
fn inputs(form: &Form) -> Vec<[u64; 4]> {
    let letters: Vec<char> = form.signature.chars().skip(1).collect();
    let sets: Vec<Vec<u64>> = letters.iter().map(|&l| edges(l)).collect();
    let all: usize = sets.iter().map(Vec::len).product();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut out = Vec::new();
    for i in 0..all.min(3000) {
        let mut at = if all > 3000 { random.next() as usize >> 8 } else { i };
        let mut x = [0; 4];
        for (x, set) in x.iter_mut().zip(&sets) {
            *x = set[at % set.len()];
            at /= set.len();
        }
        out.push(x);
    }
    for _ in 0..500 {
        let mut x = [0; 4];
        for (x, &letter) in x.iter_mut().zip(&letters) {
            *x = random.next() >> (64 - bits(letter));
        }
        out.push(x);
    }
    out.resize(out.len().next_multiple_of(32), [0; 4]);
    out
}

/// A kernel that runs a form on one set of operands for each thread.
fn kernel(name: &str, form: &Form) -> String {
    let register = |letter: char, i: usize| match bits(letter) {
        1 => format!("%p{i}"),
        16 => format!("%h{i}"),
        32 => format!("%r{i}"),
        _ => format!("%d{i}"),
    };
    let mut body = String::new();
    let letters: Vec<char> = form.signature.chars().collect();
    for (i, &letter) in letters.iter().enumerate().skip(1) {
        body += &format!("ld.global.u64 %t, [%in+{}];\n", 8 * (i - 1));
        let r = register(letter, i);
        body += &match bits(letter) {
            1 => format!("setp.ne.u64 {r}, %t, 0;\n"),
            16 => format!("cvt.u16.u64 {r}, %t;\n"),
            32 => format!("cvt.u32.u64 {r}, %t;\n"),
            _ => format!("mov.b64 {r}, %t;\n"),
        };
    }
    let operands: Vec<String> = letters.iter().enumerate().map(|(i, &l)| register(l, i)).collect();
    body += &format!("{} {}{};\n", form.op, operands.join(", "), form.suffix);
    let d = &operands[0];
    body += &match bits(letters[0]) {
        1 => format!("selp.b64 %t, 1, 0, {d};\n"),
        16 => format!("cvt.u64.u16 %t, {d};\n"),
        32 => format!("cvt.u64.u32 %t, {d};\n"),
        _ => format!("mov.b64 %t, {d};\n"),
    };
    format!(
        ".visible .entry {name}(.param .u64 in, .param .u64 out) {{
.reg .pred %p<5>; .reg .b16 %h<5>; .reg .b32 %r<9>; .reg .b64 %d<5>; .reg .b64 %t, %in, %out;
ld.param.u64 %in, [in]; ld.param.u64 %out, [out];
mov.u32 %r5, %ctaid.x; mov.u32 %r6, %ntid.x; mov.u32 %r7, %tid.x; mad.lo.u32 %r8, %r5, %r6, %r7;
mad.wide.u32 %in, %r8, 32, %in; mad.wide.u32 %out, %r8, 8, %out;
{body}st.global.u64 [%out], %t;
ret;\n}}\n"
    )
}

#[test]
fn every_form_gives_what_its_model_gives() {
    let forms = forms();
    let mut ptx = ".version 9.0\n.target sm_80\n.address_size 64\n".to_string();
    for (i, form) in forms.iter().enumerate() {
        ptx += &kernel(&format!("k{i}"), form);
    }
    let mut gpu = Gpu::new(&ptx);
    let mut wrong = Vec::new();
    for (i, form) in forms.iter().enumerate() {
        let inputs = inputs(form);
        let flat: Vec<u64> = inputs.iter().flatten().copied().collect();
        let (from, to) = (gpu.put(&flat), gpu.put(&vec![0u64; inputs.len()]));
        gpu.run(&format!("k{i}"), inputs.len() as u32 / 32, 32, &[from, to]).unwrap();
        let got = gpu.get::<u64>(to, inputs.len());
        let bad = inputs.iter().zip(&got).find_map(|(x, &got)| {
            let ok = match &form.want {
                Want::Exactly(model) => model(x) == got,
                Want::Where(holds) => holds(x, got),
            };
            (!ok).then(|| {
                let want = match &form.want {
                    Want::Exactly(model) => format!("{:#x}", model(x)),
                    Want::Where(_) => "something else".to_string(),
                };
                format!("{} of {x:#x?}: got {got:#x}, expected {want}", form.op).replace('\n', "")
            })
        });
        wrong.extend(bad);
        gpu.memory.free(from).unwrap();
        gpu.memory.free(to).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {} forms are wrong:\n{}", wrong.len(), forms.len(), wrong.join("\n"));
}

#[test]
fn no_form_is_listed_twice() {
    let all = forms();
    let set: BTreeSet<_> = all.iter().map(|f| (&f.op, &f.suffix, &f.signature)).collect();
    assert_eq!(set.len(), all.len());
}

#[test]
fn unknown_forms_are_errors_with_their_line() {
    for op in [
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 %r0, %r1;",
        "cp.async.bulk.commit_group;",
        "mbarrier.init.shared.b64 [%d1], 1;",
        "tex.2d.v4.f32.s32 {%r1,%r2,%r3,%r4}, [t, {%r1,%r2}];",
        "barrier.cluster.arrive;",
        "add.f32.rn.what %r0, %r1, %r2;",
        "frobnicate.b32 %r0, %r1;",
        "add.s32 %d0, %r1, %r2;",
        "ld.global.b128 %r0, [%d1];",
        "shfl.bfly.b32 %r0, %r1, 1, 31;",
        "add.s32 %r0, %r1;",
        "mov.u32 %r0, nowhere;",
        "bra nowhere;",
        // What the ISA forbids, as ptxas does.
        "setp.lt.b32 %p0, %r1, %r2;",
        "setp.hi.s32 %p0, %r1, %r2;",
        "set.gt.u32.b32 %r0, %r1, %r2;",
        "bmsk.clamp.u32 %r0, %r1, %r2;",
        "cvt.rn.u32.s32 %r0, %r1;",
        "cvt.relu.f32.f32 %r0, %r1;",
        "cvt.ftz.f64.s32 %d0, %r1;",
        "ld.global.f16x2 %r0, [%d1];",
        "ld.release.gpu.global.b32 %r0, [%d1];",
        "st.const.b32 [%d1], %r0;",
        "st.acquire.gpu.global.b32 [%d1], %r0;",
        "red.const.add.u32 [%d1], %r0;",
    ] {
        let ptx = format!(
            ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k() {{\n.reg .pred %p<2>; .reg .b32 %r<5>; .reg .b64 %d<5>;\n{op}\nret;\n}}\n"
        );
        let mut memory = softcuda::memory::Memory::new(&[1 << 20], false);
        let error = softcuda::module::Module::load(&mut memory, 0, &ptx, 90).unwrap_err();
        assert_eq!(error.line, 6, "{op}: {error}");
    }
}
