//! Metrics of TLS with clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use super::family::Family;
use crate::config::checked::{Config, Name};

/// What became of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It has begun a session.
    Done,
    /// It has resumed one.
    Resumed,
    /// The client spoke without TLS.
    PlainText,
    /// The client has shown no certificate, and has to.
    Unnamed,
    /// The client has shown a certificate that is not believed.
    Disbelieved,
    /// The two have nothing in common, or one side did not like what the other has.
    Failed,
    /// The client took too long.
    TimedOut,
    /// An authority has looked whose a host is.
    Challenge,
    /// The certificate of the host is ordered, and not there yet.
    NoCertificate,
}

impl Handshake {
    const ALL: [Self; 9] = [
        Self::Done,
        Self::Resumed,
        Self::PlainText,
        Self::Unnamed,
        Self::Disbelieved,
        Self::Failed,
        Self::TimedOut,
        Self::Challenge,
        Self::NoCertificate,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Resumed => "resumed",
            Self::PlainText => "plain_text",
            Self::Unnamed => "client_certificate_missing",
            Self::Disbelieved => "client_certificate_refused",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Challenge => "challenge",
            Self::NoCertificate => "no_certificate",
        }
    }
}

/// What became of an order of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// There is a new certificate.
    Issued,
    /// The authority has refused it.
    Refused,
    /// It was not reached, or something here failed.
    Failed,
}

impl Ordering {
    const ALL: [Self; 3] = [Self::Issued, Self::Refused, Self::Failed];

    /// The word in metrics and in the admin port.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Of all listeners.
#[derive(Debug, Default)]
pub(super) struct TlsMetrics {
    handshakes: Family<HandshakeLabels, Counter>,
    not_after: Family<CertificateLabels, Gauge>,
    orders: Family<OrderLabels, Counter>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    listeners: BTreeSet<Name>,
    /// What is ordered, by what it is called: the listeners that show it.
    ordered: BTreeMap<Name, Vec<Name>>,
    /// Of what is ordered, and there: its file, and when it ends.
    there: BTreeMap<Name, (String, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct HandshakeLabels {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct CertificateLabels {
    listener: String,
    file: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct OrderLabels {
    certificate: String,
    outcome: &'static str,
}

impl TlsMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("tls_handshakes", "Handshakes with clients, by outcome", self.handshakes.clone());
        registry.register(
            "tls_certificate_not_after_seconds",
            "When a certificate that is shown ends, since 1970",
            self.not_after.clone(),
        );
        registry.register(
            "tls_certificate_orders",
            "Orders of certificates from their authority, by outcome",
            self.orders.clone(),
        );
    }

    /// An order has ended.
    pub(super) fn ordered(&self, id: &Name, how: Ordering) {
        if self.known().ordered.contains_key(id) {
            self.orders.get_or_create(&order(id, how)).inc();
        }
    }

    /// What is ordered is there, in this file.
    pub(super) fn there(&self, id: &Name, file: &str, not_after_s: u64) {
        let known = &mut *self.known();
        let is = (file.to_owned(), i64::try_from(not_after_s).unwrap_or(i64::MAX));
        self.show(known.ordered.get(id), &is);
        known.there.insert(Name::clone(id), is);
    }

    fn show(&self, listeners: Option<&Vec<Name>>, (file, not_after): &(String, i64)) {
        for listener in listeners.into_iter().flatten() {
            let labels = CertificateLabels { listener: listener.to_string(), file: file.clone() };
            self.not_after.get_or_create(&labels).set(*not_after);
        }
    }

    /// A handshake has ended on this listener.
    pub(super) fn handshake(&self, listener: &Name, how: Handshake) {
        self.handshakes.get_or_create(&labels(listener, how)).inc();
    }

    /// Shows the certificates of this configuration, with zeros before anybody connects, and forgets other listeners.
    pub(super) fn in_force(&self, config: &Config) {
        let known = &mut *self.known();
        self.not_after.clear();
        let secured =
            config.listeners.iter().filter_map(|(name, listener)| Some((name, listener.tls.as_ref()?)));
        let (mut shown, mut ordered) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new());
        for (name, tls) in secured {
            shown.insert(Name::clone(name));
            for how in Handshake::ALL {
                drop(self.handshakes.get_or_create(&labels(name, how)));
            }
            for certificate in &tls.certificates {
                let labels =
                    CertificateLabels { listener: name.to_string(), file: certificate.file().to_string() };
                let not_after = i64::try_from(certificate.not_after().as_secs()).unwrap_or(i64::MAX);
                self.not_after.get_or_create(&labels).set(not_after);
            }
            if let Some(acme) = &tls.acme {
                ordered.entry(Name::clone(&acme.id)).or_default().push(Name::clone(name));
            }
        }
        for gone in known.listeners.difference(&shown) {
            for how in Handshake::ALL {
                self.handshakes.remove(&labels(gone, how));
            }
        }
        for gone in known.ordered.keys().filter(|id| !ordered.contains_key(*id)) {
            for how in Ordering::ALL {
                self.orders.remove(&order(gone, how));
            }
        }
        for id in ordered.keys() {
            for how in Ordering::ALL {
                drop(self.orders.get_or_create(&order(id, how)));
            }
        }
        known.there.retain(|id, _| ordered.contains_key(id));
        for (id, is) in &known.there {
            self.show(ordered.get(id), is);
        }
        (known.listeners, known.ordered) = (shown, ordered);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn labels(listener: &Name, how: Handshake) -> HandshakeLabels {
    HandshakeLabels { listener: listener.to_string(), outcome: how.word() }
}

fn order(id: &Name, how: Ordering) -> OrderLabels {
    OrderLabels { certificate: id.to_string(), outcome: how.word() }
}
