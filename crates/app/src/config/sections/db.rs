//! `db`: PostgreSQL nodes, pools and timeouts. Read by the start of the data layer.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::config::secret::SecretUrl;
use crate::config::setting::DefaultValue::{Fixed, Required};
use crate::config::setting::{Emptiness, Kind, count, milliseconds};

/// A tombstone of the cache lives 60 s and must outlive every replica that still serves reads; half of that
/// leaves room for the load that a read starts.
const REPLICA_LAG_CEILING_MS: i64 = 30_000;

section! {
    /// PostgreSQL nodes, pools and timeouts.
    DatabaseConfig = "db" {
        /// The primary. With `?sslmode=verify-full` every connection is over TLS, and the server's certificate is checked for the
        /// host of the URL, by the authorities of the file that `sslrootcert` names, or by those that the system trusts;
        /// `require` means the same here, and `verify-ca` leaves the host's name out. `sslcert` and `sslkey` name the files
        /// of a client certificate. Files are read at the start. `sslmode=prefer`, which is also what a URL without it means,
        /// is in clear, with a warning at start unless the server is on this machine. The same holds for the other URLs here.
        primary_url: SecretUrl = "primary_url" Kind::DatabaseUrl(Emptiness::Refused), Required;
        /// The replicas; empty means that the primary serves all reads. In the environment a comma ends an entry,
        /// so a comma in a password is written `%2C`.
        replica_urls: Vec<SecretUrl> = "replica_urls" Kind::DatabaseUrls, Fixed("");
        /// PgBouncer in transaction mode, in front of the primary, for pooled traffic; empty means none. It hands no session
        /// settings on, so give the role what the service sets elsewhere: `ALTER ROLE .. SET enable_seqscan = off` (every
        /// request has its index, but a partition that was analyzed while it was empty looks cheaper to read whole). Types
        /// of the database's own are learned when a connection is made.
        pooler_url: Option<SecretUrl> = "pooler_url" Kind::DatabaseUrl(Emptiness::MeansNone), Fixed("");
        /// Connections of each pool that are kept open.
        pool_size_min: usize = "pool_size_min" count(0, 1000), Fixed("2");
        /// Most connections of each pool.
        pool_size_max: NonZeroUsize = "pool_size_max" count(1, 1000), Fixed("16");
        /// Longest wait for a pooled connection.
        acquire_timeout: Duration = "acquire_timeout_ms" milliseconds(1, 600_000), Fixed("2000");
        /// Longest time to open a connection.
        connect_timeout: Duration = "connect_timeout_ms" milliseconds(1, 600_000), Fixed("5000");
        /// Longest run of one statement; the server cancels it then. Also the longest that the engine waits for a batch
        /// under way before it gives its connection up and asks for the outcome on another. Where it is less than
        /// `engine.queue_timeout_ms`, a quarter of it is the longest wait for a locked row.
        statement_timeout: Duration = "statement_timeout_ms" milliseconds(1, 3_600_000), Fixed("10000");
        /// A statement that takes so long is slow. Once a minute the log names those that were, one line each, with how often, their
        /// percentiles and, if the server makes one without values, their plan.
        slow_query: Duration = "slow_query_ms" milliseconds(1, 3_600_000), Fixed("200");
        /// A replica that is further behind than this serves no reads, until it is no further behind than half of it.
        replica_lag_max: Duration = "replica_lag_max_ms" milliseconds(1, REPLICA_LAG_CEILING_MS), Fixed("10000");
        /// Time between two looks at a healthy node's role and position.
        monitor_interval: Duration = "monitor_interval_ms" milliseconds(10, 60_000), Fixed("100");
    }
}
