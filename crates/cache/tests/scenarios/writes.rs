//! Values that the caller sets, in process and through to the shared tiers: what is taken, and what is refused and told.
//! Those that are written behind are in `behind`.

use std::sync::Arc;

use paystrata_cache::{
    Cache, Clock, FLOOR_LIFE, Policy, Reach, SetRefused, TierOptions, Version, Write,
    testkit::{Link, Site},
};
use tokio::time::sleep;

use crate::kit::{Broken, Numbers, SECOND, Teller, alone, node, settle, trips, wait_for};

#[tokio::test(start_paused = true)]
async fn value_that_is_set_is_stored_in_every_tier_or_voids_what_is_there() {
    for (write, found) in [(Write::Through, 2), (Write::Void, 3)] {
        let site = Site::new(1);
        let policy = || Policy { write, ..Policy::default() };
        let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
        let teller = Teller::default();
        teller.value(&one, "k", 1).await;
        trips().await;
        teller.value(&other, "k", 1).await;
        one.set("k".to_owned(), 2, Version(5)).unwrap().await;
        trips().await;
        assert_eq!((one.get("k"), other.get("k")), (Some(2), None));
        assert_eq!(teller.value(&other, "k", 3).await, found);
    }
}

// T55
#[tokio::test(start_paused = true)]
async fn write_that_is_repeated_late_does_not_replace_what_a_peer_wrote_meanwhile() {
    let site = Site::new(2);
    let ((one, link), (other, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    link.faults.set_down(true);
    drop(one.set("k".to_owned(), 5, Version(5)));
    settle().await;
    other.set("k".to_owned(), 6, Version(6)).unwrap().await;
    link.faults.set_down(false);
    wait_for(|| one.stats().pending_invalidations == 0).await;
    trips().await;
    assert_eq!(one.stats().tiers[0].refused, 1);
    let (third, _) = node(&site, Policy::default()).await;
    assert_eq!(Teller::default().value(&third, "k", 7).await, 6);
}

// A tier keeps floors for a minute: of what has overtaken a value it may know nothing any more when that comes later.
#[tokio::test(start_paused = true)]
async fn write_that_is_repeated_after_the_floors_are_gone_puts_nothing() {
    let site = Site::new(3);
    let long = || Policy { ttl: 3_600 * SECOND, ..Policy::default() };
    let ((one, link), (other, _)) = (node(&site, long()).await, node(&site, long()).await);
    link.faults.set_down(true);
    drop(one.set("k".to_owned(), 5, Version(5)));
    settle().await;
    assert_eq!(other.invalidate_many(["k"], Version(6)).await, Reach::Fleet);
    sleep(2 * FLOOR_LIFE).await;
    link.faults.set_down(false);
    wait_for(|| one.stats().pending_invalidations == 0).await;
    trips().await;
    let (third, _) = node(&site, Policy::default()).await;
    assert_eq!(Teller::default().value(&third, "k", 7).await, 7, "the tier was given no old value");
}

// No tier can tell which of two values without a number is newer.
#[tokio::test(start_paused = true)]
async fn value_without_a_number_is_put_at_once_or_not_at_all() {
    for (seed, version) in [(26, Version::LATEST), (27, Version::NONE)] {
        let site = Site::new(seed);
        let ((one, link), (other, _)) =
            (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
        link.faults.set_down(true);
        drop(one.set("k".to_owned(), 5, version));
        settle().await;
        match version {
            Version::LATEST => assert_eq!(other.invalidate("k").await, Reach::Fleet),
            _ => assert_eq!(other.set("k".to_owned(), 6, version).unwrap().await, Reach::Fleet),
        }
        sleep(SECOND).await;
        link.faults.set_down(false);
        wait_for(|| one.stats().pending_invalidations == 0).await;
        trips().await;
        let (third, _) = node(&site, Policy::default()).await;
        assert_eq!(Teller::default().value(&third, "k", 7).await, 7, "{version:?}");
    }
}

// H24: what no tier takes must not push out what others have.
#[tokio::test(start_paused = true)]
async fn values_that_are_huge_void_nothing_but_their_own_keys() {
    let site = Site::new(25);
    let text = |link: &Link| {
        Cache::<String, String>::builder("texts")
            .clock(Clock::tokio())
            .tier(Arc::new(link.clone()))
            .backplane(Arc::new(link.clone()))
            .build()
    };
    let (one, other) = (text(&site.link()), text(&site.link()));
    for cache in [&one, &other] {
        wait_for(|| cache.stats().backplane_silence.is_some()).await;
    }
    let load = |_| async { Ok::<_, Broken>(Some("small".to_owned())) };
    other.get_or_load("kept", load).await.unwrap();
    // One beyond every bound, and many that are within a tier's and together beyond the room of what waits.
    let noise = |length: usize| (0..length).map(|_| rand::random_range('!'..='~')).collect::<String>();
    drop(one.set("huge".to_owned(), noise(9 << 20), Version(1)));
    for number in 0..20 {
        drop(one.set(format!("large {number}"), noise(800 << 10), Version(1)));
    }
    assert_eq!(one.confirm().await, Reach::Fleet);
    trips().await;
    assert_eq!(one.stats().pending_overflows, 0);
    assert_eq!(other.get("kept").as_deref(), Some("small"));
}

#[tokio::test(start_paused = true)]
async fn changes_of_other_keys_refuse_no_value() {
    let cache = alone(Policy::default());
    for number in 0..5_000 {
        drop(cache.invalidate(&format!("other {number}")));
    }
    drop(cache.invalidate_many(
        (0..1_000).map(|number| format!("row {number}")).collect::<Vec<_>>().iter(),
        Version(9),
    ));
    drop(cache.tag("some").at(Version(9)).remove());
    drop(cache.prefix("row").at(Version::LATEST).remove());
    for number in 0..1_000 {
        let key = format!("k{number}");
        cache.set_tagged(key.clone(), number, Version(1), &["others"]).unwrap().await;
        assert_eq!(cache.get(&key), Some(number));
    }
}

#[tokio::test(start_paused = true)]
async fn change_of_the_key_refuses_what_is_older_or_may_be() {
    let cache = alone(Policy::default());
    let set = |key: &str, version| cache.set_tagged(key.to_owned(), 1, version, &["tag"]).err();
    let overtaken = Some(SetRefused::Overtaken);
    drop(cache.invalidate_many(["a"], Version(9)));
    assert_eq!(
        (set("a", Version(8)), set("a", Version::NONE), set("a", Version(9))),
        (overtaken, overtaken, None)
    );
    drop(cache.invalidate("b"));
    assert_eq!((set("b", Version(8)), set("b", Version::LATEST)), (overtaken, None));
    drop(cache.invalidate("c"));
    tokio::time::advance(FLOOR_LIFE).await;
    assert_eq!(set("c", Version(8)), None);
    drop(cache.tag("tag").at(Version(20)).expire());
    assert_eq!((set("d", Version(19)), set("d", Version(20))), (overtaken, None));
    drop(cache.prefix("p:").at(Version(30)).remove());
    assert_eq!((set("p:1", Version(29)), set("q:1", Version(29))), (overtaken, None));
    assert_eq!(cache.stats().refused_stale_sets, 5);
}

#[tokio::test(start_paused = true)]
async fn values_that_are_set_together_are_put_with_one_call_and_read_on_every_node() {
    let site = Site::new(28);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    Teller::default().value(&other, "7", 7).await;
    trips().await;
    let before = one.stats().tiers[0].round_trips;
    let values = (0..).zip(&keys).map(|(number, key)| (key.clone(), 1_000 + number, Version(5)));
    let set = one.set_many(values);
    assert_eq!(one.get("7"), Some(1_007), "before anybody else is told");
    for confirmation in set {
        assert_eq!(confirmation.unwrap().await, Reach::Fleet);
    }
    let tier = &one.stats().tiers[0];
    assert_eq!((tier.round_trips - before, tier.stored), (1, 100));
    trips().await;
    assert_eq!(other.get("7"), None);
    let read = other.read_many(keys.iter().map(String::as_str)).await;
    let read: Vec<_> = read.into_iter().map(|loaded| loaded.unwrap().value.unwrap()).collect();
    assert_eq!(read, (1_000..1_100).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn values_that_are_set_together_are_refused_one_by_one() {
    let cache = alone(Policy::default());
    let set = |cache: &Numbers, values: &[(&str, u64)]| {
        let values = values.iter().map(|(key, version)| ((*key).to_owned(), *version, Version(*version)));
        let set = cache.set_many(values).into_iter();
        set.map(Result::err).collect::<Vec<_>>()
    };
    drop(cache.invalidate_many(["b"], Version(9)));
    assert_eq!(set(&cache, &[("a", 5), ("b", 5), ("c", 5)]), [None, Some(SetRefused::Overtaken), None]);
    assert_eq!(cache.get_many(["a", "b", "c"]), [Some(5), None, Some(5)]);
    assert_eq!(set(&cache, &[("a", 6), ("a", 7)]), [None, None], "one after the other");
    assert_eq!(cache.get("a"), Some(7));
    let behind = cache.with(|policy| policy.write = Write::Behind);
    assert_eq!(set(&behind, &[("a", 8), ("c", 8)]), [Some(SetRefused::NoWriter); 2]);
    assert_eq!(cache.get_many(["a", "c"]), [Some(7), Some(5)], "nothing was done");
}

// Several share a lock, under which each voids what was there.
#[tokio::test(start_paused = true)]
async fn newest_values_that_are_set_together_do_not_overtake_each_other() {
    let cache = alone(Policy::default());
    let set = cache.set_many((0..300).map(|number| (number.to_string(), number, Version::LATEST)));
    assert!(set.iter().all(Result::is_ok));
    for number in 0..300 {
        assert_eq!(cache.get(number.to_string().as_str()), Some(number));
    }
}

#[tokio::test(start_paused = true)]
async fn value_with_too_many_tags_is_refused_and_the_old_one_is_void() {
    let site = Site::new(3);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let names: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    Teller::default().value(&other, "k", 1).await;
    trips().await;
    assert_eq!(one.set_tagged("k".to_owned(), 2, Version(5), &names).err(), Some(SetRefused::TooManyTags));
    trips().await;
    assert_eq!((one.get("k"), other.get("k")), (None, None));
    assert_eq!(Teller::default().value(&other, "k", 3).await, 3, "nor is it in the tier");
    names[64] = "63";
    one.set_tagged("k".to_owned(), 2, Version(6), &names).unwrap().await;
    assert_eq!(one.get("k"), Some(2), "one that is named twice is one");
}

// T68
#[tokio::test(start_paused = true)]
async fn value_that_is_set_and_too_large_is_counted_and_kept_where_it_fits() {
    let site = Site::new(4);
    let link = Arc::new(site.link());
    let small = TierOptions { value_bytes_max: 1_000, ..TierOptions::default() };
    let cache: Cache<String, String> = Cache::builder("texts")
        .policy(Policy { l1_value_bytes_max: 5_000, ..Policy::default() })
        .weigher(|_key, text: &String| text.len())
        .clock(Clock::tokio())
        .tier_with(Arc::<Link>::clone(&link), small)
        .backplane(link)
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    cache.set("large".to_owned(), "x".repeat(2_000), Version(1)).unwrap().await;
    assert_eq!((cache.stats().oversize, cache.stats().tiers[0].oversize), (0, 1));
    assert!(cache.get("large").is_some());
    cache.set("huge".to_owned(), "x".repeat(6_000), Version(1)).unwrap().await;
    assert_eq!((cache.stats().oversize, cache.stats().tiers[0].oversize), (1, 2));
    assert_eq!((cache.get("huge"), site.shelf.values("texts")), (None, 0));
    let told = cache.get_or_load("huge", |_| async { Ok::<_, Broken>("told".to_owned()) }).await;
    assert_eq!(told.unwrap().as_deref(), Some("told"));
}
