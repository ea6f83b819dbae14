//! Launches: `cuLaunchKernel*`, their limits, and occupancy.

use super::{
    Driver,
    error::{CUresult, Result, not_built},
    ffi::{In, Out},
    in_context,
    module::Function,
    work::{Launch, Work},
};
use crate::{
    device::{MAX_BLOCK, MAX_GRID, MAX_THREADS},
    exec::LaunchConfig,
};

/// A kernel's arguments as C passes them: an array of pointers, or a list of named values.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    /// `void **`: one pointer a parameter.
    pub pointers: usize,
    /// `void **`: pairs of `CU_LAUNCH_PARAM_*` and value, up to an end.
    pub extra: usize,
}

impl Arguments {
    /// The parameter block.
    fn read(self, function: &Function) -> Result<Vec<u8>> {
        let info = &function.info;
        let mut block = vec![0; info.param_bytes as usize];
        if self.extra != 0 {
            let bytes = self.buffer()?;
            let n = bytes.len().min(block.len());
            block[..n].copy_from_slice(&bytes[..n]);
            return Ok(block);
        }
        // SAFETY: the client passes an array with a pointer for each parameter.
        let pointers = unsafe { In::<usize>::from_address(self.pointers) }.list(info.params.len())?;
        for (param, pointer) in info.params.iter().zip(pointers) {
            // SAFETY: the client passes a pointer to a value of the parameter's type.
            let value = unsafe { In::<u8>::from_address(pointer) }.list(param.size as usize)?;
            block[param.offset as usize..][..value.len()].copy_from_slice(&value);
        }
        Ok(block)
    }

    /// The parameter block that `extra` names.
    fn buffer(self) -> Result<Vec<u8>> {
        let (mut pointer, mut size) = (0, None);
        for pair in 0.. {
            let at = self.extra + pair * 2 * size_of::<usize>();
            // SAFETY: the client passes pairs up to one that begins with `CU_LAUNCH_PARAM_END`.
            let name = unsafe { In::<usize>::from_address(at) }.get()?;
            // SAFETY: as above; the value is read only where the name is not the end.
            let value = |()| unsafe { In::<usize>::from_address(at + size_of::<usize>()) }.get();
            match name {
                0 => break,
                1 => pointer = value(())?,
                // SAFETY: the value of `CU_LAUNCH_PARAM_BUFFER_SIZE` is a pointer to the size.
                2 => size = Some(unsafe { In::<usize>::from_address(value(())?) }.get()?),
                _ => return Err(CUresult::CUDA_ERROR_INVALID_VALUE),
            }
        }
        // SAFETY: the client passes a buffer of the size it names.
        unsafe { In::<u8>::from_address(pointer) }.list(size.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?)
    }
}

impl Driver {
    /// A launch whose limits are checked and whose arguments are read.
    pub fn launch_of(
        &mut self,
        function: usize,
        config: LaunchConfig,
        arguments: Arguments,
    ) -> Result<Launch> {
        let found = self.functions.get(function)?;
        let LaunchConfig { grid, block, dynamic_shared } = config;
        let fits =
            |size: [u32; 3], max: [u32; 3]| size.iter().zip(max).all(|(&n, max)| (1..=max).contains(&n));
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        let broken = if !fits(grid, MAX_GRID) {
            Some(format!("grid {grid:?} is not within 1 and {MAX_GRID:?}"))
        } else if !fits(block, MAX_BLOCK) || threads > MAX_THREADS.into() {
            Some(format!("block {block:?} is not within 1 and {MAX_BLOCK:?}, {MAX_THREADS} threads in all"))
        } else if threads > found.max_threads().into() {
            Some(format!("block {block:?} has more threads than the launch bound {}", found.max_threads()))
        } else if found.info.required_block.is_some_and(|required| required != block) {
            Some(format!("block {block:?} is not the required {:?}", found.info.required_block))
        } else if dynamic_shared > found.max_dynamic_shared {
            Some(format!(
                "{dynamic_shared} bytes of dynamic shared memory, at most {} without opting in to more with \
                 CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
                found.max_dynamic_shared
            ))
        } else {
            None
        };
        if let Some(why) = broken {
            eprintln!("softcuda: {}: launch refused: {why}", found.info.name);
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let params = arguments.read(found)?.into();
        let module = self.modules.get(found.module)?.module.clone();
        Ok(Launch { module, function, name: found.info.name.clone(), config, params })
    }

    fn launch(
        &mut self,
        context: usize,
        function: usize,
        config: LaunchConfig,
        stream: usize,
        arguments: Arguments,
    ) -> Result<()> {
        let stream = self.stream(context, stream)?;
        let launch = self.launch_of(function, config, arguments)?;
        let own = self.functions.get(function)?.context;
        if self.streams.get(stream)?.context != own {
            return Err(CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
        self.submit(stream, Work::Kernel(launch))
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared: u32,
    stream: usize,
    pointers: usize,
    extra: usize,
) -> CUresult {
    in_context(|driver, context| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let config = LaunchConfig { grid, block, dynamic_shared };
        driver.launch(context, function, config, stream, Arguments { pointers, extra })
    })
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: In<Attribute>,
    count: u32,
}

/// `CUlaunchAttribute`, with an integer for its enumeration.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernelEx(
    config: In<Config>,
    function: usize,
    pointers: usize,
    extra: usize,
) -> CUresult {
    in_context(|driver, context| {
        let c = config.get()?;
        for attribute in c.attributes.list(c.count as usize)? {
            match (attribute.id, attribute.value) {
                (2, [0, ..]) => {}
                (2, _) => return Err(not_built("a cooperative launch")),
                (4, [0 | 1, 0 | 1, 0 | 1, ..]) => {}
                (4, _) => return Err(not_built("a launch with thread block clusters")),
                (6 | 7, _) => return Err(not_built("programmatic dependent launch")),
                // Hints: access policy, synchronisation, priority, memory domains.
                _ => {}
            }
        }
        let config = LaunchConfig { grid: c.grid, block: c.block, dynamic_shared: c.shared };
        driver.launch(context, function, config, c.stream, Arguments { pointers, extra })
    })
}

/// Blocks on a multiprocessor.
fn blocks_per_sm(driver: &Driver, function: usize, threads: i32, dynamic: usize) -> Result<u32> {
    let function = driver.functions.get(function)?;
    let threads = u32::try_from(threads).ok().filter(|&n| n > 0).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    let shared = u32::try_from(dynamic).ok().and_then(|bytes| bytes.checked_add(function.info.static_shared));
    let shared = shared.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    if threads > function.max_threads() {
        return Ok(0);
    }
    Ok(driver.config.arch.blocks_per_sm(threads, function.registers(), shared))
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: Out<i32>,
    function: usize,
    threads: i32,
    dynamic: usize,
) -> CUresult {
    in_context(|driver, _| blocks.put(blocks_per_sm(driver, function, threads, dynamic)? as i32))
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: Out<i32>,
    function: usize,
    threads: i32,
    dynamic: usize,
    _flags: u32,
) -> CUresult {
    in_context(|driver, _| blocks.put(blocks_per_sm(driver, function, threads, dynamic)? as i32))
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: usize,
    blocks: i32,
    threads: i32,
) -> CUresult {
    in_context(|driver, _| {
        let room = (driver.config.arch.shared_optin() as usize).next_multiple_of(128);
        let fits = |dynamic: usize| Ok(blocks_per_sm(driver, function, threads, dynamic)? as i32 >= blocks);
        let mut best = None;
        for dynamic in (0..=room).step_by(128) {
            match fits(dynamic)? {
                true => best = Some(dynamic),
                false => break,
            }
        }
        bytes.put(best.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?)
    })
}

type SharedOfThreads = Option<unsafe extern "C" fn(i32) -> usize>;

/// The block size with which most threads of a multiprocessor are busy; the larger of equals.
fn best_block(
    grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared: SharedOfThreads,
    dynamic: usize,
    limit: i32,
) -> CUresult {
    in_context(|driver, _| {
        let most = driver.functions.get(function)?.max_threads() as i32;
        let most = if limit > 0 { most.min(limit) } else { most };
        let mut best = (0, 0, 0);
        for threads in (1..=most).rev().filter(|n| *n == most || n % 32 == 0) {
            // SAFETY: the client passes a function of this type; it may not call the driver.
            let dynamic = shared.map_or(dynamic, |shared| unsafe { shared(threads) });
            let blocks = blocks_per_sm(driver, function, threads, dynamic)? as i32;
            if blocks * threads > best.0 {
                best = (blocks * threads, threads, blocks);
            }
        }
        grid.put(best.2 * driver.config.arch.sms() as i32)?;
        block.put(best.1)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared: SharedOfThreads,
    dynamic: usize,
    limit: i32,
) -> CUresult {
    best_block(grid, block, function, shared, dynamic, limit)
}

#[unsafe(no_mangle)]
extern "C" fn cuOccupancyMaxPotentialBlockSizeWithFlags(
    grid: Out<i32>,
    block: Out<i32>,
    function: usize,
    shared: SharedOfThreads,
    dynamic: usize,
    limit: i32,
    _flags: u32,
) -> CUresult {
    best_block(grid, block, function, shared, dynamic, limit)
}
