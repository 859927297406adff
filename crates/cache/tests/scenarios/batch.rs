//! Reads of many keys, and single flight over single and many.

use std::sync::{Arc, Mutex};

use paystrata_cache::{
    Cache, CacheError, Clock, Load, LoadContext, Origin, Pace, Policy, Version, testkit::Site,
};
use tokio::time::advance;

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, node, settle, trips};

/// Loads a key's own number, and fails for those that say so; notes what it was asked.
async fn read_many(
    cache: &Numbers,
    keys: &[String],
    asked: &Arc<Mutex<Vec<Vec<String>>>>,
) -> Vec<Result<Option<u64>, CacheError<Broken>>> {
    let asked = Arc::clone(asked);
    let load = move |keys: Vec<String>, _: LoadContext<u64>| {
        asked.lock().unwrap().push(keys.clone());
        let tell = |key: &String| if key == "107" { Err(Broken) } else { Ok(key.parse::<u64>().ok()) };
        let answers: Vec<Result<Option<u64>, Broken>> = keys.iter().map(tell).collect();
        async move { Ok(answers) }
    };
    cache.get_or_load_many(keys.iter().map(String::as_str), load).await
}

// T73
#[tokio::test(start_paused = true)]
async fn batch_takes_each_key_from_the_nearest_place_with_one_look_one_claim_and_one_load() {
    let site = Site::new(1);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    for key in 10..100 {
        teller.value(&one, &key.to_string(), key).await;
    }
    trips().await;
    for key in 40..100 {
        teller.value(&other, &key.to_string(), key).await;
    }
    trips().await;
    let trips_before = other.stats().tiers[0].round_trips;
    let (asked, keys) = (Arc::default(), (10..110_u64).map(|key| key.to_string()).collect::<Vec<_>>());
    let answers = read_many(&other, &keys, &asked).await;
    for (key, answer) in (10..110_u64).zip(&answers) {
        match key {
            107 => assert!(matches!(answer, Err(CacheError::Load(_)))),
            _ => assert_eq!(answer.as_ref().unwrap(), &Some(key)),
        }
    }
    assert_eq!(answers.len(), 100);
    assert_eq!(*asked.lock().unwrap(), [(100..110_u64).map(|key| key.to_string()).collect::<Vec<_>>()]);
    let trips_made = other.stats().tiers[0].round_trips - trips_before;
    assert_eq!(trips_made, 2, "before the load one look for all, and one claim on what nobody has");
}

// T74
#[tokio::test(start_paused = true)]
async fn key_that_is_named_thrice_is_looked_up_once() {
    let (cache, asked) = (alone(Policy::default()), Arc::default());
    let keys = ["1", "2", "1", "1"].map(str::to_owned);
    let answers = read_many(&cache, &keys, &asked).await;
    let values: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().unwrap()).collect();
    assert_eq!(values, [1, 2, 1, 1]);
    assert_eq!(*asked.lock().unwrap(), [["1", "2"]]);
}

// T2
#[tokio::test(start_paused = true)]
async fn batch_and_single_reads_share_their_loads() {
    let (cache, gate, asked) = (alone(Policy::default()), Gate::default(), Arc::default());
    let single = gate.read(&cache, "1", Ok(Some(1)));
    gate.begun.notified().await;
    let batch = tokio::spawn({
        let (cache, asked) = (cache.clone(), Arc::clone(&asked));
        async move { read_many(&cache, &["1", "2"].map(str::to_owned), &asked).await }
    });
    settle().await;
    gate.go.notify_one();
    assert_eq!(single.await.unwrap().unwrap().value, Some(1));
    assert_eq!(batch.await.unwrap().len(), 2);
    assert_eq!((gate.calls(), asked.lock().unwrap().clone()), (1, vec![vec!["2".to_owned()]]));
}

// T2
#[tokio::test(start_paused = true)]
async fn reads_of_every_kind_of_a_cold_key_cause_one_load() {
    let (cache, gate, asked) = (alone(Policy::default()), Gate::default(), Arc::default());
    let first = gate.read(&cache, "1", Ok(Some(1)));
    gate.begun.notified().await;
    let mut readers = Vec::new();
    for _ in 0..300 {
        assert_eq!(cache.get("1"), None, "who cannot wait is told so");
        let (single, plain) = (gate.read(&cache, "1", Ok(Some(1))), cache.clone());
        readers.push(tokio::spawn(async move { single.await.unwrap().unwrap().value }));
        readers.push(tokio::spawn(async move { plain.read("1").await.and_then(|loaded| loaded.value) }));
        let (batch, asked) = (cache.clone(), Arc::clone(&asked));
        readers.push(tokio::spawn(async move {
            read_many(&batch, &["1".to_owned()], &asked).await.remove(0).unwrap()
        }));
    }
    settle().await;
    gate.go.notify_one();
    assert_eq!(first.await.unwrap().unwrap().value, Some(1));
    for reader in readers {
        assert_eq!(reader.await.unwrap(), Some(1));
    }
    assert_eq!((gate.calls(), asked.lock().unwrap().len(), cache.stats().loads), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn key_that_only_batches_read_is_loaded_anew_ahead_of_its_end() {
    let policy = Policy { ttl: 10 * SECOND, l1_ttl: 10 * SECOND, refresh_at: 0.8, ..Policy::default() };
    let (cache, asked, teller) = (alone(policy), Arc::default(), Teller::default());
    // What the loader of the batch does not say.
    teller.value(&cache, "1", 10).await;
    advance(9 * SECOND).await;
    teller.value(&cache, "2", 20).await;
    let keys = ["1", "2"].map(str::to_owned);
    let read =
        async || read_many(&cache, &keys, &asked).await.into_iter().map(|answer| answer.unwrap().unwrap());
    assert_eq!(read().await.collect::<Vec<_>>(), [10, 20], "served as they are");
    settle().await;
    assert_eq!(read().await.collect::<Vec<_>>(), [1, 20]);
    assert_eq!(*asked.lock().unwrap(), [["1"]], "once, and only what was due");
    assert_eq!(cache.stats().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn batch_that_finds_no_room_for_a_load_still_joins_and_falls_back() {
    let policy =
        Policy { loads_max: 1, loads_queued_max: 0, ttl: SECOND, grace: 60 * SECOND, ..Policy::default() };
    let (cache, gate, asked) = (alone(policy), Gate::default(), Arc::default());
    Teller::default().value(&cache, "3", 30).await;
    advance(2 * SECOND).await;
    let single = gate.read(&cache, "1", Ok(Some(1)));
    gate.begun.notified().await;
    let batch = tokio::spawn({
        let (cache, asked) = (cache.clone(), Arc::clone(&asked));
        async move { read_many(&cache, &["1", "2", "3"].map(str::to_owned), &asked).await }
    });
    settle().await;
    gate.go.notify_one();
    single.await.unwrap().unwrap();
    let answers = batch.await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap(), &Some(1), "joined");
    assert!(matches!(answers[1], Err(CacheError::Overloaded)), "{:?}", answers[1]);
    assert_eq!(answers[2].as_ref().unwrap(), &Some(30), "a fallback");
    assert_eq!(asked.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_batch_tell_where_they_come_from_and_whether_they_are_stale() {
    let policy = Policy { ttl: SECOND, grace: 60 * SECOND, grace_backoff: 10 * SECOND, ..Policy::default() };
    let (cache, teller) = (alone(policy), Teller::default());
    teller.value(&cache, "old", 1).await;
    advance(2 * SECOND).await;
    teller.value(&cache, "new", 2).await;
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        let tell = |key: &String| if key == "old" { Err(Broken) } else { Ok(Some(3_u64)) };
        Ok::<Vec<Result<Option<u64>, Broken>>, Broken>(keys.iter().map(tell).collect())
    };
    let found = cache.get_or_load_many_entries(["old", "new", "next", "old"], load).await;
    let found: Vec<_> = found.into_iter().map(|loaded| loaded.unwrap()).collect();
    let told = found.iter().map(|loaded| (loaded.value, loaded.origin, loaded.is_stale)).collect::<Vec<_>>();
    let old = (Some(1), Origin::Local, true);
    assert_eq!(told, [old, (Some(2), Origin::Local, false), (Some(3), Origin::Loader, false), old]);
    assert!(found[0].age >= 2 * SECOND && found[1].age < SECOND, "{found:?}");
}

// T38
#[tokio::test(start_paused = true)]
async fn member_of_a_batch_that_a_removal_overtakes_is_not_stored_and_the_others_are() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let reader = tokio::spawn({
        let (cache, gate) = (cache.clone(), gate.clone());
        let load = move |keys: Vec<String>, _: LoadContext<u64>| {
            let gate = gate.clone();
            async move {
                gate.pass(Ok(None)).await?;
                Ok::<_, Broken>(keys.iter().map(|key| Ok(key.parse::<u64>().ok())).collect::<Vec<_>>())
            }
        };
        async move { cache.get_or_load_many(["1", "2", "3"], load).await }
    });
    gate.begun.notified().await;
    drop(cache.invalidate_many(["2"], Version(5)));
    gate.go.notify_one();
    let answers: Vec<_> = reader.await.unwrap().into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(answers, [Some(1), Some(2), Some(3)], "who came before may see it");
    assert_eq!(cache.get_many(["1", "2", "3"]), [Some(1), None, Some(3)]);
    assert_eq!(cache.stats().refused_stale_sets, 1);
}

// T38
#[tokio::test(start_paused = true)]
async fn record_that_a_removal_overtakes_on_its_way_to_a_batch_is_not_stored() {
    let site = Site::new(3);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let (teller, asked) = (Teller::default(), Arc::default());
    let keys: Vec<String> = (0..20_u64).map(|key| key.to_string()).collect();
    for key in 0..20 {
        teller.value(&one, &key.to_string(), 100 + key).await;
    }
    trips().await;
    let batch = tokio::spawn({
        let (other, keys, asked) = (other.clone(), keys.clone(), Arc::clone(&asked));
        async move { read_many(&other, &keys, &asked).await }
    });
    // The look is on its way.
    settle().await;
    drop(other.invalidate("3"));
    let answers: Vec<_> = batch.await.unwrap().into_iter().map(|answer| answer.unwrap()).collect();
    assert_eq!(answers, (100..120).map(Some).collect::<Vec<_>>(), "who came before may see it");
    assert_eq!(other.get("3"), None);
    // But for those that share its shard by chance.
    let stored = other.get_many(keys.iter().map(String::as_str)).into_iter().flatten().count();
    assert!(stored >= 10, "{stored}");
}

// T49, H9
#[tokio::test(start_paused = true)]
async fn tags_of_a_thousand_entries_cost_no_trip_of_their_own() {
    let site = Site::new(4);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let keys: Vec<String> = (0..1_000).map(|key| key.to_string()).collect();
    let load = |keys: Vec<String>, context: LoadContext<u64>| async move {
        for tag in 0..8 {
            context.tag(format!("tag {tag}"));
        }
        Ok::<_, Broken>(keys.iter().map(|key| Ok(key.parse::<u64>().ok())).collect::<Vec<_>>())
    };
    one.get_or_load_many(keys.iter().map(String::as_str), load).await;
    trips().await;
    let before = other.stats().tiers[0].round_trips;
    let asked = Arc::default();
    let found = read_many(&other, &keys, &asked).await;
    assert!((0..).zip(found).all(|(key, found)| found.unwrap() == Some(key)));
    assert_eq!(asked.lock().unwrap().len(), 0);
    // 512 keys to a call.
    assert_eq!(other.stats().tiers[0].round_trips, before + 2);
    one.tag("tag 5").remove().await;
    trips().await;
    assert_eq!(other.get_many(keys.iter().map(String::as_str)), vec![None; 1_000]);
    assert_eq!(other.stats().tiers[0].round_trips, before + 2);
}

// T8, H19
#[tokio::test(start_paused = true)]
async fn slow_load_holds_up_no_other_key() {
    let (cache, gate, teller) = (alone(Policy::default()), Gate::default(), Teller::default());
    let slow = gate.read(&cache, "slow", Ok(Some(1)));
    gate.begun.notified().await;
    // Many more than there are shards of whatever kind.
    for key in 0..2_000 {
        assert_eq!(teller.value(&cache, &key.to_string(), key).await, key);
        assert_eq!(cache.get(&key.to_string()), Some(key));
        drop(cache.invalidate(&key.to_string()));
    }
    assert!(!slow.is_finished());
    gate.go.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().value, Some(1));
}

// T7, H20
#[tokio::test(start_paused = true)]
async fn readers_with_a_loader_join_a_read_without_one_and_load_once() {
    let site = Site::new(2);
    let ((cache, _), teller) = (node(&site, Policy::default()).await, Teller::default());
    let plain = tokio::spawn({
        let cache = cache.clone();
        async move { cache.read("k").await }
    });
    settle().await;
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let (cache, teller) = (cache.clone(), teller.clone());
            tokio::spawn(async move { teller.value(&cache, "k", 1).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 1);
    }
    assert!(plain.await.unwrap().is_none_or(|loaded| loaded.value == Some(1)));
    assert_eq!(teller.calls(), 1);
}

// H14: whoever leads goes away while it asks the tiers; the next one takes over.
#[tokio::test(start_paused = true)]
async fn leader_that_goes_away_during_the_read_of_a_tier_hands_over() {
    let site = Site::new(3);
    let ((cache, _), teller) = (node(&site, Policy::default()).await, Teller::default());
    let reader = |teller: &Teller| {
        let (cache, teller) = (cache.clone(), teller.clone());
        tokio::spawn(async move { teller.value(&cache, "k", 1).await })
    };
    let leader = reader(&teller);
    settle().await;
    let others: Vec<_> = (0..10).map(|_| reader(&teller)).collect();
    settle().await;
    leader.abort();
    for other in others {
        assert_eq!(other.await.unwrap(), 1);
    }
    assert_eq!(teller.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn warming_loads_in_paced_batches_and_hot_keys_are_found_again() {
    let cache = alone(Policy::default());
    let keys = futures_util::stream::iter((0..200_u64).map(|key| key.to_string()));
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        Ok::<_, Broken>(keys.iter().map(|key| Ok(key.parse::<u64>().ok())).collect::<Vec<_>>())
    };
    let begun = tokio::time::Instant::now();
    let mut told = Vec::new();
    let pace = Pace { batch: 50, every: std::time::Duration::from_millis(100) };
    let done = cache.warm(keys, pace, load, |progress| told.push(progress.keys)).await;
    assert_eq!((told, done.found, begun.elapsed().as_millis()), (vec![50, 100, 150, 200], 200, 300));
    for _ in 0..10_000 {
        assert_eq!(cache.get("7"), Some(7));
    }
    assert_eq!(cache.hot_keys(1), [bytes::Bytes::from_static(b"7")]);
}

#[tokio::test(start_paused = true)]
async fn value_at_which_the_weigher_panics_is_given_and_not_kept() {
    let weigher = |_: &String, value: &u64| {
        assert_ne!(*value, 13, "on purpose");
        8
    };
    let cache = Cache::builder("numbers").clock(Clock::tokio()).weigher(weigher).build();
    let (asked, keys) = (Arc::default(), ["1", "13"].map(str::to_owned));
    let answers = read_many(&cache, &keys, &asked).await;
    assert_eq!(
        answers.iter().map(|answer| *answer.as_ref().unwrap()).collect::<Vec<_>>(),
        [Some(1), Some(13)]
    );
    assert_eq!(asked.lock().unwrap().len(), 1, "loaded once");
    assert_eq!(cache.get_many(["1", "13"]), [Some(1), None]);
    assert_eq!(cache.stats().oversize, 1);
}

#[tokio::test(start_paused = true)]
async fn many_keys_are_read_without_a_loader_in_one_trip_and_join_what_is_under_way() {
    let site = Site::new(31);
    let (one, _) = node(&site, Policy::default()).await;
    for (key, value) in [("a", 1), ("b", 2)] {
        Teller::default().value(&one, key, value).await;
    }
    let none = Teller::default().read(&one, "gone", Ok(None)).await.unwrap();
    assert_eq!(none.value, None);
    trips().await;
    let (cache, _) = node(&site, Policy::default()).await;
    let gate = Gate::default();
    let loading = gate.read(&cache, "loading", Ok(Some(5)));
    gate.begun.notified().await;
    let trips_before = cache.stats().tiers[0].round_trips;
    let reading = tokio::spawn({
        let cache = cache.clone();
        async move { cache.read_many(["a", "nobody's", "loading", "b", "a", "gone"]).await }
    });
    trips().await;
    assert_eq!(cache.stats().tiers[0].round_trips, trips_before + 1);
    gate.go.notify_one();
    loading.await.unwrap().unwrap();
    let read = reading.await.unwrap();
    let values: Vec<_> = read.iter().map(|read| read.as_ref().map(|read| read.value)).collect();
    assert_eq!(values, [Some(Some(1)), None, Some(Some(5)), Some(Some(2)), Some(Some(1)), Some(None)]);
    assert_eq!(cache.get("a"), Some(1), "what was found is kept");
    assert_eq!(cache.read_many(Vec::<&str>::new()).await, []);
    assert_eq!(Teller::default().value(&cache, "nobody's", 9).await, 9, "and nobody is kept from loading");
}

// T35, T36 over batches
#[tokio::test(start_paused = true)]
async fn loader_of_a_batch_is_shown_what_is_there_of_each_key_and_says_of_each_what_holds_for_it() {
    let cache = alone(Policy { grace: 60 * SECOND, ttl: SECOND, l1_ttl: SECOND, ..Policy::default() });
    let first = |keys: Vec<String>, context: LoadContext<u64>| async move {
        for (place, key) in keys.iter().enumerate() {
            assert_eq!(context.of(place).stale(), None);
            context.of(place).validator(format!("etag of {key}")).tag(key);
        }
        Ok::<_, Broken>(vec![Ok(Some(1)), Ok(Some(2)), Ok(Some(3))])
    };
    cache.get_or_load_many(["a", "b", "c"], first).await;
    drop(cache.tag("c").remove());
    assert_eq!(cache.get_many(["a", "b", "c"]), [Some(1), Some(2), None]);
    advance(SECOND).await;
    let second = |keys: Vec<String>, context: LoadContext<u64>| async move {
        assert_eq!(context.stale(), None, "there is more than one");
        let answer = |place: usize| {
            let context = context.of(place);
            let stale = context.stale()?;
            assert_eq!(stale.validator.as_deref(), Some(format!("etag of {}", keys[place]).as_str()));
            Some(if stale.value == 1 { Load::NotModified } else { Load::Found(20) })
        };
        let answers = (0..keys.len()).map(|place| Ok(answer(place).unwrap_or(Load::Found(30))));
        Ok::<_, Broken>(answers.collect())
    };
    let found = cache.get_or_load_many(["a", "b", "c"], second).await;
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, [Some(1), Some(20), Some(30)]);
    assert_eq!(cache.stats().load_unmodified, 1);
    drop(cache.tag("a").remove());
    assert_eq!(cache.get_many(["a", "b", "c"]), [None, Some(20), Some(30)], "unchanged, it kept its tag");
}
