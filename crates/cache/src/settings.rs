//! What a cache refuses to be built with: settings that could not do what they are there for, and pairs of which one makes
//! the other do nothing; and what it takes, and is hardly what was meant. Refuses to judge what depends on keys and loaders, and policies that are edited for a call.
//! Asked by `builder`, before anything is started.

use std::{fmt::Debug, time::Duration};

use crate::{
    LineOptions, Policy, TierOptions, Write, WriterOptions,
    keeper::{TURNS, keeps},
    life::ENDLESS,
    local::entry_bytes_max,
};

/// What was asked of a builder does not fit together. Fields are named with their types: `Policy::jitter`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is a shared tier, and nothing says how values become bytes.
    #[error(
        "a cache with a shared tier needs a codec: turn the feature `messagepack` on, or name one with `codec` or \
         `tier_with_codec`"
    )]
    NoCodec,
    /// With this value a setting could not do what it is there for.
    #[error("`{field}` is {value}: expected {expected}")]
    OutOfRange {
        /// The setting.
        field: &'static str,
        /// As it was given.
        value: String,
        /// What would be taken.
        expected: &'static str,
    },
    /// With the other as it is, the one setting would do nothing.
    #[error("`{field}` is {value}, and `{other}` is {other_value}: expected {expected}")]
    Contradiction {
        /// The one setting.
        field: &'static str,
        /// As it was given.
        value: String,
        /// The other.
        other: &'static str,
        /// As it was given, or is by default.
        other_value: String,
        /// What would be taken.
        expected: &'static str,
    },
}

/// Whatever is done at intervals is done no more often: `clock::beat` has no shorter ones.
const PERIOD_MIN: Duration = Duration::from_millis(1);

/// Four pulses are to fit, and the courier leaves 5 ms between two: with less, a node that hears everything would take itself
/// for one that hears nothing.
const MAX_STALE_MIN: Duration = Duration::from_millis(20);

const BOTH_OR_NEITHER: &str = "both or neither";

/// A builder's settings, as far as they can be judged.
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a str,
    pub(crate) policy: &'a Policy,
    pub(crate) tiers: Vec<&'a TierOptions>,
    pub(crate) line: Option<&'a LineOptions>,
    pub(crate) writer: Option<&'a WriterOptions>,
    pub(crate) has_codec: bool,
    /// There is a loader for a schedule.
    pub(crate) has_renewal: bool,
    pub(crate) pending_keys_max: usize,
    pub(crate) maintain_every: Duration,
    /// What an entry takes in process, without the heap behind its key and value.
    pub(crate) slot_bytes: u64,
}

type Checked = Result<(), BuildError>;

impl Asked<'_> {
    /// Names the first thing that does not fit.
    pub(crate) fn check(&self) -> Checked {
        if !self.tiers.is_empty() && !self.has_codec {
            return Err(BuildError::NoCodec);
        }
        self.check_name()?;
        self.check_times()?;
        self.check_bounds()?;
        self.check_parts()?;
        self.check_periods()?;
        self.check_lifetimes()?;
        self.check_refreshes()?;
        self.check_writer()
    }

    /// What is taken all the same, because it does nothing while the tiers answer: a tier that hangs is left alone after some
    /// calls, and until then each costs a caller its whole patience.
    pub(crate) fn doubt(&self) -> Option<BuildError> {
        let load_timeout = self.policy.load_timeout;
        let tiers = self.tiers.iter().map(|tier| tier.timeout).fold(Duration::ZERO, Duration::saturating_add);
        let leaves_time = load_timeout >= ENDLESS || load_timeout > tiers;
        (!self.tiers.is_empty() && !leaves_time).then(|| {
            contradiction(
                ("Policy::load_timeout", spelled(load_timeout)),
                ("TierOptions::timeout", format!("{} for all tiers together", spelled(tiers))),
                "a limit that leaves time for the loader when the tiers hang",
            )
        })
    }

    /// Two caches of which one keeps its schedule where the other keeps its values would take each other's records.
    fn check_name(&self) -> Checked {
        if self.tiers.is_empty() || !self.name.ends_with(TURNS) {
            return Ok(());
        }
        let expected = "a name that does not end in `#turns`, as that of a schedule";
        Err(out_of_range("Cache::builder", &self.name, expected))
    }

    /// None of them is turned off by zero: whatever has that time is over before it begins.
    fn check_times(&self) -> Checked {
        let mut times =
            vec![("Policy::tti", self.policy.tti), ("Policy::load_timeout", self.policy.load_timeout)];
        for tier in &self.tiers {
            times.extend([
                ("TierOptions::ttl", tier.ttl),
                ("TierOptions::timeout", tier.timeout),
                ("TierOptions::breaker_pause", tier.breaker_pause),
            ]);
        }
        if let Some(line) = self.line {
            times
                .extend([("LineOptions::timeout", line.timeout), ("LineOptions::heartbeat", line.heartbeat)]);
        }
        times.extend(self.writer.map(|writer| ("WriterOptions::timeout", writer.timeout)));
        match times.into_iter().find(|(_, time)| time.is_zero()) {
            Some((field, time)) => Err(out_of_range(field, &time, "longer than zero")),
            None => Ok(()),
        }
    }

    /// None of them is turned off by zero, or means "without a bound" by it.
    fn check_bounds(&self) -> Checked {
        let Policy { l1_bytes_max, negative_entries_max, loads_max, .. } = *self.policy;
        let mut bounds = vec![
            ("Policy::negative_entries_max", negative_entries_max),
            ("Policy::loads_max", loads_max),
            ("CacheBuilder::pending_keys_max", self.pending_keys_max),
        ];
        for tier in &self.tiers {
            bounds.extend([
                ("TierOptions::breaker_failures", usize::from(tier.breaker_failures > 0)),
                ("TierOptions::calls_max", tier.calls_max),
                ("TierOptions::value_bytes_max", tier.value_bytes_max),
            ]);
        }
        if let Some(writer) = self.writer {
            bounds.extend([
                ("WriterOptions::pending_max", writer.pending_max),
                ("WriterOptions::pending_bytes_max", writer.pending_bytes_max),
            ]);
        }
        if let Some((field, bound)) = bounds.into_iter().find(|(_, bound)| *bound == 0) {
            return Err(out_of_range(field, &bound, "at least 1"));
        }
        // As one shard, which so little room is. An entry that is all of it would be refused there without a word.
        if entry_bytes_max(l1_bytes_max, 1) < self.slot_bytes {
            return Err(out_of_range("Policy::l1_bytes_max", &l1_bytes_max, "room for one entry at least"));
        }
        Ok(())
    }

    fn check_parts(&self) -> Checked {
        let Policy { jitter, refresh_at, .. } = *self.policy;
        if !(0.0..=1.0).contains(&jitter) {
            return Err(out_of_range("Policy::jitter", &jitter, "a part of 1, from 0.0 to 1.0"));
        }
        if !(0.0..1.0).contains(&refresh_at) {
            let expected = "a part of 1, above 0.0 and below 1.0, or 0.0 for none";
            return Err(out_of_range("Policy::refresh_at", &refresh_at, expected));
        }
        Ok(())
    }

    fn check_periods(&self) -> Checked {
        let periods = [
            ("Policy::refresh_every", self.policy.refresh_every),
            ("CacheBuilder::maintain_every", self.maintain_every),
        ];
        if let Some((field, period)) = periods.into_iter().find(|(_, period)| *period < PERIOD_MIN) {
            let expected = "at least 1 ms, or `Duration::MAX` for never";
            return Err(out_of_range(field, &period, expected));
        }
        let max_stale = self.policy.max_stale;
        if self.line.is_some() && max_stale < MAX_STALE_MIN {
            return Err(out_of_range("Policy::max_stale", &max_stale, "at least 20 ms with a backplane"));
        }
        Ok(())
    }

    fn check_lifetimes(&self) -> Checked {
        let Policy { ttl, l1_ttl, soft_timeout, load_timeout, .. } = *self.policy;
        if soft_timeout < ENDLESS && soft_timeout >= load_timeout {
            return Err(contradiction(
                ("Policy::soft_timeout", spelled(soft_timeout)),
                ("Policy::load_timeout", spelled(load_timeout)),
                "a soft limit below the hard one, or `Duration::MAX` for none",
            ));
        }
        // A cache is turned off by a `ttl` of zero, whatever else its policy says.
        if ttl.is_zero() {
            return Ok(());
        }
        if l1_ttl.is_zero() && self.tiers.is_empty() {
            return Err(contradiction(
                ("Policy::l1_ttl", spelled(l1_ttl)),
                ("CacheBuilder::tier", "not given".to_owned()),
                "a shared tier that keeps what this process does not, or a `ttl` of zero to keep nothing at all",
            ));
        }
        Ok(())
    }

    fn check_refreshes(&self) -> Checked {
        let Policy { ttl, l1_ttl, tti, refresh_at, refresh_every, .. } = *self.policy;
        let noted = [("Policy::tti", tti), ("Policy::refresh_every", refresh_every)];
        if let Some((field, time)) = noted.into_iter().find(|(_, time)| refresh_at > 0.0 && *time < ENDLESS) {
            return Err(contradiction(
                ("Policy::refresh_at", format!("{refresh_at:?}")),
                (field, spelled(time)),
                "one of the two: where it is noted when a value is read, `refresh_at` does nothing",
            ));
        }
        if keeps(refresh_every) != self.has_renewal {
            let loader = if self.has_renewal { "given" } else { "not given" };
            return Err(contradiction(
                ("Policy::refresh_every", spelled(refresh_every)),
                ("CacheBuilder::keep_fresh", loader.to_owned()),
                BOTH_OR_NEITHER,
            ));
        }
        if keeps(refresh_every) && !ttl.is_zero() && refresh_every >= l1_ttl {
            return Err(contradiction(
                ("Policy::refresh_every", spelled(refresh_every)),
                ("Policy::l1_ttl", spelled(l1_ttl)),
                "a period shorter than the lifetime in process: else readers wait for loads all the same",
            ));
        }
        Ok(())
    }

    fn check_writer(&self) -> Checked {
        if self.policy.write != Write::Behind || self.writer.is_some() {
            return Ok(());
        }
        Err(contradiction(
            ("Policy::write", "Behind".to_owned()),
            ("CacheBuilder::writer", "not given".to_owned()),
            "a writer, without which no value can be set",
        ))
    }
}

fn out_of_range(field: &'static str, value: &dyn Debug, expected: &'static str) -> BuildError {
    BuildError::OutOfRange { field, value: format!("{value:?}"), expected }
}

fn contradiction(
    (field, value): (&'static str, String),
    (other, other_value): (&'static str, String),
    expected: &'static str,
) -> BuildError {
    BuildError::Contradiction { field, value, other, other_value, expected }
}

/// A time as whoever set it knows it: twenty digits of seconds would not be read as "none".
fn spelled(time: Duration) -> String {
    if time >= ENDLESS { "without end".to_owned() } else { format!("{time:?}") }
}

#[cfg(test)]
mod tests;
