// Rows of a table by id: out[t] = table[ids[t]] * scale. table: [vocab, DIM] T; ids: [tokens] i32, row 0 instead of negative
// ones; out: [tokens, DIM] T.
// Oracle: reference/src/embedding.rs. Shapes checked by src/kernels/embedding.rs.
// JIT constants: DTYPE, DIM; VECTOR (1: rows lie at multiples of 16 bytes).
//   naive        one thread an element; the readable baseline
//   vectorised   one block a row, 16 bytes a thread
#include "common.cuh"

// Grid: (ceil(DIM / 256), tokens), 256 threads.
extern "C" __global__ void embedding_naive(const T* table, const int* ids, T* out, u32 table_stride, u32 out_stride,
                                           float scale) {
    wait_for_previous();
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x, token = blockIdx.y;
    if (i >= DIM) return;
    out[u64(token) * out_stride + i] = from_f32<T>(to_f32(table[u64(max(ids[token], 0)) * table_stride + i]) * scale);
}

#if VECTOR
// Grid: (tokens), 128 threads.
extern "C" __global__ void __launch_bounds__(128) embedding_vectorised(const T* table, const int* ids, T* out,
                                                                       u32 table_stride, u32 out_stride, float scale) {
    wait_for_previous();
    constexpr u32 N = Vec<T>::N;
    const T* from = table + u64(max(ids[blockIdx.x], 0)) * table_stride;
    T* to = out + u64(blockIdx.x) * out_stride;
    for (u32 i = threadIdx.x * N; i < DIM; i += 128 * N) {
        Vec<T> v = load_vec(from + i);
#pragma unroll
        for (u32 j = 0; j < N; j++) v.at[j] = from_f32<T>(to_f32(v.at[j]) * scale);
        store_vec(to + i, v);
    }
}
#endif
