//! Notifications: in the language of the user, by the first channel that works, and once.

use std::thread;

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    http::{Answer, Ask, get, post},
    middleman::{Middleman, Then, When},
    process::{free_address, kill},
    world::{NOON, Service},
};

struct Notifications {
    user: Service,
    service: Service,
    data: tempfile::TempDir,
    more: Vec<String>,
}

impl Notifications {
    /// Those channels fail.
    fn start(failing: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let user = Service::start("user", data.path(), None, NOON, &[]);
        let mut more = vec!["--user".to_owned(), user.at.to_string()];
        more.extend(failing.iter().flat_map(|it| ["--failing".to_owned(), (*it).to_owned()]));
        let at = free_address();
        Self { service: notification(&data, at, &more), user, data, more }
    }

    fn restart(&mut self, failing: &[&str]) {
        self.service.kill();
        self.more.truncate(2);
        self.more.extend(failing.iter().flat_map(|it| ["--failing".to_owned(), (*it).to_owned()]));
        self.service = notification(&self.data, self.service.at, &self.more);
    }

    fn send(&self, ask: &Ask) -> Answer {
        ask.send(self.service.at)
    }

    fn sent(&self) -> u32 {
        let file = self.data.path().join("notification.db");
        let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        file.query_row("SELECT count(*) FROM sent", (), |row| row.get(0)).unwrap()
    }
}

fn notification(data: &tempfile::TempDir, at: std::net::SocketAddr, more: &[String]) -> Service {
    let more = more.iter().map(String::as_str).collect::<Vec<_>>();
    Service::start("notification", data.path(), Some(at), NOON, &more)
}

fn shipped(id: &str) -> Value {
    json!({
        "notification_id": id, "user_id": "asha", "template": "order_shipped", "language": "hi",
        "params": {"order_id": "ORD_1"},
    })
}

fn tell(message: &Value) -> Ask {
    post("/notifications", message)
}

#[test]
fn r15_6_each_is_told_in_their_language() {
    let world = Notifications::start(&[]);
    let hindi = world.send(&tell(&shipped("1"))).expect(200);
    assert_eq!(
        hindi.body,
        json!({"notification_id": "1", "channel": "push", "text": "आपका ऑर्डर ORD_1 रवाना हो गया है।"})
    );
    let mut message = shipped("2");
    message["language"] = json!("en");
    let english = world.send(&tell(&message)).expect(200);
    assert_eq!(english.said("text"), "Your order ORD_1 is on its way.");
    let list = world.send(&get("/internal/notifications?user_id=asha")).expect(200);
    let ids = list.body["notifications"].as_array().unwrap().iter().map(|it| it["notification_id"].clone());
    assert_eq!(ids.collect::<Vec<_>>(), ["2", "1"], "the last first");
    let one = world.send(&get("/internal/notifications?user_id=asha&limit=1")).expect(200);
    assert_eq!(one.body["notifications"].as_array().unwrap().len(), 1);
    let others = world.send(&get("/internal/notifications?user_id=ravi")).expect(200);
    assert_eq!(others.body["notifications"], json!([]));
}

#[test]
fn r15_6_when_a_channel_fails_the_next_one_is_taken() {
    let mut world = Notifications::start(&["push"]);
    let told = |world: &Notifications, id: &str| world.send(&tell(&shipped(id))).expect(200).said("channel");
    assert_eq!(told(&world, "1"), "whatsapp");
    world.restart(&["push", "whatsapp"]);
    assert_eq!(told(&world, "2"), "sms");
    world.restart(&["push", "whatsapp", "sms"]);
    assert_eq!(told(&world, "3"), "email");
    let list = world.send(&get("/internal/notifications?user_id=asha")).expect(200);
    let list = list.body["notifications"].as_array().unwrap().clone();
    assert_eq!(
        list.iter().map(|it| it["recipient"].clone()).collect::<Vec<_>>(),
        ["****.com", "****2345", "****2345"]
    );
    let file = std::fs::read(world.data.path().join("notification.db")).unwrap();
    let log = std::fs::read(world.data.path().join("notification.db-wal")).unwrap();
    let is_written =
        |what: &str| [&file, &log].iter().any(|it| it.windows(what.len()).any(|at| at == what.as_bytes()));
    assert!(is_written("****2345"), "this looks where it is written");
    assert!(!is_written("9820012345") && !is_written("asha@example.com"));

    world.restart(&["push", "whatsapp", "sms", "email"]);
    world.send(&tell(&shipped("4"))).problem(503, "undeliverable");
    assert_eq!(world.sent(), 3);
    world.restart(&[]);
    assert_eq!(told(&world, "4"), "push", "the same request may be sent again");
    assert_eq!(told(&world, "1"), "whatsapp", "what was sent is not sent another way");
    assert_eq!(world.sent(), 4);
}

#[test]
fn fifty_same_notifications_at_once_are_sent_once() {
    let mut world = Notifications::start(&[]);
    let at = world.service.at;
    let answers = thread::scope(|scope| {
        let ask = |_| scope.spawn(move || tell(&shipped("1")).send(at).expect(200).text);
        let asked = (0..50).map(ask).collect::<Vec<_>>();
        asked.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(answers.iter().all(|it| *it == answers[0]), "{answers:?}");
    world.restart(&["push"]);
    assert_eq!(world.send(&tell(&shipped("1"))).expect(200).text, answers[0]);
    let mut other = shipped("1");
    other["params"]["order_id"] = json!("ORD_2");
    world.send(&tell(&other)).problem(422, "idempotency_key_reused");
    assert_eq!(world.sent(), 1);
}

/// Killed with the address of the user in its hands: nothing was sent, or it was and is known.
#[test]
fn a_crash_in_between_sends_nothing_twice() {
    let mut world = Notifications::start(&["push"]);
    let to_user = Middleman::before(world.user.at);
    world.more[1] = to_user.at.to_string();
    world.restart(&["push"]);
    let pid = world.service.process.child.id();
    to_user.once(When::After, "GET /internal/users/", move || {
        kill(pid, Signal::KILL);
        Then::Drop
    });
    let lost = tell(&shipped("1")).attempt(world.service.at);
    assert!(lost.is_err(), "who is dead confirms nothing: {lost:?}");
    assert_eq!(world.sent(), 0);
    world.restart(&["push"]);
    let told = world.send(&tell(&shipped("1"))).expect(200);
    world.restart(&["push", "whatsapp"]);
    assert_eq!(world.send(&tell(&shipped("1"))).expect(200).text, told.text);
    assert_eq!(world.sent(), 1);
}

#[test]
fn without_the_user_service_only_push_is_left() {
    let mut world = Notifications::start(&[]);
    world.user.kill();
    assert_eq!(world.send(&tell(&shipped("1"))).expect(200).said("channel"), "push");
    world.restart(&["push"]);
    world.send(&tell(&shipped("2"))).problem(503, "undeliverable");
    // The shop's own people are no users.
    let low = json!({
        "notification_id": "3", "user_id": "bazaar", "template": "low_stock", "language": "en",
        "params": {"product_id": "prod_001", "quantity": 10},
    });
    let told = world.send(&tell(&low)).expect(200);
    assert_eq!(
        (told.said("channel"), told.said("text")),
        ("email".into(), "There is little left of prod_001: 10.".into())
    );
}

#[test]
fn what_cannot_be_told_is_said() {
    let world = Notifications::start(&[]);
    let refused = |member: &str, value: Value| {
        let mut message = shipped("1");
        message[member] = value;
        world.send(&tell(&message))
    };
    let missing = refused("params", json!({})).problem(422, "missing_param");
    assert_eq!(missing.said("param"), "order_id");
    refused("template", json!("hello")).problem(422, "unknown_template");
    refused("language", json!("mr")).problem(422, "unexpected_json");
    refused("user_id", json!("nobody")).problem(422, "unknown_user");
    for made_up in ["", "../healthz", "a/b", "a?b", "आशा", ".."] {
        refused("user_id", json!(made_up)).problem(422, "invalid_id");
    }
    refused("notification_id", json!("")).problem(422, "invalid_id");
    refused("params", json!({"order_id": ["1"]})).problem(422, "invalid_param");
    refused("params", json!({"order_id": "x".repeat(201)})).problem(422, "invalid_param");
    let many = (0..17).map(|it| (format!("p{it}"), json!("x"))).collect::<serde_json::Map<_, _>>();
    refused("params", Value::Object(many)).problem(422, "invalid_param");
    world.send(&get("/internal/notifications?user_id=asha&limit=101")).problem(422, "invalid_limit");
    world.send(&get("/internal/notifications")).problem(422, "unexpected_query");
    assert_eq!(world.sent(), 0);
}
