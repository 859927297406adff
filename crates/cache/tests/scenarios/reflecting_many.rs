//! Reads of many keys that must each reflect a version: the loader is called once for those that need it, and told one floor; what
//! is older will not do, here and in a tier; and loads are shared with those of single keys.

use std::sync::{Arc, Mutex};

use paystrata_cache::{CacheError, LoadContext, Policy, Version, testkit::Site};
use tokio::{task::JoinHandle, time::advance};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, node, settle, trips};

type Answers = Vec<Result<Option<u64>, CacheError<Broken>>>;

/// What a loader was asked for at once, and the floor that it was told.
type Call = (Vec<String>, Version);

/// A loader whose values are the version of the last write, and which notes its calls.
#[derive(Clone, Default)]
struct Log {
    written: u64,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Log {
    fn at(written: u64) -> Self {
        Self { written, ..Self::default() }
    }

    /// The calls since this was called last.
    fn taken(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    async fn read(&self, cache: &Numbers, keys: &[(&str, u64)]) -> Answers {
        let log = self.clone();
        let load = move |keys: Vec<String>, context: LoadContext<u64>| {
            let log = log.clone();
            async move {
                context.version(Version(log.written));
                log.calls.lock().unwrap().push((keys.clone(), context.floor()));
                Ok::<_, Broken>(keys.iter().map(|_| Ok::<_, Broken>(log.written)).collect())
            }
        };
        let keys = keys.iter().map(|(key, version)| (*key, Version(*version)));
        cache.get_or_load_many_at_least(keys, load).await
    }

    async fn values(&self, cache: &Numbers, keys: &[(&str, u64)]) -> Vec<u64> {
        let answers = self.read(cache, keys).await;
        answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect()
    }
}

fn call(keys: &[&str], floor: u64) -> Call {
    (keys.iter().map(|key| (*key).to_owned()).collect(), Version(floor))
}

/// All keys are told the same, once the gate is opened.
fn read_through(
    gate: &Gate,
    cache: &Numbers,
    keys: &'static [(&'static str, u64)],
    told: Result<Option<u64>, Broken>,
) -> JoinHandle<Answers> {
    let (gate, cache) = (gate.clone(), cache.clone());
    tokio::spawn(async move {
        let load = move |keys: Vec<String>, _: LoadContext<u64>| {
            let gate = gate.clone();
            async move { Ok::<_, Broken>(vec![gate.pass(told).await; keys.len()]) }
        };
        let keys = keys.iter().map(|(key, version)| (*key, Version(*version)));
        cache.get_or_load_many_at_least(keys, load).await
    })
}

#[tokio::test(start_paused = true)]
async fn loader_is_called_once_for_the_keys_that_are_older_and_told_the_highest_floor_among_them() {
    let cache = alone(Policy::default());
    assert_eq!(Log::at(5).values(&cache, &[("a", 0), ("b", 0), ("c", 0)]).await, [5; 3]);
    let log = Log::at(9);
    let wanted = [("a", 4), ("b", 7), ("c", 9), ("d", 0), ("a", 5)];
    assert_eq!(log.values(&cache, &wanted).await, [5, 9, 9, 9, 5]);
    assert_eq!(log.taken(), [call(&["b", "c", "d"], 9)]);
    assert_eq!(log.values(&cache, &wanted).await, [5, 9, 9, 9, 5]);
    assert!(log.taken().is_empty());
    assert_eq!((cache.get("a"), cache.get("b")), (Some(5), Some(9)));
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.loads), (6, 7, 2), "each key counts once in a call");
}

#[tokio::test(start_paused = true)]
async fn key_that_is_named_at_two_versions_is_read_for_the_higher_one() {
    let cache = alone(Policy::default());
    Log::at(5).values(&cache, &[("a", 0)]).await;
    let log = Log::at(9);
    assert_eq!(log.values(&cache, &[("a", 3), ("a", 8), ("a", 0)]).await, [9; 3]);
    assert_eq!(log.taken(), [call(&["a"], 8)]);
}

#[tokio::test(start_paused = true)]
async fn latest_version_orders_a_load_and_takes_the_others_along() {
    let cache = alone(Policy::default());
    Log::at(5).values(&cache, &[("a", 0), ("b", 0)]).await;
    let log = Log::at(5);
    assert_eq!(log.values(&cache, &[("a", u64::MAX), ("b", 5), ("c", 0)]).await, [5; 3]);
    assert_eq!(log.taken(), [call(&["a", "c"], u64::MAX)]);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (1, 3), "an ordered load is neither");
}

#[tokio::test(start_paused = true)]
async fn records_of_a_tier_are_taken_at_their_versions_with_one_look_and_one_claim() {
    let (site, log) = (Site::new(131), Log::at(9));
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    Log::at(5).values(&one, &[("old", 0)]).await;
    Log::at(8).values(&one, &[("new", 0), ("newer", 0)]).await;
    trips().await;
    let before = other.stats().tiers[0].round_trips;
    assert_eq!(log.values(&other, &[("old", 7), ("new", 7), ("newer", 8), ("none", 7)]).await, [9, 8, 8, 9]);
    let round_trips = other.stats().tiers[0].round_trips - before;
    assert!(
        round_trips <= 2,
        "{round_trips}: a look that claims what is not there, and a claim over what is older"
    );
    let calls = log.taken();
    assert!(calls.len() == 1 && calls[0].0 == ["old", "none"] && calls[0].1 >= Version(7), "{calls:?}");
    trips().await;
    let (late, _) = node(&site, Policy::default()).await;
    assert_eq!(log.values(&late, &[("old", 9), ("none", 9), ("new", 0)]).await, [9, 9, 8]);
    assert!(log.taken().is_empty(), "what was loaded has taken its place in the tier");
}

#[tokio::test(start_paused = true)]
async fn batches_and_single_reads_share_loads_that_began_for_as_much_and_load_once_more_for_less() {
    let (cache, early, late) = (alone(Policy::default()), Gate::default(), Gate::default());
    let single = early.read(&cache, "a", Ok(Some(1)));
    early.begun.notified().await;
    let batch = read_through(&late, &cache, &[("a", 9), ("b", 9)], Ok(Some(2)));
    late.begun.notified().await;
    let joined = read_through(&early, &cache, &[("b", 8)], Ok(Some(3)));
    settle().await;
    assert_eq!((early.calls(), late.calls()), (1, 1), "`b` is loaded, and `a` is waited for");
    early.go.notify_one();
    late.go.notify_one();
    assert_eq!(single.await.unwrap().unwrap().value, Some(1), "it asked for less");
    assert_eq!(joined.await.unwrap()[0].as_ref().unwrap(), &Some(2));
    late.begun.notified().await;
    assert_eq!((early.calls(), late.calls()), (1, 2), "`a` once more");
    late.go.notify_one();
    for answer in batch.await.unwrap() {
        assert_eq!(answer.unwrap(), Some(2));
    }
    assert_eq!((cache.get("a"), cache.get("b")), (Some(2), Some(2)));
}

#[tokio::test(start_paused = true)]
async fn failed_batch_is_an_error_of_each_key_that_nobody_remembers_and_takes_nothing_from_others() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    Teller::default().value(&cache, "a", 1).await;
    let batch = read_through(&gate, &cache, &[("a", 9), ("b", 0)], Err(Broken));
    gate.begun.notified().await;
    gate.go.notify_one();
    for answer in batch.await.unwrap() {
        assert!(matches!(answer, Err(CacheError::Load(_))), "{answer:?}");
    }
    assert_eq!(cache.get("a"), Some(1));
    assert_eq!(Teller::default().value(&cache, "b", 2).await, 2, "it failed under the floor of another key");
    settle().await;
    assert_eq!(cache.explain("a").await.floor, Version::NONE);
}

#[tokio::test(start_paused = true)]
async fn batch_that_fails_under_the_version_of_one_key_puts_the_fallback_of_no_other_to_rest() {
    let batches: [&[(&str, u64)]; 2] = [&[("a", 9), ("b", 0)], &[("a", u64::MAX), ("b", 0)]];
    for batch in batches {
        let policy = Policy { ttl: SECOND, grace: 60 * SECOND, ..Policy::default() };
        let (cache, gate) = (alone(policy), Gate::default());
        Log::at(5).values(&cache, &[("a", 0), ("b", 0)]).await;
        advance(SECOND).await;
        let answers = read_through(&gate, &cache, batch, Err(Broken));
        gate.begun.notified().await;
        gate.go.notify_one();
        let answers = answers.await.unwrap();
        assert!(matches!(answers[0], Err(CacheError::Load(_))), "{answers:?}");
        assert_eq!(answers[1].as_ref().unwrap(), &Some(5), "{batch:?}: its fallback");
        for key in ["a", "b"] {
            assert_eq!(Teller::default().value(&cache, key, 7).await, 7, "{batch:?}: {key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn keys_without_a_place_for_a_load_are_refused_and_the_others_are_answered() {
    let policy = Policy { loads_max: 1, loads_queued_max: 0, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    Log::at(5).values(&cache, &[("a", 0), ("b", 0)]).await;
    let busy = gate.read(&cache, "other", Ok(Some(1)));
    gate.begun.notified().await;
    let answers = Log::at(9).read(&cache, &[("a", 9), ("b", 5)]).await;
    assert!(matches!(answers[0], Err(CacheError::Overloaded)), "{answers:?}");
    assert_eq!(answers[1].as_ref().unwrap(), &Some(5));
    gate.go.notify_one();
    busy.await.unwrap().unwrap();
}
