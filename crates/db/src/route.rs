//! Which server serves: pure choices over what is known, with chance and time as arguments.
//! It dials nobody and holds no state but the fence: the highest timeline ever seen. Called by `Db`.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::incarnation::History;
use crate::node::{Facts, Node, NodeState, Observation, Role, Standing};
use crate::token::Token;

/// Why no server may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoPrimary {
    /// No server answers.
    AllDown,
    /// Servers answer, and all are replicas.
    OnlyReplicas,
    /// A server answers as primary, on a timeline older than one already seen: it was replaced and must not be written to.
    Fenced,
    /// Two servers answer as primary on the same timeline.
    SplitBrain,
    /// A server answers as primary of another database cluster.
    OtherCluster,
    /// The server that answers as primary stands on an older timeline than the write that the read is to see.
    OlderThanToken,
}

/// What a `Db` never forgets while the process lives.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    timeline_highest: AtomicU32,
    /// The cluster of the first primary seen.
    system_id: OnceLock<u64>,
}

/// The server to write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Primary {
    /// Among all servers.
    pub(crate) index: usize,
    pub(crate) facts: Facts,
}

/// A server that (re)appears gets a tenth of its share at first and the full share after this long, so that
/// its cold cache is not met by full load.
const RAMP: Duration = Duration::from_secs(30);
const RAMP_SHARE_MIN: f64 = 0.1;
/// Stands in for the latency of a server that has not answered anything yet, so that load still counts.
const LATENCY_FLOOR_MICROS: f64 = 50.0;

impl Fence {
    /// Finds the primary among `seen`, which are in the order of the servers, and raises the fence when it stands on a new
    /// timeline. Asked before every write, so it takes no memory.
    pub(crate) fn choose_primary(
        &self,
        seen: impl IntoIterator<Item = Standing>,
    ) -> Result<Primary, NoPrimary> {
        let mut refused = NoPrimary::AllDown;
        let mut best: Option<Primary> = None;
        let mut is_split = false;
        let known = self.system_id.get().copied();
        // Until a cluster is known, the server that the settings name first says which one it is.
        let mut cluster = known;
        let mut replicas: Option<Facts> = None;
        for (index, node) in seen.into_iter().enumerate() {
            if index == 0 && known.is_none() && node.state == NodeState::Up {
                cluster = node.facts.map(|facts| facts.system_id);
            }
            if node.state != NodeState::Up {
                continue;
            }
            if refused == NoPrimary::AllDown {
                refused = NoPrimary::OnlyReplicas;
            }
            let Some(facts) = node.facts else { continue };
            let is_other = cluster.is_some_and(|cluster| cluster != facts.system_id);
            if facts.role == Role::Replica {
                let is_later = replicas.is_none_or(|latest| facts.timeline > latest.timeline);
                replicas = if is_later && !is_other { Some(facts) } else { replicas };
                continue;
            }
            if is_other {
                refused = NoPrimary::OtherCluster;
                continue;
            }
            match &best {
                // Of two clusters nobody knows which one is meant.
                Some(best) if best.facts.system_id != facts.system_id => return Err(NoPrimary::OtherCluster),
                Some(best) if best.facts.timeline > facts.timeline => {}
                Some(best) if best.facts.timeline == facts.timeline => is_split = true,
                _ => (best, is_split) = (Some(Primary { index, facts }), false),
            }
        }
        let best = best.ok_or(refused)?;
        if is_split {
            return Err(NoPrimary::SplitBrain);
        }
        // A replica follows a primary that was there, be it out of reach from here.
        let followed = replicas.filter(|replica| replica.system_id == best.facts.system_id);
        if let Some(replica) = followed.filter(|replica| replica.timeline > best.facts.timeline) {
            // Before the cluster is known, both may be strangers.
            if known.is_some() {
                self.timeline_highest.fetch_max(replica.timeline, Ordering::AcqRel);
            }
            return Err(NoPrimary::Fenced);
        }
        let timeline = best.facts.timeline;
        // Looked at before it is written: the line of memory stays shared among the cores.
        let highest = self.timeline_highest.load(Ordering::Acquire);
        if highest != timeline && self.timeline_highest.fetch_max(timeline, Ordering::AcqRel) > timeline {
            return Err(NoPrimary::Fenced);
        }
        if self.system_id.get().is_none() {
            let _first_wins = self.system_id.set(best.facts.system_id);
        }
        Ok(best)
    }

    /// False of a server that is known to belong to another cluster than the primaries: nothing of what it says of positions
    /// and timelines means anything here.
    pub(crate) fn is_of_this_cluster(&self, seen: &Observation) -> bool {
        let ours = self.system_id.get();
        seen.facts.is_none_or(|facts| ours.is_none_or(|ours| *ours == facts.system_id))
    }

    /// What the last chosen primary stands on; `None` while none was chosen.
    pub(crate) fn history(&self) -> Option<History> {
        let system_id = *self.system_id.get()?;
        Some(History { system_id, timeline: self.timeline_highest.load(Ordering::Acquire) })
    }
}

/// May this replica serve reads that carry no token? `primary_timeline` is None while there is no primary:
/// then any replica is better than none.
pub(crate) fn serves_reads(seen: &Observation, primary_timeline: Option<u32>) -> bool {
    let Some(facts) = replica_facts(seen) else { return false };
    primary_timeline.is_none_or(|timeline| timeline == facts.timeline && !seen.is_behind)
}

/// Has this replica replayed the write that the token stands for?
pub(crate) fn has_replayed(seen: &Observation, token: Token) -> bool {
    replica_facts(seen).is_some_and(|facts| facts.timeline == token.timeline && facts.lsn >= token.lsn)
}

fn replica_facts(seen: &Observation) -> Option<Facts> {
    seen.facts.filter(|facts| seen.state == NodeState::Up && facts.role == Role::Replica)
}

/// The cheaper of two candidates drawn at random (Mitzenmacher, "The power of two choices", 2001).
/// `draw(n)` gives a number below `n`.
pub(crate) fn cheaper_of_two(scores: &[f64], mut draw: impl FnMut(usize) -> usize) -> Option<usize> {
    match scores.len() {
        0 => None,
        1 => Some(0),
        count => {
            let first = draw(count);
            // Drawn from the others, so that the two differ.
            let second = (first + 1 + draw(count - 1)) % count;
            Some(if scores[second] < scores[first] { second } else { first })
        }
    }
}

/// Expected costs of one more read: (in flight + 1) times the latency, divided by the share the server may have by now. One that has
/// yet to come to its full share is not taken to be quicker than those that have: it has hardly answered anything.
pub(crate) fn scores<'a>(
    candidates: impl Iterator<Item = (&'a Node, &'a Observation)> + Clone,
    now: Instant,
) -> Vec<f64> {
    let share = |seen: &Observation| {
        let age = now.saturating_duration_since(seen.since).as_secs_f64();
        (age / RAMP.as_secs_f64()).clamp(RAMP_SHARE_MIN, 1.0)
    };
    let mut prices: Vec<f64> = candidates.clone().map(|(node, _)| node.latency_micros(now)).collect();
    let settled = prices.iter().zip(candidates.clone()).filter(|(_, (_, seen))| share(seen) >= 1.0);
    let slowest = settled.map(|(latency, _)| *latency).fold(LATENCY_FLOOR_MICROS, f64::max);
    for (price, (node, seen)) in prices.iter_mut().zip(candidates) {
        let share = share(seen);
        let least = if share < 1.0 { slowest } else { LATENCY_FLOOR_MICROS };
        let waiting = u32::try_from(node.in_flight()).unwrap_or(u32::MAX);
        *price = (f64::from(waiting) + 1.0) * price.max(least) / share;
    }
    prices
}

impl fmt::Display for NoPrimary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AllDown => "no server answers",
            Self::OnlyReplicas => "every server that answers is a replica",
            Self::Fenced => "the server that answers as primary was replaced by one on a later timeline",
            Self::SplitBrain => "two servers answer as primary on the same timeline",
            Self::OtherCluster => "the server that answers as primary belongs to another cluster",
            Self::OlderThanToken => "the server that answers as primary is older than the write of the token",
        })
    }
}

#[cfg(test)]
mod tests;
