//! What a server of Eureka says, and what is known of a whole registry from that: all of it once, then what has changed.
//!
//! JSON is read as its several writers have it: one element in place of a list of one, nothing or `""` in place of an
//! empty list, numbers and truths as texts, `@class` beside what is meant, names of applications in either case.
//!
//! A change (`actionType`) is `ADDED`, `MODIFIED` or `DELETED`; applied in the order in which they come. Whether nothing
//! was missed says the registry's [hash](Known::hash): how many instances have which status.
//!
//! # Limits
//! [`MAX_INSTANCES`] in the whole registry.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

/// The most instances of a registry, of all applications.
pub(super) const MAX_INSTANCES: usize = 100_000;

/// An instance of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) host_name: String,
    pub(super) ip: String,
    /// Those that are enabled.
    pub(super) port: Option<u64>,
    pub(super) secure_port: Option<u64>,
    status: String,
    overridden: String,
    pub(super) metadata: BTreeMap<String, String>,
    /// In milliseconds.
    pub(super) updated: u64,
}

impl Instance {
    /// Whether it is up, and nobody has taken it out.
    pub(super) fn is_up(&self) -> bool {
        self.status == "UP" && matches!(&*self.overridden, "" | "UNKNOWN" | "UP")
    }
}

/// A whole registry: the instances of each application, by its name in capitals and their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    by_application: BTreeMap<String, BTreeMap<String, Instance>>,
}

/// What a server says.
#[derive(Debug)]
pub(super) struct Said {
    /// How many instances have which status, after it.
    pub(super) hash: Option<String>,
    applications: Vec<Application>,
}

impl Said {
    /// Reads it.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let Answer { applications } =
            serde_json::from_slice(body).map_err(|error| format!("its answer is no registry: {error}"))?;
        let count = applications.application.0.iter().map(|it| it.instance.0.len()).sum::<usize>();
        if count > MAX_INSTANCES {
            return Err(format!("it has {count} instances, where at most {MAX_INSTANCES} are taken"));
        }
        Ok(Self { hash: applications.apps__hashcode, applications: applications.application.0 })
    }

    fn instances(self) -> impl Iterator<Item = (String, RawInstance)> {
        self.applications.into_iter().flat_map(|application| {
            let name = application.name.to_uppercase();
            application.instance.0.into_iter().map(move |instance| (name.clone(), instance))
        })
    }
}

impl Known {
    /// All there is.
    pub(super) fn whole(said: Said) -> Self {
        let mut all = Self::default();
        for (name, instance) in said.instances() {
            let instance = Instance::from(instance);
            all.by_application.entry(name).or_default().insert(instance.id.clone(), instance);
        }
        all
    }

    /// What has changed.
    ///
    /// # Errors
    /// If a change is none that is known, or leads to too many instances.
    pub(super) fn change(&mut self, said: Said) -> Result<(), String> {
        for (name, raw) in said.instances() {
            let action = raw.action_type.clone().unwrap_or_default();
            let instance = Instance::from(raw);
            match &*action {
                "ADDED" | "MODIFIED" => {
                    let all = self.by_application.entry(name).or_default();
                    all.insert(instance.id.clone(), instance);
                }
                "DELETED" => {
                    if let Some(all) = self.by_application.get_mut(&name) {
                        all.remove(&instance.id);
                        if all.is_empty() {
                            self.by_application.remove(&name);
                        }
                    }
                }
                other => return Err(format!("it says a change that is none: {other:?}")),
            }
        }
        let count = self.by_application.values().map(BTreeMap::len).sum::<usize>();
        if count > MAX_INSTANCES { Err(format!("it has {count} instances")) } else { Ok(()) }
    }

    /// How many instances have which status: `DOWN_1_UP_3_`.
    pub(super) fn hash(&self) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        for instance in self.by_application.values().flat_map(BTreeMap::values) {
            *counts.entry(&instance.status).or_default() += 1;
        }
        let parts = counts.iter().map(|(status, count)| format!("{status}_{count}_"));
        parts.collect::<Vec<_>>().concat()
    }

    /// The instances of an application.
    pub(super) fn of(&self, application: &str) -> impl Iterator<Item = &Instance> {
        self.by_application.get(&application.to_uppercase()).into_iter().flat_map(BTreeMap::values)
    }
}

#[derive(Deserialize)]
struct Answer {
    applications: Applications,
}

#[derive(Deserialize)]
#[allow(non_snake_case, reason = "it is called so")]
struct Applications {
    apps__hashcode: Option<String>,
    #[serde(default)]
    application: Several<Application>,
}

#[derive(Debug, Deserialize)]
struct Application {
    name: String,
    #[serde(default)]
    instance: Several<RawInstance>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawInstance {
    instance_id: Option<String>,
    host_name: String,
    #[serde(default)]
    ip_addr: String,
    status: String,
    #[serde(alias = "overriddenStatus")]
    overriddenstatus: Option<String>,
    port: Option<Port>,
    secure_port: Option<Port>,
    metadata: Option<BTreeMap<String, Value>>,
    last_updated_timestamp: Option<Text>,
    action_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Port {
    #[serde(rename = "$")]
    number: Text,
    #[serde(rename = "@enabled")]
    is_enabled: Text,
}

impl Port {
    fn enabled(&self) -> Option<u64> {
        if self.is_enabled.0 == "true" { self.number.0.parse().ok() } else { None }
    }
}

impl From<RawInstance> for Instance {
    fn from(raw: RawInstance) -> Self {
        let metadata = raw.metadata.into_iter().flatten().filter(|(name, _)| !name.starts_with('@'));
        let metadata = metadata.filter_map(|(name, value)| Some((name, Text::of(value)?.0)));
        Self {
            id: raw.instance_id.unwrap_or_else(|| raw.host_name.clone()),
            host_name: raw.host_name,
            ip: raw.ip_addr,
            port: raw.port.and_then(|port| port.enabled()),
            secure_port: raw.secure_port.and_then(|port| port.enabled()),
            status: raw.status,
            overridden: raw.overriddenstatus.unwrap_or_default(),
            metadata: metadata.collect(),
            updated: raw.last_updated_timestamp.and_then(|text| text.0.parse().ok()).unwrap_or(0),
        }
    }
}

/// A text, also if it is a number or a truth.
#[derive(Debug)]
struct Text(String);

impl Text {
    fn of(value: Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self(text)),
            Value::Number(_) | Value::Bool(_) => Some(Self(value.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::of(Value::deserialize(from)?).ok_or_else(|| D::Error::custom("expected a text or a number"))
    }
}

/// A list, or what stands in place of one.
#[derive(Debug)]
struct Several<T>(Vec<T>);

impl<T> Default for Several<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Several<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Either(PhantomData))
    }
}

struct Either<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for Either<T> {
    type Value = Several<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or one of it")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Several<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(one) = seq.next_element()? {
            all.push(one);
        }
        Ok(Several(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Several<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|one| Several(vec![one]))
    }

    fn visit_unit<E>(self) -> Result<Several<T>, E> {
        Ok(Several::default())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Several<T>, E> {
        if text.is_empty() { Ok(Several::default()) } else { Err(E::custom("expected a list")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(text: &str) -> Known {
        Known::whole(Said::read(text.as_bytes()).unwrap())
    }

    fn instance(id: &str, more: &str) -> String {
        format!("{{\"instanceId\": \"{id}\", \"hostName\": \"h\", \"ipAddr\": \"10.0.0.1\"{more}}}")
    }

    #[test]
    fn lists_of_one_and_of_none_are_read_however_they_are_written() {
        let up = instance("a", ", \"status\": \"UP\"");
        let list = known(&format!(
            "{{\"applications\": {{\"apps__hashcode\": \"UP_1_\", \"application\": [{{\"name\": \"APP\", \"instance\": [{up}]}}]}}}}"
        ));
        let one = known(&format!(
            "{{\"applications\": {{\"versions__delta\": 1, \"application\": {{\"name\": \"app\", \"instance\": {up}}}}}}}"
        ));
        assert_eq!(list, one);
        assert_eq!((one.hash(), one.of("App").count()), ("UP_1_".to_owned(), 1));
        for none in ["", ", \"application\": []", ", \"application\": \"\"", ", \"application\": null"] {
            let none = known(&format!("{{\"applications\": {{\"apps__hashcode\": \"\"{none}}}}}"));
            assert_eq!((none.hash(), none), (String::new(), Known::default()));
        }
        for wrong in [
            "{}",
            "[]",
            "{\"applications\": {\"application\": \"x\"}}",
            "{\"applications\": {\"application\": [{}]}}",
        ] {
            assert!(Said::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_truths_may_be_texts_and_classes_are_no_metadata() {
        for port in ["{\"$\": 8080, \"@enabled\": \"true\"}", "{\"$\": \"8080\", \"@enabled\": true}"] {
            let more = format!(
                ", \"status\": \"UP\", \"port\": {port}, \"securePort\": {{\"$\": 443, \"@enabled\": \"false\"}}, \
                 \"metadata\": {{\"@class\": \"java.util.Collections$EmptyMap\", \"zone\": \"south\", \"weight\": 3, \"x\": null}}, \
                 \"lastUpdatedTimestamp\": \"1700\""
            );
            let known = known(&format!(
                "{{\"applications\": {{\"application\": {{\"name\": \"APP\", \"instance\": {}}}}}}}",
                instance("a", &more)
            ));
            let it = known.of("APP").next().unwrap();
            assert_eq!((it.port, it.secure_port, it.updated), (Some(8080), None, 1700));
            let expected =
                [("weight", "3"), ("zone", "south")].map(|(name, value)| (name.into(), value.into()));
            assert_eq!(it.metadata, BTreeMap::from(expected));
        }
    }

    #[test]
    fn only_what_is_up_and_not_taken_out_is_up() {
        for (status, overridden, is_up) in [
            ("UP", "", true),
            ("UP", "UNKNOWN", true),
            ("UP", "UP", true),
            ("UP", "OUT_OF_SERVICE", false),
            ("DOWN", "UP", false),
            ("STARTING", "UNKNOWN", false),
            ("OUT_OF_SERVICE", "OUT_OF_SERVICE", false),
            ("UNKNOWN", "UNKNOWN", false),
        ] {
            let it = Instance { status: status.into(), overridden: overridden.into(), ..Instance::default() };
            assert_eq!(it.is_up(), is_up, "{status} {overridden}");
        }
    }

    #[test]
    fn changes_are_applied_in_their_order_and_the_hash_tells_what_was_missed() {
        let change = |id: &str, status: &str, action: &str| {
            instance(id, &format!(", \"status\": \"{status}\", \"actionType\": \"{action}\""))
        };
        let said = |all: &[String]| {
            let text = format!(
                "{{\"applications\": {{\"application\": {{\"name\": \"APP\", \"instance\": [{}]}}}}}}",
                all.join(", ")
            );
            Said::read(text.as_bytes()).unwrap()
        };
        let mut known = Known::whole(said(&[change("a", "UP", "ADDED"), change("b", "UP", "ADDED")]));
        known.change(said(&[change("c", "STARTING", "ADDED"), change("b", "DOWN", "MODIFIED")])).unwrap();
        assert_eq!(known.hash(), "DOWN_1_STARTING_1_UP_1_");
        known.change(said(&[change("c", "UP", "MODIFIED"), change("a", "UP", "DELETED")])).unwrap();
        assert_eq!(known.hash(), "DOWN_1_UP_1_");
        known.change(said(&[change("b", "DOWN", "DELETED"), change("c", "UP", "DELETED")])).unwrap();
        known.change(said(&[change("d", "UP", "DELETED")])).unwrap();
        assert_eq!(known, Known::default());
        assert!(known.change(said(&[change("a", "UP", "MOVED")])).is_err());
    }
}
