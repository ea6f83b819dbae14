// The readable baseline of sampling: one block a row. What stays is "above a threshold": thresholds are found by bisection
// over the bits of a float, each step a pass over the row. Contract: sample.cu.
#pragma once
#include "sample.cuh"

constexpr u32 NAIVE_THREADS = 256;

// Launch: grid rows, block NAIVE_THREADS.
extern "C" __global__ void __launch_bounds__(NAIVE_THREADS)
sample_naive(const float* logits, const float* temperature, const float* top_p_tail, const int* params, int* out) {
    __shared__ u64 parts[WARP];
    __shared__ u32 first_kept;
    const u32 row = blockIdx.x;
    const float* const of_row = logits + u64(row) * VOCAB;
    const Params p = load_params(params, temperature, top_p_tail, row);
    const auto l = [&](u32 i) { return p.tempered(of_row[i]); };

    const float top = largest_of_row(p, of_row, parts);
    if (!(top > -INFINITY && top < INFINITY)) {
        if (threadIdx.x == 0) out[row] = -1;
        return;
    }

    // What stays: keys from `floor` on, and of those equal to it the tokens from `first` on.
    u32 floor = 0, first = 0;
    if (!p.greedy && p.top_k > 0) {
        // The k-th largest key is the largest of which k keys are not below.
        for (u32 bit = 1u << 31; bit > 0; bit /= 2) {
            u32 count = 0;
            for (u32 i = threadIdx.x; i < VOCAB; i += NAIVE_THREADS) count += ordered(l(i)) >= (floor | bit);
            if (block_reduce(count, Sum(), parts) >= p.top_k) floor |= bit;
        }
    }
    if (!p.greedy && p.tail > 0.0f) {
        // Probabilities as transformers has them: rounded to f32, summed in f64.
        const u32 kept = floor;
        double total = 0.0;
        for (u32 i = threadIdx.x; i < VOCAB; i += NAIVE_THREADS) {
            const float logit = l(i);
            if (ordered(logit) >= kept) total += exp(double(logit) - double(top));
        }
        total = block_reduce(total, Sum(), parts);
        const auto probability = [&](float x) { return float(exp(double(x) - double(top)) / total); };
        const auto mass_below = [&](u32 key) {
            double mass = 0.0;
            for (u32 i = threadIdx.x; i < VOCAB; i += NAIVE_THREADS) {
                const float logit = l(i);
                if (ordered(logit) >= kept && ordered(logit) < key) mass += double(probability(logit));
            }
            return block_reduce(mass, Sum(), parts);
        };
        // The largest key below which everything may go. Its own tokens go too while the sum allows, but the last.
        floor = 0;
        for (u32 bit = 1u << 31; bit > 0; bit /= 2) {
            const u32 key = floor | bit;
            if (key <= ordered(top) && float(mass_below(key)) <= p.tail) floor = key;
        }
        floor = max(floor, kept);
        double mass = mass_below(floor);
        if (threadIdx.x == 0) {
            u32 last = 0;
            for (u32 i = 0; i < VOCAB; i++)
                if (l(i) == top) last = i;
            for (; first < VOCAB; first++) {
                const float logit = l(first);
                if (ordered(logit) != floor) continue;
                mass += double(probability(logit));
                if (!(float(mass) <= p.tail) || first == last) break;
            }
            first_kept = first;
        }
        __syncwarp();
        __syncthreads();
        first = first_kept;
    }

    u64 winner = 0;
    for (u32 i = threadIdx.x; i < VOCAB; i += NAIVE_THREADS) {
        const float logit = l(i);
        const u32 key = ordered(logit);
        if (p.greedy)
            winner = max(winner, race_key(logit, i));
        else if (logit > -INFINITY && (key > floor || (key == floor && i >= first)))
            winner = max(winner, race_key(noisy(p, i, logit), i));
    }
    winner = block_reduce(winner, Max(), parts);
    if (threadIdx.x == 0) out[row] = race_token(winner);
}
