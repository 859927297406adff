//! Where values come from: defaults, file, environment, and which of them wins.

use std::time::Duration;

use paystrata_app::config::{BlocklistEntry, LogFormat, Problem, Profile};
use paystrata_app::ids::AccountId;

use crate::place::{DEVELOPMENT, PRIMARY, Place, load};

#[test]
fn defaults_suffice_in_development_but_for_the_primary() {
    let config = load(&[DEVELOPMENT, PRIMARY]).unwrap();
    assert_eq!(config.profile, Profile::Development);
    assert_eq!(config.profile.known_api_key(), Some("sk_dev_paystrata"));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.http.request_timeout, Duration::from_secs(30));
    assert_eq!(config.db.pool_size_max.get(), 16);
    assert_eq!(config.idempotency.retention, Duration::from_secs(30 * 86_400));
    assert_eq!(config.fraud.amount_max, 100_000_000_000);
    assert_eq!(config.fraud.velocity_count_max.get(), 1_200, "a minute");
    assert_eq!(config.fraud.velocity_window, Duration::from_secs(60));
    assert_eq!(config.telemetry.log_format, LogFormat::Text);
    assert_eq!(config.telemetry.otlp_endpoint, None);
    assert!(config.db.replica_urls.is_empty() && config.db.pooler_url.is_none());
    assert!(config.gateways.authorize_net.is_none() && config.gateways.velocity_pay.is_none());
}

#[test]
fn environment_wins_over_file_and_file_over_default() {
    let place =
        Place::with_file("[db]\npool_size_max = 20\npool_size_min = 3\n[http]\netag_enabled = false\n");
    let config = place.load(&[DEVELOPMENT, PRIMARY, ("PAYSTRATA__DB__POOL_SIZE_MAX", "30")]).unwrap();
    assert_eq!(config.db.pool_size_max.get(), 30);
    assert_eq!(config.db.pool_size_min, 3);
    assert!(!config.http.etag_enabled);
    assert_eq!(config.db.acquire_timeout, Duration::from_secs(2));
}

#[test]
fn named_file_replaces_the_usual_one_and_must_exist() {
    let place = Place::with_file("[engine]\nlanes = 7\n");
    let named = place.write("other.toml", "[engine]\nlanes = 5\n");
    let environment = [DEVELOPMENT, PRIMARY];
    assert_eq!(place.load(&environment).unwrap().engine.lanes.get(), 7);
    assert_eq!(place.load_file(Some(&named), &environment).unwrap().engine.lanes.get(), 5);
    let error = place.load_file(Some(&place.path("missing.toml")), &environment).unwrap_err();
    assert!(matches!(error.problems(), [Problem::Unreadable { .. }]), "{error}");
    assert!(error.to_string().contains("missing.toml: cannot be read"), "{error}");
}

#[test]
fn usual_file_that_is_there_but_cannot_be_read_is_refused() {
    let place = Place::empty();
    std::fs::create_dir(place.path(paystrata_app::config::FILE_NAME)).unwrap();
    let error = place.load(&[DEVELOPMENT, PRIMARY]).unwrap_err();
    assert!(matches!(error.problems(), [Problem::Unreadable { .. }]), "{error}");
}

#[test]
fn lists_come_from_both_sources() {
    let mallory = AccountId::new();
    let expected = [BlocklistEntry::Bin("411111".into()), BlocklistEntry::Account(mallory)];
    let place = Place::with_file(&format!("[fraud]\nblocklist = [\"bin:411111\", \"account:{mallory}\"]\n"));
    assert_eq!(place.load(&[DEVELOPMENT, PRIMARY]).unwrap().fraud.blocklist, expected);
    let listed = format!("bin:411111, account:{mallory}");
    let listed = ("PAYSTRATA__FRAUD__BLOCKLIST", listed.as_str());
    assert_eq!(load(&[DEVELOPMENT, PRIMARY, listed]).unwrap().fraud.blocklist, expected);
    let replicas = ("PAYSTRATA__DB__REPLICA_URLS", "postgres://a/pay,postgres://b/pay");
    assert_eq!(load(&[DEVELOPMENT, PRIMARY, replicas]).unwrap().db.replica_urls.len(), 2);
    let none = ("PAYSTRATA__FRAUD__BLOCKLIST", "");
    assert!(place.load(&[DEVELOPMENT, PRIMARY, none]).unwrap().fraud.blocklist.is_empty());
}

#[test]
fn a_print_without_its_secrets_reads_back_to_the_same() {
    let given = [
        DEVELOPMENT,
        PRIMARY,
        ("PAYSTRATA__FRAUD__BLOCKLIST", "account:acc_0193000000007000800000000000000a,bin:123456"),
        ("PAYSTRATA__CACHE__TTL_SECONDS", "61"),
        ("PAYSTRATA__IDEMPOTENCY__RETENTION_DAYS", "31"),
    ];
    let config = load(&given).unwrap();
    let printed = config.print_redacted();
    let ttl = "ttl_seconds = 61  # environment variable PAYSTRATA__CACHE__TTL_SECONDS";
    assert!(printed.contains(ttl), "{printed}");
    assert!(printed.contains("pool_size_max = 16  # default"), "{printed}");
    let open: Vec<&str> = printed.lines().filter(|line| !line.contains("***")).collect();
    let again = Place::with_file(&open.join("\n")).load(&[PRIMARY]).unwrap();
    let without_origins = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap_or(line).to_owned()).collect()
    };
    assert_eq!(without_origins(&again.print_redacted()), without_origins(&printed));
    assert_eq!(again.fraud.blocklist, config.fraud.blocklist);
    assert!(again.print_redacted().contains("ttl_seconds = 61  # file "));
}
