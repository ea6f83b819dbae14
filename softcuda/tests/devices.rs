//! Two devices: peer access, copies between them, and events across.

mod common;

use std::sync::Arc;

use cudarc::{
    driver::{
        CudaContext, LaunchConfig, PushKernelArg, result,
        sys::{self, CUresult},
    },
    nvrtc::Ptx,
};

const N: usize = 100;

/// A buffer of N words on the device of the current context.
fn buffer(words: &[u32; N]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    // SAFETY: the allocation has as many bytes.
    unsafe {
        let x = result::malloc_sync(bytes.len()).unwrap();
        result::memcpy_htod_sync(x, &bytes).unwrap();
        x
    }
}

fn words(x: u64) -> Vec<u32> {
    let mut bytes = vec![0u8; 4 * N];
    // SAFETY: the buffer has N words.
    unsafe { result::memcpy_dtoh_sync(&mut bytes, x) }.unwrap();
    bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
}

/// Adds `v` to the N words at `x`, in the default stream of a context.
fn add(ctx: &Arc<CudaContext>, x: u64, v: u32) -> CUresult {
    let f = ctx.load_module(Ptx::from_src(include_str!("common/client.ptx"))).unwrap();
    let (f, stream, n) = (f.load_function("add").unwrap(), ctx.default_stream(), N as u32);
    // SAFETY: `add` stays within N words; whether they are reachable is what is tested.
    let launched = unsafe {
        stream.launch_builder(&f).arg(&x).arg(&n).arg(&v).launch(LaunchConfig::for_num_elems(n)).map(|_| ())
    };
    launched.and_then(|()| stream.synchronize()).map_or_else(|e| e.0, |()| CUresult::CUDA_SUCCESS)
}

fn two_devices() -> [Arc<CudaContext>; 2] {
    common::load();
    assert_eq!(result::device::get_count().unwrap(), 2);
    [0, 1].map(|ordinal| {
        let ctx = CudaContext::new_non_primary(ordinal, 0).unwrap();
        // SAFETY: the tests order their streams themselves.
        unsafe { ctx.disable_event_tracking() };
        ctx
    })
}

/// Runs a test where the driver has two devices and looks for races.
fn alone(test: &str, body: impl FnOnce([Arc<CudaContext>; 2])) {
    match common::alone(test, &[("SOFTCUDA_DEVICES", "2"), ("SOFTCUDA_CHECK", "all")]) {
        None => body(two_devices()),
        Some(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

const COUNTING: [u32; N] = {
    let mut words = [0; N];
    let mut i = 0;
    while i < N {
        words[i] = i as u32;
        i += 1;
    }
    words
};

#[test]
fn memory_belongs_to_its_device() {
    alone("memory_belongs_to_its_device", |[zero, one]| {
        let free = |ctx: &Arc<CudaContext>| ctx.mem_get_info().unwrap().0;
        let before = [free(&zero), free(&one)];
        one.bind_to_thread().unwrap();
        let x = buffer(&COUNTING);
        assert_eq!([free(&zero), free(&one)], [before[0], before[1] - 512]);
        let (mut ordinal, mut can) = (-1, [-1; 2]);
        let which = sys::CUpointer_attribute_enum::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        one.bind_to_thread().unwrap();
        // SAFETY: the attribute is one `int`.
        unsafe {
            sys::cuPointerGetAttribute((&raw mut ordinal).cast(), which, x).result().unwrap();
            sys::cuDeviceCanAccessPeer(&mut can[0], 0, 1).result().unwrap();
            sys::cuDeviceCanAccessPeer(&mut can[1], 1, 1).result().unwrap();
            assert_eq!(sys::cuDeviceCanAccessPeer(&mut can[1], 0, 2), CUresult::CUDA_ERROR_INVALID_DEVICE);
        }
        assert_eq!((ordinal, can), (1, [1, 0]));
    });
}

#[test]
fn kernels_reach_a_peer_when_allowed() {
    alone("kernels_reach_a_peer_when_allowed", |[zero, one]| {
        let stranger = CudaContext::new_non_primary(1, 0).unwrap();
        zero.bind_to_thread().unwrap();
        let x = buffer(&COUNTING);
        assert_eq!(add(&stranger, x, 1), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);

        one.bind_to_thread().unwrap();
        // SAFETY: the contexts live.
        let enable = |peer: &CudaContext| unsafe { sys::cuCtxEnablePeerAccess(peer.cu_ctx(), 0) };
        assert_eq!(enable(&one), CUresult::CUDA_ERROR_INVALID_DEVICE);
        assert_eq!(enable(&zero), CUresult::CUDA_SUCCESS);
        assert_eq!(enable(&zero), CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
        assert_eq!(add(&one, x, 1000), CUresult::CUDA_SUCCESS);
        zero.bind_to_thread().unwrap();
        assert_eq!(words(x), COUNTING.map(|w| w + 1000));

        // The other way was not allowed, and this way no longer is.
        one.bind_to_thread().unwrap();
        let y = buffer(&COUNTING);
        // SAFETY: the contexts live.
        let disable = || unsafe { sys::cuCtxDisablePeerAccess(zero.cu_ctx()) };
        assert_eq!(disable(), CUresult::CUDA_SUCCESS);
        assert_eq!(disable(), CUresult::CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
        assert_eq!(add(&one, x, 1), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(add(&zero, y, 1), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}

#[test]
fn copies_between_devices_need_no_peer_access() {
    alone("copies_between_devices_need_no_peer_access", |[zero, one]| {
        zero.bind_to_thread().unwrap();
        let x = buffer(&COUNTING);
        one.bind_to_thread().unwrap();
        let y = buffer(&[0; N]);
        // The plain copy comes after all work of both contexts, and before what follows.
        let busy = zero.new_stream().unwrap();
        // SAFETY: all ranges are inside their buffers.
        unsafe {
            sys::cuMemsetD32Async(x, 7, N / 2, busy.cu_stream()).result().unwrap();
            sys::cuMemcpyPeer(y, one.cu_ctx(), x, zero.cu_ctx(), 4 * N).result().unwrap();
            sys::cuMemsetD32Async(x, 9, N, busy.cu_stream()).result().unwrap();
        }
        let mut expected = COUNTING;
        expected[..N / 2].fill(7);
        assert_eq!(words(y), expected);

        // The asynchronous one has its stream's order, here with an event of the other device.
        let stream = one.new_stream().unwrap();
        stream.wait(&busy.record_event(None).unwrap()).unwrap();
        // SAFETY: as above.
        unsafe {
            sys::cuMemcpyPeerAsync(y, one.cu_ctx(), x, zero.cu_ctx(), 4 * N, stream.cu_stream())
                .result()
                .unwrap();
        }
        stream.synchronize().unwrap();
        assert_eq!(words(y), [9; N]);
    });
}
