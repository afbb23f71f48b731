//! `link del`.

use clap::Args;
use lattice_core::desired::Desired;
use lattice_core::error::{ErrorCode, Problem};
use lattice_core::id::{ActorId, LinkName};
use lattice_core::link::LinkSpec;

use super::shape::{self, Shape};
use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;
use crate::view::View;

/// Delete links of an actor
///
/// What the actor could do through them ends at once, calls under way included. Durable consumers go with them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl link del edge-processor wasmcloud:keyvalue default
  lattice-ctl link del edge-processor kv wasmcloud:keyvalue default
  lattice-ctl link del edge-processor wasi keyvalue --link-name default
  lattice-ctl link del edge-processor --all")]
pub(crate) struct Del {
    /// The actor (or the provider, where it calls the actor)
    #[arg(value_name = "SOURCE")]
    source: String,

    /// Contract and perhaps name, the target before them if you like; or namespace and package
    #[arg(value_name = "WHICH", num_args = 0..=3)]
    which: Vec<String>,

    /// Name of the link [default: default]
    #[arg(long, short = 'l', value_name = "NAME")]
    link_name: Option<LinkName>,

    /// All links of the source
    #[arg(long)]
    all: bool,

    /// Accepted for old scripts
    #[arg(long, hide = true)]
    force: bool,

    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Which links of the source are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Which {
    target: Option<String>,
    shape: Option<Shape>,
}

impl Del {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        let which = read(&self.which, self.link_name.as_ref())?;
        if which.shape.is_none() && which.target.is_none() && !self.all {
            return Err(problems::usage("which link? name its contract, or --all")
                .hint(format!("lattice-ctl link query {}", self.source))
                .into());
        }
        let session = Session::open(&self.connection).await?;
        let writer = Writer { session: &session, output, how: &self.change, wait: self.wait.wait };
        let name = [std::slice::from_ref(&self.source), self.which.as_slice()].concat().join(" ");
        let intent = Intent { kind: "link", name, done: "deleted" };
        writer.run(intent, &|_: &View, desired| self.edit(&which, desired)).await
    }

    fn edit(&self, which: &Which, desired: &mut Desired) -> Result<Edited, Problem> {
        let meant: Vec<LinkSpec> = desired.links.values().filter(|link| which.fits(&self.source, link)).cloned().collect();
        if meant.is_empty() {
            let what = which.shape.as_ref().map(|shape| format!(" for {} named {}", shape.contract, shape.name)).unwrap_or_default();
            return Err(Problem::new(ErrorCode::LinkNotFound, format!("link definition not found: {} has no link{what}", self.source))
                .hint(format!("lattice-ctl link query {}", self.source)));
        }
        for link in meant {
            desired
                .delete_links(&link.source, |other| other.identity() == link.identity())
                .map_err(|error| problems::edit(&error, desired))?;
        }
        Ok(Edited::default())
    }
}

impl Which {
    fn fits(&self, source: &str, link: &LinkSpec) -> bool {
        let ends = |first: &str, second: Option<&str>| {
            let (actor, provider) = (link.source.as_str(), link.target.as_str());
            let forward = first == actor && second.is_none_or(|second| second == provider);
            // A provider may stand first where it calls the actor.
            let backward = !link.contract.exports().is_empty() && first == provider && second.is_none_or(|second| second == actor);
            forward || backward
        };
        let shape = self.shape.as_ref().is_none_or(|shape| shape.contract == link.contract && shape.name == link.name);
        shape && ends(source, self.target.as_deref())
    }
}

/// Reads the words after the source: `[target] contract [name]`, `namespace package`, `target`.
fn read(words: &[String], flag: Option<&LinkName>) -> Result<Which, Problem> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let with = |target: Option<&str>, first: &str, second: Option<&str>| {
        Ok(Which { target: target.map(str::to_owned), shape: Some(shape::read(first, second, &[], flag)?) })
    };
    match words.as_slice() {
        [] => Ok(Which { target: None, shape: None }),
        [contract] if contract.contains(':') => with(None, contract, None),
        [target] => {
            ActorId::new(*target).map_err(|error| problems::name(&error))?;
            Ok(Which { target: Some((*target).to_owned()), shape: None })
        }
        [contract, name] if contract.contains(':') => with(None, contract, Some(name)),
        [target, contract] if contract.contains(':') => with(Some(target), contract, None),
        [namespace, package] => with(None, namespace, Some(package)),
        [target, first, second] => with(Some(target), first, Some(second)),
        _ => Err(problems::usage("too many words: [TARGET] CONTRACT [NAME]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_core::contract::Contract;

    #[test]
    fn words() {
        let check = |line: &str, target: Option<&str>, shape: Option<(Contract, &str)>| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let shape = shape.map(|(contract, name)| Shape { contract, name: LinkName::new(name).unwrap() });
            assert_eq!(read(&words, None).unwrap(), Which { target: target.map(str::to_owned), shape }, "{line}");
        };
        check("", None, None);
        check("kv", Some("kv"), None);
        check("wasmcloud:keyvalue", None, Some((Contract::KeyValue, "default")));
        check("wasmcloud:messaging cloud-sync", None, Some((Contract::Messaging, "cloud-sync")));
        check("kv wasmcloud:keyvalue", Some("kv"), Some((Contract::KeyValue, "default")));
        check("kv wasmcloud:keyvalue second", Some("kv"), Some((Contract::KeyValue, "second")));
        check("wasi keyvalue", None, Some((Contract::KeyValue, "default")));
        check("kv wasi keyvalue", Some("kv"), Some((Contract::KeyValue, "default")));
        assert!(read(&["a b".to_owned()], None).is_err());
        assert!(read(&["wasi".to_owned(), "blobstore".to_owned()], None).is_err());
    }
}
