//! Refreshes by name, of all views, or of those whose time has come, in the order in which they are made from each other.
//! A view whose source failed in the same round is not refreshed; any other is. Called by whoever keeps views fresh.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::error::ViewError;
use super::refresh::{Ask, Ended};
use super::state::{ViewStatus, note_failure, status};
use super::{View, Views, When};
use crate::error::Error;

/// Between two rounds of [`Views::run`]: the least, and while something was done.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The most, so that a view that somebody made worse is looked at soon.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What became of one view in a round.
#[derive(Debug)]
pub struct Report {
    /// Its name.
    pub view: String,
    /// How it ended.
    pub ended: Result<Ended, ViewError>,
}

impl Views {
    /// Refreshes one view now, and none that it is made from. Returns [`Ended::Skipped`] when another process is doing it, or
    /// has done it since this was called.
    ///
    /// # Errors
    /// See [`ViewError`]; nothing of a failed refresh remains but its record in [`Views::status`].
    pub async fn refresh(&self, view: &str) -> Result<Ended, ViewError> {
        self.entry(view)?.refresh(&self.inner.db, Ask::Now).await
    }

    /// Refreshes every view now, each once and after those it is made from.
    pub async fn refresh_all(&self) -> Vec<Report> {
        let all = self.inner.entries.iter().map(|_| true).collect();
        self.round(all, Ask::Now).await
    }

    /// Refreshes the views whose time has come; gives nothing of the others.
    ///
    /// # Errors
    /// What is known of the views could not be read.
    pub async fn refresh_due(&self) -> Result<Vec<Report>, Error> {
        Ok(self.due_round().await?.0)
    }

    /// Keeps the views fresh until it is dropped: [`Views::refresh_due`] again and again. Run it on every node; one of them
    /// does each refresh. Failures are logged and tried again when the view's time has come again.
    pub async fn run(&self) {
        loop {
            let pause = match self.due_round().await {
                Ok((reports, next)) => {
                    reports.iter().for_each(log);
                    if reports.is_empty() { next.clamp(PAUSE_MIN, PAUSE_MAX) } else { PAUSE_MIN }
                }
                Err(error) => {
                    warn!(%error, "read what is known of the views");
                    PAUSE_MIN
                }
            };
            sleep(pause).await;
        }
    }

    /// A round, and the time after which something is due that was not in it.
    async fn due_round(&self) -> Result<(Vec<Report>, Duration), Error> {
        let names: Vec<&str> = self.inner.entries.iter().map(|entry| entry.view.name.as_str()).collect();
        let connection = self.inner.db.write().await?;
        // Before it is asked, so that what another process does from then on is seen.
        let known_at = Instant::now();
        let known = status(&connection, &names).await?;
        drop(connection);
        let due: Vec<Option<Duration>> =
            self.inner.entries.iter().zip(&known).map(|(entry, known)| due_in(&entry.view, known)).collect();
        let next = due.iter().flatten().filter(|left| !left.is_zero()).min().copied();
        let chosen = due.iter().map(|left| *left == Some(Duration::ZERO)).collect();
        Ok((self.round(chosen, Ask::Due { known_at }).await, next.unwrap_or(PAUSE_MAX)))
    }

    /// One pass over the chosen ones, in order.
    async fn round(&self, chosen: Vec<bool>, ask: Ask) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut failed: Vec<&str> = Vec::new();
        let mut refreshed: Vec<&str> = Vec::new();
        for (entry, _) in self.inner.entries.iter().zip(chosen).filter(|(_, is_chosen)| *is_chosen) {
            let view = &entry.view;
            let ended = match view.made_from.iter().find(|source| failed.contains(&source.as_str())) {
                Some(by) => {
                    let blocked = ViewError::Blocked { view: view.name.clone(), by: by.clone() };
                    note_failure(&self.inner.db, view, &blocked).await;
                    Err(blocked)
                }
                None => {
                    // Another process may have refreshed it too, but before what it is made from was.
                    let is_behind = view.made_from.iter().any(|source| refreshed.contains(&source.as_str()));
                    let anew = Ask::Due { known_at: Instant::now() };
                    let ask = if is_behind && matches!(ask, Ask::Due { .. }) { anew } else { ask };
                    entry.refresh(&self.inner.db, ask).await
                }
            };
            match &ended {
                Ok(Ended::Refreshed { .. }) => refreshed.push(&view.name),
                Ok(Ended::Skipped { .. }) => {}
                Err(_) => failed.push(&view.name),
            }
            reports.push(Report { view: view.name.clone(), ended });
        }
        reports
    }
}

/// How long until the view is to be refreshed, zero when it is now; None when nobody but a caller says so.
fn due_in(view: &View, known: &ViewStatus) -> Option<Duration> {
    let (When::Every(pause) | When::OnChange { pause }) = view.when else { return None };
    let Some(rested) = known.rested else { return Some(Duration::ZERO) };
    // Half the time at most goes into refreshing.
    let pause = pause.max(known.took.unwrap_or_default());
    Some(pause.saturating_sub(rested))
}

fn log(report: &Report) {
    match &report.ended {
        Ok(Ended::Refreshed { took, .. }) => info!(view = report.view, ?took, "view refreshed"),
        Ok(Ended::Skipped { .. }) => {}
        Err(error) => warn!(error = %error.recorded(), view = report.view, "refresh a view"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Refresh;
    use super::*;

    fn check(when: When, rested: Option<u64>, took: Option<u64>, expected: Option<u64>) {
        let seconds = Duration::from_secs;
        let known = ViewStatus {
            view: "v".to_owned(),
            as_of: None,
            age: None,
            took: took.map(seconds),
            rows_written: None,
            refreshes: 0,
            failed_at: None,
            error: None,
            rested: rested.map(seconds),
        };
        assert_eq!(due_in(&View::new("v", Refresh::Plain, when), &known), expected.map(seconds));
    }

    #[test]
    fn a_view_is_due_after_its_pause_and_rests_as_long_as_it_took() {
        let every = When::Every(Duration::from_secs(60));
        check(every, None, None, Some(0));
        check(every, Some(20), Some(1), Some(40));
        check(every, Some(60), Some(1), Some(0));
        check(every, Some(60), Some(100), Some(40));
        check(When::OnChange { pause: Duration::from_secs(5) }, Some(2), None, Some(3));
        check(When::OnDemand, None, None, None);
    }
}
