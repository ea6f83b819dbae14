//! What the kernels of `integer.cu` should write.

use super::{Row, Want};

/// A kernel with a thread for each of 1,000 words.
fn each(kernel: &'static str, want: fn(u32, u32) -> u32) -> (&'static str, fn(u32, u32) -> u32) {
    (kernel, want)
}

fn philox(x: u32, y: u32) -> u32 {
    let (mut c, mut k) = ([x, y, 7, 9], [123u32, 456u32]);
    for _ in 0..10 {
        let [p, q] = [u64::from(c[0]) * 0xD251_1F53, u64::from(c[2]) * 0xCD9E_8D57];
        c = [(q >> 32) as u32 ^ c[1] ^ k[0], q as u32, (p >> 32) as u32 ^ c[3] ^ k[1], p as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c.iter().fold(0, |x, y| x ^ y)
}

fn mix(x: u32, y: u32) -> u32 {
    x.wrapping_mul(31).wrapping_add(y >> 3 ^ y)
}

fn skip(x: u32, y: u32) -> u32 {
    let mut sum = 0;
    for k in 0..20 {
        if x >> k & 1 == 0 {
            continue;
        }
        if sum > y % 50 {
            break;
        }
        sum += k;
    }
    sum
}

fn switches(x: u32, y: u32) -> u32 {
    match y % 7 {
        0 => x.wrapping_add(1),
        1 => x.wrapping_mul(3) ^ 5,
        2 => x ^ 5,
        3 => !x,
        4 => 0,
        5 => (x << 3).wrapping_sub(9),
        _ => x.wrapping_sub(9),
    }
}

fn nested(x: u32, y: u32) -> u32 {
    let mut s = 0;
    for i in 0..x % 9 {
        for j in i..y % 7 {
            if i * j == 6 {
                return s;
            }
            s += i * j + 1;
        }
    }
    s
}

/// The words that a warp works on, with the index of the first.
fn warps(words: &[u32]) -> impl Iterator<Item = (usize, &[u32])> {
    words.chunks(32).enumerate().map(|(w, lanes)| (w * 32, lanes))
}

/// All rows.
pub fn rows() -> Vec<Row> {
    const T: [u32; 8] = [3, 1, 4, 1, 5, 9, 2, 6];
    let each = [
        each("add", |a, b| a.wrapping_add(b)),
        each("mul_high", |a, b| {
            let unsigned = (u64::from(a) * u64::from(b)) >> 32;
            let signed = (i64::from(a as i32) * i64::from(b as i32)) >> 32;
            unsigned as u32 ^ signed as u32
        }),
        each("divide", |a, b| (a / (b | 1)).wrapping_add((a as i32 % (b >> 20 | 1) as i32) as u32)),
        each("divide_64", |a, b| {
            let x = u64::from(a) << 32 | u64::from(b);
            (x / u64::from(a >> 3 | 1)) as u32 ^ (x % u64::from(b | 1)) as u32
        }),
        each("bits", |a, b| {
            let ffs = if a == 0 { 0 } else { a.trailing_zeros() + 1 };
            let sum = a.count_ones() + (b.leading_zeros() << 8) + (ffs << 16);
            sum.wrapping_add(b.reverse_bits() & 0xff00_0000)
        }),
        each("bytes", |a, b| {
            let [x, y] = [a, b].map(u32::to_le_bytes);
            u32::from_le_bytes([y[1], x[1], y[3], x[3]])
        }),
        each("funnel", |a, b| {
            let x = u64::from(b) << 32 | u64::from(a);
            ((x << 7) >> 32) as u32 ^ (x >> 13) as u32
        }),
        each("shift_far", |a, b| {
            let (x, s) = (u64::from(a) << 32 | u64::from(b), b & 63);
            ((x >> s) as u32).wrapping_add((x as i64 >> s) as u32).wrapping_add(((x << s) >> 32) as u32)
        }),
        each("bit_field", |a, b| a >> 5 & 0x7ff | (b & 0xfff) << 12),
        each("min_max", |a, b| ((a as i32).max(b as i32) as u32).wrapping_sub(a.min(b))),
        each("saturate", |a, _| (a as i32 >> 16).clamp(-128, 127) as u32),
        each("absolute_difference", |a, b| (a as i32).abs_diff(b as i32).wrapping_add(b)),
        each("dot4", |a, b| {
            let [x, y] = [a, b].map(|w| w.to_le_bytes().map(|v| i32::from(v as i8)));
            (100 + x.iter().zip(y).map(|(x, y)| x * y).sum::<i32>()) as u32
        }),
        each("chars", |a, b| (i32::from((a >> 8) as i8) * (b >> 16) as i32) as u32),
        each("philox", philox),
        each("crc", |a, _| {
            let step = |c: u32| if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 };
            !(0..32).fold(!a, |c, _| step(c))
        }),
        each("gcd", |a, b| {
            let (mut x, mut y) = (a & 0xffff, b & 0xffff);
            while y != 0 {
                (x, y) = (y, x % y);
            }
            x
        }),
        each("collatz", |a, _| {
            let (mut x, mut steps) = ((a & 0xff) + 1, 0);
            while x != 1 {
                x = if x % 2 == 1 { 3 * x + 1 } else { x / 2 };
                steps += 1;
            }
            steps
        }),
        each("find_first", |a, _| (0..32).find(|k| a >> k & 3 == 3).unwrap_or(99)),
        each("skip", skip),
        each("switches", switches),
        each("nested", nested),
        each("calls", |a, b| {
            let (p, q) = (mix(a, 1), mix(1, a));
            if b & 1 == 1 { mix(p, q) } else { q.wrapping_sub(p) }
        }),
        each("local_array", |a, b| (0..16).fold(0u32, |s, k| s.wrapping_add(a.wrapping_mul(b >> k & 15)))),
        each("constants", |a, b| T[(a & 7) as usize] * T[(b & 7) as usize]),
        each("structs", |a, b| b.wrapping_mul(2).wrapping_sub(a)),
        each("templates", |a, b| a.wrapping_pow(5).wrapping_add(b.wrapping_pow(2))),
    ];
    let each =
        each.map(|(kernel, word)| Row::new(kernel, [8, 1, 1], [128, 1], [1000, 1000], Want::Word(word)));
    let all = |kernel, grid, block, sizes, want| Row::new(kernel, grid, block, sizes, Want::All(want));
    let one = [1, 1, 1];
    let others = [
        all("vectors", [8, 1, 1], [128, 1], [1000, 1000], |a, b, _, out| {
            for (i, out) in out.iter_mut().enumerate() {
                let quad = i / 4 * 4;
                *out = a[quad].wrapping_add(a[quad + 3].wrapping_mul(3)).wrapping_add(b[i / 2 * 2 + 1]);
            }
        }),
        all("device_variable", one, [32, 1], [32, 4], |a, _, _, out| {
            (0..4).for_each(|i| out[i] = a[i].wrapping_add(1));
        }),
        all("histogram", one, [128, 1], [1000, 16], |a, _, n, out| {
            a[..n].iter().for_each(|&x| out[x as usize & 15] += 1);
        }),
        all("histogram_global", [8, 1, 1], [128, 1], [1000, 11], |a, b, n, out| {
            a[..n].iter().zip(b).for_each(|(&x, &y)| out[x as usize % 11] += y & 3);
        }),
        all("atomics", [8, 1, 1], [128, 1], [1000, 6], |a, b, n, out| {
            let a = &a[..n];
            out[0] = *a.iter().max().unwrap();
            out[2] = a.iter().fold(0, |x, y| x ^ y);
            out[3] = a.iter().fold(0, |x, y| x | y & 0xf0f0);
            out[5] = b[..n].iter().map(|&x| x as i32).max().unwrap().max(0) as u32;
        }),
        all("compare_and_swap", [2, 1, 1], [64, 1], [100, 1], |a, _, n, out| {
            out[0] = a[..n].iter().map(|x| x & 7).sum();
        }),
        all("atomic_64", [2, 1, 1], [64, 1], [100, 2], |a, _, n, out| {
            let sum: u64 = a[..n].iter().map(|&x| u64::from(x) << 8).sum();
            out.copy_from_slice(&[sum as u32, (sum >> 32) as u32]);
        }),
        all("scan", one, [256, 1], [200, 200], |a, _, _, out| {
            let mut sum = 0u32;
            out.iter_mut().zip(a).for_each(|(out, &x)| {
                sum = sum.wrapping_add(x);
                *out = sum;
            });
        }),
        all("reverse", one, [256, 1], [201, 201], |a, _, n, out| {
            out.iter_mut().zip(a[..n].iter().rev()).for_each(|(out, &x)| *out = x);
        }),
        all("transpose", [3, 2, 1], [16, 16], [0, 1536], |a, _, _, out| {
            (0..1536).for_each(|i| out[i % 48 * 32 + i / 48] = a[i]);
        }),
        all("bitonic", one, [256, 1], [256, 256], |a, _, _, out| {
            out.copy_from_slice(&a[..256]);
            out.sort_unstable();
        }),
        all("dynamic_shared", one, [100, 1], [100, 100], |a, b, n, out| {
            (0..n).for_each(|t| out[t] = a[(t + 1) % n].wrapping_sub(b[t]));
        }),
        all("grid_3d", [3, 2, 2], [8, 4], [380, 384], |a, _, n, out| {
            for (i, (out, &x)) in out.iter_mut().zip(&a[..n]).enumerate() {
                let (block, y) = (i / 32, i % 32 / 8);
                *out = x.wrapping_add((block / 6 * 100 + block / 3 % 2 * 10 + y) as u32);
            }
        }),
        all("last_block", [10, 1, 1], [64, 1], [0, 3], |_, _, _, out| out.copy_from_slice(&[45, 45, 10])),
        all("warp_sum", one, [64, 1], [64, 64], |a, _, _, out| {
            for (i, lanes) in warps(&a[..64]) {
                out[i..][..32].fill(lanes.iter().fold(0, |x, &y| x.wrapping_add(y)));
            }
        }),
        all("warp_scan", one, [64, 1], [64, 64], |a, _, _, out| {
            for (i, lanes) in warps(&a[..64]) {
                let mut sum = 0u32;
                for (lane, &x) in lanes.iter().enumerate() {
                    sum = sum.wrapping_add(x);
                    out[i + lane] = sum;
                }
            }
        }),
        all("warp_shift", one, [64, 1], [64, 64], |a, b, _, out| {
            for (i, out) in out.iter_mut().enumerate() {
                let down = if i % 32 < 29 { a[i + 3] } else { a[i] };
                *out = down ^ b[i / 8 * 8 + 5];
            }
        }),
        all("votes", one, [64, 1], [64, 64], |a, b, _, out| {
            for (i, lanes) in warps(&a[..64]) {
                let ballot = lanes.iter().enumerate().fold(0, |m, (lane, x)| m | (x & 1) << lane);
                let any = u32::from(b[i..][..32].contains(&3));
                out[i..][..32].fill(ballot.wrapping_add(any).wrapping_add(2));
            }
        }),
        all("matches", one, [64, 1], [64, 64], |a, _, _, out| {
            for (i, lanes) in warps(&a[..64]) {
                for (lane, x) in lanes.iter().enumerate() {
                    let same = |(other, y): (usize, &u32)| u32::from(x & 3 == y & 3) << other;
                    out[i + lane] = lanes.iter().enumerate().map(same).sum();
                }
            }
        }),
        all("redux", one, [64, 1], [64, 64], |a, b, _, out| {
            for (i, lanes) in warps(&a[..64]) {
                let sum = lanes.iter().fold(0u32, |x, &y| x.wrapping_add(y));
                let xor = lanes.iter().fold(0, |x, y| x ^ y);
                out[i..][..32].fill(sum ^ xor ^ b[i..][..32].iter().max().unwrap());
            }
        }),
        all("half_warp", one, [64, 1], [64, 64], |a, b, _, out| {
            for (i, lanes) in warps(&a[..64]) {
                out[i..][..16].fill(lanes[..16].iter().fold(0, |x, &y| x.wrapping_add(y)));
                out[i + 16..][..16].copy_from_slice(&b[i + 16..][..16]);
            }
        }),
        all("active", one, [64, 1], [64, 64], |a, _, _, out| (0..64).for_each(|i| out[i] = a[i] & 1)),
        all("aggregate", one, [128, 1], [128, 129], |a, _, _, out| {
            out[0] = a[..128].iter().filter(|&&x| x % 3 == 0).count() as u32;
            let found = out[0] as usize;
            out[1..=found].fill(1);
        }),
    ];
    each.into_iter().chain(others).collect()
}
