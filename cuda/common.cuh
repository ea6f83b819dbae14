// What every kernel file shares: storage types, 16-byte vectors, reductions, random numbers.
//
// No header of the CUDA toolkit is included: NVRTC alone compiles the kernels.
// JIT constants: DTYPE (0 f32, 1 f16, 2 bf16), the storage type T. Sums are always f32.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// ---- order of kernels ----

// First thing in a kernel that is launched with `launch_early`, by every block: what it does before may run while the
// kernel before is still busy, and must not touch what that one reads or writes; what comes after sees all that it wrote.
// A block that ended without it would let the next kernel overtake the one before. (Programmatic dependent launch; PTX
// ISA, griddepcontrol.) Then lets the next kernel begin in turn, once every block of this one has come here.
__device__ __forceinline__ void wait_for_previous() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Before it: brings what no kernel writes, such as a weight, as far as the L2 cache. Multiples of 16 bytes.
__device__ __forceinline__ void prefetch_early(const void* p, u32 bytes) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes));
#endif
}

// ---- storage types ----

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

template <class T>
__device__ __forceinline__ T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ f16 from_f32<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

#ifdef DTYPE
#if DTYPE == 0
using T = float;
#elif DTYPE == 1
using T = f16;
#elif DTYPE == 2
using T = bf16;
#else
#error "DTYPE is 0 (f32), 1 (f16) or 2 (bf16)"
#endif
#endif

// Two values as one register, the first in the low half: what mma.sync takes and packed stores write.
template <class T>
__device__ __forceinline__ u32 pack(float low, float high);
template <>
__device__ __forceinline__ u32 pack<f16>(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <>
__device__ __forceinline__ u32 pack<bf16>(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// ---- 16-byte vectors ----

// As many values as one 16-byte access moves. Addresses must be multiples of 16.
template <class T>
struct alignas(16) Vec {
    static constexpr u32 N = 16 / sizeof(T);
    T at[N];
};
template <class T>
__device__ __forceinline__ Vec<T> load_vec(const T* p) {
    return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
__device__ __forceinline__ void store_vec(T* p, const Vec<T>& v) {
    *reinterpret_cast<Vec<T>*>(p) = v;
}

template <class I>
__device__ __forceinline__ constexpr I ceil_div(I a, I b) {
    return (a + b - 1) / b;
}

// ---- reductions; every lane of the warp, every thread of the block, gets the result ----

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (u32 lane = WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(ALL_LANES, x, lane);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (u32 lane = WARP / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, lane));
    return x;
}
// `shared` holds a float a warp. The same order of sums whatever the timing. May be called again at once.
__device__ __forceinline__ float block_sum(float x, float* shared) {
    const u32 warps = ceil_div(blockDim.x, WARP);
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % WARP < warps ? shared[threadIdx.x % WARP] : 0.0f);
}
__device__ __forceinline__ float block_max(float x, float* shared) {
    const u32 warps = ceil_div(blockDim.x, WARP);
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(threadIdx.x % WARP < warps ? shared[threadIdx.x % WARP] : -INFINITY);
}

// ---- random numbers ----

// Philox-4x32-10 (Salmon et al., SC 2011), as reference/src/philox.rs.
__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 a = u64(counter.x) * 0xD2511F53u, b = u64(counter.z) * 0xCD9E8D57u;
        counter = make_uint4(u32(b >> 32) ^ counter.y ^ key.x, u32(b), u32(a >> 32) ^ counter.w ^ key.y, u32(a));
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}
