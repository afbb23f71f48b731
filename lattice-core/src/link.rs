//! Links: the permission and the binding between an actor and a provider.
//!
//! [`LinkSpec`] is what the operator wrote; [`LinkSettings`] is what it means, checked. Hosts get only the latter. The
//! questions that are asked for every call ([`MessagingSettings::may_publish`], [`LinkSettings::permits`]) are answered here, too.

pub mod http_client;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::id::{ActorId, ConfigName, LatticeName, LinkName, ProviderId};
use crate::subject::{self, SubjectPattern};
pub use http_client::HttpClientSettings;
use values::{Values, normal};

/// Longest text of one link value in bytes.
pub const MAX_VALUE_BYTES: usize = 1024;
/// How many subscriptions or publish rules one link may have.
pub const MAX_PATTERNS: usize = 32;
/// Longest timeout that a link may give a call, in milliseconds; the message's own deadline is shorter anyway.
pub const MAX_TIMEOUT_MS: u32 = 600_000;
/// Most retries that a link may ask for.
pub const MAX_RETRIES: u32 = 100;
/// Port of an HTTP server link that names none.
pub const DEFAULT_HTTP_PORT: u16 = 8080;

/// A link as the operator gave it. The source is always the actor, whichever side calls the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpec {
    /// The actor.
    pub source: ActorId,
    /// The provider.
    pub target: ProviderId,
    /// What it is about.
    pub contract: Contract,
    /// Its name.
    pub name: LinkName,
    /// Values by name, in any of the spellings `BUCKET`, `bucket`, `retry_count`, `retry-count`.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Operations that are allowed; empty allows all of the contract.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub permissions: BTreeSet<String>,
    /// Environment variables that the actor sees, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_mapping: BTreeMap<String, String>,
    /// Named config whose values stand under those of the link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigName>,
}

impl LinkSpec {
    /// What makes it this link and no other: a second `link put` with the same identity replaces the first.
    pub fn identity(&self) -> (&ActorId, Contract, &LinkName) {
        (&self.source, self.contract, &self.name)
    }

    /// The values in one spelling, those of the link over those of `below`.
    pub fn merged_values(&self, below: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
        let own = self.values.iter().map(|(name, value)| (name.clone(), value.clone()));
        below.into_iter().chain(own).map(|(name, value)| (normal(&name), value)).collect()
    }

    /// What the link means with `values` (see [`LinkSpec::merged_values`]).
    ///
    /// # Errors
    /// [`LinkError`] names the value that makes no sense.
    pub fn settings(&self, values: &BTreeMap<String, String>) -> Result<LinkSettings, LinkError> {
        let values = Values { values };
        values.check_known(self.contract)?;
        for permission in &self.permissions {
            if !self.contract.permissions().contains(&permission.as_str()) {
                return Err(LinkError::Permission { permission: permission.clone(), contract: self.contract });
            }
        }
        for (name, value) in &self.env_mapping {
            if name.is_empty() || name.len() > 128 || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(LinkError::value("env_mapping", name, "is no name of an environment variable, or its value holds a zero byte"));
            }
        }
        let kind = match self.contract {
            Contract::KeyValue => KindSettings::KeyValue(KeyValueSettings::read(&values)?),
            Contract::Messaging => KindSettings::Messaging(MessagingSettings::read(&values)?),
            Contract::HttpServer => KindSettings::HttpServer(HttpServerSettings::read(&values)?),
            Contract::HttpClient => KindSettings::HttpClient(HttpClientSettings::read(&values)?),
            Contract::Store => return Err(LinkError::SystemOnly { contract: self.contract }),
        };
        Ok(LinkSettings {
            timeout_ms: values.number("timeout-ms", 5000, MAX_TIMEOUT_MS)?.max(1),
            retry_count: values.number("retry-count", 3, MAX_RETRIES)?,
            retry_delay_ms: values.number("retry-delay-ms", 1000, MAX_TIMEOUT_MS)?,
            permissions: self.permissions.clone(),
            env: self.env_mapping.clone(),
            kind,
        })
    }
}

/// Why a link makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A value that no link of this contract has.
    #[error("a {contract} link has no value `{name}`; it has: {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// The link's contract.
        contract: Contract,
        /// The names it may have.
        known: String,
    },
    /// A value that makes no sense.
    #[error("value `{name}` = `{value}`: {reason}")]
    Value {
        /// Its name.
        name: String,
        /// What was given.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A value that must be there.
    #[error("a {contract} link needs a value `{name}`")]
    Missing {
        /// Its name.
        name: &'static str,
        /// The link's contract.
        contract: Contract,
    },
    /// A permission that the contract does not know.
    #[error("permission `{permission}` is none of a {contract} link: {}", .contract.permissions().join(", "))]
    Permission {
        /// What was given.
        permission: String,
        /// The link's contract.
        contract: Contract,
    },
    /// A contract that only the links of system actors have.
    #[error("{contract} is for lattice's own actors: nobody can link to it")]
    SystemOnly {
        /// The contract.
        contract: Contract,
    },
    /// A subscription or publish rule on subjects that belong to the control plane.
    #[error("`{pattern}` is never allowed: lat., cloud., _INBOX. and $… belong to the control plane and the server")]
    Reserved {
        /// The pattern.
        pattern: String,
    },
    /// A subscription that takes everything.
    #[error("subscription `{pattern}` takes everything: segment subjects by region and function, like edge.sensor.ap-east-1, or force it")]
    TooWide {
        /// The pattern.
        pattern: String,
    },
    /// An HTTP client that may reach everything.
    #[error("allowed host `{pattern}` is every host: name those that the actor needs, like api.example.com or *.example.com, or force it")]
    EveryHost {
        /// The pattern.
        pattern: String,
    },
    /// A durable subscription outside of what the stream holds.
    #[error("subscription `{pattern}` cannot be durable: the stream edge-events holds edge.sensor.> and edge.cmd.>")]
    NotCaptured {
        /// The pattern.
        pattern: String,
    },
}

impl LinkError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::TooWide { .. } => "subscribe by region, --subscription edge.sensor.ap-east-1, or give --force",
            Self::EveryHost { .. } => "--allow-host api.example.com, or give --force",
            Self::Reserved { .. } => "use subjects of your own, like edge.result.ap-east-1",
            Self::SystemOnly { .. } => "keep an actor's own data behind wasmcloud:keyvalue",
            Self::NotCaptured { .. } => "subscribe to edge.sensor.<region>, or use --delivery core",
            Self::Unknown { .. } | Self::Value { .. } | Self::Missing { .. } | Self::Permission { .. } => {
                "`lattice-ctl help link put` explains the values"
            }
        }
    }

    fn value(name: &str, value: &str, reason: impl Into<String>) -> Self {
        Self::Value { name: name.to_owned(), value: value.chars().take(80).flat_map(char::escape_debug).collect(), reason: reason.into() }
    }
}

/// A link's values, checked and typed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSettings {
    /// A call through the link that takes longer gives the actor a typed error, in milliseconds.
    pub timeout_ms: u32,
    /// How often a call that found the provider unavailable is tried again.
    pub retry_count: u32,
    /// Pause before each retry in milliseconds; retries end with the message's deadline.
    pub retry_delay_ms: u32,
    /// Allowed operations; empty allows all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub permissions: BTreeSet<String>,
    /// Environment variables for the actor.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What only this kind of link has.
    pub kind: KindSettings,
}

impl LinkSettings {
    /// Whether the link covers `operation` (one of the contract's [`Contract::permissions`], not a group).
    pub fn permits(&self, operation: &str) -> bool {
        let group = match operation {
            "get" | "exists" | "list" => "read",
            "set" | "delete" | "increment" => "write",
            _ => "",
        };
        self.permissions.is_empty() || self.permissions.contains(operation) || self.permissions.contains(group)
    }
}

/// What only one kind of link has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KindSettings {
    /// Key-value.
    KeyValue(KeyValueSettings),
    /// Messaging.
    Messaging(MessagingSettings),
    /// HTTP server.
    HttpServer(HttpServerSettings),
    /// HTTP client.
    HttpClient(HttpClientSettings),
    /// The control plane's buckets.
    Store(StoreSettings),
}

/// Store: which buckets of the control plane a system actor reaches, by the names that it knows them by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreSettings {
    /// The buckets by the actor's name for them: `desired`, `plan`, …
    pub buckets: BTreeMap<String, StoreBucket>,
}

/// A bucket of the control plane, as a link gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreBucket {
    /// Its real name: of a bucket, or of a stream if `subjects` is given.
    pub bucket: String,
    /// For a stream that is no bucket: what stands before the key in the subject, without the dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<String>,
    /// Whether it may be written.
    #[serde(default)]
    pub write: bool,
}

/// Key-value: which bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValueSettings {
    /// Bucket that the actor gets; it cannot name another.
    pub bucket: String,
    /// Region that the data belongs to, kept with the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

impl KeyValueSettings {
    fn read(values: &Values<'_>) -> Result<Self, LinkError> {
        let bucket = values.text("bucket")?.unwrap_or("default");
        subject::user_bucket(bucket).map_err(|error| LinkError::value("bucket", bucket, error.reason))?;
        let region = values.text("region")?.map(str::to_owned);
        Ok(Self { bucket: bucket.to_owned(), region })
    }
}

/// How messages reach an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// At most once, one host of a queue group gets each message; may reply.
    #[default]
    Core,
    /// At most once, every replica gets all.
    Broadcast,
    /// At least once from a durable consumer; never replies.
    Jetstream,
}

impl Delivery {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Core, Self::Broadcast, Self::Jetstream];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Broadcast => "broadcast",
            Self::Jetstream => "jetstream",
        }
    }
}

/// Messaging: what comes in, what may go out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagingSettings {
    /// Subscriptions; none for an actor that only publishes.
    #[serde(default)]
    pub subscriptions: Vec<SubjectPattern>,
    /// How messages are delivered.
    #[serde(default)]
    pub delivery: Delivery,
    /// Subjects that the actor may publish on.
    #[serde(default)]
    pub publish: Vec<SubjectPattern>,
    /// Server to use instead of the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uri: Option<String>,
    /// Whether the link is one of a system actor ([`crate::system`]), which alone may see and use subjects of the control
    /// plane. No value of a link sets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

/// Kinds of subject that a subscription on `edge.sensor.<region>` lets the actor publish on for the same region.
const GRANTED_KINDS: [&str; 3] = ["result", "alert", "dead"];

impl MessagingSettings {
    fn read(values: &Values<'_>) -> Result<Self, LinkError> {
        let forced = values.flag("force")?;
        let delivery = values.choice("delivery", &Delivery::ALL.map(|delivery| (delivery.as_str(), delivery)))?.unwrap_or_default();
        let subscriptions = values.patterns("subscription")?;
        for pattern in &subscriptions {
            check_subscription(pattern, delivery, forced)?;
        }
        let mut publish = values.patterns("publish")?;
        for pattern in &publish {
            if reaches_reserved(pattern) {
                return Err(LinkError::Reserved { pattern: pattern.to_string() });
            }
        }
        publish.extend(subscriptions.iter().flat_map(granted_by));
        publish.sort();
        publish.dedup();
        let cluster_uri = values.text("cluster-uri")?.map(str::to_owned);
        Ok(Self { subscriptions, delivery, publish, cluster_uri, system: false })
    }

    /// Whether the actor may publish on `subject`. Replies are a matter of the message in hand, not of this.
    pub fn may_publish(&self, subject: &str) -> bool {
        self.may_see(subject) && self.publish.iter().any(|pattern| pattern.matches(subject))
    }

    /// Whether the actor may see a message on `subject`, however wide its subscription was forced.
    pub fn may_see(&self, subject: &str) -> bool {
        self.system || !subject::is_reserved(subject)
    }
}

/// HTTP server: where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpServerSettings {
    /// Port on each host that runs the actor.
    pub port: u16,
    /// Address to bind; loopback unless said otherwise.
    pub address: std::net::IpAddr,
}

impl HttpServerSettings {
    fn read(values: &Values<'_>) -> Result<Self, LinkError> {
        let text = values.text("address")?.unwrap_or("127.0.0.1");
        // Stock manifests write both into one value, `127.0.0.1:8080`.
        let (address, default_port) = match text.parse::<std::net::SocketAddr>() {
            Ok(both) => (both.ip(), both.port()),
            Err(_) => {
                let address = text.parse().map_err(|_| LinkError::value("address", text, "is no IP address"))?;
                (address, DEFAULT_HTTP_PORT)
            }
        };
        let port = values.number("port", u32::from(default_port), u32::from(u16::MAX))?;
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| LinkError::value("port", "0", "must be 1 to 65535"))?;
        Ok(Self { port, address })
    }
}

/// Subjects that a subscription grants by itself.
fn granted_by(subscription: &SubjectPattern) -> Vec<SubjectPattern> {
    let mut tokens = subscription.tokens();
    let (Some("edge"), Some("sensor"), Some(region)) = (tokens.next(), tokens.next(), tokens.next()) else { return Vec::new() };
    let region = if region == ">" { "*" } else { region };
    GRANTED_KINDS.iter().filter_map(|kind| SubjectPattern::new(format!("edge.{kind}.{region}")).ok()).collect()
}

fn check_subscription(pattern: &SubjectPattern, delivery: Delivery, forced: bool) -> Result<(), LinkError> {
    if pattern.is_reserved() {
        return Err(LinkError::Reserved { pattern: pattern.to_string() });
    }
    let takes_all = pattern.tokens().take(2).any(|token| token == ">") || pattern.tokens().next() == Some("*");
    if takes_all && !forced {
        return Err(LinkError::TooWide { pattern: pattern.to_string() });
    }
    let captures = |stream: &str| SubjectPattern::new(stream).is_ok_and(|stream| stream.covers(pattern));
    if delivery == Delivery::Jetstream && !subject::EDGE_STREAM_SUBJECTS.into_iter().any(captures) {
        return Err(LinkError::NotCaptured { pattern: pattern.to_string() });
    }
    Ok(())
}

/// Whether a publish rule names a reserved subject, or is so wide that it would.
fn reaches_reserved(pattern: &SubjectPattern) -> bool {
    pattern.is_reserved() || matches!(pattern.tokens().next(), Some("*" | ">"))
}

/// The durable consumers that a link needs: name and filter of each, one for each subscription.
pub fn durables(lattice: &LatticeName, link: &LinkSpec, settings: &LinkSettings) -> Vec<(String, SubjectPattern)> {
    let KindSettings::Messaging(messaging) = &settings.kind else { return Vec::new() };
    if messaging.delivery != Delivery::Jetstream {
        return Vec::new();
    }
    let name = |pattern: &SubjectPattern| subject::durable(lattice, &link.source, &link.name, &link.target, pattern);
    messaging.subscriptions.iter().map(|pattern| (name(pattern), pattern.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(contract: Contract, values: &[(&str, &str)]) -> LinkSpec {
        LinkSpec {
            source: ActorId::new("edge-processor").unwrap(),
            target: ProviderId::new("p").unwrap(),
            contract,
            name: LinkName::new("default").unwrap(),
            values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            permissions: BTreeSet::new(),
            env_mapping: BTreeMap::new(),
            config: Vec::new(),
        }
    }

    fn settings(contract: Contract, values: &[(&str, &str)]) -> Result<LinkSettings, LinkError> {
        let link = link(contract, values);
        link.settings(&link.merged_values([]))
    }

    fn messaging(values: &[(&str, &str)]) -> Result<MessagingSettings, LinkError> {
        let KindSettings::Messaging(settings) = settings(Contract::Messaging, values)?.kind else { panic!("no messaging link") };
        Ok(settings)
    }

    #[test]
    fn the_seeds_links() {
        let found = settings(
            Contract::KeyValue,
            &[("BUCKET", "edge-data"), ("REGION", "ap-east-1"), ("timeout", "5000"), ("retry-count", "3"), ("retry_delay", "1000")],
        )
        .unwrap();
        assert_eq!((found.timeout_ms, found.retry_count, found.retry_delay_ms), (5000, 3, 1000));
        assert_eq!(found.kind, KindSettings::KeyValue(KeyValueSettings { bucket: "edge-data".into(), region: Some("ap-east-1".into()) }));
        assert!(settings(Contract::HttpServer, &[("PORT", "8080")]).is_ok());
        let found = messaging(&[("SUBSCRIPTION", "edge.sensor.*"), ("CLUSTER_URI", "nats://cloud-nats:4222")]).unwrap();
        assert_eq!(found.cluster_uri.as_deref(), Some("nats://cloud-nats:4222"));
        assert!(found.may_publish("edge.result.eu"));
    }

    #[test]
    fn stock_manifests_spell_some_values_differently() {
        let check = |values: &[(&str, &str)], expected: &str| {
            let KindSettings::HttpServer(found) = settings(Contract::HttpServer, values).unwrap().kind else { panic!("no http link") };
            assert_eq!(format!("{}:{}", found.address, found.port), expected);
        };
        check(&[("address", "0.0.0.0:9000")], "0.0.0.0:9000");
        check(&[("address", "0.0.0.0:9000"), ("port", "9001")], "0.0.0.0:9001");
        check(&[("address", "0.0.0.0")], "0.0.0.0:8080");
        let found = messaging(&[("subscriptions", "edge.sensor.eu"), ("cluster_uris", "nats://hub:4222")]).unwrap();
        assert_eq!((found.subscriptions.len(), found.cluster_uri.as_deref()), (1, Some("nats://hub:4222")));
    }

    #[test]
    fn publish_rules() {
        let found = messaging(&[("subscription", "edge.sensor.eu"), ("publish", "edge.cmd.eu,site.>")]).unwrap();
        let check = |subject: &str, expected: bool| assert_eq!(found.may_publish(subject), expected, "{subject}");
        check("edge.result.eu", true);
        check("edge.alert.eu", true);
        check("edge.dead.eu", true);
        check("edge.result.us", false);
        check("edge.sensor.eu", false);
        check("edge.cmd.eu", true);
        check("site.a.b", true);
        for reserved in ["lat.default.hb.x", "$SYS.x", "cloud.cmd.n", "_INBOX.x"] {
            check(reserved, false);
            let rule = messaging(&[("publish", reserved)]);
            assert!(matches!(rule, Err(LinkError::Reserved { .. })), "{reserved}");
        }
        assert!(messaging(&[("publish", ">")]).is_err());
    }

    #[test]
    fn subscriptions() {
        let check = |pattern: &str, more: &[(&str, &str)], expected: &str| {
            let values: Vec<_> = [("subscription", pattern)].into_iter().chain(more.iter().copied()).collect();
            let found = messaging(&values).map(|_| String::new()).unwrap_or_else(|error| error.to_string());
            assert!(if expected.is_empty() { found.is_empty() } else { found.contains(expected) }, "{pattern}: {found}");
        };
        check("edge.sensor.eu", &[], "");
        check("edge.sensor.*", &[("delivery", "jetstream")], "");
        check(">", &[], "takes everything");
        check("edge.>", &[], "takes everything");
        check("*.sensor", &[], "takes everything");
        check("edge.>", &[("force", "true")], "");
        check("lat.default.>", &[("force", "true")], "never allowed");
        check("$SYS.>", &[], "never allowed");
        check("edge.result.eu", &[("delivery", "jetstream")], "cannot be durable");
        check("edge.sensor.eu", &[("delivery", "sometimes")], "must be one of core, broadcast, jetstream");
        check("edge..eu", &[], "empty token");
    }

    #[test]
    fn values_are_checked_by_name() {
        let check = |contract, values: &[(&str, &str)], expected: &str| {
            let found = settings(contract, values).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        };
        check(Contract::KeyValue, &[("buckt", "x")], "has no value `buckt`");
        let sent_once = "value `retry-count` = `3`: requests are not tried again: only the actor knows which may be sent twice";
        check(Contract::HttpClient, &[("retry_count", "3")], sent_once);
        check(Contract::KeyValue, &[("bucket", "a b")], "`bucket`");
        check(Contract::KeyValue, &[("bucket", "LAT_default_PLAN")], "control plane");
        check(Contract::HttpServer, &[("port", "70000")], "0 to 65535");
        check(Contract::HttpServer, &[("port", "0")], "1 to 65535");
        check(Contract::HttpServer, &[("timeout", "-1")], "whole number");
        check(Contract::HttpClient, &[("allow-host", "http://a")], "value `allow-host` = `http://a`: is a URL");
        check(Contract::HttpClient, &[("allow-host", "a,*:80")], "allowed host `*:80` is every host");
        check(Contract::HttpClient, &[("allow-host", "a,,b")], "value `allow-host` = ``: names no host");
        check(
            Contract::HttpClient,
            &[("allow-host", &(0..33).map(|n| format!("h{n}")).collect::<Vec<_>>().join(","))],
            "more than 32 hosts",
        );
    }

    #[test]
    fn hosts_that_requests_may_go_to() {
        let read = |values: &[(&str, &str)]| {
            let KindSettings::HttpClient(found) = settings(Contract::HttpClient, values).unwrap().kind else { panic!("http client") };
            found.allowed.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(read(&[]).is_empty());
        assert_eq!(read(&[("allow-host", "b.c:80, a,A")]), ["a", "b.c:80"]);
        assert_eq!(read(&[("ALLOWED_HOSTS", "a")]), ["a"], "as wasmCloud spells it");
        assert_eq!(read(&[("allow-host", "*"), ("force", "true")]), ["*"]);
        let found = settings(Contract::HttpClient, &[("allow-host", "*.a:*")]).unwrap();
        let written = serde_json::to_string(&found).unwrap();
        assert!(written.contains(r#""kind":{"http-client":{"allowed":["*.a:*"]}}"#), "{written}");
        assert_eq!(serde_json::from_str::<LinkSettings>(&written).unwrap(), found);
    }

    #[test]
    fn no_link_of_an_operator_reaches_the_control_plane() {
        let refused = |values: &[(&str, &str)], contract| settings(contract, values).unwrap_err();
        for reserved in ["lat.>", "lat.default.hb.>", "lat.*.sched.place", "$KV.LAT_default_PLAN.>", "$JS.API.>", "_INBOX.>"] {
            for forced in ["true", "false"] {
                let subscription = refused(&[("subscription", reserved), ("force", forced)], Contract::Messaging);
                assert!(matches!(subscription, LinkError::Reserved { .. }), "{reserved}: {subscription}");
                let publish = refused(&[("publish", reserved), ("force", forced)], Contract::Messaging);
                assert!(matches!(publish, LinkError::Reserved { .. }), "{reserved}: {publish}");
            }
        }
        // What is forced wide still does not see them, and no value lifts that.
        let wide = messaging(&[("subscription", ">"), ("force", "true")]).unwrap();
        assert!(!wide.system && !wide.may_see("lat.default.hb.eu.N") && !wide.may_publish("lat.default.probe"));
        assert!(matches!(refused(&[("system", "true")], Contract::Messaging), LinkError::Unknown { .. }));
        for values in [&[][..], &[("buckets", "{}")], &[("bucket", "LAT_default_PLAN")]] {
            assert!(matches!(refused(values, Contract::Store), LinkError::SystemOnly { .. } | LinkError::Unknown { .. }));
        }
        // A document that was written past the checks means the same.
        let written: LinkSpec = serde_json::from_value(serde_json::json!({
            "source": "a", "target": "lattice-messaging", "contract": "messaging", "name": "x",
            "values": {"subscription": "edge.sensor.eu"}, "system": true, "settings": {"system": true},
        }))
        .unwrap();
        let KindSettings::Messaging(found) = written.settings(&written.merged_values([])).unwrap().kind else { panic!("messaging") };
        assert!(!found.system);
    }

    #[test]
    fn permissions_and_their_groups() {
        let mut spec = link(Contract::KeyValue, &[]);
        spec.permissions = BTreeSet::from(["read".to_owned(), "increment".to_owned()]);
        let found = spec.settings(&BTreeMap::new()).unwrap();
        assert!(found.permits("get") && found.permits("list") && found.permits("increment"));
        assert!(!found.permits("set") && !found.permits("delete"));
        spec.permissions = BTreeSet::from(["fly".to_owned()]);
        assert!(spec.settings(&BTreeMap::new()).unwrap_err().to_string().contains("`fly`"));
    }
}
