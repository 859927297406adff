//! What one setting is: its key, the kind of value it takes with its bounds, its default and its meaning.
//!
//! Refuses to hold values: a setting is a row of the table, read by the check, the print and the reference page.

use std::time::Duration;

/// Text that stands for a secret wherever one is printed. A written secret that contains it is refused, so that
/// a redacted print cannot be fed back by accident.
pub const REDACTED: &str = "***";

/// Every variable of this service starts so; single underscores are left to others.
pub(crate) const VARIABLE_PREFIX: &str = "PAYSTRATA__";

/// A named group of settings: one table of the TOML file and one heading of the reference page.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) settings: &'static [Setting],
}

/// One row of the table.
pub(crate) struct Setting {
    /// Full name, with dots: `http.listen`.
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) default: DefaultValue,
    pub(crate) meaning: &'static str,
}

impl Setting {
    /// The environment variable that sets it: `PAYSTRATA__HTTP__LISTEN`.
    pub(crate) fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.replace('.', "__").to_ascii_uppercase())
    }

    /// The key without its section: `listen`.
    pub(crate) fn last_name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }
}

/// What stands in for a setting that nobody wrote. The text is read as from the environment.
#[derive(Clone, Copy)]
pub(crate) enum DefaultValue {
    /// The same in every profile.
    Fixed(&'static str),
    /// Differs by profile.
    ByProfile { production: &'static str, development: &'static str },
    /// A secret that development may use and production refuses, even when it is written there.
    DevelopmentSecret(&'static str),
    /// Must be written.
    Required,
}

/// The kind of value a setting takes, with its bounds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Flag,
    Choice(&'static [&'static str]),
    Integer {
        min: i64,
        max: i64,
        unit: &'static str,
    },
    Span {
        min: i64,
        max: i64,
        unit: SpanUnit,
    },
    /// IP address and port to listen on.
    Address,
    /// Directives of `tracing_subscriber::EnvFilter`.
    LogFilter,
    /// An http or https URL without credentials; empty text means none.
    Endpoint,
    /// As [`Kind::Endpoint`], but card numbers and keys travel to it: https, or http that stays on this machine.
    GatewayEndpoint,
    DatabaseUrl(Emptiness),
    DatabaseUrls,
    /// Empty text means none.
    RedisUrl,
    /// Path of a file with certificates; empty text means none.
    AuthoritiesPath,
    /// Path of a file that the service itself writes; empty text means none.
    KeptPath,
    Secret {
        bytes_min: usize,
    },
    /// What a gateway knows us by: it travels in a header or a field that holds no more.
    Credential {
        characters_max: usize,
    },
    Blocklist,
    /// A list of servers; an empty one means none.
    MemcachedHosts,
}

/// Whether empty text is a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emptiness {
    Refused,
    MeansNone,
}

/// Unit of a span of time, as the last word of the setting's name tells it.
#[derive(Clone, Copy)]
pub(crate) enum SpanUnit {
    Milliseconds,
    Seconds,
    Days,
}

impl SpanUnit {
    /// The span of `count` units. The bounds of every setting keep it far from overflow.
    pub(crate) fn span(self, count: u64) -> Duration {
        match self {
            Self::Milliseconds => Duration::from_millis(count),
            Self::Seconds => Duration::from_secs(count),
            Self::Days => Duration::from_secs(count * 24 * 60 * 60),
        }
    }

    /// How many units the span has: the reverse of [`SpanUnit::span`].
    pub(crate) fn count(self, span: Duration) -> u128 {
        match self {
            Self::Milliseconds => span.as_millis(),
            Self::Seconds => u128::from(span.as_secs()),
            Self::Days => u128::from(span.as_secs() / (24 * 60 * 60)),
        }
    }
}

impl Kind {
    /// Whether the value must stay out of errors and prints, and may come from a file named by `.._FILE`.
    pub(crate) fn is_secret(self) -> bool {
        matches!(
            self,
            Self::DatabaseUrl(_)
                | Self::DatabaseUrls
                | Self::RedisUrl
                | Self::Secret { .. }
                | Self::Credential { .. }
        )
    }

    /// Whether an error may show what was found. An endpoint is printed, but one that was refused may hold a
    /// password.
    pub(crate) fn may_be_shown(self) -> bool {
        !self.is_secret() && !matches!(self, Self::Endpoint | Self::GatewayEndpoint)
    }

    /// Whether the environment gives it as a comma separated list.
    pub(crate) fn is_list(self) -> bool {
        matches!(self, Self::DatabaseUrls | Self::Blocklist | Self::MemcachedHosts)
    }

    /// Unit for the reference page; empty when the value has none.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Integer { unit, .. } => unit,
            Self::Span { unit: SpanUnit::Milliseconds, .. } => "milliseconds",
            Self::Span { unit: SpanUnit::Seconds, .. } => "seconds",
            Self::Span { unit: SpanUnit::Days, .. } => "days",
            _ => "",
        }
    }

    /// What a value of this kind looks like, as the end of the sentence "expected ..".
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Flag => "true or false".into(),
            Self::Choice(names) => {
                names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or ")
            }
            Self::Integer { min, max, unit: "" } => format!("an integer from {min} to {max}"),
            Self::Integer { min, max, .. } | Self::Span { min, max, .. } => {
                format!("an integer from {min} to {max} ({})", self.unit())
            }
            Self::Address => "an IP address and port such as 127.0.0.1:8080".into(),
            Self::LogFilter => "log directives such as info,paystrata_app=debug".into(),
            Self::Endpoint => "an http:// or https:// URL without credentials or query, or empty text".into(),
            Self::GatewayEndpoint => {
                "an https:// URL without credentials or query, or http:// to a loopback address, or empty text"
                    .into()
            }
            Self::DatabaseUrl(Emptiness::Refused) => DATABASE_URL.into(),
            Self::DatabaseUrl(Emptiness::MeansNone) => format!("{DATABASE_URL}, or empty text"),
            Self::DatabaseUrls => format!("a list of different entries, each {DATABASE_URL}"),
            Self::RedisUrl => {
                "a Redis URL such as redis://:password@host:6379/0, rediss:// for TLS, which is always verified, or empty text"
                    .into()
            }
            Self::AuthoritiesPath => {
                "the path of a file with certificates of authorities in PEM, or empty text".into()
            }
            Self::KeptPath => "the path of a file in a folder that is there, or empty text".into(),
            Self::Secret { bytes_min } => {
                format!("a secret of at least {bytes_min} {}", if bytes_min == 1 { "byte" } else { "bytes" })
            }
            Self::Credential { characters_max } => {
                format!("a secret of 1 to {characters_max} letters, digits and signs without spaces")
            }
            Self::Blocklist => {
                "a list of entries such as account:acc_.. (32 hexadecimal digits) or bin:411111 (6 digits)".into()
            }
            Self::MemcachedHosts => "a list of different servers such as cache-1:11211, without a scheme".into(),
        }
    }
}

const DATABASE_URL: &str = "a PostgreSQL URL of one host such as postgres://user:password@host:5432/database, \
                            with @ and / of a password percent-encoded";

/// An integer without a unit.
pub(crate) const fn count(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max, unit: "" }
}

/// A size in bytes.
pub(crate) const fn bytes(min: i64, max: i64) -> Kind {
    Kind::Integer { min, max, unit: "bytes" }
}

/// A span in milliseconds.
pub(crate) const fn milliseconds(min: i64, max: i64) -> Kind {
    Kind::Span { min, max, unit: SpanUnit::Milliseconds }
}

/// A span in seconds.
pub(crate) const fn seconds(min: i64, max: i64) -> Kind {
    Kind::Span { min, max, unit: SpanUnit::Seconds }
}

/// A span in days.
pub(crate) const fn days(min: i64, max: i64) -> Kind {
    Kind::Span { min, max, unit: SpanUnit::Days }
}
