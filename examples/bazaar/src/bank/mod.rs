//! The bank: the outer world of payments, which holds, charges, refunds, and sometimes does not answer.
//!
//! # Interface
//! Every key is chosen by who asks, and names one hold or one charge: sent again, it is the same one.
//! - `PUT /holds/{key}` with `{"account": …, "method": "upi", "amount": "541.86", "minutes": 15}`: 200 `{key, state: "held",
//!   amount, expires_at}`; 409 `over` once it was released, captured or has run out.
//! - `DELETE /holds/{key}`: 200 `{key, state}`, `released`, or `captured` if a charge has used it. Of a key that is
//!   not known it leaves a mark, and a hold that comes later is 409 `over`.
//! - `PUT /charges/{key}` with `{"hold": …, "account": …, "method": …, "amount": …}`: 200 `{key, state: "charged", amount,
//!   transaction_id, bank_reference}`. `hold` may be left out; if it is there, it must be held for the same account, method and amount, else 409
//!   `hold_over` or 422 `hold_mismatch`. 409 `over` once it was refunded.
//! - `GET /charges/{key}`: 200 `{key, state, over, …}`: `charged`, `refunded` or `none`; `over` says that it cannot be charged any more.
//! - `PUT /charges/{key}/refund`: 200, the same. Of a key that is not known it leaves a mark: nothing is given
//!   back, and a charge that comes later is 409 `over`.
//!
//! # Accounts
//! As with the test cards of payment providers, how an account begins decides what becomes of it: see
//! [`Manner`]. A hold asks only whether there is enough; releasing, refunding and looking always work.
//!
//! # Errors
//! Those of [`ask`]; 422 `idempotency_key_reused` for a key with another account, method or amount; 402 as the account says; 503 `busy` if
//! more than [`THINKING`] slow charges are thought about.
//!
//! # Bounds
//! Charges and movements are records, and are kept; holds and marks are forgotten after a week.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Request as Incoming, State as With},
    http::StatusCode,
    middleware::{Next, from_fn},
    routing::{get, put},
};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use crate::{
    bank::{
        manner::Manner,
        record::{Charge, ChargeRequest, Charged, Held, Hold, HoldRequest, Record},
    },
    kernel::{
        ask::{self, Body, Part},
        clock::Clock,
        console::complain,
        id,
        problem::Problem,
        service::App,
        store::Store,
        text,
    },
    rules::{
        moment::Moment,
        money::Money,
        payment::{self, Method},
    },
};

pub mod manner;
pub mod record;

/// How long a slow charge takes.
pub const SLOW: Duration = Duration::from_secs(8);

/// How long who gets no answer may wait for it.
pub const HANG: Duration = Duration::from_mins(10);

/// How many slow charges are thought about at a time.
pub const THINKING: usize = 256;

/// The longest hold, in minutes.
pub const HOLD_MINUTES: u32 = 24 * 60;

/// How often what is old is looked for.
const SWEEP: Duration = Duration::from_mins(1);

/// How the bank is today.
#[derive(Args, Clone, Copy, Debug)]
pub struct BankArgs {
    /// How long it thinks about everything, in milliseconds; at most a minute.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=60_000))]
    pub delay: u64,
}

#[derive(Clone, Debug)]
struct Bank {
    clock: Clock,
    record: Record,
    thinking: Arc<Semaphore>,
}

/// The service.
pub fn app(clock: Clock, store: Store, args: BankArgs) -> App {
    let record = Record::new(store.clone());
    let mut work = JoinSet::new();
    work.spawn(sweep(clock, record.clone()));
    let bank = Bank { clock, record, thinking: Arc::new(Semaphore::new(THINKING)) };
    let delay = Duration::from_millis(args.delay);
    let routes = Router::new()
        .route("/holds/{key}", put(hold).delete(release))
        .route("/charges/{key}", get(look).put(charge))
        .route("/charges/{key}/refund", put(refund))
        .layer(from_fn(move |request: Incoming, next: Next| async move {
            sleep(delay).await;
            next.run(request).await
        }));
    App { routes: ask::with_defaults(routes, Some(store)).with_state(bank), work }
}

async fn sweep(clock: Clock, record: Record) {
    loop {
        if let Err(error) = record.sweep(clock.now()).await {
            complain(error);
        }
        sleep(SWEEP).await;
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldWish {
    account: String,
    method: Method,
    amount: Money,
    #[serde(default = "fifteen")]
    minutes: u32,
}

const fn fifteen() -> u32 {
    15
}

/// A hold, as it is answered.
#[derive(Clone, Debug, Serialize)]
struct ShownHold {
    key: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Moment>,
}

impl From<Hold> for ShownHold {
    fn from(hold: Hold) -> Self {
        let Hold { key, state, amount, expires_at } = hold;
        Self { key, state: state.as_str(), amount, expires_at }
    }
}

async fn hold(
    With(bank): With<Bank>,
    Part(key): Part,
    Body(wish): Body<HoldWish>,
) -> Result<Json<ShownHold>, Problem> {
    let HoldWish { account, method, amount, minutes } = wish;
    let key = text::id("key", key)?;
    check(&account, method, amount)?;
    if !(1..=HOLD_MINUTES).contains(&minutes) {
        let detail = format!("a hold is for 1 to {HOLD_MINUTES} minutes");
        return Err(ask::unprocessable("invalid_minutes", detail));
    }
    if Manner::of(&account) == Manner::Poor {
        return Err(poor());
    }
    let now = bank.clock.now();
    let expires_at = now.after(Duration::from_mins(minutes.into()));
    let request = HoldRequest { key, account, method, amount, expires_at };
    match bank.record.hold(request, now).await? {
        Held::Hold(hold) => Ok(Json(hold.into())),
        Held::Over => Err(over("the hold was released, used, or has run out: choose another key")),
        Held::Other => Err(reused()),
    }
}

async fn release(With(bank): With<Bank>, Part(key): Part) -> Result<Json<ShownHold>, Problem> {
    let key = text::id("key", key)?;
    Ok(Json(bank.record.release(key, bank.clock.now()).await?.into()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargeWish {
    #[serde(default)]
    hold: Option<String>,
    account: String,
    method: Method,
    amount: Money,
}

/// A charge, as it is answered.
#[derive(Clone, Debug, Serialize)]
struct ShownCharge {
    key: String,
    state: &'static str,
    over: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bank_reference: Option<String>,
}

impl From<Charge> for ShownCharge {
    fn from(charge: Charge) -> Self {
        let Charge { key, state, amount, transaction_id, bank_reference } = charge;
        Self { key, state: state.shown(), over: state.is_over(), amount, transaction_id, bank_reference }
    }
}

async fn charge(
    With(bank): With<Bank>,
    Part(key): Part,
    Body(wish): Body<ChargeWish>,
) -> Result<Json<ShownCharge>, Problem> {
    let ChargeWish { hold, account, method, amount } = wish;
    let key = text::id("key", key)?;
    let hold = hold.map(|it| text::id("hold", it)).transpose()?;
    check(&account, method, amount)?;
    let manner = Manner::of(&account);
    let request = ChargeRequest {
        key,
        hold,
        account,
        method,
        amount,
        transaction_id: format!("txn_{}", id::random()?),
        bank_reference: format!("{:012}", u64::from_be_bytes(id::bytes()?) % 1_000_000_000_000),
    };
    match manner {
        Manner::Poor => Err(poor()),
        Manner::Declined => {
            let detail = "the bank declines this account; use another one";
            Err(Problem::new(StatusCode::PAYMENT_REQUIRED, "declined", detail))
        }
        Manner::Broken => {
            let detail = "the bank is broken for this account, as its name says";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", detail))
        }
        Manner::Good => bank.charge(request).await,
        Manner::Slow => bank.charge_slowly(request).await,
        Manner::Lost => {
            let _ = bank.charge(request).await?;
            Err(never().await)
        }
        Manner::Late => {
            if bank.record.is_too_early(request.key.clone(), bank.clock.now()).await? {
                return Err(never().await);
            }
            bank.charge(request).await
        }
    }
}

impl Bank {
    async fn charge(&self, request: ChargeRequest) -> Result<Json<ShownCharge>, Problem> {
        match self.record.charge(request, self.clock.now()).await? {
            Charged::Charge(charge) => Ok(Json(charge.into())),
            Charged::Over => {
                Err(over("the charge was refunded, also if that came first: choose another key"))
            }
            Charged::Other => Err(reused()),
            Charged::HoldOver => {
                let detail = "there is no such hold any more: it was released, used, or has run out";
                Err(Problem::new(StatusCode::CONFLICT, "hold_over", detail))
            }
            Charged::HoldMismatch => {
                let detail = "the hold is for another account, method or amount";
                Err(ask::unprocessable("hold_mismatch", detail.into()))
            }
        }
    }

    /// A bank that has begun to think does not stop because nobody waits any more.
    async fn charge_slowly(&self, request: ChargeRequest) -> Result<Json<ShownCharge>, Problem> {
        let busy = || {
            let detail = format!("the bank thinks about {THINKING} charges already; ask again");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(1)
        };
        let place = Arc::clone(&self.thinking).try_acquire_owned().map_err(|_| busy())?;
        let bank = self.clone();
        let charging = tokio::spawn(async move {
            let _place = place;
            sleep(SLOW).await;
            bank.charge(request).await
        });
        charging.await.map_err(|_| busy())?
    }
}

async fn look(With(bank): With<Bank>, Part(key): Part) -> Result<Json<ShownCharge>, Problem> {
    let key = text::id("key", key)?;
    Ok(Json(bank.record.look(key).await?.into()))
}

async fn refund(With(bank): With<Bank>, Part(key): Part) -> Result<Json<ShownCharge>, Problem> {
    let key = text::id("key", key)?;
    Ok(Json(bank.record.refund(key, bank.clock.now()).await?.into()))
}

fn check(account: &str, method: Method, amount: Money) -> Result<(), Problem> {
    if method == Method::Cod {
        let detail = "cash is no bank's: it is paid on delivery";
        return Err(ask::unprocessable("not_for_banks", detail.into()));
    }
    if amount <= Money::default() {
        return Err(ask::unprocessable("invalid_amount", "an amount is more than nothing".into()));
    }
    payment::check_account(method, account)
        .map_err(|refusal| ask::unprocessable(refusal.reason(), refusal.to_string()))
}

fn poor() -> Problem {
    let detail = "there is not enough on this account; use another one";
    Problem::new(StatusCode::PAYMENT_REQUIRED, "insufficient_funds", detail)
}

fn over(detail: &'static str) -> Problem {
    Problem::new(StatusCode::CONFLICT, "over", detail)
}

fn reused() -> Problem {
    text::key_reused("this key was used with another account, method, amount or hold")
}

/// No answer, for as long as anybody waits.
async fn never() -> Problem {
    sleep(HANG).await;
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_answer", "the bank has nothing to say about this")
}
