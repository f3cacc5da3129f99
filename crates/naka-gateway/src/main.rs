//! The gateway `naka`; see the library of the same package.

use std::process::ExitCode;

fn main() -> ExitCode {
    naka_gateway::cli::main(std::env::args_os())
}
