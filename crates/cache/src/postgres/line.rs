//! One cache's share of the line: announcements are numbered and logged by the server, in the transaction
//! that makes them, and told by NOTIFY when it commits. Called through `Line`; the bodies mean nothing here.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio_postgres::{Row, types::ToSql};

use super::{Owner, sql};
use crate::{
    backplane::{Announcement, Line, Listener, Mark, Snapshot, Swath, Sweep},
    tier::{TierError, TierFuture, Void},
};

#[derive(Debug)]
pub(super) struct PostgresLine {
    owner: Arc<Owner>,
    cache: String,
}

/// Sweeps as three arrays of the same length.
#[derive(Debug, Default)]
pub(super) struct Swept<'a> {
    pub(super) kinds: Vec<i16>,
    pub(super) names: Vec<&'a [u8]>,
    pub(super) hows: Vec<i16>,
}

impl<'a> Swept<'a> {
    pub(super) fn of(announcement: &'a Announcement) -> Self {
        let mut swept = Self::default();
        for (swath, how) in &announcement.sweeps {
            let (kind, name): (i16, &[u8]) = match swath {
                Swath::All => (0, &[]),
                Swath::Prefix(prefix) => (1, prefix),
                Swath::Tag(tag) => (2, tag.as_bytes()),
            };
            swept.kinds.push(kind);
            swept.names.push(name);
            swept.hows.push(match how {
                Void::Remove => 0,
                Void::Expire => 1,
            });
        }
        swept
    }
}

impl PostgresLine {
    pub(super) fn new(owner: Arc<Owner>, cache: &str) -> Self {
        Self { owner, cache: cache.to_owned() }
    }

    fn limit(&self) -> Duration {
        self.owner.options.command_timeout
    }

    async fn attach_now(&self) -> Result<Snapshot, TierError> {
        let session = self.owner.line.session()?;
        let rows = session.query(self.limit(), &session.statements.attach, &[&self.cache]).await?;
        let mut snapshot = Snapshot::default();
        let failed = |_| TierError::Failed;
        for row in &rows {
            snapshot.mark = mark(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?)?;
            snapshot.forgotten_sequence = number(row.try_get(2).map_err(failed)?)?;
            let Some(kind) = row.try_get::<_, Option<i16>>(3).map_err(failed)? else { continue };
            let (name, how): (&[u8], i16) =
                (row.try_get(4).map_err(failed)?, row.try_get(5).map_err(failed)?);
            let swath = match kind {
                1 => Swath::Prefix(Bytes::copy_from_slice(name)),
                2 => Swath::Tag(std::str::from_utf8(name).map_err(|_| TierError::Failed)?.into()),
                _ => Swath::All,
            };
            let how = if how == 1 { Void::Expire } else { Void::Remove };
            snapshot.sweeps.push(Sweep { swath, how, sequence: number(row.try_get(6).map_err(failed)?)? });
        }
        if rows.is_empty() { Err(TierError::Failed) } else { Ok(snapshot) }
    }

    async fn announce_now(&self, announcement: &Announcement) -> Result<Mark, TierError> {
        let session = self.owner.line.session()?;
        let (swept, body) = (Swept::of(announcement), &announcement.body[..]);
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&self.cache, &body, &swept.kinds, &swept.names, &swept.hows];
        mark_of(&session.query(self.limit(), &session.statements.announce, &parameters).await?)
    }

    async fn pulse_now(&self, body: &Bytes) -> Result<Mark, TierError> {
        let (session, words) = (self.owner.line.session()?, &body[..]);
        let said = self.owner.ear.echo().say(body);
        let parameters: [&(dyn ToSql + Sync); 2] = [&self.cache, &words];
        let rows = session.query(self.limit(), &session.statements.pulse, &parameters).await?;
        said.taken();
        mark_of(&rows)
    }

    async fn replay_now(&self, after: Mark) -> Result<Option<Vec<(u64, Bytes)>>, TierError> {
        let session = self.owner.line.session()?;
        let Ok(sequence) = i64::try_from(after.sequence) else { return Ok(None) };
        let (incarnation, rows_max) = (after.incarnation.cast_signed(), i64::from(sql::LOG_MAX) + 1);
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.cache, &incarnation, &sequence, &rows_max];
        let rows = session.query(self.limit(), &session.statements.replay, &parameters).await?;
        // No row: another incarnation.
        let Some(first) = rows.first() else { return Ok(None) };
        let stands = number(first.try_get(0).map_err(|_| TierError::Failed)?)?;
        let mut missed = Vec::with_capacity(rows.len());
        for row in &rows {
            let sequence: Option<i64> = row.try_get(1).map_err(|_| TierError::Failed)?;
            let Some(sequence) = sequence else { continue };
            let body: &[u8] = row.try_get(2).map_err(|_| TierError::Failed)?;
            missed.push((number(sequence)?, Bytes::copy_from_slice(body)));
        }
        let expected = after.sequence + 1..=stands;
        let is_whole = after.sequence <= stands && expected.eq(missed.iter().map(|(sequence, _)| *sequence));
        Ok(is_whole.then_some(missed))
    }
}

/// The mark in the first two columns of the only row.
fn mark_of(rows: &[Row]) -> Result<Mark, TierError> {
    let row = rows.first().ok_or(TierError::Failed)?;
    let failed = |_| TierError::Failed;
    mark(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?)
}

fn number(signed: i64) -> Result<u64, TierError> {
    u64::try_from(signed).map_err(|_| TierError::Failed)
}

fn mark(incarnation: i64, sequence: i64) -> Result<Mark, TierError> {
    Ok(Mark { incarnation: incarnation.cast_unsigned(), sequence: number(sequence)? })
}

impl Line for PostgresLine {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn is_up(&self) -> bool {
        self.owner.line.is_up()
    }

    fn attach(&self) -> TierFuture<'_, Snapshot> {
        Box::pin(self.attach_now())
    }

    fn announce<'a>(&'a self, announcement: &'a Announcement) -> TierFuture<'a, Mark> {
        Box::pin(self.announce_now(announcement))
    }

    fn replay(&self, mark: Mark) -> TierFuture<'_, Option<Vec<(u64, Bytes)>>> {
        Box::pin(self.replay_now(mark))
    }

    fn pulse<'a>(&'a self, body: &'a Bytes) -> TierFuture<'a, Mark> {
        Box::pin(self.pulse_now(body))
    }

    fn listen(&self, listener: Weak<dyn Listener>) {
        self.owner.ear.add(&self.cache, listener);
    }
}
