//! A request that is only thought of, as the command line or the admin port is asked about it.

use std::{net::IpAddr, sync::Arc};

use clap::Args;
use http::{HeaderName, HeaderValue, Method, Uri, header::HOST};
use serde_json::{Value, json};

use crate::{
    address::{Source, UNIX},
    config::checked::{Config, TestRequest},
};

/// A request to explain, as it was written: the arguments of `naka explain`, and the fields of `POST /explain`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `POST http://host/path`; without a method it is GET
    pub request: String,
    /// A header of it: `Name: value`
    #[arg(short = 'H', long = "header")]
    pub headers: Vec<String>,
    /// Where it comes from, `unix:` for a Unix socket; if nothing is said, 127.0.0.1, or the listener's Unix socket
    #[arg(long)]
    pub client_ip: Option<String>,
    /// The listener it arrives at
    #[arg(long)]
    pub listener: Option<String>,
    /// The claims of a token that counts, `{"sub":"asha","tier":"plus"}`, or only who it is
    #[arg(long, value_name = "CLAIMS")]
    pub jwt: Option<String>,
    /// Whose API key it has
    #[arg(long, value_name = "SUBJECT")]
    pub api_key: Option<String>,
    /// Who it is to those who check passwords, or ask another service
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// A header with which another service lets it in: `Name: value`
    #[arg(long, value_name = "HEADER")]
    pub forward_auth: Vec<String>,
}

impl Asked {
    /// For the admin port.
    pub fn to_json(&self) -> Value {
        json!({
            "request": self.request, "headers": self.headers,
            "client_ip": self.client_ip, "listener": self.listener,
            "jwt": self.jwt, "api_key": self.api_key, "identity": self.identity,
            "forward_auth": self.forward_auth,
        })
    }

    /// From the admin port.
    ///
    /// # Errors
    /// A sentence.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let text = |key: &str| match &value[key] {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.clone())),
            other => Err(format!("`{key}` is a text, not {other}")),
        };
        let headers = |key: &str| match &value[key] {
            Value::Null => Ok(Vec::new()),
            Value::Array(all) => {
                let wrong = |one: &Value| format!("a header is a text `Name: value`, not {one}");
                let header = |one: &Value| one.as_str().map(str::to_owned).ok_or(wrong(one));
                all.iter().map(header).collect::<Result<Vec<_>, _>>()
            }
            other => Err(format!("`{key}` is a list, not {other}")),
        };
        let request = text("request")?.ok_or("`request` is missing: write `GET http://host/path`")?;
        Ok(Self {
            request,
            headers: headers("headers")?,
            client_ip: text("client_ip")?,
            listener: text("listener")?,
            jwt: text("jwt")?,
            api_key: text("api_key")?,
            identity: text("identity")?,
            forward_auth: headers("forward_auth")?,
        })
    }

    /// Makes a request of it that can be explained.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write.
    pub fn check(&self, config: &Config) -> Result<TestRequest, String> {
        let (method, url) = self.request.trim().split_once(' ').unwrap_or(("GET", self.request.trim()));
        let method = method.parse::<Method>().map_err(|_| format!("`{method}` is no method"))?;
        let url = url.trim();
        let uri = url.parse::<Uri>().map_err(|error| format!("`{url}` is no URL: {error}"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("`{url}` has no host: write `{method} http://host/path`"));
        };
        let source = |text: &String| match text.parse::<IpAddr>() {
            Ok(address) => Ok(Source::Ip(address)),
            Err(_) if text == UNIX => Ok(Source::Unix),
            Err(_) => Err(format!("`{text}` is no address")),
        };
        let listener = |name: &String| {
            let known = || config.listeners.keys().map(|name| &**name).collect::<Vec<_>>().join("`, `");
            let found = config.listeners.get_key_value(name.as_str()).map(|(name, _)| name.clone());
            found.ok_or_else(|| format!("there is no listener `{name}`; there is `{}`", known()))
        };
        let headers = self.headers.iter().map(|text| header(text)).collect::<Result<Vec<_>, _>>()?;
        if headers.iter().any(|(name, _)| name == HOST) {
            return Err("the host stands in the URL: leave `Host` out".into());
        }
        Ok(TestRequest {
            method,
            scheme: scheme.into(),
            host: authority.as_str().into(),
            target: uri.path_and_query().cloned().ok_or(format!("`{url}` has no path"))?,
            headers,
            source: self.client_ip.as_ref().map(source).transpose()?,
            listener: self.listener.as_ref().map(listener).transpose()?,
            jwt: self.jwt.as_deref().map(claims).transpose()?,
            api_key: self.api_key.as_deref().map(Arc::from),
            identity: self.identity.as_deref().map(Arc::from),
            forward_auth: self.forward_auth.iter().map(|text| header(text)).collect::<Result<_, _>>()?,
        })
    }
}

/// An object, or who it is alone.
fn claims(text: &str) -> Result<Arc<str>, String> {
    if !text.trim_start().starts_with('{') {
        return Ok(json!({"sub": text}).to_string().into());
    }
    match serde_json::from_str::<serde_json::Map<String, Value>>(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => {
            Err(format!("`{text}` are no claims: {error}; write `{{\"sub\":\"asha\"}}`, or `asha`"))
        }
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{text}` is no header: write `Name: value`");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = name.trim().parse().map_err(|_| wrong())?;
    Ok((name, value.trim().parse().map_err(|_| wrong())?))
}
