//! What is innermost: whoever answers, or sends on.

use std::{collections::BTreeMap, sync::Arc};

use http::{Request, Response, header::CONTENT_TYPE};
use naka::{
    clock::Now,
    context::ApiVersion,
    reject::{Reason, Rejection},
    retry::Replay,
    version::VersionLayer,
};

use crate::{
    carry::Carried,
    config::checked::{Config, Destination, Name, Redirect, Respond, Route as RouteConfig},
    entry,
    generation::{ArmPlan, Plan},
    observe::PolicyMetrics,
    stack::{Arm, Leaf, Route, RouteBody, Stack},
    state::State,
    transform::{Transform, redirected},
    upstream::{Body, Client, Connector, LayeredBody, Pools},
    versions,
};

/// What is innermost, for one worker.
pub(super) struct Leaves<'a> {
    pub(super) config: &'a Config,
    pub(super) state: &'a State,
    pub(super) pools: &'a Carried<(), Arc<Pools>>,
    pub(super) connector: &'a Connector,
}

impl Leaves<'_> {
    pub(super) fn route(&self, route: &RouteConfig, plan: &Arc<Plan>) -> Route {
        let target = match &route.destination {
            Destination::Upstream(upstream) => Target::Upstream(Box::new(self.client(upstream, route))),
            Destination::Respond(respond) => Target::Respond(respond.clone()),
            Destination::Redirect(redirect) => Target::Redirect(redirect.clone()),
            Destination::Versions(_) => {
                let arm =
                    |(version, arm): (&Arc<str>, &Arc<ArmPlan>)| (Arc::clone(version), self.arm(route, arm));
                Target::Versions(plan.arms.iter().map(arm).collect())
            }
            Destination::ListVersions(routes) => {
                let layer = |route: &Name| Some((Arc::clone(route), self.state.versions.get(route)?.clone()));
                Target::ListVersions(routes.iter().filter_map(layer).collect())
            }
        };
        Route::new(stack(plan, Arc::new(target)))
    }

    fn arm(&self, route: &RouteConfig, plan: &Arc<ArmPlan>) -> Arm {
        let (client, leaf_plan) = (Arc::new(self.client(&plan.upstream, route)), Arc::clone(plan));
        Arm::new(plan.layers.stack(Leaf(move |request: Request<Replay<Body>>| {
            let request = request.map(Body::from);
            let (plan, client) = (Arc::clone(&leaf_plan), Arc::clone(&client));
            async move { send(&plan.transform, &client, request).await }
        })))
    }

    fn client(&self, name: &Name, route: &RouteConfig) -> Client {
        let upstream = &self.config.upstreams[name];
        let mut timeouts = upstream.timeouts;
        if let Some(idle) = route.idle_timeout {
            timeouts.idle = idle;
        }
        Client {
            name: Arc::clone(name),
            pools: self.pools.get(name).map(Arc::clone).unwrap_or_default(),
            timeouts,
            keep_alive: upstream.keep_alive,
            connector: self.connector.clone(),
        }
    }
}

enum Target {
    Upstream(Box<Client>),
    Respond(Respond),
    Redirect(Redirect),
    Versions(BTreeMap<Arc<str>, Arm>),
    ListVersions(Vec<(Name, VersionLayer<Arc<PolicyMetrics>>)>),
}

/// The one place where the stack's type is made.
fn stack(plan: &Arc<Plan>, target: Arc<Target>) -> impl Stack<RouteBody> {
    let leaf_plan = Arc::clone(plan);
    plan.layers.stack(Leaf(move |request: Request<Replay<LayeredBody>>| {
        answer(Arc::clone(&leaf_plan), Arc::clone(&target), request.map(Body::from))
    }))
}

async fn answer(plan: Arc<Plan>, target: Arc<Target>, request: Request<Body>) -> Response<Body> {
    match &plan.compress {
        // Whoever repeats a request may understand less than whoever sent it first.
        Some(compress) if !plan.is_kept || request.method().is_safe() => {
            let is_sent = matches!(&*target, Target::Upstream(_) | Target::Versions(_));
            compress.around(request, is_sent, |request| changed(&plan, &target, request)).await
        }
        _ => changed(&plan, &target, request).await,
    }
}

async fn changed(plan: &Plan, target: &Target, request: Request<Body>) -> Response<Body> {
    let is_https = entry::scheme(request.headers()) == "https";
    let mut response = match target {
        Target::Upstream(client) => send(&plan.transform, client, request).await,
        Target::Respond(respond) => responded(respond),
        Target::Redirect(redirect) => {
            let (parts, _) = request.into_parts();
            redirected(redirect, &parts, entry::scheme(&parts.headers))
        }
        Target::Versions(arms) => match ApiVersion::of(request.extensions()).and_then(|is| arms.get(is)) {
            Some(arm) => arm.call(request).await,
            None => Rejection::new(Reason::NoEndpoint).into_response(), // Each version has an arm.
        },
        Target::ListVersions(layers) => versions::list(layers, Now::of(request.extensions())),
    };
    plan.transform.response(&mut response, is_https);
    response
}

/// Sends a request on, as its endpoint shall see it.
async fn send(transform: &Transform, client: &Client, request: Request<Body>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    match transform.request(&mut parts) {
        Ok(()) => client.exchange(Request::from_parts(parts, body)).await,
        Err(rejection) => rejection.into_response(),
    }
}

fn responded(respond: &Respond) -> Response<Body> {
    let mut response = Response::new(Body::from(respond.body.clone()));
    *response.status_mut() = respond.status;
    if !respond.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, respond.content_type.clone());
    }
    response
}
