//! Loads, stores, address conversions, asynchronous copies.

use crate::{Case, block, gpu::Gpu, run, warp};

#[test]
fn memory_is_read_and_written_as_the_isa_says() {
    run(cases());
}

/// Types of elements and their bytes.
const TYPES: [(&str, usize); 14] = [
    ("u8", 1),
    ("s8", 1),
    ("b8", 1),
    ("u16", 2),
    ("s16", 2),
    ("b16", 2),
    ("u32", 4),
    ("s32", 4),
    ("b32", 4),
    ("f32", 4),
    ("u64", 8),
    ("s64", 8),
    ("b64", 8),
    ("f64", 8),
];

/// What stands between `ld` or `st` and the type, with the space that it means; the first list for both.
const BOTH: [(&str, &str); 9] = [
    (".global", "global"),
    (".shared", "shared"),
    (".local", "local"),
    ("", "generic"),
    (".volatile.global", "global"),
    (".volatile.shared", "shared"),
    (".volatile", "generic"),
    (".relaxed.gpu.global", "global"),
    (".relaxed.cta.shared", "shared"),
];
const LOADS: [(&str, &str); 10] = [
    (".const", "const"),
    (".global.nc", "global"),
    (".acquire.gpu.global", "global"),
    (".global.ca", "global"),
    (".global.cg", "global"),
    (".global.cs", "global"),
    (".global.cv", "global"),
    (".global.L1::no_allocate", "global"),
    (".global.nc.L1::no_allocate", "global"),
    (".global.L2::128B", "global"),
];
const STORES: [(&str, &str); 6] = [
    (".release.gpu.global", "global"),
    (".global.wb", "global"),
    (".global.cg", "global"),
    (".global.cs", "global"),
    (".global.wt", "global"),
    (".global.L1::no_allocate", "global"),
];

/// 16 bytes a lane, every bit pattern among them, signs included.
fn input() -> Vec<u64> {
    (0..64u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x8080_8080_8080_8080).collect()
}

/// Element `i` of a lane's 16 bytes.
fn element(lane: usize, i: usize, bytes: usize) -> u64 {
    let all: Vec<u8> = input().iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut x = [0; 8];
    x[..bytes].copy_from_slice(&all[16 * lane + i * bytes..][..bytes]);
    u64::from_le_bytes(x)
}

/// The text that leaves the address of the lane's 16 bytes of `space` in %d3, filled with its input, and the module's
/// variables that it needs. Half of the generic addresses are global, half shared.
fn address(space: &str) -> (String, String) {
    let own = "mad.wide.u32 %d2, %r0, 16, %d0; ld.global.v4.u32 {%r20, %r21, %r22, %r23}, [%d2];\n";
    let shared = "mov.u64 %d4, s; mad.wide.u32 %d4, %r0, 16, %d4; st.shared.v4.u32 [%d4], {%r20, %r21, %r22, %r23}; bar.sync 0;\n";
    let mut module = String::new();
    let text = match space {
        "global" => "mov.u64 %d3, %d2;\n".to_string(),
        "shared" => format!("{shared}mov.u64 %d3, %d4;\n"),
        "generic" => format!(
            "{shared}cvta.shared.u64 %d4, %d4; and.b32 %r30, %r0, 1; setp.eq.u32 %p7, %r30, 1; selp.b64 %d3, %d4, %d2, %p7;\n"
        ),
        "local" => {
            ".local .align 16 .b8 l[16]; mov.u64 %d3, l; st.local.v4.u32 [%d3], {%r20, %r21, %r22, %r23};\n"
                .to_string()
        }
        _ => {
            let bytes: Vec<String> =
                input().iter().flat_map(|x| x.to_le_bytes()).map(|b| b.to_string()).collect();
            module = format!(".const .align 16 .b8 c[512] = {{{}}};\n", bytes.join(", "));
            "mov.u64 %d3, c; mad.wide.u32 %d3, %r0, 16, %d3;\n".to_string()
        }
    };
    (own.to_string() + &text, module)
}

/// Registers of a width, for `count` elements, and one or several as an operand.
fn registers(width: usize, count: usize) -> (Vec<String>, String) {
    let letter = ["h", "r", "d"][width.ilog2() as usize - 4];
    let all: Vec<String> = (0..count).map(|i| format!("%{letter}{}", 5 + i)).collect();
    let list = if count == 1 { all[0].clone() } else { format!("{{{}}}", all.join(", ")) };
    (all, list)
}

/// Register `r` as 64 bits in %d12.
fn widened(r: &str, width: usize) -> String {
    match width {
        64 => format!("mov.b64 %d12, {r};"),
        _ => format!("cvt.u64.u{width} %d12, {r};"),
    }
}

fn load(op: &str, space: &str, (ty, bytes): (&str, usize), count: usize) {
    let (place, module) = address(space);
    for width in [16, 32, 64].into_iter().filter(|width| *width >= 8 * bytes) {
        for guard in ["", "@%p1 "] {
            let (all, list) = registers(width, count);
            let mut body = place.clone() + "setp.lt.u32 %p1, %r0, 21;\n";
            for r in &all {
                body += &format!("mov.b{width} {r}, 7;\n");
            }
            body += &format!("{guard}{op} {list}, [%d3];\n");
            for (i, r) in all.iter().enumerate() {
                body += &format!("{} st.global.u64 [%d1+{}], %d12;\n", widened(r, width), 8 * i);
            }
            let got = block(32, &module, &body, &input(), 8);
            for lane in 0..32 {
                for i in 0..count {
                    let word = u64::from(got[8 * lane + 2 * i]) | u64::from(got[8 * lane + 2 * i + 1]) << 32;
                    let raw = element(lane, i, bytes);
                    let shift = 64 - 8 * bytes as u32;
                    let value =
                        if ty.starts_with('s') { ((raw << shift) as i64 >> shift) as u64 } else { raw };
                    let want =
                        if guard.is_empty() || lane < 21 { value & (u64::MAX >> (64 - width)) } else { 7 };
                    assert_eq!(word, want, "{guard}{op} to {width} bits, lane {lane} element {i}");
                }
            }
        }
    }
}

fn store(op: &str, space: &str, bytes: usize, count: usize) {
    let (place, module) = address(space);
    let read = if space == "generic" { "ld".to_string() } else { format!("ld.{space}") };
    for width in [16, 32, 64].into_iter().filter(|width| *width >= 8 * bytes) {
        for guard in ["", "@%p1 "] {
            let (all, list) = registers(width, count);
            let mut body = place.clone() + "setp.lt.u32 %p1, %r0, 21;\n";
            // Register i holds the complement of the lane's first 8 bytes plus i.
            body += "ld.global.u64 %d13, [%d2]; not.b64 %d13, %d13;\n";
            for (i, r) in all.iter().enumerate() {
                let cut = if width == 64 {
                    format!("mov.b64 {r}, %d14;")
                } else {
                    format!("cvt.u{width}.u64 {r}, %d14;")
                };
                body += &format!("add.u64 %d14, %d13, {i}; {cut}\n");
            }
            body += &format!(
                "{guard}{op} [%d3], {list}; {read}.v4.u32 {{%r20, %r21, %r22, %r23}}, [%d3]; st.global.v4.u32 [%d1], {{%r20, %r21, %r22, %r23}};\n"
            );
            let got = block(32, &module, &body, &input(), 4);
            for lane in 0..32 {
                let mut want: Vec<u8> = (0..16).map(|i| element(lane, i, 1) as u8).collect();
                if guard.is_empty() || lane < 21 {
                    for i in 0..count {
                        let value = (!element(lane, 0, 8)).wrapping_add(i as u64);
                        want[i * bytes..(i + 1) * bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
                    }
                }
                let bytes: Vec<u8> = got[4 * lane..][..4].iter().flat_map(|x| x.to_le_bytes()).collect();
                assert_eq!(bytes, want, "{guard}{op} from {width} bits, lane {lane}");
            }
        }
    }
}

/// A kernel's parameters, and arguments and results of a call, of 16 bytes each.
fn parameters(op: &str, of_store: bool, bytes: usize, count: usize) {
    let width = (8 * bytes).max(16);
    let (all, list) = registers(width, count);
    let vector = op.split_once(".param").expect("of the parameter space").1;
    let (ld, st) = if of_store {
        (format!("ld.param{vector}"), op.to_string())
    } else {
        (op.to_string(), format!("st.param{vector}"))
    };
    let mut stores = String::new();
    for (i, r) in all.iter().enumerate() {
        stores += &format!("{} st.global.u64 [%d1+{}], %d12;\n", widened(r, width), 8 * i);
    }
    let declare = ".reg .b16 %h<20>; .reg .b32 %r<20>; .reg .b64 %d<20>;";
    let ptx = format!(
        ".version 9.0\n.target sm_80\n.address_size 64
.func (.param .align 16 .b8 result[16]) f(.param .align 16 .b8 x[16]) {{ {declare} {ld} {list}, [x]; {st} [result], {list}; ret; }}
.visible .entry k(.param .align 16 .b8 x[16], .param .u64 out) {{ {declare} ld.param.u64 %d1, [out];
{ld} {list}, [x];
{{ .param .align 16 .b8 p[16]; .param .align 16 .b8 q[16]; {st} [p], {list}; call.uni (q), f, (p); {ld} {list}, [q]; }}
{stores}ret; }}\n"
    );
    let mut gpu = Gpu::new(&ptx);
    let out = gpu.put(&[0u64; 4]);
    let mut params: Vec<u8> = input()[..2].iter().flat_map(|x| x.to_le_bytes()).collect();
    params.extend(out.to_le_bytes());
    gpu.run_raw("k", 1, 1, &params).unwrap();
    let got = gpu.get::<u64>(out, count);
    for (i, got) in got.into_iter().enumerate() {
        let raw = element(0, i, bytes);
        let shift = 64 - 8 * bytes as u32;
        let ty = op.rsplit('.').next().unwrap_or_default();
        let value = if ty.starts_with('s') { ((raw << shift) as i64 >> shift) as u64 } else { raw };
        assert_eq!(got, value & (u64::MAX >> (64 - width)), "{op} element {i}");
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, bytes) in TYPES {
        for (count, vector) in [(1, ""), (2, ".v2"), (4, ".v4")] {
            if bytes * count > 16 {
                continue;
            }
            for (mods, space) in BOTH.into_iter().chain(LOADS) {
                let op = format!("ld{mods}{vector}.{ty}");
                all.push(Case::new(op, move |op| load(op, space, (ty, bytes), count)));
            }
            for (mods, space) in BOTH.into_iter().chain(STORES) {
                let op = format!("st{mods}{vector}.{ty}");
                all.push(Case::new(op, move |op| store(op, space, bytes, count)));
            }
            for op in ["ld", "st"] {
                let form = format!("{op}.param{vector}.{ty}");
                all.push(Case::new(form, move |form| parameters(form, op == "st", bytes, count)));
            }
        }
    }
    addresses(&mut all);
    copies(&mut all);
    all
}

fn addresses(all: &mut Vec<Case>) {
    for space in ["global", "shared", "local", "const"] {
        let read = format!("ld.{space}.u32");
        all.push(Case::new(format!("cvta.{space}.u64"), move |op| {
            let (place, module) = address(space);
            let body = format!("{place}{op} %d4, %d3; ld.u32 %r1, [%d4]; {read} %r2, [%d3]; st.global.v2.u32 [%d1], {{%r1, %r2}};");
            let got = block(32, &module, &body, &input(), 2);
            for lane in 0..32 {
                assert_eq!(got[2 * lane..][..2], [element(lane, 0, 4) as u32; 2], "{op} lane {lane}");
            }
        }));
        all.push(Case::new(format!("cvta.to.{space}.u64"), move |op| {
            let (place, module) = address(space);
            let body = format!("{place}cvta.{space}.u64 %d4, %d3; {op} %d5, %d4; sub.u64 %d5, %d5, %d3; st.global.u64 [%d1], %d5;");
            assert_eq!(block(32, &module, &body, &input(), 2), [0; 64], "{op}");
        }));
    }
    for space in ["global", "shared", "local"] {
        all.push(Case::new(format!("isspacep.{space}"), move |op| {
            for of in ["global", "shared", "local"] {
                let (place, _) = address(of);
                let body = format!("{place}cvta.{of}.u64 %d4, %d3; {op} %p1, %d4; selp.u32 %r1, 1, 0, %p1; st.global.u32 [%d1], %r1;");
                assert_eq!(warp(&body, &input(), 1), [u32::from(of == space); 32], "{op} of a {of} address");
            }
        }));
    }
    // Hints change nothing.
    for op in ["prefetch.global.L1", "prefetch.global.L2", "prefetch.L1", "prefetchu.L1"] {
        all.push(Case::new(op, move |op| {
            let (place, _) = address("global");
            let body = format!("{place}{op} [%d3]; ld.global.u32 %r1, [%d3]; st.global.u32 [%d1], %r1;");
            let want: Vec<u32> = (0..32).map(|lane| element(lane, 0, 4) as u32).collect();
            assert_eq!(warp(&body, &input(), 1), want);
        }));
    }
    let policy = "createpolicy.fractional.L2::evict_first.b64";
    for form in [policy, "ld.global.L2::cache_hint.v4.u32", "st.global.L2::cache_hint.v4.u32"] {
        all.push(Case::new(form, move |_| {
            let (place, _) = address("global");
            let four = "{%r20, %r21, %r22, %r23}";
            let body = format!("{place}{policy} %d5, 1.0; ld.global.L2::cache_hint.v4.u32 {four}, [%d3], %d5; st.global.L2::cache_hint.v4.u32 [%d1], {four}, %d5;");
            let want: Vec<u32> = input().iter().flat_map(|x| [*x as u32, (x >> 32) as u32]).collect();
            assert_eq!(warp(&body, &input(), 4), want);
        }));
    }
}

/// Lanes copy their bytes to shared memory that holds all ones, and read it after the wait.
fn copied(copy: &str, wait: &str) -> Vec<u32> {
    let body = format!("mov.u64 %d4, s; mad.wide.u32 %d4, %r0, 16, %d4; mov.u32 %r1, 0xffffffff; st.shared.v4.u32 [%d4], {{%r1, %r1, %r1, %r1}};
mad.wide.u32 %d3, %r0, 16, %d0; and.b32 %r2, %r0, 3; shl.b32 %r2, %r2, 2;
{copy}\n{wait}\nld.shared.v4.u32 {{%r20, %r21, %r22, %r23}}, [%d4]; st.global.v4.u32 [%d1], {{%r20, %r21, %r22, %r23}};");
    warp(&body, &input(), 4)
}

/// The lane's 16 bytes of shared memory: the first `bytes` were copied, those of the source from `source` on as zeros.
fn want(lane: usize, bytes: usize, source: usize) -> Vec<u32> {
    (0..4)
        .map(|word| match 4 * word {
            at if at >= bytes => u32::MAX,
            at if at >= source => 0,
            _ => element(lane, word, 4) as u32,
        })
        .collect()
}

fn copies(all: &mut Vec<Case>) {
    let wait = "cp.async.commit_group; cp.async.wait_group 0;";
    for (cache, sizes) in [("ca", &[4, 8, 16][..]), ("cg", &[16])] {
        for hint in ["", ".L2::128B", ".L2::256B"] {
            let op = format!("cp.async.{cache}.shared.global{hint}");
            all.push(Case::new(&op, move |op| {
                for &bytes in sizes {
                    let got = copied(&format!("{op} [%d4], [%d3], {bytes};"), wait);
                    (0..32).for_each(|lane| {
                        assert_eq!(
                            got[4 * lane..][..4],
                            want(lane, bytes, bytes),
                            "{op} of {bytes}, lane {lane}"
                        )
                    });
                }
            }));
            // Lane i brings 4 (i % 4) bytes.
            all.push(Case::new(format!("{op} (4 operands)"), move |op| {
                for &bytes in sizes {
                    let copy = format!("min.u32 %r2, %r2, {bytes}; {op} [%d4], [%d3], {bytes}, %r2;");
                    let got = copied(&copy, wait);
                    (0..32).for_each(|lane| {
                        let source = (4 * (lane % 4)).min(bytes);
                        assert_eq!(
                            got[4 * lane..][..4],
                            want(lane, bytes, source),
                            "{op} of {bytes}, lane {lane}"
                        );
                    });
                }
            }));
        }
    }
    let copy = "cp.async.ca.shared.global [%d4], [%d3], 4;";
    for form in ["cp.async.commit_group", "cp.async.wait_group", "cp.async.wait_all"] {
        all.push(Case::new(form, move |form| {
            // The first group is complete when at most one is not; wait_all takes what no group holds, too.
            let wait = match form {
                "cp.async.wait_all" => "cp.async.wait_all;",
                _ => "cp.async.commit_group; cp.async.ca.shared.global [%d4+8], [%d3+8], 4; cp.async.commit_group; cp.async.wait_group 1;",
            };
            let got = copied(copy, wait);
            (0..32).for_each(|lane| assert_eq!(got[4 * lane], element(lane, 0, 4) as u32, "{form} lane {lane}"));
        }));
    }
}
