//! Loads that are ordered whatever is cached: what the source says from then on, in every tier, and no other's earlier
//! answer.

use std::{sync::Arc, time::Duration};

use paystrata_cache::{CacheError, Load, LoadContext, Origin, Policy, Version, Write, testkit::Site};
use tokio::{task::JoinHandle, time::advance};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, node, settle, trips};

async fn reload(
    cache: &Numbers,
    key: &str,
    told: Result<Option<u64>, Broken>,
) -> Result<Option<u64>, CacheError<Broken>> {
    cache.reload(key, move |_| async move { told }).await
}

fn reload_through(
    gate: &Gate,
    cache: &Numbers,
    told: u64,
) -> JoinHandle<Result<Option<u64>, CacheError<Broken>>> {
    let (gate, cache) = (gate.clone(), cache.clone());
    tokio::spawn(async move { cache.reload("k", move |_| gate.pass(Ok(Some(told)))).await })
}

#[tokio::test(start_paused = true)]
async fn fresh_entry_is_served_to_others_until_the_new_one_takes_its_place() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    let order = reload_through(&gate, &cache, 2);
    gate.begun.notified().await;
    assert_eq!(cache.get("k"), Some(1));
    gate.go.notify_one();
    assert_eq!(order.await.unwrap().unwrap(), Some(2));
    assert_eq!(cache.get("k"), Some(2));
    assert_eq!(reload(&cache, "k", Ok(None)).await.unwrap(), None);
    assert_eq!(cache.get("k"), None, "the source says that it is gone");
    assert_eq!(reload(&cache, "k", Ok(Some(3))).await.unwrap(), Some(3));
    assert_eq!(cache.get("k"), Some(3));
}

#[tokio::test(start_paused = true)]
async fn load_that_began_before_the_order_is_not_its_answer_and_stores_nothing() {
    let (cache, early, order) = (alone(Policy::default()), Gate::default(), Gate::default());
    let reader = early.read(&cache, "k", Ok(Some(1)));
    early.begun.notified().await;
    let ordered = reload_through(&order, &cache, 2);
    order.begun.notified().await;
    order.go.notify_one();
    assert_eq!(ordered.await.unwrap().unwrap(), Some(2));
    early.go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap().value, Some(1), "it came before");
    settle().await;
    assert_eq!(cache.get("k"), Some(2));
    assert_eq!(cache.stats().refused_stale_sets, 1);
}

#[tokio::test(start_paused = true)]
async fn removal_overtakes_an_ordered_load_as_any_other() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    let order = reload_through(&gate, &cache, 2);
    gate.begun.notified().await;
    drop(cache.invalidate("k"));
    gate.go.notify_one();
    assert_eq!(order.await.unwrap().unwrap(), Some(2));
    settle().await;
    assert_eq!(cache.get("k"), None);
}

#[tokio::test(start_paused = true)]
async fn failed_order_is_an_error_leaves_what_is_there_and_is_not_remembered() {
    let policy = Policy { ttl: SECOND, l1_ttl: SECOND, grace: 60 * SECOND, ..Policy::default() };
    let (cache, teller) = (alone(policy), Teller::default());
    teller.value(&cache, "k", 1).await;
    let failed = reload(&cache, "k", Err(Broken)).await;
    assert!(matches!(failed, Err(CacheError::Load(_))), "{failed:?}");
    assert_eq!(cache.get("k"), Some(1));
    assert!(reload(&cache, "new", Err(Broken)).await.is_err());
    assert_eq!(teller.value(&cache, "new", 5).await, 5, "the next one loads");
}

#[tokio::test(start_paused = true)]
async fn who_waits_beside_a_failing_order_gets_the_fallback_that_the_order_does_not_want() {
    let policy = Policy { ttl: SECOND, l1_ttl: SECOND, grace: 60 * SECOND, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(SECOND).await;
    let order = tokio::spawn({
        let (cache, gate) = (cache.clone(), gate.clone());
        async move { cache.reload("k", move |_| gate.pass(Err(Broken))).await }
    });
    gate.begun.notified().await;
    let beside = gate.read(&cache, "k", Ok(Some(9)));
    settle().await;
    gate.go.notify_one();
    assert!(order.await.unwrap().is_err());
    let found = beside.await.unwrap().unwrap();
    assert_eq!((found.value, found.is_stale, gate.calls()), (Some(1), true, 1));
}

#[tokio::test(start_paused = true)]
async fn loader_is_shown_a_fresh_entry_and_may_say_that_it_is_unchanged() {
    let cache = alone(Policy { ttl: 10 * SECOND, l1_ttl: 10 * SECOND, ..Policy::default() });
    let first = |context: LoadContext<u64>| async move {
        context.validator("etag");
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("k", first).await.unwrap();
    advance(9 * SECOND).await;
    let unchanged = |context: LoadContext<u64>| async move {
        assert_eq!(context.stale().unwrap().validator, Some(Arc::from("etag")));
        Ok::<_, Broken>(Load::<u64>::NotModified)
    };
    assert_eq!(cache.reload("k", unchanged).await.unwrap(), Some(1));
    advance(9 * SECOND).await;
    assert_eq!(cache.get("k"), Some(1), "it lives anew");
}

#[tokio::test(start_paused = true)]
async fn tiers_values_are_passed_over_and_overwritten() {
    let site = Site::new(21);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    trips().await;
    let loaded = other.reload_entry("k", |_| async { Ok::<_, Broken>(Some(2)) }).await.unwrap();
    assert_eq!((loaded.value, loaded.origin), (Some(2), Origin::Loader));
    trips().await;
    let (third, _) = node(&site, Policy::default()).await;
    assert_eq!(teller.value(&third, "k", 9).await, 2, "the tier has the new one");
    assert_eq!(one.get("k"), Some(1), "other nodes were not told");
}

#[tokio::test(start_paused = true)]
async fn load_of_another_node_is_not_waited_for() {
    let site = Site::new(22);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let gate = Gate::default();
    let elsewhere = gate.read(&one, "k", Ok(Some(1)));
    gate.begun.notified().await;
    assert_eq!(reload(&other, "k", Ok(Some(2))).await.unwrap(), Some(2));
    trips().await;
    gate.go.notify_one();
    elsewhere.await.unwrap().unwrap();
    trips().await;
    // What was loaded before is stored nowhere: the claim has ended, and the other node has been told.
    assert_eq!((one.get("k"), other.get("k")), (None, Some(2)));
    let (third, _) = node(&site, Policy::default()).await;
    assert_eq!(Teller::default().value(&third, "k", 3).await, 3);
}

#[tokio::test(start_paused = true)]
async fn tier_has_nothing_older_when_two_orders_or_an_order_and_a_load_meet() {
    let site = Site::new(24);
    let (cache, _) = node(&site, Policy::default()).await;
    let (early, order) = (Gate::default(), Gate::default());
    let first = reload_through(&early, &cache, 1);
    early.begun.notified().await;
    let second = reload_through(&order, &cache, 2);
    order.begun.notified().await;
    order.go.notify_one();
    assert_eq!(second.await.unwrap().unwrap(), Some(2));
    early.go.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), Some(1));
    trips().await;
    assert_eq!(cache.get("k"), Some(2));
    let (other, _) = node(&site, Policy::default()).await;
    assert_ne!(Teller::default().value(&other, "k", 3).await, 1);
}

#[tokio::test(start_paused = true)]
async fn order_that_is_refused_has_taken_nothing_from_the_load_under_way() {
    let policy = Policy { loads_max: 1, loads_queued_max: 0, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    let reader = gate.read(&cache, "k", Ok(Some(1)));
    gate.begun.notified().await;
    assert!(matches!(reload(&cache, "k", Ok(Some(2))).await, Err(CacheError::Overloaded)));
    gate.go.notify_one();
    reader.await.unwrap().unwrap();
    settle().await;
    assert_eq!(cache.get("k"), Some(1));
}

#[tokio::test(start_paused = true)]
async fn loader_of_an_order_is_told_to_ask_no_replica() {
    let cache = alone(Policy::default());
    let load = |context: LoadContext<u64>| async move {
        assert_eq!(context.floor(), Version::LATEST);
        Ok::<_, Broken>(Some(1))
    };
    assert_eq!(cache.reload("k", load).await.unwrap(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn order_takes_no_longer_than_the_hard_limit_and_a_seat_among_the_loads() {
    let policy = Policy { load_timeout: SECOND, loads_max: 1, loads_queued_max: 0, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    let order = reload_through(&gate, &cache, 1);
    gate.begun.notified().await;
    assert!(matches!(reload(&cache, "other", Ok(None)).await, Err(CacheError::Overloaded)));
    assert!(matches!(order.await.unwrap(), Err(CacheError::Timeout { after }) if after == SECOND));
    gate.go.notify_one();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(cache.get("k"), Some(1), "it went on behind the caller");
}

#[tokio::test(start_paused = true)]
async fn value_on_its_way_to_the_source_is_the_answer() {
    let (cache, table) = crate::behind::slow_table(Policy { write: Write::Behind, ..Policy::default() });
    assert!(cache.set("k".to_owned(), 7, Version(1)).is_ok());
    assert_eq!(reload(&cache, "k", Ok(Some(1))).await.unwrap(), Some(7));
    table.let_go();
}
