//! The highest rate that keeps the SLO.

use crate::error::Result;

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knee {
    /// The highest rate tried that keeps the SLO; 0 if none does.
    pub rate: f64,
    /// The share of requests within the SLO there.
    pub share: f64,
    /// The lowest rate tried that does not.
    pub broken_at: f64,
}

/// Times that the rate is doubled or halved to find a bracket.
const BRACKET: usize = 14;
/// The bracket is narrowed to this ratio.
const RATIO: f64 = 1.02;

/// Searches for the highest rate at which `share_at` (the share of requests within the SLO) is at least `want`, from
/// `start` on: doubling, then bisection. It takes the share to fall with the rate, which noise may belie near the knee.
///
/// # Errors
/// Those of `share_at`.
pub fn knee(start: f64, want: f64, mut share_at: impl FnMut(f64) -> Result<f64>) -> Result<Knee> {
    let (mut good, mut bad) = ((0.0, 1.0), f64::INFINITY);
    let mut rate = start;
    for _ in 0..BRACKET {
        let share = share_at(rate)?;
        if share >= want {
            good = (rate, share);
        } else {
            bad = bad.min(rate);
        }
        if good.0 > 0.0 && bad.is_finite() {
            break;
        }
        rate *= if share >= want { 2.0 } else { 0.5 };
    }
    while good.0 > 0.0 && bad.is_finite() && bad / good.0 > RATIO {
        let middle = (good.0 * bad).sqrt();
        let share = share_at(middle)?;
        if share >= want { good = (middle, share) } else { bad = middle }
    }
    Ok(Knee { rate: good.0, share: good.1, broken_at: bad })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_knee_from_above_and_below() {
        for start in [0.1, 7.0, 900.0] {
            let found = knee(start, 0.9, |rate| Ok(if rate <= 10.0 { 0.95 } else { 0.2 })).unwrap();
            assert!(found.rate <= 10.0 && found.rate > 9.7 && found.broken_at > 10.0, "{found:?}");
            assert_eq!(found.share, 0.95);
        }
        assert_eq!(knee(1.0, 0.9, |_| Ok(0.0)).unwrap().rate, 0.0);
        assert_eq!(knee(1.0, 0.9, |_| Ok(1.0)).unwrap().broken_at, f64::INFINITY);
    }
}
