//! flashinfer-bench's schema: files as its documentation describes them come in, and Lathe's go out and come in again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lathe::lab::exchange::{Record, Status, records};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use tempfile::TempDir;

/// The fixtures in a folder, with the tensor files that the workloads name.
fn data_set() -> TempDir {
    let (from, to) = (
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/flashinfer"),
        tempfile::tempdir().unwrap(),
    );
    copy(&from, to.path());
    let ints = |values: &[i32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let blob = to.path().join("blob/workloads");
    fs::create_dir_all(&blob).unwrap();
    let write = |name: &str, tensors: &[(&str, Dtype, Vec<u8>)]| {
        let views = tensors.iter().map(|(key, dtype, bytes)| {
            (*key, TensorView::new(*dtype, vec![bytes.len() / 4], bytes).unwrap())
        });
        fs::write(blob.join(format!("{name}.safetensors")), safetensors::serialize(views, None).unwrap())
            .unwrap();
    };
    // Lengths 1, 73 and 17 in pages of one token; then 64 + 36 and 64 + 5 in pages of 64, of which 37 and 3 are new.
    let pages: Vec<i32> = (0..91).rev().collect();
    write(
        "decode",
        &[("kv_indptr", Dtype::I32, ints(&[0, 1, 74, 91])), ("kv_indices", Dtype::I32, ints(&pages))],
    );
    write(
        "prefill",
        &[
            ("qo_indptr", Dtype::I32, ints(&[0, 37, 40])),
            ("kv_indptr", Dtype::I32, ints(&[0, 2, 4])),
            ("kv_indices", Dtype::I32, ints(&[8, 1, 3, 0])),
            ("kv_last_page_len", Dtype::I32, ints(&[36, 5])),
        ],
    );
    write(
        "sampling",
        &[("top_k", Dtype::I32, ints(&[40, 1000])), ("top_p", Dtype::F32, floats(&[0.5, 0.875]))],
    );
    to
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

/// Whether it succeeded, stdout, stderr.
fn lathe(folder: &Path, args: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lathe")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn workloads_become_cases_and_kernels_pass_them() {
    let data = data_set();
    let (ok, json, said) = lathe(data.path(), &["check", "--workload", "workloads/all.jsonl", "--json"]);
    assert!(ok, "{said}");
    let reports: Vec<Value> = serde_json::from_str(&json).unwrap();
    let ran = |op: &str, kernel: &str| {
        let own = |r: &&Value| r["op"] == op && r["kernel"] == kernel && r["verdict"] == "PASSED";
        reports.iter().filter(own).map(|r| r["cases"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(
        [ran("linear", "blocked"), ran("rms_norm", "simd"), ran("sample", "histogram")],
        [1, 1, 1],
        "{json}"
    );
    assert_eq!(ran("attention", "tiled"), 2, "{json}");
    let worst = |op: &str| reports.iter().find(|r| r["op"] == op).unwrap()["worst"]["case"].clone();
    assert_eq!(worst("rms_norm")["rows"], 33);
    assert!((worst("rms_norm")["eps"].as_f64().unwrap() - 1e-5).abs() < 1e-9, "as the reference says");
    assert_eq!(worst("linear")["dtype"], "f16");
    let lens: Vec<Value> = reports
        .iter()
        .filter(|r| r["op"] == "attention" && r["kernel"] == "tiled")
        .map(|r| r["worst"]["case"]["lens"].clone())
        .collect();
    let lens: Vec<String> = lens.iter().map(Value::to_string).collect();
    assert_eq!(lens[0], r#"[{"q":1,"kv":1},{"q":1,"kv":73},{"q":1,"kv":17}]"#);
    assert_eq!(lens[1], r#"[{"q":37,"kv":100},{"q":3,"kv":69}]"#);
}

#[test]
fn what_cannot_be_taken_over_is_told() {
    let data = data_set();
    let error = |args: &[&str]| {
        let (ok, _, said) = lathe(data.path(), args);
        assert!(!ok);
        said
    };
    let said = error(&["check", "--workload", "workloads/fused.jsonl"]);
    assert!(said.contains("fused_add_rmsnorm_h96") && said.contains("rounded"), "{said}");
    fs::remove_file(data.path().join("blob/workloads/decode.safetensors")).unwrap();
    let said = error(&["check", "--workload", "workloads/all.jsonl"]);
    assert!(said.contains("decode.safetensors is in no folder"), "{said}");
    fs::remove_dir_all(data.path().join("definitions/gemm")).unwrap();
    let said = error(&["check", "--workload", "workloads/all.jsonl"]);
    assert!(said.contains("gemm_n128_k64.json"), "{said}");
    // A run that passed has times.
    let trace = fs::read_to_string(data.path().join("traces/rmsnorm_h96.jsonl")).unwrap();
    let wrong = trace.replace("INCORRECT_NUMERICAL", "PASSED");
    assert!(
        records(&wrong).unwrap_err().contains("record 2")
            && records(&wrong).unwrap_err().contains("performance")
    );
    assert!(records("{\"name\": \"x\"}").unwrap_err().contains("not a definition"));
}

#[test]
fn every_kind_of_record_is_shown() {
    let data = data_set();
    let files = [
        "definitions/rmsnorm/rmsnorm_h96.json",
        "solutions/rmsnorm_triton_v1.json",
        "traces/rmsnorm_h96.jsonl",
    ];
    let (ok, text, said) = lathe(data.path(), &[&["trace", "show"], &files[..]].concat());
    assert!(ok, "{said}");
    for part in [
        "definition rmsnorm_h96 (rmsnorm); Lathe's operation: rms_norm",
        "solution rmsnorm_triton_v1 of rmsnorm_h96 by somebody: triton, main.py::run",
        "batch_size 33; rmsnorm_triton_v1 on NVIDIA_H100: Passed, 0.0080 ms, 2.50 times the reference's speed",
        "IncorrectNumerical",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_goes_out_comes_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let (ok, text, said) =
        lathe(folder.path(), &["trace", "export", "--out", "set", "--cases", "2", "--threads", "1"]);
    assert!(ok, "{said}");
    assert!(text.contains(" workloads and "), "{text}");
    let files = |kind: &str| -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![folder.path().join("set").join(kind)];
        while let Some(path) = open.pop() {
            match path.read_dir() {
                Ok(entries) => open.extend(entries.map(|e| e.unwrap().path())),
                Err(_) => found.push(path),
            }
        }
        found
    };
    let read = |path: &PathBuf| records(&fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{e}"));
    let traces: Vec<Record> = files("traces").iter().flat_map(read).collect();
    assert!(traces.len() >= 12, "several kernels on eight workloads: {}", traces.len());
    for record in &traces {
        let Record::Trace(trace) = record else { panic!("{record:?}") };
        let evaluation = trace.evaluation.as_ref().unwrap();
        assert_eq!(evaluation.status, Status::Passed, "{trace:?}");
        let times = evaluation.performance.unwrap();
        assert!(times.latency_ms > 0.0 && times.reference_latency_ms > 0.0, "{trace:?}");
    }
    let solutions: Vec<Record> = files("solutions").iter().flat_map(read).collect();
    assert!(solutions.iter().all(|s| matches!(s, Record::Solution(s) if s.author == "lathe")));
    let workloads = files("workloads");
    assert_eq!(workloads.len(), files("definitions").len());
    // The attention workloads: the same lengths, from the files that were written.
    for path in workloads.iter().filter(|p| p.to_string_lossy().contains("gqa_paged")) {
        let path = path.to_str().unwrap();
        let (ok, json, said) =
            lathe(folder.path(), &["check", "attention/tiled", "--workload", path, "--json"]);
        assert!(ok && json.contains("PASSED"), "{said}{json}");
    }
    let (ok, _, said) = lathe(folder.path(), &["trace", "export", "--out", "set"]);
    assert!(!ok && said.contains("not empty"), "{said}");
}
