// The readable baseline of a linear layer, and the one for f32: out[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]).
//   x: [rows, IN] T, rows x_stride elements apart   weight: [OUT, IN] T   bias: [OUT] T or null   y: [rows, OUT] T or f32
// Oracle: reference/src/linear.rs. Shapes checked by src/kernels/linear.rs. JIT constants: DTYPE, IN, OUT_F32 (0 or 1).
//   naive   one warp an element of y, lanes stride over IN; the same order of sums whatever the rows
#include "common.cuh"

#if OUT_F32
using Out = float;
#else
using Out = T;
#endif

// Grid: (ceil(out / 8), rows), 256 threads.
extern "C" __global__ void __launch_bounds__(256)
linear_naive(const T* x, const T* weight, const T* bias, Out* y, u32 out, u32 x_stride) {
    const u32 lane = threadIdx.x % WARP, column = blockIdx.x * 8 + threadIdx.x / WARP, row = blockIdx.y;
    if (column >= out) return;
    const T* a = x + u64(row) * x_stride;
    const T* b = weight + u64(column) * IN;
    float sum = 0.0f;
    for (u32 k = lane; k < IN; k += WARP) sum += to_f32(a[k]) * to_f32(b[k]);
    sum = warp_sum(sum);
    if (lane == 0) y[u64(row) * out + column] = from_f32<Out>(bias ? sum + to_f32(bias[column]) : sum);
}
