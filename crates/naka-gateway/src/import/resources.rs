//! Documents to resources: kind, namespace, name, and where they stand.

use super::{fields::Fields, report::Findings};
use crate::config::{Node, Span};

/// One resource of a cluster.
pub(super) struct Resource<'a, 't> {
    /// The group of its API, without the version; empty for the core's.
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// When it was made, if that is known; RFC 3339, so that earlier is less.
    pub(super) created: Option<String>,
    /// Where its name stands.
    pub(super) at: Span,
    spec: Option<&'a Node<'t>>,
}

impl<'a, 't> Resource<'a, 't> {
    /// Kind, namespace and name.
    pub(super) fn title(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    /// What it asks for.
    pub(super) fn spec(&self, findings: &mut Findings) -> Fields<'a, 't> {
        findings.of(&self.title());
        match self.spec {
            Some(spec) => Fields::of(spec, "spec", findings),
            None => Fields::none(self.at),
        }
    }

    pub(super) fn is(&self, group: &str, kind: &str) -> bool {
        self.group == group && self.kind == kind
    }
}

/// Those of all documents, lists unfolded, in the order in which they stand. `namespace` is that of those that say none.
pub(super) fn resources<'a, 't>(
    documents: &'a [Node<'t>],
    namespace: &str,
    findings: &mut Findings,
) -> Vec<Resource<'a, 't>> {
    let mut found = Vec::new();
    for document in documents {
        unfold(document, namespace, findings, &mut found);
    }
    found
}

fn unfold<'a, 't>(
    node: &'a Node<'t>,
    namespace: &str,
    findings: &mut Findings,
    found: &mut Vec<Resource<'a, 't>>,
) {
    findings.of("document");
    let mut fields = Fields::of(node, "", findings);
    let (Some(api), Some(kind)) = (fields.said("apiVersion", findings), fields.said("kind", findings)) else {
        findings.error(
            node.span,
            "no resource: it says no `apiVersion` or no `kind`",
            "write both, or take the document away",
        );
        return;
    };
    if kind.text == "List" || kind.text.ends_with("List") && fields.has("items") {
        for item in fields.list("items", findings) {
            unfold(item, namespace, findings, found);
        }
        return;
    }
    let group = api.text.split_once('/').map_or("", |(group, _)| group).to_owned();
    let mut metadata = fields.map("metadata", findings).unwrap_or_else(|| Fields::none(kind.at));
    let Some(name) = metadata.said("name", findings) else {
        findings.error(kind.at, format!("a {} without a name", kind.text), "write `metadata: {name: …}`");
        return;
    };
    let namespace = metadata.text("namespace", findings).unwrap_or_else(|| namespace.to_owned());
    let created = metadata.text("creationTimestamp", findings);
    let spec = match fields.take("spec") {
        Some(spec) => Some(spec),
        // Some have their fields at the top.
        None if group.is_empty() => Some(node),
        None => None,
    };
    let resource =
        Resource { group, kind: kind.text, namespace, name: name.text, created, at: name.at, spec };
    // Labels, annotations and what a cluster adds say nothing about requests; a status is somebody's answer.
    fields.pass(&["status", "data", "stringData", "type", "immutable", "binaryData"]);
    if !resource.group.is_empty() && is_ours(&resource.group) {
        findings.of(&resource.title());
        fields.finish(findings);
    }
    found.push(resource);
}

/// Whether these are resources whose every field is looked at.
fn is_ours(group: &str) -> bool {
    group.ends_with(".istio.io") || group == super::gateway_api::GROUP
}

/// A selector's labels.
pub(super) fn labels_of(
    fields: &mut Fields<'_, '_>,
    key: &str,
    findings: &mut Findings,
) -> Vec<(String, String)> {
    let mut pairs: Vec<_> =
        fields.pairs(key, findings).into_iter().map(|(name, said)| (name, said.text)).collect();
    pairs.sort();
    pairs
}
