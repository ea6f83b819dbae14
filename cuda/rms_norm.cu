// RMSNorm: out = x / sqrt(mean(x^2) + eps) * (weight + offset) by row, alone or of residual += x (rounded to T first).
//   x, residual, out: [rows, DIM] T, rows x_stride, residual_stride, out_stride elements apart     weight: [DIM] T
// Sums in f32. Oracle: reference/src/{rms_norm,add_rms_norm}.rs. Shapes checked by src/kernels/rms_norm.rs.
// JIT constants: DTYPE, DIM; VECTOR (1: rows lie at multiples of 16 bytes).
//   naive           one thread a row; the readable baseline
//   warp_per_row    one warp a row, which stays in registers: short rows, many of them
//   block_per_row   one block a row, which stays in registers, 16 bytes an access
// Every kernel has a variant `add_…` with the residual addition before. A row's result does not depend on the others.
#include "common.cuh"

struct Norm {
    const T* x;
    T* residual;  // null without the addition
    const T* weight;
    T* out;
    u32 rows, x_stride, residual_stride, out_stride;
    float eps, offset;
};

__device__ __forceinline__ float scale_of(float sum_sq, float eps) { return 1.0f / sqrtf(sum_sq / DIM + eps); }

// ---- naive ----

template <bool ADD>
__device__ __forceinline__ void naive(const Norm& n) {
    const u32 row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= n.rows) return;
    const T* x = n.x + u64(row) * n.x_stride;
    T* residual = n.residual + u64(row) * n.residual_stride;
    T* out = n.out + u64(row) * n.out_stride;
    float sum_sq = 0.0f;
    for (u32 i = 0; i < DIM; i++) {
        float v = to_f32(x[i]);
        if (ADD) {
            residual[i] = from_f32<T>(to_f32(residual[i]) + v);
            v = to_f32(residual[i]);
        }
        sum_sq += v * v;
    }
    const float scale = scale_of(sum_sq, n.eps);
    const T* from = ADD ? residual : x;
    for (u32 i = 0; i < DIM; i++) out[i] = from_f32<T>(to_f32(from[i]) * scale * (to_f32(n.weight[i]) + n.offset));
}

// Grid: ceil(rows / 128), 128 threads.
extern "C" __global__ void __launch_bounds__(128) rms_norm_naive(const __grid_constant__ Norm n) {
    wait_for_previous();
    naive<false>(n);
}
extern "C" __global__ void __launch_bounds__(128) add_rms_norm_naive(const __grid_constant__ Norm n) {
    wait_for_previous();
    naive<true>(n);
}

#if VECTOR
// ---- one row by THREADS threads, each with every THREADS-th vector of it in registers ----

// `total` makes the sum of all threads' sums known to each of them. EARLY: loads the weights before the kernel before ends,
// for which there must be registers; the kernel has not waited yet.
template <bool ADD, u32 THREADS, bool EARLY, class Total>
__device__ __forceinline__ void row_in_registers(const Norm& n, u32 row, u32 thread, Total total) {
    constexpr u32 N = Vec<T>::N, VECS = DIM / N, MINE = ceil_div(VECS, THREADS);
    [[maybe_unused]] Vec<T> weights[EARLY ? MINE : 1];
    if constexpr (EARLY) {
#pragma unroll
        for (u32 m = 0; m < MINE; m++)
            if (m * THREADS + thread < VECS) weights[m] = load_vec(n.weight + (m * THREADS + thread) * N);
        wait_for_previous();
    }
    const T* x = n.x + u64(row) * n.x_stride;
    T* residual = n.residual + u64(row) * n.residual_stride;
    Vec<T> mine[MINE];
    float sum_sq = 0.0f;
#pragma unroll
    for (u32 m = 0; m < MINE; m++) {
        const u32 v = m * THREADS + thread;
        if (v >= VECS) break;
        mine[m] = load_vec(x + v * N);
        if (ADD) {
            const Vec<T> r = load_vec(residual + v * N);
#pragma unroll
            for (u32 j = 0; j < N; j++) mine[m].at[j] = from_f32<T>(to_f32(r.at[j]) + to_f32(mine[m].at[j]));
            store_vec(residual + v * N, mine[m]);
        }
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            const float f = to_f32(mine[m].at[j]);
            sum_sq += f * f;
        }
    }
    const float scale = scale_of(total(sum_sq), n.eps);
    T* out = n.out + u64(row) * n.out_stride;
#pragma unroll
    for (u32 m = 0; m < MINE; m++) {
        const u32 v = m * THREADS + thread;
        if (v >= VECS) break;
        const Vec<T> w = EARLY ? weights[EARLY ? m : 0] : load_vec(n.weight + v * N);
        Vec<T> y;
#pragma unroll
        for (u32 j = 0; j < N; j++)
            y.at[j] = from_f32<T>(to_f32(mine[m].at[j]) * scale * (to_f32(w.at[j]) + n.offset));
        store_vec(out + v * N, y);
    }
}

// ---- warp_per_row ----

constexpr u32 ROWS = 4;  // of a block

template <bool ADD>
__device__ __forceinline__ void warp_per_row(const Norm& n) {
    const u32 row = blockIdx.x * ROWS + threadIdx.x / WARP;
    if (row < n.rows)
        row_in_registers<ADD, WARP, false>(n, row, threadIdx.x % WARP, [](float sum) { return warp_sum(sum); });
}

// Grid: ceil(rows / 4), 128 threads.
extern "C" __global__ void __launch_bounds__(ROWS * WARP) rms_norm_warp_per_row(const __grid_constant__ Norm n) {
    wait_for_previous();
    warp_per_row<false>(n);
}
extern "C" __global__ void __launch_bounds__(ROWS * WARP) add_rms_norm_warp_per_row(const __grid_constant__ Norm n) {
    wait_for_previous();
    warp_per_row<true>(n);
}

// ---- block_per_row ----

template <bool ADD>
__device__ __forceinline__ void block_per_row(const Norm& n) {
    __shared__ float sums[WARP];
    row_in_registers<ADD, 256, true>(n, blockIdx.x, threadIdx.x, [](float sum) { return block_sum(sum, sums); });
}

// Grid: rows, 256 threads.
extern "C" __global__ void __launch_bounds__(256) rms_norm_block_per_row(const __grid_constant__ Norm n) {
    block_per_row<false>(n);
}
extern "C" __global__ void __launch_bounds__(256) add_rms_norm_block_per_row(const __grid_constant__ Norm n) {
    block_per_row<true>(n);
}
#endif
