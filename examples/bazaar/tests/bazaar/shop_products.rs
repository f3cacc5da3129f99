//! The catalogue: three versions, two languages, and what is sold where.

use serde_json::{Value, json};

use crate::{
    http::{Answer, get},
    world::{NOON, Service},
};

struct Products {
    service: Service,
    _data: tempfile::TempDir,
}

impl Products {
    fn start(api: &str) -> Self {
        Self::start_at(api, NOON)
    }

    fn start_at(api: &str, now: &str) -> Self {
        let data = tempfile::tempdir().unwrap();
        Self { service: Service::start("product", data.path(), None, now, &["--api", api]), _data: data }
    }

    fn get(&self, path: &str) -> Answer {
        get(path).send(self.service.at)
    }

    fn ids(&self, path: &str) -> Vec<String> {
        let answer = self.get(path).expect(200);
        let products = answer.body["products"].as_array().unwrap();
        products.iter().map(|it| it["product_id"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn each_version_has_its_shape() {
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(Products::start);
    let path = "/api/products/prod_001?lang=en";
    let flat = v1.get(path).expect(200);
    assert_eq!(
        flat.body,
        json!({
            "product_id": "prod_001", "name": "OnePlus 12",
            "description": "Smartphone with 16 GB of memory and 512 GB of storage",
            "price": "65999.00", "mrp": "69999.00", "discount_percent": "5.7", "currency": "INR",
            "category": "electronics", "hsn": "8517", "cod": false, "fragile": true, "max_quantity": 2,
            "all_india": false, "cities": ["mumbai", "delhi", "bangalore", "pune"],
        })
    );
    let grouped = v2.get(path).expect(200).body;
    assert_eq!(grouped["name"], "OnePlus 12");
    assert_eq!(
        grouped["price"],
        json!({
            "amount": "65999.00", "mrp": "69999.00", "discount_percent": "5.7", "currency": "INR",
            "taxable_value": "55931.36", "gst": {"percent": 18, "amount": "10067.64"},
        })
    );
    assert_eq!(grouped["mrp"], Value::Null, "it is in the price");
    let both = v3.get(path).expect(200).body;
    assert_eq!(
        (&both["name"], &both["price"]),
        (&json!({"en": "OnePlus 12", "hi": "वनप्लस 12"}), &grouped["price"])
    );
    let cities = both["availability"]["cities"].as_array().unwrap();
    let of = |city: &str| cities.iter().find(|it| it["city"] == city).unwrap().clone();
    assert_eq!(of("pune"), json!({"city": "pune", "served": true, "same_day": false}));
    assert_eq!(of("jaipur")["served"], false);
}

#[test]
fn r15_3_the_tax_of_a_price_is_that_of_its_day() {
    let [before, after] = ["2025-09-21T23:00+05:30", "2025-09-22T00:00+05:30"].map(|now| {
        let gst =
            Products::start_at("v2", now).get("/api/products/prod_002").expect(200).body["price"].clone();
        assert_eq!(gst["amount"], "1299.00", "prices are with tax");
        gst["gst"].clone()
    });
    assert_eq!(before, json!({"percent": 12, "amount": "139.18"}));
    assert_eq!(after, json!({"percent": 5, "amount": "61.86"}));
}

#[test]
fn r15_4_what_is_not_sold_in_a_city_is_not_found_there() {
    let products = Products::start("v1");
    products.get("/api/products/prod_002?city=jaipur").expect(200);
    products.get("/api/products/prod_003?city=chennai").expect(200);
    let elsewhere = products.get("/api/products/prod_002?city=pune").problem(404, "not_served_here");
    assert_eq!(elsewhere.body["served"], json!(["mumbai", "delhi", "jaipur"]));
    products.get("/api/products/prod_003?city=surat").problem(404, "not_served_here");
    products.get("/api/products/prod_999").problem(404, "unknown_product");

    assert_eq!(products.ids("/api/products?city=nashik"), ["prod_003", "prod_004"]);
    assert_eq!(products.ids("/api/products?city=Mumbai&category=home"), ["prod_004"]);
    assert_eq!(products.ids("/api/products?ids=prod_004,prod_001,x"), ["prod_001", "prod_004"]);
    assert_eq!(products.ids("/api/products?category=books"), [""; 0]);
}

#[test]
fn pages_follow_one_another() {
    let products = Products::start("v1");
    let page = |number| products.ids(&format!("/api/products?limit=3&page={number}"));
    assert_eq!(page(1), ["prod_001", "prod_002", "prod_003"]);
    assert_eq!(page(2), ["prod_004"]);
    assert_eq!(page(3), [""; 0]);
    let first = products.get("/api/products").expect(200).body;
    assert_eq!((&first["page"], &first["limit"], &first["total"]), (&json!(1), &json!(20), &json!(4)));
    for limit in ["0", "101", "-1"] {
        assert_eq!(products.get(&format!("/api/products?limit={limit}")).status, 422, "{limit}");
    }
    products.get("/api/products?page=0").problem(422, "invalid_page");
    products.get("/api/products?page=4294967295&limit=100").problem(422, "invalid_page");
}

#[test]
fn names_are_in_the_language_that_is_asked_for() {
    let products = Products::start("v1");
    let path = "/api/products/prod_003";
    let of = |accept: &str| get(path).header("accept-language", accept).send(products.service.at).expect(200);
    assert_eq!(products.get(path).said("name"), "टाटा टी गोल्ड 1 किलो");
    let english = of("mr, en-IN;q=0.9, hi;q=0.8");
    assert_eq!(english.said("name"), "Tata Tea Gold 1 kg");
    assert!(english.head.contains("content-language: en") && english.head.contains("vary: accept-language"));
    assert!(of("hi").head.contains("content-language: hi"));
    let said = get(&format!("{path}?lang=en")).header("accept-language", "hi").send(products.service.at);
    assert_eq!(said.expect(200).said("name"), "Tata Tea Gold 1 kg");
    products.get(&format!("{path}?lang=mr")).problem(422, "unknown_language");
}

#[test]
fn a_search_finds_words_of_both_languages() {
    let products = Products::start("v1");
    // कुर्ता; चाय; कुकर इलेक्ट्रिक
    let [kurta, tea, cooker] = ["कुर्ता", "चाय", "कुकर इलेक्ट्रिक"].map(percent);
    assert_eq!(products.ids(&format!("/api/search?q={kurta}")), ["prod_002"]);
    assert_eq!(products.ids(&format!("/api/search?q={tea}&lang=en")), ["prod_003"]);
    assert_eq!(products.ids(&format!("/api/search?q={cooker}")), ["prod_004"]);
    assert_eq!(products.ids(&format!("/api/search?q=tata%20{tea}")), ["prod_003"], "of both at once");
    assert_eq!(products.ids("/api/search?q=KURTA"), ["prod_002"]);
    assert_eq!(products.ids("/api/search?q=grocery"), ["prod_003"]);
    assert_eq!(products.ids("/api/search?q=kurta%20tea"), [""; 0]);
    assert_eq!(products.ids("/api/search?q=e&limit=2"), ["prod_001", "prod_003"], "in a name first");
    assert_eq!(products.ids("/api/search?q=e&city=jaipur"), ["prod_003", "prod_002"]);
    products.get("/api/search?q=").problem(422, "invalid_text");
    products.get("/api/search").problem(422, "unexpected_query");
    products.get(&format!("/api/search?q={}", "x".repeat(101))).problem(422, "invalid_text");
    products.get("/api/search?q=a+b+c+d+e+f+g+h+i").problem(422, "too_many_words");
    products.get("/api/search?q=tea&category=toys").problem(422, "unknown_category");
    products.get("/api/search?q=tea&city=surat").problem(422, "city_not_served");
}

#[test]
fn other_services_see_the_same_in_all_versions() {
    let versions = ["v1", "v2", "v3"].map(Products::start);
    let path = "/internal/products?ids=prod_003,prod_999,prod_001,prod_003";
    let [first, rest @ ..] = versions.each_ref().map(|it| it.get(path).expect(200).body);
    assert_eq!(first["missing"], json!(["prod_999"]));
    assert_eq!(
        first["products"][0],
        json!({
            "product_id": "prod_003", "name": {"en": "Tata Tea Gold 1 kg", "hi": "टाटा टी गोल्ड 1 किलो"},
            "price": "485.00", "mrp": "500.00", "category": "grocery", "hsn": "0902", "cod": true,
            "fragile": false, "all_india": true, "cities": [], "max_quantity": 20,
        })
    );
    assert_eq!(first["products"][1]["product_id"], "prod_001");
    for other in rest {
        assert_eq!(other, first);
    }
    let many = (0..101).map(|it| format!("p{it}")).collect::<Vec<_>>().join(",");
    versions[0].get(&format!("/internal/products?ids={many}")).problem(422, "too_many_ids");
    versions[0].get("/internal/products?ids=").problem(422, "invalid_id");
    versions[0].get("/internal/products").problem(422, "unexpected_query");
}

/// As a query writes it.
fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat()
}
