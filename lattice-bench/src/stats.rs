//! Numbers out of samples: medians, percentiles, and how sure a median is.
//!
//! The same samples give the same numbers: the bootstrap's seed is fixed.

use serde::Serialize;

/// How often the bootstrap draws: its ends move by less than a percent with more.
const DRAWS: u32 = 2000;
/// Seed of the bootstrap.
const SEED: u64 = 0x1a77_1ce5_0000_0003;
/// Ends of the interval that holds nine of ten medians.
const INTERVAL: (f64, f64) = (0.05, 0.95);

/// A median and the interval that it lies in with a confidence of 90 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    /// The median.
    pub(crate) median: f64,
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

impl Estimate {
    /// The median of `samples` with its bootstrap interval; `None` without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let middle = median(samples)?;
        let mut random = SplitMix(SEED);
        let mut medians = Vec::new();
        for _ in 0..DRAWS {
            let draw: Vec<f64> = samples.iter().filter_map(|_| samples.get(random.below(samples.len())).copied()).collect();
            medians.extend(median(&draw));
        }
        medians.sort_by(f64::total_cmp);
        Some(Self { median: middle, low: quantile(&medians, INTERVAL.0)?, high: quantile(&medians, INTERVAL.1)? })
    }
}

/// The middle of `samples`.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// The value below which the share `q` of `sorted` lies, between two neighbours in proportion.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q * to_f64(last);
    let below = sorted.get(to_index(position.floor()).min(last))?;
    let above = sorted.get(to_index(position.ceil()).min(last))?;
    Some(below + (above - below) * position.fract())
}

/// The three percentiles of a latency: what it is undisturbed, in the middle, and at its worst but for one in a hundred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) p1: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    /// Of samples in any order; `None` without samples.
    pub(crate) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        Some(Self { p1: quantile(&samples, 0.01)?, p50: quantile(&samples, 0.5)?, p99: quantile(&samples, 0.99)? })
    }
}

/// The geometric mean; `None` without samples.
pub(crate) fn geometric_mean(samples: &[f64]) -> Option<f64> {
    let sum: f64 = samples.iter().map(|sample| sample.ln()).sum();
    (!samples.is_empty()).then(|| (sum / to_f64(samples.len())).exp())
}

/// A count as a number to calculate with; exact up to 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub(crate) fn to_f64(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is checked by `get`")]
fn to_index(position: f64) -> usize {
    position as usize
}

/// A small generator of numbers that are random enough to draw samples with.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from((z ^ (z >> 31)) % limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let check = |samples: &[f64], q: f64, expected: Option<f64>| assert_eq!(quantile(samples, q), expected, "{samples:?} {q}");
        check(&[], 0.5, None);
        check(&[7.0], 0.99, Some(7.0));
        check(&[1.0, 2.0], 0.5, Some(1.5));
        check(&[1.0, 2.0, 3.0], 0.0, Some(1.0));
        check(&[1.0, 2.0, 3.0], 1.0, Some(3.0));
    }

    #[test]
    fn the_interval_holds_the_median_and_repeats() {
        let samples: Vec<f64> = (0..15).map(|n| f64::from(n % 5) + 1.0).collect();
        let first = Estimate::of(&samples).unwrap();
        assert!(first.low <= first.median && first.median <= first.high, "{first:?}");
        assert!(first.low > 1.0 && first.high < 5.0, "{first:?}");
        assert_eq!(Estimate::of(&samples), Some(first));
        assert_eq!(Estimate::of(&[2.0; 9]), Some(Estimate { median: 2.0, low: 2.0, high: 2.0 }));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn the_geometric_mean_is_between() {
        let mean = geometric_mean(&[1.0, 4.0]).unwrap();
        assert!((mean - 2.0).abs() < 1e-9, "{mean}");
    }
}
