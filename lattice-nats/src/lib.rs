//! Lattice over NATS: the only crate that wraps the client library for the control plane.
//!
//! * [`connect`](mod@connect): one connection with bounded queues and a state to watch.
//! * [`server`]: starting a nats-server, for `lattice-ctl up` and for tests.
//! * [`lattice`]: the control plane of one lattice: desired state, plan, requests, events.
//! * [`bucket`], [`streams`], [`artifacts`]: users' buckets, the public stream and its consumers, components by digest.
//!
//! **Invariants.** What must change together is one atomic batch with an expected revision; nothing is decided by a read.
//! Every bucket is a raw `KV_…` stream that no header can wipe. Every wait has a deadline, every queue a size. An outcome
//! that the server did not confirm is either found out or reported as unknown, never assumed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly"))]

pub mod artifacts;
pub mod bucket;
pub mod calls;
pub mod connect;
pub mod error;
pub mod events;
pub mod fenced;
pub mod lattice;
pub mod policies;
pub mod server;
pub mod streams;

mod api;
mod batch;
mod lease;
mod quiet;
mod safety;
mod scan;
mod verdicts;

pub use connect::{ConnectError, ConnectOptions, Connection, ConnectionState, connect};
pub use error::{AskError, CommitError, StoreError};
pub use lattice::Lattice;
