//! `bazaar`: the services behind the gateway, one subcommand each; `up`, which starts them all; and
//! what customers need: `token`, `ride`, `shop`, `storm` and `demos`.

use std::{ffi::OsString, iter, process::ExitCode};

use bazaar::{
    bank, booking,
    demo::{demos, mesh, naka, ride, shop, storm, up},
    driver, inventory,
    inventory_query::{self, InventoryQueryArgs},
    kernel::service,
    notification, order, payment, pricing, product, rehearsal, restaurant, tracking,
    user::{self, keys},
};
use clap::{Parser, Subcommand};

/// The services behind the gateway: rides and a shop.
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
    /// Shop through the gateway, as three users, paying in seven ways, in two languages; every step is checked.
    Shop(shop::ShopArgs),
    /// Bad weather on a platform of its own, under load; then the books are checked.
    Storm(storm::StormArgs),
    /// Ten demonstrations on a platform of its own, each with what was measured.
    Demos(demos::DemosArgs),
    /// A sidecar beside each service, on a platform of its own: who reaches payment, and who does not.
    Mesh(mesh::MeshArgs),
    /// Rehearse crashes of the shop at every commit, and audit the books.
    Crash(rehearsal::CrashArgs),
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
    /// Run the order service.
    Order {
        #[command(flatten)]
        service: service::ServiceArgs,
        #[command(flatten)]
        order: order::OrderArgs,
    },
    /// Run the payment service.
    Payment {
        #[command(flatten)]
        service: service::ServiceArgs,
        #[command(flatten)]
        payment: payment::PaymentArgs,
    },
    /// Run the user service.
    User(service::ServiceArgs),
    /// Run the product service.
    Product {
        #[command(flatten)]
        service: service::ServiceArgs,
        #[command(flatten)]
        product: product::ProductArgs,
    },
    /// Run the notification service.
    Notification {
        #[command(flatten)]
        service: service::ServiceArgs,
        #[command(flatten)]
        notification: notification::NotificationArgs,
    },
    /// Run the restaurant service.
    Restaurant(service::ServiceArgs),
    /// Run the bank.
    Bank {
        #[command(flatten)]
        service: service::ServiceArgs,
        #[command(flatten)]
        bank: bank::BankArgs,
    },
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
        Command::Shop(args) => shop::run(&args),
        Command::Storm(args) => storm::run(&args),
        Command::Demos(args) => demos::run(&args),
        Command::Mesh(args) => mesh::run(&args),
        Command::Crash(args) => rehearsal::run(&args),
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
        Command::Order { service, order } => {
            let app = async |clock, store| Ok(order::app(clock, store, (&order).into()));
            service::run("order", &service, order::record::MIGRATIONS, app)
        }
        Command::Payment { service, payment } => {
            let app = async |clock, store| Ok(payment::app(clock, store, (&payment).into()));
            service::run("payment", &service, payment::record::MIGRATIONS, app)
        }
        Command::User(args) => service::run_with("user", &args, async |_, data| user::app(data).await),
        Command::Product { service, product } => {
            let app = async |clock, store| Ok(product::app(clock, store, product));
            service::run(product.api.service(), &service, product::record::MIGRATIONS, app)
        }
        Command::Notification { service, notification } => {
            let app = async |clock, store| Ok(notification::app(clock, store, &notification));
            service::run("notification", &service, notification::record::MIGRATIONS, app)
        }
        Command::Restaurant(args) => {
            let app = async |clock, store| Ok(restaurant::app(clock, store));
            service::run("restaurant", &args, restaurant::record::MIGRATIONS, app)
        }
        Command::Bank { service, bank } => {
            let app = async |clock, store| Ok(bank::app(clock, store, bank));
            service::run("bank", &service, bank::record::MIGRATIONS, app)
        }
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
