//! What every backend of a capability must do, whatever it is made of.
//!
//! Each backend's tests hand their implementation to the functions here, which panic where it falls short. Nothing else
//! links to this crate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: it fails loudly")]

pub mod keyvalue;
pub mod messaging;
