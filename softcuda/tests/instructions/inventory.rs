//! Which forms kernels use, and which of them have no test.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use softcuda::ptx::{self, Inst, Operand, Stmt};

use crate::{atomic, control, exchange, forms, matrix, memory, moves, nvrtc};

/// The name of an instruction's form: the opcode as written, and in parentheses what its operands choose.
pub fn name(inst: &Inst<'_>) -> String {
    let (op, operands) = (inst.op, &inst.operands);
    let vector = |i: usize| match operands.get(i) {
        Some(Operand::Vector(parts)) => Some(parts.len()),
        _ => None,
    };
    match op.split('.').next().unwrap_or_default() {
        "mov" => match (vector(0), vector(1)) {
            (Some(n), _) => format!("{op} (unpack {n})"),
            (_, Some(n)) => format!("{op} (pack {n})"),
            _ => op.to_string(),
        },
        "setp" if matches!(operands.first(), Some(Operand::Pair(..))) => format!("{op} (p|q)"),
        // A number of threads, the bytes of a source: operands that may be left out.
        "bar" | "barrier" if operands.len() > 1 => format!("{op} ({} operands)", operands.len()),
        "cp" if operands.len() > 3 => format!("{op} ({} operands)", operands.len()),
        _ => op.to_string(),
    }
}

/// Forms of a module, with the line of one of each.
fn used(ptx: &str) -> BTreeMap<String, u32> {
    let unit = ptx::parse(ptx).expect("NVRTC writes PTX");
    let bodies = unit.functions.iter().filter_map(|f| f.body.as_ref());
    let insts = bodies.flatten().filter_map(|stmt| match stmt {
        Stmt::Inst(inst) => Some(inst),
        _ => None,
    });
    insts.map(|inst| (name(inst), inst.line)).collect()
}

/// Forms that the tests of this program run.
fn tested() -> BTreeSet<String> {
    let others = [
        atomic::cases(),
        control::cases(),
        exchange::cases(),
        matrix::cases(),
        memory::cases(),
        moves::cases(),
    ];
    let others = others.into_iter().flatten().map(|case| case.form);
    forms::forms().into_iter().map(|form| form.op).chain(others).collect()
}

/// A constant of a kernel file and the values it is compiled for.
type Constant = (&'static str, &'static [i64]);

/// What `src/kernels/cuda` compiles: each file with its constants, which are all options and dtypes, and sizes on both
/// sides of where code changes (vectors, tails, loops that are unrolled).
const PROGRAMS: &[(&str, &[Constant])] = &[
    (
        "activation.cu",
        &[("DTYPE", &[0, 1, 2]), ("INTER", &[3072, 37]), ("GATE", &[0, 1, 2]), ("VECTOR", &[0, 1])],
    ),
    (
        "attention.cu",
        &[
            ("DTYPE", &[0, 1, 2]),
            ("HEAD_DIM", &[16, 64, 128, 256]),
            ("GROUP", &[1, 2, 5, 8]),
            ("BLOCK_SIZE", &[16, 48]),
            ("WINDOW", &[0, 1]),
            ("SOFTCAP", &[0, 1]),
        ],
    ),
    ("embedding.cu", &[("DTYPE", &[0, 1, 2]), ("DIM", &[1024, 33]), ("VECTOR", &[0, 1])]),
    ("kv_store.cu", &[("DTYPE", &[0, 1, 2]), ("ROW", &[1024, 80]), ("VECTOR", &[0, 1])]),
    ("linear.cu", &[("DTYPE", &[0, 1, 2]), ("OUT_F32", &[0, 1])]),
    ("logits.cu", &[("VOCAB", &[151_936, 1000])]),
    ("logprobs.cu", &[("VOCAB", &[151_936, 1000])]),
    ("rms_norm.cu", &[("DTYPE", &[0, 1, 2]), ("DIM", &[1024, 33]), ("VECTOR", &[0, 1])]),
    ("rope.cu", &[("DTYPE", &[0, 1, 2]), ("HEAD_DIM", &[128, 64, 80]), ("QK_NORM", &[0, 1])]),
    ("sample.cu", &[("VOCAB", &[151_936, 1000]), ("RANDOM", &[0, 1]), ("TRUNCATED", &[0, 1])]),
];

/// Machine code for sm_90a alone: there is no PTX of it to run.
const HOPPER_ONLY: &[&str] = &["linear_hopper.cu"];

/// Programs of a file beyond which not all combinations are compiled, as that takes minutes (`SOFTCUDA_INVENTORY=all`
/// does): every value of every constant with every dtype then.
const MOST: usize = 8;

fn programs(constants: &[Constant]) -> Vec<Vec<i64>> {
    let all: usize = constants.iter().map(|(_, values)| values.len()).product();
    if all <= MOST || std::env::var_os("SOFTCUDA_INVENTORY").is_some_and(|v| v == "all") {
        return constants.iter().fold(vec![vec![]], |rows, (_, values)| {
            rows.iter().flat_map(|row| values.iter().map(|&v| [&row[..], &[v]].concat())).collect()
        });
    }
    let rounds = constants.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
    let dtypes = constants[0].1;
    let row = |round: usize, dtype: i64| {
        let others = constants[1..].iter().map(|(_, values)| values[round % values.len()]);
        std::iter::once(dtype).chain(others).collect()
    };
    (0..rounds).flat_map(|round| dtypes.iter().map(move |&dtype| row(round, dtype))).collect()
}

/// The PTX of all programs of a file, with names for messages.
fn compiled(path: &Path, constants: &[Constant]) -> Vec<(String, String)> {
    let source = std::fs::read_to_string(path).unwrap();
    let include = format!("-I{}", path.parent().expect("a folder").display());
    let file = path.file_name().unwrap().to_string_lossy();
    let compile = |values: Vec<i64>| {
        let defines: Vec<String> =
            constants.iter().zip(values).map(|((name, _), value)| format!("-D{name}={value}")).collect();
        let options: Vec<&str> = std::iter::once(&include).chain(&defines).map(String::as_str).collect();
        (format!("{file} {}", defines.join(" ")), nvrtc::ptx(&source, &file, "compute_80", &options))
    };
    programs(constants).into_iter().map(compile).collect()
}

fn folder(below_workspace: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(below_workspace)
}

/// Files of a folder that end like this.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let all = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = all.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    all.sort();
    all
}

/// Fails with the forms that no test covers, and a program with each.
fn every_form_is_tested(programs: &[(String, String)]) {
    let tested = tested();
    let mut untested = BTreeMap::new();
    for (program, ptx) in programs {
        for (form, line) in used(ptx) {
            if !tested.contains(&form) {
                untested.entry(form).or_insert(format!("{program}, PTX line {line}"));
            }
        }
    }
    assert!(untested.is_empty(), "{} forms have no test: {untested:#?}", untested.len());
}

#[test]
fn every_form_of_the_projects_kernels_is_tested() {
    let mut programs = Vec::new();
    for path in files(&folder("cuda"), "cu") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if HOPPER_ONLY.contains(&name.as_str()) {
            continue;
        }
        let (_, constants) = PROGRAMS.iter().find(|(file, _)| *file == name).unwrap_or_else(|| {
            panic!("cuda/{name} is not in the inventory: add it to PROGRAMS with its constants")
        });
        programs.extend(compiled(&path, constants));
    }
    every_form_is_tested(&programs);
}

#[test]
fn every_constant_that_kernels_ask_for_is_in_the_inventory() {
    let known =
        |word: &str| PROGRAMS.iter().flat_map(|(_, constants)| *constants).any(|(name, _)| *name == word);
    for path in ["cu", "cuh"].into_iter().flat_map(|extension| files(&folder("cuda"), extension)) {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| line.starts_with("#if ") || line.starts_with("#elif ")) {
            let words = line[4..].split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let names = words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
            for name in names {
                assert!(known(name), "{}: {name} is not among the constants of PROGRAMS", path.display());
            }
        }
    }
}

#[test]
fn every_form_of_the_test_programs_is_tested() {
    let mut programs = Vec::new();
    for path in files(&folder("softcuda/tests/suite"), "cu") {
        programs.extend(compiled(&path, &[]));
    }
    for path in files(&folder("softcuda/tests/ptx"), "ptx") {
        programs.push((path.display().to_string(), std::fs::read_to_string(path).unwrap()));
    }
    assert!(programs.len() >= 5);
    every_form_is_tested(&programs);
}

#[test]
fn the_inventory_can_fail() {
    let ptx = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k() {\n.reg .b32 %r<3>;\nadd.s32 %r1, %r1, 1;\nfrobnicate.b32 %r1;\nret;\n}\n";
    assert_eq!(
        used(ptx).into_iter().collect::<Vec<_>>(),
        [("add.s32".into(), 6), ("frobnicate.b32".into(), 7), ("ret".into(), 8)]
    );
    let tested = tested();
    assert!(tested.contains("add.s32") && tested.contains("ret") && !tested.contains("frobnicate.b32"));
}
