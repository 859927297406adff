//! How a server is connected to: where it is, what it is told first, and whether it is spoken to over TLS.
//! Plain connections are made by deadpool; measured, checking one out per command is five times slower than sharing it. Those over TLS are
//! made here, because the client of Redis reads the system's certificates before each of them, on the thread that all tasks are on.
//! Refuses to take longer than it may. Used by `link`, `subscription`, `origin` and `router`.

use std::time::Duration;

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use futures_util::future::select_ok;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError,
    aio::MultiplexedConnection,
};
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::timeout,
};

use super::{RedisTierError, failure::Failure, tls::Tls};

/// A server.
#[derive(Clone)]
pub(super) struct Endpoint {
    info: ConnectionInfo,
    tls: Option<Tls>,
}

/// A connection that was made, and what moves its bytes.
pub(super) struct Dialed {
    pub(super) connection: MultiplexedConnection,
    /// Ends with it, also where answers are still awaited.
    _driver: JoinSet<()>,
}

impl Endpoint {
    /// The one that a URL names, whatever it says of TLS.
    pub(super) fn parse(url: &str, tls: Option<Tls>) -> Result<Self, RedisTierError> {
        let mut url = redis::parse_redis_url(url).ok_or(RedisTierError::InvalidUrl)?;
        if is_over_tls(url.scheme()) {
            url.set_scheme("redis").map_err(|()| RedisTierError::InvalidUrl)?;
        }
        let info = url.into_connection_info().map_err(|_may_repeat_it| RedisTierError::InvalidUrl)?;
        Ok(Self { info, tls })
    }

    /// The same way of connecting, to another place.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        let info = self.info.clone().set_addr(ConnectionAddr::Tcp(host.to_owned(), port));
        Self { info, tls: self.tls.clone() }
    }

    /// The same server in another version of its protocol.
    pub(super) fn speaking(mut self, protocol: ProtocolVersion) -> Self {
        let settings = self.info.redis_settings().clone().set_protocol(protocol);
        self.info = self.info.set_redis_settings(settings);
        self
    }

    pub(super) fn is_where(&self, other: &Self) -> bool {
        self.info.addr() == other.info.addr()
    }

    /// The host it is at; empty if it is a file.
    pub(super) fn host(&self) -> &str {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, _) => host,
            _ => "",
        }
    }

    /// The number of the database that is used.
    pub(super) fn database(&self) -> i64 {
        self.info.redis_settings().db()
    }

    /// A new connection, logged in, within the limit.
    pub(super) async fn connect(
        &self,
        config: AsyncConnectionConfig,
        limit: Duration,
    ) -> Result<Dialed, Failure> {
        let connecting = async {
            match &self.tls {
                Some(tls) => self.connect_over(tls, config).await,
                None => self.connect_plainly(config.set_connection_timeout(Some(limit))).await,
            }
        };
        timeout(limit, connecting).await.unwrap_or(Err(Failure::Slow))
    }

    async fn connect_plainly(&self, config: AsyncConnectionConfig) -> Result<Dialed, Failure> {
        let pool = Pool::builder(Manager::new_with_config(self.info.clone(), config)?)
            .max_size(1)
            .runtime(Runtime::Tokio1)
            .build()
            .expect("no limits are set that would need more");
        match pool.get().await {
            Ok(connection) => {
                Ok(Dialed { connection: Connection::take(connection), _driver: JoinSet::new() })
            }
            Err(PoolError::Backend(error)) => Err(error.into()),
            Err(_timeout) => Err(Failure::Slow),
        }
    }

    async fn connect_over(&self, tls: &Tls, config: AsyncConnectionConfig) -> Result<Dialed, Failure> {
        let ConnectionAddr::Tcp(host, port) = self.info.addr() else { return Err(Failure::Nowhere) };
        let addresses = lookup_host((host.as_str(), *port)).await.map_err(RedisError::from)?;
        // All at once, as the client does it: the first may be one that nobody answers at.
        let dials: Vec<_> = addresses.map(|address| Box::pin(TcpStream::connect(address))).collect();
        if dials.is_empty() {
            return Err(Failure::Nowhere);
        }
        let (stream, _others) = select_ok(dials).await.map_err(RedisError::from)?;
        let stream = tls.handshake(host, stream).await?;
        let settings = self.info.redis_settings();
        let (connection, driving) = MultiplexedConnection::new_with_config(settings, stream, config).await?;
        let mut driver = JoinSet::new();
        driver.spawn(driving);
        Ok(Dialed { connection, _driver: driver })
    }
}

/// True of the schemes that ask for TLS.
pub(super) fn is_over_tls(scheme: &str) -> bool {
    matches!(scheme, "rediss" | "valkeys")
}
