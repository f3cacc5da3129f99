"use strict";
// Reads `/stats` every two seconds and shows it. All that is shown is text: nothing here makes HTML of a string.

const EVERY_MS = 2000; // From the end of one answer to the next question.
const PATIENCE_MS = 10000; // For one answer.
const WINDOW_MS = 10000; // Rates and quantiles are of this long.
const POINTS = 150; // Of a chart: five minutes.
const ROWS = 100;
const EXPLAIN_BYTES = 64 * 1024; // As the admin port takes.
const NOTHING = "–";

const at = (id) => document.getElementById(id);

// ---- Text and elements

function element(tag, kind, text) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function kind(node, name) {
  if (node.className !== name) node.className = name;
}

/** Children of `parent`, one for each item: made once, kept under its key, in the order of the items. */
function keyed(parent, items, keyOf, make, update) {
  const known = parent.known ?? (parent.known = new Map());
  const seen = new Set();
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    if (seen.has(key)) continue;
    seen.add(key);
    let node = known.get(key);
    if (!node) {
      node = make(item);
      known.set(key, node);
    }
    update(node, item);
    const next = before ? before.nextSibling : parent.firstChild;
    if (next !== node) parent.insertBefore(node, next);
    before = node;
  }
  for (const [key, node] of known) {
    if (!seen.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
}

// ---- Numbers, as people read them

function count(number) {
  return number.toLocaleString("en");
}

function rate(perSecond) {
  if (perSecond === null) return NOTHING;
  if (perSecond === 0) return "0";
  if (perSecond < 10) return perSecond.toFixed(perSecond < 1 ? 2 : 1);
  return count(Math.round(perSecond));
}

function share(part) {
  if (part === null) return NOTHING;
  const percent = part * 100;
  if (percent === 0) return "0 %";
  return (percent < 0.1 ? "< 0.1" : percent < 10 ? percent.toFixed(1) : percent.toFixed(0)) + " %";
}

function duration(seconds) {
  if (seconds === null) return NOTHING;
  if (seconds === Infinity) return "> 16 s";
  const ms = seconds * 1000;
  if (ms < 1) return ms.toFixed(2) + " ms";
  if (ms < 100) return ms.toFixed(1) + " ms";
  return ms < 1000 ? ms.toFixed(0) + " ms" : seconds.toFixed(2) + " s";
}

function span(ms) {
  const s = Math.floor(ms / 1000);
  const [d, h, m] = [Math.floor(s / 86400), Math.floor(s / 3600) % 24, Math.floor(s / 60) % 60];
  if (d) return d + " d " + h + " h";
  if (h) return h + " h " + m + " min";
  return m ? m + " min " + (s % 60) + " s" : s + " s";
}

function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

// ---- Two readings make a rate

/** The quantile of durations in buckets: of each as if they lay evenly between its bounds; beyond the last bound it is not known. */
function quantile(buckets, bounds, of) {
  const total = buckets.reduce((sum, n) => sum + n, 0);
  if (total === 0) return null;
  const rank = of * total;
  let below = 0;
  for (let i = 0; i < bounds.length; i++) {
    if (buckets[i] > 0 && below + buckets[i] >= rank) {
      const low = i === 0 ? 0 : bounds[i - 1];
      return low + (bounds[i] - low) * ((rank - below) / buckets[i]);
    }
    below += buckets[i];
  }
  return Infinity;
}

const histories = new Map();

/** What came since the oldest reading of the last ten seconds; `key` tells whose readings these are. */
function since(key, now, reading, bounds) {
  let history = histories.get(key);
  const last = history?.readings.at(-1);
  if (!history || reading.total < last.total || now - last.at > 3 * WINDOW_MS) {
    history = { readings: [], points: [], seen: now }; // It is new, counts anew, or nobody has looked for a while.
    histories.set(key, history);
  }
  history.seen = now;
  const readings = history.readings;
  readings.push({ at: now, ...reading });
  while (readings.length > 2 && now - readings[1].at >= WINDOW_MS) readings.shift();
  const first = readings[0];
  const seconds = (now - first.at) / 1000;
  if (seconds <= 0) return { rate: null, errors: null, p50: null, p99: null, points: history.points };
  const total = reading.total - first.total;
  const buckets = reading.buckets.map((n, i) => Math.max(0, n - first.buckets[i]));
  const is = {
    rate: total / seconds,
    errors: total ? Math.min(1, (reading.failed - first.failed) / total) : null,
    p50: quantile(buckets, bounds, 0.5),
    p99: quantile(buckets, bounds, 0.99),
    points: history.points,
  };
  history.points.push([is.p50, is.p99]);
  if (history.points.length > POINTS) history.points.shift();
  return is;
}

/** What nobody shows any more is forgotten. */
function forget(now) {
  for (const [key, history] of histories) if (now - history.seen > WINDOW_MS) histories.delete(key);
}

const sum = (numbers) => numbers.reduce((all, n) => all + n, 0);

function readingOf(it) {
  if (it.shared) return null;
  const failed = it.by_class
    ? it.by_class[4] + it.cancelled
    : sum(Object.entries(it.outcomes).map(([outcome, n]) => (/^[1-4]xx$|^client$/.test(outcome) ? 0 : n)));
  const total = it.by_class ? sum(it.by_class) + it.cancelled : sum(Object.values(it.outcomes));
  return { total, failed, buckets: it.took.buckets };
}

// ---- Charts

const SVG = "http://www.w3.org/2000/svg";

function chart() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 " + (POINTS - 1) + " 26");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const name of ["p50", "p99"]) {
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("class", name);
    svg.append(line);
  }
  return svg;
}

/** The right end is now. A logarithm from 0.1 ms to 16 s, the same for all, so that rows can be compared. */
function draw(svg, points, label) {
  svg.setAttribute("aria-label", label);
  const height = (seconds) => {
    const of = Math.log10(Math.max(Math.min(seconds, 16.384), 0.0001) / 0.0001) / Math.log10(163840);
    return (25 - 24 * of).toFixed(1);
  };
  const start = POINTS - points.length;
  [0, 1].forEach((which) => {
    const line = points
      .map((point, i) => (point[which] === null ? "" : (start + i) + "," + height(point[which])))
      .filter(Boolean);
    if (line.length === 1) line.unshift(Math.max(0, Number(line[0].split(",")[0]) - 1) + "," + line[0].split(",")[1]);
    svg.children[which].setAttribute("points", line.join(" "));
  });
}

// ---- The parts of the page

function showHead(it, now) {
  const drain = it.drain;
  const state = drain ? "draining: " + drain.phase : it.ready ? "ready" : "not ready";
  say(at("state"), state);
  kind(at("state"), "pill " + (drain ? "warn" : it.ready ? "good" : "bad"));
  document.title = (it.ready && !drain ? "" : state + " · ") + "naka";
  const all = since("all", now, { total: it.routes.requests, failed: it.routes.failed, buckets: [] }, []);
  say(at("fact-rate"), rate(all.rate) + (all.rate === null ? "" : "/s"));
  say(at("fact-errors"), share(all.errors));
  say(at("fact-connections"), count(it.connections));
  say(at("fact-generation"), it.generation + " · " + it.hash.slice(0, 8));
  at("fact-generation").title = it.hash;
  say(at("fact-uptime"), span(it.uptime_ms));
  say(at("fact-version"), "naka " + it.version);
  const reasons = Object.entries(it.conditions).filter(([, is]) => !is.holds);
  at("reasons").hidden = reasons.length === 0;
  keyed(at("reasons"), reasons, ([name]) => name, () => element("li"), (li, [name, is]) =>
    say(li, name.replaceAll("_", " ") + (is.why?.length ? ": " + is.why.join("; ") : "")));
}

function showAlerts(it) {
  at("alerts").hidden = it.alerts.length === 0;
  const make = () => {
    const li = element("li");
    const line = element("div", "line");
    line.append(element("span", "pill"), element("span", "name"), element("span"), element("span", "sub why"), element("span", "sub end"));
    li.append(line);
    return li;
  };
  const firing = it.alerts.filter((alert) => alert.state === "firing");
  const pending = it.alerts.filter((alert) => alert.state !== "firing");
  say(at("alerts-count"), firing.length + " firing, " + pending.length + " pending");
  keyed(at("alerts-list"), [...firing, ...pending].slice(0, ROWS), (alert) => alert.fingerprint, make, (li, alert) => {
    const [pill, rule, subject, why, when] = li.firstChild.children;
    say(pill, alert.state === "firing" ? alert.severity : "pending");
    kind(pill, "pill " + (alert.state !== "firing" ? "" : alert.severity === "critical" ? "bad" : "warn"));
    say(rule, alert.rule);
    say(subject, alert.subject);
    say(when, "since " + clock(new Date(alert.since)));
    say(why, alert.why);
  });
}

function routeRow() {
  const row = element("tr");
  const what = element("td", "what");
  what.append(element("div", "name"), element("div", "sub mono"));
  const to = element("td", "to");
  to.append(element("div"), element("div", "sub"));
  row.append(what, to);
  for (const label of ["req/s", "errors", "p50", "p99"]) {
    const cell = element("td", "n");
    cell.dataset.label = label;
    row.append(cell);
  }
  const cell = element("td", "chart");
  cell.append(chart());
  row.append(cell);
  return row;
}

function showRoutes(it, now) {
  const { of, matched, shown } = it.routes;
  const searched = at("match").value.trim();
  say(at("routes-count"), (shown.length < matched ? count(shown.length) + " of " : "") + count(matched) +
    (matched < of ? " that match, of " + count(of) : ""));
  keyed(at("routes-rows"), shown, (route) => route.route, routeRow, (row, route) => {
    const [what, to, perSecond, errors, p50, p99, drawn] = row.children;
    say(what.children[0], route.route);
    say(what.children[1], route.template);
    what.title = route.origin;
    say(to.children[0], route.destination);
    const open = route.auth === "required" ? [] : ["auth: " + route.auth];
    say(to.children[1], open.concat(route.policies).join(", "));
    const reading = readingOf(route);
    if (!reading) return say(perSecond, "no series");
    const is = since("route " + route.route, now, reading, it.bounds_s);
    kind(row, is.rate ? "" : "idle");
    say(perSecond, rate(is.rate));
    say(errors, share(is.errors));
    kind(errors, "n" + (is.errors > 0.05 ? " bad" : is.errors > 0 ? " warn" : ""));
    say(p50, duration(is.p50));
    say(p99, duration(is.p99));
    draw(drawn.firstChild, is.points, "p50 " + duration(is.p50) + ", p99 " + duration(is.p99) + " now");
  });
  at("routes-table").hidden = shown.length === 0;
  at("routes-none").hidden = shown.length > 0;
  say(at("routes-none"), of === 0 ? "There is no route." : "No route matches “" + searched + "”.");
}

const ENDPOINT_BAD = ["unhealthy", "outlier"];

function endpointRow(li, it) {
  const [address, pill, why, numbers] = li.children;
  say(address, it.address);
  const phase = it.breaker ? it.breaker.split(/[:,]/)[0] : null;
  const words = [...it.absences];
  if (phase && phase !== "closed") words.push("breaker " + phase.replaceAll("_", " "));
  if (words.length === 0) words.push(it.health ? it.health.state : "in use");
  const bad = it.absences.some((word) => ENDPOINT_BAD.includes(word)) || phase === "open" || phase === "forced_open";
  const good = words.length === 1 && ["healthy", "in use"].includes(words[0]);
  say(pill, words.join(", "));
  kind(pill, "pill " + (bad ? "bad" : good ? "good" : "warn"));
  const reasons = [];
  if (it.health) reasons.push("for " + span(it.health.since_s * 1000));
  if (it.health?.last_failure) reasons.push(it.health.last_failure.why + ", " + span(it.health.last_failure.ago_s * 1000) + " ago");
  if (it.breaker) reasons.push("breaker " + it.breaker.replaceAll("_", " "));
  say(why, reasons.join(" · "));
  say(numbers, it.in_flight + " in flight · " + it.idle_connections + " idle");
}

function showUpstreams(it, now) {
  const { of, shown } = it.upstreams;
  say(at("upstreams-count"), of === 0 ? "There is none." : (shown.length < of ? shown.length + " of " : "") + count(of));
  const make = () => {
    const box = element("div", "upstream");
    const head = element("p");
    head.append(element("span", "name"), element("span"), element("span"), element("span", "sub"), element("span", "sub"));
    box.append(head, element("ul", "endpoints"), element("p", "sub"));
    return box;
  };
  const makeEndpoint = () => {
    const li = element("li");
    li.append(element("span", "mono"), element("span", "pill"), element("span", "sub why"), element("span", "sub"));
    return li;
  };
  keyed(at("upstreams-list"), shown, (one) => one.upstream, make, (box, one) => {
    const [name, perSecond, times, connections, budget] = box.children[0].children;
    say(name, one.upstream);
    const reading = readingOf(one);
    if (reading) {
      const is = since("upstream " + one.upstream, now, reading, it.bounds_s);
      say(perSecond, rate(is.rate) + (is.rate === null ? "" : "/s") + (is.errors > 0 ? " · " + share(is.errors) + " errors" : ""));
      kind(perSecond, is.errors > 0.05 ? "bad" : is.errors > 0 ? "warn" : "");
      say(times, "p50 " + duration(is.p50) + " · p99 " + duration(is.p99));
    }
    const held = one.connections;
    say(connections, one.in_flight + " in flight · connections " + held.in_use + " in use, " + held.idle + " idle, of " +
      count(held.max) + (held.pending ? " · " + held.pending + " wait" : ""));
    say(budget, one.budget ? "retry budget " + one.budget.spent + " of " + one.budget.allowed : "");
    keyed(box.children[1], one.endpoints, (endpoint) => endpoint.address, makeEndpoint, endpointRow);
    say(box.children[2], one.more_endpoints ? "and " + count(one.more_endpoints) + " more endpoints" : "");
    box.children[2].hidden = !one.more_endpoints;
  });
}

const PHASES = { closed: "good", open: "bad", forced_open: "bad" };

function showBreakers(it) {
  const { of, shown } = it.breakers;
  say(at("breakers-count"), of === 0 ? "No policy has one." : (shown.length < of ? shown.length + " of " : "") + count(of));
  const make = () => {
    const li = element("li");
    const line = element("div", "line");
    line.append(element("span", "pill"), element("span", "name"));
    li.append(line, element("div", "sub"));
    return li;
  };
  keyed(at("breakers-list"), shown, (breaker) => breaker.policy, make, (li, breaker) => {
    const [pill, name] = li.firstChild.children;
    const phase = breaker.phase ?? (breaker.open ? "some open" : "closed");
    say(pill, phase.replaceAll("_", " "));
    kind(pill, "pill " + (PHASES[phase] ?? "warn"));
    say(name, breaker.policy);
    const text = breaker.is?.replace(/^[a-z_]+[:,]? ?/, "");
    say(li.lastChild, breaker.is === null ? breaker.open + " of " + count(breaker.keys) + " keys not closed" : text);
  });
  const make2 = () => {
    const li = element("li");
    const line = element("div", "line");
    line.append(element("span", "name"), element("span"), element("span", "sub end"));
    li.append(line, element("div", "sub"));
    return li;
  };
  const changes = it.transitions.length ? it.transitions : [{ none: true }];
  const seen = new Map();
  const keyOf = (change) => {
    const plain = JSON.stringify(change);
    seen.set(plain, (seen.get(plain) ?? 0) + 1);
    return plain + seen.get(plain); // Two may be the same to the second.
  };
  keyed(at("transitions-list"), changes, keyOf, make2, (li, change) => {
    const [whose, phases, when] = li.firstChild.children;
    if (change.none) return say(whose, "None since the process began.");
    say(whose, change.policy ? change.policy + (change.keyed ? " (one key)" : "") : change.upstream + " " + change.endpoint);
    say(phases, (change.from + " → " + change.to).replaceAll("_", " "));
    kind(phases, PHASES[change.to] ?? "warn");
    say(when, clock(new Date(change.at)));
    const window = change.window;
    say(li.lastChild, change.why + (window ? ": " + window.requests + " requests, " + window.failed + " failed, " + window.slow + " slow" : ""));
  });
}

function showBounds(it) {
  const bulkheads = it.bulkheads.shown.map((one) => ({
    key: "bulkhead " + one.policy, name: one.policy, kind: "bulkhead", used: one.in_use,
    of: one.partitions > 1 ? 0 : one.limit,
    text: one.in_use + " of " + count(one.limit) + (one.partitions > 1 ? " in each of " + count(one.partitions) : "") +
      " · " + one.queued + " of " + count(one.queue_limit) + " wait · " + count(one.rejected) + " refused",
  }));
  const limits = it.limits.shown.map((one) => ({
    key: "limit " + one.policy, name: one.policy, kind: "rate limit", used: one.keys, of: one.keys_max,
    text: count(one.keys) + " of " + count(one.keys_max) + " keys · " + count(one.admitted) + " admitted, " + count(one.rejected) + " refused",
  }));
  const budgets = it.upstreams.shown.filter((one) => one.budget).map((one) => ({
    key: "budget " + one.upstream, name: one.upstream, kind: "retry budget", used: one.budget.spent, of: one.budget.allowed,
    text: one.budget.spent + " of " + count(one.budget.allowed) + " retries",
  }));
  const all = [...bulkheads, ...limits, ...budgets];
  const make = () => {
    const li = element("li");
    const line = element("div", "line");
    const meter = element("meter", "end");
    meter.min = 0;
    line.append(element("span", "name"), element("span", "sub"), meter);
    li.append(line, element("div", "sub"));
    return li;
  };
  keyed(at("bounds-list"), all.length ? all : [{ key: "none" }], (one) => one.key, make, (li, one) => {
    const [name, sort, meter] = li.firstChild.children;
    meter.hidden = !one.of;
    if (one.key === "none") return say(name, "There is none.");
    say(name, one.name);
    say(sort, one.kind);
    if (one.of) {
      meter.max = one.of;
      meter.high = one.of * 0.8;
      meter.optimum = 0;
      meter.value = one.used;
      meter.setAttribute("aria-label", one.name + ", " + one.kind);
    }
    say(li.lastChild, one.text);
  });
}

function showReload(it) {
  const { held, last_error, report, rolled_back } = it.reload;
  const parts = [];
  if (last_error) parts.push("The files are refused (" + last_error.problems + (last_error.problems === 1 ? " problem" : " problems") + "): " + last_error.first);
  else parts.push("Generation " + it.generation + " is what the files say.");
  if (held?.length) parts.push("Held back: " + held.join(", ") + ".");
  if (rolled_back) parts.push("Somebody has gone back: what the files say is left alone.");
  say(at("reload-state"), parts.join(" "));
  kind(at("reload-state"), last_error ? "bad" : held?.length || rolled_back ? "warn" : "");
  at("reload-error").hidden = !it.last_error;
  say(at("reload-error"), it.last_error ?? "");
  keyed(at("reload-report"), report, (line) => line, () => element("li", "sub"), (li, line) => say(li, line));
}

/** What tells about the page itself: whoever tests it reads it here. */
function tell() {
  const root = document.documentElement;
  root.dataset.width = root.scrollWidth;
  root.dataset.rows = at("routes-rows").childElementCount;
}

function show(it) {
  const now = it.uptime_ms;
  showHead(it, now);
  showAlerts(it);
  showRoutes(it, now);
  showUpstreams(it, now);
  showBreakers(it);
  showBounds(it);
  showReload(it);
  forget(now);
  tell();
}

// ---- Asking

let heard = null; // When the last answer came.
let wake = null; // Ends the wait for the next question.
let hurry = false; // Somebody wants it before its time.
let uptime = 0;

async function read() {
  const query = new URLSearchParams({ limit: ROWS, sort: at("sort").value });
  const match = at("match").value.trim();
  if (match) query.set("match", match);
  const answer = await fetch("/stats?" + query, { signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 200));
  return answer.json();
}

async function once() {
  try {
    const it = await read();
    if (it.uptime_ms < uptime) histories.clear(); // Another process.
    uptime = it.uptime_ms;
    show(it);
    heard = new Date();
    at("stale").hidden = true;
    document.body.classList.remove("old");
  } catch (error) {
    const of = heard ? "These numbers are of " + clock(heard) + ": the gateway does not answer" : "The gateway does not answer";
    say(at("stale"), of + " (" + (error.name === "TimeoutError" ? "10 s" : error.message) + "). It is asked again every 2 s.");
    at("stale").hidden = false;
    say(at("state"), "no answer");
    kind(at("state"), "pill bad");
    document.body.classList.toggle("old", heard !== null);
    tell();
  }
}

function pause() {
  if (hurry) {
    hurry = false;
    return Promise.resolve();
  }
  return new Promise((done) => {
    const timer = document.hidden ? 0 : setTimeout(done, EVERY_MS);
    wake = () => {
      clearTimeout(timer);
      done();
    };
  });
}

/** One question at a time, and none while nobody looks. */
async function follow() {
  for (;;) {
    if (!document.hidden) await once();
    await pause();
    wake = null;
  }
}

function soon() {
  if (wake) wake();
  else hurry = true;
}

// ---- What its user does

function remember() {
  const said = new URLSearchParams();
  if (at("match").value.trim()) said.set("match", at("match").value.trim());
  if (at("sort").value !== "rate") said.set("sort", at("sort").value);
  history.replaceState(null, "", said.size ? "#" + said : location.pathname);
  soon();
}

async function explain(event) {
  event.preventDefault();
  const answer = at("explain-answer");
  const tellIt = (text, isBad) => {
    answer.hidden = false;
    kind(answer, isBad ? "bad" : "");
    say(answer, text);
  };
  const headers = at("explain-headers").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const request = (at("explain-method").value.trim() || "GET") + " " + at("explain-url").value.trim();
  const body = JSON.stringify({ request, headers });
  if (new Blob([body]).size > EXPLAIN_BYTES) return tellIt("That is more than 64 KiB.", true);
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const said = await fetch("/explain", { method: "POST", headers: { "content-type": "application/json" }, body, signal });
    const text = await said.text();
    if (!said.ok) return tellIt(text.trim(), true);
    tellIt(JSON.parse(text).text, false);
  } catch (error) {
    tellIt("No answer: " + error.message, true);
  }
  tell();
}

/** Whether any font here has Devanagari: where none has, all letters are the same box. */
function hasDevanagari() {
  const pen = document.createElement("canvas").getContext("2d");
  if (!pen) return true;
  pen.font = "40px " + getComputedStyle(document.body).fontFamily;
  return new Set([..."कहणटआ"].map((letter) => pen.measureText(letter).width)).size > 1;
}

function begin() {
  at("devanagari").hidden = !hasDevanagari();
  if (at("devanagari").hidden) at("wordmark").className = "plain";
  const said = new URLSearchParams(location.hash.slice(1));
  at("match").value = said.get("match") ?? "";
  if (said.has("sort")) at("sort").value = said.get("sort");
  if (!at("sort").value) at("sort").value = "rate";
  let typing = 0;
  at("match").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(remember, 200);
  });
  at("sort").addEventListener("change", remember);
  at("filter").addEventListener("submit", (event) => {
    event.preventDefault();
    remember();
  });
  at("explain-form").addEventListener("submit", explain);
  document.addEventListener("visibilitychange", () => document.hidden || soon());
  document.addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      at("match").focus();
    }
  });
  follow();
}

begin();
