//! What the operator wants: components, providers, links, config, nodes, one key each in the bucket of desired state.
//!
//! A change is an edit of a [`Desired`] in memory; [`Desired::diff`] turns it into the keys of one atomic batch.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::id::{ActorId, ConfigName, Digest, HostId, Incarnation, ProviderId};
use crate::link::LinkSpec;
use crate::needs::{Needs, NeedsError};
use crate::system::SystemActor;
use crate::wire::assignment::{InstancePolicy, Limits, ProviderKind};
use crate::wire::{self, DecodeError};

/// Most instances that one actor may ask for; far above what any host holds, far below where sums could overflow.
pub const MAX_INSTANCES: u32 = 1_000_000;
/// Longest config value in bytes.
pub const MAX_CONFIG_VALUE_BYTES: usize = 64 * 1024;
/// Longest config name within a set, in bytes.
pub const MAX_CONFIG_KEY_BYTES: usize = 256;

/// An actor that shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentSpec {
    /// Where the code came from, for people.
    pub image: String,
    /// The code in the artifact store.
    pub digest: Digest,
    /// How many instances may run at once in the whole lattice.
    pub max: u32,
    /// Hosts to run on; empty leaves the choice to the plan.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hosts: BTreeSet<HostId>,
    /// How instances are used.
    #[serde(default)]
    pub policy: InstancePolicy,
    /// What a message may cost.
    #[serde(default)]
    pub limits: Limits,
    /// Named config besides the one that is named like the actor; later ones win, the actor's own wins over all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigName>,
    /// What it asks of its hosts.
    #[serde(default, skip_serializing_if = "Needs::is_default")]
    pub needs: Needs,
    /// Which part of the control plane it is, if it is one: that gives it links which nobody else can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemActor>,
}

impl ComponentSpec {
    /// One instance, anywhere, with the defaults of everything else.
    pub fn new(image: impl Into<String>, digest: Digest) -> Self {
        Self {
            image: image.into(),
            digest,
            max: 1,
            hosts: BTreeSet::new(),
            policy: InstancePolicy::default(),
            limits: Limits::default(),
            config: Vec::new(),
            needs: Needs::default(),
            system: None,
        }
    }
}

/// A provider that shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderSpec {
    /// Reference that it was started with.
    pub image: String,
    /// The backend that the reference stands for.
    pub kind: ProviderKind,
    /// Hosts to run on; empty means every host, later ones included.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub hosts: BTreeSet<HostId>,
    /// Named config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config: Vec<ConfigName>,
}

/// Values by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfigSpec {
    /// The values.
    pub values: BTreeMap<String, String>,
}

/// What the operator wants of a host itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeSpec {
    /// This start of the host shall end; a later start is not meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Incarnation>,
    /// Nothing new is placed there; what runs there stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// What runs there moves elsewhere; nothing new is placed there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// This start of the host is taken for gone, whatever is heard of it: what may move moves at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_over: Option<Incarnation>,
}

/// Who changed a key, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// User and machine, for people.
    pub by: String,
    /// Milliseconds since 1970 by the clock of whoever changed it; for people, nothing decides by it.
    pub at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Stamped<T> {
    #[serde(flatten)]
    spec: T,
    changed: Stamp,
}

/// One key of a batch: a new value, or none to delete it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Key in the bucket.
    pub key: String,
    /// New value; `None` deletes.
    pub value: Option<Vec<u8>>,
}

/// Why a key of the bucket cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("key `{key}`: {reason}")]
pub struct CorruptKey {
    /// The key, escaped.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl CorruptKey {
    pub(crate) fn new(key: &str, reason: &str) -> Self {
        Self { key: key.chars().take(160).flat_map(char::escape_debug).collect(), reason: reason.to_owned() }
    }
}

/// Why an edit of desired state is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No such thing.
    #[error("{what} `{name}` does not exist")]
    Missing {
        /// `actor`, `provider`, `link`, `config`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The actor runs other code already.
    #[error("actor `{actor}` runs {running} already, not {wanted}: stop it first, or allow the update")]
    OtherCode {
        /// The actor.
        actor: ActorId,
        /// Digest that it runs.
        running: Digest,
        /// Digest that was asked for.
        wanted: Digest,
    },
    /// A provider of that id is of another kind.
    #[error("provider `{provider}` is a {running} already, not a {wanted}")]
    OtherKind {
        /// The provider.
        provider: ProviderId,
        /// Its kind.
        running: &'static str,
        /// The kind that was asked for.
        wanted: &'static str,
    },
    /// A number or text out of its bounds.
    #[error("{what}: {reason}")]
    Bounds {
        /// What it is.
        what: String,
        /// The bound.
        reason: String,
    },
    /// What an actor asks for makes no sense.
    #[error("{actor}: {reason}")]
    Needs {
        /// The actor.
        actor: ActorId,
        /// What is wrong.
        reason: NeedsError,
    },
    /// A provider that links still use.
    #[error("{} still use provider `{provider}`", .actors.join(", "))]
    InUse {
        /// The provider.
        provider: ProviderId,
        /// Actors that link to it.
        actors: Vec<String>,
    },
}

/// The whole of desired state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// Actors.
    pub components: BTreeMap<ActorId, ComponentSpec>,
    /// Providers.
    pub providers: BTreeMap<ProviderId, ProviderSpec>,
    /// Links by key.
    pub links: BTreeMap<String, LinkSpec>,
    /// Config by name.
    pub configs: BTreeMap<ConfigName, ConfigSpec>,
    /// Hosts.
    pub nodes: BTreeMap<HostId, NodeSpec>,
    /// Who changed each key last.
    pub changed: BTreeMap<String, Stamp>,
}

impl Desired {
    /// Takes in one key as it stands in the bucket. Keys of kinds that this program does not know are left alone.
    ///
    /// # Errors
    /// [`CorruptKey`] if the key or its value makes no sense.
    pub fn insert(&mut self, key: &str, value: &[u8]) -> Result<(), CorruptKey> {
        let (kind, name) = key.split_once('.').unwrap_or((key, ""));
        let stamp = match kind {
            "component" => store(&mut self.components, key, name, value)?,
            "provider" => store(&mut self.providers, key, name, value)?,
            "config" => store(&mut self.configs, key, name, value)?,
            "node" => store(&mut self.nodes, key, name, value)?,
            "link" => {
                let Stamped::<LinkSpec> { spec, changed } = decode(key, value)?;
                if link_key(&spec) != key {
                    return Err(CorruptKey::new(key, "holds a link of another identity"));
                }
                self.links.insert(key.to_owned(), spec);
                changed
            }
            _ => return Ok(()),
        };
        self.changed.insert(key.to_owned(), stamp);
        Ok(())
    }

    /// The keys by which `self` becomes `next`, in ascending order.
    pub fn diff(&self, next: &Self, stamp: &Stamp) -> Vec<Change> {
        let (before, after) = (self.encoded(stamp), next.encoded(stamp));
        let removed = before.keys().filter(|key| !after.contains_key(*key));
        let mut changes: Vec<Change> = removed.map(|key| Change { key: key.clone(), value: None }).collect();
        let put = after.into_iter().filter(|(key, value)| before.get(key) != Some(value));
        changes.extend(put.map(|(key, value)| Change { key, value: Some(value) }));
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    fn encoded(&self, stamp: &Stamp) -> BTreeMap<String, Vec<u8>> {
        let mut keys = BTreeMap::new();
        encode_all(&mut keys, "component", &self.components, stamp);
        encode_all(&mut keys, "provider", &self.providers, stamp);
        encode_all(&mut keys, "config", &self.configs, stamp);
        encode_all(&mut keys, "node", &self.nodes, stamp);
        for (key, spec) in &self.links {
            keys.insert(key.clone(), wire::encode(&Stamped { spec, changed: stamp.clone() }));
        }
        keys
    }

    /// Adds an actor, or more hosts and another `max` to one that runs the same code. Without `max` it stays as it is, at
    /// least one instance for each named host; one that is divided into slots has as many as slots.
    ///
    /// # Errors
    /// [`EditError::OtherCode`] unless `allow_update`; [`EditError::Bounds`] for too many instances; [`EditError::Needs`] for
    /// another number of them than of slots.
    pub fn start_component(&mut self, id: ActorId, mut spec: ComponentSpec, max: Option<u32>, allow_update: bool) -> Result<(), EditError> {
        if let Some(running) = self.components.get(&id) {
            if running.digest != spec.digest && !allow_update {
                return Err(EditError::OtherCode { actor: id, running: running.digest.clone(), wanted: spec.digest });
            }
            if !running.hosts.is_empty() && !spec.hosts.is_empty() {
                spec.hosts.extend(running.hosts.iter().cloned());
            }
            spec.max = running.max;
        } else {
            spec.max = 1;
        }
        let named = u32::try_from(spec.hosts.len()).unwrap_or(u32::MAX);
        let before = spec.max;
        spec.max = max.unwrap_or(spec.max.max(named));
        check_max(spec.max)?;
        spec.needs.check(&id).map_err(|reason| EditError::Needs { actor: id.clone(), reason })?;
        spec.max = instances(&id, max.filter(|max| *max != before), spec.max, &spec.needs)?;
        self.components.insert(id, spec);
        Ok(())
    }

    /// Removes an actor, or takes it off `hosts`, its share of instances with it; slots go to the hosts that are left. `shares` says how many instances each
    /// host holds by the plan.
    ///
    /// # Errors
    /// [`EditError::Missing`] if it is not there.
    pub fn stop_component(&mut self, id: &ActorId, hosts: &BTreeSet<HostId>, shares: &BTreeMap<HostId, u32>) -> Result<(), EditError> {
        let missing = || EditError::Missing { what: "actor", name: id.to_string() };
        let spec = self.components.get_mut(id).ok_or_else(missing)?;
        let left: BTreeSet<HostId> = shares.keys().filter(|host| !hosts.contains(*host)).cloned().collect();
        if hosts.is_empty() || left.is_empty() {
            self.components.remove(id);
            return Ok(());
        }
        let leaving: u32 = hosts.iter().filter_map(|host| shares.get(host)).fold(0, |sum, share| sum.saturating_add(*share));
        if !spec.needs.is_divided() {
            spec.max = spec.max.saturating_sub(leaving).max(1);
        }
        spec.hosts = left;
        Ok(())
    }

    /// Sets how many instances an actor may have and, if they are given, where (no hosts: wherever the plan puts them) and
    /// what it asks for; 0 removes it. One that is divided into slots has as many instances as slots.
    ///
    /// # Errors
    /// [`EditError::Missing`], [`EditError::Bounds`], [`EditError::Needs`].
    pub fn scale_component(
        &mut self,
        id: &ActorId,
        max: u32,
        hosts: Option<BTreeSet<HostId>>,
        needs: Option<Needs>,
    ) -> Result<(), EditError> {
        check_max(max)?;
        if let Some(needs) = &needs {
            needs.check(id).map_err(|reason| EditError::Needs { actor: id.clone(), reason })?;
        }
        let missing = || EditError::Missing { what: "actor", name: id.to_string() };
        let spec = self.components.get_mut(id).ok_or_else(missing)?;
        if max == 0 {
            self.components.remove(id);
            return Ok(());
        }
        let needs = needs.unwrap_or_else(|| spec.needs.clone());
        spec.max = instances(id, Some(max).filter(|max| *max != spec.max), max, &needs)?;
        spec.needs = needs;
        if let Some(hosts) = hosts {
            spec.hosts = hosts;
        }
        Ok(())
    }

    /// Changes what is wanted of a host; a host of which nothing is wanted any more is forgotten.
    pub fn edit_node(&mut self, host: &HostId, edit: impl FnOnce(&mut NodeSpec)) {
        let mut node = self.nodes.remove(host).unwrap_or_default();
        edit(&mut node);
        if node != NodeSpec::default() {
            self.nodes.insert(host.clone(), node);
        }
    }

    /// Adds a provider, or more hosts to one of the same kind.
    ///
    /// # Errors
    /// [`EditError::OtherKind`].
    pub fn start_provider(&mut self, id: ProviderId, mut spec: ProviderSpec) -> Result<(), EditError> {
        if let Some(running) = self.providers.get(&id) {
            if running.kind != spec.kind {
                return Err(EditError::OtherKind { provider: id, running: running.kind.as_str(), wanted: spec.kind.as_str() });
            }
            if !spec.hosts.is_empty() {
                spec.hosts.extend(running.hosts.iter().cloned());
            }
        }
        self.providers.insert(id, spec);
        Ok(())
    }

    /// Removes a provider, or takes it off `hosts` (`known` are all hosts, for a provider that runs everywhere).
    ///
    /// # Errors
    /// [`EditError::Missing`]; [`EditError::InUse`] if links still name it and it would be gone, unless `force`.
    pub fn stop_provider(
        &mut self,
        id: &ProviderId,
        hosts: &BTreeSet<HostId>,
        known: &BTreeSet<HostId>,
        force: bool,
    ) -> Result<(), EditError> {
        let spec = self.providers.get_mut(id).ok_or_else(|| EditError::Missing { what: "provider", name: id.to_string() })?;
        let runs_on = if spec.hosts.is_empty() { known } else { &spec.hosts };
        let left: BTreeSet<HostId> = runs_on.difference(hosts).cloned().collect();
        if !hosts.is_empty() && !left.is_empty() {
            spec.hosts = left;
            return Ok(());
        }
        let actors: BTreeSet<String> = self.links.values().filter(|link| link.target == *id).map(|link| link.source.to_string()).collect();
        if !actors.is_empty() && !force {
            return Err(EditError::InUse { provider: id.clone(), actors: actors.into_iter().collect() });
        }
        self.providers.remove(id);
        Ok(())
    }

    /// Adds a link or replaces the one of the same identity; returns its key.
    pub fn put_link(&mut self, link: LinkSpec) -> String {
        let key = link_key(&link);
        self.links.insert(key.clone(), link);
        key
    }

    /// Removes the links of `source` that fit; returns them.
    ///
    /// # Errors
    /// [`EditError::Missing`] if none fits.
    pub fn delete_links(&mut self, source: &ActorId, fits: impl Fn(&LinkSpec) -> bool) -> Result<Vec<LinkSpec>, EditError> {
        let keys: Vec<String> =
            self.links.iter().filter(|(_, link)| link.source == *source && fits(link)).map(|(key, _)| key.clone()).collect();
        if keys.is_empty() {
            return Err(EditError::Missing { what: "link", name: source.to_string() });
        }
        Ok(keys.iter().filter_map(|key| self.links.remove(key)).collect())
    }

    /// Sets values of a config, leaving its others as they are.
    ///
    /// # Errors
    /// [`EditError::Bounds`] for empty or too long names and too long values.
    pub fn put_config(&mut self, name: ConfigName, values: BTreeMap<String, String>) -> Result<(), EditError> {
        for (key, value) in &values {
            let key_shown: String = key.chars().take(80).flat_map(char::escape_debug).collect();
            if key.is_empty() || key.len() > MAX_CONFIG_KEY_BYTES || key.chars().any(char::is_control) {
                return Err(EditError::Bounds {
                    what: format!("config key `{key_shown}`"),
                    reason: "must have 1 to 256 bytes and no control characters".into(),
                });
            }
            if value.len() > MAX_CONFIG_VALUE_BYTES {
                return Err(EditError::Bounds {
                    what: format!("config value of `{key_shown}`"),
                    reason: "is longer than 65536 bytes".into(),
                });
            }
        }
        self.configs.entry(name).or_default().values.extend(values);
        Ok(())
    }

    /// Removes a config, or only some of its keys.
    ///
    /// # Errors
    /// [`EditError::Missing`] names the config or key that is not there.
    pub fn delete_config(&mut self, name: &ConfigName, keys: &[String]) -> Result<(), EditError> {
        let config = self.configs.get_mut(name).ok_or_else(|| EditError::Missing { what: "config", name: name.to_string() })?;
        if keys.is_empty() {
            self.configs.remove(name);
            return Ok(());
        }
        for key in keys {
            if config.values.remove(key).is_none() {
                return Err(EditError::Missing { what: "config", name: format!("{name} {key}") });
            }
        }
        Ok(())
    }

    /// Links of an actor.
    pub fn links_of<'a>(&'a self, actor: &'a ActorId) -> impl Iterator<Item = &'a LinkSpec> {
        self.links.values().filter(move |link| link.source == *actor)
    }

    /// The config that an actor sees: the named ones it asks for, then the one named like itself.
    pub fn config_of(&self, actor: &ActorId, spec: &ComponentSpec) -> BTreeMap<String, String> {
        let own = ConfigName::new(actor.as_str()).ok();
        self.values_of(spec.config.iter().chain(own.iter()))
    }

    /// The values of several configs, later ones over earlier ones; a config that does not exist holds nothing.
    pub fn values_of<'a>(&self, names: impl IntoIterator<Item = &'a ConfigName>) -> BTreeMap<String, String> {
        let found = names.into_iter().filter_map(|name| self.configs.get(name));
        found.flat_map(|config| config.values.clone()).collect()
    }
}

/// Key of a link: the actor, and a hash of what makes the link itself.
pub fn link_key(link: &LinkSpec) -> String {
    let (source, contract, name) = link.identity();
    let hash: String = Digest::of(format!("{source}\n{contract}\n{name}").as_bytes()).hex().chars().take(16).collect();
    format!("link.{source}.{hash}")
}

/// Which of the two names of a link is the actor: the seed writes the actor first; a provider may stand first when the
/// interface is one that the actor exports. Returns (actor, provider).
pub fn orient<'a>(first: &'a str, second: &'a str, contract: Contract, desired: &Desired) -> (&'a str, &'a str) {
    let is_actor = |name: &str| ActorId::new(name).is_ok_and(|id| desired.components.contains_key(&id));
    let is_provider = |name: &str| ProviderId::new(name).is_ok_and(|id| desired.providers.contains_key(&id));
    let exported = !contract.exports().is_empty();
    let reversed = exported && !is_actor(first) && (is_actor(second) || is_provider(first));
    if reversed { (second, first) } else { (first, second) }
}

/// Instances of an actor that would have `max`: as many as it has slots, if it is divided. `asked` is the number that was
/// asked for anew, if one was.
fn instances(actor: &ActorId, asked: Option<u32>, max: u32, needs: &Needs) -> Result<u32, EditError> {
    if !needs.is_divided() {
        return Ok(max);
    }
    let slots = needs.slot_count();
    match asked.filter(|asked| *asked != slots) {
        None => Ok(slots),
        Some(asked) => {
            let (first, second) = (format!("{asked} instances"), format!("{slots} slots with one owner each"));
            Err(EditError::Needs { actor: actor.clone(), reason: NeedsError::Contradiction { first, second } })
        }
    }
}

fn check_max(max: u32) -> Result<(), EditError> {
    if max > MAX_INSTANCES {
        return Err(EditError::Bounds { what: format!("{max} instances"), reason: format!("at most {MAX_INSTANCES} are allowed") });
    }
    Ok(())
}

fn store<K, T>(map: &mut BTreeMap<K, T>, key: &str, name: &str, value: &[u8]) -> Result<Stamp, CorruptKey>
where
    K: TryFrom<String, Error = crate::id::InvalidName> + Ord,
    T: serde::de::DeserializeOwned,
{
    let id = K::try_from(name.to_owned()).map_err(|error| CorruptKey::new(key, &error.to_string()))?;
    let Stamped { spec, changed } = decode(key, value)?;
    map.insert(id, spec);
    Ok(changed)
}

fn encode_all<K: AsRef<str>, T: Serialize>(keys: &mut BTreeMap<String, Vec<u8>>, kind: &str, map: &BTreeMap<K, T>, stamp: &Stamp) {
    for (name, spec) in map {
        keys.insert(format!("{kind}.{}", name.as_ref()), wire::encode(&Stamped { spec, changed: stamp.clone() }));
    }
}

fn decode<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<Stamped<T>, CorruptKey> {
    wire::decode(value).map_err(|error: DecodeError| CorruptKey::new(key, &error.to_string()))
}

#[cfg(test)]
mod tests;
