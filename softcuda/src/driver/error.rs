//! Error codes, their names and what they mean.

use std::{
    collections::BTreeSet,
    ffi::{CString, c_char},
    sync::{Mutex, OnceLock, PoisonError},
};

pub use cudarc::driver::sys::CUresult;
use cudarc::driver::sys::cudaError_enum::*;

use super::ffi::Out;
use crate::{
    fault::{Fault, FaultKind},
    memory::MemoryError,
};

/// What an entry point does: nothing, or a code for the client.
pub type Result<T> = std::result::Result<T, CUresult>;

/// The code that a real device gives for this fault.
pub fn of_fault(fault: &Fault) -> CUresult {
    match fault.kind {
        FaultKind::IllegalAddress => CUDA_ERROR_ILLEGAL_ADDRESS,
        FaultKind::Misaligned => CUDA_ERROR_MISALIGNED_ADDRESS,
        FaultKind::AddressSpace => CUDA_ERROR_INVALID_ADDRESS_SPACE,
        FaultKind::Assert => CUDA_ERROR_ASSERT,
        FaultKind::Timeout => CUDA_ERROR_LAUNCH_TIMEOUT,
        FaultKind::InvalidLaunch => CUDA_ERROR_INVALID_VALUE,
        FaultKind::Trap | FaultKind::Sync | FaultKind::Uninitialised | FaultKind::Race => {
            CUDA_ERROR_LAUNCH_FAILED
        }
    }
}

/// The code for memory that a call could not allocate or that its arguments name wrongly.
pub fn of_memory(error: MemoryError) -> CUresult {
    match error {
        MemoryError::OutOfMemory { .. } => CUDA_ERROR_OUT_OF_MEMORY,
        MemoryError::Overlap { .. } => CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
        MemoryError::NotAnAllocation { .. } | MemoryError::OutOfBounds { .. } => CUDA_ERROR_INVALID_VALUE,
    }
}

/// Tells the user, once per text and process.
pub fn say_once(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_string()) {
        eprintln!("softcuda: {text}");
    }
}

/// What an entry point or option that softcuda does not build answers.
pub fn not_built(what: &str) -> CUresult {
    say_once(&format!("{what} is not built"));
    CUDA_ERROR_NOT_SUPPORTED
}

/// Every code with a description.
const DESCRIPTIONS: [(CUresult, &str); 66] = [
    (CUDA_SUCCESS, "no error"),
    (CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    (CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    (CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    (CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
    (CUDA_ERROR_PROFILER_DISABLED, "profiler disabled"),
    (CUDA_ERROR_STUB_LIBRARY, "CUDA driver is a stub library"),
    (CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    (CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    (CUDA_ERROR_DEVICE_NOT_LICENSED, "device is not licensed"),
    (CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    (CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    (CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed"),
    (CUDA_ERROR_UNMAP_FAILED, "unmapping of buffer object failed"),
    (CUDA_ERROR_ARRAY_IS_MAPPED, "array is mapped"),
    (CUDA_ERROR_ALREADY_MAPPED, "resource already mapped"),
    (CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    (CUDA_ERROR_ALREADY_ACQUIRED, "resource already acquired"),
    (CUDA_ERROR_NOT_MAPPED, "resource not mapped"),
    (CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    (CUDA_ERROR_UNSUPPORTED_LIMIT, "limit is not supported on this architecture"),
    (CUDA_ERROR_CONTEXT_ALREADY_IN_USE, "exclusive-thread device already in use by a different thread"),
    (CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices"),
    (CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
    (CUDA_ERROR_JIT_COMPILER_NOT_FOUND, "PTX JIT compiler library not found"),
    (CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain"),
    (CUDA_ERROR_JIT_COMPILATION_DISABLED, "PTX JIT compilation was disabled"),
    (CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY, "the provided execution affinity is not supported"),
    (CUDA_ERROR_INVALID_SOURCE, "device kernel source is invalid"),
    (CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    (CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND, "shared object symbol not found"),
    (CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object initialization failed"),
    (CUDA_ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"),
    (CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    (CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    (CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    (CUDA_ERROR_NOT_READY, "device not ready"),
    (CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    (CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    (CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled"),
    (CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled"),
    (CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "cannot set while device is active in this process"),
    (CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    (CUDA_ERROR_ASSERT, "device-side assert triggered"),
    (
        CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
        "part or all of the requested memory range is already mapped",
    ),
    (CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region"),
    (CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
    (CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    (CUDA_ERROR_INVALID_ADDRESS_SPACE, "operation not supported on global/shared address space"),
    (CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    (CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch"),
    (CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
    (CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    (CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    (CUDA_ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences"),
    (CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    (CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    (CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    (
        CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
        "operation would make the legacy stream depend on a capturing stream",
    ),
    (CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    (CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a capture sequence from another thread"),
    (CUDA_ERROR_TIMEOUT, "wait operation timed out"),
    (CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "the graph update was not performed"),
    (CUDA_ERROR_UNKNOWN, "unknown error"),
];

/// Writes one of a code's two texts, which live as long as the process; null for an unknown code.
fn describe(code: u32, text: Out<usize>, which: fn(&(CString, CString)) -> &CString) -> CUresult {
    static TEXTS: OnceLock<Vec<(u32, (CString, CString))>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| {
        let c = |text: String| CString::new(text).unwrap_or_default();
        let entry = |(code, about): &(CUresult, &str)| {
            (*code as u32, (c(format!("{code:?}")), c((*about).to_string())))
        };
        DESCRIPTIONS.iter().map(entry).collect()
    });
    let found = texts.iter().find(|(c, _)| *c == code).map(|(_, texts)| which(texts).as_ptr() as usize);
    match (text.put(found.unwrap_or(0)), found) {
        (Ok(()), Some(_)) => CUDA_SUCCESS,
        _ => CUDA_ERROR_INVALID_VALUE,
    }
}

// The out-parameters are `const char **`.
const _: () = assert!(size_of::<*const c_char>() == size_of::<usize>());

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: u32, text: Out<usize>) -> CUresult {
    describe(code, text, |(name, _)| name)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: u32, text: Out<usize>) -> CUresult {
    describe(code, text, |(_, about)| about)
}
