//! Finds the library that cargo built and makes this process use it.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
    sync::Once,
};

/// The shared library that cargo built beside this test.
pub fn library() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let folders = test.ancestors().skip(1).take(2).map(Path::to_path_buf);
    let found = folders.map(|dir| dir.join("libsoftcuda.so")).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("no libsoftcuda.so beside {}: was softcuda built as cdylib?", test.display())
    })
}

/// Loads the library. What this process opens as `libcuda.so.1` afterwards, by cudarc or NVRTC, is this one: the
/// dynamic loader knows it by its SONAME.
#[allow(dead_code, reason = "not every test program is a client in this process")]
pub fn load() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        let path =
            CString::new(library().to_str().expect("a path in UTF-8")).expect("a path without zero bytes");
        // SAFETY: the library's initialisers do nothing.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "cannot load {path:?}");
    });
    let name = cudarc::driver::result::init()
        .and_then(|()| cudarc::driver::result::device::get(0))
        .and_then(cudarc::driver::result::device::get_name)
        .expect("softcuda starts");
    assert!(name.starts_with("softcuda"), "this is {name}, another driver than the one under test");
}

/// Runs a test again in a process of its own, with variables that the driver reads when it starts. None in that process,
/// which then does the test's work; what it said in the first.
#[allow(dead_code, reason = "most test programs need no variables")]
pub fn alone(test: &str, vars: &[(&str, &str)]) -> Option<std::process::Output> {
    const INSIDE: &str = "SOFTCUDA_TEST_ALONE";
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        return None;
    }
    let program = std::env::current_exe().expect("a test knows its own path");
    let mut command = std::process::Command::new(program);
    command.args([test, "--exact", "--nocapture"]).env(INSIDE, test).envs(vars.iter().copied());
    let output = command.output().expect("a test can run itself");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("running 1 test"), "there is no test {test}:\n{said}");
    Some(output)
}
