//! Every elementwise and baseline kernel compiles for the oldest and the newest architecture that matter, to PTX and to
//! machine code; what ptxas says of the latter is in `registers.txt`, which this keeps true.

use std::fmt::Write as _;

use lathe::device::cuda::{Compiler, Program, Target, source::Sources};

/// Shapes of Qwen3-0.6B in bf16.
fn programs() -> Vec<Program> {
    let of = |file| Program::new(file);
    let typed = |file| of(file).with("DTYPE", 2);
    let mut programs = vec![
        typed("embedding.cu").with("DIM", 1024).with("VECTOR", 1),
        typed("rms_norm.cu").with("DIM", 1024).with("VECTOR", 1),
        typed("kv_store.cu").with("ROW", 1024).with("VECTOR", 1),
        typed("linear_naive.cu").with("IN", 1024).with("OUT_F32", 0),
        of("logits_naive.cu").with("VOCAB", 151_936),
        of("sample_naive.cu").with("VOCAB", 151_936),
    ];
    programs.extend([0, 1].map(|norm| typed("rope.cu").with("HEAD_DIM", 128).with("QK_NORM", norm)));
    programs.extend(
        [0, 1, 2].map(|g| typed("activation.cu").with("INTER", 3072).with("GATE", g).with("VECTOR", 1)),
    );
    programs
}

/// `function registers spilled-bytes shared-bytes` of each function in ptxas' report.
fn report(log: &str) -> Vec<String> {
    let number_before = |text: &str, what: &str| -> u32 {
        let head = text.split_once(what).map_or("0", |(head, _)| head);
        head.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let mut rows = Vec::new();
    for part in log.split("Compiling entry function '").skip(1) {
        let name = part.split('\'').next().expect("a name");
        let spilled = number_before(part, " bytes spill stores") + number_before(part, " bytes spill loads");
        let (registers, shared) = (number_before(part, " registers"), number_before(part, " bytes smem"));
        assert!(registers > 0, "no registers in {part:?}");
        rows.push(format!("{name:<28} {registers:>4} {spilled:>4} {shared:>6}"));
    }
    rows.sort();
    rows
}

#[test]
fn registers_spills_and_shared_memory_are_as_the_table_says() {
    let compiler = |capability, ptx| {
        let target = Target { capability, ptx };
        Compiler::with(target, Sources::default(), None).expect("run `cargo xtask nvrtc` first")
    };
    for capability in [(8, 0), (9, 0)] {
        for program in programs() {
            let ptx = compiler(capability, true).compile(&program).unwrap();
            assert!(ptx.log.is_empty(), "{program}: {}", ptx.log);
        }
    }
    let mut table =
        String::from("# function                   registers, bytes spilled, bytes of shared memory\n");
    for capability in [(8, 0), (9, 0)] {
        let compiler = compiler(capability, false);
        for program in programs() {
            writeln!(table, "\n# {}: {program}", compiler.target().arch()).unwrap();
            let rows = report(&compiler.compile(&program).unwrap().log);
            assert!(!rows.is_empty(), "{program}: no report");
            for row in rows {
                assert_eq!(row.split_whitespace().nth(2), Some("0"), "{program} spills: {row}");
                writeln!(table, "{row}").unwrap();
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cuda/registers.txt");
    if std::env::var_os("LATHE_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let recorded = std::fs::read_to_string(path).unwrap();
    assert!(recorded == table, "{path} is out of date: LATHE_BLESS=1 rewrites it\n{table}");
}
