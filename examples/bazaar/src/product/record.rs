//! The catalogue: products, where each is sold, and how one finds them.
//!
//! # Rule
//! A price contains the tax, and is never above the maximum retail price: the table refuses that. Words are found as parts of
//! names, descriptions and categories; Hindi has no capitals, and English is compared in small letters.

use std::collections::BTreeSet;

use rusqlite::{Connection, Row, ToSql};
use serde::{Deserialize, Serialize};

use crate::{
    kernel::{
        column::{Json, Word},
        store::{Migrations, Store, StoreError},
    },
    rules::{address::City, category::Category, language::Language, money::Money},
};

/// The tables, and what is sold from the first day on.
pub const MIGRATIONS: Migrations = &[
    "
    CREATE TABLE products (
        product_id TEXT PRIMARY KEY,
        name_en TEXT NOT NULL,
        name_hi TEXT NOT NULL,
        description_en TEXT NOT NULL,
        description_hi TEXT NOT NULL,
        price INTEGER NOT NULL CHECK (price > 0),  -- in paise, tax-inclusive
        mrp INTEGER NOT NULL,  -- in paise
        category TEXT NOT NULL,
        hsn TEXT NOT NULL,
        cod INTEGER NOT NULL CHECK (cod IN (0, 1)),
        fragile INTEGER NOT NULL CHECK (fragile IN (0, 1)),
        all_india INTEGER NOT NULL CHECK (all_india IN (0, 1)),
        max_quantity INTEGER NOT NULL CHECK (max_quantity > 0),
        names TEXT NOT NULL GENERATED ALWAYS AS (lower(name_en || ' ' || name_hi)) STORED,
        words TEXT NOT NULL GENERATED ALWAYS AS
            (lower(name_en || ' ' || name_hi || ' ' || description_en || ' ' || description_hi || ' ' || category)) STORED,
        CHECK (price <= mrp)
    ) STRICT;
    CREATE TABLE cities (
        product_id TEXT NOT NULL REFERENCES products,
        city TEXT NOT NULL,
        PRIMARY KEY (product_id, city)
    ) STRICT, WITHOUT ROWID;
    ",
    "
    INSERT INTO products (product_id, name_en, name_hi, description_en, description_hi,
        price, mrp, category, hsn, cod, fragile, all_india, max_quantity) VALUES
    ('prod_001', 'OnePlus 12', 'वनप्लस 12',
        'Smartphone with 16 GB of memory and 512 GB of storage', 'स्मार्टफोन, 16 जीबी मेमोरी और 512 जीबी स्टोरेज',
        6599900, 6999900, 'electronics', '8517', 0, 1, 0, 2),
    ('prod_002', 'Cotton Kurta', 'सूती कुर्ता',
        'Hand-printed cotton kurta for every day', 'रोज़ पहनने के लिए हाथ से छपा सूती कुर्ता',
        129900, 159900, 'fashion', '6211', 1, 0, 0, 10),
    ('prod_003', 'Tata Tea Gold 1 kg', 'टाटा टी गोल्ड 1 किलो',
        'Assam tea with long leaves', 'लंबी पत्तियों वाली असम की चाय',
        48500, 50000, 'grocery', '0902', 1, 0, 1, 20),
    ('prod_004', 'Prestige Electric Cooker 5 l', 'प्रेस्टीज इलेक्ट्रिक कुकर 5 लीटर',
        'Electric pressure cooker with a glass lid', 'कांच के ढक्कन वाला इलेक्ट्रिक प्रेशर कुकर',
        249900, 299900, 'home', '8516', 1, 1, 0, 5);
    INSERT INTO cities VALUES
    ('prod_001', 'mumbai'), ('prod_001', 'delhi'), ('prod_001', 'bangalore'), ('prod_001', 'pune'),
    ('prod_002', 'mumbai'), ('prod_002', 'delhi'), ('prod_002', 'jaipur'),
    ('prod_004', 'mumbai'), ('prod_004', 'pune'), ('prod_004', 'nashik');
    ",
];

/// A text in both languages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Texts {
    /// In English.
    pub en: String,
    /// In Hindi.
    pub hi: String,
}

impl Texts {
    /// In that language.
    pub fn of(&self, language: Language) -> &str {
        match language {
            Language::En => &self.en,
            Language::Hi => &self.hi,
        }
    }
}

/// A product, also as other services see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Its id.
    pub product_id: String,
    /// What it is called.
    pub name: Texts,
    /// What is said about it.
    #[serde(skip_serializing, default = "nothing")]
    pub description: Texts,
    /// What a piece costs, tax-inclusive.
    pub price: Money,
    /// What a piece may cost at most, printed on it.
    pub mrp: Money,
    /// What kind of goods it is.
    pub category: Category,
    /// Its code in the harmonized system, which decides the tax.
    pub hsn: String,
    /// Whether it may be paid on delivery.
    pub cod: bool,
    /// Whether it may break.
    pub fragile: bool,
    /// Whether it is sold everywhere.
    pub all_india: bool,
    /// Where it is sold, if not everywhere.
    pub cities: BTreeSet<City>,
    /// How many one order may have.
    pub max_quantity: u32,
}

const fn nothing() -> Texts {
    Texts { en: String::new(), hi: String::new() }
}

impl Product {
    /// Whether it is sold in that city.
    pub fn is_served_in(&self, city: City) -> bool {
        self.all_india || self.cities.contains(&city)
    }

    /// All cities in which it is sold.
    pub fn served(&self) -> Vec<City> {
        City::ALL.into_iter().filter(|city| self.is_served_in(*city)).collect()
    }
}

/// What is looked for: all of it has to fit.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of that category.
    pub category: Option<Category>,
    /// Sold in that city.
    pub city: Option<City>,
    /// One of these.
    pub ids: Option<Vec<String>>,
    /// With all of these words in it, in small letters.
    pub words: Vec<String>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// A part of it.
    pub products: Vec<Product>,
    /// How many there are in all.
    pub total: u32,
}

/// The products.
#[derive(Clone, Debug)]
pub struct Record {
    store: Store,
}

impl Record {
    /// Those in the store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Those with these ids, in the order of these.
    pub async fn products(&self, ids: Vec<String>) -> Result<Vec<Product>, StoreError> {
        let read = move |connection: &Connection| {
            let sql = format!(
                "{SELECT}, json_each(?1) AS wanted WHERE p.product_id = wanted.value ORDER BY wanted.key"
            );
            let mut statement = connection.prepare(&sql)?;
            statement.query_map([Json(ids)], product)?.collect()
        };
        self.store.read(read).await
    }

    /// What fits, the best first: at most `limit`, after the first `skip`.
    pub async fn find(&self, filter: Filter, limit: u32, skip: u32) -> Result<Found, StoreError> {
        let read = move |connection: &Connection| {
            let Filter { category, city, ids, words } = filter;
            let (category, city) = (category.map(Category::as_str), city.map(City::as_str));
            let (ids, words) = (ids.map(Json), Json(words));
            let fits: [&dyn ToSql; 4] = [&category, &city, &ids, &words];
            let count = format!("SELECT count(*) FROM products AS p {FITS}");
            let total = connection.prepare(&count)?.query_row(fits, |row| row.get(0))?;
            let sql = format!("{SELECT} {FITS} {BEST_FIRST} LIMIT ?5 OFFSET ?6");
            let mut statement = connection.prepare(&sql)?;
            let [category, city, ids, words] = fits;
            let page: [&dyn ToSql; 6] = [category, city, ids, words, &limit, &skip];
            let products = statement.query_map(page, product)?.collect::<rusqlite::Result<_>>()?;
            Ok(Found { products, total })
        };
        self.store.read(read).await
    }
}

const SELECT: &str = "SELECT p.*, (SELECT json_group_array(c.city) FROM cities AS c
    WHERE c.product_id = p.product_id) AS cities FROM products AS p";

const FITS: &str = "WHERE (?1 IS NULL OR p.category = ?1)
    AND (?2 IS NULL OR p.all_india = 1
        OR EXISTS (SELECT 1 FROM cities AS c WHERE c.product_id = p.product_id AND c.city = ?2))
    AND (?3 IS NULL OR p.product_id IN (SELECT value FROM json_each(?3)))
    AND NOT EXISTS (SELECT 1 FROM json_each(?4) AS word WHERE instr(p.words, word.value) = 0)";

const BEST_FIRST: &str = "ORDER BY (SELECT count(*) FROM json_each(?4) AS word
    WHERE instr(p.names, word.value) > 0) DESC, p.product_id";

fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    let texts = |en, hi| -> rusqlite::Result<_> { Ok(Texts { en: row.get(en)?, hi: row.get(hi)? }) };
    let money = |name| row.get(name).map(Money::from_paise);
    Ok(Product {
        product_id: row.get("product_id")?,
        name: texts("name_en", "name_hi")?,
        description: texts("description_en", "description_hi")?,
        price: money("price")?,
        mrp: money("mrp")?,
        category: row.get::<_, Word<Category>>("category")?.0,
        hsn: row.get("hsn")?,
        cod: row.get("cod")?,
        fragile: row.get("fragile")?,
        all_india: row.get("all_india")?,
        cities: row.get::<_, Json<BTreeSet<City>>>("cities")?.0,
        max_quantity: row.get("max_quantity")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> (Record, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(&folder.path().join("product.db"), MIGRATIONS).unwrap());
        (record, folder)
    }

    #[tokio::test]
    async fn r15_3_no_price_is_above_the_maximum_retail_price() {
        let (record, _folder) = record();
        for change in [
            "UPDATE products SET price = mrp + 1",
            "UPDATE products SET price = 0",
            "INSERT INTO products SELECT 'x', name_en, name_hi, '', '', 101, 100, category, hsn, 0, 0, 0, 1 FROM products",
        ] {
            let changed = record.store.write(move |transaction| transaction.execute(change, ())).await;
            assert!(matches!(changed, Err(StoreError::Failed(_))), "{change}");
        }
        let fits = "UPDATE products SET price = mrp";
        assert_eq!(record.store.write(move |transaction| transaction.execute(fits, ())).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn every_product_of_the_first_day_can_be_read() {
        let (record, _folder) = record();
        let Found { products, total } = record.find(Filter::default(), 100, 0).await.unwrap();
        assert_eq!((products.len(), total), (4, 4));
        let served = products.iter().map(|it| it.served().len()).collect::<Vec<_>>();
        assert_eq!(served, [4, 3, 9, 3]);
    }

    #[tokio::test]
    async fn signs_of_sql_are_words_as_others() {
        let (record, _folder) = record();
        for word in ["%", "_", "'", "\"", "*", "' OR 1=1 --"] {
            let words = vec![word.to_owned()];
            let found = record.find(Filter { words, ..Filter::default() }, 100, 0).await.unwrap();
            assert_eq!(found.total, 0, "{word}");
        }
    }
}
