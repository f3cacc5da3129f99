//! A collector of OpenTelemetry, and the trees that come together there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{span::SpanKind, status::StatusCode},
};
use prost::Message as _;

use crate::process::eventually;

/// A span.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) events: Vec<String>,
    /// Whether its status is an error.
    pub(crate) has_failed: bool,
    trace: Vec<u8>,
}

impl Node {
    pub(crate) fn says(&self, key: &str) -> Option<&str> {
        self.attributes.get(key).map(String::as_str)
    }

    fn told(&self) -> String {
        let kind = if self.kind == SpanKind::Server { "" } else { " →" };
        format!("{} {}{kind}", self.service, self.name)
    }
}

/// Keeps what it is sent.
#[derive(Clone)]
pub(crate) struct Collector {
    pub(crate) at: SocketAddr,
    spans: Arc<Mutex<Vec<Node>>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let it = Self { at: listener.local_addr().unwrap(), spans: Arc::default() };
        let collector = it.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let collector = collector.clone();
                thread::spawn(move || _ = collector.serve(stream.unwrap()));
            }
        });
        it
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut first, mut length) = (String::new(), 0);
            if stream.read_line(&mut first)? == 0 {
                return Ok(());
            }
            assert!(first.starts_with("POST /v1/traces "), "{first}");
            loop {
                let mut field = String::new();
                stream.read_line(&mut field)?;
                if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if field == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            let message = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            self.spans.lock().unwrap().extend(nodes(message));
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    }

    /// The tree of the request with this number, when so many spans of it are there.
    #[track_caller]
    pub(crate) fn tree(&self, request: &Tree, count: usize) -> Tree {
        eventually(&format!("{count} spans of {}", request.trace), || {
            Some(self.so_far(request)).filter(|tree| tree.spans.len() >= count)
        })
    }

    /// What is there of it by now.
    pub(crate) fn so_far(&self, request: &Tree) -> Tree {
        let spans = self.spans.lock().unwrap();
        let spans = spans.iter().filter(|it| hex(&it.trace) == request.trace).cloned().collect();
        Tree { spans, ..request.clone() }
    }
}

/// The spans of one trace.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) spans: Vec<Node>,
    pub(crate) trace: String,
    pub(crate) parent: String,
}

impl Tree {
    /// Of a request that is still to be sent.
    pub(crate) fn new(number: u64) -> Self {
        Self {
            spans: Vec::new(),
            trace: format!("{:032x}", 0xbaaa_0000_0000_0000_u128 + u128::from(number)),
            parent: format!("{:016x}", 0xf00d),
        }
    }

    pub(crate) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.parent)
    }

    /// `parent > child`, each by its service and name; of a CLIENT span with `→`.
    pub(crate) fn edges(&self) -> BTreeSet<String> {
        let edge = |child: &Node| {
            let parent = self.spans.iter().find(|it| it.id == child.parent);
            let parent = parent.map_or_else(
                || {
                    assert_eq!(hex(&child.parent), self.parent, "an orphan: {child:?} of {:#?}", self.spans);
                    "client".to_owned()
                },
                Node::told,
            );
            format!("{parent} > {}", child.told())
        };
        self.spans.iter().map(edge).collect()
    }

    /// All of it, each span on a line below its parent: by service and name, of a CLIENT span with `→`, of one that has failed with
    /// `!`. Children stand in the order of their names.
    pub(crate) fn drawn(&self) -> String {
        let ids = self.spans.iter().map(|it| hex(&it.id)).chain([self.parent.clone()]);
        let ids = ids.collect::<BTreeSet<_>>();
        let orphans = self.spans.iter().filter(|it| !ids.contains(&hex(&it.parent)));
        let orphans = orphans.map(|it| format!("an orphan: {}\n", it.told()));
        orphans.collect::<String>() + &self.below(&self.parent, 0)
    }

    fn below(&self, parent: &str, depth: usize) -> String {
        let child = |it: &Node| {
            let mark = if it.has_failed { " !" } else { "" };
            format!("{:indent$}{}{mark}\n", "", it.told(), indent = 2 * depth)
                + &self.below(&hex(&it.id), depth + 1)
        };
        let children = self.spans.iter().filter(|it| hex(&it.parent) == parent);
        let mut children = children.map(child).collect::<Vec<_>>();
        children.sort();
        children.concat()
    }

    pub(crate) fn of(&self, service: &str, kind: SpanKind) -> Vec<&Node> {
        self.spans.iter().filter(|it| it.service == service && it.kind == kind).collect()
    }
}

fn nodes(message: ExportTraceServiceRequest) -> Vec<Node> {
    let mut nodes = Vec::new();
    for of_resource in message.resource_spans {
        let service =
            map(&of_resource.resource.unwrap_or_default().attributes).remove("service.name").unwrap();
        for span in of_resource.scope_spans.into_iter().flat_map(|it| it.spans) {
            nodes.push(Node {
                service: service.clone(),
                kind: span.kind(),
                name: span.name.clone(),
                attributes: map(&span.attributes),
                has_failed: span.status.as_ref().is_some_and(|it| it.code() == StatusCode::Error),
                events: span.events.iter().map(|it| it.name.clone()).collect(),
                id: span.span_id,
                parent: span.parent_span_id,
                trace: span.trace_id,
            });
        }
    }
    nodes
}

fn map(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |it: &KeyValue| match it.value.as_ref().unwrap().value.as_ref().unwrap() {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|it| (it.key.clone(), text(it))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}
