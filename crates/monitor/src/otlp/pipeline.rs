//! The way of a span from the thread that ended it to the collector: counted, queued, batched, sent.
//! The batching and its thread are the SDK's; this adds a runtime that the HTTP client can run on, and the counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfig, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use tokio::runtime::{Builder, Runtime};

use super::SpanCounts;

/// What became of the spans. Shared by the processor, the exporter and the guard.
#[derive(Debug, Default)]
pub(super) struct Tally {
    ended: AtomicU64,
    exported: AtomicU64,
    failed: AtomicU64,
    is_failing: AtomicBool,
}

/// Runs an asynchronous exporter on the SDK's batch thread, which has no runtime.
/// Current-thread, so that all of the client runs there: under the SDK's mark that keeps its own work out of traces.
#[derive(Debug)]
pub(super) struct ThreadExporter {
    exporter: OtlpExporter,
    runtime: Runtime,
    timeout: Duration,
    tally: Arc<Tally>,
}

/// Counts spans on their way into the SDK's bounded queue.
#[derive(Debug)]
pub(super) struct CountingProcessor {
    queue: BatchSpanProcessor,
    tally: Arc<Tally>,
}

impl Tally {
    pub(super) fn counts(&self) -> SpanCounts {
        // Outcomes first, so that they never exceed what has ended.
        let exported = self.exported.load(Ordering::Acquire);
        let failed = self.failed.load(Ordering::Acquire);
        SpanCounts { ended: self.ended.load(Ordering::Acquire), exported, failed }
    }

    fn add(&self, spans: u64, result: &OTelSdkResult) {
        let counter = if result.is_ok() { &self.exported } else { &self.failed };
        counter.fetch_add(spans, Ordering::Release);
        // Said once per change: a collector may be away for days.
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_failing => {
                tracing::warn!(%error, spans, "traces are lost: the collector does not take them");
            }
            Ok(()) if was_failing => {
                tracing::info!(
                    lost = self.failed.load(Ordering::Relaxed),
                    "the collector takes traces again"
                );
            }
            _ => {}
        }
    }
}

impl ThreadExporter {
    pub(super) fn new(exporter: OtlpExporter, timeout: Duration, tally: Arc<Tally>) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { exporter, runtime, timeout, tally })
    }
}

impl SpanExporter for ThreadExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        // Blocks inside a future, which is fine in this one place: the batch thread polls nothing else.
        let result = self.runtime.block_on(async {
            let export = self.exporter.export(batch);
            let in_time = tokio::time::timeout(self.timeout, export).await;
            in_time.unwrap_or(Err(OTelSdkError::Timeout(self.timeout)))
        });
        self.tally.add(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl CountingProcessor {
    pub(super) fn new(exporter: ThreadExporter, config: BatchConfig, tally: Arc<Tally>) -> Self {
        Self { queue: BatchSpanProcessor::new(exporter, config), tally }
    }
}

impl SpanProcessor for CountingProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.queue.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        self.tally.ended.fetch_add(1, Ordering::Release);
        self.queue.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.queue.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.queue.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.queue.set_resource(resource);
    }
}
