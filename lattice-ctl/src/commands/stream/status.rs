//! `stream status`.

use clap::Args;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::subject::EDGE_STREAM;
use lattice_nats::streams::EdgeStream;
use serde::Serialize;

use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output, columns};

/// Show how full the stream is and how far each durable consumer has come
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl Status {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        print(&Session::open(&self.connection).await?, output).await
    }
}

/// Prints how the stream stands.
pub(super) async fn print(session: &Session, output: &Output) -> Outcome {
    let Some(stream) = session.lattice.edge_stream_status().await? else {
        let message = format!("stream not found: {EDGE_STREAM} is made by the first link with --delivery jetstream");
        return Err(Problem::new(ErrorCode::NotFound, message).hint("lattice-ctl stream ensure").into());
    };
    output.print(&Report(stream))
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Report(EdgeStream);

impl Document for Report {
    fn text(&self, _wide: bool) -> String {
        let stream = &self.0;
        let owner = stream.owner.as_deref().unwrap_or("nobody that we know");
        let facts = [
            ["stream".to_owned(), stream.name.clone()],
            ["lattice".to_owned(), owner.to_owned()],
            ["subjects".to_owned(), stream.subjects.join(", ")],
            ["messages".to_owned(), format!("{} of {}", stream.messages, stream.max_messages)],
            ["bytes".to_owned(), format!("{} of {}", stream.bytes, stream.max_bytes)],
            ["kept for".to_owned(), format!("{} h", stream.max_age_seconds / 3600)],
            ["positions".to_owned(), format!("{} to {}", stream.first_sequence, stream.last_sequence)],
        ];
        let facts: Vec<String> = facts.iter().map(|[name, value]| format!("{name:<10} {value}")).collect();
        if stream.consumers.is_empty() {
            return facts.join("\n");
        }
        let rows = stream.consumers.iter().map(|consumer| {
            let numbers = [consumer.pending, consumer.unacknowledged, consumer.redelivered, consumer.done_up_to];
            [vec![consumer.name.clone(), consumer.filter.clone()], numbers.map(|number| number.to_string()).to_vec()].concat()
        });
        format!(
            "{}\n\n{}",
            facts.join("\n"),
            columns(&["CONSUMER", "FILTER", "PENDING", "UNACKNOWLEDGED", "REDELIVERED", "DONE UP TO"], rows)
        )
    }

    fn names(&self) -> Vec<String> {
        vec![format!("stream/{}", self.0.name)]
    }
}
