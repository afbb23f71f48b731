//! failover: heartbeats, goodbyes and closed connections in, verdicts about hosts out.
//!
//! Only glue: every decision is in [`lattice_core::failover`], which says step by step what to read, write and publish; this
//! crate does it through the host's interfaces. Messages arrive here, HTTP requests in [`http`]; both find the same replica,
//! since the host keeps one instance and hands it one message after the other.
//!
//! **Invariants.** What a step came to is told to the state machine before the next one; a failure of the host is never
//! taken for a success. After a trap there is a new instance, which knows nothing, reads everything and judges nobody
//! before it has listened for long enough.

mod http;
mod records;

#[allow(unsafe_code, unused_qualifications, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
mod bindings {
    use super::Glue;
    wit_bindgen::generate!({ path: "../../wit", world: "system", generate_all });
    export!(Glue);
}

use std::cell::RefCell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bindings::exports::wasmcloud::messaging::handler::{BrokerMessage, Guest};
use bindings::lattice::actor::store::{self, Entry, Error};
use bindings::wasi::logging::logging::{Level, log};
use bindings::wasmcloud::messaging::consumer;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::failover::{Failover, Step};
use lattice_core::id::{HostId, LatticeName, Revision};
use lattice_core::plan::KeyChange;
use lattice_core::scheduler::Millis;
use lattice_core::subject::{self, FailoverVerb, Signal, Verb};
use lattice_core::system::{DESIRED, LEASES, PLAN, VERDICTS};
use lattice_core::wire;
use lattice_core::wire::request::ReportQuery;
use serde::Serialize;

/// Steps for one message; what is left waits for the next, which a host sends within a second.
const MAX_STEPS: usize = 256;
/// Name of the node, as the host gives it to every actor.
const NODE_VARIABLE: &str = "WASMCLOUD_NODE_ID";

struct Glue;

impl Guest for Glue {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        with_replica(|replica| replica.handle(&message))
    }
}

/// What lives as long as the instance.
struct Replica {
    failover: Failover,
    lattice: Option<LatticeName>,
    clock: Instant,
}

fn with_replica<T>(work: impl FnOnce(&mut Replica) -> T) -> T {
    thread_local!(static REPLICA: RefCell<Option<Replica>> = const { RefCell::new(None) });
    REPLICA.with_borrow_mut(|replica| work(replica.get_or_insert_with(Replica::new)))
}

impl Replica {
    fn new() -> Self {
        let node = std::env::var(NODE_VARIABLE).unwrap_or_default();
        Self { failover: Failover::new(node, 0), lattice: None, clock: Instant::now() }
    }

    fn now(&self) -> Millis {
        Millis::try_from(self.clock.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    fn handle(&mut self, message: &BrokerMessage) -> Result<(), String> {
        let unknown = || format!("nothing is known of messages on {}", message.subject);
        let (lattice, signal) = Signal::of_subject(&message.subject).ok_or_else(unknown)?;
        if self.lattice.is_none() {
            self.lattice = lattice;
        }
        let now = self.now();
        self.failover.handle_message(&message.subject, &message.body, now, wall_ms());
        self.work();
        match (&message.reply_to, signal) {
            (Some(reply_to), Signal::Question(FailoverVerb::Status)) => publish(reply_to, self.status()),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// Carries out what is to be done now.
    fn work(&mut self) {
        let Some(lattice) = self.lattice.clone() else { return };
        for _ in 0..MAX_STEPS {
            let Some(step) = self.failover.poll_step(self.now()) else { return };
            if let Err(reason) = self.carry_out(step, &lattice) {
                warn(&reason);
                self.failover.handle_failure(self.now());
            }
        }
    }

    fn carry_out(&mut self, step: Step, lattice: &LatticeName) -> Result<(), String> {
        match step {
            Step::AskHosts => noted(publish(&subject::request_all(lattice, Verb::Report), Vec::new())),
            Step::Ask(host) => noted(publish(&subject::request(lattice, &host, Verb::Report), Vec::new())),
            Step::Wake { host, after_ms } => {
                noted(publish(&subject::request(lattice, &host, Verb::Report), wire::encode(&ReportQuery { after_ms })));
            }
            Step::Look => {
                let last = |bucket| store::info(bucket).map(|info| Revision(info.last_revision)).map_err(|error| failed(bucket, error));
                self.failover.handle_revisions(last(DESIRED)?, last(PLAN)?, last(VERDICTS)?);
            }
            Step::ReadDesired => {
                let found = list(DESIRED)?;
                let entries = found.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice()));
                self.failover.handle_desired(entries, Revision(found.revision));
            }
            Step::ReadPlan => {
                let found = list(PLAN)?;
                let now = self.now();
                self.failover.handle_plan(found.entries.iter().map(keyed), Revision(found.revision), now);
            }
            Step::ReadPlanKeys(keys) => {
                let found: Vec<Option<Entry>> = keys.iter().map(|key| get(PLAN, key)).collect::<Result<_, _>>()?;
                let now = self.now();
                self.failover.handle_plan_keys(found.iter().flatten().map(keyed), now);
            }
            Step::ReadVerdicts => {
                let found = list(VERDICTS)?;
                let now = self.now();
                self.failover.handle_verdicts(found.entries.iter().map(keyed), Revision(found.revision), now);
            }
            Step::ReadVerdict(key) => {
                let found = get(VERDICTS, &key)?;
                let now = self.now();
                self.failover.handle_verdict(&key, found.as_ref().map(|entry| (entry.value.as_slice(), Revision(entry.revision))), now);
            }
            Step::Commit(change) => self.commit(&change)?,
            Step::ReadLease { host, key } => {
                let found = get(LEASES, &key)?;
                let now = self.now();
                self.failover.handle_lease(&host, found.as_ref().map(|entry| (entry.value.as_slice(), Revision(entry.revision))), now);
            }
            Step::RevokeLease { host, key, expected, value } => self.revoke(&host, &key, &value, expected)?,
            Step::Publish(event) => {
                let subject = subject::event(lattice, &event.region, &event.host, event.kind.token());
                noted(publish(&subject, wire::encode(&event)));
            }
            Step::Record { key, failover } => noted(records::keep(&key, &failover)),
        }
        Ok(())
    }

    fn commit(&mut self, change: &KeyChange) -> Result<(), String> {
        match write(VERDICTS, &change.key, &change.value, change.expected.unwrap_or_default()) {
            Ok(revision) => self.failover.handle_committed(Revision(revision), self.now()),
            Err(Error::Conflict(_)) => self.failover.handle_conflict(self.now()),
            Err(error) => return Err(failed(VERDICTS, error)),
        }
        Ok(())
    }

    fn revoke(&mut self, host: &HostId, key: &str, value: &[u8], expected: Revision) -> Result<(), String> {
        match write(LEASES, key, value, expected) {
            Ok(_) => self.failover.handle_revoked(host, self.now()),
            Err(Error::Conflict(_)) => self.failover.handle_renewed(host),
            Err(error) => return Err(failed(LEASES, error)),
        }
        Ok(())
    }

    fn status(&self) -> Vec<u8> {
        json(&self.failover.status(self.now())).unwrap_or_else(|problem| failure(&problem))
    }
}

/// Writes a key on condition of its revision, 0 if it must not be there.
fn write(bucket: &str, key: &str, value: &[u8], expected: Revision) -> Result<u64, Error> {
    match expected {
        Revision(0) => store::create(bucket, key, value),
        Revision(revision) => store::update(bucket, key, value, revision),
    }
}

fn get(bucket: &str, key: &str) -> Result<Option<Entry>, String> {
    store::get(bucket, key).map_err(|error| failed(bucket, error))
}

fn list(bucket: &str) -> Result<store::Listing, String> {
    store::list(bucket).map_err(|error| failed(bucket, error))
}

fn keyed(entry: &Entry) -> (&str, &[u8], Revision) {
    (entry.key.as_str(), entry.value.as_slice(), Revision(entry.revision))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value).map_err(|error| Problem::new(ErrorCode::Failed, format!("the answer cannot be written: {error}")))
}

fn failure(problem: &Problem) -> Vec<u8> {
    // A problem is plain data, which always encodes.
    serde_json::to_vec(&serde_json::json!({ "error": problem })).unwrap_or_default()
}

/// Milliseconds since 1970, for people.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn publish(subject: &str, body: Vec<u8>) -> Result<(), String> {
    let message = BrokerMessage { subject: subject.to_owned(), body, reply_to: None };
    consumer::publish(&message).map_err(|reason| format!("publish on {subject}: {reason}"))
}

fn failed(bucket: &str, error: Error) -> String {
    let reason = match &error {
        Error::NoSuchBucket => "no such bucket",
        Error::AccessDenied => "access denied",
        Error::Conflict(text) | Error::UnknownOutcome(text) | Error::TooLarge(text) | Error::Unavailable(text) | Error::Failed(text) => {
            text
        }
    };
    format!("{bucket}: {reason}")
}

/// Something that others do not depend on did not work.
fn noted(outcome: Result<(), String>) {
    if let Err(reason) = outcome {
        warn(&reason);
    }
}

fn warn(reason: &str) {
    log(Level::Warn, "failover", reason);
}
