//! Keeps `merchant_stats` fresh: the view as the registry of views knows it. One node of the fleet refreshes at a time, and
//! readers are never blocked. Run by `serve`.

use std::time::Duration;

use paystrata_db::Db;
use paystrata_db::views::{Refresh, View, ViewError, Views, When};

/// How long a refresh may take; it reads all payments.
const TIMEOUT: Duration = Duration::from_secs(3_600);

/// The views of this service, each refreshed every `period`.
///
/// # Errors
/// A period of zero.
pub fn views(db: &Db, period: Duration) -> Result<Views, ViewError> {
    let mut stats = View::new("merchant_stats", Refresh::Concurrent, When::Every(period));
    stats.timeout = TIMEOUT;
    // Requests read by index only; this one reads all there is.
    stats.settings = vec![("enable_seqscan".to_owned(), "on".to_owned())];
    Views::new(db, vec![stats])
}
