//! Filling a cache before it is needed: keys that fail, streams that are slow, a filler that goes away, and what was
//! hot on another node.

use std::time::Duration;

use futures_util::{StreamExt, future::join, stream};
use paystrata_cache::{Bytes, CacheKey, LoadContext, Lookup, Pace, Policy, Progress, testkit::Site};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::kit::{Broken, Teller, alone, node, trips, wait_for};

type Told = Result<Vec<Result<Option<u64>, Broken>>, Broken>;

/// Loads a key's own number. There is nothing under some keys, others fail, and some fail with all that are asked for.
async fn numbers(keys: Vec<String>, _context: LoadContext<u64>) -> Told {
    if keys.iter().any(|key| key == "outage") {
        return Err(Broken);
    }
    let tell = |key: &String| match key.as_str() {
        "broken" => Err(Broken),
        key => Ok(key.parse::<u64>().ok()),
    };
    Ok(keys.iter().map(tell).collect())
}

fn keys<const COUNT: usize>(names: [&str; COUNT]) -> [String; COUNT] {
    names.map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn keys_that_fail_are_counted_and_the_others_are_loaded() {
    let (cache, mut told) = (alone(Policy::default()), Vec::new());
    let wanted = stream::iter(keys(["1", "broken", "nothing", "2", "3"]));
    let pace = Pace { batch: 2, ..Pace::default() };
    let done = cache.warm(wanted, pace, numbers, |progress| told.push(progress)).await;
    let progress = |keys, found, failed| Progress { keys, found, failed };
    assert_eq!(told, [progress(2, 1, 1), progress(4, 2, 1), progress(5, 3, 1)]);
    assert_eq!(done, progress(5, 3, 1));
    assert_eq!(cache.get_many(["1", "2", "3"]), [1, 2, 3].map(Some));
    let others = ["broken", "nothing"].map(|key| cache.lookup(key));
    assert_eq!(others, [Lookup::Miss, Lookup::Absent]);
}

#[tokio::test(start_paused = true)]
async fn loader_that_fails_for_a_batch_fails_its_keys_and_no_others() {
    let cache = alone(Policy::default());
    let wanted = stream::iter(keys(["1", "outage", "2", "3"]));
    let pace = Pace { batch: 2, ..Pace::default() };
    let done = cache.warm(wanted, pace, numbers, |_| {}).await;
    assert_eq!(done, Progress { keys: 4, found: 2, failed: 2 });
    assert_eq!(cache.get_many(["1", "2", "3"]), [None, Some(2), Some(3)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_there_already_is_found_and_not_loaded() {
    let (cache, teller) = (alone(Policy::default()), Teller::default());
    teller.value(&cache, "1", 10).await;
    let done = cache.warm(stream::iter(keys(["1", "2"])), Pace::default(), numbers, |_| {}).await;
    assert_eq!(done, Progress { keys: 2, found: 2, failed: 0 });
    assert_eq!(cache.get_many(["1", "2"]), [Some(10), Some(2)]);
    let nothing = cache.warm(stream::empty(), Pace::default(), numbers, |_| {}).await;
    assert_eq!(nothing, Progress::default());
}

#[tokio::test(start_paused = true)]
async fn key_of_a_slow_stream_is_warmed_before_the_next_one_comes() {
    let (cache, mut told) = (alone(Policy::default()), Vec::new());
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let slow = stream::poll_fn(move |context| receiver.poll_recv(context));
    let feeding = async {
        for key in ["1", "2"] {
            sender.send(key.to_owned()).unwrap();
            wait_for(|| cache.get(key).is_some()).await;
        }
        drop(sender);
    };
    let warming = cache.warm(slow, Pace::default(), numbers, |progress| told.push(progress.keys));
    let (done, ()) = join(warming, feeding).await;
    assert_eq!(done, Progress { keys: 2, found: 2, failed: 0 });
    assert_eq!(told, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn keys_that_come_while_it_is_not_yet_time_are_loaded_together() {
    let (cache, mut told) = (alone(Policy::default()), Vec::new());
    // It goes on only while it is polled.
    let trickling = stream::iter(0..20_u64).then(|key| async move {
        sleep(Duration::from_millis(1)).await;
        key.to_string()
    });
    let pace = Pace { batch: 64, every: Duration::from_millis(100) };
    let done = cache.warm(trickling, pace, numbers, |progress| told.push(progress.keys)).await;
    assert_eq!((told, done.found), (vec![20], 20));
}

// At every moment of its way: before and within the trips to the tier, during the load, and in the pause.
#[tokio::test(start_paused = true)]
async fn warming_that_is_dropped_midway_leaves_no_key_stuck() {
    let (site, teller) = (Site::new(1), Teller::default());
    let (cache, _link) = node(&site, Policy::default()).await;
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        sleep(Duration::from_millis(5)).await;
        Ok::<_, Broken>(keys.iter().map(|_| Ok(Some(1_u64))).collect::<Vec<_>>())
    };
    let mut ended = Vec::new();
    for moment in 0..80 {
        let wanted: Vec<String> = (0..4).map(|key| format!("{moment} {key}")).collect();
        let pace = Pace { batch: 2, every: Duration::from_millis(20) };
        let warming = cache.warm(stream::iter(wanted.clone()), pace, load, |_| {});
        ended.push(timeout(Duration::from_millis(moment), warming).await.is_ok());
        for key in &wanted {
            let value = teller.value(&cache, key, 2).await;
            assert!([1, 2].contains(&value), "{value}");
            assert_eq!(cache.get(key.as_str()), Some(value), "{key} is not kept at {moment} ms");
        }
    }
    assert_eq!((ended.first(), ended.last()), (Some(&false), Some(&true)), "dropped at first");
    // A claim that nobody had given back would have kept its key out of the tier.
    wait_for(|| site.shelf.values("numbers") == 4 * ended.len()).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_hot_on_one_node_warms_another_from_the_shared_tier_without_a_load() {
    let (site, teller) = (Site::new(2), Teller::default());
    let (one, _) = node(&site, Policy::default()).await;
    // One hit in 256 is seen; of keys that share a place in the sample the one that is hit most stays.
    for (key, hits) in [("7", 10_000), ("8", 1_000), ("9", 1_000), ("cold", 0)] {
        teller.value(&one, key, 70).await;
        (0..hits).for_each(|_| assert_eq!(one.get(key), Some(70)));
    }
    trips().await;
    let snapshot = one.hot_keys(8);
    assert_eq!(snapshot.first(), Some(&Bytes::from_static(b"7")), "the hottest first");
    let hot: Vec<String> = snapshot.iter().map(|key| String::decode(key).unwrap()).collect();
    assert!(!hot.iter().any(|key| key == "cold"), "{hot:?}");

    let (other, _) = node(&site, Policy::default()).await;
    let done = other.warm(stream::iter(hot.clone()), Pace::default(), numbers, |_| {}).await;
    assert_eq!((done.found, done.failed), (hot.len() as u64, 0));
    assert!(hot.iter().all(|key| other.get(key.as_str()) == Some(70)));
    assert_eq!((other.stats().loads, other.stats().tiers[0].hits), (0, done.found));
}
