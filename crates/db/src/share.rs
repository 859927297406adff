//! Single statements that only read, many at once on one connection: they travel together, so that a hundred callers cost
//! a few packets, and nobody waits for a free connection. Which server they go to is for `read` to choose, and who goes
//! first in a lane for nobody. Lanes are borrowed from pools, and kept in `lanes`. Called through `Db`.

use std::panic::Location;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_postgres::Row;

use crate::connection::{Connection, Values, at_most_one, exactly_one};
use crate::db::{Db, Member, Shared};
use crate::error::Error;
use crate::lanes::{DEPTH, DEPTH_MAX, Lane, Lanes, Opening};
use crate::node::Role;
use crate::pool;
use crate::repeats;
use crate::statement::Statement;
use crate::token::Token;
use crate::usage::{Asker, Errand, Place};

/// What a first caller waits for a lane: a connection that is there needs no round trip, or one.
const LANE_PATIENCE: Duration = Duration::from_millis(10);

impl Db {
    /// All rows of one statement that only reads, from a replica or the primary as [`Db::read`] chooses, or as
    /// [`Db::read_after`] does with a token. It shares a connection with other callers' statements, which travel together:
    /// for short reads, that is more per second than a connection for each, and nobody waits for a free one. Behind a
    /// pooler, in the [background](Db::background), and where a statement leaves something on its session, it gets a
    /// connection of its own.
    ///
    /// The statement must only read, and is refused if its first word says otherwise ([`Error::NotARead`]): it may run again, on a
    /// connection of its own, should its server fail or should another statement of the shared connection run for more than some
    /// 10 ms. One that is known to run long is better run through [`Db::read`].
    ///
    /// # Errors
    /// As [`Connection::query`] and [`Db::read`].
    #[track_caller]
    pub fn query<'a>(
        &'a self,
        after: Option<Token>,
        statement: &'a Statement,
        values: Values<'a>,
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send + 'a {
        self.query_from(after, statement, values, Location::caller())
    }

    /// As [`Db::query`], of one row or none.
    ///
    /// # Errors
    /// As [`Db::query`], and [`Error::RowCount`].
    #[track_caller]
    pub fn query_opt<'a>(
        &'a self,
        after: Option<Token>,
        statement: &'a Statement,
        values: Values<'a>,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send + 'a {
        let place = Location::caller();
        async move { at_most_one(self.query_from(after, statement, values, place).await?) }
    }

    /// As [`Db::query`], of exactly one row.
    ///
    /// # Errors
    /// As [`Db::query`], and [`Error::RowCount`].
    #[track_caller]
    pub fn query_one<'a>(
        &'a self,
        after: Option<Token>,
        statement: &'a Statement,
        values: Values<'a>,
    ) -> impl Future<Output = Result<Row, Error>> + Send + 'a {
        let place = Location::caller();
        async move { exactly_one(self.query_from(after, statement, values, place).await?) }
    }

    async fn query_from(
        &self,
        after: Option<Token>,
        statement: &Statement,
        values: Values<'_>,
        place: Place,
    ) -> Result<Vec<Row>, Error> {
        // Before a lane has it parsed.
        if let Some(verb) = statement.writing_verb() {
            return Err(Error::NotARead { verb });
        }
        repeats::as_one_run(statement, async {
            if !statement.leaves_session_state()
                && let Some((lanes, lane)) = self.lane(after, statement, place).await
            {
                match lanes.run(&lane, statement, values).await {
                    Some(Err(error)) if error.class().is_read_retryable() => {}
                    Some(outcome) => return outcome,
                    None => {}
                }
            }
            let alone =
                |connection: Arc<Connection>| async move { connection.query(statement, values).await };
            self.read_with_from(after, alone, self.asker(place)).await
        })
        .await
    }

    /// A lane to the server that is to be read from; none if there is none to be had at once.
    async fn lane(
        &self,
        after: Option<Token>,
        statement: &Statement,
        place: Place,
    ) -> Option<(&Lanes, Arc<Lane>)> {
        let shared = &self.shared;
        // What nobody waits for must not stand before what somebody waits for.
        if self.asker(place).errand == Errand::Background || shared.is_stopping() {
            return None;
        }
        let chosen = shared.choose_replica(after, None).await;
        let (member, role) = match &chosen {
            Some(replayed) => (replayed.member, Role::Replica),
            None => (shared.primary_after(after).ok()?, Role::Primary),
        };
        let lanes: &Lanes = &member.lanes;
        // While the schema is about to change each statement is prepared first, and its place in a lane is not known.
        if !lanes.admit(statement) || !member.node.schema().is_settled() {
            return None;
        }
        // Only who has a token must not meet a server process that came up in an older state than the one that was seen.
        let incarnation = chosen.filter(|_| after.is_some()).map(|replayed| replayed.incarnation);
        let fits = |lane: &Lane| {
            let is_it = incarnation.is_none_or(|incarnation| incarnation == lane.connection.incarnation());
            is_it && lane.connection.role() == role
        };
        let found = lanes.shallowest(fits);
        if let Some((lane, depth)) = &found
            && (*depth < DEPTH || !lanes.may_open())
        {
            let lane = (*depth < DEPTH_MAX).then(|| Arc::clone(lane))?;
            member.node.breaker().chosen(Instant::now());
            return Some((lanes, lane));
        }
        let opening = Opening::begin(lanes);
        let opened = opening.map(|opening| {
            let (shared, index) = (Arc::clone(shared), shared.index_of(member));
            self.shared
                .tasks
                .spawn(async move { shared.open_lane(&shared.members[index], role, place, opening).await })
        });
        let lane = match (found, opened) {
            // Nobody waits for the new one, which may have to be dialled.
            (Some((lane, _)), _) => lane,
            (None, Some(opened)) => {
                let lane = timeout(LANE_PATIENCE, opened).await.ok()?.ok().flatten();
                lane.filter(|lane| fits(lane))?
            }
            (None, None) => return None,
        };
        member.node.breaker().chosen(Instant::now());
        Some((lanes, lane))
    }
}

impl Shared {
    /// Borrows a connection for a lane, if the pool has one to spare.
    async fn open_lane(
        &self,
        member: &Member,
        role: Role,
        place: Place,
        opening: Opening,
    ) -> Option<Arc<Lane>> {
        // Lanes count as background work does: there is always something left for callers who write.
        let mut permits = vec![Arc::clone(&member.background).try_acquire_owned().ok()?];
        if role == Role::Primary {
            permits.push(Arc::clone(&self.primary_reads).try_acquire_owned().ok()?);
        }
        let pool = pool::status(&member.pool);
        if pool.in_use >= pool.size_max {
            return None;
        }
        let asker = Asker { place, errand: Errand::Lane };
        let connection = self.acquire_admitted(member, role, Instant::now(), asker, permits).await.ok()?;
        let lane = Arc::new(Lane::new(connection, Instant::now()));
        member.lanes.add(&lane);
        drop(opening);
        // Whoever closes has set the sign before it looks for lanes.
        if self.is_stopping() {
            member.lanes.shut(&lane);
            return None;
        }
        Some(lane)
    }

    fn index_of(&self, member: &Member) -> usize {
        let is_it = |known: &Member| std::ptr::eq(known, member);
        self.members.iter().position(is_it).expect("it is one of the members")
    }
}
