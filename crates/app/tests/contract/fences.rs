//! Fences of gateway operations: once somebody else has taken an operation over, whoever had it before changes nothing,
//! even while the operation is as open as it was. Taking over is done by hand: the resolver would ask the gateway, too.

use paystrata_app::clock::Timestamp;
use paystrata_app::engine::{
    ChargeOutcome, DueOperation, OperationKind, PaymentRecord, count_absence, hand_over,
};
use uuid::Uuid;

use crate::scene::sql;
use crate::states::{Desk, Sent, told, under_way};

/// What the resolver's claim does to one operation; its new fence.
async fn take_over(desk: &Desk, sent: &Sent) -> i32 {
    let claim = "UPDATE gateway_operations SET fence = fence + 1, attempts = attempts + 1 WHERE id = $1 RETURNING fence";
    sql(&desk.stage).await.query_one(claim, &[&sent.id]).await.expect("take over").get(0)
}

/// Everything that a settlement could change: balances, the payment, the operation.
async fn picture(desk: &Desk, payment: &PaymentRecord, sent: &Sent) -> String {
    let text = "SELECT string_agg(row, E'\n' ORDER BY row) FROM (
        SELECT a::text AS row FROM accounts a WHERE merchant_id = $1
        UNION ALL SELECT p::text FROM payments p WHERE merchant_id = $1 AND id = $2
        UNION ALL SELECT o::text FROM gateway_operations o WHERE id = $3) AS rows";
    let ids: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&payment.merchant_id, &payment.id, &sent.id];
    sql(&desk.stage).await.query_one(text, &ids).await.expect("take a picture").get(0)
}

#[tokio::test]
async fn the_outcome_of_the_newer_fence_counts_and_that_of_the_older_does_not() {
    use ChargeOutcome::{Approved, Declined, Held, NotSent, Unknown};
    let desk = Desk::open().await;
    for (kind, late, outcome, expected) in [
        (OperationKind::Purchase, Approved, Declined, "failed"),
        (OperationKind::Purchase, Declined, Approved, "succeeded"),
        (OperationKind::Authorize, NotSent, Approved, "authorized"),
        (OperationKind::Capture, Approved, Declined, "authorized"),
        (OperationKind::Void, Declined, Approved, "cancelled"),
        (OperationKind::Refund, Approved, Declined, "succeeded"),
    ] {
        // What the new holder has learned before the late answer comes: all of these leave the operation open.
        for learned in [None, Some(Unknown), Some(Held)] {
            let case = format!("{kind:?}: {late:?} comes late, {learned:?} is known, {outcome:?} is true");
            let (payment, sent) = under_way(&desk, kind).await;
            let fence = take_over(&desk, &sent).await;
            if let Some(learned) = learned {
                desk.settle(&payment, &sent, learned, fence).await;
            }
            let before = picture(&desk, &payment, &sent).await;
            let overtaken = desk.settle(&payment, &sent, late, sent.fence).await;
            assert_eq!(told(&overtaken), "stale", "{case}");
            assert_eq!(picture(&desk, &payment, &sent).await, before, "{case}");
            let counted = desk.settle(&payment, &sent, outcome, fence).await;
            assert_eq!(told(&counted), expected, "{case}");
        }
    }
    desk.stage.verify().await;
}

fn claimed(payment: &PaymentRecord, id: Uuid, fence: i32) -> DueOperation {
    DueOperation {
        id,
        merchant_id: payment.merchant_id,
        payment_id: payment.id,
        kind: OperationKind::Purchase,
        fence,
        amount: payment.amount,
        reference: String::new(),
        key_digest: None,
        parent_transaction: None,
        transaction: None,
        sent_at: Timestamp::now(),
        age_ms: 0,
        attempts: 1,
        absences: 0,
    }
}

/// A look-up that took longer than its claim must not reopen what was settled meanwhile, nor count as a second denial.
#[tokio::test]
async fn an_overtaken_resolver_hands_nothing_over_and_counts_no_absence() {
    const HANDED_OVER: i16 = 7;
    const SUCCEEDED: i16 = 4;
    let desk = Desk::open().await;
    let (payment, sent) = under_way(&desk, OperationKind::Purchase).await;
    let connection = desk.stage.service.app.db.write().await.expect("reach the primary");
    let read = async || -> (i16, i32) {
        let text = "SELECT status, absences::int4 FROM gateway_operations WHERE id = $1";
        let row = sql(&desk.stage).await.query_one(text, &[&sent.id]).await.expect("read the operation");
        (row.get(0), row.get(1))
    };
    let first = claimed(&payment, sent.id, take_over(&desk, &sent).await);
    count_absence(&connection, &first).await.expect("count");
    assert_eq!(read().await.1, 1, "the holder counts");
    let second = claimed(&payment, sent.id, take_over(&desk, &sent).await);
    count_absence(&connection, &first).await.expect("count");
    assert_eq!(read().await.1, 1, "who was overtaken does not");
    let settled = desk.settle(&payment, &sent, ChargeOutcome::Approved, second.fence).await;
    assert_eq!(told(&settled), "succeeded");
    hand_over(&connection, &first).await.expect("hand over");
    assert_eq!(read().await, (SUCCEEDED, 1), "what is settled stays settled");
    let (payment, sent_too) = under_way(&desk, OperationKind::Purchase).await;
    let holder = claimed(&payment, sent_too.id, take_over(&desk, &sent_too).await);
    hand_over(&connection, &holder).await.expect("hand over");
    let status: i16 = sql(&desk.stage)
        .await
        .query_one("SELECT status FROM gateway_operations WHERE id = $1", &[&sent_too.id])
        .await
        .expect("read the operation")
        .get(0);
    assert_eq!(status, HANDED_OVER, "the holder hands over");
    desk.stage.verify().await;
}
