// What benches/exec.rs times. Compiled by NVRTC 13.0.88 for compute_80 with -lineinfo into speed.ptx.
typedef unsigned int u32;

// 4 independent chains of fma; 16 in a loop step.
extern "C" __global__ void fma_loop(float* out, float a, float b, int steps) {
    float x = threadIdx.x, y = x + 1, z = x + 2, w = x + 3;
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            x = fmaf(x, a, b);
            y = fmaf(y, a, b);
            z = fmaf(z, a, b);
            w = fmaf(w, a, b);
        }
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = x + y + z + w;
}

// Loads, a data-dependent branch, integer and float arithmetic.
extern "C" __global__ void mixed(const float* x, float* out, int n, int rounds) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float s = 0;
#pragma unroll 1
    for (int r = 0; r < rounds; r++) {
        float v = x[(i + r * 97) % n];
        if (v > 0.5f) {
            s += v * 2.0f;
        } else {
            s -= v;
            s = s * 0.5f + x[(i ^ r) % n];
        }
    }
    out[i] = s;
}

// Shared memory: each thread reads what others wrote.
extern "C" __global__ void shared_loads(float* out, int rounds) {
    __shared__ float tile[256];
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    float s = 0;
#pragma unroll 1
    for (int r = 0; r < rounds; r++) {
#pragma unroll
        for (int j = 0; j < 8; j++) s += tile[(threadIdx.x + r + j * 32) % 256];
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = s;
}

// 4 mma m16n8k16 in a loop step.
extern "C" __global__ void mma_loop(float* out, int steps) {
    u32 a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = 0x3c003c00u + threadIdx.x;
    for (int i = 0; i < 2; i++) b[i] = 0x3c003c00u;
    float d[4][4] = {};
#pragma unroll 1
    for (int s = 0; s < steps; s++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                         : "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        }
    }
    float s = 0;
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++) s += d[j][i];
    out[blockIdx.x * blockDim.x + threadIdx.x] = s;
}
