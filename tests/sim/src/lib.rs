//! The decisions of Lattice in a deterministic world with faults.
//!
//! The real state machines of `lattice-core` (agent, ownership, lease, fence, policy, scheduler, plan) run on simulated hosts against
//! a model of NATS. Time is virtual, chance comes from one seed, and nothing else is asked: the same seed gives the same
//! bytes. For a while things break and an operator edits what is wanted; then the faults stop, and everything must come to
//! rest as it is wanted. What must never happen is watched all the time ([`invariants`]).
//!
//! A run is [`world::run`]. `tests/worlds.rs` runs thousands of seeds; one that fails prints the line that runs it again.
//!
//! * [`clock`], [`dice`], [`trace`]: time, chance, what happened
//! * [`store`], [`server`], [`env`](mod@env): streams and consumers; the bus; links, and the queue of events
//! * [`host`]: a host, its slots and its replicas of system actors
//! * [`hunt`]: many seeds on all cores
//! * [`operator`], [`policy`], [`scene`], [`world`]: who edits, who denies, what there is, what breaks
//!
//! The shell in [`host`] does what `lattice-host` does; where a seeded bug ([`lattice_core::fault::Fault`]) belongs to that
//! shell, this one has it in the same place.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a world that makes no sense ends the test"
)]

pub mod clock;
pub mod dice;
pub mod env;
pub mod host;
pub mod hunt;
pub mod invariants;
pub mod operator;
pub mod policy;
pub mod scene;
pub mod server;
pub mod store;
pub mod trace;
pub mod world;
