// Log-probabilities under the softmax of the model's logits: of one token a row, with its rank, and of the likeliest.
//   logits: [rows, VOCAB] f32, unprocessed     tokens: [rows] i32; what is no token gets -inf and rank 0
//   values: [rows, 1 + top] f32: the token's, then those of the `top` likeliest, lower ids first among equals
//   ids:    [rows, 1 + top] i32: how many tokens are at least as likely, then the likeliest by ascending id
// Oracle: reference/src/logprobs.rs. Shapes checked by src/kernels/logprobs.rs. JIT constants: VOCAB.
//   naive         one warp a row; the least of the likeliest bit by bit, a pass over the row for each
//   radix_select  one block a row; the same in three passes that count by digits. Six passes in all, from L2.
#include "common.cuh"

#ifndef VOCAB
#define VOCAB 151936
#endif

// softcap: 0 is none.
__device__ __forceinline__ float capped(float l, float softcap) {
    return softcap > 0.0f ? __fmul_rn(softcap, tanhf(__fdiv_rn(l, softcap))) : l;
}
// Ordered as logits are, before the soft-cap, which keeps their order; -0 is 0.
__device__ __forceinline__ u32 key(float l) {
    const u32 bits = __float_as_uint(__fadd_rn(l, 0.0f));
    return bits ^ (bits >> 31 ? 0xffffffffu : 1u << 31);
}
__device__ __forceinline__ u32 lanes_before(u32 lanes) { return __popc(lanes & ((1u << threadIdx.x % WARP) - 1)); }

// What both kernels write of a row.
struct Row {
    const float* logits;
    float* values;
    int* ids;
    int token;
    float softcap, peak, log_total;

    __device__ Row(const float* all, const int* tokens, float* values, int* ids, u32 top, float softcap)
        : logits(all + u64(blockIdx.x) * VOCAB),
          values(values + u64(blockIdx.x) * (1 + top)),
          ids(ids + u64(blockIdx.x) * (1 + top)),
          token(tokens[blockIdx.x]),
          softcap(softcap) {}
    __device__ bool has_token() const { return u32(token) < VOCAB; }
    __device__ float logprob(u32 i) const { return capped(logits[i], softcap) - peak - log_total; }
    __device__ void write_token(u32 rank) const {
        values[0] = has_token() ? logprob(token) : -INFINITY;
        ids[0] = has_token() ? rank : 0;
    }
    __device__ void write_top(u32 place, u32 i) const {
        values[1 + place] = logprob(i);
        ids[1 + place] = i;
    }
};

// Launch: grid rows, block WARP. top <= VOCAB.
extern "C" __global__ void __launch_bounds__(WARP)
logprobs_naive(const float* logits, const int* tokens, float* values, int* ids, u32 top, float softcap) {
    const u32 lane = threadIdx.x;
    Row row(logits, tokens, values, ids, top, softcap);
    float peak = -INFINITY, total = 0.0f, rank = 0.0f;  // f32 counts exactly to 2^24
    for (u32 i = lane; i < VOCAB; i += WARP) peak = fmaxf(peak, row.logits[i]);
    row.peak = capped(warp_max(peak), softcap);
    const float own = row.has_token() ? row.logits[row.token] : INFINITY;
    for (u32 i = lane; i < VOCAB; i += WARP) {
        total += expf(capped(row.logits[i], softcap) - row.peak);
        rank += row.logits[i] >= own;
    }
    row.log_total = logf(warp_sum(total));
    rank = warp_sum(rank);
    if (lane == 0) row.write_token(u32(rank));
    if (top == 0) return;

    u32 least = 0, above = 0;  // the top-th largest key, and how many are larger
    for (u32 bit = 1u << 31; bit; bit /= 2) {
        u32 count = 0;
        for (u32 first = 0; first < VOCAB; first += WARP)
            count += __popc(__ballot_sync(ALL_LANES, first + lane < VOCAB && key(row.logits[first + lane]) >= (least | bit)));
        if (count >= top) least |= bit;
        else above = count;
    }
    u32 larger = 0, equal = 0;
    for (u32 first = 0; first < VOCAB; first += WARP) {
        const u32 i = first + lane, k = i < VOCAB ? key(row.logits[i]) : 0;
        const bool is_larger = i < VOCAB && k > least, is_equal = i < VOCAB && k == least;
        const u32 all_larger = __ballot_sync(ALL_LANES, is_larger), all_equal = __ballot_sync(ALL_LANES, is_equal);
        const u32 equals = equal + lanes_before(all_equal);
        if (is_larger || (is_equal && equals < top - above))
            row.write_top(larger + lanes_before(all_larger) + min(equals, top - above), i);
        larger += __popc(all_larger);
        equal += __popc(all_equal);
    }
}

constexpr u32 THREADS = 1024, BINS = 2048;

// Launch: grid rows, block THREADS. top <= VOCAB.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
logprobs_radix_select(const float* __restrict__ logits, const int* __restrict__ tokens, float* __restrict__ values,
                      int* __restrict__ ids, u32 top, float softcap) {
    __shared__ float shared[WARP];
    __shared__ u32 bins[BINS], digit, beyond, counts[THREADS / WARP];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    Row row(logits, tokens, values, ids, top, softcap);
    float peak = -INFINITY, total = 0.0f, rank = 0.0f;
#pragma unroll 8
    for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) peak = fmaxf(peak, row.logits[i]);
    row.peak = capped(block_max(peak, shared), softcap);
    const float own = row.has_token() ? row.logits[row.token] : INFINITY;
#pragma unroll 4
    for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) {
        total += expf(capped(row.logits[i], softcap) - row.peak);
        rank += row.logits[i] >= own;
    }
    row.log_total = logf(block_sum(total, shared));
    rank = block_sum(rank, shared);
    if (threadIdx.x == 0) row.write_token(u32(rank));
    if (top == 0) return;

    // The top-th largest key, by digits of 11, 11 and 10 bits; `want`: it is the want-th largest of those that share the
    // digits found so far.
    u32 least = 0, known = 0, want = top;
    for (int shift = 21; shift >= 0; shift = shift == 10 ? 0 : shift - 11) {
        const u32 digits = (shift == 0 ? 1u << 10 : BINS) - 1;
        for (u32 b = threadIdx.x; b < BINS; b += THREADS) bins[b] = 0;
        __syncthreads();
#pragma unroll 4
        for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) {
            const u32 k = key(row.logits[i]);
            if ((k & known) == least) atomicAdd(&bins[k >> shift & digits], 1);
        }
        __syncthreads();
        if (warp == 0) {
            // Lanes take a part each, from the largest digit down.
            constexpr u32 PART = BINS / WARP;
            const u32 largest = BINS - 1 - lane * PART;
            u32 part = 0;
            for (u32 b = 0; b < PART; b++) part += bins[largest - b];
            u32 upto = part;
#pragma unroll
            for (u32 d = 1; d < WARP; d *= 2) {
                const u32 left = __shfl_up_sync(ALL_LANES, upto, d);
                if (lane >= d) upto += left;
            }
            u32 larger = upto - part;
            if (larger < want && want <= upto) {
                u32 b = largest;
                for (; larger + bins[b] < want; b--) larger += bins[b];
                digit = b;
                beyond = larger;
            }
        }
        __syncthreads();
        least |= digit << shift;
        known |= digits << shift;
        want -= beyond;
        __syncthreads();
    }

    // All larger keys and the first `want` equal ones, in order.
    u32 larger = 0, equal = 0;
    for (u32 first = 0; first < VOCAB; first += THREADS) {
        const u32 i = first + threadIdx.x, k = i < VOCAB ? key(row.logits[i]) : 0;
        const bool is_larger = i < VOCAB && k > least, is_equal = i < VOCAB && k == least;
        if (!__syncthreads_or(is_larger || is_equal)) continue;
        const u32 all_larger = __ballot_sync(ALL_LANES, is_larger), all_equal = __ballot_sync(ALL_LANES, is_equal);
        if (lane == 0) counts[warp] = __popc(all_larger) << 16 | __popc(all_equal);
        __syncthreads();
        u32 before = 0, all = 0;
        for (u32 w = 0; w < THREADS / WARP; w++) {
            before += w < warp ? counts[w] : 0;
            all += counts[w];
        }
        const u32 equals = equal + (before & 0xffff) + lanes_before(all_equal);
        if (is_larger || (is_equal && equals < want))
            row.write_top(larger + (before >> 16) + lanes_before(all_larger) + min(equals, want), i);
        larger += all >> 16;
        equal += all & 0xffff;
    }
}
