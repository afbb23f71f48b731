//! The shell around [`Owner`]: reads and claims are tasks that come back as [`News`]; what is to start and stop here is for
//! the event loop to carry out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::id::{ActorId, BucketName, Generation};
use lattice_core::link::KindSettings;
use lattice_core::needs::Class;
use lattice_core::ownership::{Action, Owner, SlotId};
use lattice_core::subject;
use lattice_core::wire::assignment::ComponentAssignment;
use lattice_core::wire::event::EventKind;
use lattice_core::wire::ownership::EpochRecord;
use lattice_core::wire::report::SlotReport;
use lattice_nats::fenced::FencedBucket;
use lattice_nats::{CommitError, Lattice};
use tokio::sync::mpsc;

use super::gate::Gate;
use super::lease::Leaseholder;
use crate::event_loop::Event;
use crate::reason;
use crate::recorder::Origin;

/// Something that matters to what is owned.
#[derive(Debug)]
pub(crate) enum News {
    /// A slot's record was read, or not.
    Read { slot: SlotId, found: Option<Option<(EpochRecord, u64)>> },
    /// A claim was stored, refused, or neither.
    Claimed { slot: SlotId, expected: u64, outcome: Claimed },
    /// The store refused effects of a slot.
    Fenced { slot: SlotId, epoch: u64 },
    /// An actor could take messages, or cannot any more.
    Ready { actor: ActorId, ready: bool },
    /// The host holds its lease.
    LeaseHeld { void: bool },
    /// The host's lease has ended.
    LeaseLost,
}

/// How a claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    Stored(u64),
    Refused,
    Failed,
}

/// What the event loop has to do.
#[derive(Debug)]
pub(crate) enum Step {
    Start { slot: SlotId, epoch: u64, gate: Arc<Gate> },
    Stop(SlotId),
    Report,
    Record(EventKind, String, BTreeMap<String, String>),
}

/// All that this host owns or tries to own.
pub(crate) struct Claims {
    owner: Owner,
    lattice: Lattice,
    events: mpsc::Sender<Event>,
    lease: Leaseholder,
    /// What the slots of an actor are, and where.
    homes: BTreeMap<ActorId, (Class, Option<BucketName>)>,
    /// Of slots that run here.
    gates: BTreeMap<SlotId, Arc<Gate>>,
}

impl Claims {
    pub(crate) fn new(origin: &Origin, lattice: Lattice, lease: Leaseholder, events: mpsc::Sender<Event>) -> Self {
        let owner = Owner::new(origin.host.clone(), origin.incarnation.clone());
        Self { owner, lattice, events, lease, homes: BTreeMap::new(), gates: BTreeMap::new() }
    }

    /// Takes over what the assignment in force gives to this host.
    pub(crate) fn assign(&mut self, components: &BTreeMap<ActorId, ComponentAssignment>) {
        let owned = components.iter().filter_map(|(actor, component)| Some((actor, component, component.ownership.as_ref()?)));
        self.homes = owned.map(|(actor, component, own)| (actor.clone(), (own.class, bucket(component)))).collect();
        self.owner.handle_assignment(components);
    }

    pub(crate) fn handle(&mut self, news: News, now: Duration) {
        let owner = &mut self.owner;
        match news {
            News::Read { slot, found: Some(found) } => {
                owner.handle_read(&slot, found.as_ref().map(|(record, sequence)| (record, *sequence)));
            }
            News::Read { slot, found: None } => owner.handle_failed(&slot, now),
            News::Claimed { slot, expected, outcome: Claimed::Stored(epoch) } => owner.handle_claimed(&slot, expected, epoch),
            News::Claimed { slot, expected, outcome: Claimed::Refused } => owner.handle_refused(&slot, expected),
            News::Claimed { slot, outcome: Claimed::Failed, .. } => owner.handle_failed(&slot, now),
            News::Fenced { slot, epoch } => owner.handle_fenced(&slot, epoch),
            News::Ready { actor, ready } => owner.handle_actor(&actor, ready),
            News::LeaseHeld { void } => owner.handle_lease_held(void),
            News::LeaseLost => owner.handle_lease_lost(),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.owner.handle_timeout(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        self.owner.poll_timeout()
    }

    /// The next thing for the event loop; what only concerns the store is begun on the way.
    pub(crate) fn poll(&mut self) -> Option<Step> {
        loop {
            return Some(match self.owner.poll_action()? {
                Action::Read(slot) => {
                    self.read(slot);
                    continue;
                }
                Action::Claim { slot, expected, record } => {
                    self.claim(slot, expected, record);
                    continue;
                }
                Action::Start { slot, epoch } => {
                    let gate = self.gate(&slot);
                    Step::Start { slot, epoch, gate }
                }
                Action::Stop(slot) => {
                    if let Some(gate) = self.gates.remove(&slot) {
                        gate.close();
                    }
                    Step::Stop(slot)
                }
                Action::Report => Step::Report,
                Action::Record(kind, message, details) => Step::Record(kind, message, details),
            });
        }
    }

    /// Whether anything that runs here needs the host's lease.
    pub(crate) fn needs_lease(&self) -> bool {
        self.gates.keys().any(|slot| self.homes.get(&slot.actor).is_some_and(|(class, _)| *class == Class::Strict))
    }

    /// Slots of `actor` that run here.
    pub(crate) fn owned<'a>(&'a self, actor: &'a ActorId) -> impl Iterator<Item = (u32, SlotReport)> + 'a {
        self.owner.owned(actor)
    }

    /// Slots of `actor` that were lost, with the plan that gave them.
    pub(crate) fn lost<'a>(&'a self, actor: &'a ActorId) -> impl Iterator<Item = (u32, Generation)> + 'a {
        self.owner.lost(actor)
    }

    fn read(&self, slot: SlotId) {
        let (bucket, events) = (self.bucket(&slot), self.events.clone());
        tokio::spawn(async move {
            let found = match bucket {
                Some(bucket) if bucket.is_connected() => match bucket.read_epoch(&slot).await {
                    Ok(found) => Some(found),
                    Err(error) => {
                        tracing::warn!(%slot, error = reason::of(&error), "who owns the slot is not known, it is asked again");
                        None
                    }
                },
                Some(_) | None => None,
            };
            let _ = events.send(Event::Owner(News::Read { slot, found })).await;
        });
    }

    fn claim(&self, slot: SlotId, expected: u64, record: EpochRecord) {
        let (bucket, events) = (self.bucket(&slot), self.events.clone());
        tokio::spawn(async move {
            let outcome = match bucket {
                Some(bucket) => match bucket.claim(&slot, &record, expected).await {
                    Ok(epoch) => Claimed::Stored(epoch),
                    Err(CommitError::Conflict { .. }) => Claimed::Refused,
                    Err(error) => {
                        tracing::warn!(%slot, error = reason::of(&error), "claim was not confirmed, it is made again");
                        Claimed::Failed
                    }
                },
                None => Claimed::Failed,
            };
            let _ = events.send(Event::Owner(News::Claimed { slot, expected, outcome })).await;
        });
    }

    /// A gate for a new start of a slot; that of the start before is closed.
    fn gate(&mut self, slot: &SlotId) -> Arc<Gate> {
        let is_strict = self.homes.get(&slot.actor).is_some_and(|(class, _)| *class == Class::Strict);
        let gate = if is_strict { self.lease.gate() } else { Gate::new(None) };
        if let Some(former) = self.gates.insert(slot.clone(), gate.clone()) {
            former.close();
        }
        gate
    }

    fn bucket(&self, slot: &SlotId) -> Option<FencedBucket> {
        let (_, name) = self.homes.get(&slot.actor)?;
        Some(self.lattice.fenced_bucket(name.as_ref()?))
    }
}

/// The bucket that holds the state of an actor with owners: that of its one key-value link.
pub(crate) fn bucket(component: &ComponentAssignment) -> Option<BucketName> {
    component.links.iter().find_map(|link| match &link.settings.kind {
        KindSettings::KeyValue(settings) => subject::user_bucket(&settings.bucket).ok(),
        KindSettings::Messaging(_) | KindSettings::HttpServer(_) | KindSettings::HttpClient(_) | KindSettings::Store(_) => None,
    })
}
