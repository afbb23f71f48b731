//! Answers the requests that only read: `ping`, `inventory`, `logs`; `report` is answered by a heartbeat. Everything else goes through desired state.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::id::{HostId, HostName};
use lattice_core::subject::{self, Verb};
use lattice_core::wire;
use lattice_core::wire::report::HostReport;
use lattice_core::wire::request::{LogQuery, ReportQuery};
use lattice_nats::{Lattice, StoreError};
use tokio::sync::{mpsc, oneshot};

use crate::event_loop::Event;
use crate::logs::LogRing;

/// Answers one request after the other until the event loop is gone.
pub(crate) async fn run(
    lattice: Lattice,
    host: HostId,
    name: HostName,
    logs: Arc<LogRing>,
    events: mpsc::Sender<Event>,
) -> Result<(), StoreError> {
    let [own, everybody] = subject::requests_for(lattice.name(), &host);
    let mut requests = futures::stream::select(lattice.subscribe(own).await?, lattice.subscribe(everybody).await?);
    while let Some(request) = requests.next().await {
        let (verb, reply) = match (Verb::of_subject(&request.subject), request.reply) {
            (Some(Verb::Report), _) => {
                if events.send(Event::ReportAfter(ReportQuery::delay(&request.payload))).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            (Some(verb), Some(reply)) => (verb, reply),
            (Some(_) | None, _) => continue,
        };
        let answer = match verb {
            Verb::Ping => report(&events)
                .await
                .map(|report| wire::encode(&HostReport { components: BTreeMap::new(), providers: BTreeMap::new(), ..report })),
            Verb::Inventory => report(&events).await.map(|report| wire::encode(&report)),
            Verb::Logs => Some(wire::encode(&logs.page(&name, &log_query(&request.payload)))),
            Verb::Report => continue,
        };
        let Some(answer) = answer else { return Ok(()) };
        if let Err(error) = lattice.connection().client().publish(reply, answer.into()).await {
            tracing::debug!(%error, verb = verb.token(), "answer was not sent");
        }
    }
    Ok(())
}

/// The report of this moment; `None` when the host is going down.
async fn report(events: &mpsc::Sender<Event>) -> Option<HostReport> {
    let (answer, answered) = oneshot::channel();
    events.send(Event::Question(answer)).await.ok()?;
    answered.await.ok()
}

/// What a request for logs asks for; an empty or unreadable body asks for the newest lines of everybody.
fn log_query(body: &Bytes) -> LogQuery {
    wire::decode(body).unwrap_or_default()
}
