//! Messaging over NATS does what every messaging backend must, and survives what servers and operators do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lattice_core::id::LatticeName;
use lattice_core::subject::{EDGE_STREAM, SubjectPattern};
use lattice_nats::server::{Server, ServerConfig, find_server};
use lattice_nats::{ConnectOptions, Connection, ConnectionState, Lattice, connect};
use provider_api::messaging::{Messaging, Subscription};
use provider_api::{CallError, ProviderError};
use provider_conformance::messaging::{self, ACK_WAIT, Durable, message, take, take_durable};
use provider_messaging_nats::MessagingNats;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);
const CONSUMER: &str = "lat-default-test-1";
const SUBJECT: &str = "edge.sensor.local";

/// A server of its own on a port that it chose.
struct World {
    server: Server,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { server: start_server(folder.path(), 0).await, folder }
    }

    async fn connect(&self) -> Connection {
        connect(&ConnectOptions::new(self.server.url(), "test")).await.unwrap()
    }

    /// A provider, and a durable subscription on the public stream.
    async fn durable(&self) -> (MessagingNats, Durable, Lattice) {
        let connection = self.connect().await;
        let lattice = Lattice::new(connection.clone(), LatticeName::new("default").unwrap());
        lattice.ensure_edge_stream().await.unwrap();
        lattice.create_consumer(CONSUMER, &SubjectPattern::new("edge.sensor.*").unwrap(), ACK_WAIT, 64).await.unwrap();
        let subscription = Subscription::Durable { stream: EDGE_STREAM.to_owned(), consumer: CONSUMER.to_owned() };
        (MessagingNats::new(connection), Durable { subject: SUBJECT.to_owned(), subscription }, lattice)
    }
}

async fn start_server(folder: &Path, port: u16) -> Server {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server");
    let named = std::env::var_os("LATTICE_NATS_SERVER").is_some();
    let program = find_server((!named && fetched.exists()).then_some(&*fetched)).unwrap();
    let config = ServerConfig { port, ..ServerConfig::new(folder, LatticeName::new("default").unwrap()) };
    Server::start(&program, &config).await.unwrap()
}

#[tokio::test]
async fn plain_messaging_conforms() {
    let world = World::start().await;
    let provider = async || Arc::new(MessagingNats::new(world.connect().await));
    messaging::all_plain(provider().await, provider().await).await;
}

#[tokio::test]
async fn durable_messages_are_settled() {
    let world = World::start().await;
    let (provider, durable, _) = world.durable().await;
    messaging::durable_messages_are_settled(&provider, &durable).await;
}

#[tokio::test]
async fn nothing_is_pulled_that_cannot_start() {
    let world = World::start().await;
    let (provider, durable, _) = world.durable().await;
    messaging::nothing_is_pulled_that_cannot_start(&provider, &durable).await;
}

#[tokio::test]
async fn a_wait_may_be_given_up() {
    let world = World::start().await;
    let (provider, durable, _) = world.durable().await;
    messaging::a_wait_may_be_given_up(&provider, &durable).await;
}

#[tokio::test]
async fn work_in_progress_is_not_delivered_again() {
    let world = World::start().await;
    let (provider, durable, _) = world.durable().await;
    messaging::work_in_progress_is_not_delivered_again(&provider, &durable).await;
}

#[tokio::test]
async fn a_drained_durable_subscription_ends() {
    let world = World::start().await;
    let (provider, durable, _) = world.durable().await;
    messaging::a_drained_durable_subscription_ends(&provider, &durable).await;
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let world = World::start().await;
    let provider = MessagingNats::new(world.connect().await);
    let durable = |stream: &str| Subscription::Durable { stream: stream.to_owned(), consumer: CONSUMER.to_owned() };
    let error = provider.subscribe(durable(EDGE_STREAM)).await.err().unwrap();
    assert!(matches!(&error, ProviderError::Missing { what: "stream", name } if name == EDGE_STREAM), "{error}");
    let (provider, _, lattice) = world.durable().await;
    lattice.delete_consumer(CONSUMER).await.unwrap();
    let error = provider.subscribe(durable(EDGE_STREAM)).await.err().unwrap();
    assert!(matches!(&error, ProviderError::Missing { what: "consumer", name } if name == CONSUMER), "{error}");
    let error = provider.subscribe(durable("a.b")).await.err().unwrap();
    assert!(matches!(&error, ProviderError::Setting { .. }), "{error}");
}

#[tokio::test]
async fn a_deleted_consumer_ends_the_subscription() {
    let world = World::start().await;
    let (provider, durable, lattice) = world.durable().await;
    let mut waiting = provider.subscribe(durable.subscription.clone()).await.unwrap();
    let mut idle = provider.subscribe(durable.subscription.clone()).await.unwrap();
    assert!(messaging::nothing_comes(&mut *waiting, 1).await);
    lattice.delete_consumer(CONSUMER).await.unwrap();
    assert!(tokio::time::timeout(DEADLINE, waiting.next(1)).await.unwrap().is_none());
    assert!(tokio::time::timeout(DEADLINE, idle.next(1)).await.unwrap().is_none());
}

/// The server goes away and comes back: the subscriptions go on by themselves, nothing acknowledged comes again, nothing
/// unacknowledged is lost, and an acknowledgement over the new connection is refused.
#[tokio::test]
async fn subscriptions_survive_a_restart_of_the_server() {
    let World { server, folder } = World::start().await;
    let port = server.port();
    let world = World { server, folder };
    let (provider, durable, lattice) = world.durable().await;
    let mut inbox = provider.subscribe(durable.subscription.clone()).await.unwrap();
    let mut core = provider.subscribe(Subscription::Broadcast { subject: "core".to_owned() }).await.unwrap();
    for body in ["done", "held"] {
        provider.publish(message(SUBJECT, body)).await.unwrap();
    }
    let (_, done) = take_durable(&mut *inbox, 1).await;
    done.ack().await.unwrap();
    let (body, held) = take_durable(&mut *inbox, 1).await;
    assert_eq!(body, "held");

    let mut state = lattice.connection().state();
    let World { server, folder } = world;
    server.stop().await.unwrap();
    state.wait_for(|state| *state == ConnectionState::Disconnected).await.unwrap();
    let refused = provider.publish(message("core", "late")).await;
    assert!(matches!(refused, Err(CallError::Unavailable(_))), "{refused:?}");
    assert!(matches!(held.ack().await, Err(CallError::Unavailable(_) | CallError::Failed(_))));
    let _server = start_server(folder.path(), port).await;
    state.wait_for(|state| *state == ConnectionState::Connected).await.unwrap();

    assert!(matches!(held.ack().await, Err(CallError::Failed(_))), "what was published meanwhile may be lost");
    let (body, again) = take_durable(&mut *inbox, 1).await;
    assert_eq!((body.as_str(), again.delivered()), ("held", 2));
    again.ack().await.unwrap();
    lattice.connection().settle().await;
    provider.publish(message("core", "back")).await.unwrap();
    assert_eq!(take(&mut *core, 1).await.message.body, "back");
    provider.publish(message(SUBJECT, "new")).await.unwrap();
    assert_eq!(take_durable(&mut *inbox, 1).await.0, "new");
}

/// A subscription that is not read keeps a bounded number of messages; the rest is dropped and counted, and it goes on.
#[tokio::test]
async fn a_subscriber_that_is_too_slow_loses_messages_not_memory() {
    const MESSAGES: usize = 12_000;
    let world = World::start().await;
    let (slow, fast) = (world.connect().await, MessagingNats::new(world.connect().await));
    let mut inbox = MessagingNats::new(slow.clone()).subscribe(Subscription::Broadcast { subject: "flood".to_owned() }).await.unwrap();
    for number in 0..MESSAGES {
        fast.publish(message("flood", &number.to_string())).await.unwrap();
    }
    let end = tokio::time::Instant::now() + DEADLINE;
    while slow.dropped() == 0 {
        assert!(tokio::time::Instant::now() < end, "nothing was dropped");
        slow.settle().await;
    }
    let mut got = 0;
    while !messaging::nothing_comes(&mut *inbox, 1).await {
        got += 1;
    }
    assert!(got < MESSAGES, "{got}");
    fast.publish(message("flood", "after")).await.unwrap();
    assert_eq!(take(&mut *inbox, 1).await.message.body, "after");
}
