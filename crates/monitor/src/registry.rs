//! Every instrument by name. A name has one kind for life, and names and label sets are bounded.
//! Calls no foreign code (no gauge function, no log) because it runs under the monitor's lock.
//! Called by `monitor`; its clones are what `report` and `prometheus` read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::counter::Counter;
use crate::gauge::{Gauge, GaugeFn};
use crate::labels::{LabelSet, SeriesSet};
use crate::objective::Objective;
use crate::operation::{Family, Operation};

/// Names in one monitor. They are string literals, so a program has far fewer; this stops one that leaks strings.
const NAMES_MAX: usize = 1_024;

/// All instruments. A clone shares the counts and copies only the tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    metrics: BTreeMap<&'static str, Metric>,
}

#[derive(Clone, Debug)]
pub(crate) enum Metric {
    Operation(OperationFamily),
    Counter(Described<Counter>),
    Gauge(Described<Gauge>),
    GaugeFn(Described<GaugeFn>),
}

#[derive(Clone, Debug)]
pub(crate) struct OperationFamily {
    pub(crate) family: Arc<Family>,
    pub(crate) objective: Option<Objective>,
    pub(crate) series: SeriesSet<Operation>,
}

#[derive(Clone, Debug)]
pub(crate) struct Described<T> {
    pub(crate) help: &'static str,
    pub(crate) series: SeriesSet<T>,
}

/// Why a name was not taken. Its instrument works but is not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    OtherKind,
    TooManyNames,
}

impl Registry {
    pub(crate) fn operation(&mut self, name: &'static str, labels: LabelSet) -> Result<Operation, Refusal> {
        let OperationFamily { family, series, .. } = self.family(name)?;
        Ok(series.get_or_insert(labels, |labels| Operation::new(Arc::clone(family), labels.clone())))
    }

    /// What all label sets of an operation share, which may be set before the first of them is made.
    pub(crate) fn family(&mut self, name: &'static str) -> Result<&mut OperationFamily, Refusal> {
        let make = || {
            let family = Arc::new(Family::new(name));
            Metric::Operation(OperationFamily { family, objective: None, series: SeriesSet::new() })
        };
        match self.metric(name, make)? {
            Metric::Operation(operation) => Ok(operation),
            _ => Err(Refusal::OtherKind),
        }
    }

    pub(crate) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: LabelSet,
    ) -> Result<Counter, Refusal> {
        match self.metric(name, || Metric::Counter(Described::new(help)))? {
            Metric::Counter(counter) => Ok(counter.series.get_or_insert(labels, |_| Counter::new())),
            _ => Err(Refusal::OtherKind),
        }
    }

    pub(crate) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: LabelSet,
    ) -> Result<Gauge, Refusal> {
        match self.metric(name, || Metric::Gauge(Described::new(help)))? {
            Metric::Gauge(gauge) => Ok(gauge.series.get_or_insert(labels, |_| Gauge::new())),
            _ => Err(Refusal::OtherKind),
        }
    }

    pub(crate) fn gauge_fn(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: LabelSet,
        gauge: &GaugeFn,
    ) -> Result<Option<GaugeFn>, Refusal> {
        match self.metric(name, || Metric::GaugeFn(Described::new(help)))? {
            Metric::GaugeFn(known) => Ok(known.series.replace(labels, gauge.clone())),
            _ => Err(Refusal::OtherKind),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Metric)> {
        self.metrics.iter().map(|(name, metric)| (*name, metric))
    }

    fn metric(&mut self, name: &'static str, make: impl FnOnce() -> Metric) -> Result<&mut Metric, Refusal> {
        if self.metrics.len() >= NAMES_MAX && !self.metrics.contains_key(name) {
            return Err(Refusal::TooManyNames);
        }
        Ok(self.metrics.entry(name).or_insert_with(make))
    }
}

impl<T: Clone> Described<T> {
    fn new(help: &'static str) -> Self {
        Self { help, series: SeriesSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_known_ones_go_on() {
        let mut registry = Registry::default();
        for number in 0..NAMES_MAX {
            let name = Box::leak(number.to_string().into_boxed_str());
            assert!(registry.operation(name, LabelSet::default()).is_ok());
        }
        assert_eq!(registry.operation("one more", LabelSet::default()).unwrap_err(), Refusal::TooManyNames);
        assert!(registry.operation("7", LabelSet::default()).is_ok());
    }
}
