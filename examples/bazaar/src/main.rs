//! `bazaar`: the services behind the gateway, one subcommand each, and `up`, which starts them all.

use std::{ffi::OsString, iter, process::ExitCode};

use bazaar::{naka, pricing, service, up};
use clap::{Parser, Subcommand};

/// The services behind the gateway: rides today, a shop to come.
#[derive(Debug, Parser)]
#[command(name = "bazaar")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start every service and the gateway, each as a process of its own.
    Up(up::UpArgs),
    /// Run the pricing service.
    Pricing(service::ServiceArgs),
    /// Run the gateway.
    #[command(hide = true, disable_help_flag = true)]
    Naka {
        #[arg(long)]
        stop_with_stdin: bool,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Up(args) => up::run(&args),
        Command::Pricing(args) => service::run("pricing", &args, pricing::app),
        Command::Naka { stop_with_stdin, args } => {
            if stop_with_stdin {
                service::stop_with_stdin();
            }
            naka::naka_cli(iter::once(OsString::from("naka")).chain(args).collect())
        }
    }
}
