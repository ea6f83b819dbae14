//! Modules, functions, libraries: `cuModule*`, `cuFunc*`, `cuLibrary*`, `cuKernel*`.
//!
//! A library is a module of the current context, and a kernel of one is a function: the handles are the same.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char},
    fs,
    sync::Arc,
};

use super::{
    Driver, call,
    error::{CUresult, Result, not_built, say_once},
    ffi::{In, Out, Text},
    in_context,
};
use crate::{
    device::{MAX_THREADS, REGISTERS, SHARED_DEFAULT},
    module::{KernelInfo, Module},
};

/// A module that the client loaded.
#[derive(Debug)]
pub struct LoadedModule {
    /// Its context.
    pub context: usize,
    /// The code, which launches share.
    pub module: Arc<Module>,
    functions: BTreeMap<String, usize>,
}

/// A kernel that the client asked for.
#[derive(Debug)]
pub struct Function {
    /// Its context.
    pub context: usize,
    /// The handle of its module.
    pub module: usize,
    /// What the loader knows.
    pub info: KernelInfo,
    /// Bytes of dynamic shared memory that a launch may ask for.
    pub max_dynamic_shared: u32,
    carveout: i32,
    name: CString,
}

impl Function {
    /// Threads that a block may have.
    pub fn max_threads(&self) -> u32 {
        let required = self.info.required_block.map(|b| b.iter().product());
        required.or(self.info.max_threads).unwrap_or(MAX_THREADS).min(MAX_THREADS)
    }

    /// Registers of a thread: modelled, and no more than the launch bounds leave, as `ptxas` sees to.
    pub fn registers(&self) -> u32 {
        let bound = self.info.max_threads.or(self.info.required_block.map(|b| b.iter().product()));
        let most = bound.map_or(255, |threads| (REGISTERS / threads.max(1).next_multiple_of(32)) & !7);
        self.info.registers.clamp(16, most.clamp(16, 255))
    }
}

/// Options of the just-in-time compiler that mean something here.
#[derive(Default)]
struct JitOptions {
    info: Option<Log>,
    error: Option<Log>,
}

/// A buffer for a log.
struct Log {
    text: Out<c_char>,
    room: usize,
    /// Where the client reads how much was written.
    written: Out<usize>,
}

impl Log {
    fn write(&self, text: &str) -> Result<()> {
        if self.text.is_null() || self.room == 0 {
            return Ok(());
        }
        self.text.put_text(text, self.room)?;
        // As on a device: text and terminating zero, in place of the size.
        self.written.put((text.len() + 1).min(self.room))
    }
}

impl JitOptions {
    fn read(count: u32, names: In<u32>, values: In<usize>) -> Result<Self> {
        let names = names.list(count as usize)?;
        let all = values.list(count as usize)?;
        let log = |text: u32, size: u32| {
            let at = |option| names.iter().position(|&name| name == option);
            let (text, size) = (at(text)?, at(size)?);
            // SAFETY: the option's value is a buffer of the size that the other option gives, and the array of
            // values is written to, as documented.
            unsafe {
                let written = values.address() + size * size_of::<usize>();
                let (text, written) = (Out::from_address(all[text]), Out::from_address(written));
                Some(Log { text, room: all[size] as u32 as usize, written })
            }
        };
        Ok(Self { info: log(3, 4), error: log(5, 6) })
    }
}

/// What the bytes of a module are.
enum Image {
    Ptx(String),
    /// Something that is no PTX, by name.
    Binary(&'static str),
}

impl Image {
    fn of_bytes(bytes: &[u8]) -> Self {
        const FATBIN_WRAPPER: [u8; 4] = 0x466243b1u32.to_le_bytes();
        const FATBIN: [u8; 4] = 0xba55ed50u32.to_le_bytes();
        match bytes {
            [0x7f, b'E', b'L', b'F', ..] => Self::Binary("a cubin"),
            _ if bytes.starts_with(&FATBIN_WRAPPER) || bytes.starts_with(&FATBIN) => {
                Self::Binary("a fat binary")
            }
            _ => Self::Ptx(String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    /// From a client's pointer: PTX ends with a zero byte, binaries are told by how they begin.
    fn of_pointer(image: usize) -> Result<Self> {
        if image == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the client passes PTX that ends with a zero byte, or a binary, which has none in its first four
        // bytes and at least one in its header.
        let text = unsafe { CStr::from_ptr(image as *const c_char) };
        Ok(Self::of_bytes(text.to_bytes()))
    }
}

impl Driver {
    fn load(&mut self, context: usize, image: Image, options: &JitOptions) -> Result<usize> {
        self.not_while_capturing()?;
        let failed = |code: CUresult, message: String| {
            match &options.error {
                Some(log) => log.write(&message)?,
                None => eprintln!("softcuda: {message}"),
            }
            Err(code)
        };
        let ptx = match image {
            Image::Ptx(ptx) => ptx,
            Image::Binary(what) => {
                let message = format!(
                    "{what} cannot run in software: compile to PTX (NVRTC: --gpu-architecture=compute_{})",
                    self.config.arch.number()
                );
                return failed(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, message);
            }
        };
        let device = self.contexts.get(context)?.device;
        match Module::load(&mut self.memory, device, &ptx, self.config.arch.number()) {
            Ok(module) => {
                if let Some(log) = &options.info {
                    log.write("")?;
                }
                let handle = self.handle();
                let module = LoadedModule { context, module: Arc::new(module), functions: BTreeMap::new() };
                self.modules.0.insert(handle, module);
                Ok(handle)
            }
            Err(error) => {
                let code = match error.unsupported {
                    true => CUresult::CUDA_ERROR_NOT_SUPPORTED,
                    false => CUresult::CUDA_ERROR_INVALID_PTX,
                };
                failed(code, error.to_string())
            }
        }
    }

    /// Forgets a module. Graphs that still launch from it keep its variables.
    pub fn unload(&mut self, module: usize) -> Result<()> {
        let gone = self.modules.remove(module)?;
        self.functions.0.retain(|_, f| f.module != module);
        if let Ok(module) = Arc::try_unwrap(gone.module) {
            module.unload(&mut self.memory);
        }
        Ok(())
    }

    /// A kernel of a module; the same handle each time.
    fn function(&mut self, module: usize, name: &str) -> Result<usize> {
        if let Some(&function) = self.modules.get(module)?.functions.get(name) {
            return Ok(function);
        }
        let handle = self.handle();
        let loaded = self.modules.get_mut(module)?;
        let info = loaded.module.kernel(name).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?.clone();
        loaded.functions.insert(name.to_string(), handle);
        let function = Function {
            context: loaded.context,
            module,
            max_dynamic_shared: SHARED_DEFAULT.saturating_sub(info.static_shared),
            carveout: -1,
            name: CString::new(name).unwrap_or_default(),
            info,
        };
        self.functions.0.insert(handle, function);
        Ok(handle)
    }

    fn global(&self, module: usize, name: &str) -> Result<(u64, u64)> {
        self.modules.get(module)?.module.global(name).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoad(module: Out<usize>, path: Text) -> CUresult {
    in_context(|driver, context| {
        module.check()?;
        let bytes = fs::read(path.get()?).map_err(|_| CUresult::CUDA_ERROR_FILE_NOT_FOUND)?;
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        module.put(driver.load(context, Image::of_bytes(text), &JitOptions::default())?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: Out<usize>, image: usize) -> CUresult {
    in_context(|driver, context| {
        module.check()?;
        module.put(driver.load(context, Image::of_pointer(image)?, &JitOptions::default())?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    module: Out<usize>,
    image: usize,
    count: u32,
    names: In<u32>,
    values: In<usize>,
) -> CUresult {
    in_context(|driver, context| {
        module.check()?;
        let options = JitOptions::read(count, names, values)?;
        module.put(driver.load(context, Image::of_pointer(image)?, &options)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadFatBinary(module: Out<usize>, image: usize) -> CUresult {
    cuModuleLoadData(module, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> CUresult {
    in_context(|driver, context| {
        driver.modules.get(module)?;
        driver.finish(context)?;
        driver.unload(module)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetLoadingMode(mode: Out<u32>) -> CUresult {
    // Eager: a fault in the PTX shows at load.
    call(|_| mode.put(1))
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(function: Out<usize>, module: usize, name: Text) -> CUresult {
    in_context(|driver, _| {
        function.check()?;
        function.put(driver.function(module, &name.get()?)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunctionCount(count: Out<u32>, module: usize) -> CUresult {
    in_context(|driver, _| count.put(driver.modules.get(module)?.module.kernels().count() as u32))
}

fn enumerate(functions: Out<usize>, room: u32, module: usize) -> CUresult {
    in_context(|driver, _| {
        let names: Vec<String> =
            driver.modules.get(module)?.module.kernels().map(|k| k.name.clone()).collect();
        let names = names.iter().take(room as usize);
        let handles: Result<Vec<usize>> = names.map(|name| driver.function(module, name)).collect();
        functions.put_all(handles?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleEnumerateFunctions(functions: Out<usize>, room: u32, module: usize) -> CUresult {
    enumerate(functions, room, module)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetGlobal_v2(
    address: Out<u64>,
    bytes: Out<usize>,
    module: usize,
    name: Text,
) -> CUresult {
    in_context(|driver, _| {
        let (at, size) = driver.global(module, &name.get()?)?;
        address.put_if_wanted(at);
        bytes.put_if_wanted(size as usize);
        Ok(())
    })
}

/// The value of a `CUfunction_attribute`.
fn attribute(driver: &Driver, which: u32, function: usize) -> Result<i32> {
    let arch = driver.config.arch.number() as i32;
    let f = driver.functions.get(function)?;
    Ok(match which {
        0 => f.max_threads() as i32,
        1 => f.info.static_shared as i32,
        2 => f.info.const_bytes as i32,
        3 => f.info.local_bytes as i32,
        4 => f.registers() as i32,
        5 | 6 => arch,
        8 => f.max_dynamic_shared as i32,
        9 => f.carveout,
        7 | 10..=15 => 0,
        _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    })
}

fn set_attribute(driver: &mut Driver, which: u32, value: i32, function: usize) -> Result<()> {
    let optin = driver.config.arch.shared_optin();
    let f = driver.functions.get_mut(function)?;
    match (which, u32::try_from(value)) {
        (8, Ok(bytes)) if bytes <= optin.saturating_sub(f.info.static_shared) => f.max_dynamic_shared = bytes,
        (9, _) if (-1..=100).contains(&value) => f.carveout = value,
        _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: Out<i32>, which: u32, function: usize) -> CUresult {
    in_context(|driver, _| value.put(attribute(driver, which, function)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(function: usize, which: u32, value: i32) -> CUresult {
    in_context(|driver, _| set_attribute(driver, which, value, function))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetCacheConfig(function: usize, _config: u32) -> CUresult {
    in_context(|driver, _| driver.functions.get(function).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetSharedMemConfig(function: usize, _config: u32) -> CUresult {
    in_context(|driver, _| driver.functions.get(function).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetModule(module: Out<usize>, function: usize) -> CUresult {
    in_context(|driver, _| module.put(driver.functions.get(function)?.module))
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetName(name: Out<usize>, function: usize) -> CUresult {
    in_context(|driver, _| name.put(driver.functions.get(function)?.name.as_ptr() as usize))
}

fn param_info(function: usize, index: usize, offset: Out<usize>, size: Out<usize>) -> CUresult {
    in_context(|driver, _| {
        let param = driver.functions.get(function)?.info.params.get(index).copied();
        let param = param.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        offset.put(param.offset as usize)?;
        size.put_if_wanted(param.size as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetParamInfo(
    function: usize,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> CUresult {
    param_info(function, index, offset, size)
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncIsLoaded(state: Out<u32>, function: usize) -> CUresult {
    in_context(|driver, _| {
        driver.functions.get(function)?;
        state.put(1)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncLoad(function: usize) -> CUresult {
    in_context(|driver, _| driver.functions.get(function).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryLoadData(
    library: Out<usize>,
    code: usize,
    names: In<u32>,
    values: In<usize>,
    count: u32,
    _library_names: In<u32>,
    _library_values: In<usize>,
    _library_count: u32,
) -> CUresult {
    say_once("a library is loaded into the current context only");
    cuModuleLoadDataEx(library, code, count, names, values)
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryUnload(library: usize) -> CUresult {
    cuModuleUnload(library)
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetModule(module: Out<usize>, library: usize) -> CUresult {
    in_context(|driver, _| {
        driver.modules.get(library)?;
        module.put(library)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetKernel(kernel: Out<usize>, library: usize, name: Text) -> CUresult {
    cuModuleGetFunction(kernel, library, name)
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetKernelCount(count: Out<u32>, library: usize) -> CUresult {
    cuModuleGetFunctionCount(count, library)
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryEnumerateKernels(kernels: Out<usize>, room: u32, library: usize) -> CUresult {
    enumerate(kernels, room, library)
}

#[unsafe(no_mangle)]
extern "C" fn cuLibraryGetGlobal(
    address: Out<u64>,
    bytes: Out<usize>,
    library: usize,
    name: Text,
) -> CUresult {
    cuModuleGetGlobal_v2(address, bytes, library, name)
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetFunction(function: Out<usize>, kernel: usize) -> CUresult {
    in_context(|driver, _| {
        driver.functions.get(kernel)?;
        function.put(kernel)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetLibrary(library: Out<usize>, kernel: usize) -> CUresult {
    cuFuncGetModule(library, kernel)
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetName(name: Out<usize>, kernel: usize) -> CUresult {
    cuFuncGetName(name, kernel)
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetParamInfo(
    kernel: usize,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> CUresult {
    param_info(kernel, index, offset, size)
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelGetAttribute(value: Out<i32>, which: u32, kernel: usize, _device: i32) -> CUresult {
    cuFuncGetAttribute(value, which, kernel)
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelSetAttribute(which: u32, value: i32, kernel: usize, _device: i32) -> CUresult {
    cuFuncSetAttribute(kernel, which, value)
}

#[unsafe(no_mangle)]
extern "C" fn cuKernelSetCacheConfig(kernel: usize, config: u32, _device: i32) -> CUresult {
    cuFuncSetCacheConfig(kernel, config)
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkCreate_v2() -> CUresult {
    not_built("linking (cuLinkCreate)")
}
