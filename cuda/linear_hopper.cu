// Linear layer on Hopper (sm_90a): out[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]). Sums in f32.
//   x: [rows, in] T   weight: [out, in] T, both as tensor maps   bias: [out] T or null   y: [rows, out] T or f32
// Oracle: reference/src/linear.rs. Shapes checked by src/kernels/linear.rs. `in` is a multiple of 8, x and weight lie at
// multiples of 16 bytes, as the copy engine wants. Any number of rows, any `out`.
// JIT constants: DTYPE (1 or 2); OUT_F32 (y is f32, else T).
//   wgmma_tma    a warpgroup feeds shared memory through the copy engine, others multiply 64 rows each. Without splits
//                blocks persist and a tile's stores overlap the next one's copies; with splits a cluster adds its sums
//                through shared memory, in order, for tiles that are too few to fill the chip.
// The same order of sums for an element whatever the tile and the number of rows: batch-invariant for equal splits.
// Entries at the end: tile, then splits.
#include "hopper.cuh"

#ifndef OUT_F32
#define OUT_F32 0
#endif
#if OUT_F32
using Out = float;
#else
using Out = T;
#endif
// SPLITS: blocks of a cluster, which share a tile's `in`. BLOCKS: of a multiprocessor.
template <u32 ROWS_, u32 COLS_, u32 STAGES_, u32 SPLITS_, u32 BLOCKS_>
struct Shape {
    static constexpr u32 ROWS = ROWS_, COLS = COLS_, STAGES = STAGES_, SPLITS = SPLITS_, BLOCKS = BLOCKS_;
    static constexpr u32 CONSUMERS = ROWS / 64, THREADS = 128 * (1 + CONSUMERS);
    static constexpr u32 X_STAGE = ROWS * 64, STAGE = X_STAGE + COLS * 64;  // values
    static constexpr u32 LD = COLS + 4;                                     // of a tile's sums in shared memory
    static constexpr u32 SHARED = STAGES * STAGE * sizeof(T) + 1024;
    static_assert(SPLITS == 1 || ROWS * LD * sizeof(float) <= STAGES * STAGE * sizeof(T), "sums take the stages' place");
};
constexpr u32 IN = 64;  // values of `in` of a stage
constexpr u32 GROUP_THREADS = 128;
// Row tiles that are neighbours in time, so that what is read together fits into the L2 cache.
constexpr u32 GROUP = 8;

struct Tile {
    u32 row, col;
};
template <class Shape>
__device__ __forceinline__ Tile tile_at(u32 i, u32 row_tiles, u32 col_tiles) {
    const u32 group = i / (GROUP * col_tiles), in_group = i % (GROUP * col_tiles);
    const u32 group_rows = min(GROUP, row_tiles - group * GROUP);
    return {(group * GROUP + in_group % group_rows) * Shape::ROWS, in_group / group_rows * Shape::COLS};
}

// A barrier among the consumers alone.
template <u32 THREADS_OF_CONSUMERS>
__device__ __forceinline__ void consumers_sync() {
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS_OF_CONSUMERS) : "memory");
}

// Transposes among the four lanes of a quad: lane q gets word q of each, in lane order.
__device__ __forceinline__ uint4 quad_transpose(uint4 v, u32 q) {
    const bool odd = q % 2, high = q / 2;
    u32 r = __shfl_xor_sync(ALL_LANES, odd ? v.x : v.y, 1);
    (odd ? v.x : v.y) = r;
    r = __shfl_xor_sync(ALL_LANES, odd ? v.z : v.w, 1);
    (odd ? v.z : v.w) = r;
    r = __shfl_xor_sync(ALL_LANES, high ? v.x : v.z, 2);
    (high ? v.x : v.z) = r;
    r = __shfl_xor_sync(ALL_LANES, high ? v.y : v.w, 2);
    (high ? v.y : v.w) = r;
    return v;
}

// Stores this thread's part of a tile of sums.
template <u32 COLS>
__device__ __forceinline__ void store_sums(const float (&sum)[COLS / 2], const T* bias, Out* y, Tile tile, u32 thread,
                                           u32 rows, u32 out) {
    const u32 quad_lane = thread % 4;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = tile.row + thread / WARP * 16 + half * 8 + thread % WARP / 4;
        Out* const to = y + u64(row) * out;
#pragma unroll
        for (u32 j = 0; j < COLS / 8; j += 4) {
            float v[8];
#pragma unroll
            for (u32 e = 0; e < 8; e++) {
                const u32 column = tile.col + (j + e / 2) * 8 + quad_lane * 2 + e % 2;
                v[e] = sum[(j + e / 2) * 4 + half * 2 + e % 2];
                if (bias && column < out) v[e] += to_f32(bias[column]);
            }
            if (!OUT_F32 && out % 8 == 0) {
                const uint4 mine = make_uint4(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]),
                                              pack<T>(v[6], v[7]));
                const uint4 eight = quad_transpose(mine, quad_lane);
                const u32 column = tile.col + (j + quad_lane) * 8;
                if (row < rows && column < out) *reinterpret_cast<uint4*>(to + column) = eight;
            } else if (row < rows) {
#pragma unroll
                for (u32 e = 0; e < 8; e += 2) {
                    const u32 column = tile.col + (j + e / 2) * 8 + quad_lane * 2;
                    if (OUT_F32 && out % 2 == 0) {
                        if (column < out) *reinterpret_cast<float2*>(to + column) = make_float2(v[e], v[e + 1]);
                    } else {
                        if (column < out) to[column] = from_f32<Out>(v[e]);
                        if (column + 1 < out) to[column + 1] = from_f32<Out>(v[e + 1]);
                    }
                }
            }
        }
    }
}

// Adds the sums of a cluster's blocks, in their order, and stores; each block a part of the rows. `sums`: [ROWS, LD].
template <class Shape>
__device__ __forceinline__ void combine_cluster(const float* sums, const T* bias, Out* y, Tile tile, u32 split,
                                                u32 thread, u32 rows, u32 out) {
    constexpr u32 EACH = Shape::ROWS / Shape::SPLITS, COLS = Shape::COLS, LD = Shape::LD;
    for (u32 i = thread; i < EACH * COLS / 4; i += Shape::CONSUMERS * GROUP_THREADS) {
        const u32 r = split * EACH + i / (COLS / 4), c = i % (COLS / 4) * 4, row = tile.row + r, column = tile.col + c;
        float4 sum = load_from_block(sums + r * LD + c, 0);
#pragma unroll
        for (u32 s = 1; s < Shape::SPLITS; s++) {
            const float4 p = load_from_block(sums + r * LD + c, s);
            sum = make_float4(sum.x + p.x, sum.y + p.y, sum.z + p.z, sum.w + p.w);
        }
        if (row >= rows) continue;
        const auto biased = [&](float v, u32 e) { return bias && column + e < out ? v + to_f32(bias[column + e]) : v; };
        sum = make_float4(biased(sum.x, 0), biased(sum.y, 1), biased(sum.z, 2), biased(sum.w, 3));
        Out* const to = y + u64(row) * out + column;
        if (out % 4 == 0) {
            if (column >= out) continue;
            if constexpr (OUT_F32)
                *reinterpret_cast<float4*>(to) = sum;
            else
                *reinterpret_cast<uint2*>(to) = make_uint2(pack<T>(sum.x, sum.y), pack<T>(sum.z, sum.w));
        } else {
            if (column < out) to[0] = from_f32<Out>(sum.x);
            if (column + 1 < out) to[1] = from_f32<Out>(sum.y);
            if (column + 2 < out) to[2] = from_f32<Out>(sum.z);
            if (column + 3 < out) to[3] = from_f32<Out>(sum.w);
        }
    }
}

// Launch: grid (min(tiles, multiprocessors * BLOCKS) or, with splits, tiles; SPLITS), block THREADS, shared SHARED.
// Maps' boxes: IN columns by ROWS (x) or COLS (weight) rows, 128-byte swizzle.
template <class Shape>
__device__ __forceinline__ void wgmma_tma(const TensorMap& x, const TensorMap& weight, const T* bias, Out* y, u32 rows,
                                          u32 in, u32 out) {
    constexpr u32 ROWS = Shape::ROWS, COLS = Shape::COLS, STAGES = Shape::STAGES, SPLITS = Shape::SPLITS;
    constexpr u32 CONSUMERS = Shape::CONSUMERS, X_STAGE = Shape::X_STAGE, STAGE = Shape::STAGE, LD = Shape::LD;
    extern __shared__ u8 shared[];
    // The swizzle wants stages at multiples of 1,024 bytes.
    T* const stages = reinterpret_cast<T*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
    __shared__ u64 full[STAGES], empty[STAGES];
    if (threadIdx.x == 0) {
        tma_prefetch_map(x);
        tma_prefetch_map(weight);
        for (u32 s = 0; s < STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], CONSUMERS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    const u32 row_tiles = ceil_div(rows, ROWS), col_tiles = ceil_div(out, COLS), tiles = row_tiles * col_tiles;
    // `in` has at least a step for each split.
    const u32 steps_all = ceil_div(in, IN), split = blockIdx.y;
    const u32 step0 = split * steps_all / SPLITS, steps = (split + 1) * steps_all / SPLITS - step0;
    u32 stage = 0, parity = 0;
    const auto next_stage = [&] {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    };
    if (threadIdx.x < GROUP_THREADS) {  // producer
        if constexpr (CONSUMERS == 2) fewer_registers<40>();
        if (threadIdx.x == 0) {
            const auto load_weight = [&](u32 to, u32 step, u32 column) {
                mbarrier_arrive_expect(&full[to], STAGE * sizeof(T));
                tma_load(stages + to * STAGE + X_STAGE, weight, step * IN, column, &full[to]);
            };
            // Weights do not come from the kernel before: the first stages' need not wait for it. All else does, through x.
            u32 early = min(STAGES, steps);
            for (u32 s = 0; s < early; s++)
                load_weight(s, step0 + s, tile_at<Shape>(blockIdx.x, row_tiles, col_tiles).col);
            wait_for_previous();
            for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
                const Tile tile = tile_at<Shape>(i, row_tiles, col_tiles);
                for (u32 step = step0; step < step0 + steps; step++) {
                    if (early > 0) {
                        early--;
                    } else {
                        mbarrier_wait(&empty[stage], parity ^ 1);
                        load_weight(stage, step, tile.col);
                    }
                    tma_load(stages + stage * STAGE, x, step * IN, tile.row, &full[stage]);
                    next_stage();
                }
            }
        }
        if constexpr (SPLITS > 1) {
            __syncwarp();
            cluster_sync();
            cluster_sync();
        }
    } else {  // consumer
        if constexpr (CONSUMERS == 2) more_registers<232>();
        const u32 consumer = threadIdx.x / GROUP_THREADS - 1, thread = threadIdx.x % GROUP_THREADS;
        for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
            Tile tile = tile_at<Shape>(i, row_tiles, col_tiles);
            float sum[COLS / 2];
            u32 last = 0;
            for (u32 step = 0; step < steps; step++) {
                mbarrier_wait(&full[stage], parity);
                const T* const from = stages + stage * STAGE;
                const u64 a = swizzled_operand(from + consumer * 64 * IN);
                const u64 b = swizzled_operand(from + X_STAGE);
                wgmma_fence();
#pragma unroll
                for (u32 k16 = 0; k16 < IN / 16; k16++)
                    wgmma<COLS>(sum, a + k16 * OPERAND_STEP, b + k16 * OPERAND_STEP, step > 0 || k16 > 0);
                wgmma_commit();
                // The step before is done when only this one is under way: its stage may be filled again.
                wgmma_wait<1>();
                if (step > 0 && thread == 0) mbarrier_arrive(&empty[last]);
                last = stage;
                next_stage();
            }
            wgmma_wait<0>();
            if constexpr (SPLITS == 1) {
                if (thread == 0) mbarrier_arrive(&empty[last]);
                tile.row += consumer * 64;
                store_sums<COLS>(sum, bias, y, tile, thread, rows, out);
            } else {
                // All copies have come and all products are done: the stages' memory now holds the sums.
                float* const sums = reinterpret_cast<float*>(stages);
                consumers_sync<CONSUMERS * GROUP_THREADS>();
#pragma unroll
                for (u32 e = 0; e < COLS / 2; e += 2) {
                    const u32 r = consumer * 64 + thread / WARP * 16 + e / 2 % 2 * 8 + thread % WARP / 4;
                    *reinterpret_cast<float2*>(sums + r * LD + e / 4 * 8 + thread % 4 * 2) =
                        make_float2(sum[e], sum[e + 1]);
                }
                cluster_sync();
                combine_cluster<Shape>(sums, bias, y, tile, split, threadIdx.x - GROUP_THREADS, rows, out);
                cluster_sync();  // nobody leaves while others read its memory
            }
        }
    }
}

// ---- entries: src/kernels/cuda/linear_hopper.rs has their shapes too ----

#define ENTRY(NAME, CLUSTER, ...)                                                                                      \
    extern "C" __global__ void CLUSTER __launch_bounds__(Shape<__VA_ARGS__>::THREADS, Shape<__VA_ARGS__>::BLOCKS)      \
    NAME(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, const T* bias, Out* y,         \
         u32 rows, u32 in, u32 out) {                                                                                  \
        wgmma_tma<Shape<__VA_ARGS__>>(x, weight, bias, y, rows, in, out);                                              \
    }
ENTRY(wgmma_128x256, , 128, 256, 4, 1, 1)
ENTRY(wgmma_128x128, , 128, 128, 6, 1, 1)
ENTRY(wgmma_64x128, , 64, 128, 8, 1, 1)
ENTRY(wgmma_64x64, , 64, 64, 6, 1, 2)
ENTRY(wgmma_64x64_by_2, __cluster_dims__(1, 2, 1), 64, 64, 6, 2, 2)
ENTRY(wgmma_64x64_by_4, __cluster_dims__(1, 4, 1), 64, 64, 6, 4, 2)
