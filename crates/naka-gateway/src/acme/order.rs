//! One order: from the key of the account to a certificate (RFC 8555 §7).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, Key, NewOrder, Order, OrderStatus,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{authority::Authority, cut};
use crate::{
    config::checked::Acme,
    observe::CertificateOrder,
    tls::{Challenged, Ordered},
};

/// How long an order may take.
const ORDER: Duration = Duration::from_mins(10);
/// The first pause before it is looked how far an order is; each is twice as long as the one before.
const LOOK: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_LOOK: Duration = Duration::from_secs(15);

/// Why there is no certificate.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: String,
    pub(super) how: CertificateOrder,
}

impl Trouble {
    /// Something here, or on the way.
    pub(super) fn failed(what: impl Into<String>) -> Self {
        Self { what: cut(&what.into()), how: CertificateOrder::Failed }
    }

    /// The authority does not want to.
    fn refused(what: impl Into<String>) -> Self {
        Self { what: cut(&what.into()), how: CertificateOrder::Refused }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match &error {
            Error::Api(problem) if problem.status.is_none_or(|status| status < 500) => {
                Self::refused(chain(&error))
            }
            error => Self::failed(chain(error)),
        }
    }
}

impl From<rcgen::Error> for Trouble {
    fn from(error: rcgen::Error) -> Self {
        Self::failed(format!("a certificate cannot be asked for: {error}"))
    }
}

/// An error, and what is behind it.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut said, mut next) = (error.to_string(), error.source());
    while let Some(error) = next {
        let text = error.to_string();
        if !said.ends_with(&text) {
            said = format!("{said}: {text}");
        }
        next = error.source();
    }
    said
}

/// Orders a certificate, and answers for its hosts meanwhile: its key, and then the certificate and those that lead to the
/// authority, in PEM.
///
/// # Errors
/// If there is none. Nothing of the order is left.
pub(super) async fn order(
    acme: &Acme,
    account: KeyPair,
    ordered: &Arc<Ordered>,
    authority: &Authority,
) -> Result<String, Trouble> {
    let order = timeout(ORDER, place(acme, account, ordered, authority)).await;
    order.unwrap_or_else(|_| Err(Trouble::failed("the order was not done in 10 minutes")))
}

async fn place(
    acme: &Acme,
    account: KeyPair,
    ordered: &Arc<Ordered>,
    authority: &Authority,
) -> Result<String, Trouble> {
    let der = PrivatePkcs8KeyDer::from(account.serialize_der());
    let key = Key::from_pkcs8_der(der.clone_key())?;
    let client = Account::builder_with_http(Box::new(authority.clone()));
    // With a key that it knows an authority hands out the account there is (RFC 8555 §7.3).
    let (account, _) =
        client.create_from_key((key, PrivateKeyDer::Pkcs8(der)), acme.directory.to_string()).await?;
    if !acme.contact.is_empty() {
        account.update_contacts(&acme.contact.iter().map(|it| &**it).collect::<Vec<_>>()).await?;
    }
    let hosts = acme.domains.iter().map(|domain| Identifier::Dns(domain.to_string())).collect::<Vec<_>>();
    let mut order = account.new_order(&NewOrder::new(&hosts)).await?;
    let answering = answer(&mut order, acme, ordered).await?;
    if order.state().status == OrderStatus::Pending {
        progress(&mut order, authority, |status| status != OrderStatus::Pending).await?;
    }
    drop(answering);
    let key = KeyPair::generate()?;
    if order.state().status == OrderStatus::Ready {
        let mut params = CertificateParams::new(names(acme))?;
        params.distinguished_name = DistinguishedName::new();
        order.finalize_csr(params.serialize_request(&key)?.der()).await?;
    }
    let is_over = |status| matches!(status, OrderStatus::Valid | OrderStatus::Invalid);
    if !is_over(order.state().status) {
        progress(&mut order, authority, is_over).await?;
    }
    let chain = order.certificate().await?.ok_or_else(|| Trouble::failed("there is no certificate yet"))?;
    Ok(format!("{}{chain}", key.serialize_pem()))
}

fn names(acme: &Acme) -> Vec<String> {
    acme.domains.iter().map(ToString::to_string).collect()
}

/// Shows what the authority wants to see of each host, and tells it to look, until what is handed back is dropped.
async fn answer(
    order: &mut Order,
    acme: &Acme,
    ordered: &Arc<Ordered>,
) -> Result<BTreeMap<Arc<str>, Challenged>, Trouble> {
    let mut answering = BTreeMap::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(Trouble::refused(format!("an authorization is {status:?}"))),
        }
        let named = match authorization.identifier().identifier {
            Identifier::Dns(name) => name.to_ascii_lowercase(),
            other => return Err(Trouble::refused(format!("it was not asked for {other:?}"))),
        };
        let Some(host) = acme.domains.iter().find(|domain| ***domain == *named) else {
            return Err(Trouble::refused(format!("it was not asked for `{named}`")));
        };
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge = challenge.ok_or_else(|| {
            Trouble::refused(format!(
                "the authority does not offer the challenge `tls-alpn-01` for `{named}`"
            ))
        })?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([named.clone()])?;
        let digest = challenge.key_authorization().digest();
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
        let certificate = params.self_signed(&key)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let challenged =
            ordered.challenge(&named, certificate.der().clone(), key).map_err(Trouble::failed)?;
        answering.insert(Arc::clone(host), challenged);
        challenge.set_ready().await?;
    }
    Ok(answering)
}

/// Looks how far an order is, until it is so far. The time of all of it bounds how often.
async fn progress(
    order: &mut Order,
    authority: &Authority,
    is_far: impl Fn(OrderStatus) -> bool,
) -> Result<(), Trouble> {
    let mut pause = LOOK;
    loop {
        sleep(pause).await;
        let state = order.refresh().await?;
        let (status, error) = (state.status, state.error.clone());
        if status == OrderStatus::Invalid {
            let why = match error {
                Some(problem) => Some(problem.to_string()),
                None => why(order).await,
            };
            return Err(Trouble::refused(why.unwrap_or("the order is invalid, and nobody says why".into())));
        }
        if is_far(status) {
            return Ok(());
        }
        pause = authority.asked().unwrap_or(pause * 2).clamp(LOOK, LONGEST_LOOK);
    }
}

/// What the authority says of a host that it did not find right.
async fn why(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let host = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else { continue };
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return Some(format!("`{host}`: {problem}"));
        }
    }
    None
}
