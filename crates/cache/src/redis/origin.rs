//! Where a server is to be found: at a fixed address, or where the sentinels say.
//! Refuses to take one sentinel's word when another contradicts it: what most of those that answer say counts. A node that is cut
//! off together with one sentinel and a primary that was replaced has only that word: `min-replicas-to-write` stops such a
//! primary, see `RedisOptions`.
//! Called by `link`.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use redis::AsyncConnectionConfig;
use tokio::time::timeout;

use super::{dial::Endpoint, failure::Failure};

/// Where to connect.
pub(super) enum Origin {
    /// There.
    Fixed(Endpoint),
    /// Where the sentinels say.
    Sentinel(Sentinels),
}

/// The sentinels that watch one service.
pub(super) struct Sentinels {
    pub(super) sentinels: Vec<Endpoint>,
    pub(super) service: String,
    /// How to log in at the primary; its address is a placeholder.
    pub(super) primary: Endpoint,
}

impl Origin {
    pub(super) async fn resolve(&self, limit: Duration) -> Result<Endpoint, Failure> {
        match self {
            Self::Fixed(endpoint) => Ok(endpoint.clone()),
            Self::Sentinel(sentinels) => sentinels.primary(limit).await,
        }
    }

    /// Says if a connection to `endpoint` leads to another server than a new one would. Sentinels that do
    /// not answer say nothing.
    pub(super) async fn confirm(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let Self::Sentinel(sentinels) = self else { return Ok(()) };
        match sentinels.primary(CONFIRM_TIMEOUT).await {
            Ok(primary) if !primary.is_where(endpoint) => Err(Failure::NotPrimary),
            _ => Ok(()),
        }
    }
}

/// What a look at the sentinels may take while there is a connection that works.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);

impl Sentinels {
    async fn primary(&self, limit: Duration) -> Result<Endpoint, Failure> {
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
            (Some((place, _votes)), None) => Ok(self.primary.at(&place.0, place.1)),
            // Who contradict each other are not believed, in equal numbers.
            _ => Err(Failure::Nowhere),
        }
    }

    async fn ask(&self, sentinel: &Endpoint, limit: Duration) -> Result<Option<(String, u16)>, Failure> {
        let asking = async {
            let mut dialed = sentinel.connect(AsyncConnectionConfig::new(), limit).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(&self.service);
            Ok(question.query_async(&mut dialed.connection).await?)
        };
        timeout(limit, asking).await.unwrap_or(Err(Failure::Slow))
    }
}
