//! Claims whose holders die, claims over what will not do, and values whose codec is not serde's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use paystrata_cache::{
    Cache, Clock, LoadContext, Origin, Policy, TierOptions,
    codec::{Codec, Encoding, EncodingError, Schema},
    testkit::{Link, Site},
};
use tokio::time::sleep;

use crate::kit::{Broken, Gate, SECOND, Teller, node, node_over_two, trips, wait_for};

/// A value that has run out is claimed over by somebody who dies: within its grace it is there for the others, while
/// the claim stands and after it has run out.
#[tokio::test(start_paused = true)]
async fn fallback_outlives_the_claim_of_a_node_that_died_with_it() {
    let site = Site::new(1);
    let policy = || Policy {
        ttl: 10 * SECOND,
        l1_ttl: 10 * SECOND,
        grace: 600 * SECOND,
        load_timeout: SECOND,
        lease_wait: Duration::ZERO,
        ..Policy::default()
    };
    let ((doomed, link), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    Teller::default().value(&doomed, "k", 1).await;
    sleep(11 * SECOND).await;
    let gate = Gate::default();
    let reader = gate.read(&doomed, "k", Ok(Some(2)));
    gate.begun.notified().await;
    // It can tell nobody that it gives the claim back.
    link.faults.set_down(true);
    reader.abort();
    drop(doomed);

    let teller = Teller::default();
    let held = teller.read(&other, "k", Ok(Some(3))).await.unwrap();
    assert_eq!((held.value, held.is_stale, teller.calls()), (Some(1), true, 0), "while it is held");
    sleep(60 * SECOND).await;
    let failed = teller.read(&other, "k", Err(Broken)).await.unwrap();
    assert_eq!((failed.value, failed.is_stale, teller.calls()), (Some(1), true, 1), "when it has run out");
    sleep(60 * SECOND).await;
    assert_eq!(teller.value(&other, "k", 3).await, 3);
    trips().await;
    let (late, _) = node(&site, policy()).await;
    assert_eq!(Teller::default().value(&late, "k", 4).await, 3);
}

/// Refreshed at eight tenths of ten seconds, and then there is no grace.
fn eager() -> Policy {
    Policy { ttl: 10 * SECOND, l1_ttl: 10 * SECOND, refresh_at: 0.8, lease_wait: SECOND, ..Policy::default() }
}

/// H11: a node that loads ahead of time takes the value from nobody, and nobody else loads it meanwhile.
#[tokio::test(start_paused = true)]
async fn value_that_one_node_loads_ahead_is_there_for_the_others_meanwhile() {
    let site = Site::new(3);
    let ((one, _), (other, _)) = (node(&site, eager()).await, node(&site, eager()).await);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    sleep(8 * SECOND).await;
    let gate = Gate::default();
    assert_eq!(gate.read(&one, "k", Ok(Some(2))).await.unwrap().unwrap().value, Some(1));
    gate.begun.notified().await;

    let teller = Teller::default();
    let begun = tokio::time::Instant::now();
    let met = teller.read(&other, "k", Ok(Some(3))).await.unwrap();
    assert_eq!((met.value, met.is_stale, met.origin), (Some(1), false, Origin::Tier(0)));
    assert!(begun.elapsed() < SECOND / 2, "nobody waits for it");
    let (third, _) = node(&site, eager()).await;
    let load =
        |_: Vec<String>, _: LoadContext<u64>| async { Ok::<_, Broken>(vec![Ok::<_, Broken>(Some(5))]) };
    let batch = third.get_or_load_many(["k"], load).await;
    assert_eq!((batch[0].as_ref().unwrap(), teller.calls()), (&Some(1), 0));
    gate.go.notify_one();
    trips().await;
    let (late, _) = node(&site, eager()).await;
    assert_eq!((teller.value(&late, "k", 4).await, teller.calls()), (2, 0));
}

/// A load ahead of time that fails, or whose node dies, takes nothing from anybody.
#[tokio::test(start_paused = true)]
async fn value_outlives_a_load_ahead_that_failed() {
    let site = Site::new(4);
    let policy = || Policy { ttl: 100 * SECOND, l1_ttl: 100 * SECOND, ..eager() };
    let ((one, _), (other, others_link)) = (node(&site, policy()).await, node(&site, policy()).await);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    sleep(80 * SECOND).await;
    let failing = Teller::default();
    failing.read(&one, "k", Err(Broken)).await.unwrap();
    trips().await;
    assert_eq!(failing.calls(), 1);
    let teller = Teller::default();
    assert_eq!((teller.value(&other, "k", 3).await, teller.calls()), (1, 0));

    // Its copy has a fifth of the life left, and is due after four fifths of that.
    sleep(16 * SECOND).await;
    let gate = Gate::default();
    gate.read(&other, "k", Ok(Some(2))).await.unwrap().unwrap();
    gate.begun.notified().await;
    // It can tell nobody that it gives the claim back.
    others_link.faults.set_down(true);
    drop(other);
    let (late, _) = node(&site, policy()).await;
    assert_eq!((teller.value(&late, "k", 4).await, teller.calls()), (1, 0));
}

/// H11: a node that falls due after another has refreshed takes what that one has stored.
#[tokio::test(start_paused = true)]
async fn nodes_that_fall_due_one_after_the_other_load_once() {
    let site = Site::new(6);
    let ((one, _), (other, _)) = (node(&site, eager()).await, node(&site, eager()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    trips().await;
    sleep(SECOND).await;
    assert_eq!((teller.value(&other, "k", 1).await, teller.calls()), (1, 1));
    sleep(7 * SECOND).await;
    assert_eq!(teller.value(&one, "k", 2).await, 1);
    trips().await;
    assert_eq!((one.get("k"), teller.calls()), (Some(2), 2));
    sleep(SECOND).await;
    assert_eq!(teller.value(&other, "k", 3).await, 1);
    trips().await;
    assert_eq!((other.get("k"), teller.calls()), (Some(2), 2));
}

/// What was found to be gone is not left as a value because it could not be stored.
#[tokio::test(start_paused = true)]
async fn value_that_a_load_ahead_found_gone_is_read_by_nobody() {
    let site = Site::new(5);
    let policy = || Policy { negative_ttl: Duration::ZERO, ..eager() };
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    sleep(8 * SECOND).await;
    Teller::default().read(&one, "k", Ok(None)).await.unwrap();
    trips().await;
    let teller = Teller::default();
    assert_eq!(teller.read(&other, "k", Ok(None)).await.unwrap().value, None);
    assert_eq!(teller.calls(), 1);
}

/// Of two nodes that find a record void at the same time one loads, and the other takes what that one has stored.
#[tokio::test(start_paused = true)]
async fn who_waits_for_the_load_of_a_void_record_takes_what_was_loaded_and_does_not_claim_over_it() {
    let (site, calls) = (Site::new(14), Arc::new(AtomicUsize::new(0)));
    let policy = || Policy { lease_wait: SECOND, ..Policy::default() };
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    let keys: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    for key in &keys {
        Teller::default().value(&one, key, 1).await;
    }
    trips().await;
    one.clear().await;
    trips().await;
    let reads = keys.iter().flat_map(|key| [(&one, key), (&other, key)]).map(|(cache, key)| {
        let calls = Arc::clone(&calls);
        // Longer than it takes the other node to look and to claim.
        let load = move |_: LoadContext<u64>| async move {
            calls.fetch_add(1, SeqCst);
            sleep(Duration::from_millis(50)).await;
            Ok::<_, Broken>(Some(2_u64))
        };
        cache.get_or_load(key.as_str(), load)
    });
    for value in join_all(reads).await {
        assert_eq!(value.unwrap(), Some(2));
    }
    assert_eq!(calls.load(SeqCst), keys.len(), "one load of each key in the fleet");
}

/// What will not do in the first tier says nothing of the second, whatever becomes of the claim.
#[tokio::test(start_paused = true)]
async fn value_of_the_next_tier_is_not_claimed_over_for_what_the_first_one_has() {
    let (near, far) = (Site::new(15), Site::new(16));
    let (first, ..) = node_over_two(&near, &far, impatient()).await;
    let keys: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    for key in &keys {
        Teller::default().value(&first, key, 1).await;
    }
    trips().await;
    near.shelf.poison("numbers", &Bytes::from_static(b"garbage"));
    let (late, link, _) = node_over_two(&near, &far, impatient()).await;
    // Of some keys the look is answered, and the claim over what was found is not.
    link.faults.lose_answers(50);
    let teller = Teller::default();
    for key in &keys {
        assert_eq!(teller.value(&late, key, 2).await, 1);
        // Its breaker may be open by then.
        sleep(SECOND).await;
    }
    assert_eq!(teller.calls(), 0);
}

/// Nothing that serde could make anything of.
#[derive(Debug, Clone, PartialEq)]
struct Opaque(u8);

#[derive(Debug)]
struct OneByte;

impl Encoding<Opaque> for OneByte {
    fn encode(&self, value: &Opaque, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        out.push(value.0);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Option<Opaque> {
        match bytes {
            [byte] => Some(Opaque(*byte)),
            _ => None,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn values_that_are_not_serializable_are_shared_with_a_codec_of_ones_own() {
    let site = Site::new(2);
    let node = || {
        let link = Arc::new(site.link());
        let codec = Codec::custom(Schema::named("opaque", 1), OneByte);
        let cache: Cache<u64, Opaque> = Cache::builder("opaque")
            .clock(Clock::tokio())
            .tier_with_codec(Arc::<Link>::clone(&link), TierOptions::default(), codec)
            .backplane(link)
            .try_build()
            .unwrap();
        cache
    };
    let (one, other) = (node(), node());
    wait_for(|| [&one, &other].iter().all(|cache| cache.stats().backplane_silence.is_some())).await;
    one.get_or_load(&7, |_| async { Ok::<_, Broken>(Some(Opaque(42))) }).await.unwrap();
    trips().await;
    let found = other.read(&7).await.unwrap();
    assert_eq!((found.value, found.origin), (Some(Opaque(42)), Origin::Tier(0)));
}

/// Nobody waits for a claim that somebody else holds, or loads past it without storing anything.
fn impatient() -> Policy {
    Policy { lease_wait: Duration::ZERO, ..Policy::default() }
}

/// Asserts that `key` can be claimed: what is loaded now is in the tier afterwards.
async fn assert_free(site: &Site, key: &str) {
    let ((loading, _), (late, _)) = (node(site, impatient()).await, node(site, impatient()).await);
    Teller::default().value(&loading, key, 2).await;
    trips().await;
    let teller = Teller::default();
    let found = teller.value(&late, key, 3).await;
    assert_eq!((found, teller.calls()), (2, 0), "{key} was claimed by somebody who does not load it");
}

/// A claim whose answer never came may stand. Once the load has ended nobody has a use for it.
#[tokio::test(start_paused = true)]
async fn claim_whose_answer_was_lost_is_given_back_after_the_load() {
    let site = Site::new(11);
    let (reader, link) = node(&site, impatient()).await;
    link.faults.lose_answers(100);
    assert_eq!(Teller::default().value(&reader, "one", 1).await, 1);
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        Ok::<_, Broken>(keys.iter().map(|_| Ok::<_, Broken>(Some(1))).collect())
    };
    // One by one: of several keys together the tier is asked first without a claim, and left alone when that fails.
    for key in ["two", "three"] {
        assert!(reader.get_or_load_many([key], load).await.iter().all(Result::is_ok));
    }
    trips().await;
    for key in ["one", "two", "three"] {
        assert_free(&site, key).await;
    }
}

/// A reader that goes away while its claim is on its way, at any moment of the trip.
#[tokio::test(start_paused = true)]
async fn claim_of_a_reader_that_went_away_before_its_answer_is_given_back() {
    let site = Site::new(12);
    let (reader, link) = node(&site, impatient()).await;
    link.faults.delay(Duration::from_millis(20));
    let moments = || (1..40).map(|moment| (Duration::from_millis(moment), format!("k{moment}")));
    for (moment, key) in moments() {
        let gate = Gate::default();
        // If it gets as far as to load, its load goes on without it, and fails.
        let reading = gate.read(&reader, &key, Err(Broken));
        sleep(moment).await;
        reading.abort();
        gate.go.notify_one();
    }
    trips().await;
    for (_, key) in moments() {
        assert_free(&site, &key).await;
    }
}
