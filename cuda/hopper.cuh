// Wrappers of Hopper's own instructions (sm_90a): mbarriers, the tensor copy engine (TMA), warpgroup mma.
// Names and layouts as in the PTX ISA, "mbarrier", "cp.async.bulk.tensor" and "Asynchronous warpgroup level matrix
// instructions".
#pragma once
#include "tensor_core.cuh"

// ---- mbarrier: a phase ends when all arrivals and all announced bytes have come ----

__device__ __forceinline__ void mbarrier_init(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the copy engine; a __syncthreads makes them visible to the block.
__device__ __forceinline__ void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbarrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and announces `bytes` that a copy will bring.
__device__ __forceinline__ void mbarrier_arrive_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Waits until the phase of this parity has ended.
__device__ __forceinline__ void mbarrier_wait(u64* barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// ---- TMA ----

// CUtensorMap, filled by the driver (cuTensorMapEncodeTiled); a kernel takes it as `const __grid_constant__ TensorMap`.
struct alignas(64) TensorMap {
    u64 opaque[16];
};
// Brings the map itself near, before its first use.
__device__ __forceinline__ void tma_prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// Copies the map's box at (column, row) of a matrix to shared memory; its bytes are counted on `barrier`. Values
// outside the matrix arrive as zeros.
__device__ __forceinline__ void tma_load(void* shared, const TensorMap& map, u32 column, u32 row, u64* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
            shared_address(shared)),
        "l"(&map), "r"(column), "r"(row), "r"(shared_address(barrier))
        : "memory");
}

// ---- clusters: blocks that run together and read each other's shared memory ----

__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// From the shared memory of the cluster's block `rank`, where `p` is in this one.
__device__ __forceinline__ float4 load_from_block(const float* p, u32 rank) {
    u32 there;
    float4 v;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(there)
                 : "memory");
    return v;
}

// ---- wgmma: D[64, N] += A[64, 16] * B[N, 16]^T by the four warps of a warpgroup ----
//
// Thread t of the warpgroup has d[4 j + i] = D[t / 32 * 16 + t % 32 / 4 + i / 2 * 8, 8 j + t % 4 * 2 + i % 2].

// Operand in shared memory: rows of 128 bytes, the copy engine's 128-byte swizzle, eight rows every 1,024 bytes.
__device__ __forceinline__ u64 swizzled_operand(const void* shared) {
    return u64((shared_address(shared) & 0x3ffff) >> 4) | 1ull << 16 | u64(1024 >> 4) << 32 | 1ull << 62;
}
// The operand's next 16 columns are 32 bytes on.
constexpr u64 OPERAND_STEP = 32 >> 4;

// Before the first wgmma on registers that other instructions wrote.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Registers of each thread of this warpgroup from here on: a producer's go to the consumers.
template <int REGISTERS>
__device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// What asm calls the registers of d, and what they are: text and operands of 32, 64 or 128 of them.
#define NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64 NAMES_32 \
    ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
    "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_128 NAMES_64 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, " \
    "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, " \
    "%107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
    "%126, %127"
#define D_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define D_16(i) D_4(i), D_4(i + 4), D_4(i + 8), D_4(i + 12)
#define D_32 D_16(0), D_16(16)
#define D_64 D_32, D_16(32), D_16(48)
#define D_128 D_64, D_16(64), D_16(80), D_16(96), D_16(112)
#if DTYPE == 1
#define WGMMA_TYPES "f32.f16.f16"
#else
#define WGMMA_TYPES "f32.bf16.bf16"
#endif

// d = a * b, plus d if `add`. Both operands in shared memory, both with rows along the inner dimension.
template <u32 N>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], u64 a, u64 b, bool add) {
    static_assert(N == 64 || N == 128 || N == 256);
    if constexpr (N == 64)
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16." WGMMA_TYPES
                     " {" NAMES_32 "}, %32, %33, add, 1, 1, 0, 0;\n}"
                     : D_32
                     : "l"(a), "l"(b), "r"(u32(add)));
    else if constexpr (N == 128)
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\nwgmma.mma_async.sync.aligned.m64n128k16." WGMMA_TYPES
                     " {" NAMES_64 "}, %64, %65, add, 1, 1, 0, 0;\n}"
                     : D_64
                     : "l"(a), "l"(b), "r"(u32(add)));
    else
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\nwgmma.mma_async.sync.aligned.m64n256k16." WGMMA_TYPES
                     " {" NAMES_128 "}, %128, %129, add, 1, 1, 0, 0;\n}"
                     : D_128
                     : "l"(a), "l"(b), "r"(u32(add)));
}
// d += a * b: a in registers as for mma.sync, b's rows in shared memory, the inner dimension across rows.
__device__ __forceinline__ void wgmma_columns(float (&d)[64], const u32 (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16." WGMMA_TYPES " {" NAMES_64
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : D_64
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
// The body of a branch that the compiler must take for a real one.
__device__ __forceinline__ void never_taken() {
    for (;;) asm volatile("nanosleep.u32 1000;");
}
// Keeps the compiler from moving accesses to the sums of an unfinished product.
__device__ __forceinline__ void wgmma_hold(float (&d)[64]) {
#pragma unroll
    for (u32 i = 0; i < 64; i++) asm volatile("" : "+f"(d[i])::"memory");
}
#undef NAMES_32
#undef NAMES_64
#undef NAMES_128
#undef D_4
#undef D_16
#undef D_32
#undef D_64
#undef D_128
#undef WGMMA_TYPES
