//! `bazaar mesh`: the bazaar on a platform of its own, with a sidecar beside each service; who reaches payment, and who does not.
//!
//! # Exit codes
//! 0 if all is as it should be, else 1.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use axum::http::Method;
use clap::Args;
use serde_json::json;

use super::{
    client::Client,
    platform::{Plan, Platform, runtime, until},
    report::{Report, hold},
};
use crate::{kernel::console::complain, mesh};

/// How long something may take to be so.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is shown, and of which row it is.
const TRIP: (&str, &str) = (
    "R7.7",
    "an order is placed, paid and called off, and every question between services is over mutual TLS",
);
const PLAIN: (&str, &str) = ("R7.7", "who speaks to payment without TLS is refused");
const IDENTITY: (&str, &str) = ("R7.1", "what order may ask of payment, product may not: 403");
const EGRESS: (&str, &str) = ("R7.1", "a service reaches whom its file lists, and nobody else");
const RENEWED: (&str, &str) = ("R7.7", "new certificates for everybody, while it is shopped: no order fails");

/// What `bazaar mesh` is told.
#[derive(Args, Clone, Debug)]
pub struct MeshArgs {
    /// Writes the report there, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Shows it, and reports.
pub fn run(args: &MeshArgs) -> ExitCode {
    match runtime().and_then(|runtime| runtime.block_on(show())) {
        Ok(report) => report.end("bazaar mesh", args.json.as_deref()),
        Err(message) => {
            complain(format_args!("bazaar mesh: {message}"));
            ExitCode::FAILURE
        }
    }
}

async fn show() -> Result<Report, String> {
    let mut platform = Platform::open(Plan { is_mesh: true, ..Plan::default() }).await?;
    let mut report = Report::default();
    report.note(TRIP.0, TRIP.1, trip(&platform, "first").await);
    report.note(PLAIN.0, PLAIN.1, plain(&platform).await);
    report.note(IDENTITY.0, IDENTITY.1, identity(&mut platform).await);
    report.note(EGRESS.0, EGRESS.1, egress(&platform).await);
    report.note(RENEWED.0, RENEWED.1, renewed(&platform).await);
    platform.stop().await;
    Ok(report)
}

/// An order through the gateway: paid at once, and called off.
async fn trip(platform: &Platform, key: &str) -> Result<String, String> {
    let client = Client::of("gateway", platform.gateway).patient(Duration::from_mins(1));
    let client = client.with_token(&platform.token("asha")?);
    let wish = json!({
        "items": [{"product_id": "prod_003", "quantity": 2}],
        "address": {"line": "12 Hill Road", "city": "mumbai", "pincode": "400050"},
        "payment_method": "upi",
        "payment": {"method": "upi", "account": "asha@bank"},
    });
    let order = client.post("/api/orders", key, &wish).await?.expect(201)?;
    let order_id = order["order_id"].as_str().unwrap_or_default().to_owned();
    hold(order["payment"]["amount"] == order["total"], || format!("it is not paid: {order}"))?;
    let path = format!("/api/orders/{order_id}/cancel");
    let over = client.post(&path, "", &json!({"reason": "only to show"})).await?.expect(200)?;
    hold(over["state"] == "refunded", || format!("it is not called off: {over}"))?;
    Ok(format!("{order_id}, {}", over["refunded"].as_str().unwrap_or_default()))
}

async fn plain(platform: &Platform) -> Result<String, String> {
    let client = Client::of("payment's sidecar", platform.doors["payment"].inbound);
    let refused = client.ask(Method::GET, "/api/payments/7", &[], None).await?.expect(400)?;
    hold(refused["reason"] == "bad_request", || format!("refused otherwise: {refused}"))?;
    expect_handshakes(platform, "plain_text", 1).await?;
    Ok("400, and counted as plain_text".to_owned())
}

async fn identity(platform: &mut Platform) -> Result<String, String> {
    let folder = platform.mesh();
    let theirs = folder.join("strangers");
    mesh::certify(&theirs, ["order"])?;
    let ours = |name: &str| (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    let strangers = (theirs.join("order.pem"), theirs.join("order.key"));
    // By the certificate of whom, and the status of a payment that is asked for without a body.
    let cases = [
        ("order", Some(ours("order")), 400, ""),
        ("product", Some(ours("product")), 403, "forbidden"),
        ("a stranger that says it is order", Some(strangers), 502, ""),
        ("nobody", None, 502, ""),
    ];
    for (who, shown, status, reason) in cases {
        let at = platform.reach("payment", shown).await?;
        let client = Client::of("a sidecar", at);
        let headers = [("idempotency-key", "mesh"), ("x-user-id", "asha")];
        let answer = client.ask(Method::POST, "/api/payments", &headers, None).await?;
        let (is, why) = (answer.status.as_u16(), answer.body["reason"].as_str().unwrap_or_default());
        let is_right = is == status && (reason.is_empty() || why == reason);
        hold(is_right, || format!("{who} should have been {status}, and was {is} {why}"))?;
    }
    expect_handshakes(platform, "client_certificate_refused", 1).await?;
    expect_handshakes(platform, "client_certificate_missing", 1).await?;
    Ok("order may ask; product is 403, a stranger and nobody do not come in, each counted".to_owned())
}

async fn egress(platform: &Platform) -> Result<String, String> {
    let client = Client::of("order's sidecar", platform.doors["order"].outbound);
    for (host, status) in [("user", 404), ("bank", 404), ("api.example", 404)] {
        let answer = client.ask(Method::GET, "/internal/users/nobody", &[("host", host)], None).await?;
        let is_ours = answer.body["reason"] == "route_not_found";
        let is_right = answer.status.as_u16() == status && is_ours == (host != "user");
        hold(is_right, || format!("{host}: {} {}", answer.status, answer.body))?;
    }
    Ok("order reaches user, and neither the bank nor anybody outside".to_owned())
}

async fn renewed(platform: &Platform) -> Result<String, String> {
    let mut trips = 0_u32;
    for round in 0..3 {
        let names = platform.doors.keys().copied().chain(["gateway"]);
        mesh::certify(&platform.mesh(), names)?;
        for _ in 0..3 {
            trip(platform, &format!("renewed-{round}-{trips}")).await?;
            trips += 1;
        }
    }
    Ok(format!("{trips} orders while everybody was certified 3 times anew"))
}

/// So often has a handshake with payment's sidecar ended so.
async fn expect_handshakes(platform: &Platform, outcome: &str, times: u32) -> Result<(), String> {
    let line = format!("naka_tls_handshakes_total{{listener=\"inbound\",outcome=\"{outcome}\"}} {times}\n");
    let admin = Client::of("payment's sidecar", platform.doors["payment"].admin);
    let is_counted =
        until(PATIENCE, async || admin.page("/metrics").await.is_ok_and(|it| it.contains(&line))).await;
    hold(is_counted, || format!("there is no {}", line.trim_end()))
}
