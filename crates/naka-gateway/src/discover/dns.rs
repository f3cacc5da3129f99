//! Endpoints by name.

use std::{collections::BTreeSet, fmt, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use naka::{balance::Target, random::seed};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Discover, Look,
    names::{Answer, Names, Question, Sum, Wanted},
    rules::Rules,
};

/// How long one question may take, with all that is tried.
const QUESTION: Duration = Duration::from_secs(10);

/// Questions that are under way at once.
const AT_ONCE: usize = 16;

/// How long the others are waited for once there is something to say: a family that nobody answers for, or one target
/// of many, keeps no endpoint waiting.
const GRACE: Duration = Duration::from_secs(1);

/// What is due already is asked for soon and not at once: nothing here may spin.
const MOMENT: Duration = Duration::from_millis(100);

/// Answers questions about names: the seam for tests under virtual time.
pub trait Resolve: Send + Sync + 'static {
    /// Asks; an error is a text that says what went wrong.
    fn resolve(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;
}

/// Endpoints whose names are resolved.
pub struct Dns {
    names: Names,
    resolver: Arc<dyn Resolve>,
    rules: Rules,
    start: Instant,
    /// Questions that are under way. They outlive a look.
    asking: JoinSet<(Question, Result<Answer, String>)>,
    open: BTreeSet<Question>,
}

impl Dns {
    /// Nothing has been asked.
    pub fn new(wanted: Wanted, resolver: Arc<dyn Resolve>, rules: Rules) -> Self {
        let (names, start) = (Names::new(wanted), Instant::now());
        Self { names, resolver, rules, start, asking: JoinSet::new(), open: BTreeSet::new() }
    }

    /// Asks what is due, each question once, and hears what becomes of it. Once there is an endpoint, the rest of the
    /// answers is waited for no longer than [`GRACE`].
    async fn ask(&mut self, anew: bool) {
        let mut seen = self.open.clone();
        let mut due = BTreeSet::from_iter(self.names.due(self.start.elapsed(), anew));
        // What is doubted is not confirmed by what was said before.
        let hurries = |this: &Self| (!anew && this.has_found()).then(|| Instant::now() + GRACE);
        let mut until = hurries(self);
        loop {
            due.retain(|question| !seen.contains(question));
            while self.asking.len() < AT_ONCE
                && let Some(question) = due.pop_first()
            {
                seen.insert(question.clone());
                self.begin(question);
            }
            let joined = match until {
                None => self.asking.join_next().await,
                Some(until) => match timeout_at(until, self.asking.join_next()).await {
                    Ok(joined) => joined,
                    Err(_) => return,
                },
            };
            match joined {
                Some(Ok((question, said))) => self.hear(question, said),
                Some(Err(_)) => {} // It panicked, and is found below.
                None => break,
            }
            due.extend(self.names.due(self.start.elapsed(), false)); // Targets of a service, for example.
            until = until.or_else(|| hurries(self));
        }
        for question in std::mem::take(&mut self.open) {
            self.hear(question, Err("asking panicked".into()));
        }
    }

    fn begin(&mut self, question: Question) {
        let asking = self.resolver.resolve(question.clone());
        self.open.insert(question.clone());
        self.asking.spawn(async move {
            let said = timeout(QUESTION, asking).await;
            (question, said.unwrap_or_else(|_| Err("no answer in time".into())))
        });
    }

    fn hear(&mut self, question: Question, said: Result<Answer, String>) {
        self.open.remove(&question);
        let said = said.map_err(|why| format!("{} {}: {why}", question.name, question.kind));
        self.names.hear(question, said, (&self.rules, self.start.elapsed(), seed()));
    }

    fn has_found(&self) -> bool {
        self.names.sum().found.is_some_and(|found| !found.is_empty())
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Discover for Dns {
    fn look(&mut self, anew: bool) -> Pin<Box<dyn Future<Output = Look> + Send + '_>> {
        Box::pin(async move {
            self.ask(anew).await;
            let Sum { found, trouble } = self.names.sum();
            let target =
                |(address, weight): (SocketAddr, u32)| Target::new(address.to_string()).weight(weight);
            let found = found.map(|found| found.into_iter().map(target).collect());
            let next = self.names.next().saturating_sub(self.start.elapsed()).max(MOMENT);
            let again = if self.open.is_empty() { next } else { GRACE };
            Look { found, trouble, again }
        })
    }
}

/// Those of this machine, or these.
#[cfg(feature = "dns")]
pub(super) fn name_servers(servers: &[SocketAddr]) -> Arc<dyn Resolve> {
    Arc::new(NameServers::new(servers))
}

/// Nobody: this was built without.
#[cfg(not(feature = "dns"))]
pub(super) fn name_servers(_: &[SocketAddr]) -> Arc<dyn Resolve> {
    struct Nobody;
    impl Resolve for Nobody {
        fn resolve(&self, _: Question) -> Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>> {
            Box::pin(std::future::ready(Err("built without the feature `dns`".to_owned())))
        }
    }
    Arc::new(Nobody)
}

#[cfg(feature = "dns")]
pub use real::NameServers;

#[cfg(feature = "dns")]
mod real {
    use std::{
        fmt,
        sync::{Mutex, PoisonError},
    };

    use hickory_resolver::{
        TokioResolver,
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::{DnsError, NetError, runtime::TokioRuntimeProvider},
        proto::rr::{RData, RecordType},
    };

    use super::{Answer, Duration, Instant, Pin, Question, Resolve, SocketAddr};
    use crate::discover::names::{Kind, Record, Service};

    /// How long what the machine says about its name servers and hosts is believed.
    const RENEW: Duration = Duration::from_mins(5);

    /// What nothing is good for, where nobody says.
    const NOTHING: Duration = Duration::from_secs(30);

    /// Asks name servers, over UDP and, for what is too long, over TCP.
    pub struct NameServers {
        servers: Vec<SocketAddr>,
        made: Mutex<Option<(Instant, TokioResolver)>>,
    }

    impl NameServers {
        /// These; or those of this machine, with its search list and its hosts.
        pub fn new(servers: &[SocketAddr]) -> Self {
            Self { servers: servers.to_vec(), made: Mutex::default() }
        }

        /// Made anew now and then, as a machine's name servers change with its networks.
        fn resolver(&self) -> Result<TokioResolver, NetError> {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((since, resolver)) = &*made
                && since.elapsed() < RENEW
            {
                return Ok(resolver.clone());
            }
            let mut builder = if self.servers.is_empty() {
                TokioResolver::builder_tokio()?
            } else {
                let servers = self.servers.iter().copied().map(name_server).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            };
            builder.options_mut().cache_size = 0; // Answers are kept here, each for as long as it is good.
            let resolver = builder.build()?;
            *made = Some((Instant::now(), resolver.clone()));
            Ok(resolver)
        }
    }

    impl fmt::Debug for NameServers {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("NameServers").field("servers", &self.servers).finish_non_exhaustive()
        }
    }

    impl Resolve for NameServers {
        fn resolve(
            &self,
            question: Question,
        ) -> Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>> {
            let resolver = self.resolver();
            Box::pin(async move {
                let kind = match question.kind {
                    Kind::A => RecordType::A,
                    Kind::Aaaa => RecordType::AAAA,
                    Kind::Srv => RecordType::SRV,
                };
                match resolver.map_err(|error| error.to_string())?.lookup(&*question.name, kind).await {
                    Ok(lookup) => {
                        let ttl = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
                        let records = lookup.answers().iter().filter_map(|it| record(&it.data)).collect();
                        Ok(Answer { records, ttl: Duration::from_secs(ttl.into()) })
                    }
                    Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                        let ttl = none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into()));
                        Ok(Answer { records: Vec::new(), ttl: ttl.unwrap_or(NOTHING) })
                    }
                    Err(error) => Err(error.to_string()),
                }
            })
        }
    }

    fn name_server(address: SocketAddr) -> NameServerConfig {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    }

    fn record(data: &RData) -> Option<Record> {
        match data {
            RData::A(ip) => Some(Record::Address(ip.0.into())),
            RData::AAAA(ip) => Some(Record::Address(ip.0.into())),
            RData::SRV(srv) => Some(Record::Service(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_string().into(),
            })),
            _ => None, // A name on the way.
        }
    }
}
