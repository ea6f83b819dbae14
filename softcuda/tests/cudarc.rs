//! Unmodified cudarc as a client: memory, modules, launches, streams, events, faults, threads.

mod common;

use std::{
    ffi::c_void,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg, result,
        sys::{self, CUresult},
    },
    nvrtc::Ptx,
};

/// What its kernels do stands there.
const PTX: &str = include_str!("common/client.ptx");

/// A context of its own, so that a fault stays in one test.
fn context() -> Arc<CudaContext> {
    common::load();
    CudaContext::new_non_primary(0, 0).unwrap()
}

fn function(ctx: &Arc<CudaContext>, name: &str) -> CudaFunction {
    ctx.load_module(Ptx::from_src(PTX)).unwrap().load_function(name).unwrap()
}

fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

fn grid(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: shared }
}

fn add(stream: &CudaStream, f: &CudaFunction, x: &mut CudaSlice<u32>, v: u32) {
    let n = x.len() as u32;
    // SAFETY: the arguments are those of `add`, and it stays within n elements.
    unsafe { stream.launch_builder(f).arg(x).arg(&n).arg(&v).launch(grid(n.div_ceil(64), 64, 0)) }.unwrap();
}

/// A device pointer outside of cudarc's bookkeeping.
fn raw(bytes: usize) -> u64 {
    // SAFETY: plain allocation.
    unsafe { result::malloc_sync(bytes) }.unwrap()
}

fn pinned(words: usize) -> &'static mut [u32] {
    // SAFETY: as many words as were allocated; freed with the process.
    unsafe {
        let p = result::malloc_host(words * 4, 0).unwrap().cast::<u32>();
        std::slice::from_raw_parts_mut(p, words)
    }
}

fn bytes_of(words: &[u32]) -> &[u8] {
    // SAFETY: any bytes are valid.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 4) }
}

#[test]
fn kernels_copies_and_fills() {
    let ctx = context();
    let stream = ctx.default_stream();
    let f = function(&ctx, "add");
    let mut x = stream.clone_htod(&(0..1000).collect::<Vec<u32>>()).unwrap();
    add(&stream, &f, &mut x, 7);
    assert_eq!(stream.clone_dtoh(&x).unwrap(), (7..1007).collect::<Vec<u32>>());
    let y = stream.clone_dtod(&x).unwrap();
    stream.memset_zeros(&mut x.slice_mut(10..20)).unwrap();
    assert_eq!(stream.clone_dtoh(&x).unwrap()[9..21], [16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 27]);
    assert_eq!(stream.clone_dtoh(&y).unwrap()[15], 22);
    let (free, total) = ctx.mem_get_info().unwrap();
    assert!(free < total && total == ctx.total_mem().unwrap());
    assert_eq!(ctx.compute_capability().unwrap(), (8, 0));
}

#[test]
fn globals_and_function_attributes() {
    let ctx = context();
    let module = ctx.load_module(Ptx::from_src(PTX)).unwrap();
    let stream = ctx.default_stream();
    let counter = module.get_global("counter", &stream).unwrap();
    let view = counter.as_view();
    // SAFETY: the variable is four words.
    let words = unsafe { view.transmute::<u32>(4) }.unwrap();
    assert_eq!(stream.clone_dtoh(&words).unwrap(), [1, 2, 3, 4]);
    assert_eq!(code(module.load_function("no_such_kernel")), CUresult::CUDA_ERROR_NOT_FOUND);
    let bound = module.load_function("bound").unwrap();
    assert_eq!(bound.max_threads_per_block().unwrap(), 64);
    assert_eq!(bound.occupancy_max_active_blocks_per_multiprocessor(64, 0, None).unwrap(), 32);
}

#[test]
fn launches_that_break_a_limit_fail_and_harm_nobody() {
    let ctx = context();
    let stream = ctx.default_stream();
    let (bound, shared) = (function(&ctx, "bound"), function(&ctx, "shared"));
    // SAFETY: `bound` has no parameters.
    let launch = |config| code(unsafe { stream.launch_builder(&bound).launch(config) });
    assert_eq!(launch(grid(1, 65, 0)), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(grid(1, 1025, 0)), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(grid(0, 1, 0)), CUresult::CUDA_ERROR_INVALID_VALUE);
    let tall = LaunchConfig { grid_dim: (1, 65536, 1), ..grid(1, 1, 0) };
    assert_eq!(launch(tall), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(grid(1, 64, 0)), CUresult::CUDA_SUCCESS);

    let mut out = stream.alloc_zeros::<u32>(1).unwrap();
    let mut with = |bytes| {
        // SAFETY: `shared` writes one word to `out`.
        code(unsafe { stream.launch_builder(&shared).arg(&mut out).launch(grid(1, 1, bytes)) })
    };
    assert_eq!(with(48 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(with((48 << 10) + 16), CUresult::CUDA_ERROR_INVALID_VALUE);
    let optin = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(code(shared.set_attribute(optin, (163 << 10) + 1)), CUresult::CUDA_ERROR_INVALID_VALUE);
    shared.set_attribute(optin, 163 << 10).unwrap();
    assert_eq!(with(163 << 10), CUresult::CUDA_SUCCESS);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [163 << 10]);
}

#[test]
fn nothing_runs_before_somebody_waits() {
    let ctx = context();
    let (a, b) = (ctx.new_stream().unwrap(), ctx.new_stream().unwrap());
    let (src, dst) = (pinned(4), pinned(4));
    let x = raw(16);
    // SAFETY: pinned memory lives on; x is 16 bytes.
    unsafe {
        result::memset_d8_async(x, 0, 16, a.cu_stream()).unwrap();
        a.synchronize().unwrap();
        src.fill(1);
        result::memcpy_htod_async(x, bytes_of(src), a.cu_stream()).unwrap();
        // The copy from pinned memory has not been made: it sees this.
        src.fill(2);
        // Another stream that does not wait reads what was there before.
        let out = std::slice::from_raw_parts_mut(dst.as_mut_ptr().cast::<u8>(), 16);
        result::memcpy_dtoh_async(out, x, b.cu_stream()).unwrap();
        b.synchronize().unwrap();
        assert_eq!(dst, [0; 4]);
        // With an event between them it reads what was copied.
        let event = a.record_event(None).unwrap();
        b.wait(&event).unwrap();
        result::memcpy_dtoh_async(out, x, b.cu_stream()).unwrap();
        assert_eq!(dst, [0; 4], "nothing ran yet");
        b.synchronize().unwrap();
        assert_eq!(dst, [2; 4]);
        // Pageable memory is read by the call.
        let mut pageable = vec![5u32; 4];
        result::memcpy_htod_async(x, bytes_of(&pageable), a.cu_stream()).unwrap();
        pageable.fill(6);
        a.synchronize().unwrap();
        result::memcpy_dtoh_async(out, x, a.cu_stream()).unwrap();
        a.synchronize().unwrap();
        assert_eq!(dst, [5; 4]);
    }
}

#[test]
fn the_legacy_default_stream_orders_blocking_streams_only() {
    let ctx = context();
    // SAFETY: this test orders its streams itself.
    unsafe { ctx.disable_event_tracking() };
    let null = ctx.default_stream();
    for (flags, seen) in [(0u32, 9u8), (1, 0)] {
        let mut stream = std::ptr::null_mut();
        let (x, mut out) = (raw(1), [7u8]);
        // SAFETY: x is one byte; the stream is destroyed once.
        unsafe {
            sys::cuStreamCreate(&mut stream, flags).result().unwrap();
            sys::cuMemsetD8_v2(x, 0, 1).result().unwrap();
            null.synchronize().unwrap();
            result::memset_d8_async(x, 9, 1, stream).unwrap();
            result::memcpy_dtoh_sync(&mut out, x).unwrap();
            assert_eq!(out, [seen], "flags {flags}");
            result::stream::synchronize(stream).unwrap();
            result::memcpy_dtoh_sync(&mut out, x).unwrap();
            assert_eq!(out, [9]);
            result::stream::destroy(stream).unwrap();
        }
    }
}

#[test]
fn events_are_polled_and_have_times() {
    let ctx = context();
    let (stream, f) = (ctx.new_stream().unwrap(), function(&ctx, "add"));
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let start = stream.record_event(timed).unwrap();
    let mut x = stream.alloc_zeros::<u32>(64).unwrap();
    add(&stream, &f, &mut x, 1);
    let end = stream.record_event(timed).unwrap();
    assert!(!end.is_complete());
    let polls = (0..100).take_while(|_| !end.is_complete()).count();
    assert!(polls < 20, "polling makes progress");
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    let untimed = stream.record_event(None).unwrap();
    assert_eq!(code(start.elapsed_ms(&untimed)), CUresult::CUDA_ERROR_INVALID_HANDLE);
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    static SEEN: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn look(data: *mut c_void) {
        // SAFETY: the word that the test passed.
        SEEN.store(unsafe { data.cast::<u32>().read() }, Ordering::SeqCst);
        let mut version = 0;
        // SAFETY: a plain call.
        let refused = unsafe { sys::cuDeviceGetCount(&mut version) };
        assert_eq!(refused, CUresult::CUDA_ERROR_NOT_PERMITTED);
    }
    let ctx = context();
    let stream = ctx.new_stream().unwrap();
    let out = pinned(1);
    let x = raw(4);
    // SAFETY: out is pinned and lives on; x is one word.
    unsafe {
        sys::cuMemsetD32Async(x, 42, 1, stream.cu_stream()).result().unwrap();
        let bytes = std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), 4);
        result::memcpy_dtoh_async(bytes, x, stream.cu_stream()).unwrap();
        result::stream::launch_host_function(stream.cu_stream(), look, out.as_mut_ptr().cast()).unwrap();
    }
    assert_eq!(SEEN.load(Ordering::SeqCst), 0);
    stream.synchronize().unwrap();
    assert_eq!(SEEN.load(Ordering::SeqCst), 42);
}

#[test]
fn a_fault_stays_with_its_context() {
    let (bad, good) = (context(), context());
    bad.bind_to_thread().unwrap();
    let (stream, wild) = (bad.new_stream().unwrap(), function(&bad, "wild"));
    let address = 0x1234_5678u64;
    // SAFETY: the kernel writes to an address that nobody allocated, which is what is tested.
    unsafe { stream.launch_builder(&wild).arg(&address).launch(grid(1, 1, 0)) }.unwrap();
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(bad.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(code(bad.mem_get_info()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    good.bind_to_thread().unwrap();
    assert!(good.mem_get_info().is_ok());
    let x = good.default_stream().clone_htod(&[1u32]).unwrap();
    assert_eq!(good.default_stream().clone_dtoh(&x).unwrap(), [1]);
}

#[test]
fn bad_arguments_have_their_codes() {
    let ctx = context();
    ctx.bind_to_thread().unwrap();
    let x = raw(16);
    let mut out = [0u8; 32];
    // SAFETY: every one of these calls is refused, or is valid.
    unsafe {
        let long = result::memcpy_dtoh_sync(&mut out, x);
        assert_eq!(code(long), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::free_sync(x + 4)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::free_sync(x)), CUresult::CUDA_SUCCESS);
        assert_eq!(code(result::free_sync(x)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::malloc_sync(0)), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(code(result::malloc_sync(1 << 50)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let stale = 0x1000 as sys::CUstream;
        assert_eq!(code(result::stream::synchronize(stale)), CUresult::CUDA_ERROR_INVALID_HANDLE);
        let array = sys::cuArrayDestroy(std::ptr::null_mut());
        assert_eq!(array, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        let mut image = *b"\x7fELF\x02\0\0\0";
        let mut module = std::ptr::null_mut();
        let cubin = sys::cuModuleLoadData(&mut module, image.as_mut_ptr().cast());
        assert_eq!(cubin, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    }
    assert_eq!(code(result::device::get(5)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let error = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(error.error_name().unwrap().to_str().unwrap(), "CUDA_ERROR_ILLEGAL_ADDRESS");
}

#[test]
fn pointers_are_known_by_kind() {
    let ctx = context();
    ctx.bind_to_thread().unwrap();
    let (device, host) = (raw(100), pinned(25));
    let ask = |which, address: u64| {
        let mut value = 0u32;
        // SAFETY: these attributes are one word.
        let code = unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), which, address) };
        (code, value)
    };
    let kind = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
    assert_eq!(ask(kind, device + 99), (CUresult::CUDA_SUCCESS, 2));
    assert_eq!(ask(kind, host.as_ptr() as u64), (CUresult::CUDA_SUCCESS, 1));
    assert_eq!(ask(kind, 64).0, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn rows_of_a_matrix_are_copied() {
    let ctx = context();
    ctx.bind_to_thread().unwrap();
    let source: Vec<u8> = (0..30).collect();
    let (mut back, mut pitch, mut x) = ([0u8; 12], 0, 0);
    // SAFETY: the ranges are those of `source`, `back` and the allocation.
    unsafe {
        sys::cuMemAllocPitch_v2(&mut x, &mut pitch, 10, 3, 4).result().unwrap();
        assert_eq!(pitch % 512, 0);
        let mut copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: source.as_ptr().cast(),
            srcDevice: x,
            srcArray: std::ptr::null_mut(),
            srcPitch: 10,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: back.as_mut_ptr().cast(),
            dstDevice: x,
            dstArray: std::ptr::null_mut(),
            dstPitch: pitch,
            WidthInBytes: 10,
            Height: 3,
        };
        sys::cuMemcpy2D_v2(&copy).result().unwrap();
        std::mem::swap(&mut copy.srcMemoryType, &mut copy.dstMemoryType);
        (copy.srcPitch, copy.srcXInBytes) = (pitch, 2);
        (copy.dstPitch, copy.WidthInBytes) = (4, 4);
        sys::cuMemcpy2D_v2(&copy).result().unwrap();
    }
    assert_eq!(back, [2, 3, 4, 5, 12, 13, 14, 15, 22, 23, 24, 25]);
}

#[test]
fn threads_share_a_context() {
    let ctx = context();
    let module = ctx.load_module(Ptx::from_src(PTX)).unwrap();
    let sums: Vec<u32> = std::thread::scope(|scope| {
        let work = (0..4u32).map(|id| {
            let (ctx, module) = (&ctx, &module);
            scope.spawn(move || {
                let (stream, f) = (ctx.new_stream().unwrap(), module.load_function("add").unwrap());
                let mut x = stream.alloc_zeros::<u32>(100).unwrap();
                (0..20).for_each(|_| add(&stream, &f, &mut x, id));
                stream.clone_dtoh(&x).unwrap().iter().sum()
            })
        });
        work.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(sums, [0, 2000, 4000, 6000]);
}
