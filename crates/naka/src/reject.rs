//! The shared vocabulary of decisions: what is looked at, what is said, and why it was refused.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};
use pin_project_lite::pin_project;

/// What a decision may look at; free to make from a request of any body, or from [`Parts`].
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What earlier layers learned.
    pub extensions: &'a Extensions,
}

impl<'a, B> From<&'a Request<B>> for Head<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl<'a> From<&'a Parts> for Head<'a> {
    fn from(parts: &'a Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            extensions: &parts.extensions,
        }
    }
}

/// What a pure transition says; `T` is what was learned by admitting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<T = ()> {
    /// Let it pass.
    Admit(T),
    /// Refuse it.
    Reject(Rejection),
    /// A pure function cannot know: ask, then evaluate again.
    Depends(Dependency),
}

/// What a pure function cannot know. The data path goes and asks; `explain` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dependency {
    /// A place in a queue, and then a place at work.
    Queue {
        /// The longest wait.
        max_wait: Duration,
    },
    /// Whoever publishes the keys that tokens are signed with.
    Keys {
        /// The key that is not known yet; `None` if none is.
        kid: Option<Arc<str>>,
    },
    /// A password has to be checked, which takes a while.
    Password,
    /// Whoever has the accounts of a shared rate limit.
    Store {
        /// The longest wait.
        within: Duration,
    },
    /// Somebody else decides about the credentials.
    Authority,
    /// The answer of whoever is behind this layer.
    Response {
        /// The longest wait.
        within: Duration,
    },
    /// What a body says.
    Body {
        /// The largest that is read.
        max_bytes: usize,
    },
    /// Whether the body is the same as that of a request with the same key.
    Repetition {
        /// What happens if it is.
        then: &'static str,
    },
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { max_wait } => write!(f, "would wait up to {max_wait:?} for a place"),
            Self::Keys { kid: Some(kid) } => write!(f, "would ask for keys: {kid:?} is not known"),
            Self::Keys { kid: None } => f.write_str("would ask for keys: none is known yet"),
            Self::Password => f.write_str("would check the password"),
            Self::Store { within } => write!(f, "would ask the store of the limit, for up to {within:?}"),
            Self::Authority => f.write_str("would ask who decides"),
            Self::Response { within } => write!(f, "would wait {within:?} for the whole answer"),
            Self::Repetition { then } => write!(f, "would compare with the request of the same key: {then}"),
            Self::Body { max_bytes } => write!(f, "would read a body of up to {max_bytes} bytes"),
        }
    }
}

/// Why a request was refused. The same word stands in body, log, metric and span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The request could not be understood, or said contradictory things.
    BadRequest,
    /// The path is ambiguous or escapes its place.
    BadPath,
    /// The request target is longer than allowed.
    UriTooLong,
    /// The head has more bytes or fields than allowed.
    HeadTooLarge,
    /// No route matches.
    RouteNotFound,
    /// A route matches all but the method.
    MethodNotAllowed,
    /// A rate limit is spent.
    RateLimited,
    /// A rate limit needs a key that the request does not have.
    KeyMissing,
    /// Whoever has the accounts of a rate limit does not answer, and nobody else may decide.
    LimitUnavailable,
    /// There are no credentials.
    CredentialsMissing,
    /// The credentials are not of the form they have to have.
    CredentialsMalformed,
    /// Nobody has these credentials.
    CredentialsUnknown,
    /// The credentials counted until some time ago.
    CredentialsExpired,
    /// The token is larger than allowed.
    TokenTooLarge,
    /// The token is signed by an algorithm that is not allowed, or not by a key of its kind.
    AlgorithmRefused,
    /// The token has an extension that has to be understood and is not.
    CriticalUnknown,
    /// The token does not say which of several keys signed it.
    KidMissing,
    /// The token is signed by a key that is not known.
    UnknownKid,
    /// The signature is not that of the key.
    SignatureInvalid,
    /// The token lacks a claim that it has to have.
    ClaimMissing,
    /// The token's time is over.
    TokenExpired,
    /// The token's time has not come.
    TokenNotYetValid,
    /// The token was made by somebody else.
    IssuerRefused,
    /// The token was made for somebody else.
    AudienceRefused,
    /// The token is of another type.
    TypeRefused,
    /// No key is known to check the token with.
    KeysUnavailable,
    /// Whoever it is may not.
    Forbidden,
    /// The bulkhead and its queue are full.
    BulkheadFull,
    /// The wait for a place was too long.
    BulkheadTimeout,
    /// The client stopped sending its body.
    RequestTimeout,
    /// The whole exchange took too long.
    TotalTimeout,
    /// What is behind has failed too often and is left alone for a while.
    CircuitOpen,
    /// There is no endpoint to send it to.
    NoEndpoint,
    /// None of the endpoints is of the kind that is asked for.
    SubsetEmpty,
    /// No connection to the endpoint could be made: it does not accept any, or there is no way to it.
    ConnectFailed,
    /// The endpoint's name leads nowhere: the resolver does not know it, or could not be asked.
    DnsFailed,
    /// The endpoint does not do TLS as it should: no handshake, or no protocol in common.
    TlsFailed,
    /// The endpoint's certificate is not valid for it, or is not signed by anybody who is believed.
    UpstreamCertificate,
    /// A connection to the endpoint took too long.
    ConnectTimeout,
    /// There are as many connections to the endpoint as there may be, and none came free in time.
    ConnectionsFull,
    /// The endpoint sent no response head in time.
    ResponseTimeout,
    /// The endpoint closed the connection before it had answered.
    UpstreamReset,
    /// The endpoint said that it has not looked at the request, and will not.
    UpstreamRefused,
    /// The endpoint's answer is not HTTP as it should be.
    UpstreamProtocol,
    /// The body of the request is larger than allowed.
    BodyTooLarge,
    /// The name or the password is not right.
    CredentialsInvalid,
    /// Too many credentials are being checked: passwords, or by another service.
    AuthBusy,
    /// Whoever decides about credentials did not answer.
    AuthUnavailable,
    /// Whoever decides about credentials has refused them, with this status.
    AuthRefused(StatusCode),
    /// A page of another origin may not ask this.
    OriginRefused,
    /// The version that is asked for does not exist.
    VersionUnsupported,
    /// No version that is accepted exists.
    VersionNotAcceptable,
    /// The request asks for two different versions.
    VersionConflict,
    /// The version is no longer served.
    VersionGone,
    /// The version is being switched off for a while.
    VersionBrownout,
    /// A key that makes the request repeatable is required.
    IdempotencyKeyMissing,
    /// The idempotency key is not of the form it has to have.
    IdempotencyKeyInvalid,
    /// A request with the same key is still under way.
    IdempotencyInFlight,
    /// The key was used for another request.
    IdempotencyMismatch,
    /// A request with the same key was answered, and the answer was not kept.
    IdempotencyNotKept,
    /// A request with the same key was given up while it was at work.
    IdempotencyUnknown,
    /// No more keys can be remembered.
    IdempotencyStoreFull,
    /// It could not be answered in the time it has left.
    DeadlineExpired,
    /// More important requests need the places.
    Shed,
    /// Too many keys have requests at work.
    PartitionsFull,
    /// The response is larger than can be changed on its way.
    ResponseTooLarge,
    /// The response is not of the form it should have.
    ReshapeFailed,
    /// A fault that was asked for.
    FaultInjected(StatusCode),
    /// A call that an answer is composed of was answered with an error.
    PartFailed(StatusCode),
    /// A call that an answer is composed of took too long.
    PartTimeout,
    /// A part of an answer is not the JSON that it has to be.
    PartNotJson,
    /// A part of an answer is larger than allowed.
    PartTooLarge,
    /// A call was not made, because another one that it needs has failed.
    PartNotMade(StatusCode),
    /// What a call would ask with is not there.
    ValueMissing(StatusCode),
    /// What a call would ask with does not fit where it should stand.
    ValueRefused(StatusCode),
    /// There is no room for what would have to be held.
    BuffersFull,
    /// A reason of an application's own.
    Custom(StatusCode, &'static str),
}

impl Reason {
    /// The status of the response.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest
            | Self::BadPath
            | Self::KeyMissing
            | Self::VersionUnsupported
            | Self::VersionConflict
            | Self::IdempotencyKeyMissing
            | Self::IdempotencyKeyInvalid => StatusCode::BAD_REQUEST,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::CredentialsMissing
            | Self::CredentialsMalformed
            | Self::CredentialsUnknown
            | Self::CredentialsExpired
            | Self::TokenTooLarge
            | Self::AlgorithmRefused
            | Self::CriticalUnknown
            | Self::KidMissing
            | Self::UnknownKid
            | Self::SignatureInvalid
            | Self::ClaimMissing
            | Self::TokenExpired
            | Self::TokenNotYetValid
            | Self::IssuerRefused
            | Self::AudienceRefused
            | Self::TypeRefused
            | Self::CredentialsInvalid => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::OriginRefused => StatusCode::FORBIDDEN,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::KeysUnavailable
            | Self::LimitUnavailable
            | Self::AuthBusy
            | Self::AuthUnavailable
            | Self::BuffersFull
            | Self::VersionBrownout
            | Self::IdempotencyStoreFull
            | Self::DeadlineExpired
            | Self::Shed
            | Self::PartitionsFull
            | Self::BulkheadFull
            | Self::BulkheadTimeout
            | Self::CircuitOpen
            | Self::ConnectionsFull
            | Self::NoEndpoint
            | Self::SubsetEmpty => StatusCode::SERVICE_UNAVAILABLE,
            Self::TotalTimeout | Self::ConnectTimeout | Self::ResponseTimeout | Self::PartTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::ConnectFailed
            | Self::DnsFailed
            | Self::TlsFailed
            | Self::UpstreamCertificate
            | Self::UpstreamReset
            | Self::UpstreamRefused
            | Self::UpstreamProtocol
            | Self::ResponseTooLarge
            | Self::PartNotJson
            | Self::PartTooLarge
            | Self::ReshapeFailed => StatusCode::BAD_GATEWAY,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::VersionNotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::VersionGone => StatusCode::GONE,
            Self::IdempotencyInFlight | Self::IdempotencyNotKept | Self::IdempotencyUnknown => {
                StatusCode::CONFLICT
            }
            Self::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::AuthRefused(status)
            | Self::FaultInjected(status)
            | Self::PartFailed(status)
            | Self::PartNotMade(status)
            | Self::ValueMissing(status)
            | Self::ValueRefused(status)
            | Self::Custom(status, _) => status,
        }
    }

    /// The word for machines: lower case, with underscores.
    pub const fn word(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadPath => "bad_path",
            Self::UriTooLong => "uri_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::RouteNotFound => "route_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RateLimited => "rate_limited",
            Self::KeyMissing => "key_missing",
            Self::LimitUnavailable => "limit_unavailable",
            Self::CredentialsMissing => "credentials_missing",
            Self::CredentialsMalformed => "credentials_malformed",
            Self::CredentialsUnknown => "credentials_unknown",
            Self::CredentialsExpired => "credentials_expired",
            Self::TokenTooLarge => "token_too_large",
            Self::AlgorithmRefused => "algorithm_refused",
            Self::CriticalUnknown => "critical_unknown",
            Self::KidMissing => "kid_missing",
            Self::UnknownKid => "unknown_kid",
            Self::SignatureInvalid => "signature_invalid",
            Self::ClaimMissing => "claim_missing",
            Self::TokenExpired => "token_expired",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::IssuerRefused => "issuer_refused",
            Self::AudienceRefused => "audience_refused",
            Self::TypeRefused => "type_refused",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Forbidden => "forbidden",
            Self::BulkheadFull => "bulkhead_full",
            Self::BulkheadTimeout => "bulkhead_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::CircuitOpen => "circuit_open",
            Self::NoEndpoint => "no_endpoint",
            Self::SubsetEmpty => "subset_empty",
            Self::ConnectFailed => "connect_failed",
            Self::DnsFailed => "dns_failed",
            Self::TlsFailed => "tls_failed",
            Self::UpstreamCertificate => "upstream_certificate",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectionsFull => "connections_full",
            Self::ResponseTimeout => "response_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::BodyTooLarge => "body_too_large",
            Self::CredentialsInvalid => "credentials_invalid",
            Self::AuthBusy => "auth_busy",
            Self::AuthUnavailable => "auth_unavailable",
            Self::AuthRefused(_) => "auth_refused",
            Self::OriginRefused => "origin_refused",
            Self::VersionUnsupported => "version_unsupported",
            Self::VersionNotAcceptable => "version_not_acceptable",
            Self::VersionConflict => "version_conflict",
            Self::VersionGone => "version_gone",
            Self::VersionBrownout => "version_brownout",
            Self::IdempotencyKeyMissing => "idempotency_key_missing",
            Self::IdempotencyKeyInvalid => "idempotency_key_invalid",
            Self::IdempotencyInFlight => "idempotency_in_flight",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::IdempotencyNotKept => "idempotency_not_kept",
            Self::IdempotencyUnknown => "idempotency_unknown",
            Self::IdempotencyStoreFull => "idempotency_store_full",
            Self::DeadlineExpired => "deadline_expired",
            Self::Shed => "shed",
            Self::PartitionsFull => "partitions_full",
            Self::ResponseTooLarge => "response_too_large",
            Self::ReshapeFailed => "reshape_failed",
            Self::FaultInjected(_) => "fault_injected",
            Self::PartFailed(_) => "part_failed",
            Self::PartTimeout => "part_timeout",
            Self::PartNotJson => "part_not_json",
            Self::PartTooLarge => "part_too_large",
            Self::PartNotMade(_) => "part_not_made",
            Self::ValueMissing(_) => "value_missing",
            Self::ValueRefused(_) => "value_refused",
            Self::BuffersFull => "buffers_full",
            Self::Custom(_, word) => word,
        }
    }

    /// The sentence for people: what happened, and what to do where there is something.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::BadRequest => "The request could not be understood.",
            Self::BadPath => {
                "The path has dot segments, empty segments, or escapes that mean different things to different servers."
            }
            Self::UriTooLong => "The request target is longer than this gateway allows.",
            Self::HeadTooLarge => {
                "The head of the request has more bytes or fields than `gateway.limits` allows; it is refused before anything else looks at it."
            }
            Self::RouteNotFound => "No route matches this host and path.",
            Self::MethodNotAllowed => "The path exists, but not for this method; see `Allow`.",
            Self::RateLimited => "The allowance is spent; try again after `Retry-After`.",
            Self::KeyMissing => "The request lacks what its rate limit counts by.",
            Self::LimitUnavailable => {
                "What is left of the allowance cannot be asked now; try again after `Retry-After`."
            }
            Self::CredentialsMissing => "The request carries no credentials; see `WWW-Authenticate`.",
            Self::CredentialsMalformed => "The credentials are not of the form they have to have.",
            Self::CredentialsUnknown => "Nobody has these credentials.",
            Self::CredentialsExpired => "The credentials have expired.",
            Self::TokenTooLarge => "The token is larger than allowed.",
            Self::AlgorithmRefused => "The token is signed by an algorithm that is not allowed here.",
            Self::CriticalUnknown => "The token has a critical extension, and none is understood.",
            Self::KidMissing => "The token does not say which key signed it (`kid`).",
            Self::UnknownKid => "The token is signed by a key that is not known.",
            Self::SignatureInvalid => "The token's signature does not fit.",
            Self::ClaimMissing => "The token lacks a claim that is required.",
            Self::TokenExpired => "The token has expired.",
            Self::TokenNotYetValid => "The token is not valid yet.",
            Self::IssuerRefused => "The token is from another issuer.",
            Self::AudienceRefused => "The token is for another audience.",
            Self::TypeRefused => "The token is of another type.",
            Self::Forbidden => "Whoever asks is not allowed to.",
            Self::KeysUnavailable => "The keys to check tokens with are not available; try again later.",
            Self::BulkheadFull => "Too many requests are at work and waiting; try again later.",
            Self::BulkheadTimeout => "No place became free in time; try again later.",
            Self::RequestTimeout => "The body of the request stopped coming.",
            Self::TotalTimeout => "The exchange took longer than its route allows.",
            Self::CircuitOpen => {
                "What is behind has failed too often and is left alone for a while; try again later."
            }
            Self::NoEndpoint => "The upstream has no endpoint that could take the request.",
            Self::SubsetEmpty => "No endpoint of the upstream has the labels that are asked for.",
            Self::ConnectFailed => "The upstream could not be reached.",
            Self::DnsFailed => "The upstream's name could not be found.",
            Self::TlsFailed => "No secure connection to the upstream could be made.",
            Self::UpstreamCertificate => "The upstream could not show that it is who it should be.",
            Self::ConnectTimeout => "The upstream did not accept a connection in time.",
            Self::ConnectionsFull => {
                "There are as many connections to the upstream as there may be; try again later."
            }
            Self::ResponseTimeout => "The upstream did not begin to answer in time.",
            Self::UpstreamReset => "The upstream closed the connection before it had answered.",
            Self::UpstreamRefused => {
                "The upstream refused the request without looking at it; it may be sent again."
            }
            Self::UpstreamProtocol => "The upstream's answer could not be understood.",
            Self::BodyTooLarge => "The body of the request is larger than this route allows.",
            Self::CredentialsInvalid => "The name or the password is not right.",
            Self::AuthBusy => "Too many credentials are being checked; try again later.",
            Self::AuthUnavailable => "Whoever decides about credentials did not answer; try again later.",
            Self::AuthRefused(_) => "Whoever decides about credentials has refused them.",
            Self::OriginRefused => "Pages of this origin may not ask for this.",
            Self::VersionUnsupported => "The version that is asked for does not exist.",
            Self::VersionNotAcceptable => "None of the versions in `Accept` exists.",
            Self::VersionConflict => "The request asks for two different versions at once.",
            Self::VersionGone => "This version is no longer served; see `Link` for its successor.",
            Self::VersionBrownout => {
                "This version will be switched off and is off for a while already; see `Link` for its successor."
            }
            Self::IdempotencyKeyMissing => "This request needs an idempotency key.",
            Self::IdempotencyKeyInvalid => "The idempotency key is empty, too long, or there more than once.",
            Self::IdempotencyInFlight => "A request with the same idempotency key is still under way.",
            Self::IdempotencyMismatch => "The idempotency key was used for another request.",
            Self::IdempotencyNotKept => {
                "The request with this idempotency key was answered, but the answer cannot be repeated; look for what it did."
            }
            Self::IdempotencyUnknown => {
                "The request with this idempotency key was given up on its way, and how far it came is not known; look for what it did."
            }
            Self::IdempotencyStoreFull => "No more idempotency keys can be remembered now; try again later.",
            Self::DeadlineExpired => "The time the caller allows is over before it could be sent on.",
            Self::Shed => "More important requests need the capacity; try again later.",
            Self::PartitionsFull => "Too many different callers are at work; try again later.",
            Self::ResponseTooLarge => "The response is larger than this gateway can change on its way.",
            Self::ReshapeFailed => "The response is not of the form that its change expects.",
            Self::FaultInjected(_) => "This fault was asked for.",
            Self::PartFailed(_) => "A part of the answer was refused, or failed, where it was asked for.",
            Self::PartTimeout => "A part of the answer was not there in time.",
            Self::PartNotJson => "A part of the answer is not the JSON that it has to be.",
            Self::PartTooLarge => "A part of the answer is larger than this gateway takes.",
            Self::PartNotMade(_) => "A part of the answer needs another one, which failed.",
            Self::ValueMissing(_) => "A part of the answer cannot be asked for: what to ask with is missing.",
            Self::ValueRefused(_) => {
                "A part of the answer cannot be asked for: what to ask with does not fit there."
            }
            Self::BuffersFull => "Too much is held in memory already; try again later.",
            Self::Custom(..) => "The request was refused.",
        }
    }

    /// Refused before anything was sent, or by whoever is behind, who says so: it has done nothing of this attempt.
    pub const fn is_before_sending(self) -> bool {
        self.is_of_connecting()
            || matches!(
                self,
                Self::BulkheadFull
                    | Self::BulkheadTimeout
                    | Self::CircuitOpen
                    | Self::NoEndpoint
                    | Self::SubsetEmpty
                    | Self::ConnectionsFull
                    | Self::DeadlineExpired
                    | Self::UpstreamRefused
            )
    }

    /// No connection to the endpoint came about, for whatever reason.
    pub const fn is_of_connecting(self) -> bool {
        matches!(
            self,
            Self::ConnectFailed
                | Self::ConnectTimeout
                | Self::DnsFailed
                | Self::TlsFailed
                | Self::UpstreamCertificate
        )
    }

    /// Made here, but only because whoever is behind did not do its part: such a rejection counts
    /// as a failure of the upstream. All others say nothing about it.
    pub const fn blames_upstream(self) -> bool {
        self.is_of_connecting()
            || matches!(
                self,
                Self::ResponseTimeout
                    | Self::UpstreamReset
                    | Self::UpstreamRefused
                    | Self::UpstreamProtocol
                    | Self::ResponseTooLarge
                    | Self::ReshapeFailed
                    | Self::PartTimeout
                    | Self::PartNotJson
                    | Self::PartTooLarge
            )
            || matches!(self, Self::PartFailed(status) | Self::PartNotMade(status) if status.as_u16() >= 500)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A refusal: in the extensions of every response that a layer of ours made itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// The shortest wait after which the same request could be admitted, where that is known.
    pub retry_after: Option<Duration>,
    /// The name of the policy that refused, where it has one.
    pub policy: Option<Arc<str>>,
    /// The call of a composition that failed, if it is one.
    pub call: Option<Arc<str>>,
    /// What would be asked for, in `WWW-Authenticate`; with every 401 (RFC 9110, 15.5.2).
    pub challenge: Option<&'static str>,
    /// More than the reason's own sentence can say, for people.
    pub detail: Option<Arc<str>>,
    /// Other headers of the response.
    pub headers: Option<Arc<HeaderMap>>,
    /// The response has a body already, which is somebody else's answer: nobody renders another.
    pub is_rendered: bool,
}

impl Rejection {
    /// A refusal that says only why.
    pub const fn new(reason: Reason) -> Self {
        Self {
            reason,
            retry_after: None,
            policy: None,
            call: None,
            challenge: None,
            detail: None,
            headers: None,
            is_rendered: false,
        }
    }

    /// The same, with the shortest wait that could help.
    #[must_use]
    pub const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same, with what would be asked for.
    #[must_use]
    pub const fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    /// The same, with what there is to say about it.
    #[must_use]
    pub fn detail(mut self, detail: &str) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same, with these headers in the response, besides those that are there.
    #[must_use]
    pub fn headers(mut self, headers: HeaderMap) -> Self {
        self.headers = Some(Arc::new(headers));
        self
    }

    /// The same, by a policy with a name.
    #[must_use]
    pub fn by(mut self, policy: Option<Arc<str>>) -> Self {
        self.policy = policy;
        self
    }

    /// The same, of a call of a composition.
    #[must_use]
    pub fn of_call(mut self, call: &Arc<str>) -> Self {
        self.call = Some(Arc::clone(call));
        self
    }

    /// The response: status, `Retry-After` in whole seconds rounded up, an empty body, and `self`
    /// in the extensions.
    #[must_use]
    pub fn into_response<R: Default>(self) -> Response<R> {
        let mut response = Response::new(R::default());
        *response.status_mut() = self.reason.status();
        if let Some(headers) = &self.headers {
            response.headers_mut().clone_from(headers);
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge.and_then(|challenge| HeaderValue::from_str(challenge).ok()) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Reason> for Rejection {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

pin_project! {
    /// Forwards, or answers at once; for layers that decide in `call` and keep the body type.
    #[project = DecidedProjection]
    #[derive(Debug)]
    pub enum Decided<F> {
        #[doc(hidden)]
        Forward { #[pin] future: F },
        #[doc(hidden)]
        Reject { rejection: Option<Rejection> },
    }
}

impl<F> Decided<F> {
    pub(crate) const fn forward(future: F) -> Self {
        Self::Forward { future }
    }

    pub(crate) const fn reject(rejection: Rejection) -> Self {
        Self::Reject { rejection: Some(rejection) }
    }
}

impl<F, R, E> Future for Decided<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            DecidedProjection::Forward { future } => future.poll(cx),
            DecidedProjection::Reject { rejection } => {
                let rejection = rejection.take().expect("a future is not polled after it is ready");
                Poll::Ready(Ok(rejection.into_response()))
            }
        }
    }
}
