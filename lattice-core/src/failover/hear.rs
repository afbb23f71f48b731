//! What the replica hears: heartbeats, closed connections, goodbyes, and that something was committed.

use serde::Deserialize;

use super::{Failover, MAX_OUTBOX, Millis, Step};
use crate::id::HostId;
use crate::liveness::Cut;
use crate::scheduler::MAX_HOSTS;
use crate::subject::{self, Signal};
use crate::wire::event::{Event, EventKind};
use crate::wire::report::HostReport;
use crate::wire::{self, json};

/// The server's word that a client has gone, as far as it matters.
#[derive(Deserialize)]
struct Disconnect {
    client: Client,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Client {
    #[serde(default)]
    name: String,
}

/// The server goes itself, which says nothing about its clients.
const SERVER_SHUTDOWN: &str = "Server Shutdown";
/// The client's side closed or reset the connection, by itself or by its kernel: one that dies with unread data resets it.
const ITS_SIDE_CLOSED: [&str; 3] = ["Client Closed", "Read Error", "Write Error"];

impl Failover {
    /// A message of any kind that the replica hears; `wall_ms` is for people. What makes no sense is counted and changes
    /// nothing.
    pub fn handle_message(&mut self, subject: &str, payload: &[u8], now: Millis, wall_ms: u64) {
        self.wall = (wall_ms, now);
        let Some((lattice, signal)) = Signal::of_subject(subject) else { return self.count_malformed() };
        let ours = self.lattice.is_none() || lattice.is_none() || lattice == self.lattice;
        if !ours {
            return self.count_malformed();
        }
        match signal {
            Signal::Heartbeat => self.handle_heartbeat(subject, payload, now),
            Signal::Disconnect => self.handle_disconnect(payload, now),
            Signal::Bye => self.handle_bye(subject, payload, now),
            Signal::VerdictChanged => self.handle_verdict_changed(subject, payload),
            Signal::DesiredChanged => self.stored.desired_stale = true,
            Signal::Planned => self.handle_planned(subject, now),
            Signal::Question(_) => {}
        }
    }

    fn count_malformed(&mut self) {
        self.malformed = self.malformed.saturating_add(1);
    }

    fn handle_heartbeat(&mut self, subject: &str, payload: &[u8], now: Millis) {
        let Some(report) = self.decode_report(subject, payload) else { return self.count_malformed() };
        if report.name.as_str() == self.node || report.id.as_str() == self.node {
            self.ticks.handle_heartbeat(&report.id, now);
        }
        let gaps = self.detector.gaps();
        let news = self.detector.handle_heartbeat(&report, now);
        if self.detector.gaps() != gaps {
            self.handle_reconnected();
        }
        if !news {
            return;
        }
        self.leases.handle_heartbeat(&report, now);
        self.poison.handle_heartbeat(&report, &self.stored.desired, now);
        self.history.handle_heartbeat(&report, now);
        self.reports.insert(report.id.clone(), report);
    }

    /// The report, if it is one of this lattice and of the host that its subject names.
    fn decode_report(&mut self, subject: &str, payload: &[u8]) -> Option<HostReport> {
        let report: HostReport = wire::decode(payload).ok()?;
        let named = subject::heartbeat(&report.lattice, &report.region, &report.id) == subject;
        let room = self.reports.contains_key(&report.id) || self.reports.len() < MAX_HOSTS;
        if !(named && room) {
            return None;
        }
        if self.lattice.is_none() {
            self.lattice = Some(report.lattice.clone());
        }
        Some(report)
    }

    fn handle_disconnect(&mut self, payload: &[u8], now: Millis) {
        let parsed: Result<Disconnect, _> = json::parse(payload, json::MAX_CONTROL_BYTES, json::MAX_DEPTH);
        let Ok(disconnect) = parsed else { return self.count_malformed() };
        let Some((host, incarnation)) = subject::host_of_connection(&disconnect.client.name) else { return };
        let cut = match disconnect.reason.as_str() {
            SERVER_SHUTDOWN => return,
            reason if ITS_SIDE_CLOSED.contains(&reason) => Cut::ProcessGone,
            _ => Cut::LinkDown,
        };
        if self.detector.handle_disconnect(&host, &incarnation, cut, now) && self.outbox.len() < MAX_OUTBOX {
            self.outbox.push_back(Step::Ask(host));
        }
    }

    fn handle_bye(&mut self, subject: &str, payload: &[u8], now: Millis) {
        let event = wire::decode::<Event>(payload).ok().filter(|event| {
            let named = |lattice| subject::event(lattice, &event.region, &event.host, EventKind::Bye.token()) == subject;
            event.kind == EventKind::Bye && self.lattice.as_ref().is_some_and(named)
        });
        match event {
            Some(event) => self.detector.handle_bye(&event.host, &event.incarnation, now),
            None => self.count_malformed(),
        }
    }

    fn handle_verdict_changed(&mut self, subject: &str, payload: &[u8]) {
        let prefix = self.lattice.as_ref().map(|lattice| subject::verdict_changes(lattice).trim_end_matches('>').to_owned());
        if let Some(key) = prefix.and_then(|prefix| subject.strip_prefix(prefix.as_str()).map(str::to_owned)) {
            self.stored.mark_verdict(key, payload);
        }
    }

    fn handle_planned(&mut self, subject: &str, now: Millis) {
        let host = subject.rsplit('.').next().and_then(|id| HostId::new(id).ok());
        if let Some(host) = host {
            self.stored.mark_plan(host);
            self.history.handle_planned(now);
        }
    }
}
