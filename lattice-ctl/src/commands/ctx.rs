//! `ctx`: named connection settings.

mod del;
mod list;
mod show;
mod switch;

use clap::Subcommand;
use lattice_core::error::Problem;

use crate::connection::environment;
use crate::context::Contexts;
use crate::error::Outcome;
use crate::output::Output;
use crate::problems;

/// Named connection settings; `up` makes one
#[derive(Debug, Subcommand)]
pub(crate) enum Ctx {
    #[command(alias = "ls")]
    List(list::List),
    #[command(alias = "default")]
    Use(switch::Use),
    Show(show::Show),
    #[command(visible_alias = "delete")]
    Del(del::Del),
}

impl Ctx {
    pub(super) fn run(self, output: &Output) -> Outcome {
        let contexts = contexts()?;
        match self {
            Self::List(verb) => verb.run(&contexts, output),
            Self::Use(verb) => verb.run(&contexts, output),
            Self::Show(verb) => verb.run(&contexts, output),
            Self::Del(verb) => verb.run(&contexts, output),
        }
    }
}

fn contexts() -> Result<Contexts, Problem> {
    Contexts::of_user(&environment).ok_or_else(|| problems::usage("no folder for contexts: neither XDG_CONFIG_HOME nor HOME is set"))
}
