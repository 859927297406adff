//! Payments in the caches of nodes that did not change them: what one node captures or voids, the others stop showing
//! as it was, told by that node, or by the notice of a commit whose node ended before it could tell. Accounts are the
//! matter of `nodes` and `notices`.

use reqwest::StatusCode;
use serde_json::json;

use crate::binary::Running;
use crate::caller::{Caller, book_payment, new_key, text};
use crate::ground::{Ground, Node, number, until};

/// Neither its life nor silence ends what is in process while the test runs: only word of the change does.
const CACHE: [(&str, &str); 2] = [("CACHE__TTL_SECONDS", "3600"), ("CACHE__MAX_STALE_MS", "600000")];

/// Nothing listens there: a node that is given it shares a cache as far as its commits know, and reaches nobody.
const NOWHERE: &str = "redis://127.0.0.1:1/0";

const AUTHORIZED: &str = "authorized";

/// What is done to an authorised payment, and how it is shown then.
const CHANGES: [(&str, &str); 2] = [("capture", "succeeded"), ("void", "cancelled")];

/// Of payments that are captured, and of others that are voided.
const ROUNDS: usize = 3;

const NOTICES: &str = "SELECT count(*) FROM change_notices";

/// Authorises a payment that is captured by hand, and gives its path.
async fn authorize(caller: &Caller, accounts: &[String]) -> String {
    let mut body = book_payment(&accounts[0], &accounts[1], 1, &new_key());
    body["capture"] = json!(false);
    let reply = caller.insist("/v1/payments", &new_key(), &body).await;
    let payment = reply.json();
    assert_eq!((reply.status, &payment["status"]), (StatusCode::CREATED, &json!(AUTHORIZED)), "{payment}");
    format!("/v1/payments/{}", text(&payment["id"]))
}

async fn change(caller: &Caller, path: &str, verb: &str, after: &str) {
    let reply = caller.insist(&format!("{path}/{verb}"), &new_key(), &json!({})).await;
    let payment = reply.json();
    assert_eq!((reply.status, &payment["status"]), (StatusCode::OK, &json!(after)), "{payment}");
}

/// As the read path shows it.
async fn status(node: &Node, path: &str) -> String {
    let reply = node.caller.read(path).await;
    let payment = reply.json();
    assert_eq!(reply.status, StatusCode::OK, "{payment}");
    text(&payment["status"])
}

/// Until the node has answered from its own memory; every answer before that one, too, must be `expected`.
async fn kept_in_process(node: &Node, path: &str, expected: &str) {
    // Nothing but the reads of this test asks for payments there.
    let hits = || node.service.app.documents.stats()[1].1.hits;
    until("the payment in the node's own memory", async || {
        let known = hits();
        assert_eq!(status(node, path).await, expected);
        (hits() > known).then_some(())
    })
    .await;
}

async fn seen(node: &Node, path: &str, after: &str) {
    until("the change that another node made", async || (status(node, path).await == after).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_sees_what_another_node_did_to_a_payment_although_it_had_it_in_memory() {
    let ground = Ground::new().await;
    let (reader, writer) = (ground.serve(&CACHE).await, ground.serve(&CACHE).await);
    let accounts = writer.caller.accounts(2, 1_000).await;
    for _ in 0..ROUNDS {
        for (verb, after) in CHANGES {
            let path = authorize(&writer.caller, &accounts).await;
            kept_in_process(&reader, &path, AUTHORIZED).await;
            change(&writer.caller, &path, verb, after).await;
            seen(&reader, &path, after).await;
            kept_in_process(&reader, &path, after).await;
        }
    }
    for node in [reader, writer] {
        node.service.stop().await;
    }
}

/// The node that is killed has never reached Redis: nothing but the notices that its commits left can tell the others.
/// One of these finds them and announces them, and the other one hears it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_did_to_payments_and_did_not_live_to_tell_all_others_see() {
    let ground = Ground::new().await;
    let readers = [ground.serve(&CACHE).await, ground.serve(&CACHE).await];
    let mute = ground.settings(&[("CACHE__REDIS_URL", NOWHERE), CACHE[0], CACHE[1]]);
    let mute = Running::start(&mute).await;
    let accounts = mute.caller.accounts(2, 1_000).await;
    let mut payments = Vec::new();
    for (verb, after) in CHANGES {
        let path = authorize(&mute.caller, &accounts).await;
        for reader in &readers {
            kept_in_process(reader, &path, AUTHORIZED).await;
        }
        payments.push((path, verb, after));
    }
    for (path, verb, after) in &payments {
        change(&mute.caller, path, verb, after).await;
    }
    mute.kill().await;
    for reader in &readers {
        for (path, _, after) in &payments {
            seen(reader, path, after).await;
        }
    }
    // Until then a reader that loses its memory for another reason may take the old payment from Redis again.
    until("an end of the notices", async || (number(&ground.primary_url, NOTICES).await == 0).then_some(()))
        .await;
    for reader in &readers {
        for (path, _, after) in &payments {
            kept_in_process(reader, path, after).await;
        }
    }
    for node in readers {
        node.service.stop().await;
    }
}
