//! Gateway operations outside a batch: which are due, who asks after them next, and how often a gateway denied knowing
//! them. Settling one is a command of the engine like any other. Called by the resolver only.

use paystrata_db::{Connection, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::load::{LoadError, PAYMENT_COLUMNS, payment_from_row};
use super::model::{OperationKind, PaymentRecord, Rail};
use crate::clock::Timestamp;

/// An operation whose outcome is to be asked for, under a fence of its own.
#[derive(Clone, Debug)]
pub struct DueOperation {
    /// Which.
    pub id: Uuid,
    /// Whose.
    pub merchant_id: Uuid,
    /// Of which payment.
    pub payment_id: Uuid,
    /// What was asked of the gateway.
    pub kind: OperationKind,
    /// The fence just taken; any earlier sender's settlement is refused from now on.
    pub fence: i32,
    /// Minor units.
    pub amount: i64,
    /// Our name for it at the gateway.
    pub reference: String,
    /// Key whose answer waits for it.
    pub key_digest: Option<Uuid>,
    /// The transaction it acts on.
    pub parent_transaction: Option<String>,
    /// Its own transaction, if a reply told it.
    pub transaction: Option<String>,
    /// When it may first have been sent.
    pub sent_at: Timestamp,
    /// Whole milliseconds since then, by the database's clock; never rounded up.
    pub age_ms: i64,
    /// Times it was claimed since the gateway last answered, this one included.
    pub attempts: i32,
    /// Times the gateway said it knows no such thing, since it last showed it.
    pub absences: i32,
}

/// Takes due operations, the oldest first, each under a new fence, and keeps them from others for `lease_ms`.
/// Rows that another node is taking at this moment are skipped, and so are those of rails that this node cannot ask
/// about: nobody would have been asked, and taking them would count as a question.
static CLAIM_DUE: Statement = Statement::new(
    "UPDATE gateway_operations o
        SET fence = o.fence + 1, attempts = o.attempts + 1,
            due_at = clock_timestamp() + $1 * interval '1 millisecond'
       FROM (SELECT id FROM gateway_operations
              WHERE status IN (1, 2, 3) AND due_at <= clock_timestamp() AND rail = ANY($3)
              ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS due
      WHERE o.id = due.id
  RETURNING o.id, o.merchant_id, o.payment_id, o.kind, o.fence, o.amount, o.reference, o.key_digest,
            o.parent_transaction, o.transaction, o.sent_at, o.attempts, o.absences,
            floor(extract(epoch FROM clock_timestamp() - o.sent_at) * 1000)::int8",
    &[Type::INT8, Type::INT8, Type::INT2_ARRAY],
);

/// A denial is an answer: what counts towards a person begins again.
static COUNT_ABSENCE: Statement = Statement::new(
    "UPDATE gateway_operations SET absences = absences + 1, attempts = 0 WHERE id = $1 AND fence = $2",
    &[Type::UUID, Type::INT4],
);

/// A person must look: nothing is released, nothing is asked any more.
static HAND_OVER: Statement = Statement::new(
    "UPDATE gateway_operations SET status = 7 WHERE id = $1 AND fence = $2",
    &[Type::UUID, Type::INT4],
);

/// Takes what is due on these rails. Those that this version does not understand are told in the log and left out: they
/// fall due again.
///
/// # Errors
/// The database refused or was not reached; the operations stay due.
pub async fn claim_due_operations(
    connection: &Connection,
    rails: &[Rail],
    lease_ms: i64,
    count_max: i64,
) -> Result<Vec<DueOperation>, OperationError> {
    let rails: Vec<i16> = rails.iter().map(|rail| rail.code()).collect();
    let rows = connection.query(&CLAIM_DUE, &[&lease_ms, &count_max, &rails]).await?;
    let read = |row: &Row| match due_from_row(row) {
        Ok(operation) => Some(operation),
        // The others were claimed with it and must not wait for it.
        Err(error) => {
            tracing::error!(?error, operation = %row.get::<_, Uuid>(0), "read due operation");
            None
        }
    };
    Ok(rows.iter().filter_map(read).collect())
}

fn due_from_row(row: &Row) -> Result<DueOperation, OperationError> {
    Ok(DueOperation {
        id: row.get(0),
        merchant_id: row.get(1),
        payment_id: row.get(2),
        kind: OperationKind::from_code(row.get(3)).map_err(LoadError::from)?,
        fence: row.get(4),
        amount: row.get(5),
        reference: row.get(6),
        key_digest: row.get(7),
        parent_transaction: row.get(8),
        transaction: row.get(9),
        sent_at: row.get::<_, time::OffsetDateTime>(10).into(),
        attempts: row.get(11),
        absences: row.get(12),
        age_ms: row.get(13),
    })
}

/// Notes that the gateway denied knowing the operation.
///
/// # Errors
/// The database refused or was not reached.
pub async fn count_absence(connection: &Connection, operation: &DueOperation) -> Result<(), OperationError> {
    connection.execute(&COUNT_ABSENCE, &[&operation.id, &operation.fence]).await?;
    Ok(())
}

/// Stops asking and leaves the operation, with its hold, to a person.
///
/// # Errors
/// The database refused or was not reached.
pub async fn hand_over(connection: &Connection, operation: &DueOperation) -> Result<(), OperationError> {
    connection.execute(&HAND_OVER, &[&operation.id, &operation.fence]).await?;
    Ok(())
}

/// Why an operation could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The database.
    #[error("query operations")]
    Database(#[from] paystrata_db::Error),
    /// A stored row that this version does not understand.
    #[error("read operation")]
    Stored(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<LoadError> for OperationError {
    fn from(error: LoadError) -> Self {
        Self::Stored(Box::new(error))
    }
}

/// A payment as it stands on the node of `connection`, by owner and id.
///
/// # Errors
/// The database refused or was not reached.
pub async fn find_payment(
    connection: &Connection,
    merchant_id: Uuid,
    id: Uuid,
) -> Result<Option<PaymentRecord>, OperationError> {
    static FIND: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        format!("SELECT {PAYMENT_COLUMNS} FROM payments p WHERE p.merchant_id = $1 AND p.id = $2")
    });
    static STATEMENT: std::sync::LazyLock<Statement> =
        std::sync::LazyLock::new(|| Statement::new(FIND.as_str(), &[Type::UUID, Type::UUID]));
    let row = connection.query_opt(&STATEMENT, &[&merchant_id, &id]).await?;
    Ok(row.as_ref().map(payment_from_row).transpose()?)
}
