// Linear layer on Hopper (sm_90a): out[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]). Sums in f32.
//   x: [rows, in] T   weight: [out, in] T, both as tensor maps   bias: [out] T or null   y: [rows, out] T or f32
// Oracle: reference/src/linear.rs. Shapes checked by src/kernels/linear.rs. `in` is a multiple of 8, x and weight lie at
// multiples of 16 bytes, as the copy engine wants. Any number of rows, any `out`.
// JIT constants: DTYPE; OUT_F32 (y is f32, else T); HOPPER_COLS (128 or 256), HOPPER_STAGES.
//   wgmma_tma    a warpgroup feeds shared memory through the copy engine, two multiply; persistent blocks
// The same order of sums for an element whatever the number of rows: batch-invariant.
#include "hopper.cuh"

#ifndef OUT_F32
#define OUT_F32 0
#endif
#if OUT_F32
using Out = float;
#else
using Out = T;
#endif
#ifndef HOPPER_COLS
#define HOPPER_COLS 256
#define HOPPER_STAGES 4
#endif

constexpr u32 ROWS = 128, COLS = HOPPER_COLS, IN = 64;  // a tile, and a stage's part of `in`
constexpr u32 CONSUMERS = 2, CONSUMER_ROWS = ROWS / CONSUMERS, GROUP_THREADS = 128;
constexpr u32 THREADS = GROUP_THREADS * (1 + CONSUMERS);
constexpr u32 X_STAGE = ROWS * IN, STAGE = X_STAGE + COLS * IN;  // values
// Row tiles that are neighbours in time, so that what is read together fits into the L2 cache.
constexpr u32 GROUP = 8;

struct Tile {
    u32 row, col;
};
__device__ __forceinline__ Tile tile_at(u32 i, u32 row_tiles, u32 col_tiles) {
    const u32 group = i / (GROUP * col_tiles), in_group = i % (GROUP * col_tiles);
    const u32 group_rows = min(GROUP, row_tiles - group * GROUP);
    return {(group * GROUP + in_group % group_rows) * ROWS, in_group / group_rows * COLS};
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

// Launch: grid min(tiles, multiprocessors), block THREADS, shared HOPPER_STAGES * STAGE * 2 + 1024 bytes.
// Maps' boxes: IN columns by ROWS (x) or COLS (weight) rows, 128-byte swizzle.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
wgmma_tma(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap weight, const T* __restrict__ bias,
          Out* __restrict__ y, u32 rows, u32 in, u32 out) {
    extern __shared__ u8 shared[];
    // The swizzle wants stages at multiples of 1,024 bytes.
    T* const stages = reinterpret_cast<T*>(shared + (1024 - shared_address(shared) % 1024) % 1024);
    __shared__ u64 full[HOPPER_STAGES], empty[HOPPER_STAGES];
    if (threadIdx.x == 0) {
        for (u32 s = 0; s < HOPPER_STAGES; s++) {
            mbarrier_init(&full[s], 1);
            mbarrier_init(&empty[s], CONSUMERS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();

    const u32 row_tiles = ceil_div(rows, ROWS), col_tiles = ceil_div(out, COLS), tiles = row_tiles * col_tiles;
    const u32 steps = ceil_div(in, IN);
    u32 stage = 0, parity = 0;
    const auto next_stage = [&] {
        if (++stage == HOPPER_STAGES) {
            stage = 0;
            parity ^= 1;
        }
    };
    if (threadIdx.x < GROUP_THREADS) {  // producer
        fewer_registers<40>();
        if (threadIdx.x == 0) {
            for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
                const Tile tile = tile_at(i, row_tiles, col_tiles);
                for (u32 step = 0; step < steps; step++) {
                    mbarrier_wait(&empty[stage], parity ^ 1);
                    mbarrier_arrive_expect(&full[stage], STAGE * sizeof(T));
                    T* const to = stages + stage * STAGE;
                    tma_load(to, x, step * IN, tile.row, &full[stage]);
                    tma_load(to + X_STAGE, weight, step * IN, tile.col, &full[stage]);
                    next_stage();
                }
            }
        }
    } else {  // consumer
        more_registers<232>();
        const u32 consumer = threadIdx.x / GROUP_THREADS - 1, thread = threadIdx.x % GROUP_THREADS;
        const u32 quad_lane = thread % 4;
        for (u32 i = blockIdx.x; i < tiles; i += gridDim.x) {
            const Tile tile = tile_at(i, row_tiles, col_tiles);
            float sum[COLS / 2];
            u32 last = 0;
            for (u32 step = 0; step < steps; step++) {
                mbarrier_wait(&full[stage], parity);
                const T* const from = stages + stage * STAGE;
                const u64 a = swizzled_operand(from + consumer * CONSUMER_ROWS * IN);
                const u64 b = swizzled_operand(from + X_STAGE);
                wgmma_fence();
#pragma unroll
                for (u32 k16 = 0; k16 < IN / 16; k16++)
                    wgmma<T, COLS>(sum, a + k16 * OPERAND_STEP, b + k16 * OPERAND_STEP, step > 0 || k16 > 0);
                wgmma_commit();
                // The step before is done when only this one is under way: its stage may be filled again.
                wgmma_wait<1>();
                if (step > 0 && thread == 0) mbarrier_arrive(&empty[last]);
                last = stage;
                next_stage();
            }
            wgmma_wait<0>();
            if (thread == 0) mbarrier_arrive(&empty[last]);

#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 row = tile.row + consumer * CONSUMER_ROWS + thread / WARP * 16 + half * 8 + thread % WARP / 4;
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
                                if (column < out)
                                    *reinterpret_cast<float2*>(to + column) = make_float2(v[e], v[e + 1]);
                            } else {
                                if (column < out) to[column] = from_f32<Out>(v[e]);
                                if (column + 1 < out) to[column + 1] = from_f32<Out>(v[e + 1]);
                            }
                        }
                    }
                }
            }
        }
    }
}
