//! `bazaar`: the services behind the gateway, one subcommand each; `up`, which starts them all; and
//! what a rider needs: `token` and `ride`.

use std::{ffi::OsString, iter, process::ExitCode};

use bazaar::{
    booking,
    demo::{naka, ride, up},
    driver, inventory,
    inventory_query::{self, InventoryQueryArgs},
    kernel::service,
    pricing, tracking,
    user::{self, keys},
};
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
    /// Take a ride through the gateway: estimate, book, track, cancel.
    Ride(ride::RideArgs),
    /// Print a token, for the gateway to believe.
    Token(keys::TokenArgs),
    /// Run the pricing service.
    Pricing(service::ServiceArgs),
    /// Run the drivers' service.
    Driver(service::ServiceArgs),
    /// Run the booking service.
    Booking {
        #[command(flatten)]
        service: service::ServiceArgs,
        #[command(flatten)]
        booking: booking::BookingArgs,
    },
    /// Run the tracking service.
    Tracking(service::ServiceArgs),
    /// Run the user service.
    User(service::ServiceArgs),
    /// Run the inventory: commands.
    Inventory(service::ServiceArgs),
    /// Run the inventory: queries.
    InventoryQuery {
        #[command(flatten)]
        service: service::ServiceArgs,
        #[command(flatten)]
        query: InventoryQueryArgs,
    },
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
        Command::Ride(args) => ride::run(&args),
        Command::Token(args) => keys::run(&args),
        Command::Pricing(args) => service::run("pricing", &args, pricing::MIGRATIONS, pricing::app),
        Command::Driver(args) => {
            let app = async |clock, store| Ok(driver::app(clock, store));
            service::run("driver", &args, driver::fleet::MIGRATIONS, app)
        }
        Command::Booking { service, booking } => {
            let app = async |clock, store| Ok(booking::app(clock, store, &booking).await);
            service::run("booking", &service, booking::record::MIGRATIONS, app)
        }
        Command::Tracking(args) => {
            let app = async |clock, store| Ok(tracking::app(clock, store));
            service::run("tracking", &args, tracking::MIGRATIONS, app)
        }
        Command::User(args) => service::run_with("user", &args, async |_, data| user::app(data)),
        Command::Inventory(args) => {
            service::run("inventory", &args, inventory::record::MIGRATIONS, inventory::app)
        }
        Command::InventoryQuery { service, query } => {
            let app =
                async |clock, store| inventory_query::app(clock, store, query.peer(), query.rebuild).await;
            service::run("inventory-query", &service, inventory_query::view::MIGRATIONS, app)
        }
        Command::Naka { stop_with_stdin, args } => {
            if stop_with_stdin {
                service::stop_with_stdin();
            }
            naka::naka_cli(iter::once(OsString::from("naka")).chain(args).collect())
        }
    }
}
