//! Sends encoded rows over one connection: as a binary COPY, as parameters, or as arrays. It counts as a statement under way
//! like any other, so that a future dropped here leads to a cancel and never to a connection given back.

use std::error::Error as StdError;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, TryStreamExt as _, pin_mut};
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::Row;

use super::encode::{COPY_HEADER, COPY_TRAILER, Chunk};
use super::error::BulkCause;
use super::sql;
use super::table::Target;
use crate::connection::Connection;
use crate::error::Error;

/// What one message of a COPY carries: the driver hands each to its connection's task, and larger ones gain nothing.
const BLOCK_BYTES: usize = 256 * 1024;

/// What observers are told in place of texts that differ by table.
const COPY_SEEN: &str = "COPY FROM STDIN";
const STATEMENT_SEEN: &str = "bulk statement";

/// What a statement gave.
pub(super) struct Answer {
    pub(super) rows: Vec<Row>,
    pub(super) affected: u64,
}

impl Connection {
    /// Copies some rows of a chunk in; the number that the server took. Two round trips. Nothing is flushed twice, and
    /// the answer is always read: only there does the server say why it refused.
    pub(super) async fn copy_in(
        &self,
        limit: Duration,
        sql: &str,
        chunk: &Chunk,
        rows: Range<usize>,
    ) -> Result<u64, Error> {
        let started = Instant::now();
        let copied = self.guarded_within(limit, async {
            let client = &self.pooled().client;
            let statement = client.prepare(sql).await?;
            let sink = client.copy_in::<_, Bytes>(&statement).await?;
            pin_mut!(sink);
            for block in blocks(chunk.rows(rows)) {
                // It breaks only with the connection, and then the answer says so.
                if sink.feed(block).await.is_err() {
                    break;
                }
            }
            sink.finish().await
        });
        let copied = copied.await;
        self.report(COPY_SEEN, started.elapsed(), copied.as_ref().err());
        copied
    }

    /// Refuses a table whose columns have been given other types since it was looked up: a binary COPY would take the bytes of the old
    /// ones for values of the new ones. One round trip.
    pub(super) async fn check_types(
        &self,
        limit: Duration,
        target: &Target,
    ) -> Result<Option<BulkCause>, Error> {
        let answer = self.run_once(limit, &sql::changed_types(target), Vec::new()).await?;
        let changed: Option<i64> = answer.rows.first().and_then(|row| row.try_get(0).ok());
        let problem = || format!("the types of columns of {} have changed since it was opened", target.sql);
        Ok((changed != Some(0)).then(|| BulkCause::Settings { problem: problem() }))
    }

    /// Runs a text of this crate's own, planned for this once. One round trip.
    pub(super) async fn run_once(
        &self,
        limit: Duration,
        sql: &str,
        parameters: Vec<(Raw<'_>, Type)>,
    ) -> Result<Answer, Error> {
        let started = Instant::now();
        let answer = self.guarded_within(limit, async {
            let stream = self.pooled().client.query_typed_raw(sql, parameters).await?;
            pin_mut!(stream);
            let mut rows = Vec::new();
            while let Some(row) = stream.try_next().await? {
                rows.push(row);
            }
            Ok(Answer { rows, affected: stream.rows_affected().unwrap_or(0) })
        });
        let answer = answer.await;
        self.report(STATEMENT_SEEN, started.elapsed(), answer.as_ref().err());
        answer
    }
}

fn blocks(mut rows: Bytes) -> impl Iterator<Item = Bytes> {
    let between = std::iter::from_fn(move || {
        let length = rows.len().min(BLOCK_BYTES);
        (length > 0).then(|| rows.split_to(length))
    });
    let (header, trailer) = (Bytes::from_static(COPY_HEADER), Bytes::from_static(COPY_TRAILER));
    std::iter::once(header).chain(between).chain(std::iter::once(trailer))
}

/// A parameter whose bytes are already in the server's form.
#[derive(Debug)]
pub(super) enum Raw<'a> {
    Field(Option<&'a [u8]>),
    Array(BytesMut),
}

impl ToSql for Raw<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Self::Field(None) => return Ok(IsNull::Yes),
            Self::Field(Some(bytes)) => out.put_slice(bytes),
            Self::Array(bytes) => out.put_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Every value of some rows as a parameter of its own.
pub(super) fn values<'a>(target: &Target, chunk: &'a Chunk, rows: Range<usize>) -> Vec<(Raw<'a>, Type)> {
    let mut parameters = Vec::with_capacity(rows.len() * target.columns.len());
    for row in rows {
        let columns = target.columns.iter().map(|column| column.value_type.clone());
        parameters.extend(chunk.fields(row).map(Raw::Field).zip(columns));
    }
    parameters
}

/// Every column of some rows as an array; none when a column's values have no array type. A field has the same bytes in
/// a row of COPY and in an array, so this only moves them.
pub(super) fn arrays(
    target: &Target,
    chunk: &Chunk,
    rows: Range<usize>,
) -> Option<Vec<(Raw<'static>, Type)>> {
    let length = i32::try_from(rows.len()).ok()?;
    let types: Option<Vec<Type>> = target.columns.iter().map(|column| column.array_type.clone()).collect();
    let types = types?;
    let size = chunk.rows(rows.clone()).len() / types.len();
    let mut arrays: Vec<BytesMut> = target
        .columns
        .iter()
        .map(|column| {
            let mut array = BytesMut::with_capacity(size + 20);
            // One dimension, NULLs possible, its elements' type, their number, and that they count from 1.
            array.put_i32(1);
            array.put_i32(1);
            array.put_u32(column.value_type.oid());
            array.put_i32(length);
            array.put_i32(1);
            array
        })
        .collect();
    for row in rows {
        for (array, field) in arrays.iter_mut().zip(chunk.fields(row)) {
            match field {
                None => array.put_i32(-1),
                Some(bytes) => {
                    array.put_i32(i32::try_from(bytes.len()).expect("a field was measured when it was put"));
                    array.put_slice(bytes);
                }
            }
        }
    }
    Some(arrays.into_iter().map(Raw::Array).zip(types).collect())
}
