//! Announcements that are part of the caller's transaction.

use std::sync::Arc;

use bytes::Bytes;
use paystrata_cache::{
    Cache, Invalidation, LoadContext, Policy, Reach, Version,
    backplane::{Announcement, Backplane, Mark, Swath},
    postgres::PostgresTier,
    testkit::Site,
    tier::Void,
};
use tokio_postgres::{IsolationLevel, error::SqlState};

use crate::{
    ear::Notebook,
    line::{announcement, lined},
    server::{Bed, LIMIT, until},
};

#[tokio::test]
async fn a_commit_announces_and_a_rollback_announces_nothing() {
    let bed = Bed::shared().await;
    let tier = bed.tier();
    let line = tier.line("c");
    let ear = Notebook::on(&line).await;
    let start = line.attach().await.unwrap().mark;
    let mut writer = bed.plain().await;

    let transaction = writer.client.transaction().await.unwrap();
    tier.announce_in(&transaction, "c", &announcement("never")).await.unwrap();
    transaction.rollback().await.unwrap();

    let mut transaction = writer.client.transaction().await.unwrap();
    tier.announce_in(&transaction, "c", &announcement("one")).await.unwrap();
    let savepoint = transaction.transaction().await.unwrap();
    tier.announce_in(&savepoint, "c", &announcement("nor this")).await.unwrap();
    savepoint.rollback().await.unwrap();
    let tag = vec![(Swath::Tag("t".into()), Void::Expire)];
    tier.announce_in(&transaction, "c", &Announcement { sweeps: tag, ..announcement("two") }).await.unwrap();
    // Until the commit nothing is numbered, and others are not kept waiting.
    let between = line.announce(&announcement("between")).await.unwrap();
    assert_eq!(between, Mark { sequence: start.sequence + 1, ..start });
    transaction.commit().await.unwrap();

    let expected: Vec<_> = ["between", "one", "two"]
        .into_iter()
        .zip(1..)
        .map(|(body, step)| (Mark { sequence: start.sequence + step, ..start }, Bytes::from(body)))
        .collect();
    assert_eq!(ear.announced(start.sequence + 3).await, expected);
    let snapshot = line.attach().await.unwrap();
    assert_eq!((snapshot.mark.sequence, snapshot.sweeps.len()), (start.sequence + 3, 1));
    assert_eq!(snapshot.sweeps[0].sequence, start.sequence + 3);
    assert_eq!(bed.count("SELECT count(*) FROM {schema}.pending").await, 0);

    // Outside of a transaction it is announced at once.
    tier.announce_in(&writer.client, "c", &announcement("alone")).await.unwrap();
    assert_eq!(ear.announced(start.sequence + 4).await.len(), 4);
}

#[tokio::test]
async fn transactions_that_announce_to_two_caches_in_either_order_do_not_block_one_another() {
    let bed = Bed::shared().await;
    let tier = bed.tier();
    let (first, second) = (tier.line("a"), tier.line("b"));
    until(async || first.is_up() && second.is_up()).await;
    let starts = [first.attach().await.unwrap().mark, second.attach().await.unwrap().mark];
    let announce = async |caches: [&str; 2]| {
        let mut writer = bed.plain().await;
        for _ in 0..50 {
            let transaction = writer.client.transaction().await.unwrap();
            for cache in caches {
                tier.announce_in(&transaction, cache, &announcement("x")).await.unwrap();
            }
            transaction.commit().await.unwrap();
        }
    };
    tokio::join!(announce(["a", "b"]), announce(["b", "a"]), announce(["b", "a"]));
    assert_eq!(first.attach().await.unwrap().mark.sequence, starts[0].sequence + 150);
    assert_eq!(second.attach().await.unwrap().mark.sequence, starts[1].sequence + 150);
}

#[tokio::test]
async fn numbers_have_the_order_of_commits() {
    let bed = Bed::shared().await;
    let tier = bed.tier();
    let line = tier.line("c");
    let ear = Notebook::on(&line).await;
    let (mut early, mut late) = (bed.plain().await, bed.plain().await);
    let begun_first = early.client.transaction().await.unwrap();
    tier.announce_in(&begun_first, "c", &announcement("committed second")).await.unwrap();
    let begun_second = late.client.transaction().await.unwrap();
    tier.announce_in(&begun_second, "c", &announcement("committed first")).await.unwrap();
    begun_second.commit().await.unwrap();
    begun_first.commit().await.unwrap();
    let bodies: Vec<_> = ear.announced(2).await.into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, ["committed first", "committed second"]);
}

#[tokio::test]
async fn a_serializable_transaction_that_was_overtaken_fails_and_announces_nothing() {
    let bed = Bed::shared().await;
    let (tier, line) = (bed.tier(), lined(&bed, "c").await);
    let start = line.1.attach().await.unwrap().mark;
    let mut writer = bed.plain().await;
    let transaction = writer
        .client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()
        .await
        .unwrap();
    tier.announce_in(&transaction, "c", &announcement("overtaken")).await.unwrap();
    line.1.announce(&announcement("faster")).await.unwrap();
    let failed = transaction.commit().await.unwrap_err();
    assert_eq!(failed.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(line.1.attach().await.unwrap().mark.sequence, start.sequence + 1);
}

/// A node whose shared tier knows nothing of Postgres, and so is told nothing by a commit.
async fn node(line: PostgresTier, site: &Site) -> Cache<u64, u64> {
    let policy = Policy { max_stale: LIMIT, ttl: LIMIT * 10, l1_ttl: LIMIT * 10, ..Policy::default() };
    let builder = Cache::builder("people").policy(policy).tier(Arc::new(site.link()));
    let cache = builder.backplane(Arc::new(line)).build();
    until(async || cache.stats().backplane_silence.is_some()).await;
    cache
}

async fn read(cache: &Cache<u64, u64>, told: u64) -> u64 {
    let load = move |_context: LoadContext<u64>| async move { Ok::<_, std::convert::Infallible>(Some(told)) };
    cache.get_or_load(&7, load).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_commit_voids_what_lies_in_a_shared_tier_for_all_who_hear_of_it_and_all_who_come_later() {
    let (bed, site) = (Bed::shared().await, Site::new(1));
    let [one, other] = [node(bed.tier(), &site).await, node(bed.tier(), &site).await];
    let outbox = bed.tier();
    assert_eq!(read(&one, 1).await, 1);
    until(async || site.shelf.values("people") == 1).await;
    assert_eq!(read(&other, 2).await, 1, "from the tier");
    let mut writer = bed.plain().await;

    // Rolled back, and then committed by a node that dies before it can say so.
    let transaction = writer.client.transaction().await.unwrap();
    let change = Invalidation::at(Version(5)).remove(&7_u64);
    drop(one.invalidate_in(&outbox, &transaction, change.clone()).await.unwrap());
    transaction.rollback().await.unwrap();
    let transaction = writer.client.transaction().await.unwrap();
    assert_eq!((one.get(&7), other.get(&7)), (Some(1), Some(1)));
    drop(one.invalidate_in(&outbox, &transaction, change.clone()).await.unwrap());
    transaction.commit().await.unwrap();
    until(async || one.get(&7).is_none() && other.get(&7).is_none()).await;
    assert_eq!(site.shelf.values("people"), 1, "the old value lies there");
    let late = node(bed.tier(), &site).await;
    assert_eq!((read(&other, 2).await, read(&late, 3).await), (2, 2), "one load, for both");

    // One that lives says so, and sees it at once.
    let transaction = writer.client.transaction().await.unwrap();
    let coupled = late.invalidate_in(&outbox, &transaction, Invalidation::at(Version(6)).remove(&7_u64));
    let coupled = coupled.await.unwrap();
    transaction.commit().await.unwrap();
    let confirmation = coupled.committed();
    assert_eq!((late.get(&7), read(&late, 4).await), (None, 4));
    assert_eq!(confirmation.await, Reach::Fleet);
    assert_eq!(site.shelf.values("people"), 0);
}

#[tokio::test]
async fn without_a_shared_tier_a_commit_is_announced_once_and_known_here_at_once() {
    let bed = Bed::shared().await;
    let outbox = bed.tier();
    let people: Cache<u64, u64> = Cache::builder("people").backplane(Arc::new(bed.tier())).build();
    until(async || people.stats().backplane_silence.is_some()).await;
    assert_eq!(read(&people, 1).await, 1);
    let line = outbox.line("people");
    let ear = Notebook::on(&line).await;
    let start = line.attach().await.unwrap().mark.sequence;
    let mut writer = bed.plain().await;
    let transaction = writer.client.transaction().await.unwrap();
    let change = Invalidation::at(Version(5)).remove(&7_u64).remove_tag("t");
    let coupled = people.invalidate_in(&outbox, &transaction, change).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(coupled.committed().await, Reach::Node);
    assert_eq!(people.get(&7), None);
    assert_eq!(ear.announced(start + 1).await.len(), 1);
    people.close().await;
    assert_eq!(line.attach().await.unwrap().mark.sequence, start + 1);
}
