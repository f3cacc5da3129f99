//! What an order is and costs: the catalogue's prices, the customer, the rules.

use aws_lc_rs::digest::{SHA256, digest as sha};
use axum::http::{Method as Verb, StatusCode};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::life::{Line, Placed};
use crate::{
    kernel::{ask, id, peer::Peer, problem::Problem, text},
    rules::{
        address::{Address, City},
        category::Category,
        language::Language,
        moment::Moment,
        money::Money,
        shipping::{self, Parcel, Promise, Tier},
        tax::{self, Invoice},
    },
};

/// How many products an order may have.
pub const ITEMS: usize = 20;

/// What is wanted of a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Which.
    pub product_id: String,
    /// How many.
    pub quantity: u32,
}

/// Who orders, as the user service tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Customer {
    /// In which language they are told of it.
    pub language: Language,
    /// How well they are served.
    pub tier: Tier,
}

impl Customer {
    /// Asks for one.
    ///
    /// # Errors
    /// 403 `unknown_user` if there is none; 503 if the service does not answer.
    pub async fn ask(user: &Peer, user_id: &str) -> Result<Self, Problem> {
        let unknown =
            || Problem::new(StatusCode::FORBIDDEN, "unknown_user", "only users of the shop can order");
        if !text::is_path_part(user_id) {
            return Err(unknown());
        }
        let answer = user.ask(Verb::GET, &format!("/internal/users/{user_id}"), None::<&()>).await?;
        match answer.status {
            StatusCode::OK => Ok(user.read(&answer)?),
            StatusCode::NOT_FOUND => Err(unknown()),
            _ => Err(user.unexpected(&answer).into()),
        }
    }
}

/// A product, as the catalogue tells it.
#[derive(Clone, Debug, Deserialize)]
struct Product {
    #[serde(rename = "product_id")]
    id: String,
    name: Name,
    price: Money,
    category: Category,
    hsn: String,
    cod: bool,
    fragile: bool,
    all_india: bool,
    cities: Vec<City>,
    max_quantity: u32,
}

#[derive(Clone, Debug, Deserialize)]
struct Name {
    en: String,
    hi: String,
}

/// Some products.
#[derive(Clone, Debug, Deserialize)]
pub struct Products {
    products: Vec<Product>,
    missing: Vec<String>,
}

/// What an order is and costs.
#[derive(Clone, Debug)]
pub struct Basket {
    /// What.
    pub lines: Vec<Line>,
    /// What delivery costs.
    pub shipping: Money,
    /// All of it.
    pub total: Money,
    /// Whether all of it may be paid on delivery.
    pub cod: bool,
    /// When it arrives.
    pub promise: Promise,
}

impl Products {
    /// Asks for those that are wanted.
    ///
    /// # Errors
    /// 422 for what nobody can order; 503 if the catalogue does not answer.
    pub async fn ask(product: &Peer, items: &[Item]) -> Result<Self, Problem> {
        if items.is_empty() || items.len() > ITEMS {
            let detail = format!("an order is of 1 to {ITEMS} products");
            return Err(ask::unprocessable("invalid_items", detail));
        }
        let is_id = |id: &str| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        for (number, item) in items.iter().enumerate() {
            if items[..number].iter().any(|it| it.product_id == item.product_id) {
                let detail = format!("{} is in it twice: say once how many", item.product_id);
                return Err(ask::unprocessable("invalid_items", detail));
            }
            if !is_id(&item.product_id) {
                return Err(unknown_product());
            }
        }
        let ids = items.iter().map(|it| it.product_id.as_str()).collect::<Vec<_>>().join(",");
        let answer = product.ask(Verb::GET, &format!("/internal/products?ids={ids}"), None::<&()>).await?;
        if answer.status != StatusCode::OK {
            return Err(product.unexpected(&answer).into());
        }
        Ok(product.read(&answer)?)
    }

    /// What they are and cost together.
    ///
    /// # Errors
    /// 422 for what is not sold, not so often, or not there.
    pub fn basket(
        &self,
        items: &[Item],
        address: &Address,
        customer: &Customer,
        is_express: bool,
        now: Moment,
    ) -> Result<Basket, Problem> {
        if !self.missing.is_empty() {
            return Err(unknown_product().with("missing", json!(self.missing)));
        }
        let mut lines = Vec::new();
        let (mut cod, mut is_delicate) = (true, false);
        for item in items {
            let found = self.products.iter().find(|it| it.id == item.product_id);
            let product = found.ok_or_else(unknown_product)?;
            let at = |reason, detail| {
                ask::unprocessable(reason, detail).with("product_id", json!(item.product_id))
            };
            if !(1..=product.max_quantity).contains(&item.quantity) {
                let most = product.max_quantity;
                return Err(at("invalid_quantity", format!("one can order 1 to {most} of it at a time")));
            }
            if !product.all_india && !product.cities.contains(&address.city) {
                return Err(at("not_served_here", format!("it is not sold in {}", address.city)));
            }
            cod &= product.cod;
            is_delicate |= product.fragile || product.category == Category::Electronics;
            let name = if customer.language == Language::Hi { &product.name.hi } else { &product.name.en };
            lines.push(Line {
                product_id: product.id.clone(),
                name: name.clone(),
                hsn: product.hsn.clone(),
                category: product.category,
                price: product.price,
                quantity: item.quantity,
            });
        }
        let too_much = |_| ask::unprocessable("amount_too_large", "that is more than can be paid".to_owned());
        let goods = tax::invoice(&goods(&lines), Money::default(), address.state, now).map_err(too_much)?;
        let parcel = Parcel { subtotal: goods.total, is_delicate, is_express };
        let shipping = shipping::charge(parcel);
        let all = tax::invoice(&self::goods(&lines), shipping, address.state, now).map_err(too_much)?;
        let promise = shipping::promise(address.city, customer.tier, is_express);
        Ok(Basket { lines, shipping, total: all.total, cod, promise })
    }
}

fn unknown_product() -> Problem {
    ask::unprocessable("unknown_product", "the catalogue has no such product".to_owned())
}

fn goods(lines: &[Line]) -> Vec<tax::Item> {
    let item = |line: &Line| tax::Item {
        product_id: line.product_id.clone(),
        hsn: line.hsn.clone(),
        category: line.category,
        price: line.price,
        quantity: line.quantity,
    };
    lines.iter().map(item).collect()
}

/// The invoice of an order, by the tax of the day on which it was placed.
///
/// # Errors
/// If an amount is more than can be, which an order that was placed never is.
pub fn invoice(placed: &Placed) -> Result<Invoice, Problem> {
    let Placed { lines, shipping, territory, at, .. } = placed;
    tax::invoice(&goods(lines), *shipping, *territory, *at)
        .map_err(|_| ask::unprocessable("amount_too_large", "that is more than can be paid".to_owned()))
}

/// What tells two requests apart.
pub fn digest(request: &Value) -> String {
    URL_SAFE_NO_PAD.encode(sha(&SHA256, request.to_string().as_bytes()))
}

/// `ORD_20260115_9f86d081884c7d65`: the day, and what nobody guesses.
///
/// # Errors
/// If the system gives no random numbers.
pub fn order_id(now: Moment) -> Result<String, Problem> {
    let day = now.in_india();
    let random = id::random()?;
    Ok(format!("ORD_{:04}{:02}{:02}_{}", day.year, day.month, day.day, &random[..16]))
}
