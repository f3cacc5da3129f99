//! Whose file is whose: as the system tells it of each process of `bazaar up`.

use std::{collections::BTreeSet, fs, path::Path};

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::{
    gateways::{Bazaar, book, token},
    http::{get, post},
    process::eventually,
    shopping::Shop,
    world::{NOON, trip},
};

/// Every service, and what shows that it has written to its file. All of them do in this test, but for the catalogues and the prices:
/// those are written to when the file is made, and only read from then on.
const SERVICES: [(&str, &str); 15] = [
    ("user", "users WHERE user_id = 'meera'"),
    ("product", "products"),
    ("product-v2", "products"),
    ("product-v3", "products"),
    ("inventory", "reservations WHERE state = 'completed'"),
    ("inventory-query", "movements WHERE kind = 'reservation_released'"),
    ("order", "orders"),
    ("payment", "payments"),
    ("notification", "sent"),
    ("bank", "movements"),
    ("restaurant", "orders"),
    ("pricing", "secret"),
    ("driver", "assignments"),
    ("booking", "rides"),
    ("tracking", "rides"),
];

/// Keeps nothing, and has no file.
const WITHOUT: &str = "gateway";

/// The databases that a process has open, with what SQLite keeps beside them.
fn open(pid: u32) -> BTreeSet<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let files = open.filter_map(|it| fs::read_link(it.ok()?.path()).ok());
    files.filter(|it| is_database(it)).map(|it| it.display().to_string()).collect()
}

fn is_database(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().contains(".db"))
}

fn count(file: &Path, of: &str) -> u32 {
    let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    file.query_row(&format!("SELECT count(*) FROM {of}"), (), |row| row.get(0)).unwrap()
}

/// Has everybody write something.
fn use_all(bazaar: &Bazaar) {
    let at = |name: &str| bazaar.at[name];
    let meera = json!({
        "user_id": "meera", "password": "a long enough secret", "name": "Meera Nair", "city": "Chennai",
        "language": "en", "phone": "+919840011122", "email": "meera.nair@example.com",
    });
    // Past the gateway, which waits three seconds: without optimisation a hash may take longer.
    post("/api/auth/register", &meera).send(at("user")).expect(201);
    for name in ["product", "product-v2", "product-v3"] {
        get("/api/products/prod_003").send(at(name)).expect(200);
    }
    let asha = token(bazaar.data.path(), "asha");
    let order = post("/api/orders", &Shop::paid_wish(1, "asha@bank")).header("authorization", &asha);
    bazaar.send(&order.header("idempotency-key", "1")).expect(201);
    let meal = post("/api/restaurants/tanjore/orders", &json!({"items": [{"dish": "Idli", "quantity": 2}]}));
    bazaar.send(&meal.header("authorization", &asha).header("idempotency-key", "1")).expect(201);
    let quote = bazaar.send(&post("/api/rides/estimate", &trip("mini"))).expect(200);
    bazaar.send(&book(&asha, "1", &quote.said("quote_id"))).expect(201);
}

#[test]
fn r12_1_each_service_has_its_own_file_open_and_no_other() {
    let bazaar = Bazaar::everything(NOON);
    use_all(&bazaar);
    let folder = bazaar.data.path().canonicalize().unwrap();
    for (name, of) in SERVICES {
        let file = folder.join(format!("{name}.db"));
        eventually(&format!("{name} has written"), || (count(&file, of) > 0).then_some(()));
        let its = ["", "-shm", "-wal"].map(|end| format!("{}{end}", file.display()));
        assert_eq!(open(bazaar.pid(name)), BTreeSet::from(its), "{name}");
    }
    assert_eq!(open(bazaar.pid(WITHOUT)), BTreeSet::new(), "{WITHOUT} has no file");
    let all = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path());
    let all = all.filter(|it| it.extension().is_some_and(|it| it == "db")).collect::<BTreeSet<_>>();
    let expected = SERVICES.map(|(name, _)| folder.join(format!("{name}.db")));
    assert_eq!(all, expected.into(), "there is no file of nobody");
}
