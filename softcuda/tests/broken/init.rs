//! Reads of memory that nobody wrote.

use super::{Case, Host, check};
use softcuda::fault::FaultKind::Uninitialised;

#[test]
fn global_memory_is_written_before_it_is_read() {
    check(&[
        Case {
            host: Host::WritesHalf,
            at: Some((0, 32)),
            says: "byte 128 of the allocation #2",
            ..Case::new(
                "the_host_wrote_half",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 x = in[i]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            host: Host::WritesHalf,
            threads: 16,
            at: Some((0, 8)),
            ..Case::new(
                "a_vector_that_nobody_wrote",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    uint4 x = reinterpret_cast<uint4*>(in)[i]; // guilty
    reinterpret_cast<uint4*>(out)[i] = x; // guilty
}"#,
            )
        },
        Case {
            at: Some((0, 1)),
            ..Case::new(
                "every_other_element_was_written",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    if (IF_BROKEN(i % 2 == 0, true)) out[i] = i;
    __syncthreads();
    u32 x = *(volatile u32*)(out + i); // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            want: |i| if i == 0 { 64 } else { 0 },
            ..Case::new(
                "a_counter_that_nobody_zeroed",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    if (IF_BROKEN(false, true)) out[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(out, 1); // guilty
}"#,
            )
        },
        Case {
            host: Host::WritesHalf,
            threads: 16,
            ..Case::new(
                "cp_async_of_what_nobody_wrote",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[64];
    u32 i = threadIdx.x;
    COPY_ASYNC(s + 4 * i, in + 4 * i); // guilty
    COMMIT();
    WAIT(0);
    for (u32 j = 0; j < 4; j++) out[4 * i + j] = s[4 * i + j]; // guilty
}"#,
            )
        },
    ]);
}

#[test]
fn shared_and_local_memory_are_written_before_they_are_read() {
    check(&[
        Case {
            at: Some((0, 32)),
            says: "shared",
            ..Case::new(
                "half_of_a_tile_is_loaded",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[64];
    u32 i = threadIdx.x;
    if (i < IF_BROKEN(32, 64)) s[i] = in[i];
    __syncthreads();
    u32 x = s[i]; // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 0)),
            says: "shared",
            want: |_| 64,
            ..Case::new(
                "a_shared_counter_that_nobody_zeroed",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 count;
    if (IF_BROKEN(false, threadIdx.x == 0)) count = 0;
    __syncthreads();
    atomicAdd(&count, 1); // guilty
    __syncthreads();
    out[threadIdx.x] = count;
}"#,
            )
        },
        Case {
            at: Some((1, 0)),
            blocks: 2,
            threads: 32,
            says: "shared",
            ..Case::new(
                "shared_memory_of_the_block_before",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ u32 s[32];
    u32 i = blockIdx.x * 32 + threadIdx.x;
    if (IF_BROKEN(blockIdx.x == 0, true)) s[threadIdx.x] = i;
    u32 x = *(volatile u32*)(s + threadIdx.x); // guilty
    out[i] = x;
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
                "ldmatrix_of_half_a_row",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[32];
    u32 i = threadIdx.x, x;
    if (IF_BROKEN(i % 4 < 2, true)) s[i] = 7;
    __syncthreads();
    u32 row = saddr(s + 4 * (i % 8));
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(x) : "r"(row)); // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            at: Some((0, 5)),
            says: "local",
            ..Case::new(
                "a_local_array_with_a_hole",
                Uninitialised,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    volatile u32 a[8];
    u32 i = threadIdx.x;
    for (u32 j = 0; j < 8; j++) {
        if (IF_BROKEN(j != in[5], true)) a[j] = j;
    }
    u32 x = a[in[i] % 8]; // guilty
    out[i] = i - i % 8 + x;
}"#,
            )
        },
    ]);
}
