//! Sends `tracing` spans to an OpenTelemetry collector: OTLP over HTTP with protobuf, in batches, from a thread of its own.
//! Never makes the program wait: the queue is bounded, and what does not fit, or cannot be delivered, is dropped and counted.
//! Installs no global tracer and no subscriber. Called by whoever sets up tracing.
//!
//! ```no_run
//! use tracing_subscriber::layer::SubscriberExt;
//! use tracing_subscriber::util::SubscriberInitExt;
//!
//! let (layer, guard) = paystrata_monitor::otlp::layer("http://127.0.0.1:4318", "payments")?;
//! tracing_subscriber::registry().with(layer).init();
//! // ... serve ...
//! guard.shutdown()?; // delivers what is queued, within five seconds
//! # Ok::<(), paystrata_monitor::otlp::OtlpError>(())
//! ```

mod client;
mod pipeline;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{BatchConfigBuilder, SdkTracerProvider};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use pipeline::{CountingProcessor, Tally, ThreadExporter};

/// Spans that wait for the exporter; some 2 MiB of them. More are dropped: traces are not worth a payment's memory.
const QUEUE_SPANS_MAX: usize = 2_048;

/// Spans in one request, and how many wake the exporter early.
const BATCH_SPANS_MAX: usize = 512;

/// How long a span waits for company.
const BATCH_INTERVAL: Duration = Duration::from_secs(5);

/// One request with its retries. Shorter than the shutdown, so that a dead collector costs the last batch, not the exit.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(4);

/// What an orderly exit may spend on traces.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Crates of the exporter's own way out: their spans would be exported by requests that make such spans again.
const OWN_CRATES: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "reqwest",
    "rustls",
    "tower",
];

/// Why traces cannot be exported, or were not all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// The endpoint is not a URL of a collector. It is not repeated here, for it may hold a password.
    #[error("OTLP endpoint {reason}")]
    Endpoint {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The HTTP client could not be set up.
    #[error("set up the HTTP client for traces")]
    Client(#[source] reqwest::Error),
    /// The TLS settings do not fit the provider.
    #[error("set up TLS for traces")]
    Tls(#[source] rustls::Error),
    /// The OTLP exporter could not be set up.
    #[error("set up the trace exporter")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The exporter's thread has no runtime to run on.
    #[error("start the runtime of the trace exporter")]
    Runtime(#[source] std::io::Error),
    /// The queue was not delivered in time; what is left of it is lost.
    #[error("deliver the last traces")]
    Shutdown(#[source] OTelSdkError),
}

/// What became of the spans so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Ended and meant to be exported.
    pub ended: u64,
    /// Taken by the collector.
    pub exported: u64,
    /// Lost, because the collector did not take them.
    pub failed: u64,
}

impl SpanCounts {
    /// Those that are neither exported nor failed: at most the queue and a batch of them wait, the others found
    /// the queue full.
    #[must_use]
    pub fn waiting_or_dropped(&self) -> u64 {
        self.ended.saturating_sub(self.exported).saturating_sub(self.failed)
    }
}

/// Owns the exporter. Dropping it delivers what is queued and stops, within five seconds, like [`Guard::shutdown`].
#[derive(Debug)]
#[must_use = "dropping the guard stops the export"]
pub struct Guard {
    provider: SdkTracerProvider,
    tally: Arc<Tally>,
}

/// A layer that exports spans to the collector at `endpoint` as those of the service `service_name`, and its owner.
///
/// The endpoint is that of the collector, such as `http://127.0.0.1:4318`, or the full address if it has a path.
/// For `https` the process's `rustls` provider is used, and `ring` installed as it if there is none. Headers are taken
/// from `OTEL_EXPORTER_OTLP_HEADERS`, resource attributes from `OTEL_RESOURCE_ATTRIBUTES`. Starts one thread.
/// Ending a span costs its thread the span's attributes and one attempt to queue it.
///
/// # Errors
/// [`OtlpError`], but never because the collector is down: that is found out later and only costs spans.
pub fn layer<S>(
    endpoint: &str,
    service_name: &str,
) -> Result<(impl Layer<S> + Send + Sync + 'static + use<S>, Guard), OtlpError>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let endpoint = client::traces_endpoint(endpoint)?;
    let tally = Arc::new(Tally::default());
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client::build(&endpoint, EXPORT_TIMEOUT)?)
        .with_endpoint(endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(OtlpError::Exporter)?;
    let exporter =
        ThreadExporter::new(exporter, EXPORT_TIMEOUT, Arc::clone(&tally)).map_err(OtlpError::Runtime)?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_SPANS_MAX)
        .with_max_export_batch_size(BATCH_SPANS_MAX)
        .with_scheduled_delay(BATCH_INTERVAL)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(CountingProcessor::new(exporter, batches, Arc::clone(&tally)))
        .with_resource(Resource::builder().with_service_name(service_name.to_owned()).build())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
        .with_filter(filter_fn(is_not_of_the_exporter));
    Ok((layer, Guard { provider, tally }))
}

impl Guard {
    /// Delivers what is queued and stops, within five seconds. Blocks the calling thread, but the exporter does not
    /// need it: this works on any runtime. Spans that end later are dropped.
    ///
    /// # Errors
    /// [`OtlpError::Shutdown`] if time ran out. Batches that the collector refused are not an error: see [`Self::counts`].
    pub fn shutdown(self) -> Result<(), OtlpError> {
        self.shutdown_within(SHUTDOWN_TIMEOUT)
    }

    /// Like [`shutdown`](Self::shutdown), within another time.
    ///
    /// # Errors
    /// [`OtlpError::Shutdown`] if time ran out.
    pub fn shutdown_within(self, timeout: Duration) -> Result<(), OtlpError> {
        self.provider.shutdown_with_timeout(timeout).map_err(OtlpError::Shutdown)
    }

    /// What became of the spans so far.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        self.tally.counts()
    }

    /// Delivers what is queued now, within five seconds. Blocks the calling thread.
    ///
    /// # Errors
    /// [`OtlpError::Shutdown`] if time ran out, or if the collector did not take all of it.
    pub fn flush(&self) -> Result<(), OtlpError> {
        self.provider.force_flush().map_err(OtlpError::Shutdown)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // After an explicit shutdown this does nothing; without one nobody is left to be told of a failure.
        let _ended = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
    }
}

fn is_not_of_the_exporter(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let crate_name = target.split_once("::").map_or(target, |(crate_name, _)| crate_name);
    !OWN_CRATES.contains(&crate_name)
}
