//! Restaurants: a key is cooked once, and kitchens that make trouble make it.

use std::thread;

use serde_json::{Value, json};

use crate::{
    http::{Answer, Ask, get, post, put, read},
    process::eventually,
    world::{NOON, Service},
};

struct Restaurants {
    service: Service,
    data: tempfile::TempDir,
}

impl Restaurants {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        Self { service: Service::start("restaurant", data.path(), None, NOON, &[]), data }
    }

    fn restart(&mut self) {
        self.service.kill();
        self.service = Service::start("restaurant", self.data.path(), Some(self.service.at), NOON, &[]);
    }

    fn send(&self, ask: &Ask) -> Answer {
        ask.send(self.service.at)
    }

    fn set(&self, restaurant_id: &str, mode: &str) {
        let path = format!("/internal/restaurants/{restaurant_id}/mode");
        assert_eq!(self.send(&put(&path, &json!({"mode": mode}))).expect(200).said("mode"), mode);
    }

    fn cooked(&self, restaurant_id: &str) -> u64 {
        let inside = self.send(&get(&format!("/internal/restaurants/{restaurant_id}"))).expect(200);
        inside.body["cooked"].as_u64().unwrap()
    }
}

fn dosa() -> Value {
    json!({"items": [{"dish": "Masala Dosa", "quantity": 2}]})
}

fn order(restaurant_id: &str, key: &str) -> Ask {
    post(&format!("/api/restaurants/{restaurant_id}/orders"), &dosa())
        .by("asha")
        .header("idempotency-key", key)
}

#[test]
fn a_restaurant_is_shown_and_the_best_come_first() {
    let restaurants = Restaurants::start();
    let tanjore = restaurants.send(&get("/api/restaurants/tanjore")).expect(200);
    assert_eq!(
        tanjore.body,
        json!({
            "restaurant_id": "tanjore", "name": "Tanjore", "area": "dadar", "cuisine": "South Indian",
            "rating": "4.5", "preparation_minutes": 25, "accepting": true,
        })
    );
    let all = restaurants.send(&get("/api/restaurants")).expect(200);
    let ids = all.body["restaurants"].as_array().unwrap().iter().map(|it| it["restaurant_id"].clone());
    let golden =
        ["theobroma", "tanjore", "mainland_china", "swathi", "britannia", "cafe_mocha", "social", "leopold"];
    assert_eq!(ids.collect::<Vec<_>>(), golden);
    restaurants.send(&get("/api/restaurants/nowhere")).problem(404, "unknown_restaurant");
}

#[test]
fn the_same_key_cooks_once_also_after_a_crash() {
    let mut restaurants = Restaurants::start();
    let first = restaurants.send(&order("tanjore", "1")).expect(201);
    assert_eq!(first.body["ready_in_minutes"], 30);
    assert_eq!(restaurants.send(&order("tanjore", "1")).expect(201).text, first.text);
    assert_eq!(restaurants.send(&order("tanjore", "2")).expect(201).body["ready_in_minutes"], 33);
    restaurants.restart();
    assert_eq!(restaurants.send(&order("tanjore", "1")).expect(201).text, first.text);
    restaurants.send(&order("swathi", "1")).problem(422, "idempotency_key_reused");
    let other = json!({"items": [{"dish": "Idli", "quantity": 2}]});
    let other = post("/api/restaurants/tanjore/orders", &other).by("asha").header("idempotency-key", "1");
    restaurants.send(&other).problem(422, "idempotency_key_reused");
    assert_eq!((restaurants.cooked("tanjore"), restaurants.cooked("swathi")), (2, 0));
    let ravi = post("/api/restaurants/tanjore/orders", &dosa()).by("ravi").header("idempotency-key", "1");
    assert_ne!(restaurants.send(&ravi).expect(201).said("order_id"), first.said("order_id"));
}

#[test]
fn fifty_same_orders_at_once_are_cooked_once() {
    let restaurants = Restaurants::start();
    let at = restaurants.service.at;
    let answers = thread::scope(|scope| {
        let ask = |_| scope.spawn(move || order("tanjore", "1").send(at).expect(201).text);
        let asked = (0..50).map(ask).collect::<Vec<_>>();
        asked.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(answers.iter().all(|it| *it == answers[0]), "{answers:?}");
    assert_eq!(restaurants.cooked("tanjore"), 1);
}

#[test]
fn a_kitchen_is_slow_broken_or_closed_by_itself() {
    let mut restaurants = Restaurants::start();
    restaurants.set("tanjore", "failing");
    restaurants.send(&order("tanjore", "1")).problem(500, "kitchen_failed");
    restaurants.send(&get("/api/restaurants/tanjore")).problem(500, "kitchen_failed");
    restaurants.send(&order("swathi", "2")).expect(201);

    restaurants.set("tanjore", "closed");
    restaurants.restart();
    restaurants.send(&order("tanjore", "1")).problem(409, "closed");
    assert_eq!(restaurants.send(&get("/api/restaurants/tanjore")).expect(200).body["accepting"], false);
    restaurants.set("swathi", "closed");
    restaurants.send(&order("swathi", "2")).expect(201); // It is being cooked.

    // A slow one has begun before it says so.
    restaurants.set("tanjore", "slow");
    let (waits, _) = order("tanjore", "4").begin(restaurants.service.at, 0);
    eventually("it is taken at once", || (restaurants.cooked("tanjore") == 1).then_some(()));
    restaurants.set("tanjore", "open");
    let at_once = restaurants.send(&order("tanjore", "4")).expect(201);
    assert_eq!(read(waits).unwrap().expect(201).text, at_once.text);
    assert_eq!(restaurants.cooked("tanjore"), 1);
}

#[test]
fn restaurants_say_what_is_wrong() {
    let restaurants = Restaurants::start();
    let path = "/api/restaurants/tanjore/orders";
    let ask = |body: &Value| restaurants.send(&post(path, body).by("asha").header("idempotency-key", "1"));
    restaurants.send(&order("nowhere", "1")).problem(404, "unknown_restaurant");
    restaurants.send(&post(path, &dosa()).header("idempotency-key", "1")).problem(401, "not_identified");
    restaurants.send(&post(path, &dosa()).by("asha")).problem(400, "idempotency_key_missing");
    for items in [
        json!([]),
        json!([{"dish": "", "quantity": 1}]),
        json!([{"dish": " Idli", "quantity": 1}]),
        json!([{"dish": "Idli", "quantity": 0}]),
        json!([{"dish": "Idli", "quantity": 21}]),
        Value::Array(vec![json!({"dish": "Idli", "quantity": 1}); 51]),
    ] {
        ask(&json!({"items": items})).problem(422, "invalid_items");
    }
    ask(&json!({"items": [{"dish": "Idli", "quantity": -1}]})).problem(422, "unexpected_json");
    let mode = put("/internal/restaurants/tanjore/mode", &json!({"mode": "on_fire"}));
    restaurants.send(&mode).problem(422, "unexpected_json");
    let mode = put("/internal/restaurants/nowhere/mode", &json!({"mode": "open"}));
    restaurants.send(&mode).problem(404, "unknown_restaurant");
    assert_eq!(restaurants.cooked("tanjore"), 0);
}
