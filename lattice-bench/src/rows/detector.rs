//! What a heartbeat costs the detector of a failover actor that knows few or many hosts.

use std::time::Instant;

use lattice_core::liveness::{Detector, FailoverSettings};
use lattice_core::wire;
use lattice_core::wire::report::HostReport;

use super::placement::report;
use crate::Error;
use crate::bench::Bench;
use crate::rounds::{Checks, Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stats::to_f64;

/// Heartbeats in one round.
const HEARTBEATS: usize = 2_000;
/// Between two heartbeats of one host in milliseconds.
const INTERVAL_MS: u64 = 1_000;

/// Reading it, counting it, and asking what is due: what one heartbeat makes the actor do.
pub(crate) async fn heartbeats(bench: &Bench) -> Result<Outcome, Error> {
    let count = bench.work(HEARTBEATS);
    let mut small = Crowd::new(100)?;
    let mut large = Crowd::new(10_000)?;
    let mut sides = [side("100 hosts", async || small.round(count)), side("10,000 hosts", async || large.round(count))];
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    let line = Line::compare("heartbeat to the detector", "us", &samples, "us", ("10,000 hosts", "100 hosts"))?;
    // Caches and the depth of trees are allowed for; a cost by number would be a hundred times as much.
    Ok(Outcome::of(&samples, vec![line.goal(Goal::RatioAtMost(3.0))]))
}

/// A detector, its hosts, and their heartbeats, evenly spread over the interval.
struct Crowd {
    detector: Detector,
    reports: Vec<HostReport>,
    beats: u64,
}

impl Crowd {
    fn new(hosts: usize) -> Result<Self, Error> {
        let reports = (0..hosts).map(report).collect::<Result<Vec<_>, _>>()?;
        let mut crowd = Self { detector: Detector::new(FailoverSettings::default(), 0), reports, beats: 0 };
        // Until it has seen everybody a few times and judges by their rhythm.
        for _ in 0..5 {
            crowd.round(hosts)?;
        }
        Ok(crowd)
    }

    /// So many heartbeats, of all hosts in turn.
    fn round(&mut self, count: usize) -> Result<Reading, Error> {
        let hosts = u64::try_from(self.reports.len())?;
        let mut payloads = Vec::with_capacity(count);
        for _ in 0..count {
            let report = self.reports.get_mut(usize::try_from(self.beats % hosts)?).ok_or("no hosts")?;
            report.seq += 1;
            payloads.push((wire::encode(report), self.beats * INTERVAL_MS / hosts));
            self.beats += 1;
        }
        let mut wrong = 0_u64;
        let start = Instant::now();
        for (payload, now) in &payloads {
            let told = wire::decode::<HostReport>(payload).is_ok_and(|report| self.detector.handle_heartbeat(&report, *now));
            // Nobody fails, so nothing is to be done.
            wrong += u64::from(!told || self.detector.poll(*now).is_some());
            std::hint::black_box(self.detector.poll_timeout(*now));
        }
        let us = start.elapsed().as_secs_f64() * 1e6 / to_f64(count.max(1));
        let right = u64::try_from(count)?.saturating_sub(wrong);
        Ok(Reading::checked(Checks { right, wrong, ..Checks::default() }).with("us", us))
    }
}
