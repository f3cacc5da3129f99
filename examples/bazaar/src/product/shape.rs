//! How a product looks, in each version of the interface.
//!
//! - **v1** is flat: `{product_id, name, description, price, mrp, …}`.
//! - **v2** has all about the price in `price`: `{amount, mrp, discount_percent, currency, taxable_value, gst: {percent, amount}}`.
//! - **v3** is as v2, with `name` and `description` in both languages, and in `availability` each city that the shop serves.

use serde_json::{Value, json};

use super::{Api, record::Product};
use crate::rules::{
    address::City,
    language::Language,
    moment::Moment,
    money::{Factor, Money},
    tax::{self, Parts},
};

/// The product in that version; `at` decides the tax.
pub fn show(product: &Product, api: Api, language: Language, at: Moment) -> Value {
    let Product { product_id, name, description, price, mrp, category, hsn, .. } = product;
    let Product { cod, fragile, all_india, cities, max_quantity, .. } = product;
    let discount_percent = discount(*price, *mrp);
    let mut shown = json!({
        "product_id": product_id,
        "category": category,
        "hsn": hsn,
        "cod": cod,
        "fragile": fragile,
        "max_quantity": max_quantity,
    });
    let mut add = |more: Value| {
        if let (Value::Object(shown), Value::Object(more)) = (&mut shown, more) {
            shown.extend(more);
        }
    };
    if api == Api::V1 {
        add(json!({
            "price": price, "mrp": mrp, "discount_percent": discount_percent, "currency": "INR",
        }));
    } else {
        let rate = tax::rate(hsn, *category, *price, at);
        let Parts { taxable, tax } = rate.within(*price);
        add(json!({ "price": {
            "amount": price,
            "mrp": mrp,
            "discount_percent": discount_percent,
            "currency": "INR",
            "taxable_value": taxable,
            "gst": {"percent": rate, "amount": tax},
        }}));
    }
    if api == Api::V3 {
        let each = City::ALL.map(|city| {
            json!({"city": city, "served": product.is_served_in(city), "same_day": city.is_same_day()})
        });
        add(json!({
            "name": name,
            "description": description,
            "availability": {"all_india": all_india, "cities": each},
        }));
    } else {
        add(json!({
            "name": name.of(language),
            "description": description.of(language),
            "all_india": all_india,
            "cities": cities,
        }));
    }
    shown
}

/// How much less than the maximum retail price that is, in percent, rounded half up to tenths.
pub fn discount(price: Money, mrp: Money) -> Factor {
    let (price, mrp) = (i128::from(price.paise()), i128::from(mrp.paise()).max(1));
    let tenths = ((mrp - price) * 2_000 + mrp).div_euclid(mrp * 2);
    Factor::from_tenths(u16::try_from(tenths).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_discounts() {
        let golden = [
            ("65999.00", "69999.00", "5.7"),
            ("1299.00", "1599.00", "18.8"),
            ("485.00", "500.00", "3.0"),
            ("2499.00", "2999.00", "16.7"),
            ("500.00", "500.00", "0.0"),
            ("0.01", "500.00", "100.0"),
        ];
        for (price, mrp, expected) in golden {
            let [price, mrp] = [price, mrp].map(|it| it.parse().unwrap());
            assert_eq!(discount(price, mrp).to_string(), expected, "{price} of {mrp}");
        }
    }
}
