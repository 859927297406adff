//! Makes one connection: socket options, TLS where the URL demands it, session settings, one limit over all steps, and a tap where
//! it is to be pooled. It neither retries nor decides whether the server should be dialled. Called by pools, the monitor and sessions.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Connection, NoTls};
use tracing::debug;

use crate::config::{
    CLIENT_CHECK_INTERVAL, Config, IDLE_TRANSACTION_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL,
    KEEPALIVE_RETRIES, TCP_USER_TIMEOUT,
};
use crate::error::Error;
use crate::node::NodeId;
use crate::pooler::{STRAIGHT_OPTION, refuses_options};
use crate::socket::{self, Socket};
use crate::tap::{Tap, Tapped};
use crate::url::ConnectionUrl;

/// How pooled connections reach their server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// Straight: statements are prepared and cached.
    Direct,
    /// Through a pooler in transaction mode: statements are unnamed, nothing is cached.
    Pooler,
}

/// How long a question of the monitor's waits for a lock. Far below the limit of a probe: a table that somebody has locked says
/// nothing of its server.
const MONITOR_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// What all connections of one `Db` share.
#[derive(Clone, Debug)]
pub(crate) struct DialSettings {
    pub(crate) connect_timeout: Duration,
    statement_timeout: Duration,
    application_name: String,
    /// `-c name=value` each, escaped.
    server_options: String,
}

/// What a connection is for; it decides the session settings sent with the first packet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose<'a> {
    /// Pooled, straight to the server.
    Pooled,
    /// Pooled, behind a pooler, which refuses session settings in the first packet.
    BehindPooler,
    /// The monitor's own.
    Monitor,
    /// Long-lived and unpooled: its owner sets its own statement timeouts.
    Session(&'a str),
}

/// A connection and the task that moves its bytes.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) client: Client,
    pub(crate) task: JoinHandle<()>,
}

/// A connection to be pooled, and what passes on it.
#[derive(Debug)]
pub(crate) struct DialledTapped {
    pub(crate) client: Client,
    pub(crate) task: JoinHandle<()>,
    pub(crate) tap: Arc<Tap>,
}

impl DialSettings {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            connect_timeout: config.connect_timeout,
            statement_timeout: config.statement_timeout,
            application_name: config.application_name.clone(),
            server_options: config.server_settings.iter().map(option).collect(),
        }
    }

    fn prepare(&self, url: &ConnectionUrl, purpose: Purpose<'_>) -> tokio_postgres::Config {
        let mut settings = url.settings().clone();
        settings
            .connect_timeout(self.connect_timeout)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(TCP_USER_TIMEOUT);
        let name = match purpose {
            Purpose::Pooled | Purpose::BehindPooler => self.application_name.clone(),
            Purpose::Monitor => format!("{}/monitor", self.application_name),
            Purpose::Session(name) => format!("{}/{name}", self.application_name),
        };
        settings.application_name(name);
        if !matches!(purpose, Purpose::BehindPooler) {
            let options = self.session_options(settings.get_options().unwrap_or_default(), purpose);
            settings.options(options);
        }
        settings
    }

    // What the URL itself sets comes after ours and wins.
    fn session_options(&self, from_url: &str, purpose: Purpose<'_>) -> String {
        let mut options = format!(
            "{STRAIGHT_OPTION} -c client_connection_check_interval={}",
            CLIENT_CHECK_INTERVAL.as_millis()
        );
        if matches!(purpose, Purpose::Pooled | Purpose::Monitor) {
            let _infallible = write!(
                options,
                " -c statement_timeout={} -c idle_in_transaction_session_timeout={}",
                self.statement_timeout.as_millis(),
                IDLE_TRANSACTION_TIMEOUT.as_millis()
            );
        }
        options.push_str(&self.server_options);
        if !from_url.is_empty() {
            options.push(' ');
            options.push_str(from_url);
        }
        // A longer one would outlast a probe.
        if matches!(purpose, Purpose::Monitor) {
            let _infallible = write!(options, " -c lock_timeout={}", MONITOR_LOCK_TIMEOUT.as_millis());
        }
        options
    }
}

/// One setting as the server's command line takes it, a space before it. A backslash keeps what follows in one piece.
fn option((name, value): &(String, String)) -> String {
    let mut option = format!(" -c {name}=");
    for character in value.chars() {
        if character == '\\' || character.is_whitespace() {
            option.push('\\');
        }
        option.push(character);
    }
    option
}

/// Connects and authenticates within the connect timeout.
pub(crate) async fn dial(
    node: &NodeId,
    url: &ConnectionUrl,
    settings: &DialSettings,
    purpose: Purpose<'_>,
) -> Result<Dialled, Error> {
    let prepared = settings.prepare(url, purpose);
    let after = settings.connect_timeout;
    // The driver's own limit covers only the TCP handshake; a server that accepts and stays silent is caught here.
    let made = tokio::time::timeout(after, connect(node, url, &prepared)).await;
    let made = made.map_err(|_| Error::DialTimeout { node: node.clone(), after })?;
    let (client, task) = outcome(node, url, made)?;
    Ok(Dialled { client, task })
}

/// What the driver makes of a server.
type Made = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

async fn connect(node: &NodeId, url: &ConnectionUrl, settings: &tokio_postgres::Config) -> Made {
    match url.tls() {
        Some(tls) => {
            // Boxed: the state of a handshake is large, and would be part of everything that may come to dial.
            let made = Box::pin(settings.connect(tls.straight())).await;
            made.map(|(client, connection)| (client, spawn(node, connection, None)))
        }
        None => {
            let made = settings.connect(NoTls).await;
            made.map(|(client, connection)| (client, spawn(node, connection, None)))
        }
    }
}

fn outcome(node: &NodeId, url: &ConnectionUrl, made: Made) -> Result<(Client, JoinHandle<()>), Error> {
    let source = match made {
        Ok(made) => {
            if let Some(tls) = url.tls() {
                tls.note_trust();
            }
            return Ok(made);
        }
        Err(source) => source,
    };
    let cause = url.tls().and_then(|tls| tls.distrust(node, &source));
    let node = node.clone();
    Err(match cause {
        Some(cause) => Error::Untrusted { node, cause },
        None if refuses_options(&source) => Error::PoolerInTheWay { node },
        None => Error::Dial { node, source },
    })
}

/// As [`dial`], for the pool, over a socket of our own with a tap on it. Whether the server is one that the URL's
/// `target_session_attrs` wants is for the monitor's connection to find out.
pub(crate) async fn dial_tapped(
    node: &NodeId,
    url: &ConnectionUrl,
    settings: &DialSettings,
    path: Path,
) -> Result<DialledTapped, Error> {
    let purpose = match path {
        Path::Direct => Purpose::Pooled,
        Path::Pooler => Purpose::BehindPooler,
    };
    let prepared = settings.prepare(url, purpose);
    let after = settings.connect_timeout;
    let made = tokio::time::timeout(after, async {
        let socket = socket::open(url).await;
        match socket.map_err(|source| Error::Unreachable { node: node.clone(), source })? {
            Socket::Tcp(stream) => log_in(node, url, stream, &prepared).await,
            Socket::Unix(stream) => log_in(node, url, stream, &prepared).await,
        }
    });
    made.await.map_err(|_| Error::DialTimeout { node: node.clone(), after })?
}

async fn log_in<Stream>(
    node: &NodeId,
    url: &ConnectionUrl,
    stream: Stream,
    settings: &tokio_postgres::Config,
) -> Result<DialledTapped, Error>
where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tap = Arc::new(Tap::new());
    let told = Some(Arc::clone(&tap));
    let made = match url.tls() {
        // The tap lies above TLS: below it there is nothing to be read.
        Some(tls) => {
            let made = Box::pin(settings.connect_raw(stream, tls.tapped(&tap))).await;
            made.map(|(client, connection)| (client, spawn(node, connection, told)))
        }
        None => {
            let made = settings.connect_raw(Tapped::new(stream, Arc::clone(&tap)), NoTls).await;
            made.map(|(client, connection)| (client, spawn(node, connection, told)))
        }
    };
    let (client, task) = outcome(node, url, made)?;
    Ok(DialledTapped { client, task, tap })
}

/// Owned by whoever holds the client: the task ends with it, or is aborted by it. The tap is told why it ended by itself.
fn spawn<Stream, Secured>(
    node: &NodeId,
    mut connection: Connection<Stream, Secured>,
    tap: Option<Arc<Tap>>,
) -> JoinHandle<()>
where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Secured: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let node = node.clone();
    tokio::spawn(async move {
        // Lent and not given: who waits for an answer is let go when it is dropped, and is to find then why there is none.
        if let Err(error) = (&mut connection).await {
            if let Some(tap) = tap {
                tap.note_end(&error);
            }
            debug!(%node, %error, "connection ended");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PROBE_TIMEOUT;

    fn settings(url: &str, purpose: Purpose<'_>) -> tokio_postgres::Config {
        let url: ConnectionUrl = url.parse().expect("a valid URL");
        DialSettings::new(&Config::new(url.clone())).prepare(&url, purpose)
    }

    #[test]
    fn dead_peers_are_found_by_the_kernel() {
        let settings = settings("postgres://pay@db1/x", Purpose::Pooled);
        assert_eq!(settings.get_keepalives_idle(), Duration::from_secs(10));
        assert_eq!(settings.get_keepalives_interval(), Some(Duration::from_secs(5)));
        assert_eq!(settings.get_keepalives_retries(), Some(3));
        assert_eq!(settings.get_tcp_user_timeout(), Some(&Duration::from_secs(10)));
    }

    #[test]
    fn server_settings_stand_between_ours_and_those_of_the_url() {
        let url: ConnectionUrl = "postgres://pay@db1/x?options=-c%20geqo%3Doff".parse().expect("a valid URL");
        let mut config = Config::new(url.clone());
        config.server_settings = vec![("search_path".to_owned(), r"pay, b\c".to_owned())];
        for purpose in [Purpose::Pooled, Purpose::Session("engine-0"), Purpose::Monitor] {
            let prepared = DialSettings::new(&config).prepare(&url, purpose);
            let options = prepared.get_options().expect("straight to the server");
            assert!(options.contains(r" -c search_path=pay,\ b\\c -c geqo=off"), "{options}");
        }
    }

    #[test]
    fn session_settings_suit_the_purpose() {
        let url = "postgres://pay@db1/x?options=-c%20geqo%3Doff";
        let pooled = settings(url, Purpose::Pooled);
        let options = pooled.get_options().expect("a pooled connection has options");
        assert!(options.contains("statement_timeout=10000") && options.ends_with("-c geqo=off"), "{options}");
        let session = settings(url, Purpose::Session("engine-0"));
        let options = session.get_options().expect("a session has options");
        assert!(
            !options.contains("statement_timeout")
                && options.contains("client_connection_check_interval=1000")
        );
        assert_eq!(session.get_application_name(), Some("paystrata-db/engine-0"));
        let monitor = settings(url, Purpose::Monitor);
        let options = monitor.get_options().expect("a monitor has options");
        assert!(options.ends_with(" -c lock_timeout=100"), "{options}");
        assert!(MONITOR_LOCK_TIMEOUT < PROBE_TIMEOUT);
        assert_eq!(settings("postgres://pay@db1/x", Purpose::BehindPooler).get_options(), None);
    }
}
