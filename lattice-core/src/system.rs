//! The actors that belong to lattice itself, and the links that they have: a fixed list.
//!
//! **Invariants.** These links are the only ones with [`MessagingSettings::system`] or a store; they are made here, for the
//! actors that desired state marks as system actors, and never read from it. An operator can neither give nor take them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::id::{ActorId, InvalidName, LatticeName, LinkName, ProviderId};
use crate::link::{Delivery, KeyValueSettings, KindSettings, LinkSettings, MessagingSettings, StoreBucket, StoreSettings};
use crate::subject::{self, SubjectPattern, Verb};
use crate::wire::assignment::{LinkAssignment, ProviderAssignment, ProviderKind};

/// Provider of the messaging links.
const MESSAGING: (&str, ProviderKind) = ("lattice-messaging", ProviderKind::MessagingNats);
/// Provider of the store links.
const STORE: (&str, ProviderKind) = ("lattice-store", ProviderKind::Store);
/// Provider of the key-value links.
const KEYVALUE: (&str, ProviderKind) = ("lattice-keyvalue", ProviderKind::KvNats);

/// What a call through these links may take in milliseconds: a commit of which nothing is heard is tried several times with
/// the same ids before its outcome is called unknown.
const TIMEOUT_MS: u32 = 20_000;
/// Retries of a call that found no connection.
const RETRIES: u32 = 3;
/// Pause before each of them in milliseconds.
const RETRY_DELAY_MS: u32 = 250;

/// Name by which system actors know the bucket of desired state.
pub const DESIRED: &str = "desired";
/// Name by which they know the bucket of the plan.
pub const PLAN: &str = "plan";
/// Name by which they know the bucket of verdicts.
pub const VERDICTS: &str = "verdicts";
/// Name by which they know the bucket of policies.
pub const POLICIES: &str = "policies";
/// Name by which they know the stream of leases.
pub const LEASES: &str = "leases";

/// An actor of lattice's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemActor {
    /// Decides what runs where.
    Scheduler,
    /// Decides who is alive.
    Failover,
}

impl SystemActor {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Scheduler, Self::Failover];

    /// Its id as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "lattice-scheduler",
            Self::Failover => "lattice-failover",
        }
    }

    /// File name of its component, as it is built.
    pub fn component(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler.wasm",
            Self::Failover => "failover.wasm",
        }
    }

    /// Its id.
    ///
    /// # Errors
    /// None in fact: the names are of the form that ids have.
    pub fn id(self) -> Result<ActorId, InvalidName> {
        ActorId::new(self.as_str())
    }
}

/// The links of `actor` in `lattice`, in a fixed order.
pub fn links(actor: SystemActor, lattice: &LatticeName) -> Vec<LinkAssignment> {
    match actor {
        SystemActor::Scheduler => scheduler_links(lattice).into_iter().flatten().collect(),
        SystemActor::Failover => failover_links(lattice).into_iter().flatten().collect(),
    }
}

/// The providers that the links of `actor` need; they run wherever it does.
pub fn providers(actor: SystemActor) -> BTreeMap<ProviderId, ProviderAssignment> {
    let needed: &[(&str, ProviderKind)] = match actor {
        SystemActor::Scheduler | SystemActor::Failover => &[MESSAGING, STORE, KEYVALUE],
    };
    let provider =
        |(id, kind): &(&str, ProviderKind)| Some((ProviderId::new(*id).ok()?, ProviderAssignment { kind: *kind, config: BTreeMap::new() }));
    needed.iter().filter_map(provider).collect()
}

fn scheduler_links(lattice: &LatticeName) -> [Option<LinkAssignment>; 4] {
    let changes = [subject::desired_changes(lattice), subject::verdict_changes(lattice), subject::policy_changes(lattice)];
    let heard: Vec<String> = [subject::heartbeats(lattice)].into_iter().chain(changes).collect();
    let said = [subject::request_all(lattice, Verb::Report), subject::probe(lattice)];
    let buckets = BTreeMap::from([
        bucket(DESIRED, subject::desired_bucket(lattice), false),
        bucket(PLAN, subject::plan_bucket(lattice), true),
        bucket(VERDICTS, subject::verdict_bucket(lattice), false),
        bucket(POLICIES, subject::policy_bucket(lattice), false),
    ]);
    [
        link("lattice-broadcast", MESSAGING, messaging(Delivery::Broadcast, &heard, &said)),
        link("lattice-requests", MESSAGING, messaging(Delivery::Core, &[subject::scheduler_requests(lattice)], &[])),
        link("lattice-store", STORE, KindSettings::Store(StoreSettings { buckets })),
        // The link has the name by which the actor opens the bucket, whatever the bucket's own is.
        link(
            subject::SCHEDULER_BUCKET,
            KEYVALUE,
            KindSettings::KeyValue(KeyValueSettings { bucket: subject::scheduler_bucket(lattice), region: None }),
        ),
    ]
}

fn failover_links(lattice: &LatticeName) -> [Option<LinkAssignment>; 4] {
    let heard = [
        subject::heartbeats(lattice),
        subject::goodbyes(lattice),
        subject::verdict_changes(lattice),
        subject::desired_changes(lattice),
        subject::all_planned(lattice),
        subject::DISCONNECTS.to_owned(),
    ];
    let said = [subject::any_request(lattice, Verb::Report), subject::events(lattice)];
    let leases = StoreBucket { bucket: subject::lease_stream(lattice), subjects: Some(subject::lease_prefix(lattice)), write: true };
    let buckets = BTreeMap::from([
        bucket(DESIRED, subject::desired_bucket(lattice), false),
        bucket(PLAN, subject::plan_bucket(lattice), false),
        bucket(VERDICTS, subject::verdict_bucket(lattice), true),
        (LEASES.to_owned(), leases),
    ]);
    [
        link("lattice-broadcast", MESSAGING, messaging(Delivery::Broadcast, &heard, &said)),
        link("lattice-requests", MESSAGING, messaging(Delivery::Core, &[subject::failover_requests(lattice)], &[])),
        link("lattice-store", STORE, KindSettings::Store(StoreSettings { buckets })),
        link(
            subject::FAILOVER_BUCKET,
            KEYVALUE,
            KindSettings::KeyValue(KeyValueSettings { bucket: subject::failover_bucket(lattice), region: None }),
        ),
    ]
}

/// A bucket by the name that an actor knows it by.
fn bucket(name: &str, bucket: String, write: bool) -> (String, StoreBucket) {
    (name.to_owned(), StoreBucket { bucket, subjects: None, write })
}

fn messaging(delivery: Delivery, subscriptions: &[String], publish: &[String]) -> KindSettings {
    let patterns = |texts: &[String]| texts.iter().filter_map(|text| SubjectPattern::new(text.as_str()).ok()).collect();
    KindSettings::Messaging(MessagingSettings {
        subscriptions: patterns(subscriptions),
        delivery,
        publish: patterns(publish),
        cluster_uri: None,
        system: true,
    })
}

/// One link; the names above are all of the form that names have, so that there always is one.
fn link(name: &str, (provider, kind): (&str, ProviderKind), settings: KindSettings) -> Option<LinkAssignment> {
    let contract: Contract = kind.contract();
    let settings = LinkSettings {
        timeout_ms: TIMEOUT_MS,
        retry_count: RETRIES,
        retry_delay_ms: RETRY_DELAY_MS,
        permissions: BTreeSet::new(),
        env: BTreeMap::new(),
        kind: settings,
    };
    Some(LinkAssignment { name: LinkName::new(name).ok()?, contract, provider: ProviderId::new(provider).ok()?, settings })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lattice(name: &str) -> LatticeName {
        LatticeName::new(name).unwrap()
    }

    #[test]
    fn the_scheduler_has_four_links_and_their_providers() {
        for name in ["default", &"l".repeat(63)] {
            let lattice = lattice(name);
            let links = links(SystemActor::Scheduler, &lattice);
            assert_eq!(links.len(), 4, "all names are valid: {links:?}");
            let providers = providers(SystemActor::Scheduler);
            for link in &links {
                assert_eq!(providers[&link.provider].kind.contract(), link.contract);
            }
            let bucket = subject::scheduler_bucket(&lattice);
            assert!(subject::user_bucket(&bucket).is_ok(), "{bucket}");
        }
        assert_eq!(SystemActor::Scheduler.id().unwrap().as_str(), "lattice-scheduler");
    }

    #[test]
    fn what_the_scheduler_may_hear_and_say() {
        let links = links(SystemActor::Scheduler, &lattice("default"));
        let messaging: Vec<&MessagingSettings> = links
            .iter()
            .filter_map(|link| match &link.settings.kind {
                KindSettings::Messaging(settings) => Some(settings),
                KindSettings::KeyValue(_) | KindSettings::HttpServer(_) | KindSettings::HttpClient(_) | KindSettings::Store(_) => None,
            })
            .collect();
        let may = |subject: &str| messaging.iter().any(|settings| settings.may_publish(subject));
        for allowed in ["lat.default.req.all.report", "lat.default.probe"] {
            assert!(may(allowed), "{allowed}");
        }
        for denied in [
            "lat.default.hb.eu.N",
            "lat.default.req.all.ping",
            "lat.other.probe",
            "$KV.LAT_default_PLAN.head",
            "$KV.LAT_default_POLICY.policy.a",
        ] {
            assert!(!may(denied), "{denied}");
        }
        let heard: Vec<&str> = messaging.iter().flat_map(|settings| &settings.subscriptions).map(SubjectPattern::as_str).collect();
        let changed = ["lat.default.changed.desired.>", "lat.default.changed.verdict.>", "lat.default.changed.policy.>"];
        assert_eq!(heard, [&["lat.default.hb.>"], &changed[..], &["lat.default.sched.*"]].concat());
    }

    #[test]
    fn desired_state_is_only_read() {
        let links = links(SystemActor::Scheduler, &lattice("l"));
        let store = links.iter().find_map(|link| match &link.settings.kind {
            KindSettings::Store(settings) => Some(settings),
            KindSettings::KeyValue(_) | KindSettings::HttpServer(_) | KindSettings::HttpClient(_) | KindSettings::Messaging(_) => None,
        });
        let buckets = &store.unwrap().buckets;
        assert_eq!(buckets[DESIRED], StoreBucket { bucket: "LAT_l_DESIRED".into(), subjects: None, write: false });
        assert_eq!(buckets[PLAN], StoreBucket { bucket: "LAT_l_PLAN".into(), subjects: None, write: true });
        assert!(!buckets[VERDICTS].write && !buckets[POLICIES].write);
        assert_eq!(buckets.len(), 4);
    }

    #[test]
    fn the_mark_is_on_the_wire_only_when_it_is_set() {
        let links = links(SystemActor::Scheduler, &lattice("l"));
        let text = serde_json::to_string(&links).unwrap();
        assert!(text.contains(r#""system":true"#) && text.contains(r#""store":{"buckets""#), "{text}");
        assert_eq!(serde_json::from_str::<Vec<LinkAssignment>>(&text).unwrap(), links);
        let plain = MessagingSettings {
            subscriptions: Vec::new(),
            delivery: Delivery::Core,
            publish: Vec::new(),
            cluster_uri: None,
            system: false,
        };
        assert!(!serde_json::to_string(&plain).unwrap().contains("system"));
    }
}
