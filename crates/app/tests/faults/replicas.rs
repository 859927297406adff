//! P7: a replica that lags, hangs or dies never makes a write unseen by whoever carries its token, nor by plain reads on
//! the node that wrote.

use paystrata_db::{Role, Token};
use reqwest::StatusCode;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::caller::text;
use crate::cluster::{Cluster, Replica};
use crate::ground::{Ground, Node, rows, seeded, until};
use crate::load::{Crowd, OnTrouble, Plan, Told, prove};
use crate::proxy::{Mode, Proxy};

const WRITES: i64 = 15;

/// Pays again and again; after each payment both nodes must see it by its token, and the writer also without.
async fn write_and_read(writer: &Node, other: &Node, from: &str, to: &str) {
    let before = writer.caller.posted(to).await;
    for paid in 1..=WRITES {
        // Cached before the write on both nodes, so that only what voids the copy can make the write seen.
        other.caller.posted(to).await;
        writer.caller.posted(to).await;
        let reply = writer.caller.pay(from, to, 1).await;
        let token = reply.headers.get("paystrata-token").expect("a write gives a token");
        let expected = json!(before + paid);
        let path = format!("/v1/accounts/{to}");
        assert_eq!(
            writer.caller.get(&path).await.json()["balance"]["posted"],
            expected,
            "plain, on the writer"
        );
        for node in [writer, other] {
            let seen = node.caller.get_after(&path, token).await.json();
            assert_eq!(seen["balance"]["posted"], expected, "by its token");
            let payment = format!("/v1/payments/{}", text(&reply.json()["id"]));
            assert_eq!(node.caller.get_after(&payment, token).await.json(), reply.json());
            assert_eq!(node.caller.get(&payment).await.json(), reply.json());
            let entries = node.caller.get_after(&format!("{path}/entries"), token).await.json();
            assert_eq!(entries["data"][0]["balance_after"], expected, "{entries}");
            let list = node.caller.get_after("/v1/payments", token).await.json();
            assert_eq!(list["data"][0]["id"], reply.json()["id"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_replaying_hides_no_write() {
    let cluster = Cluster::start(Replica::With);
    let ground = Ground::on(&cluster.primary_url(), &cluster.replica_url()).await;
    let (writer, other) = (ground.serve(&[]).await, ground.serve(&[]).await);
    let accounts = writer.caller.accounts(2, 1_000).await;
    // Both accounts can be read from the replica before it stops.
    until("the accounts on the replica", async || {
        let found =
            rows(&cluster.replica_url(), "SELECT 1 FROM account_profiles WHERE kind <> 'external'").await;
        (found.len() == 2).then_some(())
    })
    .await;
    cluster.pause_replay().await;
    write_and_read(&writer, &other, &accounts[0], &accounts[1]).await;
    cluster.resume_replay().await;
    write_and_read(&writer, &other, &accounts[0], &accounts[1]).await;
    tokio::task::block_in_place(|| cluster.crash_replica());
    write_and_read(&writer, &other, &accounts[0], &accounts[1]).await;
    for node in [writer, other] {
        node.service.stop().await;
    }
    ground.verify().await;
}

/// With caches off, every plain read of the load wants the replica.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_and_returns_under_load_fails_no_request() {
    let mut random = seeded();
    let cluster = Cluster::start(Replica::With);
    let ground = Ground::on(&cluster.primary_url(), &cluster.replica_url()).await;
    let node = ground.serve(&[("CACHE__ENABLED", "false")]).await;
    let accounts = node.caller.accounts(6, 100_000).await;
    let path = format!("/v1/accounts/{}", accounts[0]);
    let plan = Plan { accounts, clients: 16, payments_each: usize::MAX, on_trouble: OnTrouble::Stay };
    let crowd = Crowd::start(std::slice::from_ref(&node.caller), &plan, &mut random);
    let stop = CancellationToken::new();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (caller, path, stop) = (node.caller.clone(), path.clone(), stop.clone());
            tokio::spawn(async move {
                let mut read = 0_u64;
                while !stop.is_cancelled() {
                    let reply = caller.get(&path).await;
                    assert_eq!(reply.status, StatusCode::OK, "{}", reply.json());
                    read += 1;
                }
                read
            })
        })
        .collect();
    for _ in 0..2 {
        crowd.progress(100).await;
        tokio::task::block_in_place(|| cluster.crash_replica());
        crowd.progress(100).await;
        tokio::task::block_in_place(|| cluster.boot_replica());
    }
    crowd.progress(100).await;
    stop.cancel();
    for reader in readers {
        assert!(reader.await.expect("every read is answered") > 0);
    }
    let mut asked = crowd.end().await;
    assert!(
        asked.iter().all(|one| matches!(one.told, Told::Done(_))),
        "a replica is no reason to refuse a payment"
    );
    prove(&node.caller, &ground.primary_url, &mut asked).await;
    ground.verify().await;
    node.service.stop().await;
}

/// The token that a reader holds may be of an older write than the one that opened the account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_token_hides_no_account_that_the_replica_has_not_seen() {
    let cluster = Cluster::start(Replica::With);
    let ground = Ground::on(&cluster.primary_url(), &cluster.replica_url()).await;
    let node = ground.serve(&[]).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let paid = node.caller.pay(&accounts[0], &accounts[1], 1).await;
    let token = paid.headers.get("paystrata-token").expect("a write gives a token");
    let older: Token = token.parse().expect("a token of ours");
    let on_replica = async || {
        let served = node.service.app.db.read_after(older).await.ok()?;
        (served.role() == Role::Replica).then_some(())
    };
    until("a read from the replica", on_replica).await;
    cluster.pause_replay().await;
    let opened = node.caller.account(500).await;
    until("a read from the replica", on_replica).await;
    for path in ["", "/entries"] {
        let reply = node.caller.get_after(&format!("/v1/accounts/{opened}{path}"), token).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.json());
    }
    cluster.resume_replay().await;
    node.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_hides_no_write() {
    let mut ground = Ground::new().await;
    let proxy = Proxy::before(&ground.replica_url).await;
    ground.replica_url = proxy.url(&ground.replica_url);
    let (writer, other) = (ground.serve(&[]).await, ground.serve(&[]).await);
    let accounts = writer.caller.accounts(2, 1_000).await;
    write_and_read(&writer, &other, &accounts[0], &accounts[1]).await;
    for mode in [Mode::BlackHole, Mode::Refuse, Mode::Forward] {
        proxy.set(mode);
        write_and_read(&writer, &other, &accounts[0], &accounts[1]).await;
    }
    for node in [writer, other] {
        node.service.stop().await;
    }
}
