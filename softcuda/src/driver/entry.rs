//! How clients find entry points, and the ones that are not built.

use super::{
    VERSION,
    error::{CUresult, Result, not_built},
    ffi::{Out, Text},
};

// Stubs for what is not built, and `SYMBOLS`: every entry point by name. Written by build.rs.
include!(concat!(env!("OUT_DIR"), "/symbols.rs"));

/// Entry points whose newest form is younger than the CUDA version that a client may ask for.
const SINCE: [(&str, i32); 6] = [
    ("cuCtxCreate_v3", 11040),
    ("cuCtxCreate_v4", 12050),
    ("cuStreamGetCaptureInfo_v3", 12030),
    ("cuGraphGetEdges_v2", 12030),
    ("cuGraphNodeGetDependencies_v2", 12030),
    ("cuEventElapsedTime_v2", 12080),
];

/// The newest entry point of a name for a client of this CUDA version.
fn find(name: &str, version: i32) -> Option<unsafe extern "C" fn()> {
    let exact = |name: &str| SYMBOLS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f);
    let since = |name: &str| SINCE.iter().find(|(n, _)| *n == name).map_or(0, |(_, since)| *since);
    let suffixed = ["_v4", "_v3", "_v2", ""].map(|suffix| format!("{name}{suffix}"));
    suffixed.iter().filter(|name| since(name) <= version).find_map(|name| exact(name))
}

/// Writes the entry point, and 0 for found, 1 for not found.
fn get(symbol: Text, function: Out<usize>, version: i32, flags: u64, status: Option<Out<u32>>) -> Result<()> {
    let name = symbol.get()?;
    // The graph was instantiated with a log until CUDA 12.
    let name = if name == "cuGraphInstantiate" { "cuGraphInstantiateWithFlags" } else { &name };
    let found = find(name, version.min(VERSION));
    if let Some(status) = status {
        status.put_if_wanted(u32::from(found.is_none()));
    }
    // 2: the variants whose default stream is the thread's own.
    if flags & 2 != 0 {
        return Err(not_built("cuGetProcAddress with CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM"));
    }
    function.put(found.map_or(0, |f| f as usize))?;
    found.map(|_| ()).ok_or(CUresult::CUDA_ERROR_NOT_FOUND)
}

fn code(done: Result<()>) -> CUresult {
    done.map_or_else(|code| code, |()| CUresult::CUDA_SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress(symbol: Text, function: Out<usize>, version: i32, flags: u64) -> CUresult {
    code(get(symbol, function, version, flags, None))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress_v2(
    symbol: Text,
    function: Out<usize>,
    version: i32,
    flags: u64,
    status: Out<u32>,
) -> CUresult {
    code(get(symbol, function, version, flags, Some(status)))
}

/// NVRTC asks for undocumented tables and goes without them if the pointer is null.
#[unsafe(no_mangle)]
extern "C" fn cuGetExportTable(table: Out<usize>, _id: usize) -> CUresult {
    table.put_if_wanted(0);
    CUresult::CUDA_ERROR_NOT_SUPPORTED
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStart() -> CUresult {
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cuProfilerStop() -> CUresult {
    CUresult::CUDA_SUCCESS
}
