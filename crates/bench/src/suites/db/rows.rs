//! The rows that are loaded, changed and counted: as many as an evening's events of a shop, with a key, a foreign id, an
//! amount, a text and a time. Every side gets the same.

use std::time::SystemTime;

use uuid::Uuid;

/// In one load.
pub(super) const ROWS: usize = 100_000;

pub(super) const TABLES: &str = "
    CREATE TABLE record (id uuid PRIMARY KEY, payment uuid NOT NULL, amount int8 NOT NULL, note text NOT NULL, at timestamptz NOT NULL);
    CREATE TABLE record_before (LIKE record)";

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) id: Uuid,
    pub(super) payment: Uuid,
    pub(super) amount: i64,
    pub(super) note: String,
    pub(super) at: SystemTime,
}

paystrata_db::row!(Record { id: UUID, payment: UUID, amount: INT8, note: TEXT, at: TIMESTAMPTZ });

/// [`ROWS`] rows with keys of their own.
pub(super) fn new() -> Vec<Record> {
    let note = || "authorized by the issuer at the first attempt".to_owned();
    let record = |amount| Record {
        id: Uuid::now_v7(),
        payment: Uuid::now_v7(),
        amount,
        note: note(),
        at: SystemTime::now(),
    };
    (0_i64..).take(ROWS).map(record).collect()
}

/// What is to become of rows that stand.
pub(super) fn changed(rows: &[Record]) -> Vec<Record> {
    let note = || CHANGED.to_owned();
    rows.iter().map(|row| Record { amount: row.amount + 1, note: note(), ..row.clone() }).collect()
}

/// How changed rows are told from others.
pub(super) const CHANGED: &str = "settled with the batch of the evening, and reported";
