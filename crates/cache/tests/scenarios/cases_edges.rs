//! Cases at the edge of what settings and the code of others may be: times without end, the least room there is, values and
//! keys whose own code calls the cache or panics, loads that read what they need through the cache, and streams that end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
    stream,
};
use paystrata_cache::{
    Cache, CacheError, CacheKey, Clock, LoadContext, Pace, Policy, Progress, Version, testkit::Site,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, advance, sleep, timeout},
};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, exact, node, settle, trips};

// T50, H21
#[tokio::test(start_paused = true)]
async fn value_that_lives_for_ever_is_a_fallback_once_it_is_expired() {
    let cache = alone(Policy { ttl: Duration::MAX, grace: 60 * SECOND, ..Policy::default() });
    let expiries: [fn(&Numbers); 4] = [
        |cache| drop(cache.expire("k")),
        |cache| drop(cache.prefix("k").expire()),
        |cache| drop(cache.pattern("?").expire()),
        |cache| drop(cache.expire_all()),
    ];
    for expire in expiries {
        let teller = Teller::default();
        assert_eq!((teller.value(&cache, "k", 1).await, teller.calls()), (1, 1));
        expire(&cache);
        assert_eq!(cache.get("k"), None);
        assert_eq!(cache.get_stale("k").map(|old| (old.value, old.is_stale)), Some((Some(1), true)));
        let kept = teller.read(&cache, "k", Err(Broken)).await.unwrap();
        assert_eq!((kept.value, kept.is_stale, teller.calls()), (Some(1), true, 2));
        drop(cache.invalidate("k"));
        assert!(cache.get_stale("k").is_none(), "what is removed is none");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_without_end_are_no_limits_to_a_tier_either() {
    let (site, teller) = (Site::new(301), Teller::default());
    let endless = Policy { load_timeout: Duration::MAX, load_abandon: Duration::MAX, ..Policy::default() };
    let (cache, _) = node(&site, endless).await;
    assert_eq!(teller.value(&cache, "k", 1).await, 1);
    trips().await;
    let (other, _) = node(&site, Policy::default()).await;
    assert_eq!((teller.value(&other, "k", 2).await, teller.calls()), (1, 1));
}

// T10
#[tokio::test(start_paused = true)]
async fn largest_settings_are_taken_and_overflow_nothing() {
    let policy = Policy {
        ttl: Duration::MAX,
        negative_ttl: Duration::MAX,
        grace: Duration::MAX,
        grace_backoff: Duration::MAX,
        error_ttl: Duration::MAX,
        load_timeout: Duration::MAX,
        load_abandon: Duration::MAX,
        lease_wait: Duration::MAX,
        max_stale: Duration::MAX,
        refresh_at: 0.5,
        l1_bytes_max: u64::MAX,
        l1_value_bytes_max: u64::MAX,
        negative_entries_max: usize::MAX,
        loads_max: usize::MAX,
        loads_queued_max: usize::MAX,
        ..Policy::default()
    };
    // Not without chance: it lengthens what has no end.
    let builder = Cache::builder("numbers").policy(Policy { jitter: 1.0, ..policy }).clock(Clock::tokio());
    let (cache, teller): (Numbers, _) = (builder.build(), Teller::default());
    teller.value(&cache, "k", 1).await;
    assert_eq!(teller.read(&cache, "nothing", Ok(None)).await.unwrap().value, None);
    assert!(teller.read(&cache, "broken", Err(Broken)).await.is_err());
    advance(86_400 * 400 * SECOND).await;
    assert_eq!((cache.get("k"), teller.value(&cache, "k", 2).await), (Some(1), 1));
    assert_eq!(teller.read(&cache, "nothing", Ok(Some(2))).await.unwrap().value, None);
    assert!(teller.read(&cache, "broken", Ok(Some(2))).await.is_err(), "it is remembered until it changes");
    assert_eq!(teller.calls(), 3);
    drop(cache.invalidate("broken"));
    assert_eq!(teller.value(&cache, "broken", 2).await, 2);
}

#[tokio::test(start_paused = true)]
async fn smallest_room_that_is_taken_keeps_one_entry() {
    let build = |l1_bytes_max| {
        let policy = exact(Policy { l1_bytes_max, ..Policy::default() });
        Cache::<String, u64>::builder("numbers").policy(policy).clock(Clock::tokio()).try_build().ok()
    };
    let cache = (1..1_000).find_map(build).expect("less than a thousand bytes hold a number");
    drop(cache.set("k".to_owned(), 7, Version(1)).unwrap());
    assert_eq!((cache.get("k"), cache.stats().entries), (Some(7), 1));
}

/// What a value does when it is dropped: nothing before the test has said so.
type AtDrop = Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>;

/// A value with an end of its own, as a session has that says goodbye.
struct Session(AtDrop);

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(act) = self.0.get() {
            act();
        }
    }
}

#[test]
fn value_that_asks_the_cache_when_it_is_dropped_holds_up_no_clear() {
    let (at_drop, asked) = (AtDrop::default(), Arc::new(AtomicUsize::new(0)));
    let cache: Cache<u64, Arc<Session>> = Cache::builder("sessions").build();
    let (own, counted) = (cache.clone(), Arc::clone(&asked));
    let act = move || {
        // Under the very key that goes.
        assert!(own.get(&1).is_none());
        counted.fetch_add(1, SeqCst);
    };
    assert!(at_drop.set(Box::new(act)).is_ok());
    drop(cache.set(1, Arc::new(Session(Arc::clone(&at_drop))), Version(1)).unwrap());
    let (ended, is_ended) = mpsc::channel();
    // A thread of its own, so that one that hangs is seen.
    let clearing = std::thread::spawn(move || {
        drop(cache.clear());
        ended.send(()).unwrap();
    });
    is_ended.recv_timeout(Duration::from_secs(60)).expect("the clear hangs");
    clearing.join().unwrap();
    assert_eq!(asked.load(SeqCst), 1);
}

/// Set while no key can be spelled.
static CANNOT_SPELL: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Moody(u64);

impl CacheKey for Moody {
    fn encode(&self) -> Bytes {
        assert!(!CANNOT_SPELL.load(SeqCst), "on purpose");
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        u64::decode(bytes).map(Self)
    }
}

// T4
#[tokio::test(start_paused = true)]
async fn key_that_panics_when_it_is_spelled_is_free_afterwards() {
    let site = Site::new(302);
    let builder = Cache::builder("moods").policy(exact(Policy::default())).clock(Clock::tokio());
    let cache: Cache<Moody, u64> = builder.tier(Arc::new(site.link())).build();
    CANNOT_SPELL.store(true, SeqCst);
    let rash = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_load(&Moody(1), |_| async { Ok::<_, Broken>(Some(1)) }).await.is_ok() }
    });
    assert!(rash.await.is_err(), "it has panicked");
    CANNOT_SPELL.store(false, SeqCst);
    let read = cache.get_or_load(&Moody(1), |_| async { Ok::<_, Broken>(Some(2)) }).await;
    assert_eq!(read.unwrap(), Some(2), "nobody loads it, and nobody waits for that");
}

/// One more than what is under the key below, which is read through the cache.
fn count_down(
    cache: &Cache<u64, u64>,
    key: u64,
) -> BoxFuture<'static, Result<Option<u64>, CacheError<Broken>>> {
    let cache = cache.clone();
    async move {
        let own = cache.clone();
        let load = move |_: LoadContext<u64>| async move {
            if key == 0 {
                return Ok::<_, Broken>(Some(0));
            }
            let below = count_down(&own, key - 1).await.map_err(|_| Broken)?;
            Ok(below.map(|below| below + 1))
        };
        cache.get_or_load(&key, load).await
    }
    .boxed()
}

#[tokio::test(start_paused = true)]
async fn loads_that_read_through_the_cache_do_not_wait_for_their_own_places() {
    let policy = exact(Policy { loads_max: 2, ..Policy::default() });
    let cache: Cache<u64, u64> = Cache::builder("counts").policy(policy).clock(Clock::tokio()).build();
    assert_eq!(count_down(&cache, 20).await.unwrap(), Some(20));
    assert_eq!((cache.get(&7), cache.stats().loads), (Some(7), 21));
}

#[tokio::test(start_paused = true)]
async fn load_that_waits_for_its_turn_has_it_when_the_loader_before_it_waits_for_its_key() {
    let cache = alone(Policy { loads_max: 1, ..Policy::default() });
    for with_others in [false, true] {
        drop(cache.clear());
        let (gate, teller, own) = (Gate::default(), Teller::default(), cache.clone());
        let passed = gate.clone();
        let load = move |_: LoadContext<u64>| async move {
            let _let_go = passed.pass(Ok(None)).await;
            let read = Teller::default().read(&own, "config", Ok(Some(9))).await;
            read.map(|loaded| loaded.value).map_err(|_| Broken)
        };
        let outer = cache.clone();
        let outer = tokio::spawn(async move { outer.get_or_load("k", load).await });
        gate.begun.notified().await;
        let (counted, cache) = (teller.clone(), cache.clone());
        let queued = tokio::spawn(async move {
            if !with_others {
                return counted.value(&cache, "config", 1).await;
            }
            let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
                Ok::<_, Broken>(keys.iter().map(|_| Ok::<_, Broken>(Some(1_u64))).collect::<Vec<_>>())
            };
            let answers = cache.get_or_load_many(["another", "config"], load).await;
            answers[1].clone().unwrap().unwrap()
        });
        settle().await;
        assert!(!queued.is_finished() && teller.calls() == 0, "there is one place");
        gate.go.notify_one();
        assert_eq!(outer.await.unwrap().unwrap(), Some(1));
        assert_eq!(queued.await.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn loader_that_asks_for_its_own_key_ends_at_the_limit_and_leaves_the_key_free() {
    let cache = alone(Policy::default());
    let own = cache.clone();
    let load = move |_: LoadContext<u64>| async move {
        let read = Teller::default().read(&own, "k", Ok(Some(1))).await;
        read.map(|loaded| loaded.value).map_err(|_| Broken)
    };
    assert!(cache.get_or_load("k", load).await.is_err());
    sleep(SECOND).await;
    assert_eq!(Teller::default().value(&cache, "k", 2).await, 2);
}

#[tokio::test(start_paused = true)]
async fn stream_that_has_ended_is_not_waited_for_however_long_the_pace() {
    for every in [3_600 * SECOND, Duration::MAX] {
        let cache = alone(Policy::default());
        let keys = stream::iter(["1", "2", "3"].map(str::to_owned));
        let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
            Ok::<_, Broken>(keys.iter().map(|key| Ok(key.parse::<u64>().ok())).collect::<Vec<_>>())
        };
        let begun = Instant::now();
        let warming = cache.warm(keys, Pace { every, ..Pace::default() }, load, |_| {});
        let done = timeout(2 * 3_600 * SECOND, warming).await.expect("it goes on for ever");
        assert_eq!(done, Progress { keys: 3, found: 3, failed: 0 });
        assert!(begun.elapsed() < SECOND, "{:?} for a batch that was whole", begun.elapsed());
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

// T4, H14
#[test]
fn load_whose_runtime_ends_is_taken_over_by_who_waits_on_another() {
    let (first, second, gate, teller) = (runtime(), runtime(), Gate::default(), Teller::default());
    let cache: Numbers = Cache::builder("numbers").build();
    let early = {
        let _entered = first.enter();
        gate.read(&cache, "k", Ok(Some(1)))
    };
    first.block_on(gate.begun.notified());
    let (reader, shared) = (teller.clone(), cache.clone());
    let late = second.spawn(async move { reader.value(&shared, "k", 2).await });
    second.block_on(settle());
    assert_eq!(teller.calls(), 0, "one load");
    drop(first);
    assert_eq!(second.block_on(late).unwrap(), 2);
    drop(early);
    assert_eq!((cache.get("k"), teller.calls()), (Some(2), 1));
}

#[test]
fn read_outside_of_a_runtime_panics_and_leaves_the_key_free() {
    let (cache, teller): (Numbers, _) = (Cache::builder("numbers").build(), Teller::default());
    let read = || teller.value(&cache, "k", 1).now_or_never();
    assert!(catch_unwind(AssertUnwindSafe(read)).is_err());
    assert_eq!(runtime().block_on(teller.value(&cache, "k", 2)), 2);
    assert_eq!(teller.value(&cache, "k", 3).now_or_never(), Some(2), "a hit needs none");
}

// T8
#[tokio::test(start_paused = true)]
async fn keys_that_load_each_other_in_a_circle_end_at_the_limit_and_are_free() {
    let cache = alone(Policy::default());
    let circle = [("a", "b"), ("b", "a")].map(|(key, other)| {
        let (cache, own) = (cache.clone(), cache.clone());
        let load = move |_: LoadContext<u64>| async move {
            settle().await;
            Teller::default().read(&own, other, Ok(Some(1))).await.map(|read| read.value).map_err(|_| Broken)
        };
        async move { cache.get_or_load(key, load).await.is_err() }
    });
    assert_eq!(join_all(circle).await, [true, true]);
    sleep(SECOND).await;
    for key in ["a", "b"] {
        assert_eq!(Teller::default().value(&cache, key, 2).await, 2);
    }
}
