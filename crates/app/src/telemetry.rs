//! Logs and traces of the process: JSON or text on standard error, and spans to an OTLP collector when one is named.
//! Started once by `main`; a collector that is away costs dropped spans and nothing else.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use paystrata_monitor::otlp;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use crate::config::{LogFormat, TelemetryConfig};

/// Keeps the exporter running; stop it last.
#[derive(Debug)]
pub struct Telemetry {
    exporter: Option<otlp::Guard>,
}

impl Telemetry {
    /// Sends what is buffered, within a few seconds.
    pub fn stop(self) {
        if let Some(Err(error)) = self.exporter.map(otlp::Guard::shutdown) {
            tracing::warn!(%error, "send the last spans");
        }
    }
}

/// # Errors
/// The filter or the endpoint cannot be read, or telemetry was started before.
pub fn start(config: &TelemetryConfig) -> anyhow::Result<Telemetry> {
    let filter: EnvFilter = config.log_filter.parse().context("read telemetry.log_filter")?;
    // Below this level the driver writes parameters, and with them what must not leave, into the log.
    let driver = "tokio_postgres=info".parse().context("read the driver's directive")?;
    let filter = filter.add_directive(driver);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).with_filter(filter).boxed(),
        LogFormat::Text => fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .with_filter(filter)
            .boxed(),
    };
    let (spans, exporter) = match &config.otlp_endpoint {
        Some(endpoint) => {
            let (layer, guard) =
                otlp::layer(endpoint, "paystrata").context("start telemetry.otlp_endpoint")?;
            (Some(layer), Some(guard))
        }
        None => (None, None),
    };
    tracing_subscriber::registry().with(lines).with(spans).try_init().context("start telemetry")?;
    Ok(Telemetry { exporter })
}
