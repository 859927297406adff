//! Connection URLs: parsed once, and never printed with their password.
//! It refuses URLs that name several hosts (one URL is one server, or routing could not tell them apart) and words about TLS that
//! would do nothing. A URL that demands TLS gets it, or no connection. One that would take TLS if there is any (`sslmode=prefer`,
//! which is also what a URL without it says) never gets it: [`ConnectionUrl::prefers_tls_over_a_network`] tells.
//! Callers: whoever builds a `Config`.

pub(crate) mod parameters;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use tokio_postgres::config::{Host, SslMode, SslNegotiation};

use crate::tls::Tls;
use parameters::{Mode, ROOT_CERTIFICATES, TlsParameters};

/// The address and credentials of one server, in the forms libpq takes (`postgres://..` or `host=.. user=..`), and how it is
/// spoken to.
///
/// | `sslmode` | the connection |
/// |---|---|
/// | `disable`, `prefer`, none | plain: what can be talked out of TLS by whoever stands in between protects nobody from them |
/// | `verify-ca` | TLS, with a certificate by one of the authorities of `sslrootcert`, for whatever name |
/// | `verify-full`, `require` | TLS, with a certificate by one of the authorities for the host of the URL; to libpq, `require` checks nothing |
///
/// The authorities are those in the file of `sslrootcert`, in PEM, or with the word `system` and without it those that the
/// system trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` name others). `sslcert` and `sslkey` name the files of a certificate that the
/// server is shown when it asks for one, and of its key, in PEM and not encrypted. All of them are read when the URL is parsed, once:
/// clones share what was made of them, and a file that changes is seen by the next parse. Nothing is looked for in `~/.postgresql`.
/// With `sslnegotiation=direct` (PostgreSQL 17) TLS begins without a question, which saves a round trip; a server that does not then
/// choose the protocol `postgresql` (ALPN) is not trusted.
#[derive(Clone)]
pub struct ConnectionUrl {
    settings: Box<tokio_postgres::Config>,
    endpoint: String,
    tls: Option<Tls>,
}

/// Why a connection URL was not taken. None of the texts repeats the URL, or what stands in a file that it names.
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
    /// `sslmode=require`, `verify-ca` or `verify-full`, in a build without the feature `tls`.
    #[error("the URL demands TLS by its sslmode, which takes the feature `tls` of paystrata-db")]
    TlsDemanded,
    /// It says how TLS is to be spoken, and not that it is.
    #[error("{parameter} does nothing without sslmode=require, verify-ca or verify-full")]
    TlsNotDemanded {
        /// What would do nothing.
        parameter: &'static str,
    },
    /// TLS is demanded for a Unix socket, over which no server speaks it.
    #[error("the URL demands TLS by its sslmode, and its host is a Unix socket, over which there is none")]
    TlsOverSocket,
    /// TLS is demanded of a host that no certificate can name.
    #[error("the URL demands TLS by its sslmode, and its host is no name that a certificate can be for")]
    TlsHost,
    /// A file that a parameter names cannot be read.
    #[error("{parameter} names a file that cannot be read")]
    FileUnread {
        /// What names it.
        parameter: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// What a parameter's file holds cannot be used, or the parameter lacks another one.
    #[error("{parameter} cannot be used: it must be {expected}")]
    InvalidCertificate {
        /// What names it.
        parameter: &'static str,
        /// What should stand there.
        expected: &'static str,
    },
    /// The system trusts no authority, and none is named.
    #[error("no certificate of an authority is found on this system: name a file of them in sslrootcert")]
    NoSystemCertificates,
}

impl UrlError {
    /// The parameter for TLS that is at fault, if it is one of them.
    #[must_use]
    pub fn parameter(&self) -> Option<&'static str> {
        match self {
            Self::TlsNotDemanded { parameter }
            | Self::FileUnread { parameter, .. }
            | Self::InvalidCertificate { parameter, .. } => Some(parameter),
            Self::NoSystemCertificates => Some(ROOT_CERTIFICATES),
            Self::TlsDemanded | Self::TlsOverSocket | Self::TlsHost => Some("sslmode"),
            Self::Malformed(_) | Self::HostCount { .. } => None,
        }
    }
}

const PORT_DEFAULT: u16 = 5432;

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
        over_a_network && self.settings.get_ssl_mode() == SslMode::Prefer
    }

    /// Whether each of its connections is over TLS, or is not made.
    #[must_use]
    pub fn demands_tls(&self) -> bool {
        self.tls.is_some()
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

    /// How TLS is spoken to the server; without it, it is not.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }
}

impl FromStr for ConnectionUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (text, parameters) = TlsParameters::take_out(text);
        let mut settings: tokio_postgres::Config = text.parse().map_err(UrlError::Malformed)?;
        settings.ssl_mode(match parameters.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Authority | Mode::Full => SslMode::Require,
        });
        let [host] = settings.get_hosts() else {
            return Err(UrlError::HostCount { found: settings.get_hosts().len() });
        };
        let port = port_of(&settings);
        let endpoint = match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => format!("{}:{port}", folder.display()),
        };
        let tls = tls_to(host, &settings, &parameters)?;
        Ok(Self { settings: Box::new(settings), endpoint, tls })
    }
}

/// Nothing if it is not demanded; what would then do nothing is refused.
fn tls_to(
    host: &Host,
    settings: &tokio_postgres::Config,
    parameters: &TlsParameters,
) -> Result<Option<Tls>, UrlError> {
    let negotiation = settings.get_ssl_negotiation();
    if parameters.mode.demands_tls() {
        return match host {
            Host::Tcp(name) => Tls::asked_for(name, negotiation, parameters).map(Some),
            Host::Unix(_) => Err(UrlError::TlsOverSocket),
        };
    }
    let is_direct = negotiation == SslNegotiation::Direct;
    match parameters.first_file().or_else(|| is_direct.then_some("sslnegotiation")) {
        Some(parameter) => Err(UrlError::TlsNotDemanded { parameter }),
        None => Ok(None),
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

    fn refusal(text: &str) -> UrlError {
        text.parse::<ConnectionUrl>().expect_err(text)
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_demanded_is_refused_and_tls_preferred_is_taken() {
        for mode in ["require", "verify-ca", "verify-full"] {
            for text in [format!("postgres://pay@db1/x?sslmode={mode}"), format!("host=db1 sslmode={mode}")] {
                assert!(matches!(refusal(&text), UrlError::TlsDemanded), "{text}");
            }
        }
        assert!("postgres://pay@db1/x?sslmode=prefer".parse::<ConnectionUrl>().is_ok());
    }

    #[test]
    fn a_word_about_tls_that_would_do_nothing_is_refused_by_its_name() {
        for mode in ["", "sslmode=prefer", "sslmode=disable"] {
            for (word, parameter) in [
                ("sslrootcert=/a", "sslrootcert"),
                ("sslrootcert=system", "sslrootcert"),
                ("sslcert=/a", "sslcert"),
                ("sslkey=/a", "sslkey"),
                ("sslnegotiation=direct", "sslnegotiation"),
            ] {
                let error = refusal(&format!("host=db1 {mode} {word}"));
                assert!(matches!(error, UrlError::TlsNotDemanded { .. }), "{mode} {word}: {error}");
                assert_eq!(error.parameter(), Some(parameter));
            }
        }
        assert!("host=db1 sslrootcert='' sslnegotiation=postgres".parse::<ConnectionUrl>().is_ok());
    }

    #[test]
    fn tls_is_not_demanded_of_a_socket() {
        for text in ["host=/run/postgresql sslmode=require", "postgres://%2Frun/x?sslmode=verify-full"] {
            assert!(matches!(refusal(text), UrlError::TlsOverSocket), "{text}");
        }
    }

    #[test]
    fn a_word_for_tls_that_is_not_known_is_refused() {
        for word in ["sslmode=allow", "sslmode=verify", "sslcrl=/a", "sslpassword=a"] {
            assert!(matches!(refusal(&format!("postgres://db1/x?{word}")), UrlError::Malformed(_)), "{word}");
        }
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
