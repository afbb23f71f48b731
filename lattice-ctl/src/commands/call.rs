//! `call`.

use std::time::Duration;

use clap::Args;
use lattice_core::contract::Contract;
use lattice_core::error::Problem;
use lattice_core::id::ActorId;
use lattice_core::subject;
use lattice_core::wire;
use lattice_core::wire::report::ComponentState;
use lattice_core::wire::request::{CALL_HOST_HEADER, CALL_OK, CALL_OPERATIONS, CALL_STATUS_HEADER, CALL_SUBJECT_HEADER, CallFailure};
use serde::Serialize;

use crate::args;
use crate::bus;
use crate::commands::publish;
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::{Document, Output};
use crate::problems;
use crate::view::View;

/// How long an actor may take unless `--timeout` says otherwise: as long as a message may take, and the way there.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(35);

/// Call an actor with a message and print what it replies
///
/// The message goes to one of the hosts that run the actor, whatever the delivery of its link is; the actor sees it like
/// one from its subscription.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl call edge-processor HandleMessage --subject edge.sensor.ap-east-1 --data '{\"device\":\"sensor-001\",\"temp\":92.5}'
  lattice-ctl call edge-processor --subject edge.sensor.eu --data @reading.json")]
pub(crate) struct Call {
    /// Id of the actor
    #[arg(value_name = "ID")]
    id: ActorId,

    /// What to call; HandleMessage is all there is
    #[arg(value_name = "OPERATION", default_value = "HandleMessage")]
    operation: String,

    /// Subject that the actor sees
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,

    /// Payload: text, @file, or - for standard input
    #[arg(long, value_name = "PAYLOAD", default_value = "")]
    data: String,

    /// How long to wait for the reply: 250ms, 5s, 2m [default: 35s]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What an actor replied.
#[derive(Debug, Serialize)]
struct Reply {
    actor: ActorId,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// JSON as it is, other text as text, anything else in hex.
    reply: serde_json::Value,
}

impl Call {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        if !CALL_OPERATIONS.contains(&self.operation.as_str()) {
            return Err(problems::usage(format!("an actor has no operation `{}`", self.operation))
                .hint(format!("it has {}", CALL_OPERATIONS.join(", ")))
                .into());
        }
        if let Some(subject) = &self.subject {
            subject::check_subject(subject).map_err(|error| problems::usage(error.to_string()))?;
        }
        let payload = publish::payload(&self.data)?;
        let session = Session::open(&self.connection).await?;
        bus::check_size(session.connection(), &payload)?;
        let address = subject::call(session.name(), &self.id);
        let headers: Vec<(String, String)> = self.subject.iter().map(|subject| (CALL_SUBJECT_HEADER.to_owned(), subject.clone())).collect();
        let answer = bus::request(session.connection(), &address, &headers, payload, self.timeout.unwrap_or(DEFAULT_TIMEOUT)).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(problem) => return Err(self.explain(&session, problem).await?.into()),
        };
        if answer.headers.get(CALL_STATUS_HEADER).is_none_or(|status| status != CALL_OK) {
            let failure: CallFailure =
                wire::decode(&answer.payload).map_err(|error| problems::failed("reading the host's answer", &error))?;
            return Err(failure.error.into());
        }
        let host = answer.headers.get(CALL_HOST_HEADER).cloned();
        output.payload(&answer.payload, &Reply { actor: self.id, host, reply: publish::readable(&answer.payload) })
    }

    /// Why nobody answered, as far as desired state knows.
    async fn explain(&self, session: &Session, silence: Problem) -> Outcome<Problem> {
        let view = View::read(session).await?;
        let desired = &view.desired;
        if !desired.components.contains_key(&self.id) {
            return Ok(problems::no_actor(self.id.as_str(), desired));
        }
        if !desired.links_of(&self.id).any(|link| link.contract == Contract::Messaging) {
            return Ok(Problem::link_not_found(self.id.as_str(), Contract::Messaging.as_str()));
        }
        if let Some(missing) = waits_for(&self.id, &view) {
            return Ok(Problem::link_not_found(self.id.as_str(), &missing));
        }
        Ok(silence.hint(format!("how does it stand? `lattice-ctl get actors {}`", self.id)))
    }
}

/// The contract, or else the interface, that keeps an actor from running because no link is there for it.
fn waits_for(id: &ActorId, view: &View) -> Option<String> {
    let states = view.inventory.hosts.values().filter_map(|host| Some(&host.components.get(id)?.state));
    let missing = states.filter_map(|state| match state {
        ComponentState::Waiting(why) => why.strip_prefix("no link for ").map(str::to_owned),
        ComponentState::Starting | ComponentState::Running | ComponentState::Failed(_) => None,
    });
    let interface = missing.min()?;
    Some(Contract::parse(&interface).map_or(interface, |contract| contract.to_string()))
}

impl Document for Reply {
    fn text(&self, _wide: bool) -> String {
        self.reply.to_string()
    }

    fn names(&self) -> Vec<String> {
        vec![format!("actor/{}", self.actor)]
    }
}
