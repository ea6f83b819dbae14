// Linear layer: out[m, n] = sum_k x[m, k] * weight[n, k] (+ bias[n]). Sums in f32.
//   x:      [rows, in] T, rows ldx elements apart   weight: [out, in] T   bias: [out] T or null
//   y:      [rows, out] T or f32
// Oracle: reference/src/linear.rs. Shapes checked by src/kernels/linear.rs. The tensor-core variants are for 16-bit T and
// copy 16 bytes at a time: `in` and ldx are multiples of 8, x and weight lie at multiples of 16 bytes. Any number of rows,
// any `out`.
// JIT constants: DTYPE; OUT_F32 (y is f32, else T).
//   naive           one warp an element of y; the readable baseline, and the one for f32
//   mma_pipelined   tiles of rows by columns; cp.async stages, swizzled shared memory, ldmatrix, mma.sync
//   skinny          up to 64 rows: a stream of the weights past x, bound by the weights' bytes
//   combine_splits  adds what mma_pipelined or skinny summed over parts of `in`, in a fixed order
// Entries at the end: a variant's name with its tile. For Hopper: linear_hopper.cu.
#include "common.cuh"

#ifndef OUT_F32
#define OUT_F32 0
#endif
#if OUT_F32
using Out = float;
#else
using Out = T;
#endif

struct LinearCall {
    const T* x;
    const T* weight;
    const T* bias;   // or null
    Out* y;
    float* partial;  // [splits, rows, out] if gridDim.y, the splits of `in`, is above 1
    u32 rows, in, out, ldx;
};

// `v` plus the bias of its column, if there is one.
__device__ __forceinline__ float with_bias(float v, const T* bias, u32 column) {
    return bias ? v + to_f32(bias[column]) : v;
}

// ---- naive ----

// Lanes stride over `in`: the same order of sums whatever the rows.
// Launch: grid (ceil(out / 8), rows), block 256.
extern "C" __global__ void __launch_bounds__(256) linear_naive(const LinearCall call) {
    const u32 lane = threadIdx.x % WARP, column = blockIdx.x * 8 + threadIdx.x / WARP, row = blockIdx.y;
    if (column >= call.out) return;
    const T* const x = call.x + u64(row) * call.ldx;
    const T* const weight = call.weight + u64(column) * call.in;
    float sum = 0.0f;
    for (u32 k = lane; k < call.in; k += WARP) sum += to_f32(x[k]) * to_f32(weight[k]);
    sum = warp_sum(sum);
    if (lane == 0) call.y[u64(row) * call.out + column] = from_f32<Out>(with_bias(sum, call.bias, column));
}

#if DTYPE != 0
#include "tensor_core.cuh"

// ---- mma_pipelined ----
//
// A block computes ROWS x COLS of y in steps of TILE_IN along `in`; each warp has WARP_ROWS x WARP_COLS. A step's parts
// of x and weight lie in shared memory as rows of 128 bytes whose eight 16-byte pieces are permuted (swizzled) so
// that neither cp.async nor ldmatrix meets a bank twice. The same order of sums for an element whatever the tile and
// the number of rows: batch-invariant as long as `in` is not split.
//
// A warp's instructions start in order, so what stands between two mma holds the tensor cores up. A step of 64 x 64
// outputs by 64 has 128 mma, 32 ldmatrix and 12 cp.async, spread between them; the addresses are worked out once a tile.
// Blocks stay and take tile after tile, so that the first steps of one arrive while the one before is stored.
// Launch: grid (blocks, at most row tiles * column tiles; splits of `in`, a step each at least), block Tile::THREADS,
// shared Tile::SHARED.

constexpr u32 TILE_IN = 64;
constexpr u32 PIECE = 8;                 // values of a 16-byte piece
constexpr u32 PIECES = TILE_IN / PIECE;  // of a row of a stage
// Row tiles that are neighbours in time: what a wave of blocks reads of x and weight then fits into the L2 cache.
constexpr u32 GROUP = 8;

template <u32 ROWS_, u32 COLS_, u32 WARP_ROWS_, u32 WARP_COLS_, u32 STAGES_>
struct Tile {
    static constexpr u32 ROWS = ROWS_, COLS = COLS_, WARP_ROWS = WARP_ROWS_, WARP_COLS = WARP_COLS_, STAGES = STAGES_;
    static constexpr u32 THREADS = ROWS / WARP_ROWS * (COLS / WARP_COLS) * WARP;
    static constexpr u32 SHARED = STAGES * (ROWS + COLS) * TILE_IN * sizeof(T);
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLS % 32 == 0 && COLS <= THREADS);
};

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

template <class Tile>
__device__ __forceinline__ void mma_pipelined(const LinearCall& call) {
    constexpr u32 TILE_ROWS = Tile::ROWS, TILE_COLS = Tile::COLS, WARP_ROWS = Tile::WARP_ROWS;
    constexpr u32 WARP_COLS = Tile::WARP_COLS, STAGES = Tile::STAGES;
    const T *const x = call.x, *const weight = call.weight, *const bias = call.bias;
    Out* const y = call.y;
    float* const partial = call.partial;
    const u32 rows = call.rows, in = call.in, out = call.out, ldx = call.ldx;
    constexpr u32 M_FRAGS = WARP_ROWS / 16, N_PAIRS = WARP_COLS / 16, STEPS = TILE_IN / 16;
    constexpr u32 ROW = TILE_IN * sizeof(T), STAGE = (TILE_ROWS + TILE_COLS) * ROW;  // bytes
    extern __shared__ __align__(128) u8 shared[];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    // Tile `i`: row tiles in groups, in a group column by column.
    const u32 row_tiles = ceil_div(rows, TILE_ROWS), col_tiles = ceil_div(out, TILE_COLS), tiles = row_tiles * col_tiles;
    const auto tile_at = [&](u32 i, u32& row, u32& col) {
        const u32 group = i / (GROUP * col_tiles), in_group = i % (GROUP * col_tiles);
        const u32 group_rows = min(GROUP, row_tiles - group * GROUP);
        row = (group * GROUP + in_group % group_rows) * TILE_ROWS;
        col = in_group / group_rows * TILE_COLS;
    };
    // The part of `in`, in steps.
    const u32 steps_all = ceil_div(in, TILE_IN), steps_each = ceil_div(steps_all, gridDim.y);
    const u32 step0 = blockIdx.y * steps_each, steps = min(steps_each, steps_all - step0);

    // The stream of copies, tile after tile, step after step. Each thread copies one piece of every COPY_ROWS-th row. Rows
    // past the end repeat the last; their sums are not used. After the last tile zeros are copied, for nothing.
    constexpr u32 COPY_ROWS = Tile::THREADS / PIECES, X_COPIES = TILE_ROWS / COPY_ROWS;
    constexpr u32 COPIES = X_COPIES + TILE_COLS / COPY_ROWS;
    static_assert(TILE_ROWS % COPY_ROWS == 0 && TILE_COLS % COPY_ROWS == 0 && COPY_ROWS % 8 == 0);
    const u32 copy_row = threadIdx.x / PIECES, copy_piece = threadIdx.x % PIECES;
    const u32 x_bytes = ldx * sizeof(T), weight_bytes = in * sizeof(T);
    u32 copy_tile = blockIdx.x, copy_left, copy_k, x_last, weight_last;
    const u8 *x_from, *weight_from;
    const auto begin_copies = [&] {
        const bool more = copy_tile < tiles;
        copy_left = more ? steps : ~0u;
        copy_k = more ? step0 * TILE_IN + copy_piece * PIECE : in;
        u32 row, col;
        tile_at(more ? copy_tile : 0, row, col);
        row = min(row + copy_row, rows - 1);
        col = min(col + copy_row, out - 1);
        x_last = rows - 1 - row;
        weight_last = out - 1 - col;
        const u32 k = copy_k < in ? copy_k : 0;
        x_from = reinterpret_cast<const u8*>(x + u64(row) * ldx + k);
        weight_from = reinterpret_cast<const u8*>(weight + u64(col) * in + k);
        copy_tile += gridDim.x;
    };
    const u32 x_to = copy_row * ROW + (copy_piece ^ x_key(copy_row)) * 16;
    const auto copy = [&](u32 stage, u32 c) {
        u8* const to = shared + stage * STAGE;
        const u32 r = (c < X_COPIES ? c : c - X_COPIES) * COPY_ROWS;
        if (c < X_COPIES)
            cp_async_16(to + x_to + r * ROW, x_from + min(r, x_last) * x_bytes, copy_k < in);
        else
            cp_async_16(to + (TILE_ROWS + copy_row + r) * ROW + (copy_piece ^ weight_key(copy_row + r)) * 16,
                        weight_from + min(r, weight_last) * weight_bytes, copy_k < in);
    };
    const auto next_copies = [&] {
        copy_k += TILE_IN;
        const u32 on = copy_k < in ? ROW : 0;
        x_from += on;
        weight_from += on;
    };
    begin_copies();
    if (threadIdx.x < TILE_COLS) {
        u32 row, col;
        tile_at(blockIdx.x, row, col);
        const u32 ahead = min((STAGES - 1) * TILE_IN, in - step0 * TILE_IN);
        if (col + threadIdx.x < out)
            prefetch_early(weight + u64(col + threadIdx.x) * in + step0 * TILE_IN, ahead * sizeof(T));
    }
    wait_for_previous();
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
#pragma unroll
        for (u32 c = 0; c < COPIES; c++) copy(s, c);
        cp_async_commit();
        next_copies();
        if (--copy_left == 0) begin_copies();
    }

    // columns_of_a_lane: column 8 q + 2 j + e of a group of 32 is column 2 q + e of the j-th n8 of mma, so that lane q of
    // a quad ends up with eight neighbouring columns of y.
    const u32 warp_row = warp / (TILE_COLS / WARP_COLS) * WARP_ROWS, warp_col = warp % (TILE_COLS / WARP_COLS) * WARP_COLS;
    const u32 x_row = warp_row + lane % 16, w_row = warp_col + lane % 8 / 2 * 8 + lane / 16 * 2 + lane % 2;
    // Where a lane's rows are in a stage; the step of 16 values is in the same bits as the swizzle.
    const u32 x_at = x_row * ROW + (lane / 16 ^ x_key(x_row)) * 16;
    const u32 w_at = (TILE_ROWS + w_row) * ROW + (lane / 8 % 2 ^ weight_key(w_row)) * 16;
    u32 a[2][M_FRAGS][4], b[2][N_PAIRS][4];
    // The `i`-th ldmatrix of a step of 16 values, in the order in which mma wants them.
    constexpr u32 LOADS = M_FRAGS + N_PAIRS;
    const auto load_fragment = [&](u32 i, u32 stage, u32 k16) {
        const u8* const from = shared + stage * STAGE;
        if (i >= 1 && i <= N_PAIRS) {
            const u32 p = i - 1;
            ldmatrix_x4(b[k16 % 2][p], from + (w_at ^ k16 * 32) + (p / 2 * 32 + p % 2 * 4) * ROW);
        } else {
            const u32 m = i == 0 ? 0 : i - N_PAIRS;
            ldmatrix_x4(a[k16 % 2][m], from + (x_at ^ k16 * 32) + m * 16 * ROW);
        }
    };

    cp_async_wait<STAGES - 2>();
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < LOADS; i++) load_fragment(i, 0, 0);
    u32 stage = 0, copy_stage = STAGES - 1;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float sum[M_FRAGS][N_PAIRS][2][4] = {};
        for (u32 done = 0; done < steps;) {
            // As long as the copies are of one tile.
            const u32 until = done + min(steps - done, copy_left);
            copy_left -= until - done;
#pragma unroll 1
            for (; done < until; done++) {
                const u32 next_stage = stage + 1 == STAGES ? 0 : stage + 1;
                // (After the last step nothing has arrived, so this stage is read once more, for nothing.)
                const bool last = done + 1 == steps && tile + gridDim.x >= tiles;
#pragma unroll
                for (u32 k16 = 0; k16 < STEPS; k16++) {
                    if (k16 == STEPS - 1) {
                        // The next step has arrived, and nobody still reads the stage that the next copies overwrite.
                        cp_async_wait<STAGES - 2>();
                        __syncthreads();
                    }
                    const u32 from = k16 < STEPS - 1 || last ? stage : next_stage;
#pragma unroll
                    for (u32 m = 0; m < M_FRAGS; m++) {
                        if (k16 == 0) {
#pragma unroll
                            for (u32 c = m * COPIES / M_FRAGS; c < (m + 1) * COPIES / M_FRAGS; c++) copy(copy_stage, c);
                            if (m == M_FRAGS - 1) {
                                cp_async_commit();
                                next_copies();
                            }
                        }
#pragma unroll
                        for (u32 p = 0; p < N_PAIRS; p++) {
                            const u32 i = m * N_PAIRS + p;
                            constexpr u32 EVERY = M_FRAGS * N_PAIRS / LOADS;
                            if (i % EVERY == 0 && i / EVERY < LOADS) load_fragment(i / EVERY, from, (k16 + 1) % STEPS);
#pragma unroll
                            for (u32 j = 0; j < 2; j++)
                                mma_16x8x16<T>(sum[m][p][j], a[k16 % 2][m], b[k16 % 2][p][j * 2], b[k16 % 2][p][j * 2 + 1]);
                        }
                    }
                }
                copy_stage = stage;
                stage = next_stage;
            }
            if (copy_left == 0) begin_copies();
        }

        u32 row0, col0;
        tile_at(tile, row0, col0);
#pragma unroll
        for (u32 g = 0; g < N_PAIRS / 2; g++) {
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
                    for (u32 i = 0; i < 8; i++) v[i] = sum[m][g * 2 + i / 4][i / 2 % 2][half * 2 + i % 2] + add[i];
                    if (row >= rows) continue;
                    if (gridDim.y == 1)
                        store_columns(y, row, column, out, v);
                    else
                        store_columns(partial + u64(blockIdx.y) * rows * out, row, column, out, v);
                }
        }
    }
}

// ---- skinny ----
//
// The weights are the 16-row operand of mma and x the 8-column one, so few rows of x waste little. Each weight is used
// by one lane of one warp, once: a lane copies 16-byte pieces with cp.async to places that it alone reads back, a queue
// many stages deep that needs no barrier. `in` is permuted (the same for both operands) so that those 16 bytes are a
// lane's fragments of two mma steps. Blocks stay and take tile after tile of SKINNY_OUT outputs; the stream does not
// stop between tiles. Warps of a block share a tile by outputs and by parts of `in`, whose sums are added in order. The
// sums of a row do not depend on the number of rows as long as the layout is the same.
// Launch: grid (blocks, at most tiles; splits of `in`), block Layout::THREADS, shared Layout::SHARED.

// SLOTS: rows, rounded up to 8, 16, 32 or 64. WARPS_OUT, WARPS_IN: warps along outputs (16 each) and along `in`.
// IN_BLOCKS: 32 values of `in` each, of a warp's step.
template <u32 SLOTS_, u32 WARPS_OUT_, u32 WARPS_IN_, u32 IN_BLOCKS_, u32 STAGES_>
struct Layout {
    static constexpr u32 SLOTS = SLOTS_, WARPS_OUT = WARPS_OUT_, WARPS_IN = WARPS_IN_, IN_BLOCKS = IN_BLOCKS_;
    static constexpr u32 STAGES = STAGES_, THREADS = WARPS_OUT * WARPS_IN * WARP, OUT = WARPS_OUT * 16;
    static constexpr u32 IN = WARPS_IN * IN_BLOCKS * 32;                  // values of `in` of a step
    static constexpr u32 WEIGHT_PIECES = 2 * IN_BLOCKS;                   // of a lane's step
    static constexpr u32 WEIGHT_STAGE = THREADS * WEIGHT_PIECES;          // pieces
    static constexpr u32 X_STAGE = IN / 32 * (SLOTS / 8) * WARP;          // pieces
    static constexpr u32 LD = OUT + 4;                                    // of sums; keeps lanes in different banks
    static constexpr u32 SHARED = STAGES * (WEIGHT_STAGE + X_STAGE) * 16 + SLOTS * LD * sizeof(float);
};

template <class Layout>
__device__ __forceinline__ void skinny(const LinearCall& call) {
    constexpr u32 ROW_FRAGS = Layout::SLOTS / 8, WARPS_IN = Layout::WARPS_IN, IN_BLOCKS = Layout::IN_BLOCKS;
    constexpr u32 SKINNY_OUT = Layout::OUT, SKINNY_IN = Layout::IN, STAGES = Layout::STAGES, LD = Layout::LD;
    const T *const x = call.x, *const weight = call.weight, *const bias = call.bias;
    Out* const y = call.y;
    float* const partial = call.partial;
    const u32 rows = call.rows, in = call.in, out = call.out, ldx = call.ldx;
    constexpr u32 WEIGHT_PIECES = Layout::WEIGHT_PIECES, WEIGHT_STAGE = Layout::WEIGHT_STAGE;
    constexpr u32 X_STAGE = Layout::X_STAGE, THREADS = Layout::THREADS;
    extern __shared__ __align__(128) u8 shared[];
    uint4* const weights = reinterpret_cast<uint4*>(shared);
    uint4* const xs = weights + STAGES * WEIGHT_STAGE;
    float* const sums = reinterpret_cast<float*>(xs + STAGES * X_STAGE);

    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 warp_out = warp / WARPS_IN, warp_in = warp % WARPS_IN, quad_row = lane / 4, quad_lane = lane % 4;
    const u32 steps_all = ceil_div(in, SKINNY_IN), steps_each = ceil_div(steps_all, gridDim.y);
    const u32 step0 = min(blockIdx.y * steps_each, steps_all), steps = min(steps_each, steps_all - step0);
    const u32 tiles = ceil_div(out, SKINNY_OUT);

    // Where this lane's piece of a tile's step is, for one of two halves of the outputs and block `i` of the step's values,
    // and whether there is such a one. Outputs past the end repeat the last; their sums are not used.
    const auto weight_at = [&](u32 tile, u32 step, u32 half, u32 i, bool& inside) {
        const u32 o = min(tile * SKINNY_OUT + warp_out * 16 + half * 8 + quad_row, out - 1);
        const u32 k = (step0 + step) * SKINNY_IN + (warp_in * IN_BLOCKS + i) * 32 + quad_lane * 8;
        inside = k < in;
        return weight + u64(o) * in + (inside ? k : 0);
    };
    bool inside;
    if (threadIdx.x < SKINNY_OUT) {
        const u32 o = blockIdx.x * SKINNY_OUT + threadIdx.x, k = step0 * SKINNY_IN;
        if (o < out && k < in) prefetch_early(weight + u64(o) * in + k, min((STAGES - 1) * SKINNY_IN, in - k) * sizeof(T));
    }
    wait_for_previous();

    // The stream of copies: tile after tile, step after step.
    u32 copy_tile = blockIdx.x, copy_step = 0, copy_stage = 0;
    const auto copy_next = [&]() {
        if (copy_tile < tiles && copy_step < steps) {
            const u32 k0 = (step0 + copy_step) * SKINNY_IN;
            uint4* const to = weights + copy_stage * WEIGHT_STAGE + warp * WEIGHT_PIECES * WARP + lane;
#pragma unroll
            for (u32 i = 0; i < WEIGHT_PIECES; i++) {
                const T* const from = weight_at(copy_tile, copy_step, i / IN_BLOCKS, i % IN_BLOCKS, inside);
                cp_async_16(to + i * WARP, from, inside);
            }
            // Pieces of x as the lanes take them: [block of 32 values][eight rows][lane].
            uint4* const to_x = xs + copy_stage * X_STAGE;
#pragma unroll
            for (u32 c = threadIdx.x; c < X_STAGE; c += THREADS) {
                const u32 row = c / WARP % ROW_FRAGS * 8 + c % WARP / 4;
                const u32 k = k0 + c / (WARP * ROW_FRAGS) * 32 + c % 4 * 8;
                const bool valid = row < rows && k < in;
                cp_async_16(to_x + c, x + (valid ? u64(row) * ldx + k : 0), valid);
            }
            if (++copy_step == steps) {
                copy_step = 0;
                copy_tile += gridDim.x;
            }
        }
        copy_stage = copy_stage + 1 == STAGES ? 0 : copy_stage + 1;
        cp_async_commit();
    };
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) copy_next();

    u32 stage = 0;
    for (u32 tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float sum[ROW_FRAGS][4] = {};
        for (u32 step = 0; step < steps; step++) {
            // Everybody's part of x has arrived, and nobody still reads the stage that the next copies overwrite.
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            copy_next();
            const uint4* const from = weights + stage * WEIGHT_STAGE + warp * WEIGHT_PIECES * WARP + lane;
            const uint4* const from_x = xs + stage * X_STAGE + warp_in * IN_BLOCKS * ROW_FRAGS * WARP + lane;
#pragma unroll
            for (u32 i = 0; i < IN_BLOCKS; i++) {
                const uint4 low = from[i * WARP], high = from[(IN_BLOCKS + i) * WARP];
#pragma unroll
                for (u32 r = 0; r < ROW_FRAGS; r++) {
                    const uint4 v = from_x[(i * ROW_FRAGS + r) * WARP];
                    mma_16x8x16<T>(sum[r], {low.x, high.x, low.y, high.y}, v.x, v.y);
                    mma_16x8x16<T>(sum[r], {low.z, high.z, low.w, high.w}, v.z, v.w);
                }
            }
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        // Sums of the parts of `in`, in their order, as [row][output].
        for (u32 part = 0; part < WARPS_IN; part++) {
            __syncthreads();
            if (warp_in == part) {
#pragma unroll
                for (u32 r = 0; r < ROW_FRAGS; r++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        float* const at =
                            sums + (r * 8 + quad_lane * 2 + i % 2) * LD + warp_out * 16 + i / 2 * 8 + quad_row;
                        *at = part == 0 ? sum[r][i] : *at + sum[r][i];
                    }
            }
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < rows * SKINNY_OUT; i += THREADS) {
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

// ---- combine_splits ----

// y = the sum of partial[split] over splits, in order, plus bias. partial: [splits, rows, out] f32.
// Launch: grid (ceil(out / (4 * 256)), rows), block 256.
extern "C" __global__ void __launch_bounds__(256, 4)
combine_splits(const float* __restrict__ partial, const T* __restrict__ bias, Out* __restrict__ y, u32 splits, u32 rows,
               u32 out) {
    wait_for_previous();
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

// ---- entries: src/kernels/cuda/linear.rs has their tiles and layouts too ----

using Large = Tile<256, 128, 64, 64, 4>;
using Medium = Tile<128, 128, 64, 64, 3>;
using Small = Tile<64, 64, 32, 32, 4>;
extern "C" __global__ void __launch_bounds__(Large::THREADS) mma_256x128(const LinearCall call) {
    mma_pipelined<Large>(call);
}
extern "C" __global__ void __launch_bounds__(Medium::THREADS, 2) mma_128x128(const LinearCall call) {
    mma_pipelined<Medium>(call);
}
extern "C" __global__ void __launch_bounds__(Small::THREADS, 3) mma_64x64(const LinearCall call) {
    mma_pipelined<Small>(call);
}

// Up to 16 rows: one block a multiprocessor with a deep queue, deeper where a block may have 160 KB of shared memory. 16
// outputs a block where that shares them out more evenly, else 32; and with many rows, of which every block reads all, 64.
#if __CUDA_ARCH__ == 800 || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200)
constexpr bool DEEP = true;
#else
constexpr bool DEEP = false;
#endif
using Narrow8 = Layout<8, 1, 4, 4, DEEP ? 5 : 4>;
using Narrow16 = Layout<16, 1, 8, 2, DEEP ? 5 : 3>;
using Wide8 = Layout<8, 2, 4, 2, DEEP ? 6 : 4>;
using Wide16 = Layout<16, 2, 4, 2, DEEP ? 5 : 4>;
using Wide32 = Layout<32, 4, 2, 2, 3>;
using Wide64 = Layout<64, 4, 2, 2, 3>;
extern "C" __global__ void __launch_bounds__(Narrow8::THREADS) skinny_8_narrow(const LinearCall call) {
    skinny<Narrow8>(call);
}
extern "C" __global__ void __launch_bounds__(Narrow16::THREADS) skinny_16_narrow(const LinearCall call) {
    skinny<Narrow16>(call);
}
extern "C" __global__ void __launch_bounds__(Wide8::THREADS) skinny_8(const LinearCall call) { skinny<Wide8>(call); }
extern "C" __global__ void __launch_bounds__(Wide16::THREADS) skinny_16(const LinearCall call) { skinny<Wide16>(call); }
extern "C" __global__ void __launch_bounds__(Wide32::THREADS) skinny_32(const LinearCall call) { skinny<Wide32>(call); }
extern "C" __global__ void __launch_bounds__(Wide64::THREADS) skinny_64(const LinearCall call) { skinny<Wide64>(call); }
#endif
