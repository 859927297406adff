//! `cache`: the tiers in front of the database. Read by the start of the caches.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::secret::SecretUrl;
use crate::config::setting::{DefaultValue::Fixed, Kind, bytes, milliseconds, seconds};

section! {
    /// The tiers in front of the database.
    CacheConfig = "cache" {
        /// Whether reads are cached at all.
        enabled: bool = "enabled" Kind::Flag, Fixed("true");
        /// Memory of the in-process tier: three quarters for accounts and payments, one for the answers of idempotent requests.
        memory_bytes_max: u64 = "memory_bytes_max" bytes(1024 * 1024, 1024 * 1024 * 1024 * 1024), Fixed("67108864");
        /// Redis of the shared tier, through which nodes also tell each other what is void; empty means neither. With `rediss://` it is
        /// spoken to over TLS, and its certificate must be for the host of the URL.
        redis_url: Option<SecretUrl> = "redis_url" Kind::RedisUrl, Fixed("");
        /// Authorities by which the certificate of a `rediss://` Redis may be; empty means those that the system trusts.
        redis_ca_path: Option<PathBuf> = "redis_ca_path" Kind::AuthoritiesPath, Fixed("");
        /// memcached servers of a tier behind Redis, `host` or `host:port` each; none means no such tier. All nodes must name the same ones.
        memcached_hosts: Vec<String> = "memcached_hosts" Kind::MemcachedHosts, Fixed("");
        /// Time to live of an entry; without `cache.redis_url`, `cache.max_stale_ms` where that is shorter.
        ttl: Duration = "ttl_seconds" seconds(1, 604_800), Fixed("60");
        /// Longest time that entries are served while invalidations of other nodes may be missed. Without `cache.redis_url` none is ever heard: then no entry lives longer than this, whatever `cache.ttl_seconds` says. A read from a replica may be `db.replica_lag_max_ms` older.
        max_stale: Duration = "max_stale_ms" milliseconds(100, 600_000), Fixed("5000");
        /// File in which a process that is told to stop keeps the ids of the accounts and payments it reads most, and from which it
        /// reads them into memory again after its start, in the background; empty keeps none. Each process has its own.
        hot_keys_path: Option<PathBuf> = "hot_keys_path" Kind::KeptPath, Fixed("");
        /// Longest wait for an answer of a shared tier; with the wait for its turn twice that. Then the next one, or the database, is asked.
        command_timeout: Duration = "command_timeout_ms" milliseconds(1, 10_000), Fixed("50");
    }
}
