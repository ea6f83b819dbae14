//! The report's page, of fixed findings.

use lathe::device::Peaks;
use lathe::lab::report::{Counted, Findings, html};
use lathe::lab::timing::{Per, Timed};
use serde_json::json;

fn timed(op: &str, shape: &str, kernel: &str, seconds: f64, half: f64) -> Timed {
    let (op, shape, kernel) = (op.into(), shape.into(), kernel.into());
    let (per, bytes, flops) = (Per::Bytes, 100_000_000, 200_000_000);
    Timed { op, shape, kernel, per, bytes, flops, seconds, half }
}

/// Two operations on a device of 10 GB/s and 100 GFLOP/s: `sum` with a default that another kernel beats and one that
/// fails, `copy` with a default near the roof.
fn found() -> Findings {
    let checks = json!([
        {
            "op": "sum", "kernel": "tree", "device": "cpu", "verdict": "PASSED", "cases": 80, "failed": 0,
            "unsupported": 0, "seconds": 1.0, "ulps": {"p50": 0.25, "p90": 0.5, "p99": 0.75, "max": 1.5},
            "worst": {
                "case": {"rows": 8, "seed": 1}, "error": 0.003, "relative_error": 0.01, "naive_error": 0.004, "share": 0.5,
                "element": {"tensor": "out", "index": [3, 5], "value": 1.5, "expected": 1.503, "ulps": 0.7},
            },
            "maps": [{
                "tensor": "out", "case": {"dtype": "bf16", "rows": 4}, "rows": ["token", 8], "columns": ["head", 4],
                "cells": [[0.0, 0.25, 0.5, 0.75], [0.1, 0.1, 0.9, 0.1], [0.3, 0.3, 0.3, 0.3], [1.0, 0.0, 0.0, 1.0]],
            }],
        },
        {
            "op": "sum", "kernel": "chunks", "device": "cpu", "verdict": "PASSED", "cases": 80, "failed": 0,
            "unsupported": 0, "seconds": 1.0,
        },
        {
            "op": "sum", "kernel": "tail_lost", "device": "cpu", "verdict": "INCORRECT_NUMERICAL", "cases": 80, "failed": 9,
            "unsupported": 0, "seconds": 1.0,
            "failure": {"case": {"rows": 33}, "message": "8 of 33 elements of out are wrong", "element": null},
            "maps": [{
                "tensor": "out", "case": {"rows": 40}, "rows": ["row", 40], "columns": ["column", 64],
                "cells": [[0.0, 0.2, 0.4, 0.6], [0.0, 0.2, 0.4, 1e6]],
            }],
        },
    ]);
    Findings {
        about: vec![("device".into(), "made <up>".into())],
        command: "lathe report sum".into(),
        kernels: vec![
            ("sum".into(), vec!["tree".into(), "chunks".into(), "tail_lost".into()]),
            ("copy".into(), vec!["rows".into()]),
        ],
        peaks: Some(Peaks { bandwidth: 10e9, flops: 100e9, source: "made up".into() }),
        checks: serde_json::from_value(checks).unwrap(),
        timed: vec![
            timed("sum", "1 row", "tree", 0.040, 0.002),
            timed("sum", "1 row", "chunks", 0.020, 0.001),
            timed("sum", "64 rows", "tree", 0.0125, 0.0005),
            timed("sum", "64 rows", "chunks", 0.0125, 0.003),
            timed("copy", "1 row", "rows", 0.011, 0.0001),
        ],
        ..Findings::default()
    }
}

#[test]
fn the_page_says_what_to_look_at_and_needs_nothing_from_elsewhere() {
    let found = found();
    let what: Vec<String> = found.look_first().into_iter().map(|point| point.what).collect();
    assert_eq!(
        what,
        [
            "sum/tail_lost is INCORRECT_NUMERICAL",
            "sum: another kernel beats the default tree",
            "sum/tree reaches 25% of the roof",
            "sum/tree comes closest to its error budget: 50%",
        ]
    );
    assert!(
        found.look_first()[1].detail.contains("chunks is 2.00 times as fast"),
        "the other shape is within noise"
    );
    let page = html(&found);
    for text in [
        "made &lt;up&gt;",
        "lathe check sum/tail_lost --case",
        "40.0 ms ± 5.0%, 2.50 GB/s",
        "prefers-color-scheme:dark",
    ] {
        assert!(page.contains(text), "{text}");
    }
    for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "<script"] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
    }
    assert!(!page.contains("Modelled"));
}

#[test]
fn counters_are_labelled_and_never_beside_times() {
    let launch = |name: &str, dram: u64| {
        json!({"kernel": name, "counters": {
            "smsp__inst_executed.sum": 100, "smsp__thread_inst_executed.sum": 3000,
            "distinct_read_bytes": 4000, "distinct_written_bytes": 1000,
            "dram__bytes_read.sum": dram, "dram__bytes_write.sum": 1000,
            "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum": 300, "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum": 100,
            "smsp__sass_data_bytes_mem_global_op_ld.sum": 4800, "smsp__sass_data_bytes_mem_global_op_st.sum": 1600,
            "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum": 30,
            "smsp__sass_l1tex_data_pipe_lsu_wavefronts_mem_shared_ideal.sum": 20,
            "tensor_flops": 0, "flops": 7000,
        }})
    };
    let profile = json!({"launches": [launch("split", 9000), launch("join", 1000)]}).to_string();
    let counted = Counted {
        op: "sum".into(),
        shape: "1 row".into(),
        kernel: "tree".into(),
        bytes: 6000,
        ..Counted::default()
    };
    let counted = counted.sum(&profile).unwrap();
    assert_eq!(
        (counted.launches, counted.instructions, counted.dram_bytes, counted.other_flops),
        (2, 200, 12_000, 14_000)
    );
    assert_eq!((counted.active_lanes, counted.sector_overhead, counted.bank_conflicts), (30.0, 2.0, 1.5));
    assert!(
        Counted::default().sum("{\"launches\": [{\"counters\": {}}]}").unwrap_err().contains("no counter")
    );

    let on_softcuda = Findings { peaks: None, timed: Vec::new(), counted: vec![counted], ..found() };
    assert!(
        on_softcuda
            .look_first()
            .iter()
            .any(|p| p.what == "sum/tree moves 2.00 times the least bytes (modelled)")
    );
    let page = html(&on_softcuda);
    assert!(
        page.contains("<b>Modelled</b> by softcuda") && page.contains("<td>2.00<td>2.00<td>1.50"),
        "{page}"
    );
    for time in [" µs", " ms", "Roofline", "GB/s"] {
        assert!(!page.contains(time), "{time} beside what is modelled");
    }
}
