//! One cache's keys in Redis: builds the calls of the scripts and reads their answers.
//! Refuses to judge failures; the link does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    Shared, TierOwner,
    scripts::{from_hex, hex},
};
use crate::{
    Version,
    remote::{Answer, Ask, Dispatch, OnValue, Remote, RemoteError, Token, WriteBack, Written},
};

/// The longest time to live handed to Redis, which refuses one that overflows its clock.
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

#[derive(Debug)]
pub(super) struct RedisRemote {
    owner: Arc<TierOwner>,
    /// Goes before each key.
    entry_prefix: Vec<u8>,
    cache_key: String,
}

impl RedisRemote {
    pub(super) fn new(owner: Arc<TierOwner>, cache: &str) -> Self {
        let cache_key = format!("{}:{}", owner.shared.namespace, super::escaped(cache));
        Self { owner, entry_prefix: format!("{cache_key}:").into_bytes(), cache_key }
    }

    fn shared(&self) -> &Shared {
        &self.owner.shared
    }

    fn entry_key(&self, key: &[u8]) -> Vec<u8> {
        [&self.entry_prefix, key].concat()
    }

    async fn read(&self, key: &[u8], ask: Ask) -> Result<Answer, RemoteError> {
        let shared = self.shared();
        let live = shared.link.live()?;
        let mut call = shared.scripts.read.key(self.entry_key(key));
        call.key(&self.cache_key).arg(&live.run_id).arg(fresh_epoch());
        call.arg(hex(ask.token.0)).arg(milliseconds(ask.lease));
        call.arg(match ask.on_value {
            OnValue::Return => "return",
            OnValue::Discard => "discard",
        });
        let answer = call.invoke_async(&mut live.connection.clone()).await;
        let (found, payload, remaining_ms, floor): (String, Vec<u8>, u64, String) =
            shared.link.judge(&live, answer)?;
        let floor = Version(from_hex(&floor));
        match found.as_str() {
            "V" => {
                Ok(Answer::Value { payload: payload.into(), remaining: Duration::from_millis(remaining_ms) })
            }
            "M" => Ok(Answer::Leased { floor }),
            _ => Ok(Answer::Held { floor }),
        }
    }

    async fn write(&self, key: &[u8], token: Token, write: WriteBack) -> Result<Written, RemoteError> {
        let shared = self.shared();
        let live = shared.link.live()?;
        let (payload, lifetime_ms) = match write {
            // Less than the scripts can tell from a release would be no life at all.
            WriteBack::Value { payload, lifetime } => (payload, milliseconds(lifetime).max(1)),
            WriteBack::Release => (Bytes::new(), 0),
        };
        let mut call = shared.scripts.write.key(self.entry_key(key));
        call.key(&self.cache_key).arg(&live.run_id).arg(hex(token.0)).arg(lifetime_ms).arg(&payload[..]);
        let answer = call.invoke_async(&mut live.connection.clone()).await;
        let exchanged: u8 = shared.link.judge(&live, answer)?;
        Ok(if exchanged == 1 { Written::Stored } else { Written::Refused })
    }

    async fn tombstones(&self, keys: &[(Bytes, Version)], message: &Bytes) -> Result<(), RemoteError> {
        let shared = self.shared();
        let live = shared.link.live()?;
        let mut call = shared.scripts.tombstone.key(&self.cache_key);
        call.arg(&live.run_id).arg(fresh_epoch()).arg(&shared.channel).arg(&message[..]);
        for (key, version) in keys {
            call.key(self.entry_key(key)).arg(hex(version.0));
        }
        let answer = call.invoke_async::<()>(&mut live.connection.clone()).await;
        shared.link.judge(&live, answer)
    }

    async fn new_epoch(&self, version: Version, message: &Bytes) -> Result<(), RemoteError> {
        let shared = self.shared();
        let live = shared.link.live()?;
        let mut call = shared.scripts.clear.key(&self.cache_key);
        call.arg(&live.run_id).arg(fresh_epoch()).arg(&shared.channel).arg(&message[..]).arg(hex(version.0));
        let answer = call.invoke_async::<()>(&mut live.connection.clone()).await;
        shared.link.judge(&live, answer)
    }

    async fn tell(&self, message: &Bytes) -> Result<(), RemoteError> {
        let shared = self.shared();
        let live = shared.link.live()?;
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&shared.channel).arg(&message[..]);
        let answer = publish.query_async::<()>(&mut live.connection.clone()).await;
        shared.link.judge(&live, answer)
    }
}

impl Remote for RedisRemote {
    fn is_up(&self) -> bool {
        self.shared().link.is_up()
    }

    fn read<'a>(&'a self, key: &'a Bytes, ask: Ask) -> BoxFuture<'a, Result<Answer, RemoteError>> {
        Box::pin(self.read(key, ask))
    }

    fn write<'a>(
        &'a self,
        key: &'a Bytes,
        token: Token,
        write: WriteBack,
    ) -> BoxFuture<'a, Result<Written, RemoteError>> {
        Box::pin(self.write(key, token, write))
    }

    fn dispatch<'a>(
        &'a self,
        dispatch: Dispatch<'a>,
        message: Bytes,
    ) -> BoxFuture<'a, Result<(), RemoteError>> {
        Box::pin(async move {
            match dispatch {
                Dispatch::Tombstones(keys) => self.tombstones(keys, &message).await,
                Dispatch::NewEpoch(version) => self.new_epoch(version, &message).await,
                Dispatch::Tell => self.tell(&message).await,
            }
        })
    }
}

/// Random, because a counter would repeat after the server has lost it, and old entries would live again.
fn fresh_epoch() -> String {
    hex(rand::random())
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.min(LIFETIME_MAX).as_millis()).unwrap_or(u64::MAX)
}
