//! Listeners: sockets, each with all that is said of its port.

use super::{
    out::{Entry, Keys, Out},
    report::Findings,
};
use crate::config::Span;

/// One socket.
#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) listen: String,
    pub(super) port: u16,
    pub(super) is_h2c: bool,
    pub(super) tls: Option<Tls>,
    pub(super) remark: String,
    /// Whose it is, where not all of one port are one.
    pub(super) owner: String,
}

/// TLS with its clients; all files are seen from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) certificates: Vec<(String, String)>,
    pub(super) client_ca: Option<String>,
    /// Clients without a certificate come in as nobody.
    pub(super) is_optional: bool,
    pub(super) oldest: Option<&'static str>,
    /// Any host may be asked for, whatever the certificate says.
    pub(super) any_host: bool,
}

impl Listener {
    pub(super) fn new(name: String, listen: String, port: u16) -> Self {
        Self { name, listen, port, ..Self::default() }
    }

    /// `is_stand_in`: without files.
    pub(super) fn written(&self, is_stand_in: bool) -> Entry {
        let mut keys: Keys = vec![("listen".into(), Out::text(&self.listen))];
        let tls = self.tls.as_ref();
        if self.is_h2c && tls.is_none() {
            keys.push(("protocols".into(), Out::texts(["h1", "h2c"])));
        }
        if let Some(tls) = tls.filter(|_| !is_stand_in) {
            keys.push(("tls".into(), tls.written()));
        }
        Entry { name: self.name.clone(), remark: self.remark.clone(), keys }
    }
}

/// Whoever knows clients where there are no files.
pub(super) const STAND_IN: &str = "naka-import-stand-in";

impl Tls {
    fn written(&self) -> Out {
        let one =
            |(cert, key): &(String, String)| Out::map([("cert", Out::text(cert)), ("key", Out::text(key))]);
        let mut keys: Keys =
            vec![("certificates".into(), Out::List(self.certificates.iter().map(one).collect()))];
        if let Some(ca) = &self.client_ca {
            keys.push(("client_ca".into(), Out::text(ca)));
            if self.is_optional {
                keys.push(("client_auth".into(), Out::plain("optional")));
            }
        }
        if self.any_host {
            keys.push(("check_host".into(), Out::plain(false)));
        }
        keys.extend(self.oldest.map(|it| ("min_version".to_owned(), Out::plain(it))));
        Out::Map(keys)
    }
}

/// One more, or more of one that is there: of one port there is one socket.
pub(super) fn add(listeners: &mut Vec<Listener>, listener: Listener, at: Span, findings: &mut Findings) {
    let Some(there) = listeners.iter_mut().find(|it| it.port == listener.port) else {
        listeners.push(listener);
        return;
    };
    there.is_h2c |= listener.is_h2c;
    match (&mut there.tls, listener.tls) {
        (None, None) => {}
        (Some(there), Some(tls)) => {
            for certificate in tls.certificates {
                if !there.certificates.contains(&certificate) {
                    there.certificates.push(certificate);
                }
            }
            if (&there.client_ca, there.is_optional) != (&tls.client_ca, tls.is_optional) {
                findings.error(at, format!("port {} asks for certificates of clients in two ways: here all of its hosts do it in one, that of the first", listener.port), "let those hosts have a port of their own");
            }
            there.oldest = there.oldest.max(tls.oldest);
        }
        (there, tls) => {
            findings.error(
                at,
                format!(
                    "port {} has TLS for some hosts and none for others: here all of it has",
                    listener.port
                ),
                "let one of them have another port",
            );
            if there.is_none() {
                *there = tls;
            }
        }
    }
}
