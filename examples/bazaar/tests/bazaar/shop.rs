//! The shop behind the gateway, with the worked example at the top of the repository.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, time::Duration};

use bazaar::user::keys::{Claims, Keys};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    gateways::{Addresses, Bazaar, addresses, yaml},
    http::{Answer, Ask, get, post, put},
    process::{Process, eventually, kill},
    world::{NOON, Service},
};

/// Somebody who shops.
#[derive(Clone, Debug)]
struct Shopper {
    token: String,
    city: &'static str,
    pincode: &'static str,
}

impl Shopper {
    /// Logged in as one of the first users.
    fn log_in(bazaar: &Bazaar, user_id: &str, city: &'static str, pincode: &'static str) -> Self {
        let answer = bazaar.send(&login(user_id, &format!("bazaar-{user_id}"))).expect(200);
        Self { token: format!("Bearer {}", answer.said("token")), city, pincode }
    }

    fn asha(bazaar: &Bazaar) -> Self {
        Self::log_in(bazaar, "asha", "mumbai", "400020")
    }

    fn ravi(bazaar: &Bazaar) -> Self {
        Self::log_in(bazaar, "ravi", "delhi", "110001")
    }

    /// With a token that has these scopes.
    fn with_scope(data: &Path, user_id: &str, scope: &str) -> Self {
        let claims = Claims::of(user_id, Duration::from_mins(5)).with(scope, "regular");
        let token = Keys::of(data).unwrap().token(&claims).unwrap();
        Self { token: format!("Bearer {token}"), city: "mumbai", pincode: "400020" }
    }

    fn says(&self, ask: Ask) -> Ask {
        ask.header("authorization", &self.token)
    }

    fn get(&self, path: &str) -> Ask {
        self.says(get(path))
    }

    /// An order of one of a product.
    fn order(&self, key: &str, product_id: &str, method: &str) -> Ask {
        self.wish(key, &self.basket(product_id, method))
    }

    /// The same, and its payment with it.
    fn order_and_pay(&self, key: &str, product_id: &str, method: &str, account: &str) -> Ask {
        let mut basket = self.basket(product_id, method);
        basket["payment"] = json!({"method": method, "account": account});
        self.wish(key, &basket)
    }

    fn basket(&self, product_id: &str, method: &str) -> Value {
        json!({
            "items": [{"product_id": product_id, "quantity": 1}], "payment_method": method,
            "address": {"line": "12, Station Road", "city": self.city, "pincode": self.pincode},
        })
    }

    fn wish(&self, key: &str, basket: &Value) -> Ask {
        self.says(post("/api/orders", basket)).header("idempotency-key", key)
    }

    fn pay(&self, key: &str, order_id: &str, method: &str, account: &str) -> Ask {
        let wish = json!({"order_id": order_id, "method": method, "account": account});
        self.says(post("/api/payments", &wish)).header("idempotency-key", key)
    }

    fn cancel(&self, order_id: &str) -> Ask {
        self.says(post(&format!("/api/orders/{order_id}/cancel"), &json!({"reason": "changed my mind"})))
    }
}

fn login(user_id: &str, password: &str) -> Ask {
    post("/api/auth/login", &json!({"user_id": user_id, "password": password}))
}

/// A token for the warehouse.
fn warehouse(bazaar: &Bazaar) -> String {
    let data = bazaar.data.path().to_str().unwrap();
    let mut token = Process::start(&["token", "--data", data, "--sub", "w-1", "--role", "warehouse"]);
    format!("Bearer {}", token.rest().trim_end())
}

/// Waits until an order is there.
#[track_caller]
fn await_state(bazaar: &Bazaar, shopper: &Shopper, order_id: &str, state: &str) -> Answer {
    let order = shopper.get(&format!("/api/orders/{order_id}"));
    eventually(state, || Some(bazaar.send(&order).expect(200)).filter(|answer| answer.body["state"] == state))
}

/// How much of a product can be promised.
fn available(bazaar: &Bazaar, shopper: &Shopper, product_id: &str) -> u64 {
    let ask = shopper.get(&format!("/inventory/availability?product_id={product_id}"));
    bazaar.send(&ask).expect(200).body["available"].as_u64().unwrap()
}

/// As the courier tells it, whom the gateway does not know.
fn progress(bazaar: &Bazaar, order_id: &str, states: &[&str]) {
    for state in states {
        let ask = post(&format!("/internal/orders/{order_id}/progress"), &json!({"state": state}));
        ask.send(bazaar.at["order"]).expect(200);
    }
}

#[test]
fn r15_1_one_shopping_trip() {
    let mut bazaar = Bazaar::shop(NOON);
    let asha = Shopper::asha(&bazaar);
    let me = bazaar.send(&asha.get("/api/users/me")).expect(200);
    assert_eq!(me.said("user_id"), "asha");

    // Found, looked at, ordered, paid, on its way, called off.
    let found = bazaar.send(&get("/api/search?q=kurta&lang=en")).expect(200);
    assert_eq!(found.body["products"][0]["product_id"], "prod_002");
    let shown = bazaar.send(&get("/api/products/prod_002?city=mumbai&lang=en")).expect(200);
    assert_eq!(shown.body["price"]["amount"], "1299.00");
    let before = available(&bazaar, &asha, "prod_002");
    let ask = asha.order("1", "prod_002", "upi");
    let placed = bazaar.send(&ask).expect(201);
    let order_id = placed.said("order_id");
    assert_eq!((placed.said("state"), placed.said("total")), ("placed".into(), "1299.00".into()));
    let again = bazaar.send(&ask).expect(201);
    assert_eq!((again.text == placed.text, again.head.contains("idempotency-replayed: true")), (true, true));
    let paid = bazaar.send(&asha.pay("1", &order_id, "upi", "asha@okbank")).expect(201);
    assert_eq!((paid.said("state"), paid.said("amount")), ("completed".into(), "1299.00".into()));
    await_state(&bazaar, &asha, &order_id, "processing");
    eventually("one less is promised", || {
        (available(&bazaar, &asha, "prod_002") == before - 1).then_some(())
    });
    let invoice = bazaar.send(&asha.get(&format!("/api/orders/{order_id}/invoice"))).expect(200);
    assert_eq!(invoice.body["place_of_supply"], "Maharashtra");
    let history = format!("/api/orders/{order_id}/history");
    let [hindi, english] = ["hi", "en"].map(|lang| {
        let said = bazaar.send(&asha.get(&format!("{history}?lang={lang}"))).expect(200);
        said.body["events"][0]["description"].as_str().unwrap().to_owned()
    });
    assert_eq!((english.as_str(), hindi.contains("ऑर्डर")), ("Order placed for ₹1299.00", true), "{hindi}");
    let cancelled = bazaar.send(&asha.cancel(&order_id)).expect(200);
    assert_eq!(cancelled.said("order_id"), order_id);
    assert_eq!(await_state(&bazaar, &asha, &order_id, "refunded").said("refunded"), "1299.00");
    eventually("it is in stock again", || (available(&bazaar, &asha, "prod_002") == before).then_some(()));

    // Ordered and paid at once, delivered, sent back.
    let ravi = Shopper::ravi(&bazaar);
    let ask = ravi.order_and_pay("1", "prod_001", "debit_card", "card-4242");
    let order_id = bazaar.send(&ask).expect(201).said("order_id");
    await_state(&bazaar, &ravi, &order_id, "processing");
    progress(&bazaar, &order_id, &["shipped", "out_for_delivery", "delivered"]);
    bazaar.send(&ravi.cancel(&order_id)).problem(409, "wrong_state");
    let back = ravi.says(post(&format!("/api/orders/{order_id}/return"), &json!({"reason": "too large"})));
    bazaar.send(&back).expect(200);
    assert_eq!(await_state(&bazaar, &ravi, &order_id, "refunded").said("refunded"), "65999.00");

    // Paid to the courier, in English.
    let divya = Shopper::log_in(&bazaar, "divya", "bangalore", "560001");
    let order_id = bazaar.send(&divya.order("1", "prod_003", "cod")).expect(201).said("order_id");
    await_state(&bazaar, &divya, &order_id, "processing");
    progress(&bazaar, &order_id, &["shipped", "out_for_delivery", "delivered"]);
    let orders = bazaar.send(&divya.get("/api/orders")).expect(200);
    assert_eq!(orders.body["orders"][0]["state"], "delivered");

    bazaar.stop();
}

#[test]
fn r15_2_an_order_and_its_payment_are_their_owners_alone() {
    let bazaar = Bazaar::shop(NOON);
    let (asha, ravi) = (Shopper::asha(&bazaar), Shopper::ravi(&bazaar));
    let order_id = bazaar.send(&asha.order("1", "prod_003", "upi")).expect(201).said("order_id");
    bazaar.send(&ravi.pay("1", &order_id, "upi", "ravi@okbank")).problem(404, "unknown_order");
    let payment_id =
        bazaar.send(&asha.pay("1", &order_id, "upi", "asha@okbank")).expect(201).said("payment_id");

    for (path, unknown) in [
        (format!("/api/orders/{order_id}"), "unknown_order"),
        (format!("/api/orders/{order_id}/history"), "unknown_order"),
        (format!("/api/orders/{order_id}/invoice"), "unknown_order"),
        (format!("/api/orders/{order_id}/timeline"), "unknown_order"),
        (format!("/api/payments/{payment_id}"), "unknown_payment"),
        (format!("/api/payments/{payment_id}/timeline"), "unknown_payment"),
    ] {
        bazaar.send(&asha.get(&path)).expect(200);
        bazaar.send(&ravi.get(&path)).problem(404, unknown);
        // Nor is one somebody by saying so.
        bazaar.send(&ravi.get(&path).by("asha")).problem(404, unknown);
        bazaar.send(&get(&path).by("asha")).problem(401, "credentials_missing");
    }
    bazaar.send(&ravi.cancel(&order_id)).problem(404, "unknown_order");
    assert_eq!(bazaar.send(&ravi.get("/api/orders")).expect(200).body["orders"], json!([]));
    bazaar.send(&ravi.get("/api/users/asha")).problem(404, "unknown_user");
    // The same key is another one's own.
    let other = bazaar.send(&ravi.order("1", "prod_003", "upi")).expect(201).said("order_id");
    assert_ne!(other, order_id);
}

#[test]
fn passwords_are_guessed_five_times_a_minute_from_an_address() {
    let bazaar = Bazaar::shop(NOON);
    for _ in 0..5 {
        bazaar.send(&login("asha", "bazaar-ravi")).problem(401, "invalid_credentials");
    }
    let refused = bazaar.send(&login("asha", "bazaar-asha")).problem(429, "rate_limited");
    assert!(refused.head.contains("retry-after: "), "{}", refused.head);
    assert_eq!(refused.said("policy"), "logins");
    // Whatever is said of where it comes from.
    let spoofed = login("asha", "bazaar-asha").header("x-forwarded-for", "203.0.113.7");
    bazaar.send(&spoofed).problem(429, "rate_limited");
    // Somebody at another address is not concerned, and neither is who is logged in already.
    let elsewhere = Ipv4Addr::new(127, 0, 0, 2);
    let answer = login("asha", "bazaar-asha").send_from(elsewhere, bazaar.at["public"]).expect(200);
    let me = get("/api/users/me").header("authorization", &format!("Bearer {}", answer.said("token")));
    bazaar.send(&me).expect(200);
}

#[test]
fn who_is_blocked_or_has_not_the_scope_gets_nothing() {
    let bazaar = Bazaar::shop(NOON);
    let answer = bazaar.send(&login("BLOCKED_mallory", "bazaar-mallory")).expect(200);
    let token = format!("Bearer {}", answer.said("token"));
    let mallory = Shopper { token, city: "mumbai", pincode: "400020" };
    bazaar.send(&mallory.order("1", "prod_003", "cod")).problem(403, "user_blocked");

    let asha = Shopper::asha(&bazaar);
    let order_id = bazaar.send(&asha.order("1", "prod_003", "upi")).expect(201).said("order_id");
    for scope in ["orders", "payment", "payment:processing", "PAYMENT:PROCESS"] {
        let poorly = Shopper::with_scope(bazaar.data.path(), "asha", scope);
        bazaar.send(&poorly.pay("1", &order_id, "upi", "asha@okbank")).problem(403, "forbidden");
    }
    let fit = Shopper::with_scope(bazaar.data.path(), "asha", "payment:process");
    bazaar.send(&fit.pay("1", &order_id, "upi", "asha@okbank")).expect(201);

    // What is the warehouse's, and what is nobody's.
    let reserve = json!({"reservation_id": "r", "items": [{"product_id": "prod_001", "quantity": 1}]});
    let reserve = post("/inventory/commands/reserve", &reserve).header("idempotency-key", "1");
    bazaar.send(&reserve).problem(401, "credentials_missing");
    bazaar.send(&asha.says(reserve.clone())).problem(403, "forbidden");
    bazaar.send(&reserve.header("authorization", &warehouse(&bazaar))).expect(200);
    bazaar.send(&asha.get("/inventory/reservations?id=r")).problem(403, "forbidden");
    for path in ["/internal/users/asha", "/internal/products?ids=prod_001", "/internal/notifications"] {
        bazaar.send(&asha.get(path)).problem(404, "route_not_found");
    }
    for path in [&format!("/internal/orders/{order_id}/progress"), "/events", "/notifications"] {
        bazaar.send(&asha.says(post(path, &json!({})))).problem(404, "route_not_found");
    }
    bazaar.send(&asha.says(put("/holds/x", &json!({})))).problem(404, "route_not_found");
}

#[test]
fn a_version_of_the_catalogue_is_what_is_asked_for() {
    let bazaar = Bazaar::shop(NOON);
    let path = "/api/products/prod_003?lang=en";
    let said = bazaar.send(&get(path)).expect(200);
    assert_eq!(said.body["price"]["amount"], "485.00", "who says nothing gets v2");
    assert!(said.head.contains("x-api-version: v2") && said.head.contains("vary: "), "{}", said.head);
    assert!(!said.head.contains("deprecation: "), "{}", said.head);

    let flat = bazaar.send(&get(path).header("x-api-version", "1")).expect(200);
    assert_eq!(flat.body["price"], "485.00");
    for header in ["x-api-version: v1", "deprecation: @", "sunset: "] {
        assert!(flat.head.contains(header), "{header}: {}", flat.head);
    }
    let both = bazaar.send(&get(&format!("{path}&version=v3"))).expect(200);
    assert_eq!(both.body["name"], json!({"en": "Tata Tea Gold 1 kg", "hi": "टाटा टी गोल्ड 1 किलो"}));

    bazaar.send(&get("/api/products?version=9")).problem(400, "version_unsupported");
    let two = get("/api/products?version=v1").header("x-api-version", "v2");
    bazaar.send(&two).problem(400, "version_conflict");

    // Who says nothing when searching is part of a trial, and stays in its part.
    let search = |from| get("/api/search?q=tea&lang=en").send_from(from, bazaar.at["public"]).expect(200);
    let is_new = |host| {
        let from = Ipv4Addr::new(127, 0, 0, host);
        let answers = [search(from), search(from)].map(|it| it.body["products"][0].clone());
        assert_eq!((&answers[0], &answers[0]["product_id"]), (&answers[1], &json!("prod_003")));
        answers[0]["price"].is_object()
    };
    let newer = (1..=100).filter(|host| is_new(*host)).count();
    // By a hash of the address, which is the same everywhere: 20 of 100, give or take three deviations.
    assert!((8..=32).contains(&newer), "{newer}");
    let flat = get("/api/search?q=tea&version=1").send(bazaar.at["public"]).expect(200);
    assert_eq!(flat.body["products"][0]["price"], "485.00");
}

/// Who is signed in has their tier while they look around, everybody else a fifth; and a token that is wrong is not taken for none.
#[test]
fn whoever_looks_around_has_their_tier_and_need_not_say_who_they_are() {
    let bazaar = Bazaar::shop(NOON);
    let token = |tier: &str| {
        let claims = Claims::of("asha", Duration::from_mins(5)).with("orders", tier);
        format!("Bearer {}", Keys::of(bazaar.data.path()).unwrap().token(&claims).unwrap())
    };
    let looks = [
        ("/api/search?q=tea&lang=en", "searching", 10_000),
        ("/api/products/prod_003", "browsing", 5000),
        ("/api/restaurants", "browsing", 5000),
        ("/api/restaurants/tanjore", "browsing", 5000),
    ];
    for (path, policy, quota) in looks {
        let may = |ask: &Ask, a_minute: u64| {
            let answer = bazaar.send(ask).expect(200);
            let said = format!("ratelimit-policy: \"{policy}\";q={a_minute};w=60");
            assert!(answer.head.contains(&said), "{said} is missing in\n{}", answer.head);
        };
        may(&get(path), quota / 5);
        may(&get(path).header("authorization", &token("regular")), quota);
        may(&get(path).header("authorization", &token("premium")), quota * 5);
        may(&get(path).header("x-user-tier", "premium"), quota / 5); // Nobody has verified that.
        // What one token says under the signature of another.
        let (regular, premium) = (token("regular"), token("premium"));
        let (says, signature) = (premium.rsplit_once('.').unwrap().0, regular.rsplit_once('.').unwrap().1);
        let forged = get(path).header("authorization", &format!("{says}.{signature}"));
        bazaar.send(&forged).problem(401, "signature_invalid");
        bazaar
            .send(&get(path).header("authorization", "Bearer broken"))
            .problem(401, "credentials_malformed");
    }
}

/// The changes of circuit breakers that the gateway has seen.
fn transitions(at: &Addresses) -> Vec<Value> {
    let answer = get("/transitions").send(at["admin"]).expect(200);
    answer.body.as_array().unwrap_or_else(|| panic!("{}", answer.text)).clone()
}

#[test]
fn r15_8_business_refusals_are_no_failures_for_breakers_and_health() {
    let bazaar = Bazaar::shop(NOON);
    let asha = Shopper::asha(&bazaar);
    let place = |key: &str| bazaar.send(&asha.order(key, "prod_003", "upi")).expect(201).said("order_id");
    // Twelve payments are refused, each order's last one ends it; the breaker would open at the third failure in a row, or the
    // first of ten.
    for n in 0..4 {
        let order_id = place(&format!("refused-{n}"));
        for attempt in 0..3 {
            let key = format!("{n}-{attempt}");
            bazaar.send(&asha.pay(&key, &order_id, "upi", "poor@okbank")).problem(402, "payment_refused");
        }
        await_state(&bazaar, &asha, &order_id, "cancelled");
    }
    for n in 0..8 {
        let key = format!("unknown-{n}");
        assert_eq!(bazaar.send(&asha.order(&key, "prod_999", "upi")).status, 422);
        bazaar.send(&asha.pay(&key, "ORD_NONE", "upi", "asha@okbank")).problem(404, "unknown_order");
        bazaar.send(&asha.get("/api/orders/ORD_NONE")).problem(404, "unknown_order");
        bazaar.send(&get("/api/products/prod_999")).problem(404, "unknown_product");
        bazaar.send(&asha.get("/api/users/ravi")).problem(404, "unknown_user");
    }
    let mode = |mode: &str| {
        put("/internal/restaurants/tanjore/mode", &json!({"mode": mode}))
            .send(bazaar.at["restaurant"])
            .expect(200);
    };
    let dosa = |key: &str, restaurant: &str| {
        let wish = json!({"items": [{"dish": "Masala Dosa", "quantity": 2}]});
        let ask = post(&format!("/api/restaurants/{restaurant}/orders"), &wish);
        bazaar.send(&asha.says(ask).header("idempotency-key", key))
    };
    mode("closed");
    (0..8).for_each(|n| drop(dosa(&format!("closed-{n}"), "tanjore").problem(409, "closed")));

    assert_eq!(transitions(&bazaar.at), [Value::Null; 0], "no breaker has moved");
    get("/readyz").send(bazaar.at["admin"]).expect(200);
    for name in ["user", "product-v2", "order", "payment", "restaurant"] {
        get("/readyz").send(bazaar.at[name]).expect(200);
    }
    let order_id = place("good");
    bazaar.send(&asha.pay("good", &order_id, "upi", "asha@okbank")).expect(201);

    // What is a failure is one, for who fails alone.
    mode("failing");
    (0..5).for_each(|n| drop(dosa(&format!("failing-{n}"), "tanjore").problem(500, "kitchen_failed")));
    dosa("open", "tanjore").problem(503, "circuit_open");
    dosa("swathi", "swathi").expect(201);
    assert_eq!(transitions(&bazaar.at).len(), 1);
}

/// The shop without anything that stops all when one dies.
struct Market {
    data: TempDir,
    at: Addresses,
    services: BTreeMap<&'static str, Service>,
    _gateway: Process,
}

/// Who runs there, and whom they ask.
const MARKET: [(&str, &[&str]); 9] = [
    ("user", &[]),
    ("product-v2", &[]),
    ("inventory", &[]),
    ("bank", &[]),
    ("restaurant", &[]),
    ("inventory-query", &["inventory"]),
    ("notification", &["user"]),
    ("payment", &["order", "user", "bank", "notification"]),
    ("order", &["user", "product", "inventory", "payment", "notification"]),
];

impl Market {
    fn open() -> Self {
        let (data, mut at) = (tempfile::tempdir().unwrap(), addresses());
        at.insert("product", at["product-v2"]); // Other services see the same in all versions.
        let config = data.path().join("gateway.yaml");
        std::fs::write(&config, yaml(&at)).unwrap();
        let services = MARKET.map(|(name, _)| (name, Self::service(name, data.path(), &at))).into();
        let gateway = Process::start(&["naka", "--stop-with-stdin", "run", "-c", config.to_str().unwrap()]);
        eventually("the gateway is ready", || {
            get("/readyz").attempt(at["admin"]).ok().filter(|it| it.status == 200).map(drop)
        });
        Self { data, at, services, _gateway: gateway }
    }

    fn service(name: &str, data: &Path, at: &Addresses) -> Service {
        let (_, peers) = MARKET.into_iter().find(|(it, _)| *it == name).unwrap();
        let mut more =
            peers.iter().flat_map(|peer| [format!("--{peer}"), at[peer].to_string()]).collect::<Vec<_>>();
        let command = if name == "product-v2" {
            more.extend(["--api".to_owned(), "v2".to_owned()]);
            "product"
        } else {
            name
        };
        let more = more.iter().map(String::as_str).collect::<Vec<_>>();
        Service::start(command, data, Some(at[name]), NOON, &more)
    }

    fn kill(&mut self, name: &str) {
        self.services.get_mut(name).unwrap().kill();
    }

    fn restart(&mut self, name: &'static str) {
        let service = Self::service(name, self.data.path(), &self.at);
        self.services.insert(name, service);
    }

    fn send(&self, ask: &Ask) -> Answer {
        ask.send(self.at["public"])
    }

    fn asha(&self) -> Shopper {
        Shopper::with_scope(self.data.path(), "asha", "orders payment:process")
    }
}

#[test]
fn r12_3_with_payment_down_products_are_browsed() {
    let mut market = Market::open();
    let asha = market.asha();
    let order = |market: &Market, key: &str| market.send(&asha.order(key, "prod_003", "upi"));
    let before = order(&market, "before").expect(201).said("order_id");
    market.kill("payment");
    market.send(&asha.pay("1", &before, "upi", "asha@okbank")).problem(502, "connect_failed");
    for path in ["/api/products", "/api/products/prod_001?city=mumbai", "/api/search?q=tea&version=2"] {
        market.send(&get(path)).expect(200);
    }
    // Nor is anything else missing: an order is placed and waits for its payment.
    market.send(&asha.get(&format!("/api/orders/{before}"))).expect(200);
    let placed = order(&market, "while").expect(201);
    assert_eq!(placed.said("state"), "placed");
    market.restart("payment");
    for (key, order_id) in [("1", before), ("2", placed.said("order_id"))] {
        market.send(&asha.pay(key, &order_id, "upi", "asha@okbank")).expect(201);
    }
}

#[test]
fn r12_3_whoever_is_away_the_others_serve_what_is_theirs() {
    let mut market = Market::open();
    let asha = market.asha();
    let order_id = market.send(&asha.order("1", "prod_003", "upi")).expect(201).said("order_id");
    let payment_id =
        market.send(&asha.pay("1", &order_id, "upi", "asha@okbank")).expect(201).said("payment_id");
    let theirs = [
        ("user", "/api/users/me".to_owned()),
        ("product-v2", "/api/products".to_owned()),
        ("order", format!("/api/orders/{order_id}")),
        ("payment", format!("/api/payments/{payment_id}")),
        ("restaurant", "/api/restaurants".to_owned()),
        ("inventory-query", "/inventory/availability?product_id=prod_003".to_owned()),
    ];
    for (away, _) in MARKET {
        market.kill(away);
        for (name, path) in &theirs {
            let answer = market.send(&asha.get(path));
            if *name == away {
                answer.problem(502, "connect_failed");
            } else {
                assert_eq!(answer.status, 200, "{name} without {away}: {}", answer.text);
            }
        }
        market.restart(away);
    }
}

#[test]
fn r13_1_an_order_its_buyer_and_its_products_are_one_answer() {
    let mut market = Market::open();
    let asha = market.asha();
    let order_id = market.send(&asha.order("1", "prod_002", "upi")).expect(201).said("order_id");
    let details = format!("/api/orders/{order_id}/details");
    let all = market.send(&asha.get(&details).header("accept-language", "en")).expect(200).body;
    assert_eq!(
        (&all["order"]["order_id"], &all["buyer"]["name"], &all["products"][0]["name"]),
        (&json!(order_id), &json!("Asha"), &json!("Cotton Kurta"))
    );
    // Whose it is not is told that there is none.
    let ravi = Shopper::with_scope(market.data.path(), "ravi", "orders");
    market.send(&ravi.get(&details)).problem(404, "part_failed");
    market.send(&get(&details).by("asha")).problem(401, "credentials_missing");
    market.send(&asha.get("/api/orders/..%2fx/details")).expect(400);

    let home = market.send(&asha.get("/api/home?city=jaipur")).expect(200);
    assert_eq!(home.body["orders"][0]["order_id"], json!(order_id));
    market.send(&asha.get("/api/home")).problem(400, "value_missing");

    // What is optional is missing, and said to be so; what is not is the answer.
    market.kill("user");
    let without = market.send(&asha.get(&details)).expect(200);
    assert_eq!(
        (&without.body["order"]["order_id"], &without.body["errors"][0]["call"]),
        (&json!(order_id), &json!("buyer"))
    );
    assert!(without.head.contains("naka-partial: buyer"), "{}", without.head);
    market.kill("order");
    assert_eq!(
        market.send(&asha.get("/api/home?city=jaipur")).expect(200).body["errors"][0]["call"],
        "orders"
    );
    assert_eq!(market.send(&asha.get(&details)).status, 502);
}

#[test]
fn r6_1_commands_and_queries_go_their_own_ways() {
    let bazaar = Bazaar::shop(NOON);
    let token = warehouse(&bazaar);
    let mut number = 0;
    let mut restock = || {
        number += 1;
        let wish =
            json!({"product_id": "prod_002", "warehouse": "MUM_WH_001", "delta": 5, "reason": "restocking"});
        let ask = post("/inventory/commands/update_quantity", &wish).header("authorization", &token);
        bazaar.send(&ask.header("idempotency-key", &format!("{number}")))
    };
    let ask = |path: &str| bazaar.send(&get(path).header("authorization", &token));
    let position = restock().expect(200).body["position"].as_u64().unwrap();
    for path in ["availability", "reservations", "movements", "levels"] {
        let which = if path == "levels" { "ids" } else { "product_id" };
        ask(&format!("/inventory/{path}?{which}=prod_002&min_position={position}")).expect(200);
    }
    let wrong = ask("/inventory/commands/update_quantity").problem(405, "method_not_allowed");
    assert!(wrong.head.contains("allow: post"), "{}", wrong.head);

    // Who reads does not notice that nobody can write, and the other way round.
    let (commands, queries) = (bazaar.pid("inventory"), bazaar.pid("inventory-query"));
    kill(commands, Signal::STOP);
    ask("/inventory/availability?product_id=prod_002").expect(200);
    restock().problem(504, "response_timeout");
    kill(commands, Signal::CONT);
    kill(queries, Signal::STOP);
    restock().expect(200);
    kill(queries, Signal::CONT);
    ask("/inventory/availability?product_id=prod_002").expect(200);
}
