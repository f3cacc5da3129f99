//! What a reload costs at ten thousand routes: `cargo bench --bench reload`.
//!
//! Each line is the least of several rounds of one run, in which all are measured in turn; so what counts is how they compare. The bare
//! parse is that of the parser's events, of which nothing is kept.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "benches may")]

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use naka_gateway::{
    custom::Kinds,
    observe::Metrics,
    prepare::{Before, Outside, Prepared, RunTests, prepare},
    state::State,
};

const ROUTES: usize = 10_000;
const OF_A_FILE: usize = 200;
const ROUNDS: usize = 9;

const ENTRY: &str = "listeners: {web: {listen: '127.0.0.1:0'}}
upstreams: {app: {endpoints: ['127.0.0.1:3000']}}
policies: {per-ip: {rate_limit: {rate: 1000/s, key: [client_ip]}}}
";

fn routes(numbers: std::ops::Range<usize>, total: usize) -> String {
    numbers.fold("routes:\n".to_owned(), |mut text, number| {
        let _ = write!(
            text,
            "  route-{number}:
    match: {{path: \"/api/v{}/service-{}/thing-{number}/{{id}}\", methods: [GET, POST]}}
    use: [per-ip]
    timeouts: {{total: {total}s}}
    upstream: app
",
            number % 7,
            number / OF_A_FILE,
        );
        text
    })
}

/// A configuration, and what was prepared of it last.
struct Gateway {
    folder: tempfile::TempDir,
    metrics: Arc<Metrics>,
    prepared: Option<Prepared>,
    best: Duration,
}

impl Gateway {
    fn new(entry: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("routes.d")).unwrap();
        fs::write(folder.path().join("gateway.yaml"), entry).unwrap();
        Self { folder, metrics: Arc::new(Metrics::new()), prepared: None, best: Duration::MAX }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).unwrap();
    }

    /// From the files on the disk to a generation that could take effect.
    fn prepare(&mut self) {
        let before = self.prepared.take();
        let began = Instant::now();
        let prepared = prepare(
            &Before {
                entry: &self.folder.path().join("gateway.yaml"),
                sources: before.as_ref().map(|it| &it.sources),
                state: &|_| before.as_ref().map_or_else(|| State::new(2), |it| it.generation.state.clone()),
                number: 1,
                tests: RunTests::AsConfigured,
                kinds: &Kinds::default(),
            },
            &self.metrics,
            &Outside::default(),
        );
        if before.is_some() {
            self.best = self.best.min(began.elapsed());
        }
        self.prepared = Some(prepared.unwrap_or_else(|refusal| panic!("{refusal}")));
    }
}

fn bare(text: &str) -> usize {
    granit_parser::Parser::new_from_str(text).inspect(|event| assert!(event.is_ok())).count()
}

fn main() {
    let (mut whole, mut split) = (
        Gateway::new(&(ENTRY.to_owned() + &routes(0..ROUTES, 5))),
        Gateway::new(&format!("include: ['routes.d/*.yaml']\n{ENTRY}")),
    );
    let file = |number: usize| format!("routes.d/r{number:02}.yaml");
    let of = |number: usize| number * OF_A_FILE..(number + 1) * OF_A_FILE;
    (0..ROUTES / OF_A_FILE).for_each(|number| split.write(&file(number), &routes(of(number), 5)));
    whole.prepare();
    split.prepare();
    let mut parse = Duration::MAX;
    for round in 0..ROUNDS {
        let text = ENTRY.to_owned() + &routes(0..ROUTES, 6 + round);
        let began = Instant::now();
        std::hint::black_box(bare(&text));
        parse = parse.min(began.elapsed());
        whole.write("gateway.yaml", &text);
        whole.prepare();
        split.write(&file(round), &routes(of(round), 6 + round));
        split.prepare();
    }
    let bytes = fs::metadata(Path::new(&whole.folder.path().join("gateway.yaml"))).unwrap().len();
    println!("{ROUTES} routes, {bytes} bytes");
    println!("bare parse of one file                     {parse:>10.1?}");
    let ratio = whole.best.as_secs_f64() / parse.as_secs_f64();
    println!(
        "one file, every route of it changed        {:>10.1?}  ({ratio:.2} x the bare parse)",
        whole.best
    );
    println!("files of {OF_A_FILE}, every route of one changed    {:>10.1?}", split.best);
}
