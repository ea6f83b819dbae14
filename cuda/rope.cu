// q/k-norm (where the model has it) and rotary embedding of the first heads + kv_heads heads of a packed qkv, in place;
// with `store` the keys go to the paged cache instead, and so do the values.
//   qkv: [tokens, heads + 2 * kv_heads, HEAD_DIM] T, tokens qkv_stride elements apart   q_norm, k_norm: [HEAD_DIM] T
//   cos_sin: [positions, HEAD_DIM] f32, a position's cosines, then its sines   positions, slots: [tokens] i32
//   k_cache, v_cache: [blocks * block_size, kv_heads, HEAD_DIM] T; a negative slot is skipped
// Element i pairs with i + HEAD_DIM / 2. Between norm and rotation nothing is rounded. Oracle: reference/src/{rope,
// rms_norm,kv_store}.rs. Shapes checked by src/kernels/{rope,rope_store}.rs.
// JIT constants: DTYPE, HEAD_DIM, QK_NORM (0 or 1).
//   naive   one thread a head; the readable baseline
//   warp    one warp a head, which stays in registers
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

__device__ __forceinline__ T* in_qkv(const Rope& r, u32 token, u32 head) {
    return r.qkv + u64(token) * r.qkv_stride + head * HEAD_DIM;
}
// Where key head i, or value head i - kv_heads, goes; null: nowhere.
__device__ __forceinline__ T* in_cache(const Rope& r, u32 token, u32 i) {
    const int slot = r.slots[token];
    if (slot < 0) return nullptr;
    T* const cache = i < r.kv_heads ? r.k_cache : r.v_cache;
    return cache + (u64(u32(slot)) * r.kv_heads + i % r.kv_heads) * HEAD_DIM;
}

// Norms and turns one head, from x to `to`.
__device__ __forceinline__ void head_by_thread(const Rope& r, u32 token, u32 head, const T* x, T* to) {
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
        to[d] = from_f32<T>(a);
        to[d + HALF] = from_f32<T>(b);
    }
}

// Grid: ceil(tokens * (heads + kv_heads) / 128), 128 threads.
extern "C" __global__ void __launch_bounds__(128) rope_naive(const __grid_constant__ Rope r) {
    wait_for_previous();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, rotated = r.heads + r.kv_heads;
    const u32 token = i / rotated, head = i % rotated;
    if (token >= r.tokens) return;
    T* const x = in_qkv(r, token, head);
    head_by_thread(r, token, head, x, x);
}

// Grid: ceil(tokens * (heads + 2 * kv_heads) / 128), 128 threads.
extern "C" __global__ void __launch_bounds__(128) rope_store_naive(const __grid_constant__ Rope r) {
    wait_for_previous();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, all = r.heads + 2 * r.kv_heads;
    const u32 token = i / all, head = i % all;
    if (token >= r.tokens) return;
    T* const x = in_qkv(r, token, head);
    T* const to = head < r.heads ? x : in_cache(r, token, head - r.heads);
    if (!to) return;
    if (head < r.heads + r.kv_heads)
        head_by_thread(r, token, head, x, to);
    else
        for (u32 d = 0; d < HEAD_DIM; d++) to[d] = x[d];
}

constexpr u32 PAIRS = ceil_div(HALF, WARP);  // of a lane: lane, lane + 32, …
constexpr u32 WARPS = 4;                     // of a block

// What a lane needs to know for a head's pairs; nothing for heads of values, which do not turn. All of it is older than
// the kernel before, so it can be there when that one ends.
struct Turn {
    float cos[PAIRS], sin[PAIRS];
    T weight_a[PAIRS], weight_b[PAIRS];
    __device__ __forceinline__ Turn(const Rope& r, u32 token, u32 head) {
        if (head >= r.heads + r.kv_heads) return;
        const float* const cos_sin = r.cos_sin + u64(u32(r.positions[token])) * r.cos_sin_stride;
        const T* const weight = head < r.heads ? r.q_norm : r.k_norm;
#pragma unroll
        for (u32 p = 0; p < PAIRS; p++) {
            const u32 d = p * WARP + threadIdx.x % WARP;
            if (d >= HALF) continue;
            cos[p] = cos_sin[d];
            sin[p] = cos_sin[d + HALF];
            if (!QK_NORM) continue;
            weight_a[p] = weight[d];
            weight_b[p] = weight[d + HALF];
        }
    }
};

// Norms and turns one head, from x to `to`.
__device__ __forceinline__ void head_by_warp(const Rope& r, const Turn& turn, const T* x, T* to) {
    const u32 lane = threadIdx.x % WARP;
    float a[PAIRS], b[PAIRS];
#pragma unroll
    for (u32 p = 0; p < PAIRS; p++) {
        const u32 d = p * WARP + lane;
        a[p] = d < HALF ? to_f32(x[d]) : 0.0f;
        b[p] = d < HALF ? to_f32(x[d + HALF]) : 0.0f;
    }
#if QK_NORM
    float sum_sq = 0.0f;
#pragma unroll
    for (u32 p = 0; p < PAIRS; p++) sum_sq += a[p] * a[p] + b[p] * b[p];
    const float scale = norm_scale(warp_sum(sum_sq), r.eps);
#endif
#pragma unroll
    for (u32 p = 0; p < PAIRS; p++) {
        const u32 d = p * WARP + lane;
        if (d >= HALF) continue;
#if QK_NORM
        a[p] *= scale * (to_f32(turn.weight_a[p]) + r.offset);
        b[p] *= scale * (to_f32(turn.weight_b[p]) + r.offset);
#endif
        rotate(a[p], b[p], turn.cos[p], turn.sin[p]);
        to[d] = from_f32<T>(a[p]);
        to[d + HALF] = from_f32<T>(b[p]);
    }
}

// Grid: (tokens, ceil((heads + kv_heads) / 4)), 128 threads.
extern "C" __global__ void __launch_bounds__(WARPS* WARP) rope_warp(const __grid_constant__ Rope r) {
    const u32 token = blockIdx.x, last = r.heads + r.kv_heads - 1;
    const u32 head = blockIdx.y * WARPS + threadIdx.x / WARP;
    const Turn turn(r, token, min(head, last));
    wait_for_previous();
    if (head > last) return;
    T* const x = in_qkv(r, token, head);
    head_by_warp(r, turn, x, x);
}

// Grid: (tokens, ceil((heads + 2 * kv_heads) / 4)), 128 threads.
extern "C" __global__ void __launch_bounds__(WARPS* WARP) rope_store_warp(const __grid_constant__ Rope r) {
    const u32 token = blockIdx.x, turned = r.heads + r.kv_heads, all = turned + r.kv_heads;
    const u32 head = min(blockIdx.y * WARPS + threadIdx.x / WARP, all - 1);
    const Turn turn(r, token, head);
    T* const x = in_qkv(r, token, head);
    T* const to = head < r.heads ? x : in_cache(r, token, head - r.heads);
    wait_for_previous();
    if (!to || blockIdx.y * WARPS + threadIdx.x / WARP >= all) return;
    if (head < turned)
        head_by_warp(r, turn, x, to);
    else
        for (u32 d = threadIdx.x % WARP; d < HEAD_DIM; d += WARP) to[d] = x[d];
}
