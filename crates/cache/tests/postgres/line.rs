//! Announcements: their order, what is kept of them, and what is told.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use paystrata_cache::{
    Version,
    backplane::{Announcement, Backplane, Heard, Line, Mark, Snapshot, Swath, Sweep},
    tier::Void,
};

use crate::{
    ear::{Note, Notebook},
    server::{Bed, until},
};

pub(crate) fn announcement(body: &str) -> Announcement {
    Announcement { body: Bytes::from(body.to_owned()), sweeps: Vec::new(), version: Version(1) }
}

pub(crate) async fn lined(bed: &Bed, cache: &str) -> (impl Backplane + use<>, Arc<dyn Line>) {
    let tier = bed.tier();
    let line = tier.line(cache);
    until(async || line.is_up()).await;
    (tier, line)
}

#[tokio::test]
async fn announcements_of_two_nodes_have_one_order_without_gaps_and_everybody_hears_it() {
    let bed = Bed::shared().await;
    let (_here, here) = lined(&bed, "c").await;
    let (_there, there) = lined(&bed, "c").await;
    let ears = [Notebook::on(&here).await, Notebook::on(&there).await];
    let start = here.attach().await.unwrap().mark;
    assert_eq!(there.attach().await.unwrap().mark, start);
    let announce = |number: usize| {
        let line = if number.is_multiple_of(2) { Arc::clone(&here) } else { Arc::clone(&there) };
        async move {
            let body = format!("{number}");
            (line.announce(&announcement(&body)).await.unwrap(), Bytes::from(body))
        }
    };
    let mut made = join_all((0..60).map(announce)).await;
    made.sort_by_key(|(mark, _)| mark.sequence);
    let last = start.sequence + 60;
    let numbers: Vec<u64> = made.iter().map(|(mark, _)| mark.sequence).collect();
    assert_eq!(numbers, (start.sequence + 1..=last).collect::<Vec<_>>());
    for ear in &ears {
        assert_eq!(ear.announced(last).await, made);
    }
    // And what somebody missed is told again, the same, in the same order.
    let expected: Vec<_> = made.iter().skip(20).map(|(mark, body)| (mark.sequence, body.clone())).collect();
    assert_eq!(there.replay(made[19].0).await.unwrap(), Some(expected));
    assert_eq!(there.replay(made[59].0).await.unwrap(), Some(Vec::new()));
    // Caches do not hear one another.
    let (_other, other) = lined(&bed, "other").await;
    assert_ne!(other.attach().await.unwrap().mark.sequence, last);
    assert_eq!(other.attach().await.unwrap().sweeps, []);
}

#[tokio::test]
async fn bodies_too_large_for_a_notification_are_heard_all_the_same_and_in_order() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c|d").await;
    let ear = Notebook::on(&line).await;
    let mut made = Vec::new();
    for size in [0, 1, 3_800, 3_950, 8_000, 300_000, 5] {
        let body = "x".repeat(size);
        made.push((line.announce(&announcement(&body)).await.unwrap(), Bytes::from(body)));
    }
    let last = made[made.len() - 1].0.sequence;
    assert_eq!(ear.announced(last).await, made);
}

#[tokio::test]
async fn pulses_tell_where_the_order_stands_and_come_back_to_the_sender() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c").await;
    let ear = Notebook::on(&line).await;
    let body = Bytes::from_static(b"\0\xff alive");
    let before = line.pulse(&body).await.unwrap();
    ear.until_noted(Note::Heard(Heard::Pulse { mark: before, body: body.clone() })).await;
    let mark = line.announce(&announcement("x")).await.unwrap();
    assert_eq!(mark, Mark { sequence: before.sequence + 1, ..before });
    assert_eq!(line.pulse(&body).await.unwrap(), mark);
    ear.until_noted(Note::Heard(Heard::Pulse { mark, body })).await;
    assert_ne!(mark.incarnation, 0);
}

#[tokio::test]
async fn what_is_foreign_on_the_channel_is_told_as_unreadable() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c").await;
    let ear = Notebook::on(&line).await;
    bed.run("SELECT pg_notify('{schema}', 'Z|1|1||c')").await;
    ear.until_noted(Note::Heard(Heard::Unreadable)).await;
}

#[tokio::test]
async fn the_last_sweep_of_each_swath_is_kept_for_those_who_come_later() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c").await;
    let (tag, prefix) = (Swath::Tag("größe".into()), Swath::Prefix(Bytes::from_static(b"a\0")));
    let announce = async |sweeps: &[(Swath, Void)]| {
        let announcement = Announcement { sweeps: sweeps.to_vec(), ..announcement("x") };
        line.announce(&announcement).await.unwrap().sequence
    };
    let first = announce(&[(tag.clone(), Void::Remove), (prefix.clone(), Void::Expire)]).await;
    let second = announce(&[(tag.clone(), Void::Remove), (tag.clone(), Void::Expire)]).await;
    let (_later, later) = lined(&bed, "c").await;
    let sweeps = async || {
        let Snapshot { mut sweeps, mark, .. } = later.attach().await.unwrap();
        sweeps.sort_by_key(|sweep| (sweep.sequence, sweep.how));
        (mark.sequence, sweeps)
    };
    let sweep = |swath: &Swath, how, sequence| Sweep { swath: swath.clone(), how, sequence };
    let expected = vec![
        sweep(&prefix, Void::Expire, first),
        sweep(&tag, Void::Remove, second),
        sweep(&tag, Void::Expire, second),
    ];
    assert_eq!(sweeps().await, (second, expected));
    // What goes over everything takes the place of what went over less: expiring, of what expired only.
    let third = announce(&[(Swath::All, Void::Expire)]).await;
    let expected = vec![sweep(&tag, Void::Remove, second), sweep(&Swath::All, Void::Expire, third)];
    assert_eq!(sweeps().await, (third, expected));
    let fourth = announce(&[(Swath::All, Void::Remove)]).await;
    let expected = vec![sweep(&Swath::All, Void::Expire, third), sweep(&Swath::All, Void::Remove, fourth)];
    assert_eq!(sweeps().await, (fourth, expected));
}

#[tokio::test]
async fn tags_beyond_the_bound_are_forgotten_and_that_is_told() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c").await;
    let mut sequence = 0;
    for batch in 0..17 {
        let tag = |number: u32| (Swath::Tag(format!("{batch} {number}").into()), Void::Remove);
        let sweeps = (0..1_000).map(tag).collect();
        sequence = line.announce(&Announcement { sweeps, ..announcement("x") }).await.unwrap().sequence;
    }
    let snapshot = line.attach().await.unwrap();
    assert!(snapshot.sweeps.len() <= 16_384 && snapshot.sweeps.len() > 14_000, "{}", snapshot.sweeps.len());
    assert_eq!(snapshot.mark.sequence, sequence);
    let kept = snapshot.sweeps.iter().map(|sweep| sweep.sequence);
    assert!(snapshot.forgotten_sequence > 0 && kept.clone().min().unwrap() >= snapshot.forgotten_sequence);
    assert_eq!(kept.max(), Some(sequence));
}

#[tokio::test]
async fn the_oldest_prefix_beyond_the_bound_becomes_a_sweep_of_everything() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c").await;
    let mut sequences = Vec::new();
    for number in 0..66 {
        let sweeps = vec![(Swath::Prefix(Bytes::from(format!("{number}"))), Void::Remove)];
        sequences.push(line.announce(&Announcement { sweeps, ..announcement("x") }).await.unwrap().sequence);
    }
    let snapshot = line.attach().await.unwrap();
    let all: Vec<_> = snapshot.sweeps.iter().filter(|sweep| sweep.swath == Swath::All).collect();
    assert_eq!(all, [&Sweep { swath: Swath::All, how: Void::Remove, sequence: sequences[1] }]);
    assert_eq!(snapshot.sweeps.len(), 65);
}

#[tokio::test]
async fn what_is_no_longer_in_the_log_cannot_be_replayed() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c").await;
    let first = line.announce(&announcement("first")).await.unwrap();
    let second = line.announce(&announcement("second")).await.unwrap();
    bed.run(
        "DO $$ BEGIN FOR i IN 1 .. 4095 LOOP \
         PERFORM {schema}.announce('c', 'x', '{}', '{}', '{}'); END LOOP; END $$",
    )
    .await;
    assert_eq!(line.replay(first).await.unwrap().map(|missed| missed.len()), Some(4_096));
    let before = Mark { sequence: first.sequence - 1, ..first };
    assert_eq!(line.replay(before).await.unwrap(), None);
    assert_eq!(bed.count("SELECT count(*) FROM {schema}.log").await, 4_096);
    // Nor what is of another incarnation, or has not been yet.
    assert_eq!(line.replay(Mark { incarnation: first.incarnation ^ 1, ..second }).await.unwrap(), None);
    assert_eq!(line.replay(Mark { sequence: second.sequence + 4_096, ..second }).await.unwrap(), None);
    bed.run("DELETE FROM {schema}.log WHERE sequence = 100").await;
    assert_eq!(line.replay(second).await.unwrap(), None);
}

#[tokio::test]
async fn announcements_whose_callers_go_away_are_made_whole_or_not_at_all() {
    let bed = Bed::shared().await;
    let (_tier, line) = lined(&bed, "c").await;
    let ear = Notebook::on(&line).await;
    for polls in 0..40usize {
        let words = announcement("dropped");
        let mut call = line.announce(&words);
        for _ in 0..polls % 6 {
            if futures_util::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let last = line.announce(&announcement("last")).await.unwrap();
    let heard: Vec<u64> = ear.announced(last.sequence).await.iter().map(|(mark, _)| mark.sequence).collect();
    assert_eq!(heard, (1..=last.sequence).collect::<Vec<_>>());
}
