//! One trace through the gateway and the services behind it, each a process of its own, as it comes together in a collector.

use std::{collections::BTreeSet, thread, time::Duration};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind::{Client, Server};

use crate::{
    collector::{Collector, Tree},
    gateways::{Bazaar, book, token},
    http::{Answer, Ask, get, post},
    middleman::{Middleman, Then, When},
    process::{eventually, free_address},
    world::{NOON, trip},
};

/// The worked example, where somebody in front of the booking service can let it fail; with one tracking service of two that is not
/// there, a hedge, and a circuit breaker.
fn world(collector: &Collector) -> (Bazaar, Middleman) {
    let (mut middleman, nobody) = (None, free_address());
    let bazaar = Bazaar::telling("rides", NOON, collector.at, |yaml, at| {
        let before = middleman.insert(Middleman::before(at["booking"]));
        let (booking, tracking) = (at["booking"].to_string(), at["tracking"].to_string());
        let changes = [
            ("gateway:\n", format!("gateway:\n  telemetry: {{service: gateway, tracing: {{otlp: 'http://{}', trust_parent: always}}}}\n", collector.at)),
            (&*format!("endpoints: [\"{booking}\"]"), format!("endpoints: [\"{}\"]", before.at)),
            (&*format!("endpoints: [\"{tracking}\"]"), format!("endpoints: [\"{nobody}\", \"{tracking}\"]\n    balance: {{policy: round_robin}}")),
            ("        match: {path: \"/api/rides/{ride_id}\", methods: [GET]}\n", "        match: {path: \"/api/rides/{ride_id}\", methods: [GET]}\n        hedge: {after: 50ms}\n".to_owned()),
            ("        match: {path: \"/api/rides/{ride_id}/track\", methods: [GET]}\n", "        match: {path: \"/api/rides/{ride_id}/track\", methods: [GET]}\n        retry: {max: 1, when: [connect_error]}\n".to_owned()),
            ("        match: {path: \"/api/rides/{ride_id}/cancel\", methods: [POST]}\n", "        match: {path: \"/api/rides/{ride_id}/cancel\", methods: [POST]}\n        circuit_breaker: {consecutive: 1, failure_rate: never, open: 60s}\n".to_owned()),
        ];
        changes.iter().fold(yaml, |yaml, (from, to)| {
            assert!(yaml.contains(from), "{from}");
            yaml.replacen(from, to, 1)
        })
    });
    (bazaar, middleman.unwrap())
}

/// Asks under a trace of its own.
struct Asking<'a> {
    bazaar: &'a Bazaar,
    collector: &'a Collector,
    number: u64,
}

impl Asking<'_> {
    /// The answer, and the tree of so many spans.
    #[track_caller]
    fn ask(&mut self, ask: Ask, count: usize) -> (Answer, Tree) {
        self.number += 1;
        let tree = Tree::new(self.number);
        let answer = self.bazaar.send(&ask.header("traceparent", &tree.traceparent()));
        let tree = self.collector.tree(&tree, count);
        assert_eq!(tree.spans.len(), count, "{:#?}", tree.edges());
        (answer, tree)
    }

    /// The answer, and the tree of what it came to: at least that the gateway has asked somebody, who has answered.
    #[track_caller]
    fn ask_any(&mut self, ask: Ask) -> (Answer, Tree) {
        self.number += 1;
        let tree = Tree::new(self.number);
        let answer = self.bazaar.send(&ask.header("traceparent", &tree.traceparent()));
        let is_whole =
            |tree: &Tree| !tree.of("gateway", Server).is_empty() && !tree.of("tracking", Server).is_empty();
        let tree = eventually("both have told", || Some(self.collector.tree(&tree, 1)).filter(is_whole));
        (answer, tree)
    }
}

fn edges(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|edge| (*edge).to_owned()).collect()
}

#[test]
fn r8_1_a_booking_is_one_trace_through_the_gateway_and_four_services() {
    let collector = Collector::start();
    let (bazaar, middleman) = world(&collector);
    let mut asking = Asking { bazaar: &bazaar, collector: &collector, number: 0 };
    let asha = token(bazaar.data.path(), "asha");
    let (quote, tree) = asking.ask(post("/api/rides/estimate", &trip("mini")), 3);
    assert_eq!(
        tree.edges(),
        edges(&[
            "client > gateway POST /api/rides/estimate",
            "gateway POST /api/rides/estimate > gateway POST →",
            "gateway POST → > pricing POST /api/rides/estimate",
        ])
    );

    // It succeeds.
    let quote_id = quote.said("quote_id");
    let (booked, tree) = asking.ask(book(&asha, "first", &quote_id), 11);
    assert_eq!(booked.status, 201, "{}", booked.text);
    assert_eq!(
        tree.edges(),
        edges(&[
            "client > gateway POST /api/rides/book",
            "gateway POST /api/rides/book > gateway POST →",
            "gateway POST → > booking POST /api/rides/book",
            "booking POST /api/rides/book > booking GET →",
            "booking GET → > pricing GET /quotes/{quote_id}",
            "booking POST /api/rides/book > booking PUT →",
            "booking PUT → > driver PUT /assignments/{ride_id}",
            "booking POST /api/rides/book > booking POST →",
            "booking POST → > driver POST /assignments/{ride_id}/confirm",
            "booking PUT → > tracking PUT /rides/{ride_id}",
        ])
    );

    // 409: the quote is used.
    let (refused, tree) = asking.ask(book(&asha, "second", &quote_id), 5);
    assert_eq!((refused.status, &*refused.said("reason")), (409, "quote_used"));
    assert_eq!(tree.of("gateway", Server)[0].says("error.type"), None);
    assert_eq!(tree.of("gateway", Client)[0].says("error.type"), Some("409"));

    // 500: what stands before the booking service has failed.
    middleman.once(When::Before, "POST /api/rides/book", || {
        Then::Answer("HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n")
    });
    let (failed, tree) = asking.ask(book(&asha, "third", &quote_id), 2);
    assert_eq!(failed.status, 500);
    assert_eq!(tree.of("gateway", Server)[0].says("error.type"), Some("500"));

    // A hedge: the booking service hears the first only when nobody waits for it any more, and the second is answered.
    let ride = format!("/api/rides/{}", booked.said("ride_id"));
    middleman.once(When::Before, "GET /api/rides/", || {
        thread::sleep(Duration::from_secs(1));
        Then::Drop
    });
    let (read, tree) = asking.ask(get(&ride).header("authorization", &asha), 4);
    assert_eq!(read.status, 200);
    let attempts = tree.of("gateway", Client);
    let [served] = tree.of("booking", Server)[..] else { panic!("{tree:#?}") };
    let ended = attempts.iter().map(|it| (it.says("naka.end"), it.id == served.parent));
    assert_eq!(ended.collect::<BTreeSet<_>>(), [(Some("cancelled"), false), (None, true)].into());
    assert_eq!(tree.of("gateway", Server)[0].events, ["naka.hedged", "naka.hedge_won"]);

    // A retry: one of the two tracking services is not there. They have turns.
    let track = || get(&format!("{ride}/track")).header("authorization", &asha);
    let mut asked = [asking.ask_any(track()), asking.ask_any(track())];
    asked.sort_by_key(|(_, tree)| tree.spans.len());
    let (answer, tree) = &asked[1];
    assert_eq!(answer.status, 200, "{}", answer.text);
    let attempts = tree.of("gateway", Client);
    let [first, second] = attempts[..] else { panic!("{tree:#?}") };
    assert_eq!(
        (first.says("error.type"), second.says("http.request.resend_count")),
        (Some("connect_failed"), Some("1"))
    );
    assert_eq!(first.parent, second.parent, "they are siblings");
    assert_eq!(tree.of("tracking", Server)[0].parent, second.id);
    assert_eq!(tree.of("gateway", Server)[0].events, ["naka.retried"]);

    // The circuit breaker is open: nobody is asked.
    middleman
        .once(When::Before, "/cancel", || Then::Answer("HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n"));
    let cancel = || post(&format!("{ride}/cancel"), &serde_json::json!({})).header("authorization", &asha);
    asking.ask(cancel(), 2);
    let (open, tree) = asking.ask(cancel(), 1);
    assert_eq!((open.status, &*open.said("reason")), (503, "circuit_open"));
    assert_eq!(open.said("trace_id"), tree.trace);
    assert_eq!(
        (tree.spans[0].events.as_slice(), tree.spans[0].says("error.type")),
        (&["naka.rejected".to_owned()][..], Some("circuit_open"))
    );
}
