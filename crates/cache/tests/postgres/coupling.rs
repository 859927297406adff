//! Announcements that are part of the caller's transaction.

use bytes::Bytes;
use paystrata_cache::{
    backplane::{Announcement, Backplane, Mark, Swath},
    tier::Void,
};
use tokio_postgres::{IsolationLevel, error::SqlState};

use crate::{
    ear::Notebook,
    line::{announcement, lined},
    server::{Bed, until},
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
