//! Reads the input into chunks: encodes row by row, leaves out what an earlier run has committed, and judges rows that
//! cannot be sent. Holds one chunk at a time. Its future may be dropped at any await and asked again; nothing is lost.

use std::ops::Range;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};

use super::encode::{Chunk, Encoder, Leading};
use super::error::{BulkCause, Refusal, Rejected};
use super::ledger::Committed;
use super::options::{BadRows, BulkOptions};
use super::row::Row;

/// Rows that are left out, after which the reader lets the lanes have their turn.
const SKIPPED_PER_TURN: u64 = 4_096;
/// Encoded bytes, likewise.
const BYTES_PER_TURN: usize = 256 * 1024;

pub(super) struct Reader<'a, S> {
    rows: Pin<&'a mut S>,
    options: &'a BulkOptions,
    /// What an earlier run has committed.
    committed: Committed,
    encoder: Encoder,
    refused: Vec<Rejected>,
    /// Where the chunk begins that is being filled.
    start: Option<u64>,
    /// The next row.
    next: u64,
    /// The encoder's size at the last turn.
    turned_at: usize,
    skipped: u64,
    has_ended: bool,
}

impl<'a, S, R, E> Reader<'a, S>
where
    S: Stream<Item = Result<R, E>>,
    R: Row,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(
        rows: Pin<&'a mut S>,
        options: &'a BulkOptions,
        leading: Leading,
        committed: Committed,
    ) -> Self {
        Self {
            rows,
            options,
            committed,
            encoder: Encoder::new(R::COLUMNS, leading),
            refused: Vec::new(),
            start: None,
            next: 0,
            turned_at: 0,
            skipped: 0,
            has_ended: false,
        }
    }

    /// Rows left out so far.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next chunk; none at the end of the input.
    pub(super) async fn next_chunk(&mut self) -> Result<Option<Chunk>, BulkCause> {
        while !self.has_ended {
            let Some(row) = self.rows.next().await else {
                self.has_ended = true;
                break;
            };
            let place = self.next;
            let row = row.map_err(|error| {
                self.has_ended = true;
                BulkCause::Input { row: place, source: error.into() }
            })?;
            self.next += 1;
            if self.committed.contains(place) {
                self.skipped += 1;
                // A chunk covers one range, and this row is no part of it.
                if let Some(chunk) = self.finish(place) {
                    return Ok(Some(chunk));
                }
                if self.skipped.is_multiple_of(SKIPPED_PER_TURN) {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            self.take(&row, place)?;
            if self.is_full() {
                return Ok(self.finish(self.next));
            }
            if self.encoder.bytes() >= self.turned_at + BYTES_PER_TURN {
                self.turned_at = self.encoder.bytes();
                tokio::task::yield_now().await;
            }
        }
        Ok(self.finish(self.next))
    }

    fn take(&mut self, row: &R, place: u64) -> Result<(), BulkCause> {
        self.start.get_or_insert(place);
        let Err(error) = self.encoder.push(row, place) else { return Ok(()) };
        if self.options.bad_rows == BadRows::Fail || !error.problem.is_of_one_row() {
            self.has_ended = true;
            return Err(BulkCause::Value { row: place, source: error });
        }
        if self.refused.len() >= self.options.rejected_max {
            self.has_ended = true;
            return Err(BulkCause::TooManyRejected { limit: self.options.rejected_max });
        }
        self.refused.push(Rejected { row: place, refusal: Refusal::of_field(error) });
        Ok(())
    }

    fn is_full(&self) -> bool {
        let rows = self.start.map_or(0, |start| self.next - start);
        usize::try_from(rows).unwrap_or(usize::MAX) >= self.options.chunk_rows_max
            || self.encoder.bytes() >= self.options.chunk_bytes_max
    }

    fn finish(&mut self, end: u64) -> Option<Chunk> {
        let start = self.start.take()?;
        self.turned_at = 0;
        let places: Range<u64> = start..end;
        Some(self.encoder.finish(places, std::mem::take(&mut self.refused)))
    }
}
