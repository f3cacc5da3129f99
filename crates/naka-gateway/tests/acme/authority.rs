//! An authority as RFC 8555 says it, with one thing more: it can be told to fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64, Engine as _};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use naka::clock::{Now, WallClock};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs::default_provider,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _, asn1::OctetString, oid::ObjectIdentifier},
    ext::pkix::{SubjectAltName, name::GeneralName},
    request::CertReq,
};

use super::client::{ACME, dial_anybody};

/// What its URLs begin with, until it is known where it is.
const HERE: &str = "https://acme.example";

/// A stream of bytes to whoever answers for a host.
pub(crate) type Pipe = Box<dyn Duplex>;

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Reach = dyn Fn(&str) -> Pin<Box<dyn Future<Output = io::Result<Pipe>> + Send>> + Send + Sync;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// What it should.
    Well,
    /// It closes each connection.
    Down,
    /// It takes no orders, for so long.
    Limited(Duration),
    /// It finds that no host is whose it should be.
    Doubtful,
    /// It takes orders, and looks at no host.
    Slow,
}

/// The authority; clones are the same one.
#[derive(Clone)]
pub(crate) struct Authority {
    clock: WallClock,
    /// What its URLs begin with.
    here: Arc<str>,
    issuer: Arc<CertifiedIssuer<'static, KeyPair>>,
    /// How its own site is secured.
    site: Arc<ServerConfig>,
    reach: Arc<Mutex<Arc<Reach>>>,
    books: Arc<Mutex<Books>>,
}

pub(crate) struct Books {
    pub(crate) mood: Mood,
    pub(crate) lifetime: Duration,
    /// Accounts, and how often somebody wanted one.
    pub(crate) accounts: Vec<Value>,
    pub(crate) account_requests: usize,
    pub(crate) contacts: Vec<Value>,
    /// Orders that were asked for, refused ones included.
    pub(crate) asked: usize,
    pub(crate) certificates: usize,
    /// Hosts that were found to be whose they should be.
    pub(crate) validated: Vec<String>,
    orders: Vec<Order>,
    nonces: BTreeSet<String>,
    last_nonce: u64,
}

struct Order {
    domains: Vec<String>,
    thumbprint: String,
    /// By host: pending, valid, or why it is not.
    hosts: BTreeMap<String, Result<bool, String>>,
    pem: Option<String>,
}

impl Order {
    fn status(&self) -> &'static str {
        let hosts = || self.hosts.values();
        match &self.pem {
            Some(_) => "valid",
            None if hosts().any(Result::is_err) => "invalid",
            None if hosts().all(|it| *it == Ok(true)) => "ready",
            None => "pending",
        }
    }

    fn json(&self, number: usize) -> Value {
        let all = self.domains.iter().enumerate();
        let mut it = json!({
            "status": self.status(),
            "identifiers": self.domains.iter().map(|it| json!({"type": "dns", "value": it})).collect::<Vec<_>>(),
            "authorizations": all.map(|(place, _)| format!("{HERE}/authz/{number}/{place}")).collect::<Vec<_>>(),
            "finalize": format!("{HERE}/finalize/{number}"),
        });
        if self.pem.is_some() {
            it["certificate"] = json!(format!("{HERE}/certificate/{number}"));
        }
        it
    }

    fn authorization(&self, number: usize, place: usize) -> Value {
        let host = &self.domains[place];
        let status = match &self.hosts[host] {
            Ok(true) => "valid",
            Ok(false) => "pending",
            Err(_) => "invalid",
        };
        json!({
            "identifier": {"type": "dns", "value": host},
            "status": status,
            "challenges": [
                {"type": "http-01", "url": format!("{HERE}/never"), "token": "no", "status": "pending"},
                self.challenge(number, place),
            ],
        })
    }

    fn challenge(&self, number: usize, place: usize) -> Value {
        let mut it = json!({
            "type": "tls-alpn-01", "url": format!("{HERE}/challenge/{number}/{place}"),
            "token": token(number, place), "status": "pending",
        });
        if let Err(why) = &self.hosts[&self.domains[place]] {
            it["status"] = json!("invalid");
            it["error"] = problem("unauthorized", why);
        }
        it
    }
}

fn token(number: usize, place: usize) -> String {
    format!("token-{number}-{place}")
}

impl Authority {
    /// One that knows what time it is; its site can be verified by its own certificate.
    pub(crate) fn new(clock: WallClock, here: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["acme.example".to_owned(), "localhost".to_owned()];
        let site = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let site = builder.with_single_cert(vec![site.der().clone()], key.into()).unwrap();
        let books = Books {
            mood: Mood::Well,
            lifetime: Duration::from_hours(24 * 90),
            accounts: Vec::new(),
            account_requests: 0,
            contacts: Vec::new(),
            asked: 0,
            certificates: 0,
            validated: Vec::new(),
            orders: Vec::new(),
            nonces: BTreeSet::new(),
            last_nonce: 0,
        };
        Self {
            clock,
            here: here.into(),
            issuer: Arc::new(issuer),
            site: Arc::new(site),
            reach: Arc::new(Mutex::new(Arc::new(nobody))),
            books: Arc::new(Mutex::new(books)),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.books().mood = mood;
    }

    /// Where it finds whoever answers for a host.
    pub(crate) fn reaches(
        &self,
        reach: impl Fn(&str) -> Pin<Box<dyn Future<Output = io::Result<Pipe>> + Send>> + Send + Sync + 'static,
    ) {
        *self.reach.lock().unwrap() = Arc::new(reach);
    }

    /// It finds nobody any more.
    pub(crate) fn reaches_nobody(&self) {
        self.reaches(nobody);
    }

    /// One connection of a client.
    pub(crate) async fn serve(self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        if self.books().mood == Mood::Down {
            return;
        }
        let Ok(stream) = TlsAcceptor::from(Arc::clone(&self.site)).accept(stream).await else { return };
        let service = service_fn(|request| {
            let this = self.clone();
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = head.uri.path().trim_start_matches('/').to_owned();
        let (status, location, content) = match (&head.method, &*path) {
            (&Method::GET, "directory") => (StatusCode::OK, None, Self::directory()),
            (&Method::HEAD, "nonce") => (StatusCode::OK, None, json!(null)),
            (&Method::POST, _) => {
                assert_eq!(head.headers["content-type"], "application/jose+json");
                self.post(&path, &serde_json::from_slice(&body).unwrap())
            }
            _ => (StatusCode::NOT_FOUND, None, problem("malformed", "there is nothing")),
        };
        let mut response = Response::builder().status(status).header("replay-nonce", self.nonce());
        if let Some(location) = location {
            response = response.header("location", format!("{}{location}", self.here));
        }
        if let (Mood::Limited(pause), StatusCode::TOO_MANY_REQUESTS) = (self.books().mood, status) {
            response = response.header("retry-after", pause.as_secs());
        }
        let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
        let content = match content {
            Value::String(pem) => pem,
            Value::Null => String::new(),
            content => content.to_string().replace(HERE, &self.here),
        };
        response.header("content-type", kind).body(Full::new(content.into())).unwrap()
    }

    fn directory() -> Value {
        json!({
            "newNonce": format!("{HERE}/nonce"), "newAccount": format!("{HERE}/account"),
            "newOrder": format!("{HERE}/order"), "revokeCert": format!("{HERE}/never"),
            "keyChange": format!("{HERE}/never"), "meta": {"termsOfService": format!("{HERE}/terms")},
        })
    }

    fn nonce(&self) -> String {
        let books = &mut *self.books();
        books.last_nonce += 1;
        let nonce = format!("nonce-{}", books.last_nonce);
        books.nonces.insert(nonce.clone());
        nonce
    }

    /// What is asked for in a JWS (RFC 7515), which has to be right.
    fn post(&self, path: &str, jws: &Value) -> (StatusCode, Option<String>, Value) {
        let decoded = |key: &str| BASE64.decode(jws[key].as_str().unwrap()).unwrap();
        let head: Value = serde_json::from_slice(&decoded("protected")).unwrap();
        let payload: Value = serde_json::from_slice(&decoded("payload")).unwrap_or_default();
        assert_eq!(head["url"], format!("{}/{path}", self.here));
        if !self.books().nonces.remove(head["nonce"].as_str().unwrap()) {
            return (StatusCode::BAD_REQUEST, None, problem("badNonce", "it was used"));
        }
        let jwk = match head["kid"].as_str() {
            None => head["jwk"].clone(),
            Some(kid) => {
                let number = kid.rsplit('/').next().unwrap().parse::<usize>().unwrap();
                self.books().accounts[number].clone()
            }
        };
        let signed = format!("{}.{}", jws["protected"].as_str().unwrap(), jws["payload"].as_str().unwrap());
        let part = |key: &str| BASE64.decode(jwk[key].as_str().unwrap()).unwrap();
        let key = [vec![4], part("x"), part("y")].concat();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key);
        key.verify(signed.as_bytes(), &decoded("signature")).expect("the signature is that of the account");
        let steps = path.split('/').collect::<Vec<_>>();
        let number = |place: usize| steps[place].parse::<usize>().unwrap();
        match steps[..] {
            ["account"] => self.account(jwk, &payload),
            ["account", _] => {
                self.books().contacts.push(payload["contact"].clone());
                (StatusCode::OK, None, json!({"status": "valid"}))
            }
            ["order"] => self.order(&jwk, &payload),
            ["order", _] => (StatusCode::OK, None, self.books().orders[number(1)].json(number(1))),
            ["authz", ..] => {
                let it = self.books().orders[number(1)].authorization(number(1), number(2));
                (StatusCode::OK, None, it)
            }
            ["challenge", ..] => {
                if self.books().mood != Mood::Slow {
                    tokio::spawn(self.clone().look(number(1), number(2)));
                }
                (StatusCode::OK, None, self.books().orders[number(1)].challenge(number(1), number(2)))
            }
            ["finalize", _] => self.finalize(number(1), payload["csr"].as_str().unwrap()),
            ["certificate", _] => (StatusCode::OK, None, json!(self.books().orders[number(1)].pem)),
            _ => (StatusCode::NOT_FOUND, None, problem("malformed", "there is nothing")),
        }
    }

    fn account(&self, jwk: Value, payload: &Value) -> (StatusCode, Option<String>, Value) {
        assert_eq!(payload["termsOfServiceAgreed"], true);
        let books = &mut *self.books();
        books.account_requests += 1;
        let known = books.accounts.iter().position(|it| it["x"] == jwk["x"]);
        let number = known.unwrap_or(books.accounts.len());
        if known.is_none() {
            books.accounts.push(jwk);
        }
        let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
        (status, Some(format!("/account/{number}")), json!({"status": "valid"}))
    }

    fn order(&self, jwk: &Value, payload: &Value) -> (StatusCode, Option<String>, Value) {
        let books = &mut *self.books();
        books.asked += 1;
        if let Mood::Limited(_) = books.mood {
            return (StatusCode::TOO_MANY_REQUESTS, None, problem("rateLimited", "too many certificates"));
        }
        let wanted = payload["identifiers"].as_array().unwrap();
        let domains = wanted.iter().map(|it| it["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let [x, y] = ["x", "y"].map(|key| jwk[key].as_str().unwrap());
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let thumbprint = BASE64.encode(digest(&SHA256, thumbprint.as_bytes()));
        let hosts = domains.iter().map(|host| (host.clone(), Ok(false))).collect();
        let (number, order) = (books.orders.len(), Order { domains, thumbprint, hosts, pem: None });
        let answer = order.json(number);
        books.orders.push(order);
        (StatusCode::CREATED, Some(format!("/order/{number}")), answer)
    }

    /// Looks whose a host is (RFC 8737 §3).
    async fn look(self, number: usize, place: usize) {
        let (host, wanted, mood) = {
            let books = self.books();
            let order = &books.orders[number];
            let authorization = format!("{}.{}", token(number, place), order.thumbprint);
            (order.domains[place].clone(), digest(&SHA256, authorization.as_bytes()), books.mood)
        };
        let found = match mood {
            Mood::Doubtful => Err("nobody answers there".to_owned()),
            _ => self.is_owned(&host, wanted.as_ref()).await.map(|()| true),
        };
        let books = &mut *self.books();
        if found.is_ok() {
            books.validated.push(host.clone());
        }
        books.orders[number].hosts.insert(host, found);
    }

    async fn is_owned(&self, host: &str, wanted: &[u8]) -> Result<(), String> {
        let reach = Arc::clone(&*self.reach.lock().unwrap());
        let stream = reach(host).await.map_err(|error| error.to_string())?;
        let stream = dial_anybody(stream, host, &[ACME]).await;
        let mut stream = stream.map_err(|error| format!("the handshake fails: {error}"))?;
        let (_, session) = stream.get_ref();
        assert_eq!(session.alpn_protocol(), Some(ACME));
        let shown = session.peer_certificates().unwrap();
        let shown = shown.first().unwrap().clone();
        assert_eq!(stream.read(&mut [0]).await.map_err(|error| error.to_string()), Ok(0), "it ends there");
        is_answer(&shown, host, wanted)
    }

    /// Signs what has signed itself, for the hosts that were ordered.
    fn finalize(&self, number: usize, csr: &str) -> (StatusCode, Option<String>, Value) {
        let csr = CertReq::from_der(&BASE64.decode(csr).unwrap()).unwrap();
        let spki = csr.info.public_key.subject_public_key.raw_bytes().to_vec();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki);
        let signature = csr.signature.raw_bytes();
        key.verify(&csr.info.to_der().unwrap(), signature).expect("the request is signed with its key");
        let now = self.clock.unix(Now::read()).unwrap();
        let books = &mut *self.books();
        let order = &mut books.orders[number];
        assert_eq!(order.status(), "ready");
        let mut params = CertificateParams::new(order.domains.clone()).unwrap();
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now;
        params.not_after = params.not_before + books.lifetime;
        let certificate = params.signed_by(&Subject(spki), &*self.issuer).unwrap();
        order.pem = Some(format!("{}{}", certificate.pem(), self.issuer.pem()));
        books.certificates += 1;
        (StatusCode::OK, None, order.json(number))
    }
}

/// Nobody answers.
fn nobody(_: &str) -> Pin<Box<dyn Future<Output = io::Result<Pipe>> + Send>> {
    Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
}

fn problem(kind: &str, detail: &str) -> Value {
    json!({"type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail})
}

/// What an authority has to find (RFC 8737 §3): the host alone, and what only the account's key can say, marked as critical.
fn is_answer(shown: &CertificateDer<'_>, host: &str, wanted: &[u8]) -> Result<(), String> {
    const ACME_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.31");
    let shown = Certificate::from_der(shown).unwrap();
    let said = shown.tbs_certificate();
    let (_, SubjectAltName(names)) = said.get_extension::<SubjectAltName>().unwrap().unwrap();
    let is_host = |name: &GeneralName| matches!(name, GeneralName::DnsName(it) if it.as_str() == host);
    if names.len() != 1 || !is_host(&names[0]) {
        return Err(format!("it is for {names:?}"));
    }
    let extension = said.extensions().unwrap().iter().find(|it| it.extn_id == ACME_IDENTIFIER);
    let extension = extension.ok_or("it has no acmeIdentifier")?;
    let said = OctetString::from_der(extension.extn_value.as_bytes()).unwrap();
    if extension.critical && said.as_bytes() == wanted { Ok(()) } else { Err("another answer".into()) }
}

/// The key of a request.
struct Subject(Vec<u8>);

impl PublicKeyData for Subject {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
