//! What softcuda does not do is refused by name: PTX at module load, in the error log, and calls with
//! `CUDA_ERROR_NOT_SUPPORTED` and a line on stderr. The crate's README lists the same.

mod common;
#[path = "common/nvrtc.rs"]
mod nvrtc;

use std::{
    ffi::{CString, c_void},
    ptr::null_mut,
};

use cudarc::driver::{
    CudaContext,
    sys::{self, CUjit_option_enum as Option_, CUresult},
};

/// A kernel with this body loads, or the code and the error log.
fn load(target: &str, body: &str) -> Result<(), (CUresult, String)> {
    load_ptx(format!(
        ".version 8.6\n.target {target}\n.address_size 64\n.shared .align 128 .b8 tile[1024];\n\
         .visible .entry k(.param .u64 p) {{\n\
         .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>;\n{body}\nret;\n}}\n"
    ))
}

fn load_ptx(ptx: String) -> Result<(), (CUresult, String)> {
    let ptx = CString::new(ptx).unwrap();
    let mut log = [0u8; 512];
    let mut names = [Option_::CU_JIT_ERROR_LOG_BUFFER, Option_::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len())];
    let mut module = null_mut();
    // SAFETY: the PTX ends with a zero byte, and the options describe `log`.
    let code = unsafe {
        let (names, values) = (names.as_mut_ptr(), values.as_mut_ptr());
        sys::cuModuleLoadDataEx(&mut module, ptx.as_ptr().cast(), 2, names, values)
    };
    match code {
        CUresult::CUDA_SUCCESS => Ok(()),
        code => {
            let end = log.iter().position(|&byte| byte == 0).unwrap();
            Err((code, String::from_utf8_lossy(&log[..end]).into_owned()))
        }
    }
}

#[test]
fn instructions_that_are_not_built() {
    // Body, and what the log must hold. The body is line 7.
    const CASES: [(&str, &str); 18] = [
        ("wgmma.fence.sync.aligned;", "wgmma.fence.sync.aligned: wgmma (warpgroup matrix instructions)"),
        (
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd1, %rd2, 1, 1, 1, 0, 0;",
            "wgmma (warpgroup matrix instructions)",
        ),
        ("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [tile], 32;", "tcgen05 (tensor memory)"),
        ("mbarrier.init.shared.b64 [tile], 1;", "mbarrier.init.shared.b64: mbarrier"),
        ("mbarrier.arrive.shared.b64 %rd1, [tile];", "mbarrier"),
        ("cp.async.mbarrier.arrive.shared.b64 [tile];", "mbarrier"),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1], 16, [tile];",
            "TMA",
        ),
        ("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%rd1, {%r1}], [tile];", "TMA"),
        (
            "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd1], [tile], 128;",
            "TMA (tensor maps)",
        ),
        ("tex.1d.v4.f32.s32 {%f1,%f2,%f3,%f4}, [%rd1, {%r1}];", "textures"),
        ("suld.b.1d.b32.trap %r1, [%rd1, {%r2}];", "surfaces"),
        ("sust.b.1d.b32.trap [%rd1, {%r2}], %r1;", "surfaces"),
        ("barrier.cluster.arrive;", "thread block clusters"),
        ("mapa.u64 %rd1, %rd2, %r1;", "thread block clusters"),
        ("griddepcontrol.wait;", "programmatic dependent launch"),
        ("setmaxnreg.inc.sync.aligned.u32 240;", "setmaxnreg"),
        ("multimem.red.add.f32 [%rd1], %f1;", "multimem"),
        ("wmma.load.a.sync.aligned.row.m16n16k16.f16 {%r1,%r2,%r3,%r4,%r5,%r6,%r7,%r8}, [%rd1];", "wmma"),
    ];
    let Some(output) = common::alone("instructions_that_are_not_built", &[("SOFTCUDA_ARCH", "sm_90")]) else {
        common::load();
        let _ctx = CudaContext::new(0).unwrap();
        assert_eq!(load("sm_90a", "mov.u32 %r1, 1;"), Ok(()));
        for (body, what) in CASES {
            let (code, log) = load("sm_90a", body).expect_err(body);
            assert_eq!(code, CUresult::CUDA_ERROR_NOT_SUPPORTED, "{body}: {log}");
            assert!(log.starts_with("ptx line 7: ") && log.contains(what), "{body}: {log}");
        }
        // An instruction that nobody knows is named too.
        let (_, log) = load("sm_90a", "frobnicate.b32 %r1, %r2;").unwrap_err();
        assert_eq!(log, "ptx line 7: unknown instruction frobnicate.b32");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What CUDA C++ has and softcuda has not, in the PTX that NVRTC makes of it.
#[test]
fn cuda_that_is_not_built() {
    const CASES: [(&str, &str); 7] = [
        (
            r#"extern "C" __device__ int printf(const char*, ...);
extern "C" __global__ void k(int* out) { printf("%d\n", out[0]); }"#,
            "printf in a kernel",
        ),
        (
            r#"extern "C" __device__ void* malloc(size_t);
extern "C" __global__ void k(int** out) { out[0] = (int*)malloc(8); }"#,
            "malloc in a kernel",
        ),
        (
            r#"extern "C" __device__ void free(void*);
extern "C" __global__ void k(int** out) { free(out[0]); }"#,
            "free in a kernel",
        ),
        (r#"extern "C" __global__ void k(int** out, int n) { out[0] = new int[n]; }"#, "malloc in a kernel"),
        (
            r#"__device__ __noinline__ int one(int x) { return x + 1; }
__device__ __noinline__ int two(int x) { return x * 2; }
extern "C" __global__ void k(int* out, int n) { int (*f)(int) = n > 3 ? one : two; out[0] = f(n); }"#,
            "function",
        ),
        (
            r#"struct Shape { __device__ virtual int area() const = 0; };
struct Square : Shape { int side; __device__ __noinline__ int area() const override { return side * side; } };
struct Line : Shape { __device__ __noinline__ int area() const override { return 0; } };
__device__ __noinline__ int area(const Shape* shape) { return shape->area(); }
extern "C" __global__ void k(int* out, int n) { Square s; s.side = n; Line l; out[0] = area(n > 3 ? (Shape*)&s : &l); }"#,
            "function",
        ),
        (
            r#"__device__ __noinline__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
extern "C" __global__ void k(int* out, int n) { out[0] = fib(n); }"#,
            "recursive",
        ),
    ];
    common::load();
    let _ctx = CudaContext::new(0).unwrap();
    let compile = |source: &str| nvrtc::ptx(source, "refused.cu", "compute_80", &[]);
    assert_eq!(load_ptx(compile(r#"extern "C" __global__ void k(int* out) { out[0] = 1; }"#)), Ok(()));
    for (source, what) in CASES {
        let ptx = compile(source);
        let (code, log) = load_ptx(ptx.clone()).expect_err(&ptx);
        assert_eq!(code, CUresult::CUDA_ERROR_NOT_SUPPORTED, "{log}\n{ptx}");
        // The line is that of the call.
        let line =
            log.strip_prefix("ptx line ").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        let text = ptx.lines().nth(line.expect("a line") - 1).unwrap();
        assert!(log.contains(what) && text.contains("call"), "{log}\n{text}\n{ptx}");
    }
}

#[test]
fn calls_that_are_not_built() {
    // What stderr says, each of them once.
    const SAID: [&str; 12] = [
        "cuLaunchCooperativeKernel",
        "cuTexObjectCreate",
        "cuSurfObjectCreate",
        "cuArrayCreate_v2",
        "cuMipmappedArrayCreate",
        "cuTensorMapEncodeTiled",
        "managed memory (cuMemAllocManaged)",
        "cuMemCreate",
        "cuIpcGetMemHandle",
        "cuImportExternalMemory",
        "linking (cuLinkCreate)",
        "cuGreenCtxCreate",
    ];
    let Some(output) = common::alone("calls_that_are_not_built", &[]) else {
        common::load();
        let _ctx = CudaContext::new(0).unwrap();
        for _ in 0..2 {
            // SAFETY: what is not built looks at no argument.
            let codes = unsafe {
                [
                    sys::cuLaunchCooperativeKernel(null_mut(), 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut()),
                    sys::cuTexObjectCreate(null_mut(), null_mut(), null_mut(), null_mut()),
                    sys::cuSurfObjectCreate(null_mut(), null_mut()),
                    sys::cuArrayCreate_v2(null_mut(), null_mut()),
                    sys::cuMipmappedArrayCreate(null_mut(), null_mut(), 1),
                    sys::cuTensorMapEncodeTiled(
                        null_mut(),
                        sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_UINT8,
                        1,
                        null_mut(),
                        null_mut(),
                        null_mut(),
                        null_mut(),
                        null_mut(),
                        sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                        sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_NONE,
                        sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                        sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
                    ),
                    sys::cuMemAllocManaged(null_mut(), 4, 1),
                    sys::cuMemCreate(null_mut(), 4, null_mut(), 0),
                    sys::cuIpcGetMemHandle(null_mut(), 0),
                    sys::cuImportExternalMemory(null_mut(), null_mut()),
                    sys::cuLinkCreate_v2(0, null_mut(), null_mut(), null_mut()),
                    sys::cuGreenCtxCreate(null_mut(), null_mut(), 0, 0),
                ]
            };
            assert_eq!(codes, [CUresult::CUDA_ERROR_NOT_SUPPORTED; 12]);
        }
        return;
    };
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    for what in SAID {
        let line = format!("softcuda: {what} is not built");
        assert_eq!(report.lines().filter(|said| *said == line).count(), 1, "{line:?} in\n{report}");
    }
}
