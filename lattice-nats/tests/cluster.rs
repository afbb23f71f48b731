//! Streams on several servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use futures::TryStreamExt as _;
use lattice_core::id::BucketName;
use lattice_nats::bucket::Bucket;
use lattice_nats::{ConnectOptions, Lattice, connect};
use support::{eventually, name, program};
use tempfile::TempDir;

#[tokio::test]
async fn three_servers_keep_a_copy_each() {
    let mut cluster = Cluster::start(3);
    let lattice = cluster.lattice().await;
    let bucket = BucketName::new("readings").unwrap();
    lattice.ensure_edge_stream().await.unwrap();
    lattice.ensure_bucket(&bucket, None).await.unwrap();
    let streams = copies(&lattice).await;
    assert!(streams.len() >= 8 && streams.iter().all(|(_, copies)| *copies == 3), "{streams:?}");

    let bucket = Bucket::open(lattice.connection(), &bucket).await.unwrap();
    bucket.put("a", Bytes::from_static(b"1")).await.unwrap();
    cluster.servers.remove(0);
    let read = eventually("the bucket is read from those that are left", async || bucket.get("a").await.ok().flatten()).await;
    assert_eq!(read.value, "1");
    eventually("and written", async || bucket.put("a", Bytes::from_static(b"2")).await.ok()).await;
}

#[tokio::test]
async fn two_servers_have_no_room_for_three_copies() {
    let cluster = Cluster::start(2);
    let lattice = cluster.lattice().await;
    let streams = copies(&lattice).await;
    assert!(streams.len() >= 6 && streams.iter().all(|(_, copies)| *copies == 1), "{streams:?}");
}

async fn copies(lattice: &Lattice) -> Vec<(String, usize)> {
    let streams = lattice.connection().jetstream().streams();
    streams.map_ok(|info| (info.config.name, info.config.num_replicas)).try_collect().await.unwrap()
}

/// Servers that know each other.
struct Cluster {
    servers: Vec<Running>,
    urls: String,
    _folder: TempDir,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cluster {
    fn start(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<String> = ports.iter().map(|(_, route)| format!("\"nats://127.0.0.1:{route}\"")).collect();
        let servers = ports.iter().enumerate().map(|(number, (port, route))| {
            let file = folder.path().join(format!("{number}.conf"));
            let text = format!(
                r#"server_name: n{number}
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{store}", max_file_store: 34359738368 }}
cluster {{ name: test, listen: "127.0.0.1:{route}", no_advertise: true, routes: [{routes}] }}
"#,
                store = folder.path().join(format!("store{number}")).display(),
                routes = routes.join(", ")
            );
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new(program());
            command.arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            Running(command.spawn().unwrap())
        });
        let servers = servers.collect();
        let urls = ports.iter().map(|(port, _)| format!("nats://127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        Self { servers, urls, _folder: folder }
    }

    /// A lattice on it, as soon as it has a leader.
    async fn lattice(&self) -> Lattice {
        let options = ConnectOptions::new(&self.urls, "test");
        let connection = eventually("the servers listen", async || connect(&options).await.ok()).await;
        let lattice = Lattice::new(connection, name("default"));
        eventually("the lattice is made", async || lattice.ensure().await.ok()).await;
        lattice
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
