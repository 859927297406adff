//! Plans, the slow log and index advice on real tables, each made to provoke one thing.

mod advice;
mod creation;
mod dropped;
mod explaining;
mod findings;
mod reviewing;
mod slow;
mod unasked;
mod workload;

use paystrata_db::Session;
use paystrata_db::plans::{Explained, Measure, explain};

/// Runs a text on a session.
async fn on(session: &Session, sql: &str) {
    session.client().batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The plan of a text without parameters.
async fn plan(session: &Session, sql: &str, measure: Measure) -> Explained {
    explain(session, sql, &[], measure).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}
