//! The loader against 100,000 damaged modules: an error or a module, never a panic, a hang or unbounded memory.

use std::time::{Duration, Instant};

use softcuda::{memory::Memory, module::Module};

/// xorshift64*: the same inputs on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

/// The header and one kernel or function of a module.
fn pieces(ptx: &str) -> Vec<String> {
    let start = ptx.find(".visible").unwrap();
    let (header, rest) = ptx.split_at(start);
    let end = rest.find("\t.file").unwrap_or(rest.len());
    rest[..end].split("\n}\n").filter(|p| p.len() > 20).map(|p| format!("{header}{p}\n}}\n")).collect()
}

const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ";",
    ",",
    "%r1",
    "%rd1",
    "%p1",
    "@%p1",
    "@!%p1",
    "0",
    "-1",
    "4294967296",
    "0f7F800000",
    "18446744073709551615",
    ".reg .b32 %r<4000000000>;",
    ".shared .align 8 .b8 s[49152];",
    ".local .b8 l[600000];",
    ".global .b8 g[1099511627776];",
    "bra",
    "ld.global.v4.u32",
    "st.shared.u8",
    "mma.sync.aligned.m16n8k16.row.col",
    "call",
    "ret;",
    "exit;",
    "bar.sync 0;",
    "cvt.rn.f16.f32",
    "/*",
    "//",
    "\"",
    ".loc 1 1 1",
    "$L__BB0_1:",
    "é",
    "\0",
    ".v2",
    ".f64",
    ".pred",
    "shfl.sync.bfly.b32",
    "{%r1, %r2}",
    "+",
    "|",
    "!",
    "brx.idx",
    ".branchtargets",
];

fn mutate(seed: &str, other: &str, random: &mut Random) -> String {
    let mut text: Vec<u8> = seed.bytes().collect();
    for _ in 0..=random.below(4) {
        let at = random.below(text.len());
        match random.below(7) {
            0 => text[at] = random.below(256) as u8,
            1 => {
                let n = random.below(30).min(text.len() - at);
                text.drain(at..at + n);
            }
            2 => {
                let word = WORDS[random.below(WORDS.len())];
                text.splice(at..at, word.bytes());
            }
            3 => text.truncate(at),
            4 => {
                // A line of another module, or a line moved.
                let lines: Vec<&str> = other.lines().collect();
                let line = lines[random.below(lines.len())];
                text.splice(at..at, line.bytes().chain([b'\n']));
            }
            5 => {
                let n = random.below(200).min(text.len() - at);
                let copy = text[at..at + n].to_vec();
                text.splice(at..at, copy);
            }
            _ => text[at] = text[at].wrapping_add(1),
        }
        if text.is_empty() {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn damaged_modules_are_errors() {
    let seeds: Vec<String> = [include_str!("ptx/basic.ptx"), include_str!("ptx/speed.ptx")]
        .iter()
        .flat_map(|p| pieces(p))
        .collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut loaded, mut slowest) = (0, Duration::ZERO);
    for i in 0..100_000 {
        let seed = &seeds[i % seeds.len()];
        let text = mutate(seed, &seeds[random.below(seeds.len())], &mut random);
        let mut memory = Memory::new(&[1 << 24], false);
        let start = Instant::now();
        if let Ok(module) = Module::load(&mut memory, 0, &text, 80) {
            loaded += 1;
            module.unload(&mut memory);
        }
        slowest = slowest.max(start.elapsed());
        assert_eq!(memory.free_bytes(0), 1 << 24, "input {i} leaks memory");
    }
    // Both outcomes must occur, or the mutations are too weak or too strong.
    assert!((1_000..90_000).contains(&loaded), "{loaded} of 100000 loaded");
    assert!(slowest < Duration::from_secs(5), "one input took {slowest:?}");
}

#[test]
fn deep_and_long_inputs_end() {
    let header = ".version 9.0\n.target sm_80\n.address_size 64\n";
    let nest = |open: &str, n: usize| format!("{header}.visible .entry k() {{ {} ret; }}", open.repeat(n));
    let mut memory = Memory::new(&[1 << 24], false);
    let inputs = [
        nest("{", 100_000),
        nest("{ .reg .b32 %r<5>; } ", 20_000),
        format!("{header}.global .b8 x[4] = {}1;", "{".repeat(100_000)),
        format!("{header}{}", ".file 1 \"a\"\n".repeat(50_000)),
        // Functions that call the next one twice: 2^40 instructions if inlined without a limit.
        (0..40).fold(format!("{header}.func f0() {{ ret; }}\n"), |s, i| {
            format!("{s}.func f{}() {{ call f{i}; call f{i}; ret; }}\n", i + 1)
        }) + ".visible .entry k() { call f40; ret; }",
        format!("{header}.func f() {{ call f; ret; }} .visible .entry k() {{ call f; ret; }}"),
    ];
    for (i, text) in inputs.iter().enumerate() {
        let start = Instant::now();
        let _ = Module::load(&mut memory, 0, text, 80);
        assert!(start.elapsed() < Duration::from_secs(5), "input {i} took {:?}", start.elapsed());
    }
    let error = Module::load(&mut memory, 0, &inputs[5], 80).unwrap_err();
    assert!(error.message.contains("recursive"), "{error}");
}
