//! All SQL of payments that reads many. Single reads and everything that writes stand in the engine.

use paystrata_db::{Connection, Statement, Type};
use std::sync::LazyLock;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::engine::{OperationError, PAYMENT_COLUMNS, PaymentRecord, PaymentStatus, Rail, payment_from_row};
use crate::money::Currency;

/// The parameters, the same for every text: merchant, id to start below, status, rail, currency, reference, account,
/// lowest id, rows, rows to skip. A text that has no use for one is given it all the same.
const LIST_TYPES: [Type; 10] = [
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

/// Those of a count, which has no window.
const COUNT_TYPES: [Type; 8] =
    [Type::UUID, Type::UUID, Type::INT2, Type::INT2, Type::INT2, Type::TEXT, Type::UUID, Type::UUID];

/// The status that most payments reach, which `payments_by_status` leaves out.
const COMMON: PaymentStatus = PaymentStatus::Succeeded;
/// The rail whose payments show no sender, which `payments_by_sender` leaves out.
const SENDERLESS: Rail = Rail::AuthorizeNet;

static LISTS: LazyLock<Vec<Statement>> = LazyLock::new(|| {
    Shape::all().map(|shape| Statement::new(shape.list_sql().leak(), &LIST_TYPES)).collect()
});
static COUNTS: LazyLock<Vec<Statement>> = LazyLock::new(|| {
    Shape::all().map(|shape| Statement::new(shape.count_sql().leak(), &COUNT_TYPES)).collect()
});

/// Which filters count. Each combination has a text of its own, because one text for all (`$3 IS NULL OR status = $3`)
/// has a generic plan that can use no index but the primary key, and reads the heap to count.
#[derive(Clone, Copy, Debug)]
struct Shape {
    status: StatusShape,
    /// Some of [`BY_REFERENCE`], [`BY_ACCOUNT`], [`BY_REST`], [`BY_SINCE`].
    bits: usize,
}

#[derive(Clone, Copy, Debug)]
enum StatusShape {
    Any,
    Common,
    Rare,
}

const BY_REFERENCE: usize = 1;
const BY_ACCOUNT: usize = 2;
/// Rail, currency, or both: no index serves them, so they share a text.
const BY_REST: usize = 4;
/// A text without need of a lower bound has none: the planner takes two bounds that it does not know for a narrow range,
/// expects one row, and then sorts all that match rather than walk an index backwards.
const BY_SINCE: usize = 8;

impl Shape {
    fn of(filter: &PaymentFilter) -> Self {
        let status = match filter.status {
            None => StatusShape::Any,
            Some(status) if status == COMMON => StatusShape::Common,
            Some(_) => StatusShape::Rare,
        };
        let when = |counts: bool, bit: usize| if counts { bit } else { 0 };
        let bits = when(filter.merchant_reference.is_some(), BY_REFERENCE)
            | when(filter.account.is_some(), BY_ACCOUNT)
            | when(filter.rail.is_some() || filter.currency.is_some(), BY_REST)
            | when(filter.since.is_some(), BY_SINCE);
        Self { status, bits }
    }

    /// All 48, each at its [`Self::place`].
    fn all() -> impl Iterator<Item = Self> {
        [StatusShape::Any, StatusShape::Common, StatusShape::Rare]
            .into_iter()
            .flat_map(|status| (0..16).map(move |bits| Self { status, bits }))
    }

    fn place(self) -> usize {
        16 * self.status as usize + self.bits
    }

    fn has(self, bit: usize) -> bool {
        self.bits & bit != 0
    }

    /// A reference leaves so few payments that the account is looked for among them.
    fn walks_accounts(self) -> bool {
        self.has(BY_ACCOUNT) && !self.has(BY_REFERENCE)
    }

    fn list_sql(self) -> String {
        if self.walks_accounts() {
            return self.list_account_sql();
        }
        format!(
            "SELECT {PAYMENT_COLUMNS} FROM payments p WHERE p.merchant_id = $1 AND {}
              ORDER BY p.id DESC LIMIT $9 OFFSET $10",
            self.conditions()
        )
    }

    /// Each branch walks the index of one side backwards and stops at the limit; the two are merged by id. The account is
    /// asked for as a range from its last payment down, in the order of the index: asked for as an equality, it
    /// would count as an average account with few payments, and those of a busy one would all be read and sorted.
    /// For the same reason the merchant, which every payment of an account shares, is checked after the limit.
    fn list_account_sql(self) -> String {
        let conditions = self.conditions();
        let branch = |account: &str, side: &str| {
            format!(
                "(SELECT {PAYMENT_COLUMNS} FROM payments p
                   WHERE (p.{account}, p.id) < ($7, $2) AND p.{account} >= $7 AND {side} AND {conditions}
                   ORDER BY p.{account} DESC, p.id DESC LIMIT $9 + $10)"
            )
        };
        let (sent, received) = (branch("from_account", &shows_sender()), branch("to_account", NOT_SENT));
        format!(
            "SELECT {PAYMENT_COLUMNS} FROM ({sent} UNION ALL {received}) p WHERE p.merchant_id = $1
              ORDER BY p.id DESC LIMIT $9 OFFSET $10"
        )
    }

    fn count_sql(self) -> String {
        let count = |side: &str| {
            let conditions = self.conditions();
            format!("SELECT count(*) FROM payments p WHERE {side}p.merchant_id = $1 AND {conditions}")
        };
        if !self.walks_accounts() {
            return count("");
        }
        let sent = count(&format!("p.from_account = $7 AND {} AND ", shows_sender()));
        let received = count(&format!("p.to_account = $7 AND {NOT_SENT} AND "));
        format!("SELECT ({sent}) + ({received})")
    }

    /// All but the merchant and the walk of an account. A plan cannot conclude an index's predicate from a parameter, so
    /// predicates are written out.
    fn conditions(self) -> String {
        let mut conditions = vec!["p.id < $2".to_owned()];
        match self.status {
            StatusShape::Any => {}
            // Next to a reference the status is only a filter: its index would be the worse one.
            StatusShape::Rare if !self.has(BY_REFERENCE) => {
                conditions.push(format!("p.status = $3 AND p.status <> {}", COMMON.code()));
            }
            StatusShape::Common | StatusShape::Rare => conditions.push("p.status = $3".to_owned()),
        }
        if self.has(BY_REFERENCE) {
            conditions.push("p.merchant_reference = $6".to_owned());
        }
        if self.has(BY_REFERENCE) && self.has(BY_ACCOUNT) {
            conditions.push(format!("(p.from_account = $7 AND {} OR p.to_account = $7)", shows_sender()));
        }
        if self.has(BY_REST) {
            conditions.push("($4::int2 IS NULL OR p.rail = $4)".to_owned());
            conditions.push("($5::int2 IS NULL OR p.currency = $5)".to_owned());
        }
        if self.has(BY_SINCE) {
            conditions.push("p.id >= $8".to_owned());
        }
        conditions.join(" AND ")
    }
}

/// The predicate of `payments_by_sender`.
fn shows_sender() -> String {
    format!("p.rail <> {}", SENDERLESS.code())
}

/// Keeps a payment to oneself, should there ever be one, from being listed twice.
const NOT_SENT: &str = "p.from_account <> $7";

/// The statement that lists with this filter. Public so that a test can explain what the service runs.
#[must_use]
pub fn list_statement(filter: &PaymentFilter) -> &'static Statement {
    &LISTS[Shape::of(filter).place()]
}

/// The statement that counts with this filter.
#[must_use]
pub fn count_statement(filter: &PaymentFilter) -> &'static Statement {
    &COUNTS[Shape::of(filter).place()]
}

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
    /// Sender or receiver, as the payment shows them: a card payment shows no sender.
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
            list_statement(filter),
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
    Ok(connection.query_one(count_statement(filter), &parameters).await?.get(0))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_filters_finds_its_own_text() {
        for (place, shape) in Shape::all().enumerate() {
            assert_eq!(shape.place(), place, "{shape:?}");
            assert_eq!(LISTS[place].sql(), shape.list_sql());
            assert_eq!(COUNTS[place].sql(), shape.count_sql());
        }
        assert_eq!((LISTS.len(), COUNTS.len()), (48, 48));
    }
}
