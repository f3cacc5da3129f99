//! `naka import`: configurations out of the resources of a cluster.
//!
//! 1. Documents are read with their lines (`resources`, `fields`). Whatever a resource says is taken by somebody who knows
//!    what becomes of it, or it is told: nothing is passed over.
//! 2. One of the two APIs (`istio`, `gateway_api`) makes rules of them, in its own order, for listeners and hosts.
//! 3. `order` makes routes of the rules, of which the most specific is the first; `routes` names them.
//! 4. What comes out (`out`) is laid out as `naka fmt` does it, and read as `naka check` does it. If that finds a mistake, it is
//!    one of ours.
//!
//! Nothing is asked: no cluster, no name server. What only they know is told as something that is needed.
//!
//! # Limits
//! Those of reading a configuration, for each file; 1000 files. Findings are bounded, and so is what a list of rules may
//! become (`order`).

mod action;
mod fields;
mod gateway_api;
mod hosts;
mod istio;
mod listeners;
mod order;
mod out;
mod report;
mod resources;
mod routes;
mod services;

use std::{rc::Rc, sync::Arc};

pub use report::{Finding, Level, Report};

use crate::{
    assemble::unroutable,
    config::{Code, Cx, Diagnostics, Scalar as _, Source, Text, Time, format_str, parse_all, parse_str},
    custom::Kinds,
};
use listeners::{Listener, STAND_IN};
use out::{Block, Entry, Keys, Out};
use report::Findings;
use services::Endpoints;

/// Files that are imported together.
const MAX_FILES: usize = 1000;

/// Where resources come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Istio's own.
    Istio,
    /// The Gateway API of Kubernetes.
    GatewayApi,
}

/// What the resources do not say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of resources that say none.
    pub namespace: String,
    /// Whose account the gateway has whose place this one takes, as `cluster.local/ns/istio-system/sa/ingress`.
    pub identity: Option<String>,
    /// The day, or the time, at which imported faults end.
    pub faults_until: Option<String>,
    /// Where endpoints are: name and text of a file.
    pub endpoints: Option<(String, Arc<str>)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { namespace: "default".into(), identity: None, faults_until: None, endpoints: None }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Imported {
    /// The configuration.
    pub text: String,
    /// What was not carried over, or means something else.
    pub report: Report,
}

/// Why nothing did.
#[derive(Debug)]
pub enum Failure {
    /// A file cannot be read.
    Files(Diagnostics),
    /// There are too many.
    TooMany(usize),
    /// An option says what it cannot.
    Option(String),
    /// Nothing comes in anywhere: no listener comes of it. Why, the report says.
    Nothing(Report),
    /// What was written is wrong: a mistake of ours.
    Bug {
        /// What was written.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

/// All that is written.
struct Configuration {
    listeners: Vec<Listener>,
    blocks: Vec<Block>,
}

/// Makes a configuration of files: the name and the text of each.
///
/// # Errors
/// A file that is no YAML, or a mistake of ours. What resources say that is wrong is in the report.
pub fn import(api: Api, files: &[(String, Arc<str>)], options: &Options) -> Result<Imported, Failure> {
    if files.len() > MAX_FILES {
        return Err(Failure::TooMany(MAX_FILES));
    }
    if let Some(until) = &options.faults_until {
        Time::parse(Text { text: until, plain: false }).map_err(|wrong| Failure::Option(wrong.message))?;
    }
    let all = files.iter().chain(&options.endpoints);
    let sources = all.map(|(name, text)| Arc::new(Source::new(name, Arc::clone(text)))).collect::<Vec<_>>();
    let mut cx = Cx::new(sources.clone(), Rc::default(), Kinds::default());
    let mut documents = Vec::new();
    for (number, source) in sources.iter().enumerate().take(files.len()) {
        documents.extend(parse_all(source, number, &mut cx).unwrap_or_default());
    }
    let mapping = sources.get(files.len()).and_then(|source| parse_all(source, files.len(), &mut cx));
    let mapping = mapping.unwrap_or_default();
    let endpoints = mapping.first().map_or_else(Endpoints::none, |root| Endpoints::read(root, &mut cx));
    if !cx.is_clean() {
        return Err(Failure::Files(cx.finish()));
    }
    let mut findings = Findings::new(sources.clone());
    let resources = resources::resources(&documents, &options.namespace, &mut findings);
    let configuration = match api {
        Api::Istio => istio::import(&resources, options, &endpoints, &mut findings),
        Api::GatewayApi => gateway_api::import(&resources, &endpoints, &mut findings),
    };
    findings.of("endpoints");
    for (name, at) in endpoints.unused() {
        findings.error(at, format!("nothing leads to `{name}`"), "write it as resources name the service: `cart`, `cart.shop` or `cart.shop.svc.cluster.local`, with `/subset` behind it");
    }
    if configuration.listeners.is_empty() {
        return Err(Failure::Nothing(findings.finish()));
    }
    let text = configuration.text(api)?;
    Ok(Imported { text, report: findings.finish() })
}

impl Configuration {
    /// Laid out, and found to be right.
    fn text(self, api: Api) -> Result<String, Failure> {
        let bug = |text: &str, why: String| Failure::Bug { text: text.to_owned(), why };
        let raw = self.written(api, false);
        let text = format_str("imported", &raw).map_err(|why| bug(&raw, why.to_string()))?.text;
        // Certificates are not there yet, and whoever looks at a listener needs them: so another one is looked at.
        let stand_in = self.written(api, true);
        let (config, _) = match parse_str("imported", &stand_in) {
            Ok(right) => right,
            Err(found) => {
                let is_ours = |it: &&crate::config::Diagnostic| {
                    it.severity == crate::config::Severity::Error && it.code != Code::File
                };
                match found.iter().find(is_ours) {
                    Some(wrong) => return Err(bug(&text, format!("{}\n{found}", wrong.message))),
                    None => return Ok(text), // Only key sets that are not there yet.
                }
            }
        };
        match unroutable(&config.listeners, &config.routes).first() {
            None => Ok(text),
            Some(wrong) => Err(bug(&text, format!("on listener `{}`: {}", wrong.listener, wrong.error))),
        }
    }

    fn written(&self, api: Api, is_stand_in: bool) -> String {
        let of = match api {
            Api::Istio => "istio",
            Api::GatewayApi => "gateway-api",
        };
        let head =
            [format!("Written by `naka import {of}`. What was not carried over stands in its report.")];
        let listeners = self.listeners.iter().map(|it| it.written(is_stand_in)).collect();
        let mut blocks = vec![Block { name: "listeners", entries: listeners }];
        for Block { name, entries } in &self.blocks {
            let entries = entries.iter().cloned().map(|it| if is_stand_in { without_files(it) } else { it });
            blocks.push(Block { name, entries: entries.collect() });
        }
        if is_stand_in {
            let asks = Out::map([("jwks_url", Out::text("https://id.invalid/jwks"))]);
            let keys = vec![("jwt".to_owned(), asks)];
            let stand_in = Entry { name: STAND_IN.into(), remark: String::new(), keys };
            match blocks.iter_mut().find(|it| it.name == "policies") {
                Some(policies) => policies.entries.push(stand_in),
                None => blocks.push(Block { name: "policies", entries: vec![stand_in] }),
            }
        }
        out::written(&head, &[], &blocks)
    }
}

/// What asks for no files: an upstream; and a route whose rules ask who it is, with a token that says it where a certificate
/// would.
fn without_files(mut entry: Entry) -> Entry {
    entry.keys.retain(|(key, _)| key != "auth");
    let has = |key: &str| entry.keys.iter().any(|(it, _)| it == key);
    if has("authorize") && !has("use") {
        entry.keys.push(("use".into(), Out::texts([STAND_IN])));
    }
    let is_file = |key: &str| matches!(key, "ca" | "cert" | "key" | "verify_san");
    for (key, value) in &mut entry.keys {
        if let ("tls", Out::Map(keys)) = (key.as_str(), value) {
            let kept: Keys = std::mem::take(keys).into_iter().filter(|(key, _)| !is_file(key)).collect();
            *keys = kept;
        }
    }
    entry
}
