#!/usr/bin/env python3
"""naka beside nginx, HAProxy and Envoy, in one run: benches/compare.py target/release/naka

Build first: cargo build --release -p naka-suite -p naka-gateway. Peers are those on PATH (PATH=…:$PATH), load comes from wrk (or oha),
of HTTP/2 from h2load; what is not there is skipped, and said so. Linux, on the loopback. docs/benchmarks.md says how to read it.

All proxies of a workload live at the same time, with one worker each, and are asked in turn: A B C … A B C …, a second each. So what else
the machine does hits all alike, and what counts is how the rows of one run compare. CPU time is that of the scheduler
(/proc/PID/task/*/schedstat) for the proxy and its children. With two CPUs or more the proxies are on the last, load and backends on another."""

import argparse
import base64
import contextlib
import datetime
import hashlib
import hmac
import html
import http.client
import json
import os
import platform
import re
import resource
import secrets
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent / "compare"
LOOPBACK = "127.0.0.1"
# Seconds that a process may take to listen, to end, and a load generator beyond its window.
STARTS, ENDS, OVERTIME = 15, 10, 30
ROUTES, SUBJECTS = 100, 1000
IDLE = 2000
# CPUs that others may take meanwhile. With more, ratios are nearer to 1 than they are.
QUIET = 0.3


@dataclass(frozen=True)
class Workload:
    name: str
    says: str
    # Which configuration of the proxies.
    kind: str
    connections: int = 64
    path: str = "/"
    upload: int = 0
    # Requests a second in the open loop; none without.
    rate: int = 0


WORKLOADS = {
    it.name: it
    for it in (
        Workload("w1", "GET, 128 bytes", "plain", rate=4000),
        Workload("w2", "GET, 128 bytes, the full stack", "full", rate=3000),
        Workload("w3", "GET, 64 KiB", "plain", path="/large"),
        Workload("w4", "POST, 1 MiB", "plain", connections=16, upload=1 << 20),
        Workload("w5", "GET, 128 bytes, HTTP/2", "h2", connections=8),
        Workload("w6", f"{IDLE:,} kept connections", "plain", connections=IDLE),
        Workload("w7", "GET, 128 bytes, TLS, kept connections", "tls"),
    )
}


# Processes


class Children:
    """What was started here. All of it is ended, by its process id, whatever happens."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen] = []

    def start(self, command: list[str], cpus: set[int], log: Path) -> subprocess.Popen:
        def prepare() -> None:
            os.sched_setaffinity(0, cpus)

        with log.open("ab") as out:
            # A group of its own: ^C is ours, and a master that dies leaves no workers behind.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, preexec_fn=prepare
            )
        self.all.append(process)
        return process

    def end(self, process: subprocess.Popen) -> None:
        os.kill(process.pid, signal.SIGTERM)
        latest = time.monotonic() + ENDS
        while time.monotonic() < latest and not has_ended(process):
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.all.remove(process)

    def end_all(self) -> None:
        for process in list(self.all):
            self.end(process)


def has_ended(process: subprocess.Popen) -> bool:
    """Without waiting for it, as `poll` and `terminate` do: nobody else has its id until its group is killed."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def family(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{found[-1]}/task"):
                todo += map(int, Path(f"/proc/{found[-1]}/task/{task}/children").read_text().split())
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Of all their threads that live."""
    nanoseconds = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                nanoseconds += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def memory_kib(pids: list[int]) -> int:
    """Resident memory; what several share is counted once (PSS)."""
    text = "".join(Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(map(int, re.findall(r"^Pss:\s+(\d+)", text, re.M)))


def busy_seconds() -> float:
    """Of all CPUs, whoever it was."""
    user, nice, system, _idle, _wait, irq, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """Of load generators that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        return server.getsockname()[1]


def listens(process: subprocess.Popen, port: int) -> bool:
    end = time.monotonic() + STARTS
    while time.monotonic() < end and not has_ended(process):
        try:
            socket.create_connection((LOOPBACK, port), 1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


# Proxies


@dataclass
class Rig:
    """What all proxies of a run share."""

    naka: Path
    folder: Path
    upstreams: tuple[int, int]
    children: Children
    of_proxies: set[int]
    of_load: set[int]
    backend: int = 0
    secret: str = field(default_factory=lambda: secrets.token_hex(32))

    def fill(self, template: str, into: Path, **more: object) -> Path:
        """Writes a file with what stands between `@` filled in."""
        text = (HERE / template).read_text()
        one, two = self.upstreams
        for word, value in {"UPSTREAM_1": one, "UPSTREAM_2": two, "FOLDER": into, "SECRET": self.secret, **more}.items():
            text = text.replace(f"@{word}@", str(value))
        # Each has what belongs to it beside it.
        for name in ("cert.pem", "key.pem", "both.pem", "secret"):
            shutil.copy(self.folder / name, into / name)
        (into / template).write_text(text)
        return into / template


def floor(rig: Rig, kind: str, into: Path, port: int, tls_port: int) -> list[str] | str:
    if kind in ("h2", "tls"):
        return "it looks at no byte, and the backend speaks neither"
    return [program(rig, "bench-floor"), f"{LOOPBACK}:{port}", *(f"{LOOPBACK}:{upstream}" for upstream in rig.upstreams)]


def naka(rig: Rig, kind: str, into: Path, port: int, tls_port: int) -> list[str] | str:
    routes = "".join(
        f"  r{i}: {{match: {{prefix: /svc{i:05}}}, use: [signed-in, per-subject], upstream: app}}\n" for i in range(ROUTES)
    )
    (into / "routes.yaml").write_text("routes:\n" + routes)
    name = {"plain": "plain.yaml", "full": "full.yaml"}.get(kind, "front.yaml")
    return [str(rig.naka), "run", "-c", str(rig.fill(name, into, PORT=port, TLS_PORT=tls_port))]


def nginx(rig: Rig, kind: str, into: Path, port: int, tls_port: int) -> list[str] | str:
    if kind == "full":
        return "it verifies no tokens"
    certificates = f"ssl_certificate {into}/cert.pem; ssl_certificate_key {into}/key.pem; ssl_session_tickets off;"
    tls = f"listen {LOOPBACK}:{tls_port} ssl backlog=4096; {certificates}" if kind == "tls" else ""
    http2 = "http2" if kind == "h2" else ""
    return ["nginx", "-p", str(into), "-c", str(rig.fill("nginx.conf", into, PORT=port, HTTP2=http2, TLS=tls))]


def haproxy(rig: Rig, kind: str, into: Path, port: int, tls_port: int) -> list[str] | str:
    (into / "routes.map").write_text("".join(f"/svc{i:05}/ app\n" for i in range(ROUTES)))
    tls = f"bind {LOOPBACK}:{tls_port} ssl crt {into}/both.pem alpn http/1.1 backlog 4096" if kind == "tls" else ""
    name = "haproxy-full.cfg" if kind == "full" else "haproxy.cfg"
    http2 = "proto h2" if kind == "h2" else ""
    return ["haproxy", "-db", "-f", str(rig.fill(name, into, PORT=port, HTTP2=http2, TLS=tls))]


def envoy(rig: Rig, kind: str, into: Path, port: int, tls_port: int) -> list[str] | str:
    file = into / "envoy.json"
    file.write_text(json.dumps(envoy_config(rig, kind, port, tls_port)))
    return ["envoy", "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "off"]


def envoy_config(rig: Rig, kind: str, port: int, tls_port: int) -> dict:
    def typed(name: str, **fields: object) -> dict:
        return {"@type": f"type.googleapis.com/envoy.{name}", **fields}

    def http_filter(name: str, kind_of: str, **fields: object) -> dict:
        config = typed(f"extensions.filters.http.{name}.v3.{kind_of}", **fields)
        return {"name": f"envoy.filters.http.{name}", "typed_config": config}

    def at(port: int) -> dict:
        return {"address": {"socket_address": {"address": LOOPBACK, "port_value": port}}}

    def assignment(name: str, *ports: int) -> dict:
        endpoints = [{"endpoint": at(port)} for port in ports]
        return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}

    def upstream_http(**explicit: dict) -> dict:
        name = "extensions.upstreams.http.v3.HttpProtocolOptions"
        kept = {"idle_timeout": "3600s"}
        return {f"envoy.{name}": typed(name, explicit_http_config=explicit, common_http_protocol_options=kept)}

    is_full = kind == "full"
    prefixes = [f"/svc{i:05}/" for i in range(ROUTES)] if is_full else ["/"]
    routes = [{"match": {"prefix": it}, "route": {"cluster": "app", "timeout": "30s"}} for it in prefixes]
    host = {"name": "all", "domains": ["*"], "routes": routes}
    filters = [http_filter("router", "Router", dynamic_stats=False, suppress_envoy_headers=True)]
    room = 1024 if is_full else 100_000
    app = {
        "name": "app",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{"max_connections": room, "max_pending_requests": room, "max_requests": room}]},
        "typed_extension_protocol_options": upstream_http(http_protocol_options={}),
        "load_assignment": assignment("app", *rig.upstreams),
    }
    clusters = [app]
    manager: dict = {
        "stat_prefix": "public",
        "codec_type": "AUTO" if kind in ("h2", "tls") else "HTTP1",
        "generate_request_id": is_full,
        "stream_idle_timeout": "0s",
        "common_http_protocol_options": {"idle_timeout": "3600s"},
    }
    if is_full:
        # A rate by subject: the token's claim becomes a header, and that a descriptor.
        by_subject = {"request_headers": {"header_name": "x-subject", "descriptor_key": "subject"}}
        host["rate_limits"] = [{"actions": [by_subject]}]
        provider = {
            "issuer": "https://issuer.example",
            "audiences": ["gateway"],
            "local_jwks": {"inline_string": json.dumps(key_set(rig.secret))},
            "claim_to_headers": [{"header_name": "x-subject", "claim_name": "sub"}],
        }
        rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}]
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}

        def bucket(tokens: int) -> dict:
            return {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "1s"}

        of_subject = {"entries": [{"key": "subject"}], "token_bucket": bucket(1_000_000)}
        filters = [
            http_filter("jwt_authn", "JwtAuthentication", providers={"issuer": provider}, rules=rules),
            http_filter(
                "local_ratelimit",
                "LocalRateLimit",
                stat_prefix="subjects",
                token_bucket=bucket(100_000_000),
                filter_enabled=always,
                filter_enforced=always,
                max_dynamic_descriptors=8192,
                descriptors=[of_subject],
            ),
            *filters,
        ]
        app["outlier_detection"] = {"consecutive_5xx": 5, "base_ejection_time": "30s", "max_ejection_percent": 50}
        # Passed on, and nothing recorded.
        collector = {"grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"}, "service_name": "gateway"}
        tracer = {"name": "envoy.tracers.opentelemetry", "typed_config": typed("config.trace.v3.OpenTelemetryConfig", **collector)}
        manager |= {
            "always_set_request_id_in_response": True,
            "tracing": {"random_sampling": {"value": 0}, "provider": tracer},
        }
        clusters.append(
            {
                "name": "collector",
                "type": "STATIC",
                "typed_extension_protocol_options": upstream_http(http2_protocol_options={}),
                "load_assignment": assignment("collector", rig.upstreams[0]),
            }
        )
    manager |= {"route_config": {"name": "all", "virtual_hosts": [host]}, "http_filters": filters}
    name = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    filter_chain: dict = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(name, **manager)}]
    }
    listeners = [{"name": "clear", **at(port), "filter_chains": [filter_chain]}]
    if kind == "tls":
        pair = {
            "certificate_chain": {"filename": str(rig.folder / "cert.pem")},
            "private_key": {"filename": str(rig.folder / "key.pem")},
        }
        context = {"alpn_protocols": ["http/1.1"], "tls_certificates": [pair]}
        name = "extensions.transport_sockets.tls.v3.DownstreamTlsContext"
        socket_of = {"name": "envoy.transport_sockets.tls", "typed_config": typed(name, common_tls_context=context)}
        listeners.append({"name": "tls", **at(tls_port), "filter_chains": [{**filter_chain, "transport_socket": socket_of}]})
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


PROXIES = {"floor": floor, "naka": naka, "nginx": nginx, "haproxy": haproxy, "envoy": envoy}


def program(rig: Rig, name: str) -> str:
    return str(rig.naka.parent / name)


# Credentials, made anew in each run


def encoded(of: bytes) -> str:
    return base64.urlsafe_b64encode(of).rstrip(b"=").decode()


def key_set(secret: str) -> dict:
    return {"keys": [{"kty": "oct", "alg": "HS256", "k": encoded(secret.encode())}]}


def token(secret: str, subject: str) -> str:
    """RFC 7519, with HS256."""
    header = {"alg": "HS256", "typ": "JWT"}
    claims = {"iss": "https://issuer.example", "aud": "gateway", "sub": subject, "exp": int(time.time()) + 86400}
    signed = ".".join(encoded(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{signed}.{encoded(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def certificates(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    (folder / "both.pem").write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())


# Load


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    upload: int
    headers: dict[str, str]

    def line(self) -> str:
        """As requests.lua reads it."""
        headers = [f"{name}: {value}" for name, value in self.headers.items()]
        return "\t".join([self.method, self.path, str(self.upload), *headers]) + "\n"


def requests_of(workload: Workload, secret: str) -> list[Request]:
    if workload.kind != "full":
        return [Request("POST" if workload.upload else "GET", workload.path, workload.upload, {})]

    def of(i: int) -> Request:
        parent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
        headers = {"Authorization": f"Bearer {token(secret, f'subject-{i:04}')}", "traceparent": parent}
        return Request("GET", f"/svc{i * 37 % ROUTES:05}/items/{i}?full=1", 0, headers)

    return [of(i) for i in range(SUBJECTS)]


@dataclass
class Load:
    """Asks one proxy, with one of the programs that are there."""

    workload: Workload
    requests: list[Request]
    file: Path
    cpus: set[int]

    def run(self, command: list[str], seconds: float) -> str:
        def prepare() -> None:
            os.sched_setaffinity(0, self.cpus)

        # It ends by itself, and with us at the latest.
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + OVERTIME, preexec_fn=prepare)
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    def url(self, port: int) -> str:
        return f"{'https' if self.workload.kind == 'tls' else 'http'}://{LOOPBACK}:{port}"

    def closed_loop(self, port: int, seconds: int) -> dict:
        """As fast as it goes: requests that were answered, seconds it took, requests that were not answered well."""
        if self.workload.kind == "h2":
            return self.h2load(port, seconds)
        if shutil.which("wrk"):
            return self.wrk(port, seconds)
        return self.oha(port, seconds, [])

    def wrk(self, port: int, seconds: int) -> dict:
        command = ["wrk", "-t1", f"-c{self.workload.connections}", f"-d{seconds}s", "--timeout", "5s"]
        command += ["-s", str(HERE / "requests.lua"), self.url(port), "--", str(self.file)]
        return json.loads(self.run(command, seconds).rsplit("SUMMARY ", 1)[1])

    def h2load(self, port: int, seconds: int) -> dict:
        command = ["h2load", "-t1", f"-c{self.workload.connections}", "-m32", f"-D{seconds}", self.url(port) + "/"]
        said = self.run(command, seconds)
        counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
        if counts is None:
            raise RuntimeError(f"h2load says nothing of its requests: {said[-300:]}")
        succeeded, *failed = map(int, counts.groups())
        # Those that were on their way when the time was over are no errors.
        return {"requests": succeeded, "seconds": seconds, "failed": sum(failed), "p50_us": None}

    def open_loop(self, port: int, seconds: int) -> dict:
        """At a fixed rate; latencies from when a request should have been sent. One request, as oha knows one set of headers."""
        return self.oha(port, seconds, ["-q", str(self.workload.rate), "--latency-correction"])

    def oha(self, port: int, seconds: int, more: list[str]) -> dict:
        request = self.requests[0]
        command = ["oha", "--no-tui", "--output-format", "json", "--insecure", "-z", f"{seconds}s", "-m", request.method]
        command += ["-c", str(self.workload.connections), *more]
        for name, value in request.headers.items():
            command += ["-H", f"{name}: {value}"]
        if request.upload:
            body = self.file.with_suffix(".body")
            body.write_bytes(b"x" * request.upload)
            command += ["-D", str(body)]
        told = json.loads(self.run([*command, self.url(port) + request.path], seconds))
        by_status = told["statusCodeDistribution"]
        good = sum(count for status, count in by_status.items() if status.startswith("2"))
        # What the end of the window has cut off is no error.
        errors = sum(count for why, count in told.get("errorDistribution", {}).items() if "deadline" not in why)
        p50 = told["latencyPercentiles"]["p50"]
        return {
            "requests": good,
            "seconds": told["summary"]["total"],
            "failed": sum(by_status.values()) - good + errors,
            "p50_us": None if p50 is None else p50 * 1e6,
        }


def ask(request: Request, port: int, is_tls: bool) -> int:
    """The status of one answer."""
    if is_tls:
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        client: http.client.HTTPConnection = http.client.HTTPSConnection(LOOPBACK, port, timeout=10, context=trusting)
    else:
        client = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    with contextlib.closing(client):
        client.request(request.method, request.path, b"x" * request.upload or None, request.headers)
        answer = client.getresponse()
        answer.read()
        return answer.status


def is_as_meant(proxy: str, workload: Workload, requests: list[Request], port: int) -> str | None:
    """Whether it does what is measured; else what it does instead."""
    if workload.kind == "h2":
        return None  # h2load counts what succeeds.
    status = ask(requests[0], port, workload.kind == "tls")
    if status != 200:
        return f"it answers {status}"
    if workload.kind == "full" and proxy != "floor":
        without = Request("GET", requests[0].path, 0, {})
        if (status := ask(without, port, False)) != 401:
            return f"it answers {status} to who brings no token"
    return None


# A run


@dataclass
class Row:
    proxy: str
    skipped: str | None = None
    memory_kib: int = 0
    idle_kib: float | None = None
    open_us: list[float] = field(default_factory=list)
    # Of each round: requests a second, microseconds of CPU for each request, and at saturation p50.
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    # CPUs that others took meanwhile.
    foreign: list[float] = field(default_factory=list)
    failed: int = 0
    # Windows that do not count, as nothing was answered.
    empty: int = 0

    @property
    def cost(self) -> float | None:
        """What its workload is about: CPU time, or memory where nothing is sent. The least of all rounds: others only add to it."""
        return self.idle_kib if self.idle_kib is not None else min(self.cpu_us, default=None)

    def figures(self) -> dict[str, float | None]:
        """What is compared; nothing of what was skipped."""
        if self.skipped:
            return {}

        def median(of: list[float]) -> float | None:
            return statistics.median(of) if of else None

        cost = {"KiB a connection": self.idle_kib} if self.idle_kib is not None else {"CPU": self.cost}
        rates = {"req/s": max(self.rates, default=None), "p50 open": median(self.open_us), "p50 full": median(self.p50_us)}
        return {**cost, **rates, "memory": self.memory_kib}


def measured(rig: Rig, workload: Workload, options: argparse.Namespace, here: dict[str, str]) -> list[Row]:
    """All proxies of one workload in turn."""
    requests = requests_of(workload, rig.secret)
    file = rig.folder / f"{workload.name}.requests"
    file.write_text("".join(request.line() for request in requests))
    load = Load(workload, requests, file, rig.of_load)
    rows, living = [], []
    try:
        for name in options.asked:
            row = Row(name)
            rows.append(row)
            if name not in here:
                row.skipped = "it is not here"
                continue
            started = start(rig, name, workload, requests)
            if isinstance(started, str):
                row.skipped = started
            else:
                living.append((row, *started))
        # w6 has no windows.
        for round_of in range(0 if workload.name == "w6" else options.rounds + 1):
            for row, process, port in living:
                if row.skipped:
                    continue
                try:
                    window(row, process, rig, load, port, options.seconds, is_counted=round_of > 0)
                    if round_of > 0 and workload.rate and shutil.which("oha"):
                        told = load.open_loop(port, options.seconds)
                        row.failed += told["failed"]
                        if told["p50_us"] is not None:
                            row.open_us.append(told["p50_us"])
                except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
                    row.skipped = f"it was not there to the end: {error}"
            print(f"  {workload.name}: round {round_of} of {options.rounds}", file=sys.stderr, flush=True)
        for row, process, port in living:
            try:
                if workload.name == "w6":
                    row.idle_kib = kib_of_a_connection(process.pid, port)
                row.memory_kib = memory_kib(family(process.pid))
            except (OSError, http.client.HTTPException) as error:
                row.skipped = row.skipped or f"it was not there to the end: {error}"
            if row.cost is None:
                row.skipped = row.skipped or "it has answered nothing"
        return rows
    finally:
        for _, process, _ in living:
            rig.children.end(process)


def start(rig: Rig, name: str, workload: Workload, requests: list[Request]) -> tuple[subprocess.Popen, int] | str:
    """The process and where it is asked, or why it is not."""
    into = rig.folder / f"{workload.name}-{name}"
    into.mkdir()
    port, tls_port = free_port(), free_port()
    command = PROXIES[name](rig, workload.kind, into, port, tls_port)
    if isinstance(command, str):
        return command
    log = into / "log"
    process = rig.children.start(command, rig.of_proxies, log)
    port = tls_port if workload.kind == "tls" else port
    wrong: str | None = "it does not listen"
    try:
        if listens(process, port):
            wrong = is_as_meant(name, workload, requests, port)
    except (OSError, http.client.HTTPException) as error:
        wrong = f"it does not answer: {error}"
    if wrong is None:
        return process, port
    rig.children.end(process)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    return "; ".join([wrong, *(line[:200] for line in last)])


def window(
    row: Row, process: subprocess.Popen, rig: Rig, load: Load, port: int, seconds: int, is_counted: bool
) -> None:
    pids, backend = family(process.pid), family(rig.backend)

    def ours() -> float:
        return cpu_seconds(pids) + cpu_seconds(backend) + children_seconds()

    started, busy, by_us, before = time.monotonic(), busy_seconds(), ours(), cpu_seconds(pids)
    told = load.closed_loop(port, seconds)
    spent, took = cpu_seconds(pids) - before, time.monotonic() - started
    by_others = busy_seconds() - busy - (ours() - by_us)
    if has_ended(process):
        raise RuntimeError("it has ended")
    if not is_counted:
        return
    if told["requests"] == 0:
        row.empty += 1
        return
    row.rates.append(told["requests"] / told["seconds"])
    row.cpu_us.append(spent / told["requests"] * 1e6)
    if told["p50_us"] is not None:
        row.p50_us.append(told["p50_us"])
    row.foreign.append(max(by_others, 0) / took)
    row.failed += told["failed"]


def kib_of_a_connection(pid: int, port: int) -> float:
    """That has had an answer and is kept."""
    before = memory_kib(family(pid))
    kept = []
    try:
        for _ in range(IDLE):
            client = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
            kept.append(client)
            client.request("GET", "/")
            client.getresponse().read()
        time.sleep(1)
        return (memory_kib(family(pid)) - before) / IDLE
    finally:
        for client in kept:
            client.close()


# What is said


def versions(naka_binary: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Of the proxies and of the programs that ask, those that are here."""

    def first_line(*command: str, pattern: str) -> str | None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            return None
        found = re.search(pattern, done.stdout + done.stderr)
        return found.group(1) if found else "of an unknown version"

    number = r"(\d+(?:\.\d+)+[-+.\w]*)"
    proxies = {
        "floor": "a relay that looks at nothing",
        "naka": first_line(str(naka_binary), "--version", pattern=r"naka\S* " + number),
        "nginx": first_line("nginx", "-v", pattern=r"nginx/" + number),
        "haproxy": first_line("haproxy", "-v", pattern=r"version " + number),
        "envoy": first_line("envoy", "--version", pattern=r"/" + number),
    }
    tools = {
        "wrk": first_line("wrk", "-v", pattern=r"wrk \D*" + number),
        "h2load": first_line("h2load", "--version", pattern=r"/" + number),
        "oha": first_line("oha", "--version", pattern=r"oha " + number),
    }

    def those_here(all_of: dict[str, str | None]) -> dict[str, str]:
        return {name: version for name, version in all_of.items() if version}

    return those_here(proxies), those_here(tools)


def times(cost: float | None, of: float | None) -> str:
    return f"{cost / of:.2f}" if cost is not None and of else "–"


def others(rows: list[Row]) -> float | None:
    """CPUs that others took, the median of all windows."""
    foreign = [value for row in rows for value in row.foreign]
    return statistics.median(foreign) if foreign else None


def table(workload: Workload, rows: list[Row]) -> str:
    by_name = {row.proxy: row for row in rows}
    of_floor = by_name["floor"].cost if "floor" in by_name else None
    is_idle = workload.name == "w6"
    what = "KiB a connection" if is_idle else "CPU µs, best / median"
    lines = [f"{workload.name}: {workload.says}"]
    form = "  {:<8} {:>22} {:>9} {:>22} {:>11} {:>11} {:>9} {:>7}"
    lines.append(form.format("", what, "÷ floor", "req/s, best / median", "p50 open", "p50 full", "MiB", "failed"))
    for row in rows:
        if row.skipped:
            lines.append(f"  {row.proxy:<8} skipped: {row.skipped}")
            continue

        def best_and_median(of: list[float], best: float, digits: int) -> str:
            return f"{best:,.{digits}f} / {statistics.median(of):,.{digits}f}"

        def median_us(of: list[float]) -> str:
            return f"{statistics.median(of):,.0f} µs" if of else "–"

        lines.append(
            form.format(
                row.proxy,
                f"{row.idle_kib:.1f}" if is_idle else best_and_median(row.cpu_us, min(row.cpu_us), 1),
                "–" if is_idle else times(row.cost, of_floor),
                "–" if is_idle else best_and_median(row.rates, max(row.rates), 0),
                median_us(row.open_us),
                median_us(row.p50_us),
                f"{row.memory_kib / 1024:.1f}",
                row.failed,
            )
        )
    of_naka = by_name["naka"].figures() if "naka" in by_name else {}
    for row in rows if of_naka else []:
        if row.proxy != "naka" and (figures := row.figures()):
            ratios = [f"{what} {times(of_naka[what], figure)}" for what, figure in figures.items() if figure and of_naka[what]]
            lines.append(f"  naka ÷ {row.proxy}: " + ", ".join(ratios))
    if (busy := others(rows)) is not None:
        lines.append(f"  others took {busy:.2f} CPUs meanwhile" + (": too much, measure again" if busy > QUIET else ""))
    if empty := sum(row.empty for row in rows):
        lines.append(f"  windows without any answer, which do not count: {empty}")
    return "\n".join(lines)


def chart(results: dict[str, list[Row]], head: str) -> str:
    """Bars of each workload, the shorter the better, as SVG."""
    colors = {"floor": "#8a8f98", "naka": "#c2410c", "nginx": "#15803d", "haproxy": "#1d4ed8", "envoy": "#7e22ce"}
    left, bar, wide, line = 110, 420, 760, 22
    parts, y = [], 64
    for name, rows in results.items():
        shown = [(row, row.cost) for row in rows if row.cost is not None and not row.skipped]
        if not shown:
            continue
        unit = "KiB" if name == "w6" else "µs"
        most = max(max(cost for _, cost in shown), 0.001)
        busy = others(rows)
        noise = f", while others took {busy:.1f} CPUs" if busy is not None and busy > QUIET else ""
        parts.append(f'<text x="16" y="{y}" class="h">{html.escape(WORKLOADS[name].says)} ({unit}){noise}</text>')
        y += 10
        of_naka = next((cost for row, cost in shown if row.proxy == "naka"), None)
        for row, cost in shown:
            width = max(cost / most, 0.002) * bar
            value = f"{cost:,.1f}"
            if row.proxy not in ("naka", "floor") and of_naka and cost:
                value += f" (naka: {of_naka / cost:.2f} times that)"
            parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{row.proxy}</text>')
            parts.append(f'<rect x="{left}" y="{y + 2}" width="{width:.1f}" height="16" fill="{colors[row.proxy]}"/>')
            parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 14}">{html.escape(value)}</text>')
            y += line
        y += 28
    title = "CPU time for a request, one worker each, best window; KiB for a kept connection"
    style = "text{font:13px sans-serif;fill:#1f2328}.h{font-weight:bold}.s{font-size:11px;fill:#57606a}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{y}" viewBox="0 0 {wide} {y}" role="img">',
            f"<title>{title}</title><style>{style}</style>",
            f'<rect width="{wide}" height="{y}" fill="#ffffff"/>',
            f'<text x="16" y="22" class="h">{title}</text>',
            f'<text x="16" y="40" class="s">{html.escape(head)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def as_json(results: dict[str, list[Row]], about: dict) -> str:
    workloads = {name: [vars(row) | {"cost": row.cost} for row in rows] for name, rows in results.items()}
    return json.dumps({**about, "workloads": workloads}, indent=1) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("naka", type=Path, help="the binary; bench-floor and bench-backend stand beside it")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"of {', '.join(WORKLOADS)}; all if nothing is said")
    parser.add_argument("--proxies", default=",".join(PROXIES), help=f"of {', '.join(PROXIES)}; all if nothing is said")
    parser.add_argument("--strict", action="store_true", help="end with an error if a proxy was skipped, or a request failed")
    parser.add_argument("--rounds", type=int, default=8, help="windows of each proxy that count; one more before warms it up")
    parser.add_argument("--seconds", type=int, default=1, help="of a window")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all windows there")
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="draw it there")
    options = parser.parse_args()
    options.names = options.workloads.split(",")
    if unknown := [name for name in options.names if name not in WORKLOADS]:
        parser.error(f"no workloads: {', '.join(unknown)}")
    options.asked = list(dict.fromkeys(options.proxies.split(",")))
    if unknown := [name for name in options.asked if name not in PROXIES]:
        parser.error(f"no proxies: {', '.join(unknown)}")
    if not (1 <= options.rounds <= 100 and 1 <= options.seconds <= 60):
        parser.error("rounds are 1 to 100, seconds 1 to 60")
    beside = ["bench-backend"] + ["bench-floor"] * ("floor" in options.asked)
    for needed in (options.naka, *(options.naka.parent / name for name in beside)):
        if not os.access(needed, os.X_OK):
            parser.error(f"{needed} is not there: cargo build --release -p naka-suite -p naka-gateway")
    return options


def run(options: argparse.Namespace, children: Children, folder: Path) -> None:
    proxies, tools = versions(options.naka)
    proxies = {name: version for name, version in proxies.items() if name in options.asked}
    for name in (*options.asked, "wrk", "h2load", "oha"):
        print(f"{name:<8} {({**proxies, **tools}).get(name, 'skipped: it is not here')}")
    if not {"wrk", "oha"} & tools.keys():
        raise SystemExit("neither wrk nor oha is here: nothing can be asked (apt install wrk, cargo install oha)")
    if "oha" not in tools:
        print("p50 at a fixed rate is skipped: oha is not here, and wrk knows no open loop")
    if "wrk" not in tools:
        print("load is oha's, as wrk is not here: w2 has one token then, and its CPU times compare with no others")
    cpus = sorted(os.sched_getaffinity(0))
    of_proxies, of_load = {cpus[-1]}, set(cpus[:-1][-1:] or cpus)
    if not shutil.which("openssl"):
        raise SystemExit("openssl is not here: nothing makes a certificate (apt install openssl)")
    print(f"proxies on CPU {cpus[-1]}, load and backends on CPU {min(of_load)}, of {len(cpus)}")

    (folder / "secret").touch(mode=0o600)
    certificates(folder)
    rig = Rig(options.naka.resolve(), folder, (free_port(), free_port()), children, of_proxies, of_load)
    (folder / "secret").write_text(rig.secret)
    addresses = [f"{LOOPBACK}:{port}" for port in rig.upstreams]
    backend = children.start([program(rig, "bench-backend"), *addresses], of_load, folder / "backend.log")
    rig.backend = backend.pid
    if not listens(backend, rig.upstreams[1]):
        raise SystemExit(f"the backend does not listen: {(folder / 'backend.log').read_text()}")

    results: dict[str, list[Row]] = {}
    for name in options.names:
        workload = WORKLOADS[name]
        if workload.kind == "h2" and "h2load" not in tools:
            print(f"\n{name}: skipped: h2load is not here (apt install nghttp2-client)")
            continue
        rows = measured(rig, workload, options, proxies)
        results[name] = rows
        print("\n" + table(workload, rows), flush=True)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    system = f"{platform.system()} {platform.release().split('-')[0]}, {len(cpus)} CPUs"
    about = {"date": today, "system": system, "rounds": options.rounds, "seconds": options.seconds, "proxies": proxies, "tools": tools}
    if options.strict and (wrong := [f"{name}: {row.proxy}: {row.skipped or f'{row.failed} requests failed'}"
                                     for name, rows in results.items() for row in rows if row.skipped or row.failed]):
        raise SystemExit("not all were measured as asked: " + "; ".join(wrong))
    if options.json:
        options.json.write_text(as_json(results, about))
    if options.chart:
        named = ", ".join(f"{name} {version}" for name, version in proxies.items() if name != "floor")
        options.chart.write_text(chart(results, f"{today}: {named}; {system}; {options.rounds} rounds"))


def leave(number: int, _frame: object) -> None:
    """Once: what was started is being ended then."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    options = arguments()
    # The backend and each proxy: two descriptors for each connection.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16384) if most != resource.RLIM_INFINITY else 16384, most))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    children = Children()
    with tempfile.TemporaryDirectory(prefix="naka-compare-") as folder:
        try:
            run(options, children, Path(folder))
        finally:
            children.end_all()


if __name__ == "__main__":
    main()
