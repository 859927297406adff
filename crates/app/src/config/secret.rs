//! Secrets and URLs with passwords: they can be used, but not printed.
//!
//! Refuses to show their content by `Debug`, `Display` or `Serialize`; only `expose` gives it, so that every
//! use can be found by that word.

use std::error::Error as _;
use std::fmt;

use paystrata_cache::{RedisOptions, RedisTier};
use paystrata_db::{ConnectionUrl, UrlError};
use serde::{Serialize, Serializer};

use super::setting::REDACTED;

/// A key or password. Prints as `***`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The content, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// The URL of a service. Prints with `***` in the place of its password.
#[derive(Clone)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// A PostgreSQL URL that names exactly one host, and whose files for TLS can be used, or `None`. The parser's own
    /// message is dropped: it can quote a part of a password that was not percent-encoded.
    pub(crate) fn parse_database(text: &str) -> Option<Self> {
        // As the data layer reads it, so that it takes what is taken here.
        let fits = is_database(text) && text.parse::<ConnectionUrl>().is_ok();
        fits.then(|| Self(text.to_owned()))
    }

    /// What is wrong with the TLS of a PostgreSQL URL that is good otherwise. Names the parameter, and repeats neither the
    /// URL nor the path of a file.
    pub(crate) fn tls_fault(text: &str) -> Option<String> {
        if !is_database(text) {
            return None;
        }
        match text.parse::<ConnectionUrl>() {
            Ok(_) | Err(UrlError::Malformed(_) | UrlError::HostCount { .. }) => None,
            Err(error) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                Some(format!("{error}{cause}"))
            }
        }
    }

    /// A Redis URL `redis://[user][:password@]host[:port][/database]`, or `rediss://..` for TLS, or `None`.
    pub(crate) fn parse_redis(text: &str) -> Option<Self> {
        let uri: http::Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let address = authority.as_str().rsplit('@').next()?;
        // `port()` is silent about a port that does not fit.
        let port_fits = address == authority.host() || authority.port_u16().is_some();
        let database = uri.path().trim_start_matches('/');
        let database_fits = database.is_empty() || database.parse::<u16>().is_ok();
        let fits = matches!(uri.scheme_str(), Some("redis" | "rediss")) && !authority.host().is_empty();
        // And as the cache reads it: a broken percent sign in a password is found by the one who decodes it.
        let taken = || RedisTier::connect(text, RedisOptions::default()).is_ok();
        (fits && port_fits && database_fits && is_plain(text) && taken()).then(|| Self(text.to_owned()))
    }

    /// Whether it is a Redis URL that asks for TLS.
    pub(crate) fn is_redis_over_tls(&self) -> bool {
        self.0.starts_with("rediss://")
    }

    /// The whole URL, with its password, for the one place that connects.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL with `***` for the password, wherever one may stand: before the `@`, or as a parameter.
    pub fn redacted(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else { return REDACTED.to_owned() };
        // `is_plain` saw to it that the only `@` ends the credentials.
        let (credentials, location) = match rest.split_once('@') {
            Some((credentials, location)) => (redact_credentials(credentials), location),
            None => (String::new(), rest),
        };
        format!("{scheme}://{credentials}{}", redact_parameters(location))
    }
}

/// Whether the text is meant as a PostgreSQL URL, and hides no credentials from a print.
fn is_database(text: &str) -> bool {
    (text.starts_with("postgres://") || text.starts_with("postgresql://")) && is_plain(text)
}

/// Whether all readers agree where the credentials end: no other `@` than the one before the host. Parsers differ
/// about a password with an unencoded `@` or `/`, and a print would then show a part of it.
fn is_plain(text: &str) -> bool {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let in_authority = authority.matches('@').count();
    in_authority <= 1 && rest.matches('@').count() == in_authority
}

fn redact_credentials(credentials: &str) -> String {
    match credentials.split_once(':') {
        Some((user, _)) => format!("{user}:{REDACTED}@"),
        None => format!("{credentials}@"),
    }
}

fn redact_parameters(location: &str) -> String {
    let Some((path, parameters)) = location.split_once('?') else { return location.to_owned() };
    let shown: Vec<String> = parameters
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if !SHOWN_PARAMETERS.contains(&name) => format!("{name}={REDACTED}"),
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{path}?{}", shown.join("&"))
}

/// Parameters of a PostgreSQL URL that help a reader and hold no secret: of the files for TLS they are the paths. Any other
/// is hidden, because a list of the secret ones would miss a name spelled with percent signs.
const SHOWN_PARAMETERS: &[&str] = &[
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

impl fmt::Debug for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.redacted())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.redacted())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}
