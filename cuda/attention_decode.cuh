// Decode attention: one query a sequence, bound by the bytes of K and V. Splits whose size depends on the sequence alone are
// computed independently and joined in a fixed order, so a result depends neither on the rest of the batch nor on timing.
#pragma once
#include "attention.cuh"

constexpr u32 DECODE_WARPS = 4;
constexpr u32 DECODE_THREADS = DECODE_WARPS * WARP;

// Keys [begin, end) of a sequence, for the query heads from `head` on that one pass over K and V serves.
struct Split {
    u32 seq, head, split, begin, end;
    __device__ __forceinline__ u32 kv_head() const { return head / GROUP; }
    __device__ __forceinline__ u32 heads(u32 pass) const { return min(pass, GROUP - head % GROUP); }
    __device__ __forceinline__ u64 token(const Batch& b) const { return b.q_start[seq] - b.q_start[0]; }
};

// How the keys that a decoding sequence's position sees are cut: into about as many splits as `b.split` goes into them, of
// equal size. (A short one at the end would take a block almost as long as a whole one.) Sequences with more than one
// query are for `flash` and have none.
struct SplitSize {
    u32 first, size, count;  // the first key, in its group of 16
    __device__ __forceinline__ SplitSize(const Batch& b, u32 seq) : first(0), size(0), count(0) {
        const u32 kv_len = b.kv_len[seq];
        if (b.q_start[seq + 1] - b.q_start[seq] != 1 || kv_len == 0) return;
        first = first_key(b, kv_len - 1) / 16 * 16;
        const u32 keys = kv_len - first, wanted = max(1u, (keys + b.split / 2) / b.split);
        size = ceil_div(ceil_div(keys, wanted), 64u) * 64;
        count = ceil_div(keys, size);
    }
};
struct SplitCount {
    const Batch& b;
    __device__ __forceinline__ u32 operator()(u32 seq) const { return SplitSize(b, seq).count; }
};

// Every `stride`-th split of the batch, from the `first` on. PASS: query heads that one pass over K and V serves.
template <u32 PASS>
struct Splits {
    static constexpr u32 PASSES = ceil_div(u32(GROUP), PASS);
    const Batch& b;
    WorkList<SplitCount> list;
    u32 index, stride;

    __device__ Splits(const Batch& b, u32 first, u32 stride)
        : b(b), list(b.seqs, SplitCount{b}), index(first), stride(stride) {}

    __device__ __forceinline__ bool next(Split& s) {
        const u32 per_split = b.kv_heads * PASSES, in_split = index % per_split;
        if (!list.find(index / per_split, s.seq, s.split)) return false;
        const u32 kv_len = b.kv_len[s.seq];
        const SplitSize cut(b, s.seq);
        s.head = in_split / PASSES * GROUP + in_split % PASSES * PASS;
        s.begin = max(first_key(b, kv_len - 1), cut.first + s.split * cut.size);
        s.end = min(kv_len, cut.first + (s.split + 1) * cut.size);
        index += stride;
        return true;
    }
};

// The softmax states of PASS heads after the keys of one of a block's streams.
template <u32 PASS>
struct __align__(16) States {
    float values[PASS][HEAD_DIM];
    float2 stats[PASS];  // maximum (log2) and sum
};

// Joins the states of a block's streams, the first at `states` and the others APART bytes apart, and stores them: to
// `out` if final, else to `partial`.
template <u32 STREAMS, u32 APART, u32 PASS>
__device__ __forceinline__ void store_split(const Batch& b, const Split& s, const States<PASS>* states) {
    const auto of = [&](u32 k) -> const States<PASS>& {
        return *reinterpret_cast<const States<PASS>*>(reinterpret_cast<const u8*>(states) + k * APART);
    };
    const u32 heads = b.kv_heads * GROUP;
    const bool only = SplitCount{b}(s.seq) == 1;  // then the result is final
    T* out = b.out + (s.token(b) * heads + s.head) * HEAD_DIM;
    const u64 slot = (u64(s.seq) * b.max_splits + s.split) * heads + s.head;
    for (u32 i = threadIdx.x; i < s.heads(PASS) * HEAD_DIM; i += DECODE_THREADS) {
        const u32 head = i / HEAD_DIM;
        float top = -INFINITY, sum = 0.0f, value = 0.0f;
#pragma unroll
        for (u32 k = 0; k < STREAMS; k++) top = fmaxf(top, of(k).stats[head].x);
#pragma unroll
        for (u32 k = 0; k < STREAMS; k++) {
            const float2 stat = of(k).stats[head];
            const float weight = exp2_fast(stat.x - top);
            sum += weight * stat.y;
            value += weight * of(k).values[head][i % HEAD_DIM];
        }
        if (only) {
            out[i] = from_f32<T>(value / sum);
        } else {
            b.partial[slot * HEAD_DIM + i] = value;
            if (i % HEAD_DIM == 0) b.partial_stats[slot + head] = make_float2(top, sum);
        }
    }
}

// Joins the splits of every decoding sequence that has more than one, first to last. Grid: (ceil(heads * HEAD_DIM / 4 /
// 128), seqs); a thread makes four values.
__device__ __forceinline__ void combine(const Batch& b) {
    const u32 seq = blockIdx.y, heads = b.kv_heads * GROUP;
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * 4, head = i / HEAD_DIM;
    const u32 splits = SplitCount{b}(seq);
    const u64 slot = u64(seq) * b.max_splits * heads, token = b.q_start[seq] - b.q_start[0];
    wait_for_previous();
    if (splits < 2 || head >= heads) return;
    const auto stats_of = [&](u32 k) { return b.partial_stats[slot + u64(k) * heads + head]; };
    const auto values_of = [&](u32 k) {
        return *reinterpret_cast<const float4*>(b.partial + (slot + u64(k) * heads) * HEAD_DIM + i);
    };
    // What most sequences have of both travels together: all of the kernel's time is waiting for it.
    constexpr u32 AHEAD = 4;
    float2 stats[AHEAD];
    float4 values[AHEAD];
#pragma unroll
    for (u32 k = 0; k < AHEAD; k++) {
        stats[k] = make_float2(-INFINITY, 0.0f);
        if (k < splits) {
            stats[k] = stats_of(k);
            values[k] = values_of(k);
        }
    }
    float top = -INFINITY, sum = 0.0f;
    float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (u32 k = 0; k < AHEAD; k++) top = fmaxf(top, stats[k].x);
#pragma unroll 4
    for (u32 k = AHEAD; k < splits; k++) top = fmaxf(top, stats_of(k).x);
    const auto add = [&](float2 stat, float4 value) {
        const float weight = exp2_fast(stat.x - top);
        sum += weight * stat.y;
        total.x += weight * value.x;
        total.y += weight * value.y;
        total.z += weight * value.z;
        total.w += weight * value.w;
    };
#pragma unroll
    for (u32 k = 0; k < AHEAD; k++)
        if (k < splits) add(stats[k], values[k]);
#pragma unroll 4
    for (u32 k = AHEAD; k < splits; k++) add(stats_of(k), values_of(k));
    const float inverse = 1.0f / sum;
    T* out = b.out + token * heads * HEAD_DIM + i;
    *reinterpret_cast<uint2*>(out) =
        make_uint2(pack<T>(total.x * inverse, total.y * inverse), pack<T>(total.z * inverse, total.w * inverse));
}

// ---- split_kv: CUDA cores ----

// A row of K or V is read by LANES lanes, 16 bytes each; a warp reads ROWS rows at once, and U times that in a step. A
// step's tokens lie in one cache block.
constexpr u32 CHUNKS = HEAD_DIM / 8;
constexpr u32 SPLIT_LANES = CHUNKS <= 8 ? 8 : CHUNKS <= 16 ? 16 : 32;
constexpr u32 SPLIT_ROWS = WARP / SPLIT_LANES;
constexpr u32 SPLIT_U = SPLIT_ROWS == 4 ? 4 : 8;
constexpr u32 SPLIT_STEP = SPLIT_ROWS * SPLIT_U;
constexpr u32 SPLIT_PASS = GROUP < 4 ? GROUP : 4;
constexpr u32 SPLIT_STAGES = 3;
constexpr u32 SPLIT_STREAMS = DECODE_WARPS * SPLIT_ROWS;

__device__ __forceinline__ void split_kv(const Batch& b, u8* shared) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 chunk = lane % SPLIT_LANES, row = lane / SPLIT_LANES;
    const Scores scores(b);
    // A queue of steps in shared memory. Every lane reads back only what it copied itself, so no barrier is needed.
    using Slot = Vec<T>;
    Slot* queue = reinterpret_cast<Slot*>(shared) + warp * SPLIT_STAGES * 2 * SPLIT_U * WARP + lane;
    using State = States<SPLIT_PASS>;
    State* states = reinterpret_cast<State*>(shared + DECODE_WARPS * SPLIT_STAGES * 2 * SPLIT_U * WARP * sizeof(Slot));

    const auto issue = [&](const Split& s, u32 step, u32 stage) {
        const u32 token = step * SPLIT_STEP;
        if (token < s.end) {
            const u64 base = row_offset(b, blocks_of(b, s.seq), token, s.kv_head());
#pragma unroll
            for (u32 u = 0; u < SPLIT_U; u++) {
                const u32 r = u * SPLIT_ROWS + row;
                const bool valid = token + r >= s.begin && token + r < s.end && chunk < CHUNKS;
                const u64 at = base + (r * b.kv_heads * HEAD_DIM + (chunk < CHUNKS ? chunk * 8 : 0));
                Slot* slot = queue + (stage * 2 * SPLIT_U + u) * WARP;
                cp_async_16(slot, b.k_cache + at, valid);
                cp_async_16(slot + SPLIT_U * WARP, b.v_cache + at, valid);
            }
        }
        cp_async_commit();
    };
    const auto fill = [&](const Split& s, u32 stage) {
        const u32 step = s.begin / SPLIT_STEP + warp;
#pragma unroll
        for (u32 i = 0; i < SPLIT_STAGES - 1; i++) issue(s, step + i * DECODE_WARPS, (stage + i) % SPLIT_STAGES);
    };

    Splits<SPLIT_PASS> splits(b, blockIdx.x, gridDim.x);
    Split next;
    u32 stage = 0;
    bool more = splits.next(next);
    wait_for_previous();  // lengths and block table are older than the kernel before
    if (more) fill(next, stage);
    while (more) {
        const Split s = next;
        float q[SPLIT_PASS][8], total[SPLIT_PASS][8], top[SPLIT_PASS], sum[SPLIT_PASS];
#pragma unroll
        for (u32 h = 0; h < SPLIT_PASS; h++) {
            Slot v = {};
            if (h < s.heads(SPLIT_PASS) && chunk < CHUNKS)
                v = load_vec(b.q + s.token(b) * b.q_stride + (s.head + h) * HEAD_DIM + chunk * 8);
            top[h] = -INFINITY;
            sum[h] = 0.0f;
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                q[h][i] = to_f32(v.at[i]);
                total[h][i] = 0.0f;
            }
        }
        for (u32 step = s.begin / SPLIT_STEP + warp; step * SPLIT_STEP < s.end; step += DECODE_WARPS) {
            cp_async_wait<SPLIT_STAGES - 2>();
            issue(s, step + (SPLIT_STAGES - 1) * DECODE_WARPS, (stage + SPLIT_STAGES - 1) % SPLIT_STAGES);
            const Slot* slot = queue + stage * 2 * SPLIT_U * WARP;
            float p[SPLIT_U][SPLIT_PASS];
#pragma unroll
            for (u32 u = 0; u < SPLIT_U; u++) {
                const Slot k = slot[u * WARP];
                const u32 token = step * SPLIT_STEP + u * SPLIT_ROWS + row;
#pragma unroll
                for (u32 h = 0; h < SPLIT_PASS; h++) {
                    float dot = 0.0f;
#pragma unroll
                    for (u32 i = 0; i < 8; i++) dot += q[h][i] * to_f32(k.at[i]);
#pragma unroll
                    for (u32 d = SPLIT_LANES / 2; d > 0; d /= 2) dot += __shfl_xor_sync(ALL_LANES, dot, d);
                    const bool seen = token >= s.begin && token < s.end;
                    p[u][h] = seen ? scores.capped(dot) * scores.out : -INFINITY;
                }
            }
#pragma unroll
            for (u32 h = 0; h < SPLIT_PASS; h++) {
                float peak = top[h];
#pragma unroll
                for (u32 u = 0; u < SPLIT_U; u++) peak = fmaxf(peak, p[u][h]);
                const float base = peak == -INFINITY ? 0.0f : peak;
                const float keep = exp2_fast(top[h] - base);
                top[h] = peak;
                sum[h] *= keep;
#pragma unroll
                for (u32 i = 0; i < 8; i++) total[h][i] *= keep;
#pragma unroll
                for (u32 u = 0; u < SPLIT_U; u++) {
                    p[u][h] = exp2_fast(p[u][h] - base);
                    sum[h] += p[u][h];
                }
            }
#pragma unroll
            for (u32 u = 0; u < SPLIT_U; u++) {
                const Slot v = slot[(SPLIT_U + u) * WARP];
#pragma unroll
                for (u32 i = 0; i < 8; i++) {
                    const float x = to_f32(v.at[i]);
#pragma unroll
                    for (u32 h = 0; h < SPLIT_PASS; h++) total[h][i] += p[u][h] * x;
                }
            }
            stage = stage + 1 == SPLIT_STAGES ? 0 : stage + 1;
        }
        // The next split's first steps travel while this one's states are joined.
        more = splits.next(next);
        if (more) fill(next, stage);
        State& own = states[warp * SPLIT_ROWS + row];
#pragma unroll
        for (u32 h = 0; h < SPLIT_PASS; h++) {
            float* at = own.values[h] + chunk * 8;
            if (chunk < CHUNKS) {
                *reinterpret_cast<float4*>(at) = make_float4(total[h][0], total[h][1], total[h][2], total[h][3]);
                *reinterpret_cast<float4*>(at + 4) = make_float4(total[h][4], total[h][5], total[h][6], total[h][7]);
            }
            if (chunk == 0) own.stats[h] = make_float2(top[h], sum[h]);
        }
        __syncthreads();
        store_split<SPLIT_STREAMS, sizeof(State)>(b, s, states);
        __syncthreads();
    }
}

// ---- gqa_packed: tensor cores ----

// The heads of a group are the rows of one 16-row tile. A warp's step is 16 keys: one tile, in one cache block.
constexpr u32 PACKED_PASS = GROUP < 16 ? GROUP : 16;
constexpr bool PACKED_TALL = PACKED_PASS > 8;  // else rows 8-15 of the tile are zero
constexpr u32 PACKED_STAGES = HEAD_DIM > 128 ? 2 : 3;
constexpr u32 PACKED_TILE = 16 * PITCH;
constexpr u32 PACKED_QUEUE = PACKED_STAGES * 2 * PACKED_TILE;  // of a warp

__device__ __forceinline__ void gqa_packed(const Batch& b, u8* shared, u32 first, u32 stride) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const Scores scores(b);
    // A queue of steps for each warp alone: K, then V. Its last stage, which the first steps of a split leave free, takes
    // the states of the split before.
    T* queue = reinterpret_cast<T*>(shared) + warp * PACKED_QUEUE;
    using State = States<PACKED_PASS>;
    static_assert(sizeof(State) <= 2 * PACKED_TILE * sizeof(T), "a warp's states fit a stage");
    State* states = reinterpret_cast<State*>(reinterpret_cast<T*>(shared) + (PACKED_STAGES - 1) * 2 * PACKED_TILE);
    State& own = *reinterpret_cast<State*>(queue + (PACKED_STAGES - 1) * 2 * PACKED_TILE);

    const auto issue = [&](const Split& s, u32 step, u32 stage) {
        const u32 token = step * 16;
        if (token < s.end) {
            const u64 base = row_offset(b, blocks_of(b, s.seq), token, s.kv_head());
            T* k = queue + stage * 2 * PACKED_TILE;
#pragma unroll
            for (u32 i = lane; i < 16 * CHUNKS; i += WARP) {
                const u32 r = i / CHUNKS, chunk = i % CHUNKS;
                const bool valid = token + r >= s.begin && token + r < s.end;
                const u64 at = base + (r * b.kv_heads * HEAD_DIM + chunk * 8);
                cp_async_16(k + r * PITCH + chunk * 8, b.k_cache + at, valid);
                cp_async_16(k + PACKED_TILE + r * PITCH + chunk * 8, b.v_cache + at, valid);
            }
        }
        cp_async_commit();
    };
    const auto fill = [&](const Split& s) {
        const u32 step = s.begin / 16 + warp;
#pragma unroll
        for (u32 i = 0; i < PACKED_STAGES - 1; i++) issue(s, step + i * DECODE_WARPS, i);
    };

    Splits<PACKED_PASS> splits(b, first, stride);
    Split next;
    bool more = splits.next(next);
    wait_for_previous();  // lengths and block table are older than the kernel before
    if (more) fill(next);
    while (more) {
        const Split s = next;
        // Q as A operands: lane l holds columns 2 (l % 4), the next and those 8 further, of rows l / 4 and l / 4 + 8.
        const T* rows = b.q + s.token(b) * b.q_stride + s.head * HEAD_DIM + lane % 4 * 2;
        u32 q[HEAD_DIM / 16][4];
#pragma unroll
        for (u32 k = 0; k < HEAD_DIM / 16; k++) {
#pragma unroll
            for (u32 r = 0; r < 4; r++) {
                const u32 head = lane / 4 + r % 2 * 8;
                q[k][r] = 0;
                if (head < s.heads(PACKED_PASS) && (PACKED_TALL || r % 2 == 0))
                    q[k][r] = *reinterpret_cast<const u32*>(rows + head * HEAD_DIM + k * 16 + r / 2 * 8);
            }
        }
        float total[HEAD_DIM / 8][4] = {};
        float top[2] = {-INFINITY, -INFINITY}, sum[2] = {};
        u32 stage = 0;
        for (u32 step = s.begin / 16 + warp; step * 16 < s.end; step += DECODE_WARPS) {
            cp_async_wait<PACKED_STAGES - 2>();
            __syncwarp();
            issue(s, step + (PACKED_STAGES - 1) * DECODE_WARPS, (stage + PACKED_STAGES - 1) % PACKED_STAGES);
            const T* k_tile = queue + stage * 2 * PACKED_TILE;
            float p[2][4] = {};
            const T* k_row = fragment_row_b(k_tile);
#pragma unroll
            for (u32 k = 0; k < HEAD_DIM / 16; k++) {
                u32 keys[4];
                ldmatrix_x4(keys, k_row + k * 16);
                mma_16x8x16<T>(p[0], q[k], keys[0], keys[1]);
                mma_16x8x16<T>(p[1], q[k], keys[2], keys[3]);
            }
#pragma unroll
            for (u32 n = 0; n < 2; n++) {
#pragma unroll
                for (u32 e = 0; e < 4; e++) {
                    const u32 token = step * 16 + n * 8 + lane % 4 * 2 + e % 2;
                    p[n][e] = token >= s.begin && token < s.end ? scores.capped(p[n][e]) * scores.out : -INFINITY;
                }
            }
#pragma unroll
            for (u32 half = 0; half < (PACKED_TALL ? 2 : 1); half++) {
                float peak = fmaxf(p[0][2 * half], p[0][2 * half + 1]);
                peak = fmaxf(peak, fmaxf(p[1][2 * half], p[1][2 * half + 1]));
                peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 1));
                peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 2));
                peak = fmaxf(peak, top[half]);  // finite: a step has a key in sight
                const float keep = exp2_fast(top[half] - peak);
                top[half] = peak;
                sum[half] *= keep;
#pragma unroll
                for (u32 n = 0; n < HEAD_DIM / 8; n++) {
                    total[n][2 * half] *= keep;
                    total[n][2 * half + 1] *= keep;
                }
#pragma unroll
                for (u32 n = 0; n < 2; n++) {
#pragma unroll
                    for (u32 e = 2 * half; e < 2 * half + 2; e++) {
                        p[n][e] = exp2_fast(p[n][e] - peak);
                        sum[half] += p[n][e];
                    }
                }
            }
            u32 weights[4] = {pack<T>(p[0][0], p[0][1]), 0, pack<T>(p[1][0], p[1][1]), 0};
            if (PACKED_TALL) {
                weights[1] = pack<T>(p[0][2], p[0][3]);
                weights[3] = pack<T>(p[1][2], p[1][3]);
            }
            const T* v_row = fragment_row(k_tile + PACKED_TILE);
#pragma unroll
            for (u32 n = 0; n < HEAD_DIM / 16; n++) {
                u32 v[4];
                ldmatrix_x4_trans(v, v_row + n * 16);
                mma_16x8x16<T>(total[2 * n], weights, v[0], v[1]);
                mma_16x8x16<T>(total[2 * n + 1], weights, v[2], v[3]);
            }
            __syncwarp();
            stage = stage + 1 == PACKED_STAGES ? 0 : stage + 1;
        }
        more = splits.next(next);
        if (more) fill(next);
#pragma unroll
        for (u32 half = 0; half < (PACKED_TALL ? 2 : 1); half++) {
            const u32 head = lane / 4 + half * 8;
            sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 1);
            sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 2);
            if (head < s.heads(PACKED_PASS)) {
                float* at = own.values[head] + lane % 4 * 2;
#pragma unroll
                for (u32 n = 0; n < HEAD_DIM / 8; n++)
                    *reinterpret_cast<float2*>(at + n * 8) = make_float2(total[n][2 * half], total[n][2 * half + 1]);
                if (lane % 4 == 0) own.stats[head] = make_float2(top[half], sum[half]);
            }
        }
        __syncthreads();
        store_split<DECODE_WARPS, PACKED_QUEUE * sizeof(T)>(b, s, states);
        __syncthreads();
    }
}
