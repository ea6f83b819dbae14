//! Work in different streams that no event, stream order or wait orders.
//!
//! Each test runs its program twice, in processes of their own: broken, where the client must get an error and stderr
//! must name both sides, and mended, with all checks on, where every value must be right and nothing may be said.

use std::sync::Arc;

use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, LaunchConfig, PushKernelArg, result,
    sys::{self, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode_enum},
};
use cudarc::nvrtc::Ptx;

use crate::{common, nvrtc};

const SOURCE: &str = r#"#line 1 "pipeline.cu"
extern "C" __global__ void produce(unsigned* x, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = i;
}
extern "C" __global__ void consume(unsigned* out, const unsigned* x, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] + 1;
}
extern "C" __global__ void count(unsigned* x) { atomicAdd(x, 1); }
"#;

const N: usize = 1000;

/// Two buffers of `N` zeros, and kernels.
struct Setup {
    ctx: Arc<CudaContext>,
    produce: CudaFunction,
    consume: CudaFunction,
    count: CudaFunction,
    x: u64,
    out: u64,
}

fn setup() -> Setup {
    common::load();
    let ctx = CudaContext::new(0).unwrap();
    // SAFETY: the programs order their streams themselves, or fail to, which is what is tested.
    unsafe { ctx.disable_event_tracking() };
    let ptx = nvrtc::ptx(SOURCE, "pipeline.cu", "compute_80", &[]);
    let module = ctx.load_module(Ptx::from_src(ptx)).unwrap();
    let kernel = |name| module.load_function(name).unwrap();
    let zeros = || {
        // SAFETY: the allocation has N words.
        unsafe {
            let x = result::malloc_sync(4 * N).unwrap();
            result::memset_d8_sync(x, 0, 4 * N).unwrap();
            x
        }
    };
    let (x, out) = (zeros(), zeros());
    ctx.synchronize().unwrap();
    Setup { produce: kernel("produce"), consume: kernel("consume"), count: kernel("count"), ctx, x, out }
}

impl Setup {
    fn stream(&self) -> Arc<CudaStream> {
        self.ctx.new_stream().unwrap()
    }

    fn produce(&self, stream: &CudaStream) {
        let n = N as u32;
        let config = LaunchConfig::for_num_elems(n);
        // SAFETY: the buffer has n words.
        unsafe { stream.launch_builder(&self.produce).arg(&self.x).arg(&n).launch(config) }.unwrap();
    }

    fn consume(&self, stream: &CudaStream) {
        let n = N as u32;
        let config = LaunchConfig::for_num_elems(n);
        let mut builder = stream.launch_builder(&self.consume);
        // SAFETY: the buffers have n words.
        unsafe { builder.arg(&self.out).arg(&self.x).arg(&n).launch(config) }.unwrap();
    }

    fn set(&self, stream: &CudaStream, value: u32) {
        // SAFETY: the buffer has N words.
        unsafe { sys::cuMemsetD32Async(self.x, value, N, stream.cu_stream()) }.result().unwrap();
    }

    fn order(&self, first: &CudaStream, second: &CudaStream) {
        second.wait(&first.record_event(None).unwrap()).unwrap();
    }

    fn words(&self, at: u64) -> Vec<u32> {
        let mut bytes = vec![0u8; 4 * N];
        // SAFETY: the buffer has N words.
        unsafe { result::memcpy_dtoh_sync(&mut bytes, at) }.unwrap();
        bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect()
    }
}

/// Waits for the streams in turn; the first error.
fn wait(streams: &[&CudaStream]) -> CUresult {
    let failed = streams.iter().find_map(|stream| stream.synchronize().err());
    failed.map_or(CUresult::CUDA_SUCCESS, |e| e.0)
}

/// Words from 0, one more each.
fn counting(from: u32) -> Vec<u32> {
    (from..from + N as u32).collect()
}

/// `program` is told whether to be broken, and returns what waiting for its streams gave. `says` is what the report must
/// hold.
fn check(test: &str, program: impl FnOnce(bool) -> CUresult, says: &[&str]) {
    let test = format!("streams::{test}");
    let run =
        |broken: &str| common::alone(&test, &[("SOFTCUDA_CHECK", "all"), ("SOFTCUDA_TEST_BROKEN", broken)]);
    let Some(output) = run("1") else {
        let broken = std::env::var("SOFTCUDA_TEST_BROKEN").unwrap() == "1";
        let expected = if broken { CUresult::CUDA_ERROR_LAUNCH_FAILED } else { CUresult::CUDA_SUCCESS };
        assert_eq!(program(broken), expected);
        return;
    };
    let report = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "broken: {report}");
    let line = report.lines().find(|line| line.contains("races with")).expect("a report of a race");
    for part in says {
        assert!(line.contains(part), "{line}\ndoes not say {part:?}");
    }
    let output = run("0").expect("this is the first process");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("softcuda:"), "mended: {said}");
}

#[test]
fn an_event_is_missing() {
    let program = |broken: bool| {
        let s = setup();
        let (a, b) = (s.stream(), s.stream());
        s.produce(&a);
        if !broken {
            s.order(&a, &b);
        }
        s.consume(&b);
        let done = wait(&[&b, &a]);
        if !broken {
            assert_eq!(s.words(s.out), counting(1));
        }
        done
    };
    check(
        "an_event_is_missing",
        program,
        &[
            "softcuda: produce: store of 4 bytes at the global address",
            "in stream 0x5c",
            "races with a load by the kernel consume in stream 0x5c",
            "pipeline.cu:7 (nothing orders them) in ",
            "pipeline.cu:3, block (0,0,0) thread (0,0,0)",
            "at byte 0 of the allocation",
        ],
    );
}

#[test]
fn a_non_blocking_stream_does_not_wait_for_the_default_stream() {
    let program = |broken: bool| {
        let s = setup();
        let mut stream = std::ptr::null_mut();
        let n = N as u32;
        let (mut x, mut words) = (s.x, n);
        let mut args: [*mut std::ffi::c_void; 2] = [(&raw mut x).cast(), (&raw mut words).cast()];
        // SAFETY: the stream is made once and never destroyed; the arguments are those of `produce`.
        unsafe {
            sys::cuStreamCreate(&mut stream, u32::from(broken)).result().unwrap();
            let f = s.produce.cu_function();
            let none = std::ptr::null_mut();
            sys::cuLaunchKernel(f, n.div_ceil(64), 1, 1, 64, 1, 1, 0, stream, args.as_mut_ptr(), none)
                .result()
                .unwrap();
        }
        // A copy in the default stream.
        let seen = s.words(s.x);
        if !broken {
            assert_eq!(seen, counting(0));
        }
        // SAFETY: the stream lives.
        unsafe { sys::cuStreamSynchronize(stream) }
    };
    check(
        "a_non_blocking_stream_does_not_wait_for_the_default_stream",
        program,
        &["produce: store", "races with a copy in the default stream", "pipeline.cu:3"],
    );
}

#[test]
fn a_copy_overwrites_what_a_kernel_still_reads() {
    let program = |broken: bool| {
        let s = setup();
        let (compute, copies) = (s.stream(), s.stream());
        s.produce(&compute);
        compute.synchronize().unwrap();
        s.consume(&compute);
        if !broken {
            s.order(&compute, &copies);
        }
        // SAFETY: the buffers have N words, and pageable memory is read by the call.
        unsafe { result::memcpy_htod_async(s.x, &[9u8; 4 * N], copies.cu_stream()) }.unwrap();
        let done = wait(&[&compute, &copies]);
        if !broken {
            assert_eq!(s.words(s.out), counting(1));
            assert_eq!(s.words(s.x), vec![0x0909_0909; N]);
        }
        done
    };
    check(
        "a_copy_overwrites_what_a_kernel_still_reads",
        program,
        &["softcuda: a copy: its write at 0x", "races with a load by the kernel consume", "pipeline.cu:7"],
    );
}

#[test]
fn a_wait_for_the_wrong_stream() {
    let program = |broken: bool| {
        let s = setup();
        let (a, b) = (s.stream(), s.stream());
        s.produce(&a);
        // The host waits, for whom it should or not.
        let first = wait(&[if broken { &b } else { &a }]);
        assert_eq!(first, CUresult::CUDA_SUCCESS);
        s.set(&b, 7);
        let done = wait(&[&a, &b]);
        if !broken {
            assert_eq!(s.words(s.x), vec![7; N]);
        }
        done
    };
    check(
        "a_wait_for_the_wrong_stream",
        program,
        &["softcuda: a memset: its write at 0x", "races with a store by the kernel produce"],
    );
}

#[test]
fn branches_of_a_graph_write_the_same_words() {
    let program = |broken: bool| {
        let s = setup();
        let (a, b) = (s.stream(), s.stream());
        a.begin_capture(CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        s.order(&a, &b);
        s.set(&a, 5);
        if !broken {
            s.order(&a, &b);
        }
        s.produce(&b);
        s.order(&b, &a);
        let graph = a.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        // Launches of a graph come one after the other.
        graph.launch().unwrap();
        graph.launch().unwrap();
        let done = wait(&[&a]);
        if !broken {
            assert_eq!(s.words(s.x), counting(0));
        }
        done
    };
    check(
        "branches_of_a_graph_write_the_same_words",
        program,
        &["produce: store", "another branch of a graph in stream 0x5c", "races with a memset in"],
    );
}

#[test]
fn memory_is_freed_in_another_stream() {
    let program = |broken: bool| {
        let mut s = setup();
        let (a, b) = (s.stream(), s.stream());
        // SAFETY: freed below, and nowhere else.
        s.x = unsafe { result::malloc_async(a.cu_stream(), 4 * N) }.unwrap();
        s.produce(&a);
        s.consume(&a);
        if !broken {
            s.order(&a, &b);
        }
        // SAFETY: allocated above.
        unsafe { result::free_async(s.x, b.cu_stream()) }.unwrap();
        let done = wait(&[&a, &b]);
        if !broken {
            assert_eq!(s.words(s.out), counting(1));
        }
        done
    };
    check(
        "memory_is_freed_in_another_stream",
        program,
        &["softcuda: a free (cuMemFreeAsync): its write at 0x", "by the kernel produce"],
    );
}

#[test]
fn streams_may_count_together() {
    let program = |broken: bool| {
        let s = setup();
        let streams = [s.stream(), s.stream(), s.stream()];
        for stream in &streams {
            let config = LaunchConfig { grid_dim: (4, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
            // SAFETY: the kernel adds to one word.
            unsafe { stream.launch_builder(&s.count).arg(&s.x).launch(config) }.unwrap();
        }
        if broken {
            // Zeroing is no atomic.
            s.set(&streams[0], 0);
        }
        let done = wait(&[&streams[2], &streams[1], &streams[0]]);
        if !broken {
            assert_eq!(s.words(s.x)[0], 3 * 4 * 64);
        }
        done
    };
    check(
        "streams_may_count_together",
        program,
        &["a memset: its write", "races with a store by the kernel count", "pipeline.cu:9"],
    );
}
