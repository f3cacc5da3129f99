//! Sees to one certificate for as long as somebody wants it.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use naka::{
    clock::{Now, WallClock},
    random,
};
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{
    Doing, Means, Orders, Shared,
    authority::Authority,
    due::{due, pause},
    kept::Kept,
    order::{Trouble, order},
};
use crate::{
    config::{checked::Acme, show_time},
    observe::CertificateOrder,
    tls::Certificate,
};

/// How often it is looked whether another process has renewed what is kept. A clock that was set is noticed then, too.
const LOOK: Duration = Duration::from_hours(1);
/// How often it is looked whether another process is done with an order.
const ELSEWHERE: Duration = Duration::from_mins(1);

/// How long nothing is ordered at first: a process that starts may not accept connections yet, its authority's among them.
const SETTLED: Duration = Duration::from_secs(5);

pub(super) async fn follow(shared: Arc<Shared>, number: u64, acme: Arc<Acme>, means: Means) {
    let Orders::Placed(clock) = means.orders else {
        shared.looked.send_replace(true);
        return;
    };
    let kept = Arc::new(Kept::of(&acme));
    let failures = shared.status().failures;
    let mut it = Follower {
        shared,
        number,
        acme,
        means,
        clock,
        kept,
        failures,
        chance: random::seed(),
        unkept: None,
        told: None,
    };
    it.look(false).await;
    it.shared.looked.send_replace(true);
    if it.due_in().is_none() {
        it.say(Doing::Waiting, SETTLED);
        sleep(SETTLED).await;
    }
    it.go_on().await;
}

struct Follower {
    shared: Arc<Shared>,
    number: u64,
    acme: Arc<Acme>,
    means: Means,
    clock: WallClock,
    kept: Arc<Kept>,
    /// In a row.
    failures: u32,
    /// How much later than it could be the certificate that is shown is renewed.
    chance: u64,
    /// What is shown, and could not be written.
    unkept: Option<Arc<[u8]>>,
    /// What was last said of what is kept, so that it is said once.
    told: Option<String>,
}

impl Follower {
    async fn go_on(&mut self) {
        while self.shared.owner.load(Relaxed) == self.number {
            let pause = match self.due_in() {
                Some(left) => {
                    self.say(Doing::Waiting, left);
                    left.min(LOOK)
                }
                None => self.order_here().await,
            };
            sleep(pause).await;
            self.look(false).await;
        }
    }

    /// How long until the certificate is due; nothing if it is, or there is none.
    fn due_in(&self) -> Option<Duration> {
        let shown = self.shared.ordered.get().filter(|it| self.is_ours(it))?;
        let due = due([shown.not_before(), shown.not_after()], self.chance);
        due.checked_sub(self.now()).filter(|left| !left.is_zero())
    }

    /// What another one has left to be shown meanwhile is not.
    fn is_ours(&self, certificate: &Certificate) -> bool {
        *certificate.file() == self.kept.file()
    }

    fn now(&self) -> Duration {
        self.clock.unix(Now::read()).unwrap_or_default()
    }

    /// Takes what is kept, if it is newer than what is shown. Whoever has the lock sets aside what is unfit.
    async fn look(&mut self, sets_aside: bool) {
        if let Some(pem) = self.unkept.clone() {
            let kept = Arc::clone(&self.kept);
            if blocking(move || kept.keep(&pem)).await.is_ok() {
                self.unkept = None;
            }
        }
        let kept = Arc::clone(&self.kept);
        match blocking(move || kept.certificate(sets_aside)).await {
            Ok(None) => {}
            Ok(Some(certificate)) => {
                let shown = self.shared.ordered.get().filter(|it| self.is_ours(it));
                if shown.is_none_or(|shown| shown.not_after() < certificate.not_after()) {
                    self.put(certificate, "what is kept is shown");
                }
                self.told = None;
            }
            Err(why) => {
                if self.told.as_ref() != Some(&why) {
                    warn!(certificate = %self.acme.id, "what is kept cannot be shown: {why}");
                }
                self.told = Some(why);
            }
        }
    }

    /// From the next handshake on it is shown.
    fn put(&mut self, certificate: Arc<Certificate>, how: &str) {
        self.chance = random::seed();
        let until = certificate.not_after().as_secs();
        self.means.metrics.certificate_there(&self.acme.id, certificate.file(), until);
        self.shared.status().valid_until_s = Some(until);
        self.shared.ordered.put(certificate);
        info!(certificate = %self.acme.id, valid_until = show_time(until), "{how}");
    }

    /// Orders, unless another process does; and how long to wait then.
    async fn order_here(&mut self) -> Duration {
        let kept = Arc::clone(&self.kept);
        let lock = match blocking(move || kept.lock()).await {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                self.say(Doing::Elsewhere, ELSEWHERE);
                return ELSEWHERE;
            }
            Err(why) => return self.failed(&Trouble::failed(why), None),
        };
        self.look(true).await; // Whoever had the lock may have done it.
        if self.due_in().is_some() {
            return Duration::ZERO;
        }
        self.shared.status().doing = Doing::Ordering;
        info!(certificate = %self.acme.id, directory = %self.acme.directory, "a certificate is ordered");
        let (connector, tls) = (self.means.connector.clone(), self.acme.tls.clone());
        let authority = Authority::new(connector, tls, self.clock);
        let done = self.order(&authority).await;
        drop(lock);
        match done {
            Ok(()) => {
                self.means.metrics.certificate_ordered(&self.acme.id, CertificateOrder::Issued);
                self.failures = 0;
                let status = &mut *self.shared.status();
                (status.failures, status.last_error) = (0, self.unkept.as_ref().and(self.told.clone()));
            }
            Err(trouble) => return self.failed(&trouble, authority.asked()),
        }
        // One that is due at once would be ordered for ever.
        if self.due_in().is_none() {
            let why = "the new certificate is due already: is the clock right?";
            return self.failed(&Trouble::failed(why), None);
        }
        Duration::ZERO
    }

    async fn order(&mut self, authority: &Authority) -> Result<(), Trouble> {
        let kept = Arc::clone(&self.kept);
        let account = blocking(move || kept.account()).await.map_err(Trouble::failed)?;
        let pem = order(&self.acme, account, &self.shared.ordered, authority).await?;
        let pem = Arc::<[u8]>::from(pem.into_bytes());
        let unfit = |why| Trouble::failed(format!("what the authority gave is unfit: {why}"));
        let certificate = self.kept.fit(&pem).map_err(unfit)?;
        let (kept, file) = (Arc::clone(&self.kept), Arc::clone(&pem));
        if let Err(why) = blocking(move || kept.keep(&file)).await {
            let why =
                format!("the new certificate cannot be kept, and is ordered again after a restart: {why}");
            warn!(certificate = %self.acme.id, "{why}");
            (self.unkept, self.told) = (Some(pem), Some(why));
        } else {
            self.unkept = None;
        }
        self.put(certificate, "a new certificate is shown");
        Ok(())
    }

    fn failed(&mut self, trouble: &Trouble, asked: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = pause(self.failures, asked, random::seed());
        self.means.metrics.certificate_ordered(&self.acme.id, trouble.how);
        let shown = if self.shared.ordered.get().is_some() {
            "what is shown stays"
        } else {
            "handshakes for its hosts fail until there is one"
        };
        warn!(
            certificate = %self.acme.id, directory = %self.acme.directory, failures = self.failures,
            again_in = ?Duration::from_secs(pause.as_secs()),
            "the order of a certificate has {}: {}; {shown}", trouble.how.word(), trouble.what
        );
        {
            let status = &mut *self.shared.status();
            (status.failures, status.last_error) = (self.failures, Some(trouble.what.clone()));
        }
        self.say(Doing::Failing, pause);
        pause
    }

    fn say(&self, doing: Doing, again_in: Duration) {
        let again = (self.now() + again_in).as_secs();
        let status = &mut *self.shared.status();
        (status.doing, status.again_s) = (doing, Some(again));
    }
}

/// Disks and locks are waited for elsewhere.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err("the work on the folder panicked".into()))
}
