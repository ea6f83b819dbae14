//! Philox-4x32-10, the counter-based random number generator behind every draw.
//!
//! Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; test vectors from Random123.
//! A draw is a pure function of (seed, position, stream, index), so it does not depend on the batch a request
//! runs in, on chunking, on preemption or on the device.

/// Four random words for one key and counter: ten rounds of multiply, swap and xor.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut key = [key as u32, (key >> 32) as u32];
    let mut c = counter;
    for _ in 0..10 {
        let a = u64::from(c[0]) * 0xD251_1F53;
        let b = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(b >> 32) as u32 ^ c[1] ^ key[0], b as u32, (a >> 32) as u32 ^ c[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// What random words are used for; keeps the uses at one position independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Gumbel noise; the index is the token id.
    Gumbel = 0,
    /// The one uniform of an inverse-CDF draw; the index is 0.
    Inverse = 1,
}

/// The random word at `index` of a stream: word `index % 4` of
/// `philox(seed, [index / 4, position, stream, 0])`.
///
/// - `seed`: the request's; samples of one prompt (`n > 1`) have a seed each
/// - `position`: index in its sequence, prompt included, of the token being drawn
pub fn word(seed: u64, position: u32, stream: Stream, index: u32) -> u32 {
    philox(seed, [index / 4, position, stream as u32, 0])[(index % 4) as usize]
}

/// `(x + 0.5) * 2^-32`, in (0, 1) and exact in f64.
///
/// Not f32: there the 128 largest words would round to 1.
pub fn uniform(x: u32) -> f64 {
    (f64::from(x) + 0.5) / 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random123_known_answers() {
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        // The digits of π; key words a4093822 (low) and 299f31d0 (high).
        assert_eq!(
            philox(0x299f_31d0_a409_3822, [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn words_of_a_stream_are_the_blocks_in_order() {
        let block = philox(7, [2, 100, 1, 0]);
        for i in 0..4 {
            assert_eq!(word(7, 100, Stream::Inverse, 8 + i), block[i as usize]);
        }
        assert_ne!(word(7, 100, Stream::Gumbel, 8), block[0]);
    }

    #[test]
    fn uniforms_stay_inside_the_interval_and_are_symmetric() {
        assert_eq!(uniform(0), 2f64.powi(-33));
        assert_eq!(uniform(u32::MAX), 1.0 - 2f64.powi(-33));
        assert_eq!(uniform(1 << 31) + uniform((1 << 31) - 1), 1.0);
    }
}
