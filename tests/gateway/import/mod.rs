//! `naka import`: what resources of a cluster become, and what becomes of requests then.

mod command;
mod conformance;
mod istio;
mod mesh;
mod odd;
mod order;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use naka_gateway::{
    address::Address,
    import::{Api, Imported, Level, Options, import},
};
use naka_testkit::upstream::{Upstream, ok};

use crate::inside::Inside;

/// The configuration, and what is said of it.
fn imported(api: Api, yaml: &str, options: &Options) -> Imported {
    import(api, &[("cluster.yaml".into(), yaml.into())], options)
        .unwrap_or_else(|why| panic!("{why:?}\n{yaml}"))
}

/// With these endpoints: services, or subsets of them, by name.
fn with_endpoints(of: &[&str]) -> Options {
    let lines = of.iter().map(|name| format!("{name}: ['{}:80']\n", name.replace('/', "-")));
    Options {
        endpoints: Some(("endpoints.yaml".into(), lines.collect::<String>().into())),
        ..Options::default()
    }
}

/// What was found of one level: the line, and the message.
fn found(imported: &Imported, level: Level) -> Vec<(usize, &str)> {
    let findings = imported.report.findings().iter().filter(|it| it.level == level);
    findings.map(|it| (it.place.line(), &*it.message)).collect()
}

/// A gateway with what was imported, and for each of these a server that answers with its name.
struct Running {
    gateway: Inside,
    servers: Vec<(String, Upstream)>,
}

impl Running {
    fn new(yaml: &str, servers: &[&str]) -> Self {
        let gateway = Inside::new(yaml);
        let servers = servers.iter().map(|name| {
            let says = Arc::<str>::from(*name);
            let address = format!("{}:80", name.replace('/', "-"));
            let server = Upstream::inside(&gateway.network, &address, move |_| ok(&says));
            ((*name).to_owned(), server)
        });
        let servers = servers.collect();
        Self { gateway, servers }
    }

    /// The answer to one request at a port.
    async fn ask(&self, port: u16, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let stream = self.gateway.connect_at(Address::Tcp(([0, 0, 0, 0], port).into()));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
        Response::from_parts(head, body)
    }

    fn server(&self, name: &str) -> &Upstream {
        &self.servers.iter().find(|(it, _)| it == name).unwrap().1
    }
}

/// `METHOD http://host/path`, and headers.
fn request(line: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let (method, url) = line.split_once(' ').unwrap();
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let request = Request::builder().method(method.parse::<Method>().unwrap()).uri(path).header("host", host);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::default()).unwrap()
}
