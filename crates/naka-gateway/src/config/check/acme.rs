//! Certificates that are ordered by themselves: whom for, from whom, and what has to be agreed to.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::{
    tls::{authorities, made},
    unique,
};
use crate::{
    config::{
        checked::{Acme, Name},
        decode::{At, Cx},
        diagnostic::Code,
        node::Span,
        raw::RawAcme,
        values::TlsName,
    },
    tls::{Alpn, ClientTls, Trust, Wanted},
};

/// As many names one certificate has at most: what large authorities take.
const MAX_DOMAINS: usize = 100;
/// Addresses of mail.
const MAX_CONTACTS: usize = 10;

/// A certificate that is ordered; it stands at `key`.
pub(super) fn acme(raw: &RawAcme, key: Span, cx: &mut Cx) -> Option<Acme> {
    needs_client(key, cx);
    let domains = domains(raw, cx);
    let contact = contact(raw, cx);
    let directory = raw.directory.as_ref()?;
    if !directory.value.0.starts_with("https://") {
        cx.error(Code::Value, directory.span, "an authority is only asked over `https` (RFC 8555 §6.1)")
            .help("write `https://…`; with `ca:` it may be one of your own");
    }
    if let Some(at) = raw.accept_terms.as_ref().filter(|at| !at.value) {
        cx.error(Code::Value, at.span, "without its terms of service no authority gives a certificate")
            .help("read them, the directory says where they are, and write `accept_terms: true`");
    }
    let trust = match &raw.ca {
        Some(at) => Trust::Only(authorities(at, cx)?),
        None => Trust::Machine,
    };
    let wanted = Wanted { trust, name: None, expected: Vec::new(), shown: None, alpn: Alpn::H1 };
    let tls = made(ClientTls::new(wanted), key, cx)?;
    let folder = raw.folder.as_ref()?;
    let folder = cx.path(folder.span, &folder.value);
    let directory = Arc::clone(&directory.value.0);
    let id = id(domains.first()?, &domains, &directory);
    Some(Acme { id, domains, directory, folder, contact, tls })
}

/// What was left out when this was built is said where it is wanted.
fn needs_client(key: Span, cx: &mut Cx) {
    if cfg!(not(feature = "acme")) {
        cx.error(Code::NotBuilt, key, "this gateway was built without the feature `acme`").help(
            "build it with the feature (`--features acme`), or write `certificates:` with files that another program renews",
        );
    }
}

fn domains(raw: &RawAcme, cx: &mut Cx) -> Vec<Arc<str>> {
    let Some(listed) = &raw.domains else { return Vec::new() };
    unique(&listed.value.0, "host", cx);
    if listed.value.0.is_empty() {
        cx.error(Code::Value, listed.span, "a certificate for no host")
            .help("write `domains: [shop.example]`");
    }
    if listed.value.0.len() > MAX_DOMAINS {
        cx.error(Code::Value, listed.span, format!("{} hosts in one certificate", listed.value.0.len()))
            .help(format!("write at most {MAX_DOMAINS}"));
    }
    let mut all = listed.value.0.iter().filter_map(|at| domain(at, cx)).collect::<Vec<_>>();
    all.sort_unstable();
    all
}

fn domain(at: &At<TlsName>, cx: &mut Cx) -> Option<Arc<str>> {
    let is_host = !at.value.is_uri() && at.value.0.parse::<std::net::IpAddr>().is_err();
    if !is_host {
        cx.error(Code::Value, at.span, format!("`{}` is no name of a host", at.value.0))
            .help("write names that clients ask for: `shop.example`");
    }
    is_host.then(|| Arc::clone(&at.value.0))
}

/// One address each, without anything behind it (RFC 8555 §7.3).
fn contact(raw: &RawAcme, cx: &mut Cx) -> Vec<Arc<str>> {
    let Some(listed) = &raw.contact else { return Vec::new() };
    unique(&listed.value.0, "address", cx);
    if listed.value.0.len() > MAX_CONTACTS {
        cx.error(Code::Value, listed.span, format!("{} addresses", listed.value.0.len()))
            .help(format!("write at most {MAX_CONTACTS}"));
    }
    for at in &listed.value.0 {
        let is_plain = at.value.bytes().all(|byte| byte.is_ascii_graphic() && !b",?:<>".contains(&byte))
            && at.value.len() <= 254;
        let is_whole = at
            .value
            .split_once('@')
            .is_some_and(|(who, host)| !who.is_empty() && !host.is_empty() && !host.contains('@'));
        if !is_plain || !is_whole {
            cx.error(Code::Value, at.span, "this is no address of mail")
                .help("write one such as `ops@shop.example`");
        }
    }
    listed.value.0.iter().map(|at| format!("mailto:{}", at.value).into()).collect()
}

/// The first host, for people, and what tells it from all others.
fn id(first: &str, domains: &[Arc<str>], directory: &str) -> Name {
    let said = format!("{directory}\n{}", domains.join("\n"));
    let hash = digest(&SHA256, said.as_bytes());
    let hash = hash.as_ref()[..8].iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let first = &first[..first.len().min(100)]; // It is ASCII, and a name of a file is not to be longer than any system takes.
    format!("{first}-{hash:016x}").into()
}
