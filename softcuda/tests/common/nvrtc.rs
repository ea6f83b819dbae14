//! CUDA C to PTX by the NVRTC that `cargo xtask nvrtc` fetches.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

type Program = *mut c_void;

/// NVRTC's entry points, by their documented signatures.
struct Nvrtc {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ptx_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    ptx: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
}

/// Compiles `source`, called `name` in messages and line info, for `arch` (`compute_80`, …).
///
/// # Panics
/// With the compiler's log if the source is wrong, or with what is missing if there is no NVRTC.
pub fn ptx(source: &str, name: &str, arch: &str, options: &[&str]) -> String {
    let nvrtc = nvrtc();
    let (source, name) = (CString::new(source).unwrap(), CString::new(name).unwrap());
    let arch = format!("--gpu-architecture={arch}");
    let options: Vec<CString> = [arch.as_str(), "--std=c++17", "-lineinfo"]
        .iter()
        .chain(options)
        .map(|option| CString::new(*option).unwrap())
        .collect();
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let none = std::ptr::null();
    let mut program: Program = std::ptr::null_mut();
    // SAFETY: the strings outlive the calls and end in NUL; each buffer has the size that NVRTC just said; the
    // program is destroyed once.
    unsafe {
        assert_eq!((nvrtc.create)(&mut program, source.as_ptr(), name.as_ptr(), 0, none, none), 0);
        let compiled = (nvrtc.compile)(program, pointers.len() as c_int, pointers.as_ptr());
        let log = text(program, nvrtc.log_size, nvrtc.log);
        assert_eq!(compiled, 0, "{}: {log}", name.to_str().unwrap());
        let ptx = text(program, nvrtc.ptx_size, nvrtc.ptx);
        (nvrtc.destroy)(&mut program);
        ptx
    }
}

/// What NVRTC writes into a buffer whose size it says.
///
/// # Safety
/// `size` and `write` are a pair of NVRTC's, and `program` is one of its programs.
unsafe fn text(
    program: Program,
    size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    write: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
) -> String {
    let mut bytes = 0;
    // SAFETY: by this function's contract; the buffer has `bytes` bytes, the last of them NUL.
    unsafe {
        assert_eq!(size(program, &mut bytes), 0);
        let mut buffer = vec![0u8; bytes.max(1)];
        assert_eq!(write(program, buffer.as_mut_ptr().cast()), 0);
        CStr::from_ptr(buffer.as_ptr().cast()).to_string_lossy().into_owned()
    }
}

fn folder() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("softcuda lies in the workspace");
    let cache = std::env::var_os("LATHE_CACHE").map_or_else(|| workspace.join(".cache"), PathBuf::from);
    cache.join("nvrtc/nvidia/cu13/lib")
}

fn nvrtc() -> &'static Nvrtc {
    static NVRTC: OnceLock<Nvrtc> = OnceLock::new();
    NVRTC.get_or_init(|| {
        let open = |name: &str| {
            let path = folder().join(name);
            let c_path = CString::new(path.to_str().expect("a UTF-8 path")).unwrap();
            // SAFETY: the path ends in NUL; NVRTC's initialisers ask nothing of us.
            let library = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
            assert!(
                !library.is_null(),
                "{} cannot be opened: `cargo xtask nvrtc` fetches it",
                path.display()
            );
            library
        };
        // NVRTC looks for its builtins by name alone, and finds what is loaded.
        open("libnvrtc-builtins.so.13.0");
        let library = open("libnvrtc.so.13");
        // SAFETY: each field has the type of NVRTC's function of that name, by its header.
        unsafe {
            Nvrtc {
                create: symbol(library, c"nvrtcCreateProgram"),
                compile: symbol(library, c"nvrtcCompileProgram"),
                log_size: symbol(library, c"nvrtcGetProgramLogSize"),
                log: symbol(library, c"nvrtcGetProgramLog"),
                ptx_size: symbol(library, c"nvrtcGetPTXSize"),
                ptx: symbol(library, c"nvrtcGetPTX"),
                destroy: symbol(library, c"nvrtcDestroyProgram"),
            }
        }
    })
}

/// A function of an open library.
///
/// # Safety
/// `F` is the type of a pointer to the function `name`.
unsafe fn symbol<F: Copy>(library: *mut c_void, name: &CStr) -> F {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: the library is open and the name ends in NUL; an address is read as the pointer that it is.
    unsafe {
        let address = libc::dlsym(library, name.as_ptr());
        assert!(!address.is_null(), "NVRTC has no {name:?}");
        std::mem::transmute_copy(&address)
    }
}
