//! `schedule status`.

use clap::Args;
use lattice_core::subject::SchedulerVerb;
use lattice_core::wire::schedule::SchedulerStatus;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};
use crate::scheduler;

/// Show how the scheduler stands: what the replica that answers knows
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl schedule status")]
pub(crate) struct Status {
    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Found(SchedulerStatus);

impl Status {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let status = scheduler::ask(&session, SchedulerVerb::Status, Vec::new(), scheduler::PATIENCE).await?;
        output.print(&Found(status))
    }
}

impl Document for Found {
    fn text(&self, _wide: bool) -> String {
        let status = &self.0;
        let row = vec![
            status.node.clone(),
            if status.ready { "ready" } else { "starting" }.to_owned(),
            status.hosts.to_string(),
            status.generation.to_string(),
            status.desired_rev.to_string(),
            status.malformed.to_string(),
            status.version.clone(),
        ];
        let mut text = columns(&["NODE", "STATE", "HOSTS", "GENERATION", "REVISION", "MALFORMED", "VERSION"], [row]);
        for host in &status.cloned {
            text.push_str(&format!("\ntwo processes use the identity {host}: give one of them another data folder"));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        vec![format!("host/{}", self.0.node)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::id::{Generation, Revision};

    #[test]
    fn for_people() {
        let found = Found(SchedulerStatus {
            node: "NEDGE01".into(),
            version: "0.1.0".into(),
            desired_rev: Revision(9),
            generation: Generation(4),
            hosts: 2,
            ready: true,
            malformed: 0,
            cloned: vec![crate::view::tests::host(0)],
        });
        let text = found.text(false);
        assert!(text.contains("NEDGE01  ready  2      4           9         0          0.1.0"), "{text}");
        assert!(text.contains("two processes use the identity NAAA"), "{text}");
    }
}
