//! `RequestAuthentication` and `PeerAuthentication`: which tokens count, and whether callers show a certificate.

use super::policies::Target;
use crate::{
    config::{Span, Url},
    import::{
        action,
        out::{Keys, Out},
        report::Findings,
        resources::Resource,
    },
};

/// One `RequestAuthentication`: which tokens count.
pub(super) struct Tokens {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) at: Span,
    pub(super) target: Target,
    /// The settings of `jwt`; `None`: nothing that can be said.
    pub(super) jwt: Option<Keys>,
    pub(super) issuers: Vec<String>,
}

impl Tokens {
    pub(super) fn read(resource: &Resource<'_, '_>, findings: &mut Findings) -> Self {
        let mut spec = resource.spec(findings);
        let target = Target::read(resource, &mut spec, findings);
        let (mut jwt, mut issuers) = (None, Vec::new());
        for mut rule in spec.maps("jwtRules", findings) {
            let at = rule.span;
            let issuer = rule.text("issuer", findings);
            let audiences = rule.texts("audiences", findings);
            let url = rule.said("jwksUri", findings).and_then(|it| action::valid::<Url>(&it, findings));
            let inline = rule.said("jwks", findings);
            rule.leave("fromHeaders", "a token is taken from `Authorization: Bearer`", "", findings);
            rule.leave(
                "fromParams",
                "a token is taken from `Authorization: Bearer`: in a URL it ends up in logs",
                "",
                findings,
            );
            rule.leave("fromCookies", "a token is taken from `Authorization: Bearer`", "", findings);
            rule.leave(
                "outputPayloadToHeader",
                "claims are told one by one",
                "write `gateway: {identity_headers: {x-user: jwt.sub}}`",
                findings,
            );
            rule.leave(
                "outputClaimToHeaders",
                "which claims upstreams are told stands in one place",
                "write `gateway: {identity_headers: {x-user: jwt.sub}}`",
                findings,
            );
            rule.change(
                "forwardOriginalToken",
                "a token is always sent on",
                "write `headers: {request: {remove: [authorization]}}` where it shall not be",
                findings,
            );
            rule.pass(&["forwardOriginalToken", "timeout", "spaceDelimitedClaims"]);
            rule.finish(findings);
            if jwt.is_some() {
                findings.error(
                    at,
                    "a route takes tokens of one key set: this rule is left out, and its tokens are refused",
                    "let them be of one issuer, or write two routes",
                );
                continue;
            }
            let mut keys = Keys::new();
            keys.extend(issuer.as_ref().map(|it| ("issuer".to_owned(), Out::text(it))));
            if !audiences.is_empty() {
                keys.push(("audiences".into(), Out::texts(audiences.into_iter().map(|it| it.text))));
            }
            match (url, inline) {
                (Some(url), _) => keys.push(("jwks_url".into(), Out::text(url))),
                (None, Some(said)) => {
                    let file = format!("keys/{}.json", resource.name);
                    findings.needs(
                        said.at,
                        format!("the key set has to be at `{file}`, seen from the configuration"),
                        "write the value of `jwks` there",
                    );
                    keys.push(("jwks_file".into(), Out::text(file)));
                }
                (None, None) => {
                    findings.error(at, "where the keys are is not said, and they are not looked for", "write `jwksUri:`; at most issuers it is what `/.well-known/openid-configuration` says");
                    continue;
                }
            }
            issuers.extend(issuer);
            jwt = Some(keys);
        }
        spec.finish(findings);
        Self { name: resource.name.clone(), title: resource.title(), at: resource.at, target, jwt, issuers }
    }
}

/// One `PeerAuthentication`: whether callers have to show a certificate.
pub(super) struct Peers {
    pub(super) title: String,
    pub(super) at: Span,
    pub(super) target: Target,
    pub(super) is_strict: bool,
}

impl Peers {
    pub(super) fn read(resource: &Resource<'_, '_>, findings: &mut Findings) -> Self {
        let mut spec = resource.spec(findings);
        let target = Target::read(resource, &mut spec, findings);
        let mode = match spec.map("mtls", findings) {
            Some(mut mtls) => {
                let mode = mtls.said("mode", findings);
                mtls.finish(findings);
                mode
            }
            None => None,
        };
        spec.leave(
            "portLevelMtls",
            "a listener asks all of its clients, or none",
            "write a listener of its own for that port",
            findings,
        );
        spec.finish(findings);
        let is_strict = mode.as_ref().is_some_and(|it| it.text == "STRICT");
        if let Some(mode) = mode.filter(|it| it.text == "PERMISSIVE") {
            findings.changed(
                mode.at,
                "a port takes TLS or plain text, and not both: it is plain, and nobody who calls is known",
                "write STRICT",
            );
        }
        Self { title: resource.title(), at: resource.at, target, is_strict }
    }
}
