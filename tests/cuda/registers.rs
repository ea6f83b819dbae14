//! Every kernel compiles, without a warning, for the oldest and the newest architecture that matter, to PTX and to
//! machine code; what ptxas says of the latter is in `registers.txt`, which this keeps true.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use lathe::device::cuda::{
    Compiler, Program, Target,
    source::{EMBEDDED, Sources},
};

use super::programs;

const TARGETS: [Target; 4] = [
    Target { capability: (8, 0), ptx: true },
    Target { capability: (9, 0), ptx: true },
    Target { capability: (8, 0), ptx: false },
    Target { capability: (9, 0), ptx: false },
];

/// wgmma and the copy engine's instructions are machine code of Hopper or nothing.
fn is_for(target: Target, program: &Program) -> bool {
    target.is_hopper() || program.file() != "linear_hopper.cu"
}

/// What ptxas says of a function.
struct Usage {
    name: String,
    registers: u32,
    spilled: u32,
    local: u32,
    shared: u32,
}

/// Each function in ptxas' report, by name.
fn usages(log: &str) -> Vec<Usage> {
    let number_before = |text: &str, what: &str| -> u32 {
        let head = text.split_once(what).map_or("0", |(head, _)| head);
        head.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let mut usages = Vec::new();
    for part in log.split("Compiling entry function '").skip(1) {
        let bytes = |what: &str| number_before(part, &format!(" bytes {what}"));
        usages.push(Usage {
            name: part.split('\'').next().expect("a name").into(),
            registers: number_before(part, " registers"),
            spilled: bytes("spill stores") + bytes("spill loads"),
            local: bytes("stack frame"),
            shared: bytes("smem"),
        });
    }
    usages.sort_by(|a, b| a.name.cmp(&b.name));
    usages
}

/// NVRTC's log of every program for every target, by target, then program. Compiles on all cores; logs of the same text
/// are kept for the next run.
fn logs(programs: &[Program]) -> Vec<String> {
    let compilers = TARGETS.map(|target| {
        Compiler::with(target, Sources::default(), None).expect("run `cargo xtask nvrtc` first")
    });
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nvrtc-logs");
    fs::create_dir_all(&folder).unwrap();
    let log = |compiler: &Compiler, program: &Program| -> String {
        let texts = compiler.sources.texts(program.file()).unwrap();
        let key = format!("{:?} {program} {texts:?}", compiler.target());
        let kept = folder.join(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(key.as_bytes())));
        if !is_for(compiler.target(), program) {
            return String::new();
        }
        if let Ok(log) = fs::read_to_string(&kept) {
            return log;
        }
        let log = compiler.compile(program).unwrap_or_else(|error| panic!("{program}: {error}")).log;
        fs::write(&kept, &log).unwrap();
        log
    };
    let jobs: Vec<(&Compiler, &Program)> =
        compilers.iter().flat_map(|c| programs.iter().map(move |p| (c, p))).collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); jobs.len()]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some((i, (compiler, program))) =
                    Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, *jobs.get(i)?)))
                {
                    let log = log(compiler, program);
                    done.lock().unwrap()[i] = log;
                }
            });
        }
    });
    done.into_inner().unwrap()
}

#[test]
fn every_file_is_among_the_programs() {
    let compiled: BTreeSet<&str> = programs::all().iter().map(Program::file).collect();
    let files: BTreeSet<&str> =
        EMBEDDED.iter().map(|(name, _)| *name).filter(|n| n.ends_with(".cu")).collect();
    assert_eq!(compiled, files);
}

#[test]
fn registers_spills_and_shared_memory_are_as_the_table_says() {
    let programs = programs::all();
    let logs = logs(&programs);
    let mut table = String::from(
        "# function                   registers, bytes spilled, of local memory, of static shared memory\n",
    );
    let mut faults = Vec::new();
    for (target, logs) in TARGETS.iter().zip(logs.chunks(programs.len())) {
        for (program, log) in programs.iter().zip(logs) {
            if target.ptx {
                assert!(log.is_empty(), "{program} for {}: {log}", target.arch());
                continue;
            }
            if !is_for(*target, program) {
                continue;
            }
            writeln!(table, "\n# {}: {program}", target.arch()).unwrap();
            let usages = usages(log);
            assert!(!usages.is_empty(), "{program} for {}: {log}", target.arch());
            for Usage { name, registers, spilled, local, shared } in usages {
                assert!(registers > 0, "{name}: {log}");
                if spilled > 0 || local > 0 {
                    faults.push(format!(
                        "{name} ({program}, {}) spills {spilled} bytes, has {local} of local memory",
                        target.arch()
                    ));
                }
                writeln!(table, "{name:<28} {registers:>4} {spilled:>4} {local:>4} {shared:>6}").unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "no kernel may spill or use local memory:\n{}", faults.join("\n"));
    let path = crate::support::root().join("tests/cuda/registers.txt");
    if std::env::var_os("LATHE_BLESS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let recorded = fs::read_to_string(&path).unwrap();
    let new: Vec<&str> = table.lines().filter(|line| !recorded.lines().any(|old| old == *line)).collect();
    assert!(
        recorded == table,
        "{} is out of date; `LATHE_BLESS=1 cargo test --test cuda registers` rewrites it. New lines:\n{}",
        path.display(),
        new.join("\n")
    );
}
