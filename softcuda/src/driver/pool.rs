//! Memory pools and stream-ordered allocation: `cuMemPool*`, `cuMemAllocAsync`, `cuMemFreeAsync`.
//!
//! A pool only counts: memory goes back at once when its free is reached, and no address is given out twice.

use std::ffi::c_void;

use super::{
    Driver, call,
    error::{self, CUresult, Result, not_built},
    ffi::{In, Out},
    in_context,
    work::{Alloc, Work},
};

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// The device's number.
    pub device: u32,
    attributes: [u64; 9],
}

impl Pool {
    /// A pool of a device.
    pub fn new(device: u32) -> Self {
        // Reuse policies (1 to 3) are on, the release threshold (4) is 0.
        Self { device, attributes: [0, 1, 1, 1, 0, 0, 0, 0, 0] }
    }
}

/// `CUmemPoolProps`, with integers for its enumerations.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PoolProps {
    alloc_type: u32,
    handle_types: u32,
    location_type: u32,
    location: i32,
    security: usize,
    reserved: [u8; 64],
}

impl PoolProps {
    /// The device, of pinned memory that is not shared with other processes.
    pub fn check(&self, driver: &mut Driver) -> Result<u32> {
        if self.alloc_type != 1 || self.location_type != 1 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if self.handle_types != 0 {
            return Err(not_built("a memory pool that other processes share"));
        }
        driver.device(self.location)?;
        Ok(self.location as u32)
    }
}

/// `CUmemAccessDesc`, with integers for its enumerations.
#[repr(C)]
#[derive(Clone, Copy)]
struct AccessDesc {
    location_type: u32,
    location: i32,
    flags: u32,
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolCreate(pool: Out<usize>, props: In<PoolProps>) -> CUresult {
    call(|driver| {
        let device = props.get()?.check(driver)?;
        let handle = driver.handle();
        driver.pools.0.insert(handle, Pool::new(device));
        pool.put(handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolDestroy(pool: usize) -> CUresult {
    call(|driver| {
        if driver.devices.iter().any(|d| d.default_pool == pool) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        driver.pools.remove(pool)?;
        for device in driver.devices.iter_mut().filter(|d| d.pool == pool) {
            device.pool = device.default_pool;
        }
        Ok(())
    })
}

/// The first three attributes are `int`, the others `cuuint64_t`.
fn is_int(attribute: u32) -> Result<bool> {
    match attribute {
        1..=3 => Ok(true),
        4..=8 => Ok(false),
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolGetAttribute(pool: usize, attribute: u32, value: *mut c_void) -> CUresult {
    call(|driver| {
        let stored = driver.pools.get(pool)?.attributes.get(attribute as usize).copied().unwrap_or(0);
        // SAFETY: the client passes an `int` or a `cuuint64_t` as the attribute wants.
        unsafe {
            match is_int(attribute)? {
                true => Out::<i32>::from_address(value as usize).put(stored as i32),
                false => Out::<u64>::from_address(value as usize).put(stored),
            }
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(pool: usize, attribute: u32, value: *mut c_void) -> CUresult {
    call(|driver| {
        // SAFETY: the client passes an `int` or a `cuuint64_t` as the attribute wants.
        let value = unsafe {
            match is_int(attribute)? {
                true => In::<i32>::from_address(value as usize).get()? as u64,
                false => In::<u64>::from_address(value as usize).get()?,
            }
        };
        driver.pools.get_mut(pool)?.attributes[attribute as usize] = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: usize, _keep: usize) -> CUresult {
    call(|driver| driver.pools.get(pool).map(|_| ()))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAccess(pool: usize, descs: In<AccessDesc>, count: usize) -> CUresult {
    call(|driver| {
        driver.pools.get(pool)?;
        for desc in descs.list(count)? {
            driver.device(desc.location)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolGetAccess(flags: Out<u32>, pool: usize, _location: In<u64>) -> CUresult {
    call(|driver| {
        driver.pools.get(pool)?;
        // Read and write.
        flags.put(3)
    })
}

/// Memory that a graph allocates. Its address is fixed when the node is made.
#[derive(Debug)]
pub struct GraphMemory {
    /// Bytes.
    pub bytes: u64,
    /// Whether the launches and frees that were enqueued so far leave it allocated.
    pub allocated: bool,
}

impl Driver {
    /// Allocates from a pool, in the order of a stream; in a capture, each time that the graph runs.
    fn alloc_async(&mut self, context: usize, bytes: usize, pool: usize, stream: usize) -> Result<u64> {
        let stream = self.stream(context, stream)?;
        let device = self.pools.get(pool)?.device;
        let new = match self.streams.get(stream)?.capture {
            Some(_) => self.reserve_for_graph(device, bytes)?,
            None => {
                let address = self.alloc_device(context, device, bytes)?;
                Alloc { device, address, bytes: bytes as u64 }
            }
        };
        self.submit(stream, Work::Alloc(new))?;
        Ok(new.address)
    }

    /// An allocation for a node of a graph.
    pub fn reserve_for_graph(&mut self, device: u32, bytes: usize) -> Result<Alloc> {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let bytes = bytes as u64;
        let address = self.memory.reserve(bytes).map_err(error::of_memory)?;
        self.graph_memory.insert(address, GraphMemory { bytes, allocated: false });
        Ok(Alloc { device, address, bytes })
    }

    /// Takes note of what enqueued work does to the memory of graphs.
    pub fn follow_graph_memory(&mut self, work: &Work) {
        let (address, allocated) = match *work {
            Work::Alloc(new) => (new.address, true),
            Work::Free(address) => (address, false),
            _ => return,
        };
        if let Some(memory) = self.graph_memory.get_mut(&address) {
            memory.allocated = allocated;
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: usize) -> CUresult {
    in_context(|driver, context| {
        let device = driver.contexts.get(context)?.device;
        let pool = driver.device(device as i32)?.pool;
        address.check()?;
        let new = driver.alloc_async(context, bytes, pool, stream)?;
        address.put(new)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocFromPoolAsync(
    address: Out<u64>,
    bytes: usize,
    pool: usize,
    stream: usize,
) -> CUresult {
    in_context(|driver, context| {
        address.check()?;
        let new = driver.alloc_async(context, bytes, pool, stream)?;
        address.put(new)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: u64, stream: usize) -> CUresult {
    in_context(|driver, context| {
        let stream = driver.stream(context, stream)?;
        if address == 0 {
            return Ok(());
        }
        let capturing = driver.streams.get(stream)?.capture.is_some();
        let known = match driver.graph_memory.get(&address) {
            // A capture makes a node, which may run more than once.
            Some(memory) => capturing || memory.allocated,
            None => !capturing && driver.memory.find(address).is_some_and(|a| a.base == address),
        };
        if !known {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let work = Work::Free(address);
        if !capturing {
            driver.follow_graph_memory(&work);
        }
        driver.submit(stream, work)
    })
}
