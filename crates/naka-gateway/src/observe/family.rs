//! Metrics of one name, by their labels.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric},
};

/// Metrics of one name, in the order of their labels.
///
/// Whoever encodes them holds no lock meanwhile, which that of prometheus-client does: there a reload that shows a new
/// route waits for the end of a scrape, and every request that looks a metric up waits for the reload.
#[derive(Debug)]
pub(super) struct Family<L, M>(Arc<RwLock<Shown<L, M>>>);

/// Copied by who writes while somebody encodes, and only then.
type Shown<L, M> = Arc<BTreeMap<L, M>>;

impl<L: Clone + Ord, M: Clone + Default> Family<L, M> {
    /// The metric with these labels, if there is one.
    pub(super) fn get(&self, labels: &L) -> Option<M> {
        self.shown().get(labels).cloned()
    }

    /// The metric with these labels, which is made if there is none.
    pub(super) fn get_or_create(&self, labels: &L) -> M {
        if let Some(metric) = self.get(labels) {
            return metric;
        }
        self.change(|shown| shown.entry(labels.clone()).or_default().clone())
    }

    /// Takes a metric away; says whether there was one.
    pub(super) fn remove(&self, labels: &L) -> bool {
        self.change(|shown| shown.remove(labels).is_some())
    }

    /// These and no others.
    pub(super) fn replace(&self, all: impl IntoIterator<Item = (L, M)>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all.into_iter().collect());
    }

    /// None.
    pub(super) fn clear(&self) {
        self.replace([]);
    }

    fn change<T>(&self, how: impl FnOnce(&mut BTreeMap<L, M>) -> T) -> T {
        how(Arc::make_mut(&mut self.0.write().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl<L, M> Family<L, M> {
    /// As they are now. A panic cannot leave the map half written: it would have to be one of the maps'.
    fn shown(&self) -> Shown<L, M> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<L, M> Default for Family<L, M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The same ones.
impl<L, M> Clone for Family<L, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: EncodeLabelSet, M: EncodeMetric + TypedMetric> EncodeMetric for Family<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.shown().iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.shown().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    type Labels = Vec<(&'static str, &'static str)>;

    #[test]
    fn who_encodes_keeps_nobody_from_writing() {
        let family = Family::<Labels, Counter>::default();
        let one = family.get_or_create(&vec![("route", "one")]);
        let encoded = family.shown(); // As a scrape does.
        family.get_or_create(&vec![("route", "two")]).inc();
        one.inc();
        assert_eq!((encoded.len(), family.shown().len()), (1, 2));
        assert_eq!(encoded[&vec![("route", "one")]].get(), 1, "the value is of one metric, whoever holds it");
        assert!(family.remove(&vec![("route", "two")]) && !family.remove(&vec![("route", "two")]));
        family.clear();
        assert!(family.is_empty() && family.get(&vec![("route", "one")]).is_none());
    }
}
