//! Races of claims that are made to happen: somebody else's row is there, but not committed, when a read
//! looks for what it can claim.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paystrata_cache::{
    Version,
    testkit::whole,
    tier::{Claim, Found, Over, Tier, TierShare, Token},
};

use crate::server::{Bed, until, until_up};

const CLAIM: Claim = Claim { token: Token(7), lease: Duration::from_secs(600), over: Over::Nothing };

/// What a read with a claim finds for `k` if this row is committed while the read waits for it.
async fn found_after(values: &str) -> (Found, Found, Arc<dyn TierShare>) {
    let bed = Bed::shared().await;
    let share = bed.tier().share("c");
    until_up(&share).await;
    let mut other = bed.plain().await;
    let transaction = other.client.transaction().await.unwrap();
    let insert = format!(
        "INSERT INTO {}.records (cache, key, floor, floor_until, token, lease_until, is_value, payload, \
         expires_at, dead_at) VALUES ('c', 'k', {values}, now() + interval '1 h')",
        bed.schema
    );
    transaction.batch_execute(&insert).await.unwrap();
    let reader = tokio::spawn({
        let share = Arc::clone(&share);
        async move {
            share
                .read(&[Bytes::from_static(b"k"), Bytes::from_static(b"free")], Some(CLAIM))
                .await
                .and_then(whole)
                .unwrap()
        }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{schema}%'";
    until(async || bed.count(waiting).await == 1).await;
    transaction.commit().await.unwrap();
    let mut found = reader.await.unwrap();
    let free = found.pop().unwrap();
    (found.pop().unwrap(), free, share)
}

fn free() -> Found {
    Found::Claimed { floor: Version::NONE, fallback: None }
}

#[tokio::test]
async fn a_claim_that_came_first_is_held_by_the_other() {
    let (found, other, share) =
        found_after("-5, now() + interval '1 h', 9, now() + interval '1 h', false, NULL, NULL").await;
    assert_eq!(found, Found::Held { floor: Version((1 << 63) - 5), fallback: None });
    assert_eq!(other, free());
    let again = share.read(&[Bytes::from_static(b"k")], Some(CLAIM)).await.and_then(whole).unwrap();
    assert!(matches!(again[0], Found::Held { .. }));
}

#[tokio::test]
async fn a_value_that_came_first_is_read() {
    let (found, other, _share) =
        found_after("0, now() + interval '1 h', NULL, NULL, true, 'there', now() + interval '1 h'").await;
    assert!(matches!(found, Found::Value(payload) if payload.bytes == "there"));
    assert_eq!(other, free());
}

#[tokio::test]
async fn a_void_that_came_first_is_reflected_in_the_floor() {
    let (found, other, _share) =
        found_after("5, now() + interval '1 h', NULL, NULL, false, NULL, NULL").await;
    assert_eq!(found, Found::Claimed { floor: Version((1 << 63) + 5), fallback: None });
    assert_eq!(other, free());
}
