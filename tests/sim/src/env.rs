//! What every part of the world works with: the time, what happens next, chance, the network, and the watchers of what must
//! never happen.
//!
//! Nothing here waits. Whoever wants something later puts an [`Event`] into the queue; events of one moment happen in the
//! order in which they were put there.

use std::collections::BTreeMap;
use std::rc::Rc;

use lattice_core::fault::{Fault, Faults};
use lattice_core::id::{ActorId, Digest, Incarnation, ProviderId};
use lattice_core::subject::SubjectPattern;

use crate::clock::Millis;
use crate::dice::Dice;
use crate::invariants::Watch;
use crate::store::{Put, Refusal};
use crate::trace::Trace;

/// A host's place in the world.
pub type HostIx = usize;

/// How unkind the world is, per mille of the occasions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chances {
    /// A message of the core bus, or the answer to a request, gets lost.
    pub loss: u64,
    /// A message of the core bus comes twice.
    pub twice: u64,
    /// A message overtakes those before it.
    pub overtake: u64,
    /// A message takes up to [`Chances::slow_ms`].
    pub slow: u64,
    /// How long a slow message takes.
    pub slow_ms: Millis,
    /// A batch is refused because another one is under way (10164).
    pub busy: u64,
    /// A read that need not come from the leader comes from a replica that lags behind.
    pub stale: u64,
    /// Code cannot be loaded, or a provider not be started, at the first attempt.
    pub start_fails: u64,
}

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    /// A request arrives at the server, on a connection.
    Request(HostIx, u32, Request),
    /// Something arrives at a host, on a connection.
    Down(HostIx, u32, Rc<HostEvent>),
    /// Something happens within a start of a host.
    Host(HostIx, u32, HostEvent),
    /// Something happens to the world.
    World(WorldEvent),
}

/// What a host sends.
#[derive(Debug, Clone)]
pub enum Request {
    /// A message for the core bus.
    Publish(Rc<str>, Rc<[u8]>),
    /// A request that is answered, with its number.
    Call(u64, Call),
    /// The next message of a durable consumer is wanted.
    Pull(String),
    /// A message of a durable consumer is done.
    Acknowledge(String, u64),
    /// A message of a durable consumer shall come again.
    GiveBack(String, u64),
}

/// A request that is answered.
#[derive(Debug, Clone)]
pub enum Call {
    /// Store a batch. `again`: an earlier attempt may have been stored; then the message that won the condition tells.
    Store {
        /// Stream.
        stream: String,
        /// Messages.
        batch: Vec<Put>,
        /// Whether it is an attempt after one of which nothing was heard.
        again: bool,
    },
    /// The last message on a subject.
    Get {
        /// Stream.
        stream: String,
        /// Subject.
        subject: String,
        /// Whether the leader must answer.
        leader: bool,
    },
    /// The last message on each of these subjects of a stream.
    GetMany(String, Vec<String>),
    /// The last message of every subject of a stream.
    List(String),
    /// The last sequence of each of these streams.
    Info(Vec<String>),
    /// What a durable consumer has given out.
    Pending(String),
}

/// An answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Stored; the last sequence.
    Stored(u64),
    /// Not stored.
    Refused(Refusal),
    /// A message with its sequence, if there is one.
    Found(Option<(Rc<[u8]>, u64)>),
    /// Subjects with content and sequence, and the stream's last sequence.
    Listed(Vec<(Rc<str>, Rc<[u8]>, u64)>, u64),
    /// Last sequences.
    Last(Vec<u64>),
    /// Sequences that are out.
    Out(Vec<u64>),
    /// Nothing was heard in time: it is not known what was done.
    Unheard,
    /// Nothing was sent: there is no connection.
    Unsent,
}

/// Who on a host a message of the core bus is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbox {
    /// The host itself.
    Host,
    /// An actor on it.
    Actor(ActorId),
}

/// What happens on a host.
#[derive(Debug, Clone)]
pub enum HostEvent {
    /// A message of the core bus.
    Message(Inbox, Rc<str>, Rc<[u8]>),
    /// An answer to a request.
    Reply(u64, Reply),
    /// A request has waited long enough; its number and attempt.
    Unheard(u64, u32),
    /// A message of a durable consumer: its name, the position, the content.
    Deliver(String, u64, Rc<[u8]>),
    /// The connection is there.
    Connected,
    /// The connection is gone.
    Disconnected,
    /// Time for what one of the state machines waits for.
    Wake,
    /// The assignment in the store is looked at again.
    Resync(u32),
    /// The policies in the store are looked at again.
    PolicyResync(u32),
    /// A plan has waited long enough: for the policies, or for one that the store would give.
    Follow,
    /// Code was loaded, or not.
    Loaded(ActorId, Digest, bool),
    /// A provider was started, or not.
    Provider(ProviderId, bool),
    /// A system actor may go on: which of its starts.
    Actor(ActorId, u32),
    /// A slot may go on: which of its starts.
    Slot(lattice_core::ownership::SlotId, u32),
    /// Everything that was under way is done: the process ends.
    Drained,
}

/// What happens to the world.
#[derive(Debug, Clone)]
pub enum WorldEvent {
    /// The operator does something.
    Operator,
    /// Somebody puts a policy into the store.
    Policy,
    /// Something breaks.
    Break,
    /// A host is started.
    Start(HostIx),
    /// A host's process that was paused (its start) goes on.
    Resume(HostIx, u32),
    /// A cut link works again.
    Heal(HostIx),
    /// The server is started again.
    ServerUp,
    /// The server takes a connection for dead.
    ServerNotices(HostIx, u32, &'static str),
    /// A host takes its connection for dead.
    HostNotices(HostIx, u32),
    /// A host tries to connect: which of its starts.
    Connect(HostIx, u32),
    /// The server finds that an old connection of that name is dead.
    Announce(String, &'static str),
    /// The world is as unkind as usual again.
    Calmer,
    /// `up` makes the first plan.
    FirstPlan,
    /// Faults stop.
    Calm,
    /// A message of a consumer may have to come again.
    Redeliver(String),
    /// A sensor measures something.
    Sensor(usize),
    /// Looks whether everything is as it should be.
    Look,
}

/// A host's way to the server and back.
#[derive(Debug, Default)]
pub struct Link {
    /// Number of its newest connection.
    pub conn: u32,
    /// Whether the server holds that connection for alive.
    pub server_sees: bool,
    /// Whether the host does.
    pub host_sees: bool,
    /// Nothing gets to the server.
    pub up_cut: bool,
    /// Nothing gets to the host.
    pub down_cut: bool,
    /// What is sent meanwhile comes late instead of never.
    pub hold: bool,
    /// The name of its connection.
    pub name: String,
    /// What is subscribed to.
    pub subscriptions: Vec<(SubjectPattern, Inbox)>,
    held_up: Vec<Request>,
    held_down: Vec<Rc<HostEvent>>,
    up_free: Millis,
    down_free: Millis,
}

/// What every part of the world works with.
#[derive(Debug)]
pub struct Env {
    /// The time.
    pub now: Millis,
    /// Chance.
    pub dice: Dice,
    /// What happened.
    pub trace: Trace,
    /// How unkind the world is at the moment.
    pub chances: Chances,
    /// Each host's link.
    pub links: Vec<Link>,
    /// What must hold.
    pub watch: Watch,
    /// The seeded bug.
    pub fault: Option<Fault>,
    queue: BTreeMap<(Millis, u64), Event>,
    order: u64,
}

impl Env {
    /// A world in which nothing has happened.
    pub fn new(dice: Dice, hosts: usize, fault: Option<Fault>, whole_trace: bool) -> Self {
        Self {
            now: 0,
            dice,
            trace: Trace::new(whole_trace),
            chances: Chances::default(),
            links: (0..hosts).map(|_| Link::default()).collect(),
            watch: Watch::default(),
            fault,
            queue: BTreeMap::new(),
            order: 0,
        }
    }

    /// The seeded bug for a state machine.
    pub fn faults(&self) -> Faults {
        self.fault.map(Faults::seeded).unwrap_or_default()
    }

    /// Something happens at `when`, or now if that is over.
    pub fn at(&mut self, when: Millis, event: Event) {
        self.order += 1;
        self.queue.insert((when.max(self.now), self.order), event);
    }

    /// Something happens to the world after a while.
    pub fn later(&mut self, after: Millis, event: WorldEvent) {
        self.at(self.now + after, Event::World(event));
    }

    /// The next event; the time goes on to it.
    pub fn advance(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }

    /// Notes what happens.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, line);
    }

    /// A host sends something. Whether it could: there is a connection as far as it knows.
    pub fn send_up(&mut self, host: HostIx, request: Request) -> bool {
        let (delay, overtakes) = self.delay();
        let core = matches!(request, Request::Publish(..));
        let (lost, twice) = (self.dice.chance(self.chances.loss), core && self.dice.chance(self.chances.twice));
        let link = &mut self.links[host];
        if !link.host_sees {
            return false;
        }
        if link.up_cut {
            if link.hold {
                link.held_up.push(request);
            }
            return true;
        }
        let (when, conn) = (arrival(self.now, delay, overtakes, &mut link.up_free), link.conn);
        if twice {
            self.at(when + 1, Event::Request(host, conn, request.clone()));
        }
        if !lost {
            self.at(when, Event::Request(host, conn, request));
        }
        true
    }

    /// The server sends something to a host.
    pub fn send_down(&mut self, host: HostIx, what: Rc<HostEvent>) {
        let (delay, overtakes) = self.delay();
        let core = matches!(*what, HostEvent::Message(..));
        let (lost, twice) = (self.dice.chance(self.chances.loss), core && self.dice.chance(self.chances.twice));
        let link = &mut self.links[host];
        if !link.server_sees {
            return;
        }
        if link.down_cut {
            if link.hold {
                link.held_down.push(what);
            }
            return;
        }
        let (when, conn) = (arrival(self.now, delay, overtakes, &mut link.down_free), link.conn);
        if twice {
            self.at(when + 1, Event::Down(host, conn, what.clone()));
        }
        if !lost {
            self.at(when, Event::Down(host, conn, what));
        }
    }

    /// A link works again in both directions: what was held back comes now, as long as the connection lives.
    pub fn heal(&mut self, host: HostIx) {
        let link = &mut self.links[host];
        (link.up_cut, link.down_cut) = (false, false);
        let (up, down, conn) = (std::mem::take(&mut link.held_up), std::mem::take(&mut link.held_down), link.conn);
        for request in up {
            let when = arrival(self.now, 1, false, &mut self.links[host].up_free);
            self.at(when, Event::Request(host, conn, request));
        }
        for what in down {
            let when = arrival(self.now, 1, false, &mut self.links[host].down_free);
            self.at(when, Event::Down(host, conn, what));
        }
    }

    /// A new connection under `name`; the old one and what was on it are gone.
    pub fn connect(&mut self, host: HostIx, name: String) {
        let link = &mut self.links[host];
        link.conn += 1;
        link.name = name;
        (link.server_sees, link.host_sees) = (true, true);
        link.held_up.clear();
        link.held_down.clear();
    }

    fn delay(&mut self) -> (Millis, bool) {
        let slow = self.dice.chance(self.chances.slow);
        let delay = if slow { self.dice.within(1, self.chances.slow_ms) } else { self.dice.within(1, 3) };
        (delay, self.dice.chance(self.chances.overtake))
    }
}

/// When something arrives that takes `delay`: after what was sent before it, unless it overtakes that.
fn arrival(now: Millis, delay: Millis, overtakes: bool, free: &mut Millis) -> Millis {
    if overtakes {
        return now + delay;
    }
    *free = (*free).max(now + delay);
    *free
}

/// Name of one start of a host: later starts have greater names.
pub fn incarnation(boot: u32) -> Incarnation {
    Incarnation::new(format!("I{boot:04}")).unwrap()
}
