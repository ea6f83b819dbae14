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
