//! The architectures: limits, attributes and occupancy, as the CUDA programming guide and the tuning guides of the
//! A100 and the H100 document them.

use cudarc::driver::sys::CUdevice_attribute_enum::{self as Attribute, *};

/// A compute capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 8.0, with the numbers of an A100.
    Sm80,
    /// 9.0, with the numbers of an H100 SXM.
    Sm90,
}

/// Threads of a block.
pub const MAX_THREADS: u32 = 1024;
/// Extents of a block.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Extents of a grid.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Bytes of shared memory of a block without opting in to more.
pub const SHARED_DEFAULT: u32 = 48 << 10;
/// Bytes of shared memory that the system takes of each block.
pub const SHARED_RESERVED: u32 = 1 << 10;
/// 32-bit registers of a multiprocessor, and of a block.
pub const REGISTERS: u32 = 64 << 10;
/// Threads of a warp.
pub const WARP: u32 = 32;
const MAX_WARPS: u32 = 64;
const MAX_BLOCKS: u32 = 32;
/// Registers are given to a warp in units of this many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given to a block in units of this many bytes.
const SHARED_UNIT: u32 = 128;
/// A multiprocessor's registers lie in this many partitions, each with a quarter of the warps.
const PARTITIONS: u32 = 4;

impl Arch {
    /// 80 or 90.
    pub fn number(self) -> u32 {
        match self {
            Self::Sm80 => 80,
            Self::Sm90 => 90,
        }
    }

    /// The device's name, which says that it is software.
    pub fn name(self) -> String {
        format!("softcuda sm_{} (software)", self.number())
    }

    /// Bytes of shared memory of a multiprocessor.
    pub fn shared_per_sm(self) -> u32 {
        match self {
            Self::Sm80 => 164 << 10,
            Self::Sm90 => 228 << 10,
        }
    }

    /// Bytes of shared memory of a block that opted in.
    pub fn shared_optin(self) -> u32 {
        self.shared_per_sm() - SHARED_RESERVED
    }

    /// Multiprocessors.
    pub fn sms(self) -> u32 {
        match self {
            Self::Sm80 => 108,
            Self::Sm90 => 132,
        }
    }

    /// Bytes of the L2 cache.
    pub fn l2(self) -> u32 {
        match self {
            Self::Sm80 => 40 << 20,
            Self::Sm90 => 50 << 20,
        }
    }

    /// The value of a `CUdevice_attribute`; 0 for what the device does not have, none for an unknown one.
    pub fn attribute(self, attribute: u32, ordinal: u32) -> Option<i32> {
        let [kilohertz, memory_kilohertz] = match self {
            Self::Sm80 => [1_410_000, 1_215_000],
            Self::Sm90 => [1_980_000, 2_619_000],
        };
        let table: &[(Attribute, u32)] = &[
            (CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, MAX_THREADS),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, MAX_BLOCK[0]),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, MAX_BLOCK[1]),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, MAX_BLOCK[2]),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, MAX_GRID[0]),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, MAX_GRID[1]),
            (CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, MAX_GRID[2]),
            (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, SHARED_DEFAULT),
            (CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 << 10),
            (CU_DEVICE_ATTRIBUTE_WARP_SIZE, WARP),
            (CU_DEVICE_ATTRIBUTE_MAX_PITCH, i32::MAX as u32),
            (CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, REGISTERS),
            (CU_DEVICE_ATTRIBUTE_CLOCK_RATE, kilohertz),
            (CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1),
            (CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, self.sms()),
            (CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1),
            (CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1),
            (CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, ordinal + 1),
            (CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, memory_kilohertz),
            (CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120),
            (CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, self.l2()),
            (CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, MAX_WARPS * WARP),
            (CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3),
            (CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
            (CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self.number() / 10),
            (CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self.number() % 10),
            (CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, self.shared_per_sm()),
            (CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, REGISTERS),
            (CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO, 2),
            (CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1),
            (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, self.shared_optin()),
            (CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 1),
            (CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, MAX_BLOCKS),
            (CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, SHARED_RESERVED),
            (CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
        ];
        if attribute == 0 || attribute > 200 {
            return None;
        }
        Some(table.iter().find(|(a, _)| *a as u32 == attribute).map_or(0, |(_, value)| *value as i32))
    }

    /// Blocks of `threads` threads, `registers` a thread and `shared` bytes that a multiprocessor holds at once.
    ///
    /// Source: the occupancy calculator of the CUDA toolkit.
    pub fn blocks_per_sm(self, threads: u32, registers: u32, shared: u32) -> u32 {
        if threads == 0 || threads > MAX_THREADS || shared > self.shared_optin() {
            return 0;
        }
        let warps = threads.div_ceil(WARP);
        let warp_registers = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
        let warps_by_registers = REGISTERS / PARTITIONS / warp_registers * PARTITIONS;
        let block_shared = (shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        MAX_BLOCKS
            .min(MAX_WARPS / warps)
            .min(warps_by_registers / warps)
            .min(self.shared_per_sm() / block_shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occupancy_is_what_the_calculator_says() {
        // Threads, registers, shared bytes, blocks: from the CUDA occupancy calculator, 8.0 and 9.0.
        for (threads, registers, shared, sm80, sm90) in [
            (256, 32, 0, 8, 8),
            (256, 64, 0, 4, 4),
            (256, 65, 0, 3, 3),
            (1024, 32, 0, 2, 2),
            (1024, 65, 0, 0, 0),
            (32, 16, 0, 32, 32),
            (128, 32, 49152, 3, 4),
            (128, 255, 0, 2, 2),
            (64, 32, 163 << 10, 1, 1),
            (64, 32, 227 << 10, 0, 1),
        ] {
            let of = |arch: Arch| arch.blocks_per_sm(threads, registers, shared);
            assert_eq!((of(Arch::Sm80), of(Arch::Sm90)), (sm80, sm90), "{threads} {registers} {shared}");
        }
    }

    #[test]
    fn attributes_of_both() {
        let optin = CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as u32;
        assert_eq!(Arch::Sm80.attribute(optin, 0), Some(166_912));
        assert_eq!(Arch::Sm90.attribute(optin, 0), Some(232_448));
        assert_eq!(Arch::Sm80.attribute(CU_DEVICE_ATTRIBUTE_INTEGRATED as u32, 0), Some(0));
        assert_eq!(Arch::Sm80.attribute(0, 0), None);
    }
}
