//! Between the commit and the word of it: a node is killed after Postgres has committed and before it knows. Other nodes, and
//! the same one when it is back, must not go on reading what the shared cache still has.

use crate::binary::Running;
use crate::caller::{book_payment, new_key};
use crate::ground::{Ground, Node, number, sql, until};
use crate::proxy::{Mode, Proxy, Trap};
use crate::stage::Settings;

/// Far beyond what a test waits for anything: neither the end of an entry's life nor a flush of what is in process (after a
/// second of silence) makes the old record go away in Redis.
const CACHE: [(&str, &str); 2] = [("CACHE__TTL_SECONDS", "600"), ("CACHE__MAX_STALE_MS", "1000")];

const NOTICES: &str = "SELECT count(*) FROM change_notices";

/// A node whose connection to the database can be cut at its commit, and two accounts.
struct Victim {
    running: Running,
    proxy: Proxy,
    settings: Settings,
    direct_url: String,
    accounts: Vec<String>,
    /// Bytes that the server answers to one payment with.
    answer_bytes: usize,
}

impl Victim {
    async fn start(ground: &Ground) -> Self {
        let settings =
            ground.settings(&[("DB__REPLICA_URLS", ""), ("ENGINE__LANES", "1"), CACHE[0], CACHE[1]]);
        let proxy = Proxy::before(&ground.primary_url).await;
        let mut cut = settings.clone();
        cut.insert("PAYSTRATA__DB__PRIMARY_URL".to_owned(), proxy.url(&ground.primary_url));
        let running = Running::start(&cut).await;
        let accounts = running.caller.accounts(2, 1_000).await;
        running.caller.pay(&accounts[0], &accounts[1], 1).await;
        let (_, before) = proxy.carried();
        running.caller.pay(&accounts[0], &accounts[1], 1).await;
        let answer_bytes = proxy.carried().1 - before;
        Self { running, proxy, settings, direct_url: ground.primary_url.clone(), accounts, answer_bytes }
    }

    /// Pays once more and dies when the payment is committed, before it has learned that it is.
    async fn pay_and_die(self) -> (Settings, Vec<String>) {
        let committed = "SELECT count(*) FROM payments";
        let before = number(&self.direct_url, committed).await;
        let mut sprung = self.proxy.arm(Trap::CutDownAndRefuse(self.answer_bytes - 1));
        let key = new_key();
        let body = book_payment(&self.accounts[0], &self.accounts[1], 1, &key);
        let caller = self.running.caller.clone();
        let asked = tokio::spawn(async move { caller.post("/v1/payments", &key, &body).await });
        sprung.wait().await;
        self.running.kill().await;
        asked.await.expect("the request ends");
        until("the commit", async || (number(&self.direct_url, committed).await == before + 1).then_some(()))
            .await;
        (self.settings, self.accounts)
    }
}

/// Until the account lies in Redis, and is served from there or from process.
async fn cached(node: &Node, account: &str, posted: i64) {
    until("the account in the shared cache", async || {
        let stored =
            || node.service.app.documents.stats()[0].1.tiers.iter().map(|tier| tier.stored).sum::<u64>();
        let hits = || node.service.app.documents.stats()[0].1.hits;
        let known = hits();
        assert_eq!(node.caller.posted(account).await, posted);
        (stored() > 0 && hits() > known).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_committed_and_did_not_live_to_tell_is_told_by_another() {
    let ground = Ground::new().await;
    let victim = Victim::start(&ground).await;
    let reader = ground.serve(&CACHE).await;
    let account = victim.accounts[1].clone();
    cached(&reader, &account, 1_002).await;
    victim.pay_and_die().await;
    until("the payment of the node that died", async || {
        (reader.caller.posted(&account).await == 1_003).then_some(())
    })
    .await;
    until("an end of its notice", async || (number(&ground.primary_url, NOTICES).await == 0).then_some(()))
        .await;
    reader.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_committed_and_did_not_live_to_tell_it_tells_when_it_is_back() {
    let ground = Ground::new().await;
    let victim = Victim::start(&ground).await;
    let account = victim.accounts[1].clone();
    // A node that has the account stored in Redis, and is gone before the payment: nobody is left to tell.
    let other = ground.serve(&CACHE).await;
    cached(&other, &account, 1_002).await;
    other.service.stop().await;
    let (settings, _) = victim.pay_and_die().await;
    let back = Running::start(&settings).await;
    until("the payment of its last life", async || {
        (back.caller.posted(&account).await == 1_003).then_some(())
    })
    .await;
    until("an end of its notice", async || (number(&ground.primary_url, NOTICES).await == 0).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_that_nobody_can_be_told_of_stay_bounded_and_are_told_when_redis_is_back() {
    let ground = Ground::new().await;
    let redis_url = crate::stage::service_url("PAYSTRATA_TEST_REDIS_URL");
    let proxy = Proxy::before(&redis_url).await;
    let through = proxy.url(&redis_url);
    let node = ground.serve(&[("CACHE__REDIS_URL", through.as_str()), CACHE[0], CACHE[1]]).await;
    let accounts = node.caller.accounts(2, 1_000).await;
    let account = &accounts[1];
    cached(&node, account, 1_000).await;
    proxy.set(Mode::BlackHole);
    node.caller.pay(&accounts[0], account, 1).await;
    // As if others had committed for minutes; their nodes are gone.
    let many = "INSERT INTO change_notices (id, accounts) SELECT gen_random_uuid(), '{}' FROM generate_series(1, 10000)";
    sql(&ground.primary_url, many).await;
    until("one notice in the place of many", async || {
        let anything = "SELECT count(*) FROM change_notices WHERE accounts IS NULL";
        let is_one = number(&ground.primary_url, anything).await == 1;
        (is_one && number(&ground.primary_url, NOTICES).await == 1).then_some(())
    })
    .await;
    proxy.set(Mode::Forward);
    until("an end of all notices", async || (number(&ground.primary_url, NOTICES).await == 0).then_some(()))
        .await;
    assert_eq!(node.caller.posted(account).await, 1_001);
    node.service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_leave_one_notice_each_only_where_nodes_share_a_cache() {
    let ground = Ground::new().await;
    let alone = ground.serve(&[("CACHE__REDIS_URL", "")]).await;
    let accounts = alone.caller.accounts(2, 1_000).await;
    // Keeps a copy of all that is ever written, whoever deletes it.
    let copy = "CREATE TABLE kept AS SELECT * FROM change_notices;
        CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO kept SELECT NEW.*; RETURN NEW; END $$;
        CREATE TRIGGER keep AFTER INSERT ON change_notices FOR EACH ROW EXECUTE FUNCTION keep()";
    sql(&ground.primary_url, copy).await;
    alone.caller.pay(&accounts[0], &accounts[1], 1).await;
    assert_eq!(number(&ground.primary_url, "SELECT count(*) FROM kept").await, 0);
    alone.service.stop().await;
    let sharing = ground.serve(&CACHE).await;
    for _ in 0..5 {
        sharing.caller.pay(&accounts[0], &accounts[1], 1).await;
    }
    let written = "SELECT count(*) FROM kept WHERE cardinality(accounts) = 2";
    assert_eq!(number(&ground.primary_url, written).await, 5);
    until("an end of all notices", async || (number(&ground.primary_url, NOTICES).await == 0).then_some(()))
        .await;
    sharing.service.stop().await;
}
