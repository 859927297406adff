//! What was there before a load gives way to what the load said, also where that is not stored; and what a load that
//! fails leaves is no better than its lifetime allows.

use std::time::Duration;

use paystrata_cache::{Load, LoadContext, Origin, Policy, testkit::Site};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, node, settle, trips};

/// Entries that outlive their lifetime by an hour, in caches that do not remember what is not there.
fn forgetful() -> Policy {
    Policy { ttl: 10 * SECOND, grace: 3_600 * SECOND, negative_ttl: Duration::ZERO, ..Policy::default() }
}

// H1, H21
#[tokio::test(start_paused = true)]
async fn order_whose_answer_is_not_stored_ends_what_it_was_to_replace() {
    let gone = |_| async { Ok::<_, Broken>(None) };
    let passing = |context: LoadContext<u64>| async move {
        context.do_not_store();
        Ok::<_, Broken>(Some(2))
    };
    let short = |context: LoadContext<u64>| async move {
        context.ttl(Duration::ZERO);
        Ok::<_, Broken>(Some(2))
    };
    let overtagged = |context: LoadContext<u64>| async move {
        (0..65).for_each(|tag| _ = context.tag(format!("{tag}")));
        Ok::<_, Broken>(Some(2))
    };
    let cache = alone(forgetful());
    for case in 0..4 {
        Teller::default().value(&cache, "k", 1).await;
        let said = match case {
            0 => cache.reload("k", gone).await,
            1 => cache.reload("k", passing).await,
            2 => cache.reload("k", short).await,
            _ => cache.reload("k", overtagged).await,
        };
        assert_eq!(said.unwrap(), (case > 0).then_some(2));
        assert_eq!(cache.get("k"), None, "case {case}: the source has said otherwise since");
        // Older than what was answered, it may do for a load that fails; what is gone may not come back.
        let fallback = cache.get_stale("k").map(|loaded| (loaded.value, loaded.is_stale));
        assert_eq!(fallback, (case > 0).then_some((Some(1), true)), "case {case}");
        drop(cache.invalidate("k"));
    }
    assert_eq!(cache.stats().unstorable, 1, "too many tags are counted");
}

// H21
#[tokio::test(start_paused = true)]
async fn load_ahead_that_finds_the_value_gone_ends_it_on_its_own_node() {
    let cache = alone(Policy { refresh_at: 0.8, ..forgetful() });
    Teller::default().value(&cache, "k", 1).await;
    advance(8 * SECOND).await;
    let gate = Gate::default();
    assert_eq!(gate.read(&cache, "k", Ok(None)).await.unwrap().unwrap().value, Some(1));
    gate.begun.notified().await;
    gate.go.notify_one();
    settle().await;
    assert_eq!(cache.get("k"), None);
}

// H21
#[tokio::test(start_paused = true)]
async fn value_that_was_found_gone_is_no_fallback_later() {
    let site = Site::new(41);
    let (shared, _) = node(&site, forgetful()).await;
    for cache in [alone(forgetful()), shared] {
        let teller = Teller::default();
        teller.value(&cache, "k", 1).await;
        sleep(11 * SECOND).await;
        assert_eq!(teller.read(&cache, "k", Ok(None)).await.unwrap().value, None);
        trips().await;
        let later = teller.read(&cache, "k", Err(Broken)).await;
        assert!(later.is_err(), "it was deleted: {later:?}");
    }
}

// H21
#[tokio::test(start_paused = true)]
async fn value_that_was_found_gone_is_no_fallback_elsewhere_though_that_was_not_to_be_stored() {
    for (number, tags) in [0_usize, 65].into_iter().enumerate() {
        let site = Site::new(45 + number as u64);
        let (one, other) = (node(&site, forgetful()).await.0, node(&site, forgetful()).await.0);
        let teller = Teller::default();
        teller.value(&one, "k", 1).await;
        trips().await;
        sleep(11 * SECOND).await;
        let gone = move |context: LoadContext<u64>| async move {
            (0..tags).for_each(|tag| _ = context.tag(format!("{tag}")));
            context.do_not_store();
            Ok::<_, Broken>(None)
        };
        assert_eq!(one.get_or_load("k", gone).await.unwrap(), None);
        trips().await;
        let later = teller.read(&other, "k", Err(Broken)).await;
        assert!(later.is_err(), "it was deleted: {later:?}");
        sleep(SECOND).await;
        assert_eq!(teller.value(&other, "k", 2).await, 2, "and nothing keeps it from coming back");
    }
}

// H1
#[tokio::test(start_paused = true)]
async fn order_whose_answer_is_not_stored_ends_the_claim_of_an_earlier_load() {
    let site = Site::new(47);
    let (one, other) = (node(&site, Policy::default()).await.0, node(&site, Policy::default()).await.0);
    let early = Gate::default();
    let elsewhere = early.read(&one, "k", Ok(Some(1)));
    early.begun.notified().await;
    let passing = |context: LoadContext<u64>| async move {
        context.do_not_store();
        Ok::<_, Broken>(Some(2))
    };
    assert_eq!(other.reload("k", passing).await.unwrap(), Some(2));
    trips().await;
    early.go.notify_one();
    elsewhere.await.unwrap().unwrap();
    trips().await;
    assert_eq!((one.get("k"), other.get("k")), (None, None));
    let third = node(&site, Policy::default()).await.0;
    assert_eq!(read_from(&third, 3).await, (Some(3), Origin::Loader), "what was loaded before lies nowhere");
}

// T17, T30
#[tokio::test(start_paused = true)]
async fn load_ahead_that_fails_when_the_lifetime_is_over_is_a_load_that_failed() {
    let policy = Policy { ttl: 10 * SECOND, grace: 60 * SECOND, refresh_at: 0.8, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(8 * SECOND).await;
    assert!(!gate.read(&cache, "k", Err(Broken)).await.unwrap().unwrap().is_stale);
    gate.begun.notified().await;
    advance(3 * SECOND).await;
    let late = gate.read(&cache, "k", Ok(Some(9)));
    settle().await;
    gate.go.notify_one();
    let late = late.await.unwrap().unwrap();
    assert_eq!((late.value, late.is_stale), (Some(1), true), "it is past its lifetime");
    let teller = Teller::default();
    let resting = teller.read(&cache, "k", Ok(Some(9))).await.unwrap();
    assert_eq!((resting.value, resting.is_stale, teller.calls()), (Some(1), true, 0), "the loader rests");
}

// T35, H8
#[tokio::test(start_paused = true)]
async fn tag_that_comes_with_not_modified_holds_in_the_tier() {
    let site = Site::new(42);
    let policy = || Policy { ttl: 10 * SECOND, grace: 60 * SECOND, ..Policy::default() };
    let (one, other) = (node(&site, policy()).await.0, node(&site, policy()).await.0);
    let first = |context: LoadContext<u64>| async move {
        context.validator("e");
        Ok::<_, Broken>(Some(1))
    };
    one.get_or_load("k", first).await.unwrap();
    trips().await;
    sleep(11 * SECOND).await;
    let unchanged = |context: LoadContext<u64>| async move {
        context.tag("org:7");
        Ok::<_, Broken>(Load::<u64>::NotModified)
    };
    assert_eq!(one.get_or_load("k", unchanged).await.unwrap(), Some(1));
    trips().await;
    assert_eq!(read_from(&other, 2).await, (Some(1), Origin::Tier(0)), "it is there, with its tag");
    one.tag("org:7").remove().await;
    trips().await;
    for cache in [&one, &other] {
        let (value, _) = read_from(cache, 2).await;
        assert_eq!(value, Some(2), "what had the tag is void");
    }
}

async fn read_from(cache: &Numbers, told: u64) -> (Option<u64>, Origin) {
    let loaded = Teller::default().read(cache, "k", Ok(Some(told))).await.unwrap();
    (loaded.value, loaded.origin)
}
