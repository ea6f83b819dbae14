//! CUDA C to machine code with NVRTC, and the cache of its results on disk.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    fmt, fs,
    hash::Hash,
    path::{Path, PathBuf},
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use cudarc::nvrtc::sys::{self, nvrtcResult};
use sha2::{Digest, Sha256};

use super::{library::Wanted, source::Sources};
use crate::error::{Error, Result};

/// A kernel file with the constants it is compiled for: `-DNAME=VALUE`. Constants are a model's (head size, dtype),
/// never a batch's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Program {
    file: &'static str,
    constants: [(&'static str, i64); Self::MOST],
    len: usize,
}

impl Program {
    /// Most constants.
    const MOST: usize = 16;

    /// `file`, e.g. `rms_norm.cu`, without constants.
    pub const fn new(file: &'static str) -> Self {
        Self { file, constants: [("", 0); Self::MOST], len: 0 }
    }

    /// One more constant. Panics if there are 16 already.
    #[must_use]
    pub const fn with(mut self, name: &'static str, value: usize) -> Self {
        self.constants[self.len] = (name, value as i64);
        self.len += 1;
        self
    }

    /// The file.
    pub fn file(&self) -> &'static str {
        self.file
    }

    fn constants(&self) -> &[(&'static str, i64)] {
        &self.constants[..self.len]
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file)?;
        self.constants().iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What to compile for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The compute capability, e.g. `(9, 0)`.
    pub capability: (u32, u32),
    /// PTX for a driver to compile (softcuda), else machine code for this very architecture.
    pub ptx: bool,
}

impl Target {
    /// The name as NVRTC takes it: `compute_90`, `sm_90a`, `sm_80`. From Hopper on, with the features that only this
    /// architecture has.
    pub fn arch(self) -> String {
        let (major, minor) = self.capability;
        match (self.ptx, major) {
            (true, _) => format!("compute_{major}{minor}"),
            (false, ..9) => format!("sm_{major}{minor}"),
            (false, _) => format!("sm_{major}{minor}a"),
        }
    }

    /// Whether kernels may use Hopper's own instructions (wgmma, TMA).
    pub fn is_hopper(self) -> bool {
        !self.ptx && self.capability == (9, 0)
    }
}

/// Compiles programs for one target; remembers them on disk.
#[derive(Debug)]
pub struct Compiler {
    target: Target,
    /// The kernels' source.
    pub sources: Sources,
    cache: Option<PathBuf>,
    version: (c_int, c_int),
    compiled: AtomicUsize,
}

/// What NVRTC made of a program.
#[derive(Debug)]
pub struct Compiled {
    /// PTX (with a final 0) or machine code.
    pub image: Vec<u8>,
    /// Warnings, and for machine code what ptxas says of registers, spills and shared memory.
    pub log: String,
}

impl Compiler {
    /// With the embedded sources, `LATHE_CUDA_DIR` and the cache folder of this user.
    ///
    /// # Errors
    /// [`Error::Device`] if NVRTC is missing, with where it was looked for and how to get it.
    pub fn new(target: Target) -> Result<Self> {
        Self::with(target, Sources::from_env(), cache_folder())
    }

    /// With sources and a cache folder (or none) of the caller's.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(target: Target, sources: Sources, cache: Option<PathBuf>) -> Result<Self> {
        Wanted::Nvrtc.require()?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: NVRTC is loaded (`require`), and both pointers are to live integers.
        check(unsafe { sys::nvrtcVersion(&mut major, &mut minor) }, "nvrtcVersion")?;
        Ok(Self { target, sources, cache, version: (major, minor), compiled: AtomicUsize::new(0) })
    }

    /// What it compiles for.
    pub fn target(&self) -> Target {
        self.target
    }

    /// How many programs were compiled, not found on disk.
    pub fn compiled(&self) -> usize {
        self.compiled.load(Relaxed)
    }

    /// The program's image, from disk if it was compiled before from the same text with the same options.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn image(&self, program: &Program) -> Result<Vec<u8>> {
        let Some(folder) = &self.cache else { return Ok(self.compile(program)?.image) };
        let path = folder.join(self.key(program)?);
        if let Some(image) = read_entry(&path) {
            return Ok(image);
        }
        let image = self.compile(program)?.image;
        if let Err(error) = write_entry(&path, &image) {
            tracing::warn!("kernel cache: {}: {error}", path.display());
        }
        Ok(image)
    }

    /// Compiles, whatever is on disk.
    ///
    /// # Errors
    /// [`Error::Device`] with NVRTC's log, which names our file and line.
    pub fn compile(&self, program: &Program) -> Result<Compiled> {
        let texts = self.sources.texts(program.file)?;
        let c = |text: &str| CString::new(text).map_err(|_| failed(program, "the source has a zero byte"));
        let names: Vec<CString> = texts.iter().map(|(name, _)| c(name)).collect::<Result<_>>()?;
        let bodies: Vec<CString> = texts.iter().map(|(_, text)| c(text)).collect::<Result<_>>()?;
        let pointers = |list: &[CString]| -> Vec<*const c_char> { list.iter().map(|s| s.as_ptr()).collect() };
        let (header_names, headers) = (pointers(&names[1..]), pointers(&bodies[1..]));
        let shown = c(&self.sources.shown(program.file))?;
        let mut raw = ptr::null_mut();
        // SAFETY: all strings end with 0 and outlive the call, which copies them; both lists have this length.
        let created = unsafe {
            sys::nvrtcCreateProgram(
                &mut raw,
                bodies[0].as_ptr(),
                shown.as_ptr(),
                headers.len() as c_int,
                headers.as_ptr(),
                header_names.as_ptr(),
            )
        };
        check(created, "nvrtcCreateProgram")?;
        let raw = Raw(raw);
        let options: Vec<CString> = self.options(program).iter().map(|o| c(o)).collect::<Result<_>>()?;
        let options = pointers(&options);
        self.compiled.fetch_add(1, Relaxed);
        // SAFETY: the program is alive; the options end with 0 and outlive the call.
        let compiled = unsafe { sys::nvrtcCompileProgram(raw.0, options.len() as c_int, options.as_ptr()) };
        // SAFETY: the functions belong to each other, and the program is alive.
        let log = unsafe { raw.bytes(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog) }?;
        let log = String::from_utf8_lossy(log.strip_suffix(b"\0").unwrap_or(&log)).into_owned();
        if compiled != nvrtcResult::NVRTC_SUCCESS {
            return Err(failed(program, log.trim_end()));
        }
        // SAFETY: as for the log; the program compiled.
        let image = unsafe {
            if self.target.ptx {
                raw.bytes(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)
            } else {
                raw.bytes(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
            }
        }?;
        Ok(Compiled { image, log })
    }

    /// What NVRTC is told. cudarc's own options would turn fast math into `--fmad` alone; ours say all.
    fn options(&self, program: &Program) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={}", self.target.arch()),
            "--std=c++17".into(),
            "-lineinfo".into(),
        ];
        if !self.target.ptx {
            options.push("--ptxas-options=-v".into());
        }
        options.extend(program.constants().iter().map(|(name, value)| format!("-D{name}={value}")));
        options
    }

    /// The name of the program's entry: a digest of all that its image depends on.
    pub(super) fn key(&self, program: &Program) -> Result<String> {
        let mut digest = Sha256::new();
        let mut add = |text: &str| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        add(&format!("NVRTC {}.{}", self.version.0, self.version.1));
        add(&self.sources.shown(program.file));
        self.options(program).iter().for_each(|o| add(o));
        for (name, text) in self.sources.texts(program.file)? {
            add(&name);
            add(&text);
        }
        let digest: String = digest.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
        let stem = program.file.trim_end_matches(".cu");
        Ok(format!("{stem}-{}-{digest}", self.target.arch()))
    }
}

/// An `nvrtcProgram`, destroyed on drop.
struct Raw(sys::nvrtcProgram);

type GetSize = unsafe fn(sys::nvrtcProgram, *mut usize) -> nvrtcResult;
type GetBytes = unsafe fn(sys::nvrtcProgram, *mut c_char) -> nvrtcResult;

impl Raw {
    /// # Safety
    /// `size` tells how many bytes `get` writes, and the program is in the state that they ask for.
    unsafe fn bytes(&self, size: GetSize, get: GetBytes) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: as the caller promises; `bytes` has the length that `get` writes.
        unsafe {
            check(size(self.0, &mut len), "the size of NVRTC's result")?;
            let mut bytes = vec![0u8; len];
            check(get(self.0, bytes.as_mut_ptr().cast()), "NVRTC's result")?;
            Ok(bytes)
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: the program was created and is destroyed once.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

fn check(result: nvrtcResult, what: &str) -> Result<()> {
    if result == nvrtcResult::NVRTC_SUCCESS {
        return Ok(());
    }
    // SAFETY: NVRTC returns a string of its own that lives as long as it.
    let text = unsafe { CStr::from_ptr(sys::nvrtcGetErrorString(result)) };
    Err(Error::Device { device: "nvrtc".into(), what: format!("{what}: {}", text.to_string_lossy()) })
}

fn failed(program: &Program, log: &str) -> Error {
    Error::Compile { kernel: program.to_string(), log: log.to_string() }
}

/// `LATHE_CACHE/kernels`, else `lathe/kernels` in this user's cache folder.
pub fn cache_folder() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let user =
        || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache"))).map(|d| d.join("lathe"));
    var("LATHE_CACHE").or_else(user).map(|folder| folder.join("kernels"))
}

/// An entry's image, unless it is missing or damaged.
fn read_entry(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let (digest, image) = bytes.split_at_checked(32)?;
    (Sha256::digest(image).as_slice() == digest).then(|| image.to_vec())
}

/// Writes an entry, its digest first, so that no reader sees half of it.
fn write_entry(path: &Path, image: &[u8]) -> std::io::Result<()> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let folder = path.parent().expect("an entry lies in the cache folder");
    fs::create_dir_all(folder)?;
    let name = format!(".new-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
    let temp = folder.join(name);
    let bytes = [Sha256::digest(image).as_slice(), image].concat();
    fs::write(&temp, bytes).and_then(|()| fs::rename(&temp, path)).inspect_err(|_| {
        // Best effort: the write's own error is the one to tell.
        let _ = fs::remove_file(&temp);
    })
}
