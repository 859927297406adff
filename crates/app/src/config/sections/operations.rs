//! The profile, and what the running service needs besides payments: views, partitions, keys, telemetry, targets.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::secret::Secret;
use crate::config::setting::DefaultValue::{ByProfile, DevelopmentSecret, Fixed};
use crate::config::setting::{Kind, Section, Setting, count, milliseconds, seconds};
use crate::config::value::{Take, Value};

/// What kind of place the service runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Real money: every secret must be given.
    Production,
    /// A developer's machine: secrets have defaults that everybody knows.
    Development,
}

impl Profile {
    /// The API key that exists without being created, in development only.
    pub const fn known_api_key(self) -> Option<&'static str> {
        match self {
            Self::Production => None,
            Self::Development => Some("sk_dev_paystrata"),
        }
    }
}

/// Lines of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// Full name of the setting that chooses the defaults.
pub(crate) const PROFILE_KEY: &str = "profile";

/// The only setting outside a TOML table.
pub(crate) const PROFILE: Section = Section {
    name: "",
    about: " Where the service runs.",
    settings: &[Setting {
        key: PROFILE_KEY,
        kind: Kind::Choice(&["production", "development"]),
        default: Fixed("production"),
        meaning: " `development` has known secrets and accepts the API key `sk_dev_paystrata`; `production` refuses both.",
    }],
};

impl Take for Profile {
    fn take(value: &Value) -> Self {
        match String::take(value).as_str() {
            "development" => Self::Development,
            _ => Self::Production,
        }
    }
}

impl Take for LogFormat {
    fn take(value: &Value) -> Self {
        match String::take(value).as_str() {
            "text" => Self::Text,
            _ => Self::Json,
        }
    }
}

section! {
    /// Statistics from materialized views.
    StatsConfig = "stats" {
        /// Time between two refreshes of the views.
        refresh: Duration = "refresh_seconds" seconds(1, 86_400), Fixed("60");
    }
}

section! {
    /// Monthly partitions of payments and entries.
    PartitionsConfig = "partitions" {
        /// Months whose partitions are made ahead.
        months_ahead: NonZeroU32 = "months_ahead" count(1, 24), Fixed("3");
    }
}

section! {
    /// Keys of the service itself.
    SecurityConfig = "security" {
        /// Key of the fingerprints that tell whether a request is the one its idempotency key was used with; at least
        /// 32 bytes, such as from `openssl rand -hex 32`. Required in production, and the same on every node: under
        /// another one each repeat of a request of the last `idempotency.retention_days` is refused as
        /// `idempotency_key_reuse`.
        fingerprint_key: Secret = "fingerprint_key" Kind::Secret { bytes_min: 32 }, DevelopmentSecret("development-fingerprint-key-known-to-all");
    }
}

section! {
    /// Logs and traces.
    TelemetryConfig = "telemetry" {
        /// Lines of the log: JSON objects, or text for a person.
        log_format: LogFormat = "log_format" Kind::Choice(&["json", "text"]), ByProfile { production: "json", development: "text" };
        /// Which events are logged, as directives of `tracing`.
        log_filter: String = "log_filter" Kind::LogFilter, Fixed("info");
        /// Base URL of an OTLP collector over HTTP for traces; empty exports none.
        otlp_endpoint: Option<String> = "otlp_endpoint" Kind::Endpoint, Fixed("");
    }
}

section! {
    /// Latency that is promised; a route that misses it burns its error budget.
    TargetsConfig = "targets" {
        /// Target of the median.
        p50: Duration = "p50_ms" milliseconds(1, 60_000), Fixed("20");
        /// Target of the 95th percentile.
        p95: Duration = "p95_ms" milliseconds(1, 60_000), Fixed("80");
        /// Target of the 99th percentile.
        p99: Duration = "p99_ms" milliseconds(1, 60_000), Fixed("100");
    }
}
