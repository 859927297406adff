//! The whole service behind PgBouncer in transaction mode: its pooled traffic meets sessions that belong to nobody, the
//! ledger's own sessions go around it, and a pooler that is away costs reads and no payment.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::bouncer::{Bouncer, SERVERS};
use crate::caller::{Caller, new_key};
use crate::ground::{Ground, number, seeded, until};
use crate::load::{Crowd, OnTrouble, Plan, Told, prove};
use crate::proxy::{Mode, Proxy};

const OPENING_BALANCE: i64 = 1_000;

/// Every kind of read that the contract has.
async fn read_everything(caller: &Caller, account: &str, payment: &str, token: &str) {
    for path in [
        format!("/v1/accounts/{account}"),
        format!("/v1/accounts/{account}/entries"),
        "/v1/accounts".to_owned(),
        format!("/v1/payments/{payment}"),
        "/v1/payments?status=succeeded".to_owned(),
        "/v1/merchants/me/stats".to_owned(),
        "/v1/ledger/trial-balance".to_owned(),
    ] {
        let reply = caller.get_after(&path, token).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.json());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_behind_one_pooler_conserve_money_and_show_every_write() {
    let mut random = seeded();
    let ground = Ground::new().await;
    let bouncer = Bouncer::start(&ground.primary_url, "transaction", "");
    let pooler_url = bouncer.through(&ground.primary_url);
    // Without caches and replicas every read goes through the pooler.
    let changes =
        [("DB__POOLER_URL", pooler_url.as_str()), ("DB__REPLICA_URLS", ""), ("CACHE__ENABLED", "false")];
    let nodes = [ground.serve(&changes).await, ground.serve(&changes).await];
    let seen = nodes[0].service.app.db.pooler().await.expect("its console answers").expect("there is one");
    assert_eq!(seen.mode, paystrata_db::PoolerMode::Transaction);

    let callers = nodes.each_ref().map(|node| node.caller.clone());
    let accounts = callers[0].accounts(6, OPENING_BALANCE).await;
    let plan =
        Plan { accounts: accounts.clone(), clients: 32, payments_each: 20, on_trouble: OnTrouble::Stay };
    let crowd = Crowd::start(&callers, &plan, &mut random);
    for round in 0..20 {
        let [writer, reader] =
            if round % 2 == 0 { [&callers[0], &callers[1]] } else { [&callers[1], &callers[0]] };
        let body = json!({"currency": "USD", "opening_balance": 50 + round});
        let opened = writer.post("/v1/accounts", &new_key(), &body).await.expect("an answer");
        let account = opened.json()["id"].as_str().expect("an account has an id").to_owned();
        let body = json!({"from": account, "to": accounts[0], "amount": 1, "currency": "USD"});
        let paid = writer.post("/v1/payments", &new_key(), &body).await.expect("an answer");
        assert_eq!((paid.status, &paid.json()["status"]), (StatusCode::CREATED, &json!("succeeded")));
        let payment = paid.json()["id"].as_str().expect("a payment has an id").to_owned();
        let token = &paid.headers["paystrata-token"];
        let balance: Value = reader.get_after(&format!("/v1/accounts/{account}"), token).await.json();
        assert_eq!(balance["balance"]["posted"], json!(49 + round), "{balance}");
        read_everything(reader, &account, &payment, token).await;
    }
    let mut asked = crowd.finish().await;
    for one in &asked {
        assert!(matches!(one.told, Told::Done(_)), "no fault explains {:?}", one.told);
    }
    let payments_of_this_test = format!(
        "UPDATE payments SET merchant_reference = NULL WHERE merchant_reference NOT IN ({})",
        asked.iter().map(|one| format!("'{}'", one.key)).collect::<Vec<_>>().join(", ")
    );
    crate::ground::sql(&ground.primary_url, &payments_of_this_test).await;
    prove(&callers[1], &ground.primary_url, &mut asked).await;
    ground.verify().await;

    let pooled = "SELECT count(*) FROM pg_stat_activity \
                  WHERE datname = current_database() AND application_name = 'paystrata'";
    let servers = number(&ground.primary_url, pooled).await;
    assert!((1..=i64::from(SERVERS)).contains(&servers), "{servers} connections of the pooler");
    for node in nodes {
        node.service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_is_away_stops_no_payment_and_is_used_again_when_it_is_back() {
    let ground = Ground::new().await;
    let bouncer = Bouncer::start(&ground.primary_url, "transaction", "");
    let through = bouncer.through(&ground.primary_url);
    let proxy = Proxy::before(&through).await;
    let node = ground
        .serve(&[
            ("DB__POOLER_URL", &proxy.url(&through)),
            ("DB__REPLICA_URLS", ""),
            ("CACHE__ENABLED", "false"),
            ("DB__ACQUIRE_TIMEOUT_MS", "300"),
        ])
        .await;
    let accounts = node.caller.accounts(2, OPENING_BALANCE).await;
    let path = format!("/v1/accounts/{}", accounts[1]);
    let mut balance = OPENING_BALANCE;
    for mode in [Mode::Refuse, Mode::BlackHole] {
        assert_eq!(node.caller.posted(&accounts[1]).await, balance);
        proxy.set(mode);
        for _ in 0..10 {
            node.caller.pay(&accounts[0], &accounts[1], 1).await;
            balance += 1;
        }
        let refused = node.caller.get(&path).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{mode:?}: {}", refused.json());
        proxy.set(Mode::Forward);
        let found = until("a read through the pooler", async || {
            let reply = node.caller.get(&path).await;
            (reply.status == StatusCode::OK).then(|| reply.json())
        });
        assert_eq!(found.await["balance"]["posted"], json!(balance), "{mode:?}");
    }
    ground.verify().await;
    node.service.stop().await;
}
