//! Rows that refer to rows of their own table which are not there. Each was refused alone, and can be written with those that it
//! refers to, if these are among them. Which these are nobody tells, so all are tried as one, then halves of them, and so on,
//! a bounded number of times. Called by `write` when no row can be written alone any more.

use std::collections::VecDeque;
use std::slice;

use super::{Failed, GO_BACK, RELEASE, Writer, Written};
use crate::bulk::encode::Chunk;
use crate::coalesce::may_be_of_one_row;
use crate::connection::Connection;

/// Tries in one attempt at a chunk: down to groups of a thirty-second. Where all rows are bad, each row is sent six times for nothing.
const TRIES_MAX: usize = 63;

/// What one attempt at a chunk has left.
#[derive(Debug)]
pub(super) struct Tries(usize);

/// Rows that were written together.
#[derive(Debug)]
pub(super) struct Group {
    /// In order.
    pub(super) rows: Vec<usize>,
    pub(super) written: Written,
}

impl Tries {
    pub(super) fn new() -> Self {
        Self(TRIES_MAX)
    }

    fn take(&mut self) -> bool {
        let is_left = self.0 > 0;
        self.0 = self.0.saturating_sub(1);
        is_left
    }
}

impl Writer {
    /// Writes a group of these rows, the largest that is found. None where there is none, or the tries are used up.
    pub(super) async fn write_together(
        &self,
        connection: &Connection,
        chunk: &Chunk,
        mut rows: Vec<usize>,
        tries: &mut Tries,
    ) -> Result<Option<Group>, Failed> {
        let save = self.save();
        rows.sort_unstable();
        let mut groups = VecDeque::from([rows]);
        while let Some(rows) = groups.pop_front() {
            // Each was tried alone.
            if rows.len() < 2 || !tries.take() {
                continue;
            }
            let together = chunk.only(&rows);
            self.control(connection, &save).await?;
            let all = 0..together.len();
            match self.write(connection, &together, slice::from_ref(&all)).await {
                Ok(written) => {
                    self.control(connection, RELEASE).await?;
                    return Ok(Some(Group { rows, written }));
                }
                Err(error) if may_be_of_one_row(&error) => {}
                Err(error) => return Err(Failed::Rows(error)),
            }
            self.control(connection, GO_BACK).await?;
            connection.usage().forget_failure();
            let (earlier, later) = rows.split_at(rows.len() / 2);
            groups.extend([earlier.to_vec(), later.to_vec()]);
        }
        Ok(None)
    }
}
