//! `start provider`.

use std::collections::BTreeSet;

use clap::Args;
use lattice_core::desired::{Desired, ProviderSpec};
use lattice_core::error::Problem;
use lattice_core::id::{ConfigName, ProviderId};
use lattice_core::image;
use lattice_core::wire::assignment::ProviderKind;

use crate::args::HostsArg;
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Start a provider, or add hosts to one that runs
///
/// Without --host it runs on every host, later ones included. Built in are builtin://kv-nats, builtin://kv-memory,
/// builtin://messaging-nats, builtin://http-server and builtin://http-client; image names of wasmCloud providers stand for
/// them where they fit.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl start provider builtin://kv-nats kv
  lattice-ctl start provider builtin://http-server http --host NEDGE01
  lattice-ctl start provider builtin://http-client http-out
  lattice-ctl start provider wasmcloud.azurecr.io/httpserver:0.20.0 --hosts NEDGE01")]
pub(crate) struct StartProvider {
    /// What to start
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Id of the provider; the last part of the image's name if it is left out
    #[arg(value_name = "ID")]
    id: Option<ProviderId>,

    #[command(flatten)]
    hosts: HostsArg,

    /// Named config of the provider; later ones win
    #[arg(long, value_name = "NAME")]
    config: Vec<ConfigName>,

    /// Accepted for old scripts: links name their provider themselves
    #[arg(long, hide = true, value_name = "NAME")]
    link_name: Option<String>,

    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl StartProvider {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let kind = image::provider_kind(&self.image).map_err(|error| Problem::provider_image(&self.image, &error).hint(hint(&error)))?;
        let id = match self.id.clone().or_else(|| image::default_provider_id(&self.image)) {
            Some(id) => id,
            None => return Err(problems::usage(format!("`{}` gives no id: name one after it", self.image)).into()),
        };
        let session = Session::open(&self.connection).await?;
        if let Some(name) = &self.link_name {
            output.note(&format!("note: --link-name {name} is not needed: `lattice-ctl link put … {id} <contract> {name}` names the link"));
        }
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let intent = Intent { kind: "provider", name: id.to_string(), done: "started" };
        writer.run(intent, &|view, desired| self.edit(&id, kind, view, desired)).await
    }

    fn edit(&self, id: &ProviderId, kind: ProviderKind, view: &View, desired: &mut Desired) -> Result<Edited, Problem> {
        let running = desired.providers.get(id);
        let config =
            if self.config.is_empty() { running.map(|running| running.config.clone()).unwrap_or_default() } else { self.config.clone() };
        let spec = ProviderSpec { image: self.image.clone(), kind, hosts: self.hosts.find(&view.inventory)?, config };
        if running.is_some_and(|running| running.kind == kind && running.hosts.is_empty()) && !spec.hosts.is_empty() {
            let message = format!("provider start failed: provider `{id}` runs on every host already");
            return Err(Problem::new(lattice_core::error::ErrorCode::Failed, message)
                .hint(format!("to have it on some hosts only: `lattice-ctl stop provider {id} --host <the others>`")));
        }
        desired.start_provider(id.clone(), spec).map_err(|error| problems::edit(&error, desired))?;
        let waiting: BTreeSet<String> =
            desired.links.values().filter(|link| link.target == *id).map(|link| link.source.to_string()).collect();
        let actors = desired.components.keys().filter(|actor| waiting.contains(actor.as_str())).cloned().collect();
        Ok(Edited { actors, providers: BTreeSet::from([id.clone()]), ..Edited::default() })
    }
}

fn hint(error: &image::ProviderImageError) -> String {
    match error {
        image::ProviderImageError::NotBuiltIn { instead, .. } => format!("lattice-ctl start provider {instead}"),
        image::ProviderImageError::Unknown { .. } => "lattice-ctl start provider builtin://…".to_owned(),
    }
}
