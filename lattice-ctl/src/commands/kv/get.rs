//! `kv get`.

use clap::Args;
use lattice_core::error::{ErrorCode, Problem, nearest};
use lattice_core::id::{BucketName, Revision};
use lattice_nats::bucket::Bucket;
use serde::Serialize;
use serde_json::Value;

use crate::commands::publish;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, printable};

/// Print the value of a key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl kv get edge-data ap-east-1.sensor-001
  lattice-ctl kv get edge-data ap-east-1.sensor-001 -o json")]
pub(crate) struct Get {
    /// The bucket
    #[arg(value_name = "BUCKET")]
    bucket: BucketName,

    /// The key
    #[arg(value_name = "KEY")]
    key: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Serialize)]
struct Entry {
    bucket: BucketName,
    key: String,
    revision: Revision,
    /// JSON as it is, other text as text, anything else in hex.
    value: Value,
}

impl Get {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let session = Session::open(&self.connection).await?;
        let bucket = Bucket::open(session.connection(), &self.bucket).await?;
        let Some(entry) = bucket.get(&self.key).await? else {
            let keys = bucket.keys("").await?;
            let hint = match nearest(&self.key, keys.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("`lattice-ctl kv ls {}` lists the keys", self.bucket),
            };
            let shown = printable(&self.key);
            return Err(Problem::new(ErrorCode::NotFound, format!("key not found: {shown} in bucket {}", self.bucket)).hint(hint).into());
        };
        let value = publish::readable(&entry.value);
        output.payload(&entry.value, &Entry { bucket: self.bucket, key: self.key, revision: entry.revision, value })
    }
}

impl Document for Entry {
    fn text(&self, _wide: bool) -> String {
        self.value.to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![self.key.clone()]
    }
}
