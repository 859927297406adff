//! A loader says that nothing has changed: the other nodes live on with what they hold, and read nothing. And an
//! extension brings nothing back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{
    Load, LoadContext, Policy, Version,
    testkit::{Link, Site},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use crate::kit::{Broken, Numbers, SECOND, node, node_over_two, trips, wait_for};

fn policy() -> Policy {
    Policy { ttl: 10 * SECOND, l1_ttl: 10 * SECOND, grace: 60 * SECOND, ..Policy::default() }
}

/// A source with versions and without many values: whoever has the version is told that nothing has changed.
#[derive(Clone, Default)]
struct Source {
    version: Arc<AtomicU64>,
    loads: Arc<AtomicU64>,
}

impl Source {
    async fn read(&self, cache: &Numbers, key: &str) -> Option<u64> {
        self.entry(cache, key).await.map(|(value, _)| value)
    }

    async fn entry(&self, cache: &Numbers, key: &str) -> Option<(u64, bool)> {
        let source = self.clone();
        let load = move |context: LoadContext<u64>| async move {
            source.loads.fetch_add(1, SeqCst);
            let version = source.version.load(SeqCst);
            context.version(Version(version)).validator(format!("v{version}"));
            match context.stale() {
                Some(stale) if stale.version == Version(version) => Ok::<_, Broken>(Load::NotModified),
                _ => Ok(Load::Found(version)),
            }
        };
        let loaded = cache.get_or_load_entry(key, load).await.ok()?;
        Some((loaded.value?, loaded.is_stale))
    }
}

struct Pair {
    source: Source,
    one: Numbers,
    other: Numbers,
    other_link: Link,
}

/// Two nodes that hold version 1 of `k`, which is past its lifetime.
async fn pair(seed: u64) -> Pair {
    let site = Site::new(seed);
    let ((one, _), (other, other_link)) = (node(&site, policy()).await, node(&site, policy()).await);
    let source = Source::default();
    source.version.store(1, SeqCst);
    source.read(&one, "k").await.unwrap();
    trips().await;
    source.read(&other, "k").await.unwrap();
    assert_eq!(source.loads.load(SeqCst), 1);
    Pair { source, one, other, other_link }
}

// T35, H18
#[tokio::test(start_paused = true)]
async fn peers_live_on_with_what_they_hold_without_reading_it_again() {
    let Pair { source, one, other, .. } = pair(1).await;
    let trips_before = other.stats().tiers[0].round_trips;
    for round in 1..=10 {
        sleep(10 * SECOND).await;
        assert_eq!(other.get("k"), None, "its lifetime is over");
        assert_eq!(source.read(&one, "k").await, Some(1));
        trips().await;
        assert_eq!((other.get("k"), other.stats().extensions), (Some(1), round));
    }
    assert_eq!(source.loads.load(SeqCst), 11);
    assert_eq!((other.stats().tiers[0].round_trips, other.stats().unreadable), (trips_before, 0));
    // And no longer than the tier has it.
    sleep(10 * SECOND).await;
    assert_eq!(other.get("k"), None);
}

#[tokio::test(start_paused = true)]
async fn extension_brings_back_nothing_that_was_voided_or_is_of_another_version() {
    for case in 0..6_u64 {
        let Pair { source, one, other, other_link } = pair(10 + case).await;
        sleep(10 * SECOND).await;
        // Only the other node knows of it when it hears that nothing has changed.
        other_link.faults.set_down(true);
        match case {
            0 => drop(other.invalidate("k")),
            1 => drop(other.expire("k")),
            2 => drop(other.prefix("k").expire()),
            3 => drop(other.clear()),
            4 => drop(other.expire_all()),
            _ => drop(other.set("k".to_owned(), 2, Version(2))),
        }
        let before = other.get("k");
        other_link.faults.set_down(false);
        source.read(&one, "k").await.unwrap();
        sleep(Duration::from_millis(20)).await;
        assert_eq!((other.get("k"), other.stats().extensions), (before, 0), "case {case}");
    }
}

#[tokio::test(start_paused = true)]
async fn value_that_says_nothing_of_itself_is_not_extended() {
    let site = Site::new(30);
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    for cache in [&one, &other] {
        cache.get_or_load("k", |_| async { Ok::<_, Broken>(1) }).await.unwrap();
        trips().await;
    }
    sleep(10 * SECOND).await;
    one.get_or_load("k", |_| async { Ok::<_, Broken>(Load::NotModified) }).await.unwrap();
    trips().await;
    assert_eq!((one.get("k"), other.get("k"), other.stats().extensions), (Some(1), None, 0));
}

// P5: whatever is said and lost, nobody reads what he was told is void.
#[tokio::test(start_paused = true)]
async fn extensions_among_changes_and_losses_show_nobody_what_he_was_told_is_void() {
    let mut extensions = 0;
    for seed in 0..150_u64 {
        let site = Site::new(seed);
        let short = Policy { ttl: 20 * MILLI, l1_ttl: 20 * MILLI, max_stale: SECOND, ..policy() };
        let nodes = [node(&site, short.clone()).await, node(&site, short.clone()).await];
        let source = Source::default();
        source.version.store(1, SeqCst);
        let mut dice = StdRng::seed_from_u64(seed);
        // What a flagged answer must reflect, and what any other must.
        let (mut told, mut told_fresh) = ([0_u64; 2], [0_u64; 2]);
        for step in 0..120 {
            let at = dice.random_range(0..2_usize);
            let (cache, link) = &nodes[at];
            match dice.random_range(0..30) {
                0 => {
                    let version = source.version.fetch_add(1, SeqCst) + 1;
                    drop(cache.invalidate_many(["k"], Version(version)));
                    told[at] = version;
                }
                1 => {
                    let version = source.version.fetch_add(1, SeqCst) + 1;
                    drop(cache.prefix("k").at(Version(version)).remove());
                    told[at] = version;
                }
                2 => {
                    // Fallbacks may be given for it, with a flag.
                    let version = source.version.fetch_add(1, SeqCst) + 1;
                    drop(cache.expire_many(["k"], Version(version)));
                    told_fresh[at] = version;
                }
                3 => link.faults.lose_messages(50),
                4 => link.faults.lose_answers(30),
                5 => link.faults.swap_messages(50),
                6 => link.mend(),
                _ => {
                    let (bar, bar_fresh) = (told[at], told[at].max(told_fresh[at]));
                    if let Some((value, is_stale)) = source.entry(cache, "k").await {
                        let bar = if is_stale { bar } else { bar_fresh };
                        assert!(value >= bar, "seed {seed}, step {step}: {value} after {bar} ({is_stale})");
                    }
                }
            }
            sleep(dice.random_range(0..8) * MILLI).await;
        }
        extensions += nodes.iter().map(|(cache, _)| cache.stats().extensions).sum::<u64>();
    }
    assert!(extensions > 500, "{extensions}: nothing was put to the test");
}

const MILLI: Duration = Duration::from_millis(1);

/// What is extended is what the loader was shown, and a tier that missed it has something else.
#[tokio::test(start_paused = true)]
async fn extension_brings_nothing_back_in_a_tier_that_has_missed_the_value() {
    let (near, far) = (Site::new(27), Site::new(28));
    let ((cache, _, far_link), source) = (node_over_two(&near, &far, policy()).await, Source::default());
    source.version.store(1, SeqCst);
    assert_eq!(source.read(&cache, "k").await, Some(1));
    trips().await;
    far_link.faults.set_tier_down(true);
    sleep(10 * SECOND).await;
    source.version.store(2, SeqCst);
    assert_eq!(source.read(&cache, "k").await, Some(2));
    trips().await;
    far_link.faults.set_tier_down(false);
    wait_for(|| cache.stats().tiers[1].is_up).await;
    sleep(10 * SECOND).await;
    assert_eq!(source.read(&cache, "k").await, Some(2));
    assert_eq!(cache.stats().load_unmodified, 1);
    trips().await;
    near.shelf.restart();
    let (another, _, _) = node_over_two(&near, &far, policy()).await;
    assert_eq!(source.read(&another, "k").await, Some(2));
}
