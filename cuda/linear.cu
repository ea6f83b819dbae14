// Linear layer: out[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]). Sums in f32.
//   x:      [rows, in] T, rows ldx elements apart   weight: [out, in] T   bias: [out] T or null
//   y:      [rows, out] T or f32
// Oracle: reference/src/linear.rs. Shapes checked by src/kernels/linear.rs. The tensor-core variants copy 16 bytes at
// a time: `in` and ldx are multiples of 8, x and weight lie at multiples of 16 bytes. Any number of rows, any `out`.
// JIT constants: DTYPE; OUT_F32 (y is f32, else T); each variant's tile.
//   mma_pipelined   tiles of rows by columns; cp.async stages, swizzled shared memory, ldmatrix, mma.sync
//   combine_splits  adds what mma_pipelined or skinny summed over parts of `in`, in a fixed order
//   skinny          up to 64 rows: a stream of the weights past x, bound by the weights' bytes
#include "tensor_core.cuh"

#ifndef OUT_F32
#define OUT_F32 0
#endif
#if OUT_F32
using Out = float;
#else
using Out = T;
#endif

// `v` plus the bias of its column, if there is one.
__device__ __forceinline__ float with_bias(float v, const T* bias, u32 column) {
    return bias ? v + to_f32(bias[column]) : v;
}

#if DTYPE != 0  // tensor cores take 16-bit values

// ---- mma_pipelined ----
//
// A block computes TILE_ROWS x TILE_COLS of y in steps of TILE_IN along `in`; each warp has WARP_ROWS x WARP_COLS. A step's
// parts of x and weight lie in shared memory as rows of 128 bytes whose eight 16-byte pieces are permuted (swizzled) so
// that neither cp.async nor ldmatrix meets a bank twice. The same order of sums for an element whatever the tile and
// the number of rows: batch-invariant as long as `in` is not split.
// JIT constants: TILE_ROWS, TILE_COLS, WARP_ROWS (multiple of 16), WARP_COLS (multiple of 32), STAGES.
// Launch: grid (row tiles * column tiles, splits of `in`), block TILE_THREADS,
//         shared STAGES * (TILE_ROWS + TILE_COLS) * 128 bytes.

#ifndef TILE_ROWS
#define TILE_ROWS 128
#define TILE_COLS 256
#define WARP_ROWS 64
#define WARP_COLS 64
#define STAGES 4
#endif
constexpr u32 TILE_IN = 64;
constexpr u32 PIECE = 8;                     // values of a 16-byte piece
constexpr u32 PIECES = TILE_IN / PIECE;      // of a row of a stage
constexpr u32 TILE_THREADS = TILE_ROWS / WARP_ROWS * (TILE_COLS / WARP_COLS) * WARP;
// Row tiles that are neighbours in time: what a wave of blocks reads of x and weight then fits into the L2 cache.
constexpr u32 GROUP = 8;

// Where a row's pieces are: piece p of row r at place p ^ key(r).
__device__ __forceinline__ u32 x_key(u32 row) { return row % 8; }
// An ldmatrix of weights takes rows 2 i, 2 i + 1 of four groups of 8 (see `columns_of_a_lane`).
__device__ __forceinline__ u32 weight_key(u32 row) { return row / 8 % 4 * 2 + row % 2; }

// Eight neighbouring columns of one row of y, from `column` on.
template <class O>
__device__ __forceinline__ void store_columns(O* y, u64 row, u32 column, u32 out, const float (&v)[8]) {
    O* p = y + row * out + column;
    if (out % 8 == 0) {
        if (column >= out) return;
        if constexpr (sizeof(O) == 4) {
            *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
            *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
        } else {
            *reinterpret_cast<uint4*>(p) =
                make_uint4(pack<O>(v[0], v[1]), pack<O>(v[2], v[3]), pack<O>(v[4], v[5]), pack<O>(v[6], v[7]));
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            if (column + i < out) p[i] = from_f32<O>(v[i]);
    }
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS)
mma_pipelined(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, Out* __restrict__ y,
              float* __restrict__ partial, u32 rows, u32 in, u32 out, u32 ldx) {
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLS % 32 == 0 && TILE_THREADS % 64 == 0);
    constexpr u32 M_FRAGS = WARP_ROWS / 16, N_GROUPS = WARP_COLS / 32, STEPS = TILE_IN / 16;
    constexpr u32 STAGE = (TILE_ROWS + TILE_COLS) * TILE_IN;  // values
    extern __shared__ __align__(128) u8 shared[];
    T* const stages = reinterpret_cast<T*>(shared);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    // The tile: row tiles in groups, in a group column by column.
    const u32 row_tiles = ceil_div(rows, u32(TILE_ROWS)), col_tiles = ceil_div(out, u32(TILE_COLS));
    const u32 group = blockIdx.x / (GROUP * col_tiles), in_group = blockIdx.x % (GROUP * col_tiles);
    const u32 group_rows = min(GROUP, row_tiles - group * GROUP);
    const u32 row0 = (group * GROUP + in_group % group_rows) * TILE_ROWS, col0 = in_group / group_rows * TILE_COLS;

    // The part of `in`, in steps.
    const u32 steps_all = ceil_div(in, TILE_IN), steps_each = ceil_div(steps_all, gridDim.y);
    const u32 step0 = blockIdx.y * steps_each, steps = min(steps_each, steps_all - min(step0, steps_all));

    // Each thread copies one piece of every COPY_ROWS-th row. Rows past the end are filled with zeros.
    constexpr u32 COPY_ROWS = TILE_THREADS / PIECES;
    const u32 copy_row = threadIdx.x / PIECES, copy_piece = threadIdx.x % PIECES;
    const auto copy_step = [&](u32 step) {
        T* const to_x = stages + step % STAGES * STAGE;
        T* const to_weight = to_x + TILE_ROWS * TILE_IN;
        const u32 k = (step0 + step) * TILE_IN + copy_piece * PIECE;
        const bool inside = k < in;
#pragma unroll
        for (u32 r = copy_row; r < TILE_ROWS; r += COPY_ROWS) {
            const bool valid = inside && row0 + r < rows;
            cp_async_16(to_x + r * TILE_IN + (copy_piece ^ x_key(r)) * PIECE,
                        valid ? x + u64(row0 + r) * ldx + k : x, valid);
        }
#pragma unroll
        for (u32 r = copy_row; r < TILE_COLS; r += COPY_ROWS) {
            const bool valid = inside && col0 + r < out;
            cp_async_16(to_weight + r * TILE_IN + (copy_piece ^ weight_key(r)) * PIECE,
                        valid ? weight + u64(col0 + r) * in + k : weight, valid);
        }
    };
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) copy_step(s);
        cp_async_commit();
    }

    // columns_of_a_lane: column 8 q + 2 j + e of a group of 32 is column 2 q + e of the j-th n8 of mma, so that lane q of
    // a quad ends up with eight neighbouring columns of y.
    const u32 warp_row = warp / (TILE_COLS / WARP_COLS) * WARP_ROWS, warp_col = warp % (TILE_COLS / WARP_COLS) * WARP_COLS;
    const u32 x_row = warp_row + lane % 16, x_half = lane / 16;
    const u32 w_n = lane % 8, w_half = lane / 8 % 2, w_row = warp_col + w_n / 2 * 8 + lane / 16 * 2 + w_n % 2;
    u32 a[2][M_FRAGS][4], b[2][N_GROUPS][2][4];
    float sum[M_FRAGS][N_GROUPS][4][4] = {};
    const auto load_fragments = [&](u32 to, u32 step, u32 k16) {
        const T* const from_x = stages + step % STAGES * STAGE;
        const T* const from_weight = from_x + TILE_ROWS * TILE_IN;
#pragma unroll
        for (u32 m = 0; m < M_FRAGS; m++)
            ldmatrix_x4(a[to][m],
                        from_x + (x_row + m * 16) * TILE_IN + ((k16 * 2 + x_half) ^ x_key(x_row)) * PIECE);
#pragma unroll
        for (u32 g = 0; g < N_GROUPS; g++)
#pragma unroll
            for (u32 j = 0; j < 2; j++)
                ldmatrix_x4(b[to][g][j], from_weight + (w_row + g * 32 + j * 4) * TILE_IN +
                                             ((k16 * 2 + w_half) ^ w_n) * PIECE);
    };

    cp_async_wait<STAGES - 2>();
    __syncthreads();
    load_fragments(0, 0, 0);
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
#pragma unroll
        for (u32 k16 = 0; k16 < STEPS; k16++) {
            if (k16 == STEPS - 1) {
                // The next step has arrived, and nobody still reads the stage that the next copy overwrites.
                cp_async_wait<STAGES - 2>();
                __syncthreads();
            }
            load_fragments((k16 + 1) % 2, k16 == STEPS - 1 ? step + 1 : step, (k16 + 1) % STEPS);
            if (k16 == 0) {
                if (step + STAGES - 1 < steps) copy_step(step + STAGES - 1);
                cp_async_commit();
            }
#pragma unroll
            for (u32 m = 0; m < M_FRAGS; m++)
#pragma unroll
                for (u32 g = 0; g < N_GROUPS; g++)
#pragma unroll
                    for (u32 j = 0; j < 4; j++)
                        mma_16x8x16<T>(sum[m][g][j], a[k16 % 2][m], b[k16 % 2][g][j / 2][j % 2 * 2],
                                       b[k16 % 2][g][j / 2][j % 2 * 2 + 1]);
        }
    }

#pragma unroll
    for (u32 g = 0; g < N_GROUPS; g++) {
        const u32 column = col0 + warp_col + g * 32 + lane % 4 * 8;
        float add[8] = {};
        if (bias && gridDim.y == 1) {
#pragma unroll
            for (u32 i = 0; i < 8; i++) add[i] = column + i < out ? to_f32(bias[column + i]) : 0.0f;
        }
#pragma unroll
        for (u32 m = 0; m < M_FRAGS; m++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                const u32 row = row0 + warp_row + m * 16 + half * 8 + lane / 4;
                float v[8];
#pragma unroll
                for (u32 i = 0; i < 8; i++) v[i] = sum[m][g][i / 2][half * 2 + i % 2] + add[i];
                if (row >= rows) continue;
                if (gridDim.y == 1)
                    store_columns(y, row, column, out, v);
                else
                    store_columns(partial + u64(blockIdx.y) * rows * out, row, column, out, v);
            }
    }
}

// ---- combine_splits ----

// y = the sum of partial[split] over splits, in order, plus bias. partial: [splits, rows, out] f32.
// Launch: grid (ceil(out / (4 * 256)), rows), block 256.
extern "C" __global__ void __launch_bounds__(256)
combine_splits(const float* __restrict__ partial, const T* __restrict__ bias, Out* __restrict__ y, u32 splits, u32 rows,
               u32 out) {
    const u64 size = u64(rows) * out;
    const u32 column = (blockIdx.x * 256 + threadIdx.x) * 4;
    const u64 at = u64(blockIdx.y) * out + column;
    if (out % 4 == 0) {
        if (column >= out) return;
        float4 sum = *reinterpret_cast<const float4*>(partial + at);
        for (u32 s = 1; s < splits; s++) {
            const float4 p = *reinterpret_cast<const float4*>(partial + s * size + at);
            sum = make_float4(sum.x + p.x, sum.y + p.y, sum.z + p.z, sum.w + p.w);
        }
        sum.x = with_bias(sum.x, bias, column);
        sum.y = with_bias(sum.y, bias, column + 1);
        sum.z = with_bias(sum.z, bias, column + 2);
        sum.w = with_bias(sum.w, bias, column + 3);
        if constexpr (sizeof(Out) == 4)
            *reinterpret_cast<float4*>(y + at) = sum;
        else
            *reinterpret_cast<uint2*>(y + at) = make_uint2(pack<T>(sum.x, sum.y), pack<T>(sum.z, sum.w));
    } else {
        for (u32 i = 0; i < 4 && column + i < out; i++) {
            float sum = partial[at + i];
            for (u32 s = 1; s < splits; s++) sum += partial[s * size + at + i];
            y[at + i] = from_f32<Out>(with_bias(sum, bias, column + i));
        }
    }
}

// ---- skinny ----
//
// The weights are the 16-row operand of mma and x the 8-column one, so few rows of x waste little. Each weight is used
// by one lane of one warp, once: a lane copies 16-byte pieces with cp.async to places that it alone reads back, a queue
// many stages deep that needs no barrier. `in` is permuted (the same for both operands) so that those 16 bytes are a
// lane's fragments of two mma steps. Blocks stay and take tile after tile of SKINNY_OUT outputs; the stream does not
// stop between tiles. Warps of a block share a tile by outputs (WARPS_OUT) and by parts of `in` (WARPS_IN), whose sums
// are added in order. The sums of a row do not depend on the number of rows.
// X_STAYS: x as a whole stays in shared memory; else each step brings its part of x, and blocks synchronise.
// JIT constants: ROW_SLOTS (rows, rounded up to 8, 16, 32 or 64), FRAGS_OUT (16 outputs each, of a warp), WARPS_OUT,
// WARPS_IN, IN_BLOCKS (32 values of `in` each, of a warp's step), SKINNY_STAGES, X_STAYS.
// Launch: grid (blocks, splits of `in`), block SKINNY_THREADS, shared skinny_shared bytes (see the Rust side):
//         stages of weights, x (whole, or in stages), and ROW_SLOTS * (SKINNY_OUT + 4) f32 of sums.

#ifndef ROW_SLOTS
#define ROW_SLOTS 8
#define FRAGS_OUT 1
#define WARPS_OUT 4
#define WARPS_IN 2
#define IN_BLOCKS 2
#define SKINNY_STAGES 4
#define X_STAYS 0
#endif
constexpr u32 SKINNY_THREADS = WARPS_OUT * WARPS_IN * WARP;
constexpr u32 SKINNY_OUT = WARPS_OUT * FRAGS_OUT * 16;
constexpr u32 SKINNY_IN = WARPS_IN * IN_BLOCKS * 32;  // values of `in` of a step

extern "C" __global__ void __launch_bounds__(SKINNY_THREADS)
skinny(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, Out* __restrict__ y,
       float* __restrict__ partial, u32 rows, u32 in, u32 out, u32 ldx) {
    constexpr u32 ROW_FRAGS = ROW_SLOTS / 8;
    constexpr u32 WEIGHT_PIECES = FRAGS_OUT * 2 * IN_BLOCKS;             // of a lane's step
    constexpr u32 WEIGHT_STAGE = SKINNY_THREADS * WEIGHT_PIECES;         // pieces
    constexpr u32 X_STEP = SKINNY_IN / 32 * ROW_FRAGS * WARP;            // pieces
    constexpr u32 LD = SKINNY_OUT + 4;                                   // of sums; keeps lanes in different banks
    extern __shared__ __align__(128) u8 shared[];
    uint4* const weights = reinterpret_cast<uint4*>(shared);
    uint4* const xs = weights + SKINNY_STAGES * WEIGHT_STAGE;

    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 warp_out = warp / WARPS_IN, warp_in = warp % WARPS_IN, quad_row = lane / 4, quad_lane = lane % 4;
    const u32 steps_all = ceil_div(in, SKINNY_IN), steps_each = ceil_div(steps_all, gridDim.y);
    const u32 step0 = min(blockIdx.y * steps_each, steps_all), steps = min(steps_each, steps_all - step0);
    const u32 tiles = ceil_div(out, SKINNY_OUT);
    float* const sums = reinterpret_cast<float*>(xs + (X_STAYS ? steps_each : SKINNY_STAGES) * X_STEP);

    // Pieces of x as the lanes take them: [block of 32 values][eight rows][lane].
    const auto copy_x = [&](uint4* to, u32 step) {
#pragma unroll
        for (u32 c = threadIdx.x; c < X_STEP; c += SKINNY_THREADS) {
            const u32 row = c / WARP % ROW_FRAGS * 8 + c % WARP / 4;
            const u32 k = (step0 + step) * SKINNY_IN + c / (WARP * ROW_FRAGS) * 32 + c % 4 * 8;
            const bool valid = row < rows && k < in;
            cp_async_16(to + c, valid ? x + u64(row) * ldx + k : x, valid);
        }
    };
    // Where the stream of copies is.
    u32 copy_tile = blockIdx.x, copy_at = 0, copy_stage = 0;
    const auto copy_next = [&]() {
        if (copy_tile < tiles) {
            uint4* const to = weights + copy_stage * WEIGHT_STAGE + warp * WEIGHT_PIECES * WARP + lane;
#pragma unroll
            for (u32 f = 0; f < FRAGS_OUT * 2; f++) {
                const u32 o = copy_tile * SKINNY_OUT + warp_out * FRAGS_OUT * 16 + f * 8 + quad_row;
                const T* const row = weight + u64(min(o, out - 1)) * in;
#pragma unroll
                for (u32 i = 0; i < IN_BLOCKS; i++) {
                    const u32 k = (step0 + copy_at) * SKINNY_IN + (warp_in * IN_BLOCKS + i) * 32 + quad_lane * 8;
                    const bool valid = o < out && k < in;
                    cp_async_16(to + (f * IN_BLOCKS + i) * WARP, valid ? row + k : weight, valid);
                }
            }
            if (!X_STAYS) copy_x(xs + copy_stage * X_STEP, copy_at);
            if (++copy_at == steps) {
                copy_at = 0;
                copy_tile += gridDim.x;
            }
        }
        copy_stage = copy_stage + 1 == SKINNY_STAGES ? 0 : copy_stage + 1;
        cp_async_commit();
    };

    if (X_STAYS) {
        for (u32 step = 0; step < steps; step++) copy_x(xs + step * X_STEP, step);
    }
#pragma unroll
    for (u32 s = 0; s < SKINNY_STAGES - 1; s++) copy_next();
    if (X_STAYS) {
        // The first group holds all of x besides the first step's weights.
        cp_async_wait<SKINNY_STAGES - 2>();
        __syncthreads();
    }

    u32 stage = 0;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float sum[FRAGS_OUT][ROW_FRAGS][4] = {};
        for (u32 step = 0; step < steps; step++) {
            cp_async_wait<SKINNY_STAGES - 2>();
            // Everybody's part of x has arrived, and nobody still reads the stage that the next copy overwrites.
            if (!X_STAYS) __syncthreads();
            copy_next();
            const uint4* const from = weights + stage * WEIGHT_STAGE + warp * WEIGHT_PIECES * WARP + lane;
            const uint4* const from_x = xs + (X_STAYS ? step : stage) * X_STEP + warp_in * IN_BLOCKS * ROW_FRAGS * WARP + lane;
#pragma unroll
            for (u32 i = 0; i < IN_BLOCKS; i++) {
                uint4 w[FRAGS_OUT * 2];
#pragma unroll
                for (u32 f = 0; f < FRAGS_OUT * 2; f++) w[f] = from[(f * IN_BLOCKS + i) * WARP];
#pragma unroll
                for (u32 r = 0; r < ROW_FRAGS; r++) {
                    const uint4 v = from_x[(i * ROW_FRAGS + r) * WARP];
#pragma unroll
                    for (u32 f = 0; f < FRAGS_OUT; f++) {
                        const uint4 low = w[f * 2], high = w[f * 2 + 1];
                        mma_16x8x16<T>(sum[f][r], {low.x, high.x, low.y, high.y}, v.x, v.y);
                        mma_16x8x16<T>(sum[f][r], {low.z, high.z, low.w, high.w}, v.z, v.w);
                    }
                }
            }
            stage = stage + 1 == SKINNY_STAGES ? 0 : stage + 1;
        }
        // Sums of the parts of `in`, in their order, as [row][output].
        for (u32 part = 0; part < WARPS_IN; part++) {
            __syncthreads();
            if (warp_in == part) {
#pragma unroll
                for (u32 f = 0; f < FRAGS_OUT; f++)
#pragma unroll
                    for (u32 r = 0; r < ROW_FRAGS; r++)
#pragma unroll
                        for (u32 i = 0; i < 4; i++) {
                            float* const at = sums + (r * 8 + quad_lane * 2 + i % 2) * LD +
                                              (warp_out * FRAGS_OUT + f) * 16 + i / 2 * 8 + quad_row;
                            *at = part == 0 ? sum[f][r][i] : *at + sum[f][r][i];
                        }
            }
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < rows * SKINNY_OUT; i += SKINNY_THREADS) {
            const u32 row = i / SKINNY_OUT, o = tile * SKINNY_OUT + i % SKINNY_OUT;
            const float v = sums[row * LD + i % SKINNY_OUT];
            if (o >= out) continue;
            if (gridDim.y == 1)
                y[u64(row) * out + o] = from_f32<Out>(with_bias(v, bias, o));
            else
                partial[(u64(blockIdx.y) * rows + row) * out + o] = v;
        }
    }
}

#endif
