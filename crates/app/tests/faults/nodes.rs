//! Two nodes and their caches: what one node writes, the other sees at the latest after `max_stale`, and through the
//! backplane mostly at once.

use paystrata_db::{Role, Token};

use crate::ground::{Ground, until};
use crate::proxy::{Mode, Proxy};
use crate::stage::Reply;

/// Far below the time to live of 600 s, so that only the backplane or `max_stale` can make a write seen in time.
const CACHE: [(&str, &str); 2] = [("CACHE__TTL_SECONDS", "600"), ("CACHE__MAX_STALE_MS", "1000")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_sees_what_another_node_paid_although_it_had_cached_the_account() {
    let ground = Ground::new().await;
    let (reader, writer) = (ground.serve(&CACHE).await, ground.serve(&CACHE).await);
    let accounts = writer.caller.accounts(2, 1_000).await;
    for paid in 1..=20 {
        assert_eq!(reader.caller.posted(&accounts[1]).await, 1_000 + paid - 1);
        writer.caller.pay(&accounts[0], &accounts[1], 1).await;
        assert_eq!(writer.caller.posted(&accounts[1]).await, 1_000 + paid);
        let account = &accounts[1];
        until("the payment of the other node", async || {
            (reader.caller.posted(account).await == 1_000 + paid).then_some(())
        })
        .await;
    }
    let stats = reader.service.app.documents.stats();
    assert!(stats[0].1.hits > 0, "the reader never answered from its cache: {stats:?}");
    for node in [reader, writer] {
        node.service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_hears_no_messages_trusts_its_cache_no_longer_than_max_stale() {
    let ground = Ground::new().await;
    let redis_url = crate::stage::service_url("PAYSTRATA_TEST_REDIS_URL");
    let proxy = Proxy::before(&redis_url).await;
    let through = proxy.url(&redis_url);
    let deaf = [("CACHE__REDIS_URL", through.as_str()), CACHE[0], CACHE[1]];
    let (reader, writer) = (ground.serve(&deaf).await, ground.serve(&CACHE).await);
    let accounts = writer.caller.accounts(2, 1_000).await;
    let faults = [Mode::BlackHole, Mode::Refuse, Mode::Forward, Mode::Refuse, Mode::BlackHole];
    for (balance, mode) in (1_000..).zip(faults) {
        until("a read before the fault", async || {
            (reader.caller.posted(&accounts[1]).await == balance).then_some(())
        })
        .await;
        proxy.set(mode);
        writer.caller.pay(&accounts[0], &accounts[1], 1).await;
        until("the payment of the other node", async || {
            (reader.caller.posted(&accounts[1]).await == balance + 1).then_some(())
        })
        .await;
    }
    for node in [reader, writer] {
        node.service.stop().await;
    }
}

/// Nobody tells a node anything where there is no Redis, which is the default: then the age of an entry alone bounds how
/// old it gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_node_serves_nothing_older_than_max_stale() {
    let ground = Ground::new().await;
    let alone = [("CACHE__REDIS_URL", ""), CACHE[0], CACHE[1]];
    let (reader, writer) = (ground.serve(&alone).await, ground.serve(&alone).await);
    let accounts = writer.caller.accounts(2, 1_000).await;
    for paid in 1..=3 {
        until("an answer from the cache", async || {
            let hits = || reader.service.app.documents.stats()[0].1.hits;
            let known = hits();
            reader.caller.posted(&accounts[1]).await;
            (hits() > known).then_some(())
        })
        .await;
        writer.caller.pay(&accounts[0], &accounts[1], 1).await;
        until("the payment of the other node", async || {
            (reader.caller.posted(&accounts[1]).await == 1_000 + paid).then_some(())
        })
        .await;
    }
    for node in [reader, writer] {
        node.service.stop().await;
    }
}

/// A node that never commits anything is told of positions all the same, and must know on which timeline they are: else
/// no replica has ever reached them, and the primary has to serve all that it loads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_only_reads_loads_what_others_changed_from_a_replica() {
    let ground = Ground::new().await;
    let (reader, writer) = (ground.serve(&CACHE).await, ground.serve(&CACHE).await);
    let accounts = writer.caller.accounts(2, 1_000).await;
    let id = uuid_of(&accounts[1]);
    let (said, mut told) = tokio::sync::mpsc::channel(1);
    let (documents, db) = (&reader.service.app.documents, &reader.service.app.db);
    let floor = until("a load because of the other node's payment", async || {
        writer.caller.pay(&accounts[0], &accounts[1], 1).await;
        let said = said.clone();
        let load = move |floor| {
            let said = said.clone();
            async move {
                let _full = said.try_send(floor);
                Ok(None)
            }
        };
        documents.account(id, load).await.expect("it is loaded");
        told.try_recv().ok().flatten()
    })
    .await;
    assert_eq!(floor.timeline, token_of(&writer.caller.pay(&accounts[0], &accounts[1], 1).await).timeline);
    until("a replica at the position", async || {
        let lsn = token_of(&writer.caller.pay(&accounts[0], &accounts[1], 1).await).lsn;
        let read = db.read_after(Token { timeline: floor.timeline, lsn }).await.expect("a connection");
        (read.role() == Role::Replica).then_some(())
    })
    .await;
    for node in [reader, writer] {
        node.service.stop().await;
    }
}

fn uuid_of(account: &str) -> uuid::Uuid {
    account.strip_prefix("acc_").expect("an account's id").parse().expect("32 hexadecimal digits")
}

fn token_of(reply: &Reply) -> Token {
    reply.headers["paystrata-token"].parse().expect("a token")
}
