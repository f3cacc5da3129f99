//! The services of the shop that take orders and money, as processes, on files of their own; and a user service that always says the
//! same.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{Answer, Ask, get, post},
    process::{Process, eventually},
    world::{NOON, Service},
};

/// Everybody an order needs.
pub(crate) struct Shop {
    pub(crate) data: TempDir,
    pub(crate) user: SocketAddr,
    pub(crate) product: Service,
    pub(crate) inventory: Service,
    pub(crate) bank: Service,
    pub(crate) notification: Service,
    pub(crate) payment: Service,
    pub(crate) order: Service,
}

impl Shop {
    pub(crate) fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let user = somebody();
        let start = |name: &str, more: &[&str]| Service::start(name, data.path(), None, NOON, more);
        let product = start("product", &["--api", "v1"]);
        let [inventory, bank] = ["inventory", "bank"].map(|name| start(name, &[]));
        let notification = start("notification", &["--user", &user.to_string()]);
        // Each asks the other: the order service is told where payment will be.
        let [at_order, at_payment] = [(); 2].map(|()| crate::process::free_address());
        let told = payment_args(at_order, user, bank.at, notification.at);
        let payment = start_with("payment", data.path(), at_payment, NOON, &told);
        let told = order_args(user, product.at, inventory.at, at_payment, notification.at);
        let order = start_with("order", data.path(), at_order, NOON, &told);
        Self { data, user, product, inventory, bank, notification, payment, order }
    }

    /// Kills it, if it still lives, and starts it where it was, at that time, and tells it more.
    pub(crate) fn restart(&mut self, name: &str, now: &str, more: &[&str]) {
        let told = self.told(name, more);
        let data = self.data.path().to_owned();
        let service = self.service(name);
        service.kill();
        *service = start_with(name, &data, service.at, now, &told);
    }

    /// Starts it anew, to die after so many half commits; which may be before it listens.
    pub(crate) fn restart_to_die(&mut self, name: &str, half_commits: u32) {
        let told = self.told(name, &[]);
        let data = self.data.path().to_str().unwrap().to_owned();
        let service = self.service(name);
        service.kill();
        let (at, abort) = (service.at.to_string(), half_commits.to_string());
        let mut args = vec![name, "--listen", &at, "--now", NOON, "--data", &data, "--stop-with-stdin"];
        args.extend(["--abort-after", &abort]);
        args.extend(told.iter().map(String::as_str));
        service.process = Process::start(&args);
        eventually("it listens, or is dead", || {
            let is_there = TcpStream::connect(service.at).is_ok();
            (is_there || service.is_dead()).then_some(())
        });
    }

    pub(crate) fn service(&mut self, name: &str) -> &mut Service {
        match name {
            "order" => &mut self.order,
            "payment" => &mut self.payment,
            "inventory" => &mut self.inventory,
            "bank" => &mut self.bank,
            _ => panic!("{name} is never restarted"),
        }
    }

    /// What it is told besides where its files are.
    fn told(&self, name: &str, more: &[&str]) -> Vec<String> {
        let peers = match name {
            "order" => {
                let [product, inventory] = [self.product.at, self.inventory.at];
                order_args(self.user, product, inventory, self.payment.at, self.notification.at)
            }
            "payment" => payment_args(self.order.at, self.user, self.bank.at, self.notification.at),
            _ => Vec::new(),
        };
        peers.into_iter().chain(more.iter().map(|&it| it.to_owned())).collect()
    }

    /// An order of tea.
    pub(crate) fn wish(quantity: u32, method: &str) -> Value {
        json!({
            "items": [{"product_id": "prod_003", "quantity": quantity}],
            "address": {"line": "12 Hill Road", "city": "mumbai", "pincode": "400050"},
            "payment_method": method,
        })
    }

    /// The same, paid at once.
    pub(crate) fn paid_wish(quantity: u32, account: &str) -> Value {
        let mut wish = Self::wish(quantity, "upi");
        wish["payment"] = json!({"method": "upi", "account": account});
        wish
    }

    pub(crate) fn place(user: &str, key: &str, wish: &Value) -> Ask {
        post("/api/orders", wish).by(user).header("idempotency-key", key)
    }

    pub(crate) fn pay(user: &str, key: &str, order_id: &str, account: &str) -> Ask {
        let wish = json!({"order_id": order_id, "method": "upi", "account": account});
        post("/api/payments", &wish).by(user).header("idempotency-key", key)
    }

    pub(crate) fn order(&self, user: &str, order_id: &str) -> Answer {
        get(&format!("/api/orders/{order_id}")).by(user).send(self.order.at)
    }

    #[track_caller]
    pub(crate) fn await_state(&self, user: &str, order_id: &str, state: &str) -> Answer {
        eventually(state, || {
            let order = get(&format!("/api/orders/{order_id}")).by(user).attempt(self.order.at).ok()?;
            Some(order).filter(|it| it.body["state"] == state)
        })
    }

    pub(crate) fn progress(&self, order_id: &str, state: &str) -> Answer {
        post(&format!("/internal/orders/{order_id}/progress"), &json!({"state": state})).send(self.order.at)
    }

    pub(crate) fn call_off(&self, user: &str, order_id: &str, how: &str) -> Answer {
        Self::calling_off(user, order_id, how).send(self.order.at)
    }

    /// To `cancel` it, or to `return` it.
    pub(crate) fn calling_off(user: &str, order_id: &str, how: &str) -> Ask {
        let path = format!("/api/orders/{order_id}/{how}");
        post(&path, &json!({"reason": "changed my mind"})).by(user)
    }

    /// What a service has written down.
    pub(crate) fn count(&self, service: &str, sql: &str) -> i64 {
        let file = self.data.path().join(format!("{service}.db"));
        let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        file.query_row(sql, (), |row| row.get(0)).unwrap()
    }

    /// What order and payment have written down of their last saga.
    pub(crate) fn story(&self) -> String {
        let sql = "SELECT l.saga_id || ' ' || l.what || ' ' || coalesce(step, '') || ' ' || coalesce(detail, '') FROM saga_log l
            WHERE saga_id = (SELECT saga_id FROM sagas ORDER BY rowid DESC LIMIT 1) ORDER BY number";
        let lines = ["order", "payment"].map(|service| {
            let file = self.data.path().join(format!("{service}.db"));
            let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
            let mut statement = file.prepare(sql).unwrap();
            let lines = statement.query_map((), |row| row.get::<_, String>(0)).unwrap();
            lines.collect::<rusqlite::Result<Vec<_>>>().unwrap().join("\n")
        });
        lines.join("\n")
    }

    /// Charges less refunds, in paise.
    pub(crate) fn taken(&self) -> i64 {
        self.count(
            "bank",
            "SELECT coalesce(sum(CASE entry WHEN 'charge' THEN paise ELSE -paise END), 0) FROM movements",
        )
    }

    /// Tea that has left or is promised.
    pub(crate) fn gone(&self) -> i64 {
        let [left, back, held] = [
            "SELECT coalesce(sum(json_extract(line.value, '$.quantity')), 0) FROM events, json_each(data, '$.allocations') line
                WHERE kind = 'reservation_released' AND json_extract(data, '$.reason') = 'order_completed'",
            "SELECT coalesce(sum(json_extract(data, '$.delta')), 0) FROM events WHERE kind = 'quantity_updated'",
            "SELECT count(*) FROM reservations WHERE state = 'held'",
        ]
        .map(|sql| self.count("inventory", sql));
        left - back + held
    }

    /// Whether nothing is under way, or yet to be told.
    pub(crate) fn is_quiet(&self) -> bool {
        let open =
            "SELECT count(*) FROM sagas WHERE state IN ('running', 'compensating') OR revoked IS NOT NULL";
        let unsent = "SELECT count(*) FROM outbox";
        self.count("order", open) + self.count("payment", open) + self.count("payment", unsent) == 0
    }

    /// Waits until all that was begun has come to an end, and everybody has heard of it.
    #[track_caller]
    pub(crate) fn await_quiet(&self) {
        eventually("all is quiet", || self.is_quiet().then_some(()));
        let parked = "SELECT count(*) FROM sagas WHERE state = 'compensation_failed'";
        assert_eq!(self.count("order", parked) + self.count("payment", parked), 0);
    }
}

fn payment_args(
    order: SocketAddr,
    user: SocketAddr,
    bank: SocketAddr,
    notification: SocketAddr,
) -> Vec<String> {
    let peers = [("order", order), ("user", user), ("bank", bank), ("notification", notification)];
    peers.into_iter().flat_map(|(name, at)| [format!("--{name}"), at.to_string()]).collect()
}

fn order_args(
    user: SocketAddr,
    product: SocketAddr,
    inventory: SocketAddr,
    payment: SocketAddr,
    notification: SocketAddr,
) -> Vec<String> {
    let peers = [
        ("user", user),
        ("product", product),
        ("inventory", inventory),
        ("payment", payment),
        ("notification", notification),
    ];
    peers.into_iter().flat_map(|(name, at)| [format!("--{name}"), at.to_string()]).collect()
}

fn start_with(name: &str, data: &Path, at: SocketAddr, now: &str, more: &[String]) -> Service {
    let more = more.iter().map(String::as_str).collect::<Vec<_>>();
    Service::start(name, data, Some(at), now, &more)
}

/// Whoever is asked for is known, and may everything; but `BLOCKED_` ones.
fn somebody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { continue };
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head);
                let name = head.split([' ', '/']).find(|it| it.starts_with("BLOCKED_")).unwrap_or("asha");
                let body = json!({
                    "user_id": name, "name": "Asha", "language": "hi", "city": "mumbai", "tier": "premium",
                    "kyc": "full", "risk": 10, "blocked": name != "asha", "phone": "+919800000001",
                    "email": "asha@example.in",
                })
                .to_string();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                _ = client.write_all(answer.as_bytes());
            });
        }
    });
    at
}
