//! Servers that crash, restart, and are restored.

use std::time::Duration;

use bytes::Bytes;
use paystrata_cache::{
    Version,
    backplane::{Announcement, Backplane, Interruption, Line, Mark, Swath},
    postgres::{PostgresOptions, PostgresTier},
    testkit::whole,
    tier::{Claim, Found, Over, Put, Settlement, Stored, Tier, Token, Void},
};

use tokio::time::timeout;

use crate::{
    ear::{Note, Notebook},
    line::announcement,
    server::{Bed, Plain, Private, until},
};

const LIFE: Duration = Duration::from_secs(600);

/// Whatever was known is known to be gone: nothing of the old incarnation is replayed, none of its sweeps kept.
async fn is_another_life(line: &dyn Line, before: Mark) {
    let mut after = None;
    until(async || {
        after = line.attach().await.ok();
        after.is_some()
    })
    .await;
    let after = after.unwrap();
    assert_ne!(after.mark.incarnation, before.incarnation);
    assert_ne!(after.mark.incarnation, 0);
    assert_eq!(after.sweeps, []);
    assert_eq!(line.replay(before).await.unwrap(), None);
    let next = line.announce(&announcement("x")).await.unwrap();
    assert_eq!(next, Mark { sequence: after.mark.sequence + 1, ..after.mark });
    assert_eq!(line.replay(after.mark).await.unwrap().map(|missed| missed.len()), Some(1));
}

async fn swept(line: &dyn Line) -> Mark {
    let sweeps = vec![(Swath::Tag("t".into()), Void::Remove)];
    line.announce(&Announcement { sweeps, ..announcement("before") }).await.unwrap()
}

#[tokio::test]
async fn a_killed_server_comes_back_empty_and_in_another_incarnation() {
    let server = Private::start().await;
    let bed = Bed::on(server.config()).await;
    let tier = bed.tier();
    let (share, line) = (tier.share("c"), tier.line("c"));
    let ear = Notebook::on(&line).await;
    until(async || share.is_up()).await;
    let before = swept(&*line).await;
    let keys = [Bytes::from_static(b"value"), Bytes::from_static(b"claimed")];
    let put =
        Put { key: keys[0].clone(), version: Version(1), bytes: Bytes::from_static(b"v"), lifetime: LIFE };
    assert_eq!(share.put(std::slice::from_ref(&put)).await.and_then(whole), Ok(vec![Stored::Yes]));
    let claim = Claim { token: Token::random(), lease: LIFE, over: Over::Nothing };
    assert!(matches!(
        share.read(&keys, Some(claim)).await.and_then(whole).unwrap()[1],
        Found::Claimed { .. }
    ));

    ear.forget();
    server.kill();
    ear.until_noted(Note::Interrupted(Interruption::Lost)).await;
    until(async || !share.is_up() && !line.is_up()).await;
    server.run().await;
    ear.until_noted(Note::Interrupted(Interruption::Subscribed)).await;

    let mut found = None;
    until(async || {
        found = share.read(&keys, None).await.and_then(whole).ok();
        found.is_some()
    })
    .await;
    assert_eq!(found, Some(vec![Found::Nothing, Found::Nothing]));
    let settlement = Settlement::Value { bytes: Bytes::from_static(b"stale"), lifetime: LIFE };
    assert_eq!(
        share.settle(&[(keys[1].clone(), claim.token, settlement)]).await.and_then(whole),
        Ok(vec![Stored::Refused])
    );
    // Floors went with the records: nothing is put that may have been overtaken, loads read the latest.
    let claim = Claim { token: Token::random(), ..claim };
    let claimed = Found::Claimed { floor: Version::LATEST, fallback: None };
    assert_eq!(share.read(&keys[..1], Some(claim)).await.and_then(whole), Ok(vec![claimed]));
    let settlement = Settlement::Value { bytes: Bytes::from_static(b"loaded"), lifetime: LIFE };
    assert_eq!(
        share.settle(&[(keys[0].clone(), claim.token, settlement)]).await.and_then(whole),
        Ok(vec![Stored::Yes])
    );
    assert_eq!(share.put(&[put]).await.and_then(whole), Ok(vec![Stored::Refused]));
    assert_eq!(share.read(&keys, None).await.and_then(whole), Ok(vec![Found::Nothing, Found::Nothing]));
    is_another_life(&*line, before).await;
}

#[tokio::test]
async fn a_crash_of_one_backend_begins_another_incarnation_though_the_server_never_stopped() {
    let server = Private::start().await;
    let bed = Bed::on(server.config()).await;
    let tier = bed.tier();
    let line = tier.line("c");
    let ear = Notebook::on(&line).await;
    let before = swept(&*line).await;
    ear.forget();
    server.crash_a_backend(&bed).await;
    ear.until_noted(Note::Interrupted(Interruption::Lost)).await;
    is_another_life(&*line, before).await;
}

#[tokio::test]
async fn a_restarted_server_keeps_its_records_and_begins_another_incarnation() {
    let server = Private::start().await;
    let bed = Bed::on(server.config()).await;
    let tier = bed.tier();
    let (share, line) = (tier.share("c"), tier.line("c"));
    let ear = Notebook::on(&line).await;
    until(async || share.is_up()).await;
    let before = swept(&*line).await;
    let key = Bytes::from_static(b"k");
    let put = Put { key: key.clone(), version: Version(1), bytes: key.clone(), lifetime: LIFE };
    share.put(&[put]).await.and_then(whole).unwrap();
    ear.forget();
    server.stop();
    server.run().await;
    ear.until_noted(Note::Interrupted(Interruption::Subscribed)).await;
    until(async || {
        share
            .read(std::slice::from_ref(&key), None)
            .await
            .is_ok_and(|found| matches!(found[0], Ok(Found::Value(_))))
    })
    .await;
    is_another_life(&*line, before).await;
}

#[tokio::test]
async fn a_commit_is_announced_though_the_writer_and_the_server_die_right_after_it() {
    let server = Private::start().await;
    let bed = Bed::on(server.config()).await;
    let tier = bed.tier();
    let line = tier.line("c");
    let ear = Notebook::on(&line).await;
    bed.run("CREATE TABLE written (id int)").await;
    let before = line.attach().await.unwrap().mark;
    let mut writer = Plain::connect(&bed.config).await.unwrap();
    let transaction = writer.client.transaction().await.unwrap();
    transaction.batch_execute("INSERT INTO written VALUES (1)").await.unwrap();
    tier.announce_in(&transaction, "c", &announcement("committed")).await.unwrap();
    transaction.commit().await.unwrap();
    server.kill();
    ear.until_noted(Note::Interrupted(Interruption::Lost)).await;
    server.run().await;
    // Either it was heard, or nothing that was known before counts any more.
    assert_eq!(bed.count("SELECT count(*) FROM written").await, 1);
    is_another_life(&*line, before).await;
}

#[tokio::test]
async fn a_replica_that_is_promoted_begins_another_incarnation_with_an_empty_table() {
    let primary = Private::start().await;
    let bed = Bed::on(primary.config()).await;
    let tier = bed.tier();
    let (share, line) = (tier.share("c"), tier.line("c"));
    until(async || share.is_up() && line.is_up()).await;
    let before = swept(&*line).await;
    let key = Bytes::from_static(b"k");
    let put = Put { key: key.clone(), version: Version(1), bytes: key.clone(), lifetime: LIFE };
    share.put(&[put]).await.and_then(whole).unwrap();

    let replica = primary.replica().await;
    let promoted = Bed { config: replica.config(), schema: bed.schema.clone() };
    until(async || promoted.count("SELECT count(*) FROM {schema}.sweeps").await == 1).await;
    let there = promoted.tier();
    let (share, line) = (there.share("c"), there.line("c"));
    // A replica takes no writes and hears nothing; neither tier nor line is of use on it.
    until(async || share.is_up()).await;
    assert!(share.read(std::slice::from_ref(&key), None).await.and_then(whole).is_err());
    primary.kill();
    replica.promote();
    let ear = Notebook::on(&line).await;
    is_another_life(&*line, before).await;
    ear.announced(before.sequence + 1).await;
    until(async || {
        share.read(std::slice::from_ref(&key), None).await.and_then(whole) == Ok(vec![Found::Nothing])
    })
    .await;
}

#[tokio::test]
async fn sessions_that_fall_silent_are_given_up_though_each_caller_goes_before_its_time() {
    let server = Private::start().await;
    let bed = Bed::on(server.config()).await;
    let options = PostgresOptions { schema: bed.schema.clone(), ..PostgresOptions::default() };
    let tier = PostgresTier::connect(bed.config.clone(), options).unwrap();
    let share = tier.share("c");
    until(async || share.is_up()).await;
    let keys = [Bytes::from_static(b"k")];
    assert_eq!(share.read(&keys, None).await.and_then(whole), Ok(vec![Found::Nothing]));
    assert!(server.stop_backends(&bed, true).await > 0);
    let patience = Duration::from_millis(100);
    until(async || matches!(timeout(patience, share.read(&keys, None)).await, Ok(Ok(_)))).await;
    // So that the server can be stopped.
    server.stop_backends(&bed, false).await;
}
