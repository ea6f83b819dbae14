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
// Launch: grid (row tiles * column tiles, splits of `in`), block Tile::THREADS, shared Tile::SHARED.

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
    static_assert(WARP_ROWS % 16 == 0 && WARP_COLS % 32 == 0);
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
    wait_for_previous();
    constexpr u32 TILE_ROWS = Tile::ROWS, TILE_COLS = Tile::COLS, WARP_ROWS = Tile::WARP_ROWS;
    constexpr u32 WARP_COLS = Tile::WARP_COLS, STAGES = Tile::STAGES;
    const T *const x = call.x, *const weight = call.weight, *const bias = call.bias;
    Out* const y = call.y;
    float* const partial = call.partial;
    const u32 rows = call.rows, in = call.in, out = call.out, ldx = call.ldx;
    constexpr u32 M_FRAGS = WARP_ROWS / 16, N_GROUPS = WARP_COLS / 32, STEPS = TILE_IN / 16;
    constexpr u32 STAGE = (TILE_ROWS + TILE_COLS) * TILE_IN;  // values
    extern __shared__ __align__(128) u8 shared[];
    T* const stages = reinterpret_cast<T*>(shared);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;

    // The tile: row tiles in groups, in a group column by column.
    const u32 row_tiles = ceil_div(rows, TILE_ROWS), col_tiles = ceil_div(out, TILE_COLS);
    const u32 group = blockIdx.x / (GROUP * col_tiles), in_group = blockIdx.x % (GROUP * col_tiles);
    const u32 group_rows = min(GROUP, row_tiles - group * GROUP);
    const u32 row0 = (group * GROUP + in_group % group_rows) * TILE_ROWS, col0 = in_group / group_rows * TILE_COLS;

    // The part of `in`, in steps.
    const u32 steps_all = ceil_div(in, TILE_IN), steps_each = ceil_div(steps_all, gridDim.y);
    const u32 step0 = blockIdx.y * steps_each, steps = min(steps_each, steps_all - min(step0, steps_all));

    // Each thread copies one piece of every COPY_ROWS-th row. Rows past the end repeat the last; their sums are not used.
    constexpr u32 COPY_ROWS = Tile::THREADS / PIECES, X_COPIES = TILE_ROWS / COPY_ROWS;
    constexpr u32 COPIES = X_COPIES + TILE_COLS / COPY_ROWS;
    static_assert(TILE_ROWS % COPY_ROWS == 0 && TILE_COLS % COPY_ROWS == 0);
    const u32 copy_row = threadIdx.x / PIECES, copy_piece = threadIdx.x % PIECES;
    const u32 x_bytes = ldx * sizeof(T), weight_bytes = in * sizeof(T);
    // Copies first..last of a thread's COPIES for a step.
    const auto copy_part = [&](u32 step, u32 stage, u32 first, u32 last) {
        T* const to = stages + stage * STAGE;
        const u32 k = (step0 + step) * TILE_IN + copy_piece * PIECE;
        const bool inside = k < in;
        const u8* const x_at = reinterpret_cast<const u8*>(x + (inside ? k : 0));
        const u8* const weight_at = reinterpret_cast<const u8*>(weight + (inside ? k : 0));
#pragma unroll
        for (u32 c = 0; c < COPIES; c++) {
            if (c < first || c >= last) continue;
            const bool of_x = c < X_COPIES;
            const u32 r = copy_row + (of_x ? c : c - X_COPIES) * COPY_ROWS;
            if (of_x)
                cp_async_16(to + r * TILE_IN + (copy_piece ^ x_key(r)) * PIECE,
                            x_at + u64(min(row0 + r, rows - 1)) * x_bytes, inside);
            else
                cp_async_16(to + (TILE_ROWS + r) * TILE_IN + (copy_piece ^ weight_key(r)) * PIECE,
                            weight_at + u64(min(col0 + r, out - 1)) * weight_bytes, inside);
        }
    };
#pragma unroll
    for (u32 s = 0; s < STAGES - 1; s++) {
        if (s < steps) copy_part(s, s, 0, COPIES);
        cp_async_commit();
    }

    // columns_of_a_lane: column 8 q + 2 j + e of a group of 32 is column 2 q + e of the j-th n8 of mma, so that lane q of
    // a quad ends up with eight neighbouring columns of y.
    const u32 warp_row = warp / (TILE_COLS / WARP_COLS) * WARP_ROWS, warp_col = warp % (TILE_COLS / WARP_COLS) * WARP_COLS;
    const u32 x_row = warp_row + lane % 16, x_half = lane / 16;
    const u32 w_n = lane % 8, w_half = lane / 8 % 2, w_row = warp_col + w_n / 2 * 8 + lane / 16 * 2 + w_n % 2;
    u32 a[2][M_FRAGS][4], b[2][N_GROUPS][2][4];
    float sum[M_FRAGS][N_GROUPS][4][4] = {};
    const auto load_fragments = [&](u32 to, u32 stage, u32 k16) {
        const T* const from_x = stages + stage * STAGE;
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
    u32 stage = 0, copy_stage = STAGES - 1;
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
        const u32 next_stage = stage + 1 == STAGES ? 0 : stage + 1;
#pragma unroll
        for (u32 k16 = 0; k16 < STEPS; k16++) {
            if (k16 == STEPS - 1) {
                // The next step has arrived, and nobody still reads the stage that the next copies overwrite.
                cp_async_wait<STAGES - 2>();
                __syncthreads();
            }
            // (After the last step nothing has arrived, so this stage is read once more, for nothing.)
            const bool onward = k16 == STEPS - 1 && step + 1 < steps;
            load_fragments((k16 + 1) % 2, onward ? next_stage : stage, (k16 + 1) % STEPS);
            if (k16 < STEPS - 1) {
                constexpr u32 PART = ceil_div(COPIES, STEPS - 1);
                if (step + STAGES - 1 < steps)
                    copy_part(step + STAGES - 1, copy_stage, k16 * PART, (k16 + 1) * PART);
                if (k16 == STEPS - 2) cp_async_commit();
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
        copy_stage = stage;
        stage = next_stage;
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
    for (u32 step = 0; step < min(STAGES - 1, steps); step++)
#pragma unroll
        for (u32 i = 0; i < WEIGHT_PIECES; i++)
            prefetch_early(weight_at(blockIdx.x, step, i / IN_BLOCKS, i % IN_BLOCKS, inside));
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

// Few outputs: 16 a block, so that there are enough blocks. Else 32, and with many rows, of which every block reads all,
// 64.
using Narrow8 = Layout<8, 1, 4, 2, 8>;
using Narrow16 = Layout<16, 1, 4, 2, 6>;
using Wide8 = Layout<8, 2, 4, 2, 4>;
using Wide16 = Layout<16, 2, 4, 2, 4>;
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
