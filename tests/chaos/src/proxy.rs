//! A TCP proxy between one client and the servers, whose link can be cut, slowed and torn.
//!
//! **Invariants.** Bytes are delayed, never lost or reordered, as on a real link: what is held back arrives when the link is
//! whole again, unless the connection was reset in between. A cut link still takes connections; nothing is heard on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that are taken from a connection at once.
const CHUNK_BYTES: usize = 4096;
/// Chunks under way on a slow link in one direction; beyond it the sender has to wait.
const CHUNKS_UNDER_WAY: usize = 256;
/// How long one server may take to accept a connection before the next one is tried.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client to the servers.
    Up,
    /// From the servers to the client.
    Down,
}

/// How a link is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Conditions {
    /// Nothing passes from the client to the servers.
    pub(crate) hold_up: bool,
    /// Nothing passes from the servers to the client.
    pub(crate) hold_down: bool,
    /// New connections are closed at once.
    pub(crate) refuse: bool,
    /// Time that each byte takes.
    pub(crate) delay: Duration,
    /// More time, up to this, different for each chunk.
    pub(crate) jitter: Duration,
    /// Bytes a second in each direction; 0 for no limit.
    pub(crate) bytes_per_second: u64,
    /// Every so-manyth chunk has one byte changed on its way down; 0 for none.
    pub(crate) garble_every: u64,
    /// Counts resets: a connection that has seen another number ends with a reset.
    resets: u64,
}

impl Conditions {
    fn holds(&self, way: Way) -> bool {
        match way {
            Way::Up => self.hold_up,
            Way::Down => self.hold_down,
        }
    }
}

/// The proxy; dropped, it and all its connections end.
pub(crate) struct Proxy {
    port: u16,
    conditions: watch::Sender<Conditions>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port; each connection goes to the first of `servers` that takes it.
    pub(crate) fn start(runtime: &Handle, servers: Vec<SocketAddr>) -> Self {
        let _guard = runtime.enter();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        let listener = TcpListener::from_std(listener).expect("a socket");
        let (conditions, seen) = watch::channel(Conditions::default());
        let accepting = runtime.spawn(accept(listener, servers.into(), seen));
        Self { port, conditions, accepting }
    }

    /// Address for the client.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Changes the link.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Conditions)) {
        self.conditions.send_modify(change);
    }

    /// Cuts the link in both directions; connections stay open.
    pub(crate) fn cut(&self) {
        self.set(|link| (link.hold_up, link.hold_down) = (true, true));
    }

    /// Cuts one direction.
    pub(crate) fn cut_one(&self, way: Way) {
        self.set(|link| match way {
            Way::Up => link.hold_up = true,
            Way::Down => link.hold_down = true,
        });
    }

    /// Makes the link whole and fast; connections that live go on.
    pub(crate) fn heal(&self) {
        self.set(|link| *link = Conditions { resets: link.resets, ..Conditions::default() });
    }

    /// Resets every connection; new ones are taken.
    pub(crate) fn reset(&self) {
        self.set(|link| link.resets += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

async fn accept(listener: TcpListener, servers: Arc<[SocketAddr]>, conditions: watch::Receiver<Conditions>) {
    while let Ok((client, _)) = listener.accept().await {
        if !conditions.borrow().refuse {
            tokio::spawn(serve(client, servers.clone(), conditions.clone()));
        }
    }
}

/// Carries one connection until either side ends it or the link is reset.
async fn serve(client: TcpStream, servers: Arc<[SocketAddr]>, conditions: watch::Receiver<Conditions>) {
    let resets = conditions.borrow().resets;
    let Some(server) = connect(&servers).await else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
        // Dropped with data under way, it is reset and not closed in good order: that is how a link breaks.
        let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut torn = conditions.clone();
    tokio::select! {
        () = pump(from_client, to_server, conditions.clone(), Way::Up) => {}
        () = pump(from_server, to_client, conditions, Way::Down) => {}
        _ = torn.wait_for(|link| link.resets != resets) => {}
    }
}

async fn connect(servers: &[SocketAddr]) -> Option<TcpStream> {
    for server in servers {
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(server)).await {
            return Some(stream);
        }
    }
    None
}

/// One direction: reads, holds back as long as the link says, writes in order.
async fn pump(mut from: OwnedReadHalf, to: OwnedWriteHalf, mut conditions: watch::Receiver<Conditions>, way: Way) {
    let (queue, waiting) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_UNDER_WAY);
    let write = deliver(to, waiting, conditions.clone(), way);
    let read = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut due = Instant::now();
        loop {
            if conditions.wait_for(|link| !link.holds(way)).await.is_err() {
                return;
            }
            let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
            let link = *conditions.borrow();
            due = due.max(Instant::now() + link.delay + link.jitter.mul_f64(roll()));
            if queue.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

async fn deliver(
    mut to: OwnedWriteHalf,
    mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut conditions: watch::Receiver<Conditions>,
    way: Way,
) {
    let mut number = 0_u64;
    while let Some((due, mut bytes)) = waiting.recv().await {
        sleep_until(due).await;
        if conditions.wait_for(|link| !link.holds(way)).await.is_err() {
            return;
        }
        let link = *conditions.borrow();
        number += 1;
        if way == Way::Down && link.garble_every > 0 && number.is_multiple_of(link.garble_every) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
        if link.bytes_per_second > 0 {
            sleep(Duration::from_secs_f64(bytes.len() as f64 / link.bytes_per_second as f64)).await;
        }
    }
}

/// A number from 0 to 1 that is different each time; its quality does not matter.
fn roll() -> f64 {
    static STATE: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
    let number = crate::dice::step(STATE.load(Ordering::Relaxed));
    STATE.store(number, Ordering::Relaxed);
    (number >> 11) as f64 / (1_u64 << 53) as f64
}
