//! The services of an order killed at every record that they write, while an order comes to be and while it is undone.
//!
//! Each time one of them dies by `SIGKILL` after so many half commits: just before a commit, when all that it was for is done and
//! nothing of it is written down, or just after it. Then it comes back on its file, and its customer asks again. It is over with a
//! service once it lives through the whole of it.

use std::{thread, time::Duration};

use bazaar::demo::books::Books;

use crate::{process::eventually, shopping::Shop, world::NOON};

/// Tea, and its delivery.
const PRICE: i64 = 52_500;

/// What an order goes through while somebody dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum While {
    /// It is placed, and paid at once.
    Placed,
    /// It is called off before it is sent.
    Cancelled,
    /// It is sent back after it has arrived.
    Returned,
}

impl While {
    /// What there is to die in, and how many commits each of them makes at least.
    const fn victims(self) -> [(&'static str, u32); 4] {
        match self {
            Self::Placed => [("order", 8), ("payment", 8), ("inventory", 2), ("bank", 2)],
            Self::Cancelled | Self::Returned => [("order", 4), ("payment", 8), ("inventory", 1), ("bank", 2)],
        }
    }

    /// As in the path.
    const fn word(self) -> &'static str {
        match self {
            Self::Placed => "",
            Self::Cancelled => "cancel",
            Self::Returned => "return",
        }
    }

    /// What people are told of an order, once each.
    const fn told(self) -> &'static [&'static str] {
        match self {
            Self::Placed => &["merchant_paid", "order_confirmed", "payment_received"],
            Self::Cancelled => &[
                "merchant_paid",
                "merchant_reversed",
                "order_cancelled",
                "order_confirmed",
                "payment_received",
                "payment_refunded",
            ],
            Self::Returned => &[
                "merchant_paid",
                "merchant_reversed",
                "order_confirmed",
                "order_returned",
                "payment_received",
                "payment_refunded",
            ],
        }
    }
}

/// Asks for it, whether anybody is there or not.
fn place(shop: &Shop, key: &str) -> Option<String> {
    let placed = Shop::place("asha", key, &Shop::paid_wish(1, "asha@bank")).attempt(shop.order.at).ok()?;
    let is_through = placed.status == 201 && placed.body["state"] == "processing";
    is_through.then(|| placed.said("order_id"))
}

/// Asks until it is there.
fn insist(shop: &Shop, what: &str, mut ask: impl FnMut(&Shop) -> Option<String>) -> String {
    let came = (0..400).find_map(|_| {
        let came = ask(shop);
        if came.is_none() {
            thread::sleep(Duration::from_millis(50));
        }
        came
    });
    came.unwrap_or_else(|| panic!("{what}: nothing comes of it: {}", shop.story()))
}

/// An order that is ready to be undone.
fn prepare(shop: &Shop, during: While, key: &str) -> String {
    let order_id = insist(shop, key, |shop| place(shop, key));
    if during == While::Returned {
        for state in ["shipped", "out_for_delivery", "delivered"] {
            shop.progress(&order_id, state).expect(200);
        }
    }
    shop.await_quiet();
    order_id
}

/// Kills each of them at everything that it writes meanwhile, and looks at the books each time.
fn kill_at_every_record(during: While) {
    let mut shop = Shop::new();
    let mut orders = 0;
    for (victim, commits) in during.victims() {
        for half_commits in 0.. {
            let key = format!("{victim}{half_commits}");
            let what = format!("{during:?}, {victim} after {half_commits} half commits");
            orders += 1;
            let prepared = (during != While::Placed).then(|| prepare(&shop, during, &key));
            shop.restart_to_die(victim, half_commits);
            let is_dead = let_it_die(&mut shop, victim, during, &key, prepared.as_deref());
            shop.restart(victim, NOON, &[]);
            match prepared {
                None => insist(&shop, &what, |shop| place(shop, &key)),
                Some(order_id) => insist(&shop, &what, |shop| undo(shop, during, &order_id)),
            };
            shop.await_quiet();
            assert_books(&shop, during, orders, &what);
            if !is_dead {
                assert!(half_commits > 2 * commits, "{what}: it has written nothing more");
                break;
            }
        }
    }
}

/// Whether it died of it. It may also die after the answer, while people are told.
fn let_it_die(shop: &mut Shop, victim: &str, during: While, key: &str, prepared: Option<&str>) -> bool {
    let at = shop.order.at;
    let ask = match prepared {
        None => Shop::place("asha", key, &Shop::paid_wish(1, "asha@bank")),
        Some(order_id) => Shop::calling_off("asha", order_id, during.word()),
    };
    let ask = thread::spawn(move || ask.attempt(at).is_ok());
    eventually("it dies, or all is quiet", || {
        let is_over = shop.service(victim).is_dead() || ask.is_finished() && shop.is_quiet();
        is_over.then_some(())
    });
    // Who gets no answer hears of the death before the system tells of it.
    if ask.is_finished() && !ask.join().unwrap() {
        eventually("it is dead", || shop.service(victim).is_dead().then_some(()));
    }
    shop.service(victim).is_dead()
}

/// Calls it off again, until it is.
fn undo(shop: &Shop, during: While, order_id: &str) -> Option<String> {
    let again = Shop::calling_off("asha", order_id, during.word()).attempt(shop.order.at).ok()?;
    let is_over =
        again.body["state"] == "refunded" || shop.order("asha", order_id).body["state"] == "refunded";
    is_over.then(|| order_id.to_owned())
}

#[track_caller]
fn assert_books(shop: &Shop, during: While, orders: i64, what: &str) {
    let kept = if during == While::Placed { orders } else { 0 };
    assert_eq!(shop.taken(), kept * PRICE, "{what}: charges less refunds");
    assert_eq!(shop.gone(), kept, "{what}: tea that has left, or is held");
    assert_eq!(shop.count("bank", "SELECT count(*) FROM movements WHERE entry = 'charge'"), orders, "{what}");
    assert_eq!(shop.count("order", "SELECT count(*) FROM orders"), orders, "{what}");
    let books = Books::of(shop.data.path());
    for (of, came) in [
        ("sagas", books.sagas()),
        ("money", books.money()),
        ("ledger", books.ledger()),
        ("goods", books.goods()),
        ("notifications", books.notifications()),
    ] {
        assert!(came.is_ok(), "{what}: {of}: {came:?}");
    }
    let once =
        "SELECT count(*) FROM (SELECT template FROM notifications GROUP BY template HAVING count(*) = ";
    let once = format!("{once}{orders})");
    let told = i64::try_from(during.told().len()).unwrap();
    let sent = shop.count("notification", "SELECT count(*) FROM sent");
    assert_eq!(
        (shop.count("notification", &once), sent),
        (told, told * orders),
        "{what}: {:?}",
        during.told()
    );
}

#[test]
fn r4_4_killed_at_every_record_each_order_is_paid_once_and_sent_once() {
    kill_at_every_record(While::Placed);
}

#[test]
fn r4_4_killed_at_every_record_of_a_cancellation_all_of_it_is_given_back() {
    kill_at_every_record(While::Cancelled);
}

#[test]
fn r4_4_killed_at_every_record_of_a_return_all_of_it_is_given_back() {
    kill_at_every_record(While::Returned);
}
