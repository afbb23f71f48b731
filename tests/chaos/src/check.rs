//! The one checker: reads everything back and compares it with what was acknowledged and heard.
//!
//! It knows nothing of the fault. What a row may ask of it is [`Limits`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::StreamExt as _;
use lattice_core::id::HostName;
use lattice_core::wire::event::EventKind;
use lattice_core::wire::failover::Failover;
use lattice_core::{subject, wire};
use serde::Serialize;

use crate::arena::{Arena, FENCED_BUCKET, SHARED_BUCKET};
use crate::load::{Acknowledged, Id, Stream};
use crate::observer::{Heard, Seen};
use crate::trace;

/// How long everything that was acknowledged may take to be applied after the fault has ended and the load has stopped.
pub(crate) const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at what is applied.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Examples of what is not as it should be, for each property.
const MAX_EXAMPLES: usize = 5;
/// How long one reading of a bucket may take.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// What must hold, named after the reference's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Property {
    /// P1: every acknowledged reading was processed.
    Lost,
    /// P2: every effect of a fenced actor is there once, in its list and for its subscriber.
    Doubled,
    /// P3: no two owners: strict actors never work at two places at once, no stale owner's write is in a list.
    Owners,
    /// P6: results came again in time, on each stream.
    Recovery,
    /// P7: those that the fault did not touch went on.
    Others,
    /// No host was taken for dead to which nothing was done.
    FalseVerdicts,
    /// What the row asks for besides.
    Expected,
}

impl Property {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 7] =
        [Self::Lost, Self::Doubled, Self::Owners, Self::Recovery, Self::Others, Self::FalseVerdicts, Self::Expected];

    /// Head of its column.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Self::Lost => "P1 lost",
            Self::Doubled => "P2 doubled",
            Self::Owners => "P3 two owners",
            Self::Recovery => "P6 late",
            Self::Others => "P7 others",
            Self::FalseVerdicts => "false verdicts",
            Self::Expected => "expected",
        }
    }
}

/// What came of one property.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// How much was looked at.
    pub(crate) checked: u64,
    /// How much of it was not as it should be.
    pub(crate) violated: u64,
    /// Examples of that, and figures.
    pub(crate) notes: Vec<String>,
}

impl Finding {
    /// Looks at one thing.
    pub(crate) fn check(&mut self, right: bool, what: impl FnOnce() -> String) {
        self.checked += 1;
        if !right {
            self.violate(what);
        }
    }

    fn violate(&mut self, what: impl FnOnce() -> String) {
        self.violated += 1;
        if self.notes.len() < MAX_EXAMPLES {
            self.notes.push(what());
        }
    }
}

/// Findings by property; one that is missing does not apply.
pub(crate) type Findings = BTreeMap<Property, Finding>;

/// What a row promises about time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Longest pause of the results of an actor that was hit: of class `shared` and `fenced`.
    pub(crate) pause: Duration,
    /// The same for the strict one, which waits for the end of a lease.
    pub(crate) strict_pause: Duration,
    /// Longest pause of the results of the one that was not; none where the fault hits the servers.
    pub(crate) bystander_pause: Option<Duration>,
}

/// What is stored.
#[derive(Debug, Default)]
struct Stored {
    set: BTreeSet<Id>,
    lists: BTreeMap<String, Vec<(u64, String)>>,
}

/// Waits until all that was acknowledged is applied, or long enough, and checks everything.
pub(crate) fn check(arena: &mut Arena, limits: &Limits, fault: Instant, load_ended: Instant) -> Findings {
    let acknowledged = arena.load.acknowledged();
    let stored = settle(arena, &acknowledged, limits);
    let heard = arena.observer.look(Clone::clone);
    let history = history(arena);
    let mut findings = Findings::new();
    findings.insert(Property::Lost, lost(arena, &acknowledged, &stored, &heard));
    findings.insert(Property::Doubled, doubled(&acknowledged, &stored, &heard, limits.bystander_pause.is_some()));
    findings.insert(Property::Owners, owners(&stored, &heard));
    findings.insert(Property::Recovery, recovery(&heard, limits, fault, load_ended));
    findings.insert(Property::Others, others(arena, &heard, limits, fault, load_ended));
    findings.insert(Property::FalseVerdicts, false_verdicts(arena.blamed(), &history, &heard));
    findings
}

/// What is published after a commit may take a moment longer than the commit.
fn settle(arena: &Arena, acknowledged: &Acknowledged, limits: &Limits) -> Stored {
    let end = Instant::now() + SETTLED_WITHIN;
    loop {
        let stored = read(arena);
        let is_heard = limits.bystander_pause.is_none() || arena.observer.look(|heard| unheard(acknowledged, heard).next().is_none());
        if (missing(acknowledged, &stored).is_empty() && is_heard) || Instant::now() > end {
            return stored;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn read(arena: &Arena) -> Stored {
    let mut stored = Stored::default();
    for (key, _) in bucket(arena, SHARED_BUCKET) {
        let id = key.rsplit_once('.').and_then(|(device, number)| Some((device.to_owned(), number.parse().ok()?)));
        stored.set.extend(id);
    }
    for (device, value) in bucket(arena, FENCED_BUCKET) {
        let text = String::from_utf8_lossy(&value).into_owned();
        let entries = text.split_whitespace().filter_map(|entry| entry.split_once('@'));
        let entries = entries.filter_map(|(number, node)| Some((number.parse().ok()?, node.to_owned())));
        stored.lists.insert(device, entries.collect());
    }
    stored
}

/// The values of a bucket by key, as they stand; nothing if it cannot be read.
fn bucket(arena: &Arena, name: &str) -> BTreeMap<String, Vec<u8>> {
    let read = async {
        let context = jetstream::new(arena.client().clone());
        let stream = context.get_stream(subject::bucket_stream(name)).await.ok()?;
        let config = jetstream::consumer::pull::OrderedConfig {
            filter_subject: subject::bucket_key(name, ">"),
            deliver_policy: jetstream::consumer::DeliverPolicy::LastPerSubject,
            ..Default::default()
        };
        let mut consumer = stream.create_consumer(config).await.ok()?;
        let count = usize::try_from(consumer.info().await.ok()?.num_pending).ok()?;
        let prefix = subject::bucket_key(name, "");
        let messages: Vec<_> = consumer.messages().await.ok()?.take(count).collect().await;
        let entry = |message: jetstream::Message| Some((message.subject.strip_prefix(&prefix)?.to_owned(), message.payload.to_vec()));
        Some(messages.into_iter().flatten().filter_map(entry).collect())
    };
    let read = arena.runtime.block_on(async { tokio::time::timeout(READ_WITHIN, read).await });
    read.ok().flatten().unwrap_or_default()
}

/// All failovers that the failover actor has on record.
pub(crate) fn history(arena: &Arena) -> Vec<Failover> {
    let records = bucket(arena, &subject::failover_bucket(arena.lattice()));
    records.values().filter_map(|value| wire::decode(value).ok()).collect()
}

/// Strict effects are judged by when they happened, not by whether they are there.
fn lost(arena: &Arena, acknowledged: &Acknowledged, stored: &Stored, heard: &Heard) -> Finding {
    let stored_streams = acknowledged.iter().filter(|(stream, _)| **stream != Stream::Strict);
    let mut finding = Finding { checked: stored_streams.map(|(_, ids)| ids.len() as u64).sum(), ..Finding::default() };
    let missing = missing(acknowledged, stored);
    for (_, (device, number)) in &missing {
        finding.violate(|| format!("{device} {number} was acknowledged and is nowhere"));
    }
    if !missing.is_empty() {
        finding.notes.extend(trace::fates(arena, heard, &missing));
    }
    finding
}

/// Acknowledged readings without a result.
fn missing(acknowledged: &Acknowledged, stored: &Stored) -> Vec<(Stream, Id)> {
    let listed: BTreeSet<Id> =
        stored.lists.iter().flat_map(|(device, list)| list.iter().map(|(number, _)| (device.clone(), *number))).collect();
    let mut missing = Vec::new();
    for (stream, ids) in acknowledged {
        let there = match stream {
            Stream::Shared | Stream::Bystander => &stored.set,
            Stream::Fenced0 | Stream::Fenced1 => &listed,
            Stream::Strict => continue,
        };
        missing.extend(ids.difference(there).map(|id| (*stream, id.clone())));
    }
    missing
}

/// In a list an id stands once. The subscriber has seen it once, too; what a server did not send because it was killed is not
/// counted against anybody (`all_seen`).
fn doubled(acknowledged: &Acknowledged, stored: &Stored, heard: &Heard, all_seen: bool) -> Finding {
    let mut finding = Finding::default();
    for (device, list) in &stored.lists {
        let mut known = BTreeSet::new();
        for (number, node) in list {
            finding.check(known.insert(number), || format!("{device} {number} is in the list twice, the second time by {node}"));
        }
    }
    for stream in [Stream::Fenced0, Stream::Fenced1] {
        let results = heard.results.get(&stream).map(Vec::as_slice).unwrap_or_default();
        let mut seen = BTreeSet::new();
        for result in results {
            finding.check(seen.insert(&result.id), || format!("{:?} was published twice, the second time by {}", result.id, result.node));
        }
    }
    if all_seen {
        finding.checked += [Stream::Fenced0, Stream::Fenced1]
            .iter()
            .filter_map(|stream| acknowledged.get(stream))
            .map(|ids| ids.len() as u64)
            .sum::<u64>();
        for id in unheard(acknowledged, heard) {
            finding.violate(|| format!("{id:?} was never published"));
        }
    }
    finding
}

/// Acknowledged readings of the fenced actor whose results the subscriber has not seen.
fn unheard<'a>(acknowledged: &'a Acknowledged, heard: &'a Heard) -> impl Iterator<Item = &'a Id> {
    [Stream::Fenced0, Stream::Fenced1].into_iter().flat_map(move |stream| {
        let seen: BTreeSet<&Id> = heard.results.get(&stream).into_iter().flatten().map(|seen| &seen.id).collect();
        acknowledged.get(&stream).into_iter().flatten().filter(move |id| !seen.contains(id))
    })
}

/// Strict: the times at which hosts worked do not overlap. Fenced: the writer of a list changes no more often than the slot
/// changed hands; a stale owner's write would stand between two of the new one's.
fn owners(stored: &Stored, heard: &Heard) -> Finding {
    let mut finding = Finding::default();
    let mut strict: Vec<&Seen> = heard.results.get(&Stream::Strict).into_iter().flatten().collect();
    strict.sort_by_key(|seen| seen.said_ms);
    let tenures = runs(strict.iter().map(|seen| seen.node.as_str()));
    let handovers = heard.claims.iter().filter(|(actor, ..)| actor.as_str() == "strict").count().max(1);
    finding.check(tenures <= handovers, || format!("the strict actor worked in {tenures} turns, its slot was claimed {handovers} times"));
    for (device, list) in &stored.lists {
        let slot = Stream::ALL.into_iter().find(|stream| device.starts_with(stream.token())).and_then(Stream::slot);
        let claims = heard.claims.iter().filter(|(actor, number, ..)| actor.as_str() == "fenced" && Some(*number) == slot).count().max(1);
        let turns = runs(list.iter().map(|(_, node)| node.as_str()));
        finding.check(turns <= claims, || format!("{device} was written in {turns} turns, its slot was claimed {claims} times"));
    }
    finding
}

/// How often the next one is another one, the first included.
fn runs<'a>(mut names: impl Iterator<Item = &'a str>) -> usize {
    let Some(mut last) = names.next() else { return 0 };
    let mut runs = 1;
    for name in names {
        runs += usize::from(name != last);
        last = name;
    }
    runs
}

fn recovery(heard: &Heard, limits: &Limits, fault: Instant, load_ended: Instant) -> Finding {
    let mut finding = Finding::default();
    for stream in [Stream::Shared, Stream::Fenced0, Stream::Fenced1, Stream::Strict] {
        let limit = if stream == Stream::Strict { limits.strict_pause } else { limits.pause };
        let pause = longest_pause(heard, stream, fault, load_ended);
        let token = stream.token();
        finding.check(pause <= limit, || format!("{token} paused for {} ms, {} ms are allowed", pause.as_millis(), limit.as_millis()));
        finding.notes.push(format!("{token} {} ms", pause.as_millis()));
    }
    finding
}

fn others(arena: &mut Arena, heard: &Heard, limits: &Limits, fault: Instant, load_ended: Instant) -> Finding {
    let mut finding = Finding::default();
    finding.check(arena.bystander_lives(), || "the host of the bystander has ended".to_owned());
    if let Some(limit) = limits.bystander_pause {
        let pause = longest_pause(heard, Stream::Bystander, fault, load_ended);
        finding.check(pause <= limit, || format!("the bystander paused for {} ms", pause.as_millis()));
        finding.notes.push(format!("{} ms", pause.as_millis()));
    }
    finding
}

/// Longest time without a result from the fault to the end of the load.
fn longest_pause(heard: &Heard, stream: Stream, fault: Instant, load_ended: Instant) -> Duration {
    let results = heard.results.get(&stream).into_iter().flatten().map(|seen| seen.at);
    let mut last = fault;
    let mut longest = Duration::ZERO;
    for at in results.filter(|at| *at > fault && *at <= load_ended).chain([load_ended]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}

fn false_verdicts(blamed: &BTreeSet<HostName>, history: &[Failover], heard: &Heard) -> Finding {
    let mut finding = Finding { checked: 1, ..Finding::default() };
    for failover in history {
        finding.check(blamed.contains(&failover.name), || format!("{} was taken for dead: {}", failover.name, failover.reason));
    }
    // An event may say so without a record, if the record was lost.
    for event in heard.events_of(EventKind::Dead) {
        finding.check(blamed.contains(&event.host_name), || format!("{}: {}", event.host_name, event.message));
    }
    finding
}
