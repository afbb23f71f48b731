//! The node program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(verb) if verb == "compile" => lattice_host::compile::main(args),
        _ => ExitCode::FAILURE,
    }
}
