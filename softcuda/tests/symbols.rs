//! The library has the name and the entry points that clients look for.

mod common;

use std::{collections::BTreeSet, fs, process::Command};

/// Names of functions and the SONAME, as the dynamic loader sees them.
fn readelf(option: &str) -> String {
    let output = Command::new("readelf").args(["--wide", option]).arg(common::library()).output();
    String::from_utf8(output.expect("readelf of binutils is installed").stdout).unwrap()
}

#[test]
fn the_soname_is_that_of_the_driver() {
    assert!(readelf("--dynamic").contains("Library soname: [libcuda.so.1]"));
}

#[test]
fn every_symbol_that_cudarc_references_is_exported() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let cudarc = packages.iter().find(|p| p["name"] == "cudarc").expect("cudarc is a dependency");
    let manifest = std::path::Path::new(cudarc["manifest_path"].as_str().unwrap());
    let bindings = fs::read_to_string(manifest.with_file_name("src/driver/sys/mod.rs")).unwrap();
    let names = bindings.split("pub unsafe fn cu").skip(1);
    let names: BTreeSet<_> = names.filter_map(|n| Some(format!("cu{}", n.split_once('(')?.0))).collect();
    // Of every CUDA version, `culib` being cudarc's own.
    let names: BTreeSet<_> = names.into_iter().filter(|name| name != "culib").collect();
    assert!(names.len() > 450, "cudarc binds {} functions", names.len());

    let exported: BTreeSet<_> = readelf("--dyn-syms")
        .lines()
        .filter(|line| line.contains(" FUNC ") && line.contains(" GLOBAL ") && !line.contains(" UND "))
        .filter_map(|line| line.split_whitespace().last().map(str::to_string))
        .collect();
    let missing: Vec<_> = names.difference(&exported).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
    assert!(exported.contains("cuGetProcAddress_v2") && exported.contains("cuGetExportTable"));
}
