// Sampling by sorting: a block takes row after row. A row with top-k or top-p is sorted in the scratch memory, by a radix
// sort that keeps the order of equals: what top-k and top-p leave is then the end of the list. Contract: sample.cu.
// Scratch: for each block of the grid two lists of VOCAB pairs of 8 bytes.
#pragma once
#include "sample.cuh"

// The Rust side computes the same.
constexpr u32 SORT_WARPS = VOCAB <= 2048 ? 8 : 32, SORT_THREADS = SORT_WARPS * WARP;
// Least significant first, eight bits at a time.
constexpr u32 DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS;
// A warp's stretch of the list; a multiple of what it takes at a time.
constexpr u32 STRETCH = ceil_div(ceil_div(u32(VOCAB), SORT_WARPS), WARP) * WARP;

struct SortShared {
    u32 places[SORT_WARPS][DIGITS];  // of a warp's next pair with that digit
    u32 sums[SORT_WARPS];
    u64 parts[WARP];
};

// A token and its logit; in the order of logits.
__device__ __forceinline__ u64 pair_of(u32 token, float logit) { return u64(ordered(logit)) << 32 | token; }
__device__ __forceinline__ u32 token_of(u64 pair) { return u32(pair); }
__device__ __forceinline__ u32 key_of(u64 pair) { return u32(pair >> 32); }
__device__ __forceinline__ float logit_of_pair(u64 pair) { return of_ordered(key_of(pair)); }

// The sum of x over the threads before this one.
__device__ __forceinline__ u32 sum_before(u32 x, u32* sums) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    u32 sum = x;
#pragma unroll
    for (u32 d = 1; d < WARP; d *= 2) {
        const u32 lower = __shfl_up_sync(ALL_LANES, sum, d);
        if (lane >= d) sum += lower;
    }
    if (lane == WARP - 1) sums[warp] = sum;
    __syncthreads();
    return warp_reduce(lane < warp ? sums[lane] : 0, Sum()) + sum - x;
}

// For the warp's stretch of the pairs at(0), at(1), …, 32 at a time: f(pair, place of the warp's next pair with its digit,
// lanes with the same digit; none if there is no pair).
template <class At, class F>
__device__ __forceinline__ void for_stretch(u32 shift, At at, SortShared& s, F f) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 begin = warp * STRETCH, end = min(begin + STRETCH, u32(VOCAB));
    for (u32 i = begin + lane; i - lane < end; i += WARP) {
        const u64 pair = i < end ? at(i) : 0;
        const u32 digit = u32(pair >> shift) % DIGITS;
        const u32 same = __match_any_sync(ALL_LANES, i < end ? digit : DIGITS);
        f(pair, s.places[warp][digit], i < end ? same : 0);
        __syncwarp();
    }
}

// The pairs at(0), at(1), … to `to`, ordered by the digit that starts at bit `shift`; equals stay in order.
template <class At>
__device__ __forceinline__ void sort_by_digit(u32 shift, At at, u64* to, SortShared& s) {
    const u32 lane = threadIdx.x % WARP;
    for (u32 i = threadIdx.x; i < SORT_WARPS * DIGITS; i += SORT_THREADS) s.places[i / DIGITS][i % DIGITS] = 0;
    __syncthreads();
    for_stretch(shift, at, s, [&](u64, u32& count, u32 same) {
        if (same != 0 && lane == __ffs(same) - 1) count += __popc(same);
    });
    __syncthreads();
    // From counts to places: after all smaller digits, and after the same digit of earlier warps.
    constexpr u32 SHARE = SORT_WARPS * DIGITS / SORT_THREADS;
    static_assert(SORT_WARPS % SHARE == 0, "a thread's places are of one digit");
    const u32 digit = threadIdx.x * SHARE / SORT_WARPS, first = threadIdx.x * SHARE % SORT_WARPS;
    u32 count = 0;
#pragma unroll
    for (u32 w = 0; w < SHARE; w++) count += s.places[first + w][digit];
    u32 place = sum_before(count, s.sums);
#pragma unroll
    for (u32 w = 0; w < SHARE; w++) {
        u32& of_warp = s.places[first + w][digit];
        const u32 next = place + of_warp;
        of_warp = place;
        place = next;
    }
    __syncthreads();
    for_stretch(shift, at, s, [&](u64 pair, u32& next, u32 same) {
        const u32 before = __popc(same & ((1u << lane) - 1)), here = next + before;
        __syncwarp();
        if (same == 0) return;
        if (before == 0) next += __popc(same);
        to[here] = pair;
    });
    __syncthreads();
}

// The first place in the sorted list whose key is at least `key`.
__device__ __forceinline__ u32 first_from(u32 key, const u64* list) {
    u32 low = 0, high = VOCAB;
    while (low < high) {
        const u32 middle = (low + high) / 2;
        if (key_of(list[middle]) < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Where in the sorted list what top-p keeps begins, of what lies from `first` on.
__device__ __forceinline__ u32 cut_tail(float tail, float top, u32 first, const u64* list, SortShared& s) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const auto e = [&](u32 i) { return exp(double(logit_of_pair(list[i])) - double(top)); };
    double total = 0.0;
#pragma unroll 1
    for (u32 i = first + threadIdx.x; i < VOCAB; i += SORT_THREADS) total += e(i);
    total = block_reduce(total, Sum(), s.parts);
    // Probabilities as transformers has them: rounded to f32, summed in f64 from the smallest up.
    const auto probability = [&](u32 i) { return double(float(e(i) / total)); };
    double* const masses = reinterpret_cast<double*>(s.parts);
    const u32 begin = first + warp * STRETCH, end = min(begin + STRETCH, u32(VOCAB));
    double mass = 0.0;
#pragma unroll 1
    for (u32 i = begin + lane; i < end; i += WARP) mass += probability(i);
    mass = warp_reduce(mass, Sum());
    __syncthreads();
    if (lane == 0) masses[warp] = mass;
    __syncthreads();
    // The warp's stretch in which the sum passes the tail; then, all warps alike, the place in it.
    u32 stretch = 0;
    double below = 0.0;
    while (stretch + 1 < SORT_WARPS && float(below + masses[stretch]) <= tail) below += masses[stretch++];
    for (u32 row = first + stretch * STRETCH;; row += WARP) {
        const u32 i = row + lane;
        double sum = i < VOCAB ? probability(i) : 0.0;
#pragma unroll
        for (u32 d = 1; d < WARP; d *= 2) {
            const double lower = __shfl_up_sync(ALL_LANES, sum, d);
            if (lane >= d) sum += lower;
        }
        // The last always stays.
        const u32 stays = __ballot_sync(ALL_LANES, float(below + sum) > tail || i + 1 >= VOCAB);
        if (stays) return min(row + __ffs(stays) - 1, u32(VOCAB) - 1);
        below += __shfl_sync(ALL_LANES, sum, WARP - 1);
    }
}

// Launch: any grid, block SORT_THREADS.
extern "C" __global__ void __launch_bounds__(SORT_THREADS)
sample_sorting(const float* __restrict__ logits, const float* __restrict__ temperature,
               const float* __restrict__ top_p_tail, const int* __restrict__ params, u64* __restrict__ scratch,
               int* __restrict__ out, u32 rows) {
    __shared__ SortShared s;
    u64 *const list = scratch + u64(blockIdx.x) * 2 * VOCAB, *const other = list + VOCAB;
    for (u32 r = blockIdx.x; r < rows; r += gridDim.x) {
        const float* const row = logits + u64(r) * VOCAB;
        const Params p = load_params(params, temperature, top_p_tail, r);
        const float top = largest_of_row(p, row, s.parts);
        if (!(top > -INFINITY && top < INFINITY)) {
            if (threadIdx.x == 0) out[r] = -1;
            continue;
        }
        u64 winner = 0;
        if (!p.greedy && (p.top_k > 0 || p.tail > 0.0f)) {
            sort_by_digit(32, [&](u32 i) { return pair_of(i, p.tempered(row[i])); }, other, s);
            const auto back = [&](u32 i) { return list[i]; };
            const auto forth = [&](u32 i) { return other[i]; };
            sort_by_digit(40, forth, list, s);
            sort_by_digit(48, back, other, s);
            sort_by_digit(56, forth, list, s);
            // Masked tokens come first; ties with the k-th stay.
            u32 first = first_from(ordered(-INFINITY) + 1, list);
            if (p.top_k > 0) first = max(first, first_from(key_of(list[VOCAB - p.top_k]), list));
            if (p.tail > 0.0f) first = cut_tail(p.tail, top, first, list, s);
#pragma unroll 1
            for (u32 i = first + threadIdx.x; i < VOCAB; i += SORT_THREADS) {
                const u32 token = token_of(list[i]);
                winner = max(winner, race_key(noisy(p, token, logit_of_pair(list[i])), token));
            }
        } else {
#pragma unroll 1
            for (u32 i = threadIdx.x; i < VOCAB; i += SORT_THREADS) {
                const float l = p.tempered(row[i]);
                if (l > -INFINITY) winner = max(winner, race_key(p.greedy ? l : noisy(p, i, l), i));
            }
        }
        winner = block_reduce(winner, Max(), s.parts);
        if (threadIdx.x == 0) out[r] = race_token(winner);
    }
}
