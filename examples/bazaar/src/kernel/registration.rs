//! A service says to a registry that it is there, and that it goes.
//!
//! # What happens
//! 1. Once the service listens, it is registered: in Consul with a check of `/readyz` every 10 s, which has to fail three
//!    times to count, and whose failing for a minute takes it out; in Eureka as up, for 90 s.
//! 2. Every [`RENEW`] that is said again: Consul may have forgotten, and in Eureka the lease runs out. A lease that Eureka
//!    does not know (404) is registered anew.
//! 3. On `SIGTERM` it is taken out, at most [`LEAVE`] is spent on that, and the service goes on serving for `--leave-for`,
//!    until whoever looks it up has heard of it. Then it stops as every service does.
//!
//! # Errors
//! A registry that is down is asked again, after a second at first and [`RENEW`] at most, and nobody waits for it: what is
//! amiss is told when it begins and when it ends. Each question takes [`PATIENCE`] at most.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, time::Duration};

use axum::{
    body::Bytes,
    http::{
        HeaderValue, Method, Request, StatusCode, Uri,
        header::{ACCEPT, CONTENT_TYPE},
    },
};
use clap::Args;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::console::{complain, say};

/// How often it is said again.
pub const RENEW: Duration = Duration::from_secs(30);

/// How long a question may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long taking oneself out may take.
pub const LEAVE: Duration = Duration::from_secs(5);

/// Where a service says that it is there.
#[derive(Args, Clone, Debug, Default)]
pub struct RegistrationArgs {
    /// Register there: `consul=http://127.0.0.1:8500` (with the token in `CONSUL_HTTP_TOKEN`, if there is one), or
    /// `eureka=http://127.0.0.1:8761/eureka`.
    #[arg(long, value_name = "REGISTRY")]
    pub register: Option<Registry>,
    /// What is said of it there besides, such as `version=v2`, `zone=mumbai-1`, `weight=3` or `capacity=50`.
    #[arg(long, value_name = "NAME=VALUE")]
    pub meta: Vec<Meta>,
    /// How many seconds it goes on serving after it was taken out: 3 for Consul; 70 for Eureka, whose servers and clients
    /// say what they knew for half a minute each.
    #[arg(long, value_name = "SECONDS")]
    pub leave_for: Option<u64>,
}

/// A registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registry {
    /// An agent of Consul.
    Consul(String),
    /// A server of Eureka.
    Eureka(String),
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, url) = text.split_once('=').unwrap_or((text, ""));
        let is_http = url.parse::<Uri>().is_ok_and(|uri| {
            uri.scheme_str() == Some("http") && uri.host().is_some() && uri.query().is_none()
        });
        let url = url.trim_end_matches('/').to_owned();
        match kind {
            "consul" | "eureka" if !is_http => {
                Err(format!("write a URL behind it: `{kind}=http://127.0.0.1:8500`"))
            }
            "consul" => Ok(Self::Consul(url)),
            "eureka" => Ok(Self::Eureka(url)),
            _ => Err("write `consul=http://127.0.0.1:8500` or `eureka=http://127.0.0.1:8761/eureka`".into()),
        }
    }
}

/// Something that is said of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta(String, String);

impl FromStr for Meta {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("write a name and a value: `version=v2`")?;
        Ok(Self(name.to_owned(), value.to_owned()))
    }
}

/// A service that says that it is there.
#[derive(Debug)]
pub struct Registration {
    instance: Instance,
    renewing: JoinHandle<()>,
    leave_for: Duration,
}

impl Registration {
    /// From now on, if that is wanted; it is done in the background.
    ///
    /// # Errors
    /// If the service listens where nobody else could find it.
    pub fn begin(name: &str, at: SocketAddr, args: &RegistrationArgs) -> Result<Option<Self>, String> {
        let Some(registry) = args.register.clone() else { return Ok(None) };
        if at.ip().is_unspecified() {
            return Err("nobody can be told to come there: listen at the address that others know, \
                        such as --listen 10.0.0.5:8201"
                .to_owned());
        }
        let leave_for = match &registry {
            Registry::Consul(_) => 3,
            Registry::Eureka(_) => 70,
        };
        let meta = args.meta.iter().map(|Meta(name, value)| (name.clone(), value.clone())).collect();
        let instance = Instance { registry, name: name.to_owned(), at, meta, client: client() };
        let renewing = tokio::spawn(instance.clone().renew());
        let leave_for = Duration::from_secs(args.leave_for.unwrap_or(leave_for));
        Ok(Some(Self { instance, renewing, leave_for }))
    }

    /// Takes it out, and waits until that is known.
    pub async fn leave(mut self) {
        self.renewing.abort();
        _ = (&mut self.renewing).await; // What is under way would put it in again.
        let (instance, leave_for) = (&self.instance, self.leave_for);
        let out = timeout(LEAVE, instance.take_out()).await;
        match out.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => {
                say(format_args!(
                    "{} is out of the registry, and serves for {leave_for:?} more",
                    instance.name
                ));
            }
            Err(why) => {
                complain(format_args!("{} cannot be taken out of the registry: {why}", instance.name));
            }
        }
        sleep(leave_for).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(PATIENCE));
    Client::builder(TokioExecutor::new()).build(connector)
}

/// What is registered.
#[derive(Clone, Debug)]
struct Instance {
    registry: Registry,
    name: String,
    at: SocketAddr,
    meta: BTreeMap<String, String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Instance {
    fn id(&self) -> String {
        format!("{}-{}-{}", self.name, self.at.ip(), self.at.port()).replace(':', "-")
    }

    async fn renew(self) {
        let (mut is_told, mut is_there, mut pause) = (false, false, Duration::from_secs(1));
        loop {
            let said = timeout(PATIENCE, self.say_so(is_there)).await;
            match said.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                Ok(()) => {
                    if !is_there || is_told {
                        say(format_args!("{} is in the registry as {}", self.name, self.id()));
                    }
                    (is_told, is_there, pause) = (false, true, Duration::from_secs(1));
                    sleep(RENEW).await;
                }
                Err(why) => {
                    if !is_told {
                        complain(format_args!(
                            "{} cannot be registered, it is tried again: {why}",
                            self.name
                        ));
                    }
                    is_told = true;
                    sleep(pause).await;
                    pause = (pause * 2).min(RENEW);
                }
            }
        }
    }

    /// Once more, or for the first time.
    async fn say_so(&self, is_there: bool) -> Result<(), String> {
        match &self.registry {
            Registry::Consul(url) => {
                let url = format!("{url}/v1/agent/service/register?replace-existing-checks=true");
                done(self.ask(Method::PUT, &url, Some(self.for_consul())).await?)
            }
            Registry::Eureka(url) => {
                let app = format!("{url}/apps/{}", self.name.to_uppercase());
                if is_there {
                    let lease = self.ask(Method::PUT, &format!("{app}/{}", self.id()), None).await?;
                    if lease != StatusCode::NOT_FOUND {
                        return done(lease);
                    }
                }
                done(self.ask(Method::POST, &app, Some(self.for_eureka())).await?)
            }
        }
    }

    async fn take_out(&self) -> Result<(), String> {
        let id = self.id();
        let status = match &self.registry {
            Registry::Consul(url) => {
                self.ask(Method::PUT, &format!("{url}/v1/agent/service/deregister/{id}"), None).await?
            }
            Registry::Eureka(url) => {
                let name = self.name.to_uppercase();
                self.ask(Method::DELETE, &format!("{url}/apps/{name}/{id}"), None).await?
            }
        };
        if status == StatusCode::NOT_FOUND { Ok(()) } else { done(status) }
    }

    fn for_consul(&self) -> Value {
        json!({
            "ID": self.id(), "Name": self.name, "Address": self.at.ip().to_string(), "Port": self.at.port(),
            "Meta": self.meta,
            "Check": {
                "HTTP": format!("http://{}/readyz", self.at), "Interval": "10s", "Timeout": "2s", "Status": "passing",
                "FailuresBeforeCritical": 3, "SuccessBeforePassing": 2, "DeregisterCriticalServiceAfter": "1m",
            },
        })
    }

    fn for_eureka(&self) -> Value {
        let (host, port) = (self.at.ip().to_string(), self.at.port());
        json!({"instance": {
            "instanceId": self.id(), "app": self.name.to_uppercase(), "hostName": host, "ipAddr": host,
            "vipAddress": self.name, "status": "UP", "port": {"$": port, "@enabled": "true"},
            "securePort": {"$": 443, "@enabled": "false"},
            "healthCheckUrl": format!("http://{}/readyz", self.at),
            "dataCenterInfo": {
                "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn",
            },
            "leaseInfo": {"renewalIntervalInSecs": RENEW.as_secs(), "durationInSecs": 3 * RENEW.as_secs()},
            "metadata": self.meta,
        }})
    }

    async fn ask(&self, method: Method, url: &str, body: Option<Value>) -> Result<StatusCode, String> {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder().method(method).uri(url);
        let request = request.header(ACCEPT, "application/json").header(CONTENT_TYPE, "application/json");
        let mut request = request.body(Full::from(body)).map_err(|error| error.to_string())?;
        if let Registry::Consul(_) = self.registry
            && let Ok(token) = std::env::var("CONSUL_HTTP_TOKEN")
        {
            let token = HeaderValue::from_str(&token);
            let mut token = token.map_err(|_| "CONSUL_HTTP_TOKEN cannot stand in a header".to_owned())?;
            token.set_sensitive(true);
            request.headers_mut().insert("x-consul-token", token);
        }
        let response = self.client.request(request).await.map_err(|error| format!("{url}: {error}"))?;
        Ok(response.status()) // What else it says is not read: the connection is not kept.
    }
}

fn done(status: StatusCode) -> Result<(), String> {
    if status.is_success() { Ok(()) } else { Err(format!("the answer is {status}")) }
}
