//! Cases of loads in which two things come together: a panic and those who have joined, an error and a change, a sweep and
//! half of a batch, a schedule and a time to idle, a refresh and a loader that panics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{
    Cache, CacheError, Clock, Load, LoadContext, Lookup, Policy, Version, Write, testkit::Site,
};
use tokio::time::{advance, sleep};

use crate::{
    behind::slow_table,
    kit::{Broken, Gate, Numbers, SECOND, Teller, alone, exact, node, settle, trips, wait_for},
};

type Told = Result<Vec<Result<Option<u64>, Broken>>, Broken>;

fn panicking<T>() -> T {
    panic!("on purpose")
}

fn names(count: u64) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

// T4
#[tokio::test(start_paused = true)]
async fn batch_whose_loader_panics_tells_all_who_wait_and_leaves_its_keys_free() {
    let (cache, gate, teller, keys) =
        (alone(Policy::default()), Gate::default(), Teller::default(), names(3));
    let batch = tokio::spawn({
        let (cache, gate, keys) = (cache.clone(), gate.clone(), keys.clone());
        let load = move |_: Vec<String>, _: LoadContext<u64>| {
            let gate = gate.clone();
            async move {
                let _let_go = gate.pass(Ok(None)).await;
                panicking::<Told>()
            }
        };
        async move { cache.get_or_load_many(keys.iter().map(String::as_str), load).await }
    });
    gate.begun.notified().await;
    let single = tokio::spawn({
        let (cache, teller) = (cache.clone(), teller.clone());
        async move { teller.read(&cache, "1", Ok(Some(9))).await }
    });
    settle().await;
    gate.go.notify_one();
    let answers = batch.await.unwrap();
    assert_eq!(answers.len(), 3);
    assert!(answers.iter().all(|answer| matches!(answer, Err(CacheError::Panicked))), "{answers:?}");
    assert!(matches!(single.await.unwrap(), Err(CacheError::Panicked)));
    assert_eq!((gate.calls(), teller.calls()), (1, 0));
    for key in &keys {
        assert_eq!(teller.value(&cache, key, 2).await, 2);
    }
}

// T5, H13
#[tokio::test(start_paused = true)]
async fn remembered_error_is_forgotten_with_the_next_change_of_the_key() {
    let policy = Policy { error_ttl: 60 * SECOND, ..Policy::default() };
    let (cache, teller) = (alone(policy), Teller::default());
    let changes: [fn(&Numbers); 5] = [
        |cache| drop(cache.invalidate("k")),
        |cache| drop(cache.expire("k")),
        |cache| drop(cache.prefix("k").remove()),
        |cache| drop(cache.pattern("?").expire()),
        |cache| drop(cache.clear()),
    ];
    for change in changes {
        assert!(teller.read(&cache, "k", Err(Broken)).await.is_err());
        assert!(teller.read(&cache, "k", Ok(Some(1))).await.is_err(), "it is remembered");
        change(&cache);
        assert_eq!(teller.value(&cache, "k", 1).await, 1);
        drop(cache.invalidate("k"));
    }
    assert_eq!(teller.calls(), 10);
    assert!(teller.read(&cache, "k", Err(Broken)).await.is_err());
    drop(cache.set("k".to_owned(), 5, Version::LATEST).unwrap());
    assert_eq!((teller.value(&cache, "k", 6).await, teller.calls()), (5, 11));
}

// T41, H3
#[tokio::test(start_paused = true)]
async fn clear_during_a_batch_of_which_a_tier_has_one_half_leaves_nothing_old() {
    let (site, gate, keys) = (Site::new(311), Gate::default(), names(20));
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    for key in keys.iter().step_by(2) {
        assert_eq!(Teller::default().value(&one, key, 1).await, 1);
    }
    trips().await;
    let batch = tokio::spawn({
        let (other, gate, keys) = (other.clone(), gate.clone(), keys.clone());
        let load = move |keys: Vec<String>, _: LoadContext<u64>| {
            let gate = gate.clone();
            async move {
                let _let_go = gate.pass(Ok(None)).await;
                Ok::<_, Broken>(keys.iter().map(|_| Ok::<_, Broken>(Some(1_u64))).collect::<Vec<_>>())
            }
        };
        async move { other.get_or_load_many(keys.iter().map(String::as_str), load).await }
    });
    gate.begun.notified().await;
    other.clear().await;
    gate.go.notify_one();
    let answers = batch.await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Some(1)))), "who came before may see it");
    trips().await;
    for cache in [&one, &other] {
        assert!(cache.get_many(keys.iter().map(String::as_str)).iter().all(Option::is_none));
    }
    for key in &keys {
        assert_eq!(Teller::default().value(&one, key, 2).await, 2, "what lies in the tier is old");
    }
}

// T74, H9
#[tokio::test(start_paused = true)]
async fn batches_of_ten_thousand_keys_and_of_none_are_answered_with_few_places() {
    let (cache, calls) = (alone(Policy { loads_max: 2, ..Policy::default() }), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let load = move |keys: Vec<String>, _: LoadContext<u64>| {
        counted.fetch_add(1, SeqCst);
        async move {
            sleep(Duration::from_millis(1)).await;
            Ok::<_, Broken>(
                keys.iter().map(|key| Ok::<_, Broken>(key.parse::<u64>().ok())).collect::<Vec<_>>(),
            )
        }
    };
    let keys = names(10_000);
    // Some of them twice.
    let named: Vec<&str> = keys.iter().chain(keys.iter().take(100)).map(String::as_str).collect();
    let answers = cache.get_or_load_many(named.iter().copied(), load.clone()).await;
    let answers: Vec<u64> = answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert_eq!(answers, (0..10_000).chain(0..100).collect::<Vec<u64>>());
    assert_eq!(calls.load(SeqCst), 20, "of 512 keys each");
    assert!(cache.get_or_load_many(std::iter::empty::<&str>(), load).await.is_empty());
    assert_eq!(calls.load(SeqCst), 20);
}

// T74, H9
#[tokio::test(start_paused = true)]
async fn parts_of_a_batch_for_which_there_are_too_few_places_wait_for_each_other() {
    let cache = alone(Policy { loads_max: 1, loads_queued_max: 0, ..Policy::default() });
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        sleep(Duration::from_millis(1)).await;
        Ok::<_, Broken>(keys.iter().map(|key| Ok::<_, Broken>(key.parse::<u64>().ok())).collect::<Vec<_>>())
    };
    let keys = names(2_000);
    let answers = cache.get_or_load_many(keys.iter().map(String::as_str), load).await;
    let found = answers.into_iter().map(|answer| answer.unwrap().unwrap());
    assert!(found.eq(0..2_000));
    let asked = keys.iter().map(|key| (key.as_str(), Version(1)));
    let answers = cache.get_or_load_many_at_least(asked, load).await;
    assert!(answers.iter().all(Result::is_ok), "their values say nothing of a version");
    assert_eq!((cache.stats().loads, cache.stats().overloads), (8, 0));
}

// T11
#[tokio::test(start_paused = true)]
async fn schedule_keeps_what_is_read_and_the_time_to_idle_ends_what_is_not() {
    let policy = Policy {
        ttl: 30 * SECOND,
        l1_ttl: 30 * SECOND,
        tti: 15 * SECOND,
        refresh_every: 10 * SECOND,
        ..Policy::default()
    };
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let load = move |key: String, _: LoadContext<u64>| {
        counted.fetch_add(usize::from(key == "unread"), SeqCst);
        async move { Ok::<_, Broken>(Some(2)) }
    };
    let builder = Cache::builder("numbers").policy(exact(policy)).clock(Clock::tokio());
    let cache: Numbers = builder.keep_fresh(load).build();
    for key in ["read", "unread"] {
        Teller::default().value(&cache, key, 1).await;
    }
    for second in (5..=60).step_by(5) {
        sleep(5 * SECOND).await;
        assert!(cache.get("read").is_some(), "after {second} s");
    }
    assert_eq!((cache.get("read"), cache.get("unread")), (Some(2), None));
    assert_eq!(loads.load(SeqCst), 1, "once for the reader who loaded it");
}

// T20, T23
#[tokio::test(start_paused = true)]
async fn soft_limit_of_zero_gives_the_fallback_at_once_with_one_load_behind() {
    let policy =
        Policy { ttl: SECOND, grace: 60 * SECOND, soft_timeout: Duration::ZERO, ..Policy::default() };
    let (cache, gate, teller) = (alone(policy), Gate::default(), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(2 * SECOND).await;
    for _ in 0..3 {
        let read = gate.read(&cache, "k", Ok(Some(2))).await.unwrap().unwrap();
        assert_eq!((read.value, read.is_stale), (Some(1), true));
    }
    gate.go.notify_one();
    settle().await;
    assert_eq!((cache.get("k"), gate.calls()), (Some(2), 1));
}

// T24, T28
#[tokio::test(start_paused = true)]
async fn refresh_whose_loader_panics_takes_nothing_from_readers() {
    let policy = Policy { ttl: 10 * SECOND, refresh_at: 0.5, ..Policy::default() };
    let (cache, teller) = (alone(policy), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(6 * SECOND).await;
    let load = |_| async { panicking::<Result<Option<u64>, Broken>>() };
    assert_eq!(cache.get_or_load("k", load).await.unwrap(), Some(1));
    settle().await;
    assert_eq!((cache.get("k"), cache.stats().load_failures), (Some(1), 1));
    assert_eq!((teller.value(&cache, "k", 2).await, teller.calls()), (1, 1), "once in a lifetime");
    advance(4 * SECOND).await;
    assert_eq!((teller.value(&cache, "k", 3).await, teller.calls()), (3, 2));
}

// T35
#[tokio::test(start_paused = true)]
async fn that_nothing_has_not_changed_is_an_error_and_the_next_read_loads() {
    let cache = alone(Policy::default());
    let unchanged = |_: LoadContext<u64>| async { Ok::<_, Broken>(Load::<u64>::NotModified) };
    let read = cache.get_or_load("k", unchanged).await;
    assert!(matches!(read, Err(CacheError::Unanswered)), "{read:?}");
    assert_eq!(cache.stats().load_failures, 1);
    assert_eq!(Teller::default().value(&cache, "k", 2).await, 2);
    // Neither is what was found to be gone.
    let nothing = |_: LoadContext<u64>| async { Ok::<_, Broken>(Load::<u64>::Nothing) };
    assert_eq!(cache.reload("k", nothing).await.unwrap(), None);
    assert!(matches!(cache.reload("k", unchanged).await, Err(CacheError::Unanswered)));
    assert_eq!(cache.lookup("k"), Lookup::Absent);
}

// H22
#[tokio::test(start_paused = true)]
async fn absence_of_a_version_will_do_for_who_asks_for_it_and_for_no_newer_one() {
    let cache = alone(Policy::default());
    let nothing = |context: LoadContext<u64>| async move {
        context.version(Version(7));
        Ok::<_, Broken>(None::<u64>)
    };
    let broken = |_: LoadContext<u64>| async { Err::<Option<u64>, Broken>(Broken) };
    assert_eq!(cache.get_or_load("k", nothing).await.unwrap(), None);
    assert_eq!(cache.get_or_load_at_least("k", Version(7), broken).await.unwrap(), None);
    assert!(cache.get_or_load_at_least("k", Version(8), broken).await.is_err());
    assert_eq!((cache.lookup("k"), cache.stats().loads), (Lookup::Absent, 2));
}

// H1, T50
#[tokio::test(start_paused = true)]
async fn value_that_waits_to_be_written_outlasts_its_tag_but_not_a_newer_write() {
    let (cache, table) = slow_table(Policy { write: Write::Behind, ..Policy::default() });
    let teller = Teller::default();
    drop(cache.set_tagged("k".to_owned(), 5, Version(5), &["t"]).unwrap());
    drop(cache.tag("t").remove());
    assert_eq!(cache.get("k"), None);
    assert_eq!((teller.value(&cache, "k", 1).await, teller.calls()), (5, 0), "what the source will say");
    drop(cache.tag("t").at(Version(6)).remove());
    assert_eq!((teller.value(&cache, "k", 6).await, teller.calls()), (6, 1));
    table.let_go();
    wait_for(|| cache.stats().pending_writes == 0).await;
    settle().await;
    assert_eq!(cache.get("k"), None, "it may be from before the write");
}
