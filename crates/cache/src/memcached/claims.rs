//! Claims this node holds: with which CAS number the item was claimed, and over which connection.
//! A CAS number means something only to the server process that gave it: after a restart the same
//! number may name another item. So a claim is exchanged over the very connection it was won on, which
//! does not outlive that process, or not at all. Bounded. Called by the verbs of `share`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{connection::Connection, record::Floor};
use crate::tier::Token;

/// Claims that are remembered per cache. One that is not cannot be exchanged, and its lease runs out.
const CLAIMS_MAX: usize = 65_536;

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) cas: u64,
    pub(super) connection: Arc<Connection>,
    pub(super) floor: Option<Floor>,
    pub(super) remains: Remains,
    until: Instant,
}

/// Whether the claimed item has anything that a release must leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    Nothing,
    Something,
}

impl Held {
    pub(super) fn new(token: Token, lease: Duration, connection: Arc<Connection>, cas: u64) -> Self {
        // The lease is rounded up to whole seconds by at most two; what is exchanged late is judged by
        // the server, this is only when it may be forgotten here.
        let until = Instant::now() + lease.min(Duration::from_secs(86_400)) + Duration::from_secs(2);
        Self { token, cas, connection, floor: None, remains: Remains::Nothing, until }
    }
}

#[derive(Debug, Default)]
pub(super) struct Claims {
    held: Mutex<HashMap<Bytes, Held>>,
}

impl Claims {
    pub(super) fn remember(&self, key: Bytes, held: Held) {
        let mut claims = self.lock();
        if claims.len() >= CLAIMS_MAX && !claims.contains_key(&key) {
            let now = Instant::now();
            claims.retain(|_, held| held.until > now && !held.connection.is_closed());
            if claims.len() >= CLAIMS_MAX {
                return;
            }
        }
        claims.insert(key, held);
    }

    /// The claim, if it is this one. It is gone then.
    pub(super) fn take(&self, key: &Bytes, token: Token) -> Option<Held> {
        let mut claims = self.lock();
        claims.get(key).filter(|held| held.token == token)?;
        claims.remove(key)
    }

    /// Whether this node has the claim with this CAS number under this token.
    pub(super) fn holds(&self, key: &Bytes, token: Token, cas: u64) -> bool {
        self.lock().get(key).is_some_and(|held| held.token == token && held.cas == cas)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
