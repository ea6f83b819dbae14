//! A cudarc program with two streams: one runs a kernel, the other copies its result back. An event is missing between
//! them, unless `--mended` is given.

use cudarc::{
    driver::{CudaContext, LaunchConfig, PushKernelArg},
    nvrtc::{CompileOptions, compile_ptx_with_opts},
};

const SOURCE: &str = r#"#line 1 "squares.cu"
extern "C" __global__ void squares(unsigned *x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] = i * i;
    }
}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ctx = CudaContext::new(0)?;
    let options = vec!["--generate-line-info".to_string()];
    let ptx = compile_ptx_with_opts(SOURCE, CompileOptions { options, ..CompileOptions::default() })?;
    let squares = ctx.load_module(ptx)?.load_function("squares")?;
    // SAFETY: this program orders its streams itself, or should.
    unsafe { ctx.disable_event_tracking() };
    let (compute, copies) = (ctx.new_stream()?, ctx.new_stream()?);
    let mut x = compute.alloc_zeros::<u32>(1000)?;
    compute.synchronize()?;
    // SAFETY: the arguments are those of the kernel.
    unsafe {
        compute.launch_builder(&squares).arg(&mut x).arg(&1000).launch(LaunchConfig::for_num_elems(1000))?
    };
    if std::env::args().any(|arg| arg == "--mended") {
        copies.wait(&compute.record_event(None)?)?;
    }
    let sum: u32 = copies.clone_dtoh(&x)?.iter().sum();
    compute.synchronize()?;
    println!("sum {sum}");
    Ok(())
}
