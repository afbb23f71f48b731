//! `lattice-bench counters`: instructions and system calls of fixed runs, compared with recorded bounds.
//!
//! Both are the same from run to run to within a percent, on a busy machine, too, so a bound that is passed is a change of
//! ours. Instructions are counted by callgrind, system calls by strace; where one is not installed its counts are skipped,
//! and that is said. (Page faults and allocations need no tool: `lattice-host/tests/counters` counts them in `make test`.)

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixed::Work;
use crate::{Error, say};

/// Bounds are for this profile: the tests have built it already.
const PROFILE: &str = "dev";
/// Messages of the shorter and of the longer run.
const TIMES: (u32, u32) = (100, 300);

/// What to compare with.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File with the bounds
    #[arg(long, default_value = "lattice-bench/bounds.txt")]
    bounds: PathBuf,
}

/// What is counted, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counter {
    Instructions,
    Syscalls,
}

impl Counter {
    fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Syscalls => "syscalls",
        }
    }

    fn tool(self) -> &'static str {
        match self {
            Self::Instructions => "valgrind",
            Self::Syscalls => "strace",
        }
    }

    fn arguments(self, output: &Path) -> Vec<OsString> {
        let with_path = |flag: &str, suffix: &str| {
            let mut argument = OsString::from(flag);
            argument.push(output);
            argument.push(suffix);
            argument
        };
        match self {
            // The compiling child, too: code is compiled for the processor that it will run on, and that is valgrind's.
            Self::Instructions => {
                let fixed = ["--tool=callgrind", "--trace-children=yes", "-q"].map(OsString::from);
                fixed.into_iter().chain([with_path("--callgrind-out-file=", ".%p")]).collect()
            }
            Self::Syscalls => vec!["-f".into(), "-c".into(), "-U".into(), "calls,name".into(), "-o".into(), output.into()],
        }
    }

    /// The total that the tool wrote for the process `pid`.
    fn total(self, output: &Path, pid: u32) -> Result<u64, Error> {
        let path = match self {
            Self::Instructions => output.with_extension(pid.to_string()),
            Self::Syscalls => output.to_owned(),
        };
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let total = match self {
            Self::Instructions => text.lines().rev().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: "))),
            Self::Syscalls => text.lines().find_map(|line| line.trim().strip_suffix(" total")),
        };
        Ok(total.ok_or_else(|| format!("{} has no total", path.display()))?.trim().parse()?)
    }
}

/// One line of the file: what, and how much of it one message may take.
#[derive(Debug, Clone, PartialEq)]
struct Bound {
    counter: Counter,
    work: Work,
    limit: f64,
}

/// Counts, compares, prints.
///
/// # Errors
/// A bound that was passed, a tool that failed.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let text = std::fs::read_to_string(&arguments.bounds).map_err(|error| format!("{}: {error}", arguments.bounds.display()))?;
    if !cfg!(debug_assertions) {
        return Err(format!("the bounds are for profile {PROFILE}, this is another").into());
    }
    let cache = tempfile::tempdir()?;
    let mut passed = Vec::new();
    for bound in parse(&text)? {
        let name = format!("{} {:?} per message", bound.counter.name(), bound.work);
        if !is_installed(bound.counter.tool()) {
            say(&format!("{name}: skipped, {} is not installed", bound.counter.tool()));
            continue;
        }
        let found = per_message(&bound, cache.path())?;
        let verdict = if found <= bound.limit { "ok" } else { "TOO MANY" };
        say(&format!("{name}: {found:.2}, at most {:.2}: {verdict}", bound.limit));
        if found > bound.limit {
            passed.push(name);
        }
    }
    if passed.is_empty() { Ok(()) } else { Err(format!("more than recorded: {}", passed.join(", ")).into()) }
}

/// `<counter> <work> <limit>`, a `#` begins a remark.
fn parse(text: &str) -> Result<Vec<Bound>, Error> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|line| !line.is_empty());
    lines.map(|line| bound(line).ok_or_else(|| format!("no bound: {line}").into())).collect()
}

fn bound(line: &str) -> Option<Bound> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let counter = [Counter::Instructions, Counter::Syscalls].into_iter().find(|counter| counter.name() == name)?;
    let work = clap::ValueEnum::from_str(words.next()?, false).ok()?;
    let limit = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Bound { counter, work, limit })
}

fn is_installed(tool: &str) -> bool {
    Command::new(tool).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn per_message(bound: &Bound, cache: &Path) -> Result<f64, Error> {
    // Compiles what is not compiled yet, so that both runs below find it.
    counted(bound, 0, cache)?;
    let (fewer, more) = (counted(bound, TIMES.0, cache)?, counted(bound, TIMES.1, cache)?);
    Ok((more - fewer) / f64::from(TIMES.1.saturating_sub(TIMES.0)))
}

fn counted(bound: &Bound, times: u32, cache: &Path) -> Result<f64, Error> {
    let output = cache.join("counted");
    let name = clap::ValueEnum::to_possible_value(&bound.work).ok_or("work without a name")?;
    let mut command = Command::new(bound.counter.tool());
    command.args(bound.counter.arguments(&output)).arg(std::env::current_exe()?);
    command.args(["fixed", name.get_name(), "--times", &times.to_string(), "--cache"]).arg(cache.join(bound.counter.tool()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let pid = child.id();
    let ended = child.wait_with_output()?;
    if !ended.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&ended.stderr).trim()).into());
    }
    let total = bound.counter.total(&output, pid)?;
    Ok(crate::stats::to_f64(usize::try_from(total)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read() {
        let found = parse("# why\n\nsyscalls fresh 1.5 # because\ninstructions key-value 1000\n").unwrap();
        assert_eq!(
            found,
            [
                Bound { counter: Counter::Syscalls, work: Work::Fresh, limit: 1.5 },
                Bound { counter: Counter::Instructions, work: Work::KeyValue, limit: 1000.0 }
            ]
        );
        for wrong in ["syscalls", "syscalls fresh", "syscalls fresh x", "faults fresh 1", "syscalls cold 1", "syscalls fresh 1 2"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_recorded_bounds_are_bounds() {
        assert!(!parse(include_str!("../bounds.txt")).unwrap().is_empty());
    }
}
