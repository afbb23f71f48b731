//! The task that owns the policies of this host: reads them when something is said to be new, after each connect and now and
//! then, verifies them, puts them in force, keeps them, and tells the event loop.
//!
//! Level-triggered like the plan: every reason leads to the same full read. In force comes before on disk, and on disk before
//! acknowledged: a denial waits for nobody, an acknowledgement survives a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use lattice_core::id::{ConfigName, LatticeName};
use lattice_core::policy::accept::{Documents, Holding, Judge, MAX_POLICIES, Marks, Outcome, Stored};
use lattice_core::policy::force::{InForce, Preset};
use lattice_core::policy::report::{Enforced, Refusal};
use lattice_core::policy::scope::Facts;
use lattice_core::subject;
use lattice_core::timing::RESYNC_INTERVAL;
use lattice_core::trust::clock::{Standing, date};
use lattice_core::trust::{Place, PublicKey};
use lattice_core::wire::event::EventKind;
use lattice_nats::policies::StoredPolicy;
use lattice_nats::{ConnectionState, Lattice, StoreError};
use tokio::sync::mpsc;

use super::Nkeys;
use super::clock::Clock;
use super::ledger::{Found, Ledger};
use crate::backoff::Backoff;
use crate::event_loop::Event;
use crate::recorder::Origin;
use crate::runtime::Shield;

/// First and longest pause before the store is read again after it could not be.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Something to be recorded: kind, sentence, details.
pub(crate) type News = (EventKind, String, BTreeMap<String, String>);

/// What the event loop is told.
#[derive(Debug)]
pub(crate) struct Told {
    /// What the host enforces: its acknowledgement.
    pub(crate) enforced: Enforced,
    /// Whether the store was read.
    pub(crate) read: bool,
    pub(crate) news: Vec<News>,
}

/// What a warden needs to know.
pub(crate) struct Post {
    pub(crate) origin: Origin,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) lattice: LatticeName,
    /// Keys that may sign policies.
    pub(crate) keys: BTreeSet<PublicKey>,
    pub(crate) preset: Preset,
    pub(crate) clock: Arc<Clock>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) shield: Arc<Shield>,
}

/// The policies of this host.
pub(crate) struct Warden {
    post: Post,
    holding: Holding,
    /// What is refused of that which was read last, by the policy in whose place it stands.
    refused: BTreeMap<ConfigName, Refusal>,
    standing: Standing,
    /// What could not be written yet is written with the next read.
    unwritten: bool,
    news: Vec<News>,
}

impl Warden {
    /// The warden with what was on disk, which is in force from now on.
    pub(crate) fn restore(post: Post, found: Found) -> Self {
        // Who takes policies from nobody misses none. What was seen stays on disk, for when somebody is trusted again.
        let (marks, documents) = if post.keys.is_empty() { (Stored::Absent, Stored::Absent) } else { (found.marks, found.documents) };
        let holding = post.judge(|judge| Holding::restore(marks, documents, judge, &Nkeys));
        let mut warden = Self { post, holding, refused: BTreeMap::new(), standing: Standing::Trusted, unwritten: false, news: Vec::new() };
        if let Some(why) = warden.holding.lost().map(str::to_owned) {
            warden.tell(EventKind::TrustLost, format!("nothing is allowed until the policies were read again: {why}"), []);
        }
        warden.enforce();
        warden
    }

    /// What the host enforces.
    pub(crate) fn enforced(&self) -> Enforced {
        let Self { post, holding, refused, standing, .. } = self;
        Enforced::new(holding, &post.shield.in_force(), post.preset, *standing, refused)
    }

    /// What the event loop is told: what the host enforces, and what is to be said about it.
    fn told(&mut self, read: bool) -> Told {
        Told { enforced: self.enforced(), read, news: std::mem::take(&mut self.news) }
    }

    /// Looks at what the store holds. Blocks on the disk.
    pub(crate) fn handle_read(&mut self, found: &BTreeMap<ConfigName, StoredPolicy>) {
        let mut changed = self.holding.lost().is_some();
        let former = std::mem::take(&mut self.refused);
        for (policy, stored) in found {
            let offered = self.post.judge(|judge| self.holding.offer(&stored.document, judge, &Nkeys));
            match offered {
                Ok(outcome) => {
                    changed |= outcome.changed();
                    self.tell_outcome(&outcome);
                }
                Err(why) if self.refused.len() < MAX_POLICIES => {
                    let refusal = Refusal::new(&stored.document, &why.to_string());
                    // Once for each document and reason, not each time that it is read.
                    if former.get(policy) != Some(&refusal) {
                        self.tell_refused(policy, &refusal.why);
                    }
                    self.refused.insert(policy.clone(), refusal);
                }
                // More is not said than a host could hold, whoever fills the store.
                Err(_) => {}
            }
        }
        self.holding.complete();
        self.enforce();
        if changed || self.unwritten {
            self.keep();
        }
    }

    /// Puts in force what holds now. Returns whether that is something else than before.
    pub(crate) fn enforce(&mut self) -> bool {
        let time = self.post.clock.now();
        let force = InForce::new(&self.holding, self.post.preset, time);
        let changed = *self.post.shield.in_force() != force;
        if changed {
            self.post.shield.raise(force);
        }
        let former = std::mem::replace(&mut self.standing, time.clock);
        match (former, time.clock) {
            (before, now) if before == now => {}
            (_, Standing::Trusted) => self.tell(EventKind::ClockTrusted, "the host's clock is right again".to_owned(), []),
            (_, Standing::Behind | Standing::Apart) => {
                let by = if time.exact { "the server's clock counts" } else { "it is that time at least" };
                self.tell(EventKind::ClockUntrusted, format!("the host's clock is wrong: {} ({by})", date(time.now_s)), []);
            }
        }
        changed || former != self.standing
    }

    /// How long what is in force stays so by itself.
    fn stays(&self) -> Duration {
        let (force, now) = (self.post.shield.in_force(), self.post.clock.now());
        let left = force.next_expiry().map(|expires| Duration::from_secs(expires.saturating_sub(now.now_s).max(1)));
        left.unwrap_or(RESYNC_INTERVAL).min(RESYNC_INTERVAL)
    }

    fn keep(&mut self) {
        let signed = self.holding.bundles().map(|bundle| bundle.issued_at).max();
        let floor = self.post.clock.advance(signed);
        let (marks, documents): (&Marks, Documents) = (self.holding.marks(), self.holding.documents());
        let kept = self.post.ledger.keep_policies(marks, &documents, floor);
        self.unwritten = kept.is_err();
        if let Err(error) = kept {
            tracing::warn!(%error, "policies cannot be written: they are in force, and would not be after a restart");
        }
    }

    fn tell_outcome(&mut self, outcome: &Outcome) {
        let (policy, from, to, what) = match outcome {
            Outcome::Same => return,
            Outcome::Taken { policy, from, to } => (policy, from, to, "is in force"),
            Outcome::Elsewhere { from: None, .. } => return,
            Outcome::Elsewhere { policy, from, to } => {
                (policy, from, to, "is not for this host, the one before it is not in force any more")
            }
        };
        let before = from.map(|version| format!(" after v{version}")).unwrap_or_default();
        self.tell(
            EventKind::PolicyApplied,
            format!("policy {policy} v{to} {what}{before}"),
            [("policy", policy.to_string()), ("version", to.to_string())],
        );
    }

    fn tell_refused(&mut self, policy: &ConfigName, why: &str) {
        self.tell(EventKind::PolicyRefused, format!("policy {policy} refused: {why}"), [("policy", policy.to_string())]);
    }

    fn tell<const N: usize>(&mut self, kind: EventKind, message: String, details: [(&str, String); N]) {
        tracing::warn!(target: "audit", kind = kind.token(), "{message}");
        let details = details.map(|(name, value)| (name.to_owned(), value));
        self.news.push((kind, message, BTreeMap::from(details)));
    }

    /// Runs until the event loop is gone.
    ///
    /// # Errors
    /// [`StoreError`] if nothing can be heard over the connection.
    pub(crate) async fn run(mut self, lattice: Lattice, events: mpsc::Sender<Event>) -> Result<(), StoreError> {
        // Subscribed before the first read, so that nothing falls between.
        let mut changes = lattice.subscribe(subject::policy_changes(lattice.name())).await?;
        let mut state = lattice.connection().state();
        let mut retry = Backoff::new(RETRY.0, RETRY.1);
        // News is in force sooner without another question; the time was asked for when the connection was made.
        let mut news = false;
        loop {
            let connected = *state.borrow_and_update() == ConnectionState::Connected;
            let mut pause = self.stays();
            let read = connected && {
                match read(&lattice, !news).await {
                    Ok((found, server_s)) => {
                        retry.reset();
                        server_s.into_iter().for_each(|now_s| self.post.clock.hear_server(now_s));
                        tokio::task::block_in_place(|| self.handle_read(&found));
                        pause = self.stays();
                        true
                    }
                    Err(error) => {
                        tracing::debug!(%error, "policies cannot be read, trying again");
                        pause = retry.delay();
                        false
                    }
                }
            };
            let changed = self.enforce();
            let floor = self.post.clock.advance(None);
            if (read || changed || !self.news.is_empty()) && events.send(Event::Policy(Box::new(self.told(read)))).await.is_err() {
                return Ok(());
            }
            match self.wait(&mut changes, &mut state, pause).await {
                Woken::ByNews => news = true,
                Woken::Otherwise => news = false,
                Woken::ForGood => return Ok(()),
            }
            // A flash disk is not worn out by clocks: once per wait is at most once a minute without news.
            if let Err(error) = self.post.ledger.keep_floor(floor) {
                tracing::debug!(%error, "the time that has passed cannot be written");
            }
        }
    }

    /// Waits for news, the connection, or the time.
    async fn wait(
        &self,
        changes: &mut (impl futures::Stream + Unpin),
        state: &mut tokio::sync::watch::Receiver<ConnectionState>,
        pause: Duration,
    ) -> Woken {
        tokio::select! {
            told = changes.next() => {
                // One read answers all notifications that are here.
                while let Some(Some(_)) = changes.next().now_or_never() {}
                if told.is_some() { Woken::ByNews } else { Woken::ForGood }
            }
            () = tokio::time::sleep(pause) => Woken::Otherwise,
            changed = state.changed() => if changed.is_ok() { Woken::Otherwise } else { Woken::ForGood },
        }
    }
}

impl Post {
    fn judge<T>(&self, judged: impl FnOnce(&Judge<'_>) -> T) -> T {
        let Origin { host, name, region, .. } = &self.origin;
        let host = Facts { id: host, name, region, labels: &self.labels };
        judged(&Judge { keys: &self.keys, host, place: Place { lattice: &self.lattice, time: self.clock.now() } })
    }
}

/// Why the warden looks again.
enum Woken {
    /// Somebody says that there is something new.
    ByNews,
    /// The connection has come or gone, or it is time.
    Otherwise,
    /// There is nothing to wait for any more.
    ForGood,
}

/// What the store holds, and what time it is for the server if that is to be asked.
async fn read(lattice: &Lattice, with_time: bool) -> Result<(BTreeMap<ConfigName, StoredPolicy>, Option<u64>), StoreError> {
    // Without the server's clock the host's own has to do.
    let time = async { if with_time { lattice.server_time().await.ok().flatten() } else { None } };
    let (found, server_s) = tokio::join!(lattice.read_policies(), time);
    Ok((found?, server_s))
}

#[cfg(test)]
mod tests;
