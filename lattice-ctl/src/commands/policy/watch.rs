//! Which hosts enforce what: from their reports, asked for once and heard from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ConfigName, Digest, HostId};
use lattice_core::policy::Bundle;
use lattice_core::policy::report::{Compliance, Enforced, Wanted, compliance};
use lattice_core::policy::scope::{Facts, Scope};
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

    /// How they stand to a document in the place of `policy` that cannot be read: no version of it is enforced anywhere.
    fn unreadable(&self, policy: &ConfigName, document: &[u8]) -> Vec<Row> {
        let none = Wanted { policy: policy.clone(), version: u64::MAX, scope: Scope::All, document: Digest::of(document) };
        let mut rows = self.stand(&[none]);
        for row in &mut rows {
            row.version = None;
            row.notes.push("it cannot be read".to_owned());
        }
        rows
    }
}

/// Ears on the bus, opened before a policy is written.
pub(super) struct Watch {
    heartbeats: BoxStream<'static, Bytes>,
    hosts: Hosts,
}

impl Watch {
    /// Listens, and asks every host how it stands.
    pub(super) async fn asked(session: &Session) -> Outcome<Self> {
        let heartbeats = session.lattice.subscribe(subject::heartbeats(session.name())).await?;
        let mut watch = Self { heartbeats: heartbeats.map(|message| message.payload).boxed(), hosts: Hosts::default() };
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
    pub(super) async fn until_enforced(self, output: &Output, wanted: Wanted, since: Instant, waiting: &Waiting) -> Outcome {
        if waiting.no_wait {
            return output.print(&Done::stored(&wanted));
        }
        self.until_all(output, vec![wanted], since, waiting.patience.get()).await
    }

    /// Waits until every host that was heard, or should be, complies with all of `wanted`, or says that it will not.
    ///
    /// # Errors
    /// Names the hosts that do not.
    pub(super) async fn until_all(mut self, output: &Output, wanted: Vec<Wanted>, since: Instant, patience: Duration) -> Outcome {
        let mut live = output.live();
        let rows = self.until_decided(&wanted, since + patience, |progress| live.show(progress)).await;
        drop(live);
        let done = rows.map_err(|open| late(&open, patience)).and_then(|rows| verdict(&wanted, &rows, since.elapsed()))?;
        output.print(&done)
    }

    /// How all hosts stand once none of them has anything to decide any more.
    ///
    /// # Errors
    /// Those that have at `deadline`.
    async fn until_decided(&mut self, wanted: &[Wanted], deadline: Instant, mut show: impl FnMut(String)) -> Result<Vec<Row>, Vec<Row>> {
        loop {
            let rows = self.hosts.stand(wanted);
            let open: Vec<&Row> = rows.iter().filter(|row| row.is_open()).collect();
            if open.is_empty() {
                return Ok(rows);
            }
            show(format!("{} of {} enforce it, waiting for {}", rows.len() - open.len(), rows.len(), names(open.iter().copied())));
            tokio::select! {
                Some(report) = self.heartbeats.next() => self.hosts.hear(&report),
                () = tokio::time::sleep_until(deadline) => return Err(open.into_iter().cloned().collect()),
            }
        }
    }
}

/// How a host stands to a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    policy: ConfigName,
    /// None for a document that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
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
        if let (Compliance::Complies, Some(refusal)) = (&compliance, said.and_then(|said| said.refusal_of(&wanted.document))) {
            notes.push(format!("refused: {}", refusal.why));
        }
        if said.is_some_and(|said| said.clock != Clock::Trusted) {
            notes.push("its clock is wrong".to_owned());
        }
        Self { policy: wanted.policy.clone(), version: Some(wanted.version), host, host_id, compliance, elsewhere, notes }
    }

    /// Whether waiting may help.
    fn is_open(&self) -> bool {
        matches!(self.compliance, Compliance::Behind { .. } | Compliance::Silent)
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

fn names<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let names: BTreeSet<&str> = rows.into_iter().map(|row| row.host.as_str()).collect();
    first_names(&names.into_iter().collect::<Vec<_>>())
}

/// The first of `names`, and how many more there are.
pub(super) fn first_names(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(NAMED).copied().collect();
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

/// The first of `rows`, a sentence each.
fn sentences<'a>(rows: impl IntoIterator<Item = &'a Row>) -> Vec<String> {
    let sentence = |row: &Row| {
        let version = row.version.map(|version| format!(" v{version}")).unwrap_or_default();
        format!("{}: policy {}{version}: {}", row.host, row.policy, row.words())
    };
    rows.into_iter().take(NAMED).map(sentence).collect()
}

fn late(open: &[Row], patience: Duration) -> Problem {
    let message = format!("not in force everywhere within {} ms: {}", patience.as_millis(), names(open));
    let mut problem =
        Problem::new(ErrorCode::TimedOut, message).hint("they comply before they start anything; `lattice-ctl policy status`");
    problem.causes = sentences(open);
    problem
}

/// What came of waiting, once every host has decided.
fn verdict(wanted: &[Wanted], rows: &[Row], took: Duration) -> Result<Done, Problem> {
    let refusing: Vec<&Row> = rows.iter().filter(|row| matches!(row.compliance, Compliance::Refuses { .. })).collect();
    if !refusing.is_empty() {
        let mut problem = Problem::new(ErrorCode::Denied, format!("refused by {}", names(refusing.iter().copied())))
            .hint("they keep what they had; `lattice-ctl policy status`");
        problem.causes = sentences(refusing);
        return Err(problem);
    }
    let policies = wanted.iter().map(|wanted| (wanted.policy.clone(), wanted.version)).collect();
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Ok(Done { policies, state: "enforced", hosts: Some(hosts(rows)), took_ms: Some(took_ms), from: None })
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
        let policy = &bundle.policy;
        Self { from, ..Self::bare(&policy.policy_id, policy.version, if same { "unchanged" } else { "planned" }) }
    }

    /// It was stored, and nobody was waited for.
    fn stored(wanted: &Wanted) -> Self {
        Self::bare(&wanted.policy, wanted.version, "stored")
    }

    fn bare(policy: &ConfigName, version: u64, state: &'static str) -> Self {
        Self { policies: BTreeMap::from([(policy.clone(), version)]), state, hosts: None, took_ms: None, from: None }
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
    pub(super) async fn of(session: &Session, watch: &Watch) -> Outcome<Self> {
        let stored = session.lattice.read_policies().await?;
        let rows = stored.iter().flat_map(|(place, stored)| match Opened::of(stored, place, session.name()) {
            Some(opened) => {
                let mut rows = watch.hosts.stand(&[opened.wanted()]);
                rows.iter_mut().for_each(|row| row.notes.extend(opened.flaw.iter().map(ToString::to_string)));
                rows
            }
            None => watch.hosts.unreadable(place, &stored.document),
        });
        Ok(Self(rows.collect()))
    }
}

impl Document for Standing {
    fn text(&self, _wide: bool) -> String {
        let rows = self.0.iter().map(|row| {
            let version = row.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
            vec![row.policy.to_string(), version, row.host.clone(), row.words(), row.notes.join("; ")]
        });
        columns(&["POLICY", "VERSION", "HOST", "STATE", "NOTE"], rows)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|row| format!("host/{}", row.host)).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::commands::signing;
    use crate::view::tests::{host, report};
    use futures::{FutureExt as _, stream};
    use lattice_core::id::{LatticeName, Revision};
    use lattice_core::policy::SecurityPolicy;
    use lattice_core::policy::accept::Mark;
    use lattice_core::policy::rules::Rule;
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
        let wanted = opened(4, "*").wanted();
        hosts.hear(&heartbeat(1, 1, Some(&refusing(3, &wanted))));
        hosts.hear(&heartbeat(2, 1, None));
        hosts.hear(b"{}");
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
        let open: Vec<Row> = rows.into_iter().filter(Row::is_open).collect();
        let problem = late(&open, Duration::from_secs(2));
        assert_eq!(
            (problem.code, problem.message.as_str()),
            (ErrorCode::TimedOut, "not in force everywhere within 2000 ms: NEDGE03, NEDGE04")
        );
        hosts.hear(&heartbeat(3, 1, Some(r#"{"policies":{"edge":3},"clock":"behind","no_starts":"expired"}"#)));
        assert_eq!(words(&hosts)[3], "NEDGE04 behind: enforces version 3");
        assert_eq!(hosts.stand(std::slice::from_ref(&wanted))[3].notes, ["expired", "its clock is wrong"]);
        // Under its number hosts enforce something else.
        hosts.hear(&heartbeat(1, 2, Some(&refusing(4, &wanted))));
        hosts.hear(&heartbeat(2, 2, Some(&refusing(4, &opened(4, "*").wanted()))));
        let notes: Vec<Vec<String>> = hosts.stand(&[wanted]).into_iter().map(|row| row.notes).collect();
        assert_eq!(notes[1..3], [vec!["refused: wrong signature".to_owned()], vec![]]);
    }

    #[test]
    fn who_refuses_what_cannot_be_read() {
        let mut hosts = Hosts::default();
        let nonsense = Wanted { document: Digest::of(b"{"), ..opened(4, "*").wanted() };
        hosts.hear(&heartbeat(0, 1, Some(&refusing(4, &nonsense))));
        hosts.hear(&heartbeat(1, 1, Some(r#"{"policies":{"edge":4}}"#)));
        let standing = Standing(hosts.unreadable(&nonsense.policy, b"{"));
        assert_eq!(
            standing.0.iter().map(Row::words).collect::<Vec<_>>(),
            ["refused, enforces version 4: wrong signature", "behind: enforces version 4"]
        );
        assert!(
            standing.text(false).lines().skip(1).all(|row| row.starts_with("edge    -  ") && row.ends_with("it cannot be read")),
            "{}",
            standing.text(false)
        );
    }

    /// What a host says that enforces a version of `edge` and refuses `document`.
    fn refusing(version: u64, document: &Wanted) -> String {
        let refusal = serde_json::json!({"document": document.document, "why": "wrong signature"});
        serde_json::json!({"policies": {"edge": version}, "refusals": {"edge": refusal}}).to_string()
    }

    /// What comes of putting `put` where a host said `before` and says `then`, if that is decided without any time passing.
    fn decided(put: &Wanted, before: &str, then: &[String]) -> Option<Result<Done, Problem>> {
        let mut hosts = Hosts::default();
        hosts.hear(&heartbeat(0, 1, Some(before)));
        let reports: Vec<Bytes> = (2..).zip(then).map(|(seq, said)| heartbeat(0, seq, Some(said)).into()).collect();
        let mut watch = Watch { heartbeats: stream::iter(reports).chain(stream::pending()).boxed(), hosts };
        let wanted = std::slice::from_ref(put);
        let rows = watch.until_decided(wanted, Instant::now() + PATIENCE, |_| ()).now_or_never()?;
        Some(rows.map_err(|open| late(&open, PATIENCE)).and_then(|rows| verdict(wanted, &rows, Duration::ZERO)))
    }

    #[tokio::test]
    async fn what_is_refused_is_the_document_that_was_put_and_no_other() {
        let (former, put) = (opened(9, "*").wanted(), opened(4, "*").wanted());
        let refused = |said: Option<Result<Done, Problem>>| said.unwrap().unwrap_err();
        // However often a host says what it refused before.
        let slow = vec![refusing(3, &former); 5];
        assert!(decided(&put, &refusing(3, &former), &slow).is_none(), "nothing is decided yet");
        let read = [&slow[..], &[r#"{"policies":{"edge":4}}"#.to_owned()]].concat();
        assert_eq!(decided(&put, &refusing(3, &former), &read).unwrap().unwrap().hosts, Some(1));
        // At once, although it is the same sentence: said before, or now.
        let problem = refused(decided(&put, &refusing(3, &former), &[refusing(3, &put)]));
        assert_eq!((problem.code, problem.message.as_str()), (ErrorCode::Denied, "refused by NEDGE01"));
        assert_eq!(problem.causes, ["NEDGE01: policy edge v4: refused, enforces version 3: wrong signature"]);
        assert_eq!(refused(decided(&put, &refusing(3, &put), &[])).code, ErrorCode::Denied);
    }

    #[test]
    fn many_names_are_cut() {
        let wanted = opened(1, "*").wanted();
        let rows: Vec<Row> = (0..20).map(|n| Row::new(format!("H{n:02}"), host(n), &wanted, Compliance::Silent, None)).collect();
        assert_eq!(names(&rows), "H00, H01, H02, H03, H04, H05, H06, H07 and 12 more");
        assert_eq!(hosts(&rows), 20);
    }

    #[test]
    fn the_last_line() {
        let opened = opened(4, "*");
        assert_eq!(Done::planned(&opened.bundle, Some(3), false).text(false), "policy edge v4: planned (now version 3)");
        let done = Done { hosts: Some(3), took_ms: Some(41), ..Done::stored(&opened.wanted()) };
        assert_eq!(done.text(false), "policy edge v4: all 3 hosts comply (41 ms)");
    }
}
