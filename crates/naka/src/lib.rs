//! Tower layers for services that stand in front of other services.
//!
//! | Module | What its layer does |
//! | --- | --- |
//! | [`rate_limit`] | So many requests in so much time, by key, cost and tier, over several windows at once |
//! | [`bulkhead`] | So many requests at once, with a bounded queue, also by key or tier |
//! | [`circuit_breaker`] | Leaves alone what fails or is slow, and finds out when it is well again |
//! | [`timeout`] | An end to every exchange, the response body included |
//! | [`cors`] | What pages of other origins may ask and read |
//! | [`body_limit`] | An end to the bodies of requests |
//! | [`authorize`] | Who may, by rules over identity, method and address |
//! | `api_key` | Who it is: keys of which only the hashes are kept (feature `api_key`) |
//! | `basic_auth` | Who it is: name and password (feature `basic_auth`) |
//! | `forward_auth` | Who it is and whether it may: by asking another service (feature `forward_auth`) |
//! | `jwt` | Who it is: tokens signed by known keys (feature `jwt`) |
//! | `idempotency` | What is repeated with the same key is answered again, not done again (feature `idempotency`) |
//! | [`cache`] | What was answered is answered again while it is good, and stands in for what fails |
//! | [`version`] | Which version of an API is meant, and what is told of its life |
//! | [`reshape`] | Bodies of another shape than the service's own |
//! | [`fault`] | Errors and delays for whoever asks for them |
//! | [`split`] | Which of several services a request goes to, by weight, and back if one fails |
//! | [`fallback`] | Answers in place of what failed: by itself, or by asking another service once |
//! | [`retry`] | Sends again what failed, from a budget |
//! | [`hedge`] | Sends once more what is not answered for a while, and takes the first good answer |
//! | `mirror` | Sends a copy of some requests to another service, for which nobody waits (feature `mirror`) |
//! | `compose` | No layer: one answer made of those of several services, asked at once where they can be (feature `compose`) |
//! | [`balance`] | Chooses an endpoint by one of twelve policies, and keeps its account until the body ends |
//! | [`health`] | No layer: asks the endpoints of a balancer how they are, and takes out who is not well |
//! | [`classify`] | No layer: what an exchange says of whoever is behind |
//! | [`deadline`] | No layer: how much time is left, as requests say it to one another |
//! | [`trace`] | Which trace a request belongs to, and a span of it for each request and each attempt |
//! | [`budget`], [`replay`] | No layers: what attempts after the first may spend together, and bodies that are sent again |
//! | [`saved`] | No layer: what layers know, taken out of one process and put into another |
//! | [`problem`] | Renders what the others rejected as problem details (RFC 9457) |
//!
//! # What all layers have in common
//!
//! 1. **A layer is the handle of its state.** Every service made from one layer, and every clone,
//!    shares one account, also under `axum::Router::layer`.
//! 2. **A rejection is a response**: right status, empty body, and a [`Rejection`](reject::Rejection)
//!    in its extensions. `S::Error` passes through unchanged, so every layer fits axum.
//! 3. **A request ends when its response body ends** or is dropped: permits and counts are
//!    [guards](guard) in the body. Cancellation releases everything.
//! 4. **Limits act in `call`**, never in `poll_ready`: a caller that was ready and turned away has
//!    consumed nothing.
//! 5. **Decisions are pure transitions**. [`Explain`](explain::Explain) asks the very function the
//!    data path commits, and drops the new state.
//! 6. **`reconfigured`** gives a layer under a new configuration over the *same* state. It writes
//!    nothing until its first request, so a reload that fails later has changed nothing.
//! 7. **Everything is bounded**; each module's documentation names the bounds.
//!
//! Time is read through [`clock::Now`] (tokio's clock, so tests can pause it). Inside a stack that
//! begins with a [`Context`](context::Context) the clock is read once for each request.
#![forbid(unsafe_code)]

#[cfg(feature = "api_key")]
pub mod api_key;
#[cfg(any(feature = "jwt", feature = "basic_auth"))]
pub mod asked;
pub mod attempt;
pub mod authorize;
pub mod balance;
#[cfg(feature = "basic_auth")]
pub mod basic_auth;
pub mod body_limit;
pub mod budget;
pub mod buffered;
pub mod bulkhead;
pub mod cache;
mod causes;
pub mod circuit_breaker;
pub mod classify;
pub mod clock;
#[cfg(feature = "compose")]
pub mod compose;
pub mod context;
pub mod cors;
pub mod deadline;
pub mod enforce;
pub mod explain;
pub mod fallback;
pub mod fault;
#[cfg(feature = "forward_auth")]
pub mod forward_auth;
pub mod gate;
pub mod guard;
mod hash;
mod headers;
pub mod health;
pub mod hedge;
pub mod held;
#[cfg(feature = "idempotency")]
pub mod idempotency;
pub mod identity;
#[cfg(feature = "jwt")]
pub mod jwt;
pub mod key;
mod layered;
#[cfg(feature = "mirror")]
pub mod mirror;
pub mod observe;
pub mod problem;
pub mod random;
pub mod rate_limit;
pub mod reject;
#[cfg(any(feature = "jwt", feature = "basic_auth", feature = "forward_auth"))]
mod remember;
pub mod replay;
pub mod reshape;
pub mod retry;
mod ring;
pub mod saved;
pub mod split;
mod sync;
pub mod timeout;
pub mod trace;
pub mod version;

/// An error of any kind, for bodies that can fail in ways the inner body cannot.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
