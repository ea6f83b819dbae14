//! Programs on the device: compiled when a rehearsal or a launch first asks for them, launched, reloaded.

use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    marker::PhantomData,
    path::Path,
    ptr,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*},
    },
    time::SystemTime,
};

use cudarc::driver::{result, sys};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Compiler, Cuda, Program, fail};
use crate::error::{Error, Result};

/// Which function to run, on how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// Its file and constants.
    pub program: Program,
    /// Its name: `extern "C" __global__`.
    pub function: &'static str,
    /// Blocks; nothing is launched if one extent is 0. When captured into a graph it must serve every batch of the
    /// same padded size: it may depend on the number of sequences and on maxima, never on a sequence's length.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub block: usize,
    /// Bytes of dynamic shared memory; above 48 KiB the function is opted in.
    pub shared: usize,
}

/// A kernel's argument, of the parameter's type.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A device address, or a 64-bit integer.
    U64(u64),
    /// `u32`, `int` (by its bits).
    U32(u32),
    /// `float`.
    F32(f32),
    /// A struct by value.
    Struct(*const c_void, PhantomData<&'a ()>),
}

impl From<u64> for Arg<'_> {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<f32> for Arg<'_> {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

/// A `#[repr(C)]` struct with the fields of the kernel's.
impl<'a, T: Copy> From<&'a T> for Arg<'a> {
    fn from(value: &'a T) -> Self {
        Self::Struct(ptr::from_ref(value).cast(), PhantomData)
    }
}

/// The value as an argument.
pub fn arg<'a>(value: impl Into<Arg<'a>>) -> Arg<'a> {
    value.into()
}

impl Arg<'_> {
    /// Where the driver finds the value.
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::U64(v) => ptr::from_ref(v).cast_mut().cast(),
            Self::U32(v) => ptr::from_ref(v).cast_mut().cast(),
            Self::F32(v) => ptr::from_ref(v).cast_mut().cast(),
            Self::Struct(at, _) => at.cast_mut(),
        }
    }
}

/// Most parameters of a kernel.
const MOST_ARGS: usize = 24;

/// What is loaded.
#[derive(Debug)]
pub(super) struct Modules {
    loaded: RwLock<HashMap<Program, Module>>,
    /// While on, launches only note their programs here.
    rehearsing: AtomicBool,
    wanted: Mutex<Vec<Program>>,
    /// When the newest file of the watched folder was saved, as of the last look.
    saved: Mutex<Option<SystemTime>>,
}

#[derive(Debug)]
struct Module {
    raw: sys::CUmodule,
    /// Of the source that it was made from: [`Compiler::key`].
    key: String,
    functions: RwLock<HashMap<&'static str, Function>>,
}

// SAFETY: a module's and a function's handles may be used from any thread (CUDA driver API, "Module management").
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

#[derive(Debug)]
struct Function {
    raw: sys::CUfunction,
    /// Bytes of dynamic shared memory that it may have.
    shared: AtomicU32,
}

impl Modules {
    /// Nothing; what is saved in `folder` from now on is noticed.
    pub(super) fn new(folder: Option<&Path>) -> Self {
        Self {
            loaded: RwLock::default(),
            rehearsing: AtomicBool::new(false),
            wanted: Mutex::default(),
            saved: Mutex::new(newest(folder)),
        }
    }
}

impl Cuda {
    /// Enqueues a kernel. In a rehearsal it only notes the program, to be compiled at its end.
    ///
    /// # Errors
    /// [`Error::Device`] when the program does not compile or load, has no such function, or the driver refuses the
    /// launch.
    ///
    /// # Safety
    /// `args` have the types of the function's parameters, in their order, and what they point to covers what the
    /// kernel touches, until the queue has run it.
    pub unsafe fn launch(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.enqueue(launch, args, false) }
    }

    /// As [`Self::launch`], but on a Hopper GPU the kernel's blocks may start while the last ones of the kernel before
    /// still run: its set-up then costs no time (programmatic dependent launch).
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there; and before it touches memory that another kernel writes or reads, the kernel calls
    /// `wait_for_previous` of `cuda/common.cuh`.
    pub unsafe fn launch_early(&self, launch: &Launch, args: &[Arg<'_>]) -> Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.enqueue(launch, args, self.target().is_hopper()) }
    }

    /// # Safety
    /// As [`Self::launch_early`] if `early`, else as [`Self::launch`].
    unsafe fn enqueue(&self, launch: &Launch, args: &[Arg<'_>], early: bool) -> Result<()> {
        let modules = &self.0.modules;
        if modules.rehearsing.load(Relaxed) {
            let mut wanted = modules.wanted.lock().expect("no panic holds it");
            if !wanted.contains(&launch.program) {
                wanted.push(launch.program);
            }
            return Ok(());
        }
        let Launch { program, function, grid, block, shared } = *launch;
        if grid.contains(&0) {
            return Ok(());
        }
        self.bind()?;
        let mut params = [ptr::null_mut(); MOST_ARGS];
        params[..args.len()].iter_mut().zip(args).for_each(|(p, a)| *p = a.pointer());
        let extent = |n: usize| {
            u32::try_from(n).map_err(|_| Error::Argument {
                op: function,
                what: "an extent of the grid",
                got: n.to_string(),
                want: "at most 2^32 - 1".into(),
            })
        };
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: extent(grid[0])?,
            gridDimY: extent(grid[1])?,
            gridDimZ: extent(grid[2])?,
            blockDimX: extent(block)?,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: extent(shared)?,
            hStream: self.0.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: early.into(),
        };
        let raw = self.function(&program, function, config.sharedMemBytes)?;
        // SAFETY: the function is loaded in this context; the attribute outlives the call; the caller answers for the
        // arguments.
        unsafe { sys::cuLaunchKernelEx(&raw const config, raw, params.as_mut_ptr(), ptr::null_mut()) }
            .result()
            .map_err(fail(function))
    }

    fn function(&self, program: &Program, name: &'static str, shared: u32) -> Result<sys::CUfunction> {
        loop {
            if let Some(module) = self.0.modules.loaded.read().expect("no panic holds it").get(program) {
                return module.function(program, name, shared);
            }
            self.load(*program)?;
        }
    }

    /// Compiles, or finds on disk, and loads.
    fn load(&self, program: Program) -> Result<()> {
        let key = self.0.compiler.key(&program)?;
        let module = self.module(&program, key, &self.0.compiler.image(&program)?)?;
        self.0.modules.loaded.write().expect("no panic holds it").insert(program, module);
        Ok(())
    }

    fn module(&self, program: &Program, key: String, image: &[u8]) -> Result<Module> {
        self.bind()?;
        let mut raw = ptr::null_mut();
        let mut log = vec![0u8; 16 << 10];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())];
        // SAFETY: the image is PTX that ends with 0, or a whole cubin; the options' values have the types that the
        // driver asks for (a buffer, and its size in place of a pointer); all outlive the call.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut raw,
                image.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        loaded.result().map_err(|e| {
            let text = log.split(|&b| b == 0).next().unwrap_or_default();
            fail(&format!("{program} does not load:\n{}\n", String::from_utf8_lossy(text).trim_end()))(e)
        })?;
        Ok(Module { raw, key, functions: RwLock::default() })
    }

    pub(super) fn set_rehearsing(&self, on: bool) -> Result<()> {
        self.0.modules.rehearsing.store(on, Relaxed);
        if on {
            return Ok(());
        }
        let mut wanted = std::mem::take(&mut *self.0.modules.wanted.lock().expect("no panic holds it"));
        wanted.retain(|p| !self.0.modules.loaded.read().expect("no panic holds it").contains_key(p));
        let modules = self.modules(&wanted)?;
        self.0.modules.loaded.write().expect("no panic holds it").extend(modules);
        Ok(())
    }

    /// Compiles, or finds on disk, and loads all of them; none if one fails.
    fn modules(&self, programs: &[Program]) -> Result<Vec<(Program, Module)>> {
        let keys =
            programs.iter().map(|p| Ok((*p, self.0.compiler.key(p)?))).collect::<Result<HashMap<_, _>>>()?;
        let load = |(program, image): (Program, Result<Vec<u8>>)| {
            Ok((program, self.module(&program, keys[&program].clone(), &image?)?))
        };
        images(&self.0.compiler, programs).into_iter().map(load).collect()
    }

    /// Programs loaded so far.
    pub fn programs(&self) -> Vec<Program> {
        self.0.modules.loaded.read().expect("no panic holds it").keys().copied().collect()
    }

    /// If a file of the watched folder was saved since the last look, compiles the loaded programs whose text has changed
    /// and swaps them in. Returns their files.
    ///
    /// # Errors
    /// What the compiler says; then every old kernel stays, and nothing is tried again before the next save.
    pub(super) fn reload_saved(&self) -> Result<Vec<&'static str>> {
        let Some(newest) = newest(self.0.compiler.sources.folder()) else { return Ok(Vec::new()) };
        let before = self.0.modules.saved.lock().expect("no panic holds it").replace(newest);
        if before.is_some_and(|before| before >= newest) {
            return Ok(Vec::new());
        }
        let mut changed = Vec::new();
        for (program, module) in self.0.modules.loaded.read().expect("no panic holds it").iter() {
            if self.0.compiler.key(program)? != module.key {
                changed.push(*program);
            }
        }
        let modules = self.modules(&changed)?;
        // No launch uses an old module any more when it is dropped.
        self.sync()?;
        self.0.modules.loaded.write().expect("no panic holds it").extend(modules);
        let mut files: Vec<_> = changed.iter().map(Program::file).collect();
        files.sort_unstable();
        files.dedup();
        Ok(files)
    }
}

impl Module {
    fn function(&self, program: &Program, name: &'static str, shared: u32) -> Result<sys::CUfunction> {
        /// What every function may have without asking.
        const DEFAULT_SHARED: u32 = 48 << 10;
        if let Some(function) = self.functions.read().expect("no panic holds it").get(name)
            && function.shared.load(Relaxed) >= shared
        {
            return Ok(function.raw);
        }
        let mut functions = self.functions.write().expect("no panic holds it");
        if !functions.contains_key(name) {
            let c_name = CString::new(name).expect("a function's name has no zero byte");
            // SAFETY: the module is loaded and never unloaded while this handle is in use.
            let raw = unsafe { result::module::get_function(self.raw, c_name) }
                .map_err(fail(&format!("{program} has no function {name}")))?;
            functions.insert(name, Function { raw, shared: AtomicU32::new(DEFAULT_SHARED) });
        }
        let function = &functions[name];
        if shared > function.shared.load(Relaxed) {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            unsafe { result::function::set_function_attribute(function.raw, attribute, shared as i32) }
                .map_err(fail(&format!("{name}: {shared} bytes of shared memory")))?;
            function.shared.store(shared, Relaxed);
        }
        Ok(function.raw)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // A module that cannot be unloaded (its context is gone) holds nothing any more.
        // SAFETY: the handle is this one's alone, and launches that used it have finished: see `reload_saved`.
        let _ = unsafe { result::module::unload(self.raw) };
    }
}

/// The programs' images, on all cores, with a progress line if any must be compiled.
fn images(compiler: &Compiler, programs: &[Program]) -> Vec<(Program, Result<Vec<u8>>)> {
    let bar = ProgressBar::new(programs.len() as u64)
        .with_style(
            ProgressStyle::with_template("{msg} {pos}/{len} {wide_bar} {elapsed}").expect("a template"),
        )
        .with_message("compiling kernels");
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(programs.len())));
    let threads = std::thread::available_parallelism().map_or(1, Into::into).min(programs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&program) = programs.get(next.fetch_add(1, Relaxed)) {
                    let image = compiler.image(&program);
                    done.lock().expect("no panic holds it").push((program, image));
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    done.into_inner().expect("no panic holds it")
}

/// When the newest file of the folder was saved.
fn newest(folder: Option<&Path>) -> Option<SystemTime> {
    let entries = folder?.read_dir().ok()?.flatten();
    entries.filter_map(|entry| entry.metadata().ok()?.modified().ok()).max()
}
