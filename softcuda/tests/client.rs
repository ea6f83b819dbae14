//! A C program that opens the library at run time.

mod common;

use std::{fs, process::Command};

#[test]
fn a_c_program_runs_a_kernel() {
    let dir = std::env::temp_dir().join(format!("softcuda-client-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let program = dir.join("client");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client.c");
    let compiled = Command::new("cc")
        .args(["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Werror", source, "-ldl", "-o"])
        .arg(&program)
        .status()
        .expect("a C compiler is installed");
    assert!(compiled.success());
    let output =
        Command::new(&program).arg(common::library()).env("SOFTCUDA_ARCH", "sm_80").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..2], ["softcuda sm_80 (software)", "sum 1488"]);
    assert!(lines[2].starts_with("bad module: 1, ") && lines[2].ends_with("frobnicate is named"), "{said}");
    fs::remove_dir_all(&dir).unwrap();
}
