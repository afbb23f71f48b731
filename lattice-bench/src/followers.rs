//! Hosts that do with policies what a host does and nothing else: they read, verify, and say what they enforce.
//!
//! **Invariants.** Each verifies every document with its issuer's key by itself, as a real host does. Dropped, all are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use lattice_core::id::LatticeName;
use lattice_core::policy::accept::{Holding, Judge};
use lattice_core::policy::force::{InForce, Preset};
use lattice_core::policy::report::Enforced;
use lattice_core::policy::scope::Facts;
use lattice_core::subject::{self, Verb};
use lattice_core::trust::clock::{Standing, Time};
use lattice_core::trust::{Place, PublicKey, Verify};
use lattice_core::wire;
use lattice_core::wire::report::HostReport;
use lattice_nats::{ConnectOptions, Lattice};
use tokio::task::JoinSet;

use crate::Error;
use crate::rows::placement::report;

/// Hosts that share a connection: a thousand connections would measure the server.
const PER_CONNECTION: usize = 50;

/// The hosts.
pub(crate) struct Followers {
    _tasks: JoinSet<()>,
}

impl Followers {
    /// Starts `count` hosts that trust `key`; they answer once this returns.
    ///
    /// # Errors
    /// The server is not there.
    pub(crate) async fn start(url: &str, lattice: &LatticeName, key: &PublicKey, count: usize) -> Result<Self, Error> {
        let mut tasks = JoinSet::new();
        let mut connection = None;
        for number in 0..count {
            if number % PER_CONNECTION == 0 {
                connection = Some(lattice_nats::connect(&ConnectOptions::new(url, "lattice-bench")).await?);
            }
            let connection = connection.clone().ok_or("no connection")?;
            let follower = Follower {
                lattice: Lattice::new(connection, lattice.clone()),
                keys: BTreeSet::from([key.clone()]),
                holding: Holding::default(),
                report: HostReport { lattice: lattice.clone(), ..report(number)? },
            };
            let asked = follower.lattice.subscribe(subject::request_all(lattice, Verb::Ping)).await?;
            let changed = follower.lattice.subscribe(subject::policy_changes(lattice)).await?;
            // The subscriptions are there before anybody asks.
            follower.lattice.connection().client().flush().await?;
            tasks.spawn(async move {
                // A connection that is closed ends the row elsewhere.
                let _ = follower.run(asked, changed).await;
            });
        }
        Ok(Self { _tasks: tasks })
    }
}

struct Follower {
    lattice: Lattice,
    keys: BTreeSet<PublicKey>,
    holding: Holding,
    report: HostReport,
}

impl Follower {
    async fn run(mut self, mut asked: async_nats::Subscriber, mut changed: async_nats::Subscriber) -> Result<(), Error> {
        let client = self.lattice.connection().client().clone();
        self.read().await?;
        loop {
            tokio::select! {
                Some(question) = asked.next() => {
                    if let Some(reply) = question.reply {
                        client.publish(reply, self.answer().into()).await?;
                    }
                }
                Some(_) = changed.next() => {
                    self.read().await?;
                    let heard = subject::heartbeat(&self.report.lattice, &self.report.region, &self.report.id);
                    client.publish(heard, self.answer().into()).await?;
                }
                else => return Ok(()),
            }
        }
    }

    /// Reads what is in the store, as after a hint or a start.
    async fn read(&mut self) -> Result<(), Error> {
        let documents = self.lattice.read_policies().await?;
        let report = &self.report;
        let host = Facts { id: &report.id, name: &report.name, region: &report.region, labels: &report.labels };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let judge = Judge { keys: &self.keys, host, place: Place { lattice: self.lattice.name(), time: Time::exact(now) } };
        for stored in documents.into_values() {
            // What is refused is not in the report, so the row sees it.
            let _ = self.holding.offer(&stored.document, &judge, &Signatures);
        }
        Ok(())
    }

    fn answer(&mut self) -> Vec<u8> {
        self.report.seq += 1;
        let force = InForce::new(&self.holding, Preset::Open, Time::exact(0));
        self.report.policy = Some(Enforced::new(&self.holding, &force, Preset::Open, Standing::Trusted, &BTreeMap::new()));
        wire::encode(&self.report)
    }
}

struct Signatures;

impl Verify for Signatures {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
        nkeys::KeyPair::from_public_key(key.as_str()).is_ok_and(|pair| pair.verify(message, signature).is_ok())
    }
}
