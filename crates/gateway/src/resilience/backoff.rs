//! How long to wait before a retry: full jitter, `random(0, min(max, base * 2^n))`.
//! From "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015). Draws no randomness itself.

use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    base: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(base: Duration, max: Duration) -> Self {
        Self { base, max }
    }

    /// The pause after attempt `number` (from 1); `fraction` is random in `0..1`.
    pub(crate) fn delay(&self, number: u32, fraction: f64) -> Duration {
        let doubled = 2_u32.saturating_pow(number.saturating_sub(1));
        self.base.saturating_mul(doubled).min(self.max).mul_f64(fraction)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn delay_doubles_up_to_its_max() {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let delays: Vec<u128> = (1..=8).map(|number| backoff.delay(number, 1.0).as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), Duration::ZERO);
    }
}
