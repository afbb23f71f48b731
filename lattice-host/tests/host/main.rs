//! The node program as a process, on a real server, with the guest programs of `tests/programs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail loudly"
)]

mod ahead;
mod durable;
mod lifecycle;
mod links;
mod owned;
mod system;
mod trust;
mod world;
