//! `bazaar up`: every service and the gateway, each a process of its own, from one terminal.
//!
//! 1. Check that every port is free, so that the message names the service and not a stack of errors.
//! 2. Start the services that ask no other, at the same time; those that do, once these answer `GET /readyz`; then the
//!    gateway. Who asks whom is in `SERVICES`.
//! 3. Say where everything is and what to try; pass on what they print.
//! 4. On Ctrl-C, on `SIGTERM`, or when one of them dies: stop the others one after the other, the gateway first, because it
//!    has requests under way to the services.
//!
//! # Exit codes
//! 0 when it was told to stop; 1 when something could not start or died.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddr},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Builder,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    demo::{
        children::{Death, Family},
        naka::{self, Addresses},
        sidecars::{self, Doors},
    },
    kernel::{
        console::{complain, say},
        service::{DRAIN, DataArgs, Stop, lock_alone},
    },
    rules::{moment::Moment, money::Money},
    user::keys::Keys,
};

/// How long the processes that start at the same time may take until all of them answer.
pub(super) const START: Duration = Duration::from_secs(30);

/// How long each process may take to stop: longer than it drains.
pub(super) const STOP: Duration = Duration::from_secs(DRAIN.as_secs() + 2);

/// The folder of what the sidecars need, in that of the data.
const MESH: &str = "mesh";

/// Where `bazaar ride` looks for the gateway.
pub const GATEWAY: u16 = 8080;

/// A part of the bazaar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Rides through Mumbai.
    Rides,
    /// The shop, its kitchens, and the bank that it is paid through.
    Shop,
}

/// A service, as `up` knows it.
pub(super) struct Service {
    /// What it is called: in `--at`, before its lines, and as its file: `NAME.db`.
    pub(super) name: &'static str,
    /// What its sidecar is called, before its lines.
    pub(super) sidecar: &'static str,
    pub(super) port: u16,
    /// What it is a part of; of everything, if there is nothing.
    part: Option<Part>,
    /// Its subcommand, and what else that is told.
    pub(super) command: &'static [&'static str],
    /// Whom it asks: it is told where they are, and starts when those answer who ask nobody.
    pub(super) asks: &'static [&'static str],
}

impl Service {
    const fn asking(self, asks: &'static [&'static str]) -> Self {
        Self { asks, ..self }
    }

    pub(super) fn is_of(&self, only: Option<Part>) -> bool {
        self.part.is_none() || only.is_none_or(|only| self.part == Some(only))
    }

    /// In which turn it starts.
    const fn turn(&self) -> Turn {
        if self.asks.is_empty() { Turn::Asked } else { Turn::Asking }
    }
}

/// One of a part, which asks nobody.
macro_rules! service {
    ($part:ident, $name:literal, $port:literal, $command:expr) => {
        Service {
            name: $name,
            sidecar: concat!($name, "'s sidecar"),
            port: $port,
            part: Some(Part::$part),
            command: &$command,
            asks: &[],
        }
    };
}

/// The services: first those that ask nobody, then those that do. They stop in the opposite order.
pub(super) const SERVICES: [Service; 15] = [
    Service { part: None, ..service!(Shop, "user", 8101, ["user"]) },
    service!(Shop, "product", 8102, ["product", "--api", "v1"]),
    service!(Shop, "product-v2", 8112, ["product", "--api", "v2"]),
    service!(Shop, "product-v3", 8122, ["product", "--api", "v3"]),
    service!(Shop, "inventory", 8103, ["inventory"]),
    service!(Shop, "restaurant", 8107, ["restaurant"]),
    service!(Shop, "bank", 8108, ["bank"]),
    service!(Rides, "pricing", 8201, ["pricing"]),
    service!(Rides, "driver", 8202, ["driver"]),
    service!(Rides, "tracking", 8204, ["tracking"]),
    service!(Shop, "inventory-query", 8113, ["inventory-query"]).asking(&["inventory"]),
    service!(Shop, "notification", 8106, ["notification"]).asking(&["user"]),
    service!(Shop, "payment", 8105, ["payment"]).asking(&["order", "user", "bank", "notification"]),
    service!(Shop, "order", 8104, ["order"]).asking(&[
        "user",
        "product",
        "inventory",
        "payment",
        "notification",
    ]),
    service!(Rides, "booking", 8203, ["booking"]).asking(&["pricing", "driver", "tracking"]),
];

/// What `bazaar up` is told.
#[derive(Args, Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub struct UpArgs {
    /// Begin at this time instead of the wall clock's: 2026-01-15T08:00+05:30 is in surge.
    #[arg(long, value_name = "TIME")]
    now: Option<Moment>,
    /// The gateway's configuration, looked for here and then in the root of the clone.
    #[arg(long, value_name = "FILE", default_value = "gateway.yaml")]
    config: PathBuf,
    /// Print what the processes say only when one of them dies.
    #[arg(long)]
    quiet: bool,
    /// Beside each service a sidecar, and what one asks another goes through both of theirs, over TLS on which each shows who it is.
    #[arg(long, conflicts_with_all = ["elsewhere", "no_gateway", "only"])]
    mesh: bool,
    /// When a process dies, the others go on; and it is said how to start it again.
    #[arg(long)]
    keep_going: bool,
    /// Start only the services, to run the gateway by hand.
    #[arg(long)]
    no_gateway: bool,
    /// Start the services of one part alone; the gateway goes on routing to the other, and finds nobody there.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Begin with empty databases: no rides and no orders, and only the users, goods and drivers that were there at first.
    #[arg(long)]
    fresh: bool,
    /// Where a service listens, such as `pricing=127.0.0.1:8301`; the configuration has to say the same.
    #[arg(long = "at", value_name = "NAME=ADDRESS", value_parser = named_address)]
    elsewhere: Vec<(&'static str, SocketAddr)>,
    /// What it costs to cancel once a driver is bound, in rupees.
    #[arg(long, value_name = "AMOUNT", default_value = "0.00")]
    cancellation_fee: Money,
    #[command(flatten)]
    data: DataArgs,
}

fn named_address(text: &str) -> Result<(&'static str, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("write it like pricing=127.0.0.1:8301")?;
    let names = SERVICES.map(|it| it.name);
    let known = names.into_iter().find(|it| *it == name);
    let name =
        known.ok_or_else(|| format!("there is no service {name:?}; there are {}", names.join(", ")))?;
    let at = address.parse::<SocketAddr>().ok().filter(|at| at.port() != 0);
    Ok((name, at.ok_or_else(|| format!("{address:?} is no address with a port, such as 127.0.0.1:8301"))?))
}

impl UpArgs {
    fn address(&self, name: &str) -> SocketAddr {
        let said = self.elsewhere.iter().rev().find(|(it, _)| *it == name).map(|(_, at)| *at);
        let port = SERVICES.iter().find(|it| it.name == name).map_or(0, |it| it.port);
        said.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into())
    }
}

/// Runs everything until it is told to stop.
pub fn run(args: &UpArgs) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    runtime.block_on(up(args)).unwrap_or_else(|message| failed(&message))
}

fn failed(message: &str) -> ExitCode {
    complain(format_args!("bazaar up: {message}"));
    ExitCode::FAILURE
}

/// When a process starts: those of one turn at the same time, once all of the turn before answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Services that ask nobody.
    Asked,
    /// Those that ask others.
    Asking,
    /// What stands beside services.
    Sidecar,
    /// The gateway, which asks all.
    Gateway,
}

/// A process to start.
#[derive(Clone, Debug)]
struct Planned {
    name: &'static str,
    turn: Turn,
    args: Vec<OsString>,
    /// Where it listens.
    listens: Vec<SocketAddr>,
    /// Where it answers `GET /readyz`.
    ready: SocketAddr,
}

async fn up(args: &UpArgs) -> Result<ExitCode, String> {
    let config = if args.no_gateway { None } else { Some(find(&args.config)?) };
    let data = args.data.folder()?;
    let config = config.map(|config| if args.mesh { lay_out_mesh(&data, &config) } else { Ok(config) });
    let config = config.transpose()?;
    let gateway = config.map(|config| naka::addresses(&config).map(|addresses| (addresses, config)));
    let gateway = gateway.transpose()?;
    let services = SERVICES.iter().filter(|it| it.is_of(args.only));
    let mut plan = services.map(|it| plan_service(it, args, &data)).collect::<Vec<_>>();
    plan.extend(SERVICES.iter().filter(|_| args.mesh).map(|it| plan_sidecar(it, &data.join(MESH))));
    plan.extend(gateway.as_ref().map(|(addresses, config)| plan_gateway(*addresses, config)));
    let mut taken = BTreeMap::new();
    for planned in &plan {
        for at in &planned.listens {
            if let Some(other) = taken.insert(*at, planned.name) {
                return Err(format!("{other} and {} cannot both listen on {at}", planned.name));
            }
        }
        planned.listens.iter().try_for_each(|at| free(planned.name, *at))?;
    }
    if args.fresh {
        let _alone = lock_alone(&data)?; // Or a booking would be confirmed into a file that is gone.
        forget(&data)?;
    }
    Keys::of(&data)?;

    let mut stop = Stop::watch().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let mut family = Family::new(args.quiet);
    let code = tokio::select! {
        trouble = trouble(&mut family, &plan, gateway.as_ref(), args) => {
            failed(&format!("{trouble}; everything stops"))
        }
        signal = stop.signal() => {
            say(format_args!("\n{signal}: stopping; once more does not wait"));
            ExitCode::SUCCESS
        }
    };
    let hurry = async { _ = stop.signal().await };
    family.stop(STOP, hurry).await;
    Ok(code)
}

/// Starts all, and returns what went wrong; never, if nothing does.
async fn trouble(
    family: &mut Family,
    plan: &[Planned],
    gateway: Option<&(Addresses, PathBuf)>,
    args: &UpArgs,
) -> String {
    let mut pids = Vec::new();
    for turn in plan.chunk_by(|one, next| one.turn == next.turn) {
        for planned in turn {
            match family.start(planned.name, &planned.args) {
                Ok(pid) => pids.push((planned, pid)),
                Err(error) => return format!("cannot start {}: {error}", planned.name),
            }
        }
        tokio::select! {
            all = all_ready(turn) => if let Err(message) = all {
                return message;
            },
            death = family.next_death() => return mourn(&death),
        }
    }
    say(welcome(&pids, gateway, args));
    loop {
        let death = family.next_death().await;
        let trouble = mourn(&death);
        let Some(planned) = plan.iter().find(|it| args.keep_going && it.name == death.name) else {
            return trouble;
        };
        let words =
            planned.args.iter().filter(|it| *it != "--stop-with-stdin").map(|it| it.to_string_lossy());
        let words = words.collect::<Vec<_>>().join(" ");
        say(format_args!(
            "{trouble}; the others go on. Once more: cargo run --release -q -p bazaar -- {words}"
        ));
    }
}

/// Waits until all of them answer.
async fn all_ready(turn: &[Planned]) -> Result<(), String> {
    let waits = turn.iter().map(|&Planned { name, ready: at, .. }| async move {
        let seconds = START.as_secs();
        let late = |_| format!("{name} did not answer GET http://{at}/readyz within {seconds} s");
        timeout(START, ready(at)).await.map_err(late)
    });
    let mut waits = waits.collect::<JoinSet<_>>();
    while let Some(waited) = waits.join_next().await {
        waited.unwrap_or_else(|error| resume_unwind(error.into_panic()))?; // Nobody aborts it.
    }
    Ok(())
}

/// Prints what a quiet child said last.
pub(super) fn mourn(death: &Death) -> String {
    death.last_words.iter().for_each(complain);
    death.to_string()
}

fn plan_service(service: &Service, args: &UpArgs, data: &Path) -> Planned {
    let name = service.name;
    let at = args.address(name);
    let mut words = service.command.iter().map(OsString::from).collect::<Vec<_>>();
    words.push("--stop-with-stdin".into());
    let mut say = |flag: &str, value: OsString| words.extend([flag.into(), value]);
    say("--listen", at.to_string().into());
    say("--data", data.into());
    if let Some(now) = args.now {
        say("--now", now.to_string().into());
    }
    for peer in service.asks {
        let asked = args.address(peer).to_string();
        let asked = if args.mesh { sidecars::asked_at(peer, Doors::of(service.port)) } else { asked };
        say(&format!("--{peer}"), asked.into());
    }
    if name == "booking" {
        say("--cancellation-fee", args.cancellation_fee.to_string().into());
    }
    Planned { name, turn: service.turn(), args: words, listens: vec![at], ready: at }
}

/// Writes what the sidecars need; the configuration of the gateway that goes through them.
fn lay_out_mesh(data: &Path, config: &Path) -> Result<PathBuf, String> {
    let text = std::fs::read_to_string(config)
        .map_err(|error| format!("{} cannot be read: {error}", config.display()))?;
    let folder = data.join(MESH);
    sidecars::lay_out(&folder, &sidecars::as_written(), &text)?;
    Ok(sidecars::file(&folder, "gateway"))
}

fn plan_sidecar(service: &Service, folder: &Path) -> Planned {
    let Doors { inbound, outbound, admin } = Doors::of(service.port);
    let mut planned =
        plan_gateway(Addresses { public: inbound, admin }, &sidecars::file(folder, service.name));
    planned.listens.extend(Some(outbound).filter(|_| !service.asks.is_empty()));
    Planned { name: service.sidecar, turn: Turn::Sidecar, ..planned }
}

/// Takes away the databases of all services, also of those that are not to start, and leaves the keys.
fn forget(data: &Path) -> Result<(), String> {
    let names = SERVICES.iter().map(|it| it.name);
    let files = names.flat_map(|name| ["", "-wal", "-shm"].map(|end| format!("{name}.db{end}")));
    for file in files.map(|file| data.join(file)) {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{} cannot be taken away: {error}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn plan_gateway(Addresses { public, admin }: Addresses, config: &Path) -> Planned {
    let words = ["naka", "--stop-with-stdin", "run", "-c"].map(OsString::from);
    let args = words.into_iter().chain([config.into()]).collect();
    Planned { name: "gateway", turn: Turn::Gateway, args, listens: vec![public, admin], ready: admin }
}

/// The configuration as named from here, or else from the root of the clone.
pub(super) fn find(config: &Path) -> Result<PathBuf, String> {
    if config.is_file() {
        return Ok(config.to_owned());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().unwrap_or(root); // Only for the message: a path without `..` in it.
    let there = root.join(config);
    if there.is_file() {
        return Ok(there);
    }
    let (config, root) = (config.display(), root.display());
    Err(format!("there is no {config}, neither here nor in {root}; --config names another file"))
}

/// Whether somebody could listen there; the one who does is a likely earlier `bazaar up`.
fn free(name: &str, at: SocketAddr) -> Result<(), String> {
    std::net::TcpListener::bind(at).map(drop).map_err(|error| {
        if error.kind() != io::ErrorKind::AddrInUse {
            return format!("{name} cannot listen on {at}: {error}");
        }
        let port = at.port();
        format!(
            "port {port}, which {name} needs, is taken ({at}). Is another `bazaar up` running? \
             `ss -ltnp 'sport = :{port}'` shows who has it"
        )
    })
}

/// Waits until `GET /readyz` is answered with 200.
pub(super) async fn ready(at: SocketAddr) {
    while !matches!(timeout(Duration::from_secs(1), probe(at)).await, Ok(Ok(true))) {
        sleep(Duration::from_millis(50)).await;
    }
}

pub(super) async fn probe(at: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await?;
    Ok(status.ends_with(b" 200"))
}

/// Where everything is, and what to try.
fn welcome(pids: &[(&Planned, u32)], gateway: Option<&(Addresses, PathBuf)>, args: &UpArgs) -> String {
    let mut text = String::from("\nThe bazaar is open");
    _ = match args.now {
        Some(now) => writeln!(text, ", and it was {now} when it opened."),
        None => writeln!(text, "."),
    };
    for (planned, pid) in pids {
        // A sidecar's door for others speaks TLS.
        let doors = match planned.turn {
            Turn::Sidecar => ["https://", "  admin http://", "  for its service http://"],
            _ => ["http://", "  admin http://", "  "],
        };
        let listens = doors.iter().zip(&planned.listens).map(|(door, at)| format!("{door}{at}"));
        _ = writeln!(text, "  {:<25} {}  (process {pid})", planned.name, listens.collect::<String>());
    }
    for (what, command) in attempts(gateway.map(|(addresses, _)| *addresses), args) {
        _ = writeln!(text, "\n{what}\n  {command}");
    }
    if let Some((Addresses { admin, .. }, _)) = gateway {
        _ = writeln!(
            text,
            "\nSee all of it at http://{admin}/; examples/bazaar/README.md goes on from here."
        );
    }
    _ = writeln!(text, "Ctrl-C stops.");
    text
}

/// Three things to try, or fewer if not everything runs.
fn attempts(gateway: Option<Addresses>, args: &UpArgs) -> Vec<(&'static str, String)> {
    let (has_rides, has_shop) = (args.only != Some(Part::Shop), args.only != Some(Part::Rides));
    let before = |service| gateway.map_or_else(|| args.address(service), |addresses| addresses.public);
    let mut attempts = Vec::new();
    if has_shop {
        let command = format!("curl -s 'http://{}/api/search?q=tea&lang=en'", before("product-v2"));
        attempts.push(("Is there any tea?", command));
    }
    match gateway {
        Some(Addresses { public, .. }) if has_rides => {
            let data = args.data.data.as_ref().map(|data| format!(" --data {}", data.display()));
            let elsewhere =
                if public.port() == GATEWAY { String::new() } else { format!(" --gateway {public}") };
            let ride = "cargo run --release -p bazaar -- ride";
            let command = format!("{ride}{elsewhere}{}", data.unwrap_or_default());
            attempts.push(("Take a ride: estimate, book, track, cancel:", command));
        }
        None if has_rides => {
            let trip = r#"{"pickup":{"lat":18.9220,"lng":72.8342},"drop":{"lat":19.0760,"lng":72.8777},"ride_type":"mini"}"#;
            let at = before("pricing");
            let command = format!(
                "curl -s http://{at}/api/rides/estimate -H 'content-type: application/json' -d '{trip}'"
            );
            attempts.push(("What does a ride from Fort to Bandra cost?", command));
        }
        _ => {}
    }
    if let Some(Addresses { public, .. }) = gateway {
        let command = format!("for i in $(seq 12); do curl -si http://{public}/demo/limited | head -1; done");
        attempts.push(("See a limit:", command));
    }
    attempts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_has_the_addresses_we_wait_for() {
        let config = find(Path::new("gateway.yaml")).unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        let Addresses { public, admin } = naka::addresses(&config).unwrap();
        // The gateway does not route to these.
        let public_services = SERVICES.iter().filter(|it| !["bank", "notification"].contains(&it.name));
        let services = public_services.map(|it| SocketAddr::from((Ipv4Addr::LOCALHOST, it.port)));
        for at in [public, admin].into_iter().chain(services) {
            assert!(text.contains(&at.to_string()), "{at} is not in {}", config.display());
        }
    }

    #[test]
    fn who_asks_knows_whom_and_starts_after_those_who_ask_nobody() {
        let names = SERVICES.map(|it| it.name);
        assert!(SERVICES.iter().flat_map(|it| it.asks).all(|asked| names.contains(asked)));
        assert!(SERVICES.is_sorted_by_key(|it| it.turn() == Turn::Asking), "each turn is one");
        for part in [Part::Rides, Part::Shop] {
            let has = |name: &&str| SERVICES.iter().any(|it| it.name == *name && it.is_of(Some(part)));
            let of_part = SERVICES.iter().filter(|it| it.is_of(Some(part)));
            assert!(of_part.flat_map(|it| it.asks).all(has), "{part:?} needs nothing of the other part");
        }
    }

    #[test]
    fn a_configuration_that_is_not_here_is_taken_from_the_root() {
        assert!(find(Path::new("gateway.yaml")).unwrap().is_absolute()); // Tests run in the crate's folder.
        assert_eq!(find(Path::new("Cargo.toml")), Ok(PathBuf::from("Cargo.toml")));
        assert!(find(Path::new("no-such.yaml")).is_err());
    }
}
