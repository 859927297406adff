//! What the operator's metrics say of the caches.

use std::fmt::Debug;
use std::str::FromStr;

use reqwest::StatusCode;

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
