//! One order as one trace, through the gateway and the services behind it, each a process of its own.
//!
//! Trees are written as [`Tree::drawn`] draws them: each span below its parent, `→` where it asks somebody else, `!` if it has failed.
//! What an order is refused for on purpose (409, 402) is a failure of whoever asked for it, and of the step of the saga; not of whoever
//! has refused. What breaks (500) is one all the way up to who gave it up.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    collector::{Collector, Tree},
    gateways::{Bazaar, token},
    http::{Answer, post},
    process::PATIENCE,
    world::NOON,
};

/// Paid at once, and on its way.
const OK: &str = "
gateway POST /api/orders
  gateway POST →
    order POST /api/orders
      order GET →
        product GET /internal/products
      order GET →
        user GET /internal/users/{user_id}
      order POST order process_payment
        order POST →
          payment POST /api/payments
            payment GET →
              order GET /internal/orders/{order_id}
            payment POST payment check_fraud
            payment POST payment check_kyc
              payment GET →
                user GET /internal/users/{user_id}
            payment POST payment notify_merchant
              payment POST →
                notification POST /notifications
            payment POST payment process_payment
              payment PUT →
                bank PUT /charges/{key}
            payment POST payment reserve_funds
              payment PUT →
                bank PUT /holds/{key}
            payment POST payment send_receipt
              payment POST →
                notification POST /notifications
                  notification GET →
                    user GET /internal/users/{user_id}
            payment POST payment update_analytics
            payment POST payment update_wallet
            payment POST payment validate_merchant
            payment POST payment validate_user
              payment GET →
                user GET /internal/users/{user_id}
            payment POST tell order
              payment POST →
                order POST /events
      order POST order reserve_inventory
        order POST →
          inventory POST /inventory/commands/reserve
      order POST order send_confirmation
        order POST →
          notification POST /notifications
            notification GET →
              user GET /internal/users/{user_id}
      order POST order ship_order
        order POST →
          inventory POST /inventory/commands/release
      order POST order validate_order
        order GET →
          user GET /internal/users/{user_id}
";

/// There is none of it: nobody is asked for money, and nothing was held that could be released.
const CONFLICT: &str = "
gateway POST /api/orders
  gateway POST → !
    order POST /api/orders
      order GET →
        product GET /internal/products
      order GET →
        user GET /internal/users/{user_id}
      order POST order reserve_inventory !
        order POST → !
          inventory POST /inventory/commands/reserve
      order POST order undo validate_order
      order POST order validate_order
        order GET →
          user GET /internal/users/{user_id}
";

/// The bank has held the money, and then declined the charge.
const PAYMENT_REQUIRED: &str = "
gateway POST /api/orders
  gateway POST → !
    order POST /api/orders
      order GET →
        product GET /internal/products
      order GET →
        user GET /internal/users/{user_id}
      order POST order process_payment !
        order POST → !
          payment POST /api/payments
            payment GET →
              order GET /internal/orders/{order_id}
            payment POST payment check_fraud
            payment POST payment check_kyc
              payment GET →
                user GET /internal/users/{user_id}
            payment POST payment process_payment !
              payment PUT → !
                bank PUT /charges/{key}
            payment POST payment reserve_funds
              payment PUT →
                bank PUT /holds/{key}
            payment POST payment undo check_fraud
            payment POST payment undo check_kyc
            payment POST payment undo reserve_funds
              payment DELETE →
                bank DELETE /holds/{key}
            payment POST payment undo validate_merchant
            payment POST payment undo validate_user
            payment POST payment validate_merchant
            payment POST payment validate_user
              payment GET →
                user GET /internal/users/{user_id}
            payment POST tell order
              payment POST →
                order POST /events
      order POST order reserve_inventory
        order POST →
          inventory POST /inventory/commands/reserve
      order POST order undo process_payment
        order POST →
          payment POST /internal/payments/{order_id}/refund
      order POST order undo reserve_inventory
        order POST →
          inventory POST /inventory/commands/release
      order POST order undo validate_order
      order POST order validate_order
        order GET →
          user GET /internal/users/{user_id}
";

/// The bank answers 500, four times: payment gives it up, and so do all above it.
const BROKEN: &str = "
gateway POST /api/orders !
  gateway POST → !
    order POST /api/orders !
      order GET →
        product GET /internal/products
      order GET →
        user GET /internal/users/{user_id}
      order POST order process_payment !
        order POST → !
          payment POST /api/payments !
            payment GET →
              order GET /internal/orders/{order_id}
            payment POST payment check_fraud
            payment POST payment check_kyc
              payment GET →
                user GET /internal/users/{user_id}
            payment POST payment process_payment !
              payment GET →
                bank GET /charges/{key}
              payment PUT → !
                bank PUT /charges/{key} !
            payment POST payment process_payment !
              payment GET →
                bank GET /charges/{key}
              payment PUT → !
                bank PUT /charges/{key} !
            payment POST payment process_payment !
              payment GET →
                bank GET /charges/{key}
              payment PUT → !
                bank PUT /charges/{key} !
            payment POST payment process_payment !
              payment PUT → !
                bank PUT /charges/{key} !
            payment POST payment reserve_funds
              payment PUT →
                bank PUT /holds/{key}
            payment POST payment undo check_fraud
            payment POST payment undo check_kyc
            payment POST payment undo process_payment
              payment PUT →
                bank PUT /charges/{key}/refund
            payment POST payment undo reserve_funds
              payment DELETE →
                bank DELETE /holds/{key}
            payment POST payment undo validate_merchant
            payment POST payment undo validate_user
            payment POST payment validate_merchant
            payment POST payment validate_user
              payment GET →
                user GET /internal/users/{user_id}
            payment POST tell order
              payment POST →
                order POST /events
      order POST order reserve_inventory
        order POST →
          inventory POST /inventory/commands/reserve
      order POST order undo process_payment
        order POST →
          payment POST /internal/payments/{order_id}/refund
      order POST order undo reserve_inventory
        order POST →
          inventory POST /inventory/commands/release
      order POST order undo validate_order
      order POST order validate_order
        order GET →
          user GET /internal/users/{user_id}
";

fn order(product: &str, account: &str) -> Value {
    json!({
        "items": [{"product_id": product, "quantity": 1}],
        "address": {"line": "12 Hill Road", "city": "mumbai", "pincode": "400050"},
        "payment_method": "upi", "payment": {"method": "upi", "account": account},
    })
}

#[test]
fn r8_7_an_order_is_one_tree_through_all_processes_for_201_409_402_and_500() {
    let collector = Collector::start();
    let mut bazaar = Bazaar::telling("shop", NOON, collector.at, |yaml, _| {
        let at = collector.at;
        let tracing = format!("tracing: {{otlp: 'http://{at}', trust_parent: always}}");
        let telemetry = format!("gateway:\n  telemetry: {{service: gateway, {tracing}}}\n");
        yaml.replacen("gateway:\n", &telemetry, 1)
    });
    let asha = token(bazaar.data.path(), "asha");
    let all_of_them = json!({
        "reservation_id": "somebody-else", "hold_seconds": 900, "items": [{"product_id": "prod_001", "quantity": 100}],
    });
    let reserve = post("/inventory/commands/reserve", &all_of_them).header("idempotency-key", "all");
    reserve.send(bazaar.at["inventory"]).expect(200);

    let cases = [
        ("prod_003", "asha@bank", 201, "", OK),
        ("prod_001", "asha@bank", 409, "out_of_stock", CONFLICT),
        ("prod_003", "declined@bank", 402, "payment_refused", PAYMENT_REQUIRED),
        ("prod_003", "broken@bank", 503, "payment_unavailable", BROKEN),
    ];
    let mut trees = Vec::new();
    for (number, (product, account, status, reason, expected)) in (1..).zip(cases) {
        let asked = Tree::new(number);
        let ask = post("/api/orders", &order(product, account)).header("authorization", &asha);
        let ask = ask.header("idempotency-key", &format!("key-{number}"));
        let answer: Answer = bazaar.send(&ask.header("traceparent", &asked.traceparent())).expect(status);
        assert_eq!(answer.body["reason"].as_str().unwrap_or_default(), reason, "{}", answer.text);
        trees.push((asked, expected));
    }
    // Receipts, confirmations and what is undone come after the answer; then who stops tells all that is left to be told.
    let is_there = |(asked, expected): &(Tree, &str)| {
        collector.so_far(asked).spans.len() >= expected.trim().lines().count()
    };
    for _ in 0..PATIENCE.as_millis() / 100 {
        if trees.iter().all(is_there) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    bazaar.stop();
    for (asked, expected) in &trees {
        let drawn = collector.so_far(asked).drawn();
        assert_eq!(drawn.trim(), expected.trim(), "it is\n{drawn}and should have been{expected}");
    }
    let broken = collector.so_far(&trees[3].0);
    let statuses = broken.spans.iter().filter(|it| it.name == "PUT /charges/{key}");
    let statuses = statuses.map(|it| it.says("http.response.status_code")).collect::<Vec<_>>();
    assert_eq!(statuses, [Some("500"); 4]);
}
