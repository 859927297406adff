//! The reference page: the one in the repository is the one the code gives.

use std::fs;
use std::path::Path;

use paystrata_app::config::reference_page;

/// Set to write the page instead of comparing it.
const REGENERATE: &str = "PAYSTRATA_WRITE_REFERENCE";

#[test]
fn the_reference_page_is_the_one_the_code_gives() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var_os(REGENERATE).is_some() {
        fs::write(&path, reference_page()).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap();
    assert!(page == reference_page(), "docs/configuration.md has drifted: run this test with {REGENERATE}=1");
}

#[test]
fn the_reference_page_has_every_foreign_name() {
    let page = reference_page();
    for name in [
        "CACHE_MEMORY_SIZE_MB",
        "CACHE_REDIS_URL",
        "CACHE_MEMCACHED_HOSTS",
        "CACHE_TTL_SECONDS",
        "DB_POOL_MIN_SIZE",
        "DB_POOL_MAX_SIZE",
        "DB_POOL_TIMEOUT",
        "DB_USE_PGBOUNCER",
        "PGBOUNCER_HOST",
        "PGBOUNCER_PORT",
        "RESPONSE_COMPRESSION_ENABLED",
        "RESPONSE_COMPRESSION_THRESHOLD",
        "RESPONSE_STREAMING_THRESHOLD",
        "RESPONSE_ETAG_ENABLED",
        "TARGET_P50_MS",
        "TARGET_P95_MS",
        "TARGET_P99_MS",
    ] {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}
