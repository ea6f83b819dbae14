//! Memory: allocation, pinned host memory, and what is known of an address.

use std::ffi::c_void;

use super::{
    Driver, call,
    error::{self, CUresult, Result, not_built},
    ffi::{In, Out},
    in_context,
    work::Work,
};
use crate::memory::{Allocation, Kind};

/// Who allocated, for the end of the context and for questions about pointers.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    context: usize,
    number: u64,
    flags: u32,
}

impl Driver {
    /// Allocates memory of a device for a context.
    pub fn alloc_device(&mut self, context: usize, device: u32, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let address = self.memory.alloc(device, bytes as u64).map_err(error::of_memory)?;
        Ok(self.own(context, address, 0))
    }

    /// Notes who allocated, so that the end of the context frees it.
    pub fn own(&mut self, context: usize, address: u64, flags: u32) -> u64 {
        let number = self.memory.find(address).map_or(0, |a| a.number);
        self.allocations.insert(address, Owner { context, number, flags });
        address
    }

    /// The addresses that a context allocated and that are still live.
    pub fn owned_by(&mut self, context: usize) -> Vec<u64> {
        let live = |address: u64, owner: &Owner| {
            self.memory.find(address).is_some_and(|a| a.base == address && a.number == owner.number)
        };
        self.allocations.retain(|&address, owner| live(address, owner));
        self.allocations.iter().filter(|(_, o)| o.context == context).map(|(&address, _)| address).collect()
    }

    /// The allocation that starts at a host address, if its kind is right.
    fn host_allocation(&self, address: usize, kind: Kind) -> Option<Allocation> {
        self.memory.find(address as u64).filter(|a| a.base == address as u64 && a.kind == kind)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> CUresult {
    in_context(|driver, context| {
        let device = driver.contexts.get(context)?.device;
        free.put(driver.memory.free_bytes(device) as usize)?;
        total.put(driver.memory.total_bytes(device) as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> CUresult {
    in_context(|driver, context| {
        driver.not_while_capturing()?;
        address.check()?;
        let device = driver.contexts.get(context)?.device;
        address.put(driver.alloc_device(context, device, bytes)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocPitch_v2(
    address: Out<u64>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
    element: u32,
) -> CUresult {
    in_context(|driver, context| {
        driver.not_while_capturing()?;
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        address.check()?;
        let row = width.checked_next_multiple_of(512);
        let bytes = row.and_then(|row| row.checked_mul(height)).ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        pitch.put(bytes / height)?;
        let device = driver.contexts.get(context)?.device;
        address.put(driver.alloc_device(context, device, bytes)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocManaged(_address: Out<u64>, _bytes: usize, _flags: u32) -> CUresult {
    not_built("managed memory (cuMemAllocManaged)")
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> CUresult {
    in_context(|driver, context| {
        driver.not_while_capturing()?;
        if address == 0 {
            return Ok(());
        }
        let whole = |a: &Allocation| a.base == address && matches!(a.kind, Kind::Device(_));
        let of_graph = driver.graph_memory.get(&address).is_some_and(|m| m.allocated);
        if !of_graph && !driver.memory.find(address).is_some_and(|a| whole(&a)) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // As on a device, work that may still use the memory ends first.
        driver.finish(context)?;
        driver.follow_graph_memory(&Work::Free(address));
        driver.memory.free(address).map_err(error::of_memory)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) -> CUresult {
    in_context(|driver, _| {
        let found = driver.memory.find(address).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?;
        base.put_if_wanted(found.base);
        bytes.put_if_wanted(found.size as usize);
        Ok(())
    })
}

fn alloc_host(pointer: Out<usize>, bytes: usize, flags: u32) -> CUresult {
    in_context(|driver, context| {
        driver.not_while_capturing()?;
        // Portable, mapped, write-combined.
        if bytes == 0 || flags & !7 != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        pointer.check()?;
        let address = driver.memory.alloc_pinned(bytes as u64).map_err(error::of_memory)?;
        pointer.put(driver.own(context, address, flags) as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(pointer: Out<usize>, bytes: usize) -> CUresult {
    alloc_host(pointer, bytes, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(pointer: Out<usize>, bytes: usize, flags: u32) -> CUresult {
    alloc_host(pointer, bytes, flags)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(pointer: usize) -> CUresult {
    in_context(|driver, context| {
        driver.not_while_capturing()?;
        driver.host_allocation(pointer, Kind::Pinned).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        driver.finish(context)?;
        driver.memory.free(pointer as u64).map_err(error::of_memory)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(pointer: usize, bytes: usize, flags: u32) -> CUresult {
    in_context(|driver, context| {
        driver.not_while_capturing()?;
        if pointer == 0 || bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the client keeps the range valid until it unregisters it.
        let address = unsafe { driver.memory.register(pointer as *mut u8, bytes as u64) };
        let address = address.map_err(error::of_memory)?;
        driver.own(context, address, flags);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(pointer: usize) -> CUresult {
    in_context(|driver, context| {
        driver.not_while_capturing()?;
        let known = driver.host_allocation(pointer, Kind::Registered);
        known.ok_or(CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED)?;
        driver.finish(context)?;
        driver.memory.free(pointer as u64).map_err(error::of_memory)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: usize, flags: u32) -> CUresult {
    in_context(|driver, _| {
        let known = driver.memory.find(pointer as u64).filter(|a| !matches!(a.kind, Kind::Device(_)));
        if known.is_none() || flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        address.put(pointer as u64)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetFlags(flags: Out<u32>, pointer: usize) -> CUresult {
    in_context(|driver, _| {
        let known = driver.host_allocation(pointer, Kind::Pinned).map(|a| a.base);
        let owner = known.and_then(|base| driver.allocations.get(&base));
        flags.put(owner.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?.flags)
    })
}

/// Writes an attribute of the memory at an address. What nobody allocated has no attributes.
fn attribute(driver: &Driver, attribute: u32, data: usize, address: u64) -> Result<()> {
    let found = driver.memory.find(address).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    let owner = driver.allocations.get(&found.base).filter(|o| o.number == found.number);
    let context = owner.map_or(0, |o| o.context);
    let is_device = matches!(found.kind, Kind::Device(_));
    let device = match found.kind {
        Kind::Device(device) => device,
        _ => driver.contexts.get(context).map_or(0, |c| c.device),
    };
    // SAFETY: the client passes room for the type that the attribute has.
    unsafe {
        match attribute {
            // Context, memory type (1 host, 2 device), device and host pointer.
            1 => Out::from_address(data).put(context),
            2 => Out::from_address(data).put(if is_device { 2u32 } else { 1 }),
            3 => Out::from_address(data).put(address),
            4 if is_device => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
            4 => Out::from_address(data).put(address),
            // Synchronous copies, managed and IPC: none of them. Mapped: yes.
            6 | 8 | 10 => Out::from_address(data).put(0u32),
            7 => Out::from_address(data).put(found.number),
            9 => Out::from_address(data).put(device),
            11 => Out::from_address(data).put(found.base),
            12 => Out::from_address(data).put(found.size),
            13 => Out::from_address(data).put(1u32),
            _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttribute(data: *mut c_void, which: u32, address: u64) -> CUresult {
    in_context(|driver, _| attribute(driver, which, data as usize, address))
}

#[unsafe(no_mangle)]
extern "C" fn cuPointerGetAttributes(count: u32, which: In<u32>, data: In<usize>, address: u64) -> CUresult {
    call(|driver| {
        for (which, data) in which.list(count as usize)?.into_iter().zip(data.list(count as usize)?) {
            if attribute(driver, which, data, address).is_err() {
                // As documented: an unknown pointer gives null values and no error. The smallest is 4 bytes.
                // SAFETY: every attribute has at least 4 bytes.
                unsafe { Out::<u32>::from_address(data) }.put(0)?;
            }
        }
        Ok(())
    })
}
