// Gated activations: out[r, i] = act(x[r, i]) * x[r, INTER + i]. x: [rows, 2 * INTER] T; out: [rows, INTER] T.
// Oracle: reference/src/activation.rs. Shapes checked by src/kernels/activation.rs.
// JIT constants: DTYPE, INTER, GATE (0 SiLU, 1 GELU by tanh, 2 GELU by erf); VECTOR (1: rows at multiples of 16 bytes).
//   naive        one thread an element; the readable baseline
//   vectorised   16 bytes a thread
#include "common.cuh"

// x / (1 + e^-y). 16-bit results leave room for the approximations of the hardware, 2^-20 off or so.
__device__ __forceinline__ float sigmoid_times(float x, float y) {
    if constexpr (sizeof(T) == 4) return x / (1.0f + expf(-y));
    float inverse;
    asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + __expf(-y)));
    return x * inverse;
}

// In forms without a difference of like numbers, which would lose the small values of large negative x.
__device__ __forceinline__ float gate(float x) {
#if GATE == 0
    return sigmoid_times(x, x);
#elif GATE == 1
    // (1 + tanh u) / 2 = 1 / (1 + e^-2u)
    constexpr float TWICE_SQRT_2_OVER_PI = 1.5957691216f;
    return sigmoid_times(x, TWICE_SQRT_2_OVER_PI * (x + 0.044715f * x * x * x));
#else
    constexpr float SQRT_HALF = 0.7071067812f;
    return 0.5f * x * erfcf(-x * SQRT_HALF);
#endif
}

// Grid: (ceil(INTER / 256), rows), 256 threads.
extern "C" __global__ void activation_naive(const T* x, T* out, u32 x_stride, u32 out_stride) {
    wait_for_previous();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (i >= INTER) return;
    const T* in = x + u64(row) * x_stride;
    out[u64(row) * out_stride + i] = from_f32<T>(gate(to_f32(in[i])) * to_f32(in[INTER + i]));
}

#if VECTOR
// Grid: (ceil(INTER / (256 * vector)), rows), 256 threads.
extern "C" __global__ void __launch_bounds__(256) activation_vectorised(const T* x, T* out, u32 x_stride,
                                                                        u32 out_stride) {
    wait_for_previous();
    constexpr u32 N = Vec<T>::N;
    const u32 i = (blockIdx.x * 256 + threadIdx.x) * N, row = blockIdx.y;
    if (i >= INTER) return;
    const T* in = x + u64(row) * x_stride;
    const Vec<T> g = load_vec(in + i), up = load_vec(in + INTER + i);
    Vec<T> y;
#pragma unroll
    for (u32 j = 0; j < N; j++) y.at[j] = from_f32<T>(gate(to_f32(g.at[j])) * to_f32(up.at[j]));
    store_vec(out + u64(row) * out_stride + i, y);
}
#endif
