//! `version`.

use clap::Args;
use lattice_core::wire;
use serde::Serialize;

use crate::error::Outcome;
use crate::output::{Document, Output};

/// Print the version
#[derive(Debug, Args)]
pub(crate) struct Version {}

#[derive(Debug, Serialize)]
struct Versions {
    name: &'static str,
    version: &'static str,
    /// Version of the documents that go over the bus.
    wire: u32,
    os: &'static str,
    arch: &'static str,
}

impl Version {
    pub(super) fn run(self, output: &Output) -> Outcome {
        output.print(&Versions {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            wire: wire::VERSION,
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
        })
    }
}

impl Document for Versions {
    fn text(&self, wide: bool) -> String {
        let short = format!("{} {}", self.name, self.version);
        if wide { format!("{short} (wire {}, {}-{})", self.wire, self.arch, self.os) } else { short }
    }

    fn names(&self) -> Vec<String> {
        vec![self.version.to_owned()]
    }
}
