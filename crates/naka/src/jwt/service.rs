//! What becomes of a request: it is decided at once, or waits for keys and is decided then.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION, request::Parts};
use tower_service::Service;

use super::{JwtLayer, Shared, evaluate, refusal};
use crate::{
    asked::Asked,
    clock::Now,
    explain::{Explain, Finding},
    identity::{Challenges, Identity},
    layered::layered,
    observe::Observer,
    reject::{Dependency, Reason, Rejection, Verdict},
};

impl<O: Observer> Shared<O> {
    /// What somebody could bring who brings nothing and passes as nobody.
    fn passes(&self, headers: &HeaderMap) -> Option<&Challenges> {
        self.optional.as_ref().filter(|_| !headers.contains_key(AUTHORIZATION))
    }

    fn decide(&self, now: Now, headers: &HeaderMap) -> Verdict<Arc<Identity>> {
        let unix_s = self.config.clock.0.unix_s(now);
        let verdict = evaluate(&self.config, self.keys.get(now).as_deref(), self.salt, unix_s, headers);
        match verdict {
            Verdict::Depends(what) if !self.keys.may_ask(now) => Verdict::Reject(without(&what)),
            verdict => verdict,
        }
    }

    fn admit(&self, identity: Arc<Identity>, extensions: &mut http::Extensions) {
        self.observer.admitted();
        identity.put(extensions);
    }

    fn reject(&self, rejection: Rejection) -> Rejection {
        let rejection = rejection.by(self.name.clone());
        self.observer.rejected(&rejection);
        rejection
    }
}

/// What it comes to if the keys do not come.
fn without(what: &Dependency) -> Rejection {
    match what {
        Dependency::Keys { kid: Some(_) } => refusal(Reason::UnknownKid),
        _ => Rejection::new(Reason::KeysUnavailable),
    }
}

layered! {
    /// Lets pass whoever has a token that counts; see the [module docs](super).
    JwtLayer { shared } => Jwt
}

impl<O: Observer> Explain for JwtLayer<O> {
    fn kind(&self) -> &'static str {
        "jwt"
    }

    fn name(&self) -> Option<&str> {
        self.shared.as_ref()?.name.as_deref()
    }

    fn explain(&self, now: Now, head: &mut Parts) -> Finding {
        let Some(shared) = &self.shared else { return Finding::Off };
        if let Some(challenges) = shared.passes(&head.headers) {
            challenges.clone().put(&mut head.extensions);
            return Finding::Admit("nobody: no token was sent".to_owned());
        }
        match shared.decide(now, &head.headers) {
            Verdict::Admit(identity) => {
                let who = identity.subject.as_deref().unwrap_or("somebody without a name");
                let said = format!("it is {who}, by token");
                identity.put(&mut head.extensions);
                Finding::Admit(said)
            }
            Verdict::Reject(rejection) => Finding::Reject(rejection.by(shared.name.clone())),
            Verdict::Depends(what) => Finding::WouldAsk(what),
        }
    }
}

impl<S, O, B, R> Service<Request<B>> for Jwt<S, O>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    O: Observer,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Asked<S, S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(shared) = &self.layer.shared else {
            return Asked::forward(self.inner.call(request));
        };
        if let Some(challenges) = shared.passes(request.headers()) {
            challenges.clone().put(request.extensions_mut());
            return Asked::forward(self.inner.call(request));
        }
        match shared.decide(Now::of(request.extensions()), request.headers()) {
            Verdict::Admit(identity) => {
                shared.admit(identity, request.extensions_mut());
                Asked::forward(self.inner.call(request))
            }
            Verdict::Reject(rejection) => Asked::reject(shared.reject(rejection)),
            Verdict::Depends(_) => {
                shared.observer.queued();
                let asking = Box::pin(ask(Arc::clone(shared), request.headers().clone()));
                // The instance that was polled ready goes with the request; its clone stays here.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                Asked::ask(asking, inner, request)
            }
        }
    }
}

/// Asks once, and decides again.
async fn ask<O: Observer>(shared: Arc<Shared<O>>, headers: HeaderMap) -> Result<Arc<Identity>, Rejection> {
    let mut waiting = Waiting { shared: &shared, is_over: false };
    shared.keys.ask().await;
    waiting.is_over = true;
    drop(waiting);
    let now = Now::read();
    let unix_s = shared.config.clock.0.unix_s(now);
    let verdict = evaluate(&shared.config, shared.keys.get(now).as_deref(), shared.salt, unix_s, &headers);
    match verdict {
        Verdict::Admit(identity) => {
            shared.observer.admitted();
            Ok(identity)
        }
        Verdict::Reject(rejection) => Err(shared.reject(rejection)),
        Verdict::Depends(what) => Err(shared.reject(without(&what))),
    }
}

/// A request that waits for keys; its caller may go.
struct Waiting<'a, O: Observer> {
    shared: &'a Shared<O>,
    is_over: bool,
}

impl<O: Observer> Drop for Waiting<'_, O> {
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.observer.cancelled();
        }
    }
}
