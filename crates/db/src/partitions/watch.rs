//! How a table's partitions stand: how far they reach, what is due, and what fell into the default partition.
//! It changes nothing. Called by whoever raises alarms.

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::catalog::children;
use super::error::has_code;
use super::{Month, Partition, PartitionError};
use crate::session::Session;

/// How the partitions of one table stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Monthly partitions that are attached.
    pub months: usize,
    /// The month after the last partition's: from its first millisecond on, rows have no partition but the default one,
    /// and are refused without it. None when there is no monthly partition.
    pub end: Option<Month>,
    /// The first month between the oldest partition and the last one that has none.
    pub gap: Option<Month>,
    /// Partitions of months before the one that was given as the oldest to keep. None when none was given.
    pub past_retention: Option<usize>,
    /// A partition whose concurrent detach was begun: it is running, or was cut off and is finished by the next
    /// [`detach_before`](super::detach_before). The server allows one for each table. Not counted among `months`.
    pub detaching: Option<Partition>,
    /// The default partition, if there is one.
    pub default: Option<DefaultPartition>,
}

/// Where rows go that no partition takes. Rows in it stop the making of their month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultPartition {
    /// Its table, quoted and with its schema where a statement would need that.
    pub name: String,
    /// Its rows, 0 to 10,001; more than [`DEFAULT_ROWS_MAX`] says that there are at least so many. None when they could
    /// not be counted in a second: the table is locked, or most of it is dead rows.
    pub rows: Option<u32>,
}

/// Counting goes no further than one row beyond: from there on, only the number of digits would be news.
pub const DEFAULT_ROWS_MAX: u32 = 10_000;
/// Counting takes milliseconds; a thousand times that means that something is in its way.
const COUNT_TIMEOUT_MS: u32 = 1_000;

/// Tells how the partitions of `table` stand. `keep_from` is the oldest month that retention keeps, if there is one.
///
/// Costs one query of the catalog, and where there is a default partition a second one, which reads 10,001 of its rows
/// at most: milliseconds, and a second at worst. Needs the right to read the default partition.
///
/// # Errors
/// [`PartitionError::TableName`], [`PartitionError::NotPartitioned`], [`PartitionError::Postgres`].
pub async fn watch(
    session: &Session,
    table: &str,
    keep_from: Option<Month>,
) -> Result<Watched, PartitionError> {
    let children = children(session, table).await?;
    let past = |from: Month| children.months.iter().filter(|child| child.partition.month < from).count();
    let past_retention = keep_from.map(past);
    let detaching = children.months.iter().find(|child| child.is_detaching);
    let detaching = detaching.map(|child| child.partition.clone());
    let attached = children.months.iter().filter(|child| !child.is_detaching);
    let months: Vec<Month> = attached.map(|child| child.partition.month).collect();
    let default = match children.default {
        Some(name) => Some(DefaultPartition { rows: count(session, table, &name).await?, name }),
        None => None,
    };
    Ok(Watched {
        months: months.len(),
        end: months.last().map(|last| last.next()),
        gap: first_gap(&months),
        past_retention,
        detaching,
        default,
    })
}

/// `months` are in order.
fn first_gap(months: &[Month]) -> Option<Month> {
    let mut follows = months.iter().zip(months.iter().skip(1));
    follows.find(|(month, after)| month.next() < **after).map(|(month, _)| month.next())
}

async fn count(session: &Session, table: &str, default: &str) -> Result<Option<u32>, PartitionError> {
    // In one message, which is one transaction: the session's own timeout stands again when it ends, however it ends.
    let sql = format!(
        "SET LOCAL statement_timeout = {COUNT_TIMEOUT_MS}; \
         SELECT count(*) FROM (SELECT FROM {default} LIMIT {}) AS counted",
        DEFAULT_ROWS_MAX + 1
    );
    let stopped = [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE];
    match session.client().simple_query(&sql).await {
        Ok(messages) => Ok(messages.iter().find_map(number)),
        Err(error) if has_code(&error, &stopped) => Ok(None),
        Err(source) => Err(PartitionError::Postgres { table: table.to_owned(), source }),
    }
}

fn number(message: &SimpleQueryMessage) -> Option<u32> {
    match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_month_without_a_partition_is_found() {
        let month = |number| Month::new(2026, number).expect("a month");
        let months = |numbers: &[u8]| numbers.iter().map(|&number| month(number)).collect::<Vec<_>>();
        for none in [months(&[]), months(&[3]), months(&[3, 4, 5])] {
            assert_eq!(first_gap(&none), None, "{none:?}");
        }
        assert_eq!(first_gap(&months(&[3, 4, 6, 9])), Some(month(5)));
    }
}
