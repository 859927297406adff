//! What is known about one server: its state, role and position from the monitor, its load from its callers.
//! It dials nobody and chooses nothing. Written by the monitor (facts) and by connections (load, suspicion).

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::breaker::Breaker;
use crate::config::PROBE_TIMEOUT;
use crate::incarnation::PrimaryLife;
use crate::migrate::SchemaState;

/// Name of a server: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

/// What a server may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It replays the primary's log and takes reads.
    Replica,
}

/// What the monitor last found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Not probed yet.
    Unknown,
    /// It answers.
    Up,
    /// It does not answer.
    Down,
}

/// What one probe learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) role: Role,
    pub(crate) timeline: u32,
    /// Written (primary) or replayed (replica) up to here.
    pub(crate) lsn: u64,
    /// When it last started or recovered from a crash: after that it may show an older state.
    pub(crate) incarnation: i64,
    /// Equal for all servers of one cluster.
    pub(crate) system_id: u64,
    /// Of a primary that was promoted since it was started: where it stopped replaying.
    pub(crate) left_at: Option<u64>,
}

/// The monitor's latest word on a server.
#[derive(Clone, Debug)]
pub(crate) struct Observation {
    pub(crate) state: NodeState,
    /// Of the last successful probe; meaningful only while `state` is `Up`.
    pub(crate) facts: Option<Facts>,
    pub(crate) lag: Option<Duration>,
    /// It fell further behind than a replica may, and has not caught up by half of that yet.
    pub(crate) is_behind: bool,
    /// When `state` was entered.
    pub(crate) since: Instant,
    /// When the probe was sent that it last answered.
    pub(crate) probed_at: Option<Instant>,
    pub(crate) last_error: Option<Arc<str>>,
}

/// As much of it as chooses the primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) state: NodeState,
    pub(crate) facts: Option<Facts>,
}

/// What a server was seen to be longer ago says nothing of what it is, however seldom it is looked at.
const LIFE_AGE_MAX: Duration = Duration::from_secs(2);

impl Observation {
    pub(crate) fn standing(&self) -> Standing {
        Standing { state: self.state, facts: self.facts }
    }

    /// The life that the server was seen to live, if that was a probe of `interval` and its answer ago, and not longer: this
    /// process may have been away.
    pub(crate) fn life(&self, now: Instant, interval: Duration) -> Option<PrimaryLife> {
        let age_max = interval.min(LIFE_AGE_MAX) + PROBE_TIMEOUT;
        let is_recent = self.probed_at.is_some_and(|at| now.saturating_duration_since(at) <= age_max);
        self.facts.as_ref().filter(|_| is_recent).map(PrimaryLife::of)
    }
}

/// One server.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// How far behind a replica may be that serves reads.
    lag_max: Duration,
    observation: watch::Sender<Observation>,
    /// Wakes the monitor before its interval is over.
    pub(crate) poke: Notify,
    /// Counts failures that callers reported, and how many of them a later probe has cleared.
    suspicions: AtomicU64,
    cleared: AtomicU64,
    /// Grows whenever all connections made before are worthless.
    generation: AtomicU64,
    in_flight: AtomicUsize,
    latency: Mutex<Latency>,
    breaker: Breaker,
    /// What migrations have announced, as a number.
    schema: AtomicU64,
}

/// Exponentially decaying answer time that jumps to a peak at once (Finagle's "peak EWMA").
#[derive(Clone, Copy, Debug)]
struct Latency {
    micros: f64,
    at: Instant,
}

/// A slow server is forgiven after about this long.
const LATENCY_DECAY_SECONDS: f64 = 10.0;

impl NodeId {
    pub(crate) fn new(endpoint: &str) -> Self {
        Self(endpoint.into())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Node {
    pub(crate) fn new(id: NodeId, lag_max: Duration, now: Instant) -> Self {
        let unseen = Observation {
            state: NodeState::Unknown,
            facts: None,
            lag: None,
            is_behind: false,
            since: now,
            probed_at: None,
            last_error: None,
        };
        Self {
            id,
            lag_max,
            observation: watch::Sender::new(unseen),
            poke: Notify::new(),
            suspicions: AtomicU64::new(0),
            cleared: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            latency: Mutex::new(Latency { micros: 0.0, at: now }),
            breaker: Breaker::default(),
            schema: AtomicU64::new(SchemaState::default().number()),
        }
    }

    /// What the server was last seen to say of its schema.
    pub(crate) fn schema(&self) -> SchemaState {
        SchemaState::new(self.schema.load(Ordering::Acquire))
    }

    pub(crate) fn record_schema(&self, seen: SchemaState) {
        self.schema.store(seen.number(), Ordering::Release);
    }

    /// Nothing speaks against reads there, as far as callers know.
    pub(crate) fn is_well(&self, now: Instant) -> bool {
        !self.is_suspect() && !self.breaker.is_resting(now)
    }

    /// Whether its statements fail, though it may answer its monitor.
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    pub(crate) fn observation(&self) -> Observation {
        self.observation.borrow().clone()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.observation.borrow().standing()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Observation> {
        self.observation.subscribe()
    }

    pub(crate) fn is_down(&self) -> bool {
        self.observation.borrow().state == NodeState::Down
    }

    /// Takes in a successful probe. Returns whether the state or the role changed.
    pub(crate) fn record_facts(
        &self,
        facts: Facts,
        lag: Option<Duration>,
        probed: Instant,
        now: Instant,
    ) -> Change {
        let mut change = Change::None;
        self.observation.send_modify(|seen| {
            let same_server = seen.facts.is_none_or(|before| before.incarnation == facts.incarnation);
            let same_role = seen.facts.is_none_or(|before| before.role == facts.role);
            if seen.state != NodeState::Up || !same_role || !same_server {
                change = Change::Entered(NodeState::Up);
            }
            if seen.state != NodeState::Up {
                seen.since = now;
            }
            if !same_server {
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
            seen.state = NodeState::Up;
            seen.facts = Some(facts);
            seen.lag = lag;
            // One that hovers at the limit would come and go with every probe.
            let limit = if seen.is_behind { self.lag_max / 2 } else { self.lag_max };
            seen.is_behind = lag.is_some_and(|lag| lag > limit);
            seen.probed_at = Some(probed);
        });
        if change != Change::None {
            self.breaker.succeeded();
        }
        change
    }

    /// Takes in a failed probe.
    pub(crate) fn record_failure(&self, error: &str, now: Instant) -> Change {
        let mut change = Change::None;
        self.observation.send_modify(|seen| {
            if seen.state != NodeState::Down {
                change = Change::Entered(NodeState::Down);
                seen.since = now;
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
            seen.state = NodeState::Down;
            seen.lag = None;
            seen.last_error = Some(error.into());
        });
        change
    }

    /// A caller met a failure that speaks of the server: no read goes there until a probe has looked.
    pub(crate) fn suspect(&self) {
        self.suspicions.fetch_add(1, Ordering::AcqRel);
        self.poke.notify_one();
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspicions.load(Ordering::Acquire) != self.cleared.load(Ordering::Acquire)
    }

    /// The mark to give to [`Node::clear_suspicions`] after a probe that starts now.
    pub(crate) fn suspicion_mark(&self) -> u64 {
        self.suspicions.load(Ordering::Acquire)
    }

    /// Clears what was reported before the mark; what came during the probe stays for the next one.
    pub(crate) fn clear_suspicions(&self, mark: u64) {
        self.cleared.store(mark, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn record_latency(&self, took: Duration, now: Instant) {
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        let sample = took.as_secs_f64() * 1e6;
        let decay = latency.decay(now);
        let micros =
            if sample > latency.micros { sample } else { latency.micros * decay + sample * (1.0 - decay) };
        *latency = Latency { micros, at: now };
    }

    /// The answer time to expect, decayed for the time without samples so that a once slow server is tried again.
    pub(crate) fn latency_micros(&self, now: Instant) -> f64 {
        let latency = *self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        latency.micros * latency.decay(now)
    }
}

impl Latency {
    fn decay(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        (-seconds / LATENCY_DECAY_SECONDS).exp()
    }
}

/// Whether an observation changed what routing may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Entered(NodeState),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(now: Instant) -> Node {
        Node::new(NodeId::new("db1:5432"), Duration::from_secs(1), now)
    }

    fn facts(incarnation: i64) -> Facts {
        Facts { role: Role::Replica, timeline: 1, lsn: 100, incarnation, system_id: 7, left_at: None }
    }

    #[test]
    fn a_restart_makes_older_connections_worthless() {
        let now = Instant::now();
        let node = node(now);
        assert_eq!(node.record_facts(facts(1), None, now, now), Change::Entered(NodeState::Up));
        assert_eq!(node.record_facts(facts(1), None, now, now), Change::None);
        let before = node.generation();
        assert_eq!(node.record_facts(facts(2), None, now, now), Change::Entered(NodeState::Up));
        assert_ne!(node.generation(), before);
    }

    #[test]
    fn a_replica_that_fell_behind_is_back_once_it_has_made_up_half() {
        let now = Instant::now();
        let node = node(now);
        let lags = [
            (900, false),
            (1_000, false),
            (1_100, true),
            (900, true),
            (501, true),
            (500, false),
            (900, false),
        ];
        for (lag, is_behind) in lags {
            node.record_facts(facts(1), Some(Duration::from_millis(lag)), now, now);
            assert_eq!(node.observation().is_behind, is_behind, "{lag} ms");
        }
        node.record_facts(facts(1), Some(Duration::from_secs(2)), now, now);
        node.record_failure("gone", now);
        node.record_facts(facts(1), Some(Duration::from_millis(900)), now, now);
        assert!(node.observation().is_behind, "a probe that failed is no progress");
    }

    #[test]
    fn a_life_is_known_for_as_long_as_a_probe_may_take_and_no_longer() {
        let sent = Instant::now();
        let node = node(sent);
        let life = |interval: u64, after: Duration| {
            node.observation().life(sent + after, Duration::from_millis(interval))
        };
        assert_eq!(life(100, Duration::ZERO), None, "it was never seen");
        // The answer came late, or was read late: what counts is when the question was put.
        node.record_facts(facts(1), None, sent, sent + Duration::from_millis(900));
        let limit = Duration::from_millis(100) + PROBE_TIMEOUT;
        assert!(life(100, limit).is_some());
        assert_eq!(life(100, limit + Duration::from_millis(1)), None);
        let limit = LIFE_AGE_MAX + PROBE_TIMEOUT;
        assert!(life(60_000, limit).is_some());
        assert_eq!(life(60_000, limit + Duration::from_millis(1)), None, "however seldom one looks");
    }

    #[test]
    fn another_cluster_timeline_or_start_is_another_life() {
        let now = Instant::now();
        let lives =
            [facts(1), facts(2), Facts { timeline: 2, ..facts(1) }, Facts { system_id: 8, ..facts(1) }].map(
                |facts| {
                    let node = node(now);
                    node.record_facts(facts, None, now, now);
                    node.observation().life(now, Duration::from_millis(100)).expect("it was just seen")
                },
            );
        for (index, life) in lives.iter().enumerate() {
            assert_eq!(lives.iter().filter(|other| *other == life).count(), 1, "{index}");
        }
    }

    #[test]
    fn going_down_counts_once() {
        let now = Instant::now();
        let node = node(now);
        node.record_facts(facts(1), None, now, now);
        let before = node.generation();
        assert_eq!(node.record_failure("refused", now), Change::Entered(NodeState::Down));
        assert_eq!(node.record_failure("refused", now), Change::None);
        assert_eq!(node.generation(), before + 1);
    }

    #[test]
    fn a_suspicion_raised_during_a_probe_outlives_it() {
        let node = node(Instant::now());
        node.suspect();
        let mark = node.suspicion_mark();
        node.suspect();
        node.clear_suspicions(mark);
        assert!(node.is_suspect());
        node.clear_suspicions(node.suspicion_mark());
        assert!(!node.is_suspect());
    }

    #[test]
    fn latency_rises_at_once_and_falls_with_time() {
        let start = Instant::now();
        let node = node(start);
        node.record_latency(Duration::from_millis(1), start);
        node.record_latency(Duration::from_millis(50), start);
        assert!(node.latency_micros(start) >= 49_999.0);
        node.record_latency(Duration::from_millis(1), start + Duration::from_millis(1));
        assert!(node.latency_micros(start) > 40_000.0, "one good answer does not forgive a slow one");
        assert!(node.latency_micros(start + Duration::from_secs(60)) < 200.0);
    }
}
