//! `kv ls`.

use clap::Args;
use lattice_core::id::BucketName;
use lattice_nats::bucket::Bucket;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output};

/// List the keys of a bucket
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl kv ls edge-data
  lattice-ctl kv ls edge-data ap-east-1.")]
pub(crate) struct Ls {
    /// The bucket
    #[arg(value_name = "BUCKET")]
    bucket: BucketName,

    /// Only keys that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    prefix: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Keys(Vec<String>);

impl Ls {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let bucket = Bucket::open(session.connection(), &self.bucket).await?;
        output.print(&Keys(bucket.keys(&self.prefix).await?))
    }
}

impl Document for Keys {
    fn text(&self, _wide: bool) -> String {
        self.0.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.0.clone()
    }
}
