//! The entry: hands out instruments by name and reports on them.
//! Refuses to fail: a name it cannot take gets an instrument that works but is not reported, and one warning.
//! The lock guards registration and copying only; no recording takes it, and no foreign code runs under it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::counter::Counter;
use crate::gauge::{Gauge, GaugeFn};
use crate::labels::LabelSet;
use crate::objective::Objective;
use crate::operation::{Family, Operation};
use crate::registry::{Refusal, Registry};
use crate::report::Report;
use crate::{process, prometheus};

/// All instruments of a program, or of a part of it. Cloning copies a pointer.
#[derive(Clone, Debug)]
pub struct Monitor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    created: Instant,
    registry: Mutex<Registry>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Monitor {
    /// A monitor without instruments.
    #[must_use]
    pub fn new() -> Self {
        Self { inner: Arc::new(Inner { created: Instant::now(), registry: Mutex::default() }) }
    }

    /// The operation of this name, registered on first use. Takes a lock: call it once and keep the handle.
    #[must_use]
    pub fn operation(&self, name: &'static str) -> Operation {
        self.operation_labelled(name, &[])
    }

    /// The operation of this name and these labels, whose order does not matter.
    /// Of more than [`LABEL_SETS_MAX`](crate::LABEL_SETS_MAX) sets under one name the later ones share one that is
    /// labelled `overflow`; never use an identifier as a label.
    #[must_use]
    pub fn operation_labelled(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Operation {
        let labels = LabelSet::new(labels);
        let registered = self.lock().operation(name, labels.clone());
        registered.unwrap_or_else(|refusal| {
            warn_of(name, refusal);
            Operation::new(Arc::new(Family::new(name)), labels)
        })
    }

    /// The counter of this name. `help` is one sentence for the reader of `/metrics`; the first one given counts.
    #[must_use]
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.counter_labelled(name, help, &[])
    }

    /// The counter of this name and these labels, bounded like [`operation_labelled`](Self::operation_labelled).
    #[must_use]
    pub fn counter_labelled(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
    ) -> Counter {
        let registered = self.lock().counter(name, help, LabelSet::new(labels));
        registered.unwrap_or_else(|refusal| {
            warn_of(name, refusal);
            Counter::new()
        })
    }

    /// The gauge of this name. It starts at zero.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.gauge_labelled(name, help, &[])
    }

    /// The gauge of this name and these labels, bounded like [`operation_labelled`](Self::operation_labelled).
    #[must_use]
    pub fn gauge_labelled(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
    ) -> Gauge {
        let registered = self.lock().gauge(name, help, LabelSet::new(labels));
        registered.unwrap_or_else(|refusal| {
            warn_of(name, refusal);
            Gauge::new()
        })
    }

    /// A gauge that is asked for whenever a report or an exposition is made. The latest function of a name counts.
    /// It must be quick and must not panic; it is kept as long as the monitor, so let it hold weak references.
    pub fn gauge_fn(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        self.gauge_fn_labelled(name, help, &[], read);
    }

    /// Like [`gauge_fn`](Self::gauge_fn), with labels bounded like [`operation_labelled`](Self::operation_labelled).
    pub fn gauge_fn_labelled(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        // Neither this one nor the one it replaces is dropped under the lock: their destructors are foreign code.
        let gauge = GaugeFn::new(read);
        let replaced = self.lock().gauge_fn(name, help, LabelSet::new(labels), &gauge);
        if let Err(refusal) = replaced {
            warn_of(name, refusal);
        }
    }

    /// Above this an operation of this name, with whatever labels, counts as a breach and is warned of,
    /// at most once in ten seconds. Replaces an earlier threshold; counted breaches stay.
    pub fn threshold(&self, operation: &'static str, limit: Duration) {
        let family = self.lock().family(operation).map(|known| Arc::clone(&known.family));
        match family {
            Ok(family) => family.threshold.set(limit),
            Err(refusal) => warn_of(operation, refusal),
        }
    }

    /// The latency targets that reports judge an operation of this name by, for each label set apart.
    pub fn objective(&self, operation: &'static str, objective: Objective) {
        let set = self.lock().family(operation).map(|known| known.objective = Some(objective));
        if let Err(refusal) = set {
            warn_of(operation, refusal);
        }
    }

    /// Everything recorded since the start. Costs one [`Operation::snapshot`] per operation and label set.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::new(self.inner.created.elapsed(), &self.registry())
    }

    /// Everything as Prometheus text, format 0.0.4, with the figures of the process; serve it as
    /// [`PROMETHEUS_CONTENT_TYPE`](crate::PROMETHEUS_CONTENT_TYPE). Costs a snapshot and some 40 lines of text per
    /// operation and label set, and a few reads in `/proc`, which touch no disk.
    #[must_use]
    pub fn prometheus(&self) -> String {
        prometheus::render(&self.registry(), process::read().as_ref())
    }

    fn registry(&self) -> Registry {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // A panic under the lock can only be one of allocation; the tree is then still a tree.
        self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn_of(name: &'static str, refusal: Refusal) {
    let reason = match refusal {
        Refusal::OtherKind => "the name belongs to an instrument of another kind",
        Refusal::TooManyNames => "there are too many names",
    };
    tracing::warn!(name, reason, "instrument will not be reported");
}
