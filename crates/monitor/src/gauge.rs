//! Gauges: a number that goes up and down, either kept here or asked for when somebody reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that goes up and down. Cloning copies a pointer.
#[derive(Clone)]
pub struct Gauge {
    bits: Arc<AtomicU64>,
}

/// A gauge whose value is asked for when somebody reads it.
#[derive(Clone)]
pub(crate) struct GaugeFn {
    read: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Gauge {
    pub(crate) fn new() -> Self {
        Self { bits: Arc::new(AtomicU64::new(0.0_f64.to_bits())) }
    }

    /// Replaces the value. Wait-free.
    pub fn set(&self, value: f64) {
        self.bits.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds an amount, which may be negative. Lock-free: it repeats if another thread changed the value meanwhile.
    /// Exact for whole numbers up to 2^53.
    pub fn add(&self, amount: f64) {
        let mut bits = self.bits.load(Ordering::Relaxed);
        loop {
            let sum = (f64::from_bits(bits) + amount).to_bits();
            match self.bits.compare_exchange_weak(bits, sum, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => bits = current,
            }
        }
    }

    /// The value now.
    #[must_use]
    pub fn value(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }
}

impl GaugeFn {
    pub(crate) fn new(read: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read) }
    }

    pub(crate) fn value(&self) -> f64 {
        (self.read)()
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Gauge({})", self.value())
    }
}

impl fmt::Debug for GaugeFn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GaugeFn(..)")
    }
}
