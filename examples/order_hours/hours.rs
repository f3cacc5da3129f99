//! When, how much and where: the rules, what the file says of them, and the layer.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use naka::{
    clock::{Now, WallClock},
    explain::{Explain, Finding},
    reject::{Reason, Rejection},
};
use naka_gateway::{
    custom::{Next, PolicyConfig},
    upstream::Body,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::{Layer, Service};

/// India has one time, five and a half hours ahead of UTC, all year.
const IST_S: u64 = 19_800;

/// What the file says: `order_hours: {opens: "10:00", closes: "22:00", max_rupees: 100000, zones: [bandra]}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderHours {
    /// In India, on each day.
    opens: Clock,
    /// The first minute in which nothing is taken any more.
    closes: Clock,
    /// The largest value of an order, which `x-order-rupees` says.
    max_rupees: u64,
    /// Where orders are taken, as `x-zone` says; everywhere, if there are none.
    #[serde(default)]
    zones: Vec<String>,
}

/// A time of day, in minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Clock(u64);

impl TryFrom<String> for Clock {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split_once(':').filter(|(hours, minutes)| hours.len() == 2 && minutes.len() == 2);
        let number = |digits: &str| {
            digits.bytes().all(|it| it.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
        };
        let minutes = parts.and_then(|(hours, minutes)| Some((number(hours)?, number(minutes)?)));
        match minutes {
            Some((hours @ 0..24, minutes @ 0..60)) => Ok(Self(hours * 60 + minutes)),
            Some((24, 0)) => Ok(Self(24 * 60)),
            _ => Err(format!("`{text}` is no time of day such as \"09:30\"")),
        }
    }
}

impl PolicyConfig for OrderHours {
    fn schema() -> Value {
        let clock =
            |what| json!({"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$", "description": what});
        json!({
            "type": "object",
            "description": "Orders are taken in these hours, up to this value, and in these zones.",
            "required": ["opens", "closes", "max_rupees"],
            "additionalProperties": false,
            "properties": {
                "opens": clock("In India, on each day."),
                "closes": clock("The first minute in which nothing is taken any more."),
                "max_rupees": {"type": "integer", "minimum": 0, "description": "The largest value of an order (`x-order-rupees`)."},
                "zones": {"type": "array", "items": {"type": "string"}, "description": "Where (`x-zone`); everywhere, if there are none."}
            }
        })
    }

    fn check(&self) -> Result<(), String> {
        if self.opens < self.closes { Ok(()) } else { Err("it closes before it opens".to_owned()) }
    }
}

impl OrderHours {
    /// The rules themselves: a time and the head of a request in, a verdict out.
    fn decide(&self, unix_s: u64, headers: &HeaderMap) -> Result<(), Rejection> {
        let refused = |status, word| Rejection::new(Reason::Custom(status, word));
        let of_day = Clock((unix_s + IST_S) / 60 % (24 * 60));
        if !(self.opens..self.closes).contains(&of_day) {
            let wait_min = (self.opens.0 + 24 * 60 - of_day.0) % (24 * 60);
            let closed = refused(StatusCode::SERVICE_UNAVAILABLE, "closed");
            return Err(closed.retry_after(Duration::from_mins(wait_min)));
        }
        let said = |name| headers.get(name).and_then(|it| it.to_str().ok());
        let Some(rupees) = said("x-order-rupees").and_then(|it| it.parse::<u64>().ok()) else {
            return Err(refused(StatusCode::BAD_REQUEST, "order_value_missing"));
        };
        if rupees > self.max_rupees {
            return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, "order_too_large"));
        }
        let is_in_zone = self.zones.is_empty()
            || said("x-zone").is_some_and(|it| self.zones.iter().any(|zone| zone == it));
        if is_in_zone { Ok(()) } else { Err(refused(StatusCode::FORBIDDEN, "zone_not_served")) }
    }
}

/// Lets orders through, or not.
#[derive(Clone, Debug)]
pub(crate) struct OrderHoursLayer {
    hours: Arc<OrderHours>,
    clock: WallClock,
}

impl OrderHoursLayer {
    pub(crate) fn new(hours: OrderHours) -> Self {
        Self { hours: Arc::new(hours), clock: WallClock::system() }
    }

    fn decide(&self, now: Now, headers: &HeaderMap) -> Result<(), Rejection> {
        self.hours.decide(self.clock.unix_s(now), headers)
    }
}

impl Explain for OrderHoursLayer {
    fn kind(&self) -> &'static str {
        "order_hours"
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        match self.decide(now, &head.headers) {
            Ok(()) => Finding::Admit(format!("at most {} rupees", self.hours.max_rupees)),
            Err(rejection) => Finding::Reject(rejection),
        }
    }
}

impl Layer<Next> for OrderHoursLayer {
    type Service = OrderHoursService;

    fn layer(&self, next: Next) -> OrderHoursService {
        OrderHoursService { layer: self.clone(), next }
    }
}

#[derive(Clone)]
pub(crate) struct OrderHoursService {
    layer: OrderHoursLayer,
    next: Next,
}

impl Service<Request<Body>> for OrderHoursService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.next.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.layer.decide(Now::of(request.extensions()), request.headers()) {
            Ok(()) => self.next.call(request),
            Err(rejection) => Box::pin(ready(Ok(rejection.into_response()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn evening() -> OrderHours {
        serde_json::from_value(
            json!({"opens": "10:00", "closes": "22:00", "max_rupees": 100_000, "zones": ["bandra"]}),
        )
        .unwrap()
    }

    /// At this time in India, on some day.
    fn ask(
        hours: u64,
        minutes: u64,
        headers: &[(&'static str, &'static str)],
    ) -> Result<(), (StatusCode, &'static str)> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        let unix_s = 1_767_225_600 - IST_S + (hours * 60 + minutes) * 60;
        evening().decide(unix_s, &headers).map_err(|it| (it.reason.status(), it.reason.word()))
    }

    const FINE: &[(&str, &str)] = &[("x-order-rupees", "100000"), ("x-zone", "bandra")];

    #[test]
    fn r7_8_orders_are_taken_in_the_hours_of_india() {
        for (hours, minutes, is_open) in
            [(9, 59, false), (10, 0, true), (21, 59, true), (22, 0, false), (0, 0, false)]
        {
            assert_eq!(ask(hours, minutes, FINE).is_ok(), is_open, "{hours}:{minutes}");
        }
        let closed = evening().decide(1_767_225_600 - IST_S, &HeaderMap::new()).unwrap_err();
        assert_eq!(closed.retry_after, Some(Duration::from_hours(10)), "until it opens");
    }

    #[test]
    fn r7_8_up_to_a_value_and_in_some_zones() {
        let at_noon = |headers: &[(&'static str, &'static str)]| ask(12, 0, headers).map_err(|it| it.1);
        assert_eq!(at_noon(FINE), Ok(()));
        assert_eq!(at_noon(&[("x-order-rupees", "100001"), ("x-zone", "bandra")]), Err("order_too_large"));
        assert_eq!(at_noon(&[("x-order-rupees", "1"), ("x-zone", "thane")]), Err("zone_not_served"));
        assert_eq!(at_noon(&[("x-order-rupees", "1")]), Err("zone_not_served"));
        for wrong in ["", "-1", "1e9", "99999999999999999999"] {
            assert_eq!(at_noon(&[("x-order-rupees", wrong)]), Err("order_value_missing"), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_time_of_day_is_refused() {
        for wrong in ["9:00", "24:01", "10:60", "+9:00", "10", ""] {
            assert!(Clock::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
        assert_eq!(Clock::try_from("24:00".to_owned()), Ok(Clock(1440)));
    }
}
