//! Who asks, and who may: tokens, keys and rules.

use std::sync::Arc;

use http::{
    HeaderName, HeaderValue,
    header::{
        ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT,
        FORWARDED, HOST, ORIGIN, PROXY_AUTHORIZATION, RANGE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
    uri::PathAndQuery,
};

use super::{
    policies::{Level, Policies, Unnamed},
    unique,
};
use crate::config::{
    checked::{
        ApiKey, ApiKeyEntry, Auth, BasicAuth, Fetch, ForwardAuth, IdentityPart, Jwt, JwtKeys, KeyPart, Kind,
        Name, PolicyKind, Rule, Secret,
    },
    decode::{At, Cx, Decode as _, OneOrMany, Or},
    diagnostic::Code,
    node::{self, Key, Node, Span, Value},
    raw::{
        RawAlgorithm, RawApiKey, RawApiKeyEntry, RawApiKeys, RawBasicAuth, RawClaims, RawDate,
        RawForwardAuth, RawJwt, RawRule, RawRuleKeys, RawSecret, RawSecretRef,
    },
    suggest::one_of,
};

/// Policies that find out who asks.
pub(super) const AUTHENTICATING: [Kind; 4] = [Kind::Jwt, Kind::ApiKey, Kind::BasicAuth, Kind::ForwardAuth];

/// The shortest secret for HS256, in bytes (RFC 7518 §3.2).
const MIN_SECRET: usize = 32;

pub(super) fn jwt(at: &At<RawJwt>, cx: &mut Cx) -> Option<Unnamed> {
    let raw = &at.value;
    let keys = jwt_keys(at, cx);
    if raw.said("audiences").is_none() {
        let it =
            cx.error(Code::Exposed, at.key, "any token of these keys is good here, whomever it was made for");
        it.warning()
            .help("say for whom: `audiences: [rides]`; a token that names audiences is refused without it");
    }
    for list in [raw.issuer.as_ref(), raw.audiences.as_ref()].into_iter().flatten() {
        unique(&list.value.0, "name", cx);
    }
    if let Some(algorithms) = &raw.algorithms {
        unique(&algorithms.value.0, "algorithm", cx);
        if algorithms.value.0.is_empty() {
            cx.error(Code::Value, algorithms.span, "no algorithm at all")
                .help("take the key away to allow what the keys allow");
        }
    }
    useless_algorithms(raw, cx);
    if let (Some(fetch), false) = (&raw.fetch, raw.jwks_url.is_some() || raw.said("jwks_url").is_some()) {
        cx.error(Code::Conflict, fetch.key, "`fetch` without `jwks_url` has no effect")
            .help("take it away, or write `jwks_url:`");
    }
    let requires = |date: RawDate| match &raw.require {
        Some(list) => list.value.0.iter().any(|at| at.value == date),
        None => date == RawDate::Exp,
    };
    if let Some(list) = raw.require.as_ref().filter(|_| !requires(RawDate::Exp)) {
        cx.error(Code::Exposed, list.span, "a token without `exp` counts for ever")
            .warning()
            .help("write `require: [exp]`, or leave it out");
    }
    let jwt = Jwt {
        issuers: texts(raw.issuer.as_deref()),
        audiences: texts(raw.audiences.as_deref()),
        algorithms: raw
            .algorithms
            .as_ref()
            .map(|list| list.value.0.iter().map(|at| algorithm(at.value)).collect()),
        keys: keys?,
        require_exp: requires(RawDate::Exp),
        require_nbf: requires(RawDate::Nbf),
        leeway: raw.leeway().0,
        token_type: raw.token_type.as_ref().map(|it| Arc::clone(&it.value)),
        max_token: raw.max_token().0,
        scope_claim: raw.scope_claim(),
        role_claim: raw.role_claim(),
    };
    Some(Unnamed::stateless(PolicyKind::Jwt(jwt)))
}

const fn algorithm(raw: RawAlgorithm) -> &'static str {
    match raw {
        RawAlgorithm::Hs256 => "HS256",
        RawAlgorithm::Rs256 => "RS256",
        RawAlgorithm::Ps256 => "PS256",
        RawAlgorithm::Es256 => "ES256",
        RawAlgorithm::Es384 => "ES384",
        RawAlgorithm::EdDsa => "EdDSA",
    }
}

fn jwt_keys(at: &At<RawJwt>, cx: &mut Cx) -> Option<JwtKeys> {
    let raw = &at.value;
    let said = raw.said.iter().filter(|said| RawJwt::KEYS.contains(&&*said.meant)).collect::<Vec<_>>();
    match said.as_slice() {
        [] => {
            cx.error(Code::Missing, at.key, "tokens without keys to verify them")
                .label(format!("needs {}", one_of(RawJwt::KEYS)))
                .help("write `jwks_url: https://id.example/jwks`, `jwks_file: keys.json` or `secret: {env: NAME}`");
        }
        [_] => {}
        [first, second, ..] => {
            let place = cx.place(first.span);
            cx.error(Code::Conflict, second.span, format!("`{}` beside `{}`", second.meant, first.meant))
                .label("the second")
                .related(place, "the first")
                .help("keys come from one place: keep one, or write two policies");
        }
    }
    if let Some(file) = &raw.jwks_file {
        return Some(JwtKeys::Set(Secret(cx.document(file.span, &file.value)?)));
    }
    if let Some(url) = &raw.jwks_url {
        if url.value.0.starts_with("http://") && !is_loopback(&url.value.0) {
            cx.error(Code::Exposed, url.span, "keys that are fetched without encryption can be anybody's")
                .warning()
                .help("write `https://…`");
        }
        let fetch = raw.fetch.as_ref().map(|it| it.value.clone()).unwrap_or_default();
        let fetch = Fetch {
            timeout: fetch.timeout(),
            min_interval: fetch.min_interval(),
            fresh: fetch.fresh(),
            max_stale: fetch.max_stale(),
        };
        return Some(JwtKeys::Url(Arc::clone(&url.value.0), fetch));
    }
    let secret_at = raw.secret.as_ref()?;
    let secret = secret(secret_at, cx)?;
    if secret.bytes().len() < MIN_SECRET {
        let message = format!("a secret of {} bytes can be guessed", secret.bytes().len());
        cx.error(Code::Value, secret_at.span, message)
            .help("at least 32 random bytes: `openssl rand -base64 48`");
    }
    Some(JwtKeys::Secret(secret))
}

/// Reports algorithms of which a key from there can be none: a shared secret has one, and what is published
/// is no secret.
fn useless_algorithms(raw: &RawJwt, cx: &mut Cx) {
    let said = raw.said.iter().filter(|said| RawJwt::KEYS.contains(&&*said.meant));
    let said = said.collect::<Vec<_>>();
    let ([place], Some(algorithms)) = (said.as_slice(), &raw.algorithms) else { return };
    let is_secret = place.meant == "secret";
    for at in &algorithms.value.0 {
        if (at.value == RawAlgorithm::Hs256) == is_secret {
            continue;
        }
        let message = format!("no key of `{}` can verify `{}`", place.meant, algorithm(at.value));
        let help = if is_secret {
            "a shared secret is for `HS256` alone: write that, or take `algorithms` away; the others need \
             `jwks_file` or `jwks_url`"
        } else {
            "`HS256` needs a shared `secret`, and those are not published: write what the keys are for, such as \
             `[ES256]`, or take `algorithms` away"
        };
        let place = cx.place(place.span);
        cx.error(Code::Conflict, at.span, message).related(place, "the keys").help(help);
    }
}

/// Whether a URL is of this machine.
pub(super) fn is_loopback(url: &str) -> bool {
    let host =
        url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// What a reference leads to.
pub(super) fn secret(at: &At<RawSecret>, cx: &mut Cx) -> Option<Secret> {
    let raw = match &at.value.0 {
        Or::Text(text) => {
            cx.error(Code::Exposed, at.span, "a secret is written out")
                .warning()
                .help("refer to it: `{env: NAME}` or `{file: /run/secrets/name}`");
            return Some(Secret(text.as_bytes().into()));
        }
        Or::Record(raw) => &**raw,
    };
    match raw {
        RawSecretRef { env: Some(name), file: None, .. } => {
            let value = std::env::var(&*name.value).ok().filter(|value| !value.is_empty());
            if value.is_none() {
                cx.error(
                    Code::Missing,
                    name.span,
                    format!("the environment has no variable `{}`", name.value),
                )
                .help("set it for this process, or refer to a file: `{file: /run/secrets/name}`");
            }
            Some(Secret(value?.as_bytes().into()))
        }
        RawSecretRef { env: None, file: Some(file), .. } => {
            let bytes = cx.document(file.span, &file.value)?;
            let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            Some(Secret(text.into()))
        }
        RawSecretRef { env: Some(env), file: Some(file), .. } => {
            let place = cx.place(env.key);
            cx.error(Code::Conflict, file.key, "`file` beside `env`")
                .related(place, "the first")
                .help("a secret comes from one place: keep one");
            None
        }
        RawSecretRef { said, .. } => {
            if said.is_empty() {
                cx.error(Code::Missing, at.span, "a reference to nothing")
                    .help("write `{env: NAME}` or `{file: /run/secrets/name}`");
            }
            None
        }
    }
}

pub(super) fn api_key(raw: &RawApiKey, cx: &mut Cx) -> Option<Unnamed> {
    if let Some(header) = raw.header.as_ref().filter(|it| is_taken(&it.value) && it.value != AUTHORIZATION) {
        cx.error(Code::Conflict, header.span, format!("`{}` says something else", header.value))
            .help("take a header of your own: `x-api-key`");
    }
    let file = raw.file.as_ref()?;
    let list = api_keys(file, cx)?;
    if list.keys.as_ref().is_some_and(|keys| keys.value.is_empty()) {
        cx.error(Code::Value, file.span, "a list without keys lets in nobody")
            .warning()
            .help("add a key to the file");
    }
    let mut seen = std::collections::HashMap::new();
    let mut keys = Vec::new();
    for at in list.keys.iter().flat_map(|keys| &keys.value) {
        let Some(entry) = api_key_entry(&at.value) else { continue };
        if let Some(first) = seen.insert(entry.sha256, at.span) {
            let first = cx.place(first);
            cx.error(Code::Duplicate, at.span, "the same key twice")
                .label("again here")
                .related(first, "first here")
                .help("take one of them away: nobody could know whose it is");
        }
        keys.push(entry);
    }
    let kind = PolicyKind::ApiKey(ApiKey { keys, header: raw.header(), forward: raw.forward() });
    Some(Unnamed::stateless(kind))
}

/// The list in a file of its own.
fn api_keys(file: &At<Arc<str>>, cx: &mut Cx) -> Option<RawApiKeys> {
    let bytes = cx.document(file.span, &file.value)?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        cx.error(Code::File, file.span, format!("`{}` is not UTF-8", file.value))
            .help("write the list as YAML");
        return None;
    };
    let number = cx.add_source(file.span, &file.value, text);
    let whole = Span::new(number, 0..text.len());
    let source = cx.source(number);
    let Some(node) = node::parse(&source, number, cx) else {
        cx.hide(whole);
        return None;
    };
    hide_keys(&node, whole, cx);
    RawApiKeys::decode(&node, cx)
}

/// Whoever writes a key itself in the place of its hash shall not find it in a log: an entry that is not all
/// of the keys it should be is not shown, and neither is a file that is no list.
fn hide_keys(node: &Node<'_>, whole: Span, cx: &Cx) {
    let keys = match &node.value {
        Value::Map(fields) => fields.iter().find(|(key, _)| key.text == "keys").map(|(_, value)| value),
        _ => None,
    };
    let Some(Node { value: Value::Seq(entries), .. }) = keys else {
        cx.hide(whole);
        return;
    };
    let is_known = |key: &Key<'_>| RawApiKeyEntry::SHAPE.fields.iter().any(|field| field.key == key.text);
    let is_fine = |entry: &&Node<'_>| match &entry.value {
        Value::Map(fields) => fields.iter().all(|(key, _)| is_known(key)),
        _ => false,
    };
    for entry in entries.iter().filter(|entry| !is_fine(entry)) {
        cx.hide(entry.span);
    }
}

fn api_key_entry(raw: &RawApiKeyEntry) -> Option<ApiKeyEntry> {
    Some(ApiKeyEntry {
        sha256: raw.sha256.as_ref()?.value.0,
        subject: Arc::clone(&raw.subject.as_ref()?.value),
        scopes: texts(raw.scopes.as_deref()),
        roles: texts(raw.roles.as_deref()),
        claims: raw.claims.as_ref().map(|it| claims(&it.value)).unwrap_or_default(),
        expires_s: raw.expires.as_ref().map(|it| it.value.0),
    })
}

pub(super) fn basic_auth(raw: &RawBasicAuth, cx: &mut Cx) -> Option<Unnamed> {
    let file = raw.file.as_ref()?;
    let users = users(file, cx)?;
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let kind = PolicyKind::BasicAuth(BasicAuth {
        users,
        realm: raw.realm(),
        remember: raw.remember().0,
        max_checks: number(raw.max_checks().0),
        max_waiting: number(raw.max_waiting().0),
        forward: raw.forward(),
    });
    Some(Unnamed::stateless(kind))
}

/// Lines of `name:hash`; empty ones and those that begin with `#` say nothing.
fn users(file: &At<Arc<str>>, cx: &mut Cx) -> Option<Vec<(Arc<str>, Secret, usize)>> {
    let bytes = cx.document(file.span, &file.value)?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        cx.error(Code::File, file.span, format!("`{}` is not UTF-8", file.value))
            .help("write lines of `name:$argon2id$…`");
        return None;
    };
    let number = cx.add_source(file.span, &file.value, text);
    cx.hide(Span::new(number, 0..text.len()));
    let (mut users, mut seen, mut start) = (Vec::new(), std::collections::HashMap::new(), 0);
    for (line_number, line) in text.split_inclusive('\n').enumerate() {
        let line_start = start;
        start += line.len();
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let span = Span::new(number, line_start..line_start + line.len());
        let Some((name, hash)) = line.split_once(':') else {
            cx.error(Code::Value, span, "a line without a name").help("write `name:$argon2id$…`");
            continue;
        };
        if let Some(first) = seen.insert(name, span) {
            let first = cx.place(first);
            cx.error(Code::Duplicate, span, format!("two lines for `{name}`"))
                .related(first, "the first")
                .help("take one of them away");
        }
        users.push((name.into(), Secret(hash.as_bytes().into()), line_number + 1));
    }
    if users.is_empty() {
        cx.error(Code::Value, file.span, "a list without names lets in nobody")
            .warning()
            .help("add a line: `name:$argon2id$…`, as `argon2 SALT -id -e` prints it");
    }
    Some(users)
}

pub(super) fn forward_auth(raw: &RawForwardAuth, cx: &mut Cx) -> Option<Unnamed> {
    let url = raw.url.as_ref()?;
    let uri = url.value.0.parse::<http::Uri>().ok()?;
    let (tls, port) = match uri.scheme_str() {
        Some("https") => (Some(super::tls::usual(url.span, cx)?), 443),
        _ => (None, 80),
    };
    for list in [&raw.send_headers, &raw.copy_headers].into_iter().flatten() {
        unique(&list.value.0, "header", cx);
    }
    for at in raw.copy_headers.iter().flat_map(|list| &list.value.0).filter(|at| is_taken(&at.value)) {
        cx.error(Code::Conflict, at.span, format!("`{}` says something else", at.value))
            .help("copy headers of your own: `x-user-id`");
    }
    if let Some(remember) =
        raw.remember.as_ref().filter(|it| it.value.by.as_ref().is_some_and(|by| by.value.0.is_empty()))
    {
        cx.error(Code::Value, remember.key, "a decision that depends on no header is everybody's")
            .help("say on which: `by: [authorization, cookie]`");
    }
    decides_unseen(raw, cx);
    let names = |list: Option<&At<OneOrMany<HeaderName>>>| {
        list.map(|list| list.value.0.iter().map(|at| at.value.clone()).collect::<Vec<_>>())
    };
    let remember = raw
        .remember
        .as_ref()
        .and_then(|it| Some((names(it.value.by.as_deref())?, it.value.ttl.as_ref()?.value)));
    let authority = uri.authority()?;
    let kind = PolicyKind::ForwardAuth(ForwardAuth {
        address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port)).into(),
        tls,
        host: HeaderValue::from_str(authority.as_str()).ok()?,
        target: uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
        send: names(raw.send_headers.as_deref()),
        copy: names(raw.copy_headers.as_deref()).unwrap_or_default(),
        subject: raw.subject.as_ref().map(|it| it.value.clone()),
        timeout: raw.timeout(),
        max_asking: usize::try_from(raw.max_asking().0).unwrap_or(usize::MAX),
        remember,
    });
    Some(Unnamed::stateless(kind))
}

/// Reports what is sent to whoever decides, and not asked when a decision is used again.
fn decides_unseen(raw: &RawForwardAuth, cx: &mut Cx) {
    let Some(by) =
        raw.remember.as_ref().and_then(|it| it.value.by.as_ref()).filter(|by| !by.value.0.is_empty())
    else {
        return;
    };
    let said = raw.send_headers.as_ref();
    let sent = match said {
        Some(list) => list.value.0.iter().map(|at| at.value.clone()).collect(),
        None => vec![AUTHORIZATION, COOKIE],
    };
    let is_of_one_request = |name: &HeaderName| ["x-request-id", "traceparent"].contains(&name.as_str());
    let unseen =
        |name: &&HeaderName| !is_of_one_request(name) && !by.value.0.iter().any(|at| at.value == **name);
    let unseen = sent.iter().filter(unseen).map(HeaderName::as_str).collect::<Vec<_>>();
    if unseen.is_empty() {
        return;
    }
    let message =
        format!("what is decided by `{}` would count for whoever sends another one", unseen.join("`, `"));
    let all = by.value.0.iter().map(|at| at.value.as_str()).chain(unseen.iter().copied()).collect::<Vec<_>>();
    let help = format!(
        "remember by all that is sent: `by: [{}]`; or send less: `send_headers: [{}]`",
        all.join(", "),
        by.value.0.iter().map(|at| at.value.as_str()).collect::<Vec<_>>().join(", ")
    );
    cx.error(Code::Exposed, by.span, message).help(help);
}

static TAKEN: [HeaderName; 17] = [
    ACCEPT,
    AUTHORIZATION,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    EXPECT,
    FORWARDED,
    HOST,
    ORIGIN,
    RANGE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    VIA,
];

/// A header that HTTP or we need for something else.
/// Whether whoever reads it could ask in the name of whoever has sent it.
pub(super) fn is_credential(name: &HeaderName) -> bool {
    let known = ["x-api-key", "x-auth-token", "x-csrf-token"];
    [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name) || known.contains(&name.as_str())
}

pub(super) fn is_taken(name: &HeaderName) -> bool {
    let text = name.as_str();
    let ours = ["x-real-ip", "x-request-id", "grpc-timeout", "naka-attempt"];
    TAKEN.contains(name) || text.starts_with("x-forwarded-") || ours.contains(&text)
}

fn claims(raw: &RawClaims) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
    let all = raw.0.iter().filter_map(|(name, values)| Some((name, values.as_ref()?)));
    all.map(|(name, values)| {
        (Arc::clone(&name.value), values.0.iter().map(|at| Arc::clone(&at.value)).collect())
    })
    .collect()
}

/// Claims as a token has them.
pub(super) fn claims_json(raw: &RawClaims) -> Arc<str> {
    let value = |values: Vec<Arc<str>>| match values.as_slice() {
        [one] => serde_json::Value::String(one.to_string()),
        all => all.iter().map(ToString::to_string).collect::<Vec<_>>().into(),
    };
    let all = claims(raw).into_iter().map(|(name, values)| (name.to_string(), value(values)));
    serde_json::Value::Object(all.collect()).to_string().into()
}

fn texts(list: Option<&At<OneOrMany<Arc<str>>>>) -> Vec<Arc<str>> {
    list.iter().flat_map(|list| list.value.0.iter().map(|at| Arc::clone(&at.value))).collect()
}

pub(super) fn authorize(raw: &RawRule, span: Span, cx: &mut Cx) -> Option<Unnamed> {
    rule(&raw.0, span, cx).map(|rule| Unnamed::stateless(PolicyKind::Authorize(rule)))
}

fn rule(raw: &RawRuleKeys, span: Span, cx: &mut Cx) -> Option<Rule> {
    match raw.said.as_slice() {
        [_] => {}
        [] => {
            cx.error(Code::Missing, span, "a rule that says nothing")
                .help("write `{scope: rides.read}`, or take it away");
            return None;
        }
        [first, second, ..] => {
            let place = cx.place(first.span);
            let (one, two) = (&first.meant, &second.meant);
            cx.error(Code::Conflict, second.span, format!("`{one}` and `{two}` in one rule"))
                .label("the second")
                .related(place, "the first")
                .help(format!("say which is meant: `all: [{{{one}: …}}, {{{two}: …}}]` or `any: […]`"));
            return None;
        }
    }
    let some = |list: Option<&At<OneOrMany<Arc<str>>>>, make: fn(Arc<str>) -> Rule| {
        list.map(|_| any(texts(list).into_iter().map(make).collect()))
    };
    let many = |list: &At<Vec<At<RawRule>>>, cx: &mut Cx| {
        if list.value.is_empty() {
            cx.error(Code::Value, list.span, "an empty list of rules")
                .help("write a rule into it, or take it away");
        }
        list.value
            .iter()
            .map(|at| rule(&at.value.0, at.span, cx))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<Vec<_>>>()
    };
    if let Some(list) = &raw.all {
        return many(list, cx).map(Rule::All);
    }
    if let Some(list) = &raw.any {
        return many(list, cx).map(Rule::Any);
    }
    if let Some(inner) = &raw.not {
        return rule(&inner.value.0, inner.span, cx).map(|rule| Rule::Not(Box::new(rule)));
    }
    if raw.authenticated.is_some() {
        return Some(Rule::Authenticated);
    }
    let said_nothing = [
        raw.scope.as_ref().map(|it| (it.span, it.value.0.is_empty())),
        raw.role.as_ref().map(|it| (it.span, it.value.0.is_empty())),
        raw.identity.as_ref().map(|it| (it.span, it.value.0.is_empty())),
        raw.method.as_ref().map(|it| (it.span, it.value.0.is_empty())),
        raw.cidr.as_ref().map(|it| (it.span, it.value.0.is_empty())),
        raw.claim.as_ref().map(|it| (it.span, says_nothing(&it.value))),
    ];
    if let Some((span, _)) = said_nothing.into_iter().flatten().find(|(_, is_empty)| *is_empty) {
        cx.error(Code::Value, span, "a rule over nothing").help("write what it is about, or take it away");
        return None;
    }
    let words = some(raw.scope.as_deref(), Rule::Scope)
        .or_else(|| some(raw.role.as_deref(), Rule::Role))
        .or_else(|| some(raw.identity.as_deref(), Rule::Identity));
    let methods = || {
        raw.method
            .as_ref()
            .map(|it| any(it.value.0.iter().map(|at| Rule::Method(at.value.clone())).collect()))
    };
    let networks =
        || raw.cidr.as_ref().map(|it| any(it.value.0.iter().map(|at| Rule::Cidr(at.value)).collect()));
    let claimed = || {
        let all = claims(&raw.claim.as_ref()?.value).into_iter();
        let one = |(name, values): (Arc<str>, Vec<Arc<str>>)| {
            any(values.into_iter().map(|value| Rule::Claim(Arc::clone(&name), value)).collect())
        };
        Some(Rule::All(all.map(one).collect()))
    };
    words.or_else(methods).or_else(networks).or_else(claimed)
}

/// Claims that nobody needs to have, or a claim without a value to have.
fn says_nothing(claims: &RawClaims) -> bool {
    claims.0.is_empty()
        || claims.0.iter().any(|(_, values)| values.as_ref().is_some_and(|it| it.0.is_empty()))
}

/// One of these.
fn any(mut rules: Vec<Rule>) -> Rule {
    if rules.len() == 1 { rules.remove(0) } else { Rule::Any(rules) }
}

impl Policies {
    /// Reports what of a route asks who it is although nothing there finds out, and several that find out in
    /// one way. A public route may have such a limit: whoever asks lacks its key.
    pub(super) fn identity(&self, route: &At<super::Id>, level: &Level, auth: Auth, cx: &mut Cx) {
        for kind in AUTHENTICATING {
            if let [(first, place), (second, span), ..] = level.all(kind) {
                let place = cx.place(*place);
                let message = format!(
                    "the route `{}` has two `{}`: `{first}` and `{second}`",
                    route.value,
                    kind.word()
                );
                cx.error(Code::Conflict, *span, message)
                    .label("the second")
                    .related(place, "the first")
                    .help("a request has one token and one key: keep one, or write two routes")
                    .combined();
            }
        }
        let is_known = Self::knows(level, &IdentityPart::Subject);
        if let ([(_, place), ..], [(_, span), ..]) = (level.all(Kind::Jwt), level.all(Kind::BasicAuth)) {
            let place = cx.place(*place);
            cx.error(Code::Conflict, *span, "a token and a password in one `Authorization`")
                .related(place, "the token")
                .help("a request has one such header: keep one of the two")
                .combined();
        }
        for (name, span) in level.all(Kind::Authorize) {
            let PolicyKind::Authorize(rule) = &self.checked[name].kind else { continue };
            if rule.needs_identity() && !is_known {
                nobody_is_known(route, (name, *span), "lets in nobody", auth, cx);
            }
        }
        self.limits_know(route, (level, level), auth, cx);
    }

    /// Reports `auth: optional` where it changes nothing, or where nobody could say what it means.
    pub(super) fn optional(&self, route: &At<super::Id>, said: Span, level: &Level, cx: &mut Cx) {
        if let Some((name, span)) = level.all(Kind::ForwardAuth).first() {
            let place = cx.place(*span);
            let message = format!(
                "`{name}` asks another service who it is, and nobody here knows what no credentials are to that one"
            );
            cx.error(Code::Conflict, said, message)
                .related(place, "used here")
                .help("let that service let them in, and take `auth: optional` away; or write the route where only `jwt`, `api_key` or `basic_auth` ask; or `auth: none`")
                .combined();
            return;
        }
        let is_asked = AUTHENTICATING.into_iter().any(|kind| !level.all(kind).is_empty());
        if !is_asked && !level.is_incomplete() {
            let message = format!(
                "nothing on the route `{}` finds out who asks, so that there is nothing to be optional",
                route.value
            );
            cx.error(Code::Conflict, said, message)
                .help("take `auth: optional` away; or add a policy that finds out, such as `jwt` or `api_key`, to the route, its group or its listener")
                .combined();
        }
        if level.has_certificates() {
            return; // Somebody may be known without these.
        }
        for (name, span) in level.all(Kind::Authorize) {
            let Some(PolicyKind::Authorize(rule)) = self.checked.get(name).map(|policy| &policy.kind) else {
                continue;
            };
            if is_asked && !rule.may_let_in_nobody() {
                let place = cx.place(*span);
                let message = format!(
                    "`{name}` keeps out whoever is not known, so that nothing is optional on the route `{}`",
                    route.value
                );
                cx.error(Code::Conflict, said, message)
                    .related(place, "the rule")
                    .help(
                        "take `auth: optional` away; or let others in by the rule: `any: [{method: GET}, …]`",
                    )
                    .combined();
            }
        }
    }

    /// Whether something of this level finds that out.
    pub(super) fn knows(level: &Level, part: &IdentityPart) -> bool {
        let has = |kind: Kind| !level.all(kind).is_empty();
        level.is_incomplete()
            || match part {
                IdentityPart::Subject => level.has_certificates() || AUTHENTICATING.into_iter().any(has),
                IdentityPart::ApiKey => has(Kind::ApiKey),
                IdentityPart::Jwt(_) => has(Kind::Jwt),
            }
    }

    /// Reports limits that count by who asks where the level around them does not find that out.
    pub(super) fn limits_know(
        &self,
        route: &At<super::Id>,
        (limits, around): (&Level, &Level),
        auth: Auth,
        cx: &mut Cx,
    ) {
        let has = |part: &IdentityPart| Self::knows(around, part);
        for (name, span) in limits.all(Kind::RateLimit).iter().chain(limits.all(Kind::Bulkhead)) {
            let Some(policy) = self.checked.get(name).map(|policy| &policy.kind) else { continue };
            let lacks_key = identity_parts(policy).any(|part| !has(part));
            let lacks_tier = tier_parts(policy).any(|part| !has(part));
            if (lacks_key || lacks_tier) && auth != Auth::None {
                let so = if lacks_key { "has no key" } else { "knows no tier" };
                nobody_is_known(route, (name, *span), so, auth, cx);
            }
        }
    }
}

/// What the key of a limit asks of whoever it is.
fn identity_parts(policy: &PolicyKind) -> impl Iterator<Item = &IdentityPart> {
    let key = match policy {
        PolicyKind::RateLimit(limit) => &limit.key[..],
        PolicyKind::Bulkhead(bulkhead) => &bulkhead.key[..],
        PolicyKind::CircuitBreaker(breaker) => &breaker.key[..],
        _ => &[],
    };
    key.iter().filter_map(|part| if let KeyPart::Identity(part) = part { Some(part) } else { None })
}

/// What the tiers of a limit ask of whoever it is.
fn tier_parts(policy: &PolicyKind) -> impl Iterator<Item = &IdentityPart> {
    let parts = match policy {
        PolicyKind::RateLimit(limit) => [limit.tiers.as_ref().map(|tiers| &tiers.by), None],
        PolicyKind::Bulkhead(bulkhead) => [
            bulkhead.tiers.as_ref().map(|tiers| &tiers.by),
            bulkhead.priorities.as_ref().map(|tiers| &tiers.by),
        ],
        _ => [None, None],
    };
    parts.into_iter().flatten()
}

/// Says that a policy wants to know who asks where nobody does.
fn nobody_is_known(route: &At<super::Id>, (name, span): (&Name, Span), so: &str, auth: Auth, cx: &mut Cx) {
    let message = format!("nothing on the route `{}` finds out who asks, so that `{name}` {so}", route.value);
    let help = if auth == Auth::None {
        "take `auth: none` away, or the rule; a rule over `cidr` and `method` works on public routes"
    } else {
        "add a policy that finds out, such as `jwt` or `api_key`, to the route, its group or its listener, or `client_ca` to the listener's `tls`"
    };
    cx.error(Code::Conflict, span, message).help(help).combined();
}
