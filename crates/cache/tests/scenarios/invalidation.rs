//! Invalidation of keys against loads under way, and invalidation that travels with a commit of the caller's store.

use paystrata_cache::{Invalidation, LoadContext, Policy, Version, testkit::Site, tier::Void};
use tokio::time::advance;

use crate::kit::{Broken, Gate, SECOND, Teller, alone, node, settle, trips};

// T37, H1
#[tokio::test(start_paused = true)]
async fn load_that_a_removal_overtakes_stores_nothing_and_the_next_read_loads() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let early = gate.read(&cache, "k", Ok(Some(1)));
    gate.begun.notified().await;
    drop(cache.invalidate("k"));
    gate.go.notify_one();
    assert_eq!(early.await.unwrap().unwrap().value, Some(1));
    assert_eq!(cache.get("k"), None);
    assert_eq!(Teller::default().value(&cache, "k", 2).await, 2);
}

// T38
#[tokio::test(start_paused = true)]
async fn fallback_that_a_removal_overtakes_is_not_stored_again() {
    let policy = Policy { ttl: SECOND, l1_ttl: SECOND, grace: 60 * SECOND, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(SECOND).await;
    let early = gate.read(&cache, "k", Err(Broken));
    gate.begun.notified().await;
    drop(cache.invalidate("k"));
    gate.go.notify_one();
    let _either = early.await.unwrap();
    assert!(cache.get_stale("k").is_none());
    assert!(Teller::default().read(&cache, "k", Err(Broken)).await.is_err());
}

// T38
#[tokio::test(start_paused = true)]
async fn load_in_the_background_that_a_removal_overtakes_stores_nothing() {
    let (cache, gate) = (alone(Policy { load_timeout: SECOND, ..Policy::default() }), Gate::default());
    assert!(gate.read(&cache, "k", Ok(Some(1))).await.unwrap().is_err());
    drop(cache.invalidate("k"));
    gate.go.notify_one();
    settle().await;
    assert_eq!(cache.get("k"), None);
}

// T42
#[tokio::test(start_paused = true)]
async fn value_that_is_set_during_a_load_stays() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let early = gate.read(&cache, "k", Ok(Some(1)));
    gate.begun.notified().await;
    drop(cache.set("k".to_owned(), 2, Version(5)));
    gate.go.notify_one();
    early.await.unwrap().unwrap();
    assert_eq!(cache.get("k"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn invalidation_is_built_without_effect_carried_as_bytes_and_applied_on_any_node() {
    let site = Site::new(1);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    for key in ["a", "user:1", "b"] {
        teller.value(&one, key, 1).await;
        trips().await;
        teller.value(&other, key, 1).await;
    }
    let row = Invalidation::at(Version(5)).remove(&"a".to_owned()).remove_prefix("user:").encode();
    assert_eq!(one.get("a"), Some(1), "nothing is done before it is applied");
    drop(other.apply(&row).unwrap());
    assert_eq!(other.get_many(["a", "user:1", "b"]), [None, None, Some(1)]);
    trips().await;
    assert_eq!(one.get_many(["a", "user:1", "b"]), [None, None, Some(1)]);
    assert!(one.apply(b"garbage").is_err());
}

#[tokio::test(start_paused = true)]
async fn explanation_tells_what_is_known_of_a_key_everywhere() {
    let site = Site::new(2);
    let (cache, _) = node(&site, Policy::default()).await;
    cache.set("k".to_owned(), 1, Version(5)).unwrap().await;
    let told = cache.explain("k").await;
    let local = told.local.unwrap();
    assert_eq!((local.standing, local.version, told.floor), ("fresh", Version(5), Version(5)));
    assert_eq!((told.tiers[0].kind, told.tiers[0].state), ("memory", "fresh"));
    cache.invalidate_many(["k"], Version(7)).await;
    let told = cache.explain("k").await;
    assert_eq!((told.local, told.tiers[0].state), (None, "nothing"));
    assert_eq!(told.invalidated.unwrap().version, Version(7));
    assert_eq!(told.swept, None);
}

#[tokio::test(start_paused = true)]
async fn explanation_names_the_sweep_that_voided_the_key_on_any_node() {
    let site = Site::new(3);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let load = |context: LoadContext<u64>| async move {
        context.tag("org:7");
        Ok::<_, Broken>(Some(1))
    };
    other.get_or_load("user:1", load).await.unwrap();
    trips().await;
    one.tag("org:8").remove().await;
    one.tag("org:7").at(Version(9)).expire().await;
    one.prefix("account:").remove().await;
    trips().await;
    let swept = other.explain("user:1").await.swept.unwrap();
    assert_eq!((&*swept.swath, swept.how, swept.version), ("tag org:7", Void::Expire, Version(9)));
    one.pattern("us*:1").remove().await;
    trips().await;
    assert_eq!(other.explain("user:1").await.swept.unwrap().swath, "pattern us*:1");
    assert_eq!(other.explain("account:1").await.swept.unwrap().swath, "prefix account:");
    one.clear().await;
    trips().await;
    for cache in [&one, &other] {
        assert_eq!(cache.explain("user:1").await.swept.unwrap().swath, "everything");
    }
}
