//! A plain snapshot of every server and its pool, for operators and readiness checks.
//! It measures nothing itself; `Db::status` fills it in.

use std::fmt;
use std::time::Duration;

use crate::node::{NodeId, NodeState, Role};

/// All servers at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// In the order of the settings: `primary_url` first.
    pub nodes: Vec<NodeStatus>,
    /// The server that writes go to, if any.
    pub primary: Option<NodeId>,
    /// Queries that were abandoned by their callers and cancelled on the server.
    pub swept: u64,
    /// Connections that were left with a query, a transaction or session settings on them, and went back to their pools
    /// clean.
    pub cleaned: u64,
}

/// One server.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its name.
    pub id: NodeId,
    /// What the last probe said.
    pub state: NodeState,
    /// A caller reported a failure that the next probe has to clear up.
    pub suspect: bool,
    /// Its statements failed one after another: no read goes there for a while, though it may answer.
    pub resting: bool,
    /// Its role, when it answers.
    pub role: Option<Role>,
    /// Its timeline, when it answers.
    pub timeline: Option<u32>,
    /// The log position it had written (primary) or replayed (replica) at the last probe.
    pub lsn: Option<u64>,
    /// How far it is behind the primary. None for the primary, or while no primary has been seen.
    pub lag: Option<Duration>,
    /// Connections handed out for its pool.
    pub in_flight: usize,
    /// Moving average of its answer times, quick to rise and slow to fall.
    pub latency: Duration,
    /// Its pool.
    pub pool: PoolStatus,
    /// Its last failure, as text.
    pub last_error: Option<String>,
}

/// One pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections it may have.
    pub size_max: usize,
    /// Connections it has.
    pub size: usize,
    /// Of these, handed out.
    pub in_use: usize,
    /// Callers waiting for one.
    pub waiting: usize,
    /// Connections that were replaced by fresh ones before their lifetime ended, since the start.
    pub renewed: u64,
}

impl Status {
    /// The server of that name.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.id == *id)
    }
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size_max, size, in_use, waiting, renewed: _ } = self;
        write!(formatter, "{in_use} in use of {size} open and {size_max} allowed, {waiting} waiting")
    }
}
