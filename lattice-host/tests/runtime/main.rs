//! The runtime from outside: real components, real machine code, backends made of memory.
//!
//! The components are the programs of `tests/programs`, one behaviour each; `make programs` builds them.

mod world;

mod calls;
mod code;
mod http;
mod limits;
mod links;
