//! Invalidation of many at once: by tag, by prefix, of everything; removed or expired.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use paystrata_cache::{LoadContext, Policy, Reach, Version, testkit::Site};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, node, settle, trips};

async fn load_tagged(cache: &Numbers, key: &str, value: u64, tags: &'static [&'static str]) {
    let load = move |context: LoadContext<u64>| async move {
        for tag in tags {
            context.tag(tag);
        }
        Ok::<_, Broken>(Some(value))
    };
    cache.get_or_load(key, load).await.unwrap();
}

// T45
#[tokio::test(start_paused = true)]
async fn removed_tag_takes_what_has_it_and_nothing_else_and_what_is_stored_after_it_stays() {
    let cache = alone(Policy::default());
    load_tagged(&cache, "a", 1, &["org:1", "red"]).await;
    load_tagged(&cache, "b", 2, &["org:2"]).await;
    load_tagged(&cache, "c", 3, &[]).await;
    drop(cache.tag("org:1").remove());
    assert_eq!((cache.get("a"), cache.get("b"), cache.get("c")), (None, Some(2), Some(3)));
    // In the same instant: the clock does not move.
    load_tagged(&cache, "a", 4, &["org:1", "red"]).await;
    assert_eq!(cache.get("a"), Some(4));
    assert_eq!(cache.get("b"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn prefix_takes_the_keys_that_begin_so_and_no_others() {
    let cache = alone(Policy::default());
    for key in ["user:1", "user:12", "user:*", "used"] {
        load_tagged(&cache, key, 1, &[]).await;
    }
    drop(cache.prefix("user:").remove());
    assert_eq!(cache.get_many(["user:1", "user:12", "user:*", "used"]), [None, None, None, Some(1)]);
    load_tagged(&cache, "user:1", 2, &[]).await;
    assert_eq!(cache.get("user:1"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn pattern_takes_the_keys_that_match_on_every_node_and_in_the_tiers_and_no_others() {
    let site = Site::new(72);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    let keys = ["user:1:name", "user:12:name", "user:1:mail", "name"];
    for key in keys {
        teller.value(&one, key, 1).await;
        trips().await;
        teller.value(&other, key, 2).await;
    }
    assert_eq!(one.pattern("user:*:name").at(Version(5)).remove().await, Reach::Fleet);
    trips().await;
    let newcomer = node(&site, Policy::default()).await.0;
    for cache in [&one, &other, &newcomer] {
        let mut left = vec![];
        for key in keys {
            left.push(cache.read(key).await.and_then(|loaded| loaded.value));
        }
        assert_eq!(left, [None, None, Some(1), Some(1)]);
    }
    // What is loaded for a key that matches reflects the write.
    let load = |context: LoadContext<u64>| async move { Ok::<_, Broken>(context.floor().0) };
    assert!(other.get_or_load(keys[0], load).await.unwrap() >= Some(5));
}

// T41: a load that began before a sweep of its tag, of its prefix or of everything stores nothing that is read, and
// who comes after the sweep does not get its value.
async fn check_sweep_during_load(sweep: impl Fn(&Numbers)) {
    let (cache, old, new) = (alone(Policy::default()), Gate::default(), Gate::default());
    let early = old.read_tagged(&cache, "user:1", Ok(Some(1)), "t");
    old.begun.notified().await;
    sweep(&cache);
    let late = new.read_tagged(&cache, "user:1", Ok(Some(2)), "t");
    settle().await;
    old.go.notify_one();
    assert_eq!(early.await.unwrap().unwrap().value, Some(1), "one who came before may see it");
    settle().await;
    new.go.notify_one();
    assert_eq!(late.await.unwrap().unwrap().value, Some(2));
    assert_eq!(cache.get("user:1"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn sweep_during_a_load_wins() {
    check_sweep_during_load(|cache| drop(cache.tag("t").remove())).await;
    check_sweep_during_load(|cache| drop(cache.tag("t").expire())).await;
    check_sweep_during_load(|cache| drop(cache.prefix("user:").remove())).await;
    check_sweep_during_load(|cache| drop(cache.pattern("*:1").remove())).await;
    check_sweep_during_load(|cache| drop(cache.pattern("user:?").expire())).await;
    check_sweep_during_load(|cache| drop(cache.clear())).await;
    check_sweep_during_load(|cache| drop(cache.expire_all())).await;
    check_sweep_during_load(|cache| drop(cache.invalidate_if(|key, _| key == "user:1"))).await;
    check_sweep_during_load(|cache| drop(cache.invalidate_if(|_, value| *value == 1))).await;
}

#[tokio::test(start_paused = true)]
async fn predicate_takes_what_it_means_by_key_and_value_and_nothing_else() {
    let cache = alone(Policy::default());
    for number in 0..100 {
        load_tagged(&cache, &number.to_string(), number, &[]).await;
        // Twice, so that this thread keeps copies.
        assert_eq!(cache.get(number.to_string().as_str()), Some(number));
        assert_eq!(cache.get(number.to_string().as_str()), Some(number));
    }
    drop(cache.invalidate_if(|key, value| value % 2 == 0 && key.len() == 2));
    for number in 0..100_u64 {
        let is_meant = number % 2 == 0 && number >= 10;
        assert_eq!(cache.get(number.to_string().as_str()).is_none(), is_meant, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn predicate_refuses_no_value_of_a_key_that_it_does_not_mean() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let early = gate.read(&cache, "a", Ok(Some(1)));
    gate.begun.notified().await;
    drop(cache.invalidate_if(|key, _| key == "z"));
    assert!(cache.set("a".to_owned(), 2, Version(1)).is_ok());
    gate.go.notify_one();
    early.await.unwrap().unwrap();
    assert_eq!(cache.get("a"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn what_a_predicate_means_is_gone_from_the_shared_tier_and_on_the_other_nodes() {
    let site = Site::new(23);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    for key in ["a", "b"] {
        teller.value(&one, key, 1).await;
        trips().await;
        teller.value(&other, key, 1).await;
    }
    assert_eq!(one.invalidate_if(|key, _| key == "a").await, Reach::Fleet);
    trips().await;
    assert_eq!((other.get("a"), other.get("b")), (None, Some(1)));
    assert_eq!(teller.value(&other, "a", 2).await, 2, "the tier does not have it either");
}

fn graceful() -> Policy {
    Policy { grace: 60 * SECOND, ..Policy::default() }
}

// T50 in process
#[tokio::test(start_paused = true)]
async fn expired_swath_stays_a_fallback_and_a_removed_one_does_not() {
    for (expire, left) in [(true, Some(1)), (false, None)] {
        for swath in ["tag", "prefix", "pattern", "all", "key"] {
            let (cache, teller) = (alone(graceful()), Teller::default());
            load_tagged(&cache, "user:1", 1, &["t"]).await;
            match (swath, expire) {
                ("tag", true) => drop(cache.tag("t").expire()),
                ("tag", false) => drop(cache.tag("t").remove()),
                ("prefix", true) => drop(cache.prefix("user:").expire()),
                ("prefix", false) => drop(cache.prefix("user:").remove()),
                ("pattern", true) => drop(cache.pattern("u*1").expire()),
                ("pattern", false) => drop(cache.pattern("u*1").remove()),
                ("all", true) => drop(cache.expire_all()),
                ("all", false) => drop(cache.clear()),
                (_, true) => drop(cache.expire("user:1")),
                (_, false) => drop(cache.invalidate("user:1")),
            }
            assert_eq!(cache.get("user:1"), None, "{swath}");
            let found = teller.read(&cache, "user:1", Err(Broken)).await;
            assert_eq!(found.ok().and_then(|loaded| loaded.value), left, "{swath} {expire}");
            assert_eq!(teller.calls(), 1, "{swath}");
        }
    }
}

// H21: a fallback that is served while the loader fails ends with its removal.
#[tokio::test(start_paused = true)]
async fn removal_takes_the_fallback_that_is_being_served_too() {
    let policy = Policy { ttl: SECOND, l1_ttl: SECOND, ..graceful() };
    let (cache, teller) = (alone(policy), Teller::default());
    load_tagged(&cache, "k", 1, &["t"]).await;
    advance(SECOND).await;
    assert!(teller.read(&cache, "k", Err(Broken)).await.unwrap().is_stale);
    drop(cache.tag("t").remove());
    assert!(teller.read(&cache, "k", Err(Broken)).await.is_err());
}

// T52, H9
#[tokio::test(start_paused = true)]
async fn loads_after_a_sweep_of_many_keys_stay_within_the_bound() {
    let cache = alone(Policy { loads_max: 4, loads_queued_max: 10_000, ..Policy::default() });
    let keys: Vec<String> = (0..50_000).map(|key| key.to_string()).collect();
    let load = |keys: Vec<String>, context: LoadContext<u64>| async move {
        context.tag("t");
        Ok::<_, Broken>(keys.iter().map(|_| Ok(Some(1))).collect::<Vec<_>>())
    };
    cache.get_or_load_many(keys.iter().map(String::as_str), load).await;
    assert_eq!(cache.stats().entries, 50_000);
    drop(cache.tag("t").remove());
    assert!(keys.iter().all(|key| cache.get(key.as_str()).is_none()));
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    // 5,000 at once: each of them gets its turn within `load_timeout`.
    for crowd in keys.chunks(5_000) {
        let readers = crowd.iter().map(|key| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            let load = move |_| async move {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                sleep(Duration::from_millis(1)).await;
                running.fetch_sub(1, SeqCst);
                Ok::<_, Broken>(Some(7))
            };
            cache.get_or_load(key.as_str(), load)
        });
        let read = join_all(readers).await;
        assert!(read.iter().all(|read| matches!(read, Ok(Some(7)))));
    }
    assert_eq!((most.load(SeqCst), cache.stats().loads), (4, 50_000 + 98));
}
