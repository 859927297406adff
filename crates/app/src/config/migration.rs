//! Names that other payment services use for their environment, and what to write here instead.
//!
//! Refuses to read them: a name with another unit that is half understood is worse than one that is not. Used by
//! the reference page only.

/// One foreign name.
pub(crate) struct Foreign {
    /// The environment variable there.
    pub(crate) name: &'static str,
    /// The setting here.
    pub(crate) ours: &'static str,
    /// How the value is carried over.
    pub(crate) conversion: &'static str,
}

const fn foreign(name: &'static str, ours: &'static str, conversion: &'static str) -> Foreign {
    Foreign { name, ours, conversion }
}

const SAME: &str = "the same value";

/// All names, in the order in which such an environment usually lists them.
pub(crate) const FOREIGN: &[Foreign] = &[
    foreign(
        "CACHE_MEMORY_SIZE_MB",
        "cache.memory_bytes_max",
        "megabytes to bytes: × 1048576, so 64 becomes 67108864",
    ),
    foreign("CACHE_REDIS_URL", "cache.redis_url", SAME),
    foreign(
        "CACHE_MEMCACHED_HOSTS",
        "cache.memcached_hosts",
        "the same list, separated by commas; it needs cache.redis_url",
    ),
    foreign("CACHE_TTL_SECONDS", "cache.ttl_seconds", SAME),
    foreign("DB_POOL_MIN_SIZE", "db.pool_size_min", SAME),
    foreign("DB_POOL_MAX_SIZE", "db.pool_size_max", SAME),
    foreign(
        "DB_POOL_TIMEOUT",
        "db.acquire_timeout_ms",
        "seconds to milliseconds: × 1000, so 30 becomes 30000",
    ),
    foreign(
        "DB_USE_PGBOUNCER",
        "db.pooler_url",
        "`true`: write the URL of PgBouncer (the next two rows); `false`: leave it out",
    ),
    foreign("PGBOUNCER_HOST", "db.pooler_url", "the host: `postgres://user:password@HOST:port/database`"),
    foreign("PGBOUNCER_PORT", "db.pooler_url", "the port: `postgres://user:password@host:PORT/database`"),
    foreign(
        "RESPONSE_COMPRESSION_ENABLED",
        "http.compression_enabled",
        "`true` or `false`, in small letters",
    ),
    foreign("RESPONSE_COMPRESSION_THRESHOLD", "http.compression_threshold_bytes", "bytes: the same value"),
    foreign("RESPONSE_STREAMING_THRESHOLD", "http.streaming_threshold_bytes", "bytes: the same value"),
    foreign("RESPONSE_ETAG_ENABLED", "http.etag_enabled", "`true` or `false`, in small letters"),
    foreign("TARGET_P50_MS", "targets.p50_ms", SAME),
    foreign("TARGET_P95_MS", "targets.p95_ms", SAME),
    foreign("TARGET_P99_MS", "targets.p99_ms", SAME),
];
