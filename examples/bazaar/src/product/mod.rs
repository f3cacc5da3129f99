//! The product service: what the shop sells, in two languages and three versions of its interface.
//!
//! # Interface
//! For everybody:
//! - `GET /api/products?category=&city=&ids=&page=&limit=`: `{products, page, limit, total}`; pages begin at 1.
//! - `GET /api/products/{product_id}?city=`: one; 404 `not_served_here` if it is not sold in that city.
//! - `GET /api/search?q=&category=&city=&limit=`: `{products, total}`. Each word of `q` has to be in a name, a description or the
//!   category, in any language; what has more of them in its name comes first.
//!
//! In which language names are is said by `lang=hi` or `en`, else by `Accept-Language`, else it is Hindi. How a product
//! looks depends on the version: see [`shape`]. `version=` is the gateway's to read, which knows where each version is served.
//!
//! For other services: `GET /internal/products?ids=a,b` answers `{products, missing}`, in the order of
//! the ids, and looks the same in all versions.
//!
//! # Errors
//! Those of [`ask`]; 404 `unknown_product`; 422 for a category, city or language that there is not, and for a list that is too long.
//!
//! # Bounds
//! [`LIMIT`] products in an answer, [`LIMIT_MAX`] if it is said; as many ids; a search has 1 to [`WORDS`] words, in
//! [`SEARCH`] characters.

use axum::{
    Json, Router,
    extract::State as With,
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{ACCEPT_LANGUAGE, CONTENT_LANGUAGE, VARY},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{
    kernel::{
        ask::{self, Asked, Part},
        clock::Clock,
        problem::Problem,
        store::Store,
        text,
    },
    product::record::{Filter, Found, Product, Record},
    rules::{
        address::{City, UnknownCity},
        category::{Category, UnknownCategory},
        language::{Language, UnknownLanguage},
    },
};

pub mod record;
pub mod shape;

/// How many products are in an answer if nothing is said.
pub const LIMIT: u32 = 20;

/// How many products are in an answer, and ids in a question, at most.
pub const LIMIT_MAX: u32 = 100;

/// How many words a search has at most.
pub const WORDS: usize = 8;

/// How many characters a search has at most.
pub const SEARCH: usize = 100;

/// The last page that is served.
const PAGE_MAX: u32 = 10_000;

/// A version of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// A flat product.
    V1,
    /// All about the price in one member, with the tax in it.
    V2,
    /// As v2, in both languages, and with each city.
    V3,
}

impl Api {
    /// The service's name, and its file's: versions run side by side, each with its own.
    pub const fn service(self) -> &'static str {
        match self {
            Self::V1 => "product",
            Self::V2 => "product-v2",
            Self::V3 => "product-v3",
        }
    }
}

/// Which product service it is.
#[derive(Args, Clone, Copy, Debug)]
pub struct ProductArgs {
    /// The version of the interface.
    #[arg(long, value_name = "VERSION", default_value = "v1")]
    pub api: Api,
}

#[derive(Clone, Debug)]
struct Products {
    clock: Clock,
    record: Record,
    api: Api,
}

/// The service.
pub fn app(clock: Clock, store: Store, args: ProductArgs) -> Router {
    let products = Products { clock, record: Record::new(store.clone()), api: args.api };
    let routes = Router::new()
        .route("/api/products", get(list))
        .route("/api/products/{product_id}", get(one))
        .route("/api/search", get(search))
        .route("/internal/products", get(by_ids));
    ask::with_defaults(routes, Some(store)).with_state(products)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    category: Option<String>,
    city: Option<String>,
    ids: Option<String>,
    page: Option<u32>,
    limit: Option<u32>,
    lang: Option<String>,
    /// Which version of the interface is meant: that has led here.
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
}

async fn list(
    With(products): With<Products>,
    headers: HeaderMap,
    Asked(query): Asked<ListQuery>,
) -> Result<Response, Problem> {
    let language = language(query.lang.as_deref(), &headers)?;
    let (page, limit) = (query.page.unwrap_or(1), limit(query.limit)?);
    if !(1..=PAGE_MAX).contains(&page) {
        return Err(ask::unprocessable("invalid_page", format!("pages are 1 to {PAGE_MAX}")));
    }
    let filter = Filter {
        category: category(query.category.as_deref())?,
        city: city(query.city.as_deref())?,
        ids: query.ids.as_deref().map(ids).transpose()?,
        words: Vec::new(),
    };
    let Found { products: found, total } = products.record.find(filter, limit, (page - 1) * limit).await?;
    let found = products.shown(&found, language);
    Ok(said(language, json!({"products": found, "page": page, "limit": limit, "total": total})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneQuery {
    city: Option<String>,
    lang: Option<String>,
    /// Which version of the interface is meant: that has led here.
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
}

async fn one(
    With(products): With<Products>,
    headers: HeaderMap,
    Part(product_id): Part,
    Asked(query): Asked<OneQuery>,
) -> Result<Response, Problem> {
    let language = language(query.lang.as_deref(), &headers)?;
    let product = products.record.products(vec![product_id]).await?.pop().ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "unknown_product", "there is no product of this id")
    })?;
    let is_served = |city: &str| city.parse().is_ok_and(|city| product.is_served_in(city));
    if query.city.as_deref().is_some_and(|city| !is_served(city)) {
        let detail = "this product is not sold in that city; `served` says where it is";
        return Err(Problem::new(StatusCode::NOT_FOUND, "not_served_here", detail)
            .with("served", json!(product.served())));
    }
    Ok(said(language, products.show(&product, language)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    q: String,
    category: Option<String>,
    city: Option<String>,
    limit: Option<u32>,
    lang: Option<String>,
    /// Which version of the interface is meant: that has led here.
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
}

async fn search(
    With(products): With<Products>,
    headers: HeaderMap,
    Asked(query): Asked<SearchQuery>,
) -> Result<Response, Problem> {
    let language = language(query.lang.as_deref(), &headers)?;
    let limit = limit(query.limit)?;
    let words = text::line("q", &query.q, SEARCH)?.to_lowercase();
    let words = words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if words.len() > WORDS {
        return Err(ask::unprocessable("too_many_words", format!("a search has at most {WORDS} words")));
    }
    let (category, city) = (category(query.category.as_deref())?, city(query.city.as_deref())?);
    let filter = Filter { category, city, ids: None, words };
    let Found { products: found, total } = products.record.find(filter, limit, 0).await?;
    Ok(said(language, json!({"products": products.shown(&found, language), "total": total})))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdsQuery {
    ids: String,
}

/// Products as other services see them, and the ids that name none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Known {
    /// Those that there are.
    pub products: Vec<Product>,
    /// The ids of those that there are not.
    pub missing: Vec<String>,
}

async fn by_ids(
    With(products): With<Products>,
    Asked(IdsQuery { ids: text }): Asked<IdsQuery>,
) -> Result<Json<Known>, Problem> {
    let asked = ids(&text)?;
    let products = products.record.products(asked.clone()).await?;
    let is_known = |id: &String| products.iter().any(|it| it.product_id == *id);
    let missing = asked.into_iter().filter(|id| !is_known(id)).collect();
    Ok(Json(Known { products, missing }))
}

impl Products {
    fn show(&self, product: &Product, language: Language) -> Value {
        shape::show(product, self.api, language, self.clock.now())
    }

    fn shown(&self, products: &[Product], language: Language) -> Vec<Value> {
        products.iter().map(|product| self.show(product, language)).collect()
    }
}

/// What is said in a language says so; whoever keeps it has to ask again for another one.
fn said(language: Language, body: Value) -> Response {
    const ACCEPTED: HeaderName = ACCEPT_LANGUAGE;
    let headers = [(CONTENT_LANGUAGE, language.as_str()), (VARY, ACCEPTED.as_str())];
    (headers, Json(body)).into_response()
}

fn language(lang: Option<&str>, headers: &HeaderMap) -> Result<Language, Problem> {
    if let Some(lang) = lang {
        return lang.parse().map_err(|error: UnknownLanguage| {
            ask::unprocessable("unknown_language", error.to_string()).with("languages", json!(Language::ALL))
        });
    }
    let lines = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|line| line.to_str().ok());
    Ok(Language::accepted(&lines.collect::<Vec<_>>().join(",")))
}

fn category(text: Option<&str>) -> Result<Option<Category>, Problem> {
    let category = text.map(str::parse).transpose();
    category.map_err(|error: UnknownCategory| {
        ask::unprocessable("unknown_category", error.to_string()).with("categories", json!(Category::ALL))
    })
}

fn city(text: Option<&str>) -> Result<Option<City>, Problem> {
    let city = text.map(str::parse).transpose();
    city.map_err(|error: UnknownCity| {
        ask::unprocessable("city_not_served", error.to_string()).with("cities", json!(City::ALL))
    })
}

fn limit(wanted: Option<u32>) -> Result<u32, Problem> {
    let limit = wanted.unwrap_or(LIMIT);
    if (1..=LIMIT_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(ask::unprocessable("invalid_limit", format!("a limit is 1 to {LIMIT_MAX}")))
}

/// `a,b`, each once.
fn ids(text: &str) -> Result<Vec<String>, Problem> {
    let mut ids = Vec::new();
    for id in text.split(',') {
        let id = text::id("ids", id.to_owned())?;
        if !ids.contains(&id) {
            ids.push(id);
        }
        if ids.len() > LIMIT_MAX as usize {
            return Err(ask::unprocessable("too_many_ids", format!("at most {LIMIT_MAX} ids at a time")));
        }
    }
    Ok(ids)
}
