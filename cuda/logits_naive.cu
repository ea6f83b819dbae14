// The readable baseline of logits processing, in place: soft-cap, bias, penalties, temperature, min-p, in this order.
//   logits: [rows, VOCAB] f32    params: [rows, 5] f32: temperature (0: greedy), min_p, repetition, frequency, presence
//   history: [rows + 1] starts, ids (distinct in a row), counts     bias: [rows + 1] starts, ids, values
// Oracle: reference/src/logits.rs; but for the soft-cap the same roundings, so the same bits. Shapes checked by
// src/kernels/logits.rs. JIT constants: VOCAB.
//   naive   one block a row; single tokens one after the other
#include "common.cuh"

// Grid: rows, 256 threads. softcap: 0 is none.
extern "C" __global__ void __launch_bounds__(256)
logits_naive(float* logits, const float* params, const int* history_start, const int* history_ids,
             const int* history_counts, const int* bias_start, const int* bias_ids, const float* bias_values,
             float softcap) {
    __shared__ float shared[WARP];
    const u32 row = blockIdx.x;
    float* l = logits + u64(row) * VOCAB;
    const float temperature = params[row * 5], min_p = params[row * 5 + 1], repetition = params[row * 5 + 2],
                frequency = params[row * 5 + 3], presence = params[row * 5 + 4];

    if (softcap > 0.0f)
        for (u32 i = threadIdx.x; i < VOCAB; i += 256) l[i] = softcap * tanhf(l[i] / softcap);
    __syncthreads();

    if (threadIdx.x == 0) {
        for (int i = bias_start[row]; i < bias_start[row + 1]; i++)
            l[bias_ids[i]] = __fadd_rn(l[bias_ids[i]], bias_values[i]);
        for (int i = history_start[row]; i < history_start[row + 1]; i++) {
            float v = l[history_ids[i]];
            v = v > 0.0f ? __fdiv_rn(v, repetition) : __fmul_rn(v, repetition);
            if (history_counts[i] > 0) {
                v = __fsub_rn(v, __fmul_rn(frequency, float(history_counts[i])));
                v = __fsub_rn(v, presence);
            }
            l[history_ids[i]] = v;
        }
    }
    __syncthreads();

    if (temperature == 0.0f) return;
    float top = -INFINITY;
    for (u32 i = threadIdx.x; i < VOCAB; i += 256) {
        l[i] = __fdiv_rn(l[i], temperature);
        top = fmaxf(top, l[i]);
    }
    top = block_max(top, shared);
    const float floor = float(log(double(min_p)));
    for (u32 i = threadIdx.x; i < VOCAB; i += 256)
        if (__fsub_rn(l[i], top) < floor) l[i] = -INFINITY;
}
