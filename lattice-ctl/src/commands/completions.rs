//! `completions`.

use clap::Args;
use clap_complete::Shell;

use crate::error::Outcome;
use crate::output::Output;

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lattice-ctl completions bash > ~/.local/share/bash-completion/completions/lattice-ctl
  lattice-ctl completions zsh > ~/.zfunc/_lattice-ctl")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, output: &Output) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::cli::definition(), "lattice-ctl", &mut script);
        output.raw(&script)
    }
}
