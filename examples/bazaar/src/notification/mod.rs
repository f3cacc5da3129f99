//! The notification service: tells people, in their language, by the first channel that works.
//!
//! # Interface
//! For other services:
//! - `POST /notifications` with `{"notification_id": …, "user_id": …, "template": "order_confirmed", "language": "hi", "params": {"order_id": …}}`:
//!   200 `{notification_id, channel, text}`. The same id again is the same answer, and nothing is sent again; with another message it is 422
//!   `idempotency_key_reused`. 503 `undeliverable` if no channel works: nothing was sent, and the same request may be sent again.
//! - `GET /internal/notifications?user_id=&limit=`: `{notifications}`, the last first.
//!
//! What a [`template`] needs: `order_id` those of orders and payments, and `amount` `payment_received`, `payment_refunded`, `merchant_paid` and
//! `merchant_reversed`; `product_id` `low_stock`. They may say `amount`, `promised_by`, `reason`, `quantity`, `warehouse`, if these are there.
//!
//! # Whom it asks
//! Telephone and e-mail are the user service's. If that does not answer, only push is left, which needs neither.
//! Templates for the shop's own people (`merchant_…`, `low_stock`) go to the shop, whatever `user_id` says.
//!
//! # Errors
//! Those of [`ask`]; 422 `unknown_template`, `missing_param`, `invalid_param`, `invalid_id`, `unknown_user`; 503 `undeliverable`.
//!
//! # Bounds
//! [`PARAMS`] parameters of [`PARAM`] characters; [`LIMIT`] notifications in an answer, [`LIMIT_MAX`] if it is said.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State as With,
    http::{Method, StatusCode},
    routing::{get, post},
};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    kernel::{
        ask::{self, Asked, Body},
        clock::Clock,
        console::complain,
        peer::{At, Peer},
        problem::Problem,
        store::Store,
        text,
    },
    notification::{
        channel::{Channel, Reach, way},
        record::{Message, Notification, Record},
        template::{Template, UnknownTemplate},
    },
    rules::language::Language,
};

pub mod channel;
pub mod record;
pub mod template;

/// How many parameters a message has at most.
pub const PARAMS: usize = 16;

/// How many characters a parameter has at most.
pub const PARAM: usize = 200;

/// How many notifications are in an answer if nothing is said.
pub const LIMIT: u32 = 20;

/// How many notifications are in an answer at most.
pub const LIMIT_MAX: u32 = 100;

/// How long the user service may take: who asks us waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often what is old is looked for.
const SWEEP: Duration = Duration::from_hours(1);

/// Whom the service asks, and what does not work today.
#[derive(Args, Clone, Debug)]
pub struct NotificationArgs {
    /// Where the user service listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8101")]
    pub user: At,
    /// A channel that fails; may be said more than once.
    #[arg(long, value_name = "CHANNEL")]
    pub failing: Vec<Channel>,
}

#[derive(Clone, Debug)]
struct Notifications {
    clock: Clock,
    record: Record,
    user: Peer,
    failing: Arc<[Channel]>,
}

/// The service; what it does besides answering runs from now on, and ends with the runtime.
pub fn app(clock: Clock, store: Store, args: &NotificationArgs) -> Router {
    let record = Record::new(store.clone());
    tokio::spawn(sweep(clock, record.clone()));
    let user = Peer::new("user", args.user.clone()).patient(PATIENCE);
    let notifications = Notifications { clock, record, user, failing: args.failing.as_slice().into() };
    let routes =
        Router::new().route("/notifications", post(notify)).route("/internal/notifications", get(list));
    ask::with_defaults(routes, Some(store)).with_state(notifications)
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
struct Wish {
    notification_id: String,
    user_id: String,
    template: String,
    language: Language,
    #[serde(default)]
    params: BTreeMap<String, Value>,
}

#[derive(Debug, Serialize)]
struct Told {
    notification_id: String,
    channel: Channel,
    text: String,
}

async fn notify(
    With(notifications): With<Notifications>,
    Body(wish): Body<Wish>,
) -> Result<Json<Told>, Problem> {
    let message = message(wish)?;
    let text = message.template.text(message.language, &message.params).map_err(|missing| {
        let detail = format!("{} needs the parameter {missing}", message.template);
        ask::unprocessable("missing_param", detail).with("param", json!(missing))
    })?;
    let sent = match notifications.record.notification(&message.notification_id).await? {
        Some(sent) => sent,
        None => notifications.send(message.clone(), text).await?,
    };
    if !sent.says(&message) {
        return Err(text::key_reused("the id names another notification already"));
    }
    let Notification { notification_id, channel, text, .. } = sent;
    Ok(Json(Told { notification_id, channel, text }))
}

impl Notifications {
    async fn send(&self, message: Message, text: String) -> Result<Notification, Problem> {
        let reach = self.reach(&message).await?;
        let way = way(&reach, &self.failing).ok_or_else(|| {
            let detail = "no channel works for this user now; the same request may be sent again";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "undeliverable", detail).retry_after(5)
        })?;
        Ok(self.record.send(message, text, way, self.clock.now()).await?)
    }

    /// Where somebody can be reached.
    async fn reach(&self, message: &Message) -> Result<Reach, Problem> {
        let user_id = message.user_id.clone();
        if message.template.is_for_staff() {
            return Ok(Reach { user_id, phone: None, email: Some("staff@bazaar.example".into()) });
        }
        let asked = self.user.ask(Method::GET, &format!("/internal/users/{user_id}"), None::<&()>).await;
        let reach = asked.and_then(|answer| match answer.status {
            StatusCode::OK => self.user.read::<Contact>(&answer).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.user.unexpected(&answer)),
        });
        match reach {
            Ok(Some(Contact { phone, email })) => Ok(Reach { user_id, phone, email }),
            Ok(None) => Err(ask::unprocessable("unknown_user", "there is no user of this id".into())),
            Err(unavailable) => {
                complain(unavailable);
                Ok(Reach { user_id, phone: None, email: None })
            }
        }
    }
}

/// What is needed of what the user service says.
#[derive(Debug, Deserialize)]
struct Contact {
    phone: Option<String>,
    email: Option<String>,
}

fn message(wish: Wish) -> Result<Message, Problem> {
    let Wish { notification_id, user_id, template, language, params } = wish;
    let notification_id = text::id("notification_id", notification_id)?;
    let user_id = text::id("user_id", user_id)?;
    // It becomes a part of a path, so it must be one.
    let is_exact = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !user_id.bytes().all(is_exact) || user_id.starts_with('.') {
        let detail = "a user's id has letters, digits, dots, hyphens and underscores";
        return Err(ask::unprocessable("invalid_id", detail.into()).with("member", json!("user_id")));
    }
    let template = template.parse().map_err(|error: UnknownTemplate| {
        ask::unprocessable("unknown_template", error.to_string()).with("templates", json!(Template::ALL))
    })?;
    if params.len() > PARAMS {
        return Err(ask::unprocessable("invalid_param", format!("there are more than {PARAMS} parameters")));
    }
    let params = params.into_iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let is_line = |text: &String| text.chars().count() <= PARAM && !text.chars().any(char::is_control);
        value.filter(is_line).map(|value| (name.clone(), value)).ok_or_else(|| {
            let detail = format!("a parameter is a number or one line of at most {PARAM} characters");
            ask::unprocessable("invalid_param", detail).with("param", json!(name))
        })
    });
    let params = params.collect::<Result<_, _>>()?;
    Ok(Message { notification_id, user_id, template, language, params })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    user_id: String,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
struct List {
    notifications: Vec<Notification>,
}

async fn list(
    With(notifications): With<Notifications>,
    Asked(Whose { user_id, limit }): Asked<Whose>,
) -> Result<Json<List>, Problem> {
    let limit = limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ask::unprocessable("invalid_limit", format!("a limit is 1 to {LIMIT_MAX}")));
    }
    let user_id = text::id("user_id", user_id)?;
    Ok(Json(List { notifications: notifications.record.of(user_id, limit).await? }))
}
