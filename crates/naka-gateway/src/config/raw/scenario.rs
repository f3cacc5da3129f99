//! The records of a scenario: what `naka simulate` reads.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value as Json, json};

use crate::config::{
    checked::Rate,
    decode::{At, Named, OneOrMany, Scalar, Text, Wrong},
    record::record,
    suggest::quoted,
    units::{OrZero, Percent, Size, Whole, factor},
    values::{HostPort, Id, RequestLine},
};

record! {
    /// A scenario: a configuration, who asks, how those behave who answer, and what has to come of it.
    RawScenario ("a scenario") {
        /// The configuration: a path from this file.
        gateway: Arc<str> = required, "gateway.yaml";
        /// How long it goes on, in the time that is simulated; 24 h at most.
        duration: Duration = required, "3m";
        /// What all that happens by chance follows from.
        seed: Whole<0, 9_007_199_254_740_991> = "1";
        /// Who asks for what, by a name of your own.
        load: Named<Id, RawLoad> = required, "{riders: {request: GET http://api.example/rides/7, rate: 30/s}}";
        /// How the endpoints of upstreams behave, by the name of the upstream; those of others as if nothing were said.
        servers: Named<Id, RawServers> = optional, "{booking: {takes: 100ms, workers: 3}}";
        /// Other configurations that take effect on the way, as a reload has them do.
        changes: Vec<At<RawScenarioChange>> = optional;
        /// What has to hold, else `naka simulate` ends with 1.
        expect: Vec<At<RawScenarioExpect>> = optional;
    }
    instead: listeners => "this is a configuration: name it in a scenario, `gateway: gateway.yaml`",
        routes => "this is a configuration: name it in a scenario, `gateway: gateway.yaml`",
        upstreams => "this is a configuration: name it in a scenario, `gateway: gateway.yaml`";
}

record! {
    /// Requests of one sort. They come by chance, independent of one another and of what becomes of them (a Poisson process).
    RawLoad ("who asks, such as `{request: GET http://a.example/, rate: 30/s}`") {
        /// The request.
        request: RequestLine = required;
        /// Its headers.
        headers: Named<HeaderName, HeaderValue> = optional, "{x-api-key: secret}";
        /// The size of its body; it has none, if nothing is said.
        body: Size = optional, "16KiB";
        /// The listener it arrives at, where there are several.
        listener: Id = optional, "public";
        /// How many there are, on average.
        rate: Rate = required;
        /// From how many addresses they come (the first of `198.18.0.0/16`, for each load the same), each with connections of its own.
        clients: Whole<1, 65_536> = "100";
        /// After so long each of them gives up.
        patience: Duration = "30s";
        /// When the first may come.
        from: OrZero = "0s";
        /// When no more come; at the end, if nothing is said.
        to: Duration = optional, "2m";
    }
}

record! {
    /// How each endpoint of an upstream behaves.
    RawServers ("how servers behave, such as `{takes: 100ms, workers: 3}`") {
        /// How long a request takes, on average; exponentially spread, up to ten times as long.
        takes: OrZero = "50ms";
        /// So many requests are worked at at once; all, if nothing is said.
        workers: Whole<1, 10_000> = optional, "3";
        /// So many wait for a worker, also those whose client has given up; more are answered 503 at once.
        queue: Whole<0, 1_000_000> = "1000";
        /// The status they answer with.
        status: StatusCode = "200";
        /// The size of their answers, which are empty if nothing is said.
        body: Size = optional, "16KiB";
        /// When they behave otherwise.
        troubles: Vec<At<RawTrouble>> = optional;
    }
}

record! {
    /// A time in which servers behave otherwise, in one way or several.
    RawTrouble ("a trouble such as `{from: 30s, to: 40s, slow: 4x}`") {
        /// When it begins.
        from: OrZero = required;
        /// When it is over; at the end, if nothing is said.
        to: Duration = optional, "40s";
        /// Whom it befalls; all endpoints of the upstream, if nothing is said.
        endpoints: OneOrMany<HostPort> = optional, "\"127.0.0.1:8204\"";
        /// Each request takes so many times as long; of troubles at the same time all together.
        slow: Factor = optional, "4x";
        /// Such a part of the requests is answered 500, at once.
        fail: Percent = optional, "50%";
        /// Nobody listens there, and connections break off.
        refuse: bool = "false";
        /// Requests are taken, and nothing becomes of them.
        hang: bool = "false";
    }
}

record! {
    /// Another configuration.
    RawScenarioChange ("a change such as `{at: 90s, gateway: next.yaml}`") {
        /// When it takes effect.
        at: Duration = required;
        /// The configuration: a path from this file.
        gateway: Arc<str> = required, "next.yaml";
    }
}

record! {
    /// What has to hold for the requests that come in a time.
    RawScenarioExpect ("what has to hold, such as `{from: 1m, min_good: 99%}`") {
        /// Of this load; of all together, if nothing is said.
        load: Id = optional, "riders";
        /// Of those that come from here on.
        from: OrZero = "0s";
        /// And before this; until the end, if nothing is said.
        to: Duration = optional, "3m";
        /// At least so many are good: answered in time, with a status below 400.
        min_good: Percent = optional, "99%";
        /// No more than so many are good: for showing what happens without something.
        max_good: Percent = optional, "50%";
        /// 99 of 100 of the good ones take no longer than this.
        max_p99: Duration = optional, "500ms";
        /// For one request that comes, servers see no more than so many, whenever that is: retries, hedges and copies count.
        max_amplification: Factor = optional, "1.2x";
    }
}

/// A factor such as `4x`, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Factor(pub(crate) u32);

impl Scalar for Factor {
    const WHAT: &'static str = "a factor such as `4x`";
    const UNIT: &'static str = "`x`";

    fn parse(text: Text<'_>) -> Result<Self, Wrong> {
        factor(text.text).map(Self).ok_or_else(|| {
            Wrong::new(format!("{} is not a factor", quoted(text.text)))
                .help("write `4x`, or `1.2x`: from `0.01x` to `1000x`")
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,2})?x$", "examples": ["4x", "1.2x"]})
    }
}
