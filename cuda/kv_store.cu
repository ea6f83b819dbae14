// New keys and values into the paged cache: cache[slots[t]] = row t; a negative slot is skipped.
//   k, v: [tokens, ROW] T, tokens k_stride, v_stride elements apart   slots: [tokens] i32   caches: [blocks * block_size, ROW] T
// Oracle: reference/src/kv_store.rs. Shapes checked by src/kernels/kv_store.rs.
// JIT constants: DTYPE, ROW (kv_heads * head_dim); VECTOR (1: rows lie at multiples of 16 bytes).
//   naive        one thread an element; the readable baseline
//   vectorised   16 bytes a thread
#include "common.cuh"

template <class V>
__device__ __forceinline__ void store(const T* k, const T* v, const int* slots, T* k_cache, T* v_cache, u32 k_stride,
                                      u32 v_stride) {
    constexpr u32 N = sizeof(V) / sizeof(T);
    const u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * N, token = blockIdx.y;
    const int slot = slots[token];
    if (i >= ROW || slot < 0) return;
    const u64 to = u64(u32(slot)) * ROW + i;
    *reinterpret_cast<V*>(k_cache + to) = *reinterpret_cast<const V*>(k + u64(token) * k_stride + i);
    *reinterpret_cast<V*>(v_cache + to) = *reinterpret_cast<const V*>(v + u64(token) * v_stride + i);
}

// Grid: (ceil(ROW / 128), tokens), 128 threads.
extern "C" __global__ void kv_store_naive(const T* k, const T* v, const int* slots, T* k_cache, T* v_cache,
                                          u32 k_stride, u32 v_stride) {
    wait_for_previous();
    store<T>(k, v, slots, k_cache, v_cache, k_stride, v_stride);
}

#if VECTOR
// Grid: (ceil(ROW / (128 * vector)), tokens), 128 threads.
extern "C" __global__ void kv_store_vectorised(const T* k, const T* v, const int* slots, T* k_cache, T* v_cache,
                                               u32 k_stride, u32 v_stride) {
    wait_for_previous();
    store<Vec<T>>(k, v, slots, k_cache, v_cache, k_stride, v_stride);
}
#endif
