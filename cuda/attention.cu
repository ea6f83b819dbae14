// Causal attention of new queries over a paged KV cache, for ragged batches: prefill, decode and both at once.
// Shapes: struct Batch in attention.cuh; checked by src/kernels/attention.rs. Oracle: reference/src/attention.rs.
// Lengths are read on the device, and a grid depends on maxima only, so that a captured graph serves every batch.
// JIT constants: DTYPE, HEAD_DIM, GROUP (query heads a key head), BLOCK_SIZE, WINDOW and SOFTCAP (0 or 1).
//   naive       one warp a query and head, one key after the other; the readable baseline, and the one for f32
//   split_kv    decode: keys in splits of a fixed size, K and V streamed once for up to 4 query heads, CUDA cores
//   gqa_packed  decode: the query heads of a group are the rows of one tensor-core tile, split over the keys too
//   flash       prefill: query tiles on tensor cores, K and V tiles gathered by the block table, hidden tiles skipped
//   flash_hopper  flash with wgmma and a copying warpgroup; sm_90a, heads of 128
//   unified     mixed batches in one launch: gqa_packed for sequences with one query, flash for the others
//   combine     joins the splits of split_kv, gqa_packed and unified, in a fixed order
#include "attention.cuh"

// Grid: (heads, tokens), 32 threads.
extern "C" __global__ void attention_naive(const __grid_constant__ Batch b) {
    wait_for_previous();
    constexpr u32 DIMS = ceil_div(u32(HEAD_DIM), WARP);  // of a lane: lane, lane + 32, ...
    const u32 lane = threadIdx.x, token = blockIdx.y, head = blockIdx.x, heads = gridDim.x;
    u32 seq = 0;
    while (u32(b.q_start[seq + 1] - b.q_start[0]) <= token) seq++;
    const Sequence s = sequence(b, seq);
    const u32 position = s.kv_len - s.q_len + token - s.q_first;

    float q[DIMS], mean[DIMS];
    for (u32 i = 0; i < DIMS; i++) {
        const u32 d = i * WARP + lane;
        q[i] = d < HEAD_DIM ? to_f32(b.q[u64(token) * b.q_stride + head * HEAD_DIM + d]) : 0.0f;
        mean[i] = 0.0f;
    }
    float top = -INFINITY, sum = 0.0f;
    for (u32 key = first_key(b, position); key <= position; key++) {
        const u64 row = row_offset(b, blocks_of(b, seq), key, head / GROUP);
        float dot = 0.0f;
        for (u32 i = 0; i < DIMS; i++) {
            const u32 d = i * WARP + lane;
            if (d < HEAD_DIM) dot += q[i] * to_f32(b.k_cache[row + d]);
        }
        float score = warp_sum(dot) * b.scale;
#if SOFTCAP
        score = b.softcap * tanhf(score / b.softcap);
#endif
        // Online softmax: what is summed so far is rescaled when the maximum grows.
        const float peak = fmaxf(top, score), keep = expf(top - peak), weight = expf(score - peak);
        top = peak;
        sum = sum * keep + weight;
        for (u32 i = 0; i < DIMS; i++) {
            const u32 d = i * WARP + lane;
            if (d < HEAD_DIM) mean[i] = mean[i] * keep + weight * to_f32(b.v_cache[row + d]);
        }
    }
    for (u32 i = 0; i < DIMS; i++) {
        const u32 d = i * WARP + lane;
        if (d < HEAD_DIM) b.out[(u64(token) * heads + head) * HEAD_DIM + d] = from_f32<T>(mean[i] / sum);
    }
}

// 16-bit values in tiles of 16 x 16: `supports` of src/kernels/cuda/attention.rs refuses the rest.
#if DTYPE != 0 && HEAD_DIM % 16 == 0 && HEAD_DIM <= 256
#include "attention_decode.cuh"
#include "attention_flash.cuh"
#include "attention_hopper.cuh"

extern __shared__ __align__(1024) u8 shared[];

// Grid: as many blocks as fit the device; each takes every gridDim.x-th split.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS, 2) attention_split_kv(const __grid_constant__ Batch b) {
    split_kv(b, shared);
}

extern "C" __global__ void __launch_bounds__(DECODE_THREADS) attention_combine(const __grid_constant__ Batch b) {
    combine(b);
}

// Grid: (heads, flash_tiles), flash_tiles >= the batch's query tiles.
extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 2) attention_flash(const __grid_constant__ Batch b) {
    wait_for_previous();
    flash<false>(b, shared);
}

#if HEAD_DIM == 128 && defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Grid: as `flash`.
extern "C" __global__ void __launch_bounds__(HOPPER_THREADS, 1)
    attention_flash_hopper(const __grid_constant__ Batch b) {
    wait_for_previous();
    flash_hopper(b, shared);
}
#endif

// Grid: as `split_kv`.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS, 2) attention_gqa_packed(const __grid_constant__ Batch b) {
    gqa_packed(b, shared, blockIdx.x, gridDim.x);
}

// Grid: (heads, flash_tiles and as many rows of decode blocks as fit the device).
extern "C" __global__ void __launch_bounds__(FLASH_THREADS, 2) attention_unified(const __grid_constant__ Batch b) {
    static_assert(FLASH_THREADS == DECODE_THREADS, "both kinds of block run in one launch");
    if (blockIdx.y < b.flash_tiles) {
        wait_for_previous();
        flash<true>(b, shared);
    } else {
        gqa_packed(b, shared, (blockIdx.y - b.flash_tiles) * gridDim.x + blockIdx.x,
                   (gridDim.y - b.flash_tiles) * gridDim.x);
    }
}
#endif
