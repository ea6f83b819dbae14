//! Every kernel against its oracle on softcuda with all of its checks on: bounds, memory that nobody wrote, races, barriers.
//! The cases are ragged and cross every tile and block edge.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use lathe::lab::check::{Report, Verdict};
use serde::Deserialize;

use super::command::lathe;

/// A line of `lathe kernels`.
#[derive(Deserialize)]
struct Line {
    op: String,
    kernel: String,
}

/// What softcuda does not run: machine code of Hopper, and NVIDIA's library.
const DEVICE_ONLY: [&str; 3] = ["attention/flash_hopper", "linear/wgmma_tma", "linear/cublaslt"];

fn check(kernel: &str) -> Report {
    // One group of draws: that the draws are the oracle's, token by token, is checked besides. Samplers have many cases of
    // 5,003 tokens in 13 rows, of which every fourth is enough.
    let every = if kernel.starts_with("sample/") { "4" } else { "1" };
    let arguments = ["check", kernel, "--device", "cuda", "--every", every, "--cases", "0", "--groups", "1"];
    let rest = ["--timeout", "300", "--json"];
    let output = lathe(&arguments).args(rest).env("SOFTCUDA_CHECK", "all").output().unwrap();
    let reports: Vec<Report> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{kernel}: {}", String::from_utf8_lossy(&output.stderr)));
    reports.into_iter().next().expect("one kernel, one report")
}

#[test]
fn every_kernel_is_right_with_all_checks_on() {
    let output = lathe(&["kernels", "--device", "cuda", "--json"]).output().unwrap();
    let lines: Vec<Line> = serde_json::from_slice(&output.stdout).unwrap();
    // The longest are at the end: they go first. `by_shape` calls the others, and the engine's tests call it.
    let others = lines.iter().rev().filter(|l| l.kernel != "by_shape");
    let kernels: Vec<String> = others.map(|l| format!("{}/{}", l.op, l.kernel)).collect();
    assert!(kernels.len() > 25, "{kernels:?}");
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some(kernel) = kernels.get(next.fetch_add(1, Relaxed)) {
                    let report = check(kernel);
                    println!("{report}");
                    let wanted =
                        if DEVICE_ONLY.contains(&&**kernel) { Verdict::Unsupported } else { Verdict::Passed };
                    if report.verdict != wanted {
                        faults.lock().unwrap().push(report.to_string());
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Blocks that stay take a second tile: more outputs than softcuda's multiprocessors have blocks for.
#[test]
fn linear_is_right_where_blocks_take_several_tiles() {
    let case = r#"{"dtype":"bf16","out":"bf16","m":1,"n":27900,"k":136,"bias":true,"seed":1}"#;
    for kernel in ["linear/mma_pipelined", "linear/skinny"] {
        let arguments = ["check", kernel, "--device", "cuda", "--case", case, "--timeout", "300", "--json"];
        let output = lathe(&arguments).env("SOFTCUDA_CHECK", "all").output().unwrap();
        let reports: Vec<Report> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{kernel}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(reports[0].verdict, Verdict::Passed, "{}", reports[0]);
    }
}
