// What samplers share: a row's parameters, the order of floats, the oracle's noise, reductions.
#pragma once
#include "common.cuh"

#ifndef VOCAB
#define VOCAB 151936
#endif

// A logit as it is drawn from. Keeps order: the largest of some is the largest of them tempered.
__device__ __forceinline__ float temper(float logit, float temperature) {
    return temperature == 1.0f ? logit : __fdiv_rn(logit, temperature);
}

struct Params {
    bool greedy;
    u32 top_k; // 0: off
    float temperature; // 1 where greedy
    float tail; // 0: off
    uint2 seed;
    u32 position;
    __device__ __forceinline__ float tempered(float logit) const { return temper(logit, temperature); }
};
__device__ __forceinline__ Params load_params(const int* params, const float* temperature, const float* top_p_tail,
                                              u32 row) {
    const int* p = params + row * 5;
    const u32 k = p[1] > 0 && p[1] < VOCAB ? p[1] : 0;
    return {p[0] != 0, k, p[0] != 0 ? 1.0f : temperature[row], top_p_tail[row], make_uint2(p[2], p[3]), u32(p[4])};
}

// ---- order ----

// Orders as floats do; minus zero counts as zero.
__device__ __forceinline__ u32 ordered(float x) {
    const u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_ordered(u32 key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}
// The largest key is the race's winner: the lowest token of the largest logit + noise. 0: nobody took part.
__device__ __forceinline__ u64 race_key(float noisy, u32 token) { return u64(ordered(noisy)) << 32 | u32(~token); }
__device__ __forceinline__ u32 race_token(u64 key) { return ~u32(key); }

// ---- noise: reference/src/gumbel.rs, operation by operation ----

// ln(1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1], plus k ln 2.
__device__ __forceinline__ float ln_1p(float k, float f) {
    float q = -0.07621856f;
    q = fmaf(q, f, 0.12904494f);
    q = fmaf(q, f, -0.13242985f);
    q = fmaf(q, f, 0.14181814f);
    q = fmaf(q, f, -0.16609082f);
    q = fmaf(q, f, 0.20001975f);
    q = fmaf(q, f, -0.25001583f);
    q = fmaf(q, f, 0.33333325f);
    q = fmaf(q, f, -0.49999988f);
    return fmaf(k, 0.693147180559945f, fmaf(q, __fmul_rn(f, f), f));
}
// k and f of x = 2^k (1 + f), for normal positive x.
__device__ __forceinline__ float2 parts(float x) {
    constexpr u32 SQRT_HALF = 0x3f3504f3u;
    const u32 above = __float_as_uint(x) - SQRT_HALF;
    return make_float2(float(int(above) >> 23), __fsub_rn(__uint_as_float((above & 0x007fffffu) + SQRT_HALF), 1.0f));
}
__device__ __forceinline__ float gumbel(u32 word) {
    const bool near_one = word >= 0xC0000000u;
    const float u = __fmul_rn(__fadd_rn(__uint2float_rn(near_one ? ~word : word), 0.5f), 0x1p-32f);
    const float2 p = parts(u);
    const float exponential = -ln_1p(near_one ? 0.0f : p.x, near_one ? -u : p.y);
    const float2 e = parts(exponential);
    return -ln_1p(e.x, e.y);
}
// No noise is larger.
constexpr float MAX_NOISE = 23.0f;
// No word below this one gives noise of `gap` or more: 2^32 e^(-e^-gap), and less by more than the error of ex2.approx.
__device__ __forceinline__ u32 least_word(float gap) {
    return __float2uint_rz(__expf(-__expf(-gap)) * (4294967296.0f * (1.0f - 1e-4f)));
}
// The random words of tokens 4 i .. 4 i + 4.
__device__ __forceinline__ uint4 words(const Params& p, u32 token) {
    return philox(make_uint4(token / 4, p.position, 0, 0), p.seed);
}
__device__ __forceinline__ float noisy(const Params& p, u32 token, float logit) {
    const uint4 w = words(p, token);
    const u32 i = token % 4;
    return __fadd_rn(logit, gumbel(i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w));
}

// ---- reductions ----

struct Max {
    template <class V>
    __device__ __forceinline__ V operator()(V a, V b) const {
        return a > b ? a : b;
    }
};
struct Sum {
    template <class V>
    __device__ __forceinline__ V operator()(V a, V b) const {
        return a + b;
    }
};
template <class V, class Op>
__device__ __forceinline__ V warp_reduce(V x, Op op) {
#pragma unroll
    for (u32 lane = WARP / 2; lane > 0; lane /= 2) x = op(x, __shfl_xor_sync(ALL_LANES, x, lane));
    return x;
}
// Over a block of a power of two of warps, in a fixed order; every thread gets the result.
template <class V, class Op>
__device__ V block_reduce(V x, Op op, u64* shared) {
    V* const parts = reinterpret_cast<V*>(shared);
    x = warp_reduce(x, op);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    const u32 warps = blockDim.x / WARP;
    x = parts[threadIdx.x % warps];
    for (u32 lane = warps / 2; lane > 0; lane /= 2) x = op(x, __shfl_xor_sync(ALL_LANES, x, lane));
    return x;
}

// The largest logit; infinite if some logit is NaN or plus infinity, or all are masked: then the row has no token.
__device__ __forceinline__ float largest_of_row(const Params& p, const float* row, u64* parts) {
    float top = -INFINITY;
    bool usable = true;
    for (u32 i = threadIdx.x; i < VOCAB; i += blockDim.x) {
        usable &= row[i] < INFINITY;  // false for NaN
        top = fmaxf(top, row[i]);
    }
    top = p.tempered(top);
    return block_reduce(usable ? top : INFINITY, Max(), parts);
}
