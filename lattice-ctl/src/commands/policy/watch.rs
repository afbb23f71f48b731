//! Which hosts enforce what: from their reports, asked for once and heard from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ConfigName, HostId};
use lattice_core::policy::Bundle;
use lattice_core::policy::report::{Compliance, Enforced, Wanted, compliance};
use lattice_core::policy::scope::Facts;
use lattice_core::subject::{self, Verb};
use lattice_core::wire;
use lattice_core::wire::report::HostReport;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::document::Opened;
use super::lineage::Heard;
use crate::args;
use crate::connection::Session;
use crate::error::Outcome;
use crate::output::{Document, Output, columns};
use crate::view::ANSWER_WINDOW;

/// How long hosts are waited for, unless something else is said.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a refusal that was said before a policy was written may be about the document before it: hosts read at once.
const SETTLING: Duration = Duration::from_secs(2);
/// Hosts that are named in one line.
const NAMED: usize = 8;

/// How long hosts are waited for.
#[derive(Debug, Args)]
pub(super) struct Patience {
    /// How long to wait for the hosts: 250ms, 5s, 2m [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,
}

impl Patience {
    pub(super) fn get(&self) -> Duration {
        self.timeout.unwrap_or(PATIENCE)
    }
}

/// Whether hosts are waited for, and how long.
#[derive(Debug, Args)]
pub(super) struct Waiting {
    /// Return without waiting for the hosts
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    patience: Patience,
}

/// What a report says about policy; hosts that are too old say nothing.
#[derive(Debug, Deserialize)]
struct Acknowledged {
    #[serde(default)]
    policy: Option<Enforced>,
}

/// Hosts by what they said last.
#[derive(Default)]
struct Hosts {
    said: BTreeMap<HostId, (HostReport, Option<Enforced>)>,
    /// Hosts that the plan knows and that have said nothing.
    expected: BTreeMap<HostId, String>,
}

impl Hosts {
    fn hear(&mut self, report: &[u8]) {
        let (Ok(host), Ok(part)) = (wire::decode::<HostReport>(report), wire::decode::<Acknowledged>(report)) else { return };
        // An answer may be overtaken by a heartbeat that was sent later.
        let newer = |known: &HostReport| (&host.incarnation, host.seq) >= (&known.incarnation, known.seq);
        if self.said.get(&host.id).is_none_or(|(known, _)| newer(known)) {
            self.expected.remove(&host.id);
            self.said.insert(host.id.clone(), (host, part.policy));
        }
    }

    fn stand(&self, wanted: &[Wanted]) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for wanted in wanted {
            for (host, said) in self.said.values() {
                let facts = Facts { id: &host.id, name: &host.name, region: &host.region, labels: &host.labels };
                let compliance = compliance(wanted, &facts, said.as_ref());
                rows.push(Row::new(host.name.to_string(), host.id.clone(), wanted, compliance, said.as_ref()));
            }
            for (host, name) in &self.expected {
                rows.push(Row::new(name.clone(), host.clone(), wanted, Compliance::Silent, None));
            }
        }
        rows.sort_by(|a, b| (&a.policy, &a.host).cmp(&(&b.policy, &b.host)));
        rows
    }
}

/// Ears on the bus, opened before a policy is written.
pub(super) struct Watch {
    heartbeats: BoxStream<'static, Bytes>,
    hosts: Hosts,
    /// What hosts refused before something was written, and why.
    former: BTreeSet<(HostId, String)>,
}

impl Watch {
    /// Listens, and asks every host how it stands.
    pub(super) async fn asked(session: &Session) -> Outcome<Self> {
        let heartbeats = session.lattice.subscribe(subject::heartbeats(session.name())).await?;
        let mut watch =
            Self { heartbeats: heartbeats.map(|message| message.payload).boxed(), hosts: Hosts::default(), former: BTreeSet::new() };
        watch.ask(session).await?;
        Ok(watch)
    }

    /// What hosts say of `policy`.
    pub(super) fn heard(&self, policy: &ConfigName) -> Heard {
        let mut heard = Heard::default();
        for (host, said) in self.hosts.said.values() {
            if let Some(said) = said {
                heard.hear(policy, host.name.as_str(), said);
            }
        }
        heard
    }

    async fn ask(&mut self, session: &Session) -> Outcome {
        let plan = session.lattice.read_plan().await?;
        let expected = plan.assignments.values().filter(|part| part.stop.is_none());
        let expected: BTreeMap<HostId, String> = expected
            .map(|part| (part.host.clone(), part.host_name.as_ref().map_or_else(|| part.host.to_string(), ToString::to_string)))
            .collect();
        let ids: BTreeSet<HostId> = expected.keys().cloned().collect();
        let heard = |id: &HostId| self.hosts.said.contains_key(id);
        self.hosts.expected = expected.into_iter().filter(|(id, _)| !heard(id)).collect();
        for answer in session.lattice.ask_all(Verb::Ping, Bytes::new(), &ids, ANSWER_WINDOW).await? {
            self.hosts.hear(&answer);
        }
        Ok(())
    }

    /// What is said once a policy is stored: that it is, or that every host enforces it.
    ///
    /// # Errors
    /// Names the hosts that do not.
    pub(super) async fn until_enforced(mut self, output: &Output, bundle: &Bundle, since: Instant, waiting: &Waiting) -> Outcome {
        if waiting.no_wait {
            return output.print(&Done::stored(bundle));
        }
        let wanted = Opened::wanted_of(bundle);
        self.former = self.hosts.stand(std::slice::from_ref(&wanted)).iter().filter_map(Row::refusal).collect();
        self.until_all(output, vec![wanted], since, waiting.patience.get()).await
    }

    /// Waits until every host that was heard, or should be, complies with all of `wanted`, or says that it will not.
    ///
    /// # Errors
    /// Names the hosts that do not.
    pub(super) async fn until_all(mut self, output: &Output, wanted: Vec<Wanted>, since: Instant, patience: Duration) -> Outcome {
        let deadline = since + patience;
        let settled = deadline.min(since + SETTLING);
        let mut live = output.live();
        loop {
            let rows = self.hosts.stand(&wanted);
            let settles = Instant::now() < settled;
            let is_former = |row: &Row| settles && row.refusal().is_some_and(|refusal| self.former.contains(&refusal));
            let open: Vec<&Row> = rows.iter().filter(|row| row.is_open() || is_former(row)).collect();
            if open.is_empty() {
                drop(live);
                return finish(output, &wanted, rows, since.elapsed());
            }
            live.show(format!("{} of {} enforce it, waiting for {}", rows.len() - open.len(), rows.len(), names(&open)));
            tokio::select! {
                Some(report) = self.heartbeats.next() => self.hosts.hear(&report),
                () = tokio::time::sleep_until(settled), if settles => {}
                () = tokio::time::sleep_until(deadline), if !settles => return Err(late(&open, patience).into()),
            }
        }
    }
}

/// How a host stands to a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    policy: ConfigName,
    version: u64,
    host: String,
    host_id: HostId,
    #[serde(flatten)]
    compliance: Compliance,
    /// Whether the host is one that the policy is not for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    elsewhere: bool,
    /// Why nothing starts there, or its clock is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl Row {
    fn new(host: String, host_id: HostId, wanted: &Wanted, compliance: Compliance, said: Option<&Enforced>) -> Self {
        use lattice_core::trust::clock::Standing as Clock;
        let elsewhere = compliance == Compliance::Complies && said.is_some_and(|said| !said.policies.contains_key(&wanted.policy));
        let mut notes: Vec<String> = said.and_then(|said| said.lost.clone().or_else(|| said.no_starts.clone())).into_iter().collect();
        if let (Compliance::Complies, Some(why)) = (&compliance, said.and_then(|said| said.refused.get(wanted.policy.as_str()))) {
            notes.push(format!("refused: {why}"));
        }
        if said.is_some_and(|said| said.clock != Clock::Trusted) {
            notes.push("its clock is wrong".to_owned());
        }
        Self { policy: wanted.policy.clone(), version: wanted.version, host, host_id, compliance, elsewhere, notes }
    }

    /// Whether waiting may help.
    fn is_open(&self) -> bool {
        matches!(self.compliance, Compliance::Behind { .. } | Compliance::Silent)
    }

    fn refusal(&self) -> Option<(HostId, String)> {
        match &self.compliance {
            Compliance::Refuses { why, .. } => Some((self.host_id.clone(), why.clone())),
            Compliance::Complies | Compliance::Behind { .. } | Compliance::Silent => None,
        }
    }

    fn words(&self) -> String {
        match &self.compliance {
            Compliance::Complies if self.elsewhere => "not meant".to_owned(),
            Compliance::Complies => "enforced".to_owned(),
            Compliance::Behind { has: Some(has) } => format!("behind: enforces version {has}"),
            Compliance::Behind { has: None } => "behind: has none".to_owned(),
            Compliance::Refuses { has: Some(has), why } => format!("refused, enforces version {has}: {why}"),
            Compliance::Refuses { has: None, why } => format!("refused: {why}"),
            Compliance::Silent => "does not answer, or cannot say".to_owned(),
        }
    }
}

fn names(rows: &[&Row]) -> String {
    let names: BTreeSet<&str> = rows.iter().map(|row| row.host.as_str()).collect();
    first_names(&names.into_iter().collect::<Vec<_>>())
}

/// The first of `names`, and how many more there are.
pub(super) fn first_names(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(NAMED).copied().collect();
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

fn late(open: &[&Row], patience: Duration) -> Problem {
    let message = format!("not in force everywhere within {} ms: {}", patience.as_millis(), names(open));
    let mut problem =
        Problem::new(ErrorCode::TimedOut, message).hint("they comply before they start anything; `lattice-ctl policy status`");
    problem.causes =
        open.iter().take(NAMED).map(|row| format!("{}: policy {} v{}: {}", row.host, row.policy, row.version, row.words())).collect();
    problem
}

fn finish(output: &Output, wanted: &[Wanted], rows: Vec<Row>, took: Duration) -> Outcome {
    let refusing: Vec<&Row> = rows.iter().filter(|row| matches!(row.compliance, Compliance::Refuses { .. })).collect();
    if !refusing.is_empty() {
        let mut problem = Problem::new(ErrorCode::Denied, format!("refused by {}", names(&refusing)))
            .hint("they keep what they had; `lattice-ctl policy status`");
        problem.causes = refusing
            .iter()
            .take(NAMED)
            .map(|row| format!("{}: policy {} v{}: {}", row.host, row.policy, row.version, row.words()))
            .collect();
        return Err(problem.into());
    }
    let policies = wanted.iter().map(|wanted| (wanted.policy.clone(), wanted.version)).collect();
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    output.print(&Done { policies, state: "enforced", hosts: Some(hosts(&rows)), took_ms: Some(took_ms), from: None })
}

fn hosts(rows: &[Row]) -> usize {
    rows.iter().map(|row| &row.host_id).collect::<BTreeSet<_>>().len()
}

/// What came of putting or waiting.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    policies: BTreeMap<ConfigName, u64>,
    /// `planned`, `unchanged`, `stored`, `enforced`.
    state: &'static str,
    /// Hosts that comply.
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<usize>,
    /// Milliseconds from writing to the last host's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
    /// The version before.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
}

impl Done {
    /// It was only looked at.
    pub(super) fn planned(bundle: &Bundle, from: Option<u64>, same: bool) -> Self {
        Self { from, ..Self::bare(bundle, if same { "unchanged" } else { "planned" }) }
    }

    /// It was stored, and nobody was waited for.
    pub(super) fn stored(bundle: &Bundle) -> Self {
        Self::bare(bundle, "stored")
    }

    fn bare(bundle: &Bundle, state: &'static str) -> Self {
        let policies = BTreeMap::from([(bundle.policy.policy_id.clone(), bundle.policy.version)]);
        Self { policies, state, hosts: None, took_ms: None, from: None }
    }
}

impl Document for Done {
    fn text(&self, _wide: bool) -> String {
        let policies: Vec<String> = self.policies.iter().map(|(policy, version)| format!("policy {policy} v{version}")).collect();
        let policies = if policies.is_empty() { "no policies".to_owned() } else { policies.join(", ") };
        match (self.hosts, self.took_ms) {
            (Some(hosts), Some(took)) => {
                let all = if hosts == 1 { "the host complies".to_owned() } else { format!("all {hosts} hosts comply") };
                format!("{policies}: {all} ({took} ms)")
            }
            _ => {
                let from = self.from.map(|from| format!(" (now version {from})")).unwrap_or_default();
                format!("{policies}: {}{from}", self.state)
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.policies.keys().map(|policy| format!("policy/{policy}")).collect()
    }
}

/// All hosts and all policies.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Standing(Vec<Row>);

impl Standing {
    /// How all hosts stand to what is in the store, whether that counts or not.
    pub(super) fn of(stored: &[Opened], watch: &Watch) -> Self {
        let rows = stored.iter().flat_map(|opened| {
            let mut rows = watch.hosts.stand(&[opened.wanted()]);
            rows.iter_mut().for_each(|row| row.notes.extend(opened.flaw.iter().map(ToString::to_string)));
            rows
        });
        Self(rows.collect())
    }
}

impl Document for Standing {
    fn text(&self, _wide: bool) -> String {
        let rows = self
            .0
            .iter()
            .map(|row| vec![row.policy.to_string(), row.version.to_string(), row.host.clone(), row.words(), row.notes.join("; ")]);
        columns(&["POLICY", "VERSION", "HOST", "STATE", "NOTE"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|row| format!("host/{}", row.host)).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// What stands in the store, as far as it can be read.
pub(super) async fn stored(session: &Session) -> Outcome<Vec<Opened>> {
    let stored = session.lattice.read_policies().await?;
    Ok(stored.iter().filter_map(|(policy, stored)| Opened::of(stored, policy, session.name())).collect())
}

impl Opened {
    /// Who must enforce `bundle`.
    pub(super) fn wanted_of(bundle: &Bundle) -> Wanted {
        Wanted { policy: bundle.policy.policy_id.clone(), version: bundle.policy.version, scope: bundle.scope.clone() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::commands::signing;
    use crate::view::tests::{host, report};
    use lattice_core::id::{Digest, LatticeName, Revision};
    use lattice_core::policy::SecurityPolicy;
    use lattice_core::policy::accept::Mark;
    use lattice_core::policy::rules::Rule;
    use lattice_core::policy::scope::Scope;
    use lattice_nats::policies::StoredPolicy;

    /// A version of the policy `edge` that allows one contract.
    pub(in crate::commands::policy) fn opened(version: u64, allowed: &str) -> Opened {
        let policy = SecurityPolicy {
            policy_id: ConfigName::new("edge").unwrap(),
            version,
            allowed_contracts: vec![Rule::new(allowed).unwrap()],
            denied_contracts: Vec::new(),
            max_actor_memory_mb: None,
            network_restrictions: Vec::new(),
        };
        let bundle = Bundle {
            policy,
            lattice: LatticeName::new("default").unwrap(),
            scope: Scope::All,
            issued_at: 100,
            not_before: 100,
            expires: 200,
            issuer: signing::public(&nkeys::KeyPair::new_account()).unwrap(),
            revoked_keys: BTreeSet::new(),
            allow_older: BTreeSet::new(),
        };
        let mark = Mark { version, digest: Digest::of(&bundle.encode()), elsewhere: false };
        let stored = StoredPolicy { document: bundle.encode().into(), revision: Revision(version) };
        Opened { mark, bundle, flaw: None, stored }
    }

    /// A heartbeat of host `n` that says what it enforces.
    fn heartbeat(n: u8, seq: u64, policy: Option<&str>) -> Vec<u8> {
        let mut report = report(n);
        report.seq = seq;
        let mut value: serde_json::Value = serde_json::from_slice(&wire::encode(&report)).unwrap();
        if let Some(policy) = policy {
            value["policy"] = serde_json::from_str(policy).unwrap();
        }
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn what_hosts_say_counts() {
        let mut hosts = Hosts::default();
        hosts.expected.insert(host(3), "NEDGE04".into());
        hosts.hear(&heartbeat(0, 2, Some(r#"{"policies":{"edge":4}}"#)));
        hosts.hear(&heartbeat(0, 1, Some(r#"{"policies":{}}"#)));
        hosts.hear(&heartbeat(1, 1, Some(r#"{"policies":{"edge":3},"refused":{"edge":"wrong signature"}}"#)));
        hosts.hear(&heartbeat(2, 1, None));
        hosts.hear(b"{}");
        let wanted = opened(4, "*").wanted();
        let words = |hosts: &Hosts| {
            hosts.stand(std::slice::from_ref(&wanted)).iter().map(|row| format!("{} {}", row.host, row.words())).collect::<Vec<_>>()
        };
        let silent = "does not answer, or cannot say";
        assert_eq!(
            words(&hosts),
            [
                "NEDGE01 enforced",
                "NEDGE02 refused, enforces version 3: wrong signature",
                &format!("NEDGE03 {silent}"),
                &format!("NEDGE04 {silent}")
            ]
        );
        let rows = hosts.stand(std::slice::from_ref(&wanted));
        let open: Vec<&Row> = rows.iter().filter(|row| row.is_open()).collect();
        let problem = late(&open, Duration::from_secs(2));
        assert_eq!(
            (problem.code, problem.message.as_str()),
            (ErrorCode::TimedOut, "not in force everywhere within 2000 ms: NEDGE03, NEDGE04")
        );
        hosts.hear(&heartbeat(3, 1, Some(r#"{"policies":{"edge":3},"clock":"behind","no_starts":"expired"}"#)));
        assert_eq!(words(&hosts)[3], "NEDGE04 behind: enforces version 3");
        assert_eq!(hosts.stand(&[wanted])[3].notes, ["expired", "its clock is wrong"]);
    }

    #[test]
    fn many_names_are_cut() {
        let wanted = opened(1, "*").wanted();
        let rows: Vec<Row> = (0..20).map(|n| Row::new(format!("H{n:02}"), host(n), &wanted, Compliance::Silent, None)).collect();
        assert_eq!(names(&rows.iter().collect::<Vec<_>>()), "H00, H01, H02, H03, H04, H05, H06, H07 and 12 more");
        assert_eq!(hosts(&rows), 20);
    }

    #[test]
    fn the_last_line() {
        let bundle = opened(4, "*").bundle;
        assert_eq!(Done::planned(&bundle, Some(3), false).text(false), "policy edge v4: planned (now version 3)");
        let done = Done { hosts: Some(3), took_ms: Some(41), ..Done::stored(&bundle) };
        assert_eq!(done.text(false), "policy edge v4: all 3 hosts comply (41 ms)");
    }
}
