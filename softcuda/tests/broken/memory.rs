//! Accesses outside of what exists, and misaligned ones.

use super::{Case, Host, check};
use softcuda::fault::FaultKind::{Assert, IllegalAddress, Misaligned, Timeout, Trap};

#[test]
fn global_memory_is_bounded() {
    check(&[
        Case {
            at: Some((0, 63)),
            says: "0 bytes after the allocation #2",
            ..Case::new(
                "one_past_the_end",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 x = in[i + IF_BROKEN(1, 0)]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            says: "4 bytes before the allocation #2",
            ..Case::new(
                "one_before_the_start",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 x = in[(int)i - IF_BROKEN(1, 0)]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            ..Case::new(
                "far_away",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u64 i = threadIdx.x;
    u32 x = in[i + IF_BROKEN((1ull << 40), 0)]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 1)),
            ..Case::new(
                "a_32_bit_product_wraps",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 stride = IF_BROKEN(0xffffffffu, 1u);
    u32 x = in[i * (n / 64) * stride]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            blocks: 2,
            at: Some((1, 0)),
            says: "the allocation #1",
            ..Case::new(
                "no_bound_on_the_last_block",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (IF_BROKEN(true, i < n)) {
        out[i] = i; // guilty
    }
}"#,
            )
        },
        Case {
            threads: 1,
            at: Some((0, 0)),
            ..Case::new(
                "a_loop_runs_once_too_often",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    for (u32 i = 0; i < n + IF_BROKEN(1, 0); i++) {
        out[i] = i; // guilty
    }
}"#,
            )
        },
        Case {
            n: 66,
            threads: 32,
            at: Some((0, 16)),
            ..Case::new(
                "a_vector_reaches_past_the_end",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    if (4 * i + IF_BROKEN(0, 3) < n) {
        uint4 x = reinterpret_cast<uint4*>(in)[i]; // guilty
        reinterpret_cast<uint4*>(out)[i] = x; // guilty
    } else if (4 * i < n) {
        for (u32 j = 4 * i; j < n; j++) out[j] = in[j];
    }
}"#,
            )
        },
        Case {
            n: 6,
            at: None,
            says: "the allocation #1",
            want: |i| (i % 3) * 2 + i / 3,
            ..Case::new(
                "rows_and_columns_exchanged",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    const u32 rows = 3, columns = 2;
    u32 row = threadIdx.x / columns, column = threadIdx.x % columns;
    if (row < rows) {
        u32 x = in[row * columns + column];
        u32 at = IF_BROKEN(column * 6 + row, column * rows + row);
        out[at] = x; // guilty
    }
}"#,
            )
        },
        Case {
            host: Host::Frees,
            at: Some((0, 0)),
            says: "freed allocation #2",
            ..Case::new(
                "use_after_free",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 x = in[i]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            host: Host::PassesHostMemory,
            at: Some((0, 0)),
            ..Case::new(
                "a_host_pointer",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 x = in[i]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            ..Case::new(
                "a_null_pointer",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    volatile u32* from = IF_BROKEN((u32*)0, in);
    u32 x = from[i]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 63)),
            want: |i| i + 1,
            ..Case::new(
                "an_atomic_past_the_end",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    atomicAdd(&in[i + IF_BROKEN(1, 0)], 1); // guilty
    out[i] = in[i];
}"#,
            )
        },
        Case {
            at: Some((0, 15)),
            threads: 16,
            ..Case::new(
                "cp_async_past_the_end",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[64];
    u32 i = threadIdx.x;
    COPY_ASYNC(s + 4 * i, in + 4 * i + IF_BROKEN(4, 0)); // guilty
    COMMIT();
    WAIT(0);
    for (u32 j = 0; j < 4; j++) out[4 * i + j] = s[4 * i + j];
}"#,
            )
        },
    ]);
}

#[test]
fn shared_local_and_constant_memory_are_bounded() {
    check(&[
        Case {
            at: Some((0, 63)),
            says: "shared",
            ..Case::new(
                "static_shared_past_the_end",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[64];
    u32 i = threadIdx.x;
    s[i + IF_BROKEN(1, 0)] = i; // guilty
    __syncthreads();
    out[i] = s[i];
}"#,
            )
        },
        Case {
            dynamic_shared: 256,
            at: Some((0, 32)),
            says: "shared",
            ..Case::new(
                "dynamic_shared_past_the_end",
                IllegalAddress,
                r#"
extern __shared__ u32 s[];
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    s[i * IF_BROKEN(2, 1)] = i; // guilty
    __syncthreads();
    out[i] = s[i];
}"#,
            )
        },
        Case {
            at: Some((0, 1)),
            says: "local",
            ..Case::new(
                "local_past_the_end",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    volatile u32 a[8];
    u32 i = threadIdx.x;
    for (u32 j = 0; j < 8; j++) a[j] = j;
    u32 x = a[IF_BROKEN(8 * i, i % 8)]; // guilty
    out[i] = i - i % 8 + x;
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            says: "shared",
            threads: 32,
            n: 32,
            want: |_| 7,
            ..Case::new(
                "ldmatrix_row_past_the_end",
                IllegalAddress,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[32];
    u32 i = threadIdx.x, x;
    s[i] = 7;
    __syncthreads();
    u32 row = saddr(s + 4 * (i % 8)) + IF_BROKEN((1u << 20), 0);
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(x) : "r"(row)); // guilty
    out[i] = x;
}"#,
            )
        },
    ]);
}

#[test]
fn accesses_are_aligned() {
    check(&[
        Case {
            at: Some((0, 0)),
            ..Case::new(
                "a_word_at_a_half",
                Misaligned,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    const char* bytes = reinterpret_cast<const char*>(in) + 4 * (i % 32);
    u32 x = *reinterpret_cast<const volatile u32*>(bytes + IF_BROKEN(2, 0)); // guilty
    out[i] = x + i - i % 32;
}"#,
            )
        },
        Case {
            threads: 15,
            n: 64,
            at: Some((0, 0)),
            want: |i| if i < 60 { i } else { 0 },
            ..Case::new(
                "a_vector_at_a_word",
                Misaligned,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    uint4 x = *reinterpret_cast<uint4*>(in + 4 * i + IF_BROKEN(1, 0)); // guilty
    reinterpret_cast<uint4*>(out)[i] = x; // guilty
}"#,
            )
        },
        Case {
            threads: 32,
            n: 64,
            at: Some((0, 0)),
            want: |i| if i % 2 == 0 { i + 1 } else { i },
            ..Case::new(
                "a_64_bit_atomic_at_a_word",
                Misaligned,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32* at = in + IF_BROKEN((2 * i + 1) % 63, 2 * i);
    atomicAdd(reinterpret_cast<u64*>(at), 1ull); // guilty
    out[2 * i] = in[2 * i];
    out[2 * i + 1] = in[2 * i + 1];
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            threads: 16,
            ..Case::new(
                "shared_vector_at_a_word",
                Misaligned,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[68];
    u32 i = threadIdx.x;
    *reinterpret_cast<uint4*>(s + 4 * i + IF_BROKEN(1, 0)) = make_uint4(4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3); // guilty
    for (u32 j = 0; j < 4; j++) out[4 * i + j] = s[4 * i + j];
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            threads: 16,
            ..Case::new(
                "cp_async_to_a_word",
                Misaligned,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[68];
    u32 i = threadIdx.x;
    COPY_ASYNC(s + 4 * i + IF_BROKEN(1, 0), in + 4 * i); // guilty
    COMMIT();
    WAIT(0);
    for (u32 j = 0; j < 4; j++) out[4 * i + j] = s[4 * i + j];
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            threads: 32,
            n: 32,
            want: |_| 7,
            ..Case::new(
                "ldmatrix_row_at_a_word",
                Misaligned,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[64];
    u32 i = threadIdx.x, x;
    s[i] = s[i + 32] = 7;
    __syncthreads();
    u32 row = saddr(s + 4 * (i % 8) + IF_BROKEN(1, 0));
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(x) : "r"(row)); // guilty
    out[i] = x;
}"#,
            )
        },
    ]);
}

#[test]
fn kernels_that_give_up_or_never_end_are_stopped() {
    check(&[
        Case {
            at: Some((0, 7)),
            ..Case::new(
                "trap",
                Trap,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    if (i == IF_BROKEN(7, 64)) {
        __trap(); // guilty
    }
    out[i] = i;
}"#,
            )
        },
        Case {
            at: Some((0, 9)),
            says: "i != 9",
            ..Case::new(
                "assert",
                Assert,
                r#"
extern "C" __device__ void __assertfail(const char*, const char*, u32, const char*, size_t);
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    if (i == IF_BROKEN(9, 64)) {
        __assertfail("i != 9", "assert.cu", 5, "k", 1); // guilty
    }
    out[i] = i;
}"#,
            )
        },
        Case::new(
            "waits_for_ever",
            Timeout,
            r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    volatile u32* flag = in;
    while (IF_BROKEN(*flag == 0, false)) { // guilty
    } // guilty
    out[i] = i;
}"#,
        ),
    ]);
}
