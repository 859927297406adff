//! What is read most comes back after a restart of the service, and a file that cannot be used is no obstacle to it.

use std::path::Path;
use std::time::Duration;

use paystrata_cache::Stats;
use reqwest::StatusCode;
use tokio::time::{sleep, timeout};

use crate::scene::{pay, transfer};
use crate::stage::Stage;

/// Long enough for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A service that keeps its hot keys there and shares no cache, so that what it has in memory it has loaded; on the database of
/// this URL, if one is given.
async fn keeping(path: &Path, primary_url: Option<&str>) -> Stage {
    let path = path.display().to_string();
    let mut settings = vec![
        ("PAYSTRATA__CACHE__HOT_KEYS_PATH", path.as_str()),
        ("PAYSTRATA__CACHE__REDIS_URL", ""),
        ("PAYSTRATA__CACHE__TTL_SECONDS", "600"),
        ("PAYSTRATA__CACHE__MAX_STALE_MS", "600000"),
        ("PAYSTRATA__DB__REPLICA_URLS", ""),
    ];
    settings.extend(primary_url.map(|url| ("PAYSTRATA__DB__PRIMARY_URL", url)));
    Stage::start_with(&settings).await
}

/// Figures of the caches of accounts and of payments.
fn stats(stage: &Stage) -> [Stats; 2] {
    stage.service.app.documents.stats().map(|(_, stats)| stats)
}

#[tokio::test]
async fn what_was_read_most_is_in_memory_after_a_restart_before_anybody_asks() {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = folder.path().join("hot-keys");
    let stage = keeping(&path, None).await;
    let (from, to) = (stage.account("USD", 10_000).await, stage.account("USD", 0).await);
    let paid = pay(&stage, &transfer(&from, &to, 1)).await;
    let paths =
        [format!("/v1/accounts/{to}"), format!("/v1/payments/{}", paid["id"].as_str().expect("an id"))];
    // One hit in 256 is looked at.
    for _ in 0..600 {
        for path in &paths {
            assert_eq!(stage.get(path, &[]).await.status, StatusCode::OK);
        }
    }
    let primary_url = stage.primary_url.clone();
    stage.service.stop().await;
    assert!(path.exists(), "it is written when the service stops");

    let stage = keeping(&path, Some(&primary_url)).await;
    let refilled = async {
        while stats(&stage).iter().any(|stats| stats.entries == 0) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, refilled).await.expect("what was read most is read again");
    let before = stats(&stage);
    for path in &paths {
        assert_eq!(stage.get(path, &[]).await.status, StatusCode::OK);
    }
    for (now, before) in stats(&stage).iter().zip(&before) {
        assert_eq!((now.hits, now.misses), (before.hits + 1, before.misses), "it comes from memory");
    }
    stage.service.stop().await;
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_and_a_folder_that_is_gone_keep_nobody_from_starting_and_stopping() {
    let folder = tempfile::tempdir().expect("make a folder");
    let path = folder.path().join("hot-keys");
    std::fs::write(&path, "something else").expect("write a file");
    let stage = keeping(&path, None).await;
    let account = stage.account("USD", 0).await;
    for _ in 0..600 {
        assert_eq!(stage.get(&format!("/v1/accounts/{account}"), &[]).await.status, StatusCode::OK);
    }
    folder.close().expect("remove the folder");
    stage.service.stop().await;
    assert!(!path.exists());
}
