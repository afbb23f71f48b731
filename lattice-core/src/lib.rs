//! Every decision of Lattice, as plain synchronous functions over plain data.
//!
//! The host, the command line, the system actors and the tests all call the same code here. It builds natively and for
//! wasm32-wasip2.
//!
//! **Invariants.** No async, no I/O, no clock, no random number, no environment: time arrives in the message. Ordered
//! maps and a total order for ties, so that the same input gives the same bytes. Integer subtraction saturates.
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly"))]

pub mod admission;
pub mod agent;
pub mod claims;
pub mod contract;
pub mod desired;
pub mod error;
pub mod failover;
pub mod fault;
pub mod fence;
pub mod heartbeat;
pub mod id;
pub mod image;
pub mod inventory;
pub mod lease;
pub mod link;
pub mod liveness;
pub mod needs;
pub mod ownership;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod scheduler;
pub mod sensor;
pub mod subject;
pub mod system;
pub mod timing;
pub mod trust;
pub mod wire;
