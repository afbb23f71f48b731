//! Names of failure detection and of ownership: verdicts, leases, epochs, what the failover actor is asked and hears.

use crate::id::{ActorId, BucketName, HostId, LatticeName, Region};

use super::{EDGE_STREAM_SUBJECTS, SubjectPattern, bucket_key, escape_key_part};

/// First part of the name of the failover actor's bucket, and the name by which that actor opens it.
pub const FAILOVER_BUCKET: &str = "lattice-failover";
/// Where the server says that a client of the lattices' account has gone; imported from the system account.
pub const DISCONNECTS: &str = "$SYS.ACCOUNT.LAT.DISCONNECT";
/// First word of the name under which a host's main connection is known to the server.
const CONNECTION_PREFIX: &str = "lattice-host";

/// Bucket of verdicts.
pub fn verdict_bucket(lattice: &LatticeName) -> String {
    format!("LAT_{lattice}_VERDICT")
}

/// `lat.<L>.changed.verdict.>`: committed verdicts (published by the server after the commit).
pub fn verdict_changes(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.changed.verdict.>")
}

/// Where the server republishes committed verdicts: source and destination of the stream's setting.
pub fn verdict_republish(lattice: &LatticeName) -> (String, String) {
    (bucket_key(&verdict_bucket(lattice), ">"), verdict_changes(lattice))
}

/// Bucket in which failovers are kept: `lattice-failover` for the lattice `default`; others, which may share the account,
/// have their own.
pub fn failover_bucket(lattice: &LatticeName) -> String {
    super::own_bucket(FAILOVER_BUCKET, lattice)
}

/// Stream of leases.
pub fn lease_stream(lattice: &LatticeName) -> String {
    format!("LAT_{lattice}_LEASE")
}

/// `lat.<L>.lease`: what comes before the region and the host in the subject of a lease.
pub fn lease_prefix(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.lease")
}

/// `<region>.<host>`: a host's lease below [`lease_prefix`].
pub fn lease_key(region: &Region, host: &HostId) -> String {
    format!("{region}.{host}")
}

/// `lat.<L>.lease.<region>.<host>`: a host's lease.
pub fn lease(lattice: &LatticeName, region: &Region, host: &HostId) -> String {
    format!("{}.{}", lease_prefix(lattice), lease_key(region, host))
}

/// `lat.<L>.act.epoch.<bucket>.<actor>.<slot>`: who owns a slot; captured by the stream of the slot's bucket.
pub fn epoch(lattice: &LatticeName, bucket: &BucketName, actor: &ActorId, slot: u32) -> String {
    format!("lat.{lattice}.act.epoch.{bucket}.{actor}.{slot}")
}

/// `lat.<L>.act.applied.<bucket>.<actor>.<slot>.<consumer>`: how far a slot has worked through a consumer.
pub fn applied(lattice: &LatticeName, bucket: &BucketName, actor: &ActorId, slot: u32, consumer: &str) -> String {
    format!("lat.{lattice}.act.applied.{bucket}.{actor}.{slot}.{}", escape_key_part(consumer))
}

/// First token of the subjects that actors of classes with a fence may publish on: the only ones with an outbox.
pub const OUTBOX_FIRST_TOKEN: &str = "edge";

/// `lat.<L>.act.out.<bucket>.<rest>`: where a fenced actor's message on `edge.<rest>` is stored together with its state; the
/// server publishes it on `edge.<rest>` after the commit. None for any other subject, and for those that the public stream
/// captures: what the server republishes still carries the conditions of its commit, which hold in no other stream.
pub fn outbox(lattice: &LatticeName, bucket: &BucketName, subject: &str) -> Option<String> {
    let rest = subject.strip_prefix(OUTBOX_FIRST_TOKEN)?.strip_prefix('.')?;
    let captured = |pattern: &str| SubjectPattern::new(pattern).is_ok_and(|pattern| pattern.matches(subject));
    if EDGE_STREAM_SUBJECTS.into_iter().any(captured) {
        return None;
    }
    Some(format!("lat.{lattice}.act.out.{bucket}.{rest}"))
}

/// What the stream of a fenced bucket captures besides its keys.
pub fn fenced_subjects(lattice: &LatticeName, bucket: &BucketName) -> [String; 3] {
    ["epoch", "applied", "out"].map(|kind| format!("lat.{lattice}.act.{kind}.{bucket}.>"))
}

/// Where the server publishes a fenced bucket's outbox: source and destination of the stream's setting.
pub fn outbox_republish(lattice: &LatticeName, bucket: &BucketName) -> (String, String) {
    (format!("lat.{lattice}.act.out.{bucket}.>"), format!("{OUTBOX_FIRST_TOKEN}.>"))
}

/// The name of a host's main connection, by which its end is told: `lattice-host <id> <incarnation>`.
pub fn connection_name(host: &HostId, incarnation: &crate::id::Incarnation) -> String {
    format!("{CONNECTION_PREFIX} {host} {incarnation}")
}

/// The host and its start, if `name` is that of a host's main connection.
pub fn host_of_connection(name: &str) -> Option<(HostId, crate::id::Incarnation)> {
    let mut words = name.split(' ');
    (words.next()? == CONNECTION_PREFIX).then_some(())?;
    let found = (HostId::new(words.next()?).ok()?, crate::id::Incarnation::new(words.next()?).ok()?);
    words.next().is_none().then_some(found)
}

/// What is asked of the failover actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailoverVerb {
    /// How it stands, see [`crate::wire::failover::FailoverStatus`].
    Status,
}

impl FailoverVerb {
    /// All verbs.
    pub const ALL: [Self; 1] = [Self::Status];

    /// The token in the subject.
    pub fn token(self) -> &'static str {
        match self {
            Self::Status => "status",
        }
    }
}

/// `lat.<L>.failover.<verb>`: a request to any replica of the failover actor.
pub fn failover_request(lattice: &LatticeName, verb: FailoverVerb) -> String {
    format!("lat.{lattice}.failover.{}", verb.token())
}

/// `lat.<L>.failover.*`: all requests to the failover actor.
pub fn failover_requests(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.failover.*")
}

/// `lat.<L>.evt.*.*.bye`: hosts that leave on purpose.
pub fn goodbyes(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.evt.*.*.bye")
}

/// `lat.<L>.planned.>`: all committed assignments.
pub fn all_planned(lattice: &LatticeName) -> String {
    format!("lat.{lattice}.planned.>")
}

/// What a message that the failover actor hears is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A heartbeat.
    Heartbeat,
    /// A client of the account has gone; maybe a host.
    Disconnect,
    /// A host leaves on purpose: an [`crate::wire::event::Event`].
    Bye,
    /// A verdict was committed, maybe by another replica.
    VerdictChanged,
    /// A key of desired state was committed.
    DesiredChanged,
    /// An assignment was committed.
    Planned,
    /// A question.
    Question(FailoverVerb),
}

impl Signal {
    /// What a message on `subject` is about, and the lattice, where the subject names one; none if the failover actor has no
    /// use for it.
    pub fn of_subject(subject: &str) -> Option<(Option<LatticeName>, Self)> {
        if subject == DISCONNECTS {
            return Some((None, Self::Disconnect));
        }
        let mut tokens = subject.strip_prefix("lat.")?.splitn(3, '.');
        let lattice = LatticeName::new(tokens.next()?).ok()?;
        let signal = match (tokens.next()?, tokens.next()?) {
            ("hb", _) => Self::Heartbeat,
            ("evt", rest) if rest.ends_with(".bye") => Self::Bye,
            ("changed", key) if key.starts_with("verdict.") => Self::VerdictChanged,
            ("changed", key) if key.starts_with("desired.") => Self::DesiredChanged,
            ("planned", _) => Self::Planned,
            ("failover", verb) => Self::Question(FailoverVerb::ALL.into_iter().find(|known| known.token() == verb)?),
            _ => return None,
        };
        Some((Some(lattice), signal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::inventory::tests::host_id;
    use crate::subject::is_reserved;

    #[test]
    fn what_the_failover_actor_hears() {
        let check = |subject: &str, expected: Option<Signal>| {
            assert_eq!(Signal::of_subject(subject).map(|(_, signal)| signal), expected, "{subject}");
        };
        check("lat.default.hb.eu.N", Some(Signal::Heartbeat));
        check(DISCONNECTS, Some(Signal::Disconnect));
        check("lat.default.evt.eu.N.bye", Some(Signal::Bye));
        check("lat.default.changed.verdict.host.N", Some(Signal::VerdictChanged));
        check("lat.default.changed.desired.config.failover", Some(Signal::DesiredChanged));
        check("lat.default.planned.N", Some(Signal::Planned));
        check("lat.default.failover.status", Some(Signal::Question(FailoverVerb::Status)));
        for other in ["lat.default.failover.run", "lat.default.evt.eu.N.hello", "$SYS.ACCOUNT.OTHER.DISCONNECT", "edge.x", ""] {
            check(other, None);
        }
    }

    #[test]
    fn a_host_is_known_by_its_connection() {
        let (host, incarnation) = (host_id(1), Incarnation::new("01ABC").unwrap());
        let name = connection_name(&host, &incarnation);
        assert_eq!(host_of_connection(&name), Some((host, incarnation)));
        for other in ["lattice-host", "lattice-ctl 1 2", "lattice-host x y", &format!("{name} more"), ""] {
            assert_eq!(host_of_connection(other), None, "{other}");
        }
    }

    #[test]
    fn an_outbox_is_below_edge_only() {
        let (lattice, bucket) = (LatticeName::new("l").unwrap(), BucketName::new("state").unwrap());
        assert_eq!(outbox(&lattice, &bucket, "edge.result.eu").as_deref(), Some("lat.l.act.out.state.result.eu"));
        for other in ["edge", "edges.x", "other.x", "", "edge.sensor.eu", "edge.cmd.x"] {
            assert_eq!(outbox(&lattice, &bucket, other), None, "{other}");
        }
        let (source, destination) = outbox_republish(&lattice, &bucket);
        assert!(SubjectPattern::new(source).unwrap().matches("lat.l.act.out.state.result.eu"));
        assert!(!is_reserved(&destination));
        let actor = ActorId::new("a").unwrap();
        for subject in
            [epoch(&lattice, &bucket, &actor, 0), applied(&lattice, &bucket, &actor, 0, "lat-l-a-1"), "lat.l.act.out.state.x".into()]
        {
            let captured =
                fenced_subjects(&lattice, &bucket).into_iter().any(|pattern| SubjectPattern::new(pattern).unwrap().matches(&subject));
            assert!(captured, "{subject}");
        }
    }
}
