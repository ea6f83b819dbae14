//! Branches, calls, barriers, fences.

use crate::{Case, block, run, warp};

#[test]
fn control_goes_where_the_isa_says() {
    run(cases());
}

/// Words 0, 1, 2, … of a thread are `want(thread)`.
fn check<const N: usize>(op: &str, got: &[u32], words: usize, want: impl Fn(u32) -> [u32; N]) {
    for thread in 0..got.len() / words {
        assert_eq!(got[words * thread..][..N], want(thread as u32), "{op} thread {thread}");
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for op in ["bra", "bra.uni"] {
        // Forward, backward, around a loop.
        all.push(Case::new(op, |op| {
            let body = format!("mov.u32 %r1, 0; {op} START; mov.u32 %r1, 100; START: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 5;
@%p1 {op} START; st.global.u32 [%d1], %r1;");
            check(op, &warp(&body, &[0], 1), 1, |_| [5]);
        }));
    }
    // Each lane leaves the loop after a number of rounds of its own, and all meet again.
    all.push(Case::new("bra", |op| {
        let body = format!("mov.u32 %r1, 0; mov.u32 %r2, 0; NEXT: setp.ge.u32 %p1, %r1, %r0; @%p1 {op} OUT; add.u32 %r1, %r1, 1; add.u32 %r2, %r2, %r1; {op} NEXT;
OUT: activemask.b32 %r3; st.global.v2.u32 [%d1], {{%r2, %r3}};");
        check(op, &warp(&body, &[0], 2), 2, |lane| [lane * (lane + 1) / 2, u32::MAX]);
    }));
    for op in ["brx.idx", "brx.idx.uni"] {
        all.push(Case::new(op, |op| {
            // Uniform where the form says so.
            let index = if op.ends_with("uni") { "mov.u32 %r1, 2;" } else { "rem.u32 %r1, %r0, 3;" };
            let body = format!("{index} TABLE: .branchtargets A, B, C; {op} %r1, TABLE; A: mov.u32 %r2, 10; bra END; B: mov.u32 %r2, 20; bra END; C: mov.u32 %r2, 30; END: st.global.u32 [%d1], %r2;");
            let uniform = op.ends_with("uni");
            check(op, &warp(&body, &[0], 1), 1, |lane| [10 * (1 + if uniform { 2 } else { lane % 3 })]);
        }));
    }
    for op in ["call", "call.uni"] {
        all.push(Case::new(op, |op| {
            let module = ".func (.param .b32 r) twice(.param .b32 x) { .reg .b32 %r<3>; ld.param.u32 %r1, [x]; add.u32 %r2, %r1, %r1; st.param.u32 [r], %r2; ret; }
.func nothing() { ret; }\n";
            // In some lanes only, once for all, and of a function without parameters.
            let body = format!("mov.u32 %r4, 7; {op} nothing; setp.lt.u32 %p1, %r0, 9; {{ .param .b32 p; .param .b32 q; st.param.u32 [p], %r0; {op} (q), twice, (p); ld.param.u32 %r3, [q]; }}
@!%p1 bra END; {{ .param .b32 p; .param .b32 q; st.param.u32 [p], %r3; {op} (q), twice, (p); ld.param.u32 %r4, [q]; }}
END: st.global.v2.u32 [%d1], {{%r3, %r4}};");
            check(op, &block(32, module, &body, &[0], 2), 2, |lane| [2 * lane, if lane < 9 { 4 * lane } else { 7 }]);
        }));
    }
    for op in ["ret", "ret.uni", "exit"] {
        // Some lanes leave early; where the function is the kernel, `ret` leaves it.
        all.push(Case::new(op, |op| {
            let body = format!("mov.u32 %r1, 1; st.global.u32 [%d1], %r1; setp.lt.u32 %p1, %r0, 10; @%p1 {op}; mov.u32 %r1, 2; st.global.u32 [%d1], %r1;");
            check(op, &warp(&body, &[0], 1), 1, |lane| [if lane < 10 { 1 } else { 2 }]);
        }));
    }
    all.push(Case::new("trap", |op| {
        let ptx =
            format!(".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k() {{ {op}; ret; }}\n");
        let fault = crate::gpu::Gpu::new(&ptx).run("k", 1, 32, &[]).unwrap_err();
        assert_eq!(fault.kind, softcuda::fault::FaultKind::Trap);
    }));
    barriers(&mut all);
    fences(&mut all);
    all
}

/// Thread `t` of 64 leaves `t + 1` at the place of the thread on the other side of the block, then reads its own.
fn swap(barrier: &str, release: &str) -> Vec<u32> {
    let body = format!("mov.u32 %r1, 63; sub.u32 %r1, %r1, %r0; mov.u64 %d2, s; mad.wide.u32 %d3, %r1, 4, %d2; mad.wide.u32 %d4, %r0, 4, %d2;
add.u32 %r2, %r0, 1; st.shared.u32 [%d3], %r2; {barrier} ld.shared.u32 %r3, [%d4]; st.global.u32 [%d1], %r3; {release}");
    block(64, "", &body, &[0], 1)
}

fn barriers(all: &mut Vec<Case>) {
    let want = |thread: u32| [64 - thread];
    for sync in [
        "bar.sync",
        "bar.cta.sync",
        "barrier.sync",
        "barrier.cta.sync",
        "barrier.sync.aligned",
        "barrier.cta.sync.aligned",
    ] {
        all.push(Case::new(sync, move |op| {
            for id in ["0", "15"] {
                check(op, &swap(&format!("{op} {id};"), ""), 1, want);
            }
        }));
        all.push(Case::new(format!("{sync} (2 operands)"), move |op| {
            check(op, &swap(&format!("{op} 3, 64;"), ""), 1, want);
        }));
        // The first warp arrives at one barrier and does not wait; the second waits for it, reads, and lets it go on.
        let arrive = sync.replace("sync", "arrive");
        all.push(Case::new(format!("{arrive} (2 operands)"), move |op| {
            let sync = op.replace("arrive", "sync");
            let body = format!("mov.u64 %d2, s; and.b32 %r1, %r0, 31; mad.wide.u32 %d3, %r1, 4, %d2; setp.ge.u32 %p1, %r0, 32; mov.u32 %r3, 5; @%p1 bra SECOND;
add.u32 %r2, %r0, 100; st.shared.u32 [%d3], %r2; {op} 1, 64; {sync} 2, 64; ld.shared.u32 %r3, [%d3]; bra END;
SECOND: {sync} 1, 64; ld.shared.u32 %r3, [%d3]; add.u32 %r4, %r3, 1000; st.shared.u32 [%d3], %r4; {op} 2, 64; END: st.global.u32 [%d1], %r3;");
            check(op, &block(64, "", &body, &[0], 1), 1, |thread| [if thread < 32 { thread + 1100 } else { thread + 68 }]);
        }));
        // True for threads below a number: the sum, all, any, whatever the warp.
        for (red, predicate) in [("popc.u32", false), ("and.pred", true), ("or.pred", true)] {
            for counted in [false, true] {
                let (head, tail) = match sync.strip_suffix(".aligned") {
                    Some(head) => (head, ".aligned"),
                    None => (sync, ""),
                };
                let form = format!("{}{tail}.{red}", head.replace("sync", "red"));
                let operands = if counted { 4 } else { 3 };
                all.push(Case::new(format!("{form} ({operands} operands)"), move |op| {
                    for below in [0, 1, 40, 64] {
                        let (d, read) = if predicate { ("%p2", "selp.u32 %r2, 1, 0, %p2;") } else { ("%r2", "") };
                        let count = if counted { ", 64" } else { "" };
                        let body = format!("setp.lt.u32 %p1, %r0, {below}; {op} {d}, 2{count}, %p1; {read} st.global.u32 [%d1], %r2;");
                        let want = match red {
                            "popc.u32" => below,
                            "and.pred" => u32::from(below == 64),
                            _ => u32::from(below > 0),
                        };
                        check(op, &block(64, "", &body, &[0], 1), 1, |_| [want]);
                    }
                }));
            }
        }
    }
}

/// What orders memory changes no value: a store before it is seen after the barrier that follows.
fn fences(all: &mut Vec<Case>) {
    let scopes = ["cta", "gpu", "sys"];
    let fences =
        ["fence.sc", "fence.acq_rel"].into_iter().flat_map(|f| scopes.map(|scope| format!("{f}.{scope}")));
    let membars = ["cta", "gl", "sys"].map(|scope| format!("membar.{scope}"));
    for op in fences.chain(membars).chain(["nanosleep.u32 10".to_string(), "nanosleep.u32 %r0".to_string()]) {
        let text = op.clone();
        all.push(Case::new(op.split(' ').next().unwrap_or_default(), move |op| {
            check(op, &swap(&format!("{text}; bar.sync 0;"), ""), 1, |thread| [64 - thread]);
        }));
    }
}
