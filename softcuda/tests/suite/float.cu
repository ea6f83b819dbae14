// Floating point, matrix products, tensor cores. Inputs are words; floats are their bits.
typedef unsigned u32;
typedef unsigned short u16;
#define KERNEL(name) extern "C" __global__ void name(const float *a, const float *b, float *out, int n)
#define INDEX int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return

KERNEL(fma_f32) { INDEX; out[i] = fmaf(a[i], b[i], a[i]); }
KERNEL(divide_f32) { INDEX; out[i] = a[i] / b[i]; }
KERNEL(sqrt_f32) { INDEX; out[i] = sqrtf(fabsf(a[i])); }
KERNEL(rounding) { INDEX; out[i] = floorf(a[i]) + 2 * ceilf(b[i]) + 4 * truncf(a[i] * 3) + 8 * rintf(b[i] * 5); }
KERNEL(named_rounding) { INDEX; out[i] = (__fadd_ru(a[i], b[i]) - __fadd_rd(a[i], b[i])) + (__fmul_rz(a[i], b[i]) - __fmul_rn(a[i], b[i])); }
KERNEL(to_int) { INDEX; ((int *)out)[i] = (int)(a[i] * 1000) + __float2int_rn(b[i] * 100) + (int)(u32)fabsf(a[i] * 7); }
KERNEL(from_int) { INDEX; out[i] = (float)(int)__float_as_int(a[i]) + (float)__float_as_uint(b[i]); }
KERNEL(min_max_f32) { INDEX; out[i] = fminf(a[i], b[i]) - 2 * fmaxf(a[i], b[i]); }
KERNEL(saturate_f32) { INDEX; out[i] = __saturatef(a[i]); }
KERNEL(compare) { INDEX; float x = i % 5 ? a[i] : 0.0f / (a[i] - a[i]); ((u32 *)out)[i] = (x < b[i]) | (x > b[i]) << 1 | (x == x) << 2 | isnan(x) << 3 | isinf(x) << 4; }
KERNEL(exp_f32) { INDEX; out[i] = expf(a[i]); }
KERNEL(log_f32) { INDEX; out[i] = logf(fabsf(a[i]) + 0.5f); }
KERNEL(sin_cos) { INDEX; out[i] = sinf(a[i]) + 2 * cosf(b[i]); }
KERNEL(tanh_f32) { INDEX; out[i] = tanhf(a[i]); }
KERNEL(pow_f32) { INDEX; out[i] = powf(fabsf(a[i]) + 0.1f, b[i]); }
KERNEL(fast_math) { INDEX; out[i] = __expf(a[i]) + rsqrtf(fabsf(b[i]) + 1) + __fdividef(a[i], fabsf(b[i]) + 1); }
KERNEL(f64) { INDEX; double x = a[i], y = b[i]; out[i] = (float)(x * y + sqrt(x * x + y * y) / 3.0 - fma(x, y, 1.0)); }
KERNEL(gelu) { INDEX; out[i] = 0.5f * a[i] * (1 + erff(a[i] * 0.70710678f)); }
KERNEL(silu) { INDEX; out[i] = a[i] / (1 + expf(-a[i])) * b[i]; }
KERNEL(sum) { __shared__ float s[256]; int t = threadIdx.x; float v = 0; for (int i = t; i < n; i += 256) v += a[i]; s[t] = v; __syncthreads(); for (int d = 128; d; d /= 2) { if (t < d) s[t] += s[t + d]; __syncthreads(); } if (t == 0) out[0] = s[0]; }
KERNEL(sum_atomic) { INDEX; atomicAdd(out, a[i]); }
KERNEL(softmax) {
    __shared__ float m[8]; int t = threadIdx.x, w = t / 32; const float *x = a + blockIdx.x * n;
    float v = t < n ? x[t] : -1e30f, r = v;
    for (int d = 16; d; d /= 2) r = fmaxf(r, __shfl_xor_sync(~0u, r, d));
    if (t % 32 == 0) m[w] = r; __syncthreads();
    r = m[0]; for (int k = 1; k < 8; k++) r = fmaxf(r, m[k]); __syncthreads();
    float e = t < n ? expf(v - r) : 0, s = e;
    for (int d = 16; d; d /= 2) s += __shfl_xor_sync(~0u, s, d);
    if (t % 32 == 0) m[w] = s; __syncthreads();
    s = 0; for (int k = 0; k < 8; k++) s += m[k];
    if (t < n) out[blockIdx.x * n + t] = e / s;
}
KERNEL(matmul_naive) { int r = threadIdx.y, c = threadIdx.x; float s = 0; for (int k = 0; k < 16; k++) s += a[r * 16 + k] * b[k * 16 + c]; out[r * 16 + c] = s; }
KERNEL(matmul_tiled) {
    __shared__ float x[8][8], y[8][8]; int r = threadIdx.y, c = threadIdx.x, row = blockIdx.y * 8 + r, col = blockIdx.x * 8 + c; float s = 0;
    for (int k = 0; k < 16; k += 8) { x[r][c] = a[row * 16 + k + c]; y[r][c] = b[(k + r) * 16 + col]; __syncthreads(); for (int j = 0; j < 8; j++) s += x[r][j] * y[j][c]; __syncthreads(); }
    out[row * 16 + col] = s;
}
__device__ u32 half2_of(float lo, float hi) { u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
__device__ u32 bf2_of(float lo, float hi) { u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); return r; }
KERNEL(round_f16) { INDEX; u32 r = half2_of(a[i], b[i]); float f; asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(f) : "r"(r)); out[i] = f; }
KERNEL(round_bf16) { INDEX; out[i] = __uint_as_float(bf2_of(a[i], b[i]) << 16); }
KERNEL(add_f16x2) { INDEX; u32 r; asm("fma.rn.f16x2 %0, %1, %2, %1;" : "=r"(r) : "r"(half2_of(a[i], b[i])), "r"(half2_of(b[i], a[i]))); ((u32 *)out)[i] = r; }
// One warp: out[16][8] = a[16][16] * b[16][8], through shared memory, ldmatrix and mma.
KERNEL(mma_f16) {
    __shared__ __align__(16) u32 x[16][8], y[16][4]; int t = threadIdx.x;
    for (int i = t; i < 128; i += 32) x[i / 8][i % 8] = half2_of(a[2 * i], a[2 * i + 1]);
    for (int i = t; i < 64; i += 32) y[i / 4][i % 4] = half2_of(b[2 * i], b[2 * i + 1]);
    __syncwarp();
    u32 p[4], q[2]; float c[4] = {0, 0, 0, 0};
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(p[0]), "=r"(p[1]), "=r"(p[2]), "=r"(p[3]) : "r"((u32)__cvta_generic_to_shared(&x[t % 16][t / 16 * 4])));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(q[0]), "=r"(q[1]) : "r"((u32)__cvta_generic_to_shared(&y[t % 16][0])));
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(q[0]), "r"(q[1]));
    int r = t / 4, k = t % 4 * 2;
    out[r * 8 + k] = c[0]; out[r * 8 + k + 1] = c[1]; out[(r + 8) * 8 + k] = c[2]; out[(r + 8) * 8 + k + 1] = c[3];
}
KERNEL(copy_async) {
    __shared__ __align__(16) float s[256]; int t = threadIdx.x;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"((u32)__cvta_generic_to_shared(&s[4 * t])), "l"(a + 4 * t), "r"(t < 32 ? 16 : 4));
    asm volatile("cp.async.commit_group;"); asm volatile("cp.async.wait_group 0;"); __syncthreads();
    for (int k = 0; k < 4; k++) out[4 * t + k] = s[255 - 4 * t - k];
}
KERNEL(rms_norm) { int t = threadIdx.x; const float *x = a + blockIdx.x * 64; float s = x[t] * x[t] + x[t + 32] * x[t + 32]; for (int d = 16; d; d /= 2) s += __shfl_xor_sync(~0u, s, d); float r = rsqrtf(s / 64 + 1e-6f); out[blockIdx.x * 64 + t] = x[t] * r; out[blockIdx.x * 64 + t + 32] = x[t + 32] * r; }
KERNEL(argmax) { int t = threadIdx.x; float v = a[t]; int at = t; for (int d = 16; d; d /= 2) { float o = __shfl_xor_sync(~0u, v, d); int p = __shfl_xor_sync(~0u, at, d); if (o > v || o == v && p < at) { v = o; at = p; } } if (t % 32 == 0) ((int *)out)[t / 32] = at; }
KERNEL(convolve) { __shared__ float s[258]; int t = threadIdx.x; s[t + 1] = a[t]; if (t == 0) { s[0] = 0; s[257] = 0; } __syncthreads(); out[t] = 0.25f * s[t] + 0.5f * s[t + 1] + 0.25f * s[t + 2]; }
