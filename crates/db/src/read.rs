//! Where a read goes: a replica that is fresh enough, else the primary within its read budget.
//! A token is honoured or the read goes to the primary; it is never answered from an older state. Called through `Db`.

use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::{timeout, timeout_at};

use crate::config::FRESH_PROBE_TIMEOUT;
use crate::connection::Connection;
use crate::db::{Db, Member, Shared};
use crate::error::{AcquirePhase, Error};
use crate::node::{NodeId, NodeState, Observation, Role};
use crate::route::{cheaper_of_two, has_replayed, scores, serves_reads};
use crate::token::Token;
use crate::usage::{Asker, Errand};

/// A replica found to be fresh enough, or to have replayed a token, and the server process that was.
pub(crate) struct Replayed<'a> {
    pub(crate) member: &'a Member,
    pub(crate) incarnation: i64,
    /// It was chosen from several.
    has_others: bool,
}

impl Db {
    /// A connection for reading what may be up to `replica_lag_max` old. It refuses statements whose first word says that they
    /// write, whichever server serves it: what it does not see (`WITH .. INSERT`, a function that writes, `SELECT .. FOR UPDATE`)
    /// works while the primary serves the reads, and fails with SQLSTATE 25006 on a replica.
    ///
    /// # Errors
    /// As [`Db::write`]; [`Error::AcquireTimeout`] also when the primary's read budget is used up.
    #[track_caller]
    pub fn read(&self) -> impl Future<Output = Result<Connection, Error>> {
        self.shared.read_elsewhere(None, None, self.asker(Location::caller()))
    }

    /// A connection for reading everything up to `token`: from a replica that has replayed it, else from the primary.
    /// A token of another timeline than the replicas' goes to the primary. One of a newer timeline than the known primary's
    /// waits for the server that took its place, within the acquire timeout.
    ///
    /// # Errors
    /// As [`Db::read`]; [`Error::NoPrimary`] also when no primary of the token's timeline, or of a later one, was found;
    /// [`Error::WriteLost`] when a failover has lost the write, or may have.
    #[track_caller]
    pub fn read_after(&self, token: Token) -> impl Future<Output = Result<Connection, Error>> {
        self.shared.read_elsewhere(Some(token), None, self.asker(Location::caller()))
    }

    /// Runs a read, and once more on another server should the first one fail, go down or cancel it.
    ///
    /// `work` must only read: it may run twice. It is dropped and rerun even if the failure was swallowed inside.
    ///
    /// # Errors
    /// What `work` gives, or the errors of [`Db::read_after`].
    #[track_caller]
    pub fn read_with<T, E, F, Fut>(&self, after: Option<Token>, work: F) -> impl Future<Output = Result<T, E>>
    where
        F: Fn(Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.read_with_from(after, work, self.asker(Location::caller()))
    }

    pub(crate) async fn read_with_from<T, E, F, Fut>(
        &self,
        after: Option<Token>,
        work: F,
        asker: Asker,
    ) -> Result<T, E>
    where
        F: Fn(Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let first = self.shared.read_elsewhere(after, None, asker).await?;
        let (node, usage) = (first.node().clone(), Arc::clone(first.usage()));
        let outcome = self.shared.run_unless_down(Arc::new(first), &work).await;
        // A closure that swallowed the failure may have made something up for what it did not get.
        let is_spoilt = usage.failure().is_some_and(|failure| failure.class.is_read_retryable());
        if let Some(outcome) = outcome.filter(|_| !is_spoilt) {
            return outcome;
        }
        let second = self.shared.read_elsewhere(after, Some(&node), asker).await?;
        let node = second.node().clone();
        let outcome = self.shared.run_unless_down(Arc::new(second), &work).await;
        outcome.unwrap_or_else(|| Err(Error::NodeLost { node }.into()))
    }
}

impl Shared {
    /// A connection for reading to a server other than `except`.
    async fn read_elsewhere(
        &self,
        after: Option<Token>,
        except: Option<&NodeId>,
        asker: Asker,
    ) -> Result<Connection, Error> {
        Ok(self.connect_elsewhere(after, except, asker).await?.for_reads())
    }

    /// Chooses a server other than `except`, and connects to it.
    async fn connect_elsewhere(
        &self,
        after: Option<Token>,
        except: Option<&NodeId>,
        asker: Asker,
    ) -> Result<Connection, Error> {
        let started = Instant::now();
        let until = started + self.config.acquire_timeout;
        if let Some(connection) = self.read_replica(after, except, started, asker).await {
            return Ok(connection);
        }
        let refused = match self.read_primary(after, started, asker).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // With the primary gone and no token to honour, any replica is better than a refusal.
        if after.is_none()
            && matches!(refused, Error::NoPrimary { .. })
            && let Some(last) = self.any_replica(except)
        {
            return self.acquire(last, Role::Replica, until, asker).await;
        }
        Err(refused)
    }

    /// A connection to one of the replicas that may serve: to another if the first has none to give. They have half of the time
    /// together, and the primary the rest.
    async fn read_replica(
        &self,
        after: Option<Token>,
        except: Option<&NodeId>,
        started: Instant,
        asker: Asker,
    ) -> Option<Connection> {
        let until = started + self.config.acquire_timeout / 2;
        let first = self.choose_replica(after, except).await?;
        if except.is_some() || !first.has_others {
            return self.acquire_replayed(&first, after, until, asker).await;
        }
        let halfway = started + self.config.acquire_timeout / 4;
        if let Some(connection) = self.acquire_replayed(&first, after, halfway, asker).await {
            return Some(connection);
        }
        let second = self.choose_replica(after, Some(&first.member.node.id)).await?;
        self.acquire_replayed(&second, after, until, asker).await
    }

    /// A connection to that replica as it was when it was chosen.
    async fn acquire_replayed(
        &self,
        replayed: &Replayed<'_>,
        after: Option<Token>,
        until: Instant,
        asker: Asker,
    ) -> Option<Connection> {
        let taken = self.acquire_replica(replayed.member, until, asker).await?;
        // Another incarnation may have come up in an older state than the one that was observed.
        if after.is_some() && taken.incarnation() != replayed.incarnation {
            return None;
        }
        replayed.member.node.breaker().chosen(Instant::now());
        Some(taken)
    }

    /// A connection to a replica, unless it goes down meanwhile. No phase of it, a dial into the void included, takes longer
    /// than `until`.
    async fn acquire_replica(&self, replica: &Member, until: Instant, asker: Asker) -> Option<Connection> {
        let mut changes = replica.node.subscribe();
        let left = until.saturating_duration_since(Instant::now());
        let acquired = timeout(left, self.acquire(replica, Role::Replica, until, asker));
        tokio::select! {
            biased;
            taken = acquired => taken.ok()?.ok(),
            _ = changes.wait_for(|seen| seen.state == NodeState::Down) => None,
        }
    }

    /// The replica to read from, if one may serve; else it is for the primary.
    pub(crate) async fn choose_replica(
        &self,
        after: Option<Token>,
        except: Option<&NodeId>,
    ) -> Option<Replayed<'_>> {
        match after {
            None => self.fresh_replica(except),
            Some(token) => self.replica_at(token, except).await,
        }
    }

    async fn read_primary(
        &self,
        after: Option<Token>,
        started: Instant,
        asker: Asker,
    ) -> Result<Connection, Error> {
        let primary = self.await_primary(after, started).await?;
        let until = started + self.config.acquire_timeout;
        // In this order: who waits for one of the few keeps none of those that all others want.
        let mut permits = self.admit(primary, until, asker).await?;
        let is_background = asker.errand == Errand::Background;
        for bound in [is_background.then_some(&self.background_reads), Some(&self.primary_reads)] {
            let Some(bound) = bound else { continue };
            let permit = timeout_at(until.into(), Arc::clone(bound).acquire_owned()).await;
            let permit = permit.map_err(|_| primary.refused(AcquirePhase::ReadPermit, started.elapsed()))?;
            permits.push(permit.map_err(|_| Error::Closed)?);
        }
        self.acquire_admitted(primary, Role::Primary, until, asker, permits).await
    }

    fn fresh_replica(&self, except: Option<&NodeId>) -> Option<Replayed<'_>> {
        let seen = self.observations();
        let primary = self.fence.choose_primary(seen.iter().map(Observation::standing));
        let timeline = primary.ok().map(|primary| primary.facts.timeline);
        self.cheapest(&seen, except, |observation| serves_reads(observation, timeline))
    }

    async fn replica_at(&self, token: Token, except: Option<&NodeId>) -> Option<Replayed<'_>> {
        // "The latest": no replica can show that it has it, so that asking one would only cost the trip.
        if token.is_latest() {
            return None;
        }
        let known = self.cheapest(&self.observations(), except, |seen| has_replayed(seen, token));
        if known.is_some() {
            return known;
        }
        // What is known is up to an interval old, and a replica is mostly behind by a millisecond: ask once more.
        // All who ask during one probe share it.
        let member = self.most_advanced(token.timeline, except)?;
        let mut changes = member.node.subscribe();
        member.node.poke.notify_one();
        timeout(FRESH_PROBE_TIMEOUT, changes.changed()).await.ok()?.ok()?;
        let seen = changes.borrow().clone();
        let facts = seen.facts.filter(|_| has_replayed(&seen, token))?;
        Some(Replayed { member, incarnation: facts.incarnation, has_others: false })
    }

    fn cheapest(
        &self,
        seen: &[Observation],
        except: Option<&NodeId>,
        fits: impl Fn(&Observation) -> bool,
    ) -> Option<Replayed<'_>> {
        let now = Instant::now();
        let usable = |member: &Member| Some(&member.node.id) != except && member.node.is_well(now);
        let candidates = self.members.iter().zip(seen);
        let fits = |seen: &Observation| self.fence.is_of_this_cluster(seen) && fits(seen);
        let candidates: Vec<_> = candidates.filter(|(member, seen)| usable(member) && fits(seen)).collect();
        let scores = scores(candidates.iter().map(|(member, seen)| (&*member.node, *seen)), now);
        let chosen = cheaper_of_two(&scores, |below| rand::random_range(0..below))?;
        let (member, seen) = candidates[chosen];
        Some(Replayed { member, incarnation: seen.facts?.incarnation, has_others: candidates.len() > 1 })
    }

    fn most_advanced(&self, timeline: u32, except: Option<&NodeId>) -> Option<&Member> {
        let replayed = |member: &Member| {
            let seen = member.node.observation();
            let is_usable = seen.state == NodeState::Up && member.node.is_well(Instant::now());
            let facts = seen.facts.filter(|_| is_usable && self.fence.is_of_this_cluster(&seen))?;
            (facts.role == Role::Replica && facts.timeline == timeline).then_some(facts.lsn)
        };
        let candidates = self.members.iter().filter(|member| Some(&member.node.id) != except);
        let candidates = candidates.filter_map(|member| Some((replayed(member)?, member)));
        candidates.max_by_key(|(lsn, _)| *lsn).map(|(_, member)| member)
    }

    /// One that is well if there is one; else any other than `except`, and else that.
    fn any_replica(&self, except: Option<&NodeId>) -> Option<&Member> {
        let seen = self.observations();
        let well = self.cheapest(&seen, except, |observation| serves_reads(observation, None));
        if let Some(replayed) = well {
            return Some(replayed.member);
        }
        let serves = |seen: &Observation| serves_reads(seen, None) && self.fence.is_of_this_cluster(seen);
        let serving = self.members.iter().zip(&seen).filter(|(_, seen)| serves(seen));
        let (others, same): (Vec<_>, Vec<_>) =
            serving.map(|(member, _)| member).partition(|member| Some(&member.node.id) != except);
        let candidates = if others.is_empty() { same } else { others };
        let chosen = (!candidates.is_empty()).then(|| rand::random_range(0..candidates.len()))?;
        Some(candidates[chosen])
    }

    /// Runs `work`, or gives nothing when its server goes down meanwhile: waiting out a dead socket would take seconds.
    async fn run_unless_down<T, E, F, Fut>(
        &self,
        connection: Arc<Connection>,
        work: &F,
    ) -> Option<Result<T, E>>
    where
        F: Fn(Arc<Connection>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut changes = connection.subscribe();
        tokio::select! {
            biased;
            outcome = work(connection) => Some(outcome),
            _ = changes.wait_for(|seen| seen.state == NodeState::Down) => None,
        }
    }
}
