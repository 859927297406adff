//! Rows turned into columns: the array parameters of the set-based statements. One struct per statement that has many.
//! Knows the shapes of the statements in `write`, and nothing of what the rows mean.

use time::OffsetDateTime;
use uuid::Uuid;

use super::book::{EntryRow, EventRow, NewOperation, NewPayment};
use super::command::Verdict;
use super::model::PaymentRecord;

/// Columns of `INSERT INTO payments`.
#[derive(Default)]
pub(super) struct PaymentColumns<'rows> {
    pub(super) id: Vec<Uuid>,
    pub(super) merchant_id: Vec<Uuid>,
    pub(super) from: Vec<Uuid>,
    pub(super) to: Vec<Uuid>,
    pub(super) amount: Vec<i64>,
    pub(super) captured: Vec<i64>,
    pub(super) currency: Vec<i16>,
    pub(super) rail: Vec<i16>,
    pub(super) status: Vec<i16>,
    pub(super) failure: Vec<i16>,
    pub(super) capture: Vec<i16>,
    pub(super) fraud_verdict: Vec<i16>,
    pub(super) fraud_score: Vec<i16>,
    pub(super) merchant_reference: Vec<Option<&'rows str>>,
    pub(super) card_last_four: Vec<Option<&'rows str>>,
    pub(super) metadata: Vec<Option<&'rows str>>,
}

impl<'rows> PaymentColumns<'rows> {
    pub(super) fn of(rows: &'rows [NewPayment]) -> Self {
        let mut columns = Self::default();
        for NewPayment { record, fraud } in rows {
            columns.id.push(record.id);
            columns.merchant_id.push(record.merchant_id);
            columns.from.push(record.from);
            columns.to.push(record.to);
            columns.amount.push(record.amount);
            columns.captured.push(record.captured);
            columns.currency.push(record.currency.numeric());
            columns.rail.push(record.rail.code());
            columns.status.push(record.status.code());
            columns.failure.push(record.failure.map_or(0, super::FailureCode::code));
            columns.capture.push(record.capture.code());
            columns.fraud_verdict.push(verdict_code(fraud.verdict));
            columns.fraud_score.push(fraud.score);
            columns.merchant_reference.push(record.merchant_reference.as_deref());
            columns.card_last_four.push(record.card_last_four.as_deref());
            columns.metadata.push(record.metadata.as_deref());
        }
        columns
    }
}

/// How a verdict is stored.
pub(super) fn verdict_code(verdict: Verdict) -> i16 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Reject => 1,
    }
}

/// Columns of `UPDATE payments`.
#[derive(Default)]
pub(super) struct ChangeColumns<'rows> {
    pub(super) merchant_id: Vec<Uuid>,
    pub(super) id: Vec<Uuid>,
    pub(super) captured: Vec<i64>,
    pub(super) refunded: Vec<i64>,
    pub(super) refunding: Vec<i64>,
    pub(super) status: Vec<i16>,
    pub(super) failure: Vec<i16>,
    pub(super) outcome: Vec<i16>,
    pub(super) version: Vec<i32>,
    pub(super) updated_at: Vec<Option<OffsetDateTime>>,
    pub(super) gateway_transaction: Vec<Option<&'rows str>>,
}

impl<'rows> ChangeColumns<'rows> {
    pub(super) fn of(rows: impl Iterator<Item = &'rows PaymentRecord>) -> Self {
        let mut columns = Self::default();
        for record in rows {
            columns.merchant_id.push(record.merchant_id);
            columns.id.push(record.id);
            columns.captured.push(record.captured);
            columns.refunded.push(record.refunded);
            columns.refunding.push(record.refunding);
            columns.status.push(record.status.code());
            columns.failure.push(record.failure.map_or(0, super::FailureCode::code));
            columns.outcome.push(record.outcome.map_or(0, super::ChargeOutcome::code));
            columns.version.push(record.version);
            columns.updated_at.push(record.updated_at.map(crate::clock::Timestamp::to_datetime));
            columns.gateway_transaction.push(record.gateway_transaction.as_deref());
        }
        columns
    }
}

/// Columns of `INSERT INTO entries`.
#[derive(Default)]
pub(super) struct EntryColumns {
    pub(super) id: Vec<Uuid>,
    pub(super) payment_id: Vec<Option<Uuid>>,
    pub(super) debit_account: Vec<Uuid>,
    pub(super) credit_account: Vec<Uuid>,
    pub(super) amount: Vec<i64>,
    pub(super) debit_seq: Vec<i64>,
    pub(super) credit_seq: Vec<i64>,
    pub(super) debit_after: Vec<i64>,
    pub(super) credit_after: Vec<i64>,
}

impl EntryColumns {
    pub(super) fn of(rows: &[EntryRow]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.id.push(row.id);
            columns.payment_id.push(row.payment_id);
            columns.debit_account.push(row.debit_account);
            columns.credit_account.push(row.credit_account);
            columns.amount.push(row.amount);
            columns.debit_seq.push(row.debit_seq);
            columns.credit_seq.push(row.credit_seq);
            columns.debit_after.push(row.debit_after);
            columns.credit_after.push(row.credit_after);
        }
        columns
    }
}

/// Columns of `INSERT INTO outbox`.
#[derive(Default)]
pub(super) struct EventColumns<'rows> {
    pub(super) payment_id: Vec<Uuid>,
    pub(super) sequence: Vec<i32>,
    pub(super) status: Vec<i16>,
    pub(super) reason: Vec<i16>,
    pub(super) evidence: Vec<Option<&'rows str>>,
}

impl<'rows> EventColumns<'rows> {
    pub(super) fn of(rows: &'rows [EventRow]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.payment_id.push(row.payment_id);
            columns.sequence.push(row.sequence);
            columns.status.push(row.status.code());
            columns.reason.push(row.reason.code());
            columns.evidence.push(row.evidence.as_deref());
        }
        columns
    }
}

/// Columns of `INSERT INTO gateway_operations`.
#[derive(Default)]
pub(super) struct OperationColumns<'rows> {
    pub(super) id: Vec<Uuid>,
    pub(super) merchant_id: Vec<Uuid>,
    pub(super) payment_id: Vec<Uuid>,
    pub(super) kind: Vec<i16>,
    pub(super) rail: Vec<i16>,
    pub(super) amount: Vec<i64>,
    pub(super) reference: Vec<&'rows str>,
    pub(super) key_digest: Vec<Option<Uuid>>,
    pub(super) parent_transaction: Vec<Option<&'rows str>>,
    pub(super) card_last_four: Vec<Option<&'rows str>>,
    pub(super) lease_ms: Vec<i64>,
}

impl<'rows> OperationColumns<'rows> {
    pub(super) fn of(rows: &'rows [NewOperation]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.id.push(row.plan.id);
            columns.merchant_id.push(row.merchant_id);
            columns.payment_id.push(row.payment_id);
            columns.kind.push(row.kind.code());
            columns.rail.push(row.rail.code());
            columns.amount.push(row.amount);
            columns.reference.push(&row.plan.reference);
            columns.key_digest.push(row.key_digest);
            columns.parent_transaction.push(row.parent_transaction.as_deref());
            columns.card_last_four.push(row.card_last_four.as_deref());
            columns.lease_ms.push(row.plan.lease_ms);
        }
        columns
    }
}
