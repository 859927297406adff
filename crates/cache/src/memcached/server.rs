//! One memcached server: a few connections, each kept up by its own task. The breaker is their absence:
//! while there is none, calls fail at once; making one again, with a proof that the server answers, is
//! the probe. Called by `share`, which chooses the server; tasks are owned by `MemcachedTier`.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::time::sleep;

use super::{MemcachedOptions, connection::Connection};
use crate::{
    YoungServer,
    complaint::{Complaint, Outlook},
    tier::TierError,
};

/// First pause before another attempt to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(25);

/// Longest pause between attempts: how late the server is used again after it is back.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: String,
    connections: Vec<ArcSwapOption<Connection>>,
    connect_timeout: Duration,
    command_timeout: Duration,
    young_server: YoungServer,
}

impl Server {
    pub(super) fn new(address: String, options: &MemcachedOptions) -> Self {
        let connections = (0..options.connections).map(|_| ArcSwapOption::empty()).collect();
        let MemcachedOptions { connect_timeout, command_timeout, young_server, .. } = *options;
        Self { address, connections, connect_timeout, command_timeout, young_server }
    }

    pub(super) fn is_up(&self) -> bool {
        self.connections.iter().any(|slot| slot.load().as_ref().is_some_and(|live| !live.is_closed()))
    }

    /// A live connection; the same one for the same hash while it lives.
    pub(super) fn connection(&self, hash: u64) -> Result<Arc<Connection>, TierError> {
        let count = self.connections.len();
        let first = usize::try_from(hash >> 32).unwrap_or(0) % count;
        let mut slots = (0..count).map(|step| &self.connections[(first + step) % count]);
        slots.find_map(|slot| slot.load_full().filter(|live| !live.is_closed())).ok_or(TierError::Down)
    }

    pub(super) fn slots(&self) -> usize {
        self.connections.len()
    }

    /// Keeps one of the connections up. Never returns.
    pub(super) async fn supervise(self: Arc<Self>, slot: usize) {
        let slot = &self.connections[slot];
        let (mut pause, mut complaint) = (RECONNECT_MIN, Complaint::of("memcached"));
        loop {
            let Self { address, connect_timeout, command_timeout, young_server, .. } = &*self;
            match Connection::establish(address, *connect_timeout, *command_timeout, *young_server).await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    slot.store(Some(Arc::clone(&connection)));
                    tracing::info!(server = self.address, "memcached is up");
                    pause = RECONNECT_MIN;
                    complaint.connected();
                    connection.closed().await;
                    slot.store(None);
                    tracing::warn!(server = self.address, "memcached connection lost");
                }
                Err(broken) => complaint.tell(&format_args!("{}: {broken}", self.address), Outlook::Passing),
            }
            sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }
}
