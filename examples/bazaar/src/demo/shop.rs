//! `bazaar shop`: three users, who pay in seven ways and read two languages, shop through the gateway, and every step is checked.
//!
//! A trip: search in the user's language, look, order, pay, see it on its way; then either call it off, or have it delivered and send it
//! back. Every other trip ends so; what is paid to the courier is always delivered first. In the end nothing is left of a trip: the money
//! is back, and so are the goods. Of one trip of each user its events are looked at, too. The warehouse's part, which has no way through the gateway, is asked of the order service directly;
//! what people were told, of the notification service.
//!
//! # Exit codes
//! 0 if all is as it should be, else 1.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

use crate::{
    demo::{
        client::{Client, percent, text},
        progress::Progress,
        report::{Report, hold},
        up::GATEWAY,
    },
    kernel::{console::complain, id},
    rules::{language::Language, money::Money, payment::Method},
};

mod past;

/// How long a trip may take.
const TRIP: Duration = Duration::from_mins(3);

/// How long who is not there yet is waited for, and how often is asked.
const START: (Duration, u32) = (Duration::from_millis(500), 20);

/// What is checked, and of which row it is.
const TRIPS: (&str, &str) =
    ("R15.1", "a trip: search, look, order, pay, track, then cancelled or delivered and returned");
const TOKEN: (&str, &str) = ("R15.2", "logging in needs the password, and gives a token that ends");
const OWNER: (&str, &str) = ("R15.2", "an order and its payment are shown to nobody else");
const PRICE: (&str, &str) =
    ("R15.3", "the order costs what the catalogue says, and no more than the retail price");
const INVOICE: (&str, &str) = ("R15.3", "the invoice adds up to the paisa, with the taxes of where it goes");
const BOUNDS: (&str, &str) = ("R15.4", "what the rules do not allow is refused");
const EVENTS: (&str, &str) = ("R15.5", "the order has moved by events alone, told in both languages");
const ONCE: (&str, &str) = ("R15.5", "an order, or a payment, is one however often it is sent");
const REFUND: (&str, &str) = ("R15.5", "what is given back is what was paid");
const TOLD: (&str, &str) = ("R15.6", "the user was told in their language");

/// What `bazaar shop` is told.
#[derive(Args, Clone, Debug)]
pub struct ShopArgs {
    /// Where the gateway listens.
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, GATEWAY)))]
    pub gateway: SocketAddr,
    /// Where the order service listens: the warehouse asks it directly.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8104")]
    pub order: SocketAddr,
    /// Where the notification service listens, which knows who was told what.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8106")]
    pub notification: SocketAddr,
    /// Writes the report there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Shops, and reports.
pub fn run(args: &ShopArgs) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("bazaar shop: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(shop(args)) {
        Ok(report) => report.end("bazaar shop", args.json.as_deref()),
        Err(message) => {
            complain(format_args!("bazaar shop: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// A user, where they live, and what they look for.
#[derive(Clone, Copy, Debug)]
struct User {
    id: &'static str,
    language: Language,
    city: &'static str,
    pincode: &'static str,
    /// Whether the goods come from their own state: then the tax is two halves.
    is_in_state: bool,
    /// What they look for, and what they want to find.
    search: (&'static str, &'static str),
}

const USERS: [User; 3] = [
    User {
        id: "asha",
        language: Language::Hi,
        city: "mumbai",
        pincode: "400050",
        is_in_state: true,
        search: ("कुर्ता", "prod_002"),
    },
    User {
        id: "ravi",
        language: Language::Hi,
        city: "delhi",
        pincode: "110001",
        is_in_state: false,
        search: ("टाटा टी", "prod_003"),
    },
    User {
        id: "divya",
        language: Language::En,
        city: "bangalore",
        pincode: "560001",
        is_in_state: false,
        search: ("tea", "prod_003"),
    },
];

/// How a trip ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Cancelled,
    Returned,
}

/// Shops as all users, and tells what came of it.
///
/// # Errors
/// If there is no bazaar to shop in.
pub async fn shop(args: &ShopArgs) -> Result<Report, String> {
    let gateway = Client::of("gateway", args.gateway);
    open(&gateway, args.gateway).await?;
    let run = id::random().map_err(|problem| problem.to_string())?;
    let (warehouse, told) = (Client::of("order", args.order), Client::of("notification", args.notification));
    let mut report = Report::default();
    let mut progress = Progress::of((USERS.len() * Method::ALL.len()) as u64);
    let mut shoppers = Vec::new();
    for user in USERS {
        let came = log_in(&gateway, user).await;
        report.note(TOKEN.0, TOKEN.1, came.as_ref().map(|_| String::new()).map_err(Clone::clone));
        if let Ok(client) = came {
            shoppers.push((user, client));
        }
    }
    for (number, (user, client)) in shoppers.iter().enumerate() {
        let (_, stranger) = &shoppers[(number + 1) % shoppers.len()];
        let shopper = Shopper { user: *user, client, warehouse: &warehouse, told: &told, run: &run };
        report.note(BOUNDS.0, BOUNDS.1, shopper.bounds().await);
        for (at, method) in Method::ALL.into_iter().enumerate() {
            let is_cash = method == Method::Cod;
            let ending = if is_cash || (number + at) % 2 == 1 { Ending::Returned } else { Ending::Cancelled };
            let said = format!("{} pays by {method}, in {}: {ending:?}", user.id, user.language);
            let trip = timeout(TRIP, shopper.trip(method, ending, stranger, &mut report)).await;
            let trip = trip.unwrap_or_else(|_| Err(format!("not within {} s", TRIP.as_secs())));
            progress.step(&match &trip {
                Ok(_) => said.clone(),
                Err(wrong) => format!("{said}: {wrong}"),
            });
            report.note(TRIPS.0, TRIPS.1, trip.map_err(|wrong| format!("{said}: {wrong}")));
        }
    }
    Ok(report)
}

/// Waits until somebody answers: `bazaar up` may just be starting.
async fn open(gateway: &Client, at: SocketAddr) -> Result<(), String> {
    let mut last = Ok(Value::Null);
    for _ in 0..START.1 {
        last = gateway.get("/api/products/prod_003").await;
        if last.is_ok() {
            return Ok(());
        }
        sleep(START.0).await;
    }
    last.map(drop).map_err(|error| format!("there is no shop at {at}: {error}; is `bazaar up` running?"))
}

async fn log_in(gateway: &Client, user: User) -> Result<Client, String> {
    let id = user.id;
    let wish = |password: &str| json!({"user_id": id, "password": password});
    let answer = gateway.post("/api/auth/login", "", &wish(&format!("bazaar-{id}"))).await?.expect(200)?;
    let seconds = answer["expires_in"].as_u64().unwrap_or_default();
    hold((1..=24 * 60 * 60).contains(&seconds), || format!("{id}: a token for {seconds} s"))?;
    // Once: five guesses a minute are all that an address has.
    if id == USERS[0].id {
        let wrong = gateway.post("/api/auth/login", "", &wish("not-the-password")).await?;
        hold(wrong.status == 401, || format!("{id}: a wrong password is {}", wrong.status))?;
    }
    Ok(gateway.with_token(text(&answer, "token")?))
}

fn paise(answer: &Value, name: &str) -> Result<i64, String> {
    text(answer, name)?.parse::<Money>().map(Money::paise).map_err(|error| format!("{name}: {error}"))
}

/// Somebody who shops.
#[derive(Clone, Copy, Debug)]
struct Shopper<'a> {
    user: User,
    client: &'a Client,
    warehouse: &'a Client,
    told: &'a Client,
    /// A part of every key: of this run, and no other.
    run: &'a str,
}

impl Shopper<'_> {
    /// A trip; what was wrong first.
    async fn trip(
        &self,
        method: Method,
        ending: Ending,
        stranger: &Client,
        report: &mut Report,
    ) -> Result<String, String> {
        let User { id, language, city, pincode, search: (query, wanted), .. } = self.user;
        let query = percent(query);
        let found = self.client.get(&format!("/api/search?q={query}&lang={language}&city={city}")).await?;
        let product =
            found["products"].as_array().and_then(|all| all.iter().find(|it| it["product_id"] == wanted));
        let product = product.ok_or_else(|| format!("nothing is found of {wanted}: {found}"))?;
        let is_hindi = product["name"].as_str().is_some_and(|name| !name.is_ascii());
        hold(is_hindi == (language == Language::Hi), || {
            format!("its name is in another language: {product}")
        })?;
        let path = format!("/api/products/{wanted}?lang={language}&city={city}&version=v2");
        let detail = self.client.get(&path).await?;
        let (price, mrp) = (paise(&detail["price"], "amount")?, paise(&detail["price"], "mrp")?);

        let key = format!("{}-{id}-{method}", self.run);
        let wish = json!({
            "items": [{"product_id": wanted, "quantity": 1}], "payment_method": method,
            "address": {"line": "12, Station Road", "city": city, "pincode": pincode},
        });
        let since = self.head().await?;
        let order = self.client.post("/api/orders", &key, &wish).await?.expect(201)?;
        let order_id = text(&order, "order_id")?;
        let path = format!("/api/orders/{order_id}");
        let (key, wish) = (key.as_str(), &wish);
        let past = past::Trip { path: &path, order_id, key, wish, since };
        let note = |report: &mut Report,
                    (row, check): (&'static str, &'static str),
                    came: Result<(), String>| {
            let came = came.map(|()| String::new());
            report.note(row, check, came.map_err(|wrong| format!("{id} by {method}, {order_id}: {wrong}")));
        };
        note(report, PRICE, costs(&order, price, mrp));
        note(report, INVOICE, self.invoice(&path, &order).await);

        let payment = self.pay(order_id, method, key, wish, report).await?;
        let is = |state: &'static str| move |order: &Value| order["state"] == state;
        self.client.until(&path, "processing", is("processing")).await?;
        note(report, OWNER, private(stranger, &path, payment.as_deref()).await);

        let end = match ending {
            Ending::Cancelled => "cancel",
            Ending::Returned => {
                for state in ["shipped", "out_for_delivery", "delivered"] {
                    let progress = format!("/internal/orders/{order_id}/progress");
                    self.warehouse.post(&progress, "", &json!({"state": state})).await?.expect(200)?;
                }
                let late = self.client.post(&format!("{path}/cancel"), "", &reason()).await?;
                hold(late.status == 409, || format!("calling it off after delivery is {}", late.status))?;
                "return"
            }
        };
        // What its events tell is looked at of one trip of each user.
        let is_looked_into = method == Method::ALL[0];
        if is_looked_into {
            self.on_its_way(past, end, report).await;
        }
        self.client.post(&format!("{path}/{end}"), "", &reason()).await?.expect(200)?;
        let over = self.client.until(&path, "refunded", is("refunded")).await?;
        note(report, REFUND, same(&over, "refunded", &order, "total"));
        note(report, EVENTS, self.history(&path, ending).await);
        note(report, TOLD, self.notifications(order_id, method, ending).await);
        if is_looked_into {
            self.past(past, &over, report).await;
        }
        Ok(String::new())
    }

    /// Pays, twice; nothing is to be done if it is the courier who is paid.
    async fn pay(
        &self,
        order_id: &str,
        method: Method,
        key: &str,
        wish: &Value,
        report: &mut Report,
    ) -> Result<Option<String>, String> {
        let again = self.client.post("/api/orders", key, wish).await?.expect(201)?;
        let mut once = same(&again, "order_id", &json!({"order_id": order_id}), "order_id");
        let mut payment_id = None;
        if method != Method::Cod {
            let account = match method {
                Method::Upi => format!("{}@okbank", self.user.id),
                _ => format!("{}-4242", self.user.id),
            };
            let wish = json!({"order_id": order_id, "method": method, "account": account});
            let paid = self.client.post("/api/payments", key, &wish).await?.expect(201)?;
            hold(paid["state"] == "completed", || format!("the payment is {}", paid["state"]))?;
            let again = self.client.post("/api/payments", key, &wish).await?.expect(201)?;
            let other = self.client.post("/api/payments", &format!("{key}-more"), &wish).await?;
            once = once.and(same(&again, "payment_id", &paid, "payment_id"));
            once = once.and(hold(other.status == 409, || format!("paying once more is {}", other.status)));
            payment_id = Some(text(&paid, "payment_id")?.to_owned());
        }
        report.note(ONCE.0, ONCE.1, once.map(|()| String::new()));
        Ok(payment_id)
    }

    async fn invoice(&self, path: &str, order: &Value) -> Result<(), String> {
        const PARTS: [&str; 4] = ["taxable", "cgst", "sgst", "igst"];
        let answer = self.client.get(&format!("{path}/invoice")).await?;
        let invoice = &answer["invoice"];
        let lines = invoice["lines"].as_array().filter(|it| !it.is_empty()).ok_or("it has no lines")?;
        let mut sums = [0; 5];
        for line in lines {
            let parts = PARTS.iter().map(|part| paise(line, part)).collect::<Result<Vec<_>, _>>()?;
            let amount = paise(line, "amount")?;
            hold(parts.iter().sum::<i64>() == amount, || format!("a line does not add up: {line}"))?;
            for (sum, part) in sums.iter_mut().zip(parts.into_iter().chain([amount])) {
                *sum += part;
            }
        }
        for (name, sum) in PARTS.into_iter().chain(["total"]).zip(sums) {
            hold(paise(invoice, name)? == sum, || format!("{name} is not what its lines have: {invoice}"))?;
        }
        same(invoice, "total", order, "total")?;
        let [_, cgst, sgst, igst, _] = sums;
        let is_right = if self.user.is_in_state {
            igst == 0 && cgst > 0 && (0..=1).contains(&(cgst - sgst))
        } else {
            igst > 0 && (cgst, sgst) == (0, 0)
        };
        hold(is_right, || format!("the taxes are those of elsewhere: {invoice}"))
    }

    async fn history(&self, path: &str, ending: Ending) -> Result<(), String> {
        let read = |language: Language| async move {
            let history = self.client.get(&format!("{path}/history?lang={language}")).await?;
            let events = history["events"].as_array().cloned().unwrap_or_default();
            let of = |name: &str| {
                let texts = events.iter().map(|it| it[name].as_str().unwrap_or_default().to_owned());
                texts.collect::<Vec<_>>()
            };
            Ok::<_, String>((of("event"), of("description")))
        };
        let ((events, hindi), (again, english)) = (read(Language::Hi).await?, read(Language::En).await?);
        hold(events == again, || format!("{events:?} in one language, {again:?} in the other"))?;
        let has_letters = |text: &String| text.chars().any(|it| ('\u{900}'..='\u{97f}').contains(&it));
        hold(hindi.iter().all(has_letters), || format!("not in Hindi: {hindi:?}"))?;
        hold(!english.iter().any(has_letters), || format!("not in English: {english:?}"))?;
        let last = if ending == Ending::Cancelled { "order_cancelled" } else { "order_returned" };
        let mut expected =
            ["order_placed", "order_confirmed", "order_processing", last, "order_refunded"].into_iter();
        let mut next = expected.next();
        for event in &events {
            if next == Some(event.as_str()) {
                next = expected.next();
            }
        }
        hold(next.is_none(), || format!("there is no {next:?} in its place in {events:?}"))
    }

    /// Waits until everybody was told what there was to tell.
    async fn notifications(&self, order_id: &str, method: Method, ending: Ending) -> Result<(), String> {
        let last = if ending == Ending::Cancelled { "order_cancelled" } else { "order_returned" };
        let expected = ["order_confirmed", last].into_iter();
        let expected = expected.chain((method != Method::Cod).then_some("payment_received"));
        let expected = expected.collect::<Vec<_>>();
        let User { id, language, .. } = self.user;
        let of_order = |list: &Value| {
            let all = list["notifications"].as_array().cloned().unwrap_or_default();
            all.into_iter()
                .filter(|it| it["text"].as_str().is_some_and(|it| it.contains(order_id)))
                .collect::<Vec<_>>()
        };
        let path = format!("/internal/notifications?user_id={id}&limit=100");
        let is_told = |list: &Value| {
            let told = of_order(list);
            expected.iter().all(|template| told.iter().any(|it| it["template"] == *template))
        };
        let list = self.told.until(&path, &format!("{expected:?} of {order_id}"), is_told).await?;
        let other = of_order(&list).into_iter().find(|it| it["language"] != language.as_str());
        hold(other.is_none(), || format!("told in another language than {language}: {other:?}"))
    }

    /// What is to be refused.
    async fn bounds(&self) -> Result<String, String> {
        let User { id, city, pincode, search: (_, product), .. } = self.user;
        let base = json!({
            "items": [{"product_id": product, "quantity": 1}], "payment_method": "upi",
            "address": {"line": "12, Station Road", "city": city, "pincode": pincode},
        });
        let with = |pointer: &str, value: Value| {
            let mut wish = base.clone();
            if let Some(at) = wish.pointer_mut(pointer) {
                *at = value;
            }
            wish
        };
        let phone_on_delivery =
            with("/items/0/product_id", json!("prod_001")).as_object().cloned().map(|mut wish| {
                wish.insert("payment_method".into(), json!("cod"));
                Value::Object(wish)
            });
        let wishes = [
            ("a quantity of nothing", with("/items/0/quantity", json!(0))),
            ("more than one may have", with("/items/0/quantity", json!(1_000))),
            ("a pincode of five digits", with("/address/pincode", json!("40005"))),
            ("a telephone on delivery", phone_on_delivery.unwrap_or_default()),
        ];
        for (number, (what, wish)) in wishes.iter().enumerate() {
            let key = format!("{}-{id}-refused-{number}", self.run);
            let answer = self.client.post("/api/orders", &key, wish).await?;
            hold(answer.status == 422, || format!("{id}: {what} is {}: {}", answer.status, answer.body))?;
        }
        Ok(String::new())
    }
}

fn reason() -> Value {
    json!({"reason": "changed my mind"})
}

fn costs(order: &Value, price: i64, mrp: i64) -> Result<(), String> {
    let (total, shipping) = (paise(order, "total")?, paise(order, "shipping")?);
    hold(price <= mrp, || format!("{price} paise is more than the retail price of {mrp}"))?;
    hold(total == price + shipping, || format!("{total} paise for {price} and {shipping} of shipping"))
}

fn same(one: &Value, name: &str, other: &Value, its: &str) -> Result<(), String> {
    hold(one[name] == other[its] && !one[name].is_null(), || {
        format!("{name} is {}, and {its} is {}", one[name], other[its])
    })
}

/// Whether somebody else sees nothing of an order and its payment.
async fn private(stranger: &Client, path: &str, payment_id: Option<&str>) -> Result<(), String> {
    let payment = payment_id.map(|id| format!("/api/payments/{id}"));
    for path in [Some(path.to_owned()), payment].into_iter().flatten() {
        let seen = stranger.get(&path).await;
        hold(seen.as_ref().is_err_and(|it| it.contains("was 404")), || {
            format!("somebody else sees {path}: {seen:?}")
        })?;
    }
    Ok(())
}
