//! Registries, and the services that are looked up in them.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Uri};

use super::{auth, tls, unique};
use crate::{
    config::{
        checked::{ConsulAgent, ConsulService, Registries},
        decode::{At, Cx, Or},
        diagnostic::Code,
        node::Span,
        raw::{RawConsulAgent, RawConsulService, RawGateway, RawSecret},
        values::Url,
    },
    tls::{Alpn, ClientTls, Trust, Wanted},
};

/// How long a question may wait for a change: Consul itself waits for ten minutes at most.
const WAITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(10)];

/// The longest name of a service or a tag, in bytes.
const NAME: usize = 255;

pub(super) fn registries(raw: &RawGateway, cx: &mut Cx) -> Registries {
    let default = RawConsulAgent::default();
    let raw = raw.registries.as_ref().map(|at| at.value.clone()).unwrap_or_default();
    let consul = raw.consul.as_ref().map_or(&default, |at| &at.value);
    Registries { consul: consul_agent(consul, cx).map(Arc::new) }
}

fn consul_agent(raw: &RawConsulAgent, cx: &mut Cx) -> Option<ConsulAgent> {
    let Url(address) = raw.address();
    let tls = match &raw.address {
        Some(at) => secured(at, raw.ca.as_deref(), cx)?,
        None => {
            without_tls(raw.ca.as_deref(), cx);
            None
        }
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
