//! All names on the bus: subjects, streams, buckets, keys. Nothing else in the workspace spells one.
//!
//! `lat.<L>.…` belongs to the control plane, `edge.…` to sensors and actors, `cloud.cmd.<node>` to commands.

mod failover;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ActorId, BucketName, ConfigName, HostId, InvalidName, LatticeName, LinkName, ProviderId, Region};
pub use failover::*;

/// Longest subject in bytes that we build or accept; nats-server's default line limit is 4096.
pub const MAX_SUBJECT_BYTES: usize = 512;
/// First tokens that no link may ever cover, whatever is forced.
pub const RESERVED_FIRST_TOKENS: [&str; 3] = ["lat", "cloud", "_INBOX"];
/// Stream of public readings and commands, see DESIGN section 5.
pub const EDGE_STREAM: &str = "edge-events";
/// What [`EDGE_STREAM`] captures.
pub const EDGE_STREAM_SUBJECTS: [&str; 2] = ["edge.sensor.>", "edge.cmd.>"];
/// Host token that addresses every host in a request subject.
pub const EVERY_HOST: &str = "all";

/// Why a text is no subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("subject `{text}` {reason}")]
pub struct InvalidSubject {
    /// The text, escaped and cut so that it can be shown.
    pub text: String,
    /// The rule that it breaks.
    pub reason: &'static str,
}

/// A subject pattern: tokens, of which any may be `*` and the last may be `>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubjectPattern(String);

impl SubjectPattern {
    /// Checks `text` as a pattern.
    ///
    /// # Errors
    /// [`InvalidSubject`] for empty tokens, white space, control characters, a `*` or `>` inside a token, a `>` that is
    /// not last, more than [`MAX_SUBJECT_BYTES`].
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidSubject> {
        let text = text.into();
        match pattern_fault(&text) {
            None => Ok(Self(text)),
            Some(reason) => Err(invalid(&text, reason)),
        }
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it holds no wildcard.
    pub fn is_literal(&self) -> bool {
        !self.tokens().any(|token| token == "*" || token == ">")
    }

    /// Whether `subject` (no wildcards in it) matches.
    pub fn matches(&self, subject: &str) -> bool {
        let (mut pattern, mut tokens) = (self.tokens(), subject.split('.'));
        loop {
            match (pattern.next(), tokens.next()) {
                (Some(">"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                (None, None) => return true,
                (Some(_) | None, _) => return false,
            }
        }
    }

    /// Whether everything that `other` matches, this matches too.
    pub fn covers(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) = (self.tokens(), other.tokens());
        loop {
            match (mine.next(), theirs.next()) {
                (Some(">"), Some(_)) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(a), Some(b)) if a == b => {}
                (None, None) => return true,
                (Some(_) | None, _) => return false,
            }
        }
    }

    /// Whether some subject matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mut mine, mut theirs) = (self.tokens(), other.tokens());
        loop {
            match (mine.next(), theirs.next()) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
                (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
                (None, None) => return true,
                (Some(_) | None, _) => return false,
            }
        }
    }

    /// The tokens from left to right.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it names a subject that belongs to the control plane, the server or somebody's inbox by its first token.
    pub fn is_reserved(&self) -> bool {
        is_reserved(&self.0)
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for SubjectPattern {
    type Error = InvalidSubject;
    fn try_from(text: String) -> Result<Self, InvalidSubject> {
        Self::new(text)
    }
}

impl From<SubjectPattern> for String {
    fn from(pattern: SubjectPattern) -> String {
        pattern.0
    }
}

/// Checks a subject to publish on: a pattern without wildcards.
///
/// # Errors
/// [`InvalidSubject`] with the rule that it breaks.
pub fn check_subject(text: &str) -> Result<(), InvalidSubject> {
    match pattern_fault(text) {
        Some(reason) => Err(invalid(text, reason)),
        None if text.split('.').any(|token| token == "*" || token == ">") => Err(invalid(text, "holds a wildcard")),
        None => Ok(()),
    }
}

/// Whether the first token is one that no link may cover: `lat`, `cloud`, `_INBOX`, anything with `$`.
pub fn is_reserved(subject: &str) -> bool {
    let first = subject.split('.').next().unwrap_or_default();
    first.starts_with('$') || RESERVED_FIRST_TOKENS.contains(&first)
}

fn pattern_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("is empty");
    }
    if text.len() > MAX_SUBJECT_BYTES {
        return Some("is longer than 512 bytes");
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("holds white space or a control character");
    }
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        match token {
            "" => return Some("has an empty token"),
            ">" if tokens.peek().is_some() => return Some("has a `>` that is not the last token"),
            ">" | "*" => {}
            _ if token.contains(['*', '>']) => return Some("has a wildcard inside a token"),
            _ => {}
        }
    }
    None
}

fn invalid(text: &str, reason: &'static str) -> InvalidSubject {
    InvalidSubject { text: text.chars().take(80).flat_map(char::escape_debug).collect(), reason }
}

/// Escapes one part of a key so that any text works: outside `[A-Za-z0-9_-]` each byte becomes `=XX` (upper-case hex).
/// An empty part becomes `=`, which no other text escapes to.
pub fn escape_key_part(part: &str) -> String {
    use fmt::Write as _;
    if part.is_empty() {
        return "=".to_owned();
    }
    part.bytes().fold(String::with_capacity(part.len()), |mut key, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            key.push(char::from(byte));
        } else {
            let _ = write!(key, "={byte:02X}");
        }
        key
    })
}

/// `lat.<L>.hb.<region>.<host>`: heartbeats.
pub fn heartbeat(lattice: &LatticeName, region: &Region, host: &HostId) -> String {
    format!("lat.{lattice}.hb.{region}.{host}")
}

/// `lat.<L>.hb.>`: heartbeats of all hosts.
pub fn heartbeats(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.hb.>")
}

/// A request that only reads, see [`crate::wire::request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Who is there: the host's report without details.
    Ping,
    /// The host's full report.
    Inventory,
    /// Recent log lines of actors.
    Logs,
    /// Send a heartbeat at once; nothing else is answered.
    Report,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 4] = [Self::Ping, Self::Inventory, Self::Logs, Self::Report];

    /// The token in the subject.
    pub fn token(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Inventory => "inventory",
            Self::Logs => "logs",
            Self::Report => "report",
        }
    }

    /// The verb of a request subject, by its last token.
    pub fn of_subject(subject: &str) -> Option<Self> {
        let last = subject.rsplit('.').next()?;
        Self::ALL.into_iter().find(|verb| verb.token() == last)
    }
}

/// `lat.<L>.req.<host>.<verb>`: a request to one host.
pub fn request(lattice: &LatticeName, host: &HostId, verb: Verb) -> String {
    format!("lat.{lattice}.req.{host}.{}", verb.token())
}

/// `lat.<L>.req.all.<verb>`: a request that every host answers.
pub fn request_all(lattice: &LatticeName, verb: Verb) -> String {
    format!("lat.{lattice}.req.{EVERY_HOST}.{}", verb.token())
}

/// `lat.<L>.req.*.<verb>`: a request to any one host or to all.
pub fn any_request(lattice: &LatticeName, verb: Verb) -> String {
    format!("lat.{lattice}.req.*.{}", verb.token())
}

/// What a host subscribes to for requests: its own and everybody's.
pub fn requests_for(lattice: &LatticeName, host: &HostId) -> [String; 2] {
    [format!("lat.{lattice}.req.{host}.*"), format!("lat.{lattice}.req.{EVERY_HOST}.*")]
}

/// `lat.<L>.probe`: asks every host to measure round trips, see [`crate::wire::request::Probe`].
pub fn probe(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.probe")
}

/// `lat.<L>.rtt.<region>`: a measurement, answered by some host of the region.
pub fn round_trip(lattice: &LatticeName, region: &Region) -> String {
    format!("lat.{lattice}.rtt.{region}")
}

/// `lat.<L>.rtt.*`: measurements of all regions.
pub fn round_trips(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.rtt.*")
}

/// Queue group in which the hosts of a region share the measurements.
pub fn round_trip_queue(lattice: &LatticeName, region: &Region) -> String {
    format!("lat-{lattice}-rtt-{region}")
}

/// `lat.<L>.sched.<verb>`: a request to the scheduler.
pub fn scheduler(lattice: &LatticeName, verb: &str) -> String {
    format!("lat.{lattice}.sched.{verb}")
}

/// `lat.<L>.sched.*`: all requests to the scheduler.
pub fn scheduler_requests(lattice: &LatticeName) -> String {
    scheduler(lattice, "*")
}

/// `lat.<L>.changed.desired.>`: committed keys of desired state (published by the server after the commit).
pub fn desired_changes(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.changed.desired.>")
}

/// `lat.<L>.changed.desired.component.*`: committed actors of desired state.
pub fn component_changes(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.changed.desired.component.*")
}

/// `lat.<L>.call.<actor>`: a call to an actor from the command line.
pub fn call(lattice: &LatticeName, actor: &ActorId) -> String {
    format!("lat.{lattice}.call.{actor}")
}

/// Queue group in which the hosts that run an actor share the calls to it.
pub fn call_queue(lattice: &LatticeName, actor: &ActorId) -> String {
    format!("lat-{lattice}-{actor}-call")
}

/// What is asked of the scheduler, see [`crate::wire::schedule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SchedulerVerb {
    /// How it stands.
    Status,
    /// The hosts as it sees them.
    Nodes,
    /// Where a task would go.
    Place,
    /// That the plan follows desired state.
    Plan,
    /// Why an actor is where it is.
    Explain,
}

impl SchedulerVerb {
    /// All verbs.
    pub const ALL: [Self; 5] = [Self::Status, Self::Nodes, Self::Place, Self::Plan, Self::Explain];

    /// The token in the subject.
    pub fn token(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Nodes => "nodes",
            Self::Place => "place",
            Self::Plan => "plan",
            Self::Explain => "explain",
        }
    }

    /// The verb of a request subject, by its last token.
    pub fn of_subject(subject: &str) -> Option<Self> {
        let last = subject.rsplit('.').next()?;
        Self::ALL.into_iter().find(|verb| verb.token() == last)
    }
}

/// `lat.<L>.sched.<verb>`: a request to any replica of the scheduler.
pub fn scheduler_request(lattice: &LatticeName, verb: SchedulerVerb) -> String {
    format!("lat.{lattice}.sched.{}", verb.token())
}

/// What a message that the scheduler hears is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A heartbeat.
    Heartbeat,
    /// A key of desired state was committed.
    DesiredChanged,
    /// A verdict was committed.
    VerdictChanged,
    /// A policy was committed.
    PolicyChanged,
    /// A question.
    Question(SchedulerVerb),
}

impl Heard {
    /// The lattice that `subject` belongs to and what a message on it is about; none if the scheduler has no use for it.
    pub fn of_subject(subject: &str) -> Option<(LatticeName, Self)> {
        let mut tokens = subject.strip_prefix("lat.")?.splitn(3, '.');
        let lattice = LatticeName::new(tokens.next()?).ok()?;
        let heard = match (tokens.next()?, tokens.next()?) {
            ("hb", _) => Self::Heartbeat,
            ("changed", key) if key.starts_with("desired.") => Self::DesiredChanged,
            ("changed", key) if key.starts_with("verdict.") => Self::VerdictChanged,
            ("changed", key) if key.starts_with("policy.") => Self::PolicyChanged,
            ("sched", verb) => Self::Question(SchedulerVerb::ALL.into_iter().find(|known| known.token() == verb)?),
            _ => return None,
        };
        Some((lattice, heard))
    }
}

/// `lat.<L>.planned.<host>`: the plan holds a new assignment for the host (published by the server after the commit).
pub fn planned(lattice: &LatticeName, host: &HostId) -> String {
    format!("lat.{lattice}.planned.{host}")
}

/// `lat.<L>.evt.<region>.<host>.<type>`: a state change.
pub fn event(lattice: &LatticeName, region: &Region, host: &HostId, kind: &str) -> String {
    format!("lat.{lattice}.evt.{region}.{host}.{kind}")
}

/// `lat.<L>.evt.>`: all state changes.
pub fn events(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.evt.>")
}

/// `edge.result.<region>`: what came out of readings.
pub fn results(region: &str) -> String {
    format!("edge.result.{region}")
}

/// `edge.alert.<region>`: results that somebody should look at.
pub fn alerts(region: &str) -> String {
    format!("edge.alert.{region}")
}

/// `edge.dead.<region>`: readings that nobody could work with.
pub fn dead_letters(region: &str) -> String {
    format!("edge.dead.{region}")
}

/// The region token of `edge.<kind>.<region>[.…]`, if `subject` has that form.
pub fn region_of(subject: &str) -> Option<&str> {
    let mut tokens = subject.split('.');
    (tokens.next()? == "edge").then_some(())?;
    tokens.next()?;
    tokens.next()
}

/// Bucket of desired state.
pub fn desired_bucket(lattice: &LatticeName) -> String {
    format!("LAT_{lattice}_DESIRED")
}

/// Bucket of plans.
pub fn plan_bucket(lattice: &LatticeName) -> String {
    format!("LAT_{lattice}_PLAN")
}

/// Stream of events.
pub fn events_stream(lattice: &LatticeName) -> String {
    format!("LAT_{lattice}_EVENTS")
}

/// Bucket in which the scheduler keeps the reasons of past placements: `lattice-scheduler` for the lattice `default`;
/// others, which may share the account, have their own.
pub fn scheduler_bucket(lattice: &LatticeName) -> String {
    own_bucket(SCHEDULER_BUCKET, lattice)
}

/// A bucket of a system actor: its plain name in the lattice `default`, with a hash of the lattice's name in others.
fn own_bucket(name: &str, lattice: &LatticeName) -> String {
    match lattice.as_str() {
        "default" => name.to_owned(),
        other => {
            let hash: String = crate::id::Digest::of(other.as_bytes()).hex().chars().take(12).collect();
            format!("{name}-{hash}")
        }
    }
}

/// First part of the name of the scheduler's bucket, and the name by which the scheduler opens it.
pub const SCHEDULER_BUCKET: &str = "lattice-scheduler";

/// Object store of components by digest.
pub fn artifacts_store(lattice: &LatticeName) -> String {
    format!("LAT_{lattice}_ARTIFACTS")
}

/// Name of the stream behind a bucket.
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Subject of a key in a bucket; `key` may be a pattern.
pub fn bucket_key(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Where the server republishes committed keys of desired state: source and destination of the stream's setting.
pub fn desired_republish(lattice: &LatticeName) -> (String, String) {
    (format!("$KV.{}.>", desired_bucket(lattice)), desired_changes(lattice))
}

/// Where the server republishes committed assignments: source and destination of the stream's setting.
pub fn plan_republish(lattice: &LatticeName) -> (String, String) {
    (format!("$KV.{}.host.*", plan_bucket(lattice)), format!("lat.{lattice}.planned.{{{{wildcard(1)}}}}"))
}

/// Bucket of signed policies.
pub fn policy_bucket(lattice: &LatticeName) -> String {
    format!("LAT_{lattice}_POLICY")
}

/// `lat.<L>.changed.policy.>`: keys of committed policies (published by the server after the commit).
pub fn policy_changes(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.changed.policy.>")
}

/// Where the server republishes committed policies: source and destination of the stream's setting.
pub fn policy_republish(lattice: &LatticeName) -> (String, String) {
    (format!("$KV.{}.>", policy_bucket(lattice)), policy_changes(lattice))
}

/// Key of a policy.
pub fn policy_key(policy: &ConfigName) -> String {
    format!("policy.{policy}")
}

/// The policy that a key is about.
pub fn policy_of_key(key: &str) -> Option<ConfigName> {
    ConfigName::new(key.strip_prefix("policy.")?).ok()
}

/// Key of the plan's head.
pub const PLAN_HEAD_KEY: &str = "head";

/// Key of a host's assignment.
pub fn assignment_key(host: &HostId) -> String {
    format!("host.{host}")
}

/// Queue group in which the hosts that run an actor share the messages of one link.
pub fn queue_group(lattice: &LatticeName, actor: &ActorId, link: &LinkName) -> String {
    format!("lat-{lattice}-{actor}-{link}")
}

/// Name of the durable consumer of one subscription of a `jetstream` link: readable, and unique by a short hash of all
/// that makes it what it is.
pub fn durable(lattice: &LatticeName, actor: &ActorId, link: &LinkName, provider: &ProviderId, subject: &SubjectPattern) -> String {
    let identity = format!("{lattice}\n{actor}\n{link}\n{provider}\n{subject}");
    let hash: String = crate::id::Digest::of(identity.as_bytes()).hex().chars().take(12).collect();
    format!("lat-{lattice}-{actor}-{hash}")
}

/// Checks a bucket name that a link gives.
///
/// # Errors
/// [`InvalidName`] for anything but `[A-Za-z0-9_-]{1,63}` and for names that belong to the control plane (`LAT_…`).
pub fn user_bucket(text: &str) -> Result<BucketName, InvalidName> {
    let bucket = BucketName::new(text)?;
    if text.starts_with("LAT_") {
        return Err(InvalidName { what: "bucket name", text: text.to_owned(), reason: "belongs to the control plane" });
    }
    Ok(bucket)
}

#[cfg(test)]
mod tests;
