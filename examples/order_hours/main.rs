//! A gateway with a policy of one's own: orders are taken in business hours, up to a value, and in some zones.
//!
//! `cargo run --example order_hours -- run -c examples/order_hours/gateway.yaml`; `check`, `explain`, `schema` and all else work as they
//! do with `naka`, and know the policy.

mod hours;

use std::process::ExitCode;

use naka_gateway::custom::{Gateway, Slot};

use hours::{OrderHours, OrderHoursLayer};

fn main() -> ExitCode {
    Gateway::builder()
        .policy("order_hours", Slot::AfterAuth, |hours: OrderHours, _| OrderHoursLayer::new(hours))
        .main(std::env::args_os())
}
