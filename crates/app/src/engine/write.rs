//! Writes what a batch decided, set-based, and commits: every statement and the COMMIT leave in one flight. The
//! statements touch only rows that `load` locked or that are new, so none can wait except on a key that another node
//! is claiming at this moment.

use std::future::Future;
use std::pin::Pin;

use futures_util::future::join_all;
use tokio_postgres::types::{PgLsn, ToSql, Type};
use tokio_postgres::{Client, Error, Statement};
use uuid::Uuid;

use super::book::{AccountRow, Book, KeyRow, OperationRow, RowState};
use super::columns::{
    ChangeColumns, EntryColumns, EventColumns, OperationColumns, PaymentColumns, verdict_code,
};
use super::queue::Commit;

const UPDATE_ACCOUNTS: &str = "UPDATE accounts a
    SET posted = v.posted, held = v.held, entry_count = v.entry_count
   FROM unnest($1::uuid[], $2::int8[], $3::int8[], $4::int8[]) AS v (id, posted, held, entry_count)
  WHERE a.id = v.id";

const INSERT_ACCOUNTS: &str = "INSERT INTO accounts
    (id, merchant_id, posted, held, overdraft_limit, entry_count, currency, status)
 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int2[], $8::int2[])";

const INSERT_PROFILES: &str =
    "INSERT INTO account_profiles (account_id, merchant_id, kind, customer, metadata)
 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])";

const INSERT_PAYMENTS: &str = "INSERT INTO payments
    (id, merchant_id, from_account, to_account, amount, captured, currency, rail, status, failure, capture,
     fraud_verdict, fraud_score, merchant_reference, card_last_four, metadata)
 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int8[], $6::int8[], $7::int2[], $8::int2[],
     $9::int2[], $10::int2[], $11::int2[], $12::int2[], $13::int2[], $14::text[], $15::text[], $16::text[])";

const UPDATE_PAYMENTS: &str = "UPDATE payments p
    SET captured = v.captured, refunded = v.refunded, refunding = v.refunding, status = v.status,
        failure = v.failure, outcome = v.outcome, version = v.version, updated_at = v.updated_at,
        gateway_transaction = v.gateway_transaction
   FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::int8[], $5::int8[], $6::int2[], $7::int2[], $8::int2[],
               $9::int4[], $10::timestamptz[], $11::text[])
     AS v (merchant_id, id, captured, refunded, refunding, status, failure, outcome, version, updated_at,
           gateway_transaction)
  WHERE p.merchant_id = v.merchant_id AND p.id = v.id";

const INSERT_ENTRIES: &str = "INSERT INTO entries
    (id, payment_id, debit_account, credit_account, amount, debit_seq, credit_seq, debit_after, credit_after)
 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int8[], $6::int8[], $7::int8[], $8::int8[],
     $9::int8[])";

const INSERT_EVENTS: &str = "INSERT INTO outbox (payment_id, sequence, status, reason, evidence, occurred_at)
 SELECT v.*, $6 FROM unnest($1::uuid[], $2::int4[], $3::int2[], $4::int2[], $5::text[]) AS v";

const INSERT_KEYS: &str = "INSERT INTO idempotency_keys
    (digest, resource_id, status_code, fingerprint, answer, created_at)
 SELECT v.*, $6 FROM unnest($1::uuid[], $2::uuid[], $3::int2[], $4::bytea[], $5::bytea[]) AS v";

const UPDATE_KEYS: &str = "UPDATE idempotency_keys k SET status_code = v.status_code, answer = v.answer
   FROM unnest($1::uuid[], $2::int2[], $3::bytea[]) AS v (digest, status_code, answer)
  WHERE k.digest = v.digest AND k.answer IS NULL";

const INSERT_OPERATIONS: &str = "INSERT INTO gateway_operations
    (id, merchant_id, payment_id, kind, rail, amount, reference, key_digest, parent_transaction, card_last_four,
     status, fence, created_at, sent_at, due_at)
 SELECT v.id, v.merchant_id, v.payment_id, v.kind, v.rail, v.amount, v.reference, v.key_digest, v.parent, v.card,
        1, 1, now(), clock_timestamp(), clock_timestamp() + v.lease_ms * interval '1 millisecond'
   FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int2[], $5::int2[], $6::int8[], $7::text[], $8::uuid[],
               $9::text[], $10::text[], $11::int8[])
     AS v (id, merchant_id, payment_id, kind, rail, amount, reference, key_digest, parent, card, lease_ms)";

/// Held (3) is an answer that leaves the operation open: the resolver's counts begin again.
const UPDATE_OPERATIONS: &str = "UPDATE gateway_operations o
    SET attempts = CASE v.status WHEN 3 THEN 0 ELSE o.attempts END,
        absences = CASE v.status WHEN 3 THEN 0 ELSE o.absences END,
        status = v.status, transaction = coalesce(v.transaction, o.transaction), code = coalesce(v.code, o.code),
        evidence = coalesce(v.evidence, o.evidence),
        due_at = clock_timestamp() + v.retry_in_ms * interval '1 millisecond'
   FROM unnest($1::uuid[], $2::int2[], $3::text[], $4::text[], $5::text[], $6::int8[])
     AS v (id, status, transaction, code, evidence, retry_in_ms)
  WHERE o.id = v.id";

const INSERT_FRAUD: &str =
    "INSERT INTO fraud_decisions (payment_id, merchant_id, verdict, score, reasons, decided_at)
 SELECT v.payment_id, v.merchant_id, v.verdict, v.score, string_to_array(v.reasons, E'\\n'), $6
   FROM unnest($1::uuid[], $2::uuid[], $3::int2[], $4::int2[], $5::text[])
     AS v (payment_id, merchant_id, verdict, score, reasons)";

const INSERT_NOTICE: &str = "INSERT INTO change_notices (id, accounts, merchants, payments)
 SELECT $1::uuid, $2::uuid[], $3::uuid[], $4::uuid[]";

/// The prepared statements of this step.
#[derive(Debug)]
pub(super) struct WriteStatements {
    update_accounts: Statement,
    insert_accounts: Statement,
    insert_profiles: Statement,
    insert_payments: Statement,
    update_payments: Statement,
    insert_entries: Statement,
    insert_events: Statement,
    insert_keys: Statement,
    update_keys: Statement,
    insert_operations: Statement,
    update_operations: Statement,
    insert_fraud: Statement,
    insert_notice: Statement,
    commit: Statement,
    position: Statement,
}

impl WriteStatements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        // Types are inferred from the casts in each text.
        Ok(Self {
            update_accounts: client.prepare(UPDATE_ACCOUNTS).await?,
            insert_accounts: client.prepare(INSERT_ACCOUNTS).await?,
            insert_profiles: client.prepare(INSERT_PROFILES).await?,
            insert_payments: client.prepare(INSERT_PAYMENTS).await?,
            update_payments: client.prepare(UPDATE_PAYMENTS).await?,
            insert_entries: client.prepare(INSERT_ENTRIES).await?,
            insert_events: client.prepare(INSERT_EVENTS).await?,
            insert_keys: client.prepare(INSERT_KEYS).await?,
            update_keys: client.prepare(UPDATE_KEYS).await?,
            insert_operations: client.prepare(INSERT_OPERATIONS).await?,
            update_operations: client.prepare(UPDATE_OPERATIONS).await?,
            insert_fraud: client.prepare(INSERT_FRAUD).await?,
            insert_notice: client.prepare(INSERT_NOTICE).await?,
            commit: client.prepare("COMMIT").await?,
            position: client.prepare_typed("SELECT pg_current_wal_insert_lsn()", &[] as &[Type]).await?,
        })
    }
}

/// What became of the flight.
#[derive(Debug)]
pub(super) enum Written {
    /// Committed; the WAL position right after the commit record, unless the connection broke between the two.
    Committed(Option<u64>),
    /// A statement failed, so the server rolled back; the first failure.
    RolledBack(Error),
    /// The connection broke while COMMIT may have been on its way.
    Unknown(Error),
}

type Flight<'flight> = Vec<Pin<Box<dyn Future<Output = Result<u64, Error>> + Send + 'flight>>>;
type Parameters<'flight> = Vec<Box<dyn ToSql + Sync + Send + 'flight>>;

/// Collects the statements that have something to do, in the order they will be sent.
struct Sender<'flight> {
    client: &'flight Client,
    flight: Flight<'flight>,
}

impl<'flight> Sender<'flight> {
    fn add(&mut self, statement: &'flight Statement, rows: usize, parameters: Parameters<'flight>) {
        if rows == 0 {
            return;
        }
        let client = self.client;
        self.flight.push(Box::pin(async move {
            let references: Vec<&(dyn ToSql + Sync)> =
                parameters.iter().map(|parameter| parameter.as_ref() as &(dyn ToSql + Sync)).collect();
            client.execute(statement, &references).await
        }));
    }
}

macro_rules! parameters {
    ($($value:expr),* $(,)?) => { vec![$(Box::new($value) as Box<dyn ToSql + Sync + Send + '_>),*] };
}

/// Writes all that changed in the book, and the commit's notice if it is to have one, and commits.
pub(super) async fn write(
    client: &Client,
    statements: &WriteStatements,
    book: &Book,
    commit: &Commit,
) -> Written {
    let mut sender = Sender { client, flight: Vec::with_capacity(16) };
    add_accounts(&mut sender, statements, book);
    add_payments(&mut sender, statements, book);
    add_history(&mut sender, statements, book);
    add_operations(&mut sender, statements, book);
    add_keys(&mut sender, statements, book);
    add_notice(&mut sender, statements, commit);
    let mut results = {
        let commit = async { client.execute(&statements.commit, &[]).await };
        let position = client.query_one(&statements.position, &[]);
        sender.flight.push(Box::pin(commit));
        // Fewer than thirty futures: `join_all` polls them first to last, and the first poll sends.
        let (results, position) = futures_util::join!(join_all(sender.flight), position);
        match position {
            Ok(row) if results.iter().all(Result::is_ok) => {
                return Written::Committed(Some(u64::from(row.get::<_, PgLsn>(0))));
            }
            _ => results,
        }
    };
    let commit = results.len() - 1;
    match results.iter().position(Result::is_err) {
        Some(index) => {
            let error = results.swap_remove(index).expect_err("this position holds an error");
            // An error before COMMIT makes COMMIT roll back. An error in place of COMMIT's own answer may also be a
            // server that stopped right after committing.
            let refused = index < commit && error.as_db_error().is_some();
            if refused { Written::RolledBack(error) } else { Written::Unknown(error) }
        }
        // Only the position that follows the commit could not be read.
        None => Written::Committed(None),
    }
}

fn add_accounts<'flight>(sender: &mut Sender<'flight>, statements: &'flight WriteStatements, book: &Book) {
    let mut rows: Vec<&AccountRow> =
        book.accounts.values().filter(|row| row.state != RowState::Loaded).collect();
    rows.sort_unstable_by_key(|row| row.id);
    let (new, changed): (Vec<&AccountRow>, Vec<&AccountRow>) =
        rows.into_iter().partition(|row| row.state == RowState::New);
    let changed_ids: Vec<Uuid> = changed.iter().map(|row| row.id).collect();
    let posted: Vec<i64> = changed.iter().map(|row| row.posted).collect();
    let held: Vec<i64> = changed.iter().map(|row| row.held).collect();
    let counts: Vec<i64> = changed.iter().map(|row| row.entry_count).collect();
    sender.add(&statements.update_accounts, changed.len(), parameters![changed_ids, posted, held, counts]);
    let new_rows = parameters![
        new.iter().map(|row| row.id).collect::<Vec<Uuid>>(),
        new.iter().map(|row| row.merchant_id).collect::<Vec<Uuid>>(),
        new.iter().map(|row| row.posted).collect::<Vec<i64>>(),
        new.iter().map(|row| row.held).collect::<Vec<i64>>(),
        new.iter().map(|row| row.overdraft_limit).collect::<Vec<i64>>(),
        new.iter().map(|row| row.entry_count).collect::<Vec<i64>>(),
        new.iter().map(|row| row.currency.numeric()).collect::<Vec<i16>>(),
        new.iter().map(|row| row.status.code()).collect::<Vec<i16>>(),
    ];
    sender.add(&statements.insert_accounts, new.len(), new_rows);
    let profiles = &book.new_profiles;
    let profile_rows = parameters![
        profiles.iter().map(|row| row.id).collect::<Vec<Uuid>>(),
        profiles.iter().map(|row| row.merchant_id).collect::<Vec<Uuid>>(),
        profiles.iter().map(|row| row.kind.clone()).collect::<Vec<String>>(),
        profiles.iter().map(|row| row.customer.clone()).collect::<Vec<Option<String>>>(),
        profiles.iter().map(|row| row.metadata.clone()).collect::<Vec<Option<String>>>(),
    ];
    sender.add(&statements.insert_profiles, profiles.len(), profile_rows);
}

fn add_payments<'flight>(
    sender: &mut Sender<'flight>,
    statements: &'flight WriteStatements,
    book: &'flight Book,
) {
    let new = PaymentColumns::of(&book.new_payments);
    let new_rows = parameters![
        new.id,
        new.merchant_id,
        new.from,
        new.to,
        new.amount,
        new.captured,
        new.currency,
        new.rail,
        new.status,
        new.failure,
        new.capture,
        new.fraud_verdict,
        new.fraud_score,
        new.merchant_reference,
        new.card_last_four,
        new.metadata,
    ];
    sender.add(&statements.insert_payments, book.new_payments.len(), new_rows);
    let changed =
        book.payments.values().filter(|(_, state)| *state == RowState::Changed).map(|(record, _)| record);
    let changed = ChangeColumns::of(changed);
    let count = changed.id.len();
    let changed_rows = parameters![
        changed.merchant_id,
        changed.id,
        changed.captured,
        changed.refunded,
        changed.refunding,
        changed.status,
        changed.failure,
        changed.outcome,
        changed.version,
        changed.updated_at,
        changed.gateway_transaction,
    ];
    sender.add(&statements.update_payments, count, changed_rows);
}

fn add_history<'flight>(
    sender: &mut Sender<'flight>,
    statements: &'flight WriteStatements,
    book: &'flight Book,
) {
    let entries = EntryColumns::of(&book.entries);
    let entry_rows = parameters![
        entries.id,
        entries.payment_id,
        entries.debit_account,
        entries.credit_account,
        entries.amount,
        entries.debit_seq,
        entries.credit_seq,
        entries.debit_after,
        entries.credit_after,
    ];
    sender.add(&statements.insert_entries, book.entries.len(), entry_rows);
    let events = EventColumns::of(&book.events);
    let now = book.now.to_datetime();
    let event_rows =
        parameters![events.payment_id, events.sequence, events.status, events.reason, events.evidence, now];
    sender.add(&statements.insert_events, book.events.len(), event_rows);
    let of_payments = book.new_payments.iter().map(|new| (new.record.id, new.record.merchant_id, &new.fraud));
    let of_none = book.rejections.iter().map(|one| (one.payment_id, one.merchant_id, &one.fraud));
    let flagged: Vec<_> =
        of_payments.chain(of_none).filter(|(_, _, fraud)| !fraud.reasons.is_empty()).collect();
    let fraud_rows = parameters![
        flagged.iter().map(|(payment, _, _)| *payment).collect::<Vec<Uuid>>(),
        flagged.iter().map(|(_, merchant, _)| *merchant).collect::<Vec<Uuid>>(),
        flagged.iter().map(|(_, _, fraud)| verdict_code(fraud.verdict)).collect::<Vec<i16>>(),
        flagged.iter().map(|(_, _, fraud)| fraud.score).collect::<Vec<i16>>(),
        flagged.iter().map(|(_, _, fraud)| fraud.reasons.join("\n")).collect::<Vec<String>>(),
        now,
    ];
    sender.add(&statements.insert_fraud, flagged.len(), fraud_rows);
}

fn add_operations<'flight>(
    sender: &mut Sender<'flight>,
    statements: &'flight WriteStatements,
    book: &'flight Book,
) {
    let new = OperationColumns::of(&book.new_operations);
    let new_rows = parameters![
        new.id,
        new.merchant_id,
        new.payment_id,
        new.kind,
        new.rail,
        new.amount,
        new.reference,
        new.key_digest,
        new.parent_transaction,
        new.card_last_four,
        new.lease_ms,
    ];
    sender.add(&statements.insert_operations, book.new_operations.len(), new_rows);
    let changed: Vec<(&Uuid, &OperationRow)> =
        book.operations.iter().filter(|(_, row)| row.state == RowState::Changed).collect();
    let changed_rows = parameters![
        changed.iter().map(|(id, _)| **id).collect::<Vec<Uuid>>(),
        changed.iter().map(|(_, row)| row.status.code()).collect::<Vec<i16>>(),
        changed.iter().map(|(_, row)| row.evidence.transaction.clone()).collect::<Vec<Option<String>>>(),
        changed.iter().map(|(_, row)| row.evidence.code.clone()).collect::<Vec<Option<String>>>(),
        changed.iter().map(|(_, row)| row.evidence.text.clone()).collect::<Vec<Option<String>>>(),
        changed.iter().map(|(_, row)| row.retry_in_ms).collect::<Vec<i64>>(),
    ];
    sender.add(&statements.update_operations, changed.len(), changed_rows);
}

fn add_keys<'flight>(
    sender: &mut Sender<'flight>,
    statements: &'flight WriteStatements,
    book: &'flight Book,
) {
    let mut rows: Vec<(&Uuid, &KeyRow)> =
        book.keys.iter().filter(|(_, row)| row.state != RowState::Loaded).collect();
    // Sorted: two nodes that claim the same keys wait for each other in one direction only.
    rows.sort_unstable_by_key(|(digest, _)| **digest);
    let (new, changed): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, row)| row.state == RowState::New);
    let new_rows = parameters![
        new.iter().map(|(digest, _)| **digest).collect::<Vec<Uuid>>(),
        new.iter().map(|(_, row)| row.resource_id).collect::<Vec<Uuid>>(),
        new.iter().map(|(_, row)| stored_status(row)).collect::<Vec<i16>>(),
        new.iter().map(|(_, row)| row.fingerprint.as_slice()).collect::<Vec<&[u8]>>(),
        new.iter().map(|(_, row)| row.answer.as_deref()).collect::<Vec<Option<&[u8]>>>(),
        book.now.to_datetime(),
    ];
    sender.add(&statements.insert_keys, new.len(), new_rows);
    let changed_rows = parameters![
        changed.iter().map(|(digest, _)| **digest).collect::<Vec<Uuid>>(),
        changed.iter().map(|(_, row)| stored_status(row)).collect::<Vec<i16>>(),
        changed.iter().map(|(_, row)| row.answer.as_deref()).collect::<Vec<Option<&[u8]>>>(),
    ];
    sender.add(&statements.update_keys, changed.len(), changed_rows);
}

fn add_notice<'flight>(
    sender: &mut Sender<'flight>,
    statements: &'flight WriteStatements,
    commit: &'flight Commit,
) {
    let Some(id) = commit.notice else { return };
    let (merchants, payments): (Vec<Uuid>, Vec<Uuid>) = commit.payments.iter().copied().unzip();
    sender.add(
        &statements.insert_notice,
        1,
        parameters![id, commit.accounts.as_slice(), merchants, payments],
    );
}

fn stored_status(row: &KeyRow) -> i16 {
    i16::try_from(row.status_code).unwrap_or_default()
}
