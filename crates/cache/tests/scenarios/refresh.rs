//! Refresh ahead, and what a loader may say besides its answer.

use std::{sync::Arc, time::Duration};

use paystrata_cache::{Load, LoadContext, Policy, Version, testkit::Site};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, Gate, SECOND, Teller, alone, exact, node_over_two, settle, trips};

fn eager() -> Policy {
    Policy { ttl: 10 * SECOND, l1_ttl: 10 * SECOND, refresh_at: 0.8, ..Policy::default() }
}

// T28, T38
#[tokio::test(start_paused = true)]
async fn hit_late_in_a_lifetime_is_answered_at_once_and_loads_once_in_the_background() {
    let (cache, gate) = (alone(eager()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(9 * SECOND).await;
    for _ in 0..10 {
        assert_eq!(gate.read(&cache, "k", Ok(Some(2))).await.unwrap().unwrap().value, Some(1));
    }
    gate.go.notify_one();
    settle().await;
    assert_eq!((cache.get("k"), gate.calls(), cache.stats().refreshes), (Some(2), 1, 1));
}

// T29
#[tokio::test(start_paused = true)]
async fn nobody_loads_what_nobody_reads() {
    let (cache, teller) = (alone(eager()), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(20 * SECOND).await;
    settle().await;
    assert_eq!(teller.calls(), 1);
}

// T30
#[tokio::test(start_paused = true)]
async fn who_comes_after_the_end_of_a_lifetime_joins_the_refresh_that_runs() {
    let (cache, gate) = (alone(eager()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(9 * SECOND).await;
    gate.read(&cache, "k", Ok(Some(2))).await.unwrap().unwrap();
    gate.begun.notified().await;
    advance(2 * SECOND).await;
    let late = gate.read(&cache, "k", Ok(Some(3)));
    settle().await;
    gate.go.notify_one();
    assert_eq!((late.await.unwrap().unwrap().value, gate.calls()), (Some(2), 1));
}

// T38
#[tokio::test(start_paused = true)]
async fn refresh_that_an_invalidation_overtakes_stores_nothing() {
    let (cache, gate) = (alone(eager()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(9 * SECOND).await;
    gate.read(&cache, "k", Ok(Some(2))).await.unwrap().unwrap();
    gate.begun.notified().await;
    drop(cache.invalidate("k"));
    gate.go.notify_one();
    settle().await;
    assert_eq!(cache.get("k"), None);
}

// T31
#[tokio::test(start_paused = true)]
async fn refresh_goes_on_when_the_caller_that_began_it_goes_away() {
    let (cache, gate) = (alone(eager()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(9 * SECOND).await;
    // The read itself runs on the task that goes away.
    let caller = tokio::spawn({
        let (cache, loader) = (cache.clone(), gate.clone());
        async move {
            let read = cache.get_or_load("k", move |_| loader.pass(Ok(Some(2)))).await;
            assert_eq!(read.unwrap(), Some(1));
            std::future::pending::<()>().await;
        }
    });
    gate.begun.notified().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    gate.go.notify_one();
    settle().await;
    assert_eq!((cache.get("k"), gate.calls()), (Some(2), 1));
}

// T33
#[tokio::test(start_paused = true)]
async fn endless_lifetime_is_never_due() {
    let endless = Policy { ttl: Duration::MAX, l1_ttl: Duration::MAX, refresh_at: 0.8, ..Policy::default() };
    let (cache, teller) = (alone(endless), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(86_400 * 365 * SECOND).await;
    assert_eq!((teller.value(&cache, "k", 2).await, teller.calls()), (1, 1));
}

// T34
#[tokio::test(start_paused = true)]
async fn loader_says_how_long_its_answer_lives_what_tags_it_has_and_whether_it_is_kept() {
    let policy = Policy::default();
    let cache = alone(policy);
    let short = |context: LoadContext<u64>| async move {
        context.ttl(SECOND);
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("short", short).await.unwrap();
    let tagged = |context: LoadContext<u64>| async move {
        context.tag("t");
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("tagged", tagged).await.unwrap();
    assert_eq!(cache.get("tagged"), Some(1));
    drop(cache.tag("t").remove());
    assert_eq!(cache.get("tagged"), None);
    let unkept = |context: LoadContext<u64>| async move {
        context.do_not_store();
        Ok::<_, Broken>(Some(1))
    };
    assert_eq!(cache.get_or_load("unkept", unkept).await.unwrap(), Some(1));
    assert_eq!((cache.get("short"), cache.get("unkept")), (Some(1), None));
    advance(SECOND).await;
    assert_eq!(cache.get("short"), None);
    assert_eq!(*cache.policy(), exact(Policy::default()), "it said so of one answer");
}

// T35, T36
#[tokio::test(start_paused = true)]
async fn loader_is_shown_what_is_there_and_may_say_that_it_has_not_changed() {
    let policy = Policy { grace: 60 * SECOND, ttl: SECOND, l1_ttl: SECOND, ..Policy::default() };
    let cache = alone(policy);
    let first = |context: LoadContext<u64>| async move {
        assert_eq!(context.stale(), None);
        context.validator("etag-1").version(Version(7));
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("k", first).await.unwrap();
    for _ in 0..3 {
        advance(SECOND).await;
        assert_eq!(cache.get("k"), None);
        let unchanged = |context: LoadContext<u64>| async move {
            let stale = context.stale().unwrap();
            assert_eq!((stale.value, stale.version), (1, Version(7)));
            assert_eq!(stale.validator, Some(Arc::from("etag-1")));
            Ok::<_, Broken>(Load::<u64>::NotModified)
        };
        assert_eq!(cache.get_or_load("k", unchanged).await.unwrap(), Some(1));
        assert_eq!(cache.get("k"), Some(1));
    }
    assert_eq!(cache.stats().load_unmodified, 3);
}

#[tokio::test(start_paused = true)]
async fn value_that_nobody_reads_ends_with_its_time_to_idle() {
    let (cache, teller) = (alone(Policy { tti: 10 * SECOND, ..Policy::default() }), Teller::default());
    teller.value(&cache, "k", 1).await;
    for _ in 0..5 {
        advance(8 * SECOND).await;
        assert_eq!(cache.get("k"), Some(1));
    }
    advance(10 * SECOND).await;
    assert_eq!(cache.get("k"), None);
    // One that was set as well.
    drop(cache.set("k".to_owned(), 2, Version(1)).unwrap());
    advance(8 * SECOND).await;
    assert_eq!(cache.get("k"), Some(2));
    advance(10 * SECOND).await;
    assert_eq!(cache.get("k"), None);
}

#[tokio::test(start_paused = true)]
async fn value_with_a_time_to_idle_is_loaded_once_however_often_it_is_read() {
    let (cache, teller) = (alone(Policy { tti: 10 * SECOND, ..Policy::default() }), Teller::default());
    for _ in 0..5 {
        assert_eq!(teller.value(&cache, "k", 1).await, 1);
        advance(SECOND).await;
    }
    assert_eq!((teller.calls(), cache.stats().refreshes), (1, 0));
    // And ends with it, read by a loader's caller or not.
    advance(10 * SECOND).await;
    assert_eq!(teller.value(&cache, "k", 2).await, 2);
}

// T28, H11
#[tokio::test(start_paused = true)]
async fn value_that_is_due_is_loaded_by_one_node_of_several_over_two_tiers() {
    let (near, far) = (Site::new(41), Site::new(42));
    let policy = Policy { ttl: 10 * SECOND, refresh_at: 0.5, ..Policy::default() };
    let (one, ..) = node_over_two(&near, &far, policy.clone()).await;
    let (other, ..) = node_over_two(&near, &far, policy).await;
    let teller = Teller::default();
    for cache in [&one, &other] {
        assert_eq!(teller.value(cache, "k", 1).await, 1);
        trips().await;
    }
    assert_eq!(teller.calls(), 1);
    sleep(6 * SECOND).await;
    let gate = Gate::default();
    gate.read(&one, "k", Ok(Some(2))).await.unwrap().unwrap();
    gate.begun.notified().await;
    for _ in 0..3 {
        assert_eq!(teller.value(&other, "k", 3).await, 1);
        trips().await;
    }
    gate.go.notify_one();
    trips().await;
    assert_eq!((gate.calls(), teller.calls()), (1, 1), "the other node leaves it to the first");
}
