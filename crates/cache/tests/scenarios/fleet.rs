//! Two nodes and their servers: what one changes, the other notices, whatever is lost in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use paystrata_cache::{
    BuildError, Cache, Clock, Origin, Policy, Reach, Silence, Version, Write, WriteFailed, Writer,
    testkit::{Link, Site},
};
use tokio::time::sleep;

use crate::kit::{
    Broken, Gate, Numbers, SECOND, Teller, listener, node, node_over_two, settle, trips, wait_for,
};

// T39, H1, H2
#[tokio::test(start_paused = true)]
async fn load_on_one_node_that_another_overtakes_stores_nothing_anywhere() {
    let site = Site::new(1);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let gate = Gate::default();
    let reader = gate.read(&one, "k", Ok(Some(1)));
    gate.begun.notified().await;
    assert_eq!(other.invalidate_many(["k"], Version(5)).await, Reach::Fleet);
    trips().await;
    gate.go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap().value, Some(1));
    trips().await;
    assert_eq!((one.get("k"), site.shelf.values("numbers")), (None, 0));
    assert_eq!(one.stats().refused_stale_sets, 1);
}

// T39 in two tiers
#[tokio::test(start_paused = true)]
async fn load_that_another_node_overtakes_is_refused_by_every_tier() {
    let (near, far) = (Site::new(21), Site::new(22));
    let (one, ..) = node_over_two(&near, &far, Policy::default()).await;
    let (other, ..) = node_over_two(&near, &far, Policy::default()).await;
    let gate = Gate::default();
    let reader = gate.read(&one, "k", Ok(Some(1)));
    gate.begun.notified().await;
    assert_eq!(other.invalidate_many(["k"], Version(5)).await, Reach::Fleet);
    // The node itself has not been told yet: the tiers alone refuse.
    gate.go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap().value, Some(1));
    trips().await;
    assert_eq!(one.get("k"), None);
    assert_eq!((near.shelf.values("numbers"), far.shelf.values("numbers")), (0, 0));
    assert_eq!(Teller::default().value(&other, "k", 2).await, 2);
    trips().await;
    assert_eq!((near.shelf.values("numbers"), far.shelf.values("numbers")), (1, 1));
}

// T63
#[tokio::test(start_paused = true)]
async fn nodes_that_share_no_tier_do_not_void_each_other_in_turn() {
    let site = Site::new(23);
    let said = Arc::new(AtomicUsize::new(0));
    site.wire.witness({
        let said = Arc::clone(&said);
        move |_| {
            said.fetch_add(1, SeqCst);
        }
    });
    let (one, other) = (listener(&site, Policy::default()).await, listener(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    teller.value(&other, "k", 1).await;
    one.set("k".to_owned(), 2, Version(5)).unwrap().await;
    trips().await;
    assert_eq!((one.get("k"), other.get("k")), (Some(2), None));
    assert_eq!(teller.value(&other, "k", 2).await, 2);
    sleep(10 * SECOND).await;
    assert_eq!((one.get("k"), other.get("k")), (Some(2), Some(2)));
    assert_eq!((teller.calls(), said.load(SeqCst)), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn value_loaded_by_one_node_is_read_by_the_other_without_a_load() {
    let site = Site::new(2);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    trips().await;
    assert_eq!((teller.value(&other, "k", 2).await, teller.calls()), (1, 1));
    assert_eq!(other.read("k").await.unwrap().value, Some(1));
}

// H10
#[tokio::test(start_paused = true)]
async fn nodes_that_want_a_cold_key_together_load_it_once() {
    let site = Site::new(3);
    let policy = || Policy { lease_wait: SECOND, ..Policy::default() };
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    let gate = Gate::default();
    let first = gate.read(&one, "k", Ok(Some(1)));
    gate.begun.notified().await;
    let second = gate.read(&other, "k", Ok(Some(2)));
    sleep(Duration::from_millis(50)).await;
    gate.go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().value, Some(1));
    assert_eq!((second.await.unwrap().unwrap().value, gate.calls()), (Some(1), 1));
}

// T44, H17
#[tokio::test(start_paused = true)]
async fn followers_write_no_shared_tier_and_repeat_no_announcement() {
    let site = Site::new(4);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    trips().await;
    teller.value(&other, "k", 1).await;
    let before = other.stats().tiers[0].round_trips;
    one.set("k".to_owned(), 2, Version(5)).unwrap().await;
    trips().await;
    assert_eq!((one.get("k"), other.get("k")), (Some(2), None));
    assert_eq!(other.stats().tiers[0].round_trips, before);
    assert_eq!((teller.value(&other, "k", 3).await, one.get("k")), (2, Some(2)), "no ping-pong");
}

// H8: a node that comes after a sweep does not believe what was stored before it.
#[tokio::test(start_paused = true)]
async fn sweep_outlives_the_nodes_that_heard_it() {
    let site = Site::new(5);
    let teller = Teller::default();
    {
        let (one, _) = node(&site, Policy::default()).await;
        teller.value(&one, "user:1", 1).await;
        trips().await;
        assert_eq!(one.prefix("user:").remove().await, Reach::Fleet);
        one.close().await;
    }
    assert_eq!(site.shelf.values("numbers"), 1, "the old value lies there");
    let (late, _) = node(&site, Policy::default()).await;
    assert_eq!(teller.value(&late, "user:1", 2).await, 2);
    trips().await;
    let (last, _) = node(&site, Policy::default()).await;
    assert_eq!(teller.value(&last, "user:1", 3).await, 2);
}

// T61, P6
#[tokio::test(start_paused = true)]
async fn node_that_hears_nothing_serves_nothing_older_than_the_bound() {
    let site = Site::new(6);
    let policy =
        || Policy { max_stale: 2 * SECOND, ttl: 3_600 * SECOND, l1_ttl: 3_600 * SECOND, ..Policy::default() };
    let ((one, link), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    sleep(60 * SECOND).await;
    assert_eq!(one.get("k"), Some(1), "signs of life keep it");
    // Nothing tells this node that its line is dead: it is simply silent.
    link.faults.lose_messages(100);
    other.invalidate_many(["k"], Version(5)).await;
    assert_eq!(one.get("k"), Some(1), "nobody has told it");
    sleep(3 * SECOND).await;
    assert_eq!(one.get("k"), None);
    assert_eq!(teller.value(&one, "k", 2).await, 2);
}

// H4
#[tokio::test(start_paused = true)]
async fn announcement_that_was_lost_is_asked_for_and_only_what_it_voids_is_dropped() {
    let site = Site::new(7);
    let ((one, link), (other, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "a", 1).await;
    teller.value(&one, "b", 1).await;
    link.faults.lose_messages(100);
    other.invalidate_many(["a"], Version(5)).await;
    link.faults.lose_messages(0);
    wait_for(|| one.stats().replays == 1).await;
    assert_eq!((one.get("a"), one.get("b"), one.stats().gaps), (None, Some(1), 0));
}

#[tokio::test(start_paused = true)]
async fn announcement_that_is_no_longer_to_be_had_drops_everything() {
    let site = Site::new(8);
    let ((one, link), (other, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "b", 1).await;
    link.deafen();
    other.invalidate_many(["a"], Version(5)).await;
    site.wire.forget_log();
    link.mend_hearing();
    wait_for(|| one.stats().gaps == 1).await;
    assert_eq!(one.get("b"), None);
}

#[tokio::test(start_paused = true)]
async fn node_that_serves_through_a_silence_says_so_of_absences_too() {
    let site = Site::new(26);
    let policy = Policy {
        on_silence: Silence::Serve,
        ttl: 3_600 * SECOND,
        l1_ttl: 3_600 * SECOND,
        negative_ttl: 3_600 * SECOND,
        ..Policy::default()
    };
    let ((one, link), teller) = (node(&site, policy).await, Teller::default());
    teller.value(&one, "there", 1).await;
    teller.read(&one, "gone", Ok(None)).await.unwrap();
    link.faults.set_down(true);
    sleep(60 * SECOND).await;
    for (key, value) in [("there", Some(1)), ("gone", None)] {
        let found = teller.read(&one, key, Ok(Some(9))).await.unwrap();
        assert_eq!((found.value, found.is_stale), (value, true), "{key}");
    }
    assert_eq!((teller.calls(), one.stats().stale), (2, 2));
}

// T62
#[tokio::test(start_paused = true)]
async fn node_that_is_told_of_an_overflow_asks_at_once_for_what_it_has_missed() {
    let site = Site::new(13);
    let ((one, link), (other, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "a", 1).await;
    teller.value(&one, "b", 1).await;
    // Neither a later announcement nor a pulse shows it that one is missing.
    link.faults.lose_messages(100);
    other.invalidate_many(["a"], Version(5)).await;
    assert_eq!((one.get("a"), one.stats().replays), (Some(1), 0));
    link.overflow();
    trips().await;
    assert_eq!((one.get("a"), one.get("b"), one.stats().replays), (None, Some(1), 1));
    // What is no longer to be had.
    other.invalidate_many(["b"], Version(6)).await;
    site.wire.forget_log();
    link.overflow();
    trips().await;
    assert_eq!((one.get("b"), one.stats().gaps), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn peer_that_vanishes_is_missed_once_and_one_that_takes_leave_never() {
    let site = Site::new(9);
    let (stays, _) = node(&site, Policy::default()).await;
    let ((polite, _), (lost, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    sleep(5 * SECOND).await;
    polite.close().await;
    sleep(60 * SECOND).await;
    assert_eq!(stays.stats().gaps, 0);
    drop(lost);
    sleep(60 * SECOND).await;
    assert_eq!(stays.stats().gaps, 1);
}

// P8: what is changed while the servers are away is told when they are back, and not trusted until then.
#[tokio::test(start_paused = true)]
async fn change_while_the_servers_are_down_is_queued_and_told_when_they_are_back() {
    let site = Site::new(10);
    let ((one, link), (other, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    trips().await;
    teller.value(&other, "k", 1).await;
    link.faults.set_down(true);
    assert_eq!(one.invalidate_many(["k"], Version(5)).await, Reach::Queued);
    assert_eq!(teller.value(&one, "k", 2).await, 2);
    link.faults.set_down(false);
    wait_for(|| one.stats().pending_invalidations == 0).await;
    trips().await;
    assert_eq!(other.get("k"), None);
    assert_eq!(teller.value(&other, "k", 3).await, 3);
}

// T79, T51
#[tokio::test(start_paused = true)]
async fn caches_of_two_names_on_one_site_do_not_mix() {
    let site = Site::new(11);
    let (numbers, link) = node(&site, Policy::default()).await;
    let tier = Arc::new(link);
    let others: Numbers = Cache::builder("others")
        .clock(Clock::tokio())
        .tier(Arc::<Link>::clone(&tier))
        .backplane(tier)
        .build();
    wait_for(|| others.stats().backplane_silence.is_some()).await;
    let teller = Teller::default();
    teller.value(&numbers, "k", 1).await;
    trips().await;
    assert_eq!(teller.value(&others, "k", 2).await, 2);
    numbers.clear().await;
    trips().await;
    assert_eq!((numbers.get("k"), others.get("k")), (None, Some(2)));
    let link = Arc::new(site.link());
    let fresh: Numbers =
        Cache::builder("others").clock(Clock::tokio()).tier(link.clone()).backplane(link).build();
    wait_for(|| fresh.stats().backplane_silence.is_some()).await;
    let found = teller.read(&fresh, "k", Ok(Some(3))).await.unwrap();
    assert_eq!(
        (found.value, found.origin),
        (Some(2), Origin::Tier(0)),
        "its record in the tier stands as well"
    );
}

// T78
#[tokio::test(start_paused = true)]
async fn tasks_end_with_the_last_handle() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (before, site) = (alive(), Site::new(12));
    let link = Arc::new(site.link());
    // One with everything that runs in the background.
    let cache: Numbers = Cache::builder("numbers")
        .policy(Policy { refresh_every: SECOND, write: Write::Behind, ..Policy::default() })
        .clock(Clock::tokio())
        .tier(Arc::<Link>::clone(&link))
        .backplane(Arc::<Link>::clone(&link))
        .writer(Arc::new(Nobody))
        .keep_fresh(|_, _| async { Ok::<_, Broken>(Some(1)) })
        .maintain_every(SECOND)
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    cache.pin(["k".to_owned()]);
    sleep(3 * SECOND).await;
    // The courier, the keeper, the writer, the one who maintains, and the line's own.
    assert_eq!(alive(), before + 5);
    link.faults.set_down(true);
    drop(cache.invalidate("k"));
    settle().await;
    let other = cache.clone();
    drop(cache);
    settle().await;
    assert_eq!((alive(), other.stats().pending_invalidations), (before + 5, 1));
    drop(other);
    drop(link);
    settle().await;
    assert_eq!(alive(), before);
}

// T78
#[tokio::test(start_paused = true)]
async fn cache_that_is_refused_leaves_no_task_and_nobody_listening() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let link = Arc::new(Site::new(13).link());
    let before = alive();
    let asked = |refresh_at| {
        Cache::<String, u64>::builder("numbers")
            .policy(Policy { refresh_every: SECOND, refresh_at, write: Write::Behind, ..Policy::default() })
            .clock(Clock::tokio())
            .tier(Arc::<Link>::clone(&link))
            .backplane(Arc::<Link>::clone(&link))
            .writer(Arc::new(Nobody))
            .keep_fresh(|_, _| async { Ok::<_, Broken>(Some(1)) })
            .maintain_every(SECOND)
            .try_build()
    };
    let refused = asked(0.8).err();
    let is_named = matches!(refused, Some(BuildError::Contradiction { field: "Policy::refresh_at", .. }));
    assert!(is_named, "{refused:?}");
    settle().await;
    assert_eq!((alive(), Arc::strong_count(&link)), (before, 1));
    let taken = asked(0.0).unwrap();
    settle().await;
    assert!(alive() > before, "it has tasks where nothing is wrong with it");
    drop(taken);
}

struct Nobody;

impl Writer<String, u64> for Nobody {
    fn write<'a>(&'a self, _: &'a [(String, u64, Version)]) -> BoxFuture<'a, Result<(), WriteFailed>> {
        async { Ok(()) }.boxed()
    }
}
