//! Changes that somebody could not be told of: a shared tier that is down, or a node that had not come yet. Nobody
//! believes what lies in a tier from before a change, and nobody waits for the tier.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{
    Cache, Clock, Invalidation, LoadContext, Policy, Reach, SetRefused, Version,
    backplane::Backplane,
    testkit::{Link, Site},
};
use tokio::time::sleep;

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, exact, node, settle, trips, wait_for};

/// Long enough that nothing ends in these tests by itself.
fn lasting() -> Policy {
    let hour = 3_600 * SECOND;
    Policy { ttl: hour, l1_ttl: hour, max_stale: hour, ..Policy::default() }
}

/// A node that may not have heard of anybody when this returns.
fn begun(link: &Link, policy: Policy) -> Numbers {
    let link = Arc::new(link.clone());
    let builder = Cache::builder("numbers").policy(exact(policy)).clock(Clock::tokio());
    builder.tier(Arc::<Link>::clone(&link)).backplane(link).build()
}

/// What the loader of `key` was told, if there was a load.
async fn floor(cache: &Numbers, key: &str) -> Option<Version> {
    let told = Arc::new(std::sync::Mutex::new(None));
    let note = Arc::clone(&told);
    let load = move |context: LoadContext<u64>| async move {
        *note.lock().unwrap() = Some(context.floor());
        Ok::<_, Broken>(Some(99))
    };
    cache.get_or_load(key, load).await.unwrap();
    *told.lock().unwrap()
}

/// Two nodes that have each of the keys, and so has the tier.
async fn both_have(site: &Site, keys: &[&str]) -> [(Numbers, Link); 2] {
    let nodes = [node(site, lasting()).await, node(site, lasting()).await];
    for (cache, _) in &nodes {
        for key in keys {
            Teller::default().value(cache, key, 1).await;
        }
        trips().await;
    }
    assert_eq!(site.shelf.values("numbers"), keys.len());
    nodes
}

#[tokio::test(start_paused = true)]
async fn what_was_loaded_before_the_line_was_heard_is_void_when_it_is() {
    let site = Site::new(1);
    let (other, _) = node(&site, lasting()).await;
    let link = site.link();
    link.faults.set_down(true);
    let (cache, gate) = (begun(&link, lasting()), Gate::default());
    assert_eq!(Teller::default().value(&cache, "stored", 1).await, 1);
    assert_eq!(cache.get("stored"), Some(1), "within the bound it is served");
    let reader = gate.read(&cache, "loading", Ok(Some(1)));
    gate.begun.notified().await;
    // Nobody can tell the node, and no announcement is left for it to be told later.
    other.invalidate_many(["stored", "loading"], Version(5)).await;
    site.wire.forget_log();
    link.faults.set_down(false);
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    gate.go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap().value, Some(1), "it came before");
    settle().await;
    assert_eq!((cache.get("stored"), cache.get("loading")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn node_that_has_never_heard_anybody_serves_nothing_older_than_the_bound() {
    let site = Site::new(2);
    let link = site.link();
    link.faults.set_down(true);
    let cache = begun(&link, Policy { max_stale: 2 * SECOND, ..lasting() });
    assert_eq!(floor(&cache, "k").await, Some(Version::LATEST));
    sleep(SECOND).await;
    assert_eq!(cache.get("k"), Some(99));
    sleep(2 * SECOND).await;
    assert_eq!(cache.get("k"), None);
}

#[tokio::test(start_paused = true)]
async fn change_that_a_dead_tier_misses_is_announced_at_once_and_its_record_is_believed_by_nobody() {
    let site = Site::new(3);
    let keys = ["told", "new", "own"];
    let [(one, link), (other, _)] = both_have(&site, &keys).await;
    link.faults.set_tier_down(true);
    assert_eq!(one.invalidate_many(keys, Version(5)).await, Reach::Fleet);
    trips().await;
    assert_eq!(keys.map(|key| other.get(key)), [None; 3]);
    assert_eq!(site.shelf.values("numbers"), 3, "the tier has heard nothing");
    let teller = Teller::default();
    assert_eq!(teller.value(&other, "told", 2).await, 2);
    let (late, _) = node(&site, lasting()).await;
    assert_eq!(floor(&late, "new").await, Some(Version::LATEST), "which write it was is not kept");
    link.faults.set_tier_down(false);
    sleep(2 * SECOND).await;
    assert_eq!(floor(&one, "own").await, Some(Version(5)));
    // What was loaded since is believed again.
    trips().await;
    let (last, _) = node(&site, lasting()).await;
    assert_eq!((teller.value(&last, "told", 3).await, floor(&last, "own").await), (2, None));
    assert_eq!((one.stats().pending_invalidations, one.stats().cut_off), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn expired_record_in_a_tier_that_missed_it_is_a_fallback_and_no_value() {
    let site = Site::new(4);
    let policy = || Policy { grace: 60 * SECOND, ..lasting() };
    let ((one, link), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    link.faults.set_tier_down(true);
    assert_eq!(one.expire("k").await, Reach::Fleet);
    trips().await;
    let found = Teller::default().read(&other, "k", Err(Broken)).await.unwrap();
    assert_eq!((found.value, found.is_stale), (Some(1), true));
}

#[tokio::test(start_paused = true)]
async fn value_set_while_a_tier_is_down_is_the_writers_own_and_the_old_one_nobodys() {
    let site = Site::new(5);
    let [(one, link), (other, _)] = both_have(&site, &["k"]).await;
    link.faults.set_tier_down(true);
    assert_eq!(one.set("k".to_owned(), 2, Version(5)).unwrap().await, Reach::Fleet);
    trips().await;
    assert_eq!((one.get("k"), other.get("k")), (Some(2), None));
    assert_eq!(Teller::default().value(&other, "k", 2).await, 2);
    // An older one that comes late is not stored, though the tier knows of no floor.
    trips().await;
    link.faults.set_tier_down(false);
    sleep(2 * SECOND).await;
    assert_eq!(other.set("k".to_owned(), 1, Version(4)).err(), Some(SetRefused::Overtaken));
    trips().await;
    assert_eq!(Teller::default().value(&one, "k", 3).await, 3);
}

#[tokio::test(start_paused = true)]
async fn one_tier_that_stays_down_holds_up_no_change_of_any_key() {
    let site = Site::new(6);
    let [(one, link), (other, _)] = both_have(&site, &["k"]).await;
    link.faults.set_tier_down(true);
    // More than one batch, and more than may wait.
    let keys: Vec<String> = (0..2_000).map(|number| number.to_string()).collect();
    drop(one.invalidate_many(&keys, Version(4)));
    assert_eq!(one.invalidate_many(["k"], Version(5)).await, Reach::Fleet);
    trips().await;
    assert_eq!((other.get("k"), other.stats().gaps, one.stats().pending_overflows), (None, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn record_that_a_commits_own_announcement_overtakes_is_believed_by_nobody() {
    let site = Site::new(7);
    let [(one, _), (other, _)] = both_have(&site, &["k", "late"]).await;
    // No node is asked to void anything: a process that knows only the line.
    let line = site.link().line("numbers");
    let change = Invalidation::at(Version(5)).remove(&"k".to_owned()).remove(&"late".to_owned());
    line.announce(&change.announcement()).await.unwrap();
    trips().await;
    assert_eq!((one.get("k"), other.get("k"), site.shelf.values("numbers")), (None, None, 2));
    assert_eq!(floor(&one, "k").await, Some(Version(5)));
    trips().await;
    assert_eq!(Teller::default().value(&other, "k", 3).await, 99, "loaded once for all");
    let (newcomer, _) = node(&site, lasting()).await;
    assert_eq!(Teller::default().value(&newcomer, "late", 2).await, 2);
}

#[tokio::test(start_paused = true)]
async fn load_that_such_an_announcement_overtakes_leaves_nothing_that_is_believed() {
    let site = Site::new(8);
    let [(one, link), (other, _)] = both_have(&site, &[]).await;
    let gate = Gate::default();
    let reader = gate.read(&one, "k", Ok(Some(1)));
    gate.begun.notified().await;
    // The node that loads hears nothing of it, and stores what it has.
    link.faults.lose_messages(100);
    let change = Invalidation::at(Version(5)).remove(&"k".to_owned());
    site.link().line("numbers").announce(&change.announcement()).await.unwrap();
    sleep(Duration::from_millis(20)).await;
    gate.go.notify_one();
    reader.await.unwrap().unwrap();
    sleep(Duration::from_millis(20)).await;
    assert_eq!(site.shelf.values("numbers"), 1, "it was stored");
    assert_eq!(Teller::default().value(&other, "k", 2).await, 2);
}

#[tokio::test(start_paused = true)]
async fn node_that_does_not_hear_its_own_announcement_believes_the_record_as_little_as_the_others() {
    let site = Site::new(9);
    let [(one, link), _] = both_have(&site, &["k"]).await;
    link.faults.set_tier_down(true);
    link.faults.lose_messages(100);
    assert_eq!(one.invalidate_many(["k"], Version(5)).await, Reach::Fleet);
    link.faults.set_tier_down(false);
    assert_eq!(floor(&one, "k").await, Some(Version(5)));
}

#[tokio::test(start_paused = true)]
async fn all_that_was_changed_before_can_be_confirmed_without_changing_anything() {
    let (site, announced) = (Site::new(5), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&announced);
    site.wire.witness(move |_| {
        count.fetch_add(1, SeqCst);
    });
    let (cache, link) = node(&site, Policy::default()).await;
    assert_eq!(cache.confirm().await, Reach::Fleet, "nothing is pending");
    link.faults.set_down(true);
    drop(cache.invalidate_many(["a", "b"], Version(2)));
    assert_eq!(cache.confirm().await, Reach::Queued);
    link.mend();
    wait_for(|| cache.stats().pending_invalidations == 0).await;
    assert_eq!(cache.confirm().await, Reach::Fleet);
    assert_eq!(announced.load(SeqCst), 1, "the change, and nothing for the question");
    assert_eq!(alone(Policy::default()).confirm().await, Reach::Node);
}

/// A node with a tier and no line, and room for two changes that wait for it.
fn lineless(link: &Link) -> Numbers {
    Cache::builder("numbers")
        .policy(exact(Policy { l1_ttl: 10 * SECOND, ..lasting() }))
        .clock(Clock::tokio())
        .tier(Arc::new(link.clone()))
        .pending_keys_max(2)
        .build()
}

#[tokio::test(start_paused = true)]
async fn without_a_line_keys_that_were_given_up_are_not_believed_when_the_tier_returns() {
    let (site, keys) = (Site::new(3), ["a", "b", "c"]);
    let link = site.link();
    let cache = lineless(&link);
    for key in keys {
        Teller::default().value(&cache, key, 1).await;
    }
    trips().await;
    assert_eq!(site.shelf.values("numbers"), keys.len());
    link.faults.set_tier_down(true);
    let under_way = cache.invalidate_many(["a"], Version(2));
    trips().await;
    let given_up = ["b", "c"].map(|key| cache.invalidate_many([key], Version(2)));
    assert_eq!(cache.stats().pending_overflows, 1);
    trips().await;
    link.faults.set_tier_down(false);
    wait_for(|| cache.stats().pending_invalidations == 0).await;
    for confirmation in given_up.into_iter().chain([under_way]) {
        assert_eq!(confirmation.await, Reach::Queued, "nobody else was told of all of them");
    }
    // The breaker leaves the tier alone for a while.
    sleep(5 * SECOND).await;
    for key in keys {
        assert_eq!(Teller::default().value(&cache, key, 2).await, 2, "{key}");
    }
    // What is stored from now on is believed, once L1 has let go of it.
    sleep(11 * SECOND).await;
    assert_eq!(Teller::default().value(&cache, "b", 3).await, 2);
}
