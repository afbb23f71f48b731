//! The node program as a library: what `main` and the tests are made of.

pub mod capability;
pub mod compile;
pub mod runtime;
