//! What the caches report: loads, calls of tiers and what is lost at the end as they happen, everything else when somebody
//! reads the metrics.
//! Names no key. Called by `serve`, which gives each cache its observer, by `operator`, and by whoever keeps results.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use paystrata_cache::{LoadEnd, Maintenance, Stats, TierCall, TierStats};
use paystrata_monitor::{Counter, Monitor, Operation, Outcome};

use crate::results::Results;

/// One call of a loader, or one batch of them.
const LOAD: &str = "cache.load";
/// One call of a shared tier.
const TIER: &str = "cache.tier";
/// How old a value is when it is served from this process, by a sample of one hit in 256.
const AGE: &str = "cache.value.age";
/// One round that drops what is over.
const MAINTENANCE: &str = "cache.maintenance";

/// Verbs of a tier, each with its own latency.
const VERBS: [&str; 5] = ["read", "settle", "void", "put", "inspect"];

/// Tells the monitor of one cache's loads and tiers.
#[derive(Debug)]
pub struct CacheObserver {
    monitor: Monitor,
    loads: Operation,
    maintenance: Operation,
    pending_lost: Counter,
    writes_lost: Counter,
}

impl CacheObserver {
    /// For the cache of this name.
    #[must_use]
    pub fn of(monitor: &Monitor, cache: &str) -> Arc<dyn paystrata_cache::Observer> {
        let labels = [("cache.name", cache)];
        // From the beginning, so that a figure of zero says that nothing was lost.
        let counter = |name, help| monitor.counter_labelled(name, help, &labels);
        Arc::new(Self {
            monitor: monitor.clone(),
            loads: monitor.operation_labelled(LOAD, &labels),
            maintenance: monitor.operation_labelled(MAINTENANCE, &labels),
            pending_lost: counter(
                "cache.pending.lost",
                "Changes that shared tiers or other nodes had not been told of when the cache ended.",
            ),
            writes_lost: counter(
                "cache.writes.lost",
                "Values that the writer had not taken when the cache ended.",
            ),
        })
    }
}

impl paystrata_cache::Observer for CacheObserver {
    fn load_ended(&self, _cache: &str, end: LoadEnd, elapsed: Duration) {
        self.loads.record(elapsed, if end.is_failure() { Outcome::Error } else { Outcome::Success });
    }

    fn tier_called(&self, cache: &str, call: &TierCall) {
        let verb = VERBS.iter().find(|verb| **verb == call.verb).copied().unwrap_or("other");
        let labels = [("cache.name", cache), ("db.system.name", call.kind), ("db.operation.name", verb)];
        let outcome = if call.error.is_some() { Outcome::Error } else { Outcome::Success };
        self.monitor.operation_labelled(TIER, &labels).record(call.took, outcome);
    }

    fn maintained(&self, _cache: &str, done: &Maintenance) {
        self.maintenance.record(done.took, Outcome::Success);
    }

    fn pending_lost(&self, _cache: &str, changes: usize) {
        self.pending_lost.add(changes as u64);
    }

    fn writes_lost(&self, _cache: &str, values: usize) {
        self.writes_lost.add(values as u64);
    }
}

/// The figures that caches count themselves, as they were when the metrics were read last.
#[derive(Debug, Default)]
pub struct CacheFigures {
    read_last: Mutex<Vec<(&'static str, Stats)>>,
    results: OnceLock<Arc<Results>>,
}

impl CacheFigures {
    /// Has the figures of these caches exported with the others. None of the service's routes keeps results: whoever builds
    /// on it and does calls this once.
    ///
    /// # Errors
    /// Gives them back if others came before: figures are told apart by the names of their caches.
    pub fn follow(&self, results: Arc<Results>) -> Result<(), Arc<Results>> {
        self.results.set(results)
    }

    /// Brings the monitor's instruments up to date. Costs a lock per shard of each cache.
    pub fn export(&self, monitor: &Monitor, caches: impl IntoIterator<Item = (&'static str, Stats)>) {
        let mut read_last = self.read_last.lock().unwrap_or_else(PoisonError::into_inner);
        let results = self.results.get().map(|results| results.stats());
        for (name, now) in caches.into_iter().chain(results.into_iter().flatten()) {
            let known = read_last.iter().position(|(known, _)| *known == name);
            let before = known.map_or_else(Stats::default, |at| read_last.swap_remove(at).1);
            Export { monitor, cache: name }.all(&now, &before);
            read_last.push((name, now));
        }
    }
}

/// The way of one cache's figures into the monitor.
struct Export<'a> {
    monitor: &'a Monitor,
    cache: &'static str,
}

impl Export<'_> {
    fn all(&self, now: &Stats, before: &Stats) {
        self.reads(now, before);
        self.changes(now, before);
        self.gauges(now);
        for (at, tier) in now.tiers.iter().enumerate() {
            self.tier(tier, before.tiers.get(at).unwrap_or(&TierStats::default()));
        }
        let ages = self.monitor.operation_labelled(AGE, &[("cache.name", self.cache)]);
        for (age, count) in now.served_ages.since(&before.served_ages).buckets() {
            (0..count).for_each(|_| ages.record(age, Outcome::Success));
        }
    }

    fn reads(&self, now: &Stats, before: &Stats) {
        let name = "cache.reads";
        let help = "Keys asked for, by what L1 said; their sum is the number of calls.";
        self.add(name, help, &[("outcome", "hit")], now.hits, before.hits);
        self.add(name, help, &[("outcome", "absent")], now.absent_hits, before.absent_hits);
        self.add(name, help, &[("outcome", "miss")], now.misses, before.misses);
        for (name, help, now, before) in [
            ("cache.stale", "Reads answered with a value past its lifetime.", now.stale, before.stale),
            ("cache.joins", "Reads that waited for a load another read had begun.", now.joins, before.joins),
            ("cache.overloads", "Reads refused: too many loads in flight.", now.overloads, before.overloads),
            (
                "cache.refreshes",
                "Loads begun ahead of the end of a lifetime.",
                now.refreshes,
                before.refreshes,
            ),
            (
                "cache.load.unmodified",
                "Loads that found the value unchanged.",
                now.load_unmodified,
                before.load_unmodified,
            ),
            (
                "cache.adoptions",
                "Values taken from a shared tier because another node had loaded them on the same schedule.",
                now.adoptions,
                before.adoptions,
            ),
            (
                "cache.extensions",
                "Values that live on because another node has found them unchanged.",
                now.extensions,
                before.extensions,
            ),
            ("cache.evictions", "Values pushed out for want of room.", now.evictions, before.evictions),
            ("cache.oversize", "Values too large for L1.", now.oversize, before.oversize),
        ] {
            self.add(name, help, &[], now, before);
        }
    }

    fn changes(&self, now: &Stats, before: &Stats) {
        let name = "cache.invalidations";
        let help = "Keys invalidated, by where the change was made.";
        self.add(name, help, &[("origin", "here")], now.invalidations, before.invalidations);
        self.add(
            name,
            help,
            &[("origin", "elsewhere")],
            now.remote_invalidations,
            before.remote_invalidations,
        );
        for (name, help, now, before) in [
            (
                "cache.refused_stale_sets",
                "Values not stored because an invalidation had overtaken them.",
                now.refused_stale_sets,
                before.refused_stale_sets,
            ),
            ("cache.sweeps", "Sweeps by tag, by prefix or of everything.", now.sweeps, before.sweeps),
            (
                "cache.gaps",
                "Times that L1 was dropped because announcements may have been missed.",
                now.gaps,
                before.gaps,
            ),
            ("cache.replays", "Times that missed announcements were had again.", now.replays, before.replays),
            (
                "cache.unreadable",
                "Messages of other nodes that could not be read.",
                now.unreadable,
                before.unreadable,
            ),
            (
                "cache.unreadable_keys",
                "Keys in changes that are none of this cache's: everything was dropped for them.",
                now.unreadable_keys,
                before.unreadable_keys,
            ),
            (
                "cache.unstorable",
                "Values with too many tags, or that the codec could not take.",
                now.unstorable,
                before.unstorable,
            ),
            (
                "cache.cut_off",
                "Batches of changes announced although a shared tier could not be told of them.",
                now.cut_off,
                before.cut_off,
            ),
            (
                "cache.pending.overflows",
                "Times that more changes were pending than there is room for.",
                now.pending_overflows,
                before.pending_overflows,
            ),
        ] {
            self.add(name, help, &[], now, before);
        }
    }

    fn gauges(&self, now: &Stats) {
        self.set("cache.entries", "Values in L1.", now.entries as f64);
        self.set("cache.bytes", "Bytes in L1, keys and values.", now.bytes as f64);
        let pending = now.pending_invalidations as f64;
        self.set("cache.pending", "Changes that other nodes have not been told yet.", pending);
        let unwritten = now.pending_writes as f64;
        self.set("cache.pending.writes", "Values that the writer has not taken yet.", unwritten);
        let kept = now.kept_keys as f64;
        self.set("cache.kept_keys", "Keys that are loaded on a schedule.", kept);
        if let Some(silence) = now.backplane_silence {
            let help = "Seconds since this cache was last sure to have heard everything.";
            self.set("cache.backplane.silence.seconds", help, silence.as_secs_f64());
        }
    }

    fn tier(&self, now: &TierStats, before: &TierStats) {
        let labels = |outcome: &'static str| [("db.system.name", now.kind), ("outcome", outcome)];
        let name = "cache.tier.reads";
        let help = "Keys asked for in a shared tier, by what it said; bypassed ones were not asked for.";
        for (outcome, now, before) in [
            ("hit", now.hits.saturating_sub(now.absent_hits), before.hits.saturating_sub(before.absent_hits)),
            ("absent", now.absent_hits, before.absent_hits),
            ("miss", now.misses, before.misses),
            ("stale", now.stale, before.stale),
            ("swept", now.swept, before.swept),
            ("held", now.held, before.held),
            ("bypassed", now.bypassed, before.bypassed),
            ("poisoned", now.poisoned, before.poisoned),
        ] {
            self.add(name, help, &labels(outcome), now, before);
        }
        let (name, help) = ("cache.tier.bytes", "Bytes of values, by the way they went.");
        self.add(name, help, &labels("read"), now.bytes_read, before.bytes_read);
        self.add(name, help, &labels("written"), now.bytes_written, before.bytes_written);
        let name = "cache.tier.writes";
        let help = "Values for a shared tier, by what became of them.";
        for (outcome, now, before) in [
            ("stored", now.stored, before.stored),
            ("refused", now.refused, before.refused),
            ("oversize", now.oversize, before.oversize),
        ] {
            self.add(name, help, &labels(outcome), now, before);
        }
        let kind = [("db.system.name", now.kind)];
        let help = "Times that a shared tier was left alone because it failed.";
        self.add("cache.tier.opened", help, &kind, now.opened, before.opened);
        let labels = [("cache.name", self.cache), kind[0]];
        let up = self.monitor.gauge_labelled("cache.tier.up", "1 while the tier is asked.", &labels);
        up.set(if now.is_up { 1.0 } else { 0.0 });
    }

    fn add(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        now: u64,
        before: u64,
    ) {
        let labels: Vec<_> = [("cache.name", self.cache)].iter().chain(labels).copied().collect();
        self.monitor.counter_labelled(name, help, &labels).add(now.saturating_sub(before));
    }

    fn set(&self, name: &'static str, help: &'static str, value: f64) {
        self.monitor.gauge_labelled(name, help, &[("cache.name", self.cache)]).set(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_no_cache_of_the_service_has_are_exported_too_and_nothing_is_counted_twice() {
        let (monitor, figures) = (Monitor::new(), CacheFigures::default());
        let mut counted = Stats::default();
        (counted.load_unmodified, counted.adoptions, counted.extensions) = (1, 2, 3);
        (counted.pending_writes, counted.kept_keys, counted.unreadable_keys) = (4, 5, 6);
        for _ in 0..2 {
            figures.export(&monitor, [("scheduled", counted.clone())]);
        }
        let text = monitor.prometheus();
        for (name, value) in [
            ("cache_load_unmodified_total", 1),
            ("cache_adoptions_total", 2),
            ("cache_extensions_total", 3),
            ("cache_pending_writes", 4),
            ("cache_kept_keys", 5),
            ("cache_unreadable_keys_total", 6),
        ] {
            let series = format!("{name}{{cache_name=\"scheduled\"}} {value}");
            assert!(text.lines().any(|line| line == series), "{series} in {text}");
        }
    }

    #[test]
    fn what_a_cache_loses_at_its_end_is_exported_and_zero_before() {
        let monitor = Monitor::new();
        let observer = CacheObserver::of(&monitor, "written");
        let check = |pending: u64, writes: u64| {
            let text = monitor.prometheus();
            for (name, value) in [("cache_pending_lost_total", pending), ("cache_writes_lost_total", writes)]
            {
                let series = format!("{name}{{cache_name=\"written\"}} {value}");
                assert!(text.lines().any(|line| line == series), "{series} in {text}");
            }
        };
        check(0, 0);
        observer.pending_lost("written", 3);
        observer.writes_lost("written", 2);
        observer.writes_lost("written", 5);
        check(3, 7);
    }
}
