//! The other ways to load and launch a kernel: `cuLaunchKernelEx`, a parameter buffer in `extra`, libraries and kernels.

mod common;

use std::{
    ffi::{CStr, c_void},
    ptr::null_mut,
    sync::Arc,
};

use cudarc::driver::{
    CudaContext, CudaStream, result,
    sys::{self, CUlaunchAttributeID_enum as Id, CUresult},
};

const PTX: &str = concat!(include_str!("common/client.ptx"), "\0");
const N: usize = 100;

/// N words that count from 0, in a context with a stream.
fn setup() -> (Arc<CudaContext>, Arc<CudaStream>, u64) {
    common::load();
    let ctx = CudaContext::new_non_primary(0, 0).unwrap();
    let stream = ctx.new_stream().unwrap();
    let bytes: Vec<u8> = (0..N as u32).flat_map(u32::to_le_bytes).collect();
    // SAFETY: the allocation has as many bytes.
    let x = unsafe {
        let x = result::malloc_sync(bytes.len()).unwrap();
        result::memcpy_htod_sync(x, &bytes).unwrap();
        x
    };
    (ctx, stream, x)
}

fn words(x: u64) -> Vec<u32> {
    let mut bytes = vec![0u8; 4 * N];
    // SAFETY: the buffer has N words.
    unsafe { result::memcpy_dtoh_sync(&mut bytes, x) }.unwrap();
    bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
}

fn counting(from: u32) -> Vec<u32> {
    (from..from + N as u32).collect()
}

fn kernel(name: &CStr) -> sys::CUfunction {
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: the PTX ends with a zero byte; the handles are used while the context lives.
    unsafe {
        sys::cuModuleLoadData(&mut module, PTX.as_ptr().cast()).result().unwrap();
        sys::cuModuleGetFunction(&mut function, module, name.as_ptr()).result().unwrap();
    }
    function
}

#[test]
fn an_extended_launch_has_attributes() {
    let (_ctx, stream, mut x) = setup();
    let add = kernel(c"add");
    let (mut n, mut v) = (N as u32, 5u32);
    let mut args: [*mut c_void; 3] = [(&raw mut x).cast(), (&raw mut n).cast(), (&raw mut v).cast()];
    let mut launch = |attributes: &mut [sys::CUlaunchAttribute]| {
        let config = sys::CUlaunchConfig {
            gridDimX: 4,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: the arguments are those of `add`.
        unsafe { sys::cuLaunchKernelEx(&config, add, args.as_mut_ptr(), null_mut()) }
    };
    let attribute = |id, words: [u32; 3]| {
        let mut pad = [0; 64];
        for (bytes, word) in pad.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes().map(|byte| byte as i8));
        }
        sys::CUlaunchAttribute { id, pad: [0; 4], value: sys::CUlaunchAttributeValue { pad } }
    };
    assert_eq!(launch(&mut []), CUresult::CUDA_SUCCESS);
    let priority = attribute(Id::CU_LAUNCH_ATTRIBUTE_PRIORITY, [1, 0, 0]);
    let alone = attribute(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [1, 1, 1]);
    assert_eq!(launch(&mut [priority, alone]), CUresult::CUDA_SUCCESS);
    for (id, words) in [
        (Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, [1, 0, 0]),
        (Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, [2, 1, 1]),
        (Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, [1, 0, 0]),
    ] {
        let refused = launch(&mut [attribute(id, words)]);
        assert_eq!(refused, CUresult::CUDA_ERROR_NOT_SUPPORTED, "{id:?}");
    }
    stream.synchronize().unwrap();
    assert_eq!(words(x), counting(10), "two launches of four");
}

#[test]
fn parameters_in_one_buffer() {
    let (_ctx, stream, x) = setup();
    let add = kernel(c"add");
    let mut buffer = [x.to_le_bytes().as_slice(), &(N as u32).to_le_bytes(), &3u32.to_le_bytes()].concat();
    let mut size = buffer.len();
    // CU_LAUNCH_PARAM_BUFFER_POINTER, its value, CU_LAUNCH_PARAM_BUFFER_SIZE, its value, CU_LAUNCH_PARAM_END.
    let mut extra: [*mut c_void; 5] = [
        std::ptr::without_provenance_mut(1),
        buffer.as_mut_ptr().cast(),
        std::ptr::without_provenance_mut(2),
        (&raw mut size).cast(),
        null_mut(),
    ];
    let launch = |extra: &mut [*mut c_void]| {
        let raw = stream.cu_stream();
        // SAFETY: the buffer is laid out as the parameters of `add`.
        unsafe { sys::cuLaunchKernel(add, 4, 1, 1, 32, 1, 1, 0, raw, null_mut(), extra.as_mut_ptr()) }
    };
    assert_eq!(launch(&mut extra), CUresult::CUDA_SUCCESS);
    // Without a size, and with a name that there is not.
    assert_eq!(launch(&mut [extra[0], extra[1], null_mut()]), CUresult::CUDA_ERROR_INVALID_VALUE);
    let mut unknown = extra;
    unknown[2] = std::ptr::without_provenance_mut(3);
    assert_eq!(launch(&mut unknown), CUresult::CUDA_ERROR_INVALID_VALUE);
    // The call has read the buffer.
    buffer.fill(0);
    stream.synchronize().unwrap();
    assert_eq!(words(x), counting(3));
}

#[test]
fn a_library_has_kernels_and_variables() {
    let (_ctx, stream, mut x) = setup();
    let (mut library, mut add, mut module, mut function) = (null_mut(), null_mut(), null_mut(), null_mut());
    let (mut n, mut v) = (N as u32, 2u32);
    let mut args: [*mut c_void; 3] = [(&raw mut x).cast(), (&raw mut n).cast(), (&raw mut v).cast()];
    // SAFETY: the PTX ends with a zero byte, out-parameters are live, and the arguments are those of `add`.
    unsafe {
        let (none, code) = (null_mut(), PTX.as_ptr().cast());
        sys::cuLibraryLoadData(&mut library, code, none, null_mut(), 0, null_mut(), null_mut(), 0)
            .result()
            .unwrap();
        let mut count = 0;
        sys::cuLibraryGetKernelCount(&mut count, library).result().unwrap();
        assert_eq!(count, 4);
        let mut all = [null_mut(); 4];
        sys::cuLibraryEnumerateKernels(all.as_mut_ptr(), 4, library).result().unwrap();
        let mut names = all.map(|kernel| {
            let mut name = std::ptr::null();
            sys::cuKernelGetName(&mut name, kernel).result().unwrap();
            CStr::from_ptr(name).to_str().unwrap()
        });
        names.sort_unstable();
        assert_eq!(names, ["add", "bound", "shared", "wild"]);

        let missing = sys::cuLibraryGetKernel(&mut add, library, c"sub".as_ptr());
        assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
        sys::cuLibraryGetKernel(&mut add, library, c"add".as_ptr()).result().unwrap();
        assert!(all.contains(&add));
        let mut param = [0; 2];
        let [offset, size] = &mut param;
        sys::cuKernelGetParamInfo(add, 2, offset, size).result().unwrap();
        assert_eq!(param, [12, 4]);
        let past = sys::cuKernelGetParamInfo(add, 3, &mut param[0], null_mut());
        assert_eq!(past, CUresult::CUDA_ERROR_INVALID_VALUE);

        let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let mut bytes = 0;
        sys::cuKernelSetAttribute(most, 65536, add, 0).result().unwrap();
        sys::cuKernelGetAttribute(&mut bytes, most, add, 0).result().unwrap();
        assert_eq!(bytes, 65536);

        // A kernel launches as it is, and as the function that it has in the context.
        let raw = stream.cu_stream();
        let mut grid = |f| sys::cuLaunchKernel(f, 4, 1, 1, 32, 1, 1, 0, raw, args.as_mut_ptr(), null_mut());
        grid(add.cast()).result().unwrap();
        sys::cuKernelGetFunction(&mut function, add).result().unwrap();
        grid(function).result().unwrap();
        stream.synchronize().unwrap();
        assert_eq!(words(x), counting(4));

        let (mut address, mut bytes) = (0, 0);
        sys::cuLibraryGetGlobal(&mut address, &mut bytes, library, c"counter".as_ptr()).result().unwrap();
        let mut values = [0u8; 16];
        result::memcpy_dtoh_sync(&mut values, address).unwrap();
        assert_eq!((bytes, values[0], values[12]), (16, 1, 4));
        sys::cuLibraryGetModule(&mut module, library).result().unwrap();
        sys::cuModuleGetFunction(&mut function, module, c"add".as_ptr()).result().unwrap();

        sys::cuLibraryUnload(library).result().unwrap();
        assert_eq!(grid(add.cast()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        let gone = sys::cuLibraryGetKernel(&mut add, library, c"add".as_ptr());
        assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
}
