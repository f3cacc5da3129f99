//! What the gateway's own answers say beside what [`problem`](naka::problem) makes of them.
//!
//! 1. `Proxy-Status` (RFC 9209): which of the registered errors it is, and the reason's word as `details`. An
//!    upstream is not named: who may know that reads the log. A field that is there already is kept, and ours comes last.
//! 2. A page for people, where the file has one for the status and the client prefers its type to
//!    `application/problem+json` (browsers do, `Accept: */*` does not). Never to gRPC, and never in place of an answer
//!    that somebody else has written. Whatever is chosen, `Vary` says that there was a choice.
//!
//! What was no request by HTTP/1.1 is answered with the first and not the second: nobody knows what its client likes.

use std::cmp::Reverse;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, VARY},
};
use naka::reject::{Reason, Rejection};

use crate::{
    config::checked::{ErrorPage, Gateway},
    stack::RouteBody,
};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// How refusals are shown.
#[derive(Debug, Default)]
pub struct Refusals {
    says_status: bool,
    pages: Vec<Page>,
}

#[derive(Debug)]
struct Page {
    first: u16,
    last: u16,
    content_type: HeaderValue,
    body: Bytes,
}

impl Refusals {
    /// What is said where no configuration is at hand: nothing more.
    pub const NONE: Self = Self { says_status: false, pages: Vec::new() };

    /// As a configuration says.
    pub fn new(gateway: &Gateway) -> Self {
        let page = |page: &ErrorPage| Page {
            first: page.first,
            last: page.last,
            content_type: HeaderValue::from_static(page.content_type),
            body: Bytes::copy_from_slice(&page.body),
        };
        let mut pages = gateway.pages.iter().map(page).collect::<Vec<_>>();
        // The one that is for the fewest statuses comes first.
        pages.sort_by_key(|page| (page.last - page.first, Reverse(page.first)));
        Self { says_status: gateway.proxy_status, pages }
    }

    /// What a client would rather see.
    pub fn taste(&self, headers: &HeaderMap) -> Taste {
        if self.pages.is_empty() {
            return Taste::default();
        }
        let quality = |sought: &str| quality(headers, sought);
        let problem = quality("application/problem+json");
        Taste { html: quality("text/html") > problem, plain: quality("text/plain") > problem }
    }

    /// `Proxy-Status`, where it is wanted.
    pub(crate) fn say_why(&self, headers: &mut HeaderMap, reason: Reason) {
        if self.says_status {
            headers.append(PROXY_STATUS, status(reason));
        }
    }

    /// Finishes an answer to a refusal.
    pub(crate) fn finish(&self, response: &mut Response<RouteBody>, taste: Option<Taste>) {
        let Some(rejection) = response.extensions().get::<Rejection>() else { return };
        let (reason, is_rendered) = (rejection.reason, rejection.is_rendered);
        self.say_why(response.headers_mut(), reason);
        let Some(taste) = taste.filter(|_| !is_rendered) else { return };
        let status = reason.status().as_u16();
        let Some(page) = self.pages.iter().find(|page| (page.first..=page.last).contains(&status)) else {
            return;
        };
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("accept"));
        if taste.prefers(&page.content_type) {
            headers.insert(CONTENT_TYPE, page.content_type.clone());
            headers.insert(CONTENT_LENGTH, HeaderValue::from(page.body.len()));
            *response.body_mut() = RouteBody::from(page.body.clone());
        }
    }
}

/// Whether a client prefers these types to problem details.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taste {
    html: bool,
    plain: bool,
}

impl Taste {
    fn prefers(self, content_type: &HeaderValue) -> bool {
        if content_type.as_bytes().starts_with(b"text/html") { self.html } else { self.plain }
    }
}

/// How much a client likes a type, in thousandths (RFC 9110 §12.5.1): what names it most exactly counts. What is not
/// as the RFC has it is not liked.
fn quality(headers: &HeaderMap, sought: &str) -> u16 {
    let (kind, _) = sought.split_once('/').unwrap_or_default();
    let lines = headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
    let ranges = lines.flat_map(|line| line.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next()?;
        let exactness = if name.eq_ignore_ascii_case(sought) {
            2
        } else if name.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(kind)) {
            1
        } else if name == "*/*" {
            0
        } else {
            return None;
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        Some((exactness, weight.map_or(1000, |weight| thousandths(weight).unwrap_or(0))))
    });
    ranges.max_by_key(|(exactness, _)| *exactness).map_or(0, |(_, quality)| quality)
}

/// `0.8`, as 800.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, part) = weight.split_once('.').unwrap_or((weight, ""));
    if part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = format!("{part:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

/// The member that we add to `Proxy-Status`.
fn status(reason: Reason) -> HeaderValue {
    let text = format!("naka; error={}; details=\"{}\"", error(reason), reason.word());
    HeaderValue::try_from(text)
        .unwrap_or_else(|_| HeaderValue::from_static("naka; error=proxy_internal_error"))
}

/// Which error of RFC 9209 §2.3 a reason is.
fn error(reason: Reason) -> &'static str {
    match reason {
        Reason::RouteNotFound => "destination_not_found",
        Reason::NoEndpoint | Reason::SubsetEmpty | Reason::CircuitOpen | Reason::UpstreamRefused => {
            "destination_unavailable"
        }
        Reason::ConnectFailed => "connection_refused",
        Reason::DnsFailed => "dns_error",
        Reason::TlsFailed => "tls_protocol_error",
        Reason::UpstreamCertificate => "tls_certificate_error",
        Reason::ConnectTimeout => "connection_timeout",
        Reason::UpstreamReset => "connection_terminated",
        Reason::ResponseTimeout => "connection_read_timeout",
        Reason::TotalTimeout | Reason::PartTimeout => "http_response_timeout",
        Reason::UpstreamProtocol | Reason::PartNotJson => "http_protocol_error",
        Reason::PartFailed(status) | Reason::PartNotMade(status) if status.is_server_error() => {
            "http_protocol_error"
        }
        Reason::ValueMissing(status) | Reason::ValueRefused(status) if status.is_server_error() => {
            "http_protocol_error"
        }
        Reason::ResponseTooLarge | Reason::PartTooLarge => "http_response_body_size",
        Reason::ReshapeFailed => "proxy_configuration_error",
        Reason::ConnectionsFull
        | Reason::BulkheadFull
        | Reason::BulkheadTimeout
        | Reason::PartitionsFull
        | Reason::Shed => "connection_limit_reached",
        Reason::BadRequest
        | Reason::BadPath
        | Reason::UriTooLong
        | Reason::HeadTooLarge
        | Reason::BodyTooLarge
        | Reason::RequestTimeout => "http_request_error",
        Reason::KeysUnavailable
        | Reason::AuthBusy
        | Reason::AuthUnavailable
        | Reason::BuffersFull
        | Reason::IdempotencyStoreFull => "proxy_internal_error",
        Reason::FaultInjected(_) => "proxy_internal_response",
        Reason::Custom(_, "not_switched") => "http_upgrade_failed",
        Reason::Custom(status, _) if status.is_server_error() => "proxy_internal_error",
        // What a policy has said no to.
        _ => "http_request_denied",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taste(accept: &[&str]) -> (bool, bool) {
        let mut headers = HeaderMap::new();
        for line in accept {
            headers.append(ACCEPT, line.parse().unwrap());
        }
        let page = |content_type: &'static str, status| Page {
            first: status,
            last: status,
            content_type: HeaderValue::from_static(content_type),
            body: Bytes::new(),
        };
        let refusals = Refusals { says_status: false, pages: vec![page("text/html", 500)] };
        let Taste { html, plain } = refusals.taste(&headers);
        (html, plain)
    }

    #[test]
    fn browsers_prefer_pages_and_programs_do_not() {
        for (accept, expected) in [
            (&[][..], (false, false)),
            (&["*/*"], (false, false)),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"], (true, false)),
            (&["text/html"], (true, false)),
            (&["TEXT/HTML"], (true, false)),
            (&["text/*"], (true, true)),
            (&["text/html;q=0.5, application/problem+json"], (false, false)),
            (&["application/problem+json;q=0.4", "text/html;q=0.5"], (true, false)),
            (&["text/html;q=0.5, */*"], (false, false)),
            (&["application/json"], (false, false)),
            (&["text/html;q=0"], (false, false)),
            (&["text/html;q=2"], (false, false)),
            (&["text/html;q=0.1234"], (false, false)),
            (&["text/html;level=1;q=0.3"], (true, false)),
        ] {
            assert_eq!(taste(accept), expected, "{accept:?}");
        }
    }

    /// RFC 9209 §2.3, those that can happen here.
    #[test]
    fn every_error_is_one_of_the_registry() {
        const REGISTERED: [&str; 19] = [
            "destination_not_found",
            "destination_unavailable",
            "connection_refused",
            "dns_error",
            "tls_protocol_error",
            "tls_certificate_error",
            "connection_timeout",
            "connection_terminated",
            "connection_read_timeout",
            "http_response_timeout",
            "http_protocol_error",
            "http_response_body_size",
            "proxy_configuration_error",
            "connection_limit_reached",
            "http_request_error",
            "proxy_internal_error",
            "proxy_internal_response",
            "http_upgrade_failed",
            "http_request_denied",
        ];
        for reason in [
            Reason::RouteNotFound,
            Reason::NoEndpoint,
            Reason::ConnectFailed,
            Reason::DnsFailed,
            Reason::TlsFailed,
            Reason::UpstreamCertificate,
            Reason::ConnectTimeout,
            Reason::UpstreamReset,
            Reason::ResponseTimeout,
            Reason::TotalTimeout,
            Reason::UpstreamProtocol,
            Reason::ResponseTooLarge,
            Reason::ReshapeFailed,
            Reason::BulkheadFull,
            Reason::BadRequest,
            Reason::AuthBusy,
            Reason::RateLimited,
            Reason::Forbidden,
            Reason::VersionGone,
        ] {
            assert!(REGISTERED.contains(&error(reason)), "{reason}");
            let value = status(reason);
            assert!(
                value.to_str().unwrap().ends_with(&format!("; details=\"{}\"", reason.word())),
                "{value:?}"
            );
        }
    }
}
