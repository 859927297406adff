//! What `Cache::explain` says of a key: how its entry stands here, what each tier has of it, what is under way, and the
//! last sweep over it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paystrata_cache::{
    LastSweep, LoadContext, Policy, Silence, Unusable, Version, testkit::Site, tier::Void,
};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, alone, node, trips, wait_for};

/// Due after 8 seconds, over after 60.
fn graceful() -> Policy {
    Policy {
        ttl: 10 * SECOND,
        l1_ttl: 10 * SECOND,
        grace: 50 * SECOND,
        grace_backoff: 20 * SECOND,
        refresh_at: 0.8,
        ..Policy::default()
    }
}

/// Loads a value of which the loader says all there is to say.
async fn load_told(cache: &Numbers, key: &str) {
    let load = |context: LoadContext<u64>| async move {
        context.version(Version(7)).tag("org:7").validator("etag-7");
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load(key, load).await.unwrap();
}

async fn standing(cache: &Numbers, key: &str) -> Option<&'static str> {
    cache.explain(key).await.local.map(|local| local.standing)
}

/// What the first tier says, and whether its record has a value.
async fn tier_state(cache: &Numbers, key: &str) -> (&'static str, bool) {
    let tier = cache.explain(key).await.tiers.remove(0);
    (tier.state, tier.has_value)
}

#[tokio::test(start_paused = true)]
async fn entry_of_this_node_is_explained_by_how_far_its_life_has_gone() {
    let cache = alone(graceful());
    assert_eq!(standing(&cache, "k").await, None);
    load_told(&cache, "k").await;
    let mut now = 0;
    for (second, standing) in [(0_u32, "fresh"), (7, "fresh"), (9, "due"), (11, "fallback"), (61, "over")] {
        advance((second - now) * SECOND).await;
        now = second;
        let left = |end: u32| end.saturating_sub(second) * SECOND;
        let local = cache.explain("k").await.local.unwrap();
        assert_eq!((local.standing, local.has_value), (standing, true), "at {second} s");
        assert_eq!((local.age, local.remaining, local.grace), (second * SECOND, left(10), left(60)));
        assert_eq!((local.version, local.validator.as_deref()), (Version(7), Some("etag-7")));
        assert_eq!(local.tags, [Arc::<str>::from("org:7")]);
    }
}

#[tokio::test(start_paused = true)]
async fn fallback_whose_load_has_failed_is_explained_as_resting_until_the_loader_is_asked_again() {
    let cache = alone(graceful());
    load_told(&cache, "k").await;
    advance(11 * SECOND).await;
    assert!(Teller::default().read(&cache, "k", Err(Broken)).await.unwrap().is_stale);
    let local = cache.explain("k").await.local.unwrap();
    assert_eq!((local.standing, local.remaining, local.grace), ("resting", 20 * SECOND, 49 * SECOND));
    advance(20 * SECOND).await;
    assert_eq!(standing(&cache, "k").await, Some("fallback"));
}

#[tokio::test(start_paused = true)]
async fn entry_that_was_voided_is_explained_by_what_is_left_of_it() {
    let cache = alone(graceful());
    load_told(&cache, "k").await;
    drop(cache.tag("org:8").remove());
    assert_eq!(standing(&cache, "k").await, Some("fresh"));
    drop(cache.tag("org:7").expire());
    assert_eq!(standing(&cache, "k").await, Some("fallback"));
    drop(cache.tag("org:7").remove());
    assert_eq!(standing(&cache, "k").await, Some("over"));
    drop(cache.invalidate("k"));
    assert_eq!(standing(&cache, "k").await, None);
    Teller::default().read(&cache, "absent", Ok(None)).await.unwrap();
    let absent = cache.explain("absent").await.local.unwrap();
    assert_eq!((absent.standing, absent.has_value), ("fresh", false));
}

#[tokio::test(start_paused = true)]
async fn entry_is_explained_by_what_the_policy_makes_of_a_silent_line() {
    let hour = 3_600 * SECOND;
    for (on_silence, while_silent) in [(Silence::Serve, "unvouched"), (Silence::Refuse, "silent")] {
        let site = Site::new(85);
        let policy = Policy { on_silence, ttl: hour, l1_ttl: hour, ..Policy::default() };
        let (cache, link) = node(&site, policy).await;
        load_told(&cache, "k").await;
        trips().await;
        link.faults.set_down(true);
        assert_eq!(standing(&cache, "k").await, Some("fresh"));
        assert_eq!(tier_state(&cache, "k").await, ("down", false));
        sleep(60 * SECOND).await;
        assert_eq!(standing(&cache, "k").await, Some(while_silent));
        assert_eq!(tier_state(&cache, "k").await, ("not trusted", false), "who hears nothing cannot judge");
        link.faults.set_down(false);
        wait_for(|| cache.stats().backplane_silence.is_some_and(|silence| silence < SECOND)).await;
        assert_eq!(standing(&cache, "k").await, Some("fresh"));
        assert_eq!(tier_state(&cache, "k").await, ("fresh", true));
    }
}

#[tokio::test(start_paused = true)]
async fn record_of_a_tier_is_explained_by_what_it_is_worth() {
    let site = Site::new(86);
    let (cache, link) = node(&site, graceful()).await;
    assert_eq!(tier_state(&cache, "k").await, ("nothing", false));
    load_told(&cache, "k").await;
    trips().await;
    let told = cache.explain("k").await;
    let tier = &told.tiers[0];
    assert_eq!((tier.kind, tier.state, tier.has_value), ("memory", "fresh", true));
    assert_eq!((tier.version, told.tiers.len()), (Version(7), 1));
    assert_eq!(tier.tags, [Arc::<str>::from("org:7")]);
    assert!(
        tier.remaining > 59 * SECOND && tier.remaining <= 60 * SECOND,
        "its grace is part of it: {tier:?}"
    );

    sleep(11 * SECOND).await;
    assert_eq!(tier_state(&cache, "k").await, ("past its lifetime", true));
    cache.tag("org:7").remove().await;
    let told = cache.explain("k").await;
    assert_eq!((told.tiers[0].state, told.local.unwrap().standing), ("swept", "over"));
    assert_eq!(told.swept.unwrap().swath, "tag org:7");
    site.shelf.poison("numbers", &Bytes::from_static(b"garbage"));
    assert_eq!(tier_state(&cache, "k").await, ("unreadable", false));
    link.faults.set_tier_down(true);
    assert_eq!(tier_state(&cache, "k").await, ("down", false));
    link.faults.set_tier_down(false);
    assert_eq!(tier_state(&cache, "k").await, ("unreadable", false));
}

#[tokio::test(start_paused = true)]
async fn record_of_a_tier_that_is_no_use_is_explained_with_the_reason() {
    let site = Site::new(90);
    let (cache, _) = node(&site, graceful()).await;
    let why = async || cache.explain("k").await.tiers.remove(0).why;
    assert_eq!(why().await, None, "it has nothing");
    load_told(&cache, "k").await;
    trips().await;
    assert_eq!(why().await, None, "it is of use");
    let voided = |floor, has_fallback| Some(Unusable::Voided { floor: Version(floor), has_fallback });
    cache.expire_many(["k"], Version(9)).await;
    assert_eq!(why().await, voided(9, true));
    cache.invalidate_many(["k"], Version(10)).await;
    assert_eq!(why().await, voided(10, false));
    let told = cache.explain("k").await.to_string();
    assert!(told.contains("memory: nothing (void, Version(10))"), "{told}");
    let gate = Gate::default();
    let reader = gate.read_tagged(&cache, "k", Ok(Some(2)), "org:7");
    gate.begun.notified().await;
    assert_eq!(why().await, Some(Unusable::Claimed { floor: Version(10), has_fallback: false }));
    gate.go.notify_one();
    reader.await.unwrap().unwrap();
    trips().await;
    assert_eq!(why().await, None);
    sleep(11 * SECOND).await;
    assert_eq!(why().await, Some(Unusable::PastLifetime));
    cache.tag("org:7").remove().await;
    assert_eq!(why().await, Some(Unusable::Swept(Some("tag org:7".to_owned()))));
    let told = cache.explain("k").await.to_string();
    assert!(told.contains("memory: swept") && told.contains("(swept by tag org:7)"), "{told}");
    site.shelf.poison("numbers", &Bytes::from_static(b"garbage"));
    assert!(matches!(why().await, Some(Unusable::Unreadable(_))));
}

#[tokio::test(start_paused = true)]
async fn tags_are_shown_as_they_were_given_though_the_cache_has_other_names_for_some() {
    let site = Site::new(91);
    let (cache, _) = node(&site, graceful()).await;
    let given = ["\0", "\0=a", "\0key:1", "=a"];
    let load = move |context: LoadContext<u64>| async move {
        for tag in given {
            context.tag(tag);
        }
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("k", load).await.unwrap();
    trips().await;
    let shown = given.map(Arc::<str>::from);
    let told = cache.explain("k").await;
    assert_eq!(told.tiers[0].tags, shown);
    assert_eq!((told.local.unwrap().tags, told.swept), (shown.to_vec(), None));
    for tag in given {
        cache.tag(tag).remove().await;
        let mut told = cache.explain("k").await;
        let swath = format!("tag {tag}");
        assert_eq!(told.swept.unwrap().swath, swath);
        let tier = told.tiers.remove(0);
        assert_eq!((tier.why, tier.tags), (Some(Unusable::Swept(Some(swath))), shown.to_vec()));
    }
}

#[tokio::test(start_paused = true)]
async fn tier_that_says_nothing_is_explained_by_the_reason() {
    let site = Site::new(88);
    let (cache, link) = node(&site, graceful()).await;
    load_told(&cache, "k").await;
    trips().await;
    let faults = &link.faults;
    faults.lose_answers(100);
    assert_eq!(tier_state(&cache, "k").await, ("timed out", false));
    faults.lose_answers(0);
    faults.set_part_refusing(100);
    assert_eq!(tier_state(&cache, "k").await, ("failed", false));
    faults.set_part_refusing(0);
    faults.set_part_down(100);
    assert_eq!(tier_state(&cache, "k").await, ("down", false));
    faults.set_part_down(0);
    assert_eq!(tier_state(&cache, "k").await, ("fresh", true));
    // After so many failures it is left alone, and is not asked.
    faults.lose_answers(100);
    for _ in 0..5 {
        assert_eq!(tier_state(&cache, "k").await, ("timed out", false));
    }
    assert_eq!(tier_state(&cache, "k").await, ("down", false));
}

#[tokio::test(start_paused = true)]
async fn key_is_pending_and_no_tier_is_trusted_with_it_until_the_others_are_told() {
    let site = Site::new(87);
    let (cache, link) = node(&site, graceful()).await;
    for key in ["k", "other"] {
        load_told(&cache, key).await;
    }
    trips().await;
    assert!(!cache.explain("k").await.is_pending);
    link.faults.set_down(true);
    drop(cache.invalidate_many(["k"], Version(9)));
    let told = cache.explain("k").await;
    assert_eq!((told.is_pending, told.tiers[0].state, told.local), (true, "not trusted", None));
    let invalidated = told.invalidated.unwrap();
    assert_eq!((invalidated.how, invalidated.version, invalidated.origin), (Void::Remove, Version(9), 0));
    assert_eq!(told.floor, Version(9));
    let other = cache.explain("other").await;
    assert_eq!((other.is_pending, other.tiers[0].state), (false, "down"));
    link.faults.set_down(false);
    wait_for(|| cache.stats().pending_invalidations == 0).await;
    let told = cache.explain("k").await;
    assert_eq!((told.is_pending, told.tiers[0].state), (false, "nothing"));
}

#[tokio::test(start_paused = true)]
async fn key_is_loading_while_a_load_runs_and_while_its_failure_is_remembered() {
    let (cache, gate) = (alone(Policy { error_ttl: SECOND, ..Policy::default() }), Gate::default());
    assert!(!cache.explain("k").await.is_loading);
    let reader = gate.read(&cache, "k", Err(Broken));
    gate.begun.notified().await;
    assert!(cache.explain("k").await.is_loading && !cache.explain("other").await.is_loading);
    gate.go.notify_one();
    assert!(reader.await.unwrap().is_err());
    assert!(cache.explain("k").await.is_loading, "its failure is remembered");
    advance(SECOND).await;
    assert!(!cache.explain("k").await.is_loading);
    Teller::default().value(&cache, "k", 1).await;
    assert!(!cache.explain("k").await.is_loading);
}

#[tokio::test(start_paused = true)]
async fn last_sweep_over_a_key_is_told_with_what_it_left_and_how_long_ago_it_was() {
    let cache = alone(Policy::default());
    let swept = async |key: &str| cache.explain(key).await.swept;
    assert_eq!(swept("user:1").await, None);
    drop(cache.prefix("user:").at(Version(3)).expire());
    advance(5 * SECOND).await;
    let by = |swath: &str, how, version, ago| {
        Some(LastSweep { swath: swath.to_owned(), how, version, origin: 0, ago })
    };
    let by_prefix = || by("prefix user:", Void::Expire, Version(3), 5 * SECOND);
    assert_eq!((swept("user:1").await, swept("account:1").await), (by_prefix(), None));
    // Over others.
    drop(cache.prefix("account:").remove());
    drop(cache.tag("org:7").remove());
    assert_eq!(swept("user:1").await, by_prefix());
    drop(cache.pattern("*:1").remove());
    let by_pattern = by("pattern *:1", Void::Remove, Version::NONE, Duration::ZERO);
    assert_eq!((swept("user:1").await, swept("user:2").await), (by_pattern, by_prefix()));
    drop(cache.clear());
    let by_all = by("everything", Void::Remove, Version::NONE, Duration::ZERO);
    assert_eq!(swept("user:2").await, by_all);
}

#[tokio::test(start_paused = true)]
async fn last_sweep_over_a_key_is_told_with_the_node_that_announced_it() {
    let site = Site::new(89);
    let (here, _) = node(&site, graceful()).await;
    let (there, _) = node(&site, graceful()).await;
    let swept = async |cache: &Numbers| cache.explain("user:1").await.swept.unwrap();
    there.invalidate_many(["user:1"], Version(2)).await;
    there.prefix("user:").at(Version(3)).remove().await;
    trips().await;
    let (by_itself, by_another) = (swept(&there).await, swept(&here).await);
    assert_eq!((by_itself.origin, by_another.swath.as_str()), (0, "prefix user:"));
    // Keys and sweeps of one node have one origin.
    let invalidated = here.explain("user:1").await.invalidated.unwrap();
    assert!(by_another.origin != 0 && by_another.origin == invalidated.origin, "{by_another:?}");
    here.clear().await;
    trips().await;
    let (by_itself, by_the_first) = (swept(&here).await, swept(&there).await);
    assert_eq!((by_itself.origin, by_the_first.swath.as_str()), (0, "everything"));
    assert!(![0, by_another.origin].contains(&by_the_first.origin), "{by_the_first:?}");
}
