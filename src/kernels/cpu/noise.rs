//! Gumbel noise for blocks of tokens, to the bits of `reference/src/gumbel.rs` and `philox.rs`: the same IEEE
//! operations in the same order, without branches. Source: Philox-4x32-10, Salmon et al., SC 2011.

/// Tokens of a block.
pub const BLOCK: usize = 32;

/// No noise is larger: `-ln(2^-33)` is 22.87.
pub const MAX: f32 = 23.0;

/// The random words of tokens `begin..begin + BLOCK`, for a request's seed and the position that is drawn:
/// `[w][b]` is word `w` of Philox block `b`, which belongs to token `4 b + w`.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "one loop over the lanes of four arrays")]
pub fn words(seed: u64, position: u32, begin: u32) -> [[u32; BLOCK / 4]; 4] {
    const LANES: usize = BLOCK / 4;
    let mut c = [[0; LANES], [position; LANES], [0; LANES], [0; LANES]];
    for (l, c) in c[0].iter_mut().enumerate() {
        *c = begin / 4 + l as u32;
    }
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        for l in 0..LANES {
            let a = u64::from(c[0][l]) * 0xD251_1F53;
            let b = u64::from(c[2][l]) * 0xCD9E_8D57;
            c[0][l] = (b >> 32) as u32 ^ c[1][l] ^ key[0];
            c[2][l] = (a >> 32) as u32 ^ c[3][l] ^ key[1];
            (c[1][l], c[3][l]) = (b as u32, a as u32);
        }
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// No token of the block has more noise than this: that of the largest word, and a little for its rounding.
#[inline(always)]
pub fn bound(words: &[[u32; BLOCK / 4]; 4]) -> f32 {
    let [a, b, c, d] = words;
    let mut top = [0; BLOCK / 4];
    for (l, t) in top.iter_mut().enumerate() {
        *t = a[l].max(b[l]).max(c[l].max(d[l]));
    }
    gumbel(top.into_iter().fold(0, u32::max)) + 1e-4
}

/// The noise of each token of a block, in their order.
#[inline(always)]
pub fn of_words(words: &[[u32; BLOCK / 4]; 4]) -> [f32; BLOCK] {
    let mut noise = [0.0; BLOCK];
    for (w, words) in words.iter().enumerate() {
        let mut of = [0.0; BLOCK / 4];
        for (n, &x) in of.iter_mut().zip(words) {
            *n = gumbel(x);
        }
        for (l, n) in of.into_iter().enumerate() {
            noise[4 * l + w] = n;
        }
    }
    noise
}

/// `q(f)` with `ln(1 + f) = f + f² q(f)`, as in the oracle.
#[rustfmt::skip]
const Q: [f32; 9] = [
    -0.499_999_88, 0.333_333_25, -0.250_015_83, 0.200_019_75, -0.166_090_82,
    0.141_818_14, -0.132_429_85, 0.129_044_94, -0.076_218_56,
];

/// `k ln 2 + ln(1 + f)`. Fused multiply-adds are part of the definition, also where they are slow.
#[inline(always)]
fn ln(k: f32, f: f32) -> f32 {
    let mut q = Q[8];
    for c in [Q[7], Q[6], Q[5], Q[4], Q[3], Q[2], Q[1], Q[0]] {
        q = q.mul_add(f, c);
    }
    k.mul_add(std::f32::consts::LN_2, q.mul_add(f * f, f))
}

/// `(k, f)` with `x = 2^k (1 + f)`, 1 + f in sqrt(1/2)..sqrt(2), for normal positive x.
#[inline(always)]
fn parts(x: f32) -> (f32, f32) {
    const SQRT_HALF: u32 = std::f32::consts::FRAC_1_SQRT_2.to_bits();
    let above = x.to_bits().wrapping_sub(SQRT_HALF);
    let m = f32::from_bits((above & 0x007f_ffff) + SQRT_HALF);
    ((above as i32 >> 23) as f32, m - 1.0)
}

/// `-ln(-ln(u))` with `u = (x + 0.5) / 2^32`.
#[inline(always)]
fn gumbel(x: u32) -> f32 {
    const SCALE: f32 = 1.0 / 4_294_967_296.0;
    // Near u = 1 the logarithm starts from 1 - u, whose word is !x.
    let near_one = x >= 0xC000_0000;
    let u = ((if near_one { !x } else { x }) as f32 + 0.5) * SCALE;
    let (k, f) = parts(u);
    let exponential = -ln(if near_one { 0.0 } else { k }, if near_one { -u } else { f });
    let (k, f) = parts(exponential);
    -ln(k, f)
}

#[cfg(test)]
mod tests {
    use lathe_reference::{
        gumbel,
        philox::{Stream, word},
    };

    use super::*;

    #[test]
    fn noise_has_the_oracles_bits() {
        let ends = (0..3000).flat_map(|i| [i, !i, 0xC000_0000 - i, 0xC000_0000 + i, 1 << 31 | i]);
        for x in ends.chain((0..u32::MAX / 4999).map(|i| i * 4999)) {
            let (got, want) = (super::gumbel(x), gumbel::gumbel(x));
            assert_eq!(got.to_bits(), want.to_bits(), "{x:#x}: {got} {want}");
            assert!(got < MAX);
        }
    }

    #[test]
    fn blocks_are_the_oracles_words() {
        for (seed, position, begin) in
            [(0, 0, 0), (u64::MAX, 7, 32), (0x0123_4567_89ab_cdef, u32::MAX, 151_904)]
        {
            let words = words(seed, position, begin);
            for (i, got) in of_words(&words).into_iter().enumerate() {
                let want = gumbel::gumbel(word(seed, position, Stream::Gumbel, begin + i as u32));
                assert_eq!(got.to_bits(), want.to_bits(), "{seed} {position} {begin} {i}");
                assert!(got < bound(&words));
            }
        }
    }
}
