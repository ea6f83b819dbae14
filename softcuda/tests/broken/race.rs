//! Accesses that nothing orders.

use super::{Case, check};
use softcuda::fault::FaultKind::Race;

#[test]
fn shared_memory_between_barriers() {
    check(&[
        Case {
            says: "shared",
            want: |i| 63 - i,
            ..Case::new(
                "no_barrier_before_the_read",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[64];
    u32 i = threadIdx.x;
    s[i] = i; // guilty
    IF_BROKEN(, __syncthreads());
    out[i] = s[63 - i]; // guilty
}"#,
            )
        },
        Case {
            want: |i| 4 * ((i + 32) % 64),
            ..Case::new(
                "no_barrier_after_the_read",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[64];
    u32 i = threadIdx.x, sum = 0;
    for (u32 round = 0; round < 4; round++) {
        s[i] = i; // guilty
        __syncthreads();
        sum += s[(i + 32) % 64]; // guilty
        IF_BROKEN(, __syncthreads());
    }
    out[i] = sum;
}"#,
            )
        },
        Case {
            want: |_| 63,
            ..Case::new(
                "all_threads_write_one_word",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 last;
    u32 i = threadIdx.x;
    if (IF_BROKEN(true, i == 63)) last = i; // guilty
    __syncthreads();
    out[i] = last;
}"#,
            )
        },
        Case {
            want: |_| 8,
            ..Case::new(
                "a_histogram_without_atomics",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 bins[8];
    u32 i = threadIdx.x;
    if (i < 8) bins[i] = 0;
    __syncthreads();
    IF_BROKEN(bins[i % 8]++, atomicAdd(&bins[i % 8], 1)); // guilty
    __syncthreads();
    out[i] = bins[i % 8];
}"#,
            )
        },
        Case {
            threads: 128,
            n: 128,
            want: |_| 127 * 64,
            ..Case::new(
                "a_reduction_that_forgets_the_other_warps",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[128];
    u32 i = threadIdx.x;
    s[i] = in[i]; // guilty
    for (u32 half = 64; half > 0; half /= 2) {
        IF_BROKEN(__syncwarp(), __syncthreads());
        u32 x = i < half ? s[i] + s[i + half] : 0; // guilty
        IF_BROKEN(__syncwarp(), __syncthreads());
        if (i < half) s[i] = x; // guilty
    }
    __syncthreads();
    out[i] = s[0];
}"#,
            )
        },
        Case {
            threads: 32,
            n: 32,
            want: |i| 31 - i,
            ..Case::new(
                "lanes_of_a_warp_without_syncwarp",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[32];
    u32 i = threadIdx.x;
    s[i] = i; // guilty
    IF_BROKEN(, __syncwarp());
    out[i] = s[31 - i]; // guilty
}"#,
            )
        },
        Case {
            want: |i| 2 * i + 1,
            ..Case::new(
                "both_halves_use_one_buffer",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[2][64];
    u32 i = threadIdx.x, sum = 0;
    s[0][63 - i] = 63 - i;
    __syncthreads();
    for (u32 round = 0; round < 2; round++) {
        u32 next = IF_BROKEN(round % 2, (round + 1) % 2);
        s[next][63 - i] = 64 - i; // guilty
        sum += s[round % 2][i]; // guilty
        __syncthreads();
    }
    out[i] = sum;
}"#,
            )
        },
        Case {
            threads: 16,
            want: |i| i,
            ..Case::new(
                "another_threads_cp_async_without_a_barrier",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[64];
    u32 i = threadIdx.x;
    COPY_ASYNC(s + 4 * i, in + 4 * i); // guilty
    COMMIT();
    WAIT(0);
    IF_BROKEN(, __syncthreads());
    for (u32 j = 0; j < 4; j++) out[16 * j + i] = s[16 * j + i]; // guilty
}"#,
            )
        },
        Case {
            want: |i| i % 32 + 32,
            ..Case::new(
                "two_named_barriers_where_one_was_meant",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[64];
    u32 i = threadIdx.x;
    s[i] = i; // guilty
    u32 barrier = IF_BROKEN(1 + i / 32, 1), threads = IF_BROKEN(32, 64);
    asm volatile("barrier.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
    out[i] = s[i % 32 + 32]; // guilty
}"#,
            )
        },
    ]);
}

#[test]
fn global_memory_between_blocks() {
    check(&[
        Case {
            blocks: 4,
            threads: 16,
            want: |i| if i == 0 { 4 } else { 0 },
            ..Case::new(
                "blocks_add_without_atomics",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    out += IF_BROKEN(0, 0);
    u32 i = blockIdx.x * 16 + threadIdx.x;
    if (i != 0) out[i] = 0;
    if (threadIdx.x == 0) {
        IF_BROKEN(in[0] = in[0] + 1, atomicAdd(in, 1)); // guilty
    }
    if (i == 0) out[0] = 4;
}"#,
            )
        },
        Case {
            blocks: 2,
            threads: 32,
            want: |i| if i < 32 { i } else { 32 + IN_OF_THE_FIRST },
            ..Case::new(
                "a_block_reads_what_another_writes",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    if (blockIdx.x == 0) {
        out[i] = i; // guilty
    } else {
        u32 x = *(volatile u32*)IF_BROKEN(out + 5, in + 5); // guilty
        out[i] = 32 + x;
    }
}"#,
            )
        },
        Case {
            blocks: 2,
            threads: 32,
            want: |i| if i == 0 { 0 } else { 2 * i - 1 },
            ..Case::new(
                "neighbours_in_place",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    u32 x = in[i]; // guilty
    u32 left = i > 0 ? in[i - 1] : 0; // guilty
    __syncthreads();
    u32* to = IF_BROKEN(in, out);
    to[i] = x + left; // guilty
    if (IF_BROKEN(true, false)) out[i] = 0;
}"#,
            )
        },
        Case {
            blocks: 3,
            threads: 32,
            n: 96,
            want: |i| i,
            ..Case::new(
                "blocks_overlap_by_one",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 first = blockIdx.x * 32, end = min(first + 32 + IF_BROKEN(1, 0), n);
    for (u32 i = first + threadIdx.x; i < end; i += 32) {
        out[i] = i; // guilty
    }
}"#,
            )
        },
        Case {
            blocks: 2,
            threads: 32,
            want: |i| i,
            ..Case::new(
                "a_plain_write_beside_an_atomic",
                Race,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = blockIdx.x * 32 + threadIdx.x;
    out[i] = i;
    if (threadIdx.x == 0) {
        if (blockIdx.x == 0) {
            IF_BROKEN(in[0] = 1, atomicExch(in, 1)); // guilty
        } else {
            atomicAdd(in, 1); // guilty
        }
    }
}"#,
            )
        },
    ]);
}

/// `in[5]`.
const IN_OF_THE_FIRST: u32 = 5;
