//! A request that has ended, as a span of its trace, and whoever takes those.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Method, StatusCode, Uri, Version};

use super::{Context, SpanId, Written};
use crate::{clock::Now, guard::End, reject::Rejection};

/// One request, from its head to the end of its response's body, with all that was done for it: a span of the kind SERVER, and
/// within it one of the kind CLIENT for each [attempt](super::Attempt).
///
/// There is nothing of credentials in it. Who asked and for what stands in `target`, `client` and `user_agent` alone, which exporters
/// leave out unless they are told to tell it.
#[derive(Clone, Debug)]
pub struct ServerSpan {
    /// The span.
    pub context: Context,
    /// Which span it was asked from, if that is known.
    pub parent: Option<SpanId>,
    /// When it began, since 1970.
    pub began: Duration,
    /// The same, by the clock that attempts and events are timed by.
    pub now: Now,
    /// How long until the end of its response's body.
    pub took: Duration,
    /// The method.
    pub method: Method,
    /// `http` or `https`, where it is known.
    pub scheme: Option<&'static str>,
    /// The host that was asked for, with its port if that was said.
    pub host: Option<HeaderValue>,
    /// The target. There may be in it what is nobody's business.
    pub target: Uri,
    /// In which version of HTTP it came.
    pub version: Version,
    /// Whose request it is, where that is known.
    pub client: Option<IpAddr>,
    /// With what it was made.
    pub user_agent: Option<HeaderValue>,
    /// What stands for all paths of its route: `/rides/{id}`.
    pub route: Option<Arc<str>>,
    /// What was answered; `None` if its caller went away before that.
    pub status: Option<StatusCode>,
    /// Why it was refused, if it was.
    pub rejection: Option<Rejection>,
    /// How the response ended: dropped if its caller went away.
    pub end: End,
    /// More about it, by names that are no attributes of the conventions.
    pub labels: Vec<(&'static str, Arc<str>)>,
    /// What was done for it.
    pub written: Written,
}

impl ServerSpan {
    /// `METHOD route`, or only the method: never what a client may choose at will, of which there is no end.
    pub fn name(&self) -> String {
        let method = known(&self.method).unwrap_or("HTTP");
        match &self.route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        }
    }

    /// Whether it is a failure of whoever answers: a status of 5xx, or a response that broke off.
    pub fn is_error(&self) -> bool {
        self.status.is_some_and(|status| status.is_server_error()) || self.end == End::Failed
    }
}

/// The methods that everybody knows (RFC 9110, section 9, and RFC 5789).
pub(super) fn known(method: &Method) -> Option<&str> {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    KNOWN.contains(method).then(|| method.as_str())
}

/// Takes spans that have ended.
///
/// Called where requests are answered: take it, or leave it, and return.
pub trait Collect: Send + Sync + 'static {
    /// This one.
    fn collect(&self, span: ServerSpan);
}

impl<C: Collect> Collect for Arc<C> {
    fn collect(&self, span: ServerSpan) {
        (**self).collect(span);
    }
}

/// A function.
impl<F: Fn(ServerSpan) + Send + Sync + 'static> Collect for F {
    fn collect(&self, span: ServerSpan) {
        self(span);
    }
}
