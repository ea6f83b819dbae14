//! What to run: nano-vLLM's workload, or a file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// One request of a benchmark; it generates exactly `max_tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Request {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Tokens to generate.
    pub max_tokens: usize,
}

/// The requests of `{"requests": [{"prompt": [ids], "max_tokens": n}, …]}`; other fields are left alone.
///
/// # Errors
/// If the file cannot be read or has another form, or no requests.
pub fn from_file(path: &Path) -> Result<Vec<Request>> {
    #[derive(Deserialize)]
    struct File {
        requests: Vec<Request>,
    }
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    let file: File = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    ensure!(!file.requests.is_empty(), "{}: requests is empty, expected at least one", path.display());
    Ok(file.requests)
}

/// The workload of nano-vLLM's bench.py, token for token: 256 prompts of 100 to 1024 tokens, ids up to 10,000 (modulo
/// `vocab`, if that is smaller), 100 to 1024 tokens to generate each. A `length_scale` below 1 shortens the prompts and
/// outputs that were drawn.
pub fn nano(length_scale: f64, vocab: usize) -> Vec<Request> {
    let mut random = PythonRandom::new(0);
    let scaled = |len: usize| ((len as f64 * length_scale).round() as usize).clamp(1, len);
    let prompt = |random: &mut PythonRandom| {
        let len = random.randint(100, 1024);
        let mut ids: Vec<u32> = (0..len).map(|_| random.randint(0, 10_000) % vocab as u32).collect();
        ids.truncate(scaled(ids.len()));
        ids
    };
    // All prompts are drawn before the first output length.
    let prompts: Vec<Vec<u32>> = (0..256).map(|_| prompt(&mut random)).collect();
    let mut output_len = || scaled(random.randint(100, 1024) as usize);
    prompts.into_iter().map(|prompt| Request { prompt, max_tokens: output_len() }).collect()
}

/// A prompt of `len` tokens, uniform below `vocab`.
pub fn random_prompt(seed: u32, len: usize, vocab: usize) -> Vec<u32> {
    let mut random = PythonRandom::new(seed);
    (0..len).map(|_| random.randint(0, vocab as u32 - 1)).collect()
}

/// Python's `random.Random(seed)` for `randint`: the Mersenne Twister.
///
/// Source: M. Matsumoto and T. Nishimura, ACM TOMACS 8 (1998), with the 2002 initialisation by array; `_randbelow` of
/// CPython's `Lib/random.py`.
struct PythonRandom {
    state: [u32; Self::N],
    next: usize,
}

impl PythonRandom {
    const N: usize = 624;

    fn new(seed: u32) -> Self {
        let mut s = [0u32; Self::N];
        s[0] = 19_650_218;
        for i in 1..Self::N {
            s[i] = (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        // The seed as an array of one word.
        let mut i = 1;
        for _ in 0..Self::N {
            s[i] = (s[i] ^ (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_664_525)).wrapping_add(seed);
            (i, s[0]) = Self::after(i, &s);
        }
        for _ in 1..Self::N {
            s[i] = (s[i] ^ (s[i - 1] ^ (s[i - 1] >> 30)).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            (i, s[0]) = Self::after(i, &s);
        }
        s[0] = 1 << 31;
        Self { state: s, next: Self::N }
    }

    /// The next index of the initialisation, and what the first word becomes: the last one when it wraps around.
    fn after(i: usize, s: &[u32; Self::N]) -> (usize, u32) {
        if i + 1 == Self::N { (1, s[Self::N - 1]) } else { (i + 1, s[0]) }
    }

    fn next_u32(&mut self) -> u32 {
        const M: usize = 397;
        if self.next == Self::N {
            let s = &mut self.state;
            for i in 0..Self::N {
                let y = (s[i] & (1 << 31)) | (s[(i + 1) % Self::N] & !(1 << 31));
                s[i] = s[(i + M) % Self::N] ^ (y >> 1) ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// Uniform in `low..=high`.
    fn randint(&mut self, low: u32, high: u32) -> u32 {
        let count = high - low + 1;
        let bits = u32::BITS - count.leading_zeros();
        loop {
            let draw = self.next_u32() >> (u32::BITS - bits);
            if draw < count {
                return low + draw;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_pythons() {
        // python3 -c 'import random; random.seed(0); print([random.randint(0, 10000) for _ in range(6)])'
        let mut random = PythonRandom::new(0);
        let draws: Vec<u32> = (0..6).map(|_| random.randint(0, 10_000)).collect();
        assert_eq!(draws, [6311, 6890, 663, 4242, 8376, 7961]);
    }

    #[test]
    fn the_whole_workload_is_nanos() {
        // The total that nano-vLLM's README reports: "Output tokens: 133,966".
        let requests = nano(1.0, 151_936);
        assert_eq!(requests.iter().map(|r| r.max_tokens).sum::<usize>(), 133_966);
        assert_eq!(requests.iter().map(|r| r.prompt.len()).sum::<usize>(), 142_827);
    }

    #[test]
    fn lengths_scale_and_ids_stay_in_the_vocabulary() {
        let (whole, small) = (nano(1.0, 50_000), nano(0.1, 50));
        for (whole, small) in whole.iter().zip(&small) {
            assert_eq!(small.prompt.len(), (whole.prompt.len() as f64 * 0.1).round() as usize);
            assert_eq!(small.max_tokens, (whole.max_tokens as f64 * 0.1).round() as usize);
            assert!(small.prompt.iter().zip(&whole.prompt).all(|(s, w)| *s == w % 50));
        }
    }
}
