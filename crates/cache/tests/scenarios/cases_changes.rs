//! Cases of changes that meet others, and of nodes and tiers that hear, forget and end at the wrong moment: ranges of keys
//! within ranges, absences with tags, a removal after an expiry, messages that are repeated and late, a tier that forgets a
//! claim, and a load that outlives its cache.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, Weak},
};

use bytes::Bytes;
use paystrata_cache::{
    Cache, Clock, LoadContext, Lookup, Policy, Version,
    backplane::{Announcement, Backplane, Heard, Interruption, Line, Listener, Mark, Snapshot},
    testkit::{Link, Site},
    tier::TierFuture,
};

use crate::kit::{
    Broken, Gate, Numbers, SECOND, Teller, alone, exact, listener, node, settle, trips, wait_for,
};

fn graceful() -> Policy {
    Policy { ttl: 60 * SECOND, grace: 600 * SECOND, ..Policy::default() }
}

// T45, H22
#[tokio::test(start_paused = true)]
async fn absence_with_a_tag_goes_with_the_tag_on_every_node_and_in_the_tier() {
    let (site, teller) = (Site::new(321), Teller::default());
    let policy = || Policy { negative_ttl: 60 * SECOND, ..Policy::default() };
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    let nothing = |context: LoadContext<u64>| async move {
        context.tag("t");
        Ok::<_, Broken>(None::<u64>)
    };
    assert_eq!(one.get_or_load("k", nothing).await.unwrap(), None);
    trips().await;
    let read = teller.read(&other, "k", Ok(Some(9))).await.unwrap();
    assert_eq!((read.value, teller.calls()), (None, 0), "the tier knows of it");
    drop(other.tag("t").remove());
    assert_eq!(other.lookup("k"), Lookup::Miss);
    trips().await;
    assert_eq!(one.lookup("k"), Lookup::Miss);
    assert_eq!((teller.value(&one, "k", 9).await, teller.calls()), (9, 1));
}

// T45, T72
#[tokio::test(start_paused = true)]
async fn tag_of_any_name_takes_its_entries_on_every_node_and_nothing_else() {
    let (site, teller) = (Site::new(327), Teller::default());
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    // Two of them look like what the cache itself keeps among the tags.
    let digest = format!("\0key:{:032x}", 1);
    for name in ["", " ", "*", "a:b\n", "\0", "\0glob:6b", digest.as_str()] {
        let tag = name.to_owned();
        let load = move |context: LoadContext<u64>| async move {
            context.tag(tag);
            Ok::<_, Broken>(Some(1))
        };
        assert_eq!(one.get_or_load("tagged", load).await.unwrap(), Some(1));
        assert_eq!(teller.value(&one, "k", 1).await, 1);
        trips().await;
        for key in ["tagged", "k"] {
            assert_eq!(teller.value(&other, key, 9).await, 1);
        }
        one.tag(name).remove().await;
        trips().await;
        for cache in [&one, &other] {
            assert_eq!(cache.get_many(["tagged", "k"]), [None, Some(1)], "{name:?}");
        }
    }
}

// T41
#[tokio::test(start_paused = true)]
async fn empty_prefix_means_every_key_and_an_empty_pattern_the_empty_one() {
    let (site, teller) = (Site::new(322), Teller::default());
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    for key in ["", "k"] {
        assert_eq!(teller.value(&one, key, 1).await, 1);
        trips().await;
        assert_eq!(teller.value(&other, key, 9).await, 1);
    }
    one.pattern("").remove().await;
    trips().await;
    for cache in [&one, &other] {
        assert_eq!(cache.get_many(["", "k"]), [None, Some(1)]);
    }
    assert_eq!(teller.value(&one, "", 2).await, 2);
    trips().await;
    other.prefix("").remove().await;
    trips().await;
    for cache in [&one, &other] {
        assert_eq!(cache.get_many(["", "k"]), [None, None]);
    }
    for key in ["", "k"] {
        assert_eq!(teller.value(&one, key, 3).await, 3, "nor does the tier give it");
    }
}

// T50, H21
#[tokio::test(start_paused = true)]
async fn of_ranges_within_ranges_the_stricter_sweep_holds_whichever_comes_first() {
    let orders: [fn(&Numbers); 2] = [
        |cache| {
            drop(cache.prefix("a:").expire());
            drop(cache.prefix("a:b:").remove());
        },
        |cache| {
            drop(cache.prefix("a:b:").remove());
            drop(cache.prefix("a:").expire());
        },
    ];
    for sweep in orders {
        let cache = alone(graceful());
        for key in ["a:1", "a:b:1", "ab:1"] {
            Teller::default().value(&cache, key, 1).await;
        }
        sweep(&cache);
        assert_eq!(cache.get_many(["a:1", "a:b:1", "ab:1"]), [None, None, Some(1)]);
        let left = ["a:1", "a:b:1"].map(|key| cache.get_stale(key).is_some());
        assert_eq!(left, [true, false]);
        assert!(Teller::default().read(&cache, "a:1", Err(Broken)).await.is_ok_and(|read| read.is_stale));
        assert!(Teller::default().read(&cache, "a:b:1", Err(Broken)).await.is_err());
    }
}

// T50, H21
#[tokio::test(start_paused = true)]
async fn what_is_removed_after_it_was_expired_is_a_fallback_nowhere() {
    let site = Site::new(323);
    let ((one, _), (other, _)) = (node(&site, graceful()).await, node(&site, graceful()).await);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    assert_eq!(Teller::default().value(&other, "k", 9).await, 1);
    one.expire("k").await;
    trips().await;
    for cache in [&one, &other] {
        assert_eq!(cache.get("k"), None);
        assert!(cache.get_stale("k").is_some());
        // It rests now.
        assert!(Teller::default().read(cache, "k", Err(Broken)).await.is_ok_and(|read| read.is_stale));
    }
    other.invalidate("k").await;
    trips().await;
    for cache in [&one, &other] {
        assert!(cache.get_stale("k").is_none());
        assert!(Teller::default().read(cache, "k", Err(Broken)).await.is_err());
    }
}

/// A backplane that repeats all it has said, the newest first, after each announcement.
#[derive(Debug)]
struct Repeating(Link);

struct RepeatingLine {
    line: Arc<dyn Line>,
    parrot: OnceLock<Arc<dyn Listener>>,
}

struct Parrot {
    to: Weak<dyn Listener>,
    said: Mutex<Vec<Heard>>,
}

impl fmt::Debug for RepeatingLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("RepeatingLine").finish_non_exhaustive()
    }
}

impl Backplane for Repeating {
    fn line(&self, cache: &str) -> Arc<dyn Line> {
        Arc::new(RepeatingLine { line: self.0.line(cache), parrot: OnceLock::new() })
    }
}

impl Line for RepeatingLine {
    fn kind(&self) -> &'static str {
        self.line.kind()
    }

    fn is_up(&self) -> bool {
        self.line.is_up()
    }

    fn attach(&self) -> TierFuture<'_, Snapshot> {
        self.line.attach()
    }

    fn announce<'a>(&'a self, announcement: &'a Announcement) -> TierFuture<'a, Mark> {
        self.line.announce(announcement)
    }

    fn replay(&self, mark: Mark) -> TierFuture<'_, Option<Vec<(u64, Bytes)>>> {
        self.line.replay(mark)
    }

    fn pulse<'a>(&'a self, body: &'a Bytes) -> TierFuture<'a, Mark> {
        self.line.pulse(body)
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        let parrot: Arc<dyn Listener> = Arc::new(Parrot { to: listener, said: Mutex::default() });
        self.line.listen(Arc::downgrade(&parrot));
        assert!(self.parrot.set(parrot).is_ok(), "one cache listens");
    }
}

impl Listener for Parrot {
    fn heard(&self, heard: Heard) {
        let Some(to) = self.to.upgrade() else { return };
        to.heard(heard.clone());
        if matches!(heard, Heard::Announcement { .. }) {
            let mut said = self.said.lock().unwrap();
            said.push(heard);
            said.iter().rev().for_each(|repeated| to.heard(repeated.clone()));
        }
    }

    fn interrupted(&self, cause: Interruption) {
        if let Some(to) = self.to.upgrade() {
            to.interrupted(cause);
        }
    }
}

// H5
#[tokio::test(start_paused = true)]
async fn announcements_that_are_repeated_late_and_out_of_order_void_nothing_again() {
    let (site, teller) = (Site::new(324), Teller::default());
    let cache: Numbers = Cache::builder("numbers")
        .policy(exact(Policy::default()))
        .clock(Clock::tokio())
        .backplane(Arc::new(Repeating(site.link())))
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    let other = listener(&site, Policy::default()).await;
    for version in 1..=5 {
        teller.value(&cache, "k", version).await;
        other.invalidate_many(["k"], Version(version)).await;
        trips().await;
        assert_eq!(cache.get("k"), None);
        teller.value(&cache, "k", 10 * version).await;
        other.prefix("p:").remove().await;
        other.invalidate_many(["another"], Version(version)).await;
        trips().await;
        assert_eq!(cache.get("k"), Some(10 * version), "it was loaded after all that is repeated");
        drop(cache.invalidate("k"));
        trips().await;
    }
    assert_eq!((cache.stats().remote_invalidations, cache.stats().gaps), (10, 0));
}

// T39, H2
#[tokio::test(start_paused = true)]
async fn load_whose_claim_the_tier_has_forgotten_puts_nothing_over_what_came_meanwhile() {
    let (site, gate, teller) = (Site::new(325), Gate::default(), Teller::default());
    let (one, _) = node(&site, Policy::default()).await;
    let (other, _) = node(&site, Policy::default()).await;
    let (third, _) = node(&site, Policy::default()).await;
    let early = gate.read(&one, "k", Ok(Some(1)));
    gate.begun.notified().await;
    site.shelf.restart();
    assert_eq!(teller.value(&other, "k", 2).await, 2);
    trips().await;
    gate.go.notify_one();
    assert_eq!(early.await.unwrap().unwrap().value, Some(1));
    trips().await;
    assert_eq!(one.stats().tiers[0].refused, 1);
    assert_eq!((teller.value(&third, "k", 3).await, teller.calls()), (2, 1));
}

// T78, T31
#[tokio::test(start_paused = true)]
async fn load_that_outlives_the_last_handle_is_there_for_the_other_nodes() {
    let (site, gate, teller) = (Site::new(326), Gate::default(), Teller::default());
    let (one, _link) = node(&site, Policy::default()).await;
    let (other, _) = node(&site, Policy::default()).await;
    let early = gate.read(&one, "k", Ok(Some(1)));
    gate.begun.notified().await;
    early.abort();
    drop(one);
    settle().await;
    gate.go.notify_one();
    trips().await;
    assert_eq!((teller.value(&other, "k", 2).await, teller.calls()), (1, 0));
}
