//! All SQL of payments that reads many. Single reads and everything that writes stand in the engine.

use paystrata_db::{Connection, Statement, Type};
use std::sync::LazyLock;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::engine::{OperationError, PAYMENT_COLUMNS, PaymentRecord, PaymentStatus, Rail, payment_from_row};
use crate::money::Currency;

/// The filters, NULL for those that do not count. `$1` is the merchant, `$2` the id to start below.
const WHERE: &str = "p.merchant_id = $1 AND p.id < $2
    AND ($3::int2 IS NULL OR p.status = $3) AND ($4::int2 IS NULL OR p.rail = $4)
    AND ($5::int2 IS NULL OR p.currency = $5) AND ($6::text IS NULL OR p.merchant_reference = $6)
    AND ($7::uuid IS NULL OR p.from_account = $7 OR p.to_account = $7) AND p.id >= $8";

const TYPES: [Type; 8] =
    [Type::UUID, Type::UUID, Type::INT2, Type::INT2, Type::INT2, Type::TEXT, Type::UUID, Type::UUID];

static COUNT: LazyLock<Statement> = LazyLock::new(|| {
    static SQL: LazyLock<String> = LazyLock::new(|| format!("SELECT count(*) FROM payments p WHERE {WHERE}"));
    Statement::new(&SQL, &TYPES)
});

static LIST: LazyLock<Statement> = LazyLock::new(|| {
    static SQL: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT {PAYMENT_COLUMNS} FROM payments p WHERE {WHERE} ORDER BY p.id DESC LIMIT $9 OFFSET $10"
        )
    });
    static WITH_PAGE: [Type; 10] = [
        Type::UUID,
        Type::UUID,
        Type::INT2,
        Type::INT2,
        Type::INT2,
        Type::TEXT,
        Type::UUID,
        Type::UUID,
        Type::INT8,
        Type::INT8,
    ];
    Statement::new(&SQL, &WITH_PAGE)
});

/// What a list is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct PaymentFilter {
    /// Exact status.
    pub status: Option<PaymentStatus>,
    /// Exact rail.
    pub rail: Option<Rail>,
    /// Exact currency.
    pub currency: Option<Currency>,
    /// Exact reference.
    pub merchant_reference: Option<String>,
    /// Sender or receiver.
    pub account: Option<Uuid>,
    /// Created at or after.
    pub since: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
}

/// Where in a list to read.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Only payments with smaller ids.
    pub below: Uuid,
    /// Rows.
    pub limit: i64,
    /// Rows to skip.
    pub offset: i64,
}

/// Payments of a merchant, newest first.
///
/// # Errors
/// The database refused or was not reached.
pub async fn list_payments(
    connection: &Connection,
    merchant: Uuid,
    filter: &PaymentFilter,
    window: Window,
) -> Result<Vec<PaymentRecord>, OperationError> {
    let codes = Codes::of(filter, window.below);
    let rows = connection
        .query(
            &LIST,
            &[
                &merchant,
                &codes.below,
                &codes.status,
                &codes.rail,
                &codes.currency,
                &filter.merchant_reference,
                &filter.account,
                &codes.from,
                &window.limit,
                &window.offset,
            ],
        )
        .await?;
    rows.iter().map(|row| Ok(payment_from_row(row)?)).collect()
}

/// How many there are.
///
/// # Errors
/// The database refused or was not reached.
pub async fn count_payments(
    connection: &Connection,
    merchant: Uuid,
    filter: &PaymentFilter,
) -> Result<i64, OperationError> {
    let codes = Codes::of(filter, Uuid::max());
    let parameters: [&(dyn paystrata_db::ToSql + Sync); 8] = [
        &merchant,
        &codes.below,
        &codes.status,
        &codes.rail,
        &codes.currency,
        &filter.merchant_reference,
        &filter.account,
        &codes.from,
    ];
    Ok(connection.query_one(&COUNT, &parameters).await?.get(0))
}

/// The filter as the statement takes it.
struct Codes {
    below: Uuid,
    from: Uuid,
    status: Option<i16>,
    rail: Option<i16>,
    currency: Option<i16>,
}

impl Codes {
    fn of(filter: &PaymentFilter, below: Uuid) -> Self {
        // Ids begin with the creation millisecond, so a time is a bound on ids, and partitions outside are not read.
        let until = filter.until.map_or(Uuid::max(), first_id_at);
        Self {
            below: below.min(until),
            from: filter.since.map_or(Uuid::nil(), first_id_at),
            status: filter.status.map(PaymentStatus::code),
            rail: filter.rail.map(Rail::code),
            currency: filter.currency.map(Currency::numeric),
        }
    }
}

/// The smallest UUIDv7 of an instant's millisecond.
fn first_id_at(at: Timestamp) -> Uuid {
    let milliseconds = u128::try_from(at.micros() / 1_000).unwrap_or(0) & 0xFFFF_FFFF_FFFF;
    Uuid::from_u128(milliseconds << 80)
}
