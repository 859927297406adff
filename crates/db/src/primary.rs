//! Which server is the primary, for writes and for reads that must see one; and waiting for it through a short outage. The
//! choice itself is `route`'s. Called by `db`, `read` and `share`.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::db::{Member, Shared};
use crate::error::Error;
use crate::node::{NodeState, Observation};
use crate::route::{NoPrimary, Primary};
use crate::token::Token;

/// At start, what is waited for a word of the server that is named first, though another one takes writes.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// A server that was seen so long ago is looked at again for callers who find no primary.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

impl Shared {
    /// The server to write to among what was last seen of all.
    pub(crate) fn chosen_primary(&self) -> Result<Primary, NoPrimary> {
        self.fence.choose_primary(self.members.iter().map(|member| member.node.standing()))
    }

    /// The server to write to, or why there is none.
    pub(crate) fn primary(&self) -> Result<&Member, Error> {
        self.primary_after(None)
    }

    /// The primary, if what the token stands for can have happened on it or before it: one on an older timeline was replaced,
    /// though this process may not have heard of it yet, and one on a later timeline that began before it has not seen it. Raises
    /// no fence: tokens come from callers.
    pub(crate) fn primary_after(&self, token: Option<Token>) -> Result<&Member, Error> {
        let primary = self.chosen_primary().map_err(|reason| self.no_primary(reason))?;
        let Some(token) = token.filter(|token| token.timeline != primary.facts.timeline) else {
            return Ok(&self.members[primary.index]);
        };
        if token.timeline > primary.facts.timeline {
            return Err(Error::NoPrimary { reason: NoPrimary::OlderThanToken, detail: String::new() });
        }
        if let Some(fork) = self.forks.left_before(&primary.facts, token) {
            return Err(Error::WriteLost { token, fork });
        }
        Ok(&self.members[primary.index])
    }

    fn no_primary(&self, reason: NoPrimary) -> Error {
        Error::NoPrimary { reason, detail: self.last_errors(&self.observations()) }
    }

    fn last_errors(&self, seen: &[Observation]) -> String {
        let errors = self.members.iter().zip(seen).filter(|(_, node)| node.state == NodeState::Down);
        let errors = errors
            .filter_map(|(member, node)| Some(format!("{}: {}", member.node.id, node.last_error.as_ref()?)));
        let errors: Vec<String> = errors.collect();
        if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) }
    }

    /// At start: waits for a primary, but no longer than until every server has been heard of.
    pub(crate) async fn first_primary(&self) -> Result<&Member, Error> {
        let mut rounds = self.rounds.subscribe();
        // The server that is named first says which cluster is meant, if it says anything.
        let first = &self.members[0].node;
        let heard = async {
            while first.standing().state == NodeState::Unknown {
                let _changed = rounds.changed().await;
            }
        };
        let _silent = timeout(self.config.connect_timeout.mul_f64(0.25).min(FIRST_PATIENCE), heard).await;
        loop {
            let primary = self.primary();
            let all_heard = self.observations().iter().all(|seen| seen.state != NodeState::Unknown);
            if primary.is_ok() || all_heard {
                return primary;
            }
            let _changed = rounds.changed().await;
        }
    }

    /// In operation: waits through a short outage, and for the primary that a token is of. In a long outage it refuses at once,
    /// so that callers do not pile up behind a server that stays away.
    pub(crate) async fn await_primary(
        &self,
        after: Option<Token>,
        started: Instant,
    ) -> Result<&Member, Error> {
        // As nearly always: nothing to wait for.
        if !self.is_stopping()
            && let Ok(member) = self.primary_after(after)
        {
            return Ok(member);
        }
        let mut rounds = self.rounds.subscribe();
        let mut is_asked = false;
        loop {
            if self.is_stopping() {
                return Err(Error::Closed);
            }
            let error = match self.primary_after(after) {
                Ok(member) => return Ok(member),
                Err(error) => error,
            };
            let patience = self.config.acquire_timeout;
            let outage = self.outage(&error);
            let Some(left) = patience.checked_sub(started.elapsed().max(outage)) else { return Err(error) };
            if !is_asked {
                self.look_again(&error);
                is_asked = true;
            }
            if timeout(left, rounds.changed()).await.is_err() {
                return Err(error);
            }
        }
    }

    /// Has the monitors look: one that takes writes by now may not be looked at for a while. Those that are down are dialled again in
    /// their own time, however many callers wait.
    fn look_again(&self, error: &Error) {
        let is_stale = |member: &&Member| {
            let seen = member.node.observation();
            seen.state == NodeState::Up && seen.probed_at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN_AFTER)
        };
        let is_meant = |member: &&Member| is_older_than_token(error) || is_stale(member);
        self.members.iter().filter(is_meant).for_each(|member| member.node.poke.notify_one());
    }

    /// For how long no server has changed its state while there is no primary.
    fn outage(&self, error: &Error) -> Duration {
        if is_hopeless(error) {
            return self.config.acquire_timeout;
        }
        if is_older_than_token(error) {
            return Duration::ZERO;
        }
        let last_change = self.observations().into_iter().map(|seen| seen.since).max();
        last_change.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

fn is_hopeless(error: &Error) -> bool {
    let is_for_good = matches!(error, Error::WriteLost { .. });
    is_for_good
        || matches!(error, Error::NoPrimary { reason: NoPrimary::SplitBrain | NoPrimary::OtherCluster, .. })
}

fn is_older_than_token(error: &Error) -> bool {
    matches!(error, Error::NoPrimary { reason: NoPrimary::OlderThanToken, .. })
}
