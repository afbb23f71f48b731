//! HTTP: an actor behind the host's port against a native hyper handler and, where it is installed, `wasmtime serve` with
//! the same component. Connections are kept; each has one request under way.

use std::net::Ipv4Addr;
use std::time::Instant;

use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::Error;
use crate::bench::Bench;
use crate::process::{Place, Process};
use crate::rounds::{Checks, Reading, interleave, side};
use crate::rows::{Goal, Line, Outcome};
use crate::stats::to_f64;
use crate::world::{Peer, World, free_port, until_served};

/// Connections at once.
const CONNECTIONS: usize = 16;
/// Requests on each of them in one round.
const REQUESTS: usize = 100;
/// Path of the n-th request; the answer repeats it.
const PATH: &str = "/devices/bench";
const WARM: &str = "warm";
const FRESH: &str = "fresh";
const NATIVE: &str = "native";
const WASMTIME: &str = "wasmtime serve";

/// Requests per second and latency.
pub(crate) async fn run(bench: &Bench) -> Result<Outcome, Error> {
    let world = World::start(bench, Place::Measured).await?;
    let (warm_port, fresh_port) = (free_port()?, free_port()?);
    let component = bench.program_path("http-hello");
    for (id, policy, port) in [(WARM, "resident", warm_port), (FRESH, "per-message", fresh_port)] {
        world.ctl(&format!("start actor {} {id} --policy {policy} --max {CONNECTIONS}", component.display())).await?;
        world.ctl(&format!("link put {id} http wasmcloud:httpserver default --port {port}")).await?;
        until_served(port).await?;
    }
    let native = Peer::native(Place::Measured, &["http"]).await?;
    let wasmtime = Peer::wasmtime_serve(Place::Measured, &component).await?;
    let (host, peer) = (world.host()?, native.process()?);
    let mut warm = Clients::new(warm_port).await?;
    let mut fresh = Clients::new(fresh_port).await?;
    let mut plain = Clients::new(native.port).await?;
    let count = bench.work(REQUESTS);
    let mut sides = vec![
        side(WARM, async || warm.measure(host, count).await),
        side(FRESH, async || fresh.measure(host, count).await),
        side(NATIVE, async || plain.measure(peer, count).await),
    ];
    if let Some(wasmtime) = &wasmtime {
        let (mut clients, process) = (Clients::new(wasmtime.port).await?, wasmtime.process()?);
        sides.push(side(WASMTIME, async move || clients.measure(process, count).await));
    }
    let samples = interleave(bench.rounds, &mut sides).await?;
    drop(sides);
    native.stop().await?;
    world.close().await?;

    let mut lines = Vec::new();
    let others = [Some(NATIVE), wasmtime.as_ref().map(|_| WASMTIME)];
    for (side, kind) in [(WARM, "warm actor"), (FRESH, "fresh instance")] {
        for other in others.into_iter().flatten() {
            let pair = (side, other);
            let rate = Line::compare(format!("HTTP, {kind}: requests"), "/s", &samples, "rate", pair)?;
            // The same work as `wasmtime serve`, which makes an instance for each request: no slower.
            lines.push(if other == WASMTIME && side == FRESH { rate.goal(Goal::RatioAtLeast(1.0)) } else { rate });
            lines.push(Line::compare(format!("HTTP, {kind}: p99"), "us", &samples, "p99", pair)?);
            lines.push(
                Line::compare(format!("HTTP, {kind}: CPU time"), "us", &samples, "cpu", pair)?.note("of the serving process, per request"),
            );
        }
    }
    let outcome = Outcome::of(&samples, lines);
    Ok(if wasmtime.is_some() { outcome } else { Outcome { skipped: Some("there is no wasmtime on PATH".to_owned()), ..outcome } })
}

/// Connections to one server.
struct Clients(Vec<SendRequest<Empty<Bytes>>>);

impl Clients {
    async fn new(port: u16) -> Result<Self, Error> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            connections.push(sender);
        }
        Ok(Self(connections))
    }

    async fn measure(&mut self, process: Process, count: usize) -> Result<Reading, Error> {
        let (cpu, start) = (process.cpu()?, Instant::now());
        let all = try_join_all(self.0.iter_mut().enumerate().map(|(number, sender)| ask(sender, number, count))).await?;
        let elapsed = start.elapsed().as_secs_f64();
        let cpu = process.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6;
        let (mut latencies, mut checks) = (Vec::new(), Checks::default());
        for (some, found) in all {
            latencies.extend(some);
            checks.add(&found);
        }
        let total = to_f64(latencies.len());
        Ok(Reading::checked(checks).with("rate", total / elapsed).with("cpu", cpu / total).with_percentiles(latencies))
    }
}

/// One request after the other; each answer is checked.
async fn ask(sender: &mut SendRequest<Empty<Bytes>>, connection: usize, count: usize) -> Result<(Vec<f64>, Checks), Error> {
    let (mut latencies, mut checks) = (Vec::new(), Checks::default());
    for number in 0..count {
        let path = format!("{PATH}/{connection}-{number}");
        let request = Request::get(&path).header("host", "localhost").body(Empty::new())?;
        let start = Instant::now();
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let is_ok = answer.status() == hyper::StatusCode::OK;
        let body = answer.into_body().collect().await?.to_bytes();
        latencies.push(start.elapsed().as_secs_f64() * 1e6);
        let is_right = is_ok && body == format!("GET {path}\n");
        checks.right += u64::from(is_right);
        checks.wrong += u64::from(!is_right);
    }
    Ok((latencies, checks))
}
