//! Registries, and the services that are looked up in them.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, Uri};

use super::{auth, tls, unique};
use crate::{
    config::{
        checked::{ConsulAgent, ConsulService, EurekaApp, EurekaServers, Registries},
        decode::{At, Cx, Or},
        diagnostic::Code,
        node::Span,
        raw::{
            RawConsulAgent, RawConsulService, RawEurekaAddress, RawEurekaApp, RawEurekaServers, RawGateway,
            RawSecret,
        },
        values::Url,
    },
    tls::{Alpn, ClientTls, Trust, Wanted},
};

/// How long a question may wait for a change: Consul itself waits for ten minutes at most.
const WAITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(10)];

/// How much time may be between two questions for a whole registry.
const REFRESH: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(10)];

/// The most servers of one registry.
const SERVERS: usize = 8;

/// The longest name of a service or a tag, in bytes.
const NAME: usize = 255;

pub(super) fn registries(raw: &RawGateway, cx: &mut Cx) -> Registries {
    let default = RawConsulAgent::default();
    let raw = raw.registries.as_ref().map(|at| at.value.clone()).unwrap_or_default();
    let consul = raw.consul.as_ref().map_or(&default, |at| &at.value);
    let eureka = raw.eureka.as_ref().map(|at| Arc::new(eureka_servers(&at.value, cx)));
    Registries { consul: consul_agent(consul, cx).map(Arc::new), eureka }
}

fn consul_agent(raw: &RawConsulAgent, cx: &mut Cx) -> Option<ConsulAgent> {
    let Url(address) = raw.address();
    let tls = if let Some(at) = &raw.address {
        secured(at, raw.ca.as_deref(), cx)?
    } else {
        without_tls(raw.ca.as_deref(), cx);
        None
    };
    let token = raw.token.as_ref().and_then(|at| {
        if let Some(address) = &raw.address {
            is_encrypted(address, "token", cx);
        }
        header("", at, cx)
    });
    if let Some(at) = raw.wait.as_ref().filter(|at| !(WAITS[0]..=WAITS[1]).contains(&at.value)) {
        cx.error(Code::Value, at.span, "a question waits for 5 s at least, and for ten minutes at most")
            .help("write `wait: 55s`");
    }
    Some(ConsulAgent {
        address: address.trim_end_matches('/').into(),
        tls,
        token,
        datacenter: raw.datacenter.as_ref().map(|at| Arc::clone(&at.value.0)),
        is_stale: raw.stale(),
        wait: raw.wait(),
    })
}

/// What is wrong with them is reported: then what this is counts for nothing.
fn eureka_servers(raw: &RawEurekaServers, cx: &mut Cx) -> EurekaServers {
    let (mut urls, mut tls) = (Vec::new(), None);
    if let Some(servers) = &raw.servers {
        let count = servers.value.0.len();
        if count == 0 || count > SERVERS {
            cx.error(Code::Value, servers.span, format!("{count} servers, where 1 to {SERVERS} are asked"))
                .help("write `servers: [\"http://127.0.0.1:8761/eureka\"]`");
        }
        let is_https = |at: &At<Url>| at.value.0.starts_with("https://");
        let ca = raw.ca.as_deref().filter(|_| servers.value.0.iter().any(is_https));
        if ca.is_none() {
            without_tls(raw.ca.as_deref(), cx);
        }
        for at in &servers.value.0 {
            let url = Arc::<str>::from(at.value.0.trim_end_matches('/'));
            if urls.contains(&url) {
                cx.error(Code::Duplicate, at.span, format!("the server `{url}` twice"))
                    .help("take one of them away");
            }
            urls.push(url);
            let secured = secured(at, ca.filter(|_| is_https(at)), cx).flatten();
            tls = tls.or(secured);
            if raw.password.is_some() {
                is_encrypted(at, "password", cx);
            }
        }
    }
    if let Some(at) = raw.refresh.as_ref().filter(|at| !(REFRESH[0]..=REFRESH[1]).contains(&at.value)) {
        cx.error(
            Code::Value,
            at.span,
            "a registry is asked once a second at most, and every ten minutes at least",
        )
        .help("write `refresh: 30s`");
    }
    EurekaServers { urls, tls, authorization: basic(raw, cx), refresh: raw.refresh() }
}

/// RFC 7617.
fn basic(raw: &RawEurekaServers, cx: &mut Cx) -> Option<HeaderValue> {
    match (&raw.user, &raw.password) {
        (Some(user), Some(password)) => {
            if user.value.contains(':') || user.value.chars().any(char::is_control) {
                cx.error(Code::Value, user.span, "no name of a user has a colon in it")
                    .help("write the name alone, and the password under `password`");
            }
            let secret = auth::secret(password, cx)?;
            let both = [user.value.as_bytes(), b":", secret.bytes()].concat();
            let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(both))).ok()?;
            value.set_sensitive(true);
            Some(value)
        }
        (Some(user), None) if raw.said("password").is_none() => {
            cx.error(Code::Missing, user.key, "a user without a password")
                .help("add `password: {env: EUREKA_PASSWORD}`");
            None
        }
        (None, Some(password)) if raw.said("user").is_none() => {
            cx.error(Code::Missing, password.key, "a password without a user").help("add `user:`");
            None
        }
        _ => None,
    }
}

/// An application as it is named, or said with more than its name.
pub(super) fn eureka_app(at: &At<Or<Arc<str>, RawEurekaApp>>, cx: &mut Cx) -> Option<EurekaApp> {
    let plain = RawEurekaApp::default();
    let (name, span, raw) = match &at.value {
        Or::Text(name) => (name, at.span, &plain),
        Or::Record(raw) => {
            let app = raw.app.as_ref()?;
            (&app.value, app.span, &**raw)
        }
    };
    is_name(name, span, "application", cx);
    Some(EurekaApp {
        name: Arc::clone(name),
        by_host_name: raw.address() == RawEurekaAddress::HostName,
        is_secure: raw.secure(),
    })
}

/// A service as it is named, or said with more than its name.
pub(super) fn consul_service(at: &At<Or<Arc<str>, RawConsulService>>, cx: &mut Cx) -> Option<ConsulService> {
    let plain = RawConsulService::default();
    let (name, span, raw) = match &at.value {
        Or::Text(name) => (name, at.span, &plain),
        Or::Record(raw) => {
            let service = raw.service.as_ref()?;
            (&service.value, service.span, &**raw)
        }
    };
    is_name(name, span, "service", cx);
    let tags = raw.tags.iter().flat_map(|tags| &tags.value.0);
    if let Some(tags) = &raw.tags {
        unique(&tags.value.0, "tag", cx);
    }
    for tag in tags.clone() {
        is_name(&tag.value, tag.span, "tag", cx);
    }
    Some(ConsulService {
        name: Arc::clone(name),
        tags: tags.map(|at| Arc::clone(&at.value)).collect(),
        datacenter: raw.datacenter.as_ref().map(|at| Arc::clone(&at.value.0)),
        passing: raw.passing(),
    })
}

fn is_name(name: &str, span: Span, what: &str, cx: &mut Cx) {
    if name.is_empty() || name.len() > NAME || name.chars().any(char::is_control) {
        cx.error(Code::Value, span, format!("that is no name of a {what}"))
            .help(format!("write 1 to {NAME} bytes of text"));
    }
}

/// How connections to a registry at this URL are secured: nothing without `https`; `None` if that is wrong.
#[allow(clippy::option_option, reason = "the outer one is that something is wrong")]
fn secured(url: &At<Url>, ca: Option<&At<Arc<str>>>, cx: &mut Cx) -> Option<Option<ClientTls>> {
    if url.value.0.contains(['?', '#']) || url.value.0.parse::<Uri>().is_ok_and(|uri| uri.query().is_some()) {
        cx.error(Code::Value, url.span, "a question is put behind this, and it has one already")
            .help("take away what begins with `?` or `#`");
        return None;
    }
    if !url.value.0.starts_with("https://") {
        without_tls(ca, cx);
        return Some(None);
    }
    let Some(ca) = ca else { return Some(Some(tls::usual(url.span, cx)?)) };
    let trust = Trust::Only(tls::authorities(ca, cx)?);
    let wanted = Wanted { trust, name: None, expected: Vec::new(), shown: None, alpn: Alpn::H1 };
    Some(Some(tls::made(ClientTls::new(wanted), ca.span, cx)?))
}

fn without_tls(ca: Option<&At<Arc<str>>>, cx: &mut Cx) {
    if let Some(ca) = ca {
        cx.error(Code::Conflict, ca.key, "`ca` is for `https://`, and the registry is asked without it")
            .help("take it away, or write `https://…`");
    }
}

/// Warns of a secret that everybody on the way can read.
fn is_encrypted(url: &At<Url>, what: &str, cx: &mut Cx) {
    if !url.value.0.starts_with("https://") && !auth::is_loopback(&url.value.0) {
        cx.error(Code::Exposed, url.span, format!("the {what} is sent without encryption"))
            .warning()
            .help("write `https://…`");
    }
}

/// A header with a secret.
fn header(before: &str, at: &At<RawSecret>, cx: &mut Cx) -> Option<HeaderValue> {
    let secret = auth::secret(at, cx)?;
    let Ok(mut value) = HeaderValue::from_bytes(&[before.as_bytes(), secret.bytes()].concat()) else {
        cx.error(Code::Value, at.span, "this cannot stand in a header")
            .help("take a secret of letters, digits and `-`");
        return None;
    };
    value.set_sensitive(true);
    Some(value)
}
