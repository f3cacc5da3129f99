//! `naka top`: what a running gateway does, in a terminal.
//!
//! It takes two readings of `/stats` and shows what came between them: rates, and quantiles by interpolation in the bucket where the rank
//! falls, as if its durations lay evenly between its bounds. So a quantile is right to the bucket, whose upper bound is twice its
//! lower; beyond 16.384 s nothing is known but that.
//!
//! A gateway that does not answer is asked again; until then the numbers before it are shown, and since when they are old.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use http::StatusCode;
use naka::BoxError;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep},
};

use crate::live;

/// Between two readings of one that goes on, and of one that does not.
const EVERY: Duration = Duration::from_secs(2);
const ONCE: Duration = Duration::from_secs(1);
/// Rates and quantiles are of so many readings of one that goes on.
const READINGS: usize = 5;
/// Rows of a table where no terminal bounds them.
const ROWS: usize = 40;
/// Where a terminal does not say how large it is.
const SIZE: (usize, usize) = (80, 24);

/// Two readings.
#[derive(Debug)]
pub(crate) struct View {
    first: Value,
    last: Value,
}

/// What came between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Flow {
    /// A second.
    rate: f64,
    /// From 0 to 1; nothing where nothing came.
    errors: Option<f64>,
    /// Seconds; infinite beyond the last bound, and nothing where nothing came.
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Takes two readings, a second apart.
pub(crate) fn once(admin: &str) -> Result<View, BoxError> {
    runtime()?.block_on(async {
        let first = read(admin, ROWS).await?;
        sleep(ONCE).await;
        let last = read(admin, ROWS).await?;
        Ok(View::new(first, last))
    })
}

/// Shows it again and again, until somebody ends it.
pub(crate) fn follow(admin: &str) -> Result<(), BoxError> {
    runtime()?.block_on(async {
        let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .map(signal)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()?;
        let mut readings = vec![tokio::select! {
            first = read(admin, ROWS) => first?, // Whoever is not there at all is told of on the usual screen.
            () = any(&mut ends) => return Ok(()),
        }];
        let screen = Screen::begin()?;
        let mut heard = Instant::now();
        let mut failure = None;
        loop {
            let view = View::new(readings[0].clone(), readings[readings.len() - 1].clone());
            screen.show(&view, failure.as_ref().map(|why| (heard.elapsed(), why)))?;
            let pause = if readings.len() == 1 { ONCE } else { EVERY };
            let next = async {
                sleep(pause).await;
                read(admin, screen_rows()).await
            };
            let next = tokio::select! {
                next = next => next,
                () = any(&mut ends) => return Ok(()),
            };
            match next {
                Ok(next) => {
                    if uptime(&next) < uptime(&readings[0]) {
                        readings.clear(); // Another process, which counts from zero.
                    }
                    readings.push(next);
                    if readings.len() > READINGS {
                        readings.remove(0);
                    }
                    (heard, failure) = (Instant::now(), None);
                }
                Err(why) => failure = Some(why),
            }
        }
    })
}

async fn any(ends: &mut [Signal]) {
    let [interrupt, terminate, hangup] = ends else { return };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn read(admin: &str, rows: usize) -> Result<Value, BoxError> {
    // As many as may become the busiest until the next reading.
    let rows = rows.saturating_mul(2).min(500);
    match live::fetch(admin, &format!("/stats?limit={rows}")).await? {
        (StatusCode::OK, stats) if stats.is_object() => Ok(stats),
        (StatusCode::NOT_FOUND, _) => Err("it has no `/stats`: its version is an older one".into()),
        (status, answer) => {
            let why = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
            Err(format!("it answered {status}: {why}").into())
        }
    }
}

fn uptime(stats: &Value) -> u64 {
    stats["uptime_ms"].as_u64().unwrap_or_default()
}

/// The alternate screen of a terminal, which is left when this is dropped.
struct Screen;

impl Screen {
    fn begin() -> io::Result<Self> {
        let screen = Self; // From here on it is left, also if the rest fails.
        io::stdout().write_all(b"\x1b[?1049h\x1b[?25l")?;
        io::stdout().flush()?;
        Ok(screen)
    }

    /// Each line over the one before, so that nothing flickers.
    #[allow(clippy::unused_self, reason = "who has none must not draw")]
    fn show(&self, view: &View, failure: Option<(Duration, &BoxError)>) -> io::Result<()> {
        let (columns, rows) = size();
        let mut lines = Vec::new();
        if let Some((old, why)) = failure {
            lines.push(plain(&format!("NO ANSWER: these numbers are {} s old ({why})", old.as_secs())));
        }
        lines.extend(view.to_text(Some((columns, rows))).lines().map(str::to_owned));
        let mut drawn = "\x1b[H".to_owned();
        for line in lines.iter().take(rows.saturating_sub(1)) {
            drawn += &cut(line, columns);
            drawn += "\x1b[K\r\n";
        }
        drawn += "\x1b[J";
        io::stdout().write_all(drawn.as_bytes())?;
        io::stdout().flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = io::stdout().write_all(b"\x1b[?25h\x1b[?1049l"); // Nowhere to say that this failed.
        let _ = io::stdout().flush();
    }
}

/// Columns and rows.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(SIZE, |size| (size.ws_col.into(), size.ws_row.into()))
}

fn screen_rows() -> usize {
    size().1
}

impl View {
    /// If the process is another one by now, nothing came between them.
    fn new(first: Value, last: Value) -> Self {
        let first = if uptime(&first) > uptime(&last) { last.clone() } else { first };
        Self { first, last }
    }

    fn seconds(&self) -> f64 {
        Duration::from_millis(uptime(&self.last).saturating_sub(uptime(&self.first))).as_secs_f64()
    }

    fn bounds(&self) -> Vec<f64> {
        floats(&self.last["bounds_s"])
    }

    /// What came of one row of a table; nothing if it is not in both readings.
    fn flow(&self, table: &str, key: &str, row: &Value) -> Option<Flow> {
        let before = self.first[table]["shown"].as_array()?.iter().find(|it| it[key] == row[key])?;
        let (total, failed) = counted(row)?;
        let (total_before, failed_before) = counted(before)?;
        let buckets = floats(&row["took"]["buckets"]).into_iter().zip(floats(&before["took"]["buckets"]));
        let buckets = buckets.map(|(now, then)| (now - then).max(0.0)).collect::<Vec<_>>();
        let (came, failed) = ((total - total_before).max(0.0), (failed - failed_before).max(0.0));
        let bounds = self.bounds();
        let seconds = self.seconds();
        Some(Flow {
            rate: if seconds > 0.0 { came / seconds } else { 0.0 },
            errors: (came > 0.0).then(|| (failed / came).min(1.0)),
            p50: quantile(&buckets, &bounds, 0.5),
            p99: quantile(&buckets, &bounds, 0.99),
        })
    }

    /// Rows of a table with what came of each, the busiest first.
    fn rows<'a>(&'a self, table: &str, key: &str) -> Vec<(&'a Value, Option<Flow>)> {
        let shown = self.last[table]["shown"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut rows = shown.iter().map(|row| (row, self.flow(table, key, row))).collect::<Vec<_>>();
        let rate = |flow: &Option<Flow>| flow.map_or(0.0, |flow| flow.rate);
        rows.sort_by(|(_, one), (_, other)| rate(other).total_cmp(&rate(one)));
        rows
    }

    /// For machines. Durations are in seconds; 16.384 is that or more.
    pub(crate) fn to_json(&self) -> Value {
        let last = self.bounds().last().copied().unwrap_or_default();
        let flow = |flow: Option<Flow>| {
            let seconds = |value: Option<f64>| value.map(|value| value.min(last));
            flow.map(|it| {
                json!({"per_second": it.rate, "errors": it.errors, "p50_s": seconds(it.p50), "p99_s": seconds(it.p99)})
            })
        };
        let upstreams = self.rows("upstreams", "upstream").into_iter().map(|(row, is)| {
            json!({
                "upstream": row["upstream"], "flow": flow(is), "in_flight": row["in_flight"],
                "endpoints": count_of(row), "troubled": row["troubled"],
                "connections": row["connections"], "budget": row["budget"],
            })
        });
        let routes = self.rows("routes", "route").into_iter().map(|(row, is)| {
            json!({
                "route": row["route"], "template": row["template"], "destination": row["destination"],
                "flow": flow(is),
            })
        });
        let last = &self.last;
        json!({
            "seconds": self.seconds(),
            "generation": last["generation"], "hash": last["hash"], "ready": last["ready"],
            "conditions": last["conditions"], "drain": last["drain"], "uptime_ms": last["uptime_ms"],
            "connections": last["connections"], "alerts": last["alerts"],
            "upstreams": upstreams.collect::<Vec<_>>(), "routes": routes.collect::<Vec<_>>(),
            "breakers": last["breakers"]["shown"], "bulkheads": last["bulkheads"]["shown"],
        })
    }

    /// For people: as much as fits in so many columns and rows.
    pub(crate) fn to_text(&self, size: Option<(usize, usize)>) -> String {
        let (columns, rows) = size.unwrap_or((160, usize::MAX));
        let mut text = self.head();
        let upstreams = self.rows("upstreams", "upstream");
        let routes = self.rows("routes", "route");
        let bounds = self.policies();
        let head = text.lines().count();
        // A third for upstreams, at least what fits of the rest for routes.
        let free = rows.saturating_sub(head + 7);
        let most = if size.is_some() { usize::MAX } else { ROWS };
        let of_upstreams = upstreams.len().min((free / 3).clamp(1, most));
        let of_policies = bounds.len().min(free / 4);
        let of_routes = routes.len().min(free.saturating_sub(of_upstreams + of_policies).clamp(1, most));
        let name = columns.saturating_sub(72).clamp(12, 44);
        let numbers = |flow: &Option<Flow>| {
            let is = flow.unwrap_or_default();
            let rate = flow.map_or("-".to_owned(), |is| per_second(is.rate));
            format!("{rate:>9} {:>7} {:>8} {:>8}", share(is.errors), duration(is.p50), duration(is.p99))
        };
        if !upstreams.is_empty() {
            let _ = writeln!(
                text,
                "\n{:<name$} {:>9} {:>7} {:>8} {:>8} {:>7} {:>5}  BUDGET  ENDPOINTS",
                "UPSTREAM", "REQ/S", "ERR", "P50", "P99", "FLIGHT", "CONN"
            );
        }
        for (row, flow) in upstreams.iter().take(of_upstreams) {
            let connections = &row["connections"];
            let open =
                connections["in_use"].as_u64().unwrap_or(0) + connections["idle"].as_u64().unwrap_or(0);
            let budget = &row["budget"];
            let budget = if budget.is_null() {
                "-".to_owned()
            } else {
                format!("{}/{}", budget["spent"], budget["allowed"])
            };
            let _ = writeln!(
                text,
                "{:<name$} {} {:>7} {open:>5}  {budget:<6}  {}",
                fit(&row["upstream"], name),
                numbers(flow),
                row["in_flight"].to_string(),
                endpoints(row)
            );
        }
        let _ = writeln!(
            text,
            "\n{:<name$} {:>9} {:>7} {:>8} {:>8}  GOES TO",
            "ROUTE", "REQ/S", "ERR", "P50", "P99"
        );
        for (row, flow) in routes.iter().take(of_routes) {
            let to = plain(row["destination"].as_str().unwrap_or_default());
            let _ = writeln!(text, "{:<name$} {}  {to}", fit(&row["route"], name), numbers(flow));
        }
        let left = self.last["routes"]["of"].as_u64().unwrap_or(0).saturating_sub(of_routes as u64);
        if left > 0 {
            let _ = writeln!(text, "and {left} more");
        }
        if !bounds.is_empty() && of_policies > 0 {
            let _ = writeln!(text, "\n{:<name$}  IS", "POLICY");
        }
        for (policy, is) in bounds.iter().take(of_policies) {
            let _ = writeln!(text, "{:<name$}  {is}", fit(policy, name));
        }
        text
    }

    fn head(&self) -> String {
        let last = &self.last;
        let state = match (&last["drain"], last["ready"].as_bool()) {
            (Value::Object(drain), _) => {
                format!("draining: {}", drain.get("phase").and_then(Value::as_str).unwrap_or_default())
            }
            (_, Some(true)) => "ready".to_owned(),
            _ => "NOT READY".to_owned(),
        };
        let up = up(uptime(last) / 1000);
        let mut text = format!(
            "naka  {state}  generation {} ({})  up {up}  {} connections  {} routes\n",
            last["generation"],
            last["hash"].as_str().unwrap_or_default(),
            last["connections"],
            last["routes"]["of"]
        );
        let conditions = last["conditions"].as_object().into_iter().flatten();
        for (condition, is) in conditions.filter(|(_, is)| is["holds"] == false) {
            let why =
                is["why"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>();
            let _ = writeln!(text, "  no {}: {}", plain(condition), plain(&why.join("; ")));
        }
        let alerts = last["alerts"].as_array().into_iter().flatten();
        for alert in alerts.filter(|alert| alert["state"] == "firing").take(5) {
            let said = |key: &str| plain(alert[key].as_str().unwrap_or_default());
            let _ = writeln!(
                text,
                "  {} {} {}: {}",
                said("severity"),
                said("rule"),
                said("subject"),
                said("why")
            );
        }
        if let Some(first) = last["reload"]["last_error"]["first"].as_str() {
            let _ = writeln!(text, "  the files are refused: {}", plain(first));
        }
        text
    }

    /// Circuit breakers that are not closed, then bulkheads.
    fn policies(&self) -> Vec<(Value, String)> {
        let shown = |table: &str| self.last[table]["shown"].as_array().cloned().unwrap_or_default();
        let open = shown("breakers").into_iter().filter(|it| it["open"] != 0).map(|it| {
            let keys = || format!("{} of {} keys not closed", it["open"], it["keys"]);
            let is = it["is"].as_str().map_or_else(keys, plain);
            (it["policy"].clone(), format!("circuit breaker {is}"))
        });
        let bulkheads = shown("bulkheads").into_iter().map(|it| {
            let is = format!(
                "bulkhead {} of {} at work, {} of {} wait, {} refused",
                it["in_use"], it["limit"], it["queued"], it["queue_limit"], it["rejected"]
            );
            (it["policy"].clone(), is)
        });
        open.chain(bulkheads).collect()
    }
}

/// How many there were in all, and how many of them failed; of an upstream those that no endpoint is to blame for do not count as that.
fn counted(row: &Value) -> Option<(f64, f64)> {
    if let Some(classes) = row["by_class"].as_array() {
        let cancelled = row["cancelled"].as_f64()?;
        let classes = classes.iter().filter_map(Value::as_f64).collect::<Vec<_>>();
        return Some((classes.iter().sum::<f64>() + cancelled, classes.last()? + cancelled));
    }
    let outcomes = row["outcomes"].as_object()?;
    let count = |is: &dyn Fn(&str) -> bool| {
        let all = outcomes.iter().filter(|(outcome, _)| is(outcome));
        all.filter_map(|(_, count)| count.as_f64()).sum::<f64>()
    };
    let is_fine = |outcome: &str| matches!(outcome, "1xx" | "2xx" | "3xx" | "4xx" | "client");
    Some((count(&|_| true), count(&|outcome| !is_fine(outcome))))
}

/// Where this share of durations lies, in seconds; infinite beyond the last bound, and nothing if there are none.
fn quantile(buckets: &[f64], bounds: &[f64], of: f64) -> Option<f64> {
    let total = buckets.iter().sum::<f64>();
    if total <= 0.0 {
        return None;
    }
    let (rank, mut below, mut low) = (of * total, 0.0, 0.0);
    for (count, bound) in buckets.iter().zip(bounds) {
        if *count > 0.0 && below + count >= rank {
            return Some(low + (bound - low) * ((rank - below) / count));
        }
        (below, low) = (below + count, *bound);
    }
    Some(f64::INFINITY)
}

fn floats(numbers: &Value) -> Vec<f64> {
    numbers.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn count_of(row: &Value) -> u64 {
    row["endpoints"].as_array().map_or(0, Vec::len) as u64 + row["more_endpoints"].as_u64().unwrap_or(0)
}

fn endpoints(row: &Value) -> String {
    let (count, troubled) = (count_of(row), row["troubled"].as_u64().unwrap_or(0));
    let shown = row["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let why = shown.iter().flat_map(|it| {
        let absences = it["absences"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let phase = it["breaker"].as_str().and_then(|is| is.split([':', ',']).next());
        let phase = phase.filter(|phase| *phase != "closed");
        let address = it["address"].as_str().unwrap_or_default();
        absences.chain(phase).map(move |why| format!("{address} {why}"))
    });
    let why = why.take(3).collect::<Vec<_>>().join(", ");
    let why = if why.is_empty() { why } else { format!(" ({})", plain(&why)) };
    format!("{} of {count} well{why}", count - troubled.min(count))
}

/// Without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

fn fit(name: &Value, columns: usize) -> String {
    cut(&plain(name.as_str().unwrap_or_default()), columns)
}

fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// The two largest units of a number of seconds.
fn up(s: u64) -> String {
    match (s / 86_400, s / 3600 % 24, s / 60 % 60) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, m) => format!("{m}m {}s", s % 60),
        (0, h, m) => format!("{h}h {m}m"),
        (d, h, _) => format!("{d}d {h}h"),
    }
}

fn per_second(rate: f64) -> String {
    if rate >= 100.0 || rate == 0.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

fn duration(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.is_infinite() => ">16s".to_owned(),
        Some(seconds) if seconds < 0.1 => format!("{:.1}ms", seconds * 1000.0),
        Some(seconds) if seconds < 1.0 => format!("{:.0}ms", seconds * 1000.0),
        Some(seconds) => format!("{seconds:.2}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_its_bucket_as_its_rank_does() {
        let bounds = [1.0, 2.0, 4.0];
        assert_eq!(quantile(&[0.0; 4], &bounds, 0.5), None);
        assert_eq!(quantile(&[10.0, 0.0, 0.0, 0.0], &bounds, 0.5), Some(0.5));
        assert_eq!(quantile(&[0.0, 0.0, 10.0, 0.0], &bounds, 0.5), Some(3.0));
        assert_eq!(quantile(&[5.0, 0.0, 5.0, 0.0], &bounds, 0.5), Some(1.0), "the bound between them");
        assert_eq!(quantile(&[1.0, 0.0, 0.0, 1.0], &bounds, 0.99), Some(f64::INFINITY));
    }

    fn stats(uptime_ms: u64, name: &str, classes: [u64; 5], buckets: [u64; 3]) -> Value {
        json!({
            "uptime_ms": uptime_ms, "bounds_s": [1.0, 2.0], "ready": true, "generation": 1, "connections": 0,
            "routes": {"of": 1, "shown": [{
                "route": name, "by_class": classes, "cancelled": 0, "took": {"buckets": buckets}, "destination": "respond 200",
            }]},
        })
    }

    #[test]
    fn what_came_between_two_readings_is_shown() {
        let first = stats(1000, "a", [0, 5, 0, 0, 5], [10, 0, 0]);
        let view = View::new(first, stats(3000, "a", [0, 8, 0, 0, 6], [10, 4, 0]));
        let is = view.rows("routes", "route")[0].1.unwrap();
        assert_eq!(is, Flow { rate: 2.0, errors: Some(0.25), p50: Some(1.5), p99: Some(1.99) });
        // Another process counts from zero.
        let view = View::new(
            stats(9000, "a", [0, 90, 0, 0, 0], [90, 0, 0]),
            stats(10, "a", [0, 1, 0, 0, 0], [1, 0, 0]),
        );
        assert_eq!(view.rows("routes", "route")[0].1, Some(Flow::default()));
    }

    #[test]
    fn no_name_moves_the_cursor() {
        let view = |at| stats(at, "\x1b[2Jwiped\nout\u{9b}", [0; 5], [0; 3]);
        let text = View::new(view(1), view(2)).to_text(Some((120, 24)));
        assert!(!text.contains(['\x1b', '\u{9b}']) && text.contains("·[2Jwiped·out·"), "{text}");
    }
}
