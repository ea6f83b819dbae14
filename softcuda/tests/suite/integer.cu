// Integers, bits, atomics, histograms, scans, sorting. Every kernel: inputs a and b of n words, output words.
typedef unsigned u32;
typedef unsigned long long u64;
#define KERNEL(name) extern "C" __global__ void name(const u32 *a, const u32 *b, u32 *out, int n)
#define INDEX int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return

KERNEL(add) { INDEX; out[i] = a[i] + b[i]; }
KERNEL(mul_high) { INDEX; out[i] = __umulhi(a[i], b[i]) ^ (u32)__mulhi((int)a[i], (int)b[i]); }
KERNEL(divide) { INDEX; out[i] = a[i] / (b[i] | 1) + (u32)((int)a[i] % (int)(b[i] >> 20 | 1)); }
KERNEL(divide_64) { INDEX; u64 x = (u64)a[i] << 32 | b[i]; out[i] = (u32)(x / (a[i] >> 3 | 1)) ^ (u32)(x % (b[i] | 1)); }
KERNEL(bits) { INDEX; out[i] = __popc(a[i]) + (__clz(b[i]) << 8) + (__ffs(a[i]) << 16) + (__brev(b[i]) & 0xff000000u); }
KERNEL(bytes) { INDEX; out[i] = __byte_perm(a[i], b[i], 0x3715); }
KERNEL(funnel) { INDEX; out[i] = __funnelshift_l(a[i], b[i], 7) ^ __funnelshift_r(a[i], b[i], 13); }
KERNEL(shift_far) { INDEX; u64 x = (u64)a[i] << 32 | b[i]; int s = b[i] & 63; out[i] = (u32)(x >> s) + (u32)((long long)x >> s) + (u32)((x << s) >> 32); }
KERNEL(bit_field) { INDEX; out[i] = (a[i] >> 5 & 0x7ff) | (b[i] & 0xfff) << 12; }
KERNEL(min_max) { INDEX; out[i] = max((int)a[i], (int)b[i]) - min(a[i], b[i]); }
KERNEL(saturate) { INDEX; int x = (int)a[i] >> 16; out[i] = (u32)max(-128, min(127, x)); }
KERNEL(absolute_difference) { INDEX; out[i] = __sad((int)a[i], (int)b[i], b[i]); }
KERNEL(dot4) { INDEX; out[i] = __dp4a((int)a[i], (int)b[i], 100); }
KERNEL(chars) { INDEX; const signed char *s = (const signed char *)a; const unsigned short *h = (const unsigned short *)b; out[i] = s[4 * i + 1] * h[2 * i + 1]; }
KERNEL(vectors) { INDEX; uint4 x = ((const uint4 *)a)[i / 4]; uint2 y = ((const uint2 *)b)[i / 2]; out[i] = x.x + 3 * x.w + y.y; }
KERNEL(philox) {
    INDEX;
    u32 c[4] = {a[i], b[i], 7, 9}, k0 = 123, k1 = 456;
    for (int r = 0; r < 10; r++) {
        u32 h0 = __umulhi(0xD2511F53u, c[0]), l0 = 0xD2511F53u * c[0], h1 = __umulhi(0xCD9E8D57u, c[2]), l1 = 0xCD9E8D57u * c[2];
        c[0] = h1 ^ c[1] ^ k0; c[1] = l1; c[2] = h0 ^ c[3] ^ k1; c[3] = l0;
        k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
    }
    out[i] = c[0] ^ c[1] ^ c[2] ^ c[3];
}
KERNEL(crc) { INDEX; u32 c = ~a[i]; for (int k = 0; k < 32; k++) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1; out[i] = ~c; }
KERNEL(gcd) { INDEX; u32 x = a[i] & 0xffff, y = b[i] & 0xffff; while (y) { u32 t = x % y; x = y; y = t; } out[i] = x; }
KERNEL(collatz) { INDEX; u32 x = (a[i] & 0xff) + 1, steps = 0; while (x != 1) { x = x & 1 ? 3 * x + 1 : x / 2; steps++; } out[i] = steps; }
KERNEL(find_first) { INDEX; u32 at = 99; for (u32 k = 0; k < 32; k++) { if ((a[i] >> k & 3) == 3) { at = k; break; } } out[i] = at; }
KERNEL(skip) { INDEX; u32 sum = 0; for (u32 k = 0; k < 20; k++) { if ((a[i] >> k & 1) == 0) continue; if (sum > b[i] % 50) break; sum += k; } out[i] = sum; }
KERNEL(switches) {
    INDEX; u32 x = a[i];
    switch (b[i] % 7) { case 0: x += 1; break; case 1: x *= 3; case 2: x ^= 5; break; case 3: x = ~x; break; case 4: return; case 5: x <<= 3; default: x -= 9; }
    out[i] = x;
}
KERNEL(nested) { INDEX; u32 s = 0; for (u32 x = 0; x < a[i] % 9; x++) for (u32 y = x; y < b[i] % 7; y++) { if (x * y == 6) goto done; s += x * y + 1; } done: out[i] = s; }
__device__ __noinline__ u32 mix(u32 x, u32 y) { return x * 31 + (y >> 3 ^ y); }
__device__ __noinline__ void two(u32 x, u32 *p, u32 *q) { *p = mix(x, 1); *q = mix(1, x); }
KERNEL(calls) { INDEX; u32 p, q; two(a[i], &p, &q); out[i] = (b[i] & 1) ? mix(p, q) : q - p; }
KERNEL(local_array) { INDEX; u32 t[16]; for (int k = 0; k < 16; k++) t[k] = a[i] * k; u32 s = 0; for (int k = 0; k < 16; k++) s += t[(b[i] >> k) & 15]; out[i] = s; }
__constant__ u32 table[8] = {3, 1, 4, 1, 5, 9, 2, 6};
__device__ u32 cells[4];
KERNEL(constants) { INDEX; out[i] = table[a[i] & 7] * table[b[i] & 7]; }
KERNEL(device_variable) { INDEX; if (i < 4) { cells[i] = a[i]; out[i] = cells[i] + 1; } }
struct Pair { u32 x, y; };
__device__ Pair swap(Pair p) { return Pair{p.y, p.x}; }
KERNEL(structs) { INDEX; Pair p = swap(Pair{a[i], b[i]}); out[i] = p.x * 2 - p.y; }
template <int N> __device__ u32 power(u32 x) { return x * power<N - 1>(x); }
template <> __device__ u32 power<0>(u32) { return 1; }
KERNEL(templates) { INDEX; out[i] = power<5>(a[i]) + power<2>(b[i]); }

KERNEL(histogram) { __shared__ u32 h[16]; if (threadIdx.x < 16) h[threadIdx.x] = 0; __syncthreads(); for (int i = threadIdx.x; i < n; i += blockDim.x) atomicAdd(&h[a[i] & 15], 1); __syncthreads(); if (threadIdx.x < 16) out[threadIdx.x] = h[threadIdx.x]; }
KERNEL(histogram_global) { INDEX; atomicAdd(&out[a[i] % 11], b[i] & 3); }
KERNEL(atomics) { INDEX; atomicMax(&out[0], a[i]); atomicMin(&out[1], a[i]); atomicXor(&out[2], a[i]); atomicOr(&out[3], a[i] & 0xf0f0); atomicAnd(&out[4], a[i] | 0xff); atomicMax((int *)&out[5], (int)b[i]); }
KERNEL(compare_and_swap) { INDEX; u32 old = out[0], seen; do { seen = old; old = atomicCAS(&out[0], seen, seen + (a[i] & 7)); } while (old != seen); }
KERNEL(atomic_64) { INDEX; atomicAdd((u64 *)out, (u64)a[i] << 8); }
KERNEL(scan) { __shared__ u32 s[256]; int t = threadIdx.x; s[t] = t < n ? a[t] : 0; __syncthreads(); for (int d = 1; d < 256; d *= 2) { u32 v = t >= d ? s[t - d] : 0; __syncthreads(); s[t] += v; __syncthreads(); } if (t < n) out[t] = s[t]; }
KERNEL(reverse) { __shared__ u32 s[256]; int t = threadIdx.x; if (t < n) s[n - 1 - t] = a[t]; __syncthreads(); if (t < n) out[t] = s[t]; }
KERNEL(transpose) { __shared__ u32 tile[16][17]; int x = threadIdx.x, y = threadIdx.y, w = 48; tile[y][x] = a[(blockIdx.y * 16 + y) * w + blockIdx.x * 16 + x]; __syncthreads(); out[(blockIdx.x * 16 + y) * 32 + blockIdx.y * 16 + x] = tile[x][y]; }
KERNEL(bitonic) { __shared__ u32 s[256]; int t = threadIdx.x; s[t] = a[t]; __syncthreads(); for (int k = 2; k <= 256; k *= 2) for (int j = k / 2; j > 0; j /= 2) { int o = t ^ j; if (o > t && ((s[t] > s[o]) == ((t & k) == 0))) { u32 v = s[t]; s[t] = s[o]; s[o] = v; } __syncthreads(); } out[t] = s[t]; }
KERNEL(dynamic_shared) { extern __shared__ u32 s[]; int t = threadIdx.x; s[t] = a[t]; s[t + blockDim.x] = b[t]; __syncthreads(); out[t] = s[(t + 1) % blockDim.x] - s[blockDim.x + t]; }
KERNEL(grid_3d) { int i = ((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y + threadIdx.y * blockDim.x + threadIdx.x; if (i < n) out[i] = blockIdx.z * 100 + blockIdx.y * 10 + threadIdx.y + a[i]; }
KERNEL(last_block) { __shared__ bool last; __threadfence(); if (threadIdx.x == 0) { atomicAdd(&out[1], blockIdx.x); __threadfence(); last = atomicAdd(&out[2], 1) == gridDim.x - 1; } __syncthreads(); if (last && threadIdx.x == 0) out[0] = atomicAdd(&out[1], 0); }

KERNEL(warp_sum) { int i = threadIdx.x; u32 v = a[i]; for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d); out[i] = v; }
KERNEL(warp_scan) { int i = threadIdx.x, lane = i & 31; u32 v = a[i]; for (int d = 1; d < 32; d *= 2) { u32 o = __shfl_up_sync(~0u, v, d); if (lane >= d) v += o; } out[i] = v; }
KERNEL(warp_shift) { int i = threadIdx.x; out[i] = __shfl_down_sync(~0u, a[i], 3) ^ __shfl_sync(~0u, b[i], 5, 8); }
KERNEL(votes) { int i = threadIdx.x; u32 p = a[i] & 1; out[i] = __ballot_sync(~0u, p) + __any_sync(~0u, b[i] == 3) + 2 * __all_sync(~0u, p < 2); }
KERNEL(matches) { int i = threadIdx.x; out[i] = __match_any_sync(~0u, a[i] & 3); }
KERNEL(redux) { int i = threadIdx.x; out[i] = __reduce_add_sync(~0u, a[i]) ^ __reduce_max_sync(~0u, b[i]) ^ __reduce_xor_sync(~0u, a[i]); }
KERNEL(half_warp) { int i = threadIdx.x; u32 v = 0; if ((i & 31) < 16) { v = a[i]; for (int d = 8; d; d /= 2) v += __shfl_xor_sync(0xffffu, v, d); } else { v = b[i]; } __syncwarp(); out[i] = v; }
KERNEL(active) { int i = threadIdx.x; u32 m = 0; if (a[i] & 1) m = __popc(__activemask()) > 0 ? 1 : 0; out[i] = m; }
KERNEL(aggregate) { int i = threadIdx.x; bool p = a[i] % 3 == 0; u32 m = __ballot_sync(~0u, p); int lane = i & 31; u32 base = 0; if (lane == 0) base = atomicAdd(&out[0], __popc(m)); base = __shfl_sync(~0u, base, 0); if (p) out[1 + base + __popc(m & ((1u << lane) - 1))] = 1; }
