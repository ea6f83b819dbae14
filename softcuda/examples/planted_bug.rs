//! A cudarc program like any other, with a bug in its kernel: the last thread that passes the test is one too many.

use cudarc::{
    driver::{CudaContext, LaunchConfig, PushKernelArg},
    nvrtc::{CompileOptions, compile_ptx_with_opts},
};

const SOURCE: &str = r#"#line 1 "scale.cu"
extern "C" __global__ void scale(float *x, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) {
        x[i] *= factor;
    }
}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ctx = CudaContext::new(0)?;
    println!("{}", ctx.name()?);
    let options = vec!["--generate-line-info".to_string()];
    let ptx = compile_ptx_with_opts(SOURCE, CompileOptions { options, ..CompileOptions::default() })?;
    let scale = ctx.load_module(ptx)?.load_function("scale")?;
    let stream = ctx.default_stream();
    let mut x = stream.clone_htod(&vec![1.0f32; 1000])?;
    // SAFETY: the arguments are those of the kernel. It touches one element too many, which is the bug.
    unsafe {
        stream
            .launch_builder(&scale)
            .arg(&mut x)
            .arg(&2.0f32)
            .arg(&1000)
            .launch(LaunchConfig::for_num_elems(1000))?
    };
    let sum: f32 = stream.clone_dtoh(&x)?.iter().sum();
    println!("sum {sum}");
    Ok(())
}
