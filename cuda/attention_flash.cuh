// Prefill attention on tensor cores: FlashAttention-2 (arXiv:2307.08691) over pages. A block makes FLASH_ROWS queries
// of one head; K and V tiles of FLASH_KEYS keys pass through two buffers; tiles that the mask hides are skipped.
#pragma once
#include "attention.cuh"

constexpr u32 FLASH_WARPS = 4;
constexpr u32 FLASH_THREADS = FLASH_WARPS * WARP;
// 16-row tiles of a warp: two use every K and V fragment twice; heads of 256 leave registers for one.
constexpr u32 FLASH_M = HEAD_DIM > 128 ? 1 : 2;
constexpr u32 FLASH_KEYS = HEAD_DIM > 128 ? 32 : 64;
constexpr u32 FLASH_WARP_ROWS = FLASH_M * 16;
constexpr u32 FLASH_ROWS = FLASH_WARPS * FLASH_WARP_ROWS;
constexpr u32 FLASH_TILE = FLASH_KEYS * PITCH;

// Query tiles of a sequence; with `MIXED`, sequences of one query are left to `gqa_packed`.
template <bool MIXED>
struct TileCount {
    const Batch& b;
    __device__ __forceinline__ u32 operator()(u32 seq) const {
        const u32 q_len = b.q_start[seq + 1] - b.q_start[seq];
        return MIXED && q_len == 1 ? 0 : ceil_div(q_len, FLASH_ROWS);
    }
};

// The 16-byte chunks of 16 rows of a tile, spread over the block: calls `copy(row, chunk)`.
template <class Copy>
__device__ __forceinline__ void for_16_rows(Copy copy) {
    constexpr u32 CHUNKS = HEAD_DIM / 8;
#pragma unroll
    for (u32 i = 0; i < ceil_div(16 * CHUNKS, FLASH_THREADS); i++) {
        const u32 at = i * FLASH_THREADS + threadIdx.x;
        if (16 * CHUNKS % FLASH_THREADS == 0 || at < 16 * CHUNKS) copy(at / CHUNKS, at % CHUNKS);
    }
}

// What the loop seldom needs lies in shared memory: its registers are all taken.
struct FlashWork {
    const i32* blocks;
    u32 kv_head, first_token, rows;
};

template <bool MIXED>
__device__ __forceinline__ void flash(const Batch& b, u8* shared) {
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 heads = b.kv_heads * GROUP, head = blockIdx.x;
    u32 seq, part;
    WorkList<TileCount<MIXED>> list(b.seqs, TileCount<MIXED>{b});
    if (!list.find(blockIdx.y, seq, part)) return;
    const Sequence s = sequence(b, seq);
    // The last tile sees the most keys: it goes first.
    const u32 first_row = (ceil_div(s.q_len, FLASH_ROWS) - 1 - part) * FLASH_ROWS;
    const u32 rows = min(s.q_len - first_row, FLASH_ROWS);
    const u32 position = s.kv_len - s.q_len + first_row;  // of row 0
    const u32 begin = first_key(b, position), end = position + rows;
    const u32 stride = b.kv_heads * HEAD_DIM;

    T* q_tile = reinterpret_cast<T*>(shared);
    T* kv_tiles = q_tile + FLASH_ROWS * PITCH;
#pragma unroll 1
    for (u32 r = 0; r < FLASH_ROWS; r += 16) {
        for_16_rows([&](u32 row, u32 chunk) {  // the last row again where there is none
            const u64 token = s.q_first + first_row + min(r + row, rows - 1);
            cp_async_16(q_tile + (r + row) * PITCH + chunk * 8, b.q + token * b.q_stride + head * HEAD_DIM + chunk * 8);
        });
    }
    __shared__ volatile FlashWork work;
    if (threadIdx.x == 0) {
        work.blocks = blocks_of(b, seq);
        work.kv_head = head / GROUP;
        work.first_token = s.q_first + first_row;
        work.rows = rows;
    }
    __syncthreads();
    const auto load = [&](u32 key, u32 buffer) {
        T* tile = kv_tiles + buffer * 2 * FLASH_TILE;
        const i32* blocks = work.blocks;
        u32 groups[FLASH_KEYS / 16];  // all of them first: a copy is a barrier to the compiler
#pragma unroll
        for (u32 g = 0; g < FLASH_KEYS / 16; g++) groups[g] = key + g * 16 < end ? row_group(blocks, key + g * 16) : 0;
#pragma unroll
        for (u32 g = 0; g < FLASH_KEYS / 16; g++) {
            const u64 at = group_offset(b, groups[g], work.kv_head);
            for_16_rows([&](u32 row, u32 chunk) {  // rows past `end` become zero and are not read
                T* to = tile + (g * 16 + row) * PITCH + chunk * 8;
                const u64 from = at + (row * stride + chunk * 8);
                cp_async_16(to, b.k_cache + from, key + g * 16 + row < end);
                cp_async_16(to + FLASH_TILE, b.v_cache + from, key + g * 16 + row < end);
            });
        }
        cp_async_commit();
    };
    u32 key = begin / FLASH_KEYS * FLASH_KEYS;
    load(key, key / FLASH_KEYS % 2);

    const Scores scores(b);
    const u32 warp_row = warp * FLASH_WARP_ROWS, warp_position = position + warp_row;
    const T* q_row = fragment_row(q_tile + warp_row * PITCH);
    float total[FLASH_M][HEAD_DIM / 8][4] = {};
    float top[FLASH_M][2], sum[FLASH_M][2];
#pragma unroll
    for (u32 m = 0; m < FLASH_M; m++) {
        top[m][0] = top[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0.0f;
    }
    for (; key < end; key += FLASH_KEYS) {
        const u32 buffer = key / FLASH_KEYS % 2;
        cp_async_wait<0>();
        __syncthreads();  // this tile is there, and nobody reads the other buffer any more
        if (key + FLASH_KEYS < end) load(key + FLASH_KEYS, buffer ^ 1);

        const T* k_tile = kv_tiles + buffer * 2 * FLASH_TILE;
        float p[FLASH_M][FLASH_KEYS / 8][4] = {};
        const T* k_row = fragment_row_b(k_tile);
#pragma unroll
        for (u32 k = 0; k < HEAD_DIM / 16; k++) {
            u32 q[FLASH_M][4];
#pragma unroll
            for (u32 m = 0; m < FLASH_M; m++) ldmatrix_x4(q[m], q_row + m * 16 * PITCH + k * 16);
#pragma unroll
            for (u32 n = 0; n < FLASH_KEYS / 16; n++) {
                u32 keys[4];
                ldmatrix_x4(keys, k_row + n * 16 * PITCH + k * 16);
#pragma unroll
                for (u32 m = 0; m < FLASH_M; m++) {
                    mma_16x8x16<T>(p[m][2 * n], q[m], keys[0], keys[1]);
                    mma_16x8x16<T>(p[m][2 * n + 1], q[m], keys[2], keys[3]);
                }
            }
        }
#if SOFTCAP
#pragma unroll
        for (u32 m = 0; m < FLASH_M; m++)
#pragma unroll
            for (u32 n = 0; n < FLASH_KEYS / 8; n++)
#pragma unroll
                for (u32 e = 0; e < 4; e++) p[m][n][e] = scores.capped(p[m][n][e]);
#endif
        if (key + FLASH_KEYS - 1 > warp_position || key < first_key(b, warp_position + FLASH_WARP_ROWS - 1)) {
#pragma unroll
            for (u32 m = 0; m < FLASH_M; m++)
#pragma unroll
                for (u32 n = 0; n < FLASH_KEYS / 8; n++)
#pragma unroll
                    for (u32 e = 0; e < 4; e++) {
                        const u32 at = warp_position + m * 16 + lane / 4 + e / 2 * 8;
                        const u32 k = key + n * 8 + lane % 4 * 2 + e % 2;
                        if (k > at || k < first_key(b, at)) p[m][n][e] = -INFINITY;
                    }
        }
#pragma unroll
        for (u32 m = 0; m < FLASH_M; m++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                float peak = top[m][half];
#pragma unroll
                for (u32 n = 0; n < FLASH_KEYS / 8; n++)
                    peak = fmaxf(peak, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
                peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 1));
                peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 2));
                const float base = peak == -INFINITY ? 0.0f : peak * scores.out;
                const float keep = exp2_fast(top[m][half] * scores.out - base);
                top[m][half] = peak;
                float added = 0.0f;
#pragma unroll
                for (u32 n = 0; n < FLASH_KEYS / 8; n++) {
#pragma unroll
                    for (u32 e = 2 * half; e < 2 * half + 2; e++) {
                        p[m][n][e] = exp2_fast(p[m][n][e] * scores.out - base);
                        added += p[m][n][e];
                    }
                }
                sum[m][half] = sum[m][half] * keep + added;
                if (__any_sync(ALL_LANES, keep != 1.0f)) {
#pragma unroll
                    for (u32 n = 0; n < HEAD_DIM / 8; n++) {
                        total[m][n][2 * half] *= keep;
                        total[m][n][2 * half + 1] *= keep;
                    }
                }
            }
        }
        const T* v_row = fragment_row(k_tile + FLASH_TILE);
#pragma unroll
        for (u32 k = 0; k < FLASH_KEYS / 16; k++) {
            u32 weights[FLASH_M][4];
#pragma unroll
            for (u32 m = 0; m < FLASH_M; m++)
#pragma unroll
                for (u32 r = 0; r < 4; r++)
                    weights[m][r] = pack<T>(p[m][2 * k + r / 2][r % 2 * 2], p[m][2 * k + r / 2][r % 2 * 2 + 1]);
#pragma unroll
            for (u32 n = 0; n < HEAD_DIM / 16; n++) {
                u32 v[4];
                ldmatrix_x4_trans(v, v_row + k * 16 * PITCH + n * 16);
#pragma unroll
                for (u32 m = 0; m < FLASH_M; m++) {
                    mma_16x8x16<T>(total[m][2 * n], weights[m], v[0], v[1]);
                    mma_16x8x16<T>(total[m][2 * n + 1], weights[m], v[2], v[3]);
                }
            }
        }
    }

    // Through this warp's rows of the Q tile, so that the stores are whole 16-byte chunks of consecutive rows. Other lanes
    // must have read theirs.
    __syncwarp();
#pragma unroll
    for (u32 m = 0; m < FLASH_M; m++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float all = sum[m][half];
            all += __shfl_xor_sync(ALL_LANES, all, 1);
            all += __shfl_xor_sync(ALL_LANES, all, 2);
            const float inverse = 1.0f / all;
            T* at = q_tile + (warp_row + m * 16 + lane / 4 + half * 8) * PITCH + lane % 4 * 2;
#pragma unroll
            for (u32 n = 0; n < HEAD_DIM / 8; n++)
                *reinterpret_cast<u32*>(at + n * 8) =
                    pack<T>(total[m][n][2 * half] * inverse, total[m][n][2 * half + 1] * inverse);
        }
    }
    __syncwarp();
    constexpr u32 CHUNKS = HEAD_DIM / 8;
    for (u32 i = lane; i < FLASH_WARP_ROWS * CHUNKS; i += WARP) {
        const u32 row = warp_row + i / CHUNKS, chunk = i % CHUNKS;
        if (row < work.rows)
            store_vec(b.out + ((u64(work.first_token) + row) * heads + head) * HEAD_DIM + chunk * 8,
                      load_vec(q_tile + row * PITCH + chunk * 8));
    }
}
