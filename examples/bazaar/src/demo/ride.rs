//! `bazaar ride`: a ride through the gateway, step by step: estimate, book, track, cancel.
//!
//! # Exit codes
//! 0 if every step went as it should, and the fare that was booked is the one that was quoted; else 1.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use axum::{
    body::Bytes,
    http::{
        HeaderValue, Method, Request, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, HOST},
    },
};
use clap::Args;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::{
    demo::keys::{Claims, Keys},
    kernel::{
        console::{complain, say},
        id,
        peer::Peer,
        service::DataArgs,
    },
    rules::{fare::RideType, money::Money},
};

/// Longer than the gateway waits for anybody.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the rider's token is good for.
const TOKEN: Duration = Duration::from_mins(5);

/// What `bazaar ride` is told.
#[derive(Args, Clone, Debug)]
pub struct RideArgs {
    /// Where the gateway listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    gateway: SocketAddr,
    /// The kind of vehicle.
    #[arg(long, value_name = "TYPE", default_value = "mini")]
    ride_type: RideType,
    /// Who rides.
    #[arg(long, value_name = "NAME", default_value = "asha")]
    rider: String,
    #[command(flatten)]
    data: DataArgs,
}

/// Takes the ride.
pub fn run(args: &RideArgs) -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string());
    match runtime.and_then(|runtime| runtime.block_on(ride(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(format_args!("bazaar ride: {message}"));
            ExitCode::FAILURE
        }
    }
}

async fn ride(args: &RideArgs) -> Result<(), String> {
    let token = Keys::of(&args.data.folder()?)?.token(&Claims::of(&args.rider, TOKEN))?;
    let rider =
        Rider { gateway: Peer::new("gateway", args.gateway).patient(PATIENCE), at: args.gateway, token };

    say(format_args!("1. What does a {} from Fort to Bandra cost? Anybody may ask.", args.ride_type));
    let (fort, bandra) = (json!({"lat": 18.9220, "lng": 72.8342}), json!({"lat": 19.0760, "lng": 72.8777}));
    let trip = json!({"pickup": fort, "drop": bandra, "ride_type": args.ride_type});
    let quote = rider.ask(Method::POST, "/api/rides/estimate", Some(&trip), StatusCode::OK).await?;

    say("\n2. Book it, with the rider's token, and a key that makes it safe to send again.");
    let wish = json!({"quote_id": quote["quote_id"]});
    let booked = rider.ask(Method::POST, "/api/rides/book", Some(&wish), StatusCode::CREATED).await?;
    let (quoted, fare) = (text(&quote, "fare")?, text(&booked, "fare")?);
    if fare != quoted {
        return Err(format!("{quoted} was quoted, and {fare} is booked"));
    }
    let ride_id = text(&booked, "ride_id")?;

    say("\n3. Where is the car?");
    rider.ask(Method::GET, &format!("/api/rides/{ride_id}/track"), None, StatusCode::OK).await?;

    say("\n4. Call it off, so that the driver is free again.");
    let path = format!("/api/rides/{ride_id}/cancel");
    let cancelled = rider.ask(Method::POST, &path, None, StatusCode::OK).await?;
    let [fee, refund] = [text(&cancelled, "fee")?, text(&cancelled, "refund")?];
    if paise(fee)? + paise(refund)? != paise(fare)? {
        return Err(format!("{fare} was booked, {refund} is refunded, and {fee} is the fee"));
    }
    say(format_args!("\nQuoted {quoted}, booked {fare}, refunded {refund}: all as promised."));
    Ok(())
}

fn text<'a>(answer: &'a Value, name: &str) -> Result<&'a str, String> {
    answer[name].as_str().ok_or_else(|| format!("the answer has no {name}"))
}

fn paise(amount: &str) -> Result<i64, String> {
    amount.parse::<Money>().map(Money::paise).map_err(|error| error.to_string())
}

/// Whoever rides.
struct Rider {
    gateway: Peer,
    at: SocketAddr,
    token: String,
}

impl Rider {
    /// Asks, shows what was asked and answered, and insists on the status.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        expected: StatusCode,
    ) -> Result<Value, String> {
        say(format_args!("   {method} {path}"));
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.at));
        request = request.header(HOST, self.at.to_string());
        if path != "/api/rides/estimate" {
            let bearer = HeaderValue::try_from(format!("Bearer {}", self.token));
            request = request.header(AUTHORIZATION, bearer.map_err(|error| error.to_string())?);
        }
        if path == "/api/rides/book" {
            request = request.header("idempotency-key", id::random().map_err(|it| it.to_string())?);
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::from(Bytes::from(bytes)));
        let request = request.map_err(|error| error.to_string())?;
        let response = self
            .gateway
            .exchange(request)
            .await
            .map_err(|error| format!("{error}; is `bazaar up` running?"))?;
        let text = String::from_utf8_lossy(response.body());
        say(format_args!("   {} {text}", response.status()));
        if response.status() != expected {
            let is_taken = text.contains("\"no_driver\"");
            let help = if is_taken { "; `bazaar up --fresh` frees all drivers of earlier rides" } else { "" };
            return Err(format!("{path} should have been {expected}, and was {}{help}", response.status()));
        }
        serde_json::from_str(&text).map_err(|error| format!("{path} did not answer JSON: {error}"))
    }
}
