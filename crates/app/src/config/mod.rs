//! Configuration of the service: built-in defaults, then a TOML file, then `PAYSTRATA__..` environment variables.
//!
//! Two stages: `raw` has values as they were written, with their places; `checked` has them checked. Sections
//! are plain structs of real types. Refuses unknown names and bad values, all of them at once, and never shows a
//! secret. Called by `main`, and by tests with their own environment.

mod bounded_read;
mod check;
mod checked;
mod environment;
mod error;
mod file;
mod migration;
mod print;
mod raw;
mod reference;
mod rules;
mod secret;
mod sections;
mod setting;
#[cfg(test)]
mod tests;
mod value;

use std::env::VarsOs;
use std::ffi::OsString;
use std::path::PathBuf;

use checked::Checked;
use environment::Variable;
use raw::{Completeness, FileChoice, RawConfig};

pub use bounded_read::ReadError;
pub(crate) use bounded_read::read_text;
pub use error::{ConfigError, Place, Problem};
pub use reference::reference_page;
pub use secret::{Secret, SecretUrl};
pub use sections::{
    AuthorizeNetConfig, CacheConfig, DatabaseConfig, EngineConfig, FraudConfig, GatewaysConfig, HttpConfig,
    IdempotencyConfig, LogFormat, PartitionsConfig, Profile, ResolverConfig, SecurityConfig, StatsConfig,
    TargetsConfig, TelemetryConfig, VelocityPayConfig,
};
pub use setting::REDACTED;
pub use value::BlocklistEntry;

/// Read from the directory of [`LoadOptions`] when no file is named.
pub const FILE_NAME: &str = "paystrata.toml";

/// Where a load looks.
#[derive(Debug)]
pub struct LoadOptions<E> {
    /// The TOML file, which must exist then; `None` takes [`FILE_NAME`] if it exists in `directory`.
    pub file: Option<PathBuf>,
    /// Where [`FILE_NAME`] is looked for.
    pub directory: PathBuf,
    /// Environment variables; those without our prefix are left alone.
    pub environment: E,
}

impl LoadOptions<VarsOs> {
    /// The environment and the current directory of this process.
    pub fn from_process(file: Option<PathBuf>) -> Self {
        Self { file, directory: PathBuf::from("."), environment: std::env::vars_os() }
    }
}

/// The checked configuration. `Debug` shows no secret.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where the service runs.
    pub profile: Profile,
    /// Listeners, limits and the shape of responses.
    pub http: HttpConfig,
    /// PostgreSQL nodes, pools and timeouts.
    pub db: DatabaseConfig,
    /// The tiers in front of the database.
    pub cache: CacheConfig,
    /// The write path that moves money.
    pub engine: EngineConfig,
    /// The rails that are enabled.
    pub gateways: GatewaysConfig,
    /// Asking gateways for outcomes that are not known.
    pub resolver: ResolverConfig,
    /// Rules that refuse payments before money moves.
    pub fraud: FraudConfig,
    /// Remembering the answers to idempotency keys.
    pub idempotency: IdempotencyConfig,
    /// Statistics from materialized views.
    pub stats: StatsConfig,
    /// Monthly partitions of payments and entries.
    pub partitions: PartitionsConfig,
    /// Keys of the service itself.
    pub security: SecurityConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// Latency that is promised.
    pub targets: TargetsConfig,
    redacted: String,
}

impl Config {
    /// Reads, checks and joins all sources.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found, none of which shows a secret.
    pub fn load<E, N, V>(options: LoadOptions<E>) -> Result<Self, ConfigError>
    where
        E: IntoIterator<Item = (N, V)>,
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let variables = options
            .environment
            .into_iter()
            .map(|(name, value)| Variable { name: name.into(), value: value.into() })
            .collect();
        let usual = options.directory.join(FILE_NAME);
        let choice = options.file.as_deref().map_or(FileChoice::IfPresent(&usual), FileChoice::Named);

        let mut raw = RawConfig::collect(&choice, variables);
        let mut values = Checked::of_written(&mut raw);
        // After a file that could not be read, or without a profile, rules would complain about guesses.
        if let (Some(profile), Completeness::Whole) = (values.profile(), raw.completeness) {
            values.fill_defaults(profile);
            rules::apply(&values, profile, &mut raw.problems);
        }
        if raw.problems.is_empty() {
            Ok(Self::assemble(&values))
        } else {
            Err(ConfigError::new(raw.problems))
        }
    }

    /// The effective configuration as TOML, each setting with a comment that tells its origin. Keys print as
    /// `***`, URLs without their password.
    pub fn print_redacted(&self) -> String {
        self.redacted.clone()
    }

    fn assemble(values: &Checked) -> Self {
        Self {
            profile: values.take(sections::PROFILE_KEY),
            http: HttpConfig::read(values),
            db: DatabaseConfig::read(values),
            cache: CacheConfig::read(values),
            engine: EngineConfig::read(values),
            gateways: GatewaysConfig::read(values),
            resolver: ResolverConfig::read(values),
            fraud: FraudConfig::read(values),
            idempotency: IdempotencyConfig::read(values),
            stats: StatsConfig::read(values),
            partitions: PartitionsConfig::read(values),
            security: SecurityConfig::read(values),
            telemetry: TelemetryConfig::read(values),
            targets: TargetsConfig::read(values),
            redacted: print::effective(values),
        }
    }
}
