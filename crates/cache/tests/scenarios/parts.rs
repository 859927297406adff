//! Tiers of which a part is away: a server of several, or one tier of two.

use std::sync::Arc;

use paystrata_cache::{
    Cache, Clock, Policy, Version,
    testkit::{Link, Site},
};

use crate::kit::{Numbers, SECOND, Teller, exact, node, settle, trips};

/// A process that hears nothing of the others, over tiers in this order. What it reads it forgets.
fn deaf(links: &[&Link]) -> Numbers {
    let policy = exact(Policy { l1_ttl: std::time::Duration::ZERO, ..Policy::default() });
    let building = Cache::builder("numbers").policy(policy).clock(Clock::tokio());
    let building = links.iter().fold(building, |building, link| building.tier(Arc::new((*link).clone())));
    building.build()
}

/// Keys with a value, by whether their server is away when half of them are.
async fn halves(site: &Site, teller: &Teller) -> (Vec<String>, Vec<String>) {
    let link = site.link();
    let cache = deaf(&[&link]);
    let keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    for key in &keys {
        teller.value(&cache, key, 1).await;
    }
    trips().await;
    link.faults.set_part_down(50);
    let mut halves = (vec![], vec![]);
    for key in keys {
        let is_away = teller.value(&cache, &key, 2).await == 2;
        if is_away { halves.1.push(key) } else { halves.0.push(key) }
    }
    assert!(halves.0.len() > 2 && halves.1.len() > 2, "{halves:?}");
    halves
}

#[tokio::test(start_paused = true)]
async fn change_that_one_tier_cannot_be_told_keeps_later_ones_from_no_other_tier() {
    let (near, far) = (Site::new(61), Site::new(62));
    let (to_near, to_far) = (near.link(), far.link());
    let writer = deaf(&[&to_near, &to_far]);
    let reader = deaf(&[&near.link(), &far.link()]);
    let only_far = deaf(&[&far.link()]);
    let teller = Teller::default();
    for key in ["a", "b", "c"] {
        teller.value(&writer, key, 1).await;
    }
    trips().await;
    to_far.faults.set_down(true);
    let _not_told = writer.invalidate_many(["a"], Version(1));
    trips().await;
    let _nor_this = writer.invalidate_many(["b"], Version(2));
    trips().await;
    assert_eq!(writer.stats().pending_invalidations, 2);
    // Who reads meanwhile takes the old values up from the lower tier.
    for key in ["a", "b"] {
        assert_eq!(teller.value(&reader, key, 3).await, 1, "{key}");
    }
    trips().await;
    assert_eq!(reader.stats().tiers[0].stored, 2);
    let _nor_this = writer.invalidate_many(["c"], Version(3));
    trips().await;
    assert_eq!(
        teller.value(&deaf(&[&near.link()]), "c", 2).await,
        2,
        "the tier that could be told has not been"
    );
    to_far.faults.mend();
    tokio::time::sleep(SECOND).await;
    assert_eq!(writer.stats().pending_invalidations, 0);
    for key in ["a", "b"] {
        for cache in [&reader, &only_far, &deaf(&[&near.link()])] {
            assert_eq!(teller.value(cache, key, 2).await, 2, "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn change_of_a_key_whose_server_is_away_keeps_no_other_key_waiting() {
    let (site, teller) = (Site::new(63), Teller::default());
    let (here, away) = halves(&site, &teller).await;
    let link = site.link();
    let (writer, reader) = (deaf(&[&link]), deaf(&[&site.link()]));
    link.faults.set_part_down(50);
    let _reach = writer.invalidate_many([away[0].as_str(), here[0].as_str()], Version(1));
    trips().await;
    let _reach = writer.invalidate_many([here[1].as_str()], Version(2));
    trips().await;
    for key in &here[..2] {
        assert_eq!(teller.value(&reader, key, 3).await, 3, "{key}");
    }
    assert_eq!(teller.value(&reader, &here[2], 3).await, 1);
    assert_eq!(writer.stats().pending_invalidations, 1);
    link.faults.mend();
    tokio::time::sleep(SECOND).await;
    assert_eq!(writer.stats().pending_invalidations, 0);
    assert_eq!(teller.value(&reader, &away[0], 3).await, 3);
    assert_eq!(writer.stats().tiers[0].opened, 0, "one server is not the tier");
}

#[tokio::test(start_paused = true)]
async fn key_whose_server_is_away_is_no_miss_and_only_such_keys_are_cut_off() {
    let (site, teller) = (Site::new(64), Teller::default());
    let (here, away) = halves(&site, &teller).await;
    let ((writer, link), (reader, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    link.faults.set_part_down(50);
    let before = writer.stats().tiers[0].misses;
    assert_eq!(teller.value(&writer, &away[1], 3).await, 3);
    settle().await;
    assert_eq!(writer.stats().tiers[0].misses, before);
    // Both are put in the tier by one batch; the one lands there and is good.
    let set = |key: &String| writer.set(key.clone(), 5, Version(5)).unwrap();
    let (one, other) = (set(&here[0]), set(&away[0]));
    let _reach = (one.await, other.await);
    trips().await;
    assert_eq!(teller.value(&reader, &here[0], 7).await, 5);
    assert_eq!(teller.value(&reader, &away[0], 7).await, 7, "what lies there is from before");
}

#[tokio::test(start_paused = true)]
async fn many_keys_whose_server_is_away_keep_none_of_the_others_waiting() {
    let (site, teller) = (Site::new(65), Teller::default());
    let link = site.link();
    let (writer, reader) = (deaf(&[&link]), deaf(&[&site.link()]));
    link.faults.set_part_down(50);
    // More than go in one call, and none of them can be told: they are tried first each time.
    let keys: Vec<String> = (0..3_000).map(|number| format!("other-{number}")).collect();
    for part in keys.chunks(50) {
        let _reach = writer.invalidate_many(part.iter().map(String::as_str), Version(1));
        trips().await;
    }
    let away = writer.stats().pending_invalidations;
    assert!(away > 1_024, "{away}");
    let key = &halves(&site, &teller).await.0[0];
    let _reach = writer.invalidate_many([key.as_str()], Version(2));
    trips().await;
    assert_eq!(teller.value(&reader, key, 3).await, 3);
    assert_eq!(writer.stats().pending_invalidations, away);
}

#[tokio::test(start_paused = true)]
async fn many_keys_whose_server_refuses_keep_none_of_the_others_waiting() {
    let (site, teller) = (Site::new(66), Teller::default());
    let here = halves(&site, &teller).await.0;
    let link = site.link();
    let (writer, reader) = (deaf(&[&link]), deaf(&[&site.link()]));
    link.faults.set_part_refusing(50);
    for part in 0..60 {
        let keys: Vec<String> = (0..50).map(|number| format!("other-{part}-{number}")).collect();
        let _reach = writer.invalidate_many(keys.iter().map(String::as_str), Version(1));
        trips().await;
    }
    assert!(writer.stats().pending_invalidations > 1_024);
    for key in &here {
        let _reach = writer.invalidate_many([key.as_str()], Version(2));
        tokio::time::sleep(SECOND).await;
        assert_eq!(teller.value(&reader, key, 3).await, 3, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn key_that_changes_again_while_its_tier_is_away_is_told_once_when_it_is_back() {
    let (site, teller) = (Site::new(67), Teller::default());
    let link = site.link();
    let (writer, reader) = (deaf(&[&link]), deaf(&[&site.link()]));
    for key in ["a", "b"] {
        teller.value(&writer, key, 1).await;
    }
    trips().await;
    link.faults.set_tier_down(true);
    for version in 1..5 {
        let _reach = writer.invalidate_many(["a"], Version(version));
        trips().await;
    }
    let _reach = writer.invalidate_many(["b"], Version(5));
    link.faults.mend();
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(writer.stats().pending_invalidations, 0);
    for key in ["a", "b"] {
        assert_eq!(teller.value(&reader, key, 6).await, 6, "{key}");
    }
}

/// A writer over two tiers of which the second is away, and the value of the last of ten thousand keys in the first.
async fn burst_over_half_a_house() -> (Site, Numbers, Teller, Vec<String>) {
    let (near, far) = (Site::new(68), Site::new(69));
    let (to_near, to_far) = (near.link(), far.link());
    let (writer, teller) = (deaf(&[&to_near, &to_far]), Teller::default());
    let keys: Vec<String> = (0..10_000).map(|number| format!("k{number}")).collect();
    teller.value(&writer, keys.last().expect("many"), 1).await;
    trips().await;
    to_far.faults.set_down(true);
    let _not_told = writer.invalidate_many(["first"], Version(1));
    trips().await;
    let _reach = writer.invalidate_many(keys.iter().map(String::as_str), Version(2));
    (near, writer, teller, keys)
}

#[tokio::test(start_paused = true)]
async fn burst_of_changes_reaches_the_tier_that_is_there_at_once_though_another_is_away() {
    let (near, writer, teller, keys) = burst_over_half_a_house().await;
    // Each call takes some milliseconds, and no pause comes between them.
    trips().await;
    trips().await;
    assert_eq!(teller.value(&deaf(&[&near.link()]), keys.last().expect("many"), 3).await, 3);
    assert_eq!(writer.stats().pending_invalidations, keys.len() as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn cache_that_closes_tells_all_of_its_changes_to_the_tier_that_is_there() {
    let (near, writer, teller, keys) = burst_over_half_a_house().await;
    writer.close().await;
    assert_eq!(teller.value(&deaf(&[&near.link()]), keys.last().expect("many"), 3).await, 3);
}

#[tokio::test(start_paused = true)]
async fn tier_that_needs_long_for_each_key_is_told_of_fewer_at_once() {
    let (site, teller) = (Site::new(69), Teller::default());
    let link = site.link();
    let (writer, reader) = (deaf(&[&link]), deaf(&[&site.link()]));
    let keys: Vec<String> = (0..300).map(|number| format!("k{number}")).collect();
    for key in &keys {
        teller.value(&writer, key, 1).await;
    }
    trips().await;
    link.faults.set_voids_max(20);
    let _reach = writer.invalidate_many(keys.iter().map(String::as_str), Version(1));
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(writer.stats().pending_invalidations, 0);
    for key in &keys {
        assert_eq!(teller.value(&reader, key, 2).await, 2, "{key}");
    }
    // And of more again.
    link.faults.mend();
    let _reach = writer.invalidate_many(keys.iter().map(String::as_str), Version(2));
    tokio::time::sleep(SECOND).await;
    assert_eq!(writer.stats().pending_invalidations, 0);
}
