//! Announcements on a real server: numbered without gaps, kept, replayed and heard.

use std::sync::Arc;

use bytes::Bytes;
use paystrata_cache::{
    Version,
    backplane::{Announcement, Backplane, Heard, Mark, Snapshot, Swath, Sweep},
    tier::{TierError, Void},
};

use super::{
    fixture::{Node, bytes, eventually},
    server::Server,
};

fn tag(name: &str) -> Swath {
    Swath::Tag(Arc::from(name))
}

fn prefix(text: &str) -> Swath {
    Swath::Prefix(bytes(text))
}

fn sorted(mut snapshot: Snapshot) -> Vec<(u64, Swath, Void)> {
    snapshot.sweeps.sort_by_key(|sweep| (sweep.sequence, format!("{:?}", sweep.swath)));
    snapshot.sweeps.into_iter().map(|Sweep { swath, how, sequence }| (sequence, swath, how)).collect()
}

#[tokio::test]
async fn announcement_is_heard_by_all_in_order_with_its_mark() {
    let server = Server::start().await;
    let (one, other) = (Node::on(&server).await, Node::on(&server).await);
    let (ears, other_ears) = (one.ears().await, other.ears().await);
    let begun = one.line.attach().await.unwrap().mark;
    assert!(begun.incarnation != 0 && begun.sequence == 0);
    let body = "odd \0 body\r\n";
    let mark = other.announce(body, &[]).await;
    assert_eq!(mark, Mark { sequence: 1, ..begun });
    assert_eq!(one.line.pulse(&bytes("beat")).await.unwrap(), mark);
    let expected =
        [Heard::Announcement { mark, body: bytes(body) }, Heard::Pulse { mark, body: bytes("beat") }];
    for ears in [ears, other_ears] {
        eventually("both are heard", async || ears.heard().len() == 2).await;
        assert_eq!(ears.heard(), expected);
    }
}

#[tokio::test]
async fn two_announcers_share_a_sequence_without_gaps() {
    let server = Server::start().await;
    let (one, other) = (Node::on(&server).await, Node::on(&server).await);
    let ears = one.ears().await;
    let begun = one.line.attach().await.unwrap().mark;
    let announce = async |node: &Node| {
        for number in 0..300 {
            node.announce(&format!("{number}"), &[]).await;
        }
    };
    tokio::join!(announce(&one), announce(&other), announce(&one));
    eventually("all are heard", async || ears.heard().len() == 900).await;
    let heard = ears.announcements();
    assert!(heard.iter().map(|(sequence, _)| *sequence).eq(1..=900));
    assert_eq!(other.line.replay(begun).await.unwrap(), Some(heard));
}

#[tokio::test]
async fn replay_is_exact_or_none() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let begun = node.line.attach().await.unwrap().mark;
    let mark = |sequence| Mark { sequence, ..begun };
    assert_eq!(node.line.replay(begun).await.unwrap(), Some(vec![]));
    for number in 1..=5_000 {
        assert_eq!(node.announce(&number.to_string(), &[]).await, mark(number));
    }
    let body = |number: u64| (number, bytes(&number.to_string()));
    assert_eq!(node.line.replay(mark(4_998)).await.unwrap(), Some(vec![body(4_999), body(5_000)]));
    assert_eq!(node.line.replay(mark(5_000)).await.unwrap(), Some(vec![]));
    assert_eq!(
        node.line.replay(mark(904)).await.unwrap().unwrap(),
        (905..=5_000).map(body).collect::<Vec<_>>()
    );
    // Too long ago, yet to come, of another life.
    assert_eq!(node.line.replay(mark(903)).await.unwrap(), None);
    assert_eq!(node.line.replay(mark(5_001)).await.unwrap(), None);
    let other = Mark { incarnation: begun.incarnation ^ 1, sequence: 4_999 };
    assert_eq!(node.line.replay(other).await.unwrap(), None);
}

#[tokio::test]
async fn log_is_bounded_in_bytes_too_and_recovers_when_it_is_evicted() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let begun = node.line.attach().await.unwrap().mark;
    let mark = |sequence| Mark { sequence, ..begun };
    let big = "x".repeat(1 << 20);
    for _ in 0..6 {
        node.announce(&big, &[]).await;
    }
    assert_eq!(node.line.replay(mark(2)).await.unwrap().map(|bodies| bodies.len()), Some(4));
    assert_eq!(node.line.replay(mark(1)).await.unwrap(), None);
    server.ask::<()>("DEL {test:numbers}:log").await;
    assert_eq!(node.line.replay(mark(5)).await.unwrap(), None);
    node.announce("small", &[]).await;
    assert_eq!(node.line.replay(mark(6)).await.unwrap(), Some(vec![(7, bytes("small"))]));
    assert_eq!(node.line.replay(mark(5)).await.unwrap(), None);
}

#[tokio::test]
async fn sweeps_are_there_for_a_node_that_comes_later() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.announce("1", &[(tag("a"), Void::Remove), (prefix("p"), Void::Expire)]).await;
    node.announce("2", &[(tag("a"), Void::Expire), (tag("b"), Void::Remove), (Swath::All, Void::Expire)])
        .await;
    node.announce("3", &[(tag("b"), Void::Remove), (Swath::All, Void::Expire), (Swath::All, Void::Remove)])
        .await;
    drop(node);
    let snapshot = Node::on(&server).await.line.attach().await.unwrap();
    assert_eq!((snapshot.mark.sequence, snapshot.forgotten_sequence), (3, 0));
    let expected = [
        (1, prefix("p"), Void::Expire),
        (1, tag("a"), Void::Remove),
        (2, tag("a"), Void::Expire),
        (3, Swath::All, Void::Remove),
        (3, Swath::All, Void::Expire),
        (3, tag("b"), Void::Remove),
    ];
    assert_eq!(sorted(snapshot), expected);
}

#[tokio::test]
async fn tags_over_the_bound_are_forgotten_and_it_is_said() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    for begin in (0..16_384).step_by(512) {
        let sweeps: Vec<_> =
            (begin..begin + 512).map(|number| (tag(&number.to_string()), Void::Remove)).collect();
        node.announce("", &sweeps).await;
    }
    let full = node.line.attach().await.unwrap();
    assert_eq!((full.sweeps.len(), full.forgotten_sequence, full.mark.sequence), (16_384, 0, 32));
    node.announce("", &[(tag("one"), Void::Remove)]).await;
    let over = node.line.attach().await.unwrap();
    assert_eq!((over.sweeps.len(), over.forgotten_sequence), (16_384, 1));
    let more: Vec<_> = (0..600).map(|number| (tag(&format!("more {number}")), Void::Expire)).collect();
    node.announce("", &more).await;
    let over = node.line.attach().await.unwrap();
    assert_eq!((over.sweeps.len(), over.forgotten_sequence), (16_384, 2));
}

#[tokio::test]
async fn prefixes_over_the_bound_grow_together_and_cover_no_less() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let texts: Vec<String> =
        (0..200).map(|number| format!("{}/{number}", ["ab", "ac", "x"][number % 3])).collect();
    for text in &texts {
        let how = if text.len() % 2 == 0 { Void::Remove } else { Void::Expire };
        node.announce("", &[(prefix(text), how)]).await;
    }
    let snapshot = node.line.attach().await.unwrap();
    assert!(snapshot.sweeps.len() <= 64 + 2);
    for (sequence, text) in (1..).zip(&texts) {
        let removes = text.len() % 2 == 0;
        let covers = |sweep: &Sweep| {
            let swath = match &sweep.swath {
                Swath::All => true,
                Swath::Prefix(prefix) => text.as_bytes().starts_with(prefix),
                Swath::Tag(_) => false,
            };
            swath && sweep.sequence >= sequence && (!removes || sweep.how == Void::Remove)
        };
        assert!(snapshot.sweeps.iter().any(covers), "{text}");
    }
}

#[tokio::test]
async fn line_of_which_a_part_was_lost_begins_anew() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    for lost in ["line", "tags", "prefixes"] {
        let before = node.announce("", &[(tag("a"), Void::Remove), (prefix("p"), Void::Remove)]).await;
        server.ask::<()>(&format!("DEL {{test:numbers}}:{lost}")).await;
        let after = node.line.attach().await.unwrap();
        assert_ne!(after.mark.incarnation, before.incarnation, "{lost}");
        assert_eq!((after.mark.sequence, after.sweeps.len()), (0, 0), "{lost}");
        assert_eq!(node.line.replay(before).await.unwrap(), None, "{lost}");
    }
    server.ask::<()>("SET {test:numbers}:tags garbage").await;
    assert_eq!(node.announce("", &[(tag("a"), Void::Remove)]).await.sequence, 1);
}

#[tokio::test]
async fn caches_do_not_hear_each_other_and_strangers_are_unreadable() {
    // T65, T79.
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let ears = node.ears().await;
    let other = node.tier.line("other");
    other.pulse(&Bytes::new()).await.unwrap();
    server.ask::<u64>("PUBLISH test:numbers P9whatever").await;
    node.announce("mine", &[]).await;
    eventually("both are heard", async || ears.heard().len() == 2).await;
    assert_eq!(ears.heard()[0], Heard::Unreadable);
    assert_eq!(ears.announcements(), [(1, bytes("mine"))]);
}

#[tokio::test]
async fn listener_that_has_gone_is_unsubscribed() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let ears = node.ears().await;
    let count = async || server.ask::<(String, u64)>("PUBSUB NUMSUB test:numbers").await.1;
    assert_eq!(count().await, 1);
    drop(ears);
    eventually("nobody listens", async || count().await == 0).await;
    let again = node.ears().await;
    node.announce("again", &[]).await;
    eventually("it is heard again", async || again.announcements().len() == 1).await;
}

#[tokio::test]
async fn server_that_takes_no_announcement_takes_no_pulse_that_would_vouch_for_their_absence() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let ears = node.ears().await;
    for (deaf, sound) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ] {
        let before = node.announce("before", &[]).await;
        server.ask::<()>(deaf).await;
        let refused = Announcement { body: bytes("refused"), sweeps: vec![], version: Version::NONE };
        assert_eq!(node.line.announce(&refused).await, Err(TierError::Failed), "{deaf}");
        assert_eq!(node.line.pulse(&bytes("beat")).await, Err(TierError::Failed), "{deaf}");
        server.ask::<()>(sound).await;
        assert_eq!(node.line.pulse(&bytes("beat")).await, Ok(before), "{deaf}");
    }
    let beats = || ears.heard().iter().filter(|heard| matches!(heard, Heard::Pulse { .. })).count();
    eventually("the others are heard", async || beats() == 2).await;
}
