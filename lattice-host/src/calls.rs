//! `lattice-ctl call`: one message to the actor, its reply back to the caller.

use bytes::Bytes;
use futures::StreamExt as _;
use lattice_core::contract::Contract;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::HostName;
use lattice_core::subject;
use lattice_core::wire::request::CallFailure;
use lattice_nats::Lattice;
use lattice_nats::calls::Call;
use provider_api::messaging::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::delivery::Target;
use crate::metrics::Operation;
use crate::reason;
use crate::runtime::ReplyRoute;
use crate::status::InletStatus;

/// Calls that wait or run at once; more are turned away.
const MAX_CALLS: usize = 64;

/// What a call needs besides the actor.
pub(crate) struct Desk {
    pub(crate) lattice: Lattice,
    pub(crate) host: HostName,
    /// Whether the actor has a messaging link: without one nobody may send it messages.
    pub(crate) linked: watch::Receiver<bool>,
    pub(crate) status: InletStatus,
    pub(crate) stop: CancellationToken,
}

/// Takes calls until it is told to stop, then finishes those that run.
pub(crate) async fn run(desk: Desk, target: Target) {
    let mut calls = match desk.lattice.calls(&target.id).await {
        Ok(calls) => calls,
        // Only a client that was closed subscribes to nothing; then the host is going down.
        Err(error) => return desk.status.fails(reason::of(&error)),
    };
    desk.status.works();
    let mut running = JoinSet::new();
    loop {
        let call = tokio::select! {
            () = desk.stop.cancelled() => break,
            Some(_) = running.join_next() => continue,
            call = calls.next() => call,
        };
        let Some(call) = call else { break };
        let refusal = if !*desk.linked.borrow() {
            Some(Problem::link_not_found(target.id.as_str(), Contract::Messaging.as_str()))
        } else if running.len() >= MAX_CALLS {
            Some(Problem::new(ErrorCode::Failed, format!("{}: {MAX_CALLS} calls wait already", target.id)).hint("try again later"))
        } else {
            None
        };
        let (lattice, host, target) = (desk.lattice.clone(), desk.host.clone(), target.clone());
        running.spawn(async move {
            let outcome = match refusal {
                Some(problem) => Err(problem),
                None => work(&call, &target).await,
            };
            let outcome = outcome.map_err(|error| CallFailure { error });
            if let Err(error) = lattice.answer_call(call, &host, outcome).await {
                tracing::debug!(actor = %target.id, %error, "call was not answered");
            }
        });
    }
    drop(calls);
    desk.status.closed();
    while running.join_next().await.is_some() {}
}

async fn work(call: &Call, target: &Target) -> Result<Bytes, Problem> {
    subject::check_subject(&call.subject).map_err(|error| Problem::new(ErrorCode::Usage, error.to_string()))?;
    // The actor must see that a reply is wanted; where it goes is ours to know.
    let message =
        Message { subject: call.subject.clone(), body: call.body.clone(), reply_to: Some(CAPTURED_REPLY.to_owned()), headers: Vec::new() };
    let handled = target.handle(Operation::Call, message, ReplyRoute::Capture, None).await;
    let handled = handled.map_err(|error| error.problem(target.id.as_str()))?;
    Ok(handled.reply.map(|reply| reply.body).unwrap_or_default())
}

/// Reply subject that an actor sees in a call.
const CAPTURED_REPLY: &str = "_INBOX.call";
