//! Between the lanes of a warp: shuffles, votes, matches, reductions, elections.

use crate::{Case, run, warp};

#[test]
fn lanes_exchange_as_the_isa_says() {
    run(cases());
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        all.push(Case::new(format!("shfl.sync.{mode}.b32"), move |op| shuffle(op, mode)));
    }
    // Of lanes 0 to 4 the predicate is true; of all, the negation's of none.
    type Vote = fn(u32, u32) -> bool;
    let votes: [(&str, Vote); 3] = [
        ("all", |yes, all| yes == all),
        ("any", |yes, _| yes != 0),
        ("uni", |yes, all| yes == all || yes == 0),
    ];
    for (mode, want) in votes {
        all.push(Case::new(format!("vote.sync.{mode}.pred"), move |op| {
            for below in [0, 5, 32] {
                for (not, flip) in [("", 0), ("!", u32::MAX)] {
                    let body = format!(
                        "setp.lt.u32 %p1, %r0, {below}; {op} %p2, {not}%p1, 0xffffffff; selp.u32 %r1, 1, 0, %p2; st.global.u32 [%d1], %r1;"
                    );
                    let yes = (u32::MAX.checked_shl(below).map_or(u32::MAX, |x| !x)) ^ flip;
                    assert_eq!(warp(&body, &[0], 1), [u32::from(want(yes, u32::MAX)); 32], "{op} {not}{below}");
                }
            }
        }));
    }
    all.push(Case::new("vote.sync.ballot.b32", |op| {
        let body = format!("setp.lt.u32 %p1, %r0, 5; {op} %r1, %p1, 0xffffffff; st.global.u32 [%d1], %r1;");
        assert_eq!(warp(&body, &[0], 1), [31; 32]);
    }));
    all.push(Case::new("activemask.b32", |op| {
        let body = format!("setp.lt.u32 %p1, %r0, 7; mov.u32 %r1, 0; @%p1 {op} %r1; st.global.u32 [%d1], %r1;");
        // A guard leaves the lanes together; a branch parts them.
        let guarded = warp(&body, &[0], 1);
        assert!(guarded[..7].iter().all(|m| m & 0x7f == 0x7f) && guarded[7..].iter().all(|&m| m == 0));
        let body = format!("setp.ge.u32 %p1, %r0, 7; @%p1 bra ELSE; {op} %r1; bra END; ELSE: {op} %r1; END: st.global.u32 [%d1], %r1;");
        let want: Vec<u32> = (0..32).map(|lane| if lane < 7 { 0x7f } else { !0x7f }).collect();
        assert_eq!(warp(&body, &[0], 1), want);
    }));
    for (ty, register) in [("b32", "%r7"), ("b64", "%d7")] {
        all.push(Case::new(format!("match.any.sync.{ty}"), move |op| {
            // Values that differ in the lowest and, of 64 bits, in the highest bits alone.
            let body = format!("and.b32 %r7, %r0, 3; cvt.u64.u32 %d7, %r7; shl.b64 %d7, %d7, 62; {op} %r8, {register}, 0xffffffff; st.global.u32 [%d1], %r8;");
            let want: Vec<u32> = (0..32).map(|lane| 0x1111_1111 << (lane % 4)).collect();
            assert_eq!(warp(&body, &[0], 1), want);
        }));
        all.push(Case::new(format!("match.all.sync.{ty}"), move |op| {
            for (value, want) in [("mov.u32 %r7, 9", [u32::MAX, 1]), ("shr.u32 %r7, %r0, 4", [0, 0])] {
                let body = format!("{value}; cvt.u64.u32 %d7, %r7; {op} %r8|%p1, {register}, 0xffffffff; selp.u32 %r9, 1, 0, %p1; st.global.v2.u32 [%d1], {{%r8, %r9}};");
                assert_eq!(warp(&body, &[0], 2), want.repeat(32), "{op} {value}");
            }
        }));
    }
    let signed = |f: fn(i32, i32) -> i32| move |a: u32, b: u32| f(a as i32, b as i32) as u32;
    type Combine = Box<dyn Fn(u32, u32) -> u32>;
    let reductions: [(&str, Combine); 9] = [
        ("add.u32", Box::new(u32::wrapping_add)),
        ("add.s32", Box::new(u32::wrapping_add)),
        ("min.u32", Box::new(u32::min)),
        ("max.u32", Box::new(u32::max)),
        ("min.s32", Box::new(signed(i32::min))),
        ("max.s32", Box::new(signed(i32::max))),
        ("and.b32", Box::new(|a, b| a & b)),
        ("or.b32", Box::new(|a, b| a | b)),
        ("xor.b32", Box::new(|a, b| a ^ b)),
    ];
    for (op, combine) in reductions {
        all.push(Case::new(format!("redux.sync.{op}"), move |op| {
            let value = |i: u32| i.wrapping_mul(0x9e37_79b9).wrapping_add(12345);
            // Each half of the warp by itself.
            let body = format!(
                "mad.lo.u32 %r1, %r0, 0x9e3779b9, 12345; setp.lt.u32 %p1, %r0, 16; selp.b32 %r3, 0x0000ffff, 0xffff0000, %p1;
{op} %r2, %r1, %r3; st.global.u32 [%d1], %r2;"
            );
            let half = |from: u32| (from..from + 16).map(value).reduce(&combine).unwrap();
            let want: Vec<u32> = (0..32).map(|lane| half(lane / 16 * 16)).collect();
            assert_eq!(warp(&body, &[0], 1), want, "{op}");
        }));
    }
    all.push(Case::new("elect.sync", |op| {
        // Of all lanes, then of the upper half alone: one leader, one of those named, that all agree on.
        for (first, mask) in [(0, 0xffff_ffffu32), (16, 0xffff_0000)] {
            let body = format!(
                "mov.u32 %r1, 99; mov.u32 %r2, 99; setp.ge.u32 %p1, %r0, {first}; @!%p1 bra END; {op} %r1|%p2, {mask}; selp.u32 %r2, 1, 0, %p2;
END: st.global.v2.u32 [%d1], {{%r1, %r2}};"
            );
            let got = warp(&body, &[0], 2);
            let leader = got[2 * first];
            assert!(mask >> leader & 1 != 0);
            for lane in 0..32 {
                let want = [leader, u32::from(lane as u32 == leader)];
                assert_eq!(got[2 * lane..][..2], if lane < first { [99, 99] } else { want }, "lane {lane}");
            }
        }
    }));
    all.push(Case::new("bar.warp.sync", |op| {
        // Odd lanes do more first, by another way; both halves shuffle with their own mask, then all together.
        let body = format!(
            "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 1; mov.u32 %r2, 7;
@%p1 bra ODD;
shfl.sync.bfly.b32 %r3, %r0, 2, 31, 0x55555555; bra JOIN;
ODD: add.u32 %r2, %r2, 1; shfl.sync.bfly.b32 %r3, %r0, 4, 31, 0xaaaaaaaa;
JOIN: {op} 0xffffffff; shfl.sync.idx.b32 %r4, %r2, 1, 31, 0xffffffff; st.global.v2.u32 [%d1], {{%r3, %r4}};"
        );
        let got = warp(&body, &[0], 2);
        for lane in 0..32u32 {
            let want = if lane % 2 == 1 { lane ^ 4 } else { lane ^ 2 };
            assert_eq!(got[2 * lane as usize..][..2], [want, 8], "lane {lane}");
        }
    }));
    all
}

fn shuffle(op: &str, mode: &str) {
    // The pseudocode of the ISA.
    let model = |lane: i32, b: i32, c: i32| {
        let (bval, cval, mask) = (b & 31, c & 31, c >> 8 & 31);
        let max = (lane & mask) | (cval & !mask);
        let min = lane & mask;
        let (j, ok) = match mode {
            "up" => (lane - bval, lane - bval >= max),
            "down" => (lane + bval, lane + bval <= max),
            "bfly" => (lane ^ bval, lane ^ bval <= max),
            _ => (min | (bval & !mask), min | (bval & !mask) <= max),
        };
        (if ok { j } else { lane } as u32, u32::from(ok))
    };
    for b in [0, 1, 3, 16, 31] {
        // Whole warps, and segments of 8 and 16 lanes.
        for c in [0x1f, 0x00, 0x181f, 0x1800, 0x100f, 0x1000] {
            let body = format!(
                "add.u32 %r1, %r0, 100; {op} %r2|%p1, %r1, {b}, {c}, 0xffffffff;
selp.u32 %r3, 1, 0, %p1; st.global.v2.u32 [%d1], {{%r2, %r3}};"
            );
            let got = warp(&body, &[0], 2);
            for lane in 0..32 {
                let (from, ok) = model(lane as i32, b, c);
                assert_eq!(got[2 * lane..2 * lane + 2], [from + 100, ok], "{op} {b} {c:#x} lane {lane}");
            }
        }
    }
}
