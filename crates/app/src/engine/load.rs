//! Loads and locks what a batch of commands needs: its keys, then payments, operations and accounts, each set locked in
//! sorted order. All statements leave in one flight. Two batches therefore never wait for each other in a circle:
//! every batch takes payments before operations before accounts before keys, and each of them in ascending order.

use bytes::Bytes;
use futures_util::try_join;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use super::book::{AccountRow, Book, KeyRow, OperationRow, RowState, external_account};
use super::command::{Command, CreatePayment, Evidence, Submission};
use super::model::{
    AccountStatus, CaptureMode, ChargeOutcome, FailureCode, OperationKind, OperationStatus, PaymentRecord,
    PaymentStatus, Rail, UnknownCode,
};
use crate::money::{Currency, UnknownCurrency};

const SELECT_KEYS: &str = "SELECT digest, resource_id, fingerprint, status_code, answer
   FROM idempotency_keys WHERE digest = ANY($1)";

/// Columns of a payment, in the order [`payment_from_row`] reads them.
pub(crate) const PAYMENT_COLUMNS: &str = "p.id, p.merchant_id, p.from_account, p.to_account, p.amount, p.captured,
   p.refunded, p.refunding, p.updated_at, p.version, p.currency, p.rail, p.status, p.failure, p.outcome, p.capture,
   p.merchant_reference, p.gateway_transaction, p.card_last_four, p.metadata";

const LOCK_PAYMENTS: &str = "FROM unnest($1::uuid[], $2::uuid[]) AS wanted (merchant_id, id)
   JOIN payments p ON p.merchant_id = wanted.merchant_id AND p.id = wanted.id
  ORDER BY p.id FOR NO KEY UPDATE OF p";

const LOCK_OPERATIONS: &str = "SELECT id, kind, status, fence, amount, transaction
   FROM gateway_operations WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

const LOCK_ACCOUNTS: &str =
    "SELECT id, merchant_id, posted, held, overdraft_limit, entry_count, currency, status
   FROM accounts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Why a batch could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("query")]
    Query(#[from] tokio_postgres::Error),
    #[error("read a stored code")]
    Code(#[from] UnknownCode),
    #[error("read a stored currency")]
    Currency(#[from] UnknownCurrency),
}

/// The prepared statements of this step.
#[derive(Debug)]
pub(super) struct LoadStatements {
    begin: Statement,
    keys: Statement,
    payments: Statement,
    operations: Statement,
    accounts: Statement,
    xid: Statement,
}

impl LoadStatements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let ids = [Type::UUID_ARRAY];
        let pairs = [Type::UUID_ARRAY, Type::UUID_ARRAY];
        let payments = format!("SELECT {PAYMENT_COLUMNS} {LOCK_PAYMENTS}");
        let (begin, keys, payments, operations, accounts, xid) = try_join!(
            client.prepare("BEGIN ISOLATION LEVEL READ COMMITTED"),
            client.prepare_typed(SELECT_KEYS, &ids),
            client.prepare_typed(&payments, &pairs),
            client.prepare_typed(LOCK_OPERATIONS, &ids),
            client.prepare_typed(LOCK_ACCOUNTS, &ids),
            client.prepare("SELECT pg_current_xact_id()::text"),
        )?;
        Ok(Self { begin, keys, payments, operations, accounts, xid })
    }
}

/// What a batch needs, each list sorted and without repeats.
#[derive(Debug, Default)]
pub(super) struct Needs {
    keys: Vec<Uuid>,
    /// Owner and id.
    pub(super) payments: Vec<(Uuid, Uuid)>,
    pub(super) operations: Vec<Uuid>,
    pub(super) accounts: Vec<Uuid>,
}

impl Needs {
    pub(super) fn of<'jobs>(submissions: impl Iterator<Item = &'jobs Submission>) -> Self {
        let mut needs = Self::default();
        for submission in submissions {
            needs.keys.extend(submission.claim.as_ref().map(|claim| claim.digest));
            needs.add(&submission.command);
        }
        needs.keys.sort_unstable();
        needs.keys.dedup();
        // By payment id alone, which is the order that `LOCK_PAYMENTS` locks in.
        needs.payments.sort_unstable_by_key(|(_, id)| *id);
        needs.payments.dedup();
        needs.operations.sort_unstable();
        needs.operations.dedup();
        needs.accounts.sort_unstable();
        needs.accounts.dedup();
        needs
    }

    fn add(&mut self, command: &Command) {
        match command {
            Command::OpenAccount(open) if open.opening_balance.is_some() => {
                self.accounts.push(external_account(open.merchant_id, open.currency));
            }
            Command::OpenAccount(_) | Command::Pin(_) => {}
            Command::CreatePayment(create) => self.add_payment(create),
            Command::CreateAll(group) => {
                for (claim, create) in &group.members {
                    self.keys.push(claim.digest);
                    self.add_payment(create);
                }
            }
            Command::Capture(capture) => self.add_existing(&capture.payment),
            Command::Void(void) => self.add_existing(&void.payment),
            Command::Refund(refund) => self.add_existing(&refund.payment),
            Command::Settle(settlement) => {
                self.keys.extend(settlement.key_digest);
                self.operations.push(settlement.operation_id);
                self.add_existing(&settlement.payment);
            }
        }
    }

    fn add_payment(&mut self, create: &CreatePayment) {
        let from = create.from.unwrap_or_else(|| external_account(create.merchant_id, create.currency));
        self.accounts.extend([from, create.to]);
    }

    fn add_existing(&mut self, payment: &PaymentRecord) {
        self.payments.push((payment.merchant_id, payment.id));
        self.accounts.extend([payment.from, payment.to]);
    }
}

/// Begins the transaction, locks what the submissions need, fills the book, and gives the transaction's id, by which
/// the fate of a broken COMMIT can be asked for later.
pub(super) async fn load<'jobs>(
    client: &Client,
    statements: &LoadStatements,
    submissions: impl Iterator<Item = &'jobs Submission>,
    book: &mut Book,
) -> Result<String, LoadError> {
    let needs = Needs::of(submissions);
    let (merchants, payments): (Vec<Uuid>, Vec<Uuid>) = needs.payments.iter().copied().unzip();
    // Polled in this order, so sent in this order.
    let (_, xid, keys, payments, operations, accounts) = try_join!(
        client.execute(&statements.begin, &[]),
        client.query_one(&statements.xid, &[]),
        query_some(client, &statements.keys, &needs.keys),
        async {
            if payments.is_empty() {
                return Ok(Vec::new());
            }
            client.query(&statements.payments, &[&merchants, &payments]).await
        },
        query_some(client, &statements.operations, &needs.operations),
        query_some(client, &statements.accounts, &needs.accounts),
    )?;
    for row in &keys {
        book.keys.insert(row.get(0), key_from_row(row));
    }
    for row in &payments {
        let record = payment_from_row(row)?;
        book.payments.insert(record.id, (record, RowState::Loaded));
    }
    for row in &operations {
        book.operations.insert(row.get(0), operation_from_row(row)?);
    }
    book.accounts.reserve(accounts.len());
    for row in &accounts {
        let account = account_from_row(row)?;
        book.accounts.insert(account.id, account);
    }
    Ok(xid.get(0))
}

async fn query_some(
    client: &Client,
    statement: &Statement,
    ids: &[Uuid],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    client.query(statement, &[&ids]).await
}

fn key_from_row(row: &Row) -> KeyRow {
    let status_code: i16 = row.get(3);
    KeyRow {
        resource_id: row.get(1),
        fingerprint: row.get(2),
        status_code: u16::try_from(status_code).unwrap_or_default(),
        answer: row.get::<_, Option<&[u8]>>(4).map(Bytes::copy_from_slice),
        state: RowState::Loaded,
    }
}

fn account_from_row(row: &Row) -> Result<AccountRow, LoadError> {
    Ok(AccountRow {
        id: row.get(0),
        merchant_id: row.get(1),
        posted: row.get(2),
        held: row.get(3),
        overdraft_limit: row.get(4),
        entry_count: row.get(5),
        currency: Currency::from_numeric(row.get(6))?,
        status: AccountStatus::from_code(row.get(7))?,
        state: RowState::Loaded,
    })
}

fn operation_from_row(row: &Row) -> Result<OperationRow, LoadError> {
    Ok(OperationRow {
        kind: OperationKind::from_code(row.get(1))?,
        status: OperationStatus::from_code(row.get(2))?,
        fence: row.get(3),
        amount: row.get(4),
        retry_in_ms: 0,
        evidence: Evidence { transaction: row.get(5), ..Evidence::default() },
        state: RowState::Loaded,
    })
}

/// Reads a payment selected as [`PAYMENT_COLUMNS`].
pub(crate) fn payment_from_row(row: &Row) -> Result<PaymentRecord, LoadError> {
    let (failure, outcome): (i16, i16) = (row.get(13), row.get(14));
    Ok(PaymentRecord {
        id: row.get(0),
        merchant_id: row.get(1),
        from: row.get(2),
        to: row.get(3),
        amount: row.get(4),
        captured: row.get(5),
        refunded: row.get(6),
        refunding: row.get(7),
        updated_at: row.get::<_, Option<time::OffsetDateTime>>(8).map(Into::into),
        version: row.get(9),
        currency: Currency::from_numeric(row.get(10))?,
        rail: Rail::from_code(row.get(11))?,
        status: PaymentStatus::from_code(row.get(12))?,
        failure: if failure == 0 { None } else { Some(FailureCode::from_code(failure)?) },
        outcome: if outcome == 0 { None } else { Some(ChargeOutcome::from_code(outcome)?) },
        capture: CaptureMode::from_code(row.get(15))?,
        merchant_reference: row.get(16),
        gateway_transaction: row.get(17),
        card_last_four: row.get(18),
        metadata: row.get(19),
    })
}
