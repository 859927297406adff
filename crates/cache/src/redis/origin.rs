//! Where a server is to be found: at a fixed address, or where the sentinels say.
//! Refuses to take one sentinel's word when another contradicts it: what most of those that answer say counts. A node that is cut
//! off together with one sentinel and a primary that was replaced has only that word: `min-replicas-to-write` stops such a
//! primary, see `RedisOptions`.
//! Called by `link`.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, RedisResult};
use tokio::time::timeout;

use super::failure::Failure;

/// Where to connect.
pub(super) enum Origin {
    /// There.
    Fixed(ConnectionInfo),
    /// Where the sentinels say.
    Sentinel(Sentinels),
}

/// The sentinels that watch one service.
pub(super) struct Sentinels {
    pub(super) sentinels: Vec<ConnectionInfo>,
    pub(super) service: String,
    /// How to log in at the primary; its address is a placeholder.
    pub(super) primary: ConnectionInfo,
}

impl Origin {
    pub(super) async fn resolve(&self, limit: Duration) -> Result<ConnectionInfo, Failure> {
        match self {
            Self::Fixed(info) => Ok(info.clone()),
            Self::Sentinel(sentinels) => sentinels.primary(limit).await.ok_or(Failure::Nowhere),
        }
    }

    /// Says if a connection to `info` leads to another server than a new one would. Sentinels that do
    /// not answer say nothing.
    pub(super) async fn confirm(&self, info: &ConnectionInfo) -> Result<(), Failure> {
        let Self::Sentinel(sentinels) = self else { return Ok(()) };
        match sentinels.primary(CONFIRM_TIMEOUT).await {
            Some(primary) if primary.addr() != info.addr() => Err(Failure::NotPrimary),
            _ => Ok(()),
        }
    }
}

/// What a look at the sentinels may take while there is a connection that works.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);

impl Sentinels {
    async fn primary(&self, limit: Duration) -> Option<ConnectionInfo> {
        let answers = join_all(self.sentinels.iter().map(|sentinel| self.ask(sentinel, limit))).await;
        let mut votes = HashMap::<(String, u16), usize>::new();
        for answer in answers.into_iter().flatten() {
            *votes.entry(answer).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        let mut named = votes.into_iter().filter(|(_, votes)| *votes == most);
        let (place, _votes) = named.next()?;
        // Who contradict each other are not believed, in equal numbers.
        named.next().is_none().then(|| at(&self.primary, &place.0, place.1))
    }

    async fn ask(&self, sentinel: &ConnectionInfo, limit: Duration) -> Option<(String, u16)> {
        let asking = async {
            let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit));
            let client = Client::open(sentinel.clone())?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(&self.service);
            let answer: Option<(String, u16)> = question.query_async(&mut connection).await?;
            RedisResult::Ok(answer)
        };
        timeout(limit, asking).await.ok()?.ok()?
    }
}

/// The same way of connecting, to another place.
pub(super) fn at(info: &ConnectionInfo, host: &str, port: u16) -> ConnectionInfo {
    let mut address = info.addr().clone();
    match &mut address {
        ConnectionAddr::TcpTls { host: old_host, port: old_port, .. } => {
            host.clone_into(old_host);
            *old_port = port;
        }
        _ => address = ConnectionAddr::Tcp(host.to_owned(), port),
    }
    info.clone().set_addr(address)
}
