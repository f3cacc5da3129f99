//! The records of what is told about requests.

use std::sync::Arc;

use http::HeaderName;

use super::{Named, policies::RawSecret};
use crate::config::{
    decode::OneOrMany,
    record::{record, words},
    units::{Fraction, Size, Whole},
    values::{Statuses, Url},
};

record! {
    /// What is told about requests, to whom.
    RawTelemetry ("what is told about requests") {
        /// What the gateway is called: `service.name` of its spans.
        service: Arc<str> = "naka", "edge";
        /// Traces: who has asked for what, and how long each part took.
        tracing: RawTracing = optional;
        /// A line for each request.
        access_log: RawAccessLog = optional;
        /// What `/metrics` of the admin port shows.
        metrics: RawMetrics = optional;
    }
    instead: otlp => "write `tracing: {otlp: \"http://127.0.0.1:4318\"}`",
        logs => "write `access_log: {}`",
        prometheus => "metrics are at `/metrics` of the admin port";
}

record! {
    /// What `/metrics` of the admin port shows.
    RawMetrics ("metrics") {
        /// The most series. What has no room shares one that is called `_other`.
        max_series: Whole<100, 10_000_000> = "100000", "300000";
    }
}

record! {
    /// Traces.
    RawTracing ("traces such as `{otlp: \"http://127.0.0.1:4318\"}`") {
        /// A collector of OpenTelemetry. Over HTTP `/v1/traces` is put behind its path. Without one traces are passed on, and nothing is recorded here.
        otlp: Url = optional, "\"http://127.0.0.1:4318\"";
        /// What is spoken to it: OTLP over `http`, in protobuf, or over `grpc`.
        protocol: RawOtlpProtocol = "http";
        /// Headers that the collector wants, such as a key.
        headers: Named<HeaderName, RawSecret> = optional, "{authorization: {env: OTLP_AUTHORIZATION}}";
        /// How requests say which trace they belong to: the first that is right is read, all are written.
        propagators: OneOrMany<RawPropagator> = optional, "[w3c, b3, jaeger]";
        /// So many of the traces that begin here are recorded; of others those have decided that began them.
        sample: Fraction = "100%", "5%";
        /// Record requests that failed (5xx, or a response that broke off), too, when their trace is not recorded.
        always_on_error: bool = "true", "false";
        /// Whose word counts of which trace a request belongs to, and whether that is recorded. Of all others traces begin here, and
        /// baggage is taken away.
        trust_parent: RawTrustParent = "trusted_proxies", "never";
        /// What spans tell besides, although it may say who asked.
        attributes: OneOrMany<RawAttribute> = optional, "[url.path]";
        /// More about the gateway itself.
        resource: Named<Arc<str>, Arc<str>> = optional, "{deployment.environment.name: production}";
        /// Bytes of spans that may wait for the collector; what is over that is dropped, and counted.
        queue: Size = "4MiB", "16MiB";
    }
    instead: endpoint => "write `otlp: \"http://127.0.0.1:4318\"`",
        exporter => "write `otlp: \"http://127.0.0.1:4318\"`",
        sampling => "write `sample: 5%`",
        ratio => "write `sample: 5%`";
}

words! {
    /// What is spoken to a collector.
    RawOtlpProtocol ("`http` or `grpc`") { Http = "http", Grpc = "grpc" }
    help: { "http/protobuf" => "write `http`" }
}

words! {
    /// How requests say which trace they belong to.
    RawPropagator ("a format of traces such as `w3c`") {
        W3c = "w3c", B3 = "b3", B3Multi = "b3_multi", Jaeger = "jaeger",
    }
    help: {
        "tracecontext" => "write `w3c`",
        "baggage" => "it goes with a trace that is believed, whatever the format",
        "b3multi" => "write `b3_multi`",
    }
}

words! {
    /// Whose word counts about traces.
    RawTrustParent ("`trusted_proxies`, `always` or `never`") {
        TrustedProxies = "trusted_proxies", Always = "always", Never = "never",
    }
}

words! {
    /// What spans tell only where it is asked for.
    RawAttribute ("an attribute such as `url.path`") {
        UrlPath = "url.path", UrlQuery = "url.query", ClientAddress = "client.address", UserAgent = "user_agent.original",
    }
    help: { "user_agent" => "write `user_agent.original`" }
}

words! {
    /// How lines of the access log look.
    RawLogFormat ("`json`") { Json = "json" }
}

record! {
    /// A line of JSON for each request, as `naka replay` reads it.
    RawAccessLog ("an access log such as `{file: access.jsonl}`") {
        /// A file seen from this one; the standard output if nothing is said. One that is moved away is made anew.
        file: Arc<str> = optional, "/var/log/naka/access.jsonl";
        /// How lines look.
        format: RawLogFormat = "json";
        /// Headers of requests that are told; none if nothing is said.
        headers: OneOrMany<HeaderName> = optional, "[user-agent]";
        /// Tell the query, too: there may be secrets in it.
        query: bool = "false", "true";
        /// So many of the requests are told, by the status of their answer; of others all.
        sample: Named<Statuses, Fraction> = optional, "{2xx: 10%, 4xx: 50%}";
        /// Bytes that may wait to be written; what is over that is dropped, and counted.
        queue: Size = "4MiB", "16MiB";
    }
    instead: path => "write `file: access.jsonl`",
        output => "write `file: access.jsonl`; without it, it is the standard output";
}
