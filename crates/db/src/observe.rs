//! The port through which the composing application hears of what happens here, as it happens.
//! Every method does nothing by default. Implementations must be quick and must not block: they run inside calls.

use std::fmt::Debug;
use std::time::Duration;

use crate::node::{NodeId, NodeState, Role};
use crate::sqlstate::Class;

/// Hears of queries, waits, transactions and changes of servers.
pub trait Observer: Send + Sync + Debug {
    /// A statement ended. Abandoned ones are not reported here but counted in `Status::swept`.
    fn query(&self, seen: &QuerySeen<'_>) {
        let _ = seen;
    }

    /// A connection was handed out, or was not.
    fn acquire(&self, seen: &AcquireSeen<'_>) {
        let _ = seen;
    }

    /// A transaction closure ended for good.
    fn transaction(&self, seen: &TransactionSeen) {
        let _ = seen;
    }

    /// A server went up or down, restarted, or changed its role.
    fn node_changed(&self, node: &NodeId, state: NodeState) {
        let _ = (node, state);
    }
}

/// One statement.
#[derive(Clone, Copy, Debug)]
pub struct QuerySeen<'a> {
    /// Where it ran.
    pub node: &'a NodeId,
    /// As what that server was used.
    pub role: Role,
    /// The statement's text, without its values.
    pub sql: &'static str,
    /// From the first byte sent to the last one read.
    pub took: Duration,
    /// The class of its failure, if it failed.
    pub failure: Option<Class>,
}

/// One acquire.
#[derive(Clone, Copy, Debug)]
pub struct AcquireSeen<'a> {
    /// The server.
    pub node: &'a NodeId,
    /// How long the caller waited.
    pub waited: Duration,
    /// The class of the failure, if there is no connection.
    pub failure: Option<Class>,
}

/// One transaction.
#[derive(Clone, Copy, Debug)]
pub struct TransactionSeen {
    /// How it ended.
    pub end: TransactionEnd,
    /// How often its closure ran.
    pub attempts: u32,
    /// All runs and pauses together.
    pub took: Duration,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionEnd {
    /// The server has committed it.
    Committed,
    /// Nothing of it remains.
    RolledBack,
    /// Nobody could say.
    Unknown,
}

/// The observer of those who observe nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NoObserver;

impl Observer for NoObserver {}
