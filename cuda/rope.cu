// q/k-norm (where the model has it) and rotary embedding of the first heads + kv_heads heads of a packed qkv, in place;
// fused: keys and values into the paged cache in the same pass.
//   qkv: [tokens, heads + 2 * kv_heads, HEAD_DIM] T, tokens qkv_stride elements apart   q_norm, k_norm: [HEAD_DIM] T
//   cos_sin: [positions, HEAD_DIM] f32, a position's cosines, then its sines   positions, slots: [tokens] i32
//   k_cache, v_cache: [blocks * block_size, kv_heads, HEAD_DIM] T
// Element i pairs with i + HEAD_DIM / 2. Between norm and rotation nothing is rounded. Oracle: reference/src/{rope,
// rms_norm,kv_store}.rs. Shapes checked by src/kernels/{rope,kv_store}.rs.
// JIT constants: DTYPE, HEAD_DIM, QK_NORM (0 or 1).
//   naive   one thread a head; the readable baseline
//   warp    one warp a head, which stays in registers
//   fused   warp, and the store: a rotated key is written to the cache as it is to qkv, a value is copied
#include "common.cuh"

constexpr u32 HALF = HEAD_DIM / 2;

struct Rope {
    T* qkv;
    const T *q_norm, *k_norm;
    const float* cos_sin;
    const int *positions, *slots;
    T *k_cache, *v_cache;
    u32 tokens, qkv_stride, heads, kv_heads, cos_sin_stride;
    float eps, offset;
};

__device__ __forceinline__ float norm_scale(float sum_sq, float eps) { return 1.0f / sqrtf(sum_sq / HEAD_DIM + eps); }

// The pair (a, b) turned.
__device__ __forceinline__ void rotate(float& a, float& b, float cos, float sin) {
    const float turned = a * cos - b * sin;
    b = b * cos + a * sin;
    a = turned;
}

// Grid: ceil(tokens * (heads + kv_heads) / 128), 128 threads.
extern "C" __global__ void __launch_bounds__(128) rope_naive(const __grid_constant__ Rope r) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, rotated = r.heads + r.kv_heads;
    const u32 token = i / rotated, head = i % rotated;
    if (token >= r.tokens) return;
    T* x = r.qkv + u64(token) * r.qkv_stride + head * HEAD_DIM;
    const float* cos_sin = r.cos_sin + u64(u32(r.positions[token])) * r.cos_sin_stride;
#if QK_NORM
    const T* weight = head < r.heads ? r.q_norm : r.k_norm;
    float sum_sq = 0.0f;
    for (u32 d = 0; d < HEAD_DIM; d++) sum_sq += to_f32(x[d]) * to_f32(x[d]);
    const float scale = norm_scale(sum_sq, r.eps);
#endif
    for (u32 d = 0; d < HALF; d++) {
        float a = to_f32(x[d]), b = to_f32(x[d + HALF]);
#if QK_NORM
        a *= scale * (to_f32(weight[d]) + r.offset);
        b *= scale * (to_f32(weight[d + HALF]) + r.offset);
#endif
        rotate(a, b, cos_sin[d], cos_sin[d + HALF]);
        x[d] = from_f32<T>(a);
        x[d + HALF] = from_f32<T>(b);
    }
}

constexpr u32 PAIRS = ceil_div(HALF, WARP);  // of a lane
constexpr u32 WARPS = 4;                     // of a block

// Norms and turns one head; a lane has the pairs lane, lane + 32, …
__device__ __forceinline__ void head_by_warp(const Rope& r, const T* x, const T* weight, const float* cos_sin,
                                             float (&a)[PAIRS], float (&b)[PAIRS]) {
    const u32 lane = threadIdx.x % WARP;
    float sum_sq = 0.0f;
#pragma unroll
    for (u32 p = 0; p < PAIRS; p++) {
        const u32 d = p * WARP + lane;
        a[p] = d < HALF ? to_f32(x[d]) : 0.0f;
        b[p] = d < HALF ? to_f32(x[d + HALF]) : 0.0f;
        sum_sq += a[p] * a[p] + b[p] * b[p];
    }
#if QK_NORM
    const float scale = norm_scale(warp_sum(sum_sq), r.eps);
#endif
#pragma unroll
    for (u32 p = 0; p < PAIRS; p++) {
        const u32 d = p * WARP + lane;
        if (d >= HALF) continue;
#if QK_NORM
        a[p] *= scale * (to_f32(weight[d]) + r.offset);
        b[p] *= scale * (to_f32(weight[d + HALF]) + r.offset);
#endif
        rotate(a[p], b[p], cos_sin[d], cos_sin[d + HALF]);
    }
}

__device__ __forceinline__ void store_head(T* to, const float (&a)[PAIRS], const float (&b)[PAIRS]) {
#pragma unroll
    for (u32 p = 0; p < PAIRS; p++) {
        const u32 d = p * WARP + threadIdx.x % WARP;
        if (d >= HALF) continue;
        to[d] = from_f32<T>(a[p]);
        to[d + HALF] = from_f32<T>(b[p]);
    }
}

// Grid: (ceil((heads + kv_heads) / 4), tokens), 128 threads.
extern "C" __global__ void __launch_bounds__(WARPS* WARP) rope_warp(const __grid_constant__ Rope r) {
    const u32 head = blockIdx.x * WARPS + threadIdx.x / WARP, token = blockIdx.y;
    if (head >= r.heads + r.kv_heads) return;
    T* x = r.qkv + u64(token) * r.qkv_stride + head * HEAD_DIM;
    const float* cos_sin = r.cos_sin + u64(u32(r.positions[token])) * r.cos_sin_stride;
    float a[PAIRS], b[PAIRS];
    head_by_warp(r, x, head < r.heads ? r.q_norm : r.k_norm, cos_sin, a, b);
    store_head(x, a, b);
}

// Grid: (ceil((heads + 2 * kv_heads) / 4), tokens), 128 threads.
extern "C" __global__ void __launch_bounds__(WARPS* WARP) rope_store_fused(const __grid_constant__ Rope r) {
    const u32 head = blockIdx.x * WARPS + threadIdx.x / WARP, token = blockIdx.y, lane = threadIdx.x % WARP;
    if (head >= r.heads + 2 * r.kv_heads) return;
    T* x = r.qkv + u64(token) * r.qkv_stride + head * HEAD_DIM;
    const int slot = r.slots[token];
    if (head >= r.heads + r.kv_heads) {
        if (slot < 0) return;
        T* to = r.v_cache + (u64(u32(slot)) * r.kv_heads + head - r.heads - r.kv_heads) * HEAD_DIM;
        for (u32 d = lane; d < HEAD_DIM; d += WARP) to[d] = x[d];
        return;
    }
    const float* cos_sin = r.cos_sin + u64(u32(r.positions[token])) * r.cos_sin_stride;
    float a[PAIRS], b[PAIRS];
    head_by_warp(r, x, head < r.heads ? r.q_norm : r.k_norm, cos_sin, a, b);
    store_head(x, a, b);
    if (head >= r.heads && slot >= 0)
        store_head(r.k_cache + (u64(u32(slot)) * r.kv_heads + head - r.heads) * HEAD_DIM, a, b);
}
