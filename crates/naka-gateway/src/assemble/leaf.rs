//! What is innermost: whoever answers, or sends on.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use naka::{
    clock::Now,
    compose::{Call, Compose},
    context::{ApiVersion, Upgrade},
    fallback::AnyBody,
    mirror::{MirrorBody, MirrorLayer},
    reject::{Reason, Rejection},
    retry::Replay,
    split::SplitArm,
    trace::Format,
    version::VersionLayer,
};

use tower_service::Service as _;

use super::{given, withheld};
use crate::{
    carry::Carried,
    compose,
    compress::Compress,
    config::checked::{self, Config, Destination, Name, Redirect, Respond, Route as RouteConfig},
    deadline::Deadlines,
    entry,
    generation::{ArmPlan, ArmTarget, Arms, Plan},
    observe::{Balancer, CallMetrics, Metrics, PolicyMetrics},
    stack::{Arm, ArmLayers, Leaf, Route},
    state::{Speaking, State},
    transform::{Transform, redirected},
    upstream::{Body, Client, Connector, Outgoing, Pools},
    versions,
};

/// What is innermost, for one worker.
pub(super) struct Leaves<'a> {
    pub(super) config: &'a Config,
    pub(super) state: &'a State,
    pub(super) pools: &'a Carried<Speaking, Arc<Pools>>,
    pub(super) connector: &'a Connector,
    /// How endpoints are told which trace a request is of.
    pub(super) propagators: &'a Arc<[Format]>,
    pub(super) metrics: &'a Metrics,
}

impl Leaves<'_> {
    pub(super) fn route(&self, route: &RouteConfig, plan: &Arc<Plan>) -> Route {
        let target = match &route.destination {
            Destination::Upstream(upstream) => Target::Upstream(Box::new(self.client(upstream, route))),
            Destination::Respond(respond) => Target::Respond(respond.clone()),
            Destination::Redirect(redirect) => Target::Redirect(redirect.clone()),
            Destination::Versions(_) => Target::Versions(self.arms(route, &plan.arms)),
            Destination::Split(_) => Target::Split(self.arms(route, &plan.arms)),
            Destination::Compose(compose) => Target::Compose(self.composed(route, compose, plan)),
            Destination::ListVersions(routes) => {
                let layer = |route: &Name| Some((Arc::clone(route), self.state.versions.get(route)?.clone()));
                Target::ListVersions(routes.iter().filter_map(layer).collect())
            }
        };
        let mut layers = plan.layers.clone();
        layers.mirror = self.mirror(route, &plan.transform, layers.mirror);
        if let Some(alternate) = &plan.alternate {
            let (plan, target) = (Arc::clone(plan), Arc::new(Target::Alternate(self.arm(route, alternate))));
            layers.fallback = layers
                .fallback
                .to(Leaf(move |request: Request<AnyBody>| answered(&plan, &target, request.map(Body::from))));
        }
        let (plan, target) = (Arc::clone(plan), Arc::new(target));
        layers.around(move |request| answered(&plan, &target, request))
    }

    /// The calls of a route, each through what stands before its upstream.
    fn composed(&self, route: &RouteConfig, is: &checked::Compose, plan: &Plan) -> Composer {
        // Who is given up from outside is nobody's failure: so it ends here, a little before the call does, and breakers hear of it.
        let arm = |call: &Call| {
            let plan = plan.arms.get(&call.name);
            plan.map_or_else(Arm::nowhere, |plan| self.arm_within(route, plan, Some(call.timeout * 9 / 10)))
        };
        let given = given(&is.given);
        let headers = compose::sent(self.config, route, is);
        let calls = self.metrics.calls(&plan.name, is.plan.calls().iter().map(|call| &call.name));
        let made = is.plan.clone().sending(headers, is.headers.clone());
        Compose::observed(made, given, arm, calls)
    }

    fn arms(&self, route: &RouteConfig, arms: &Arms) -> BTreeMap<Arc<str>, Arm> {
        arms.iter().map(|(name, plan)| (Arc::clone(name), self.arm(route, plan))).collect()
    }

    fn arm(&self, route: &RouteConfig, plan: &Arc<ArmPlan>) -> Arm {
        self.arm_within(route, plan, None)
    }

    /// With an end to each attempt, if it is before that of its upstream.
    fn arm_within(&self, route: &RouteConfig, plan: &Arc<ArmPlan>, limit: Option<Duration>) -> Arm {
        let behind = Arc::new(match &plan.to {
            ArmTarget::Upstream(upstream) => {
                let mut client = self.client(upstream, route);
                client.timeouts.per_try = client.timeouts.per_try.into_iter().chain(limit).min();
                Behind::Upstream(Box::new(client))
            }
            ArmTarget::Split(arms) => Behind::Split(self.arms(route, arms)),
        });
        let leaf_plan = Arc::clone(plan);
        let mut layers = plan.layers.clone();
        layers.mirror = self.mirror(route, &plan.transform, layers.mirror);
        Arm::new(layers.stack(Leaf(move |request: Request<Replay<Replay<MirrorBody<Body>>>>| {
            let mut request = Outgoing::from(request.map(Body::from));
            let (plan, behind) = (Arc::clone(&leaf_plan), Arc::clone(&behind));
            Box::pin(async move {
                match &*behind {
                    Behind::Upstream(client) => send(&plan.transform, client, &mut request).await,
                    Behind::Split(arms) => split(arms, request.take()).await,
                }
            })
        })))
    }

    /// The same copies, over this worker's connections. They are what the upstream of the route would see, and go by
    /// the balancer of their own.
    fn mirror(&self, route: &RouteConfig, transform: &Transform, layer: Mirroring) -> Mirroring {
        let Some((_, mirror)) = self.config.mirror(route).filter(|_| !layer.is_off()) else { return layer };
        let upstream = Arc::clone(&mirror.upstream);
        let balance = self.state.balancers.get(&upstream).cloned().unwrap_or_else(Balancer::off);
        let mut transform = transform.clone();
        // What takes the place of withheld credentials is withheld, too.
        let withheld = withheld(self.config, route, mirror);
        let edit = &mut transform.headers.request;
        edit.set.retain(|(name, _)| !withheld.contains(name));
        edit.add.retain(|(name, _)| !withheld.contains(name));
        let to = ArmTarget::Upstream(upstream);
        let plan = ArmPlan { layers: ArmLayers::balanced(balance), transform, to };
        // Who is given up from outside is nobody's failure: so it ends here, a little before the copy does, and counts.
        let arm = self.arm_within(route, &Arc::new(plan), Some(mirror.timeout * 9 / 10));
        layer.to(Leaf(move |copy: Request<Bytes>| {
            let arm = arm.clone();
            async move { arm.call(copy.map(Body::from)).await }
        }))
    }

    fn client(&self, name: &Name, route: &RouteConfig) -> Client {
        let upstream = &self.config.upstreams[name];
        let mut timeouts = upstream.timeouts;
        if let Some(idle) = route.idle_timeout {
            timeouts.idle = idle;
        }
        if let Some(idle) = route.tunnel_idle {
            timeouts.tunnel_idle = idle;
        }
        Client {
            name: Arc::clone(name),
            pools: self.pools.get(name).map(Arc::clone).unwrap_or_default(),
            timeouts,
            keep_alive: upstream.keep_alive,
            connections: upstream.connections,
            all_connections: self.config.gateway.limits.upstream_connections,
            connector: self.connector.clone(),
            deadlines: Deadlines::named(self.config),
            propagators: Arc::clone(self.propagators),
            metrics: self.metrics.upstream(name),
        }
    }
}

/// Makes one answer of several.
type Composer = Compose<Arm, CallMetrics>;

type Mirroring = MirrorLayer<Arc<PolicyMetrics>>;

enum Target {
    Upstream(Box<Client>),
    Respond(Respond),
    Redirect(Redirect),
    Versions(BTreeMap<Arc<str>, Arm>),
    Split(BTreeMap<Arc<str>, Arm>),
    Alternate(Arm),
    Compose(Composer),
    ListVersions(Vec<(Name, VersionLayer<Arc<PolicyMetrics>>)>),
}

/// What is behind the layers of an arm.
enum Behind {
    Upstream(Box<Client>),
    Split(BTreeMap<Arc<str>, Arm>),
}

/// What is innermost, at work on one request.
fn answered(
    plan: &Arc<Plan>,
    target: &Arc<Target>,
    request: Request<Body>,
) -> impl Future<Output = Response<Body>> + use<> {
    let (plan, target, mut request) = (Arc::clone(plan), Arc::clone(target), Outgoing::from(request));
    async move {
        if let Some(compress) = compressed(&plan, &request) {
            let is_sent = matches!(
                &*target,
                Target::Upstream(_) | Target::Versions(_) | Target::Split(_) | Target::Alternate(_)
            );
            // In a box of its own: it is larger, and the others shall not pay for that.
            let changed = async |request: Request<Body>| changed(&plan, &target, &mut request.into()).await;
            return Box::pin(compress.around(request.take(), is_sent, changed)).await;
        }
        changed(&plan, &target, &mut request).await
    }
}

/// What makes the answer smaller, if that is done.
fn compressed<'p>(plan: &'p Plan, request: &Outgoing) -> Option<&'p Compress> {
    // Whoever repeats a request may understand less than whoever sent it first.
    let is_for_one = !plan.is_kept || request.head.method.is_safe();
    let compress = plan.compress.as_ref().filter(|_| is_for_one)?;
    (!Upgrade::is_asked(&request.head.extensions)).then_some(compress)
}

async fn changed(plan: &Plan, target: &Target, request: &mut Outgoing) -> Response<Body> {
    // Few ask, and what the request was is not kept.
    let is_https = plan.transform.headers.security && entry::scheme(&request.head.headers) == "https";
    let mut response = match target {
        Target::Upstream(client) => {
            // As `send`, which would keep all of this once more.
            if let Err(rejection) = plan.transform.request(&mut request.head) {
                rejection.into_response()
            } else {
                client.exchange(request).await
            }
        }
        Target::Respond(respond) => responded(respond),
        Target::Redirect(redirect) => {
            redirected(redirect, &request.head, entry::scheme(&request.head.headers))
        }
        Target::Versions(arms) => {
            let arm = ApiVersion::of(&request.head.extensions).and_then(|version| arms.get(version));
            along(arm, request.take()).await
        }
        Target::Split(arms) => split(arms, request.take()).await,
        Target::Alternate(arm) => arm.call(request.take()).await,
        Target::Compose(composer) => {
            let Ok(response) = composer.clone().call(request.take()).await;
            response
        }
        Target::ListVersions(layers) => versions::list(layers, Now::of(&request.head.extensions)),
    };
    plan.transform.response(&mut response, is_https);
    response
}

/// To the arm that the split has chosen.
async fn split(arms: &BTreeMap<Arc<str>, Arm>, request: Request<Body>) -> Response<Body> {
    along(SplitArm::of(request.extensions()).and_then(|arm| arms.get(arm)), request).await
}

/// Boxed in the arm, where it is the larger one.
fn along(arm: Option<&Arm>, request: Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
    match arm {
        Some(arm) => arm.begin(request),
        // Whatever is chosen has an arm.
        None => Box::pin(async { Rejection::new(Reason::NoEndpoint).into_response() }),
    }
}

/// Sends a request on, as its endpoint shall see it.
async fn send(transform: &Transform, client: &Client, request: &mut Outgoing) -> Response<Body> {
    // What is matched upon would be kept as long as the exchange lasts.
    if let Err(rejection) = transform.request(&mut request.head) {
        return rejection.into_response();
    }
    client.exchange(request).await
}

/// The answer that the configuration says.
pub(super) fn responded<B: From<Bytes>>(respond: &Respond) -> Response<B> {
    let mut response = Response::new(B::from(respond.body.clone()));
    *response.status_mut() = respond.status;
    if !respond.body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, respond.content_type.clone());
    }
    response
}
