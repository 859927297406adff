//! Telling the other nodes that what they hold has not changed: a loader has asked the source, and nodes that hold the same
//! version need neither load nor read it again. It travels as a pulse does, unnumbered, because losing it costs a read only;
//! an older release counts it as unreadable and goes on.
//! Refuses to bring anything back: it lengthens the life of an entry that is there, whole, of the same version and
//! validator, and leaves its stamp as it is, so that whatever voids the entry voids it all the same.
//! Queued by `write_back`, sent by `courier`, done by `hearing`.
//!
//! ```text
//! "PE" format u8 | origin u64 | count u32, count x (key, version u64, validated u8, validator, fresh_us u64, grace_us u64)
//! ```

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    CacheKey, Version,
    clock::micros,
    epoch::Left,
    flight::lock,
    hash::Probe,
    key::decoded,
    life::{Life, Span, State},
    local::{Displaced, Traits},
    stats::count,
    store::Store,
    wire::{Reader, Unreadable, put_bytes},
};

const HEAD: [u8; 3] = *b"PE\x01";

/// Extensions that wait to be sent. Over it they are left unsaid, and the nodes read what they want to know.
const PENDING_MAX: usize = 1_024;

/// Bytes of one message: what the line with the shortest messages (a Postgres notification) takes.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

/// One key's value has not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    pub(crate) key: Bytes,
    pub(crate) version: Version,
    pub(crate) validator: Option<Arc<str>>,
    /// For how long it is fresh from now, in shared tiers.
    pub(crate) fresh: Duration,
    pub(crate) grace: Duration,
}

impl Extension {
    /// Of what an entry says of itself; none if it says nothing that would tell it from another one.
    pub(crate) fn of(key: &Bytes, traits: Option<&Traits>, span: Span) -> Option<Self> {
        let traits = traits.filter(|traits| traits.version != Version::NONE || traits.validator.is_some())?;
        Some(Self {
            key: key.clone(),
            version: traits.version,
            validator: traits.validator.clone(),
            fresh: span.shared,
            grace: span.grace,
        })
    }
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Extended {
    pub(crate) origin: u64,
    pub(crate) extensions: Vec<Extension>,
}

/// Extensions on their way to the other nodes.
#[derive(Debug, Default)]
pub(crate) struct Extensions(Mutex<Vec<(Instant, Extension)>>);

impl Extensions {
    pub(crate) fn push(&self, extension: Extension) {
        let mut pending = lock(&self.0);
        if pending.len() < PENDING_MAX {
            pending.push((Instant::now(), extension));
        }
    }

    /// The messages that say all that is pending.
    pub(crate) fn messages(&self, origin: u64) -> Vec<Bytes> {
        let pending = std::mem::take(&mut *lock(&self.0));
        let mut messages = Vec::new();
        let (mut said, mut bytes) = (Vec::new(), 0);
        for (since, extension) in pending {
            let fresh = extension.fresh.saturating_sub(since.elapsed());
            let weight = extension.key.len() + extension.validator.as_ref().map_or(0, |text| text.len()) + 33;
            if weight > MESSAGE_BYTES_MAX {
                continue;
            }
            if bytes + weight > MESSAGE_BYTES_MAX {
                let extensions = std::mem::take(&mut said);
                messages.push(Extended { origin, extensions }.encode());
                bytes = 0;
            }
            bytes += weight;
            said.push(Extension { fresh, ..extension });
        }
        if !said.is_empty() {
            messages.push(Extended { origin, extensions: said }.encode());
        }
        messages
    }
}

impl Extended {
    fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(MESSAGE_BYTES_MAX);
        out.extend(HEAD);
        out.extend(self.origin.to_be_bytes());
        out.extend(u32::try_from(self.extensions.len()).unwrap_or(u32::MAX).to_be_bytes());
        for extension in &self.extensions {
            put_bytes(&mut out, &extension.key);
            out.extend(extension.version.0.to_be_bytes());
            out.push(u8::from(extension.validator.is_some()));
            put_bytes(&mut out, extension.validator.as_deref().unwrap_or_default().as_bytes());
            out.extend(micros(extension.fresh).to_be_bytes());
            out.extend(micros(extension.grace).to_be_bytes());
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader(bytes);
        if reader.array()? != HEAD {
            return Err(Unreadable);
        }
        let origin = reader.number()?;
        let mut extensions = Vec::new();
        for _ in 0..reader.count()? {
            let key = Bytes::copy_from_slice(reader.bytes()?);
            let version = Version(reader.number()?);
            let is_validated = reader.array()? != [0];
            let text = std::str::from_utf8(reader.bytes()?).map_err(|_| Unreadable)?;
            let validator = is_validated.then(|| Arc::from(text));
            let fresh = Duration::from_micros(reader.number()?);
            let grace = Duration::from_micros(reader.number()?);
            extensions.push(Extension { key, version, validator, fresh, grace });
        }
        reader.end()?;
        Ok(Self { origin, extensions })
    }
}

impl<K: CacheKey, V: Clone> Store<K, V> {
    /// Lets what is here live on, if it is what the extension is about and nothing has made it void.
    pub(crate) fn extend(&self, extension: &Extension) {
        let Some(key) = decoded::<K>(&extension.key) else { return };
        let probe = Probe::of(&key);
        let now_us = self.clock.now_us();
        let mut displaced = Displaced::default();
        // Under the lock that voids are made under: what is seen here is not voided before it is extended.
        let shard = self.flights.lock(probe.hash);
        let Some(entry) = self.local.peek(&probe) else { return };
        let (life, traits) = (entry.life, entry.traits.as_deref());
        let is_same = traits.is_some_and(|traits| {
            traits.version == extension.version && traits.validator == extension.validator
        });
        let tags = traits.map_or(&[][..], |traits| &traits.tags);
        let is_whole = self.fleet.sweeps.left_here(|| extension.key.clone(), tags, life.stamp) == Left::Whole;
        let is_idle =
            traits.and_then(|traits| traits.idle.as_ref()).is_some_and(|idle| idle.is_over_at(now_us));
        if !is_same || !is_whole || is_idle || life.state != State::Good || life.is_over_at(now_us) {
            return;
        }
        let span = Span {
            local: self.policy.l1_ttl.min(extension.fresh),
            shared: extension.fresh,
            grace: extension.grace,
        };
        let longer = Life::begin(&self.policy, span, life.loaded_us, now_us, life.stamp);
        if longer.expires_us > life.expires_us {
            count(&self.counters.extensions);
            self.local.relive(&probe, &life, longer, &mut displaced);
        }
        drop(shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(key: &'static str, validator: Option<&str>) -> Extension {
        Extension {
            key: Bytes::from_static(key.as_bytes()),
            version: Version(7),
            validator: validator.map(Arc::from),
            fresh: Duration::from_secs(60),
            grace: Duration::MAX,
        }
    }

    #[test]
    fn extensions_are_read_back_and_cut_ones_are_unreadable() {
        let said = vec![extension("a", None), extension("", Some("")), extension("b", Some("etag"))];
        let bytes = Extended { origin: 3, extensions: said }.encode();
        let read = Extended::decode(&bytes).unwrap();
        assert_eq!((read.origin, read.extensions.len(), &*read.encode()), (3, 3, &*bytes));
        assert_eq!(read.extensions[1].validator.as_deref(), Some(""));
        assert_eq!(read.extensions[0].validator, None);
        (0..bytes.len()).for_each(|length| assert_eq!(Extended::decode(&bytes[..length]), Err(Unreadable)));
        assert_eq!(Extended::decode(&[&bytes[..], &[0]].concat()), Err(Unreadable));
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_bounded_and_reckon_with_the_time_that_was_waited() {
        let extensions = Extensions::default();
        (0..2 * PENDING_MAX).for_each(|_| extensions.push(extension("a", Some("etag"))));
        tokio::time::advance(Duration::from_secs(1)).await;
        let messages = extensions.messages(1);
        assert!(messages.iter().all(|message| message.len() <= MESSAGE_BYTES_MAX + 15));
        let read: Vec<_> = messages.iter().map(|message| Extended::decode(message).unwrap()).collect();
        assert_eq!(read.iter().map(|said| said.extensions.len()).sum::<usize>(), PENDING_MAX);
        assert_eq!(read[0].extensions[0].fresh, Duration::from_secs(59));
        assert!(extensions.messages(1).is_empty());
    }
}
