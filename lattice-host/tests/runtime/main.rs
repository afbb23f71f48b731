//! The runtime from outside: real components, real machine code, backends made of memory.
//!
//! The components are the programs of `tests/programs`, one behaviour each; `make programs` builds them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail loudly")]

mod world;

mod calls;
mod code;
mod http;
mod limits;
mod links;
mod outgoing;
mod trust;
