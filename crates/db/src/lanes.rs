//! Connections that many callers use at once: a handful to each server, borrowed from its pool while there is something to read,
//! and given back soon after.
//! One that runs long keeps the others of its lane waiting no longer than three [`LOOK`]s: they run again on connections of
//! their own, nobody enters the lane any more, and that statement keeps to itself for a while. Filled and entered by `share`.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::connection::{Connection, Values};
use crate::dial::Path;
use crate::error::Error;
use crate::pool::{self, Pool};
use crate::statement::Statement;

/// So often somebody who waits looks who is at the head of the lane.
const LOOK: Duration = Duration::from_millis(4);
/// One who is there at so many looks runs long: at the first ones it may be this process that had no time to read its answer.
const LOOKS: u32 = 3;
/// A statement that has held up a lane keeps to connections of its own for so long, and twice as long each time after that.
const SLOW_MIN: Duration = Duration::from_millis(25);
const SLOW_FOR_MAX: Duration = Duration::from_secs(30);
/// After so many quick runs in a row it was not the statement that was slow, but the machine.
const QUICK_RUNS: u32 = 256;
/// A statement that has held up no lane for so long is forgotten.
const SLOW_MEMORY: Duration = Duration::from_secs(60);
/// Statements that are known to run long; one more is not noted.
const SLOW_MAX: usize = 256;
/// A lane that nobody has used for so long gives its connection back; at once, if others wait for one.
const IDLE_MAX: Duration = Duration::from_millis(500);
/// Between two looks for lanes to be given back.
const TIDY_PAUSE: Duration = Duration::from_millis(50);
/// Nobody enters a lane that is older: its connection is tested and renewed by its pool only when it is given back. Each gets
/// up to half of it less at random, so that lanes opened together do not end together.
const AGE_MAX: Duration = Duration::from_secs(5);
/// So many statements in each lane before another lane is opened.
pub(crate) const DEPTH: usize = 4;
/// And no more than so many in any; who comes then gets in line for a connection, where it is told if there are too many.
pub(crate) const DEPTH_MAX: usize = 128;
/// Of a server's connections, the part that lanes may borrow: one in so many.
const POOL_PART: usize = 4;
/// More lanes would only mean fewer statements to a packet.
const LANES_MAX: usize = 4;

/// The lanes to one server.
#[derive(Debug)]
pub(crate) struct Lanes {
    open: Mutex<Vec<Arc<Lane>>>,
    is_opening: Arc<AtomicBool>,
    lanes_max: usize,
    slow: Slow,
}

/// A connection that its callers share.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) connection: Connection,
    ages_at: Instant,
    queue: Mutex<Queue>,
    is_shut: AtomicBool,
}

/// The statements of one lane, in the order in which they were sent, which is that in which the server runs them.
#[derive(Debug)]
struct Queue {
    next: u64,
    /// Those that are under way, and whether each has ended.
    under_way: VecDeque<(u64, bool)>,
    /// When the lane was used last.
    used: Instant,
}

/// A statement's place in its lane. Dropped before [`Turn::end`], it shuts the lane: what it sent may still be running.
struct Turn<'a> {
    lanes: &'a Lanes,
    lane: &'a Arc<Lane>,
    number: u64,
    has_ended: bool,
}

/// Statements that were met at the head of a lane that stood still.
#[derive(Debug, Default)]
struct Slow {
    count: AtomicUsize,
    known: Mutex<HashMap<&'static str, Offender>>,
}

/// A statement that has held up a lane.
#[derive(Debug)]
struct Offender {
    until: Instant,
    /// For how long it was sent away the last time.
    sent_away: Duration,
    /// How often it was quick since.
    quick_runs: u32,
}

impl Lanes {
    pub(crate) fn new(config: &Config, path: Path) -> Self {
        let lanes_max = match path {
            Path::Direct => (config.pool_size_max / POOL_PART).min(LANES_MAX),
            // Its own way of sharing connections, which a statement ahead of others would hold up all the same.
            Path::Pooler => 0,
        };
        Self { open: Mutex::default(), is_opening: Arc::default(), lanes_max, slow: Slow::default() }
    }

    /// Whether this statement may enter one: there are any, and it is not known to run long.
    pub(crate) fn admit(&self, statement: &Statement) -> bool {
        self.lanes_max > 0 && !self.slow.knows(statement.sql(), Instant::now())
    }

    pub(crate) fn add(&self, lane: &Arc<Lane>) {
        self.lock().push(Arc::clone(lane));
    }

    /// Runs a statement in a lane; nothing if another statement there holds it up.
    pub(crate) async fn run(
        &self,
        lane: &Arc<Lane>,
        statement: &Statement,
        values: Values<'_>,
    ) -> Option<Result<Vec<Row>, Error>> {
        if !lane.connection.has_prepared(statement) {
            // By itself: only what is sent at once has its place in the order.
            if let Err(error) = self.watch(lane, statement, lane.connection.prepare(statement)).await? {
                return Some(Err(error));
            }
        }
        self.watch(lane, statement, lane.connection.query(statement, values)).await
    }

    /// Waits for the answer of what `call` sends when it is polled first; nothing if another statement holds it up.
    async fn watch<T>(
        &self,
        lane: &Arc<Lane>,
        statement: &Statement,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Option<Result<T, Error>> {
        let turn = Turn::take(self, lane);
        let mut call = pin!(call);
        let (mut head, mut looks) = (None, 0);
        loop {
            if let Ok(outcome) = timeout(LOOK, &mut call).await {
                turn.end(&outcome);
                if looks == 0 {
                    self.slow.praise(statement.sql());
                }
                return Some(outcome);
            }
            if !lane.connection.is_current() {
                // Waiting out a dead socket would take seconds.
                return None;
            }
            let seen = std::mem::replace(&mut head, lane.lock().head());
            looks = if seen == head { looks + 1 } else { 1 };
            if looks < LOOKS {
                continue;
            }
            if head != Some(turn.number) {
                return None;
            }
            if looks == LOOKS {
                self.slow.note(statement.sql(), Instant::now());
                self.shut(lane);
            }
        }
    }

    /// The lane with the fewest statements under way, and how many they are.
    pub(crate) fn shallowest(&self, fits: impl Fn(&Lane) -> bool) -> Option<(Arc<Lane>, usize)> {
        let now = Instant::now();
        if self.lock().iter().any(|lane| !lane.is_usable(now)) {
            drop(self.take_if(|lane| !lane.is_usable(now)));
        }
        let open = self.lock();
        let usable = open.iter().filter(|lane| lane.is_usable(now) && fits(lane));
        let (lane, depth) =
            usable.map(|lane| (lane, lane.lock().under_way.len())).min_by_key(|(_, depth)| *depth)?;
        Some((Arc::clone(lane), depth))
    }

    pub(crate) fn may_open(&self) -> bool {
        self.lock().len() < self.lanes_max
    }

    /// Nobody enters it any more; its connection goes back with whoever leaves it last.
    pub(crate) fn shut(&self, lane: &Arc<Lane>) {
        lane.is_shut.store(true, Ordering::Release);
        let shut = self.take_if(|open| Arc::ptr_eq(open, lane));
        // Not under the lock.
        drop(shut);
    }

    /// Gives up what is not used, or was used for long enough.
    fn tidy(&self, now: Instant, others: Others) {
        let idle_max = if others == Others::Wait { Duration::ZERO } else { IDLE_MAX };
        drop(self.take_if(|lane| lane.is_idle(now, idle_max) || !lane.is_usable(now)));
        self.slow.forget(now);
    }

    pub(crate) fn close(&self) {
        drop(self.take_if(|_| true));
    }

    fn take_if(&self, goes: impl Fn(&Arc<Lane>) -> bool) -> Vec<Arc<Lane>> {
        self.lock().extract_if(.., |lane| goes(lane)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Lane>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether anybody waits for a connection of the same pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Wait,
    DoNot,
}

/// Has lanes give back what they do not need, until `stop`.
pub(crate) async fn keep_tidy(lanes: Arc<Lanes>, pool: Pool, stop: CancellationToken) {
    let tidying = async {
        loop {
            tokio::time::sleep(TIDY_PAUSE).await;
            let others = if pool::status(&pool).waiting > 0 { Others::Wait } else { Others::DoNot };
            lanes.tidy(Instant::now(), others);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = tidying => {}
    }
}

impl Lane {
    pub(crate) fn new(connection: Connection, now: Instant) -> Self {
        let queue = Queue { next: 0, under_way: VecDeque::new(), used: now };
        let ages_at = now + AGE_MAX.mul_f64(1.0 - 0.5 * rand::random::<f64>());
        Self { connection, ages_at, queue: Mutex::new(queue), is_shut: AtomicBool::new(false) }
    }

    /// Whether it may be entered.
    fn is_usable(&self, now: Instant) -> bool {
        now < self.ages_at && !self.is_shut.load(Ordering::Acquire) && self.connection.is_current()
    }

    fn is_idle(&self, now: Instant, longest: Duration) -> bool {
        let queue = self.lock();
        queue.under_way.is_empty() && now.saturating_duration_since(queue.used) >= longest
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn enter(&mut self, now: Instant) -> u64 {
        self.used = now;
        let number = self.next;
        self.next += 1;
        self.under_way.push_back((number, false));
        number
    }

    fn end(&mut self, number: u64, now: Instant) {
        if let Ok(at) = self.under_way.binary_search_by_key(&number, |(number, _)| *number) {
            self.under_way[at].1 = true;
        }
        while self.under_way.pop_front_if(|(_, has_ended)| *has_ended).is_some() {}
        self.used = now;
    }

    /// The statement that the server is at.
    fn head(&self) -> Option<u64> {
        self.under_way.front().map(|(number, _)| *number)
    }
}

impl<'a> Turn<'a> {
    fn take(lanes: &'a Lanes, lane: &'a Arc<Lane>) -> Self {
        let number = lane.lock().enter(Instant::now());
        Self { lanes, lane, number, has_ended: false }
    }

    /// The statement was answered, or is known not to have been.
    fn end<T>(mut self, outcome: &Result<T, Error>) {
        self.lane.lock().end(self.number, Instant::now());
        // What speaks of the connection, and not of the statement, ends the lane.
        let is_sound = !matches!(outcome, Err(error) if error.class().is_node_fault() || matches!(error, Error::Deadline { .. }));
        self.has_ended = is_sound;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.lanes.shut(self.lane);
        }
    }
}

impl Slow {
    fn knows(&self, sql: &'static str, now: Instant) -> bool {
        self.is_any() && self.lock().get(sql).is_some_and(|offender| now < offender.until)
    }

    fn note(&self, sql: &'static str, now: Instant) {
        let mut known = self.lock();
        if known.len() >= SLOW_MAX && !known.contains_key(sql) {
            return;
        }
        let last = known.get(sql).filter(|offender| offender.quick_runs < QUICK_RUNS);
        let sent_away =
            last.map_or(SLOW_MIN, |offender| offender.sent_away.saturating_mul(2).min(SLOW_FOR_MAX));
        known.insert(sql, Offender { until: now + sent_away, sent_away, quick_runs: 0 });
        self.count.store(known.len(), Ordering::Relaxed);
    }

    /// It was quick.
    fn praise(&self, sql: &'static str) {
        if self.is_any()
            && let Some(offender) = self.lock().get_mut(sql)
        {
            offender.quick_runs = offender.quick_runs.saturating_add(1);
        }
    }

    fn forget(&self, now: Instant) {
        if self.is_any() {
            let mut known = self.lock();
            known.retain(|_, offender| now < offender.until + SLOW_MEMORY);
            self.count.store(known.len(), Ordering::Relaxed);
        }
    }

    fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Offender>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to open a lane, of which there is one: the others go on with the lanes there are.
pub(crate) struct Opening(Arc<AtomicBool>);

impl Opening {
    pub(crate) fn begin(lanes: &Lanes) -> Option<Self> {
        if lanes.is_opening.swap(true, Ordering::AcqRel) {
            return None;
        }
        let opening = Self(Arc::clone(&lanes.is_opening));
        // Looked at under the right: another may have used it meanwhile.
        lanes.may_open().then_some(opening)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_the_first_that_has_not_ended() {
        let now = Instant::now();
        let mut queue = Queue { next: 0, under_way: VecDeque::new(), used: now };
        let [first, second, third] = [(); 3].map(|()| queue.enter(now));
        // Answers come in order; callers hear of them in any.
        queue.end(second, now);
        assert_eq!(queue.head(), Some(first));
        queue.end(first, now);
        assert_eq!(queue.head(), Some(third));
        queue.end(third, now);
        assert_eq!((queue.head(), queue.under_way.len()), (None, 0));
        assert_eq!(queue.enter(now), third + 1, "a number is given once");
    }

    #[test]
    fn a_statement_that_runs_long_again_and_again_is_sent_away_for_longer() {
        let (slow, begun) = (Slow::default(), Instant::now());
        let after = |length: Duration| begun + length - Duration::from_millis(1);
        slow.note("SELECT 1", begun);
        assert!(slow.knows("SELECT 1", after(SLOW_MIN)) && !slow.knows("SELECT 1", begun + SLOW_MIN));
        assert!(!slow.knows("SELECT 2", begun));
        slow.note("SELECT 1", begun);
        assert!(slow.knows("SELECT 1", after(SLOW_MIN * 2)) && !slow.knows("SELECT 1", begun + SLOW_MIN * 2));
        (0..20).for_each(|_| slow.note("SELECT 1", begun));
        assert!(slow.knows("SELECT 1", after(SLOW_FOR_MAX)) && !slow.knows("SELECT 1", begun + SLOW_FOR_MAX));
        slow.forget(begun + SLOW_FOR_MAX + SLOW_MEMORY);
        assert!(!slow.is_any(), "forgotten");
    }

    #[test]
    fn a_statement_that_is_quick_otherwise_is_sent_away_no_longer_than_at_first() {
        let (slow, begun) = (Slow::default(), Instant::now());
        for _ in 0..5 {
            slow.note("SELECT 1", begun);
            assert!(!slow.knows("SELECT 1", begun + SLOW_MIN));
            (0..QUICK_RUNS).for_each(|_| slow.praise("SELECT 1"));
        }
    }
}
