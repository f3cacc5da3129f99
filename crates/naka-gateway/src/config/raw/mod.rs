//! The records: the file as it is written, each value with its place.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use crate::address::Address;

use super::{
    checked::{HostPattern, IdentityPart, KeyPart, Template, Workers},
    decode::{At, Cx, Decode, Form, Named, OneOrMany, Or, Scalar, Text, Wrong},
    node::{Node, Value},
    outline::Tracer,
    path::{PathRegex, PrefixPath, WholePath},
    record::{record, words, wrong_word},
    suggest::{nearest, quoted},
    units::{Between, MaxLoad, OrNever, OrZero, Percent, Size, SizeOrNever, Whole},
    values::{
        Authority, DnsHost, DnsService, ErrorStatuses, FileMode, GrpcService, HostPort, Id, NameServer,
        OriginForm, RedirectStatus, RedisUrl, RequestLine, Statuses, TrustedProxy, Url,
    },
};

mod compose;
mod health;
mod policies;
mod scenario;
mod split;
mod telemetry;
mod tls;
mod versions;

pub(crate) use compose::*;
pub(crate) use health::*;
pub(crate) use policies::*;
pub(crate) use scenario::*;
pub(crate) use split::*;
pub(crate) use telemetry::*;
pub(crate) use tls::*;
pub(crate) use versions::*;

type Count = Whole<1, 10_000_000>;
/// Names, each with a value or `{present: true}`.
pub(crate) type ValueMatches<K> = Named<K, RawValueMatch>;
pub(crate) type RawValueMatch = Or<Arc<str>, RawPresent>;

record! {
    /// The configuration of the gateway, or one of the files it includes.
    RawFile ("a configuration") {
        /// The version of this grammar.
        version: Whole<1, 1> = "1";
        /// Files that belong to this configuration: paths from this file, `*` in the last part.
        include: OneOrMany<Arc<str>> = optional, "[routes.d/*.yaml]";
        /// What concerns the process.
        gateway: RawGateway = optional;
        /// Where the gateway listens.
        listeners: Named<Id, Arc<RawListener>> = optional, "{web: {listen: \":8080\"}}";
        /// Policies with a name; the name is the identity of their state.
        policies: Named<Id, Arc<RawPolicy>> = optional, "{per-ip: {rate_limit: {rate: 20/m, key: [client_ip]}}}";
        /// Where requests can go.
        upstreams: Named<Id, Arc<RawUpstream>> = optional, "{app: {endpoints: [\"127.0.0.1:3000\"]}}";
        /// Routes that share something.
        groups: Named<Id, Arc<RawGroup>> = optional, "{rides: {host: api.example, routes: {all: {match: {prefix: /}, upstream: app}}}}";
        /// Which requests go where.
        routes: Named<Id, Arc<RawRoute>> = optional, "{all: {match: {prefix: /}, upstream: app}}";
        /// Requests, and what must come of them; run before a change takes effect.
        tests: Vec<At<RawTest>> = optional;
    }
    instead: entryPoints => "write `listeners: {web: {listen: \":8080\"}}`",
        services => "write `upstreams: {app: {endpoints: [\"127.0.0.1:3000\"]}}`",
        clusters => "write `upstreams: {app: {endpoints: [\"127.0.0.1:3000\"]}}`",
        backends => "write `upstreams: {app: {endpoints: [\"127.0.0.1:3000\"]}}`",
        middlewares => "write `policies: {name: {rate_limit: {rate: 20/m}}}`",
        plugins => "write `policies: {name: {rate_limit: {rate: 20/m}}}`",
        load => "this is a scenario: ask `naka simulate`",
        duration => "this is a scenario: ask `naka simulate`",
        http => "the keys of this file stand at the top: `listeners`, `upstreams`, `routes`";
}

/// What holds where nothing is said at a path of keys.
pub(crate) fn default_of(path: &[&str]) -> Option<&'static str> {
    let (key, records) = path.split_last()?;
    let record = records.iter().try_fold(RawFile::form(), |form, key| form.under(key))?.record()?;
    record.fields.iter().find(|field| field.key == *key)?.default()
}

record! {
    /// What concerns the process.
    RawGateway ("the gateway's own settings") {
        /// `per-core`: one single-threaded runtime each; a number of them; `shared`: one multi-threaded. Needs a restart.
        workers: Workers = "per-core";
        /// What it runs in: faults load in `development`, and in `production` only where they say so.
        environment: RawEnvironment = "production";
        /// The admin listener, or `none`. Needs a restart.
        admin: Or<Nothing, RawAdmin> = optional;
        /// How changes of the files take effect.
        reload: RawReload = optional;
        /// Peers whose `X-Forwarded-*` and `Forwarded` are believed: networks, and `unix` for whoever comes by a Unix socket.
        trusted_proxies: OneOrMany<TrustedProxy> = optional;
        /// In which fields upstreams hear how a request came, and trusted proxies are believed: `X-Forwarded-*`, `Forwarded` (RFC 7239), or `both`.
        forwarded: RawForwarded = "x_forwarded", "rfc7239";
        /// Say in `Proxy-Status` (RFC 9209) why the gateway has not let a request through, or the upstream has not answered.
        proxy_status: bool = "true", "false";
        /// How the gateway's own errors are shown.
        errors: RawErrors = optional;
        /// Bounds on what a client may send and hold.
        limits: RawServerLimits = optional;
        /// Headers that tell upstreams who asks: `identity`, `api_key`, `jwt.CLAIM`. What clients send under
        /// these names is always taken away.
        identity_headers: Named<HeaderName, IdentityPart> = optional, "{x-user-id: identity, x-user-tier: jwt.tier}";
        /// In which header clients may say how long they wait, in milliseconds, and endpoints are told what is
        /// left of it.
        deadline_header: HeaderName = optional, "x-timeout-ms";
        /// How names of endpoints that are found are resolved.
        resolver: RawResolver = optional;
        /// The registries in which services are looked up, for all upstreams.
        registries: RawRegistries = optional;
        /// Stores that have the accounts of limits which several gateways share.
        stores: Named<Id, RawStore> = optional, "{limits: {redis: \"redis://127.0.0.1:6379/0\", secret: {env: NAKA_LIMITS_SECRET}}}";
        /// How the process ends.
        drain: RawDrain = optional;
        /// What outlives the process: what limits and circuit breakers know.
        state: RawState = optional;
        /// How another process takes over.
        upgrade: RawUpgrade = optional;
        /// What is told about requests: traces, and a log of them.
        telemetry: RawTelemetry = optional;
        /// How it is found out how the gateway itself is.
        health: RawHealth = optional, "{interval: 10s}";
        /// Of what somebody is told, and how.
        alerts: RawAlerts = optional;
    }
    instead: tracing => "write `telemetry: {tracing: {otlp: \"http://127.0.0.1:4318\"}}`",
        access_log => "write `telemetry: {access_log: {}}`",
        log => "write `telemetry: {access_log: {}}`";
}

words! {
    /// What the process runs in.
    RawEnvironment ("what it runs in") { Development = "development", Production = "production" }
}

words! {
    /// What says how a request came.
    RawForwarded ("what says how a request came") { XForwarded = "x_forwarded", Rfc7239 = "rfc7239", Both = "both" }
}

record! {
    /// How the gateway's own errors are shown.
    RawErrors ("how errors are shown") {
        /// For people, by status: files that end in `.html` or `.txt`. Clients that do not prefer them hear problem details.
        pages: Named<ErrorStatuses, Arc<str>> = required, "{503: pages/busy.html, 5xx: pages/broken.html}";
    }
}

words! {
    /// Nothing, said aloud.
    Nothing ("`none`") { None = "none" }
}

/// `auth: none` and `auth: optional`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RawAuth {
    None,
    Optional,
}

impl Scalar for RawAuth {
    const WHAT: &'static str = "`none`, which lets everybody in, or `optional`, which lets in whoever brings no credentials, too (what finds out who asks stands in `use:`)";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        match text.text {
            "none" => Ok(Self::None),
            "optional" => Ok(Self::Optional),
            other => {
                let wrong = Wrong::new(format!("{} is not `none` or `optional`", quoted(other)));
                Err(match nearest(other, ["none", "optional"]) {
                    Some(meant) => wrong.help(format!("write `{meant}`")),
                    None => wrong.help(
                        "name a policy that finds out who asks under `use:`: `use: [name]`; `auth: none` lets everybody in, and `auth: optional` whoever brings no credentials, too",
                    ),
                })
            }
        }
    }

    fn schema() -> Json {
        json!({"enum": ["none", "optional"]})
    }
}

record! {
    /// The admin listener.
    RawAdmin ("the admin listener") {
        /// Its address; loopback unless you protect it otherwise.
        listen: SocketAddr = "127.0.0.1:9901", "\"127.0.0.1:9902\"";
        /// A Unix socket besides, for the user that the process runs as. Whoever reaches it may change things.
        socket: Arc<str> = optional, "/run/naka/admin.sock";
        /// What those have to show who want to change something over the address; without it nobody can.
        token: RawSecret = optional;
    }
}

record! {
    /// How changes of the files take effect.
    RawReload ("how changes take effect") {
        /// Watch the files.
        watch: bool = "true";
        /// Quiet time after the last change before reading; what was renamed to its place, and takes nothing away, does not wait for it.
        debounce: OrZero = "200ms";
        /// The longest time a burst of changes can put off reading.
        max_wait: OrZero = "1s";
        /// Run the file's own tests before a change takes effect.
        run_tests: bool = "true";
        /// Refuse the whole change when one included file is wrong.
        strict: bool = "false";
        /// Earlier generations that can be rolled back to.
        keep: Whole<0, 100> = "10";
    }
}

record! {
    /// Bounds on what a client may send and hold.
    RawServerLimits ("bounds on clients") {
        /// Connections over all listeners.
        connections: Count = "20000";
        /// Connections of one address, over all listeners; of IPv6, of a network of 64 bits. Trusted proxies are not counted; whom they name by the PROXY protocol is.
        connections_per_ip: Count = optional, "100";
        /// Connections to all endpoints of all upstreams.
        upstream_connections: Count = "20000";
        /// Bytes of a request head.
        header_bytes: Size = "32KiB";
        /// Header fields of a request.
        header_count: Whole<1, 10_000> = "100";
        /// Bytes of a request target.
        uri: Size = "8KiB";
        /// Bytes of a request body, where nothing else says so; `never` for no limit.
        body: SizeOrNever = "10MiB";
        /// Bytes of bodies that are kept to be sent again, to another or as copies, or to be repeated, of all requests together.
        buffered: Size = "64MiB";
    }
}

record! {
    /// How the process ends.
    RawDrain ("how the process ends") {
        /// Still accepting while `/readyz` already says no; from the middle of it on, clients are told to leave.
        grace: OrZero = "5s";
        /// What still runs then, counted from the signal, is cut off.
        deadline: Duration = "30s";
    }
}

record! {
    /// What outlives the process.
    RawState ("what outlives the process") {
        /// The file. Only the user of the process can read it: it tells whether somebody who is guessed was a client.
        file: Arc<str> = required, "/var/lib/naka/state";
        /// How often it is written; and once more at the end.
        interval: Duration = "30s";
    }
}

record! {
    /// How another process takes over.
    RawUpgrade ("how another process takes over") {
        /// The Unix socket at which the next process asks for the sockets and the state of this one. Needs a restart.
        socket: Arc<str> = required, "/run/naka/upgrade.sock";
    }
}

record! {
    /// One listening socket.
    RawListener ("a listener") {
        /// Its address, `:8080`, `127.0.0.1:8080`, `[::1]:8080`; or the whole path of a Unix socket, `unix:/run/naka/web.sock`.
        listen: Address = required;
        /// Who may connect to its Unix socket, by the mode of the file; if nothing is said, `0600`: the user of the process.
        mode: FileMode = optional, "\"0660\"";
        /// What is spoken there; if nothing is said, `h1`, and over TLS `h2` besides.
        protocols: OneOrMany<ListenerProtocol> = optional;
        /// TLS with its clients.
        tls: RawListenerTls = optional;
        /// Each connection begins with a header of the PROXY protocol, version 1 or 2, of one of `gateway.trusted_proxies`.
        proxy_protocol: bool = "false";
        /// How long its clients may take.
        timeouts: RawListenerTimeouts = optional;
        /// Named policies for all its routes.
        r#use: OneOrMany<Id> = optional, "[per-ip]";
        /// A rate limit for all its routes together: a name, or the limit itself.
        rate_limit: Or<Id, RawRateLimit> = optional;
        /// A bulkhead for those of its routes that have none: a name, or the bulkhead itself.
        bulkhead: Or<Id, RawBulkhead> = optional;
        /// Who may ask its routes, besides what they say themselves.
        authorize: Or<Id, RawRule> = optional;
        /// Idempotency keys: a name, or what is said of them.
        idempotency: Or<Id, RawIdempotency> = optional;
        /// What pages of other origins may: a name, or what it says.
        cors: Or<Id, RawCors> = optional;
        /// Make responses smaller: a name, or how.
        compress: Or<Id, RawCompress> = optional;
        /// A circuit breaker: a name, or the breaker itself.
        circuit_breaker: Or<Id, RawCircuitBreaker> = optional;
        /// Faults: a name, or the faults themselves.
        fault: Or<Id, RawFault> = optional;
        /// Retries: a name, or what is retried.
        retry: Or<Id, RawRetry> = optional;
        /// Hedges: a name, or what is sent once more.
        hedge: Or<Id, RawHedge> = optional;
        /// A cache: a name, or what is kept.
        cache: Or<Id, RawCache> = optional;
        /// What is answered in place of a failure: a name, or what is done.
        fallback: Or<Id, RawFallback> = optional;
        /// Copies for another upstream: a name, or what is copied.
        mirror: Or<Id, RawMirror> = optional;
        /// Bounds on requests, and on how slow they come.
        limits: RawListenerLimits = optional;
    }
    not_built: headers;
    instead: address => "write `listen:`",
        port => "write `listen: \":8080\"`",
        bind => "write `listen: \":8080\"`";
}

words! {
    /// What a client may speak: HTTP/1.1; HTTP/2 over TLS, which both agree on; or without TLS, which it begins with by itself.
    ListenerProtocol ("a protocol") { H1 = "h1", H2 = "h2", H2c = "h2c" }
    not_built: "h3" "auto";
}

/// What is spoken to an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2,
}

impl Scalar for Protocol {
    const WHAT: &'static str = "`h1` or `h2`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        let words = ["h1", "h2"];
        match text.text {
            "h1" => Ok(Self::H1),
            "h2" => Ok(Self::H2),
            "auto" => Err(Wrong::not_built("auto").help("write `h2` if they speak it, or `h1`")),
            "h2c" => {
                Err(Wrong::new("`h2c` is `h2` here: without `tls:` it is spoken without TLS")
                    .help("write `h2`"))
            }
            other => Err(wrong_word(other, &words, &["h3"], &[])),
        }
    }

    fn schema() -> Json {
        json!({"enum": ["h1", "h2"]})
    }
}

record! {
    /// How long the clients of a listener may take.
    RawListenerTimeouts ("timeouts") {
        /// The set-up of a connection: the header of the PROXY protocol and the handshake of TLS.
        handshake: Duration = "10s";
        /// From the last byte of the set-up to the end of a request head.
        request_headers: Duration = "10s";
        /// A kept-alive connection without a request.
        idle: Duration = "60s";
    }
    instead: total => "`total` is a timeout of routes and groups",
        connect => "`connect` is a timeout of upstreams";
}

record! {
    /// Bounds on what the clients of a listener send, and how slowly.
    RawListenerLimits ("bounds on requests such as `{body: 1MiB}`") {
        /// Bytes of a request body; `never` for no limit.
        body: SizeOrNever = optional;
        /// Bytes a second of a body, of a request or of a response, below which its client is too slow: while it is waited for, and 20s besides. `never` for as slow as it likes.
        min_rate: SizeOrNever = "240";
    }
    instead: header_bytes => "write it into `gateway.limits`",
        connections => "write it into `gateway.limits`",
        uri => "write it into `gateway.limits`",
        client_max_body_size => "write `body:`";
}

record! {
    /// Where requests can go.
    RawUpstream ("an upstream such as `{endpoints: [\"127.0.0.1:3000\"]}`") {
        /// The addresses, or how they are found: `dns`, `srv` or `file`.
        endpoints: RawEndpoints = required;
        /// What is spoken to them: `h1`, or `h2`, which without TLS is HTTP/2 by prior knowledge.
        protocol: Protocol = "h1";
        /// TLS with them; `{}` is enough where this machine believes who they are.
        tls: RawUpstreamTls = optional, "{sni: app.internal}";
        /// How one of them is chosen.
        balance: RawBalance = optional;
        /// How they are asked whether they are well.
        health_check: RawHealthCheck = optional;
        /// A bulkhead of the whole upstream: a name, or the bulkhead itself.
        bulkhead: Or<Id, RawBulkhead> = optional;
        /// A circuit breaker for each endpoint: a name, or the breaker itself.
        circuit_breaker: Or<Id, RawCircuitBreaker> = optional;
        /// What all retries to it may spend together.
        retry_budget: RawRetryBudget = optional;
        /// How long the parts of an exchange may take.
        timeouts: RawUpstreamTimeouts = optional;
        /// How connections are kept.
        keep_alive: RawKeepAlive = optional;
        /// How many connections there may be.
        connections: RawConnections = optional;
        /// Without a usable endpoint of it the gateway is not ready: `/readyz` says 503.
        critical: bool = "false";
    }
    not_built: extends endpoint_limit limits headers;
    instead: servers => "write `endpoints: [\"127.0.0.1:3000\"]`",
        targets => "write `endpoints: [\"127.0.0.1:3000\"]`",
        nodes => "write `endpoints: [\"127.0.0.1:3000\"]`",
        url => "write `endpoints: [\"127.0.0.1:3000\"]`",
        host => "write `endpoints: [\"127.0.0.1:3000\"]`",
        rate_limit => "an upstream carries a `bulkhead`; a rate limit stands on a route, with `scope: upstream`",
        r#use => "an upstream carries a `bulkhead: name`; `use` is for routes, groups and listeners";
}

/// A list of addresses, or how they are found.
#[derive(Clone, Debug)]
pub(crate) enum RawEndpoints {
    List(RawList),
    Found(Box<RawDiscovery>),
}

/// Addresses, some with more than that.
pub(crate) type RawList = Vec<At<Or<HostPort, RawEndpoint>>>;

impl Decode for RawEndpoints {
    fn what() -> String {
        "a list such as `[\"127.0.0.1:3000\"]`, or how they are found: `{dns: \"app.internal:3000\"}`".into()
    }

    fn decode(node: &Node<'_>, cx: &mut Cx) -> Option<Self> {
        match node.value {
            Value::Map(_) => RawDiscovery::decode(node, cx).map(|it| Self::Found(Box::new(it))),
            Value::Seq(_) => RawList::decode(node, cx).map(Self::List),
            Value::Scalar(_) => {
                cx.wrong_shape(node, &Self::what());
                None
            }
        }
    }

    fn schema() -> Json {
        json!({"anyOf": [RawList::schema(), RawDiscovery::schema()]})
    }

    fn form() -> Form {
        Form::Either(Box::new(RawList::form()), Box::new(RawDiscovery::form()))
    }

    fn outline(node: &Node<'_>, tracer: &mut Tracer<'_>) {
        match node.value {
            Value::Map(_) => RawDiscovery::outline(node, tracer),
            _ => RawList::outline(node, tracer),
        }
    }
}

record! {
    /// How endpoints are found: by `dns`, `srv`, `file`, `consul` or `eureka`.
    RawDiscovery ("how endpoints are found, such as `{dns: \"app.internal:3000\"}`") {
        /// A name and a port: each of its addresses is an endpoint.
        dns: DnsHost = optional;
        /// A service name: its targets with the lowest priority are the endpoints, with their ports and weights.
        srv: DnsService = optional;
        /// A file with a list as it would stand here, seen from this file. It is looked at twice a second.
        file: Arc<str> = optional, "endpoints.yaml";
        /// A service in Consul: its instances whose checks pass. The agent stands in `gateway.registries`.
        consul: Or<Arc<str>, RawConsulService> = optional, "booking";
        /// An application in Eureka: its instances that are up. The servers stand in `gateway.registries`.
        eureka: Or<Arc<str>, RawEurekaApp> = optional, "PRICING";
        /// An answer is good for no less and no more than this, whatever its time to live says. For `dns` and `srv`.
        refresh: Between = "1s..5m";
        /// A set of three or more that loses more than this at once is held until it has been seen `confirm` times.
        max_shrink: Percent = "50%";
        /// How often a set that has shrunk by more than `max_shrink` has to be seen, 5 s apart.
        confirm: Whole<1, 100> = "3";
        /// What becomes of an answer that there is none: `hold` what there is, or `apply` it.
        when_empty: RawWhenEmpty = "hold";
    }
    instead: address => "one address is a list: `endpoints: [\"127.0.0.1:3000\"]`",
        name => "write `dns: \"app.internal:3000\"`, or `srv: _http._tcp.app.internal`",
        path => "write `file: endpoints.yaml`",
        ttl => "write `refresh: 1s..5m`",
        resolver => "name servers are those of this machine, or stand at the top: `gateway: {resolver: {servers: [\"127.0.0.1:53\"]}}`";
}

impl RawDiscovery {
    /// The keys that say where, of which there is one.
    pub(crate) const SOURCES: [&'static str; 5] = ["dns", "srv", "file", "consul", "eureka"];
}

words! {
    /// What becomes of an answer that there is none.
    RawWhenEmpty ("`hold` or `apply`") { Hold = "hold", Apply = "apply" }
}

record! {
    /// Registries.
    RawRegistries ("registries such as `{consul: {address: \"http://127.0.0.1:8500\"}}`") {
        /// Consul's agent; without it, the one of this machine at port 8500.
        consul: RawConsulAgent = optional;
        /// Eureka's servers.
        eureka: RawEurekaServers = optional;
    }
}

record! {
    /// A store of accounts.
    RawStore ("a store such as `{redis: \"redis://127.0.0.1:6379/0\", secret: {env: NAKA_LIMITS_SECRET}}`") {
        /// Where Redis, or Valkey, answers: its primary, without TLS, and the number of a database.
        redis: RedisUrl = required, "\"redis://127.0.0.1:6379/0\"";
        /// Shown with `password`, where there are users (ACL).
        username: Arc<str> = optional, "naka";
        /// Shown when a connection is made.
        password: RawSecret = optional, "{env: REDIS_PASSWORD}";
        /// What keys are hashed with, at least 16 bytes: the same for all gateways that share, and known to nobody else.
        secret: RawSecret = required, "{env: NAKA_LIMITS_SECRET}";
        /// How long a request waits for an answer. Then the store is left alone for a moment, and limits do without.
        timeout: Duration = "50ms";
    }
    instead: url => "write `redis: \"redis://127.0.0.1:6379/0\"`",
        address => "write `redis: \"redis://127.0.0.1:6379/0\"`",
        host => "write `redis: \"redis://127.0.0.1:6379/0\"`",
        valkey => "write `redis:`: they are asked in the same way",
        db => "write it into the URL: `redis: \"redis://127.0.0.1:6379/0\"`";
}

record! {
    /// Consul's agent, as it is asked.
    RawConsulAgent ("an agent such as `{address: \"http://127.0.0.1:8500\"}`") {
        /// Where it answers. One on the same machine is what Consul is made for.
        address: Url = "http://127.0.0.1:8500";
        /// A file with the certificates of the authorities that are believed, in place of those of this machine.
        ca: Arc<str> = optional, "consul-ca.pem";
        /// Shown as `X-Consul-Token`: it has to be allowed to read services and nodes.
        token: RawSecret = optional, "{env: CONSUL_HTTP_TOKEN}";
        /// The datacenter that is asked, where a service does not say another; else that of the agent.
        datacenter: Id = optional, "mumbai";
        /// Any server of Consul may answer, and not its leader alone: it goes on without a leader, and is some milliseconds behind.
        stale: bool = "false", "true";
        /// How long a question waits for a change.
        wait: Duration = "55s";
    }
    instead: url => "write `address: \"http://127.0.0.1:8500\"`",
        host => "write `address: \"http://127.0.0.1:8500\"`",
        acl_token => "write `token: {env: CONSUL_HTTP_TOKEN}`";
}

record! {
    /// A service in Consul.
    RawConsulService ("a service such as `{service: booking, tags: [primary]}`") {
        /// Its name.
        service: Arc<str> = required, "booking";
        /// Only instances with all of these tags.
        tags: OneOrMany<Arc<str>> = optional, "[primary]";
        /// The datacenter that is asked.
        datacenter: Id = optional, "mumbai";
        /// Only instances all of whose checks pass; `false`: those with a warning, too.
        passing: bool = "true", "false";
    }
    instead: name => "write `service: booking`",
        tag => "write `tags: [primary]`",
        address => "the agent stands at the top: `gateway: {registries: {consul: {address: \"http://127.0.0.1:8500\"}}}`",
        token => "the token stands at the top: `gateway: {registries: {consul: {token: {env: CONSUL_HTTP_TOKEN}}}}`";
}

record! {
    /// Eureka's servers, as they are asked.
    RawEurekaServers ("servers such as `{servers: [\"http://127.0.0.1:8761/eureka\"]}`") {
        /// Where they answer, up to what stands before `/apps`. The next one is asked when one fails.
        servers: OneOrMany<Url> = required, "[\"http://127.0.0.1:8761/eureka\"]";
        /// A file with the certificates of the authorities that are believed, in place of those of this machine.
        ca: Arc<str> = optional, "eureka-ca.pem";
        /// Shown with `password` (RFC 7617).
        user: Arc<str> = optional, "gateway";
        /// Shown with `user`.
        password: RawSecret = optional, "{env: EUREKA_PASSWORD}";
        /// How much time is between two questions. Servers themselves say something new every 30 s, unless they are told otherwise.
        refresh: Duration = "30s";
    }
    instead: url => "write `servers: [\"http://127.0.0.1:8761/eureka\"]`",
        address => "write `servers: [\"http://127.0.0.1:8761/eureka\"]`",
        username => "write `user: gateway`",
        service_url => "write `servers: [\"http://127.0.0.1:8761/eureka\"]`";
}

record! {
    /// An application in Eureka.
    RawEurekaApp ("an application such as `{app: PRICING, address: host_name}`") {
        /// Its name, in capitals or not.
        app: Arc<str> = required, "PRICING";
        /// What of an instance is connected to: its `ip`, or its `host_name`.
        address: RawEurekaAddress = "ip";
        /// Its secure port, and not the other one: with `tls` beside `endpoints`.
        secure: bool = "false", "true";
    }
    instead: name => "write `app: PRICING`",
        service => "write `app: PRICING`",
        servers => "the servers stand at the top: `gateway: {registries: {eureka: {servers: [\"http://127.0.0.1:8761/eureka\"]}}}`",
        refresh => "it stands at the top: `gateway: {registries: {eureka: {refresh: 30s}}}`";
}

words! {
    /// What of an instance is connected to.
    RawEurekaAddress ("`ip` or `host_name`") { Ip = "ip", HostName = "host_name" }
}

record! {
    /// How names are resolved.
    RawResolver ("how names are resolved") {
        /// Name servers, `ip:port`, in place of those of this machine.
        servers: OneOrMany<NameServer> = required;
    }
    instead: nameservers => "write `servers: [\"127.0.0.1:53\"]`",
        address => "write `servers: [\"127.0.0.1:53\"]`";
}

record! {
    /// One address.
    RawEndpoint ("an endpoint such as `{address: \"127.0.0.1:3000\"}`") {
        /// `host:port`.
        address: HostPort = required;
        /// Its share beside those of the others, for policies that go by weight.
        weight: Whole<1, 65_535> = "1";
        /// Requests that may be under way there; beyond that it is not chosen.
        capacity: Whole<1, 1_000_000> = optional, "100";
        /// What else is said of it, such as its version; `balance.only` asks for that.
        labels: Named<Id, Arc<str>> = optional, "{version: v2}";
    }
    not_built: zone region;
    instead: url => "write `address: \"127.0.0.1:3000\"`",
        host => "write `address: \"127.0.0.1:3000\"`",
        port => "write `address: \"127.0.0.1:3000\"`";
}

record! {
    /// How an endpoint is chosen.
    RawBalance ("how an endpoint is chosen") {
        /// The rule.
        policy: RawBalancePolicy = "round_robin";
        /// By what a request finds its endpoint, for `ring_hash`, `maglev` and `rendezvous`.
        key: OneOrMany<KeyPart> = optional;
        /// For so long the share of an endpoint that joins grows.
        slow_start: Duration = optional;
        /// If fewer of the endpoints are available, one is chosen among all that are not taken out on purpose.
        panic: Percent = optional;
        /// At most so much of its fair share of what is under way goes to one endpoint; what is over that, to the next of its
        /// key. For what goes by a key.
        max_load: MaxLoad = optional;
        /// Only endpoints with all of these labels.
        only: Named<Id, Arc<str>> = optional, "{version: v2}";
        /// Only endpoints whose label is what the request says.
        subset: RawSubset = optional;
        /// Endpoints of a region near to whoever asks, and of another where that has no room.
        regions: RawRegions = optional;
        /// A cookie that brings a client back to its endpoint.
        sticky: RawSticky = optional;
    }
    not_built: prefer;
    instead: labels => "write `only: {version: v2}`, or `subset: {label: version, by: \"header:x-version\"}`",
        filter => "write `only: {version: v2}`";
}

record! {
    /// Only endpoints whose label is what the request says.
    RawSubset ("a subset such as `{label: version, by: \"header:x-version\"}`") {
        /// The label of endpoints.
        label: Id = required, "version";
        /// What it has to be.
        by: KeyPart = required;
        /// What becomes of a request for what no endpoint has; one that says nothing goes to any.
        on_miss: RawSubsetMiss = "any";
    }
}

words! {
    /// What becomes of a request for a subset without endpoints.
    RawSubsetMiss ("what becomes of it") { Any = "any", Refuse = "refuse" }
}

record! {
    /// Which regions of endpoints are preferred for whom.
    RawRegions ("regions such as `{label: region, by: \"header:x-region\", of: {south: [south, west]}, otherwise: [west]}`") {
        /// The label of endpoints that says their region.
        label: Id = "region", "zone";
        /// What says where a request comes from.
        by: KeyPart = optional;
        /// Where a request comes from by its client's address, if nothing else says it: the smallest network counts.
        networks: Named<Id, OneOrMany<IpNet>> = optional, "{south: 10.1.0.0/16}";
        /// For each region of clients: regions of endpoints, the nearest first.
        of: Named<Id, OneOrMany<Arc<str>>> = required, "{south: [south, west]}";
        /// For all others.
        otherwise: OneOrMany<Arc<str>> = required, "[west]";
    }
    instead: default => "write `otherwise:`";
}

record! {
    /// A cookie that brings a client back.
    RawSticky ("a cookie such as `{cookie: shop_endpoint, secret: {env: STICKY_SECRET}}`") {
        /// Its name.
        cookie: Arc<str> = required, "shop_endpoint";
        /// What endpoints are called by: the same at all gateways, and after a restart.
        secret: RawSecret = required;
        /// Over TLS only.
        secure: bool = "false";
    }
    instead: name => "write `cookie:`";
}

words! {
    /// The rule by which an endpoint is chosen.
    RawBalancePolicy ("a rule of balancing") {
        RoundRobin = "round_robin",
        WeightedRoundRobin = "weighted_round_robin",
        Random = "random",
        LeastRequest = "least_request",
        WeightedLeastRequest = "weighted_least_request",
        P2cEwma = "p2c_ewma",
        LeastLatency = "least_latency",
        LeastLoad = "least_load",
        RingHash = "ring_hash",
        Maglev = "maglev",
        Rendezvous = "rendezvous",
        IpHash = "ip_hash",
    }
    help: {
        "geographic" => "the nearest region comes first by `balance.regions`, under any policy: write `regions: {by: 'header:x-region', of: {south: [south, west]}, otherwise: [west, south]}`",
    }
}

record! {
    /// How endpoints are asked whether they are well.
    RawHealthCheck ("a health check such as `{path: /healthz}`") {
        /// How they are asked: `http` sends a `GET`, `grpc` asks as `grpc.health.v1` says, `tcp` only connects.
        r#type: RawHealthType = "http";
        /// What is asked for: a path, with a query if there is one. Needed if the type is `http`.
        path: OriginForm = optional;
        /// Of `type: grpc`: the service that is asked about; all of the endpoint if nothing is said.
        service: GrpcService = optional;
        /// The `Host` that is asked for; the endpoint's address if nothing is said.
        host: Authority = optional;
        /// The statuses that mean well, as `200`, `200-299` or `2xx`; `200-299` if nothing is said.
        statuses: OneOrMany<Statuses> = optional;
        /// Text that has to be in the first 64 KiB of the answer's body.
        body_contains: Arc<str> = optional, "ok";
        /// The shortest time between the beginnings of two checks of an endpoint.
        interval: Duration = "5s";
        /// The same, of an endpoint that is out; `interval` if nothing is said.
        unhealthy_interval: Duration = optional;
        /// The longest that one check may take.
        timeout: Duration = "1s";
        /// So many failures in a row take an endpoint out.
        unhealthy_after: Whole<1, 1000> = "3";
        /// So many passes in a row bring it back.
        healthy_after: Whole<1, 1000> = "2";
    }
    not_built: port method headers;
    instead: uri => "write `path: /healthz`",
        url => "write `path: /healthz`; the address is that of each endpoint",
        status => "write `statuses: [200-299]`",
        expect => "write `statuses: [200-299]`, `body_contains: ok` or both",
        body => "write `body_contains: ok`",
        fall => "write `unhealthy_after: 3`",
        rise => "write `healthy_after: 2`",
        unhealthy_threshold => "write `unhealthy_after: 3`",
        healthy_threshold => "write `healthy_after: 2`",
        grpc => "write `type: grpc`, and `service: shop.Cart` beside it",
        mode => "write `type: tcp`, or nothing for `http`";
}

words! {
    /// How endpoints are asked whether they are well.
    RawHealthType ("a type of health check") { Http = "http", Grpc = "grpc", Tcp = "tcp" }
    not_built: "https";
}

record! {
    /// How long the parts of an exchange with an endpoint may take.
    RawUpstreamTimeouts ("timeouts") {
        /// To a connection.
        connect: Duration = "1s";
        /// From the sent request to the response head.
        response_headers: Duration = "10s";
        /// One try: from the choice of an endpoint to the response head, sending included.
        per_try: Duration = optional;
        /// Without a byte of a body, either way.
        idle: OrNever = "5m";
        /// Without a byte either way once another protocol is spoken, as after an upgrade to WebSocket.
        tunnel_idle: OrNever = "1h";
    }
    instead: total => "`total` is of all tries: write it on the route or its group",
        read => "write `response_headers:` or `idle:`",
        send => "write `idle:`";
}

record! {
    /// What all retries to an upstream may spend together.
    RawRetryBudget ("a retry budget such as `{ratio: 20%, min_per_second: 10}`") {
        /// So many of its requests may be retried.
        ratio: Percent = "20%";
        /// So many retries a second may be made besides.
        min_per_second: Whole<0, 100_000> = "10";
        /// For how long requests count.
        window: Duration = "10s";
    }
}

record! {
    /// How connections to an endpoint are kept, for each worker.
    RawKeepAlive ("how connections are kept") {
        /// Idle connections to one endpoint; 0 keeps none.
        max_idle: Whole<0, 100_000> = "64";
        /// How long an idle one is kept.
        timeout: Duration = "50s";
        /// How long one is used at all, a tenth more or less.
        max_lifetime: OrNever = "1h";
    }
}

record! {
    /// How many connections there may be to an endpoint, of all workers.
    RawConnections ("bounds on connections such as `{max: 100}`") {
        /// To each endpoint, idle ones included.
        max: Whole<1, 1_000_000> = "1024";
        /// Requests that wait for one.
        pending: Whole<0, 1_000_000> = "1024";
        /// Of `protocol: h2`: requests at a time on each; fewer if the endpoint says so.
        streams: Whole<1, 1024> = "100";
    }
    instead: max_idle => "write `keep_alive: {max_idle: …}`",
        timeout => "write `timeouts: {connect: …}`: it is in that time, too, that a connection has to come free";
}

record! {
    /// Routes that share something.
    RawGroup ("a group of routes") {
        /// The listeners its routes are served on.
        listener: OneOrMany<Id> = optional, "public";
        /// The hosts of those routes that name none.
        host: OneOrMany<HostPattern> = optional;
        /// Named policies for all its routes.
        r#use: OneOrMany<Id> = optional, "[per-ip, signed-in]";
        /// A rate limit for all its routes together: a name, or the limit itself.
        rate_limit: Or<Id, RawRateLimit> = optional;
        /// A bulkhead for those of its routes that have none: a name, or the bulkhead itself.
        bulkhead: Or<Id, RawBulkhead> = optional;
        /// Who may ask its routes, besides what they say themselves.
        authorize: Or<Id, RawRule> = optional;
        /// Idempotency keys: a name, or what is said of them.
        idempotency: Or<Id, RawIdempotency> = optional;
        /// What pages of other origins may: a name, or what it says.
        cors: Or<Id, RawCors> = optional;
        /// Make responses smaller: a name, or how.
        compress: Or<Id, RawCompress> = optional;
        /// A circuit breaker: a name, or the breaker itself.
        circuit_breaker: Or<Id, RawCircuitBreaker> = optional;
        /// Faults: a name, or the faults themselves.
        fault: Or<Id, RawFault> = optional;
        /// Retries: a name, or what is retried.
        retry: Or<Id, RawRetry> = optional;
        /// Hedges: a name, or what is sent once more.
        hedge: Or<Id, RawHedge> = optional;
        /// A cache: a name, or what is kept.
        cache: Or<Id, RawCache> = optional;
        /// What is answered in place of a failure: a name, or what is done.
        fallback: Or<Id, RawFallback> = optional;
        /// Copies for another upstream: a name, or what is copied.
        mirror: Or<Id, RawMirror> = optional;
        /// Bounds on requests.
        limits: RawRequestLimits = optional;
        /// Timeouts of those routes that say nothing else.
        timeouts: RawRouteTimeouts = optional;
        /// Changes of headers; a route's change of the same header wins.
        headers: RawHeaders = optional;
        /// The routes.
        routes: Named<Id, Arc<RawRoute>> = required, "{all: {match: {prefix: /}, upstream: app}}";
    }
    not_built: enforce auth;
    instead: groups => "groups have one level: write the routes of both here",
        r#match => "a group shares `host:`; paths stand in each route",
        prefix => "a group shares `host:`; paths stand in each route";
}

record! {
    /// Which requests go where.
    RawRoute ("a route such as `{match: {prefix: /}, upstream: app}`") {
        /// The listeners it is served on; needed once there is more than one.
        listener: OneOrMany<Id> = optional, "public";
        /// What it matches.
        r#match: RawMatch = required;
        /// Decides between routes of equal rank; higher wins.
        priority: i32 = optional, "10";
        /// `none`: it is public, whatever its group or listener asks for. `optional`: whoever brings no credentials passes as nobody, and wrong ones are refused.
        auth: RawAuth = optional, "optional";
        /// Named policies, a set.
        r#use: OneOrMany<Id> = optional, "[per-ip, signed-in]";
        /// A rate limit: a name, or the limit itself.
        rate_limit: Or<Id, RawRateLimit> = optional;
        /// A bulkhead: a name, or the bulkhead itself.
        bulkhead: Or<Id, RawBulkhead> = optional;
        /// Who may.
        authorize: Or<Id, RawRule> = optional;
        /// Idempotency keys: a name, or what is said of them.
        idempotency: Or<Id, RawIdempotency> = optional;
        /// What pages of other origins may: a name, or what it says.
        cors: Or<Id, RawCors> = optional;
        /// Make responses smaller: a name, or how.
        compress: Or<Id, RawCompress> = optional;
        /// A circuit breaker: a name, or the breaker itself.
        circuit_breaker: Or<Id, RawCircuitBreaker> = optional;
        /// Faults: a name, or the faults themselves.
        fault: Or<Id, RawFault> = optional;
        /// Retries: a name, or what is retried.
        retry: Or<Id, RawRetry> = optional;
        /// Hedges: a name, or what is sent once more.
        hedge: Or<Id, RawHedge> = optional;
        /// A cache: a name, or what is kept.
        cache: Or<Id, RawCache> = optional;
        /// What is answered in place of a failure: a name, or what is done.
        fallback: Or<Id, RawFallback> = optional;
        /// Copies for another upstream: a name, or what is copied.
        mirror: Or<Id, RawMirror> = optional;
        /// Bounds on requests.
        limits: RawRequestLimits = optional;
        /// How long it may take.
        timeouts: RawRouteTimeouts = optional;
        /// Whose word counts of which trace a request belongs to, in place of `gateway.telemetry.tracing.trust_parent`.
        trust_parent: RawTrustParent = optional, "never";
        /// Changes of headers.
        headers: RawHeaders = optional;
        /// Changes of the request target.
        rewrite: RawRewrite = optional;
        /// Take the matched prefix away.
        strip_prefix: bool = "false";
        /// Destination: an upstream.
        upstream: Id = optional, "app";
        /// Destination: an answer of the gateway's own.
        respond: RawRespond = optional;
        /// Destination: another URL.
        redirect: RawRedirect = optional;
        /// Destination: an upstream for each version of an API.
        versions: RawVersions = optional;
        /// Destination: several upstreams, each for a share of the requests.
        split: RawSplit = optional;
        /// Destination: a list of the versions of these routes, as they are now.
        list_versions: OneOrMany<Id> = optional, "[products]";
        /// Destination: several calls, whose answers become one.
        compose: RawCompose = optional;
    }
    not_built: sticky enforce lifecycle;
    instead: path => "write it into the match: `match: {path: /healthz}`",
        aggregate => "write `compose: {calls: {order: {upstream: orders, path: /orders/1}}}`",
        prefix => "write it into the match: `match: {prefix: /api}`",
        regex => "write it into the match: `match: {regex: …}`",
        host => "write it into the match: `match: {host: api.example, prefix: /}`",
        hosts => "write it into the match: `match: {host: api.example, prefix: /}`",
        methods => "write it into the match: `match: {prefix: /, methods: [GET]}`",
        query => "write it into the match: `match: {prefix: /, query: {page: \"1\"}}`",
        rule => "write `match: {host: api.example, prefix: /}`",
        paths => "write `match: {prefix: /}`, one route for each path",
        service => "write `upstream:`",
        backend => "write `upstream:`",
        cluster => "write `upstream:`",
        proxy_pass => "write `upstream:`",
        middlewares => "write `use: [name]`",
        plugins => "write `use: [name]`",
        timeout => "write `timeouts: {total: 30s}`";
}

impl RawRoute {
    /// All destinations, built or not.
    pub(crate) const DESTINATIONS: [&'static str; 7] =
        ["upstream", "respond", "redirect", "versions", "list_versions", "split", "compose"];
    /// Those that are built.
    pub(crate) const BUILT: [&'static str; 7] =
        ["upstream", "respond", "redirect", "versions", "list_versions", "split", "compose"];
}

record! {
    /// What a route matches.
    RawMatch ("a match such as `{prefix: /}`") {
        /// The whole path; `{id}` is one segment, `{rest...}` the tail.
        path: WholePath = optional;
        /// The beginning of the path, on a segment boundary.
        prefix: PrefixPath = optional;
        /// The whole path as a regular expression; its named groups are captures.
        regex: PathRegex = optional;
        /// Any of these hosts.
        host: OneOrMany<HostPattern> = optional;
        /// Any of these methods.
        methods: OneOrMany<Method> = optional, "[GET, HEAD]";
        /// All of these headers: a value, or `{present: true}`.
        headers: ValueMatches<HeaderName> = optional, "{x-version: \"2\"}";
        /// All of these query parameters: a value, or `{present: true}`.
        query: ValueMatches<Arc<str>> = optional, "{page: {present: true}}";
    }
    instead: hosts => "write `host:`; it takes a list too",
        method => "write `methods: [GET]`",
        paths => "write one `path:` or `prefix:`, one route for each",
        path_prefix => "write `prefix:`",
        uri => "write `path:` or `prefix:`",
        header => "write `headers: {name: \"value\"}`";
}

impl RawMatch {
    /// The ways to match a path.
    pub(crate) const PATHS: [&'static str; 3] = ["path", "prefix", "regex"];
}

record! {
    /// It is there, whatever its value.
    RawPresent ("`{present: true}`") {
        /// Always `true`.
        present: Yes = required;
    }
}

/// `true`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Yes;

impl Scalar for Yes {
    const WHAT: &'static str = "`true`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        if bool::parse(text)? {
            return Ok(Self);
        }
        Err(Wrong::new(format!("{} cannot be matched", quoted("present: false"))).help(
            "absence makes no match: write a second route without this condition, the more specific one wins",
        ))
    }

    fn schema() -> Json {
        json!({"const": true})
    }
}

record! {
    /// How long a route may take.
    RawRouteTimeouts ("timeouts such as `{total: 30s}`") {
        /// From the request head to the last byte of the response, all tries.
        total: OrNever = "30s";
        /// Without a byte of a body, either way; the upstream's if nothing is said.
        idle: OrNever = optional;
        /// Without a byte either way once another protocol is spoken, as after an upgrade to WebSocket; the upstream's if nothing is said.
        tunnel_idle: OrNever = optional;
    }
    instead: connect => "`connect` is a timeout of the upstream",
        response_headers => "`response_headers` is a timeout of the upstream",
        per_try => "`per_try` is a timeout of the upstream",
        request_headers => "`request_headers` is a timeout of the listener";
}

record! {
    /// Bounds on requests.
    RawRequestLimits ("bounds on requests such as `{body: 1MiB}`") {
        /// Bytes of a request body; `never` for no limit.
        body: SizeOrNever = optional;
    }
    instead: header_bytes => "write it into `gateway.limits`",
        connections => "write it into `gateway.limits`",
        uri => "write it into `gateway.limits`",
        client_max_body_size => "write `body:`";
}

record! {
    /// Changes of headers.
    RawHeaders ("changes of headers") {
        /// On the way to the destination.
        request: RawHeaderEdit = optional;
        /// On the way to the client.
        response: RawHeaderEdit = optional;
        /// Headers that make browsers careful with the answer, where the upstream does not say otherwise.
        security: bool = "false";
    }
    instead: set => "write `request: {set: …}` or `response: {set: …}`",
        add => "write `request: {add: …}` or `response: {add: …}`",
        remove => "write `request: {remove: …}` or `response: {remove: …}`";
}

record! {
    /// Changes of one message: first `remove`, then `set`, then `add`.
    RawHeaderEdit ("changes such as `{set: {x-a: \"1\"}}`") {
        /// Replaced, or put in.
        set: Named<HeaderName, HeaderValue> = optional, "{x-a: \"1\"}";
        /// Put beside what is there.
        add: Named<HeaderName, HeaderValue> = optional, "{vary: accept}";
        /// Taken away.
        remove: OneOrMany<HeaderName> = optional, "[server]";
    }
}

record! {
    /// Changes of the request target.
    RawRewrite ("a rewrite such as `{path: /new}`") {
        /// The new path, with captures of the match.
        path: Template = optional;
        /// The new `Host`.
        host: Authority = optional;
    }
    instead: prefix => "write `strip_prefix: true` on the route, or `path:` with captures",
        replace_prefix => "write `strip_prefix: true` on the route, or `path:` with captures";
}

record! {
    /// An answer of the gateway's own.
    RawRespond ("an answer such as `{status: 200, body: ok}`") {
        /// The status.
        status: StatusCode = "200";
        /// The body.
        body: Arc<str> = "", "ok";
        /// Its type.
        content_type: HeaderValue = "text/plain; charset=utf-8", "application/json";
    }
    not_built: headers file;
}

record! {
    /// Another URL; what is not said stays as it was.
    RawRedirect ("a redirect such as `{scheme: https}`") {
        /// `http` or `https`.
        scheme: RawScheme = optional;
        /// The status.
        status: RedirectStatus = "308";
        /// The host, with a port if there is one.
        host: Authority = optional;
        /// The port, of the host that was asked for.
        port: Whole<1, 65_535> = optional, "8443";
        /// The path, with captures of the match.
        path: Template = optional;
    }
    instead: to => "write `scheme:`, `host:` and `path:`",
        url => "write `scheme:`, `host:` and `path:`",
        code => "write `status:`";
}

words! {
    /// The scheme of a URL.
    RawScheme ("a scheme") { Http = "http", Https = "https" }
}

record! {
    /// A request, and what must come of it.
    RawTest ("a test such as `{request: \"GET http://a.example/\", expect: {route: all}}`") {
        /// The request.
        request: RequestLine = required;
        /// What else the request has.
        with: RawWith = optional;
        /// What must come of it.
        expect: RawExpect = required;
    }
}

record! {
    /// What else a test's request has.
    RawWith ("what else the request has") {
        /// Its headers.
        headers: Named<HeaderName, HeaderValue> = optional, "{idempotency-key: \"1\"}";
        /// Where it comes from; if nothing is said, `127.0.0.1`, and at a Unix socket no address.
        client_ip: IpAddr = optional, "203.0.113.7";
        /// The listener it arrives at.
        listener: Id = optional, "public";
        /// The claims of a token that counts.
        jwt: RawClaims = optional, "{sub: asha, roles: [driver]}";
        /// Whose key it has.
        api_key: Arc<str> = optional, "zomato";
        /// Who it is to those who check passwords, or ask another service; or by a certificate, where the listener looks at such.
        identity: Arc<str> = optional, "asha";
        /// The headers with which another service lets it in.
        forward_auth: Named<HeaderName, HeaderValue> = optional, "{x-user: asha}";
    }
    not_built: cert client_cert body;
}

record! {
    /// What must come of a test's request.
    RawExpect ("what must come of it, such as `{route: all}`") {
        /// The route that takes it.
        route: Id = optional, "all";
        /// The upstream it goes to.
        upstream: Id = optional, "app";
        /// The status that the gateway itself answers with.
        status: StatusCode = optional;
        /// The path the upstream sees.
        path: Arc<str> = optional, "/v2/rides";
    }
    not_built: headers identity version;
}
