//! Metrics of TLS with clients.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::config::checked::{Config, Name};

/// What became of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It has begun a session.
    Done,
    /// It has resumed one.
    Resumed,
    /// One side did not like what the other has.
    Failed,
    /// The client took too long.
    TimedOut,
}

impl Handshake {
    const ALL: [Self; 4] = [Self::Done, Self::Resumed, Self::Failed, Self::TimedOut];

    const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

/// Of all listeners.
#[derive(Debug, Default)]
pub(super) struct TlsMetrics {
    handshakes: Family<HandshakeLabels, Counter>,
    not_after: Family<CertificateLabels, Gauge>,
    listeners: Mutex<BTreeSet<Name>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    listener: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    listener: String,
    file: String,
}

impl TlsMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("tls_handshakes", "Handshakes with clients, by outcome", self.handshakes.clone());
        registry.register(
            "tls_certificate_not_after_seconds",
            "When a certificate that is shown ends, since 1970",
            self.not_after.clone(),
        );
    }

    /// A handshake has ended on this listener.
    pub(super) fn handshake(&self, listener: &Name, how: Handshake) {
        self.handshakes.get_or_create(&labels(listener, how)).inc();
    }

    /// Shows the certificates of this configuration, with zeros before anybody connects, and forgets other listeners.
    pub(super) fn in_force(&self, config: &Config) {
        self.not_after.clear();
        let secured =
            config.listeners.iter().filter_map(|(name, listener)| Some((name, listener.tls.as_ref()?)));
        let mut shown = BTreeSet::new();
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
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in listeners.difference(&shown) {
            for how in Handshake::ALL {
                self.handshakes.remove(&labels(gone, how));
            }
        }
        *listeners = shown;
    }
}

fn labels(listener: &Name, how: Handshake) -> HandshakeLabels {
    HandshakeLabels { listener: listener.to_string(), outcome: how.word() }
}
