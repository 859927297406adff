//! Reads that must reflect a version which this node has not been told of: what is older will not do, here and in a tier,
//! loads are shared by those who ask for as much, and nothing stays of a version once nobody asks for it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use paystrata_cache::{
    CacheError, LoadContext, Lookup, Origin, Policy, Silence, Version, Write, testkit::Site,
};
use tokio::{
    task::JoinHandle,
    time::{advance, sleep},
};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, node, node_over_two, settle, trips};

/// A source whose value is the version of its last write, and which notes the floors that it is asked for.
#[derive(Clone, Default)]
struct Log {
    written: Arc<AtomicU64>,
    floors: Arc<Mutex<Vec<Version>>>,
}

impl Log {
    fn at(version: u64) -> Self {
        Self { written: Arc::new(AtomicU64::new(version)), ..Self::default() }
    }

    fn write(&self, version: u64) {
        self.written.store(version, SeqCst);
    }

    fn floors(&self) -> Vec<Version> {
        self.floors.lock().unwrap().clone()
    }

    async fn tell(self, context: LoadContext<u64>) -> Result<u64, Broken> {
        self.floors.lock().unwrap().push(context.floor());
        let written = self.written.load(SeqCst);
        context.version(Version(written));
        Ok(written)
    }

    async fn read(&self, cache: &Numbers) -> u64 {
        let log = self.clone();
        cache.get_or_load("k", move |context| log.tell(context)).await.unwrap().unwrap()
    }

    async fn read_at_least(&self, cache: &Numbers, version: u64) -> u64 {
        let log = self.clone();
        let load = move |context| log.tell(context);
        cache.get_or_load_at_least("k", Version(version), load).await.unwrap().unwrap()
    }
}

/// What the loader tells has no version.
fn read_through(
    gate: &Gate,
    cache: &Numbers,
    version: u64,
    told: Result<Option<u64>, Broken>,
) -> JoinHandle<Result<Option<u64>, CacheError<Broken>>> {
    let (gate, cache) = (gate.clone(), cache.clone());
    let load = move |_| gate.pass(told);
    tokio::spawn(async move { cache.get_or_load_at_least("k", Version(version), load).await })
}

async fn fail_at_least(cache: &Numbers, version: u64) -> Result<Option<u64>, CacheError<Broken>> {
    cache.get_or_load_at_least("k", Version(version), |_| async { Err::<u64, _>(Broken) }).await
}

fn graceful() -> Policy {
    Policy { ttl: SECOND, l1_ttl: SECOND, grace: 60 * SECOND, ..Policy::default() }
}

#[tokio::test(start_paused = true)]
async fn older_value_is_loaded_anew_and_everybody_sees_the_new_one() {
    let (cache, log) = (alone(Policy::default()), Log::at(5));
    assert_eq!(log.read(&cache).await, 5);
    log.write(9);
    assert_eq!(log.read(&cache).await, 5, "nobody has told this node");
    assert_eq!(log.read_at_least(&cache, 9).await, 9);
    assert_eq!((cache.get("k"), log.read(&cache).await), (Some(9), 9));
    assert_eq!(log.floors(), [Version::NONE, Version(9)]);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.loads), (3, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn value_of_that_version_or_a_newer_one_is_a_hit() {
    let (cache, log) = (alone(Policy::default()), Log::at(5));
    log.read(&cache).await;
    for version in [5, 4, 0] {
        assert_eq!(log.read_at_least(&cache, version).await, 5);
    }
    let nothing = |_| async { Ok::<Option<u64>, Broken>(None) };
    let loaded = cache.get_or_load_at_least_entry("k", Version(5), nothing).await.unwrap();
    assert_eq!((loaded.value, loaded.origin), (Some(5), Origin::Local));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.loads), (4, 1, 1));
    drop(cache.set("k".to_owned(), 8, Version(8)).unwrap());
    assert_eq!(log.read_at_least(&cache, 8).await, 8, "what was set has its version, too");
    assert_eq!(cache.stats().loads, 1);
}

#[tokio::test(start_paused = true)]
async fn value_without_a_version_and_the_knowledge_that_there_is_none_will_not_do() {
    for told in [Some(1), None] {
        let (cache, log) = (alone(Policy::default()), Log::at(9));
        Teller::default().read(&cache, "k", Ok(told)).await.unwrap();
        assert_ne!(cache.lookup("k"), Lookup::Miss);
        assert_eq!(log.read_at_least(&cache, 3).await, 9, "{told:?}");
        assert_eq!(cache.get("k"), Some(9));
    }
}

#[tokio::test(start_paused = true)]
async fn others_go_on_with_what_is_there_until_the_new_one_takes_its_place() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    let reader = read_through(&gate, &cache, 9, Ok(Some(2)));
    gate.begun.notified().await;
    assert_eq!(Teller::default().value(&cache, "k", 7).await, 1);
    gate.go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap(), Some(2));
    assert_eq!(cache.get("k"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn older_value_of_a_tier_is_passed_over_and_overwritten_and_a_newer_one_is_taken() {
    let (site, log) = (Site::new(31), Log::at(5));
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    log.read(&one).await;
    trips().await;
    assert_eq!(log.read_at_least(&other, 5).await, 5);
    assert_eq!(log.floors().len(), 1, "the tier has it");
    log.write(9);
    let (third, _) = node(&site, Policy::default()).await;
    assert_eq!(log.read_at_least(&third, 9).await, 9);
    assert!(log.floors().len() == 2 && log.floors()[1] >= Version(9), "{:?}", log.floors());
    trips().await;
    let (fourth, _) = node(&site, Policy::default()).await;
    assert_eq!(Teller::default().value(&fourth, "k", 7).await, 9, "the tier has the new one");
    assert_eq!((one.get("k"), third.get("k")), (Some(5), Some(9)), "other nodes were not told");
}

#[tokio::test(start_paused = true)]
async fn what_is_loaded_is_stored_in_every_tier_where_one_has_nothing_and_the_next_something_older() {
    let (near, far, log) = (Site::new(33), Site::new(34), Log::at(5));
    let (cache, ..) = node_over_two(&near, &far, Policy::default()).await;
    log.read(&cache).await;
    trips().await;
    near.shelf.restart();
    log.write(9);
    assert_eq!(log.read_at_least(&cache, 9).await, 9);
    trips().await;
    for tier in 0..2 {
        let (late, ..) = node_over_two(&near, &far, Policy::default()).await;
        let found = Teller::default().read(&late, "k", Ok(Some(7))).await.unwrap();
        assert_eq!((found.value, found.origin), (Some(9), Origin::Tier(tier)));
        trips().await;
        near.shelf.restart();
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_only_something_older_does_not_wait_for_the_load_of_another_node() {
    let (site, log, gate) = (Site::new(32), Log::at(5), Gate::default());
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    log.read(&one).await;
    trips().await;
    log.read(&other).await;
    log.write(9);
    let elsewhere = read_through(&gate, &one, 9, Ok(Some(9)));
    gate.begun.notified().await;
    assert_eq!(log.read_at_least(&other, 9).await, 9);
    assert!(log.floors().last() >= Some(&Version(9)), "{:?}", log.floors());
    gate.go.notify_one();
    assert_eq!(elsewhere.await.unwrap().unwrap(), Some(9));
}

#[tokio::test(start_paused = true)]
async fn callers_who_ask_for_as_much_or_less_share_one_load() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let first = read_through(&gate, &cache, 9, Ok(Some(2)));
    gate.begun.notified().await;
    let others = [9, 7, 1].map(|version| read_through(&gate, &cache, version, Ok(Some(3))));
    let plain = gate.read(&cache, "k", Ok(Some(3)));
    settle().await;
    gate.go.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), Some(2));
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), Some(2));
    }
    assert_eq!(plain.await.unwrap().unwrap().value, Some(2));
    let stats = cache.stats();
    assert_eq!((gate.calls(), stats.loads, stats.joins), (1, 1, 4));
}

#[tokio::test(start_paused = true)]
async fn load_that_began_for_less_is_waited_for_and_those_who_waited_load_together_once() {
    let (cache, early, late) = (alone(Policy::default()), Gate::default(), Gate::default());
    let plain = early.read(&cache, "k", Ok(Some(1)));
    early.begun.notified().await;
    let readers = [7, 9, 9].map(|version| read_through(&late, &cache, version, Ok(Some(2))));
    settle().await;
    assert_eq!(late.calls(), 0, "one load of a key at a time");
    early.go.notify_one();
    late.begun.notified().await;
    settle().await;
    late.go.notify_one();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), Some(2));
    }
    assert_eq!(plain.await.unwrap().unwrap().value, Some(1), "it asked for less");
    assert_eq!((late.calls(), cache.get("k")), (1, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn load_that_began_for_less_will_do_if_it_ends_with_enough() {
    let (cache, early, late) = (alone(Policy::default()), Gate::default(), Gate::default());
    let plain = tokio::spawn({
        let (cache, early) = (cache.clone(), early.clone());
        let load = move |context: LoadContext<u64>| async move {
            context.version(Version(9));
            early.pass(Ok(Some(1))).await
        };
        async move { cache.get_or_load("k", load).await }
    });
    early.begun.notified().await;
    let reader = read_through(&late, &cache, 9, Ok(Some(2)));
    settle().await;
    early.go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap(), Some(1));
    assert_eq!((plain.await.unwrap().unwrap(), late.calls()), (Some(1), 0));
}

#[tokio::test(start_paused = true)]
async fn load_that_one_who_asks_for_less_has_begun_meanwhile_is_told_the_highest_floor() {
    let (cache, early, log) = (alone(Policy::default()), Gate::default(), Log::at(5));
    let plain = early.read(&cache, "k", Ok(None));
    early.begun.notified().await;
    let readers = [3, 9].map(|version| {
        let (cache, log) = (cache.clone(), log.clone());
        tokio::spawn(async move { log.read_at_least(&cache, version).await })
    });
    settle().await;
    early.go.notify_one();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 5);
    }
    assert_eq!(plain.await.unwrap().unwrap().value, None);
    assert_eq!(log.floors(), [Version(9)]);
}

#[tokio::test(start_paused = true)]
async fn loader_that_says_an_older_version_is_believed_because_it_was_told_the_floor() {
    let (cache, log) = (alone(Policy::default()), Log::at(5));
    log.read(&cache).await;
    for _ in 0..2 {
        assert_eq!(log.read_at_least(&cache, 9).await, 5, "nothing has changed since");
    }
    assert_eq!(log.floors(), [Version::NONE, Version(9), Version(9)], "and is asked each time");
    assert_eq!(cache.get("k"), Some(5));
}

#[tokio::test(start_paused = true)]
async fn failed_load_is_an_error_and_what_is_older_stays_for_those_who_ask_for_less() {
    let (cache, gate) = (alone(graceful()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    let failed = fail_at_least(&cache, 9).await;
    assert!(matches!(failed, Err(CacheError::Load(_))), "{failed:?}");
    assert_eq!((cache.get("k"), cache.stats().stale), (Some(1), 0));
    advance(SECOND).await;
    let reader = read_through(&gate, &cache, 9, Err(Broken));
    gate.begun.notified().await;
    let beside = gate.read(&cache, "k", Ok(Some(3)));
    settle().await;
    gate.go.notify_one();
    assert!(matches!(reader.await.unwrap(), Err(CacheError::Load(_))));
    let found = beside.await.unwrap().unwrap();
    assert_eq!((found.value, found.is_stale, gate.calls()), (Some(1), true, 1));
}

#[tokio::test(start_paused = true)]
async fn failed_load_takes_nothing_from_others_who_are_served_through_a_silence() {
    let long = 3_600 * SECOND;
    let policy = Policy {
        on_silence: Silence::Serve,
        ttl: long,
        l1_ttl: long,
        negative_ttl: long,
        ..Policy::default()
    };
    for told in [Some(1), None] {
        let (site, teller) = (Site::new(35), Teller::default());
        let (cache, link) = node(&site, policy.clone()).await;
        teller.read(&cache, "k", Ok(told)).await.unwrap();
        trips().await;
        link.faults.set_down(true);
        sleep(60 * SECOND).await;
        let failed = fail_at_least(&cache, 9).await;
        assert!(matches!(failed, Err(CacheError::Load(_))), "{failed:?}");
        let found = teller.read(&cache, "k", Err(Broken)).await.unwrap();
        assert_eq!((found.value, found.is_stale, teller.calls()), (told, true, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_load_takes_the_knowledge_that_there_is_nothing_from_nobody() {
    let (cache, teller) = (alone(Policy::default()), Teller::default());
    teller.read(&cache, "k", Ok(None)).await.unwrap();
    assert!(matches!(fail_at_least(&cache, 9).await, Err(CacheError::Load(_))));
    assert_eq!(teller.read(&cache, "k", Err(Broken)).await.unwrap().value, None);
    assert_eq!(teller.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn fallback_of_that_version_stands_in_for_a_load_that_fails_and_an_older_one_does_not() {
    let (cache, log) = (alone(graceful()), Log::at(9));
    log.read(&cache).await;
    advance(SECOND).await;
    assert_eq!(fail_at_least(&cache, 9).await.unwrap(), Some(9));
    assert_eq!(cache.stats().stale, 1);
    assert!(matches!(fail_at_least(&cache, 10).await, Err(CacheError::Load(_))));
    assert_eq!(cache.get_stale("k").unwrap().value, Some(9), "it still is there");
}

#[tokio::test(start_paused = true)]
async fn floor_holds_while_somebody_asks_or_loads_for_who_did_and_not_after() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let reader = read_through(&gate, &cache, 9, Ok(Some(2)));
    gate.begun.notified().await;
    assert_eq!(cache.explain("k").await.floor, Version(9));
    assert_eq!(cache.explain("other").await.floor, Version::NONE);
    reader.abort();
    settle().await;
    assert_eq!(cache.explain("k").await.floor, Version(9), "the load goes on");
    let next = read_through(&gate, &cache, 9, Ok(Some(3)));
    settle().await;
    gate.go.notify_one();
    assert_eq!(next.await.unwrap().unwrap(), Some(2));
    settle().await;
    assert_eq!((cache.explain("k").await.floor, gate.calls()), (Version::NONE, 1));
    assert_eq!(cache.get("k"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn version_that_nobody_has_written_holds_up_nothing() {
    let cache = alone(Policy::default());
    let careful = |context: LoadContext<u64>| async move {
        if context.floor() > Version(9) { Err(Broken) } else { Ok(Some(1_u64)) }
    };
    let future = Version(u64::MAX - 1);
    for _ in 0..2 {
        assert!(cache.get_or_load_at_least("k", future, careful).await.is_err());
    }
    assert_eq!(cache.get_or_load("k", careful).await.unwrap(), Some(1));
    assert!(cache.get_or_load_at_least("k", future, careful).await.is_err());
    assert_eq!(cache.get("k"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn error_under_a_floor_is_remembered_by_nobody_though_who_asked_for_it_has_left() {
    let (cache, early, late) = (alone(Policy::default()), Gate::default(), Gate::default());
    let before = early.read(&cache, "k", Ok(Some(1)));
    early.begun.notified().await;
    let asker = read_through(&late, &cache, 9, Ok(Some(2)));
    settle().await;
    // Who reads next begins anew, while the asker goes on waiting for the load of before.
    drop(cache.invalidate_many(["k"], Version(3)));
    let plain = late.read(&cache, "k", Err(Broken));
    late.begun.notified().await;
    asker.abort();
    settle().await;
    assert_eq!(cache.explain("k").await.floor, Version(3), "nobody asks for more any longer");
    late.go.notify_one();
    assert!(matches!(plain.await.unwrap(), Err(CacheError::Load(_))));
    assert_eq!(Teller::default().value(&cache, "k", 3).await, 3);
    early.go.notify_one();
    assert_eq!(before.await.unwrap().unwrap().value, Some(1));
}

#[tokio::test(start_paused = true)]
async fn failure_for_who_asks_for_a_version_puts_no_fallback_to_rest() {
    let month = 2_592_000 * SECOND;
    let (cache, log) = (alone(Policy { grace: 2 * month, ..graceful() }), Log::at(9));
    log.read(&cache).await;
    // So old that its instants are known to some hundredths of a second.
    advance(month).await;
    assert_eq!(fail_at_least(&cache, 9).await.unwrap(), Some(9), "it is of that version");
    log.write(10);
    assert_eq!(log.read(&cache).await, 10, "others may be answered by a load without it");
    // As before for those who ask for none.
    advance(SECOND).await;
    let found = Teller::default().read(&cache, "k", Err(Broken)).await.unwrap();
    assert_eq!((found.value, found.is_stale), (Some(10), true));
    log.write(11);
    assert_eq!(log.read(&cache).await, 10);
}

#[tokio::test(start_paused = true)]
async fn fallback_of_a_load_that_fails_while_somebody_asks_for_a_version_does_not_rest() {
    let (cache, early, late, own) = (alone(graceful()), Gate::default(), Gate::default(), Gate::default());
    Log::at(5).read(&cache).await;
    advance(SECOND).await;
    let before = early.read(&cache, "k", Ok(Some(1)));
    early.begun.notified().await;
    let asker = read_through(&own, &cache, 9, Ok(Some(2)));
    settle().await;
    // Who reads next begins anew, and its loader is told what the asker wants.
    drop(cache.expire_many(["k"], Version(6)));
    let plain = late.read(&cache, "k", Err(Broken));
    late.begun.notified().await;
    late.go.notify_one();
    let found = plain.await.unwrap().unwrap();
    assert_eq!((found.value, found.is_stale), (Some(5), true));
    assert_eq!(Teller::default().value(&cache, "k", 3).await, 3, "the loader is asked again at once");
    early.go.notify_one();
    assert_eq!(before.await.unwrap().unwrap().value, Some(1));
    own.begun.notified().await;
    own.go.notify_one();
    assert_eq!(asker.await.unwrap().unwrap(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn latest_version_orders_a_load_whatever_is_there() {
    let (cache, log) = (alone(Policy::default()), Log::at(9));
    log.read(&cache).await;
    assert_eq!(log.read_at_least(&cache, u64::MAX).await, 9);
    assert_eq!(log.floors(), [Version::NONE, Version::LATEST]);
    // The newest when it was set: of what was written elsewhere since it says nothing.
    drop(cache.set("k".to_owned(), 1, Version::LATEST).unwrap());
    assert_eq!(log.read_at_least(&cache, u64::MAX).await, 9);
    drop(cache.set("k".to_owned(), 1, Version::LATEST).unwrap());
    assert_eq!(log.read_at_least(&cache, 3).await, 9);
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_for_a_load_is_refused_and_not_given_what_is_older() {
    let policy = Policy { loads_max: 1, loads_queued_max: 0, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    let busy = gate.read(&cache, "other", Ok(Some(1)));
    gate.begun.notified().await;
    let refused = fail_at_least(&cache, 9).await;
    assert!(matches!(refused, Err(CacheError::Overloaded)), "{refused:?}");
    assert_eq!((cache.get("k"), cache.stats().overloads), (Some(1), 1));
    gate.go.notify_one();
    busy.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn value_of_a_tier_needs_no_place_for_a_load() {
    let policy = Policy { loads_max: 1, loads_queued_max: 0, ..Policy::default() };
    let (site, log, gate) = (Site::new(36), Log::at(9), Gate::default());
    let ((one, _), (other, _)) = (node(&site, policy.clone()).await, node(&site, policy).await);
    log.read(&one).await;
    trips().await;
    let busy = gate.read(&other, "other", Ok(Some(1)));
    gate.begun.notified().await;
    assert_eq!(fail_at_least(&other, 9).await.unwrap(), Some(9));
    let refused = fail_at_least(&other, 10).await;
    assert!(matches!(refused, Err(CacheError::Overloaded)), "{refused:?}");
    assert_eq!((other.get("k"), other.stats().overloads), (Some(9), 1));
    gate.go.notify_one();
    busy.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn value_on_its_way_to_the_source_will_do() {
    let (cache, table) = crate::behind::slow_table(Policy { write: Write::Behind, ..Policy::default() });
    assert!(cache.set("k".to_owned(), 7, Version(1)).is_ok());
    assert_eq!(fail_at_least(&cache, 9).await.unwrap(), Some(7));
    table.let_go();
}
