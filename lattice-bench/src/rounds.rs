//! Rounds: every side of a comparison once, one after the other, in an order that rotates.
//!
//! **Invariants.** All sides of a round run under the same conditions as far as this program can tell: a round in which
//! others took more than [`MAX_OTHERS`] of the machine is thrown away and run again. The first round warms up and does not
//! count. A ratio is that of two sides of one round, never of two rounds.

use async_trait::async_trait;
use serde::Serialize;

use crate::Error;
use crate::machine::CpuTimes;
use crate::stats::{Estimate, Percentiles, median};

/// Share of all cores that others may take during a round.
const MAX_OTHERS: f64 = 0.15;
/// Rounds that are thrown away at most, per round that counts; beyond it a disturbed round counts, and is counted.
const MAX_RETRIES_PER_ROUND: usize = 1;

/// One side of a comparison.
#[async_trait(?Send)]
pub(crate) trait Side {
    /// `lattice`, `native`, `floor`, …
    fn name(&self) -> &'static str;
    /// Does its work once and says what it cost.
    async fn round(&mut self) -> Result<Reading, Error>;
}

/// A side made of an async closure.
pub(crate) fn side<'a>(name: &'static str, round: impl AsyncFnMut() -> Result<Reading, Error> + 'a) -> Box<dyn Side + 'a> {
    struct Closure<F>(&'static str, F);

    #[async_trait(?Send)]
    impl<F: AsyncFnMut() -> Result<Reading, Error>> Side for Closure<F> {
        fn name(&self) -> &'static str {
            self.0
        }

        async fn round(&mut self) -> Result<Reading, Error> {
            (self.1)().await
        }
    }

    Box::new(Closure(name, round))
}

/// What one side gave in one round: named numbers, and what came of the checks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    values: Vec<(&'static str, f64)>,
    checks: Checks,
}

impl Reading {
    /// Nothing but `done` pieces of work that were checked and found right.
    pub(crate) fn right(done: u64) -> Self {
        Self::checked(Checks { right: done, ..Checks::default() })
    }

    /// With what was found.
    pub(crate) fn checked(checks: Checks) -> Self {
        Self { values: Vec::new(), checks }
    }

    /// Adds a number.
    pub(crate) fn with(mut self, metric: &'static str, value: f64) -> Self {
        self.values.push((metric, value));
        self
    }

    /// Adds `p1`, `p50` and `p99` of a latency.
    pub(crate) fn with_percentiles(self, samples: Vec<f64>) -> Self {
        match Percentiles::of(samples) {
            Some(Percentiles { p1, p50, p99 }) => self.with("p1", p1).with("p50", p50).with("p99", p99),
            None => self,
        }
    }

    fn value(&self, metric: &str) -> Option<f64> {
        self.values.iter().find(|(name, _)| *name == metric).map(|(_, value)| *value)
    }
}

/// What became of the pieces of work of a row. Anything but `right` fails the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Checks {
    /// Arrived once, in order where that was promised, with the right content.
    pub(crate) right: u64,
    /// Did not arrive.
    pub(crate) lost: u64,
    /// Arrived more than once.
    pub(crate) doubled: u64,
    /// Arrived with other content, out of order, or as an error.
    pub(crate) wrong: u64,
}

impl Checks {
    /// Whether nothing was lost, doubled or wrong.
    pub(crate) fn are_good(&self) -> bool {
        (self.lost, self.doubled, self.wrong) == (0, 0, 0)
    }

    /// Adds what another part found.
    pub(crate) fn add(&mut self, other: &Self) {
        self.right += other.right;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.wrong += other.wrong;
    }
}

/// How busy others kept the machine.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Disturbance {
    /// Largest share of all cores that others took in a round that counts.
    pub(crate) worst: f64,
    /// Rounds that were thrown away.
    pub(crate) thrown_away: usize,
    /// Rounds that count although others took too much.
    pub(crate) kept: usize,
}

impl Disturbance {
    /// Adds that of another part.
    pub(crate) fn add(&mut self, other: &Self) {
        self.worst = self.worst.max(other.worst);
        self.thrown_away += other.thrown_away;
        self.kept += other.kept;
    }
}

/// The readings of all rounds that count.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    sides: Vec<(&'static str, Vec<Reading>)>,
    pub(crate) disturbance: Disturbance,
}

impl Samples {
    /// The median over rounds of the ratio of `ours` to `other`.
    ///
    /// # Errors
    /// A side did not give this number.
    pub(crate) fn ratio(&self, metric: &str, ours: &str, other: &str) -> Result<Estimate, Error> {
        let (ours, other) = (self.all(ours, metric)?, self.all(other, metric)?);
        let ratios: Vec<f64> = ours.iter().zip(&other).map(|(ours, other)| ours / other).collect();
        Estimate::of(&ratios).ok_or_else(|| "no rounds".into())
    }

    /// The median over rounds of one side's number.
    ///
    /// # Errors
    /// The side did not give it.
    pub(crate) fn value(&self, metric: &str, side: &str) -> Result<f64, Error> {
        median(&self.all(side, metric)?).ok_or_else(|| "no rounds".into())
    }

    /// One side's number in each round.
    ///
    /// # Errors
    /// The side did not give it.
    pub(crate) fn all(&self, side: &str, metric: &str) -> Result<Vec<f64>, Error> {
        let (_, readings) = self.sides.iter().find(|(name, _)| *name == side).ok_or_else(|| format!("no side `{side}`"))?;
        let values: Option<Vec<f64>> = readings.iter().map(|reading| reading.value(metric)).collect();
        values.ok_or_else(|| format!("side `{side}` gave no `{metric}`").into())
    }

    /// What all sides found, all rounds together.
    pub(crate) fn checks(&self) -> Checks {
        let mut sum = Checks::default();
        self.sides.iter().flat_map(|(_, readings)| readings).for_each(|reading| sum.add(&reading.checks));
        sum
    }
}

/// Runs `rounds` rounds of all `sides`, after one that warms up.
///
/// # Errors
/// The first error of a side: a side that fails has no number to compare.
pub(crate) async fn interleave(rounds: usize, sides: &mut [Box<dyn Side + '_>]) -> Result<Samples, Error> {
    one_round(0, sides).await?;
    let mut samples = Samples { sides: sides.iter().map(|side| (side.name(), Vec::new())).collect(), ..Samples::default() };
    let mut retries = rounds * MAX_RETRIES_PER_ROUND;
    let mut number = 0;
    while number < rounds {
        let before = CpuTimes::now()?;
        let readings = one_round(number, sides).await?;
        let others = CpuTimes::now()?.others_since(&before);
        let disturbed = others > MAX_OTHERS;
        if disturbed && retries > 0 {
            retries -= 1;
            samples.disturbance.thrown_away += 1;
            continue;
        }
        samples.disturbance.kept += usize::from(disturbed);
        samples.disturbance.worst = samples.disturbance.worst.max(others);
        for ((_, all), reading) in samples.sides.iter_mut().zip(readings) {
            all.push(reading);
        }
        number += 1;
    }
    Ok(samples)
}

/// One round, beginning with side `number`; readings come in the order of `sides`.
async fn one_round(number: usize, sides: &mut [Box<dyn Side + '_>]) -> Result<Vec<Reading>, Error> {
    let count = sides.len();
    let mut readings = vec![Reading::default(); count];
    for turn in 0..count {
        let position = (number + turn) % count;
        if let (Some(side), Some(reading)) = (sides.get_mut(position), readings.get_mut(position)) {
            *reading = side.round().await?;
        }
    }
    Ok(readings)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn sides_take_turns_in_a_rotating_order() {
        let order = RefCell::new(String::new());
        let step = |name: &'static str, cost: f64| {
            let order = &order;
            side(name, async move || {
                order.borrow_mut().push_str(name);
                Ok(Reading::right(1).with("cost", cost))
            })
        };
        let mut sides = [step("a", 3.0), step("b", 1.5), step("c", 1.0)];
        let samples = interleave(3, &mut sides).await.unwrap();
        assert!(order.borrow().starts_with("abcabc"), "{order:?}");
        assert!(order.borrow().contains("bca") && order.borrow().contains("cab"), "{order:?}");
        assert_eq!(samples.ratio("cost", "a", "b").unwrap(), Estimate { median: 2.0, low: 2.0, high: 2.0 });
        assert_eq!(samples.checks(), Checks { right: 9, ..Checks::default() }, "the round that warms up does not count");
        assert!(samples.ratio("cost", "a", "d").is_err() && samples.value("time", "a").is_err());
    }

    #[tokio::test]
    async fn a_failing_side_ends_the_row() {
        let mut sides = [side("a", async || Err("broken".into()))];
        assert_eq!(interleave(3, &mut sides).await.unwrap_err().to_string(), "broken");
    }
}
