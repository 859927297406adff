//! Servers that restart, hang, or lose connections, and callers who go away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all, poll};
use paystrata_cache::{
    RedisOptions, RedisServers, Version, YoungServer,
    backplane::{Interruption, Swath},
    testkit::whole,
    tier::{Found, Stored, TierError, Void},
};

use super::{
    fixture::{Node, bytes, claim, claimed, eventually, patient, payload, timeless, value},
    proxy::{Mode, Proxy},
    server::Server,
};

fn single(url: String) -> RedisServers {
    RedisServers::Single { url }
}

/// Gives up soon, so that outages are noticed within the test.
fn hasty() -> RedisOptions {
    RedisOptions { command_timeout: Duration::from_millis(200), ..patient() }
}

#[tokio::test]
async fn restarted_server_brings_nothing_old_back() {
    let mut server = Server::start().await;
    let node = Node::on(&server).await;
    let tag = (Swath::Tag("a".into()), Void::Remove);
    node.store("value", "old").await;
    node.take("claim", claim(1)).await;
    node.void("floor", 5, Void::Remove).await;
    let before = node.announce("body", &[tag]).await;
    server.ask::<()>("SAVE").await;
    // After what was saved: lost with the restart.
    node.void("value", 9, Void::Remove).await;
    server.kill();
    eventually("the loss is noticed", async || !node.share.is_up()).await;
    assert_eq!(node.share.read(&[bytes("value")], None).await.and_then(whole), Err(TierError::Down));
    server.run().await;
    node.is_up().await;
    assert!(server.ask::<bool>("EXISTS test:numbers:value").await, "the old data is there");
    assert_eq!(node.look("value").await, Found::Nothing);
    // This node knows that floors may have been lost, a new one takes the server for a first one.
    assert_eq!(node.take("value", claim(2)).await, claimed(u64::MAX, None));
    assert_eq!(node.settle("claim", 1, value("late")).await, Stored::Refused);
    let newcomer = Node::on(&server).await;
    assert_eq!(newcomer.take("floor", claim(3)).await, claimed(5, None));
    let after = node.line.attach().await.unwrap();
    assert_ne!(after.mark.incarnation, before.incarnation);
    assert!(after.sweeps.is_empty());
    assert_eq!(node.line.replay(before).await.unwrap(), None);
}

#[tokio::test]
async fn young_server_is_taken_to_have_lost_floors_unless_told_otherwise() {
    let server = Server::start().await;
    let options = RedisOptions { young_server: YoungServer::Blind, ..patient() };
    let node = Node::up(&single(server.url()), options).await;
    assert_eq!(node.take("k", claim(1)).await, Found::Claimed { floor: Version::LATEST, fallback: None });
    assert_eq!(node.settle("k", 1, value("v")).await, Stored::Yes);
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("v")));
    // Whether a value that is put was overtaken cannot be told: it is not stored, and the old one goes.
    assert_eq!(node.put("k", 7, "put").await, Stored::Refused);
    assert_eq!(node.look("k").await, Found::Nothing);
    // The floor is kept for those who can tell.
    let seeing = Node::on(&server).await;
    assert_eq!(seeing.put("k", 6, "older").await, Stored::Refused);
    assert_eq!(seeing.put("k", 7, "put").await, Stored::Yes);
}

#[tokio::test]
async fn connection_lost_in_full_flight_answers_all_callers() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let node = Arc::new(Node::up(&single(proxy.url()), patient()).await);
    node.store("k", "v").await;
    proxy.all(Mode::HoldReplies);
    let calls = (0..500).map(|number| {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let key = [bytes(&format!("key {number}"))];
            match number % 4 {
                0 => node.share.read(&key, None).await.and_then(whole).err(),
                1 => node.share.read(&key, Some(claim(number))).await.and_then(whole).err(),
                2 => node
                    .share
                    .read(&[&key[..], &[bytes("k")]].concat(), Some(claim(number)))
                    .await
                    .and_then(whole)
                    .err(),
                _ => node.line.pulse(&key[0]).await.err(),
            }
        })
    });
    let calls: Vec<_> = calls.collect();
    // Until some are on their way.
    eventually("requests arrive", async || server.ask::<u64>("DBSIZE").await > 1).await;
    proxy.all(Mode::Cut);
    for call in join_all(calls).await {
        assert!(call.unwrap().is_some(), "there was no answer to give");
    }
    assert!(!node.share.is_up());
    proxy.all(Mode::Pass);
    node.is_up().await;
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("v")));
}

#[tokio::test]
async fn server_that_hangs_is_left_alone_until_it_answers() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let node = Node::up(&single(proxy.url()), hasty()).await;
    node.store("k", "v").await;
    proxy.commands.send_replace(Mode::HoldReplies);
    eventually("the breaker opens", async || {
        let failed = node.share.read(&[bytes("k")], None).await.and_then(whole);
        assert!(
            matches!(failed, Err(TierError::TimedOut | TierError::Failed | TierError::Down)),
            "{failed:?}"
        );
        !node.share.is_up()
    })
    .await;
    assert_eq!(node.share.read(&[bytes("k")], None).await.and_then(whole), Err(TierError::Down));
    proxy.commands.send_replace(Mode::Pass);
    node.is_up().await;
    assert_eq!(timeless(node.look("k").await), Found::Value(payload("v")));
}

#[tokio::test]
async fn silent_subscription_is_noticed_and_replaced() {
    // T61: no FIN, the bytes just stop.
    let server = Server::start().await;
    let proxy = Proxy::to(server.port()).await;
    let node = Node::up(&single(proxy.url()), hasty()).await;
    let ears = node.ears().await;
    let begun = node.announce("before", &[]).await;
    eventually("it is heard", async || ears.announcements().len() == 1).await;
    proxy.subscription.send_replace(Mode::HoldReplies);
    node.announce("unheard", &[]).await;
    eventually("the silence is noticed", async || ears.interruptions().contains(&Interruption::Lost)).await;
    proxy.subscription.send_replace(Mode::Pass);
    let again = [Interruption::Subscribed, Interruption::Lost, Interruption::Subscribed];
    eventually("it hears again", async || ears.interruptions().starts_with(&again)).await;
    assert_eq!(node.line.replay(begun).await.unwrap(), Some(vec![(2, bytes("unheard"))]));
    node.announce("after", &[]).await;
    eventually("it is heard", async || ears.announcements().contains(&(3, bytes("after")))).await;
}

#[tokio::test]
async fn subscription_that_leads_elsewhere_is_noticed_by_the_pulses() {
    let (server, stranger) = (Server::start().await, Server::start().await);
    let proxy = Proxy::to(server.port()).await;
    proxy.lead_subscription_to(stranger.port());
    let node = Node::up(&single(proxy.url()), patient()).await;
    let ears = node.ears().await;
    let pulsing = async {
        loop {
            node.line.pulse(&bytes("beat")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let noticed =
        eventually("deafness is noticed", async || ears.interruptions().contains(&Interruption::Lost));
    tokio::select! {
        () = pulsing => {}
        () = noticed => {}
    }
    proxy.lead_subscription_to(server.port());
    eventually("it hears", async || {
        node.line.pulse(&bytes("beat")).await.unwrap();
        !ears.heard().is_empty()
    })
    .await;
}

/// A worker that waits for the gate may have been the one that looks after the sockets, and the others may sleep: one is
/// woken from time to time until `work` is done.
fn awake_while(work: impl FnOnce()) {
    let (runtime, is_done) = (tokio::runtime::Handle::current(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Relaxed) {
                drop(runtime.spawn(async {}));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        work();
        is_done.store(true, Relaxed);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_that_is_too_slow_is_told_so() {
    // T62.
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let ears = node.ears().await;
    {
        let gate = ears.gate.lock().unwrap();
        let flood = async {
            for _ in 0..100 {
                join_all((0..100).map(|_| node.announce("x", &[]))).await;
            }
        };
        // The gate is held by this thread until the flood is over.
        tokio::task::block_in_place(|| awake_while(|| tokio::runtime::Handle::current().block_on(flood)));
        drop(gate);
    }
    eventually("the overflow is told", async || ears.interruptions().contains(&Interruption::Overflowed))
        .await;
}

#[tokio::test]
async fn future_dropped_at_any_point_leaves_nothing_behind() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    node.store("k", "v").await;
    for round in 0..3_000_u64 {
        let keys = [bytes("k"), bytes(&format!("other {}", round % 7))];
        let keys = &keys[..1 + usize::from(round % 2 == 0)];
        let mut call = node.share.read(keys, Some(claim(round)));
        for _ in 0..round % 6 {
            if poll!(&mut call).is_ready() {
                call = async { Ok(Vec::new()) }.boxed();
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
    }
    // As many at once as there are turns: none was kept.
    let keys = [bytes("k")];
    let answers = join_all((0..2_000).map(|_| node.share.read(&keys, None))).await;
    assert!(answers.into_iter().all(|answer| matches!(answer.unwrap()[0], Ok(Found::Value(_)))));
    assert!(node.tier.is_up());
}

#[tokio::test]
async fn tasks_end_with_the_last_handle() {
    let server = Server::start().await;
    let node = Node::on(&server).await;
    let ears = node.ears().await;
    let Node { tier, share, line } = node;
    drop((tier, line));
    assert_eq!(share.read(&[bytes("k")], None).await.and_then(whole).unwrap(), [Found::Nothing]);
    drop((share, ears));
    // The one that asks is there.
    eventually("the connections are closed", async || {
        server.ask::<String>("CLIENT LIST").await.lines().count() == 1
    })
    .await;
}
