//! The gateway `naka` as a process, for the tests of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    naka_gateway::cli::main(std::env::args_os())
}
