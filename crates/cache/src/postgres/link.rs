//! The sessions of a tier, each kept up by its own task. The breaker is their absence: while there is none,
//! calls fail at once; making one, with every statement prepared, is the probe.
//! Called by `share` and `line`; tasks are owned by `PostgresTier`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::time::sleep;

use super::{PostgresOptions, dial::Dial, session::Session};
use crate::{
    complaint::{Complaint, Outlook},
    tier::TierError,
};

/// First pause before another attempt to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(25);

/// Longest pause between attempts: how late the server is used again after it is back.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether a session that nobody uses still stands.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Link {
    dial: Dial,
    schema: String,
    sessions: Vec<ArcSwapOption<Session>>,
    next: AtomicUsize,
    connect_timeout: Duration,
    command_timeout: Duration,
}

impl Link {
    pub(super) fn new(dial: Dial, options: &PostgresOptions, sessions: usize) -> Self {
        Self {
            dial,
            schema: options.schema.clone(),
            sessions: (0..sessions).map(|_| ArcSwapOption::empty()).collect(),
            next: AtomicUsize::new(0),
            connect_timeout: options.connect_timeout,
            command_timeout: options.command_timeout,
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn is_up(&self) -> bool {
        self.sessions.iter().any(|slot| slot.load().as_ref().is_some_and(|session| !session.is_closed()))
    }

    /// A session that stands, each in its turn.
    pub(super) fn session(&self) -> Result<Arc<Session>, TierError> {
        let (count, first) = (self.sessions.len(), self.next.fetch_add(1, Ordering::Relaxed));
        let mut slots = (0..count).map(|step| &self.sessions[first.wrapping_add(step) % count]);
        slots.find_map(|slot| slot.load_full().filter(|session| !session.is_closed())).ok_or(TierError::Down)
    }

    /// Keeps one of the sessions up. Never returns.
    pub(super) async fn supervise(self: Arc<Self>, slot: usize) {
        let slot = &self.sessions[slot];
        let (mut pause, mut complaint) = (RECONNECT_MIN, Complaint::of("postgres"));
        loop {
            let (schema, limits) = (&self.schema, (self.connect_timeout, self.command_timeout));
            match Session::establish(&self.dial, schema, limits.0, limits.1).await {
                Ok(session) => {
                    let session = Arc::new(session);
                    slot.store(Some(Arc::clone(&session)));
                    tracing::info!("the cache's connection to postgres is up");
                    pause = RECONNECT_MIN;
                    complaint.connected();
                    while !session.is_closed() {
                        sleep(LOOK_EVERY).await;
                    }
                    slot.store(None);
                    tracing::warn!("the cache's connection to postgres is lost");
                }
                Err(broken) => complaint.tell(&broken, Outlook::Passing),
            }
            sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RECONNECT_MAX);
        }
    }
}
