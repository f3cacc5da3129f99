//! The inventory: two processes, one that is written to and one that is read from.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::{Answer, Ask, get, post},
    middleman::{Middleman, Then, When},
    process::eventually,
    world::{NOON, Service},
};

/// Both sides; the one that is read from asks the other through a middleman.
struct Shop {
    data: TempDir,
    commands: Service,
    queries: Service,
    between: Middleman,
}

impl Shop {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let commands = Service::start("inventory", data.path(), None, NOON, &[]);
        let between = Middleman::before(commands.at);
        let at = between.at.to_string();
        let queries = Service::start("inventory-query", data.path(), None, NOON, &["--inventory", &at]);
        Self { data, commands, queries, between }
    }

    fn restart_commands(&mut self, now: &str) {
        self.commands.kill();
        self.commands = Service::start("inventory", self.data.path(), Some(self.commands.at), now, &[]);
    }

    fn restart_queries(&mut self, now: &str, more: &[&str]) {
        self.queries.kill();
        let at = self.between.at.to_string();
        let more = [&["--inventory", &at][..], more].concat();
        self.queries = Service::start("inventory-query", self.data.path(), Some(self.queries.at), now, &more);
    }

    /// Under a key of its own.
    fn command(&self, name: &str, body: &Value) -> Answer {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        command(&NEXT.fetch_add(1, Relaxed).to_string(), name, body).send(self.commands.at)
    }

    fn add(&self, product_id: &str, warehouse: &str, quantity: u32) {
        let body = json!({"product_id": product_id, "warehouse": warehouse, "quantity": quantity});
        self.command("add_product", &body).expect(200);
    }

    fn update(&self, product_id: &str, delta: i32, reason: &str) -> Answer {
        let (at, id) = ("MUM_WH_001", product_id);
        let body = json!({"product_id": id, "warehouse": at, "delta": delta, "reason": reason});
        self.command("update_quantity", &body)
    }

    fn reserve(&self, reservation_id: &str, items: &[(&str, u32)]) -> Answer {
        self.command("reserve", &reservation(reservation_id, items))
    }

    fn release(&self, reservation_id: &str, reason: &str) -> Answer {
        self.command("release", &json!({"reservation_id": reservation_id, "reason": reason}))
    }

    /// As of the last event that there is.
    fn query(&self, path: &str) -> Answer {
        let head = self.feed(0).body["head"].clone();
        let sign = if path.contains('?') { '&' } else { '?' };
        let ask = get(&format!("/inventory/{path}{sign}min_position={head}"));
        // The other side may have been away for a while, and is left alone for longer each time.
        let seen = eventually("it is seen", || Some(ask.send(self.queries.at)).filter(|it| it.status != 409));
        seen.expect(200)
    }

    /// On hand, available, reserved.
    #[track_caller]
    fn numbers(&self, product_id: &str) -> [u64; 3] {
        let body = self.query(&format!("availability?product_id={product_id}")).body;
        ["on_hand", "available", "reserved"].map(|it| body[it].as_u64().unwrap())
    }

    fn feed(&self, after: u64) -> Answer {
        get(&format!("/internal/feed?limit=500&after={after}")).send(self.commands.at).expect(200)
    }

    /// The events of a product.
    fn events(&self, product_id: &str) -> Vec<Value> {
        let stream = format!("product:{product_id}");
        let feed = self.feed(0).body["events"].take();
        feed.as_array().unwrap().iter().filter(|it| it["stream"] == stream).cloned().collect()
    }

    fn kinds(&self, product_id: &str) -> Vec<String> {
        self.events(product_id).iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect()
    }

    /// All that can be asked for, but for how old it is.
    fn all(&self, product_ids: &[&str]) -> Vec<Value> {
        let of_each = product_ids.iter().flat_map(|id| {
            ["availability", "reservations", "movements", "alerts"].map(|it| format!("{it}?product_id={id}"))
        });
        let paths = of_each.chain(["levels?limit=100".to_owned()]);
        let answers = paths.map(|path| {
            let mut body = self.query(&path).body;
            body.as_object_mut().unwrap().remove("lag_s").unwrap();
            body
        });
        answers.collect()
    }
}

fn command(key: &str, name: &str, body: &Value) -> Ask {
    post(&format!("/inventory/commands/{name}"), body).header("idempotency-key", key)
}

fn reservation(reservation_id: &str, items: &[(&str, u32)]) -> Value {
    let items = items.iter().map(|(id, n)| json!({"product_id": id, "quantity": n})).collect::<Value>();
    json!({"reservation_id": reservation_id, "items": items})
}

#[test]
fn r6_1_all_commands_events_and_queries_work_over_http() {
    let shop = Shop::new();
    shop.add("p", "MUM_WH_001", 60);
    let updated = shop.update("p", -5, "damaged").expect(200);
    let there = json!([{"warehouse": "MUM_WH_001", "on_hand": 55, "reserved": 0, "available": 55}]);
    assert_eq!((&updated.body["warehouses"], &updated.body["version"]), (&there, &json!(2)));
    let held = shop.reserve("r", &[("p", 5)]).expect(200);
    let allocations = json!([{"product_id": "p", "warehouse": "MUM_WH_001", "quantity": 5}]);
    assert_eq!(held.body["allocations"], allocations);
    assert!(held.said("expires_at").starts_with("2026-01-15T12:15:0"), "{}", held.text);
    assert_eq!(shop.release("r", "order_completed").expect(200).said("state"), "completed");
    let transfer = json!({"product_id": "p", "from": "MUM_WH_001", "to": "DEL_WH_001", "quantity": 10});
    let moved = shop.command("transfer", &transfer).expect(200);
    assert_eq!(moved.body["warehouses"][1]["on_hand"], 10);

    let kinds = [
        "product_added",
        "quantity_updated",
        "inventory_reserved",
        "reservation_released",
        "low_stock_alert",
        "inventory_transferred",
    ];
    assert_eq!(shop.kinds("p"), kinds);

    let mumbai = shop.query("availability?product_id=p&region=MUM&quantity=41").body;
    assert_eq!((&mumbai["available"], &mumbai["can_fulfill"]), (&json!(40), &json!(false)));
    let all = shop.query("availability?product_id=p&quantity=50").body;
    assert_eq!((&all["available"], &all["can_fulfill"]), (&json!(50), &json!(true)));
    let levels = shop.query("levels?ids=p&warehouse=DEL_WH_001").body;
    assert_eq!(levels["levels"][0]["on_hand"], 10);
    assert_eq!(shop.query("levels?ids=p&below=50").body["levels"], json!([]));
    let reservations = shop.query("reservations?product_id=p").body;
    assert_eq!(reservations["reservations"][0]["state"], "completed");
    let movements = shop.query("movements?product_id=p&limit=2").body;
    let newest = movements["movements"].as_array().unwrap().iter().map(|it| it["on_hand"].as_i64().unwrap());
    assert_eq!(newest.collect::<Vec<_>>(), [10, -10], "Delhi before Mumbai");
    let none = shop.query("movements?product_id=p&to=2026-01-15T06:29Z").body;
    assert_eq!(none["movements"], json!([]));
    assert_eq!(shop.query("alerts?product_id=p").body["alerts"][0]["urgency"], "medium");
}

/// Through two processes on the same file, each with its own connection.
#[test]
fn r6_2_one_unit_and_two_hundred_buyers_at_once_is_sold_once() {
    let shop = Shop::new();
    let second = Service::start("inventory", shop.data.path(), None, NOON, &[]);
    shop.add("p", "MUM_WH_001", 1);
    let (start, buyers) = (Barrier::new(200), 200);
    let at = [shop.commands.at, second.at];
    let answers = thread::scope(|scope| {
        let buyers = (0..buyers).map(|number| {
            let (start, name) = (&start, format!("buyer-{number}"));
            scope.spawn(move || {
                let ask = command(&name, "reserve", &reservation(&name, &[("p", 1)]));
                start.wait();
                // Two processes wait for one file, and not for ever, and a disk may be slow; what has no answer is asked again.
                let ask = || ask.attempt(at[number % 2]).ok().filter(|it| it.status != 503);
                eventually("it is decided", ask)
            })
        });
        let buyers = buyers.collect::<Vec<_>>();
        buyers.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>()
    });
    let (sold, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|it| it.status == 200);
    assert_eq!(sold.len(), 1);
    for answer in refused {
        let answer = answer.problem(409, "out_of_stock");
        assert_eq!((answer.said("product_id").as_str(), &answer.body["available"]), ("p", &json!(0)));
    }
    assert_eq!(shop.kinds("p"), ["product_added", "inventory_reserved"]);
    assert_eq!(shop.numbers("p"), [1, 0, 1]);
}

#[test]
fn r6_3_a_hundred_less_25_and_200_more_with_5_reserved_is_270_of_275() {
    let shop = Shop::new();
    shop.add("p", "MUM_WH_001", 100);
    shop.update("p", -25, "sold").expect(200);
    shop.update("p", 200, "restocking").expect(200);
    let position = shop.reserve("r", &[("p", 5)]).expect(200).body["position"].clone();
    let path = format!("/inventory/availability?product_id=p&warehouse=MUM_WH_001&min_position={position}");
    let body = get(&path).send(shop.queries.at).expect(200).body;
    let there = json!([{"warehouse": "MUM_WH_001", "on_hand": 275, "reserved": 5, "available": 270}]);
    assert_eq!(body["warehouses"], there);
    assert_eq!(
        (&body["available"], &body["reserved"], &body["on_hand"]),
        (&json!(270), &json!(5), &json!(275))
    );
}

#[test]
fn r6_4_a_hold_that_ran_out_while_nobody_ran_gives_its_stock_back_and_cannot_be_completed() {
    let mut shop = Shop::new();
    shop.add("p", "MUM_WH_001", 10);
    shop.reserve("r", &[("p", 4)]).expect(200);
    shop.restart_commands("2026-01-15T12:13:00+05:30");
    assert_eq!(shop.numbers("p"), [10, 6, 4]);
    shop.restart_commands("2026-01-15T12:16:00+05:30");
    // Nobody asks the side that is written to for anything but its events.
    let at = shop.queries.at;
    eventually("the stock is back", || {
        let body = get("/inventory/availability?product_id=p").send(at).expect(200).body;
        (body["available"] == 10).then_some(())
    });
    assert_eq!(shop.query("reservations?id=r").body["reservations"][0]["state"], "expired");
    assert_eq!(
        shop.release("r", "order_completed").problem(409, "reservation_over").said("state"),
        "expired"
    );
    shop.reserve("r", &[("p", 4)]).problem(409, "reservation_over");
    for _ in 0..2 {
        assert_eq!(shop.release("r", "order_cancelled").expect(200).said("state"), "expired");
    }
    assert_eq!(shop.kinds("p"), ["product_added", "inventory_reserved", "reservation_released"]);
    assert_eq!(shop.numbers("p"), [10, 10, 0]);
}

#[test]
fn r6_4_a_release_is_done_once_and_one_that_comes_first_is_remembered() {
    let mut shop = Shop::new();
    shop.add("p", "MUM_WH_001", 10);
    shop.reserve("kept", &[("p", 4)]).expect(200);
    shop.reserve("left", &[("p", 3)]).expect(200);
    for _ in 0..2 {
        assert_eq!(shop.release("left", "order_cancelled").expect(200).said("state"), "released");
        assert_eq!(shop.release("kept", "order_completed").expect(200).said("state"), "completed");
    }
    shop.release("left", "order_completed").problem(409, "reservation_over");
    shop.release("kept", "order_cancelled").problem(409, "reservation_over");
    assert_eq!(shop.numbers("p"), [6, 6, 0]);

    shop.release("early", "order_completed").problem(404, "unknown_reservation");
    assert_eq!(shop.release("early", "order_cancelled").expect(200).said("state"), "released");
    shop.restart_commands(NOON);
    shop.reserve("early", &[("p", 1)]).problem(409, "reservation_over");
    assert_eq!(shop.numbers("p"), [6, 6, 0]);
}

#[test]
fn r6_5_a_reservation_takes_from_several_warehouses_and_of_several_products_or_nothing() {
    let shop = Shop::new();
    for warehouse in ["MUM_WH_001", "DEL_WH_001", "BLR_WH_001"] {
        shop.add("p", warehouse, 5);
    }
    shop.add("q", "MUM_WH_001", 2);
    let before = shop.feed(0).body["head"].clone();
    let refused = shop.reserve("both", &[("p", 12), ("q", 3)]).problem(409, "out_of_stock");
    assert_eq!((refused.said("product_id").as_str(), &refused.body["wanted"]), ("q", &json!(3)));
    assert_eq!(shop.feed(0).body["head"], before, "nothing has happened");

    let held = shop.reserve("split", &[("p", 12), ("q", 2)]).expect(200);
    let allocations = held.body["allocations"].as_array().unwrap();
    let split =
        allocations.iter().map(|it| (it["warehouse"].as_str().unwrap(), it["quantity"].as_u64().unwrap()));
    let expected = [("BLR_WH_001", 5), ("DEL_WH_001", 5), ("MUM_WH_001", 2), ("MUM_WH_001", 2)];
    assert_eq!(split.collect::<Vec<_>>(), expected);
    assert_eq!((shop.numbers("p"), shop.numbers("q")), ([15, 3, 12], [2, 0, 2]));
    shop.reserve("more", &[("p", 4)]).problem(409, "out_of_stock");

    shop.release("split", "order_cancelled").expect(200);
    assert_eq!((shop.numbers("p"), shop.numbers("q")), ([15, 15, 0], [2, 2, 0]));
}

#[test]
fn r6_5_a_transfer_changes_no_total_and_takes_nothing_that_is_promised() {
    let shop = Shop::new();
    shop.add("p", "MUM_WH_001", 10);
    shop.reserve("r", &[("p", 4)]).expect(200);
    let transfer = |to, quantity| {
        let body = json!({"product_id": "p", "from": "MUM_WH_001", "to": to, "quantity": quantity});
        shop.command("transfer", &body)
    };
    transfer("DEL_WH_001", 7).problem(409, "out_of_stock");
    transfer("DEL_WH_001", 6).expect(200);
    assert_eq!(shop.numbers("p"), [10, 6, 4]);
    let delhi = shop.query("availability?product_id=p&region=DEL").body;
    assert_eq!((&delhi["on_hand"], &delhi["available"]), (&json!(6), &json!(6)));
    transfer("MUM_WH_001", 1).problem(422, "unexpected_json");
}

/// Its answers get lost, it is killed in the middle, and it forgets everything: what it shows is the same.
#[test]
fn r6_6_what_is_shown_is_the_same_however_it_was_heard() {
    let mut shop = Shop::new();
    for number in 0..30 {
        let (id, reservation) = (format!("p{}", number % 3), format!("r{number}"));
        if number < 3 {
            shop.add(&id, "MUM_WH_001", 60);
        }
        if number % 10 == 0 {
            shop.between.once(When::After, "GET /internal/feed", || Then::Drop);
        }
        if number == 15 {
            let pid = shop.queries.process.child.id();
            shop.between.once(When::After, "GET /internal/feed", move || {
                crate::process::kill(pid, Signal::KILL);
                Then::GoOn
            });
        }
        shop.reserve(&reservation, &[(&id, 2)]).expect(200);
        if number % 2 == 0 {
            shop.release(&reservation, "order_completed").expect(200);
        }
        if number == 15 {
            shop.queries.process.end();
            shop.restart_queries(NOON, &[]);
        }
    }
    let ids = ["p0", "p1", "p2"];
    let seen = shop.all(&ids);
    assert_eq!(shop.numbers("p0"), [50, 40, 10]);

    shop.restart_queries(NOON, &[]);
    assert_eq!(shop.all(&ids), seen);
    shop.restart_queries(NOON, &["--rebuild"]);
    assert_eq!(shop.all(&ids), seen);
}

#[test]
fn r6_6_it_says_how_far_it_is_behind_and_waits_for_what_was_written() {
    let mut shop = Shop::new();
    shop.add("p", "MUM_WH_001", 10);
    assert_eq!(shop.numbers("p"), [10, 10, 0]);
    let lag = || get("/internal/lag").send(shop.queries.at).expect(200).body;
    let head = shop.feed(0).body["head"].as_u64().unwrap();
    eventually("it has read all", || (lag()["head"] == head && lag()["position"] == head).then_some(()));
    assert!(lag()["seconds"].as_u64().unwrap() < 20, "{}", lag());

    // Another process writes, and the one that is asked is dead.
    let second = Service::start("inventory", shop.data.path(), None, NOON, &[]);
    shop.commands.kill();
    let body = json!({"product_id": "p", "warehouse": "MUM_WH_001", "delta": 5, "reason": "returned"});
    let written = command("more", "update_quantity", &body).send(second.at).expect(200);
    let stale = get("/inventory/availability?product_id=p").send(shop.queries.at).expect(200).body;
    assert_eq!((&stale["available"], &stale["position"]), (&json!(10), &json!(head)));
    let path = format!("/inventory/availability?product_id=p&min_position={}", written.body["position"]);
    let problem = get(&path).send(shop.queries.at).problem(409, "not_yet");
    assert!(problem.head.contains("retry-after: 1"), "{}", problem.head);
    assert_eq!(problem.body["position"], head);
    eventually("it says that it is behind", || {
        let body = get("/internal/lag").send(shop.queries.at).expect(200).body;
        (body["seconds"].as_u64().unwrap() >= 2).then_some(())
    });

    shop.restart_commands(NOON);
    let seen =
        eventually("it is there", || Some(get(&path).send(shop.queries.at)).filter(|it| it.status == 200));
    assert_eq!(seen.body["available"], 15);
}

#[test]
fn r6_7_each_way_down_past_a_level_is_told_once_and_not_each_sale() {
    let shop = Shop::new();
    shop.add("p", "MUM_WH_001", 60);
    let alerts = || {
        let alerts = shop.query("alerts?product_id=p").body["alerts"].take();
        let alerts = alerts.as_array().unwrap().iter().rev();
        let said = alerts.map(|it| format!("{} at {}", it["urgency"].as_str().unwrap(), it["on_hand"]));
        said.collect::<Vec<_>>()
    };
    for (delta, expected) in [
        (-9, vec![]),
        (-1, vec!["medium at 50"]),
        (-1, vec!["medium at 50"]),
        (-38, vec!["medium at 50"]),
        (-1, vec!["medium at 50", "high at 10"]),
        (-5, vec!["medium at 50", "high at 10"]),
        (50, vec!["medium at 50", "high at 10"]),
        (-10, vec!["medium at 50", "high at 10", "medium at 45"]),
    ] {
        shop.update("p", delta, if delta > 0 { "restocking" } else { "sold" }).expect(200);
        assert_eq!(alerts(), expected, "{delta}");
    }
    // A promise is no reason for one: it may run out.
    shop.reserve("r", &[("p", 44)]).expect(200);
    assert_eq!(alerts().len(), 3);
    shop.release("r", "order_completed").expect(200);
    assert_eq!(alerts().last().unwrap(), "high at 1");
    let versions = shop.events("p").iter().map(|it| it["version"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(versions, (1..=15).collect::<Vec<_>>(), "each event has a version of its own");
}

#[test]
fn r6_8_either_side_works_while_the_other_is_dead() {
    let mut shop = Shop::new();
    shop.add("p", "MUM_WH_001", 10);
    assert_eq!(shop.numbers("p"), [10, 10, 0]);

    shop.queries.kill();
    shop.reserve("r", &[("p", 4)]).expect(200);
    shop.update("p", 5, "returned").expect(200);
    shop.restart_queries(NOON, &[]);
    assert_eq!(shop.numbers("p"), [15, 11, 4]);

    shop.commands.kill();
    for path in ["availability?product_id=p", "levels", "reservations?id=r", "movements?product_id=p"] {
        get(&format!("/inventory/{path}")).send(shop.queries.at).expect(200);
    }
    get("/readyz").send(shop.queries.at).expect(200);
    // Also from its beginning on.
    shop.restart_queries(NOON, &[]);
    let body = get("/inventory/availability?product_id=p").send(shop.queries.at).expect(200).body;
    assert_eq!((&body["available"], &body["lag_s"]), (&json!(11), &Value::Null));
    shop.restart_commands(NOON);
    shop.release("r", "order_cancelled").expect(200);
    eventually("it has heard of it", || {
        let body = get("/inventory/availability?product_id=p").send(shop.queries.at).expect(200).body;
        (body["available"] == 15).then_some(())
    });
}

#[test]
fn a_command_is_done_once_under_its_key_and_its_refusal_stays() {
    let mut shop = Shop::new();
    shop.add("p", "MUM_WH_001", 1);
    let ask = command("key", "reserve", &reservation("r", &[("p", 1)]));
    let held = ask.send(shop.commands.at).expect(200);
    let other = command("other", "reserve", &reservation("s", &[("p", 1)]));
    other.send(shop.commands.at).problem(409, "out_of_stock");
    shop.update("p", 5, "restocking").expect(200);
    shop.restart_commands(NOON);
    assert_eq!(ask.send(shop.commands.at).expect(200).text, held.text);
    other.send(shop.commands.at).problem(409, "out_of_stock");
    let reused = command("key", "reserve", &reservation("r", &[("p", 2)]));
    reused.send(shop.commands.at).problem(422, "idempotency_key_reused");
    // The name of a reservation is a key, too.
    let again = shop.reserve("r", &[("p", 1)]).expect(200);
    assert_eq!(again.body["allocations"], held.body["allocations"]);
    shop.reserve("r", &[("p", 2)]).problem(422, "reservation_reused");
    assert_eq!(shop.numbers("p"), [6, 5, 1]);
}

#[test]
fn what_cannot_be_is_refused_and_said() {
    let shop = Shop::new();
    let sell = |delta: i32, reason| shop.update("prod_001", delta, reason);
    sell(-101, "sold").problem(409, "out_of_stock");
    sell(5, "sold").problem(422, "unexpected_json");
    let add = json!({"product_id": "prod_001", "warehouse": "MUM_WH_001", "quantity": 1});
    shop.command("add_product", &add).problem(409, "already_added");
    shop.update("nothing", 1, "restocking").problem(404, "unknown_product");
    let elsewhere =
        json!({"product_id": "prod_001", "warehouse": "DEL_WH_001", "delta": 1, "reason": "returned"});
    shop.command("update_quantity", &elsewhere).problem(404, "unknown_warehouse");
    shop.reserve("r", &[("nothing", 1)]).problem(409, "out_of_stock");
    shop.reserve("r", &[("prod_001", 100_001)]).problem(422, "unexpected_json");
    shop.reserve("r", &[]).problem(422, "unexpected_json");
    post("/inventory/commands/add_product", &add)
        .send(shop.commands.at)
        .problem(400, "idempotency_key_missing");
    get("/internal/feed?limit=501").send(shop.commands.at).problem(422, "limit_out_of_bounds");
    post("/inventory/levels", &add).send(shop.queries.at).problem(405, "method_not_allowed");
    assert_eq!(shop.numbers("prod_001"), [100, 100, 0], "as it was sown");
}

#[test]
fn both_sides_end_on_sigterm() {
    let mut shop = Shop::new();
    for service in [&mut shop.queries, &mut shop.commands] {
        service.process.signal(Signal::TERM);
        assert_eq!(service.process.end().code(), Some(0));
    }
}
