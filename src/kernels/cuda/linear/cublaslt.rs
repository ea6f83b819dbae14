//! cuBLASLt where it is installed: NVIDIA's own matrix products, to compare with.
//!
//! The library is asked once for each shape which of its algorithms to use. Its workspace is the call's scratch memory,
//! so that nothing is allocated in a step and calls can be recorded. In a rehearsal it computes, unlike our own kernels:
//! it loads its code when that is first launched, for which a recording cannot wait.

use std::{
    collections::HashMap,
    ptr,
    sync::{Mutex, OnceLock},
};

use cudarc::cublas::sys::cublasOperation_t;
use cudarc::cublaslt::{
    result::{self, CublasError},
    sys,
};

use super::super::super::{Kernel, Linear, LinearArgs, LinearSpec, Op, Unsupported};
use crate::{
    device::{
        Cuda, DType,
        cuda::{CudaBuffer, Target, library::Wanted},
    },
    error::{Error, Result},
};

/// NVIDIA's library.
pub struct CublasLt {
    target: Target,
    /// Whether it can be loaded.
    present: OnceLock<std::result::Result<(), Unsupported>>,
    handle: OnceLock<Handle>,
    algorithms: Mutex<HashMap<Problem, sys::cublasLtMatmulAlgo_t>>,
}

/// The library's state. It is never destroyed: the library stays until the process ends.
struct Handle(sys::cublasLtHandle_t);

// SAFETY: the handle may be used from any thread (cuBLAS documentation, "Thread Safety Considerations" of cuBLASLt).
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Problem {
    spec: LinearSpec,
    rows: usize,
    ldx: usize,
    /// Bytes that weight, x and out lie at multiples of.
    aligned: [u32; 3],
}

/// Bytes of scratch memory: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

impl CublasLt {
    /// For a device of this kind.
    pub fn on(target: Target) -> Self {
        Self { target, present: OnceLock::new(), handle: OnceLock::new(), algorithms: Mutex::default() }
    }

    fn is_present(&self) -> std::result::Result<(), Unsupported> {
        if self.target.ptx {
            return Err(Unsupported("softcuda: it needs a GPU of NVIDIA's".into()));
        }
        Wanted::CublasLt.require().map_err(|error| Unsupported(error.to_string()))?;
        // SAFETY: it only tries to load the library, by names that cudarc will ask for.
        if !unsafe { sys::is_culib_present() } {
            return Err(Unsupported("cuBLASLt was found, but under a name that cudarc does not know".into()));
        }
        Ok(())
    }

    fn handle(&self) -> Result<sys::cublasLtHandle_t> {
        if let Some(handle) = self.handle.get() {
            return Ok(handle.0);
        }
        let new = Handle(result::create_handle().map_err(fail("a handle"))?);
        Ok(self.handle.get_or_init(|| new).0)
    }
}

impl Kernel<Linear, Cuda> for CublasLt {
    fn name(&self) -> &'static str {
        "cublaslt"
    }

    fn about(&self) -> &'static str {
        "NVIDIA's library, where it is installed"
    }

    fn supports(&self, spec: &LinearSpec) -> std::result::Result<(), Unsupported> {
        if spec.bias && spec.out != spec.dtype {
            return Err(Unsupported("a bias of another dtype than the output's".into()));
        }
        self.present.get_or_init(|| self.is_present()).clone()
    }

    fn batch_invariant(&self) -> bool {
        false
    }

    fn scratch(&self, _: &LinearArgs<'_, Cuda>) -> usize {
        WORKSPACE
    }

    fn launch(&self, dev: &Cuda, mut a: LinearArgs<'_, Cuda>, scratch: &mut CudaBuffer) -> Result<()> {
        let (spec, rows) = (Linear::spec(&a), a.x.shape()[0]);
        if rows == 0 {
            return Ok(());
        }
        dev.bind()?;
        let handle = self.handle()?;
        let (weight, x, out) = (a.weight.address(), a.x.address(), a.out.address());
        let aligned = [weight, x, out].map(|address| 1 << address.trailing_zeros().min(8));
        let problem = Problem { spec, rows, ldx: a.x.stride(), aligned };
        let call = Call::new(&problem, a.bias.as_ref().map(|b| b.address()))?;
        let mut algorithms = self.algorithms.lock().expect("no panic holds it");
        let algorithm = match algorithms.get(&problem) {
            Some(known) => *known,
            None => *algorithms.entry(problem).or_insert(call.algorithm(handle, &problem)?),
        };
        drop(algorithms);
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the descriptors are alive and describe the matrices: by the contract's shapes the weight covers `n` rows
        // of `k` elements, x `rows` of `k` that are `ldx` apart, out `rows` of `n`, the bias `n`. Factors are f32, as the
        // call's scale type says, and read before the call returns. The scratch memory has `WORKSPACE` bytes.
        unsafe {
            result::matmul(
                handle,
                call.description.raw,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                weight as *const _,
                call.weight.raw,
                x as *const _,
                call.x.raw,
                out as *const _,
                call.out.raw,
                out as *mut _,
                call.out.raw,
                &algorithm,
                scratch.address() as *mut _,
                WORKSPACE,
                dev.stream().cu_stream().cast(),
            )
        }
        .map_err(fail("a product"))
    }
}

/// A descriptor of the library's.
struct Owned<T: Copy> {
    raw: T,
    destroy: unsafe fn(T) -> std::result::Result<(), CublasError>,
}

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // Nothing can be done about an error, and nothing depends on it.
        // SAFETY: the descriptor was made with this object and is destroyed once.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

/// A product as the library sees it. Its matrices lie column by column, so ours, row by row, are transposed to it:
/// outᵀ = weight · xᵀ, where it finds weightᵀ.
struct Call {
    description: Owned<sys::cublasLtMatmulDesc_t>,
    weight: Owned<sys::cublasLtMatrixLayout_t>,
    x: Owned<sys::cublasLtMatrixLayout_t>,
    out: Owned<sys::cublasLtMatrixLayout_t>,
}

impl Call {
    fn new(problem: &Problem, bias: Option<u64>) -> Result<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let &Problem { spec: LinearSpec { dtype, out, n, k, .. }, rows, ldx, .. } = problem;
        let layout = |dtype, height: usize, width: usize, apart: usize| {
            let raw =
                result::create_matrix_layout(data_type(dtype), height as u64, width as u64, apart as i64)
                    .map_err(fail("a layout"))?;
            Ok::<_, Error>(Owned { raw, destroy: result::destroy_matrix_layout })
        };
        let (sums, f32) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        let raw = result::create_matmul_desc(sums, f32).map_err(fail("a description"))?;
        let description = Owned { raw, destroy: result::destroy_matmul_desc };
        let transposed = cublasOperation_t::CUBLAS_OP_T;
        describe(&description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        if let Some(bias) = bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            describe(&description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            describe(&description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        Ok(Self {
            description,
            weight: layout(dtype, k, n, k)?,
            x: layout(dtype, k, rows, ldx)?,
            out: layout(out, n, rows, n)?,
        })
    }

    /// The library's choice.
    fn algorithm(
        &self,
        handle: sys::cublasLtHandle_t,
        problem: &Problem,
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let raw = result::create_matmul_pref().map_err(fail("a preference"))?;
        let preference = Owned { raw, destroy: result::destroy_matmul_pref };
        let workspace = WORKSPACE as u64;
        prefer(&preference, Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace)?;
        // Parts of k that are summed apart are joined in f32. The library may otherwise join them in the output's dtype,
        // which costs more than rounding the result does.
        let joined = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        prefer(&preference, Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &joined)?;
        let [weight, x, out] = &problem.aligned;
        prefer(&preference, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, weight)?;
        prefer(&preference, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x)?;
        prefer(&preference, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out)?;
        prefer(&preference, Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out)?;
        // SAFETY: all descriptors are alive.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                handle,
                self.description.raw,
                self.weight.raw,
                self.x.raw,
                self.out.raw,
                self.out.raw,
                preference.raw,
            )
        };
        let Problem { spec: LinearSpec { n, k, .. }, rows, .. } = problem;
        Ok(found.map_err(fail(&format!("an algorithm for {rows} rows of {k} to {n}")))?.algo)
    }
}

/// Sets an attribute, whose type is that of `value`.
fn describe<V>(
    description: &Owned<sys::cublasLtMatmulDesc_t>,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &V,
) -> Result<()> {
    // SAFETY: the description is alive; the library copies as many bytes as `value` has, and refuses another number than
    // the attribute's.
    unsafe {
        result::set_matmul_desc_attribute(
            description.raw,
            attribute,
            ptr::from_ref(value).cast(),
            size_of::<V>(),
        )
    }
    .map_err(fail("an attribute of a description"))
}

/// As [`describe`].
fn prefer<V>(
    preference: &Owned<sys::cublasLtMatmulPreference_t>,
    attribute: sys::cublasLtMatmulPreferenceAttributes_t,
    value: &V,
) -> Result<()> {
    // SAFETY: as there.
    unsafe {
        result::set_matmul_pref_attribute(
            preference.raw,
            attribute,
            ptr::from_ref(value).cast(),
            size_of::<V>(),
        )
    }
    .map_err(fail("an attribute of a preference"))
}

fn data_type(dtype: DType) -> sys::cudaDataType_t {
    match dtype {
        DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        DType::I32 => unreachable!("checked"),
    }
}

/// The library's error as ours.
fn fail(what: &str) -> impl FnOnce(CublasError) -> Error {
    let what = what.to_owned();
    move |error| Error::Device { device: "cuda".into(), what: format!("cuBLASLt: {what}: {error}") }
}
