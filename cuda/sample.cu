// Sampling: one token a row from processed logits: temperature, softmax, top-k, top-p, draw.
//   logits: [rows, VOCAB] f32       temperature: [rows] f32, divides the logits of rows that are not greedy
//   top_p_tail: [rows] f32, what top-p may cut off (0: off)
//   params: [rows, 5] i32: greedy, top_k (0: off), seed low, seed high, position       out: [rows] i32, the token or -1
// Oracle: reference/src/{sampling,gumbel,philox}.rs. Shapes checked by src/kernels/sample.rs.
//
// A draw is the argmax of logit + Gumbel noise over what top-k and top-p leave. Noise has the oracle's bits, so tokens
// are the CPU's.
//   naive       sample_naive.cuh: one block a row, thresholds by bisection; the readable baseline
//   sorting     sample_sorting.cuh: one block a row, which it sorts; what is kept is the end of the list
//   greedy, gumbel, rejection
//               below. `survey` reads the logits once with the whole chip; `pick`, a block a row, reads again only where
//               its row needs it; `reject` takes the rows that `pick` leaves. The logits lie in segments of 128; the
//               survey notes each one's largest. Then
//     greedy    the segment with the largest holds the token
//     plain     the survey races all tokens; `pick` compares the warps' winners
//     top-k     the k-th largest of the segments' largest ("delegates", Dr. Top-k, SC'21) bounds the k-th logit from
//               below; what lies above it is little, and is cut exactly in shared memory
//     top-p     rejection: the race's winner over all tokens is the token if top-p keeps it, for which the mass above
//               it must be counted; if not, the next race is among the tokens above the rejected one. (FlashInfer
//               rejects inverse-CDF draws; an argmax that is kept is the argmax of all that are kept, so here the draw
//               stays the oracle's.)
// JIT constants: VOCAB; RANDOM (some row is not greedy), TRUNCATED (some row has top-k or top-p): what a launch may
// meet: `greedy` (0, 0), `gumbel` (1, 0), the others (1, 1).
// Scratch: rows * ROW_SCRATCH bytes; `sorting`: see there.
#ifndef RANDOM
#define RANDOM 1
#define TRUNCATED 1
#endif
#include "sample.cuh"
#if TRUNCATED
#include "sample_naive.cuh"
#include "sample_sorting.cuh"
#endif

// A warp reads STRIP tokens: lane l has tokens 4 l .. 4 l + 4 of each of LOADS times 128. A segment is what the four
// lanes of a quad have.
constexpr u32 LOADS = 8, STRIP = LOADS * WARP * 4, STRIPS = ceil_div(u32(VOCAB), STRIP), SEGMENTS = STRIPS * 8;

struct RowScratch {
    u64 winner[STRIPS];      // of a strip's race: `race_key`
    float largest[SEGMENTS]; // +inf if some logit is NaN or +inf
    float mass[SEGMENTS];    // sum of e^(logit - largest)
};
// The Rust side computes the same.
constexpr u32 ROW_SCRATCH = STRIPS * 8 + SEGMENTS * 8;
static_assert(sizeof(RowScratch) == ROW_SCRATCH);

constexpr u32 SURVEY_THREADS = 128, PICK_THREADS = 512;
[[maybe_unused]] constexpr u32 REJECT_THREADS = 1024;
#if TRUNCATED
// What `pick` leaves in `out` for `reject`.
constexpr int PENDING = -2;
#endif

// Few enough to be bounded by delegates.
__device__ __forceinline__ bool few(u32 top_k) { return top_k > 0 && top_k <= SEGMENTS; }

// Logits token .. token + 4 of a row; minus infinity past the end.
__device__ __forceinline__ float4 load_four(const float* row, u32 token) {
    if constexpr (VOCAB % 4 == 0) {
        if (token < VOCAB) return *reinterpret_cast<const float4*>(row + token);
        return make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    } else {
        const auto at = [&](u32 i) { return i < VOCAB ? row[i] : -INFINITY; };
        return make_float4(at(token), at(token + 1), at(token + 2), at(token + 3));
    }
}

// ---- survey ----

// A token's key in the race. Called, not inlined: few tokens come so far, and 32 copies of this would not fit the
// instruction cache.
__device__ __noinline__ u64 entry(float logit, float temperature, u32 word, u32 token) {
    logit = temper(logit, temperature);
    return logit > -INFINITY ? race_key(__fadd_rn(logit, gumbel(word)), token) : 0;
}

// Blocks of a multiprocessor to keep registers for; 0 leaves it to the compiler, which spills where rows are unaligned.
constexpr u32 SURVEY_BLOCKS = VOCAB % 4 == 0 ? 0 : 4;

// Launch: grid (ceil(STRIPS / 4), rows), block SURVEY_THREADS.
extern "C" __global__ void __launch_bounds__(SURVEY_THREADS, SURVEY_BLOCKS)
survey(const float* __restrict__ logits, const float* __restrict__ temperature, const float* __restrict__ top_p_tail,
       const int* __restrict__ params, RowScratch* __restrict__ scratch) {
    wait_for_previous();
    const u32 row = blockIdx.y, lane = threadIdx.x % WARP;
    const u32 strip = blockIdx.x * (SURVEY_THREADS / WARP) + threadIdx.x / WARP;
    if (strip >= STRIPS) return;
    const Params p = load_params(params, temperature, top_p_tail, row);
    const u32 first = strip * STRIP + lane * 4;
    float4 l[LOADS];
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) l[i] = load_four(logits + u64(row) * VOCAB, first + i * WARP * 4);

    float top = -INFINITY;
    bool usable = true;
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) {
        usable &= (l[i].x < INFINITY) & (l[i].y < INFINITY) & (l[i].z < INFINITY) & (l[i].w < INFINITY);
        top = fmaxf(top, fmaxf(fmaxf(l[i].x, l[i].y), fmaxf(l[i].z, l[i].w)));
    }
    top = usable ? p.tempered(top) : INFINITY;
    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
    top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
    if (lane % 4 == 0) scratch[row].largest[strip * 8 + lane / 4] = top;

    if constexpr (!RANDOM) return;
    if (p.greedy || few(p.top_k)) return;

    if (TRUNCATED && p.tail > 0.0f) {
        float mass = 0.0f;
        if (top > -INFINITY) {
#pragma unroll
            for (u32 i = 0; i < LOADS; i++) {
                const auto e = [&](float logit) { return __expf(p.tempered(logit) - top); };
                mass += (e(l[i].x) + e(l[i].y)) + (e(l[i].z) + e(l[i].w));
            }
        }
        mass += __shfl_xor_sync(ALL_LANES, mass, 1);
        mass += __shfl_xor_sync(ALL_LANES, mass, 2);
        if (lane % 4 == 0) scratch[row].mass[strip * 8 + lane / 4] = mass;
    }

    // The race. `best` is the warp's: most tokens are seen to lose by their random word alone.
    float best = -INFINITY;
    u64 winner = 0;
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) {
        const float most = p.tempered(fmaxf(fmaxf(l[i].x, l[i].y), fmaxf(l[i].z, l[i].w)));
        if (__all_sync(ALL_LANES, most == -INFINITY || most + MAX_NOISE < best)) continue;
        const u32 token = first + i * WARP * 4;
        const uint4 w = words(p, token);
        const u32 least = least_word(best - most);
        if (!__any_sync(ALL_LANES, max(max(w.x, w.y), max(w.z, w.w)) >= least)) continue;
        const auto enter = [&](u32 word, float l, u32 t) {
            if (word >= least) winner = max(winner, entry(l, p.temperature, word, t));
        };
        enter(w.x, l[i].x, token);
        enter(w.y, l[i].y, token + 1);
        enter(w.z, l[i].z, token + 2);
        enter(w.w, l[i].w, token + 3);
        best = warp_max(winner ? of_ordered(u32(winner >> 32)) : -INFINITY);
    }
    winner = warp_reduce(winner, Max());
    if (lane == 0) scratch[row].winner[strip] = winner;
}

// ---- pick ----

// The row's largest logit, and the segments' largest in shared memory.
__device__ __forceinline__ float load_largest(const RowScratch& scratch, float* largest, u64* parts) {
    float top = -INFINITY;
    for (u32 i = threadIdx.x; i < SEGMENTS; i += blockDim.x) {
        largest[i] = scratch.largest[i];
        top = fmaxf(top, largest[i]);
    }
    return block_reduce(top, Max(), parts);
}

// Calls f(token, logit) for the tempered logits from `limit` on, each by one thread. Segments below are not read. IN_FLIGHT
// loads of a lane are under way at a time: FAST where f is short, 1 where it is long, to keep the code short.
[[maybe_unused]] constexpr u32 FAST = VOCAB % 4 == 0 ? 4 : 1;
template <u32 IN_FLIGHT, class F>
__device__ __forceinline__ void for_tokens_from(const Params& p, float limit, const float* row, const float* largest, F f) {
    const u32 lane = threadIdx.x % WARP;
    for (u32 strip = threadIdx.x / WARP; strip < STRIPS; strip += blockDim.x / WARP) {
        if (largest[strip * 8 + lane / 4] < limit) continue;
#pragma unroll 1
        for (u32 load = 0; load < LOADS; load += IN_FLIGHT) {
            const u32 first = strip * STRIP + (load * WARP + lane) * 4;
            float4 l[IN_FLIGHT];
#pragma unroll
            for (u32 i = 0; i < IN_FLIGHT; i++) l[i] = load_four(row, first + i * WARP * 4);
#pragma unroll
            for (u32 i = 0; i < IN_FLIGHT; i++) {
                const u32 token = first + i * WARP * 4;
                const auto offer = [&](u32 t, float logit) {
                    if (logit >= limit) f(t, logit);
                };
                offer(token, p.tempered(l[i].x));
                offer(token + 1, p.tempered(l[i].y));
                offer(token + 2, p.tempered(l[i].z));
                offer(token + 3, p.tempered(l[i].w));
            }
        }
    }
    __syncwarp();  // barriers and shuffles follow
}

#if TRUNCATED

// The k-th largest of the segments' largest, as `ordered`: no more than the k-th largest logit.
__device__ __forceinline__ u32 kth_delegate(u32 k, const float* largest) {
    u32 kth = 0;
    for (u32 bit = 1u << 31; bit > 0; bit /= 2) {
        u32 count = 0;
#pragma unroll
        for (u32 s = 0; s < SEGMENTS; s += PICK_THREADS) {
            const u32 i = s + threadIdx.x;
            count += __syncthreads_count(i < SEGMENTS && ordered(largest[i]) >= (kth | bit));
        }
        if (count >= k) kth |= bit;
    }
    return kth;
}

constexpr float FLOAT_MAX = 0x1.fffffep127f;
constexpr u32 CANDIDATES = 4096;

// A candidate, largest first in order: logit, then token. Padding is 0.
__device__ __forceinline__ u64 candidate(u32 token, float logit) { return u64(ordered(logit)) << 32 | token; }
__device__ __forceinline__ float logit_of(u64 candidate) { return of_ordered(u32(candidate >> 32)); }

// Sorts n (a power of two) candidates in shared memory, largest first. Bitonic (Batcher 1968).
__device__ __forceinline__ void sort_candidates(u64* c, u32 n) {
    for (u32 size = 2; size <= n; size *= 2)
        for (u32 stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            for (u32 i = threadIdx.x; i < n / 2; i += PICK_THREADS) {
                const u32 a = i / stride * stride * 2 + i % stride, b = a + stride;
                const u64 x = c[a], y = c[b];
                if ((x < y) == ((a & size) == 0)) {
                    c[a] = y;
                    c[b] = x;
                }
            }
        }
    __syncthreads();
}

// Top-k (few), top-p and the race among candidates in shared memory. PENDING: they are too many (equal logits).
__device__ int pick_candidates(const Params& p, float top, const float* row, const float* largest, u64* candidates,
                               u32* count, u64* parts) {
    // Masked tokens take no part, even if fewer than k are left.
    const float limit = fmaxf(of_ordered(kth_delegate(p.top_k, largest)), -FLOAT_MAX);
    if (threadIdx.x == 0) *count = 0;
    __syncthreads();
    for_tokens_from<FAST>(p, limit, row, largest, [&](u32 token, float logit) {
        const u32 at = atomicAdd(count, 1);
        if (at < CANDIDATES) candidates[at] = candidate(token, logit);
    });
    __syncthreads();
    const u32 n = *count;
    if (n > CANDIDATES) return PENDING;
    u32 padded = 2;
    while (padded < n) padded *= 2;
    for (u32 i = n + threadIdx.x; i < padded; i += PICK_THREADS) candidates[i] = 0;
    sort_candidates(candidates, padded);
    // Ties with the k-th stay.
    u32 kept = min(p.top_k, n);
    const float kth = logit_of(candidates[kept - 1]);
    while (kept < n && logit_of(candidates[kept]) == kth) kept++;
    if (p.tail > 0.0f) {
        // Every warp does the same: the total, then sums from the smallest up, 32 at a time, until they pass the tail.
        const u32 lane = threadIdx.x % WARP;
        const auto e = [&](u32 i) { return i < kept ? exp(double(logit_of(candidates[i])) - double(top)) : 0.0; };
        double total = 0.0;
#pragma unroll 1
        for (u32 i = lane; i < kept; i += WARP) total += e(i);
        total = warp_reduce(total, Sum());
        double below = 0.0;
        for (u32 end = kept;; end -= WARP) {
            // Lane l has the l-th smallest of those left.
            const u32 i = end - 1 - lane;
            double sum = lane < end ? double(float(e(i) / total)) : 0.0;
#pragma unroll
            for (u32 d = 1; d < WARP; d *= 2) {
                const double lower = __shfl_up_sync(ALL_LANES, sum, d);
                if (lane >= d) sum += lower;
            }
            const u32 stays = __ballot_sync(ALL_LANES, lane < end && (float(below + sum) > p.tail || i == 0));
            if (stays) {
                kept = end - (__ffs(stays) - 1);
                break;
            }
            below += __shfl_sync(ALL_LANES, sum, WARP - 1);
        }
    }
    u64 winner = 0;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < kept; i += PICK_THREADS) {
        const u32 token = u32(candidates[i]);
        winner = max(winner, race_key(noisy(p, token, logit_of(candidates[i])), token));
    }
    return race_token(block_reduce(winner, Max(), parts));
}

#endif

// Launch: grid rows, block PICK_THREADS.
extern "C" __global__ void __launch_bounds__(PICK_THREADS, 2)
pick(const float* __restrict__ logits, const float* __restrict__ temperature, const float* __restrict__ top_p_tail,
     const int* __restrict__ params, const RowScratch* __restrict__ scratch, int* __restrict__ out) {
    wait_for_previous();
    __shared__ u64 parts[WARP];
    __shared__ float largest[SEGMENTS];
    const u32 r = blockIdx.x;
    const float* const row = logits + u64(r) * VOCAB;
    const Params p = load_params(params, temperature, top_p_tail, r);
    const float top = load_largest(scratch[r], largest, parts);
    int token = -1;
    if (top > -INFINITY && top < INFINITY) {
        if (!RANDOM || p.greedy) {
            u32 lowest = 0; // as ~token, so that the maximum is it
            for_tokens_from<1>(p, top, row, largest, [&](u32 t, float) { lowest = max(lowest, ~t); });
            token = ~block_reduce(lowest, Max(), parts);
        } else if (!TRUNCATED || (p.top_k == 0 && p.tail == 0.0f)) {
            u64 winner = 0;
            for (u32 i = threadIdx.x; i < STRIPS; i += PICK_THREADS) winner = max(winner, scratch[r].winner[i]);
            token = race_token(block_reduce(winner, Max(), parts));
        } else {
#if TRUNCATED
            __shared__ u64 candidates[CANDIDATES];
            __shared__ u32 count;
            token = few(p.top_k) ? pick_candidates(p, top, row, largest, candidates, &count, parts) : PENDING;
#endif
        }
    }
    if (threadIdx.x == 0) out[r] = token;
}

#if TRUNCATED

// ---- reject ----

struct RejectShared {
    u64 parts[WARP];
    float largest[SEGMENTS];
    u32 counts[256]; // by the digit of the k-th
};

// The k-th largest logit, eight bits at a time, a pass over the row for each: for rows that delegates cannot bound.
__device__ float kth_logit(const Params& p, const float* row, RejectShared& s) {
    u32 k = p.top_k;
    u32 kth = 0;
    for (u32 shift = 24;; shift -= 8) {
        for (u32 i = threadIdx.x; i < 256; i += REJECT_THREADS) s.counts[i] = 0;
        __syncthreads();
        const float limit = of_ordered(max(kth, ordered(-INFINITY)));
        for_tokens_from<FAST>(p, limit, row, s.largest, [&](u32 token, float logit) {
            const u32 key = ordered(logit);
            const bool same = shift == 24 || key >> (shift + 8) == kth >> (shift + 8);
            if (same && token < VOCAB) atomicAdd(&s.counts[key >> shift & 255], 1);
        });
        __syncthreads();
        u32 digit = 255;
        while (digit > 0 && s.counts[digit] < k) k -= s.counts[digit--];
        kth |= digit << shift;
        if (shift == 0) return of_ordered(kth);
        __syncthreads();
    }
}

// Whether top-p keeps `token`, by the oracle's own sums: all in f64, probabilities rounded to f32.
__device__ bool kept_exactly(const Params& p, u32 token, float logit, float floor, float top, const float* row,
                             RejectShared& s) {
    double total = 0.0, sum = 0.0;
    const auto e = [&](float l) { return exp(double(l) - double(top)); };
    for_tokens_from<1>(p, floor, row, s.largest, [&](u32, float l) { total += e(l); });
    total = block_reduce(total, Sum(), s.parts);
    for_tokens_from<1>(p, floor, row, s.largest, [&](u32 t, float l) {
        if (l < logit || (l == logit && t <= token)) sum += double(float(e(l) / total));
    });
    return float(block_reduce(sum, Sum(), s.parts)) > p.tail;
}

// Top-p, and top-k where delegates cannot bound it, by rejection.
__device__ int pick_by_rejection(const Params& p, float top, u64 winner, const float* row, const RowScratch& scratch,
                                 RejectShared& s) {
    const float floor = p.top_k ? kth_logit(p, row, s) : -INFINITY;
    double total = 0.0;
    if (p.tail > 0.0f) {
        if (p.top_k) {
            for_tokens_from<1>(p, floor, row, s.largest, [&](u32, float l) { total += __expf(l - top); });
        } else {
            for (u32 i = threadIdx.x; i < SEGMENTS; i += blockDim.x)
                total += double(scratch.mass[i]) * double(__expf(s.largest[i] - top));
        }
        total = block_reduce(total, Sum(), s.parts);
    }
    // What was rejected, and so all below it.
    float pivot = floor;
    u32 pivot_token = 0;
    bool rejected = false;
    for (;;) {
        if (winner == 0) {
            for_tokens_from<1>(p, pivot, row, s.largest, [&](u32 t, float l) {
                if (l == -INFINITY || (rejected && l == pivot && t <= pivot_token)) return;
                winner = max(winner, race_key(noisy(p, t, l), t));
            });
            winner = block_reduce(winner, Max(), s.parts);
        }
        const u32 token = race_token(winner);
        const float logit = p.tempered(row[token]);
        bool keep = logit >= floor;
        if (keep && p.tail > 0.0f) {
            // Few enough to a thread for f32.
            float mine = 0.0f;
            for_tokens_from<FAST>(p, logit, row, s.largest, [&](u32 t, float l) {
                if (l > logit || t > token) mine += __expf(l - top);
            });
            const double above = block_reduce(double(mine), Sum(), s.parts);
            // The last always stays.
            if (above > 0.0) {
                const double from_below = (total - above) / total;
                keep = from_below > p.tail;
                // Within the error of these sums the oracle's decide.
                if (fabs(from_below - double(p.tail)) < 1e-5)
                    keep = kept_exactly(p, token, logit, floor, top, row, s);
            }
        }
        if (keep) return token;
        if (logit >= floor) {
            pivot = logit;
            pivot_token = token;
            rejected = true;
        }
        winner = 0;
    }
}

// Launch: grid rows, block REJECT_THREADS, after pick.
extern "C" __global__ void __launch_bounds__(REJECT_THREADS, 1)
reject(const float* __restrict__ logits, const float* __restrict__ temperature, const float* __restrict__ top_p_tail,
       const int* __restrict__ params, const RowScratch* __restrict__ scratch, int* __restrict__ out) {
    wait_for_previous();
    __shared__ RejectShared s;
    const u32 r = blockIdx.x;
    if (out[r] != PENDING) return;
    const float* const row = logits + u64(r) * VOCAB;
    const Params p = load_params(params, temperature, top_p_tail, r);
    const float top = load_largest(scratch[r], s.largest, s.parts);
    u64 winner = 0;
    if (!few(p.top_k)) {
        for (u32 i = threadIdx.x; i < STRIPS; i += REJECT_THREADS) winner = max(winner, scratch[r].winner[i]);
        winner = block_reduce(winner, Max(), s.parts);
    }
    const int token = pick_by_rejection(p, top, winner, row, scratch[r], s);
    if (threadIdx.x == 0) out[r] = token;
}

#endif
