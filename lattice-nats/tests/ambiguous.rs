//! Commits whose confirmation is lost: stored once, and known to be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use lattice_core::desired::Change;
use lattice_core::id::{Digest, Generation, Revision};
use lattice_core::plan::{Head, Plan};
use lattice_core::wire::assignment::Assignment;
use lattice_nats::{CommitError, ConnectOptions, Lattice, connect};
use support::{World, host, name};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// When the next connection that commits a batch is cut.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    Never = 0,
    /// The server gets everything; its confirmation is lost.
    AfterTheCommit = 1,
    /// The server does not get the last part, until told otherwise.
    BeforeTheCommit = 2,
}

/// Stands between client and server and cuts the line when told to.
struct Line {
    url: String,
    orders: Arc<Orders>,
}

#[derive(Default)]
struct Orders {
    cut: AtomicU8,
    /// How often the line was cut.
    cuts: AtomicU8,
}

impl Line {
    async fn to(world: &World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let (server, orders) = (world.server.port(), Arc::new(Orders::default()));
        let given = Arc::clone(&orders);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&given)));
            }
        });
        Self { url, orders }
    }

    async fn lattice(&self) -> Lattice {
        Lattice::new(connect(&ConnectOptions::new(&self.url, "test")).await.unwrap(), name("default"))
    }

    fn cut(&self, when: Cut) {
        self.orders.cut.store(when as u8, Ordering::SeqCst);
    }

    fn cuts(&self) -> u8 {
        self.orders.cuts.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, orders: Arc<Orders>) {
    let (mut up, mut down) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut swallow = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(count @ 1..) = read else { return };
                let cut = orders.cut.load(Ordering::SeqCst);
                if cut != Cut::Never as u8 && holds(&up[..count], b"Nats-Batch-Commit") {
                    orders.cuts.fetch_add(1, Ordering::SeqCst);
                    if cut == Cut::BeforeTheCommit as u8 {
                        return;
                    }
                    swallow = true;
                    orders.cut.store(Cut::Never as u8, Ordering::SeqCst);
                }
                server.write_all(&up[..count]).await.unwrap();
            }
            read = server.read(&mut down) => {
                let Ok(count @ 1..) = read else { return };
                if swallow && holds(&down[..count], b"\"stream\"") {
                    return;
                }
                if client.write_all(&down[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

fn changes(count: usize, value: &str) -> Vec<Change> {
    (0..count).map(|number| Change { key: format!("app.a{number}"), value: Some(value.as_bytes().to_vec()) }).collect()
}

fn plan(generation: u64) -> Plan {
    let (generation, parent) = (Generation(generation), Generation(generation - 1));
    let head = Head { generation, parent, desired_rev: Revision(0), verdict_rev: Revision(0), digest: Digest::of(b"") };
    let changed =
        BTreeMap::from(['A', 'B'].map(|letter| (host(letter), Assignment { generation, parent, ..Assignment::empty(host(letter)) })));
    Plan {
        head,
        changed,
        more: false,
        choices: BTreeMap::new(),
        displaced: Vec::new(),
        troubles: BTreeMap::new(),
        moved: Vec::new(),
        left_behind: Vec::new(),
        handing_over: false,
    }
}

#[tokio::test]
async fn a_lost_confirmation_is_found_out() {
    let world = World::start().await;
    let direct = world.ready().await;
    let line = Line::to(&world).await;
    let lattice = line.lattice().await;
    let (mut desired, mut head) = (Revision(0), Revision(0));
    for (round, count) in [1, 2, 7].into_iter().enumerate() {
        line.cut(Cut::AfterTheCommit);
        let committed = lattice.commit_desired(&changes(count, &round.to_string()), desired).await.unwrap();
        assert_eq!(committed, Revision(desired.0 + count as u64), "stored once");
        desired = committed;
        assert_eq!(direct.read_desired().await.unwrap().1, desired);

        line.cut(Cut::AfterTheCommit);
        let generation = round as u64 + 1;
        let committed = lattice.commit_plan(&plan(generation), head).await.unwrap();
        let state = direct.read_plan().await.unwrap();
        assert_eq!((state.generation(), state.head_revision), (Generation(generation), committed));
        assert_eq!(committed, Revision(head.0 + 3), "stored once");
        head = committed;
        assert_eq!(usize::from(line.cuts()), (round + 1) * 2);
    }
}

#[tokio::test]
async fn what_did_not_arrive_is_sent_again() {
    let world = World::start().await;
    let direct = world.ready().await;
    let line = Line::to(&world).await;
    let lattice = line.lattice().await;
    line.cut(Cut::BeforeTheCommit);
    let mine = changes(5, "1");
    let (committed, ()) = tokio::join!(lattice.commit_desired(&mine, Revision(0)), async {
        support::eventually("the line is cut", async || (line.cuts() > 0).then_some(())).await;
        line.cut(Cut::Never);
    });
    assert_eq!((committed.unwrap(), direct.read_desired().await.unwrap().1), (Revision(5), Revision(5)));
}

/// Whoever wrote in between wins, also over a commit that has to be repeated.
#[tokio::test]
async fn a_repeated_loser_is_still_a_loser() {
    let world = World::start().await;
    let direct = world.ready().await;
    let line = Line::to(&world).await;
    let lattice = line.lattice().await;
    line.cut(Cut::BeforeTheCommit);
    let mine = changes(3, "mine");
    let (lost, ()) = tokio::join!(lattice.commit_desired(&mine, Revision(0)), async {
        support::eventually("the line is cut", async || (line.cuts() > 0).then_some(())).await;
        direct.commit_desired(&changes(1, "theirs"), Revision(0)).await.unwrap();
        line.cut(Cut::Never);
    });
    assert!(matches!(lost, Err(CommitError::Conflict { found: Some(Revision(1)), .. })), "{lost:?}");
    assert_eq!(direct.read_desired().await.unwrap().1, Revision(1));
}

/// A server that never confirms: the outcome is reported as unknown, not as a failure.
#[tokio::test]
async fn an_outcome_that_stays_unknown_is_called_so() {
    let world = World::start().await;
    let direct = world.ready().await;
    let line = Line::to(&world).await;
    let lattice = line.lattice().await;
    line.cut(Cut::BeforeTheCommit);
    let unknown = lattice.commit_desired(&changes(3, "mine"), Revision(0)).await.unwrap_err();
    assert!(matches!(unknown, CommitError::Unknown { attempts: 4, .. }), "{unknown:?}");
    assert_eq!(direct.read_desired().await.unwrap().1, Revision(0));
}
