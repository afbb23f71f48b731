//! What the replica answers, and the events that it publishes.

use std::collections::BTreeMap;

use super::Failover;
use super::course::Moved;
use super::stored::{Freeze, in_force};
use crate::id::{HostId, HostName, Incarnation, Region};
use crate::inventory::Health;
use crate::liveness::HostView;
use crate::scheduler::Millis;
use crate::wire::event::{Event, EventKind};
use crate::wire::failover::{Failover as Record, FailoverStatus, HealthCheck};
use crate::wire::verdict::{Quarantine, Standing, Verdict};

/// How long a host that is gone and has no work is shown.
const SHOW_GONE_MS: Millis = 600_000;
/// Hosts and reasons that one event names.
const MAX_NAMED: usize = 32;

impl Failover {
    /// How this replica stands.
    pub fn status(&self, now: Millis) -> FailoverStatus {
        let settings = self.detector.settings();
        let quarantined = self.stored.verdicts.quarantined.values().filter(|quarantine| in_force(quarantine, &self.stored.desired));
        FailoverStatus {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: settings.profile,
            heartbeat_timeout_ms: settings.heartbeat_timeout_ms,
            max_error_count: settings.max_error_count,
            auto_failover: settings.auto_failover,
            faults: settings.faults.clone(),
            ready: self.is_ready(now),
            gaps: self.detector.gaps(),
            hosts: self.hosts(now),
            verdicts: self.stored.verdicts.hosts.values().cloned().collect(),
            frozen: self.detector.frozen(now),
            quarantined: quarantined.cloned().collect(),
            running: self.history.running().cloned().collect(),
            total: self.history.total(),
            measured_downtime_ms: self.history.median_ms(),
        }
    }

    /// Whether this replica knows what is stored and has observed for long enough to judge.
    pub fn is_ready(&self, now: Millis) -> bool {
        self.stored.is_known() && self.detector.is_ready(now)
    }

    /// The seed's check of every host, by name.
    pub fn hosts(&self, now: Millis) -> Vec<HealthCheck> {
        let check = |view: HostView<'_>| HealthCheck {
            node_id: view.name.to_string(),
            status: health(&view).as_str().to_owned(),
            actor_count: self.reports.get(view.host).map_or(0, |report| u32::try_from(report.components.len()).unwrap_or(u32::MAX)),
            last_heartbeat_ms: now.saturating_sub(view.heard),
            error_count: view.errors,
        };
        let needed = |host: &HostId| self.stored.plan.assignments.get(host).is_some_and(|share| !share.components.is_empty());
        let shown = |view: &HostView<'_>| {
            view.standing != Some(Standing::Dead) || now.saturating_sub(view.heard) < SHOW_GONE_MS || needed(view.host)
        };
        let mut hosts: Vec<HealthCheck> = self.detector.hosts().filter(shown).map(check).collect();
        hosts.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        hosts
    }

    /// Messages and stored keys that made no sense, since it started.
    pub fn malformed(&self) -> u64 {
        self.malformed.saturating_add(self.stored.corrupt)
    }

    /// What the next failover is expected to take: the median of what was measured, else what the settings make of it.
    pub(super) fn estimate(&self) -> u64 {
        self.history.median_ms().unwrap_or_else(|| self.detector.settings().expected_downtime_ms())
    }

    pub(super) fn publish_verdict(&mut self, verdict: &Verdict, now: Millis) {
        let kind = match verdict.standing {
            Standing::Healthy => EventKind::Healthy,
            Standing::Degraded => EventKind::Degraded,
            Standing::Suspect => EventKind::Suspect,
            Standing::Dead => EventKind::Dead,
            Standing::Returned => EventKind::Returned,
        };
        let mut details = BTreeMap::from([("evidence".to_owned(), word(&verdict.evidence)), ("by".to_owned(), verdict.by.clone())]);
        let message = if verdict.standing == Standing::Dead && verdict.lease_ended {
            details.insert("lease".to_owned(), "ended".to_owned());
            format!("{}: its lease has ended", verdict.name)
        } else {
            format!("{} is {}: {}", verdict.name, verdict.standing.as_str(), verdict.reason)
        };
        self.publish_about(kind, (&verdict.host, &verdict.name, &verdict.region, &verdict.incarnation), message, details, now);
    }

    pub(super) fn publish_freeze(&mut self, freeze: &Freeze, now: Millis) {
        let kind = if freeze.frozen { EventKind::Frozen } else { EventKind::Thawed };
        let Some(view) = freeze.host.as_ref().and_then(|host| self.detector.host(host)) else { return };
        let (host, name, incarnation) = (view.host.clone(), view.name.clone(), view.incarnation.clone());
        let details = BTreeMap::from([("by".to_owned(), freeze.by.clone()), ("region".to_owned(), freeze.region.to_string())]);
        self.publish_about(kind, (&host, &name, &freeze.region, &incarnation), freeze.reason.clone(), details, now);
    }

    /// An event about an actor is one of the last host on which it failed.
    pub(super) fn publish_quarantine(&mut self, quarantine: &Quarantine, now: Millis) {
        let Some(view) = quarantine.hosts.iter().find_map(|host| self.detector.host(host)) else { return };
        let (host, name) = (view.host.clone(), view.name.clone());
        let (region, incarnation) = (view.region.clone(), view.incarnation.clone());
        let hosts: Vec<&str> = quarantine.hosts.iter().take(MAX_NAMED).map(HostId::as_str).collect();
        let details = BTreeMap::from([("actor".to_owned(), quarantine.actor.to_string()), ("hosts".to_owned(), hosts.join(" "))]);
        let message = format!("{} is moved no more: {}", quarantine.actor, quarantine.reason);
        self.publish_about(EventKind::Quarantined, (&host, &name, &region, &incarnation), message, details, now);
    }

    pub(super) fn publish_moved(&mut self, moved: &Moved, now: Millis) {
        let (record, plan) = (&moved.record, &moved.plan);
        let actors: Vec<&str> = plan.actor_ids.iter().take(MAX_NAMED).map(crate::id::ActorId::as_str).collect();
        let details = BTreeMap::from([
            ("actors".to_owned(), actors.join(" ")),
            ("target".to_owned(), plan.target_node.clone()),
            ("generation".to_owned(), record.generation.unwrap_or_default().to_string()),
            ("estimated_downtime_ms".to_owned(), plan.estimated_downtime_ms.to_string()),
        ]);
        let what = match plan.actor_ids.as_slice() {
            [actor] => format!("{actor} moves"),
            several => format!("{} actors move", several.len()),
        };
        let message = format!("{what} from {} to {}", plan.failed_node, plan.target_node);
        self.publish_about(EventKind::Moved, (&record.host, &record.name, &record.region, &record.incarnation), message, details, now);
    }

    pub(super) fn publish_left(&mut self, record: &Record, now: Millis) {
        let reasons = record.left_behind.iter().take(MAX_NAMED);
        let details =
            reasons.map(|(actor, why)| (actor.to_string(), why.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join("; "))).collect();
        let message = format!("failover failed: no healthy target for {} actors of {}", record.left_behind.len(), record.name);
        self.publish_about(EventKind::NoTarget, (&record.host, &record.name, &record.region, &record.incarnation), message, details, now);
    }

    fn publish_about(
        &mut self,
        kind: EventKind,
        (host, name, region, incarnation): (&HostId, &HostName, &Region, &Incarnation),
        message: String,
        details: BTreeMap<String, String>,
        now: Millis,
    ) {
        self.publish(Event {
            kind,
            host: host.clone(),
            host_name: name.clone(),
            region: region.clone(),
            incarnation: incarnation.clone(),
            at_ms: self.wall_ms(now),
            message,
            details,
        });
    }
}

/// Health in the seed's words, by what is stored and heard.
fn health(view: &HostView<'_>) -> Health {
    let judged = view.standing.map_or(Health::Healthy, Health::of_standing);
    let heard = match view.is_heard {
        false => Health::Unhealthy,
        true if view.draining || view.errors > 0 => Health::Degraded,
        true => Health::Healthy,
    };
    judged.max(heard)
}

/// The word of something on the wire.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
