//! What the files of the services say when all has come to rest: whether money, goods and messages add up.
//!
//! The files are only read, while the services go on.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::report::{Report, hold};
use crate::{
    inventory::stock::Stock,
    kernel::log,
    order::{life::Order, record::stream},
    rules::{order::State, payment::Method},
};

/// The files of a platform.
#[derive(Clone, Debug)]
pub struct Books {
    folder: PathBuf,
}

impl Books {
    /// Those in that folder.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn open(&self, name: &str) -> Result<Connection, String> {
        let file = self.folder.join(format!("{name}.db"));
        let opened = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY);
        opened.map_err(|error| format!("{}: {error}", file.display()))
    }

    /// A number that a question has for an answer.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn count(&self, name: &str, sql: &str) -> Result<i64, String> {
        let read = self.open(name)?.query_row(sql, (), |row| row.get(0));
        read.map_err(|error| format!("{name}: {sql}: {error}"))
    }

    /// How many sagas are under way, and messages unsent.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn unfinished(&self) -> Result<i64, String> {
        let sagas =
            "SELECT count(*) FROM sagas WHERE state IN ('running', 'compensating') OR revoked IS NOT NULL";
        let unsent = "SELECT count(*) FROM outbox";
        Ok(self.count("order", sagas)? + self.count("payment", sagas)? + self.count("payment", unsent)?)
    }

    /// Notes what the books of the shop say.
    pub fn audit(&self, report: &mut Report) {
        report.note("R4.2", "every accepted saga is completed or compensated", self.sagas());
        report.note(
            "R4.4",
            "for every order, charges less refunds are nothing, or exactly its amount",
            self.money(),
        );
        report.note("R4.8", "the ledger adds up to nothing, and to what the bank has", self.ledger());
        report.note(
            "R12.2",
            "outboxes are empty, and the last message written is the last taken",
            self.messages(),
        );
        report.note("R15.6", "nobody was told the same thing twice", self.notifications());
        report.note(
            "R15.7",
            "of all goods, what is on hand is what is available and what is reserved, and nothing is lost",
            self.goods(),
        );
    }

    /// Whether every saga has come to a good end; tells how many there were.
    ///
    /// # Errors
    /// How many have not.
    pub fn sagas(&self) -> Result<String, String> {
        let mut all = 0;
        for name in ["order", "payment"] {
            let open = "SELECT count(*) FROM sagas WHERE state NOT IN ('completed', 'compensated')";
            let open = self.count(name, open)?;
            hold(open == 0, || format!("{open} sagas of {name} are not"))?;
            all += self.count(name, "SELECT count(*) FROM sagas")?;
        }
        Ok(format!("{all} sagas"))
    }

    fn orders(&self) -> Result<Vec<(String, Order)>, String> {
        let book = self.open("order")?;
        let failed = |error: rusqlite::Error| format!("order: {error}");
        let mut statement = book.prepare("SELECT order_id FROM orders").map_err(failed)?;
        let ids = statement.query_map((), |row| row.get::<_, String>(0)).map_err(failed)?;
        let orders = ids.map(|id| {
            let id = id?;
            let order = log::load::<Order>(&book, &stream(&id))?.state;
            Ok((id, order))
        });
        orders.collect::<rusqlite::Result<Vec<_>>>().map_err(failed)
    }

    /// Whether what the bank has of each order is what it should be; tells of how many.
    ///
    /// # Errors
    /// Of how many it is not, and of which first.
    pub fn money(&self) -> Result<String, String> {
        let (orders, payment, bank) = (self.orders()?, self.open("payment")?, self.open("bank")?);
        let failed = |error: rusqlite::Error| error.to_string();
        let mut of_order =
            payment.prepare("SELECT payment_id FROM payments WHERE order_id = ?1").map_err(failed)?;
        let mut net = bank
            .prepare(
                "SELECT coalesce(sum(CASE entry WHEN 'charge' THEN paise ELSE -paise END), 0) FROM movements \
                 WHERE charge = ?1",
            )
            .map_err(failed)?;
        let (mut paid, mut wrong) = (0, Vec::new());
        for (order_id, order) in &orders {
            let ids = of_order.query_map([order_id], |row| row.get::<_, String>(0)).map_err(failed)?;
            let mut taken = 0;
            for id in ids {
                let key = format!("{}:charge", id.map_err(failed)?);
                taken += net.query_row([key], |row| row.get::<_, i64>(0)).map_err(failed)?;
            }
            let total = order.placed.as_ref().map_or(0, |placed| placed.total.paise());
            let is_cash = order.placed.as_ref().is_some_and(|it| it.payment_method == Method::Cod);
            let should = if order.state.is_some_and(is_kept) && !is_cash { total } else { 0 };
            paid += u32::from(taken > 0);
            if taken != should {
                wrong.push(format!(
                    "{order_id} is {:?}, and the bank has {taken} of {total} paise",
                    order.state
                ));
            }
        }
        let first = wrong.first().cloned().unwrap_or_default();
        hold(wrong.is_empty(), || format!("{} of {} orders: {first}", wrong.len(), orders.len()))?;
        Ok(format!("{} orders, {paid} of them paid in the end", orders.len()))
    }

    /// Whether the postings add up, and to what the bank has; tells how much that is.
    ///
    /// # Errors
    /// What does not.
    pub fn ledger(&self) -> Result<String, String> {
        let uneven = "SELECT count(*) FROM
            (SELECT payment_id FROM postings GROUP BY payment_id, entry HAVING sum(paise) <> 0)";
        let uneven = self.count("payment", uneven)?;
        hold(uneven == 0, || format!("{uneven} payments have postings that do not add up"))?;
        let clearing = "SELECT coalesce(sum(paise), 0) FROM postings WHERE account = 'clearing'
            AND payment_id IN (SELECT payment_id FROM payments WHERE method <> 'cod')";
        let clearing = self.count("payment", clearing)?;
        let at_bank =
            "SELECT coalesce(sum(CASE entry WHEN 'charge' THEN paise ELSE -paise END), 0) FROM movements";
        let at_bank = self.count("bank", at_bank)?;
        hold(clearing == at_bank, || format!("{clearing} paise in the ledger, {at_bank} at the bank"))?;
        Ok(format!("{at_bank} paise"))
    }

    fn messages(&self) -> Result<String, String> {
        let unsent = self.count("payment", "SELECT count(*) FROM outbox")?;
        let dead = self.count("payment", "SELECT count(*) FROM dead_letters")?;
        hold((unsent, dead) == (0, 0), || format!("{unsent} are unsent, and {dead} were put aside"))?;
        let rides = self.count("booking", "SELECT count(*) FROM outbox")?;
        hold(rides == 0, || format!("{rides} of booking are unsent"))?;
        let written =
            self.count("payment", "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'outbox'")?;
        let taken = self.count("order", "SELECT coalesce(max(last), 0) FROM inbox")?;
        hold(written == taken, || format!("{written} were written, and the last one taken is {taken}"))?;
        Ok(format!("{written} messages"))
    }

    /// Whether nobody was told the same twice; tells how often somebody was told something.
    ///
    /// # Errors
    /// How many were sent more than once.
    pub fn notifications(&self) -> Result<String, String> {
        let twice = "SELECT count(*) FROM (SELECT 1 FROM sent GROUP BY notification_id HAVING count(*) > 1)";
        let twice = self.count("notification", twice)?;
        hold(twice == 0, || format!("{twice} were sent more than once"))?;
        Ok(format!("{} notifications", self.count("notification", "SELECT count(*) FROM sent")?))
    }

    /// Whether all goods are on hand or sent, and none reserved; tells how many there are.
    ///
    /// # Errors
    /// Of which they are not.
    pub fn goods(&self) -> Result<String, String> {
        let (inventory, orders) = (self.open("inventory")?, self.orders()?);
        let failed = |error: rusqlite::Error| format!("inventory: {error}");
        let mut statement = inventory.prepare("SELECT DISTINCT stream FROM events").map_err(failed)?;
        let streams = statement.query_map((), |row| row.get::<_, String>(0)).map_err(failed)?;
        let mut all = 0;
        for stream in streams {
            let stream = stream.map_err(failed)?;
            let product = stream.trim_start_matches("product:");
            let stock = log::load::<Stock>(&inventory, &stream).map_err(failed)?.state;
            let [mut on_hand, mut reserved] = [0_u32; 2];
            for (warehouse, shelf) in &stock.shelves {
                let (available, held) = (shelf.available(), shelf.reserved);
                hold(shelf.on_hand == available + held, || {
                    format!(
                        "{product} in {warehouse}: {} on hand, {available} available, {held} reserved",
                        shelf.on_hand
                    )
                })?;
                on_hand += shelf.on_hand;
                reserved += held;
            }
            let at_first = "SELECT coalesce(sum(json_extract(data, '$.quantity')), 0) FROM events \
                WHERE kind = 'product_added' AND stream = ?1";
            let at_first =
                inventory.query_row(at_first, [&stream], |row| row.get::<_, u32>(0)).map_err(failed)?;
            let kept = orders.iter().filter(|(_, order)| order.state.is_some_and(is_kept));
            let lines = kept.flat_map(|(_, order)| order.placed.iter().flat_map(|placed| &placed.lines));
            let sent = lines.filter(|line| line.product_id == product).map(|line| line.quantity).sum::<u32>();
            hold(reserved == 0, || format!("{reserved} of {product} are reserved for nobody"))?;
            hold(on_hand + sent == at_first, || {
                format!("of {at_first} {product} {on_hand} are on hand, and {sent} were sent")
            })?;
            all += at_first;
        }
        Ok(format!("{all} pieces"))
    }
}

/// Whether goods are with the customer, or on their way, and the money with the shop.
const fn is_kept(state: State) -> bool {
    matches!(
        state,
        State::Confirmed | State::Processing | State::Shipped | State::OutForDelivery | State::Delivered
    )
}
