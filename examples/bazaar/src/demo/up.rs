//! `bazaar up`: every service and the gateway, each a process of its own, from one terminal.
//!
//! 1. Check that every port is free, so that the message names the service and not a stack of errors.
//! 2. Start the processes one after the other, each once the one before answers `GET /readyz`.
//! 3. Say where everything is and what to try; pass on what they print.
//! 4. On Ctrl-C, on `SIGTERM`, or when one of them dies: stop the others, the gateway first, because it
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
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Builder,
    time::{sleep, timeout},
};

use crate::{
    demo::{
        children::{Death, Family},
        naka::{self, Addresses},
    },
    kernel::{
        console::{complain, say},
        service::{DRAIN, DataArgs, Stop, lock_alone},
    },
    rules::{moment::Moment, money::Money},
    user::keys::Keys,
};

/// How long a process may take until it answers.
const START: Duration = Duration::from_secs(10);

/// How long each process may take to stop: longer than it drains.
const STOP: Duration = Duration::from_secs(DRAIN.as_secs() + 2);

/// The services in the order in which they start, and their ports: whoever is asked stands before who asks.
const SERVICES: [(&str, u16); 5] =
    [("user", 8101), ("pricing", 8201), ("driver", 8202), ("tracking", 8204), ("booking", 8203)];

/// Where `bazaar ride` looks for the gateway.
pub const GATEWAY: u16 = 8080;

/// The services that have a database.
const KEEPING: [&str; 4] = ["pricing", "driver", "tracking", "booking"];

/// What `bazaar up` is told.
#[derive(Args, Clone, Debug)]
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
    /// Start only the services, to run the gateway by hand.
    #[arg(long)]
    no_gateway: bool,
    /// Begin with empty databases: no rides, and every driver free where they were at first.
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
    let names = SERVICES.map(|(name, _)| name);
    let known = names.into_iter().find(|it| *it == name);
    let name =
        known.ok_or_else(|| format!("there is no service {name:?}; there are {}", names.join(", ")))?;
    let at = address.parse::<SocketAddr>().ok().filter(|at| at.port() != 0);
    Ok((name, at.ok_or_else(|| format!("{address:?} is no address with a port, such as 127.0.0.1:8301"))?))
}

impl UpArgs {
    fn address(&self, name: &str) -> SocketAddr {
        let said = self.elsewhere.iter().rev().find(|(it, _)| *it == name).map(|(_, at)| *at);
        let port = SERVICES.iter().find(|(it, _)| *it == name).map_or(0, |(_, port)| *port);
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

/// A process to start.
#[derive(Clone, Debug)]
struct Planned {
    name: &'static str,
    args: Vec<OsString>,
    /// Where it listens.
    listens: Vec<SocketAddr>,
    /// Where it answers `GET /readyz`.
    ready: SocketAddr,
}

async fn up(args: &UpArgs) -> Result<ExitCode, String> {
    let config = if args.no_gateway { None } else { Some(find(&args.config)?) };
    let gateway = config.map(|config| naka::addresses(&config).map(|addresses| (addresses, config)));
    let gateway = gateway.transpose()?;
    let data = args.data.folder()?;
    let mut plan = SERVICES.map(|(name, _)| plan_service(name, args, &data)).to_vec();
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
    for planned in plan {
        let name = planned.name;
        match family.start(name, &planned.args) {
            Ok(pid) => pids.push((planned, pid)),
            Err(error) => return format!("cannot start {name}: {error}"),
        }
        tokio::select! {
            ready = timeout(START, ready(planned.ready)) => if ready.is_err() {
                let (at, seconds) = (planned.ready, START.as_secs());
                return format!("{name} did not answer GET http://{at}/readyz within {seconds} s");
            },
            death = family.next_death() => return mourn(&death),
        }
    }
    say(welcome(&pids, gateway, args));
    mourn(&family.next_death().await)
}

/// Prints what a quiet child said last.
fn mourn(death: &Death) -> String {
    death.last_words.iter().for_each(complain);
    death.to_string()
}

fn plan_service(name: &'static str, args: &UpArgs, data: &Path) -> Planned {
    let at = args.address(name);
    let mut words: Vec<OsString> = vec![name.into(), "--stop-with-stdin".into()];
    let mut say = |flag: &str, value: OsString| words.extend([flag.into(), value]);
    say("--listen", at.to_string().into());
    say("--data", data.into());
    if let Some(now) = args.now {
        say("--now", now.to_string().into());
    }
    if name == "booking" {
        for peer in ["pricing", "driver", "tracking"] {
            say(&format!("--{peer}"), args.address(peer).to_string().into());
        }
        say("--cancellation-fee", args.cancellation_fee.to_string().into());
    }
    Planned { name, args: words, listens: vec![at], ready: at }
}

/// Takes away the databases, and leaves the keys.
fn forget(data: &Path) -> Result<(), String> {
    let files = KEEPING.iter().flat_map(|name| ["", "-wal", "-shm"].map(|end| format!("{name}.db{end}")));
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
    Planned { name: "gateway", args, listens: vec![public, admin], ready: admin }
}

/// The configuration as named from here, or else from the root of the clone.
fn find(config: &Path) -> Result<PathBuf, String> {
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
async fn ready(at: SocketAddr) {
    while !matches!(timeout(Duration::from_secs(1), probe(at)).await, Ok(Ok(true))) {
        sleep(Duration::from_millis(50)).await;
    }
}

async fn probe(at: SocketAddr) -> io::Result<bool> {
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
        let listens = planned.listens.iter().map(|at| format!("http://{at}")).collect::<Vec<_>>();
        _ = writeln!(text, "  {:<8} {}  (process {pid})", planned.name, listens.join("  admin "));
    }
    let at = gateway.map_or(args.address("pricing"), |(addresses, _)| addresses.public);
    let trip =
        r#"{"pickup":{"lat":18.9220,"lng":72.8342},"drop":{"lat":19.0760,"lng":72.8777},"ride_type":"mini"}"#;
    let json = "application/json";
    _ = writeln!(text, "\nWhat does a ride from Fort to Bandra cost?");
    _ = writeln!(text, "  curl -s http://{at}/api/rides/estimate -H 'content-type: {json}' -d '{trip}'");
    if let Some((addresses, config)) = gateway {
        let data = args.data.data.as_ref().map(|data| format!(" --data {}", data.display()));
        let data = data.unwrap_or_default();
        let elsewhere = if at.port() == GATEWAY { String::new() } else { format!(" --gateway {at}") };
        _ = writeln!(text, "Take one: estimate, book, track, cancel:");
        _ = writeln!(text, "  cargo run --release -p bazaar -- ride{elsewhere}{data}");
        _ = writeln!(text, "Who is near? And a token, to ask for yourself:");
        _ = writeln!(text, "  curl -s 'http://{at}/api/drivers/nearby?lat=19.0178&lng=72.8478'");
        _ = writeln!(text, "  cargo run --release -p bazaar -- token --sub asha{data}");
        _ = writeln!(
            text,
            "How many questions can be answered? First lift the limits for people, `askers` and"
        );
        _ = writeln!(
            text,
            "`per-ip` in {}: `rate: 1000000/s`; it takes effect when you save it.",
            config.display()
        );
        _ = writeln!(text, "  oha -z 10s -c 64 -m POST -T {json} -d '{trip}' http://{at}/api/rides/estimate");
        _ = writeln!(text, "See a limit:");
        _ = writeln!(text, "  for i in $(seq 12); do curl -si http://{at}/demo/limited | head -1; done");
        _ = writeln!(text, "See the routes:\n  curl -s http://{}/routes", addresses.admin);
    }
    _ = writeln!(text, "Ctrl-C stops.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_configuration_has_the_addresses_we_wait_for() {
        let config = find(Path::new("gateway.yaml")).unwrap();
        let text = std::fs::read_to_string(&config).unwrap();
        let Addresses { public, admin } = naka::addresses(&config).unwrap();
        let services = SERVICES.map(|(_, port)| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        for at in [public, admin].into_iter().chain(services) {
            assert!(text.contains(&at.to_string()), "{at} is not in {}", config.display());
        }
    }

    #[test]
    fn a_configuration_that_is_not_here_is_taken_from_the_root() {
        assert!(find(Path::new("gateway.yaml")).unwrap().is_absolute()); // Tests run in the crate's folder.
        assert_eq!(find(Path::new("Cargo.toml")), Ok(PathBuf::from("Cargo.toml")));
        assert!(find(Path::new("no-such.yaml")).is_err());
    }
}
