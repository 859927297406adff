//! Keys that are loaded anew on a schedule: which ones, how often, and by which node.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{
    Cache, CacheBuilder, Clock, Policy, Version,
    testkit::{Link, Site},
};
use tokio::{
    sync::Notify,
    time::{advance, sleep},
};

use crate::kit::{Broken, Numbers, SECOND, Teller, exact, settle, wait_for};

const PERIOD: Duration = Duration::from_secs(10);

fn scheduled() -> Policy {
    exact(Policy { ttl: 30 * SECOND, l1_ttl: 30 * SECOND, refresh_every: PERIOD, ..Policy::default() })
}

/// The loader of a schedule: counts, and answers with its count, or fails when it is told to.
#[derive(Clone, Default)]
struct Source {
    calls: Arc<AtomicUsize>,
    is_broken: Arc<AtomicUsize>,
}

impl Source {
    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    fn keep(&self, builder: CacheBuilder<String, u64>) -> CacheBuilder<String, u64> {
        let source = self.clone();
        builder.keep_fresh(move |_key, _context| {
            let source = source.clone();
            async move {
                let call = source.calls.fetch_add(1, SeqCst) + 1;
                sleep(Duration::from_millis(5)).await;
                if source.is_broken.load(SeqCst) > 0 { Err(Broken) } else { Ok(Some(100 + call as u64)) }
            }
        })
    }
}

fn alone(source: &Source) -> Numbers {
    source.keep(Cache::builder("numbers").policy(scheduled()).clock(Clock::tokio())).build()
}

async fn node(site: &Site, source: &Source) -> (Numbers, Link) {
    let link = site.link();
    let tier = Arc::new(link.clone());
    let builder = Cache::builder("numbers").policy(scheduled()).clock(Clock::tokio());
    let cache = source.keep(builder.tier(Arc::<Link>::clone(&tier)).backplane(tier)).build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    (cache, link)
}

#[tokio::test(start_paused = true)]
async fn key_that_is_read_is_loaded_every_period_and_no_reader_waits() {
    let source = Source::default();
    let cache = alone(&source);
    Teller::default().value(&cache, "k", 1).await;
    for period in 1..=20_u64 {
        sleep(PERIOD / 2).await;
        assert!(cache.get("k").is_some(), "period {period}");
        sleep(PERIOD / 2 + Duration::from_millis(10)).await;
        assert_eq!(cache.get("k"), Some(100 + period));
    }
    assert_eq!((source.calls(), cache.stats().refreshes, cache.stats().kept_keys), (20, 20, 1));
    assert_eq!(cache.stats().misses, 1);
}

#[tokio::test(start_paused = true)]
async fn value_that_was_set_is_loaded_every_period_once_it_is_read() {
    let source = Source::default();
    let cache = alone(&source);
    drop(cache.set("k".to_owned(), 1, Version(1)).unwrap());
    for period in 1..=20_u64 {
        sleep(PERIOD / 2).await;
        assert!(cache.get("k").is_some(), "period {period}");
        sleep(PERIOD / 2 + Duration::from_millis(10)).await;
        assert_eq!(cache.get("k"), Some(100 + period));
    }
    assert_eq!((source.calls(), cache.stats().misses), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_only_set_leave_half_of_the_room_to_those_that_are_read() {
    let cache = alone(&Source::default());
    for key in 0..9_000_u64 {
        drop(cache.set(key.to_string(), key, Version(1)).unwrap());
    }
    assert_eq!(cache.stats().kept_keys, 8_192);
    Teller::default().value(&cache, "k", 1).await;
    assert_eq!(cache.stats().kept_keys, 8_193);
}

#[tokio::test(start_paused = true)]
async fn key_that_nobody_reads_any_more_is_let_go() {
    let source = Source::default();
    let cache = alone(&source);
    Teller::default().value(&cache, "k", 1).await;
    sleep(60 * PERIOD).await;
    assert_eq!(source.calls(), 1, "once for the reader who loaded it");
    assert_eq!(cache.get("k"), None);
    sleep(2 * PERIOD).await;
    assert_eq!((source.calls(), cache.stats().kept_keys), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn pinned_key_is_loaded_unread_until_it_is_unpinned() {
    let source = Source::default();
    let cache = alone(&source);
    assert_eq!(cache.pin(["k".to_owned(), "k".to_owned()]), 1);
    sleep(10 * PERIOD + SECOND).await;
    assert_eq!((source.calls(), cache.get("k")), (10, Some(110)));
    cache.unpin(&"k".to_owned());
    sleep(10 * PERIOD).await;
    assert_eq!(source.calls(), 11, "once more for the read");
}

#[tokio::test(start_paused = true)]
async fn without_a_loader_nothing_is_kept() {
    let unscheduled = Policy { refresh_every: Duration::MAX, ..scheduled() };
    let cache: Numbers = Cache::builder("numbers").policy(unscheduled).clock(Clock::tokio()).build();
    let cache = cache.with(|policy| policy.refresh_every = PERIOD);
    Teller::default().value(&cache, "k", 1).await;
    assert_eq!((cache.pin(["k".to_owned()]), cache.stats().kept_keys), (0, 0));
}

// H11
#[tokio::test(start_paused = true)]
async fn one_node_of_the_fleet_loads_and_the_others_take_what_it_loaded() {
    let (site, source) = (Site::new(1), Source::default());
    let (one, _) = node(&site, &source).await;
    sleep(PERIOD / 3).await;
    let (other, _) = node(&site, &source).await;
    sleep(PERIOD / 3).await;
    let (third, _) = node(&site, &source).await;
    let nodes = [&one, &other, &third];
    for node in nodes {
        Teller::default().value(node, "k", 1).await;
    }
    for _ in 0..100 {
        sleep(PERIOD / 5).await;
        nodes.iter().for_each(|node| assert!(node.get("k").is_some()));
    }
    let calls = source.calls();
    assert!((18..=23).contains(&calls), "{calls} loads in 20 periods");
    let adopted: u64 = nodes.iter().map(|node| node.stats().adoptions).sum();
    assert!(adopted >= 36, "{adopted}");
    let values: Vec<u64> = nodes.iter().map(|node| node.get("k").unwrap()).collect();
    assert!(values.iter().all(|value| *value + 2 > 100 + calls as u64), "{values:?} after {calls}");
}

// P8
#[tokio::test(start_paused = true)]
async fn node_whose_tier_is_away_loads_by_itself() {
    let (site, source) = (Site::new(2), Source::default());
    let (cache, link) = node(&site, &source).await;
    cache.pin(["k".to_owned()]);
    link.faults.set_down(true);
    sleep(5 * PERIOD + SECOND).await;
    assert_eq!(source.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn failed_load_of_the_schedule_takes_nothing_from_readers() {
    let source = Source::default();
    let cache = alone(&source);
    Teller::default().value(&cache, "k", 1).await;
    source.is_broken.store(1, SeqCst);
    sleep(PERIOD + SECOND).await;
    assert_eq!((cache.get("k"), cache.stats().load_failures), (Some(1), 1));
    source.is_broken.store(0, SeqCst);
    sleep(PERIOD).await;
    assert_eq!(cache.get("k"), Some(102));
}

// T38
#[tokio::test(start_paused = true)]
async fn load_of_the_schedule_that_an_invalidation_overtakes_stores_nothing() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let told = (Arc::clone(&begun), Arc::clone(&go));
    let load = move |_key, _context| {
        let (begun, go) = (Arc::clone(&told.0), Arc::clone(&told.1));
        async move {
            begun.notify_one();
            go.notified().await;
            Ok::<_, Broken>(Some(2))
        }
    };
    let builder = Cache::builder("numbers").policy(scheduled()).clock(Clock::tokio());
    let cache: Numbers = builder.keep_fresh(load).build();
    Teller::default().value(&cache, "k", 1).await;
    begun.notified().await;
    assert_eq!(cache.get("k"), Some(1), "it is served meanwhile");
    drop(cache.invalidate("k"));
    go.notify_one();
    settle().await;
    assert_eq!((cache.get("k"), cache.stats().refused_stale_sets), (None, 1));
}

// T78
#[tokio::test(start_paused = true)]
async fn schedule_ends_with_the_cache() {
    let source = Source::default();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let cache = alone(&source);
    cache.pin(["k".to_owned()]);
    drop(cache);
    settle().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
    let closed = alone(&source);
    closed.pin(["k".to_owned()]);
    let begun = tokio::time::Instant::now();
    closed.close().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for it");
    advance(3 * PERIOD).await;
    settle().await;
    assert_eq!(source.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn key_that_nobody_reads_any_more_is_let_go_while_its_fallback_stays() {
    let (source, policy) = (Source::default(), Policy { grace: 3_600 * SECOND, ..scheduled() });
    let cache = source.keep(Cache::builder("numbers").policy(policy).clock(Clock::tokio())).build();
    Teller::default().value(&cache, "k", 1).await;
    sleep(6 * PERIOD).await;
    assert_eq!((source.calls(), cache.stats().kept_keys), (1, 0));
    assert!(cache.explain("k").await.local.is_some(), "it may still be of use");
}
