// `flash` for Hopper (sm_90a), after FlashAttention-3 (arXiv:2407.08608): one warpgroup copies K and V tiles, two
// multiply by wgmma, 64 queries each, and while one waits for its products the other makes its softmax. Heads of 128.
#pragma once
#include "attention_flash.cuh"
#include "hopper.cuh"
#if HEAD_DIM == 128 && defined(__CUDA_ARCH_FEAT_SM90_ALL)

constexpr u32 HOPPER_THREADS = 384;  // three warpgroups
constexpr u32 HOPPER_ROWS = 128;
constexpr u32 HOPPER_KEYS = 128;
constexpr u32 HOPPER_STAGES = 2;
constexpr u32 HOPPER_HALF = 128 * 128;        // bytes of 128 rows, 64 columns
constexpr u32 HOPPER_TILE = 2 * HOPPER_HALF;  // 128 rows, 128 columns
// Of an operand that runs across rows: its columns 64 to 127 lie HOPPER_HALF bytes on. (swizzled_operand has 16 there.)
constexpr u64 HALF_APART = u64((HOPPER_HALF >> 4) - 1) << 16;

// Shared memory of a block.
struct HopperTiles {
    u8 q[HOPPER_TILE], k[HOPPER_STAGES][HOPPER_TILE], v[HOPPER_STAGES][HOPPER_TILE];
    u64 k_full[HOPPER_STAGES], k_free[HOPPER_STAGES], v_full[HOPPER_STAGES], v_free[HOPPER_STAGES];
};

// What a block works on: up to 128 queries of one head and the key tiles that they see.
struct HopperWork {
    u32 seq, head, first_token, rows, position, begin, end, tiles;
};

// The copying warpgroup: Q and K 0, then K t and V t - 1 for every t, as they are consumed.
__device__ __forceinline__ void hopper_copy(const Batch& b, const HopperWork& w, HopperTiles& tiles) {
    // This thread copies chunk `chunk` of every 8th row from `row` on.
    const u32 thread = threadIdx.x % 128, row = thread / 16, chunk = thread % 16, kv_head = w.head / GROUP;
    const u32 to = chunk / 8 * HOPPER_HALF + row * 128 + (chunk % 8 ^ row) * 16;
    const u32 stride = b.kv_heads * HEAD_DIM, from = row * stride + chunk * 8;
    const i32* blocks = blocks_of(b, w.seq);
    const auto load = [&](const T* cache, u8* tile, u32 key) {
        u32 groups[HOPPER_KEYS / 16];  // all of them first: a copy is a barrier to the compiler
#pragma unroll
        for (u32 g = 0; g < HOPPER_KEYS / 16; g++)
            groups[g] = key + g * 16 < w.end ? row_group(blocks, key + g * 16) : 0;
#pragma unroll
        for (u32 g = 0; g < HOPPER_KEYS / 8; g++)  // rows past `end` become zero and are not read
            cp_async_16(tile + to + g * 8 * 128,
                        cache + group_offset(b, groups[g / 2], kv_head) + (g % 2 * 8 * stride + from),
                        key + g * 8 + row < w.end);
        cp_async_commit();
    };
    // Says that all but the latest PENDING copies of this thread are there: cp.async wrote them, wgmma may read them.
    u64* copied = nullptr;
    const auto publish = [&](u64* next) {
        if (copied) {
            if (next)
                cp_async_wait<1>();
            else
                cp_async_wait<0>();
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            mbarrier_arrive(copied);
        }
        copied = next;
    };
    for (u32 g = 0; g < HOPPER_ROWS; g += 8) {
        const u64 token = w.first_token + min(g + row, w.rows - 1);
        cp_async_16(tiles.q + to + g * 128, b.q + token * b.q_stride + w.head * HEAD_DIM + chunk * 8);
    }
    for (u32 tile = 0; tile <= w.tiles; tile++) {
        const u32 key = w.begin + tile * HOPPER_KEYS;
        if (tile < w.tiles) {
            const u32 stage = tile % HOPPER_STAGES;
            mbarrier_wait(&tiles.k_free[stage], tile / HOPPER_STAGES % 2 ^ 1);
            load(b.k_cache, tiles.k[stage], key);
            publish(&tiles.k_full[stage]);
        }
        if (tile > 0) {
            const u32 stage = (tile - 1) % HOPPER_STAGES;
            mbarrier_wait(&tiles.v_free[stage], (tile - 1) / HOPPER_STAGES % 2 ^ 1);
            load(b.v_cache, tiles.v[stage], key - HOPPER_KEYS);
            publish(&tiles.v_full[stage]);
        }
    }
    publish(nullptr);
}

// A multiplying warpgroup, 0 or 1: queries 64 group to 64 group + 63.
__device__ __forceinline__ void hopper_multiply(const Batch& b, const HopperWork& w, HopperTiles& tiles, u32 group) {
    const u32 lane = threadIdx.x % WARP, warp_row = group * 64 + threadIdx.x % 128 / WARP * 16;
    const Scores scores(b);
    const u32 group_position = w.position + group * 64, row_position = w.position + warp_row + lane / 4;
    const u64 q_rows = swizzled_operand(tiles.q + group * 64 * 128);
    float total[64], p[64];
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {}, keep[2];
    u32 weights[8][4];
#pragma unroll
    for (u32 i = 0; i < 64; i++) total[i] = 0.0f;

    const auto multiply_k = [&](u32 tile) {  // p = Q K^T
        const u32 stage = tile % HOPPER_STAGES;
        const u64 k_rows = swizzled_operand(tiles.k[stage]);
        mbarrier_wait(&tiles.k_full[stage], tile / HOPPER_STAGES % 2);
        wgmma_hold(p);
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < 8; k++) {
            const u32 step = (k / 4 * HOPPER_HALF + k % 4 * 32) >> 4;
            wgmma<128>(p, q_rows + step, k_rows + step, k > 0);
        }
        wgmma_commit();
    };
    const auto multiply_v = [&](u32 tile) {  // total += weights V
        const u32 stage = tile % HOPPER_STAGES;
        const u64 v_rows = swizzled_operand(tiles.v[stage]) + HALF_APART;
        mbarrier_wait(&tiles.v_full[stage], tile / HOPPER_STAGES % 2);
        wgmma_hold(total);
        wgmma_fence();
#pragma unroll
        for (u32 k = 0; k < 8; k++) wgmma_columns(total, weights[k], v_rows + (k * 16 * 128 >> 4));
        wgmma_commit();
    };
    const auto done = [&](u64* free, u32 tile) {  // this warp reads the tile no more
        if (lane == 0) mbarrier_arrive(&free[tile % HOPPER_STAGES]);
    };
    const auto soften = [&](u32 tile) {  // p = exp2(p - top), with the new top
        const u32 key = w.begin + tile * HOPPER_KEYS;
#if SOFTCAP
#pragma unroll
        for (u32 i = 0; i < 64; i++) p[i] = scores.capped(p[i]);
#endif
        if (key + HOPPER_KEYS > group_position + 1 || key < first_key(b, group_position + 63)) {
#pragma unroll
            for (u32 i = 0; i < 64; i++) {
                const u32 at = row_position + i / 2 % 2 * 8, k = key + i / 4 * 8 + lane % 4 * 2 + i % 2;
                if (k > at || k < first_key(b, at)) p[i] = -INFINITY;
            }
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float peak = top[half];
#pragma unroll
            for (u32 j = 0; j < 16; j++) peak = fmaxf(peak, fmaxf(p[4 * j + 2 * half], p[4 * j + 2 * half + 1]));
            peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 1));
            peak = fmaxf(peak, __shfl_xor_sync(ALL_LANES, peak, 2));
            const float base = peak == -INFINITY ? 0.0f : peak * scores.out;
            keep[half] = exp2_fast(top[half] * scores.out - base);
            top[half] = peak;
            float added = 0.0f;
#pragma unroll
            for (u32 j = 0; j < 16; j++) {
#pragma unroll
                for (u32 i = 4 * j + 2 * half; i < 4 * j + 2 * half + 2; i++) {
                    p[i] = exp2_fast(p[i] * scores.out - base);
                    added += p[i];
                }
            }
            sum[half] = sum[half] * keep[half] + added;
        }
    };
    const auto pack_weights = [&] {
#pragma unroll
        for (u32 k = 0; k < 8; k++)
#pragma unroll
            for (u32 r = 0; r < 4; r++) weights[k][r] = pack<T>(p[8 * k + 2 * r], p[8 * k + 2 * r + 1]);
    };

    multiply_k(0);
    wgmma_wait<0>();
    wgmma_hold(p);
    done(tiles.k_free, 0);
    soften(0);
    pack_weights();
    for (u32 tile = 1; tile < w.tiles; tile++) {
        multiply_k(tile);
        multiply_v(tile - 1);
        wgmma_wait<1>();
        wgmma_hold(p);
        done(tiles.k_free, tile);
        soften(tile);
        wgmma_hold(p);
        // A branch on the softmax's result, though never taken (keep is at most 1), keeps ptxas from moving the wait up,
        // before the softmax: what runs under the product with V must stay there. All warps wait at one place, as wgmma
        // demands.
        if (keep[0] > 2.0f) never_taken();
        wgmma_wait<0>();
        wgmma_hold(total);
        if (__any_sync(ALL_LANES, keep[0] != 1.0f || keep[1] != 1.0f)) {  // seldom, once the maxima are found
#pragma unroll
            for (u32 i = 0; i < 64; i++) total[i] *= keep[i / 2 % 2];
        }
        done(tiles.v_free, tile - 1);
        pack_weights();
    }
    multiply_v(w.tiles - 1);
    wgmma_wait<0>();
    wgmma_hold(total);

    // Through this warp's rows of the Q tile, so that the stores are whole 16-byte chunks of consecutive rows.
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float all = sum[half];
        all += __shfl_xor_sync(ALL_LANES, all, 1);
        all += __shfl_xor_sync(ALL_LANES, all, 2);
        const float inverse = 1.0f / all;
        const u32 r = warp_row + lane / 4 + half * 8;
#pragma unroll
        for (u32 j = 0; j < 16; j++)
            *reinterpret_cast<u32*>(tiles.q + j / 8 * HOPPER_HALF + r * 128 + (j % 8 ^ r % 8) * 16 + lane % 4 * 4) =
                pack<T>(total[4 * j + 2 * half] * inverse, total[4 * j + 2 * half + 1] * inverse);
    }
    __syncwarp();
    for (u32 i = lane; i < 16 * 16; i += WARP) {
        const u32 r = warp_row + i / 16, c = i % 16;
        if (r < w.rows)
            store_vec(
                b.out + ((u64(w.first_token) + r) * (b.kv_heads * GROUP) + w.head) * HEAD_DIM + c * 8,
                load_vec(reinterpret_cast<const T*>(tiles.q + c / 8 * HOPPER_HALF + r * 128 + (c % 8 ^ r % 8) * 16)));
    }
}

__device__ __forceinline__ void flash_hopper(const Batch& b, u8* shared) {
    HopperTiles& tiles = *reinterpret_cast<HopperTiles*>(shared);
    HopperWork w;
    u32 part;
    WorkList<TileCount<false>> list(b.seqs, TileCount<false>{b});
    if (!list.find(blockIdx.y, w.seq, part)) return;
    const Sequence s = sequence(b, w.seq);
    // The last tile sees the most keys: it goes first.
    const u32 first_row = (ceil_div(s.q_len, HOPPER_ROWS) - 1 - part) * HOPPER_ROWS;
    w.head = blockIdx.x;
    w.first_token = s.q_first + first_row;
    w.rows = min(s.q_len - first_row, HOPPER_ROWS);
    w.position = s.kv_len - s.q_len + first_row;
    w.end = w.position + w.rows;
    w.begin = first_key(b, w.position) / HOPPER_KEYS * HOPPER_KEYS;
    w.tiles = ceil_div(w.end - w.begin, HOPPER_KEYS);

    if (threadIdx.x == 0) {
        for (u32 i = 0; i < HOPPER_STAGES; i++) {
            mbarrier_init(&tiles.k_full[i], 128);  // the copying threads
            mbarrier_init(&tiles.v_full[i], 128);
            mbarrier_init(&tiles.k_free[i], 8);  // the multiplying warps
            mbarrier_init(&tiles.v_free[i], 8);
        }
    }
    __syncthreads();
    // 65,536 registers: the copying warpgroup gives up what the multiplying ones need.
    if (threadIdx.x < 128) {
        fewer_registers<40>();
        hopper_copy(b, w, tiles);
    } else {
        more_registers<232>();
        hopper_multiply(b, w, tiles, threadIdx.x / 128 - 1);
    }
}
#endif
