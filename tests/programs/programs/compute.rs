//! Computes: `<kernel> <times> <expected>` runs one of [`programs::kernels`] so many times and fails if another sum comes out.

use programs::{BrokerMessage, kernels};

programs::worker!(work);

fn work(message: &BrokerMessage) -> Result<(), String> {
    let words: Vec<&str> = programs::text(message)?.split(' ').collect();
    let [name, times, expected] = words.as_slice() else { return Err(format!("no such command: {words:?}")) };
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    let (_, kernel) = kernels::ALL.iter().find(|(known, _)| known == name).ok_or_else(|| format!("no kernel `{name}`"))?;
    let (sum, expected) = (kernels::run(*kernel, number(times)?), number(expected)?);
    if sum == expected { Ok(()) } else { Err(format!("{name} gave {sum} instead of {expected}")) }
}
