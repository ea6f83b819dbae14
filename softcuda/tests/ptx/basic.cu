// Compiled by NVRTC 13.0.88 for compute_80 with -lineinfo into basic.ptx.
#define ALL 0xffffffffu
typedef unsigned int u32;

extern "C" __global__ void saxpy(float a, const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}

extern "C" __global__ void block_sums(const float* x, float* out, int n) {
    __shared__ float part[32];
    float s = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) s += x[i];
    for (int d = 16; d > 0; d /= 2) s += __shfl_xor_sync(ALL, s, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x < 32) {
        s = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0;
        for (int d = 16; d > 0; d /= 2) s += __shfl_xor_sync(ALL, s, d);
        if (threadIdx.x == 0) out[blockIdx.x] = s;
    }
}

// Steps of the Collatz sequence: every lane leaves the loop at its own time.
extern "C" __global__ void collatz(const u32* x, u32* steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u32 v = x[i], k = 0;
    while (v != 1) {
        v = v % 2 ? 3 * v + 1 : v / 2;
        k++;
    }
    steps[i] = k;
}

extern "C" __global__ void histogram(const unsigned char* x, u32* bins, int n) {
    __shared__ u32 mine[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) mine[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&mine[x[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&bins[i], mine[i]);
}

struct Pair {
    float v[5];
    int k;
};
__device__ __noinline__ float pick(Pair p, int i) { return p.v[i % 5] * p.k; }
extern "C" __global__ void calls(Pair p, float* out) {
    float local[8];
    for (int k = 0; k < 8; k++) local[(k + threadIdx.x) % 8] = pick(p, k + threadIdx.x);
    float s = 0;
    for (int k = 0; k < 8; k++) s += local[k] * (k + 1);
    switch (threadIdx.x % 7) {
        case 0: s += 1; break;
        case 1: s *= 2; break;
        case 2: s -= 5; break;
        case 3: s = -s; break;
        case 4: s = s * s; break;
        case 5: s = 7; break;
    }
    out[threadIdx.x] = s;
}

// c[16][8] = a[16][16] b[16][8], f16 in, through cp.async, ldmatrix and mma.
extern "C" __global__ void tile(const unsigned short* a, const unsigned short* b, float* c) {
    __shared__ unsigned short sa[256], sb[128];
    u32 lane = threadIdx.x;
    u32 to_a = __cvta_generic_to_shared(sa), to_b = __cvta_generic_to_shared(sb);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to_a + lane * 16), "l"(a + lane * 8));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to_b + lane % 16 * 16), "l"(b + lane % 16 * 8), "r"(16));
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;");
    __syncthreads();
    u32 r[4], q[2];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(to_a + (lane % 16) * 32 + lane / 16 * 16));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(q[0]), "=r"(q[1]) : "r"(to_b + (lane % 16) * 16));
    float d[4] = {0, 0, 0, 0};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(q[0]), "r"(q[1]));
    for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
