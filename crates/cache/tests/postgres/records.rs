//! What records do in a real table.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paystrata_cache::{
    Version,
    postgres::{PostgresOptions, PostgresTier},
    testkit::whole,
    tier::{
        Claim, Found, Over, Payload, Put, Settlement, Stored, Tier, TierError, TierShare, Token, Void,
        Voiding,
    },
};

use crate::{
    record_model,
    server::{Bed, LIMIT, until, until_up},
};

const LIFE: Duration = Duration::from_secs(600);

async fn shared(bed: &Bed) -> (PostgresTier, Arc<dyn TierShare>) {
    let tier = bed.tier();
    let share = tier.share("records");
    until_up(&share).await;
    (tier, share)
}

fn claim(lease: Duration) -> Claim {
    Claim { token: Token::random(), lease, over: Over::Nothing }
}

fn put(key: &'static str, version: u64, lifetime: Duration) -> Put {
    Put { key: Bytes::from(key), version: Version(version), bytes: Bytes::from_static(b"v"), lifetime }
}

#[tokio::test]
async fn random_operations_answer_as_the_model_does() {
    let bed = Bed::shared().await;
    let (tier, _share) = shared(&bed).await;
    record_model::answers_as_the_model_does(|cache| tier.share(cache)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_under_contention_of_two_nodes_and_no_deadlock_among_batches() {
    let bed = Bed::shared().await;
    let (_tier, share) = shared(&bed).await;
    record_model::one_of_many_wins_a_claim(Arc::clone(&share)).await;
    record_model::a_void_is_never_overtaken_by_a_load(Arc::clone(&share)).await;
    record_model::dropped_calls_leave_nothing_behind(share).await;
}

#[tokio::test]
async fn a_value_dies_in_its_time_and_never_later_than_it_said() {
    let bed = Bed::shared().await;
    let (_tier, share) = shared(&bed).await;
    let lifetime = Duration::from_millis(500);
    let put = put("mortal", 1, lifetime);
    assert_eq!(share.put(std::slice::from_ref(&put)).await.and_then(whole), Ok(vec![Stored::Yes]));
    let mut last = lifetime;
    until(async || {
        match share.read(std::slice::from_ref(&put.key), None).await.and_then(whole).unwrap().remove(0) {
            Found::Value(Payload { remaining, .. }) => {
                assert!(remaining <= last, "{remaining:?} after {last:?}");
                last = remaining;
                false
            }
            found => {
                assert_eq!(found, Found::Nothing);
                true
            }
        }
    })
    .await;
    // Its floor outlives it.
    let found = share.read(&[put.key], Some(claim(LIFE))).await.and_then(whole).unwrap();
    assert_eq!(found, [Found::Claimed { floor: Version(1), fallback: None }]);
}

#[tokio::test]
async fn a_lease_that_runs_out_lets_the_next_one_load_and_refuses_the_first() {
    let bed = Bed::shared().await;
    let (_tier, share) = shared(&bed).await;
    let keys = [Bytes::from_static(b"slow")];
    let (slow, next) = (claim(Duration::from_millis(200)), claim(LIFE));
    assert!(matches!(share.read(&keys, Some(slow)).await.and_then(whole).unwrap()[0], Found::Claimed { .. }));
    assert!(matches!(share.read(&keys, Some(next)).await.and_then(whole).unwrap()[0], Found::Held { .. }));
    until(async || {
        matches!(share.read(&keys, Some(next)).await.and_then(whole).unwrap()[0], Found::Claimed { .. })
    })
    .await;
    let value = Settlement::Value { bytes: Bytes::from_static(b"late"), lifetime: LIFE };
    assert_eq!(
        share.settle(&[(keys[0].clone(), slow.token, value.clone())]).await.and_then(whole),
        Ok(vec![Stored::Refused])
    );
    assert_eq!(
        share.settle(&[(keys[0].clone(), next.token, value)]).await.and_then(whole),
        Ok(vec![Stored::Yes])
    );
}

#[tokio::test]
async fn lives_of_any_length_are_stored_and_none_is_not() {
    let bed = Bed::shared().await;
    let (_tier, share) = shared(&bed).await;
    assert_eq!(share.put(&[put("forever", 1, Duration::MAX)]).await.and_then(whole), Ok(vec![Stored::Yes]));
    let keys = [Bytes::from_static(b"forever"), Bytes::from_static(b"never")];
    assert!(matches!(share.read(&keys, None).await.and_then(whole).unwrap()[0], Found::Value(_)));
    let claim = claim(Duration::MAX);
    share.read(&keys[1..], Some(claim)).await.and_then(whole).unwrap();
    let value = Settlement::Value { bytes: Bytes::from_static(b"v"), lifetime: Duration::ZERO };
    assert_eq!(
        share.settle(&[(keys[1].clone(), claim.token, value)]).await.and_then(whole),
        Ok(vec![Stored::Yes])
    );
    assert_eq!(share.read(&keys[1..], None).await.and_then(whole).unwrap(), [Found::Nothing]);
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_leaves_the_key_to_the_next() {
    let bed = Bed::shared().await;
    let options = PostgresOptions {
        schema: bed.schema.clone(),
        command_timeout: LIMIT,
        value_bytes_max: 100,
        ..Default::default()
    };
    let tier = PostgresTier::connect(bed.config.clone(), options).unwrap();
    let share = tier.share("records");
    until_up(&share).await;
    let keys = [Bytes::from_static(b"large")];
    let first = claim(LIFE);
    share.read(&keys, Some(first)).await.and_then(whole).unwrap();
    let bytes = Bytes::from(vec![7; 101]);
    let settlement = Settlement::Value { bytes: bytes.clone(), lifetime: LIFE };
    assert_eq!(
        share.settle(&[(keys[0].clone(), first.token, settlement)]).await.and_then(whole),
        Ok(vec![Stored::Refused])
    );
    // A write that has no room ends what was there before it.
    let puts = [put("small", 1, LIFE), Put { bytes, ..put("large", 2, LIFE) }, put("other", 3, LIFE)];
    assert_eq!(share.put(&puts).await.and_then(whole), Ok(vec![Stored::Yes, Stored::Refused, Stored::Yes]));
    let found = share.read(&keys, Some(claim(LIFE))).await.and_then(whole).unwrap();
    assert_eq!(found, [Found::Claimed { floor: Version(2), fallback: None }]);
}

#[tokio::test]
async fn dead_rows_are_pruned_in_batches_and_those_that_are_held_are_left() {
    let bed = Bed::shared().await;
    let (tier, share) = shared(&bed).await;
    let void = |number: u32| Voiding {
        key: Bytes::from(format!("{number}")),
        version: Version(1),
        how: Void::Remove,
    };
    share.void(&(0..1_200).map(void).collect::<Vec<_>>()).await.and_then(whole).unwrap();
    share.put(&[put("alive", 1, LIFE)]).await.and_then(whole).unwrap();
    bed.run("UPDATE {schema}.records SET dead_at = now() - interval '1 s' WHERE key <> 'alive'").await;
    let mut holder = bed.plain().await;
    let transaction = holder.client.transaction().await.unwrap();
    let lock = format!("SELECT FROM {}.records WHERE key = '7' FOR UPDATE", bed.schema);
    transaction.batch_execute(&lock).await.unwrap();
    let mut pruned = 0;
    // The tier may be pruning by itself meanwhile.
    until(async || {
        let rows = tier.prune().await.unwrap();
        assert!(rows <= 1_000);
        pruned += rows;
        bed.count("SELECT count(*) FROM {schema}.records").await == 2
    })
    .await;
    transaction.rollback().await.unwrap();
    until(async || {
        tier.prune().await.unwrap() == 0 && bed.count("SELECT count(*) FROM {schema}.records").await == 1
    })
    .await;
}

#[tokio::test]
async fn without_the_schema_the_tier_is_down_and_comes_up_with_it() {
    let bed = Bed::shared().await;
    let (_tier, share) = shared(&bed).await;
    bed.run("DROP SCHEMA {schema} CASCADE").await;
    let keys = [Bytes::from_static(b"k")];
    assert_eq!(share.read(&keys, None).await.and_then(whole), Err(TierError::Failed));
    until(async || share.read(&keys, None).await.and_then(whole) == Err(TierError::Down)).await;
    let plain = bed.plain().await;
    let (again, once_more) = (bed.plain().await, &bed.schema);
    // Nodes that start together make it together.
    let made = tokio::join!(
        PostgresTier::create_schema(&plain.client, once_more),
        PostgresTier::create_schema(&again.client, once_more)
    );
    assert!(made.0.is_ok() && made.1.is_ok(), "{made:?}");
    until(async || share.read(&keys, None).await.and_then(whole) == Ok(vec![Found::Nothing])).await;
}

#[test]
fn names_that_are_no_words_are_refused() {
    for name in ["", "a b", "a\"b", "a;b", "ä", &"x".repeat(64)] {
        assert!(PostgresTier::schema_sql(name).is_err(), "{name}");
    }
    assert!(PostgresTier::schema_sql(&"x".repeat(63)).is_ok());
}
