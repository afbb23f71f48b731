//! Round trips to the other regions: measured when the scheduler asks for it, answered for others.
//!
//! One host of a region answers each measurement. What a host measures against itself says nothing: such an answer is asked
//! for again, and a region in which nobody else answers has no value.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use lattice_core::id::{HostId, Region};
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::request::{Echo, MAX_PROBE_REGIONS, Probe};
use lattice_nats::{AskError, Lattice, StoreError};
use tokio::sync::watch;
use ulid::Ulid;

use crate::recorder::Origin;

/// Measurements of a region of which the median counts.
const SAMPLES: usize = 5;
/// Hosts wait a random part of this before they measure, so that they do not all at once.
const SPREAD: Duration = Duration::from_secs(10);
/// The same for a region that was never measured: somebody may be waiting for a first value.
const FIRST_SPREAD: Duration = Duration::from_millis(500);
/// Longest round trip that is waited for.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Requests to one region until another host than this one answers: of two hosts one answers so often in a row once in a
/// thousand times.
const ATTEMPTS: u32 = 10;

/// Median round trip to each region in microseconds.
pub(crate) type RoundTrips = BTreeMap<Region, u32>;

/// Measures and answers until the connection is closed for good.
pub(crate) async fn run(lattice: Lattice, origin: Origin, measured: watch::Sender<RoundTrips>) -> Result<(), StoreError> {
    tokio::try_join!(answer(&lattice, &origin), measure(&lattice, &origin.host, &measured)).map(drop)
}

async fn answer(lattice: &Lattice, origin: &Origin) -> Result<(), StoreError> {
    let subject = subject::round_trip(lattice.name(), &origin.region);
    let mut requests = lattice.subscribe_in(subject, subject::round_trip_queue(lattice.name(), &origin.region)).await?;
    let echo = wire::encode(&Echo { host: origin.host.clone() });
    while let Some(request) = requests.next().await {
        let Some(reply) = request.reply else { continue };
        if let Err(error) = lattice.connection().client().publish(reply, echo.clone().into()).await {
            tracing::debug!(%error, "a measurement was not answered");
        }
    }
    Ok(())
}

async fn measure(lattice: &Lattice, own: &HostId, measured: &watch::Sender<RoundTrips>) -> Result<(), StoreError> {
    let mut probes = lattice.subscribe(subject::probe(lattice.name())).await?;
    let mut samples: BTreeMap<Region, Samples> = BTreeMap::new();
    while let Some(mut probe) = probes.next().await {
        // Of several that wait the newest counts.
        while let Some(Some(newer)) = probes.next().now_or_never() {
            probe = newer;
        }
        let Ok(Probe { regions }) = wire::decode(&probe.payload) else { continue };
        let regions: BTreeSet<Region> = regions.into_iter().take(MAX_PROBE_REGIONS).collect();
        samples.retain(|region, _| regions.contains(region));
        let all_known = regions.iter().all(|region| samples.contains_key(region));
        tokio::time::sleep(random_part(if all_known { SPREAD } else { FIRST_SPREAD })).await;
        for region in regions {
            let trip = round_trip(lattice, own, &region).await;
            samples.entry(region).or_default().note(trip);
        }
        let medians = samples.iter().filter_map(|(region, samples)| Some((region.clone(), samples.median()?)));
        measured.send_replace(medians.collect());
    }
    Ok(())
}

/// How one measurement went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trip {
    /// It took so many microseconds.
    Took(u32),
    /// Nobody answered in time.
    Lost,
    /// There is nobody else.
    Nobody,
}

async fn round_trip(lattice: &Lattice, own: &HostId, region: &Region) -> Trip {
    if !lattice.connection().is_connected() {
        return Trip::Lost;
    }
    let subject = subject::round_trip(lattice.name(), region);
    for _ in 0..ATTEMPTS {
        let started = Instant::now();
        let answer = lattice.request(subject.clone(), Bytes::new(), TIMEOUT).await;
        let took = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        match answer.map(|answer| wire::decode::<Echo>(&answer)) {
            Ok(Ok(echo)) if echo.host == *own => {}
            Ok(Ok(_)) => return Trip::Took(took),
            Ok(Err(_)) => return Trip::Lost,
            Err(AskError::Nobody { .. }) => return Trip::Nobody,
            Err(AskError::TimedOut { .. } | AskError::Failed { .. }) => return Trip::Lost,
        }
    }
    Trip::Nobody
}

/// The last measurements of one region.
#[derive(Debug, Clone, Default)]
struct Samples(VecDeque<u32>);

impl Samples {
    fn note(&mut self, trip: Trip) {
        match trip {
            Trip::Took(micros) => {
                self.0.push_back(micros);
                if self.0.len() > SAMPLES {
                    self.0.pop_front();
                }
            }
            Trip::Lost => {}
            Trip::Nobody => self.0.clear(),
        }
    }

    fn median(&self) -> Option<u32> {
        let mut sorted: Vec<u32> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }
}

fn random_part(of: Duration) -> Duration {
    let millis = of.as_millis().max(1);
    Duration::from_millis(u64::try_from(Ulid::new().random() % millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_last_five_counts() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), None);
        for (micros, median) in [(100, 100), (900, 100), (300, 300), (200, 200), (100, 200), (250, 250), (1, 200)] {
            samples.note(Trip::Took(micros));
            assert_eq!(samples.median(), Some(median), "after {micros}: {samples:?}");
        }
        samples.note(Trip::Lost);
        assert_eq!(samples.median(), Some(200), "a lost one says nothing");
        samples.note(Trip::Nobody);
        assert_eq!(samples.median(), None);
    }

    #[test]
    fn a_part_is_a_part() {
        for _ in 0..100 {
            assert!(random_part(Duration::from_millis(3)) < Duration::from_millis(3));
        }
    }
}
