//! `bazaar ride`: a ride through the gateway, step by step: estimate, book, track, cancel.
//!
//! What was booked is cancelled in the end, also when a step fails or Ctrl-C comes: else its driver would
//! wait for a rider who has gone. Booking and cancelling are sent again, with the same key, if no answer
//! comes, or one that says that somebody behind did not answer.
//!
//! # Exit codes
//! 0 if every step went as it should, and the fare that was booked is the one that was quoted; else 1.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{
        HeaderValue, Method, Request, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use clap::Args;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{runtime::Builder, time::sleep};

use crate::{
    demo::up::GATEWAY,
    kernel::{
        console::{complain, say},
        id,
        peer::Peer,
        service::{DataArgs, Stop},
    },
    rules::{fare::RideType, money::Money},
    user::keys::{Claims, Keys, name},
};

/// Longer than the gateway waits for anybody.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the rider's token is good for.
const TOKEN: Duration = Duration::from_mins(5);

/// How often booking and cancelling are sent.
const ATTEMPTS: u32 = 4;

/// How long before they are sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// Nobody knows whether it was done.
const NOT_ANSWERED: [StatusCode; 3] =
    [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];

/// How often is asked where the car is, until tracking has heard of it.
const LOOKS: u32 = 20;

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// What `bazaar ride` is told.
#[derive(Args, Clone, Debug)]
pub struct RideArgs {
    /// Where the gateway listens.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, GATEWAY)))]
    gateway: SocketAddr,
    /// The kind of vehicle: mini, prime, suv, auto or bike. Nobody drives an outstation car: see what happens.
    #[arg(long, value_name = "TYPE", default_value = "mini")]
    ride_type: RideType,
    /// Who rides.
    #[arg(long, value_name = "NAME", default_value = "asha", value_parser = name)]
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
    let token = Keys::known(&args.data.place())?.token(&Claims::of(&args.rider, TOKEN))?;
    let gateway = Peer::new("the gateway", args.gateway).patient(PATIENCE);
    let key = id::random().map_err(|problem| problem.to_string())?;
    let rider = Rider { gateway, at: args.gateway, token, key };
    let mut stop = Stop::watch().map_err(|error| format!("cannot watch for signals: {error}"))?;

    let (from, to) = ends(args.ride_type);
    say(format_args!("1. What does a {} from {} to {} cost? Anybody may ask.", args.ride_type, from.0, to.0));
    let point = |(_, lat, lng): Place| json!({"lat": lat, "lng": lng});
    let trip = json!({"pickup": point(from), "drop": point(to), "ride_type": args.ride_type});
    let quote = rider.ask(Method::POST, "/api/rides/estimate", Some(&trip)).await?.expect(StatusCode::OK)?;

    say("\n2. Book it, with the rider's token, and a key that makes it safe to send again.");
    let wish = json!({"quote_id": quote["quote_id"]});
    let booked = rider.insist("/api/rides/book", Some(&wish)).await?.expect(StatusCode::CREATED)?;
    let ride_id = text(&booked, "ride_id")?;

    say("\n3. Where is the car?");
    let tracked = tokio::select! {
        biased; // Who wanted to stop while it was booked wants to stop now.
        signal = stop.signal() => Err(format!("{signal}: the ride is called off")),
        tracked = rider.track(ride_id) => tracked,
    };

    say("\n4. Call it off, so that the driver is free again.");
    let cancelled = rider.insist(&format!("/api/rides/{ride_id}/cancel"), None).await?;
    let cancelled = cancelled.expect(StatusCode::OK)?;
    tracked?;

    let (quoted, fare) = (text(&quote, "fare")?, text(&booked, "fare")?);
    let [fee, refund] = [text(&cancelled, "fee")?, text(&cancelled, "refund")?];
    if fare != quoted || paise(fee)? + paise(refund)? != paise(fare)? {
        return Err(format!("{quoted} was quoted, {fare} booked, {refund} refunded, and {fee} is the fee"));
    }
    let kept = if paise(fee)? == 0 { String::new() } else { format!(", and {fee} for calling it off") };
    say(format_args!("\nQuoted {quoted}, booked {fare}, refunded {refund}{kept}: all as promised."));
    Ok(())
}

/// A name, and where it is.
type Place = (&'static str, f64, f64);

/// From where a driver of that type is near.
const fn ends(ride_type: RideType) -> (Place, Place) {
    const FORT: Place = ("Fort", 18.9220, 72.8342);
    const BANDRA: Place = ("Bandra", 19.0760, 72.8777);
    const DADAR: Place = ("Dadar", 19.0178, 72.8478);
    match ride_type {
        RideType::Mini | RideType::Prime | RideType::Auto | RideType::Outstation => (FORT, BANDRA),
        RideType::Suv => (BANDRA, FORT),
        RideType::Bike => (DADAR, FORT),
    }
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
    /// Names the booking, however often it is sent.
    key: String,
}

/// What was answered to what.
struct Answer {
    path: String,
    status: StatusCode,
    body: Value,
}

impl Rider {
    /// Looks until there is something to see: tracking may hear of a ride a moment later.
    async fn track(&self, ride_id: &str) -> Result<Value, String> {
        let path = format!("/api/rides/{ride_id}/track");
        let mut answer = self.ask(Method::GET, &path, None).await?;
        for _ in 1..LOOKS {
            if answer.status != StatusCode::NOT_FOUND {
                break;
            }
            sleep(PAUSE).await;
            answer = self.ask(Method::GET, &path, None).await?;
        }
        answer.expect(StatusCode::OK)
    }

    /// Sends what may be sent again until it is answered by whom it is for; at most [`ATTEMPTS`] times.
    async fn insist(&self, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        for _ in 1..ATTEMPTS {
            match self.ask(Method::POST, path, body).await {
                Ok(answer) if !NOT_ANSWERED.contains(&answer.status) => return Ok(answer),
                _ => sleep(AGAIN).await,
            }
        }
        self.ask(Method::POST, path, body).await
    }

    /// Asks, and shows what was asked and answered.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        say(format_args!("   {method} {path}"));
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.at));
        if path != "/api/rides/estimate" {
            let bearer = HeaderValue::try_from(format!("Bearer {}", self.token));
            request = request.header(AUTHORIZATION, bearer.map_err(|error| error.to_string())?);
        }
        if path == "/api/rides/book" {
            request = request.header("idempotency-key", &self.key);
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::from(Bytes::from(bytes)));
        let request = request.map_err(|error| error.to_string())?;
        let response = self.gateway.exchange(request).await;
        let response = response.map_err(|error| format!("{error}; is `bazaar up` running?"))?;
        let text = String::from_utf8_lossy(response.body());
        say(format_args!("   {} {text}", response.status()));
        let body =
            serde_json::from_str(&text).map_err(|error| format!("{path} did not answer JSON: {error}"))?;
        Ok(Answer { path: path.to_owned(), status: response.status(), body })
    }
}

impl Answer {
    /// The body, if the status is that.
    fn expect(self, expected: StatusCode) -> Result<Value, String> {
        let Self { path, status, body } = self;
        if status == expected {
            return Ok(body);
        }
        let is_taken = body["reason"] == "no_driver";
        let help = if is_taken { "; `bazaar up --fresh` frees the drivers of earlier rides" } else { "" };
        Err(format!("{path} should have been {expected}, and was {status}{help}"))
    }
}
