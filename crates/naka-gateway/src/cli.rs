//! The command line.
//!
//! Exit codes: 0 as asked; 1 `check` found errors, or something failed while running; 2 the process
//! did not come up, a file cannot be read, or the command line is wrong; 3 `import` has written what is wrong: a bug of naka.

use std::{
    ffi::OsString,
    fmt,
    io::{ErrorKind, IsTerminal, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand, ValueEnum};
use http::StatusCode;
use naka::{BoxError, clock::Now};
use serde_json::json;
use tracing_subscriber::EnvFilter;

#[cfg(feature = "simulate")]
use crate::simulate::simulate;
use crate::{
    ask::Asked,
    config::{
        self, Outline,
        checked::{Auth, Config, Name, Route},
    },
    custom::Kinds,
    diff::{Difference, diff, diff_live},
    explain::{Explanation, explain},
    fmt::{LeftAlone, layout_of},
    import::{self, Api, Level, Options, Report, import},
    limits::limits,
    live,
    observe::Metrics,
    origin,
    prepare::{Before, Outside, Prepared, Refusal, RunTests, prepare},
    replay::replay,
    run::{self, Failure},
    state::State,
    top,
};

/// The gateway at the checkpoint.
#[derive(Debug, Parser)]
#[command(name = "naka", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway. SIGHUP reloads, SIGTERM drains
    Run {
        /// The configuration
        #[arg(short, long, default_value = "gateway.yaml")]
        config: PathBuf,
        /// Only check it, as `naka check` does
        #[arg(long)]
        validate_only: bool,
        /// Take over from the gateway that runs: `unix:` and the path of its `gateway.upgrade.socket`
        #[arg(long, value_name = "SOCKET", value_parser = unix_path)]
        upgrade_from: Option<PathBuf>,
    },
    /// Check configurations and run their own tests
    Check {
        /// The configurations
        #[arg(default_value = "gateway.yaml")]
        files: Vec<PathBuf>,
        /// How to say it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say what would become of a request, and why, without sending it
    Explain {
        #[command(flatten)]
        asked: Box<Asked>,
        /// The configuration to ask
        #[arg(short, long, default_value = "gateway.yaml")]
        config: PathBuf,
        /// Ask a running gateway instead, at its admin port: with its live state
        #[arg(long, value_name = "ADMIN", num_args = 0..=1, default_missing_value = "127.0.0.1:9901", require_equals = true)]
        live: Option<String>,
        /// How to say it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say what would change between two configurations, and what would become of the state
    Diff {
        /// The configuration as it is; with `--live`, the only one: as it would be
        old: PathBuf,
        /// The configuration as it would be
        #[arg(required_unless_present = "live", conflicts_with = "live")]
        new: Option<PathBuf>,
        /// Compare with what a running gateway has in force, at its admin port or at `unix:` and the path of its socket
        #[arg(long, value_name = "ADMIN", num_args = 0..=1, default_missing_value = "127.0.0.1:9901", require_equals = true)]
        live: Option<String>,
        /// End with 1 if they differ, as `git diff --exit-code` does
        #[arg(long)]
        exit_code: bool,
        /// How to say it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say which of the requests of an access log would be routed, answered, limited or rewritten differently
    Replay {
        /// The log, a line of JSON for each request; `-` for standard input
        #[arg(long)]
        log: PathBuf,
        /// The configuration as it would be
        #[arg(long)]
        against: PathBuf,
        /// The configuration as it is
        #[arg(short, long, default_value = "gateway.yaml")]
        config: PathBuf,
        /// End with 1 if any would be
        #[arg(long)]
        exit_code: bool,
        /// How to say it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Put an earlier generation of a running gateway in force again. It needs `NAKA_ADMIN_TOKEN`, or the Unix socket
    Rollback {
        /// Which one; the one before if nothing is said
        to: Option<u64>,
        /// Only say which are kept
        #[arg(long)]
        list: bool,
        /// The admin port, or `unix:` and the path of its socket
        #[arg(long, value_name = "ADMIN", default_value = "127.0.0.1:9901")]
        live: String,
    },
    /// Show what a running gateway does, every two seconds: its upstreams, its busiest routes, what bounds them
    Top {
        /// The admin port, or `unix:` and the path of its socket
        #[arg(long, value_name = "ADMIN", default_value = "127.0.0.1:9901")]
        live: String,
        /// Show one second of it, and end; so it is also where standard output is no terminal
        #[arg(long)]
        once: bool,
        /// How to say it; JSON is said once
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Act out a scenario in virtual time: the whole gateway between clients and servers that are only thought of
    #[cfg(feature = "simulate")]
    Simulate {
        /// The scenario: a configuration, who asks, how servers behave, and what has to come of it
        scenario: PathBuf,
        /// Also draw it: a file that is written
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// How to say it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say every bound of a configuration, and what it may take in memory at the most
    Limits {
        /// The configuration
        #[arg(default_value = "gateway.yaml")]
        file: PathBuf,
        /// How to say it
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Lay out configurations in the one way there is, comments kept: keys in the order of the documentation
    Fmt {
        /// The files, each by itself: what a configuration includes has to be named; `-` is from standard input to standard output
        #[arg(default_value = "gateway.yaml")]
        files: Vec<PathBuf>,
        /// Change nothing; end with 1 if something would be, and show what
        #[arg(long)]
        check: bool,
    },
    /// Make a configuration of the resources of a cluster, and say of each thing that is not carried over where it stands
    Import {
        /// Where they come from
        #[arg(value_enum)]
        api: From,
        /// Files with one or many documents; `-` is standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Where to write it; standard output if nothing is said
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The namespace of resources that say none
        #[arg(long, default_value = "default")]
        namespace: String,
        /// Where endpoints of services and subsets are: a map such as `cart/v1: ["10.0.0.7:8080"]`
        #[arg(long, value_name = "FILE")]
        endpoints: Option<PathBuf>,
        /// The account of the ingress gateway whose place this one takes, as `cluster.local/ns/istio-system/sa/ingress`
        #[arg(long, value_name = "ACCOUNT")]
        identity: Option<String>,
        /// When faults end that are imported, as `2027-03-01`
        #[arg(long, value_name = "TIME")]
        faults_until: Option<String>,
        /// End with 1 if something is left out, too
        #[arg(long)]
        strict: bool,
        /// How to say what was not carried over
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Print the JSON Schema of the configuration, for editors
    Schema {
        /// That of scenarios for `naka simulate`, instead
        #[arg(long)]
        scenario: bool,
    },
}

/// Where resources come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// `VirtualService`, `DestinationRule`, `Gateway`, `ServiceEntry`, and policies of security
    Istio,
    /// `Gateway`, `HTTPRoute`, `GRPCRoute`
    GatewayApi,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For machines
    Json,
}

/// The whole program: `args` begin with the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    main_with(args, &Kinds::default())
}

/// As [`main`], with these kinds of policies beside those that are built in.
pub fn main_with(args: impl IntoIterator<Item = OsString>, kinds: &Kinds) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => cli.command.run(kinds),
        Err(error) => {
            let _ = error.print(); // Nowhere to say that printing failed.
            ExitCode::from(if error.use_stderr() { 2 } else { 0 })
        }
    }
}

impl Command {
    fn run(self, kinds: &Kinds) -> ExitCode {
        match self {
            Self::Run { config, validate_only: true, .. } => check(&[config], Format::Text, kinds),
            Self::Run { config, upgrade_from, .. } => serve(&config, upgrade_from.as_deref(), kinds),
            Self::Check { files, format } => check(&files, format, kinds),
            Self::Explain { asked, live: Some(admin), format, .. } => explain_live(&asked, &admin, format),
            Self::Explain { asked, config, live: None, format } => {
                explain_offline(&asked, &config, format, kinds)
            }
            Self::Diff { old: file, live: Some(admin), exit_code, format, .. } => {
                compare_live(&admin, &file, exit_code, format, kinds)
            }
            Self::Diff { old, new, exit_code, format, .. } => {
                compare(&old, &new.unwrap_or_default(), exit_code, format, kinds)
            }
            Self::Replay { log, against, config, exit_code, format } => {
                replayed(&log, (&config, &against), exit_code, format, kinds)
            }
            Self::Rollback { list: true, live, .. } => answered(&live, live::get(&live, "/generations")),
            Self::Rollback { to, live, .. } => {
                let path = to.map_or_else(|| "/rollback".to_owned(), |to| format!("/rollback?to={to}"));
                answered(&live, live::post(&live, &path, &json!({})))
            }
            Self::Top { live, once, format } => shown_live(&live, once, format),
            Self::Limits { file, format } => bounds(&file, format, kinds),
            Self::Fmt { files, check } => lay_out(&files, check, kinds),
            #[cfg(feature = "simulate")]
            Self::Simulate { scenario, svg, format } => simulated(&scenario, svg.as_deref(), format, kinds),
            Self::Import {
                api,
                files,
                output,
                namespace,
                endpoints,
                identity,
                faults_until,
                strict,
                format,
            } => {
                let options = Options { namespace, identity, faults_until, endpoints: None };
                imported(
                    api,
                    (&files, endpoints.as_deref()),
                    output.as_deref(),
                    options,
                    &Telling { strict, format },
                )
            }
            Self::Schema { scenario: true } => {
                say(format_args!("{:#}\n", config::scenario_schema()), ExitCode::SUCCESS)
            }
            Self::Schema { scenario: false } => {
                say(format_args!("{:#}\n", config::schema_with(kinds)), ExitCode::SUCCESS)
            }
        }
    }
}

fn unix_path(said: &str) -> Result<PathBuf, String> {
    let path = said.strip_prefix("unix:").filter(|path| !path.is_empty());
    path.map(PathBuf::from)
        .ok_or_else(|| "write `unix:` and the path, as `unix:/run/naka/upgrade`".to_owned())
}

fn serve(entry: &Path, before: Option<&Path>, kinds: &Kinds) -> ExitCode {
    log_to_stderr();
    let color = std::io::stderr().is_terminal();
    match run::run(entry, before, kinds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Refused(refusal)) => {
            complain(format_args!("{}", refusal.render(color)));
            let errors = count(refusal.count(), "error", "errors");
            complain(format_args!("naka: not started: {} has {errors}\n", entry.display()));
            ExitCode::from(2)
        }
        Err(Failure::Origin(origin::Failure::Upgrade(why))) => {
            complain(format_args!("naka: not started: the gateway that runs goes on: {why}\n"));
            complain(format_args!(
                "  help: is `--upgrade-from` the `gateway.upgrade.socket` of the gateway that runs? its log says more\n"
            ));
            ExitCode::from(2)
        }
        Err(Failure::Origin(origin::Failure::Sockets(why))) => {
            complain(format_args!("naka: not started: {why}\n"));
            ExitCode::from(2)
        }
        Err(Failure::Told) => {
            complain(format_args!("naka: not started: it was told to end before it served\n"));
            ExitCode::from(2)
        }
        Err(Failure::Io(what, error)) => {
            complain(format_args!("naka: not started: {what} cannot be had: {error}\n"));
            ExitCode::from(2)
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("NAKA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_target(false);
    let _ = log.with_writer(std::io::stderr).try_init(); // Somebody may have set one up already.
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// On standard output. If nobody reads it any more, as behind `| head`, nobody misses it; a full disk
/// is another matter.
fn say(text: fmt::Arguments<'_>, code: ExitCode) -> ExitCode {
    let mut stdout = std::io::stdout();
    match stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            complain(format_args!("naka: nothing can be written: {error}\n"));
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// On standard error; there is nowhere to say that this failed.
fn complain(text: fmt::Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// Prepares a configuration as a cold start would, and binds nothing.
fn prepare_offline(file: &Path, tests: RunTests, kinds: &Kinds) -> Result<Prepared, Refusal> {
    let before = Before { entry: file, sources: None, state: &|_| State::new(1), number: 1, tests, kinds };
    prepare(&before, &Arc::new(Metrics::new()), &Outside::default())
}

fn check(files: &[PathBuf], format: Format, kinds: &Kinds) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    let color = std::io::stdout().is_terminal();
    for file in files {
        let result = prepare_offline(file, RunTests::Always, kinds);
        if result.is_err() {
            code = ExitCode::FAILURE;
        }
        code = match format {
            Format::Text => say(format_args!("{}", checked_text(file, &result, color)), code),
            Format::Json => say(format_args!("{:#}\n", checked_json(file, &result)), code),
        };
    }
    code
}

fn checked_text(file: &Path, result: &Result<Prepared, Refusal>, color: bool) -> String {
    match result {
        Ok(prepared) => {
            let config = &prepared.generation.config;
            let line = |(name, route): (&Name, &Route)| {
                let says = match route.auth {
                    Auth::None => "is public: `auth: none`",
                    _ => "lets in whoever brings no credentials: `auth: optional`",
                };
                format!("{}: the route `{name}` {says}\n", route.origin)
            };
            let open = [Auth::None, Auth::Optional].into_iter().flat_map(|auth| routes_with(auth, config));
            let open = open.map(line).collect::<Vec<_>>().concat();
            format!(
                "{}{open}{}: fine; {}, {}, {}, {} passed, hash {}\n",
                prepared.warnings.render(color),
                file.display(),
                count(config.routes.len(), "route", "routes"),
                count(config.upstreams.len(), "upstream", "upstreams"),
                count(config.policies.len(), "policy", "policies"),
                count(config.tests.len(), "test", "tests"),
                prepared.generation.hash(),
            )
        }
        Err(refusal) => {
            let errors = count(refusal.count(), "error", "errors");
            format!("{}{} has {errors}\n", refusal.render(color), file.display())
        }
    }
}

/// The routes that say this of who asks: those that let in more than the rest of their group or listener does.
fn routes_with(auth: Auth, config: &Config) -> impl Iterator<Item = (&Name, &Route)> {
    let all = config.routes.iter().map(|(name, route)| (name, &**route));
    all.filter(move |(_, route)| route.auth == auth)
}

fn checked_json(file: &Path, result: &Result<Prepared, Refusal>) -> serde_json::Value {
    let file = file.display().to_string();
    match result {
        Ok(prepared) => {
            let named = |auth| {
                routes_with(auth, &prepared.generation.config).map(|(name, _)| &**name).collect::<Vec<_>>()
            };
            json!({
                "file": file, "ok": true, "warnings": prepared.warnings.to_json(),
                "hash": prepared.generation.hash(),
                "public": named(Auth::None), "optional": named(Auth::Optional),
            })
        }
        Err(refusal) => json!({"file": file, "ok": false, "errors": refusal.to_json()}),
    }
}

/// Two configurations, the second from the state of the first; or how it ends if one is wrong.
fn both(old: &Path, new: &Path, kinds: &Kinds) -> Result<(Prepared, Prepared), ExitCode> {
    let before =
        prepare_offline(old, RunTests::Never, kinds).map_err(|refusal| not_compared(old, &refusal))?;
    let state = &|_: &Config| before.generation.state.clone();
    let after = Before { entry: new, sources: None, state, number: 2, tests: RunTests::Always, kinds };
    let after = prepare(&after, &Arc::new(Metrics::new()), &Outside::default());
    let after = after.map_err(|refusal| not_compared(new, &refusal))?;
    Ok((before, after))
}

fn not_compared(file: &Path, refusal: &Refusal) -> ExitCode {
    let errors = count(refusal.count(), "error", "errors");
    complain(format_args!("{}", refusal.render(std::io::stderr().is_terminal())));
    complain(format_args!("naka: nothing to compare: {} has {errors}\n", file.display()));
    ExitCode::from(2)
}

fn replayed(
    log: &Path,
    (old, new): (&Path, &Path),
    exit_code: bool,
    format: Format,
    kinds: &Kinds,
) -> ExitCode {
    let (old, new) = match both(old, new, kinds) {
        Ok(both) => both,
        Err(code) => return code,
    };
    let result = if log == Path::new("-") {
        replay(std::io::stdin().lock(), &old.generation, &new.generation)
    } else {
        let file = std::fs::File::open(log).map(std::io::BufReader::new);
        file.and_then(|file| replay(file, &old.generation, &new.generation))
    };
    let replayed = match result {
        Ok(replayed) => replayed,
        Err(error) => {
            complain(format_args!("naka: {} cannot be read: {error}\n", log.display()));
            return ExitCode::from(2);
        }
    };
    let code = ExitCode::from(u8::from(exit_code && replayed.different > 0));
    match format {
        Format::Text => say(format_args!("{replayed}"), code),
        Format::Json => say(format_args!("{:#}\n", replayed.to_json()), code),
    }
}

#[cfg(feature = "simulate")]
fn simulated(scenario: &Path, svg: Option<&Path>, format: Format, kinds: &Kinds) -> ExitCode {
    let simulated = match simulate(scenario, kinds) {
        Ok(simulated) => simulated,
        Err(refusal) => {
            complain(format_args!("{}", refusal.render(std::io::stderr().is_terminal())));
            let errors = count(refusal.count(), "error", "errors");
            complain(format_args!("naka: nothing to simulate: {} has {errors}\n", scenario.display()));
            return ExitCode::from(2);
        }
    };
    let code = if simulated.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let code = match format {
        Format::Text => say(format_args!("{simulated}"), code),
        Format::Json => say(format_args!("{:#}\n", simulated.to_json()), code),
    };
    match svg.map_or(Ok(()), |file| draw(file, &simulated.to_svg())) {
        Ok(()) => code,
        Err(why) => {
            complain(format_args!("naka: the picture is not written: {why}\n"));
            ExitCode::from(2)
        }
    }
}

/// Writes a picture, in the place of nothing but another picture.
#[cfg(feature = "simulate")]
fn draw(file: &Path, picture: &str) -> Result<(), String> {
    let shown = file.display();
    match std::fs::read(file) {
        Ok(before) if !before.is_empty() && !before.starts_with(b"<svg") => {
            return Err(format!("{shown} is there and no picture: name another file"));
        }
        _ => {}
    }
    std::fs::write(file, picture).map_err(|error| format!("{shown}: {error}"))
}

fn compare(old: &Path, new: &Path, exit_code: bool, format: Format, kinds: &Kinds) -> ExitCode {
    let (before, after) = match both(old, new, kinds) {
        Ok(both) => both,
        Err(code) => return code,
    };
    say_different(&diff(&before, &after), &old.display().to_string(), new, exit_code, format)
}

fn compare_live(admin: &str, new: &Path, exit_code: bool, format: Format, kinds: &Kinds) -> ExitCode {
    let after = match prepare_offline(new, RunTests::Always, kinds) {
        Ok(after) => after,
        Err(refusal) => return not_compared(new, &refusal),
    };
    let running = match live::get(admin, "/config") {
        Ok((StatusCode::OK, running)) => running,
        answer => {
            answered(admin, answer);
            return ExitCode::from(2);
        }
    };
    let complain = |why: &str| {
        complain(format_args!("naka: nothing to compare: the gateway at {admin} {why}\n"));
        ExitCode::from(2)
    };
    if running["more_keys"] != 0 {
        return complain(match running["more_keys"] {
            serde_json::Value::Null => {
                "does not say what is in force: ask again if it reloads just now; an older one never does"
            }
            _ => "has more keys in force than its admin port tells",
        });
    }
    let Some(outline) = Outline::from_json(&running["keys"]) else {
        return complain("says what is in force in a way that this version does not understand");
    };
    let name = format!("generation {} at {admin}", running["generation"]);
    say_different(&diff_live(&outline, &after), &name, new, exit_code, format)
}

fn say_different(
    difference: &Difference,
    old: &str,
    new: &Path,
    exit_code: bool,
    format: Format,
) -> ExitCode {
    let code = ExitCode::from(u8::from(exit_code && !difference.is_empty()));
    match format {
        Format::Text => {
            let color = std::io::stdout().is_terminal();
            say(format_args!("{}", difference.render(old, new, color)), code)
        }
        Format::Json => say(format_args!("{:#}\n", difference.to_json()), code),
    }
}

fn lay_out(files: &[PathBuf], only_check: bool, kinds: &Kinds) -> ExitCode {
    let left_alone = |file: &Path, why: &LeftAlone| {
        complain(format_args!("{}", why.render(std::io::stderr().is_terminal())));
        complain(format_args!("naka: {} is left as it is\n", file.display()));
        ExitCode::FAILURE
    };
    files.iter().fold(ExitCode::SUCCESS, |code, file| match layout_of(file, kinds) {
        Ok(layout) if layout.is_stream() && !only_check => say(format_args!("{}", layout.text()), code),
        Ok(layout) if layout.is_as_it_was() => code,
        Ok(layout) if only_check => say(format_args!("{}", layout.difference(file)), ExitCode::FAILURE),
        Ok(layout) => match layout.put_in_place() {
            Ok(()) => say(format_args!("{}: laid out\n", file.display()), code),
            Err(why) => left_alone(file, &why),
        },
        Err(why) => left_alone(file, &why),
    })
}

/// How an import is told of.
struct Telling {
    strict: bool,
    format: Format,
}

/// The text of a file, or of standard input for `-`.
fn text_of(file: &Path) -> Result<(String, Arc<str>), String> {
    let cannot = |why: String| format!("{}: {why}", file.display());
    let text = if file == Path::new("-") {
        config::text_of(std::io::stdin().lock())
    } else {
        std::fs::File::open(file)
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(config::text_of)
    };
    Ok((file.display().to_string(), text.map_err(cannot)?))
}

fn imported(
    from: From,
    (files, endpoints): (&[PathBuf], Option<&Path>),
    output: Option<&Path>,
    options: Options,
    telling: &Telling,
) -> ExitCode {
    let read = files.iter().map(|file| text_of(file)).collect::<Result<Vec<_>, _>>();
    let (files, endpoints) = match (read, endpoints.map(text_of).transpose()) {
        (Ok(files), Ok(endpoints)) => (files, endpoints),
        (Err(why), _) | (_, Err(why)) => {
            complain(format_args!("naka: {why}\n"));
            return ExitCode::from(2);
        }
    };
    let api = match from {
        From::Istio => Api::Istio,
        From::GatewayApi => Api::GatewayApi,
    };
    let imported = match import(api, &files, &Options { endpoints, ..options }) {
        Ok(imported) => imported,
        Err(import::Failure::Files(wrong)) => {
            complain(format_args!("{}", wrong.render(std::io::stderr().is_terminal())));
            return ExitCode::from(2);
        }
        Err(import::Failure::TooMany(most)) => {
            complain(format_args!("naka: more than {most} files: import fewer at a time\n"));
            return ExitCode::from(2);
        }
        Err(import::Failure::Nothing(report)) => {
            told(&report, telling.format);
            complain(format_args!("naka: nothing is written: no listener comes of it\n"));
            complain(format_args!("  help: import the Gateway as well\n"));
            return ExitCode::FAILURE;
        }
        Err(import::Failure::Option(why)) => {
            complain(format_args!("naka: {why}\n"));
            return ExitCode::from(2);
        }
        Err(import::Failure::Bug { text, why }) => {
            complain(format_args!(
                "{text}\nnaka: what was written is wrong, which is a bug of naka: {why}\n"
            ));
            complain(format_args!("  help: please report it, with the resources\n"));
            return ExitCode::from(3);
        }
    };
    let report = &imported.report;
    told(report, telling.format);
    let is_wrong = report.count(Level::Error) > 0 || telling.strict && report.count(Level::LeftOut) > 0;
    let code = if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    let Some(output) = output else { return say(format_args!("{}", imported.text), code) };
    match std::fs::write(output, &imported.text) {
        Ok(()) => code,
        Err(error) => {
            complain(format_args!("naka: {} cannot be written: {error}\n", output.display()));
            ExitCode::from(2)
        }
    }
}

/// What was not carried over, on standard error.
fn told(report: &Report, format: Format) {
    match format {
        Format::Text => complain(format_args!("{report}{}\n", summary(report))),
        Format::Json => complain(format_args!("{:#}\n", report.to_json())),
    }
}

fn summary(report: &Report) -> String {
    let of = |level| report.count(level);
    format!(
        "naka: {}, {} left out, {} changed, {}, {}",
        count(of(Level::Error), "error", "errors"),
        of(Level::LeftOut),
        of(Level::Changed),
        count(of(Level::Needs), "thing is needed", "things are needed"),
        count(of(Level::Note), "note", "notes"),
    )
}

fn bounds(file: &Path, format: Format, kinds: &Kinds) -> ExitCode {
    let prepared = match prepare_offline(file, RunTests::Never, kinds) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            complain(format_args!("{}", refusal.render(std::io::stderr().is_terminal())));
            return ExitCode::FAILURE;
        }
    };
    let limits = limits(&prepared.generation);
    match format {
        Format::Text => say(format_args!("{}: {limits}", file.display()), ExitCode::SUCCESS),
        Format::Json => say(format_args!("{:#}\n", limits.to_json()), ExitCode::SUCCESS),
    }
}

fn explain_offline(asked: &Asked, file: &Path, format: Format, kinds: &Kinds) -> ExitCode {
    // A deadline in the future needs no runtime, but paused clocks do; a request is only thought of.
    let prepared = match prepare_offline(file, RunTests::Never, kinds) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            complain(format_args!("{}", refusal.render(std::io::stderr().is_terminal())));
            return ExitCode::FAILURE;
        }
    };
    match asked.check(&prepared.generation.config) {
        Ok(asked) => {
            let explanation = explain(&prepared.generation, &asked, Now::read());
            say_explained(&explanation, format)
        }
        Err(why) => {
            complain(format_args!("naka: {why}\n"));
            ExitCode::from(2)
        }
    }
}

fn say_explained(explanation: &Explanation, format: Format) -> ExitCode {
    match format {
        Format::Text => say(format_args!("{explanation}\n"), ExitCode::SUCCESS),
        Format::Json => say(format_args!("{:#}\n", explanation.to_json()), ExitCode::SUCCESS),
    }
}

/// What the admin port answers, as it is.
fn answered(admin: &str, answer: Result<(StatusCode, serde_json::Value), BoxError>) -> ExitCode {
    match answer {
        Ok((StatusCode::OK, answer)) => say(format_args!("{answer:#}\n"), ExitCode::SUCCESS),
        Ok((status, answer)) => {
            let why = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
            complain(format_args!("naka: the gateway at {admin} answered {status}: {why}\n"));
            ExitCode::FAILURE
        }
        Err(why) => unreachable_admin(admin, &why),
    }
}

fn unreachable_admin(admin: &str, why: &BoxError) -> ExitCode {
    complain(format_args!("naka: the gateway's admin port {admin} cannot be asked: {why}\n"));
    complain(format_args!("  help: is it running? `gateway.admin.listen` says where its admin port is\n"));
    ExitCode::FAILURE
}

fn shown_live(admin: &str, once: bool, format: Format) -> ExitCode {
    let goes_on = !once && format == Format::Text && std::io::stdout().is_terminal();
    let result = if goes_on { top::follow(admin).map(|()| None) } else { top::once(admin).map(Some) };
    match (result, format) {
        (Ok(None), _) => ExitCode::SUCCESS,
        (Ok(Some(view)), Format::Text) => say(format_args!("{}", view.to_text(None)), ExitCode::SUCCESS),
        (Ok(Some(view)), Format::Json) => say(format_args!("{:#}\n", view.to_json()), ExitCode::SUCCESS),
        (Err(why), _) => unreachable_admin(admin, &why),
    }
}

fn explain_live(asked: &Asked, admin: &str, format: Format) -> ExitCode {
    match live::post(admin, "/explain", &asked.to_json()) {
        Ok((StatusCode::OK, answer)) => match (format, answer["text"].as_str()) {
            (Format::Text, Some(text)) => say(format_args!("{text}\n"), ExitCode::SUCCESS),
            _ => say(format_args!("{answer:#}\n"), ExitCode::SUCCESS),
        },
        Ok((status, answer)) => {
            let why = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
            complain(format_args!("naka: the gateway at {admin} answered {status}: {why}\n"));
            ExitCode::FAILURE
        }
        Err(why) => unreachable_admin(admin, &why),
    }
}
