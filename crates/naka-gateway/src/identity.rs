//! Who asks, as keys of limits and upstreams see it.

use std::{borrow::Cow, sync::Arc};

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use naka::identity::{Claim, Identity, Scheme};

use crate::{
    config::checked::{Config, IdentityPart, Kind, PolicyKind},
    headers::compared,
};

/// A part of what is known of whoever asks. A list is none: nobody could say which of it counts.
pub fn part<'e>(extensions: &'e Extensions, part: &IdentityPart) -> Option<Cow<'e, Claim>> {
    let subject = |identity: &'e Arc<Identity>| {
        identity.subject.clone().map(|subject| Cow::Owned(Claim::Text(subject)))
    };
    match part {
        IdentityPart::Subject => subject(Identity::of(extensions)?),
        IdentityPart::ApiKey => subject(Identity::by(extensions, Scheme::ApiKey)?),
        IdentityPart::Jwt(name) => {
            let claim = Identity::by(extensions, Scheme::Jwt)?.claims.get(name)?;
            (!matches!(claim, Claim::List(_))).then_some(Cow::Borrowed(claim))
        }
    }
}

/// Names under which upstreams hear of it, as they are compared: upstreams of some kinds cannot tell `-`
/// from `_`.
pub fn names(config: &Config) -> Arc<[String]> {
    let told = config.gateway.identity_headers.iter().map(|(name, _)| name);
    let used = config.routes.values().filter_map(|route| route.policies.one(Kind::ForwardAuth));
    let copied = used.flat_map(|name| match &config.policies[name].kind {
        PolicyKind::ForwardAuth(forward_auth) => &forward_auth.copy[..],
        _ => &[],
    });
    told.chain(copied).map(|name| compared(name).into_owned()).collect()
}

/// Takes away what a client says under these names.
pub fn strip(headers: &mut HeaderMap, names: &[String]) {
    let is_ours = |name: &&HeaderName| names.iter().any(|ours| *ours == compared(name));
    while let Some(name) = headers.keys().find(is_ours).cloned() {
        headers.remove(name);
    }
}

/// Tells an upstream who asks. What is not known, or cannot be the value of a header, is not said; neither
/// is what would be read as another value, because spaces around one are taken away (RFC 9110, section 5.5).
pub fn tell(headers: &mut HeaderMap, extensions: &Extensions, wanted: &[(HeaderName, IdentityPart)]) {
    for (name, wanted) in wanted {
        let text = part(extensions, wanted).map(|claim| claim.to_string());
        let exact = text.filter(|text| !text.is_empty() && text.trim_matches([' ', '\t']) == text);
        if let Some(value) = exact.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(name, value);
        }
    }
}
