//! What a bulk operation did, as a value: also what its progress is told by, and what stands when it ends early.

use super::error::Rejected;
use crate::token::Token;

/// Positions of missing rows that a report keeps; beyond it they are only counted.
pub(super) const MISSING_MAX: usize = 100_000;

/// What was committed so far, all chunks together. Rows are counted from 0, in the order of the input.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BulkReport {
    /// Chunks committed.
    pub chunks: u64,
    /// Rows in them that were not rejected.
    pub accepted: u64,
    /// Rows that the server says it inserted or updated: fewer than accepted where duplicates were folded, keys
    /// were missing, or a trigger left rows out.
    pub affected: u64,
    /// Rows that an earlier run of the job had committed.
    pub skipped: u64,
    /// Their encoded size.
    pub bytes: u64,
    /// Rows that were rejected, in the order of the input.
    pub rejected: Vec<Rejected>,
    /// `update_many`: rows whose key the table does not have, in the order of the input, the first 100,000 of them.
    pub missing: Vec<u64>,
    /// `update_many`: how many there are in all.
    pub missing_count: u64,
    /// Reads that carry it see everything committed; none when nothing was.
    pub token: Option<Token>,
}

impl BulkReport {
    pub(super) fn add(&mut self, chunk: Self) {
        self.chunks += chunk.chunks;
        self.accepted += chunk.accepted;
        self.affected += chunk.affected;
        self.bytes += chunk.bytes;
        self.rejected.extend(chunk.rejected);
        self.missing_count += chunk.missing_count;
        let room = MISSING_MAX.saturating_sub(self.missing.len());
        self.missing.extend(chunk.missing.into_iter().take(room));
        self.token = self.token.max(chunk.token);
    }

    /// Lanes commit in any order.
    pub(super) fn sorted(mut self) -> Self {
        self.rejected.sort_by_key(|rejected| rejected.row);
        self.missing.sort_unstable();
        self
    }
}
