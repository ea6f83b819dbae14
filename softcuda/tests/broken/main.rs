//! Small broken kernels, one or more for each thing that the sanitizer finds, and their mended twins.
//!
//! A case is one source. With `BROKEN` it must be stopped with the right kind of fault, at the line marked
//! `// guilty` (or one of them: the compiler merges a load with the store of its value), in the right thread where that is certain; without, all checks on, it must run to its
//! end and give the right values. Races between streams are whole programs: [`streams`].

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/nvrtc.rs"]
mod nvrtc;

mod init;
mod memory;
mod race;
mod streams;
mod sync;

use softcuda::exec::{Checks, LaunchConfig, Options, launch};
use softcuda::fault::{Fault, FaultKind};
use softcuda::memory::Memory;
use softcuda::module::Module;

/// What the host does wrong, in the broken run alone.
#[derive(Clone, Copy, PartialEq)]
enum Host {
    /// Nothing.
    Innocent,
    /// Frees `in` before the launch.
    Frees,
    /// Never writes the second half of `in`.
    WritesHalf,
    /// Passes a host address as `in`.
    PassesHostMemory,
}

struct Case {
    name: &'static str,
    /// CUDA C with a kernel `k(u32* out, u32* in, u32 n)`.
    source: &'static str,
    blocks: u32,
    threads: u32,
    dynamic_shared: u32,
    /// Words of `out`, of `in` (which holds 0, 1, 2, …) and the value of `n`.
    n: u32,
    host: Host,
    kind: FaultKind,
    /// What the report must say of block and thread; `None` where it depends on the order of threads.
    at: Option<(u32, u32)>,
    /// A word that the report must hold.
    says: &'static str,
    /// `out[i]` after the mended kernel.
    want: fn(u32) -> u32,
}

impl Case {
    /// One block of 64 threads, one element a thread, an innocent host, thread (0, 0) blamed, `out[i] = i`.
    const fn new(name: &'static str, kind: FaultKind, source: &'static str) -> Self {
        Self {
            name,
            source,
            blocks: 1,
            threads: 64,
            dynamic_shared: 0,
            n: 64,
            host: Host::Innocent,
            kind,
            at: None,
            says: "",
            want: |i| i,
        }
    }
}

const PREAMBLE: &str = "
typedef unsigned u32; typedef unsigned long long u64;
__device__ u32 saddr(const void* p) { return u32(__cvta_generic_to_shared(p)); }
#define COPY_ASYNC(shared, global) \\
    asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16;\" ::\"r\"(saddr(shared)), \"l\"(global) : \"memory\")
#define COMMIT() asm volatile(\"cp.async.commit_group;\" ::: \"memory\")
#define WAIT(n) asm volatile(\"cp.async.wait_group %0;\" ::\"n\"(n) : \"memory\")
#ifdef BROKEN
#define IF_BROKEN(broken, mended) broken
#else
#define IF_BROKEN(broken, mended) mended
#endif
";

fn run(case: &Case, broken: bool) -> (Result<Vec<u32>, Box<Fault>>, String) {
    let source = format!("{PREAMBLE}#line 1\n{}", case.source.trim_start_matches('\n'));
    let options: &[&str] = if broken { &["-DBROKEN"] } else { &[] };
    let ptx = nvrtc::ptx(&source, case.name, "compute_80", options);
    // A missing barrier is also a read of what is not yet written: the broken kernel meets one check at a time.
    let on = |kind| !broken || case.kind == kind;
    let checks =
        Checks { init: on(FaultKind::Uninitialised), race: on(FaultKind::Race), sync: on(FaultKind::Sync) };
    let mut memory = Memory::new(&[1 << 24], true);
    let bytes = u64::from(case.n) * 4;
    let (out, input) = (memory.alloc(0, bytes).unwrap(), memory.alloc(0, bytes).unwrap());
    let host = if broken { case.host } else { Host::Innocent };
    let words: Vec<u8> = (0..case.n).flat_map(u32::to_le_bytes).collect();
    let written = if host == Host::WritesHalf { words.len() / 2 } else { words.len() };
    memory.write(input, &words[..written]).unwrap();
    if host == Host::Frees {
        memory.free(input).unwrap();
    }
    let input = if host == Host::PassesHostMemory { words.as_ptr() as u64 } else { input };
    let module =
        Module::load(&mut memory, 0, &ptx, 80).unwrap_or_else(|e| panic!("{}: {e}\n{ptx}", case.name));
    let mut params = [out.to_le_bytes(), input.to_le_bytes()].concat();
    params.extend(case.n.to_le_bytes());
    let config = LaunchConfig {
        grid: [case.blocks, 1, 1],
        block: [case.threads, 1, 1],
        dynamic_shared: case.dynamic_shared,
    };
    let options = Options { checks, max_loops: 1 << 12, ..Options::default() };
    let result = launch(&mut memory, &module, "k", config, &params, &options).map(|_| {
        let mut got = vec![0; bytes as usize];
        memory.read(out, &mut got).unwrap();
        got.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    });
    (result, ptx)
}

fn check(cases: &[Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        if let Err(what) = broken(case).and_then(|()| mended(case)) {
            wrong.push(format!("{}: {what}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn broken(case: &Case) -> Result<(), String> {
    let fault = match run(case, true).0 {
        Ok(_) => return Err("broken, but it ran to its end".into()),
        Err(fault) => fault,
    };
    let lines = case.source.trim_start_matches('\n').lines();
    let guilty: Vec<u32> =
        lines.zip(1..).filter(|(text, _)| text.contains("// guilty")).map(|(_, line)| line).collect();
    assert!(!guilty.is_empty(), "{}: no line is marked", case.name);
    let ensure = |ok: bool, what: String| if ok { Ok(()) } else { Err(format!("{what}\n    {fault}")) };
    ensure(fault.kind == case.kind, format!("{:?}, expected {:?}", fault.kind, case.kind))?;
    let line = fault.source.as_ref().map(|(_, line)| *line);
    ensure(line.is_some_and(|line| guilty.contains(&line)), format!("line {line:?}, expected {guilty:?}"))?;
    if let Some((block, thread)) = case.at {
        let got = (fault.block[0], fault.thread[0]);
        ensure(got == (block, thread), format!("block and thread {got:?}, expected {:?}", (block, thread)))?;
    }
    ensure(fault.to_string().contains(case.says), format!("the report does not say {:?}", case.says))
}

fn mended(case: &Case) -> Result<(), String> {
    let got = run(case, false).0.map_err(|fault| format!("mended, but stopped: {fault}"))?;
    for (i, (got, want)) in got.iter().zip((0..).map(case.want)).enumerate() {
        if *got != want {
            return Err(format!("mended: out[{i}] is {got}, expected {want}"));
        }
    }
    Ok(())
}
