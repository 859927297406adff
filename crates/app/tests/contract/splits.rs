//! A command that the database refuses fails alone: the batch it came in is split until it stands by itself, and everybody
//! else gets the decision that they would have got without it.

use futures_util::future::join_all;
use paystrata_app::engine::{
    CaptureMode, Command, CreatePayment, Decision, EngineError, FraudDecision, PaymentStatus, Rail,
    Submission, Verdict,
};
use paystrata_app::money::Amount;
use uuid::Uuid;

use crate::scene::{count, sql};
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
        keep_refusal: None,
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
