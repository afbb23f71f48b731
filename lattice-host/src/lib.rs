//! The node program as a library: what `main` and the tests are made of.
//!
//! * [`args`], [`config`], [`identity`]: what the host is, complete before anything opens.
//! * [`node`]: puts everything together. `event_loop` is the one task that decides, with `lattice_core::agent`; `executor`
//!   and one `keeper` per actor carry it out; `delivery`, `http`, `calls` bring work in.
//! * `ownership`: leases, claims, and effects that are stored as one; `supervision`: actors that fail again and again rest.
//! * `trust`: whose code runs and whose policies are enforced; the warden is the task that owns the policies.
//! * [`runtime`] runs components, [`capability`] is what they can call, [`compile`] the limited child that compiles.
//!
//! **Invariants.** One task owns the agent; tasks talk through bounded channels and "newest counts" cells; the event loop
//! waits for nobody. What a host runs is what its assignment says, and an older assignment never replaces a newer one.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly"))]

pub mod args;
pub mod capability;
pub mod compile;
pub mod config;
pub mod identity;
pub mod node;
pub mod profile;
pub mod runtime;
pub mod store;

mod admin;
mod backoff;
mod calls;
mod clock;
mod dead_letter;
mod delivery;
mod disk;
mod errors;
mod event_loop;
mod executor;
mod http;
mod keeper;
mod lazy_bucket;
mod logs;
mod metrics;
mod ownership;
mod prefetch;
mod providers;
mod reason;
mod recorder;
mod reporter;
mod requests;
mod round_trip;
mod status;
mod supervision;
mod sync;
mod system_store;
mod trust;
