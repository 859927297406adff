//! What the operator's metrics say of the caches.

use std::fmt::Debug;
use std::str::FromStr;

use paystrata_app::engine::EngineObserver as _;
use reqwest::StatusCode;

use crate::scene::{pay, sql, transfer};
use crate::stage::Stage;

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
    ] {
        assert!(value::<f64>(&text, name, &[accounts]).is_some(), "{name} in {text}");
    }
    // Read again, nothing is counted twice.
    let again = metrics(&stage).await;
    let hits_again = value(&again, "cache_reads_total", &[accounts, "outcome=\"hit\""]);
    assert_eq!(hits_again, Some(hits));
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
