//! A transpose as everybody writes it first: what it moves is counted with `SOFTCUDA_PROFILE`.

use cudarc::{
    driver::{CudaContext, LaunchConfig, PushKernelArg},
    nvrtc::{CompileOptions, compile_ptx_with_opts},
};

const SOURCE: &str = r#"#line 1 "transpose.cu"
extern "C" __global__ void transpose(float *out, const float *in, int n) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    out[x * n + y] = in[y * n + x];
}
"#;

const N: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ctx = CudaContext::new(0)?;
    let options = vec!["--generate-line-info".to_string()];
    let ptx = compile_ptx_with_opts(SOURCE, CompileOptions { options, ..CompileOptions::default() })?;
    let transpose = ctx.load_module(ptx)?.load_function("transpose")?;
    let stream = ctx.default_stream();
    let matrix: Vec<f32> = (0..N * N).map(|i| i as f32).collect();
    let input = stream.clone_htod(&matrix)?;
    let mut out = stream.alloc_zeros::<f32>(N * N)?;
    let (block, blocks) = ((32, 8, 1), (N as u32 / 32, N as u32 / 8, 1));
    let config = LaunchConfig { grid_dim: blocks, block_dim: block, shared_mem_bytes: 0 };
    let mut launch = stream.launch_builder(&transpose);
    launch.arg(&mut out).arg(&input).arg(&(N as i32));
    // SAFETY: the arguments are those of the kernel, and the grid covers the matrix.
    unsafe { launch.launch(config)? };
    let out = stream.clone_dtoh(&out)?;
    let right = (0..N * N).all(|i| out[i] == matrix[i % N * N + i / N]);
    println!("transposed: {right}");
    Ok(())
}
