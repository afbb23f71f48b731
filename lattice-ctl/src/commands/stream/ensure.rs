//! `stream ensure`.

use clap::Args;

use super::status;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;

/// Make the stream, if it is not there yet
///
/// The first link with --delivery jetstream makes it, too. One lattice of an account may own it.
#[derive(Debug, Args)]
pub(crate) struct Ensure {
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Ensure {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        session.lattice.ensure_edge_stream().await?;
        status::print(&session, output).await
    }
}
