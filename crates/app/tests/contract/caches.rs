//! What the operator's metrics say of the caches.

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use paystrata_app::engine::EngineObserver as _;
use paystrata_app::observe::CacheObserver;
use paystrata_app::results::Results;
use paystrata_cache::Clock;
use paystrata_db::results::{QueryCache, ResultOptions};
use paystrata_db::{Statement, TransactionOptions, Type};
use reqwest::StatusCode;

use crate::scene::{pay, sql, transfer};
use crate::stage::Stage;

static ECHO: Statement = Statement::new("SELECT $1::int8", &[Type::INT8]);
static TOUCH: Statement = Statement::new("UPDATE merchants SET name = name", &[]);

async fn metrics(stage: &Stage) -> String {
    let metrics = format!("http://{}/metrics", stage.service.operator_address);
    crate::stage::client().get(metrics).send().await.expect("ask").text().await.expect("read")
}

/// The value of the series of this name whose labels contain all of these.
fn value<T: FromStr<Err: Debug>>(metrics: &str, name: &str, labels: &[&str]) -> Option<T> {
    let is_it = |line: &&str| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    };
    let line = metrics.lines().find(is_it)?;
    line.rsplit_once(' ').map(|(_, value)| value.parse().expect("a number"))
}

// T80
#[tokio::test]
async fn reads_loads_tiers_and_ages_of_the_caches_are_in_the_metrics() {
    let stage = Stage::start().await;
    let account = stage.account("USD", 10_000).await;
    let path = format!("/v1/accounts/{account}");
    // One hit in 256 is looked at for its age.
    for _ in 0..600 {
        assert_eq!(stage.get(&path, &[]).await.status, StatusCode::OK);
    }
    let accounts = "cache_name=\"accounts\"";
    // A service that has just begun does not trust the shared tier yet: until it does, reads go past it.
    let mut calls = 600;
    let asked = |text: &str| value::<u64>(text, "cache_tier_duration_seconds_count", &[accounts]);
    while asked(&metrics(&stage).await).is_none_or(|asked| asked == 0) {
        assert!(calls < 1_600, "the shared tier is never asked");
        let another = stage.account("USD", 10_000).await;
        assert_eq!(stage.get(&format!("/v1/accounts/{another}"), &[]).await.status, StatusCode::OK);
        calls += 1;
    }
    let text = metrics(&stage).await;
    let reads =
        |outcome: &str| value::<u64>(&text, "cache_reads_total", &[accounts, outcome]).expect("reads");
    let (hits, misses) = (reads("outcome=\"hit\""), reads("outcome=\"miss\""));
    assert_eq!(hits + misses + reads("outcome=\"absent\""), calls, "{text}");
    assert!(hits > 590 && misses >= 1, "{text}");
    for name in [
        "cache_load_duration_seconds_count",
        "cache_value_age_duration_seconds_count",
        "cache_tier_duration_seconds_count",
        "cache_entries",
        "cache_bytes",
        "cache_tier_up",
    ] {
        assert!(value::<u64>(&text, name, &[accounts]).is_some_and(|value| value >= 1), "{name} in {text}");
    }
    for name in [
        "cache_stale_total",
        "cache_refused_stale_sets_total",
        "cache_gaps_total",
        "cache_tier_reads_total",
        "cache_backplane_silence_seconds",
        "cache_load_unmodified_total",
        "cache_adoptions_total",
        "cache_extensions_total",
        "cache_kept_keys",
        "cache_pending_writes",
        "cache_pending_lost_total",
        "cache_writes_lost_total",
    ] {
        assert!(value::<f64>(&text, name, &[accounts]).is_some(), "{name} in {text}");
    }
    // Read again, nothing is counted twice.
    let again = metrics(&stage).await;
    let hits_again = value(&again, "cache_reads_total", &[accounts, "outcome=\"hit\""]);
    assert_eq!(hits_again, Some(hits));
}

/// None of the service's routes keeps results: who builds on it does.
#[tokio::test]
async fn caches_of_results_that_are_kept_beside_the_service_are_in_its_metrics() {
    let stage = Stage::start().await;
    let app = &stage.service.app;
    let observer = |cache: &str| CacheObserver::of(&app.monitor, cache);
    let results = Arc::new(Results::observed(&app.db, 1 << 20, Clock::system(), observer));
    app.cache_figures.follow(Arc::clone(&results)).expect("nobody came before");
    let others = Arc::new(Results::new(&app.db, 1 << 20, Clock::system()));
    assert!(app.cache_figures.follow(others).is_err(), "they have the same names");
    let cached = QueryCache::new(&app.db, results);
    let options = ResultOptions::living(Duration::from_secs(3_600));
    let echoes = cached.query(&ECHO, &["accounts"], options, |rows| {
        rows.first().map(|row| row.try_get::<_, i64>(0)).transpose()
    });
    let echoes = echoes.expect("a query");
    for _ in 0..3 {
        assert_eq!(*echoes.get(&[&7_i64]).await.expect("a read").value, Some(7));
    }
    // Of another table: what is kept is not void, and too old for who brings the token.
    let touched = cached.transaction(TransactionOptions::default(), &["merchants"], |tx| async move {
        tx.execute(&TOUCH, &[]).await
    });
    let token = touched.await.expect("a write").token;
    assert_eq!(*echoes.get_after(token, &[&7_i64]).await.expect("a read").value, Some(7));

    let text = metrics(&stage).await;
    let reads = |cache: &str, outcome: &str| value::<u64>(&text, "cache_reads_total", &[cache, outcome]);
    let (kept, after) = ("cache_name=\"results\"", "cache_name=\"results-after\"");
    let (hit, miss) = ("outcome=\"hit\"", "outcome=\"miss\"");
    assert_eq!((reads(kept, hit), reads(kept, miss)), (Some(3), Some(1)), "{text}");
    assert_eq!((reads(after, hit), reads(after, miss)), (Some(0), Some(1)), "{text}");
    assert_eq!(value::<u64>(&text, "cache_entries", &[kept]), Some(1), "{text}");
    for cache in [kept, after] {
        let loads = value::<u64>(&text, "cache_load_duration_seconds_count", &[cache]);
        assert!(loads.is_some_and(|loads| loads >= 1), "{cache} in {text}");
    }
}

/// A lane that panics between a commit and its answers takes with it what the commit changed.
#[tokio::test]
async fn when_nobody_knows_what_a_commit_changed_nothing_kept_is_shown() {
    let stage = Stage::start().await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 1_000).await);
    let paid = pay(&stage, &transfer(&from, &to, 1)).await;
    let paths =
        [format!("/v1/accounts/{to}"), format!("/v1/payments/{}", paid["id"].as_str().expect("an id"))];
    let etags = async || {
        let mut etags = Vec::new();
        for path in &paths {
            etags.push(stage.get(path, &[]).await.headers["etag"].clone());
        }
        etags
    };
    // As a commit does of which nobody is told.
    let untold = "SET synchronous_commit = on; UPDATE accounts SET held = held + 1 WHERE posted = 1001; \
                  UPDATE payments SET merchant_reference = gen_random_uuid()";
    let client = sql(&stage).await;
    let mut kept = Vec::new();
    // News of the payment may still be on its way: then nothing is kept yet.
    for _ in 0..500 {
        kept = etags().await;
        client.batch_execute(untold).await.expect("change rows");
        if etags().await == kept {
            break;
        }
    }
    assert_eq!(etags().await, kept, "they are kept");
    stage.service.app.documents.all_doubted();
    let now = etags().await;
    assert!(now.iter().zip(&kept).all(|(now, kept)| now != kept), "{now:?}");
}
