//! A command that the database refuses fails alone: the batch it came in is split until it stands by itself, and everybody
//! else gets the decision that they would have got without it. Likewise a command whose decision panics; and a lane
//! outlives every panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use paystrata_app::engine::{
    CaptureMode, Command, Commit, CreatePayment, Decision, Engine, EngineConfig, EngineError, EngineObserver,
    FraudDecision, PaymentRecord, PaymentStatus, Rail, Render, Submission, Verdict,
};
use paystrata_app::money::Amount;
use reqwest::StatusCode;
use uuid::Uuid;

use crate::scene::{check_problem, count, new_key, sql, transfer};
use crate::stage::Stage;
use crate::states::account;

fn payment(merchant_id: Uuid, from: Uuid, to: Uuid) -> CreatePayment {
    CreatePayment {
        id: Uuid::now_v7(),
        merchant_id,
        from: Some(from),
        to,
        amount: Amount::new(10).expect("a positive amount"),
        currency: "USD".parse().expect("a currency"),
        rail: Rail::Book,
        capture: CaptureMode::Automatic,
        fraud: FraudDecision { verdict: Verdict::Allow, score: 0, reasons: Vec::new() },
        operation: None,
        merchant_reference: None,
        card_last_four: None,
        metadata: None,
    }
}

#[tokio::test]
async fn a_command_that_the_database_refuses_fails_alone() {
    let stage = Stage::start_with(&[("PAYSTRATA__ENGINE__LANES", "1")]).await;
    let engine = &stage.service.app.engine;
    let merchant = Uuid::now_v7();
    // Enough for nine payments of ten: the last of the eleven good ones must fail, and one before it too.
    let (from, to) = (account(merchant, 95), account(merchant, 0));
    let (from_id, to_id) = (from.id, to.id);
    for open in [from, to] {
        let command = Command::OpenAccount(Box::new(open));
        engine.submit(Submission { claim: None, command }).await.expect("open an account");
    }
    let taken = payment(merchant, from_id, to_id);
    let mut commands: Vec<CreatePayment> = (0..11).map(|_| payment(merchant, from_id, to_id)).collect();
    // Its id is in the table already once the first is committed: no decision could know that.
    commands.insert(0, taken.clone());
    commands.insert(6, taken);
    let replies: Vec<_> = commands
        .into_iter()
        .map(|create| {
            let command = Command::CreatePayment(Box::new(create));
            engine.enqueue(Submission { claim: None, command }).expect("the queue has room")
        })
        .collect();
    let mut told = Vec::new();
    for reply in join_all(replies).await {
        told.push(match reply.expect("the engine lives") {
            Ok(reply) => match reply.decision {
                Decision::Answered(answer) => Ok(answer.payment.expect("a payment").status),
                other => panic!("a book payment is answered: {other:?}"),
            },
            Err(EngineError::Rejected) => Err(()),
            Err(other) => panic!("only the refusal of one command may be told: {other}"),
        });
    }
    assert_eq!(told.iter().filter(|one| one.is_err()).count(), 1, "{told:?}");
    assert!(told[6].is_err() || told[0].is_err(), "one of the two with the same id: {told:?}");
    let succeeded = told.iter().filter(|one| **one == Ok(PaymentStatus::Succeeded)).count();
    assert_eq!(succeeded, 9, "the others are decided in order, as far as the money goes: {told:?}");
    assert_eq!(told[10..], [Ok(PaymentStatus::Failed); 3], "the last three find no money");
    assert_eq!(count(&stage, "SELECT count(*) FROM payments").await, 12);
    stage.verify().await;
}

/// The same, where the command is refused not for its id but for its bytes: what no check of ours foresaw.
#[tokio::test]
async fn bytes_that_no_column_takes_fail_their_command_and_no_other() {
    let stage = Stage::start_with(&[("PAYSTRATA__ENGINE__LANES", "1")]).await;
    let engine = &stage.service.app.engine;
    let merchant = Uuid::now_v7();
    let replies: Vec<_> = (0..20)
        .map(|index| {
            let mut open = account(merchant, 5);
            if index == 13 {
                open.customer = Some("a\0b".to_owned());
            }
            let command = Command::OpenAccount(Box::new(open));
            engine.enqueue(Submission { claim: None, command }).expect("the queue has room")
        })
        .collect();
    let replies = join_all(replies).await;
    let refused: Vec<usize> =
        (0..20).filter(|index| replies[*index].as_ref().expect("the engine lives").is_err()).collect();
    assert_eq!(refused, [13]);
    let row =
        sql(&stage).await.query_one("SELECT sum(posted)::int8 FROM accounts WHERE posted > 0", &[]).await;
    assert_eq!(row.expect("sum the balances").get::<_, i64>(0), 19 * 5);
    stage.verify().await;
}

/// Panics when it is told of the first commit.
#[derive(Debug, Default)]
struct Startled {
    told: AtomicBool,
}

impl EngineObserver for Startled {
    fn committed(&self, _commit: &Commit) {
        assert!(self.told.swap(true, Ordering::Relaxed), "as the test wants it");
    }
}

fn render_or_panic(payment: &PaymentRecord) -> Bytes {
    assert_ne!(payment.merchant_reference.as_deref(), Some("panic"), "as the test wants it");
    (paystrata_app::serve::RENDER.payment)(payment)
}

#[tokio::test]
async fn a_lane_outlives_panics_and_answers_everybody_else() {
    let stage = Stage::start().await;
    let config = EngineConfig { lanes: 1, ..EngineConfig::default() };
    let render = Render { payment: render_or_panic, ..paystrata_app::serve::RENDER };
    let observer: Arc<dyn EngineObserver> = Arc::new(Startled::default());
    let engine = Engine::start(&stage.service.app.db, &config, render, &observer);
    let merchant = Uuid::now_v7();
    let (from, to) = (account(merchant, 100), account(merchant, 0));
    let (from_id, to_id) = (from.id, to.id);
    for open in [from, to] {
        let command = Command::OpenAccount(Box::new(open));
        let reply = engine.submit(Submission { claim: None, command }).await;
        assert!(reply.is_ok(), "committed, whatever became of those who were told: {reply:?}");
    }
    assert_eq!(engine.stats().panics, 1, "the observer's");
    let replies: Vec<_> = (0..5)
        .map(|index| {
            let mut create = payment(merchant, from_id, to_id);
            create.merchant_reference = (index == 2).then(|| "panic".to_owned());
            let command = Command::CreatePayment(Box::new(create));
            engine.enqueue(Submission { claim: None, command }).expect("the queue has room")
        })
        .collect();
    for (index, reply) in join_all(replies).await.into_iter().enumerate() {
        let reply = reply.expect("the lane answers");
        assert_eq!(matches!(reply, Err(EngineError::Rejected)), index == 2, "{index}: {reply:?}");
    }
    assert!(engine.stats().panics > 1);
    assert_eq!(engine.lanes_running(), [true]);
    assert_eq!(count(&stage, "SELECT count(*) FROM payments").await, 4);
    engine.close().await;
    assert_eq!(engine.lanes_running(), [false]);
    stage.verify().await;
}

#[tokio::test]
async fn a_service_whose_engine_has_ended_is_not_ready_and_says_why() {
    let stage = Stage::start().await;
    let url = format!("http://{}/readyz", stage.service.operator_address);
    let ready = || async {
        let response = crate::stage::client().get(&url).send().await.expect("ask the operator listener");
        let status = response.status().as_u16();
        let body = response.bytes().await.expect("read the answer");
        (status, serde_json::from_slice::<serde_json::Value>(&body).expect("JSON"))
    };
    let (status, told) = ready().await;
    assert_eq!((status, &told["lanes"]), (200, &serde_json::json!([true, true])), "{told}");
    for task in ["resolver", "housekeeping", "stats_refresh", "slow_log"] {
        assert_eq!(told["tasks"][task]["running"], true, "{told}");
    }
    stage.service.app.engine.close().await;
    let (status, told) = ready().await;
    assert_eq!((status, &told["lanes"]), (503, &serde_json::json!([false, false])), "{told}");
}

/// Full of what it is asked to keep: no command is at fault, and splitting the batch would only ask more often.
#[tokio::test]
async fn a_server_without_room_is_unavailable_and_no_batch_is_split_for_it() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 1_000).await, stage.account("USD", 0).await);
    let client = sql(&stage).await;
    for (code, meaning) in [("53100", "disk full"), ("53200", "out of memory"), ("57014", "query canceled")] {
        let fail = format!(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN RAISE EXCEPTION '{meaning}' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER no_room BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION no_room()"
        );
        client.batch_execute(&fail).await.expect("change the schema");
        let keys: Vec<String> = (0..8).map(|_| new_key()).collect();
        let body = transfer(&from, &to, 1);
        let replies = join_all(keys.iter().map(|key| stage.post("/v1/payments", key, &body))).await;
        for reply in &replies {
            check_problem(reply, 503, "unavailable", None);
        }
        client.batch_execute("DROP FUNCTION no_room CASCADE").await.expect("change the schema");
        for key in &keys {
            assert_eq!(stage.post("/v1/payments", key, &body).await.status, StatusCode::CREATED, "{meaning}");
        }
    }
    assert_eq!(stage.service.app.engine.stats().splits, 0);
    stage.verify().await;
}
