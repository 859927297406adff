//! A shared tier as this node sees it: behind a bound on calls at once, a time limit and a breaker, and counted.
//! Refuses to know keys and values. Bytes that cannot be read never open the breaker: it does not see them.
//! Called by `consult`, `write_back` and `courier`.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{Instrument, Span};

use crate::{
    Observer, TierCall,
    clock::{Clock, micros},
    histogram::Recorder,
    rounds::{ReadSize, Spare, by_bytes},
    spans::{self, tier_span},
    stats::count,
    tier::{
        Answers, Claim, Found, Put, Remnant, Settlement, Stored, TierError, TierFuture, TierShare, Token,
        Voiding,
    },
};

/// How a shared tier is used. Build one with `TierOptions { timeout: .., ..TierOptions::default() }`. No field may be zero:
/// the cache is not built then ([`BuildError`](crate::BuildError)).
#[derive(Debug, Clone, PartialEq)]
pub struct TierOptions {
    /// What the tier is called in events, figures, spans and explanations: `near` and `far` tell two of a kind apart. It becomes a
    /// label, so take few and fixed ones. Default: what it is made of.
    pub name: Option<&'static str>,
    /// How long a value is fresh in this tier, if that is shorter than the policy's `ttl`; its grace comes after that. Default:
    /// as long as the policy says.
    pub ttl: Duration,
    /// What one call may take, the wait for its turn included. The tier has a limit of its own (the `command_timeout` of its
    /// options): whichever is shorter ends the call. Of several servers one that hangs fails the others' keys too unless the
    /// tier's own is the shorter one. Default 100 ms.
    pub timeout: Duration,
    /// After so many failures in a row the tier is left alone. `u32::MAX` is never. Default 5.
    pub breaker_failures: u32,
    /// For how long, until one call tries it again. Default 1 s.
    pub breaker_pause: Duration,
    /// Calls at once. Default 1,024.
    pub calls_max: usize,
    /// The largest value stored here, encoded, in bytes. Default 1 MiB.
    pub value_bytes_max: usize,
}

impl Default for TierOptions {
    fn default() -> Self {
        Self {
            name: None,
            ttl: Duration::MAX,
            timeout: Duration::from_millis(100),
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(1),
            calls_max: 1_024,
            value_bytes_max: 1 << 20,
        }
    }
}

/// What to think of floors that a server does not have, when it was started a short while ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum YoungServer {
    /// They may have been lost with the one before it: loaders are told [`Version::LATEST`](crate::Version::LATEST)
    /// until it has been up for [`FLOOR_LIFE`](crate::FLOOR_LIFE), and read from their primary. Nothing waits, nothing
    /// fails, and what was loaded is stored. The default.
    #[default]
    Blind,
    /// There was none before it, or no loader reads from a replica.
    Trusted,
}

/// What happened at one tier.
#[derive(Debug, Default)]
pub(crate) struct TierCounters {
    pub(crate) hits: AtomicU64,
    pub(crate) absent_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) swept: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) bypassed: AtomicU64,
    pub(crate) poisoned: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) oversize: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) trip_times: Recorder,
    pub(crate) opened: AtomicU64,
}

impl TierCounters {
    /// A read that gave what it asked for.
    pub(crate) fn hit<V>(&self, value: Option<&V>) {
        count(&self.hits);
        if value.is_none() {
            count(&self.absent_hits);
        }
    }
}

/// A tier and what stands before it.
#[derive(Debug)]
pub(crate) struct TierSide {
    cache: Arc<str>,
    observer: Arc<dyn Observer>,
    pub(crate) options: TierOptions,
    pub(crate) counters: TierCounters,
    share: Arc<dyn TierShare>,
    read_size: ReadSize,
    calls: Semaphore,
    failures: AtomicU32,
    /// Until when nobody calls; zero while the breaker is closed.
    open_until_us: AtomicU64,
    clock: Clock,
}

/// What is told of a call.
struct Call {
    verb: &'static str,
    keys: usize,
    span: Span,
}

impl TierSide {
    pub(crate) fn new(
        cache: &Arc<str>,
        observer: &Arc<dyn Observer>,
        share: Arc<dyn TierShare>,
        options: TierOptions,
        clock: Clock,
    ) -> Self {
        Self {
            cache: Arc::clone(cache),
            observer: Arc::clone(observer),
            calls: Semaphore::new(options.calls_max.clamp(1, Semaphore::MAX_PERMITS)),
            options,
            share,
            read_size: ReadSize::new(),
            counters: TierCounters::default(),
            failures: AtomicU32::new(0),
            open_until_us: AtomicU64::new(0),
            clock,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.share.kind()
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &'static str {
        self.options.name.unwrap_or_else(|| self.kind())
    }

    /// False while there is no point in asking.
    pub(crate) fn is_up(&self) -> bool {
        self.share.is_up() && self.clock.now_us() >= self.open_until_us.load(Relaxed)
    }

    /// One call, or several where values are so large that one takes too long: as many as fit the time of one. Nothing was sent
    /// of the keys that are left.
    pub(crate) async fn read(&self, keys: &[Bytes], claim: Option<Claim>) -> Answers<Found> {
        let begun = Instant::now();
        let mut found = Vec::new();
        loop {
            let left = &keys[found.len()..];
            let round = &left[..left.len().min(self.read_size.get())];
            let asked = Instant::now();
            let answers = self.read_round(round, claim).await;
            if answers.iter().all(|answer| *answer == Err(TierError::TimedOut)) {
                self.read_size.shrink(round.len());
            } else if answers.iter().any(Result::is_ok) {
                let is_quick = asked.elapsed() < self.options.timeout / 2;
                self.read_size.grow(round.len(), if is_quick { Spare::Much } else { Spare::Little });
            }
            if found.is_empty() && round.len() == keys.len() {
                return answers;
            }
            found.extend(answers);
            if begun.elapsed() >= self.options.timeout / 2 || !self.is_up() {
                found.resize(keys.len(), Err(TierError::Down));
            }
            if found.len() == keys.len() {
                return found;
            }
        }
    }

    async fn read_round(&self, keys: &[Bytes], claim: Option<Claim>) -> Answers<Found> {
        let span = tier_span!("read", self, keys.len());
        let told = Call { verb: "read", keys: keys.len(), span };
        let found = self.call_many(told, self.share.read(keys, claim)).await;
        self.has_read(found.iter().flatten());
        found
    }

    pub(crate) async fn read_one(&self, key: &Bytes, claim: Option<Claim>) -> Result<Found, TierError> {
        let span = tier_span!("read", self, 1_usize);
        let found = self.call(Call { verb: "read", keys: 1, span }, self.share.read_one(key, claim)).await;
        self.has_read(found.iter());
        found
    }

    pub(crate) async fn inspect(&self, key: &Bytes) -> Result<Option<Remnant>, TierError> {
        let span = tier_span!("inspect", self, 1_usize);
        self.call(Call { verb: "inspect", keys: 1, span }, self.share.inspect(key)).await
    }

    /// One call for each megabyte. A tier that takes too long is not asked again: leases end by themselves.
    pub(crate) async fn settle(&self, claims: &[(Bytes, Token, Settlement)]) -> Answers<Stored> {
        let mut stored = Vec::with_capacity(claims.len());
        for round in by_bytes(claims, |(.., settlement)| settlement.bytes()) {
            let span = tier_span!("settle", self, round.len());
            self.writes(round.iter().map(|(.., settlement)| settlement.bytes()));
            let told = Call { verb: "settle", keys: round.len(), span };
            let answers = self.call_many(told, self.share.settle(round)).await;
            let is_late = answers.iter().all(|answer| *answer == Err(TierError::TimedOut));
            stored.extend(answers);
            if is_late {
                break;
            }
        }
        stored.resize(claims.len(), Err(TierError::Down));
        stored
    }

    pub(crate) async fn void(&self, keys: &[Voiding]) -> Answers<()> {
        let span = tier_span!("void", self, keys.len());
        self.call_many(Call { verb: "void", keys: keys.len(), span }, self.share.void(keys)).await
    }

    pub(crate) async fn put(&self, values: &[Put]) -> Answers<Stored> {
        let span = tier_span!("put", self, values.len());
        self.writes(values.iter().map(|put| put.bytes.len()));
        self.call_many(Call { verb: "put", keys: values.len(), span }, self.share.put(values)).await
    }

    fn has_read<'a>(&self, found: impl Iterator<Item = &'a Found>) {
        let bytes = found.map(|found| match found {
            Found::Value(payload)
            | Found::Claimed { fallback: Some(payload), .. }
            | Found::Held { fallback: Some(payload), .. } => payload.bytes.len(),
            Found::Nothing | Found::Claimed { fallback: None, .. } | Found::Held { fallback: None, .. } => 0,
        });
        add(&self.counters.bytes_read, bytes.sum());
    }

    fn writes(&self, bytes: impl Iterator<Item = usize>) {
        add(&self.counters.bytes_written, bytes.sum());
    }

    /// One answer for each key. Where some have failed, the tier has not: its breaker counts calls that had no answer at all.
    async fn call_many<T: Clone>(&self, told: Call, call: TierFuture<'_, Answers<T>>) -> Answers<T> {
        let keys = told.keys;
        let answered = async { call.await.and_then(|answers| unless_all_failed(answers, keys)) };
        match self.call(told, Box::pin(answered)).await {
            Ok(answers) => {
                if answers.iter().any(Result::is_err) {
                    count(&self.counters.errors);
                }
                answers
            }
            Err(error) => vec![Err(error); keys],
        }
    }

    async fn call<T>(&self, told: Call, call: TierFuture<'_, T>) -> Result<T, TierError> {
        if !self.share.is_up() || !self.may_try() {
            spans::failed(&told.span, TierError::Down);
            return Err(TierError::Down);
        }
        // Precise where the cache's own clock is coarse: a trip may take a tenth of its tick.
        let begun = Instant::now();
        let in_turn = async {
            let _turn = match self.calls.try_acquire() {
                Ok(turn) => turn,
                Err(_none_left) => self.calls.acquire().await.expect("the semaphore is never closed"),
            };
            call.await
        };
        let in_time = timeout(self.options.timeout, in_turn).instrument(told.span.clone());
        let ended = in_time.await.unwrap_or(Err(TierError::TimedOut));
        let took = begun.elapsed();
        self.counters.trip_times.record(took);
        match &ended {
            Ok(_) => {
                self.failures.store(0, Relaxed);
                if self.open_until_us.load(Relaxed) != 0 && self.open_until_us.swap(0, Relaxed) != 0 {
                    self.observer.tier_closed(&self.cache, self.name());
                }
            }
            Err(error) => {
                spans::failed(&told.span, *error);
                self.failed(*error);
            }
        }
        let error = ended.as_ref().err().copied();
        let Call { verb, keys, .. } = told;
        let call = TierCall { tier: self.name(), kind: self.kind(), verb, keys, took, error };
        self.observer.tier_called(&self.cache, &call);
        ended
    }

    /// True for everyone while the breaker is closed, and for one caller at a time after its pause.
    fn may_try(&self) -> bool {
        let (until_us, now_us) = (self.open_until_us.load(Relaxed), self.clock.now_us());
        if until_us == 0 {
            return true;
        }
        let next_us = now_us.saturating_add(micros(self.options.breaker_pause));
        now_us >= until_us && self.open_until_us.compare_exchange(until_us, next_us, AcqRel, Relaxed).is_ok()
    }

    fn failed(&self, error: TierError) {
        count(&self.counters.errors);
        tracing::debug!(tier = self.name(), %error, "ask a shared tier");
        // A server that is away, of a tier that is up: it costs no time, and the keys of the others are to be read.
        if error == TierError::Down && self.share.is_up() {
            return;
        }
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        if failures >= self.options.breaker_failures {
            let until_us = self.clock.now_us().saturating_add(micros(self.options.breaker_pause));
            if self.open_until_us.swap(until_us, Relaxed) == 0 {
                count(&self.counters.opened);
                self.observer.tier_opened(&self.cache, self.name());
            }
        }
    }
}

fn add(counter: &AtomicU64, bytes: usize) {
    if bytes > 0 {
        counter.fetch_add(bytes as u64, Relaxed);
    }
}

/// The answers, if there is any; else the error that says most: nothing was sent only if nothing was sent to any server.
fn unless_all_failed<T>(answers: Answers<T>, keys: usize) -> Result<Answers<T>, TierError> {
    if answers.len() != keys {
        return Err(TierError::Failed);
    }
    let errors = || answers.iter().filter_map(|answer| answer.as_ref().err());
    let worst = errors().find(|error| **error != TierError::Down).or_else(|| errors().next());
    match worst {
        Some(error) if answers.iter().all(Result::is_err) => Err(*error),
        _ => Ok(answers),
    }
}
