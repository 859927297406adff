//! Changes that name keys by bytes which are no key of the cache: another type of key has spelled them, or another release. Which
//! keys were meant nobody knows, so nothing from before is believed, in process or in a shared tier; and it is counted and told.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use paystrata_cache::{
    Cache, Clock, Invalidation, Observer, Policy, Reach, Version,
    backplane::Backplane,
    testkit::{Link, Site},
};

use crate::kit::{Broken, SECOND, exact, trips};

type Ids = Cache<u64, u64>;

/// Adds up the keys that it is told of.
#[derive(Debug, Default)]
struct Told(AtomicUsize);

impl Observer for Told {
    fn keys_unreadable(&self, cache: &str, keys: usize) {
        assert_eq!(cache, "ids");
        self.0.fetch_add(keys, SeqCst);
    }
}

/// A node of the site, and who listens to it.
async fn node(site: &Site) -> (Ids, Arc<Told>) {
    let (link, told) = (Arc::new(site.link()), Arc::new(Told::default()));
    let cache: Ids = Cache::builder("ids")
        .policy(exact(Policy::default()))
        .clock(Clock::tokio())
        .observer(Arc::<Told>::clone(&told))
        .tier(Arc::<Link>::clone(&link))
        .backplane(link)
        .build();
    cache.ready(60 * SECOND).await.unwrap();
    (cache, told)
}

async fn value(cache: &Ids, key: u64, told: u64) -> u64 {
    let load = move |_| async move { Ok::<_, Broken>(Some(told)) };
    cache.get_or_load(&key, load).await.unwrap().unwrap()
}

/// Of an id that somebody takes for shorter than the cache does.
fn misspelled() -> Invalidation {
    Invalidation::at(Version(5)).remove(&7_i32).remove(&9_i32)
}

// T65
#[tokio::test(start_paused = true)]
async fn keys_that_no_receiver_can_read_void_everything_and_are_counted_and_told() {
    let site = Site::new(121);
    let ((one, told), (other, _)) = (node(&site).await, node(&site).await);
    for key in [7, 8] {
        assert_eq!(value(&one, key, 1).await, 1);
    }
    trips().await;
    assert_eq!(site.shelf.values("ids"), 2);
    // By a process that knows only the line.
    site.link().line("ids").announce(&misspelled().announcement()).await.unwrap();
    trips().await;
    assert_eq!((one.get(&7), one.get(&8)), (None, None));
    assert_eq!((value(&one, 7, 2).await, value(&other, 8, 2).await), (2, 2), "the tier's are from before");
    let stats = one.stats();
    assert_eq!((stats.unreadable_keys, told.0.load(SeqCst)), (2, 2));
    assert_eq!((stats.sweeps, stats.unreadable, stats.gaps), (1, 0, 0), "once for all keys of a change");
    // What was loaded since is believed.
    trips().await;
    assert_eq!((value(&one, 8, 3).await, value(&other, 7, 3).await), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn row_with_keys_that_cannot_be_read_voids_everything_for_nodes_still_to_come_too() {
    let site = Site::new(122);
    let ((one, told), (other, _)) = (node(&site).await, node(&site).await);
    for cache in [&one, &other] {
        assert_eq!(value(cache, 7, 1).await, 1);
        trips().await;
    }
    assert_eq!(one.apply(&misspelled().encode()).unwrap().await, Reach::Fleet);
    // Who has its word may end: nothing is left to be told.
    let (late, _) = node(&site).await;
    assert_eq!(value(&late, 7, 2).await, 2);
    assert_eq!((one.get(&7), one.stats().pending_invalidations), (None, 0));
    trips().await;
    assert_eq!(other.get(&7), None);
    trips().await;
    assert_eq!((value(&one, 7, 3).await, value(&other, 7, 3).await), (2, 2), "loaded once for all");
    let counted = [&one, &other].map(|cache| cache.stats().unreadable_keys);
    assert_eq!((counted, told.0.load(SeqCst)), ([2, 2], 2));
}

#[tokio::test(start_paused = true)]
async fn row_with_keys_that_cannot_be_read_voids_what_a_tier_without_a_line_has() {
    let site = Site::new(123);
    let cache: Ids = Cache::builder("ids")
        .policy(exact(Policy::default()))
        .clock(Clock::tokio())
        .tier(Arc::new(site.link()))
        .build();
    assert_eq!(value(&cache, 7, 1).await, 1);
    trips().await;
    drop(cache.apply(&misspelled().encode()).unwrap());
    assert_eq!(cache.get(&7), None);
    assert_eq!(value(&cache, 7, 2).await, 2);
    assert_eq!(cache.stats().unreadable_keys, 2);
}

#[tokio::test(start_paused = true)]
async fn change_that_the_cache_has_begun_is_read_by_all_its_nodes() {
    let site = Site::new(124);
    let ((one, _), (other, _)) = (node(&site).await, node(&site).await);
    for cache in [&one, &other] {
        assert_eq!((value(cache, 7, 1).await, value(cache, 8, 1).await), (1, 1));
        trips().await;
    }
    let change = one.invalidation(Version(5)).remove(&7);
    assert_eq!(one.invalidate_by(&change).await, Reach::Fleet);
    trips().await;
    assert_eq!([&one, &other].map(|cache| (cache.get(&7), cache.get(&8))), [(None, Some(1)); 2]);
    assert_eq!([&one, &other].map(|cache| cache.stats().unreadable_keys), [0, 0]);
}
