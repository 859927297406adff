//! Callers who go away, at each poll of the answer they wait for: whoever asks next is answered, loads are as few as single
//! flight promises, nothing that was voided is served, no claim stands and nothing is under way any more. Those who go away
//! from a change are in `unconfirmed`; the table of verbs is in `tests/README.md`.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use futures_util::stream;
use paystrata_cache::{Cached, LoadContext, Loaded, Pace, Policy, Version, testkit::Site};
use tokio::time::sleep;

use crate::kit::{Broken, Gate, Numbers, SECOND, alone, node, trips, wait_for};

pub(crate) const KEYS: [&str; 3] = ["a", "b", "c"];

/// More polls than any of these futures takes; a future that takes more never ends.
const POLLS_MAX: usize = 1_000;

/// When a caller goes away.
#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    AtOnce,
    /// What wakes it is lost with it.
    Woken,
}

/// A caller who goes away after so many polls. After none it has never polled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    polls: usize,
    when: When,
}

impl Caller {
    /// What the future comes to, if it does before its caller goes away.
    pub(crate) async fn waits_for<F: Future>(self, future: F) -> Option<F::Output> {
        let mut future = Box::pin(future);
        let mut polled = 0;
        poll_fn(move |context| {
            if polled == self.polls {
                return Poll::Ready(None);
            }
            polled += 1;
            match future.as_mut().poll(context) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                Poll::Pending if polled == self.polls && self.when == When::AtOnce => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// Has each round begin with a caller who goes away one poll later than the last, until it stays to the end.
pub(crate) async fn at_every_poll(round: impl AsyncFn(Caller) -> bool) {
    for when in [When::AtOnce, When::Woken] {
        let mut polls = 0;
        while !round(Caller { polls, when }).await {
            polls += 1;
            assert!(polls < POLLS_MAX, "it never ends");
        }
    }
}

type Told = Result<Vec<Result<Option<u64>, Broken>>, Broken>;

/// Has one value under all keys, and tells it after a while. Counts the keys that it was asked for.
#[derive(Clone, Default)]
pub(crate) struct Source {
    value: Arc<AtomicU64>,
    asked: Arc<AtomicUsize>,
}

impl Source {
    pub(crate) fn of(value: u64) -> Self {
        Self { value: Arc::new(AtomicU64::new(value)), ..Self::default() }
    }

    pub(crate) fn set(&self, value: u64) {
        self.value.store(value, SeqCst);
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    pub(crate) async fn tell(self) -> Result<Option<u64>, Broken> {
        self.asked.fetch_add(1, SeqCst);
        let value = self.value.load(SeqCst);
        sleep(Duration::from_millis(5)).await;
        Ok(Some(value))
    }

    async fn tell_all(self, keys: Vec<String>) -> Told {
        self.asked.fetch_add(keys.len() - 1, SeqCst);
        let told = self.tell().await;
        Ok(vec![told; keys.len()])
    }
}

type Values = Vec<Option<u64>>;

/// As many loads at once as there may be: one that is left over is noticed by who comes next.
pub(crate) fn narrow() -> Policy {
    Policy { loads_max: 2, loads_queued_max: 0, ..Policy::default() }
}

async fn load_all(cache: &Numbers, source: &Source) -> Values {
    let source = source.clone();
    let load = move |keys: Vec<String>, _: LoadContext<u64>| source.clone().tell_all(keys);
    cache.get_or_load_many(KEYS, load).await.into_iter().map(Result::unwrap).collect()
}

fn values(loaded: Vec<Option<Loaded<u64>>>) -> Values {
    loaded.into_iter().map(|loaded| loaded.and_then(|loaded| loaded.value)).collect()
}

/// Nothing is under way, and all places are free: as many loads as there may be run at once.
pub(crate) async fn is_idle(cache: &Numbers, caller: Caller) {
    for key in KEYS {
        assert!(!cache.explain(key).await.is_loading, "{key}, {caller:?}");
    }
    let gate = Gate::default();
    let readers = ["one", "other"].map(|key| gate.read(cache, key, Err(Broken)));
    wait_for(|| gate.calls() == 2).await;
    gate.go.notify_waiters();
    for reader in readers {
        assert!(reader.await.unwrap().is_err());
    }
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.overloads), (stats.load_times.count(), 0), "{caller:?}");
}

/// A verb that loads keys, the first ones of `KEYS`, each of them so often at most when one caller goes away and another
/// comes. Gives their values.
async fn loads_at_every_poll(times_max: usize, verb: impl AsyncFn(&Numbers, &Source) -> Values) {
    at_every_poll(async |caller: Caller| {
        next_one_is_told_nothing_void(caller, &verb).await;
        next_one_is_answered(caller, times_max, &verb).await
    })
    .await;
}

async fn next_one_is_answered(
    caller: Caller,
    times_max: usize,
    verb: &impl AsyncFn(&Numbers, &Source) -> Values,
) -> bool {
    let (site, source) = (Site::new(101), Source::of(1));
    let (cache, _) = node(&site, narrow()).await;
    let is_done = caller.waits_for(async { verb(&cache, &source).await }).await.is_some();
    let told = verb(&cache, &source).await;
    assert!(!told.is_empty() && told.iter().all(|value| *value == Some(1)), "{told:?}, {caller:?}");
    let (asked, once) = (source.asked(), told.len());
    assert!((once..=once * times_max).contains(&asked), "{asked} loads of {once} keys, {caller:?}");
    trips().await;
    // Every claim was exchanged for what was loaded, or given back.
    let (other, _) = node(&site, narrow()).await;
    assert_eq!(verb(&other, &source).await, told, "{caller:?}");
    assert!(times_max > 1 || source.asked() == once, "the tier has it, {caller:?}");
    trips().await;
    let (third, _) = node(&site, narrow()).await;
    assert_eq!(values(third.read_many(KEYS[..once].iter().copied()).await), told, "{caller:?}");
    is_idle(&cache, caller).await;
    is_idle(&other, caller).await;
    is_done
}

/// What the caller who went away has begun is overtaken.
async fn next_one_is_told_nothing_void(caller: Caller, verb: &impl AsyncFn(&Numbers, &Source) -> Values) {
    let (site, source) = (Site::new(102), Source::of(1));
    let (cache, _) = node(&site, narrow()).await;
    let _gone = caller.waits_for(async { verb(&cache, &source).await }).await;
    source.set(2);
    drop(cache.invalidate_many(KEYS, Version(2)));
    let told = verb(&cache, &source).await;
    assert!(!told.is_empty() && told.iter().all(|value| *value == Some(2)), "{told:?}, {caller:?}");
    assert!(source.asked() <= 2 * told.len(), "{} loads, {caller:?}", source.asked());
    trips().await;
    assert_eq!(cache.get_many(KEYS[..told.len()].iter().copied()), told, "{caller:?}");
    let (other, _) = node(&site, narrow()).await;
    assert_eq!(verb(&other, &source).await, told, "{caller:?}");
    is_idle(&cache, caller).await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_with_a_loader_may_go_away_at_any_poll() {
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        let source = source.clone();
        vec![cache.get_or_load(KEYS[0], move |_| source.tell()).await.unwrap()]
    })
    .await;
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        let source = source.clone();
        vec![cache.get_or_load_entry(KEYS[0], move |_| source.tell()).await.unwrap().value]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_what_reflects_a_version_may_go_away_at_any_poll() {
    let versioned = |source: Source| {
        move |context: LoadContext<u64>| async move {
            context.version(Version(7));
            source.tell().await
        }
    };
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        let load = versioned(source.clone());
        vec![cache.get_or_load_at_least(KEYS[0], Version(5), load).await.unwrap()]
    })
    .await;
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        let load = versioned(source.clone());
        vec![cache.get_or_load_at_least_entry(KEYS[0], Version(5), load).await.unwrap().value]
    })
    .await;
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        let source = source.clone();
        let load = move |keys: Vec<String>, context: LoadContext<u64>| {
            context.version(Version(7));
            source.clone().tell_all(keys)
        };
        let wanted = KEYS.map(|key| (key, Version(5)));
        let loaded = cache.get_or_load_many_at_least(wanted, load).await;
        loaded.into_iter().map(Result::unwrap).collect::<Values>()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_many_with_a_loader_may_go_away_at_any_poll() {
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| load_all(cache, source).await).await;
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        let source = source.clone();
        let load = move |keys: Vec<String>, _: LoadContext<u64>| source.clone().tell_all(keys);
        let loaded = cache.get_or_load_many_entries(KEYS, load).await;
        loaded.into_iter().map(|loaded| loaded.unwrap().value).collect::<Values>()
    })
    .await;
}

/// Each order loads: what the one who went away has ordered may have begun before the next order, and is not waited for.
#[tokio::test(start_paused = true)]
async fn who_orders_a_load_may_go_away_at_any_poll() {
    loads_at_every_poll(2, async |cache: &Numbers, source: &Source| {
        let source = source.clone();
        vec![cache.reload(KEYS[0], move |_| source.tell()).await.unwrap()]
    })
    .await;
    loads_at_every_poll(2, async |cache: &Numbers, source: &Source| {
        let source = source.clone();
        vec![cache.reload_entry(KEYS[0], move |_| source.tell()).await.unwrap().value]
    })
    .await;
}

fn cached(cache: &Numbers, source: &Source) -> Cached<String, u64, Broken> {
    let source = source.clone();
    cache.clone().wrap(move |_, _| source.clone().tell())
}

#[tokio::test(start_paused = true)]
async fn who_calls_a_cached_function_may_go_away_at_any_poll() {
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        vec![cached(cache, source).call(KEYS[0].to_owned()).await.unwrap()]
    })
    .await;
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        vec![cached(cache, source).call_entry(KEYS[0].to_owned()).await.unwrap().value]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_warms_a_cache_may_go_away_at_any_poll() {
    loads_at_every_poll(1, async |cache: &Numbers, source: &Source| {
        let source = source.clone();
        let load = move |keys: Vec<String>, _: LoadContext<u64>| source.clone().tell_all(keys);
        let pace = Pace { batch: 2, every: Duration::from_millis(20) };
        let wanted = stream::iter(KEYS.map(str::to_owned));
        let done = cache.warm(wanted, pace, load, |_| {}).await;
        assert_eq!((done.keys, done.found, done.failed), (3, 3, 0));
        cache.get_many(KEYS)
    })
    .await;
}

/// A verb that reads keys, the first ones of `KEYS`, and calls no loader. Gives their values.
async fn reads_at_every_poll(verb: impl AsyncFn(&Numbers) -> Values) {
    at_every_poll(async |caller: Caller| {
        let (site, source) = (Site::new(103), Source::of(1));
        let (writer, _) = node(&site, narrow()).await;
        load_all(&writer, &source).await;
        trips().await;
        let ((cache, _), (late, _)) = (node(&site, narrow()).await, node(&site, narrow()).await);
        let is_done = caller.waits_for(async { verb(&cache).await }).await.is_some();
        let told = verb(&cache).await;
        assert!(!told.is_empty() && told.iter().all(|value| *value == Some(1)), "{told:?}, {caller:?}");

        let _gone = caller.waits_for(async { verb(&late).await }).await;
        drop(late.invalidate_many(KEYS, Version(2)));
        let told = verb(&late).await;
        assert!(told.iter().all(Option::is_none), "{told:?}, {caller:?}");
        trips().await;
        for cache in [&cache, &late] {
            assert_eq!(cache.get_many(KEYS), [None; 3], "{caller:?}");
            assert_eq!(verb(cache).await, told, "{caller:?}");
            assert_eq!((cache.stats().loads, source.asked()), (0, 3), "{caller:?}");
        }
        source.set(2);
        assert_eq!(load_all(&cache, &source).await, [Some(2); 3], "no claim keeps anybody from it");
        is_idle(&cache, caller).await;
        is_idle(&late, caller).await;
        is_done
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_reads_without_a_loader_may_go_away_at_any_poll() {
    reads_at_every_poll(async |cache: &Numbers| values(vec![cache.read(KEYS[0]).await])).await;
    reads_at_every_poll(async |cache: &Numbers| values(cache.read_many(KEYS).await)).await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_what_is_known_of_a_key_may_go_away_at_any_poll() {
    reads_at_every_poll(async |cache: &Numbers| {
        let explained = cache.explain(KEYS[0]).await;
        vec![explained.tiers[0].has_value.then_some(1_u64)]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_maintains_a_cache_may_go_away_at_any_poll() {
    at_every_poll(async |caller: Caller| {
        let (cache, source) = (alone(Policy { ttl: 10 * SECOND, ..Policy::default() }), Source::of(1));
        // More than two steps.
        let keys: Vec<String> = (0..1_100).map(|key| key.to_string()).collect();
        let load = move |keys: Vec<String>, _: LoadContext<u64>| source.clone().tell_all(keys);
        cache.get_or_load_many(keys.iter().map(String::as_str), load).await;
        sleep(11 * SECOND).await;
        drop(cache.set("fresh".to_owned(), 1, Version(1)).unwrap());
        let done = caller.waits_for(cache.maintain()).await.map(|done| done.entries);
        let left = cache.maintain().await.entries;
        assert_eq!((cache.stats().entries, cache.get("fresh")), (1, Some(1)), "{caller:?}");
        assert!(left <= 1_100 && done.is_none_or(|done| (done, left) == (1_100, 0)), "{left}, {caller:?}");
        is_idle(&cache, caller).await;
        done.is_some()
    })
    .await;
}
