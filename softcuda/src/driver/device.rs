//! Devices: `cuDevice*`.

use std::ffi::c_char;

use cudarc::driver::sys::{CUdevprop, CUuuid};

use super::{
    Driver, Locked, call,
    error::{CUresult, Result},
    ffi::{In, Out, Text},
    pool::Pool,
};
use crate::device::{Arch, MAX_BLOCK, MAX_GRID, MAX_THREADS, REGISTERS, SHARED_DEFAULT, WARP};

/// A device and its primary context.
#[derive(Debug)]
pub struct Device {
    /// The primary context, while somebody retains it.
    pub primary: Option<usize>,
    /// How often it was retained.
    pub retained: u32,
    /// Flags of the primary context.
    pub flags: u32,
    /// The pool that every device has.
    pub default_pool: usize,
    /// The pool that `cuMemAllocAsync` takes from.
    pub pool: usize,
}

impl Device {
    /// A device nobody uses yet.
    pub fn new(driver: &mut Driver, ordinal: u32) -> Self {
        let pool = driver.handle();
        driver.pools.0.insert(pool, Pool::new(ordinal));
        Self { primary: None, retained: 0, flags: 0, default_pool: pool, pool }
    }
}

impl Driver {
    /// The device with this number.
    pub fn device(&mut self, ordinal: i32) -> Result<&mut Device> {
        let index = usize::try_from(ordinal).map_err(|_| CUresult::CUDA_ERROR_INVALID_DEVICE)?;
        self.devices.get_mut(index).ok_or(CUresult::CUDA_ERROR_INVALID_DEVICE)
    }
}

/// Runs an entry point about one device.
fn of_device(ordinal: i32, body: impl FnOnce(&mut Locked, Arch) -> Result<()>) -> CUresult {
    call(|driver| {
        driver.device(ordinal)?;
        let arch = driver.config.arch;
        body(driver, arch)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: Out<i32>, ordinal: i32) -> CUresult {
    of_device(ordinal, |_, _| device.put(ordinal))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: Out<i32>) -> CUresult {
    call(|driver| count.put(driver.devices.len() as i32))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: Out<c_char>, room: i32, device: i32) -> CUresult {
    of_device(device, |_, arch| name.put_text(&arch.name(), usize::try_from(room).unwrap_or(0)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) -> CUresult {
    of_device(device, |driver, _| bytes.put(driver.memory.total_bytes(device as u32) as usize))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) -> CUresult {
    of_device(device, |_, arch| {
        value.put(arch.attribute(attribute, device as u32).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) -> CUresult {
    of_device(device, |_, arch| {
        major.put(arch.number() as i32 / 10)?;
        minor.put(arch.number() as i32 % 10)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetProperties(properties: Out<CUdevprop>, device: i32) -> CUresult {
    of_device(device, |_, _| {
        properties.put(CUdevprop {
            maxThreadsPerBlock: MAX_THREADS as i32,
            maxThreadsDim: MAX_BLOCK.map(|n| n as i32),
            maxGridSize: MAX_GRID.map(|n| n as i32),
            sharedMemPerBlock: SHARED_DEFAULT as i32,
            totalConstantMemory: 64 << 10,
            SIMDWidth: WARP as i32,
            memPitch: i32::MAX,
            regsPerBlock: REGISTERS as i32,
            clockRate: 0,
            textureAlign: 0,
        })
    })
}

fn uuid(out: Out<CUuuid>, device: i32) -> CUresult {
    of_device(device, |_, _| {
        let mut bytes = *b"softcuda-device\0";
        bytes[15] = device as u8;
        out.put(CUuuid { bytes: bytes.map(|b| b as c_char) })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid(out: Out<CUuuid>, device: i32) -> CUresult {
    uuid(out, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(out: Out<CUuuid>, device: i32) -> CUresult {
    uuid(out, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetPCIBusId(id: Out<c_char>, room: i32, device: i32) -> CUresult {
    of_device(device, |_, _| {
        id.put_text(&format!("0000:{:02x}:00.0", device + 1), usize::try_from(room).unwrap_or(0))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Text) -> CUresult {
    call(|driver| {
        let id = id.get()?.to_lowercase();
        let short = id.strip_prefix("0000:").unwrap_or(&id);
        let bus = short.split(':').next().and_then(|bus| i32::from_str_radix(bus, 16).ok());
        let ordinal = bus.ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)? - 1;
        driver.device(ordinal)?;
        device.put(ordinal)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) -> CUresult {
    of_device(device, |driver, _| {
        driver.device(peer)?;
        can.put(i32::from(device != peer))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetP2PAttribute(
    value: Out<i32>,
    attribute: u32,
    source: i32,
    destination: i32,
) -> CUresult {
    of_device(source, |driver, _| {
        driver.device(destination)?;
        // Performance rank 0; access and native atomics are supported; array access is not.
        match attribute {
            1 => value.put(0),
            2 | 3 => value.put(i32::from(source != destination)),
            4 => value.put(0),
            _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<usize>, device: i32) -> CUresult {
    of_device(device, |driver, _| {
        let default = driver.device(device)?.default_pool;
        pool.put(default)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetMemPool(pool: Out<usize>, device: i32) -> CUresult {
    of_device(device, |driver, _| {
        let current = driver.device(device)?.pool;
        pool.put(current)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceSetMemPool(device: i32, pool: usize) -> CUresult {
    of_device(device, |driver, _| {
        if driver.pools.get(pool)?.device != device as u32 {
            return Err(CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        driver.device(device)?.pool = pool;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetExecAffinitySupport(supported: Out<i32>, _kind: u32, device: i32) -> CUresult {
    of_device(device, |_, _| supported.put(0))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetHostAtomicCapabilities(
    capabilities: Out<u32>,
    operations: In<u32>,
    count: u32,
    device: i32,
) -> CUresult {
    of_device(device, |_, _| {
        operations.list(count as usize)?;
        capabilities.put_all((0..count).map(|_| 0))
    })
}
