//! NVIDIA's shared libraries: whether they can be loaded here, from where, and what version they say they have.
//!
//! They stay loaded until the process ends; some do not like to be unloaded.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A library that was found.
#[derive(Debug)]
pub struct Found {
    /// Its file.
    pub path: PathBuf,
    /// Its version, if it says so.
    pub version: Option<String>,
    /// The GPUs, for the driver.
    pub devices: Vec<String>,
}

/// A library to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The driver's library, which comes with the kernel module.
    Driver,
    /// The run-time compiler.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Collectives.
    Nccl,
}

impl Wanted {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Driver, Self::Nvrtc, Self::CublasLt, Self::Nccl];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "CUDA driver",
            Self::Nvrtc => "NVRTC",
            Self::CublasLt => "cuBLASLt",
            Self::Nccl => "NCCL",
        }
    }

    /// File names that would do, the preferred first.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            Self::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            Self::Nccl => &["libnccl.so.2", "libnccl.so"],
        }
    }

    /// How to get it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Driver => "install NVIDIA's driver; only it can bring libcuda.so.1",
            Self::Nvrtc => {
                "cargo xtask nvrtc in this repository, pip install nvidia-cuda-nvrtc==13.0.88, or the CUDA toolkit"
            }
            Self::CublasLt => "pip install nvidia-cublas, or the CUDA toolkit",
            Self::Nccl => {
                "pip install nvidia-nccl-cu13, or NVIDIA's package libnccl2; only several GPUs need it"
            }
        }
    }

    /// Loads the library for good, so that whoever asks for it by name finds it.
    ///
    /// # Errors
    /// [`Error::Device`]: which library is missing, where it was looked for, and how to get it.
    pub fn require(self) -> Result<Found> {
        let folders = usual_folders();
        self.find(&folders).ok_or_else(|| {
            let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let what = format!(
                "{} is missing: no {} where the system looks (LD_LIBRARY_PATH, ld.so.conf) nor in [{}]; {}",
                self.name(),
                self.files().join(" or "),
                folders.join(", "),
                self.remedy()
            );
            Error::Device { device: "cuda".into(), what }
        })
    }

    /// Looks where the system does, then in `folders`.
    pub fn find(self, folders: &[PathBuf]) -> Option<Found> {
        if self == Self::Nvrtc {
            load_builtins(folders);
        }
        let by_system = self.files().iter().map(PathBuf::from);
        let in_folders = folders.iter().flat_map(|folder| self.files().iter().map(|file| folder.join(file)));
        by_system.chain(in_folders.filter(|path| path.exists())).find_map(|path| {
            let library = Library::open(&path)?;
            // A stub or another library of that name will not do: cudarc panics when it misses a function.
            library.address(self.symbol())?;
            Some(Found {
                path: library.path(self.symbol()).unwrap_or(path),
                version: self.version(&library),
                devices: if self == Self::Driver { library.devices() } else { Vec::new() },
            })
        })
    }

    /// The function that tells the version.
    fn symbol(self) -> &'static CStr {
        match self {
            Self::Driver => c"cuDriverGetVersion",
            Self::Nvrtc => c"nvrtcVersion",
            Self::CublasLt => c"cublasLtGetVersion",
            Self::Nccl => c"ncclGetVersion",
        }
    }

    fn version(self, library: &Library) -> Option<String> {
        let (mut first, mut second) = (0, 0);
        match self {
            Self::Driver => {
                // SAFETY: `CUresult cuDriverGetVersion(int *)` (cuda.h); it may be called before `cuInit`.
                let ok = unsafe {
                    let get: unsafe extern "C" fn(*mut c_int) -> c_int = library.function(self.symbol())?;
                    get(&mut first) == 0
                };
                ok.then(|| format!("CUDA {}.{}", first / 1000, first % 1000 / 10))
            }
            Self::Nvrtc => {
                // SAFETY: `nvrtcResult nvrtcVersion(int *major, int *minor)` (nvrtc.h).
                let ok = unsafe {
                    let get: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int =
                        library.function(self.symbol())?;
                    get(&mut first, &mut second) == 0
                };
                ok.then(|| format!("{first}.{second}"))
            }
            Self::CublasLt => {
                // SAFETY: `size_t cublasLtGetVersion(void)` (cublasLt.h).
                let version = unsafe {
                    let get: unsafe extern "C" fn() -> usize = library.function(self.symbol())?;
                    get()
                };
                Some(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
            }
            Self::Nccl => {
                // SAFETY: `ncclResult_t ncclGetVersion(int *)` (nccl.h).
                let ok = unsafe {
                    let get: unsafe extern "C" fn(*mut c_int) -> c_int = library.function(self.symbol())?;
                    get(&mut first) == 0
                };
                ok.then(|| format!("{}.{}.{}", first / 10_000, first / 100 % 100, first % 100))
            }
        }
    }
}

/// NVRTC opens its builtins by name alone, which fails where the system does not look: loads them first.
fn load_builtins(folders: &[PathBuf]) {
    for builtins in folders.iter().flat_map(|folder| entries(folder, "libnvrtc-builtins.so.")) {
        Library::open(&builtins);
    }
}

/// A loaded library.
struct Library {
    handle: *mut c_void,
}

impl Library {
    /// Loads `name`, a path or a name for the system's search.
    fn open(name: &Path) -> Option<Self> {
        let name = CString::new(name.as_os_str().as_bytes()).ok()?;
        // SAFETY: `name` is a C string. The library's initialisers run; NVIDIA's make no demands on the process.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        (!handle.is_null()).then_some(Self { handle })
    }

    fn address(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: `handle` came from `dlopen` and is never closed.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }

    /// The function `name`.
    ///
    /// # Safety
    /// `F` must be its type, an `extern "C" fn`.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: a function's address is a function pointer, of type `F` as the caller promises.
        self.address(name).map(|address| unsafe { std::mem::transmute_copy(&address) })
    }

    /// The file that holds the function `name`.
    fn path(&self, name: &CStr) -> Option<PathBuf> {
        let address = self.address(name)?;
        // SAFETY: zeros are valid for this struct of pointers. `dladdr` takes any address and, if it returns non-zero,
        // has set `dli_fname` to a C string that lives as long as the library.
        unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            if libc::dladdr(address, &mut info) == 0 || info.dli_fname.is_null() {
                return None;
            }
            let path = PathBuf::from(OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes()));
            Some(path.canonicalize().unwrap_or(path))
        }
    }

    /// The GPUs' names, if this is a driver that works.
    fn devices(&self) -> Vec<String> {
        // SAFETY: `CUresult cuInit(unsigned)`, `cuDeviceGetCount(int *)`, `cuDeviceGetName(char *, int len, CUdevice)`
        // (cuda.h), whose devices are the numbers below the count; names are cut to the length given.
        let names = unsafe {
            let init: Option<unsafe extern "C" fn(u32) -> c_int> = self.function(c"cuInit");
            let count: Option<unsafe extern "C" fn(*mut c_int) -> c_int> = self.function(c"cuDeviceGetCount");
            let name: Option<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int> =
                self.function(c"cuDeviceGetName");
            let (Some(init), Some(count), Some(name)) = (init, count, name) else { return Vec::new() };
            let mut devices = 0;
            if init(0) != 0 || count(&mut devices) != 0 {
                return Vec::new();
            }
            let one = |device| {
                let mut text = [0u8; 256];
                (name(text.as_mut_ptr().cast(), text.len() as c_int, device) == 0).then_some(text)
            };
            (0..devices).filter_map(one).collect::<Vec<_>>()
        };
        let text =
            |name: &[u8; 256]| Some(CStr::from_bytes_until_nul(name).ok()?.to_string_lossy().into_owned());
        names.iter().filter_map(text).collect()
    }
}

/// Folders where the CUDA toolkit and NVIDIA's wheels put their libraries, as far as they exist.
pub fn usual_folders() -> Vec<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    // What `cargo xtask nvrtc` fetched: where the tests look, or above the binary in `target/`.
    let program = std::env::current_exe().unwrap_or_default();
    let caches =
        var("LATHE_CACHE").into_iter().chain(program.ancestors().map(|folder| folder.join(".cache")));
    let mut folders: Vec<PathBuf> = caches.map(|cache| cache.join("nvrtc/nvidia/cu13/lib")).collect();
    folders.extend(["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(var).map(|root| root.join("lib64")));
    folders.extend(entries(Path::new("/usr/local"), "cuda").into_iter().map(|root| root.join("lib64")));
    folders.extend(["/usr/lib/x86_64-linux-gnu", "/usr/lib/wsl/lib", "/opt/cuda/lib64"].map(PathBuf::from));
    let prefixes = [var("VIRTUAL_ENV"), var("CONDA_PREFIX"), var("HOME").map(|home| home.join(".local"))]
        .into_iter()
        .flatten();
    for prefix in prefixes.chain(["/usr/local", "/usr"].map(PathBuf::from)) {
        for python in entries(&prefix.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                // nvidia/cu13/lib, nvidia/cuda_nvrtc/lib, nvidia/nccl/lib, …
                let packages = entries(&python.join(packages).join("nvidia"), "");
                folders.extend(packages.into_iter().map(|package| package.join("lib")));
            }
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// What is in `folder` and begins with `prefix`, sorted.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(prefix.as_bytes()))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_exists_is_loaded_and_one_that_does_not_is_not() {
        let libc = Library::open(Path::new("libc.so.6")).expect("Linux with glibc");
        assert!(libc.path(c"strlen").expect("a file").is_file());
        assert!(libc.address(c"no_such_function").is_none());
        assert!(Library::open(Path::new("libno_such_library.so.0")).is_none());
    }

    #[test]
    fn folders_are_searched() {
        let folder = tempfile::tempdir().unwrap();
        // Not a library: found, but it cannot be loaded.
        std::fs::write(folder.path().join("libnccl.so"), "text").unwrap();
        let found = Wanted::Nccl.find(&[folder.path().to_owned()]);
        assert!(found.is_none_or(|found| !found.path.starts_with(folder.path())));
    }
}
