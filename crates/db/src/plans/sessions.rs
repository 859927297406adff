//! Sessions to servers of choice: to a replica, for work that would cost the primary something, and to each server, for what it
//! counts by itself. They last for a question or two, and nobody's reads wait for them.

use std::sync::Arc;

use crate::db::{Db, Member};
use crate::dial::{DialSettings, Purpose, dial};
use crate::error::Error;
use crate::session::Session;

impl Db {
    /// A dedicated connection to a replica that serves reads, as [`Db::read`] would choose one; `None` while there is none.
    /// It is not replaced when that falls behind. `name` appears in `pg_stat_activity`.
    ///
    /// # Errors
    /// That of making the connection.
    pub async fn replica_session(&self, name: &str) -> Result<Option<Session>, Error> {
        let Some(chosen) = self.shared.choose_replica(None, None).await else { return Ok(None) };
        let is_it = |member: &Member| std::ptr::eq(member, chosen.member);
        let place = self.shared.members.iter().position(is_it).expect("it is one of the members");
        session_on(self, place, name).await.map(Some)
    }
}

/// A session on the server at this place among those of the settings, the one that was expected to be the primary first.
pub(super) async fn session_on(db: &Db, place: usize, name: &str) -> Result<Session, Error> {
    let shared = &db.shared;
    if shared.is_stopping() {
        return Err(Error::Closed);
    }
    let node = &shared.members[place].node;
    // Not the pool's, which may be that of a pooler.
    let url =
        place.checked_sub(1).map_or(&shared.config.primary_url, |place| &shared.config.replica_urls[place]);
    let dialled = dial(&node.id, url, &DialSettings::new(&shared.config), Purpose::Session(name)).await?;
    Ok(Session::new(dialled, Arc::clone(node)))
}
