//! The remote tier's part in one load: ask it first, and give it the result if it still wants it.
//! Its failures are counted and otherwise pass for a miss. Never asks it about a key whose
//! invalidation it has not confirmed yet. Called by `load`.

use std::{hash::Hash, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    CacheKey, Version,
    clock::micros,
    local::Life,
    policy::Found,
    remote::{Answer, Ask, OnValue, RemoteError, Token, WriteBack, Written, envelope},
    stats::count,
    store::{Lead, RemoteSide, Store},
};

/// First pause before asking again whether the other node has finished; it doubles each time.
const HELD_PAUSE_MIN: Duration = Duration::from_millis(2);

/// What is to be done for a load.
pub(crate) enum Consulted<V> {
    /// Nothing: the remote tier has it.
    Found { value: Option<V>, life: Option<Life> },
    /// Call the loader, and exchange the lease for what it gives.
    Load { floor: Version, lease: Option<Token> },
}

/// Asks the remote tier, if there is one that can be trusted with this key.
pub(crate) async fn consult<K: CacheKey, V: Clone>(lead: &Lead<K, V>) -> Consulted<V> {
    let store = &*lead.store;
    let mut floor = store.floors.floor(lead.hash, store.clock.now_us());
    let Some(side) = &store.remote else { return Consulted::Load { floor, lease: None } };
    let unaided = || {
        let floor = store.floors.unaided_floor(lead.hash, store.clock.now_us());
        Consulted::Load { floor, lease: None }
    };
    let mut ask = Ask {
        token: Token::random(),
        // It outlives the load and the trip back, so that a slow load is not fenced by its own lease.
        lease: store.policy.load_timeout.saturating_add(side.outbound.timing.command * 2),
        on_value: OnValue::Return,
    };
    let mut patience = Patience { left: store.policy.lease_wait, pause: HELD_PAUSE_MIN };
    loop {
        if !side.outbound.remote.is_up() || side.outbound.outbox.blocks(&lead.key_bytes) {
            count(&store.counters.l2_bypassed);
            return unaided();
        }
        let asked_us = store.clock.now_us();
        match side.outbound.remote.read(&lead.key_bytes, ask).await {
            Ok(Answer::Value { payload, remaining }) => {
                if let Ok(value) = envelope::open(&side.codec, &lead.key_bytes, &payload) {
                    count(&store.counters.l2_hits);
                    let life = remaining_life(store, value.as_ref(), asked_us, remaining);
                    return Consulted::Found { value, life };
                }
                count(&store.counters.l2_poisoned);
                if ask.on_value == OnValue::Discard {
                    return unaided();
                }
                ask.on_value = OnValue::Discard;
            }
            Ok(Answer::Leased { floor: known }) => {
                count(&store.counters.l2_misses);
                floor = learn_floor(lead, floor, known);
                return Consulted::Load { floor, lease: Some(ask.token) };
            }
            Ok(Answer::Held { floor: known }) => {
                floor = learn_floor(lead, floor, known);
                // Nobody who starts to read now will get this load's result: no point in waiting.
                if lead.flight.is_voided() || !patience.pause().await {
                    count(&store.counters.l2_held);
                    return Consulted::Load { floor, lease: None };
                }
            }
            Err(error) => {
                report(store, error);
                return unaided();
            }
        }
    }
}

/// Waiting for another node, in growing steps, within a bound.
struct Patience {
    left: Duration,
    pause: Duration,
}

impl Patience {
    /// Pauses once; false when the time is used up.
    async fn pause(&mut self) -> bool {
        let pause = self.pause.min(self.left);
        if pause.is_zero() {
            return false;
        }
        sleep(pause).await;
        self.left -= pause;
        self.pause *= 2;
        true
    }
}

fn learn_floor<K: CacheKey, V: Clone>(lead: &Lead<K, V>, floor: Version, known: Version) -> Version {
    // LATEST ends with the tombstone, which is younger than this node's own record of it would be.
    if known != Version::LATEST {
        lead.store.floors.raise(lead.hash, known, lead.store.clock.now_us());
    }
    floor.max(known)
}

/// The life of a remote value in process: never beyond what the remote tier has left of it.
fn remaining_life<K, V: Clone>(
    store: &Store<K, V>,
    value: Option<&V>,
    asked_us: u64,
    remaining: Duration,
) -> Option<Life>
where
    K: Clone + Eq + Hash,
{
    let life = store.life(value, asked_us)?;
    let expires_us = life.expires_us.min(asked_us.saturating_add(micros(remaining)));
    Some(Life { expires_us, ..life })
}

/// Exchanges the lease for what was loaded: `Some(value)`, `Some(None)` for "there is none", or
/// `None` when the load gave nothing that could be stored.
pub(crate) async fn write_back<K: CacheKey, V: Clone>(
    lead: &Lead<K, V>,
    token: Token,
    loaded: Option<Option<V>>,
) {
    let store = &*lead.store;
    let Some(side) = &store.remote else { return };
    let loaded = loaded.filter(|_| !lead.flight.is_voided());
    let write = loaded.and_then(|value| sealed(store, side, lead, value.as_ref()));
    let is_value = write.is_some();
    if is_value && side.outbound.outbox.blocks(&lead.key_bytes) {
        // The tombstone that voids the lease is on its way.
        return store.refuse_stale_set();
    }
    // Also when the load was voided: a gap voids it without a tombstone, and the lease would stand.
    let write = write.unwrap_or(WriteBack::Release);
    match side.outbound.remote.write(&lead.key_bytes, token, write).await {
        Ok(Written::Stored) if is_value => count(&store.counters.l2_stored),
        Ok(Written::Stored) => {}
        Ok(Written::Refused) if is_value => store.refuse_stale_set(),
        Ok(Written::Refused) => {}
        Err(error) => report(store, error),
    }
}

fn sealed<K: CacheKey, V: Clone>(
    store: &Store<K, V>,
    side: &RemoteSide<V>,
    lead: &Lead<K, V>,
    value: Option<&V>,
) -> Option<WriteBack> {
    let lifetime = store.policy.remote_lifetime(Found::of(value));
    let payload: Bytes = envelope::seal(&side.codec, &lead.key_bytes, value)?;
    if payload.len() > store.policy.l2_value_bytes_max {
        count(&store.counters.l2_oversize);
        return None;
    }
    (!lifetime.is_zero()).then_some(WriteBack::Value { payload, lifetime })
}

fn report<K, V>(store: &Store<K, V>, error: RemoteError) {
    count(&store.counters.l2_errors);
    tracing::debug!(cache = %store.name, %error, "ask the remote tier");
    store.observer.remote_failed(&store.name);
}
