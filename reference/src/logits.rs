//! Logits processing: from the language model head to what is sampled from.
//!
//! Source: the order is vLLM's (`v1/sample/sampler.py`); repetition penalty and min-p as in Hugging Face's
//! `logits_process.py`, min-p after the temperature, by which [`temper`](crate::sampling::temper) divides later; frequency
//! and presence penalties as in OpenAI's API; soft-cap as in Gemma 2,
//! arXiv:2408.00118. Every elementwise step but the soft-cap is one f32 operation, as in both projects, and so
//! are its roundings: a kernel can match them bit for bit (products and differences separate, not fused).

/// What to do to one row. The default does nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitsParams<'a> {
    /// Final soft-cap: `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
    /// Added to the logits of single tokens.
    pub logit_bias: &'a [(i32, f32)],
    /// Tokens that must not be drawn, such as stop tokens before `min_tokens`.
    pub suppress: &'a [i32],
    /// Prompt tokens, for the repetition penalty.
    pub prompt: &'a [i32],
    /// Tokens generated so far, for all penalties.
    pub output: &'a [i32],
    /// Over the set of prompt and output tokens: positive logits are divided by it, others multiplied.
    pub repetition_penalty: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted once if in the output.
    pub presence_penalty: f32,
    /// What the logits will be divided by, for `min_p`; 0 means greedy.
    pub temperature: f32,
    /// Tokens less likely than `min_p` times the likeliest, after the temperature, are masked; not when greedy.
    pub min_p: f32,
}

impl Default for LogitsParams<'_> {
    fn default() -> Self {
        Self {
            softcap: None,
            logit_bias: &[],
            suppress: &[],
            prompt: &[],
            output: &[],
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            temperature: 1.0,
            min_p: 0.0,
        }
    }
}

/// Processes one row `[vocab]` in place, in the order of the fields of [`LogitsParams`]. Token ids are in
/// `0..vocab`; masked tokens become -inf.
///
/// vLLM suppresses before it adds the bias; with finite biases the result is the same.
pub fn process(row: &mut [f32], params: &LogitsParams) {
    let p = params;
    if let Some(cap) = p.softcap {
        for l in row.iter_mut() {
            *l = (f64::from(cap) * (f64::from(*l) / f64::from(cap)).tanh()) as f32;
        }
    }
    for &(token, bias) in p.logit_bias {
        row[token as usize] += bias;
    }
    for &token in p.suppress {
        row[token as usize] = f32::NEG_INFINITY;
    }

    let mut seen = vec![false; row.len()];
    let mut count = vec![0u32; row.len()];
    for &token in p.prompt {
        seen[token as usize] = true;
    }
    for &token in p.output {
        seen[token as usize] = true;
        count[token as usize] += 1;
    }
    for (token, l) in row.iter_mut().enumerate() {
        if seen[token] {
            *l = if *l > 0.0 { *l / p.repetition_penalty } else { *l * p.repetition_penalty };
        }
        if count[token] > 0 {
            *l -= p.frequency_penalty * count[token] as f32;
            *l -= p.presence_penalty;
        }
    }

    if p.temperature > 0.0 {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) / p.temperature;
        let floor = min_p_floor(p.min_p);
        for l in row.iter_mut().filter(|l| **l / p.temperature - max < floor) {
            *l = f32::NEG_INFINITY;
        }
    }
}

/// `ln(min_p)`: a token is masked if `logit - max_logit` (an f32 difference) is below it.
///
/// The same as `p < min_p * p_max` without an exponential. -inf, which masks nothing, for 0.
pub fn min_p_floor(min_p: f32) -> f32 {
    f64::from(min_p).ln() as f32
}

/// Whether no distribution can be made of a row: it has a NaN or a +inf, or nothing finite.
pub fn is_unusable(row: &[f32]) -> bool {
    row.iter().any(|l| l.is_nan() || *l == f32::INFINITY) || !row.iter().any(|l| l.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INF: f32 = f32::INFINITY;

    fn processed<const N: usize>(mut row: [f32; N], params: &LogitsParams) -> [f32; N] {
        process(&mut row, params);
        row
    }

    #[test]
    fn the_default_does_nothing() {
        let row = [1.5, -2.0, 0.0, -INF, 80.0];
        assert_eq!(processed(row, &LogitsParams::default()), row);
    }

    #[test]
    fn softcap() {
        let got =
            processed([0.0, 30.0, -3000.0], &LogitsParams { softcap: Some(30.0), ..Default::default() });
        assert_eq!(got, [0.0, (30.0 * 1f64.tanh()) as f32, -30.0]);
    }

    #[test]
    fn bias_then_suppression() {
        let params =
            LogitsParams { logit_bias: &[(0, 2.0), (2, 100.0)], suppress: &[2], ..Default::default() };
        assert_eq!(processed([1.0, 1.0, 1.0], &params), [3.0, 1.0, -INF]);
    }

    #[test]
    fn repetition_penalty_divides_positive_and_multiplies_negative_once_per_token() {
        let params = LogitsParams {
            repetition_penalty: 2.0,
            prompt: &[0, 0, 1],
            output: &[1, 2],
            ..Default::default()
        };
        assert_eq!(processed([4.0, -4.0, 0.0, 4.0], &params), [2.0, -8.0, 0.0, 4.0]);
    }

    #[test]
    fn frequency_counts_and_presence_does_not_and_the_prompt_is_exempt() {
        let params = LogitsParams {
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            prompt: &[0],
            output: &[1, 2, 2, 2],
            ..Default::default()
        };
        assert_eq!(processed([1.0; 4], &params), [1.0, 0.25, -0.75, 1.0]);
    }

    #[test]
    fn penalties_come_after_the_bias() {
        let params = LogitsParams {
            logit_bias: &[(0, 3.0)],
            repetition_penalty: 2.0,
            presence_penalty: 1.0,
            output: &[0],
            ..Default::default()
        };
        // (-1 + 3) / 2 - 1
        assert_eq!(processed([-1.0, 1.0], &params), [0.0, 1.0]);
    }

    #[test]
    fn temperature_zero_is_greedy_and_ignores_min_p() {
        let params = LogitsParams { temperature: 0.0, min_p: 0.9, ..Default::default() };
        assert_eq!(processed([1.0, 5.0], &params), [1.0, 5.0]);
    }

    #[test]
    fn min_p_is_relative_to_the_likeliest_after_temperature() {
        // After temperature 2: gaps 0, 1, 3 under the maximum, so ratios 1, 0.37, 0.05.
        let params = LogitsParams { temperature: 2.0, min_p: 0.1, ..Default::default() };
        assert_eq!(processed([6.0, 4.0, 0.0], &params), [6.0, 4.0, -INF]);
        // Alone, the temperature changes nothing yet.
        let params = LogitsParams { temperature: 2.0, ..Default::default() };
        assert_eq!(processed([6.0, 4.0, 0.0], &params), [6.0, 4.0, 0.0]);
        let params = LogitsParams { min_p: 1.0, ..Default::default() };
        assert_eq!(processed([2.0, 1.9, 2.0], &params), [2.0, -INF, 2.0]);
    }

    #[test]
    fn unusable_rows() {
        assert!(!is_unusable(&[0.0, -INF]));
        assert!(is_unusable(&[0.0, f32::NAN]));
        assert!(is_unusable(&[0.0, INF]));
        assert!(is_unusable(&[-INF, -INF]));
        assert!(is_unusable(&[]));
    }
}
