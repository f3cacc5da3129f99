//! The file's own tests.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, header::HOST, uri::PathAndQuery};

use super::{File, Tables, auth::claims_json, origin};
use crate::config::{
    checked::{Expect, Test, TestRequest},
    decode::{At, Cx, Named},
    diagnostic::Code,
    raw::{RawExpect, RawTest},
};

pub(super) fn tests(files: &[File], tables: &Tables<'_>, cx: &mut Cx) -> Vec<Test> {
    let all = files.iter().filter_map(|file| file.raw.as_ref()?.tests.as_ref()).flat_map(|it| &it.value);
    all.filter_map(|at| test(at, tables, cx)).collect()
}

fn test(at: &At<RawTest>, tables: &Tables<'_>, cx: &mut Cx) -> Option<Test> {
    let raw = &at.value;
    let with = raw.with.as_ref().map(|it| it.value.clone()).unwrap_or_default();
    let expect = raw.expect.as_ref().map(|it| expect(it, tables, cx));
    let listener = with.listener.as_ref().and_then(|name| tables.listeners.resolve(name, cx));
    let line = &raw.request.as_ref()?.value;
    let headers = with.headers.iter().flat_map(|it| &it.value.0);
    if let Some((name, _)) = headers.into_iter().find(|(name, _)| name.value == HOST) {
        cx.error(Code::Conflict, name.span, "the host stands in the URL of the request")
            .help("leave `host` out here, and write it in `request`: `GET http://host/path`");
    }
    let target = line.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    let request = TestRequest {
        method: line.method.clone(),
        scheme: line.uri.scheme_str().unwrap_or("http").into(),
        host: line.uri.authority().map_or("", |authority| authority.as_str()).into(),
        target,
        headers: named(with.headers.as_deref()),
        source: with.client_ip.as_ref().map(|at| at.value.into()),
        listener,
        jwt: with.jwt.as_ref().map(|it| claims_json(&it.value)),
        api_key: with.api_key.as_ref().map(|it| Arc::clone(&it.value)),
        identity: with.identity.as_ref().map(|it| Arc::clone(&it.value)),
        forward_auth: named(with.forward_auth.as_deref()),
    };
    Some(Test { request, expect: expect?, origin: origin(at.span, cx) })
}

fn named(headers: Option<&At<Named<HeaderName, HeaderValue>>>) -> Vec<(HeaderName, HeaderValue)> {
    let all = headers.into_iter().flat_map(|it| &it.value.0);
    all.filter_map(|(name, value)| Some((name.value.clone(), value.clone()?))).collect()
}

fn expect(at: &At<RawExpect>, tables: &Tables<'_>, cx: &mut Cx) -> Expect {
    let raw = &at.value;
    if raw.said.is_empty() {
        cx.error(Code::Missing, at.key, "a test that expects nothing")
            .help("write at least one of `route`, `upstream`, `status`, `path`: `expect: {route: all}`");
    }
    Expect {
        route: raw.route.as_ref().and_then(|name| tables.routes.resolve(name, cx)),
        upstream: raw.upstream.as_ref().and_then(|name| tables.upstreams.resolve(name, cx)),
        status: raw.status.as_ref().map(|it| it.value),
        path: raw.path.as_ref().map(|it| it.value.clone()),
    }
}
