//! Connection URLs: parsed once, and never printed with their password.
//! It refuses URLs that name several hosts (one URL is one server, or routing could not tell them apart) and URLs that
//! demand TLS, which this version does not speak. One that would take TLS if there is any (`sslmode=prefer`, which is also
//! what a URL without it says) is taken and never gets it: [`ConnectionUrl::prefers_tls_over_a_network`] tells.
//! Callers: whoever builds a `Config`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use tokio_postgres::config::{Host, SslMode};

/// The address and credentials of one server, in the forms libpq takes (`postgres://..` or `host=.. user=..`).
#[derive(Clone)]
pub struct ConnectionUrl {
    settings: Box<tokio_postgres::Config>,
    endpoint: String,
}

/// Why a connection URL was not taken. None of the texts repeats the URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// Not a connection URL.
    #[error("not a Postgres connection URL")]
    Malformed(#[source] tokio_postgres::Error),
    /// Zero or several hosts.
    #[error("a connection URL names exactly one host; this one names {found}")]
    HostCount {
        /// How many it names.
        found: usize,
    },
    /// `sslmode=require`, `verify-ca` or `verify-full`.
    #[error(
        "the URL demands TLS by its sslmode, which this version does not speak; use a local or tunnelled address"
    )]
    TlsDemanded,
}

const PORT_DEFAULT: u16 = 5432;
const VERIFYING: [&str; 2] = ["sslmode=verify-ca", "sslmode=verify-full"];

impl ConnectionUrl {
    /// `host:port`, or the socket's folder and port.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether rows, and the password where the server asks for it, cross a network in the clear although the URL would
    /// rather have TLS. `sslmode=disable` says that this is known; a socket or a loopback address is no network.
    #[must_use]
    pub fn prefers_tls_over_a_network(&self) -> bool {
        let over_a_network = match self.host() {
            Host::Tcp(name) => {
                name != "localhost" && !name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
            Host::Unix(_) => false,
        };
        over_a_network && self.settings.get_ssl_mode() != SslMode::Disable
    }

    /// The same server and user, another database.
    pub(crate) fn to_database(&self, name: &str) -> Self {
        let mut other = self.clone();
        other.settings.dbname(name);
        other
    }

    pub(crate) fn host(&self) -> &Host {
        self.settings.get_hosts().first().expect("parsing has found one host")
    }

    pub(crate) fn port(&self) -> u16 {
        port_of(&self.settings)
    }

    pub(crate) fn settings(&self) -> &tokio_postgres::Config {
        &self.settings
    }
}

impl FromStr for ConnectionUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let settings: tokio_postgres::Config = match text.parse() {
            Ok(settings) => settings,
            // Words of libpq that the driver does not know.
            Err(_) if VERIFYING.iter().any(|mode| text.contains(mode)) => return Err(UrlError::TlsDemanded),
            Err(error) => return Err(UrlError::Malformed(error)),
        };
        let tls_optional = matches!(settings.get_ssl_mode(), SslMode::Disable | SslMode::Prefer);
        if !tls_optional {
            return Err(UrlError::TlsDemanded);
        }
        let [host] = settings.get_hosts() else {
            return Err(UrlError::HostCount { found: settings.get_hosts().len() });
        };
        let port = port_of(&settings);
        let endpoint = match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => format!("{}:{port}", folder.display()),
        };
        Ok(Self { settings: Box::new(settings), endpoint })
    }
}

fn port_of(settings: &tokio_postgres::Config) -> u16 {
    settings.get_ports().first().copied().unwrap_or(PORT_DEFAULT)
}

impl TryFrom<String> for ConnectionUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl fmt::Display for ConnectionUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.settings.get_user().unwrap_or_default();
        let password = if self.settings.get_password().is_some() { ":***" } else { "" };
        let database = self.settings.get_dbname().unwrap_or_default();
        write!(formatter, "postgres://{user}{password}@{}/{database}", self.endpoint)
    }
}

impl fmt::Debug for ConnectionUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ConnectionUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_never_printed() {
        let url: ConnectionUrl = "postgres://pay:s3cret@db1:6000/ledger".parse().expect("a valid URL");
        assert_eq!(url.to_string(), "postgres://pay:***@db1:6000/ledger");
        assert!(!format!("{url:?}").contains("s3cret"));
        assert_eq!(url.endpoint(), "db1:6000");
    }

    #[test]
    fn errors_do_not_repeat_the_url() {
        let error = "postgres://pay:s3cret@db1:notaport/x".parse::<ConnectionUrl>().expect_err("no port");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }

    #[test]
    fn tls_demanded_is_refused_and_tls_preferred_is_taken() {
        for mode in ["require", "verify-ca", "verify-full"] {
            for text in [format!("postgres://pay@db1/x?sslmode={mode}"), format!("host=db1 sslmode={mode}")] {
                assert!(matches!(text.parse::<ConnectionUrl>(), Err(UrlError::TlsDemanded)), "{text}");
            }
        }
        assert!("postgres://pay@db1/x?sslmode=prefer".parse::<ConnectionUrl>().is_ok());
    }

    #[test]
    fn a_wish_for_tls_that_is_not_granted_over_a_network_is_told() {
        let told = |text: &str| text.parse::<ConnectionUrl>().expect(text).prefers_tls_over_a_network();
        for text in ["postgres://pay@db1/x", "postgres://pay@10.0.0.7/x?sslmode=prefer", "host=db1 user=pay"]
        {
            assert!(told(text), "{text}");
        }
        for text in [
            "postgres://pay@db1/x?sslmode=disable",
            "postgres://pay@127.0.0.1/x",
            "postgres://pay@localhost/x?sslmode=prefer",
            "host=::1 user=pay",
            "host=/run/postgresql user=pay",
        ] {
            assert!(!told(text), "{text}");
        }
    }

    #[test]
    fn one_url_is_one_server() {
        let several = "postgres://pay@db1,db2/x".parse::<ConnectionUrl>();
        assert!(matches!(several, Err(UrlError::HostCount { found: 2 })));
        let none = "user=pay".parse::<ConnectionUrl>();
        assert!(matches!(none, Err(UrlError::HostCount { found: 0 })));
    }
}
