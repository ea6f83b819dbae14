// Logits processing, in place: soft-cap, bias, penalties, min-p, in this order. Min-p looks at tempered logits, but the
// division stays with the sampler.
//   logits: [rows, VOCAB] f32      params: [rows, 5] f32: temperature (for min_p; 0: none), min_p, repetition, frequency,
//   presence
//   history: [rows + 1] starts, ids (distinct in a row), counts     bias: [rows + 1] starts, ids, values     all i32 but values
// Oracle: reference/src/logits.rs; but for the soft-cap the same roundings, so the same bits. Shapes checked by
// src/kernels/logits.rs. JIT constants: VOCAB.
//   naive                one block a row, single tokens one after the other; the readable baseline
//   adjust, then mask_unlikely
//                        adjust: a block for CHUNK logits of a row, in shared memory, so that single tokens and whole rows
//                        take one read and one write; rows that change single tokens only are not read as a whole, and
//                        rows that ask for nothing not at all. mask_unlikely: min-p, which needs the whole row's maximum first.
// Scratch: rows * CHUNKS f32, the chunks' maxima.
#include "common.cuh"

#ifndef VOCAB
#define VOCAB 151936
#endif
constexpr u32 THREADS = 256, CHUNK = 4096, CHUNKS = ceil_div(u32(VOCAB), CHUNK);

struct Params {
    float temperature, min_p, repetition, frequency, presence;
    __device__ __forceinline__ bool masks() const { return temperature > 0.0f && min_p > 0.0f; }
};
__device__ __forceinline__ Params load_params(const float* params, u32 row) {
    const float* p = params + row * 5;
    return {p[0], p[1], p[2], p[3], p[4]};
}

// Launch: grid rows, block THREADS. softcap: 0 is none.
extern "C" __global__ void __launch_bounds__(THREADS)
logits_naive(float* logits, const float* params, const int* history_start, const int* history_ids,
             const int* history_counts, const int* bias_start, const int* bias_ids, const float* bias_values,
             float softcap) {
    __shared__ float shared[WARP];
    const u32 row = blockIdx.x;
    float* l = logits + u64(row) * VOCAB;
    const Params p = load_params(params, row);

    if (softcap > 0.0f)
        for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) l[i] = softcap * tanhf(l[i] / softcap);
    __syncthreads();

    if (threadIdx.x == 0) {
        for (int i = bias_start[row]; i < bias_start[row + 1]; i++)
            l[bias_ids[i]] = __fadd_rn(l[bias_ids[i]], bias_values[i]);
        for (int i = history_start[row]; i < history_start[row + 1]; i++) {
            float v = l[history_ids[i]];
            v = v > 0.0f ? __fdiv_rn(v, p.repetition) : __fmul_rn(v, p.repetition);
            if (history_counts[i] > 0) {
                v = __fsub_rn(v, __fmul_rn(p.frequency, float(history_counts[i])));
                v = __fsub_rn(v, p.presence);
            }
            l[history_ids[i]] = v;
        }
    }
    __syncthreads();

    if (!p.masks()) return;
    float top = -INFINITY;
    for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) top = fmaxf(top, l[i]);
    top = __fdiv_rn(block_max(top, shared), p.temperature);
    const float floor = float(log(double(p.min_p)));
    for (u32 i = threadIdx.x; i < VOCAB; i += THREADS)
        if (__fsub_rn(__fdiv_rn(l[i], p.temperature), top) < floor) l[i] = -INFINITY;
}

// f(i) with i the index in the chunk of four logits at a time, or of one where rows do not lie at multiples of 16 bytes.
template <class F>
__device__ __forceinline__ void for_chunk(u32 first, F f) {
    constexpr u32 STEP = VOCAB % 4 == 0 ? 4 : 1;
#pragma unroll 4
    for (u32 i = threadIdx.x * STEP; i < CHUNK; i += THREADS * STEP)
        if (first + i < VOCAB) f(i);
}
template <class F>
__device__ __forceinline__ void update(float* to, const float* from, F f) {
    if constexpr (VOCAB % 4 == 0) {
        const Vec<float> l = load_vec(from);
        store_vec(to, Vec<float>{f(l.at[0]), f(l.at[1]), f(l.at[2]), f(l.at[3])});
    } else {
        *to = f(*from);
    }
}

// Launch: grid (CHUNKS, rows), block THREADS. softcap: 0 is none.
extern "C" __global__ void __launch_bounds__(THREADS)
adjust(float* __restrict__ logits, const float* __restrict__ params, const int* __restrict__ history_start,
       const int* __restrict__ history_ids, const int* __restrict__ history_counts, const int* __restrict__ bias_start,
       const int* __restrict__ bias_ids, const float* __restrict__ bias_values, float* __restrict__ maxima, float softcap) {
    wait_for_previous();
    __shared__ __align__(16) float chunk[CHUNK];
    __shared__ float shared[WARP];
    const u32 row = blockIdx.y, first = blockIdx.x * CHUNK;
    const Params p = load_params(params, row);
    const int h0 = history_start[row], h1 = history_start[row + 1], b0 = bias_start[row], b1 = bias_start[row + 1];
    const bool single = h0 < h1 || b0 < b1, whole = softcap > 0.0f || p.masks();
    if (!single && !whole) return;

    float* const here = logits + u64(row) * VOCAB + first;
    if (whole) {
        for_chunk(first, [&](u32 i) {
            update(chunk + i, here + i, [&](float l) {
                return softcap > 0.0f ? __fmul_rn(softcap, tanhf(__fdiv_rn(l, softcap))) : l;
            });
        });
        __syncthreads();
    }
    float* const at = whole ? chunk : here;
    if (single) {
        const auto inside = [&](int id) { return u32(id) - first < CHUNK && u32(id) < VOCAB; };
        for (int e = b0 + int(threadIdx.x); e < b1; e += THREADS) {
            const int id = bias_ids[e];
            if (!inside(id)) continue;
            // The first entry of a token adds all of them, in order.
            bool repeated = false;
            for (int d = b0; d < e; d++) repeated |= bias_ids[d] == id;
            if (repeated) continue;
            float l = at[id - first];
            for (int d = e; d < b1; d++)
                if (bias_ids[d] == id) l = __fadd_rn(l, bias_values[d]);
            at[id - first] = l;
        }
        __syncthreads();
        for (int e = h0 + int(threadIdx.x); e < h1; e += THREADS) {
            const int id = history_ids[e], count = history_counts[e];
            if (!inside(id)) continue;
            float l = at[id - first];
            l = l > 0.0f ? __fdiv_rn(l, p.repetition) : __fmul_rn(l, p.repetition);
            if (count > 0) {
                l = __fsub_rn(l, __fmul_rn(p.frequency, float(count)));
                l = __fsub_rn(l, p.presence);
            }
            at[id - first] = l;
        }
        __syncthreads();
    }
    if (!whole) return;
    const bool changed = softcap > 0.0f || single;
    float top = -INFINITY;
    for_chunk(first, [&](u32 i) {
        if constexpr (VOCAB % 4 == 0) {
            const Vec<float> l = load_vec(chunk + i);
#pragma unroll
            for (u32 j = 0; j < 4; j++) top = fmaxf(top, l.at[j]);
            // Left to itself the compiler makes four stores of this one, each with a quarter of the bytes of its sectors.
            if (changed)
                asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(here + i), "f"(l.at[0]), "f"(l.at[1]),
                             "f"(l.at[2]), "f"(l.at[3])
                             : "memory");
        } else {
            top = fmaxf(top, chunk[i]);
            if (changed) here[i] = chunk[i];
        }
    });
    if (p.masks()) {
        top = block_max(top, shared);
        if (threadIdx.x == 0) maxima[row * CHUNKS + blockIdx.x] = top;
    }
}

// Launch: as adjust, after it.
extern "C" __global__ void __launch_bounds__(THREADS)
mask_unlikely(float* __restrict__ logits, const float* __restrict__ params, const float* __restrict__ maxima) {
    wait_for_previous();
    __shared__ float shared[WARP];
    const u32 row = blockIdx.y, first = blockIdx.x * CHUNK;
    const Params p = load_params(params, row);
    if (!p.masks()) return;
    float top = -INFINITY;
    for (u32 c = threadIdx.x; c < CHUNKS; c += THREADS) top = fmaxf(top, maxima[row * CHUNKS + c]);
    top = __fdiv_rn(block_max(top, shared), p.temperature);
    const float floor = float(log(double(p.min_p)));
    float* const here = logits + u64(row) * VOCAB + first;
    for_chunk(first, [&](u32 i) {
        update(here + i, here + i, [&](float l) {
            return __fsub_rn(__fdiv_rn(l, p.temperature), top) < floor ? -INFINITY : l;
        });
    });
}
