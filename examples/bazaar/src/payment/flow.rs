//! A payment in ten steps, each of which is done once or undone.
//!
//! | step | who is asked | undone by |
//! |---|---|---|
//! | `validate_user` | user | nothing |
//! | `check_kyc` | user | nothing |
//! | `validate_merchant` | our own record: the merchant's day is claimed | giving it back |
//! | `check_fraud` | nobody: a rule | nothing |
//! | `reserve_funds` | bank: a hold | releasing it |
//! | `process_payment` | bank: a charge | refunding it |
//! | `update_wallet` | our own record: the postings | reversing them |
//! | `notify_merchant` (not critical) | notification | a second message |
//! | `send_receipt` (not critical) | notification | a second message |
//! | `update_analytics` (not critical) | our own record | counting the reversal |
//!
//! A charge of which nobody knows whether it was done is looked at before it is asked for again: the bank knows its key. Of cash on
//! delivery the bank is told nothing.
//!
//! What has become of a payment the order service hears through the outbox: `payment_completed` once the postings are made, and
//! `payment_failed` or `payment_refunded` at the end.

use std::{sync::OnceLock, time::Duration};

use axum::http::{Method as Verb, StatusCode};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::record::{self, Entry, MERCHANT, State};
use crate::{
    kernel::{
        clock::Clock,
        outbox::{self, Outbox},
        peer::{Answer, Peer},
        saga::{Acted, Failure, Flow, Saga, Step, What},
        store::Store,
    },
    rules::{
        moment::Moment,
        money::Money,
        payment::{self, Kyc, Method, Refusal, Suspicion},
    },
};

/// How long the bank may take for each attempt.
const BANK: Duration = Duration::from_secs(10);

/// How long others may take for each attempt.
const OTHERS: Duration = Duration::from_secs(5);

/// With what a payment is begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// For which order.
    pub order_id: String,
    /// Who pays.
    pub user_id: String,
    /// How.
    pub method: Method,
    /// From where.
    pub account: String,
    /// How much.
    pub amount: Money,
}

/// The flow.
#[derive(Debug)]
pub struct PaymentFlow {
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) user: Peer,
    pub(super) bank: Peer,
    pub(super) notification: Peer,
    pub(super) outbox: OnceLock<Outbox>,
}

/// What the user service says, as far as it matters here.
#[derive(Debug, Deserialize)]
struct User {
    kyc: Kyc,
    risk: u32,
    blocked: bool,
    language: String,
}

impl Flow for PaymentFlow {
    const NAME: &'static str = "payment";

    const STEPS: &'static [Step] = &[
        Step::critical("validate_user").within(OTHERS),
        Step::critical("check_kyc").within(OTHERS),
        Step::critical("validate_merchant").within(OTHERS),
        Step::critical("check_fraud").within(OTHERS),
        Step::critical("reserve_funds").within(BANK),
        Step::critical("process_payment").within(BANK),
        Step::critical("update_wallet").within(OTHERS),
        Step::optional("notify_merchant").within(OTHERS).tried(3),
        Step::optional("send_receipt").within(OTHERS).tried(3),
        Step::optional("update_analytics").within(OTHERS).tried(3),
    ];

    const DEADLINE: Duration = Duration::from_mins(5);

    async fn act(&self, saga: &Saga, step: &'static str) -> Result<Acted, Failure> {
        let input = input(saga)?;
        match step {
            "validate_user" => {
                let user = self.user(&input.user_id).await?;
                payment::check_user(&input.user_id, user.blocked).map_err(refused)?;
                Ok(Acted::Done(json!({"language": user.language})))
            }
            "check_kyc" => {
                let user = self.user(&input.user_id).await?;
                payment::check_kyc(user.kyc, user.risk, input.amount).map_err(refused)?;
                Ok(Acted::Done(json!({"risk": user.risk})))
            }
            "validate_merchant" => self.claim_day(saga, &input).await,
            "check_fraud" => {
                let risk = saga.results["check_kyc"]["risk"].as_u64().unwrap_or(0);
                let risk = u32::try_from(risk).unwrap_or(u32::MAX);
                let score = payment::fraud_score(risk, input.amount, saga.began_at, input.method);
                payment::check_fraud(score).map_err(refused)?;
                Ok(Acted::Done(json!({"score": score, "suspicion": Suspicion::of(score)})))
            }
            "reserve_funds" if input.method == Method::Cod => Ok(Acted::done()),
            "reserve_funds" => self.hold(saga, &input).await,
            "process_payment" if input.method == Method::Cod => {
                Ok(Acted::Done(json!({"transaction_id": format!("COD-{}", saga.saga_id)})))
            }
            "process_payment" => self.charge(saga, &input).await,
            "notify_merchant" => self.notify(saga, step, MERCHANT, "merchant_paid", &input).await,
            "send_receipt" => self.notify(saga, step, &input.user_id, "payment_received", &input).await,
            _ => Ok(Acted::done()), // What it means is part of the record.
        }
    }

    /// The account: the bank knows its holds and charges by their keys.
    fn shed(input: &mut Value) {
        input["account"] = json!("");
    }

    async fn undo(&self, saga: &Saga, step: &'static str) -> Result<(), Failure> {
        let input = input(saga)?;
        match step {
            "reserve_funds" if input.method != Method::Cod => {
                let path = format!("/holds/{}", saga.key("hold"));
                self.tell_bank(Verb::DELETE, &path).await
            }
            "process_payment" if input.method != Method::Cod => {
                let path = format!("/charges/{}/refund", saga.key("charge"));
                self.tell_bank(Verb::PUT, &path).await
            }
            "notify_merchant" => {
                self.notify(saga, "undo_notify", MERCHANT, "merchant_reversed", &input).await.map(drop)
            }
            "send_receipt" => {
                let of = &input.user_id;
                self.notify(saga, "undo_receipt", of, "payment_refunded", &input).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn on_record(
        &self,
        transaction: &Transaction<'_>,
        saga: &Saga,
        what: &What,
        now: Moment,
    ) -> rusqlite::Result<()> {
        let id = &saga.saga_id;
        let Ok(input) = serde_json::from_value::<Input>(saga.input.clone()) else { return Ok(()) };
        match what {
            What::Done("process_payment", charge) => {
                record::charged(transaction, id, charge["transaction_id"].as_str())
            }
            What::Done("update_wallet", _) => {
                record::post(transaction, id, Entry::Capture, input.amount, now)?;
                record::step(transaction, id, State::Completed, None, now)?;
                self.tell(transaction, saga, &input, "payment_completed", now)
            }
            What::Done("update_analytics", _) => record::count(transaction, input.method, "completed", now),
            What::Compensating(cause) => {
                let was = record::by_id(transaction, id)?.map(|it| it.state);
                let state = if was == Some(State::Completed) { State::Refunding } else { State::Failing };
                record::step(transaction, id, state, Some(cause), now)
            }
            What::Undone("update_analytics") => record::count(transaction, input.method, "reversed", now),
            What::Undone("update_wallet") => {
                record::post(transaction, id, Entry::Reversal, input.amount, now)
            }
            What::Undone("validate_merchant") => record::free_day(transaction, id),
            What::Compensated => {
                let was = record::by_id(transaction, id)?.map(|it| it.state);
                let (state, kind) = match was {
                    Some(State::Refunding) => (State::Refunded, "payment_refunded"),
                    _ => (State::Failed, "payment_failed"),
                };
                record::step(transaction, id, state, None, now)?;
                self.tell(transaction, saga, &input, kind, now)
            }
            What::CompensationFailed => record::step(transaction, id, State::Stuck, None, now),
            What::Again => {
                let is_refund = record::was_captured(transaction, id)?;
                let state = if is_refund { State::Refunding } else { State::Failing };
                record::step(transaction, id, state, None, now)
            }
            _ => Ok(()),
        }
    }
}

impl PaymentFlow {
    async fn user(&self, user_id: &str) -> Result<User, Failure> {
        let answer = self.user.ask(Verb::GET, &format!("/internal/users/{user_id}"), NOTHING).await?;
        match answer.status {
            StatusCode::OK => Ok(self.user.read(&answer)?),
            StatusCode::NOT_FOUND => Err(Failure::refused("unknown_user", "there is no such user")),
            _ => Err(self.user.unexpected(&answer).into()),
        }
    }

    /// The one limit that several payments share: it is claimed in a transaction.
    async fn claim_day(&self, saga: &Saga, input: &Input) -> Result<Acted, Failure> {
        let (id, amount, now) = (saga.saga_id.clone(), input.amount, self.clock.now());
        let claim = move |transaction: &Transaction<'_>| {
            record::claim_day(transaction, &id, amount, now, |today| {
                payment::check_merchant(MERCHANT, amount, today)
            })
        };
        self.store.write(claim).await?.map_err(refused)?;
        Ok(Acted::done())
    }

    async fn hold(&self, saga: &Saga, input: &Input) -> Result<Acted, Failure> {
        let hold = json!({"account": input.account, "method": input.method, "amount": input.amount});
        let path = format!("/holds/{}", saga.key("hold"));
        let answer = self.bank.ask(Verb::PUT, &path, Some(&hold)).await?;
        self.decided(&answer)?;
        Ok(Acted::done())
    }

    async fn charge(&self, saga: &Saga, input: &Input) -> Result<Acted, Failure> {
        let path = format!("/charges/{}", saga.key("charge"));
        if saga.attempts > 0 {
            // It may have been done, and only the answer been lost.
            let known = self.bank.ask(Verb::GET, &path, NOTHING).await?;
            let known = self.bank.read::<Value>(&known)?;
            if known["state"] == "charged" {
                return Ok(Acted::Done(known));
            }
        }
        let charge = json!({
            "hold": saga.key("hold"), "account": input.account, "method": input.method, "amount": input.amount,
        });
        let answer = self.bank.ask(Verb::PUT, &path, Some(&charge)).await?;
        self.decided(&answer)?;
        Ok(Acted::Done(self.bank.read(&answer)?))
    }

    /// What the bank has decided, if it has.
    fn decided(&self, answer: &Answer) -> Result<(), Failure> {
        match answer.status {
            StatusCode::OK => Ok(()),
            StatusCode::PAYMENT_REQUIRED | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(Failure::refused(answer.reason(), "the bank has refused it"))
            }
            _ => Err(self.bank.unexpected(answer).into()),
        }
    }

    async fn tell_bank(&self, verb: Verb, path: &str) -> Result<(), Failure> {
        let answer = self.bank.ask(verb, path, NOTHING).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.bank.unexpected(&answer).into()) }
    }

    async fn notify(
        &self,
        saga: &Saga,
        key: &str,
        to: &str,
        template: &str,
        input: &Input,
    ) -> Result<Acted, Failure> {
        let language = saga.results.get("validate_user").and_then(|it| it["language"].as_str());
        let message = json!({
            "notification_id": saga.key(key),
            "user_id": to,
            "template": template,
            "language": language.unwrap_or("en"),
            "params": {"amount": input.amount, "order_id": input.order_id},
        });
        let answer = self.notification.ask(Verb::POST, "/notifications", Some(&message)).await?;
        match answer.status {
            StatusCode::OK => Ok(Acted::done()),
            it if it.is_client_error() => {
                Err(Failure::refused(answer.reason(), "the notification service has refused it"))
            }
            _ => Err(self.notification.unexpected(&answer).into()),
        }
    }

    fn tell(
        &self,
        transaction: &Transaction<'_>,
        saga: &Saga,
        input: &Input,
        kind: &str,
        now: Moment,
    ) -> rusqlite::Result<()> {
        let reason = saga.cause.as_ref().map(|cause| cause.reason.as_str());
        let transaction_id = saga.results.get("process_payment").map(|it| &it["transaction_id"]);
        let body = json!({
            "kind": kind, "order_id": input.order_id, "payment_id": saga.saga_id, "amount": input.amount,
            "method": input.method, "transaction_id": transaction_id, "reason": reason,
        });
        outbox::put(transaction, "order", &body, saga.trace.as_deref(), now)?;
        // Sent as soon as the record is there: the outbox looks for what is committed.
        self.outbox.get().map(Outbox::hurry);
        Ok(())
    }
}

/// Why a payment is undone that had not failed.
pub(super) const CALLED_OFF: &str = "order_called_off";

/// No body.
const NOTHING: Option<&()> = None;

fn input(saga: &Saga) -> Result<Input, Failure> {
    serde_json::from_value(saga.input.clone())
        .map_err(|error| Failure::refused("unreadable_saga", error.to_string()))
}

fn refused(refusal: Refusal) -> Failure {
    Failure::refused(refusal.reason(), refusal.to_string())
}
