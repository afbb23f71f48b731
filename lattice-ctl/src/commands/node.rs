//! `node`: whether hosts take work.

mod cordon;
mod drain;
mod uncordon;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use lattice_core::desired::{Desired, NodeSpec};
use lattice_core::error::Problem;
use lattice_core::id::HostId;

use crate::change::{ChangeArgs, Edited, Intent, WaitArg, Writer};
use crate::connection::{ConnectionArgs, Session};
use crate::error::Outcome;
use crate::output::Output;
use crate::view::View;

/// Close hosts for new work, move work off them, open them again
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    Cordon(cordon::Cordon),
    Uncordon(uncordon::Uncordon),
    Drain(drain::Drain),
}

impl Node {
    pub(super) async fn run(self, output: &Output) -> Outcome {
        match self {
            Self::Cordon(verb) => verb.run(output).await,
            Self::Uncordon(verb) => verb.run(output).await,
            Self::Drain(verb) => verb.run(output).await,
        }
    }
}

/// What the verbs of `node` share.
#[derive(Debug, Clone, Default, Args)]
struct NodeArgs {
    /// Hosts: ids, names or unique beginnings
    #[arg(value_name = "HOST", required = true, value_delimiter = ',')]
    hosts: Vec<String>,

    #[command(flatten)]
    change: ChangeArgs,
    #[command(flatten)]
    wait: WaitArg,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl NodeArgs {
    /// What the change is called.
    fn intent(&self, done: &'static str) -> Intent {
        Intent { kind: "host", name: self.hosts.join(","), done }
    }

    fn writer<'a>(&'a self, session: &'a Session, output: &'a Output) -> Writer<'a> {
        Writer { session, output, how: &self.change, wait: self.wait.wait }
    }

    fn find(&self, view: &View) -> Result<BTreeSet<HostId>, Problem> {
        self.hosts.iter().map(|text| view.inventory.find(text)).collect()
    }

    /// Changes what is wanted of each of the hosts.
    fn edit(&self, view: &View, desired: &mut Desired, change: impl Fn(&mut NodeSpec)) -> Result<Edited, Problem> {
        for host in self.find(view)? {
            desired.edit_node(&host, &change);
        }
        Ok(Edited::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{host, view};

    #[test]
    fn each_host_is_changed_and_forgotten_when_nothing_is_wanted() {
        let view = view(3, Desired::default());
        let verb = |hosts: &[&str]| NodeArgs { hosts: hosts.iter().map(|name| (*name).to_owned()).collect(), ..NodeArgs::default() };
        let mut desired = view.desired.clone();
        verb(&["NEDGE01", "NEDGE03"]).edit(&view, &mut desired, |node| node.cordoned = true).unwrap();
        assert_eq!(desired.nodes.keys().collect::<Vec<_>>(), [&host(0), &host(2)]);
        assert!(desired.nodes[&host(0)].cordoned && !desired.nodes[&host(0)].draining);
        verb(&["NEDGE01"]).edit(&view, &mut desired, |node| node.cordoned = false).unwrap();
        assert_eq!(desired.nodes.keys().collect::<Vec<_>>(), [&host(2)]);
        let unknown = verb(&["NEDGE0"]).edit(&view, &mut desired, |_| {}).unwrap_err();
        assert_eq!((unknown.message.as_str(), unknown.code.exit_code()), ("host not found: NEDGE0", 4));
    }
}
