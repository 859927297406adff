//! Figures that rise by exactly as much as happens; and a function that is called no more often than its arguments and
//! tags say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{Cached, Invalidation, LoadContext, Policy, Version, cached, testkit::Site};

use crate::kit::{Broken, Gate, Numbers, Teller, alone, node, node_over_two, settle, trips};

#[tokio::test(start_paused = true)]
async fn reads_that_wait_for_the_load_of_another_are_joins_and_no_others_are() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let readers: Vec<_> = (0..4).map(|_| gate.read(&cache, "k", Ok(Some(1)))).collect();
    gate.begun.notified().await;
    settle().await;
    assert_eq!(Teller::default().value(&cache, "other", 2).await, 2);
    assert_eq!(cache.stats().joins, 3, "the first has begun the load");
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        Ok::<_, Broken>(vec![Ok::<_, Broken>(Some(3_u64)); keys.len()])
    };
    let (batch, ()) = tokio::join!(cache.get_or_load_many(["k", "new"], load), async {
        settle().await;
        gate.go.notify_one();
    });
    let batch: Vec<_> = batch.into_iter().map(Result::unwrap).collect();
    assert_eq!(batch, [Some(1), Some(3)]);
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap().value, Some(1));
    }
    assert_eq!(Teller::default().value(&cache, "k", 4).await, 1, "a hit");
    assert_eq!((gate.calls(), cache.stats().joins, cache.stats().loads), (1, 4, 3));
}

#[tokio::test(start_paused = true)]
async fn every_key_that_is_invalidated_here_is_counted_once_and_what_a_sweep_takes_is_not() {
    let (cache, teller) = (alone(Policy::default()), Teller::default());
    for key in ["a", "b", "c"] {
        teller.value(&cache, key, 1).await;
    }
    let mut count = 0;
    let mut counted = |more: u64| {
        count += more;
        assert_eq!(cache.stats().invalidations, count);
    };
    counted(0);
    drop(cache.invalidate("a"));
    counted(1);
    drop(cache.invalidate_many(["a", "b", "nothing"], Version(5)));
    counted(3);
    drop(cache.expire("b"));
    counted(1);
    drop(cache.expire_many(["a", "b"], Version(6)));
    counted(2);
    drop(cache.invalidate_if(|key, _| key == "c"));
    counted(1);
    drop(cache.invalidate_by(&Invalidation::at(Version(7)).remove(&"a".to_owned()).remove_tag("t")));
    counted(1);
    assert!(cache.set("d".to_owned(), 1, Version(8)).is_ok());
    drop(cache.tag("t").remove());
    drop(cache.clear());
    counted(0);
    assert_eq!(cache.stats().sweeps, 3);
}

#[tokio::test(start_paused = true)]
async fn invalidations_are_counted_where_they_are_made_and_elsewhere_as_those_of_another() {
    let site = Site::new(88);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    one.invalidate_many(["a", "b"], Version(5)).await;
    other.invalidate_many(["c"], Version(6)).await;
    trips().await;
    let counted = |cache: &Numbers| (cache.stats().invalidations, cache.stats().remote_invalidations);
    assert_eq!((counted(&one), counted(&other)), ((2, 1), (1, 2)));
}

#[tokio::test(start_paused = true)]
async fn key_that_another_node_is_loading_is_counted_as_often_as_the_tier_says_so() {
    // Without patience it is asked once; else again after pauses of 2, 4, 8 and 16 ms.
    for (lease_wait, held) in [(Duration::ZERO, 1), (Duration::from_millis(30), 5)] {
        let site = Site::new(89);
        let policy = || Policy { lease_wait, ..Policy::default() };
        let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
        let gate = Gate::default();
        let reader = gate.read(&one, "k", Ok(Some(1)));
        gate.begun.notified().await;
        assert_eq!(Teller::default().value(&other, "k", 2).await, 2);
        let counted = [&one, &other].map(|cache| cache.stats().tiers[0].held);
        assert_eq!(counted, [0, held], "{lease_wait:?}");
        gate.go.notify_one();
        reader.await.unwrap().unwrap();
    }
}

/// Of each tier.
fn bypassed(cache: &Numbers) -> Vec<u64> {
    cache.stats().tiers.iter().map(|tier| tier.bypassed).collect()
}

#[tokio::test(start_paused = true)]
async fn each_key_that_is_not_asked_of_a_tier_that_is_down_is_counted() {
    let site = Site::new(90);
    let ((cache, link), teller) = (node(&site, Policy::default()).await, Teller::default());
    teller.value(&cache, "hit", 1).await;
    trips().await;
    link.faults.set_tier_down(true);
    teller.value(&cache, "hit", 1).await;
    assert_eq!(bypassed(&cache), [0]);
    for key in ["a", "b"] {
        teller.value(&cache, key, 1).await;
    }
    assert_eq!(bypassed(&cache), [2]);
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        Ok::<_, Broken>(vec![Ok::<_, Broken>(Some(3_u64)); keys.len()])
    };
    let batch = cache.get_or_load_many(["c", "d", "hit"], load).await;
    assert!(batch.iter().all(Result::is_ok), "{batch:?}");
    assert_eq!(bypassed(&cache), [4]);
    link.faults.set_tier_down(false);
    teller.value(&cache, "asked", 1).await;
    let tier = &cache.stats().tiers[0];
    assert_eq!((tier.bypassed, tier.misses), (4, 2), "an outage is no miss");
}

#[tokio::test(start_paused = true)]
async fn tier_that_is_up_is_bypassed_for_a_key_that_is_pending_and_for_no_other() {
    let (near, far) = (Site::new(91), Site::new(92));
    let (cache, to_near, _) = node_over_two(&near, &far, Policy::default()).await;
    let teller = Teller::default();
    // With the near site its line is gone: nobody can be told.
    to_near.faults.set_down(true);
    drop(cache.invalidate_many(["k"], Version(5)));
    teller.value(&cache, "other", 1).await;
    assert_eq!(bypassed(&cache), [1, 0]);
    teller.value(&cache, "k", 1).await;
    assert_eq!(bypassed(&cache), [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn cached_function_runs_once_for_the_same_arguments_until_a_tag_of_its_answer_is_removed() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&calls);
    let sum = move |(one, other): (u64, u64)| {
        counting.fetch_add(1, SeqCst);
        async move { Ok::<_, Broken>(one + other) }
    };
    let sum: Cached<(u64, u64), u64, Broken> = cached("sums", Policy::default(), sum);
    let sum = sum.tagged("sums").tagged_by(|(one, _)| [format!("one:{one}")]);
    let ask = async |one: u64, other: u64| {
        assert_eq!(sum.call((one, other)).await.unwrap(), Some(one + other));
        calls.load(SeqCst)
    };
    assert_eq!(ask(1, 2).await, 1);
    assert_eq!(ask(1, 2).await, 1, "the same arguments");
    assert_eq!(ask(2, 1).await, 2, "others");
    assert_eq!((ask(1, 2).await, ask(2, 1).await), (2, 2));
    drop(sum.cache().tag("one:1").remove());
    assert_eq!((ask(2, 1).await, ask(1, 2).await, ask(1, 2).await), (2, 3, 3));
    drop(sum.cache().tag("sums").remove());
    assert_eq!((ask(1, 2).await, ask(2, 1).await), (4, 5));
    assert_eq!((ask(1, 2).await, ask(2, 1).await), (5, 5), "and is cached again");
}
