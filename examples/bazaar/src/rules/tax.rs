//! Goods and services tax: what of a price is tax, and an invoice that adds up.
//!
//! # Rule
//! - **Rates are data with dates**: [`TABLE`]. In force on a day and for a price is the one entry that says so; of entries for the same goods the
//!   one with the longest HSN code that fits, before one for the category. The price is that of one piece, as the shop shows
//!   it. The slabs were 0, 5, 12, 18, 28 until 21 September 2025, and are 0, 5, 18, 40 since the 22nd (decisions of the 56th GST
//!   Council).
//! - **Prices are tax-inclusive**, as India's maximum retail prices are: tax is never added to one. Of a line (price times quantity) the taxable value is
//!   line × 100 / (100 + rate), rounded half up to the paisa once; the tax is the rest, so both are the line exactly.
//! - **Where.** From the [seller's](SELLER) state to the same one the tax is CGST and SGST, half each; an odd paisa is CGST's. To another it
//!   is IGST, all of it.
//! - **Delivery** is a line of its own, tax-inclusive like the others, at the rate of couriers (HSN 9968).
//!
//! # State
//! None: goods, place and date in, amounts out.

use std::{error::Error, fmt};

use serde::{Deserialize, Serialize};

use super::{address::Territory, category::Category, moment::Moment, money::Money};

/// From where all goods are sent.
pub const SELLER: Territory = Territory::Maharashtra;

/// The services of couriers.
pub const COURIER: &str = "9968";

/// A day in India: year, month, day.
type Day = (i64, i64, i64);

/// The first day of the new slabs.
const REFORM: Day = (2025, 9, 22);

/// A rate, in whole percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate {
    percent: u8,
}

impl Rate {
    const fn of(percent: u8) -> Self {
        Self { percent }
    }

    /// In percent.
    pub const fn percent(self) -> u8 {
        self.percent
    }

    /// The tax that comes on top of a value without tax, rounded half up.
    pub fn on_top_of(self, taxable: Money) -> Money {
        let paise = (i128::from(taxable.paise()) * i128::from(self.percent) + 50).div_euclid(100);
        Money::from_paise(i64::try_from(paise).unwrap_or(i64::MAX))
    }

    /// What a tax-inclusive amount consists of.
    pub fn within(self, amount: Money) -> Parts {
        let whole = 100 + i128::from(self.percent);
        let taxable = (i128::from(amount.paise()) * 200 + whole).div_euclid(whole * 2);
        let taxable = i64::try_from(taxable).expect("a part of what fits fits");
        Parts { taxable: Money::from_paise(taxable), tax: Money::from_paise(amount.paise() - taxable) }
    }
}

/// A tax-inclusive amount, taken apart: both together are the amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Without tax.
    pub taxable: Money,
    /// The tax.
    pub tax: Money,
}

/// What an entry of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goods {
    /// What has an HSN code that begins so.
    Hsn(&'static str),
    /// What has no entry by its code.
    Category(Category),
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    goods: Goods,
    /// The first day.
    from: Option<Day>,
    /// The first day on which it holds no more.
    until: Option<Day>,
    /// The price of a piece that is too low.
    above: Option<Money>,
    /// The highest price of a piece.
    up_to: Option<Money>,
    rate: Rate,
}

const fn always(goods: Goods, percent: u8) -> Entry {
    Entry { goods, from: None, until: None, above: None, up_to: None, rate: Rate::of(percent) }
}

const fn before(goods: Goods, percent: u8) -> Entry {
    Entry { until: Some(REFORM), ..always(goods, percent) }
}

const fn since(goods: Goods, percent: u8) -> Entry {
    Entry { from: Some(REFORM), ..always(goods, percent) }
}

impl Entry {
    const fn up_to(self, rupees: i64) -> Self {
        Self { up_to: Some(Money::from_paise(rupees * 100)), ..self }
    }

    const fn above(self, rupees: i64) -> Self {
        Self { above: Some(Money::from_paise(rupees * 100)), ..self }
    }

    fn holds(&self, day: Day, price: Money) -> bool {
        self.from.is_none_or(|from| day >= from)
            && self.until.is_none_or(|until| day < until)
            && self.above.is_none_or(|above| price > above)
            && self.up_to.is_none_or(|up_to| price <= up_to)
    }

    /// How closely it is about these goods; none if it is not.
    fn fits(&self, hsn: &str, category: Category) -> Option<usize> {
        match self.goods {
            Goods::Hsn(code) => hsn.starts_with(code).then_some(code.len()),
            Goods::Category(it) => (it == category).then_some(0),
        }
    }
}

const APPAREL_KNITTED: Goods = Goods::Hsn("61");
const APPAREL_WOVEN: Goods = Goods::Hsn("62");
const FASHION: Goods = Goods::Category(Category::Fashion);
const AERATED_DRINKS: Goods = Goods::Hsn("220210");
const KITCHENWARE: Goods = Goods::Hsn("7615");

/// All rates that the shop knows.
pub const TABLE: &[Entry] = &[
    // By code.
    always(Goods::Hsn("0902"), 5),  // Tea.
    always(Goods::Hsn("4901"), 0),  // Printed books.
    always(Goods::Hsn("8471"), 18), // Computers.
    always(Goods::Hsn("8516"), 18), // Electric cookers, heaters and irons.
    always(Goods::Hsn("8517"), 18), // Telephones.
    before(APPAREL_KNITTED, 5).up_to(1_000),
    before(APPAREL_KNITTED, 12).above(1_000),
    since(APPAREL_KNITTED, 5).up_to(2_500),
    since(APPAREL_KNITTED, 18).above(2_500),
    before(APPAREL_WOVEN, 5).up_to(1_000),
    before(APPAREL_WOVEN, 12).above(1_000),
    since(APPAREL_WOVEN, 5).up_to(2_500),
    since(APPAREL_WOVEN, 18).above(2_500),
    before(KITCHENWARE, 12),
    since(KITCHENWARE, 5),
    before(AERATED_DRINKS, 28),
    since(AERATED_DRINKS, 40),
    always(Goods::Hsn(COURIER), 18),
    // By category, for what has another code.
    always(Goods::Category(Category::Electronics), 18),
    before(FASHION, 5).up_to(1_000),
    before(FASHION, 12).above(1_000),
    since(FASHION, 5).up_to(2_500),
    since(FASHION, 18).above(2_500),
    always(Goods::Category(Category::Home), 18),
    always(Goods::Category(Category::Books), 0),
    always(Goods::Category(Category::Grocery), 5),
];

/// The rate for goods of that code and category, a piece of which costs `price`, at that time.
pub fn rate(hsn: &str, category: Category, price: Money, at: Moment) -> Rate {
    let civil = at.in_india();
    let day = (civil.year, civil.month, civil.day);
    let in_force = TABLE.iter().filter(|entry| entry.holds(day, price));
    let fits = in_force.filter_map(|entry| Some((entry.fits(hsn, category)?, entry.rate)));
    fits.max_by_key(|(closeness, _)| *closeness)
        .map(|(_, rate)| rate)
        .expect("every category has an entry for each day and price: a test goes through them")
}

/// What is sold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which product, for the invoice.
    pub product_id: String,
    /// Its code.
    pub hsn: String,
    /// Its category.
    pub category: Category,
    /// What a piece costs, tax-inclusive.
    pub price: Money,
    /// How many.
    pub quantity: u32,
}

/// A line of an invoice. `amount` is `taxable + cgst + sgst + igst`, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Which product; `delivery` for what delivery costs.
    pub product_id: String,
    /// Its code.
    pub hsn: String,
    /// What a piece costs, tax-inclusive.
    pub price: Money,
    /// How many.
    pub quantity: u32,
    /// The rate, in percent.
    pub rate: Rate,
    /// Without tax.
    pub taxable: Money,
    /// The union's half, within a state.
    pub cgst: Money,
    /// The state's half, within a state.
    pub sgst: Money,
    /// All of the tax, between states.
    pub igst: Money,
    /// With tax.
    pub amount: Money,
}

/// An invoice. Each sum is the sum of the lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// What was sold, and delivery, if it costs anything.
    pub lines: Vec<Line>,
    /// Without tax.
    pub taxable: Money,
    /// The union's half, within a state.
    pub cgst: Money,
    /// The state's half, within a state.
    pub sgst: Money,
    /// All of the tax, between states.
    pub igst: Money,
    /// What is to be paid.
    pub total: Money,
}

/// The invoice for goods that are sent there.
///
/// # Errors
/// If an amount is more than can be.
pub fn invoice(items: &[Item], delivery: Money, to: Territory, at: Moment) -> Result<Invoice, TooMuch> {
    let goods = items.iter().map(|item| {
        let Item { product_id, hsn, category, price, quantity } = item;
        line((product_id, hsn), (*price, *quantity), rate(hsn, *category, *price, at), to)
    });
    let mut lines = goods.collect::<Result<Vec<_>, _>>()?;
    if delivery > Money::default() {
        let rate = rate(COURIER, Category::Home, delivery, at);
        lines.push(line(("delivery", COURIER), (delivery, 1), rate, to)?);
    }
    let sum = |of: fn(&Line) -> Money| {
        lines.iter().try_fold(Money::default(), |sum, line| sum.checked_add(of(line)).ok_or(TooMuch))
    };
    Ok(Invoice {
        taxable: sum(|line| line.taxable)?,
        cgst: sum(|line| line.cgst)?,
        sgst: sum(|line| line.sgst)?,
        igst: sum(|line| line.igst)?,
        total: sum(|line| line.amount)?,
        lines,
    })
}

fn line(
    (product_id, hsn): (&str, &str),
    (price, quantity): (Money, u32),
    rate: Rate,
    to: Territory,
) -> Result<Line, TooMuch> {
    let amount = price.checked_mul(quantity).ok_or(TooMuch)?;
    let Parts { taxable, tax } = rate.within(amount);
    let half = tax.paise() / 2;
    let [cgst, sgst, igst] =
        if to == SELLER { [tax.paise() - half, half, 0] } else { [0, 0, tax.paise()] }.map(Money::from_paise);
    let (product_id, hsn) = (product_id.to_owned(), hsn.to_owned());
    Ok(Line { product_id, hsn, price, quantity, rate, taxable, cgst, sgst, igst, amount })
}

/// An amount is more than can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuch;

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sum is more than an amount can be: order less")
    }
}

impl Error for TooMuch {}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: &str = "2025-09-21T23:59:59+05:30";
    const FIRST: &str = "2025-09-22T00:00:00+05:30";

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn at(time: &str) -> Moment {
        time.parse().unwrap()
    }

    fn item(product_id: &str, hsn: &str, category: Category, price: &str, quantity: u32) -> Item {
        Item { product_id: product_id.into(), hsn: hsn.into(), category, price: money(price), quantity }
    }

    fn phone() -> Item {
        item("prod_001", "8517", Category::Electronics, "65999.00", 1)
    }

    fn kurta() -> Item {
        item("prod_002", "6211", Category::Fashion, "1299.00", 1)
    }

    fn tea() -> Item {
        item("prod_003", "0902", Category::Grocery, "485.00", 1)
    }

    fn cooker() -> Item {
        item("prod_004", "8516", Category::Home, "2499.00", 1)
    }

    #[test]
    fn r15_3_golden_splits_of_prices_with_tax() {
        for (item, tax) in [(phone(), "10067.64"), (kurta(), "61.86"), (tea(), "23.10"), (cooker(), "381.20")]
        {
            let Item { product_id, hsn, category, price, .. } = item;
            let parts = rate(&hsn, category, price, at(FIRST)).within(price);
            assert_eq!(parts.tax.to_string(), tax, "{product_id}");
            assert_eq!(parts.taxable.checked_add(parts.tax), Some(price));
        }
    }

    #[test]
    fn golden_taxes_on_top_of_values_without() {
        let on_top = |percent, value: &str| Rate::of(percent).on_top_of(money(value)).to_string();
        assert_eq!(
            [5, 12, 18, 28].map(|it| on_top(it, "1000.00")),
            ["50.00", "120.00", "180.00", "280.00"],
            "food, clothes, electronics and luxury by the old slabs"
        );
        assert_eq!(on_top(18, "51000.00"), "9180.00"); // A laptop and two mice.
        assert_eq!(on_top(18, "68498.00"), "12329.64"); // A telephone and a cooker.
        assert_eq!(on_top(5, "1784.00"), "89.20"); // A kurta and tea.
        assert_eq!(on_top(18, "1784.00"), "321.12");
    }

    #[test]
    fn r15_3_rates_change_at_midnight_in_india() {
        let percents = |hsn, category, price: &str| {
            [LAST, FIRST].map(|time| rate(hsn, category, money(price), at(time)).percent())
        };
        assert_eq!(percents("6211", Category::Fashion, "1000.00"), [5, 5]);
        assert_eq!(percents("6211", Category::Fashion, "1000.01"), [12, 5]);
        assert_eq!(percents("6109", Category::Fashion, "2500.00"), [12, 5]);
        assert_eq!(percents("6109", Category::Fashion, "2500.01"), [12, 18]);
        assert_eq!(percents("22021010", Category::Grocery, "40.00"), [28, 40], "luxury");
        assert_eq!(percents("7615", Category::Home, "999.00"), [12, 5]);
        assert_eq!(percents("8517", Category::Electronics, "65999.00"), [18, 18]);
        assert_eq!(percents("4901", Category::Books, "899.00"), [0, 0]);
        assert_eq!(percents("9999", Category::Grocery, "1.00"), [5, 5], "by category");
        // 18:29:59 in UTC is the last second of the old slabs.
        let utc = |time| rate("6211", Category::Fashion, money("2000.00"), at(time)).percent();
        assert_eq!([utc("2025-09-21T18:29:59Z"), utc("2025-09-21T18:30:00Z")], [12, 5]);
    }

    /// Of each goods exactly one entry is in force on each day for each price, and says a slab of its time.
    #[test]
    fn r15_3_the_table_has_no_gap_and_no_overlap() {
        let prices = TABLE.iter().flat_map(|entry| [entry.above, entry.up_to]).flatten();
        let prices = prices.flat_map(|it| [it, Money::from_paise(it.paise() + 1)]).chain([money("0.01")]);
        let prices = prices.collect::<Vec<_>>();
        for Entry { goods, .. } in TABLE {
            for (day, slabs) in [((2025, 9, 21), [0, 5, 12, 18, 28].as_slice()), (REFORM, &[0, 5, 18, 40])] {
                for price in &prices {
                    let of_these = TABLE.iter().filter(|it| it.goods == *goods && it.holds(day, *price));
                    let rates = of_these.map(|it| it.rate.percent()).collect::<Vec<_>>();
                    assert!(
                        rates.len() == 1 && slabs.contains(&rates[0]),
                        "{goods:?} {day:?} {price}: {rates:?}"
                    );
                }
            }
        }
        for category in Category::ALL {
            assert!(TABLE.iter().any(|entry| entry.goods == Goods::Category(category)), "{category}");
        }
    }

    #[test]
    fn r15_3_an_invoice_adds_up_to_the_paisa() {
        let items = [phone(), Item { quantity: 3, ..kurta() }, Item { quantity: 7, ..tea() }, cooker()];
        for to in Territory::ALL {
            for delivery in ["0.00", "40.00", "72.00", "47.99"] {
                let invoice = invoice(&items, money(delivery), to, at(FIRST)).unwrap();
                let paise = |it: Money| it.paise();
                for line in &invoice.lines {
                    let parts = [line.taxable, line.cgst, line.sgst, line.igst].map(paise);
                    assert_eq!(parts.iter().sum::<i64>(), line.amount.paise(), "{line:?}");
                    assert_eq!(line.price.paise() * i64::from(line.quantity), line.amount.paise());
                    let odd = line.cgst.paise() - line.sgst.paise();
                    assert!(odd == 0 || odd == 1, "an odd paisa is the union's: {line:?}");
                }
                let parts = [invoice.taxable, invoice.cgst, invoice.sgst, invoice.igst].map(paise);
                assert_eq!(parts.iter().sum::<i64>(), invoice.total.paise());
                let goods = items.iter().map(|it| it.price.paise() * i64::from(it.quantity)).sum::<i64>();
                assert_eq!(invoice.total.paise(), goods + money(delivery).paise());
                assert_eq!(invoice.lines.len(), items.len() + usize::from(delivery != "0.00"));
                let is_within = to == SELLER;
                assert_eq!((parts[1] > 0, parts[2] > 0, parts[3] > 0), (is_within, is_within, !is_within));
            }
        }
    }

    #[test]
    fn r15_3_halves_of_an_odd_tax_differ_by_a_paisa() {
        let one = item("x", "0902", Category::Grocery, "1.05", 1); // Five paise.
        let within = invoice(std::slice::from_ref(&one), Money::default(), SELLER, at(FIRST)).unwrap();
        assert_eq!([within.taxable, within.cgst, within.sgst, within.igst].map(Money::paise), [100, 3, 2, 0]);
        let between = invoice(&[one], Money::default(), Territory::Delhi, at(FIRST)).unwrap();
        assert_eq!(
            [between.taxable, between.cgst, between.sgst, between.igst].map(Money::paise),
            [100, 0, 0, 5]
        );
    }

    #[test]
    fn every_amount_is_taken_apart_without_a_rest() {
        for percent in [0, 5, 12, 18, 28, 40] {
            for paise in (0..5_000).chain([i64::MAX]) {
                let Parts { taxable, tax } = Rate::of(percent).within(Money::from_paise(paise));
                assert_eq!(taxable.paise() + tax.paise(), paise);
                // The nearest: the exact value is within half a paisa.
                let whole = 100 + i128::from(percent);
                let off = (i128::from(taxable.paise()) * whole - i128::from(paise) * 100).abs();
                assert!(off * 2 <= whole, "{paise} at {percent} %");
            }
        }
    }

    #[test]
    fn what_is_more_than_an_amount_can_be_is_refused() {
        let most = Item { price: Money::from_paise(i64::MAX), ..tea() };
        let refused = |items: &[Item]| invoice(items, Money::default(), SELLER, at(FIRST));
        assert_eq!(refused(&[Item { quantity: 2, ..most.clone() }]), Err(TooMuch));
        assert_eq!(refused(&[most.clone(), tea()]), Err(TooMuch));
        assert!(refused(&[most]).is_ok());
    }
}
