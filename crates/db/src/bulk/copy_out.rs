//! Reads a table as a stream of typed rows, by binary COPY. The server is read no faster than the caller takes rows, so memory
//! holds what a few messages hold. A stream that is dropped is cancelled on the server; its connection is not used again.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::time::timeout;
use tokio_postgres::CopyOutStream;

use super::encode::COPY_HEADER;
use super::error::{BulkCause, Refusal};
use super::row::{Column, FieldError, FieldProblem, FieldReader, Row, next_field};
use super::sql;
use super::table::Target;
use crate::connection::Connection;
use crate::error::Error;
use crate::sqlstate::{Class, is_no_answer};
use crate::usage::Inside;

/// The signature; flags and the length of an extension follow.
const SIGNATURE_BYTES: usize = 11;

/// Rows on their way out.
struct Reading<R> {
    connection: Connection,
    messages: Pin<Box<CopyOutStream>>,
    decoder: Decoder,
    /// How long the server may be silent.
    limit: Duration,
    /// Rows given.
    given: u64,
    row: PhantomData<fn() -> R>,
}

/// Begins to read. The statement has no limit in time; each message of it has.
pub(super) async fn copy_out<R: Row + Send + 'static>(
    connection: Connection,
    target: Arc<Target>,
    condition: Option<&'static str>,
    limit: Duration,
) -> Result<BoxStream<'static, Result<R, BulkCause>>, BulkCause> {
    connection.usage().set_in_transaction(Inside::Transaction);
    // Looked at, so that nobody can give its columns other types before they are read.
    let begin =
        format!("BEGIN TRANSACTION READ ONLY; SET LOCAL statement_timeout = 0; {}", sql::look_at(&target));
    connection.control_within(limit, &begin).await.map_err(|error| told(error, 0))?;
    if let Some(cause) = connection.check_types(limit, &target).await.map_err(|error| told(error, 0))? {
        return Err(cause);
    }
    let text = sql::copy_out(&target, condition);
    let started = connection.guarded_within(limit, async {
        let client = &connection.pooled().client;
        let statement = client.prepare(&text).await?;
        client.copy_out(&statement).await
    });
    let messages = Box::pin(started.await.map_err(|error| told(error, 0))?);
    connection.usage().begin_unborrowed();
    let decoder = Decoder { buffer: BytesMut::new(), begun: false };
    let reading = Reading { connection, messages, decoder, limit, given: 0, row: PhantomData };
    let rows = stream::unfold(Some(reading), |reading| async move {
        let mut reading: Reading<R> = reading?;
        match reading.next().await {
            Ok(Some(row)) => Some((Ok(row), Some(reading))),
            Ok(None) => None,
            Err(cause) => Some((Err(cause), None)),
        }
    });
    Ok(rows.boxed())
}

/// What the server said, without its words.
fn told(error: Error, row: u64) -> BulkCause {
    match error.postgres().and_then(tokio_postgres::Error::as_db_error) {
        Some(failure) => BulkCause::Unreadable { row, refusal: Refusal::of(failure) },
        None if error.class() == Class::OutcomeUnknown => BulkCause::ReadLost { row, source: error },
        None => BulkCause::Database(error),
    }
}

impl<R: Row> Reading<R> {
    async fn next(&mut self) -> Result<Option<R>, BulkCause> {
        loop {
            let row = self.decoder.next().map_err(|()| self.unknown_form())?;
            if let Some(fields) = row {
                let row = decode(R::COLUMNS, &fields);
                let row = row.map_err(|source| BulkCause::Value { row: self.given, source })?;
                self.given += 1;
                return Ok(Some(row));
            }
            let Ok(message) = timeout(self.limit, self.messages.next()).await else {
                let node = self.connection.node().clone();
                return Err(BulkCause::Database(Error::Deadline { node, after: self.limit }));
            };
            match message {
                Some(Ok(bytes)) => self.decoder.buffer.extend_from_slice(&bytes),
                Some(Err(source)) => {
                    self.connection.usage().end_unborrowed();
                    if is_no_answer(&source) {
                        self.connection.usage().note_lost_its_way();
                    }
                    let node = self.connection.node().clone();
                    return Err(told(Error::Query { node, source }, self.given));
                }
                None => {
                    self.finish().await;
                    return Ok(None);
                }
            }
        }
    }

    /// The server has sent everything; only the connection's further use depends on what comes now.
    async fn finish(&mut self) {
        let usage = self.connection.usage();
        usage.end_unborrowed();
        if self.connection.control_within(self.limit, "COMMIT").await.is_ok() {
            usage.set_in_transaction(Inside::Nothing);
        }
    }

    fn unknown_form(&self) -> BulkCause {
        let node = self.connection.node().clone();
        BulkCause::Database(Error::UnknownForm { node, what: "rows copied out" })
    }
}

fn decode<R: Row>(columns: &'static [Column], fields: &[u8]) -> Result<R, FieldError> {
    let mut reader = FieldReader::of_copy(columns, fields);
    let row = R::read(&mut reader)?;
    if reader.is_done() {
        return Ok(row);
    }
    let column = columns.last().map_or("", Column::name);
    Err(FieldError { column, problem: FieldProblem::WrongCount })
}

/// Takes rows out of a binary COPY, however its bytes are cut.
struct Decoder {
    buffer: BytesMut,
    /// The header is behind.
    begun: bool,
}

impl Decoder {
    /// One row's fields; none when more bytes are needed, or at the end.
    fn next(&mut self) -> Result<Option<BytesMut>, ()> {
        if !self.begun && !self.take_header()? {
            return Ok(None);
        }
        let Some((count, mut rest)) = self.buffer.split_first_chunk::<2>() else { return Ok(None) };
        let Ok(count) = usize::try_from(i16::from_be_bytes(*count)) else { return Ok(None) };
        let all = rest.len();
        for _ in 0..count {
            if next_field(&mut rest).is_none() {
                return Ok(None);
            }
        }
        let length = all - rest.len();
        self.buffer.advance(2);
        Ok(Some(self.buffer.split_to(length)))
    }

    fn take_header(&mut self) -> Result<bool, ()> {
        let Some(extension) = self.buffer.get(COPY_HEADER.len() - 4..COPY_HEADER.len()) else {
            return Ok(false);
        };
        if self.buffer[..SIGNATURE_BYTES] != COPY_HEADER[..SIGNATURE_BYTES] {
            return Err(());
        }
        let extension = u32::from_be_bytes(extension.try_into().map_err(drop)?);
        let length = COPY_HEADER.len() + usize::try_from(extension).map_err(drop)?;
        if self.buffer.len() < length {
            return Ok(false);
        }
        self.buffer.advance(length);
        self.begun = true;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_however_their_bytes_are_cut() {
        let mut whole = COPY_HEADER.to_vec();
        whole[18] = 3; // An extension of three bytes, which nobody has yet.
        whole.extend(b"ext");
        let rows: [&[u8]; 2] = [&[0, 0, 0, 1, 7, 255, 255, 255, 255], &[0, 0, 0, 0, 0, 0, 0, 2, 8, 9]];
        for row in rows {
            whole.extend([0, 2]);
            whole.extend(row);
        }
        whole.extend([0xff, 0xff]);
        for size in 1..=whole.len() {
            let mut decoder = Decoder { buffer: BytesMut::new(), begun: false };
            let mut found = Vec::new();
            for piece in whole.chunks(size) {
                decoder.buffer.extend_from_slice(piece);
                while let Some(row) = decoder.next().expect("a good header") {
                    found.push(row);
                }
            }
            assert_eq!(found, rows, "cut into {size}");
        }
    }

    #[test]
    fn another_format_is_refused() {
        let mut decoder = Decoder { buffer: BytesMut::from(&[b'x'; 40][..]), begun: false };
        assert!(decoder.next().is_err());
    }
}
