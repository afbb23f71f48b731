//! Reads the command line. A mistake is a [`Problem`] like any other: exit code 2, on standard error, as JSON if that was
//! asked for.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser};
use lattice_core::error::{ErrorCode, Problem};

use crate::commands::Command;
use crate::output::{Format, Output};
use crate::problems;

/// Steers a Lattice: actors, providers and links on many small nodes, over NATS.
///
/// `lattice-ctl up` starts a lattice on this machine; everything else works on that one, or on any that --nats-url and
/// --lattice name. Each verb has examples: `lattice-ctl help link put`.
#[derive(Debug, Parser)]
#[command(
    name = "lattice-ctl",
    version,
    propagate_version = true,
    infer_long_args = false,
    after_help = "\
Exit codes: 0 done · 1 failed · 2 usage · 3 somebody else changed it · 4 not found · 5 unreachable or timed out · 6 denied · 7 cannot be placed

Examples:
  lattice-ctl up --detach --hosts 2
  lattice-ctl start provider builtin://messaging-nats messaging
  lattice-ctl start actor file://./edge_processor.wasm edge-processor --max 4 --memory 64 --spread=region
  lattice-ctl scale edge-processor --max 12 --dry-run
  lattice-ctl events --follow
  lattice-ctl link put edge-processor messaging wasmcloud:messaging default --subscription edge.sensor.ap-east-1
  lattice-ctl down"
)]
pub(crate) struct Cli {
    /// How results are printed
    #[arg(short = 'o', long, global = true, value_enum, default_value_t, env = "LATTICE_OUTPUT", hide_env = true, value_name = "FORMAT")]
    pub(crate) output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Words of the article, of wash and of later versions that are no verbs here, and what to use instead.
const LATER: [(&str, &str); 9] = [
    ("migrate", "`lattice-ctl scale actor <id> --hosts <host>` moves an actor; its state stays in its bucket"),
    ("snapshot", "an actor's state is in its bucket: `lattice-ctl kv ls`, `lattice-ctl kv get`"),
    ("app", "give the parts one by one: `start provider`, `start actor`, `link put`, `config put`"),
    ("top", "`lattice-ctl get inventory` shows what each host runs and uses"),
    ("dash", "`lattice-ctl get inventory` shows what each host runs and uses"),
    ("update", "`lattice-ctl start actor <file> <id> --allow-update` replaces the code"),
    ("label", "labels are given when a host starts: `lattice-ctl up --label k=v`, `lattice-host --label k=v`"),
    ("spy", "`lattice-ctl sub <subject>` prints messages"),
    ("secrets", "links hold no secrets yet"),
];

/// The command line, or the exit code of a program that has nothing to do.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    Cli::try_parse_from(&arguments).map_err(|error| {
        let output = Output::new(wanted_format(&arguments));
        let kind = error.kind();
        let help_instead = kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand && !output.format().is_for_programs();
        if !help_instead && kind != ErrorKind::DisplayHelp && kind != ErrorKind::DisplayVersion {
            return output.finish(Err(describe(&error).into()));
        }
        // A reader that has gone has seen enough.
        let _ = error.print();
        if help_instead { ExitCode::from(ErrorCode::Usage.exit_code()) } else { ExitCode::SUCCESS }
    })
}

/// The command line's definition, for completions.
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}

fn describe(error: &clap::Error) -> Problem {
    if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) = (error.kind(), error.get(ContextKind::InvalidSubcommand))
        && let Some((_, instead)) = LATER.iter().find(|(later, _)| later == word)
    {
        return problems::usage(format!("this version has no `{word}`")).hint(*instead);
    }
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let message = first.strip_prefix("error: ").unwrap_or(first);
    let (mut named, mut hints) = (Vec::new(), Vec::new());
    for line in lines.filter(|line| !line.starts_with("For more information")) {
        match line.strip_prefix("tip: ").or_else(|| line.starts_with("Usage:").then_some(line)) {
            Some(hint) => hints.push(hint.to_owned()),
            None => named.push(line.to_owned()),
        }
    }
    let message = if named.is_empty() { message.to_owned() } else { format!("{message} {}", named.join(", ")) };
    let problem = problems::usage(message);
    if hints.is_empty() { problem } else { problem.hint(hints.join("; ")) }
}

/// The format that a command line which cannot be read asks for.
fn wanted_format(arguments: &[OsString]) -> Format {
    use clap::ValueEnum as _;
    let words: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied();
    let joined =
        words.iter().find_map(|word| word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o").filter(|rest| !rest.is_empty())));
    let named = after("-o").or_else(|| after("--output")).or(joined).map(str::to_owned);
    let named = named.or_else(|| crate::connection::environment("LATTICE_OUTPUT"));
    named.and_then(|name| Format::from_str(name.trim_start_matches('='), true).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: &str) -> Problem {
        let error = Cli::try_parse_from(line.split_whitespace()).expect_err(line);
        describe(&error)
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn verbs_that_come_later_say_what_to_use_now() {
        for line in ["lattice-ctl migrate a NEDGE01", "lattice-ctl top"] {
            let problem = problem(line);
            assert!(problem.message.starts_with("this version has no"), "{line}: {problem:?}");
            assert!(problem.hint.is_some(), "{line}");
        }
        let help = definition().render_long_help().to_string();
        for (word, _) in LATER {
            assert!(!help.contains(&format!("\n  {word} ")), "{word} is not listed");
        }
    }

    #[test]
    fn usage_problems_name_the_thing() {
        assert!(problem("lattice-ctl strat actor").hint.unwrap().contains("start"));
        assert!(problem("lattice-ctl get hosts --healthyonly").message.contains("--healthyonly"));
        assert!(problem("lattice-ctl stop actor").message.contains("<ID>"), "{:?}", problem("lattice-ctl stop actor"));
        assert!(problem("lattice-ctl stop actor a.b").message.contains("actor id `a.b` may only hold"));
    }

    #[test]
    fn the_format_is_known_even_if_the_rest_is_not() {
        let check = |line: &str, expected: Format| {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(wanted_format(&words), expected, "{line}");
        };
        check("x get nothing -o json", Format::Json);
        check("x -ojson get", Format::Json);
        check("x --output=ndjson get", Format::Ndjson);
        check("x get", Format::Table);
    }
}
