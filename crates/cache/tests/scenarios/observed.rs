//! What an observer is told, each event in a situation that causes it and not before; under the name of the cache.

use std::sync::{Arc, Mutex};

use paystrata_cache::{
    Cache, CacheBuilder, Clock, LoadContext, Observer, Policy, TierOptions, Version,
    codec::CodecError,
    testkit::{Link, Site},
};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, exact, settle, trips, wait_for};

/// Writes down what it is told, in the order in which it is told.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    fn note(&self, event: String) {
        self.0.lock().unwrap().push(event);
    }

    /// What was told since this was called last.
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Recorder {
    fn stale_set_refused(&self, cache: &str) {
        self.note(format!("stale_set_refused {cache}"));
    }

    fn tier_failed(&self, cache: &str, kind: &'static str) {
        self.note(format!("tier_failed {cache} {kind}"));
    }

    fn tier_opened(&self, cache: &str, kind: &'static str) {
        self.note(format!("tier_opened {cache} {kind}"));
    }

    fn tier_closed(&self, cache: &str, kind: &'static str) {
        self.note(format!("tier_closed {cache} {kind}"));
    }

    fn unstorable(&self, cache: &str, error: &CodecError) {
        self.note(format!("unstorable {cache} {error:?}"));
    }

    fn stale_served(&self, cache: &str) {
        self.note(format!("stale_served {cache}"));
    }

    fn pending_lost(&self, cache: &str, changes: usize) {
        self.note(format!("pending_lost {cache} {changes}"));
    }

    fn pending_overflowed(&self, cache: &str) {
        self.note(format!("pending_overflowed {cache}"));
    }
}

const NOTHING: [&str; 0] = [];

/// A cache in the making, and who listens to it.
fn observed(policy: Policy) -> (CacheBuilder<String, u64>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let builder = Cache::builder("observed").policy(exact(policy)).clock(Clock::tokio());
    (builder.observer(Arc::<Recorder>::clone(&recorder)), recorder)
}

#[tokio::test(start_paused = true)]
async fn value_that_was_overtaken_is_told_when_it_is_refused() {
    let (builder, recorder) = observed(Policy::default());
    let (cache, gate) = (builder.build(), Gate::default());
    Teller::default().value(&cache, "stored", 1).await;
    let early = gate.read(&cache, "k", Ok(Some(1)));
    gate.begun.notified().await;
    drop(cache.invalidate("k"));
    settle().await;
    assert_eq!(recorder.taken(), NOTHING);
    gate.go.notify_one();
    early.await.unwrap().unwrap();
    assert_eq!(recorder.taken(), ["stale_set_refused observed"]);
    // One that is set, and older than what is known.
    drop(cache.invalidate_many(["set"], Version(5)));
    assert!(cache.set("set".to_owned(), 1, Version(6)).is_ok());
    assert_eq!(recorder.taken(), NOTHING);
    assert!(cache.set("set".to_owned(), 1, Version(4)).is_err());
    assert_eq!(recorder.taken(), ["stale_set_refused observed"]);
    assert_eq!(cache.stats().refused_stale_sets, 2);
}

#[tokio::test(start_paused = true)]
async fn tier_that_fails_is_told_each_time_and_that_it_is_left_alone_and_asked_again_once() {
    let link = Site::new(81).link();
    let options = TierOptions { breaker_failures: 3, breaker_pause: SECOND, ..TierOptions::default() };
    let (builder, recorder) = observed(Policy::default());
    let cache: Numbers = builder.tier_with(Arc::new(link.clone()), options).build();
    let teller = Teller::default();
    teller.value(&cache, "well", 1).await;
    trips().await;
    assert_eq!(recorder.taken(), NOTHING);
    // The read fails, and so does the call that gives back the claim it may have left.
    link.faults.lose_answers(100);
    teller.value(&cache, "first", 1).await;
    trips().await;
    assert_eq!(recorder.taken(), ["tier_failed observed memory"]);
    teller.value(&cache, "second", 1).await;
    trips().await;
    assert_eq!(recorder.taken(), ["tier_opened observed memory", "tier_failed observed memory"]);
    // Who does not ask is not failed.
    teller.value(&cache, "meanwhile", 1).await;
    trips().await;
    link.faults.lose_answers(0);
    sleep(2 * SECOND).await;
    assert_eq!(recorder.taken(), NOTHING);
    teller.value(&cache, "third", 1).await;
    assert_eq!(recorder.taken(), ["tier_closed observed memory"]);
    teller.value(&cache, "fourth", 1).await;
    trips().await;
    assert_eq!(recorder.taken(), NOTHING);
    assert_eq!(teller.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn tier_that_fails_for_some_keys_of_a_call_is_told_to_have_failed() {
    let link = Site::new(82).link();
    let (builder, recorder) = observed(Policy { l1_ttl: SECOND, ..Policy::default() });
    let cache: Numbers = builder.tier(Arc::new(link.clone())).build();
    let keys: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        Ok::<_, Broken>(vec![Ok::<_, Broken>(Some(1_u64)); keys.len()])
    };
    let loaded = cache.get_or_load_many(keys.iter().map(String::as_str), load).await;
    assert!(loaded.iter().all(Result::is_ok), "{loaded:?}");
    sleep(2 * SECOND).await;
    assert_eq!(recorder.taken(), NOTHING);
    link.faults.set_part_down(50);
    let loaded = cache.get_or_load_many(keys.iter().map(String::as_str), load).await;
    assert!(loaded.iter().all(Result::is_ok), "{loaded:?}");
    let told = recorder.taken();
    assert!(!told.is_empty() && told.iter().all(|event| event == "tier_failed observed memory"), "{told:?}");
    let hits = cache.stats().tiers[0].hits;
    assert!((1..40).contains(&hits), "the others were read: {hits}");
}

#[tokio::test(start_paused = true)]
async fn two_tiers_of_a_kind_are_told_apart_by_the_names_they_were_given() {
    let (near, far) = (Site::new(83).link(), Site::new(84).link());
    let named = |name| TierOptions { name: Some(name), ..TierOptions::default() };
    let (builder, recorder) = observed(Policy::default());
    let cache: Numbers = builder
        .tier_with(Arc::new(near), named("near"))
        .tier_with(Arc::new(far.clone()), named("far"))
        .build();
    far.faults.lose_answers(100);
    Teller::default().value(&cache, "k", 1).await;
    trips().await;
    assert_eq!(recorder.taken(), ["tier_failed observed far"]);
    let both = [("near", "memory"), ("far", "memory")];
    assert_eq!(cache.stats().tiers.iter().map(|tier| (tier.name, tier.kind)).collect::<Vec<_>>(), both);
    let explained = cache.explain("k").await;
    assert_eq!(explained.tiers.iter().map(|tier| (tier.name, tier.kind)).collect::<Vec<_>>(), both);
    assert!(explained.to_string().contains("\nfar: timed out"), "{explained}");
    assert_eq!(cache.readiness().to_string(), "near tier up, far tier up");
}

#[tokio::test(start_paused = true)]
async fn value_that_cannot_be_stored_everywhere_is_told_with_the_reason() {
    let (builder, recorder) = observed(Policy::default());
    let cache: Numbers = builder.tier(Arc::new(Site::new(83).link())).build();
    Teller::default().value(&cache, "plain", 1).await;
    trips().await;
    assert_eq!(recorder.taken(), NOTHING);
    let overlong = |context: LoadContext<u64>| async move {
        context.tag("x".repeat(257));
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("overlong", overlong).await.unwrap();
    assert_eq!(recorder.taken(), ["unstorable observed TagTooLong"]);
    let overtagged = |context: LoadContext<u64>| async move {
        (0..65).for_each(|tag| _ = context.tag(format!("{tag}")));
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("overtagged", overtagged).await.unwrap();
    assert_eq!(recorder.taken(), ["unstorable observed TooManyTags"]);
    trips().await;
    assert_eq!(recorder.taken(), NOTHING);
    assert_eq!((cache.get("overlong"), cache.get("overtagged")), (Some(1), None));
    assert_eq!(cache.stats().unstorable, 2);
}

#[tokio::test(start_paused = true)]
async fn fallback_is_told_each_time_it_is_served() {
    let policy = Policy {
        ttl: SECOND,
        l1_ttl: SECOND,
        grace: 60 * SECOND,
        grace_backoff: 10 * SECOND,
        soft_timeout: SECOND / 20,
        ..Policy::default()
    };
    let (builder, recorder) = observed(policy);
    let (cache, teller) = (builder.build(), Teller::default());
    teller.value(&cache, "k", 1).await;
    teller.value(&cache, "k", 1).await;
    advance(SECOND).await;
    assert_eq!(recorder.taken(), NOTHING);
    assert!(teller.read(&cache, "k", Err(Broken)).await.unwrap().is_stale);
    assert_eq!(recorder.taken(), ["stale_served observed"], "the load failed");
    assert!(teller.read(&cache, "k", Ok(Some(2))).await.unwrap().is_stale);
    assert_eq!(recorder.taken(), ["stale_served observed"], "the loader is left alone");
    advance(11 * SECOND).await;
    let gate = Gate::default();
    assert!(gate.read(&cache, "k", Ok(Some(2))).await.unwrap().unwrap().is_stale);
    assert_eq!(recorder.taken(), ["stale_served observed"], "the load is slow");
    gate.go.notify_one();
    settle().await;
    assert_eq!((cache.get("k"), cache.stats().stale), (Some(2), 3));
    assert_eq!(recorder.taken(), NOTHING);
}

#[tokio::test(start_paused = true)]
async fn changes_for_which_there_is_no_room_are_told() {
    let link = Site::new(84).link();
    let (builder, recorder) = observed(Policy::default());
    let cache: Numbers =
        builder.pending_keys_max(4).tier(Arc::new(link.clone())).backplane(Arc::new(link.clone())).build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    link.faults.set_down(true);
    drop(cache.invalidate_many(["a", "b", "c", "d"], Version(5)));
    settle().await;
    // It is pending already, and takes no more room.
    drop(cache.invalidate_many(["a"], Version(6)));
    settle().await;
    assert_eq!(recorder.taken(), NOTHING);
    drop(cache.invalidate_many(["e"], Version(7)));
    assert_eq!(recorder.taken(), ["pending_overflowed observed"]);
    assert_eq!(cache.stats().pending_overflows, 1);
    link.faults.set_down(false);
    wait_for(|| cache.stats().pending_invalidations == 0).await;
    assert_eq!(recorder.taken(), NOTHING);
}

/// A node that nobody hears from now on.
async fn unheard() -> (Numbers, Arc<Recorder>, Link) {
    let link = Site::new(90).link();
    let (builder, recorder) = observed(Policy::default());
    let cache: Numbers = builder.tier(Arc::new(link.clone())).backplane(Arc::new(link.clone())).build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    cache.invalidate_many(["told"], Version(5)).await;
    link.faults.set_down(true);
    (cache, recorder, link)
}

// T78
#[tokio::test(start_paused = true)]
async fn changes_that_nobody_was_told_of_when_the_cache_ends_are_told_to_be_lost_once() {
    let (cache, recorder, _link) = unheard().await;
    let change = |cache: &Numbers| {
        drop(cache.invalidate_many(["a", "b"], Version(6)));
        drop(cache.tag("org:7").remove());
    };
    change(&cache);
    settle().await;
    let another = cache.clone();
    drop(cache);
    assert_eq!(recorder.taken(), NOTHING, "a handle is left");
    drop(another);
    assert_eq!(recorder.taken(), ["pending_lost observed 3"]);

    let (cache, recorder, _link) = unheard().await;
    change(&cache);
    cache.close().await;
    assert_eq!(recorder.taken(), ["pending_lost observed 3"]);
    assert_eq!(cache.stats().pending_invalidations, 3);
    drop(cache);
    assert_eq!(recorder.taken(), NOTHING);

    // Told in time, they are not lost.
    let (cache, recorder, link) = unheard().await;
    change(&cache);
    link.faults.set_down(false);
    cache.close().await;
    drop(cache);
    assert_eq!(recorder.taken(), NOTHING);
}
