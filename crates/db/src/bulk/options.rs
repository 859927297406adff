//! How rows are to be loaded: the size of chunks, lanes, deadlines, what becomes of bad rows, and the job that a load belongs
//! to. It refuses what cannot work, before anything is sent.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::BulkCause;
use super::report::BulkReport;
use crate::transaction::{Isolation, TransactionOptions};

/// What becomes of a row that cannot be sent, or that the server rejects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadRows {
    /// It ends the load and is named; nothing of its chunk remains.
    #[default]
    Fail,
    /// It is left out and reported; the others are loaded.
    Report,
    /// As `Report`, and it is kept in `paystrata_bulk_rejected`, in the transaction of its chunk. Needs a job.
    Quarantine,
}

/// How rows are sent by `insert_many`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// By the number of rows in a chunk: what was measured to be fastest. Never COPY where the table has rules for `INSERT`.
    #[default]
    Auto,
    /// One `INSERT` with a parameter per value.
    Insert,
    /// One `INSERT` from arrays.
    Unnest,
    /// Binary COPY. Refused where the table has rules for `INSERT`, which it would not obey.
    Copy,
}

/// Hears of each chunk's commit; must be quick.
pub type Progress = Arc<dyn Fn(&BulkReport) + Send + Sync>;

/// How rows are to be loaded.
#[derive(Clone)]
pub struct BulkOptions {
    /// Rows in a chunk at most.
    pub chunk_rows_max: usize,
    /// Encoded bytes after which a chunk is full; memory is this much per lane, and once more for the chunk that is being filled.
    pub chunk_bytes_max: usize,
    /// Chunks under way at once, each on a pooled connection. With more than one they commit in any order.
    pub lanes_max: usize,
    /// A limit over all runs of one chunk, on both sides; a server that is back within it is waited for.
    pub chunk_timeout: Duration,
    /// What becomes of bad rows.
    pub bad_rows: BadRows,
    /// Rejected rows after which the load ends.
    pub rejected_max: usize,
    /// Makes the load resumable: what a run under this name has committed is skipped by the next one, which must be
    /// given the same input in the same order. Needs the tables of [`BULK_SCHEMA`](crate::BULK_SCHEMA).
    pub job: Option<String>,
    /// How rows are sent by `insert_many`.
    pub method: Method,
    /// Called after each commit with what was committed so far.
    pub progress: Option<Progress>,
}

impl Default for BulkOptions {
    /// 100,000 rows or 16 MiB a chunk, one lane, 60 s per chunk, fail on the first bad row, 10,000 rejected rows, no job.
    fn default() -> Self {
        Self {
            chunk_rows_max: 100_000,
            chunk_bytes_max: 16 << 20,
            lanes_max: 1,
            chunk_timeout: Duration::from_secs(60),
            bad_rows: BadRows::Fail,
            rejected_max: 10_000,
            job: None,
            method: Method::Auto,
            progress: None,
        }
    }
}

impl fmt::Debug for BulkOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BulkOptions")
            .field("chunk_rows_max", &self.chunk_rows_max)
            .field("chunk_bytes_max", &self.chunk_bytes_max)
            .field("lanes_max", &self.lanes_max)
            .field("chunk_timeout", &self.chunk_timeout)
            .field("bad_rows", &self.bad_rows)
            .field("rejected_max", &self.rejected_max)
            .field("job", &self.job)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// A chunk's offsets stay far from what a length field of the protocol can say.
const CHUNK_BYTES_LIMIT: usize = 1 << 30;

impl BulkOptions {
    pub(super) fn check(&self) -> Result<(), BulkCause> {
        let problem = if self.chunk_rows_max == 0 || self.chunk_bytes_max == 0 || self.lanes_max == 0 {
            "chunk_rows_max, chunk_bytes_max and lanes_max must be at least 1"
        } else if self.chunk_bytes_max > CHUNK_BYTES_LIMIT {
            "chunk_bytes_max must be at most 1 GiB"
        } else if self.chunk_timeout < Duration::from_millis(1) {
            "chunk_timeout must be at least 1 ms"
        } else if self.bad_rows == BadRows::Quarantine && self.job.is_none() {
            "bad_rows = Quarantine needs a job to keep the rows under"
        } else if self.job.as_deref().is_some_and(|job| job.is_empty() || job.contains('\0')) {
            "job must be a name"
        } else {
            return Ok(());
        };
        Err(BulkCause::Settings { problem: problem.to_owned() })
    }

    pub(super) fn transaction(&self) -> TransactionOptions {
        TransactionOptions {
            isolation: Isolation::ReadCommitted,
            timeout: self.chunk_timeout,
            ..TransactionOptions::default()
        }
    }
}
