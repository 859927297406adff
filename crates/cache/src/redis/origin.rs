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
            Self::Sentinel(sentinels) => sentinels.primary(limit).await,
        }
    }

    /// Says if a connection to `info` leads to another server than a new one would. Sentinels that do
    /// not answer say nothing.
    pub(super) async fn confirm(&self, info: &ConnectionInfo) -> Result<(), Failure> {
        let Self::Sentinel(sentinels) = self else { return Ok(()) };
        match sentinels.primary(CONFIRM_TIMEOUT).await {
            Ok(primary) if primary.addr() != info.addr() => Err(Failure::NotPrimary),
            _ => Ok(()),
        }
    }
}

/// What a look at the sentinels may take while there is a connection that works.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);

impl Sentinels {
    async fn primary(&self, limit: Duration) -> Result<ConnectionInfo, Failure> {
        let answers = join_all(self.sentinels.iter().map(|sentinel| self.ask(sentinel, limit))).await;
        let (mut votes, mut silence) = (HashMap::<(String, u16), usize>::new(), Failure::Nowhere);
        for answer in answers {
            match answer {
                Ok(Some(place)) => *votes.entry(place).or_default() += 1,
                // Somebody has to look, where others only have to come back.
                Err(failure @ Failure::Untrusted(_)) => silence = failure,
                Ok(None) | Err(_) => {}
            }
        }
        let Some(most) = votes.values().copied().max() else { return Err(silence) };
        let mut named = votes.into_iter().filter(|(_, votes)| *votes == most);
        match (named.next(), named.next()) {
            (Some((place, _votes)), None) => Ok(at(&self.primary, &place.0, place.1)),
            // Who contradict each other are not believed, in equal numbers.
            _ => Err(Failure::Nowhere),
        }
    }

    async fn ask(
        &self,
        sentinel: &ConnectionInfo,
        limit: Duration,
    ) -> Result<Option<(String, u16)>, Failure> {
        let asking = async {
            let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit));
            let client = Client::open(sentinel.clone())?;
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(&self.service);
            let answer: Option<(String, u16)> = question.query_async(&mut connection).await?;
            RedisResult::Ok(answer)
        };
        Ok(timeout(limit, asking).await.map_err(|_elapsed| Failure::Slow)??)
    }
}

/// The same way of connecting, over TLS too, to another place.
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
