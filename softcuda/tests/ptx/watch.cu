// What tests/watch.rs checks and counts. Compiled by NVRTC 13.0.88 for compute_80 with -lineinfo into watch.ptx.
typedef unsigned int u32;

extern "C" __global__ void copy(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
}
extern "C" __global__ void copy_strided(const float* x, float* y, int stride) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i * stride];
}
// Shared memory read with a stride in words: bank conflicts for even ones.
extern "C" __global__ void banks(float* y, int stride) {
    __shared__ float s[1024];
    for (int i = threadIdx.x; i < 1024; i += 32) s[i] = i;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x * stride];
}
extern "C" __global__ void half_active(float* y) {
    if (threadIdx.x % 2 == 0) y[threadIdx.x] = y[threadIdx.x] * 2.0f;
}

extern "C" __global__ void async_copy(const float* x, float* y, int wait) {
    __shared__ float s[32];
    u32 to = __cvta_generic_to_shared(s + threadIdx.x);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\ncp.async.commit_group;" ::"r"(to), "l"(x + threadIdx.x) : "memory");
    if (wait) asm volatile("cp.async.wait_group 0;" ::: "memory");
    y[threadIdx.x] = s[threadIdx.x];
}
// Half of the warp shuffles with a mask that names all of it.
extern "C" __global__ void shuffle_half(int* x, u32 mask) {
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(mask, threadIdx.x, 1);
}
// A lock held by one lane while others of its warp spin: only fair scheduling gets through.
extern "C" __global__ void spin_lock(u32* lock, u32* value) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0u, 1u) == 0) {
            *(volatile u32*)value = *(volatile u32*)value + threadIdx.x;
            __threadfence();
            atomicExch(lock, 0u);
            done = true;
        }
    }
}
