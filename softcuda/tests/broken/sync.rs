//! Barriers and `.sync` operations whose members do not all come, and `cp.async` read before its wait.

use super::{Case, check};
use softcuda::fault::FaultKind::Sync;

#[test]
fn barriers_are_reached_by_all() {
    check(&[
        Case {
            ..Case::new(
                "half_a_warp_at_the_barrier",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    if (IF_BROKEN(i < 16, true)) {
        __syncthreads(); // guilty
    }
    out[i] = i;
} // guilty"#,
            )
        },
        Case {
            ..Case::new(
                "one_warp_waits_once_more",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 rounds = IF_BROKEN(in[i] / 32 + 1, 1);
    for (u32 round = 0; round < rounds; round++) {
        asm volatile("barrier.sync 0, 64;" ::: "memory"); // guilty
    }
    out[i] = i;
} // guilty"#,
            )
        },
        Case {
            ..Case::new(
                "a_named_barrier_for_more_threads_than_come",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    if (i < 32) {
        asm volatile("barrier.sync 1, %0;" ::"n"(IF_BROKEN(64, 32)) : "memory"); // guilty
    }
    out[i] = i;
} // guilty"#,
            )
        },
        Case {
            ..Case::new(
                "a_named_barrier_for_half_a_warp",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 count = IF_BROKEN(in[48], n);
    asm volatile("barrier.sync 1, %0;" ::"r"(count) : "memory"); // guilty
    out[i] = i;
}"#,
            )
        },
    ]);
}

#[test]
fn members_of_a_sync_operation_come() {
    check(&[
        Case {
            threads: 32,
            n: 32,
            want: |i| i ^ 1,
            ..Case::new(
                "shfl_names_lanes_that_went_elsewhere",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 x = i ^ 1;
    if (IF_BROKEN(i < 16, true)) {
        x = __shfl_xor_sync(0xffffffffu, in[i], 1); // guilty
    }
    out[i] = x;
} // guilty"#,
            )
        },
        Case {
            threads: 32,
            n: 32,
            want: |i| i ^ 1,
            ..Case::new(
                "shfl_without_the_lane_itself",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    u32 x = __shfl_xor_sync(IF_BROKEN(0x0000ffffu, 0xffffffffu), in[i], 1); // guilty
    out[i] = x;
}"#,
            )
        },
        Case {
            threads: 32,
            n: 32,
            ..Case::new(
                "syncwarp_with_lanes_that_are_gone",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x;
    out[i] = i;
    if (IF_BROKEN(i >= 24, false)) return; // guilty
    __syncwarp(); // guilty
    out[i] = i;
} // guilty"#,
            )
        },
        Case {
            threads: 32,
            n: 32,
            want: |_| 0xffff_ffff,
            ..Case::new(
                "a_vote_in_a_loop_that_lanes_leave",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x, votes = 0;
    u32 rounds = IF_BROKEN(1 + in[i] % 4, 4);
    for (u32 round = 0; round < rounds; round++) {
        votes |= __ballot_sync(0xffffffffu, in[round] < n); // guilty
    }
    out[i] = votes;
} // guilty"#,
            )
        },
        Case {
            threads: 32,
            n: 32,
            want: |_| 31 * 16,
            ..Case::new(
                "redux_over_lanes_that_went_elsewhere",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x, sum = 0;
    if (IF_BROKEN(in[i] != 3, true)) {
        sum = __reduce_add_sync(0xffffffffu, in[i]); // guilty
    }
    out[i] = sum;
} // guilty"#,
            )
        },
        Case {
            threads: 32,
            n: 32,
            want: |_| 16,
            ..Case::new(
                "mma_by_half_a_warp",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    u32 i = threadIdx.x, one = 0x3c003c00u;
    float d[4] = {0, 0, 0, 0};
    if (IF_BROKEN(in[i] < 16, true)) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%4, %4}, {%0, %1, %2, %3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(one)); // guilty
    }
    out[i] = u32(d[0]);
} // guilty"#,
            )
        },
    ]);
}

#[test]
fn cp_async_is_waited_for() {
    check(&[
        Case {
            threads: 16,
            at: Some((0, 0)),
            ..Case::new(
                "cp_async_read_at_once",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[64];
    u32 i = threadIdx.x;
    COPY_ASYNC(s + 4 * i, in + 4 * i);
    COMMIT();
    IF_BROKEN(, WAIT(0));
    for (u32 j = 0; j < 4; j++) out[4 * i + j] = s[4 * i + j]; // guilty
}"#,
            )
        },
        Case {
            threads: 8,
            at: Some((0, 0)),
            ..Case::new(
                "cp_async_waits_for_the_group_before",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[64];
    u32 i = threadIdx.x;
    COPY_ASYNC(s + 8 * i, in + 8 * i);
    COMMIT();
    COPY_ASYNC(s + 8 * i + 4, in + 8 * i + 4);
    COMMIT();
    WAIT(IF_BROKEN(1, 0));
    for (u32 j = 0; j < 8; j++) out[8 * i + j] = s[8 * i + j]; // guilty
}"#,
            )
        },
        Case {
            threads: 16,
            at: Some((0, 0)),
            ..Case::new(
                "cp_async_that_was_never_committed",
                Sync,
                r#"
extern "C" __global__ void k(u32* out, u32* in, u32 n) {
    __shared__ alignas(16) u32 s[64];
    u32 i = threadIdx.x;
    COPY_ASYNC(s + 4 * i, in + 4 * i);
    IF_BROKEN(, COMMIT());
    WAIT(0);
    for (u32 j = 0; j < 4; j++) out[4 * i + j] = s[4 * i + j]; // guilty
}"#,
            )
        },
    ]);
}
