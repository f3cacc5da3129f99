//! How busy an endpoint says it is, in the heads of its responses.
//!
//! The field is that of ORCA (Open Request Cost Aggregation, of the xDS project), in its form as text:
//! `endpoint-load-metrics: TEXT cpu_utilization=0.31, mem_utilization=0.5`. `application_utilization` counts before
//! `cpu_utilization`, as in Envoy's and gRPC's weighted round robin. What is in another form (`JSON`, `BIN`) or is no such number says nothing.
//!
//! It is about the inside of a system, so it is taken out of the response. An endpoint can say anything to get more or fewer
//! requests than others: they have to trust each other, as with all that endpoints say of themselves.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Endpoint;
use crate::clock::Now;

const METRICS: HeaderName = HeaderName::from_static("endpoint-load-metrics");

const APPLICATION: &str = "application_utilization";
const CPU: &str = "cpu_utilization";

/// More than all it can do is possible; so much is as good as any more.
const MOST: f64 = 1000.0;

/// Takes the field out, and writes down what it says.
pub(super) fn hear(endpoint: &Endpoint, headers: &mut HeaderMap) {
    let load = headers.remove(METRICS).as_ref().and_then(thousandths);
    if let Some(load) = load {
        endpoint.report_load(load, Now::read());
    }
}

fn thousandths(value: &HeaderValue) -> Option<u32> {
    let metrics = value.to_str().ok()?.strip_prefix("TEXT ")?;
    let said = |name: &str| {
        let mut pairs = metrics.split(',').filter_map(|pair| pair.split_once('='));
        let (_, number) = pairs.find(|(known, _)| known.trim() == name)?;
        number.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)
    };
    // Where applications do not say it, it is 0.
    let load = said(APPLICATION).filter(|load| *load > 0.0).or_else(|| said(CPU))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and a million"
    )]
    Some((load.min(MOST) * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_says_is_read_or_counts_as_nothing() {
        let read = |text: &'static str| thousandths(&HeaderValue::from_static(text));
        assert_eq!(read("TEXT cpu_utilization=0.31"), Some(310));
        assert_eq!(read("TEXT mem_utilization=0.9, cpu_utilization=0.31,rps=7"), Some(310));
        assert_eq!(read("TEXT cpu_utilization=0.3,application_utilization=1.25"), Some(1250));
        assert_eq!(
            read("TEXT cpu_utilization=0.3,application_utilization=0"),
            Some(300),
            "0 is nothing said"
        );
        assert_eq!(read("TEXT cpu_utilization=0"), Some(0), "it has nothing to do");
        assert_eq!(read("TEXT cpu_utilization=1e300"), Some(1_000_000));
        for text in [
            "",
            "TEXT",
            "TEXT mem_utilization=0.3",
            "TEXT cpu_utilization=NaN",
            "TEXT cpu_utilization=inf",
            "TEXT cpu_utilization=-1",
            "TEXT cpu_utilization=much",
            "TEXT cpu_utilization",
            "JSON {\"cpu_utilization\": 0.3}",
            "BIN AAA=",
            "0.3",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
