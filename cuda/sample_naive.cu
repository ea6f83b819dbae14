// The readable baseline of sampling: one token a row from processed logits. top-k, top-p, draw.
//   logits: [rows, VOCAB] f32       top_p_tail: [rows] f32, what top-p may cut off (0: off)
//   params: [rows, 5] i32: greedy, top_k (0: off), seed low, seed high, position      out: [rows] i32, the token or -1
// Oracle: reference/src/{sampling,gumbel,philox}.rs. Shapes checked by src/kernels/sample.rs. JIT constants: VOCAB.
//   naive   one block a row. What stays is "above a threshold": thresholds are found by bisection over the bits of a
//           float, each step a pass over the row; the draw is the argmax of logit + Gumbel noise, to the oracle's bits
#include "common.cuh"

constexpr u32 THREADS = 256;

// Orders as floats do; minus zero counts as zero.
__device__ __forceinline__ u32 key_of(float x) {
    const u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The sum over the block's threads, in the same order every time.
__device__ double sum(double x, double* shared) {
    __syncthreads();
    shared[threadIdx.x] = x;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
    return shared[0];
}

// ---- noise: reference/src/gumbel.rs, operation by operation ----

__device__ float ln_1p(float f) {
    constexpr float Q[9] = {-0.49999988f, 0.33333325f,  -0.25001583f, 0.20001975f, -0.16609082f,
                            0.14181814f,  -0.13242985f, 0.12904494f,  -0.07621856f};
    float q = Q[8];
#pragma unroll
    for (int i = 7; i >= 0; i--) q = fmaf(q, f, Q[i]);
    return fmaf(q, __fmul_rn(f, f), f);
}
__device__ float ln(float x) {
    constexpr u32 SQRT_HALF = 0x3f3504f3u;
    const u32 above = __float_as_uint(x) - SQRT_HALF;
    const float m = __uint_as_float((above & 0x007fffffu) + SQRT_HALF);
    return fmaf(float(int(above) >> 23), 0.693147182f, ln_1p(__fadd_rn(m, -1.0f)));
}
__device__ float gumbel(u32 word) {
    constexpr float SCALE = 2.3283064365386963e-10f;  // 2^-32
    const bool near_one = word >= 0xC0000000u;
    const float u = __fmul_rn(__fadd_rn(__uint2float_rn(near_one ? ~word : word), 0.5f), SCALE);
    return -ln(near_one ? -ln_1p(-u) : -ln(u));
}

// Grid: rows, 256 threads.
extern "C" __global__ void __launch_bounds__(THREADS)
sample_naive(const float* logits, const float* top_p_tail, const int* params, int* out) {
    __shared__ double sums[THREADS];
    __shared__ float maxima[WARP];
    __shared__ u64 best[THREADS];
    const u32 row = blockIdx.x;
    const float* l = logits + u64(row) * VOCAB;
    const int* p = params + row * 5;
    const bool greedy = p[0] != 0;
    const u32 top_k = p[1] > 0 && p[1] < VOCAB ? p[1] : 0;
    const float tail = top_p_tail[row];

    // A row with a NaN, a +inf or nothing finite has no token.
    float top = -INFINITY;
    bool usable = true;
    for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) {
        usable &= l[i] < INFINITY;  // false for NaN
        top = fmaxf(top, l[i]);
    }
    top = block_max(top, maxima);
    if (__syncthreads_or(!usable) || top == -INFINITY) {
        if (threadIdx.x == 0) out[row] = -1;
        return;
    }

    // What stays: keys above `floor`, and of those equal to it the tokens from `first` on.
    u32 floor = 0, first = 0;
    if (!greedy && top_k > 0) {
        // The k-th largest key is the largest of which k keys are not below.
        for (u32 bit = 1u << 31; bit > 0; bit /= 2) {
            u32 count = 0;
            for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) count += key_of(l[i]) >= (floor | bit);
            if (sum(count, sums) >= top_k) floor |= bit;
        }
    }
    if (!greedy && tail > 0.0f) {
        // Probabilities as transformers has them: rounded to f32, summed in f64.
        const u32 kept = floor;
        double total = 0.0;
        for (u32 i = threadIdx.x; i < VOCAB; i += THREADS)
            if (key_of(l[i]) >= kept) total += exp(double(l[i]) - double(top));
        total = sum(total, sums);
        const auto probability = [&](float logit) { return float(exp(double(logit) - double(top)) / total); };
        const auto mass_below = [&](u32 key) {
            double mass = 0.0;
            for (u32 i = threadIdx.x; i < VOCAB; i += THREADS)
                if (key_of(l[i]) >= kept && key_of(l[i]) < key) mass += double(probability(l[i]));
            return sum(mass, sums);
        };
        // The largest key below which everything may go. Its own tokens go too while the sum allows, but the last.
        floor = 0;
        for (u32 bit = 1u << 31; bit > 0; bit /= 2) {
            const u32 key = floor | bit;
            if (key <= key_of(top) && float(mass_below(key)) <= tail) floor = key;
        }
        floor = floor > kept ? floor : kept;
        double mass = mass_below(floor);
        if (threadIdx.x == 0) {
            u32 last = 0;
            for (u32 i = 0; i < VOCAB; i++)
                if (key_of(l[i]) == key_of(top)) last = i;
            while (first < VOCAB) {
                if (key_of(l[first]) == floor) {
                    mass += double(probability(l[first]));
                    if (!(float(mass) <= tail) || first == last) break;
                }
                first++;
            }
            best[0] = first;
        }
        __syncwarp();
        __syncthreads();
        first = u32(best[0]);
        __syncthreads();
    }

    // The race: the largest of logit + noise, the lowest token among equals.
    u64 winner = 0;
    for (u32 i = threadIdx.x; i < VOCAB; i += THREADS) {
        const u32 key = key_of(l[i]);
        if (!greedy && (key < floor || (key == floor && i < first) || l[i] == -INFINITY)) continue;
        float value = l[i];
        if (!greedy) {
            const uint4 words = philox(make_uint4(i / 4, u32(p[4]), 0, 0), make_uint2(u32(p[2]), u32(p[3])));
            const u32 word = i % 4 == 0 ? words.x : i % 4 == 1 ? words.y : i % 4 == 2 ? words.z : words.w;
            value = __fadd_rn(value, gumbel(word));
        }
        const u64 candidate = u64(key_of(value)) << 32 | u32(~i);
        if (candidate > winner) winner = candidate;
    }
    best[threadIdx.x] = winner;
    __syncwarp();
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 t = 1; t < THREADS; t++)
            if (best[t] > winner) winner = best[t];
        out[row] = int(~u32(winner));
    }
}
