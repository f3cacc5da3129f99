//! The services, and their lives.

use std::path::{Path, PathBuf};

use axum::{
    Json, Router,
    extract::{Path as Part, State as With},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Chance;
use crate::{
    bank, inventory,
    kernel::{
        clock::Clock,
        peer::{Mishap, Peer, Place},
        service::App,
        store::{Crash, Migrations, Store},
    },
    order, payment,
    rules::moment::Moment,
};

/// When a rehearsal begins: noon, in January.
pub const NOON: Moment = Moment::from_unix(1_768_458_600);

/// A commit that no rehearsal comes to.
pub const NEVER: i64 = i64::MAX / 2;

/// Those that crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Orders.
    Order,
    /// Payments.
    Payment,
    /// Stock.
    Inventory,
    /// Money.
    Bank,
}

impl Role {
    /// All of them; whoever is asked stands before who asks.
    pub const ALL: [Self; 4] = [Self::Bank, Self::Inventory, Self::Payment, Self::Order];

    /// Its name, and its file's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Inventory => "inventory",
            Self::Bank => "bank",
        }
    }

    const fn migrations(self) -> Migrations {
        match self {
            Self::Order => order::record::MIGRATIONS,
            Self::Payment => payment::record::MIGRATIONS,
            Self::Inventory => inventory::record::MIGRATIONS,
            Self::Bank => bank::record::MIGRATIONS,
        }
    }
}

/// Where everybody stands.
#[derive(Clone, Debug, Default)]
pub struct Places {
    order: Place,
    payment: Place,
    inventory: Place,
    bank: Place,
    user: Place,
    product: Place,
    notification: Place,
}

impl Places {
    fn of(&self, role: Role) -> &Place {
        match role {
            Role::Order => &self.order,
            Role::Payment => &self.payment,
            Role::Inventory => &self.inventory,
            Role::Bank => &self.bank,
        }
    }
}

/// A life of a service.
#[derive(Debug)]
struct Life {
    role: Role,
    crash: Crash,
    _work: JoinSet<()>,
}

/// All services.
#[derive(Debug)]
pub struct Stage {
    folder: TempDir,
    clock: Clock,
    places: Places,
    crash: Crash,
    lives: Vec<Life>,
    /// How often somebody has crashed.
    pub crashes: u64,
}

impl Stage {
    /// Everybody, each in their first life.
    ///
    /// # Errors
    /// If a file cannot be made.
    pub async fn new(chance: &mut Chance) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (clock, places, crash) = (Clock::fixed_start(NOON), Places::default(), Crash::after(NEVER));
        places.user.put(Some(Router::new().route("/internal/users/{user_id}", get(user))));
        places.product.put(Some(Router::new().route("/internal/products", get(products))));
        let told = Router::new().route("/notifications", post(notify)).with_state(chance.percent(70));
        places.notification.put(Some(told));
        for place in [&places.order, &places.payment, &places.inventory, &places.bank, &places.notification] {
            let mut chance = chance.branch();
            let lossy = *chance.of_these(&[0, 0, 2, 10]);
            place.mishaps(move || match chance.below(200) {
                it if it < lossy => Mishap::LostBefore,
                it if it < 2 * lossy => Mishap::LostAfter,
                _ => Mishap::None,
            });
        }
        let mut stage = Self { folder, clock, places, crash, lives: Vec::new(), crashes: 0 };
        for role in Role::ALL {
            stage.raise(role).await?;
        }
        Ok(stage)
    }

    /// The file of a service.
    pub fn file(&self, role: Role) -> PathBuf {
        file(self.folder.path(), role)
    }

    /// What time it is there.
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// A service, as customers ask it: they wait.
    pub fn peer(&self, role: Role) -> Peer {
        Peer::here(role.name(), self.places.of(role).clone()).patient(super::LONGEST)
    }

    /// Lets somebody crash after so many half commits.
    pub fn crash_after(&mut self, half_commits: u64) {
        self.crash.set(i64::try_from(half_commits).unwrap_or(NEVER));
    }

    /// Takes away who has crashed; tells who it was.
    pub fn bury(&mut self) -> Option<Role> {
        let number = self.lives.iter().position(|it| it.crash.has_come())?;
        let Life { role, .. } = self.lives.swap_remove(number);
        self.places.of(role).put(None);
        self.crashes += 1;
        Some(role)
    }

    /// A new life for a service, on the file of its last.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub async fn raise(&mut self, role: Role) -> Result<(), String> {
        let crash = self.crash.another();
        let store = Store::open_here(&self.file(role), role.migrations(), crash.clone());
        let store = store.map_err(|error| error.to_string())?;
        let clock = self.clock;
        let peer = |name, place: &Place| Peer::here(name, place.clone());
        let Places { order, payment, inventory, bank, user, product, notification } = &self.places;
        let App { routes, work } = match role {
            Role::Order => {
                let peers = order::Peers {
                    user: peer("user", user),
                    product: peer("product", product),
                    inventory: peer("inventory", inventory),
                    payment: peer("payment", payment).patient(order::flow::PAYMENT),
                    notification: peer("notification", notification),
                };
                order::app(clock, store, peers)
            }
            Role::Payment => {
                let peers = payment::Peers {
                    order: peer("order", order),
                    user: peer("user", user),
                    bank: peer("bank", bank).patient(payment::BANK),
                    notification: peer("notification", notification),
                };
                payment::app(clock, store, peers)
            }
            Role::Inventory => match inventory::app(clock, store).await {
                Ok(app) => app,
                // It has crashed again before it was there.
                Err(_) if crash.has_come() => App::default(),
                Err(problem) => return Err(problem.to_string()),
            },
            Role::Bank => bank::app(clock, store, bank::BankArgs { delay: 0 }),
        };
        self.places.of(role).put(Some(routes));
        self.lives.push(Life { role, crash, _work: work });
        Ok(())
    }
}

/// Those who know one another would keep one another.
impl Drop for Stage {
    fn drop(&mut self) {
        for role in Role::ALL {
            self.places.of(role).put(None);
        }
    }
}

fn file(folder: &Path, role: Role) -> PathBuf {
    folder.join(format!("{}.db", role.name()))
}

async fn user(Part(user_id): Part<String>) -> Json<Value> {
    Json(json!({
        "user_id": user_id, "name": "Asha", "language": "hi", "city": "mumbai", "tier": "premium", "kyc": "full",
        "risk": 10, "blocked": user_id.starts_with("BLOCKED_"), "phone": null, "email": null,
    }))
}

/// One product of which there is little, and one of which there is enough.
async fn products() -> Json<Value> {
    let product = |id: &str, price: &str| {
        json!({
            "product_id": id, "name": {"en": id, "hi": id}, "price": price, "mrp": price, "category": "grocery",
            "hsn": "0902", "cod": true, "fragile": false, "all_india": true, "cities": [], "max_quantity": 100,
        })
    };
    Json(json!({"products": [product("prod_001", "65999.00"), product("prod_003", "485.00")], "missing": []}))
}

/// Sometimes nobody can be told: that must change nothing.
async fn notify(With(works): With<bool>) -> (StatusCode, Json<Value>) {
    let status = if works { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({})))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: services that know one another kept one another, and their files, open: a thousand rehearsals were too many.
    #[tokio::test(start_paused = true)]
    async fn a_stage_that_is_gone_has_no_file_open() {
        let stage = Stage::new(&mut Chance::of(1)).await.unwrap();
        let folder = stage.folder.path().to_owned();
        let open = || {
            let links = std::fs::read_dir("/proc/self/fd").unwrap();
            let files = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
            files.filter(|file| file.starts_with(&folder)).count()
        };
        assert!(open() > 4, "each of four services has a file");
        drop(stage);
        tokio::task::yield_now().await; // Work that was aborted goes with its next turn.
        assert_eq!(open(), 0);
    }
}
