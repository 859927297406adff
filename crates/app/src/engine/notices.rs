//! Notices: what a commit changed, kept by that commit until every node that may have cached it has been told. The engine
//! writes them; whoever tells the nodes deletes them. Knows no cache. Read and deleted by `relay`.

use std::time::Duration;

use paystrata_db::{Connection, Error, Statement};
use tokio_postgres::types::{PgLsn, Type};
use uuid::Uuid;

/// Whether commits leave notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notices {
    /// One row per commit that changed what can have been read.
    Kept,
    /// None: nodes share no cache.
    Without,
}

/// One notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Its name.
    pub id: Uuid,
    /// What it is about.
    pub changed: Changed,
    /// A position in the log behind the commit.
    pub lsn: u64,
}

/// What a commit changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Accounts, and payments by owner and id.
    Rows {
        /// Accounts whose balances changed.
        accounts: Vec<Uuid>,
        /// Owner and id.
        payments: Vec<(Uuid, Uuid)>,
    },
    /// Notices that became too many: anything.
    Anything,
}

// The position is read after the rows are seen to be committed, so it lies behind their commits.
static OVERDUE: Statement = Statement::new(
    "SELECT id, accounts, merchants, payments, pg_current_wal_insert_lsn() FROM change_notices
      WHERE written_at <= clock_timestamp() - $1 * interval '1 second' ORDER BY id LIMIT $2",
    &[Type::FLOAT8, Type::INT8],
);

/// Notices that are at least `age` old, the oldest first, `count_max` of them at most. Must be asked on the primary.
///
/// # Errors
/// The database refused or was not reached.
pub async fn overdue_notices(
    connection: &Connection,
    age: Duration,
    count_max: usize,
) -> Result<Vec<Notice>, Error> {
    let count_max = i64::try_from(count_max).unwrap_or(i64::MAX);
    let rows = connection.query(&OVERDUE, &[&age.as_secs_f64(), &count_max]).await?;
    let notice = |row: &tokio_postgres::Row| Notice {
        id: row.get(0),
        changed: match row.get::<_, Option<Vec<Uuid>>>(1) {
            None => Changed::Anything,
            Some(accounts) => {
                let list = |index| row.get::<_, Option<Vec<Uuid>>>(index).unwrap_or_default();
                Changed::Rows { accounts, payments: list(2).into_iter().zip(list(3)).collect() }
            }
        },
        lsn: u64::from(row.get::<_, PgLsn>(4)),
    };
    Ok(rows.iter().map(notice).collect())
}

static FORGET: Statement =
    Statement::new("DELETE FROM change_notices WHERE id = ANY($1)", &[Type::UUID_ARRAY]);

/// Deletes notices that everybody has been told of.
///
/// # Errors
/// The database refused or was not reached; they are told again then, which does nothing worse.
pub async fn forget_notices(connection: &Connection, ids: &[Uuid]) -> Result<(), Error> {
    connection.execute(&FORGET, &[&ids]).await.map(|_deleted| ())
}

static FOLD: Statement = Statement::new(
    "WITH folded AS (
         DELETE FROM change_notices WHERE (SELECT count(*) FROM change_notices) > $1 RETURNING id)
     INSERT INTO change_notices (id) SELECT gen_random_uuid() FROM folded LIMIT 1",
    &[Type::INT8],
);

/// Where there are more than `count_max`, one that says "anything" takes the place of all.
///
/// # Errors
/// The database refused or was not reached.
pub async fn fold_notices(connection: &Connection, count_max: i64) -> Result<(), Error> {
    connection.execute(&FOLD, &[&count_max]).await.map(|_inserted| ())
}
