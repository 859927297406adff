//! Releases that spell values otherwise, over one shared tier: none of them reads what another one wrote.

use std::sync::Arc;

use paystrata_cache::{
    Cache, Clock, LoadContext, Policy, TierOptions, TierStats,
    codec::{Codec, Encoding, EncodingError, Schema},
    testkit::{Link, Site},
};

use crate::kit::{Broken, Numbers, Teller, exact, node, trips, wait_for};

/// Every release here writes the same bytes for a value. What they mean is another matter.
struct Plain;

impl Encoding<u64> for Plain {
    fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<(), EncodingError> {
        out.extend(value.to_be_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Option<u64> {
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

fn codec(name: &str, version: u32) -> Codec<u64> {
    Codec::custom(Schema::named(name, version), Plain)
}

/// A node of the release that has this codec.
async fn release(site: &Site, codec: Codec<u64>) -> Numbers {
    let link = Arc::new(site.link());
    let cache = Cache::builder("numbers")
        .policy(exact(Policy::default()))
        .clock(Clock::tokio())
        .tier_with_codec(Arc::<Link>::clone(&link), TierOptions::default(), codec)
        .backplane(link)
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    cache
}

fn tier(cache: &Numbers) -> TierStats {
    cache.stats().tiers[0].clone()
}

const KEYS: u64 = 10;

/// Reads every key. The source has them from `told` on, and what is read is counted from `expected` on.
async fn read_all(cache: &Numbers, teller: &Teller, told: u64, expected: u64) {
    for key in 0..KEYS {
        let value = teller.value(cache, &key.to_string(), told + key).await;
        assert_eq!(value, expected + key, "{key}");
    }
    trips().await;
}

// T66
#[tokio::test(start_paused = true)]
async fn value_of_another_revision_or_schema_is_a_counted_miss_and_is_overwritten() {
    let others = [codec("numbers", 1).revision(2), codec("numbers", 2), codec("amounts", 1)];
    for (seed, other) in (0..).zip(others) {
        let (site, teller) = (Site::new(seed), Teller::default());
        let old = release(&site, codec("numbers", 1)).await;
        read_all(&old, &teller, 0, 0).await;
        let new = release(&site, other.clone()).await;
        read_all(&new, &teller, 100, 100).await;
        let (stats, at_tier) = (new.stats(), tier(&new));
        assert_eq!((stats.misses, stats.loads, stats.load_failures), (KEYS, KEYS, 0));
        assert_eq!((at_tier.poisoned, at_tier.hits, at_tier.stored), (KEYS, 0, KEYS));
        assert_eq!((at_tier.errors, at_tier.opened, at_tier.is_up), (0, 0, true), "the tier is not to blame");
        // Another node of the new release finds what the first one has put in its place.
        let neighbour = release(&site, other).await;
        read_all(&neighbour, &teller, 200, 100).await;
        assert_eq!((neighbour.stats().loads, tier(&neighbour).hits, tier(&neighbour).poisoned), (0, KEYS, 0));
        // And one of the old release does not read that either.
        let back = release(&site, codec("numbers", 1)).await;
        read_all(&back, &teller, 300, 300).await;
        assert_eq!((back.stats().loads, tier(&back).poisoned, tier(&back).stored), (KEYS, KEYS, KEYS));
        assert_eq!(old.get("3"), Some(3), "what is in process stays");
    }
}

// T66
#[tokio::test(start_paused = true)]
async fn batch_of_another_revision_is_loaded_by_one_call_and_overwritten() {
    let (site, teller) = (Site::new(7), Teller::default());
    let old = release(&site, codec("numbers", 1)).await;
    read_all(&old, &teller, 0, 0).await;
    let new = release(&site, codec("numbers", 1).revision(2)).await;
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        Ok::<_, Broken>(keys.iter().map(|_| Ok(Some(100_u64))).collect::<Vec<_>>())
    };
    let keys: Vec<String> = (0..KEYS).map(|key| key.to_string()).collect();
    let answers = new.get_or_load_many(keys.iter().map(String::as_str), load).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == Some(100)));
    trips().await;
    assert_eq!((new.stats().loads, tier(&new).poisoned, tier(&new).stored), (1, KEYS, KEYS));
}

// T66
#[tokio::test(start_paused = true)]
async fn value_of_another_encoding_is_a_counted_miss() {
    let (site, teller) = (Site::new(8), Teller::default());
    let (usual, _) = node(&site, Policy::default()).await;
    read_all(&usual, &teller, 0, 0).await;
    let own = release(&site, codec("numbers", 1)).await;
    read_all(&own, &teller, 100, 100).await;
    assert_eq!((tier(&own).poisoned, tier(&own).stored), (KEYS, KEYS));
}
