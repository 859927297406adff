//! Moves chunks from the reader through the lanes: while chunks are under way the next one is filled. After a failure
//! nothing new begins, and what is under way is seen through to its end, so that the report is true. Knows no SQL.

use futures_util::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::encode::Chunk;
use super::error::{BulkCause, BulkError};
use super::reader::Reader;
use super::report::BulkReport;
use super::row::Row;
use super::write::Writer;

/// The failure that is told: of several, that of the earliest rows.
#[derive(Default)]
struct Failure(Option<(u64, BulkCause)>);

impl Failure {
    fn add(&mut self, row: u64, cause: BulkCause) {
        if self.0.as_ref().is_none_or(|(earlier, _)| row < *earlier) {
            self.0 = Some((row, cause));
        }
    }
}

/// Loads everything that the reader gives.
pub(super) async fn run<S, R, E>(writer: &Writer, mut reader: Reader<'_, S>) -> Result<BulkReport, BulkError>
where
    S: Stream<Item = Result<R, E>>,
    R: Row,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let load = |chunk: Chunk| async move { (chunk.places.start, writer.load(&chunk).await) };
    let mut lanes = FuturesUnordered::new();
    let mut filled: Option<Chunk> = None;
    let mut has_ended = false;
    let (mut report, mut failure) = (BulkReport::default(), Failure::default());
    loop {
        if lanes.len() < writer.options.lanes_max
            && let Some(chunk) = filled.take()
        {
            lanes.push(load(chunk));
        }
        tokio::select! {
            biased;
            Some((row, outcome)) = lanes.next(), if !lanes.is_empty() => match outcome {
                Ok(done) => {
                    report.add(done);
                    report.skipped = reader.skipped();
                    if let Some(progress) = &writer.options.progress {
                        progress(&report);
                    }
                }
                Err(cause) => {
                    failure.add(row, cause);
                    (has_ended, filled) = (true, None);
                }
            },
            next = reader.next_chunk(), if !has_ended && filled.is_none() => match next {
                Ok(Some(chunk)) => filled = Some(chunk),
                Ok(None) => has_ended = true,
                Err(cause) => {
                    failure.add(u64::MAX, cause);
                    has_ended = true;
                }
            },
            else => break,
        }
    }
    report.skipped = reader.skipped();
    let report = report.sorted();
    match failure.0 {
        None => Ok(report),
        Some((_, cause)) => Err(BulkError { cause, done: Box::new(report) }),
    }
}
