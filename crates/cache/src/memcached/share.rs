//! One cache's share of the servers, and what its verbs stand on: where a key lives, and commands to
//! several servers at once within one deadline. Each verb has a file of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use super::{
    Owner,
    claims::Claims,
    connection::Connection,
    key::Prefix,
    record::{HEADER_BYTES, Sealed},
    wire::{Command, Reply, When},
};
use crate::{
    Version,
    tier::{
        Answers, Claim, Found, Put, Remnant, Settlement, Stored, TierError, TierFuture, TierShare, Token,
        Voiding,
    },
};

/// As good as no limit, and no end of time.
const COMMAND_MAX: Duration = Duration::from_secs(86_400);

/// What memcached adds to an item's key and bytes, rounded up.
pub(super) const ITEM_OVERHEAD_BYTES: usize = 128;

/// Times that a key is read again because it changed between being read and being written. Each time
/// somebody else got through.
pub(super) const ROUNDS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct MemcachedShare {
    owner: Arc<Owner>,
    prefix: Prefix,
    pub(super) claims: Claims,
}

/// A key of a call: its name at the server, and the connection that leads there.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) key: Bytes,
    pub(super) connection: Arc<Connection>,
}

impl Target {
    /// No floor is high enough while some may have been lost.
    pub(super) fn floor(&self, known: Version) -> Version {
        if self.connection.is_blind() { Version::LATEST } else { known }
    }
}

/// One call in progress.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    deadline: Instant,
    _permit: SemaphorePermit<'a>,
}

impl MemcachedShare {
    pub(super) fn new(owner: Arc<Owner>, cache: &str) -> Self {
        let prefix = Prefix::new(&owner.options.namespace, cache);
        Self { owner, prefix, claims: Claims::default() }
    }

    /// Begins a call: from here the time runs, and as many as may are let in.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, TierError> {
        let deadline = Instant::now() + self.owner.options.command_timeout.min(COMMAND_MAX);
        let permit = timeout_at(deadline, self.owner.permits.acquire()).await;
        let permit = permit.map_err(|_| TierError::TimedOut)?.map_err(|_| TierError::Down)?;
        Ok(Turn { deadline, _permit: permit })
    }

    /// Where a key lives, or `Down` if its server cannot be reached.
    pub(super) fn target(&self, key: &[u8]) -> Result<Target, TierError> {
        let key = self.prefix.key(key);
        let (server, hash) = self.owner.ring.place(&key);
        let connection = self.owner.servers[server].connection(hash)?;
        Ok(Target { key, connection })
    }

    /// The name of a key at its server.
    pub(super) fn name(&self, key: &[u8]) -> Bytes {
        self.prefix.key(key)
    }

    /// Whether any server takes as much as this.
    pub(super) fn fits(&self, target: &Target, payload: &Bytes) -> bool {
        let max = target.connection.item_bytes_max.min(self.owner.options.item_bytes_max);
        target.key.len() + HEADER_BYTES + payload.len() + ITEM_OVERHEAD_BYTES <= max
    }
}

impl Turn<'_> {
    /// Sends each command over its connection, all at once, and gives the replies in the same order. Takes half of the time
    /// that is left at most: a server that hangs leaves some for what is yet to be said to the others.
    pub(super) async fn exchange(
        &self,
        commands: Vec<(Arc<Connection>, Command)>,
    ) -> Vec<Result<Reply, TierError>> {
        let mut groups: Vec<(Arc<Connection>, Vec<usize>, Vec<Command>)> = Vec::new();
        let count = commands.len();
        for (index, (connection, command)) in commands.into_iter().enumerate() {
            match groups.iter_mut().find(|(other, ..)| Arc::ptr_eq(other, &connection)) {
                Some((_, indices, commands)) => {
                    indices.push(index);
                    commands.push(command);
                }
                None => groups.push((connection, vec![index], vec![command])),
            }
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = (left / 2).max(Duration::from_millis(1));
        let calls = groups.into_iter().map(|(connection, indices, commands)| async move {
            (indices, connection.call(commands, limit).await)
        });
        let mut replies: Vec<_> = (0..count).map(|_| Err(TierError::Failed)).collect();
        for (indices, answer) in join_all(calls).await {
            match answer {
                Ok(answer) => {
                    for (index, reply) in indices.into_iter().zip(answer) {
                        replies[index] = Ok(reply);
                    }
                }
                Err(error) => indices.into_iter().for_each(|index| replies[index] = Err(error)),
            }
        }
        replies
    }
}

/// The command that stores a sealed record.
pub(super) fn store(key: Bytes, when: When, sealed: Sealed) -> Command {
    Command::Set { key, when, header: sealed.header, payload: sealed.payload, life_s: sealed.life_s }
}

impl TierShare for MemcachedShare {
    fn kind(&self) -> &'static str {
        "memcached"
    }

    /// False if no server at all can be reached.
    fn is_up(&self) -> bool {
        self.owner.is_up()
    }

    fn read<'a>(&'a self, keys: &'a [Bytes], claim: Option<Claim>) -> TierFuture<'a, Answers<Found>> {
        Box::pin(self.look_up(keys, claim))
    }

    fn inspect<'a>(&'a self, key: &'a Bytes) -> TierFuture<'a, Option<Remnant>> {
        Box::pin(self.inspect_one(key))
    }

    fn settle<'a>(&'a self, claims: &'a [(Bytes, Token, Settlement)]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(self.exchange_claims(claims))
    }

    fn void<'a>(&'a self, keys: &'a [Voiding]) -> TierFuture<'a, Answers<()>> {
        Box::pin(self.end_all(keys))
    }

    fn put<'a>(&'a self, values: &'a [Put]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(self.put_all(values))
    }
}
