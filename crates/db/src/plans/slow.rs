//! The slow query log: an observer that counts every statement's durations by fingerprint, and at the end of each window
//! tells of those that were slow, one line each, with percentiles and a plan.
//! On the path of a query it does a look-up and an addition. It never sees a parameter, shows no literal, and never runs a
//! statement for its plan: that is asked for at the end of a window, on one session of its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use super::explain::explain_generic;
use super::fingerprint::{Fingerprint, redacted};
use super::histogram::Histogram;
use super::workload::{Workload, WorkloadStatement};
use crate::db::Db;
use crate::node::{NodeId, NodeState};
use crate::observe::{AcquireSeen, NoObserver, Observer, QuerySeen, TransactionSeen};

/// Settings of the slow log.
#[derive(Clone, Debug)]
pub struct SlowLogOptions {
    /// A statement that takes so long is slow.
    pub threshold: Duration,
    /// A fingerprint has one line in a window at most.
    pub window: Duration,
    /// Fingerprints that are counted apart, at about 1 KiB each. The calls of further ones are only counted together.
    pub fingerprints_max: usize,
    /// Plans that are asked for at the end of a window, one after the other on one session; a fingerprint's plan is
    /// asked for anew after ten windows. 0 for none.
    pub plans_max: usize,
}

impl Default for SlowLogOptions {
    /// 200 ms, a minute, 256 fingerprints, 8 plans.
    fn default() -> Self {
        Self {
            threshold: Duration::from_millis(200),
            window: Duration::from_secs(60),
            fingerprints_max: 256,
            plans_max: 8,
        }
    }
}

/// A plan is told again for this many windows before it is asked for anew.
const PLAN_WINDOWS: u64 = 10;
/// Asking for all plans of a window takes no longer than this.
const PLANS_TIMEOUT: Duration = Duration::from_secs(10);

/// What one window saw of one statement.
#[derive(Clone, Debug)]
pub struct SlowStatement {
    /// Its name.
    pub fingerprint: Fingerprint,
    /// Its text, with `?` for each literal.
    pub text: String,
    /// Calls in the window.
    pub calls: u64,
    /// Of which slow.
    pub slow: u64,
    /// Half of the calls took no longer; told up to 12.5 % too high, like the other two.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// The longest, exact.
    pub longest: Duration,
    /// The generic plan in a few words, without any value; none where the server would not tell or the budget was used.
    pub plan: Option<String>,
}

/// The log. Give it to [`Db::connect_observed`] and let [`SlowLog::run`] end its windows.
#[derive(Debug)]
pub struct SlowLog {
    options: SlowLogOptions,
    next: Arc<dyn Observer>,
    /// By the place of the text in the program, which costs no reading of it. Several texts may share one entry.
    by_text: RwLock<HashMap<TextPlace, Option<Arc<Entry>>>>,
    entries: Mutex<HashMap<Fingerprint, Arc<Entry>>>,
    uncounted: AtomicU64,
    windows: AtomicU64,
}

/// Address and length of a text of the program.
type TextPlace = (usize, usize);

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    sql: &'static str,
    text: String,
    durations: Histogram,
    calls_ever: AtomicU64,
    slow: AtomicU64,
    longest_micros: AtomicU64,
    plan: Mutex<Option<KnownPlan>>,
}

#[derive(Clone, Debug)]
struct KnownPlan {
    outline: String,
    window: u64,
}

impl SlowLog {
    /// A log that nothing else observes beside.
    #[must_use]
    pub fn new(options: SlowLogOptions) -> Arc<Self> {
        Self::before(options, Arc::new(NoObserver))
    }

    /// A log that hands everything on to `next`.
    #[must_use]
    pub fn before(options: SlowLogOptions, next: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self {
            options,
            next,
            by_text: RwLock::default(),
            entries: Mutex::default(),
            uncounted: AtomicU64::new(0),
            windows: AtomicU64::new(0),
        })
    }

    /// Ends a window again and again and logs what it held, until dropped. `db` is asked for plans.
    pub async fn run(&self, db: &Db) {
        let mut ticks = interval(self.options.window.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            for seen in self.end_window(db).await {
                log(&seen);
            }
        }
    }

    /// Ends the window now: what was slow in it, the most often slow first. The calls that were counted begin again from nothing.
    pub async fn end_window(&self, db: &Db) -> Vec<SlowStatement> {
        let window = self.windows.fetch_add(1, Ordering::Relaxed);
        let uncounted = self.uncounted.swap(0, Ordering::Relaxed);
        if uncounted > 0 {
            warn!(
                calls = uncounted,
                fingerprints_max = self.options.fingerprints_max,
                "calls not counted apart"
            );
        }
        let entries: Vec<Arc<Entry>> = self.lock_entries().values().cloned().collect();
        let mut slow: Vec<(Arc<Entry>, SlowStatement)> =
            entries.into_iter().filter_map(|entry| Some((Arc::clone(&entry), entry.take()?))).collect();
        slow.sort_by_key(|(_, seen)| std::cmp::Reverse((seen.slow, seen.longest)));
        // A slow server must not keep the windows waiting; what is known by then is told.
        let _in_time = tokio::time::timeout(PLANS_TIMEOUT, self.refresh_plans(db, &slow, window)).await;
        let with_plan = |(entry, mut seen): (Arc<Entry>, SlowStatement)| {
            seen.plan = entry.known_plan().map(|known| known.outline);
            seen
        };
        slow.into_iter().map(with_plan).collect()
    }

    /// Everything counted since the start, as a workload for [`advise`](super::advise).
    #[must_use]
    pub fn workload(&self) -> Workload {
        let entries = self.lock_entries();
        let statement = |entry: &Arc<Entry>| WorkloadStatement {
            sql: entry.sql.to_owned(),
            calls: entry.calls_ever.load(Ordering::Relaxed),
        };
        Workload { statements: entries.values().map(statement).filter(|seen| seen.calls > 0).collect() }
    }

    async fn refresh_plans(&self, db: &Db, slow: &[(Arc<Entry>, SlowStatement)], window: u64) {
        let is_old =
            |entry: &Entry| entry.known_plan().is_none_or(|known| known.window + PLAN_WINDOWS <= window);
        let wanted: Vec<&Arc<Entry>> = slow
            .iter()
            .map(|(entry, _)| entry)
            .filter(|entry| is_old(entry))
            .take(self.options.plans_max)
            .collect();
        if wanted.is_empty() {
            return;
        }
        let Ok(mut session) = db.session("slow-log").await else { return };
        for entry in wanted {
            // A refusal closed it.
            if session.is_closed() {
                let Ok(another) = db.session("slow-log").await else { return };
                session = another;
            }
            if let Ok(explained) = explain_generic(&session, entry.sql).await {
                let known = KnownPlan { outline: explained.plan.outline(), window };
                *entry.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
            }
        }
    }

    fn entry(&self, sql: &'static str) -> Option<Arc<Entry>> {
        let place = (sql.as_ptr().addr(), sql.len());
        let known = self.by_text.read().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        known.unwrap_or_else(|| self.enter(sql, place))
    }

    /// The first call of a text. A program has finitely many; one that makes more and more is bounded all the same.
    fn enter(&self, sql: &'static str, place: TextPlace) -> Option<Arc<Entry>> {
        let text = redacted(sql);
        let fingerprint = Fingerprint::of_redacted(&text);
        let entry = {
            let mut entries = self.lock_entries();
            let has_room = entries.len() < self.options.fingerprints_max;
            match entries.get(&fingerprint) {
                Some(entry) => Some(Arc::clone(entry)),
                None if has_room => {
                    let entry = Arc::new(Entry::new(fingerprint, sql, text));
                    entries.insert(fingerprint, Arc::clone(&entry));
                    Some(entry)
                }
                None => None,
            }
        };
        let mut by_text = self.by_text.write().unwrap_or_else(PoisonError::into_inner);
        // Texts of one fingerprint, and those without an entry, need a place each; four times as many are enough.
        if by_text.len() < self.options.fingerprints_max.saturating_mul(4) {
            by_text.insert(place, entry.clone());
        }
        entry
    }

    fn lock_entries(&self) -> std::sync::MutexGuard<'_, HashMap<Fingerprint, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(fingerprint: Fingerprint, sql: &'static str, text: String) -> Self {
        Self {
            fingerprint,
            sql,
            text,
            durations: Histogram::default(),
            calls_ever: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            longest_micros: AtomicU64::new(0),
            plan: Mutex::default(),
        }
    }

    fn record(&self, took: Duration, threshold: Duration) {
        self.durations.record(took);
        self.calls_ever.fetch_add(1, Ordering::Relaxed);
        if took >= threshold {
            self.slow.fetch_add(1, Ordering::Relaxed);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.longest_micros.fetch_max(micros, Ordering::Relaxed);
        }
    }

    /// What the window held, if anything in it was slow.
    fn take(&self) -> Option<SlowStatement> {
        let counts = self.durations.take();
        let slow = self.slow.swap(0, Ordering::Relaxed);
        let longest = Duration::from_micros(self.longest_micros.swap(0, Ordering::Relaxed));
        (slow > 0).then(|| SlowStatement {
            fingerprint: self.fingerprint,
            text: self.text.clone(),
            calls: counts.total(),
            slow,
            p50: counts.percentile(0.5),
            p95: counts.percentile(0.95),
            p99: counts.percentile(0.99),
            longest,
            plan: None,
        })
    }

    fn known_plan(&self) -> Option<KnownPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for SlowLog {
    fn query(&self, seen: &QuerySeen<'_>) {
        match self.entry(seen.sql) {
            Some(entry) => entry.record(seen.took, self.options.threshold),
            None => {
                self.uncounted.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.next.query(seen);
    }

    fn acquire(&self, seen: &AcquireSeen<'_>) {
        self.next.acquire(seen);
    }

    fn transaction(&self, seen: &TransactionSeen) {
        self.next.transaction(seen);
    }

    fn node_changed(&self, node: &NodeId, state: NodeState) {
        self.next.node_changed(node, state);
    }
}

fn log(seen: &SlowStatement) {
    let SlowStatement { fingerprint, text, calls, slow, p50, p95, p99, longest, plan } = seen;
    warn!(
        %fingerprint, sql = text, calls, slow, ?p50, ?p95, ?p99, ?longest, plan = plan.as_deref().unwrap_or("unknown"),
        "slow statement"
    );
}
