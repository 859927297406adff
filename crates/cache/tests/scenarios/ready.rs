//! Waiting until what a cache shares with other nodes is there: when it is ready, what it says of what is missing, and callers
//! who wait no longer.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use paystrata_cache::{
    Cache, Clock, Origin, Policy,
    testkit::{Link, Site},
};
use tokio::time::{Instant, sleep};

use crate::{
    dropped::{Caller, KEYS, at_every_poll, is_idle, narrow},
    kit::{Numbers, SECOND, Teller, alone, exact, node, trips},
};

const MINUTE: Duration = Duration::from_secs(60);

/// A node that has heard of nobody when this returns.
fn begun(link: &Link) -> Numbers {
    let link = Arc::new(link.clone());
    let builder = Cache::builder("numbers").policy(exact(narrow())).clock(Clock::tokio());
    builder.tier(Arc::<Link>::clone(&link)).backplane(link).build()
}

#[tokio::test(start_paused = true)]
async fn cache_that_shares_nothing_is_ready_at_once() {
    let cache = alone(Policy::default());
    assert_eq!(cache.ready(Duration::ZERO).now_or_never(), Some(Ok(())));
    let readiness = cache.readiness();
    assert!(readiness.tiers.is_empty() && readiness.line.is_none() && readiness.is_ready(), "{readiness:?}");
}

#[tokio::test(start_paused = true)]
async fn node_that_begins_is_ready_once_it_believes_what_the_others_have_loaded() {
    let site = Site::new(111);
    let (other, _) = node(&site, Policy::default()).await;
    Teller::default().value(&other, "k", 1).await;
    trips().await;
    let link = site.link();
    link.faults.set_down(true);
    let cache = begun(&link);
    let waiting = tokio::spawn({
        let cache = cache.clone();
        async move { cache.ready(MINUTE).await }
    });
    sleep(5 * SECOND).await;
    assert!(!waiting.is_finished() && !cache.readiness().is_ready());
    link.faults.set_down(false);
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(cache.readiness().to_string(), "memory tier up, memory line up");
    let read = Teller::default().read(&cache, "k", Ok(Some(2))).await.unwrap();
    assert_eq!((read.value, read.origin), (Some(1), Origin::Tier(0)));
    // Nothing that comes later takes it away.
    trips().await;
    assert_eq!(cache.get("k"), Some(1));
}

type Fault = fn(&Link);

/// What is wrong with a node's way, and what is said of it.
const FAULTS: [(Fault, &str); 3] = [
    (|link| link.faults.set_tier_down(true), "memory tier down, memory line up"),
    // It is connected, and nothing comes.
    (|link| link.faults.lose_messages(100), "memory tier up, memory line down"),
    (|link| link.faults.set_down(true), "memory tier down, memory line down"),
];

#[tokio::test(start_paused = true)]
async fn wait_ends_with_its_limit_and_says_what_is_missing() {
    for (fault, missing) in FAULTS {
        let link = Site::new(112).link();
        fault(&link);
        let (cache, begun_at) = (begun(&link), Instant::now());
        let ended = cache.ready(3 * SECOND).await.unwrap_err();
        assert_eq!(ended.to_string(), format!("not ready in time: {missing}"));
        assert_eq!(ended.0, cache.readiness());
        assert!(begun_at.elapsed() >= 3 * SECOND, "{missing}");
        link.mend();
        assert_eq!(cache.ready(MINUTE).await, Ok(()), "{missing}");
    }
}

#[tokio::test(start_paused = true)]
async fn line_that_falls_silent_is_down_after_a_while_and_up_again_when_it_is_heard() {
    let site = Site::new(113);
    let (cache, link) = node(&site, Policy { max_stale: 2 * SECOND, ..Policy::default() }).await;
    assert!(cache.readiness().is_ready());
    link.faults.lose_messages(100);
    sleep(5 * SECOND).await;
    assert_eq!(cache.readiness().to_string(), "memory tier up, memory line down");
    link.faults.lose_messages(0);
    assert_eq!(cache.ready(MINUTE).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn who_waits_until_a_cache_is_ready_may_go_away_at_any_poll() {
    at_every_poll(async |caller: Caller| {
        let link = Site::new(114).link();
        let cache = begun(&link);
        let waited = caller.waits_for(cache.ready(MINUTE)).await;
        assert!(waited.as_ref().is_none_or(Result::is_ok), "{waited:?}, {caller:?}");
        assert_eq!(cache.ready(MINUTE).await, Ok(()), "{caller:?}");
        assert_eq!(Teller::default().value(&cache, KEYS[0], 1).await, 1, "{caller:?}");
        trips().await;
        is_idle(&cache, caller).await;
        waited.is_some()
    })
    .await;
}
