// What the attention kernels share: arguments, scores, pages, the list of work, tensor-core fragments.
#pragma once
#include "tensor_core.cuh"

typedef int i32;

// The arguments of every kernel, by value. Mirrors `Batch` of src/kernels/cuda/attention.rs.
struct Batch {
    const T* q;              // [tokens, heads, HEAD_DIM], tokens q_stride elements apart
    const T* k_cache;        // [blocks, BLOCK_SIZE, kv_heads, HEAD_DIM]
    const T* v_cache;        // as k_cache
    const i32* block_table;  // [seqs, max_blocks]
    const i32* q_start;      // [seqs + 1]
    const i32* kv_len;       // [seqs]
    T* out;                  // [tokens, heads, HEAD_DIM]
    float* partial;          // [seqs, max_splits, heads, HEAD_DIM]: weighted sums of V, of each split
    float2* partial_stats;   // [seqs, max_splits, heads]: maximum and sum of its softmax
    u32 q_stride;
    u32 seqs, kv_heads, max_blocks;
    u32 split, max_splits;  // keys of a split, about; splits of the longest row of the block table
    u32 flash_tiles;        // `flash`, `unified`: blockIdx.y below this are query tiles
    float scale, softcap;
    u32 window;
};

// Lengths of one sequence.
struct Sequence {
    u32 q_first, q_len, kv_len;
};
__device__ __forceinline__ Sequence sequence(const Batch& b, u32 seq) {
    const u32 begin = b.q_start[seq], end = b.q_start[seq + 1];
    return {begin - u32(b.q_start[0]), end - begin, u32(b.kv_len[seq])};
}

// The first key that a query at `position` sees.
__device__ __forceinline__ u32 first_key(const Batch& b, u32 position) {
#if WINDOW
    return position + 1 > b.window ? position + 1 - b.window : 0;
#else
    return 0;
#endif
}

// Sixteen consecutive tokens, from a multiple of 16 on, lie in one cache block. Where: in units of 16 rows of the
// cache. Reads one entry of the sequence's row of the block table.
__device__ __forceinline__ u32 row_group(const i32* blocks, u32 token) {
    return u32(blocks[token / BLOCK_SIZE]) * (BLOCK_SIZE / 16) + token % BLOCK_SIZE / 16;
}
// Elements from the start of a cache to the first row of a group.
__device__ __forceinline__ u64 group_offset(const Batch& b, u32 group, u32 kv_head) {
    return u64(group) * (16 * b.kv_heads * HEAD_DIM) + kv_head * HEAD_DIM;
}
// Elements from the start of a cache to a token's row.
__device__ __forceinline__ u64 row_offset(const Batch& b, const i32* blocks, u32 token, u32 kv_head) {
    return group_offset(b, row_group(blocks, token), kv_head) + token % 16 * b.kv_heads * HEAD_DIM;
}
__device__ __forceinline__ const i32* blocks_of(const Batch& b, u32 seq) {
    return b.block_table + u64(seq) * b.max_blocks;
}

// ---- scores, in units of log2: softmax is exp2 of differences ----

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Factors of `score`, computed once.
struct Scores {
    float in, out;
    __device__ explicit Scores(const Batch& b) {
#if SOFTCAP
        in = b.scale / b.softcap * 2.0f * LOG2_E;
        out = b.softcap * LOG2_E;
#else
        in = 1.0f;
        out = b.scale * LOG2_E;
#endif
    }
    // A dot product before the factor `out`; positive `scale` makes it monotonic, so maxima may be taken of it.
    __device__ __forceinline__ float capped(float dot) const {
#if SOFTCAP
        // tanh x = 1 - 2 / (1 + e^2x). tanh.approx, at 2^-11, would be coarser than bf16 after the factor.
        return 1.0f - __fdividef(2.0f, 1.0f + exp2_fast(dot * in));
#else
        return dot;
#endif
    }
};

// ---- work of a ragged batch ----

// Numbers the pieces of work of a batch, sequence by sequence, without a list in memory: a warp looks at the counts of
// 32 sequences at a time. Grids then depend on maxima only, which a captured graph needs; blocks past the end exit.
template <class Count>
struct WorkList {
    Count count;  // pieces of sequence `seq`
    u32 seqs;
    u32 first;   // the 32 sequences in view
    u32 before;  // pieces of all sequences before `first`
    u32 upto;    // pieces up to this lane's sequence, itself included

    __device__ WorkList(u32 seqs, Count count) : count(count), seqs(seqs) { view(0, 0); }

    __device__ __forceinline__ void view(u32 new_first, u32 new_before) {
        const u32 lane = threadIdx.x % WARP;
        first = new_first;
        before = new_before;
        upto = first + lane < seqs ? count(first + lane) : 0;
#pragma unroll
        for (u32 d = 1; d < WARP; d *= 2) {
            const u32 left = __shfl_up_sync(ALL_LANES, upto, d);
            if (lane >= d) upto += left;
        }
        upto += before;
    }

    // The sequence of piece `index` and the piece's number in it; false past the end. `index` never decreases.
    __device__ __forceinline__ bool find(u32 index, u32& seq, u32& part) {
        for (;;) {
            const u32 all = __shfl_sync(ALL_LANES, upto, WARP - 1);
            if (index < all) break;
            if (first + WARP >= seqs) return false;
            view(first + WARP, all);
        }
        const u32 lane = __ffs(__ballot_sync(ALL_LANES, index < upto)) - 1;
        const u32 start = __shfl_sync(ALL_LANES, upto, lane == 0 ? 0 : lane - 1);
        seq = first + lane;
        part = index - (lane == 0 ? before : start);
        return true;
    }
};

// ---- tensor-core fragments from tiles in shared memory ----

// Elements between the rows of a tile. An odd number of 16-byte chunks puts the eight rows of an ldmatrix, and the
// eight lanes of a store, into different banks, with constant offsets where a swizzle would need an XOR.
constexpr u32 PITCH = HEAD_DIM + 8;

// 16 rows x 16 columns at `tile`, as the A operand; of V, whose rows are the inner dimension, as two B operands.
__device__ __forceinline__ const T* fragment_row(const T* tile) {
    const u32 lane = threadIdx.x % WARP;
    return tile + lane % 16 * PITCH + lane / 16 * 8;
}
// 16 rows x 16 columns at `tile`, as two B operands: rows 0-7 in registers 0 and 1, rows 8-15 in 2 and 3.
__device__ __forceinline__ const T* fragment_row_b(const T* tile) {
    const u32 lane = threadIdx.x % WARP;
    return tile + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
}
