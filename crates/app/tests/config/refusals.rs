//! What is refused: unknown names, bad values, settings that contradict each other; all of them at once.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use paystrata_app::config::{Config, LoadOptions};
use paystrata_gateway::{AuthorizeNet, AuthorizeNetConfig, NoObserver, VelocityPay, VelocityPayConfig};

use crate::place::{DEVELOPMENT, PRIMARY, Place, load, only, refusals};

#[test]
fn unknown_names_are_refused_in_the_file() {
    let place = Place::with_file(
        "colour = 1\n\"http.listen\" = \"x\"\n[http]\nlistne = \"127.0.0.1:1\"\n[wether]\nsun = true\n",
    );
    assert_eq!(
        place.refusals(&[DEVELOPMENT, PRIMARY]),
        [
            "colour: no such setting (file DIR/paystrata.toml)",
            "http.listne: no such setting (file DIR/paystrata.toml): did you mean http.listen?",
            "\"http.listen\": no such setting (file DIR/paystrata.toml): did you mean http.listen?",
            "wether: no such setting (file DIR/paystrata.toml)",
        ]
    );
}

#[test]
fn unknown_names_are_refused_in_the_environment() {
    let odd = [
        ("PAYSTRATA__HTTP__LISTNE", "x"),
        ("PAYSTRATA__http__listen", "127.0.0.1:1"),
        ("PAYSTRATA__", "x"),
        ("PAYSTRATA__HTTP__LISTEN_FILE", "/etc/hostname"),
        ("PAYSTRATA_XTASK", "another prefix is left alone"),
        ("LISTEN", "left alone"),
    ];
    let environment: Vec<_> = [DEVELOPMENT, PRIMARY].into_iter().chain(odd).collect();
    let meant = "did you mean PAYSTRATA__HTTP__LISTEN?";
    let refusal =
        |name: &str, variable: &str| format!("{name}: no such setting (environment variable {variable})");
    assert_eq!(
        refusals(&environment),
        [
            refusal("PAYSTRATA__", "PAYSTRATA__"),
            format!("{}: {meant}", refusal("http.listen_file", "PAYSTRATA__HTTP__LISTEN_FILE")),
            format!("{}: {meant}", refusal("http.listne", "PAYSTRATA__HTTP__LISTNE")),
            format!("{}: {meant}", refusal("http.listen", "PAYSTRATA__http__listen")),
        ]
    );
}

#[test]
fn bad_values_are_refused_with_what_is_expected() {
    let check = |name: &str, value: &str, expected: &str| {
        let variable = format!("PAYSTRATA__{}", name.replace('.', "__").to_ascii_uppercase());
        let refusals = refusals(&[DEVELOPMENT, PRIMARY, (&variable, value)]);
        let place = format!("(environment variable {variable})");
        assert_eq!(only(&refusals), format!("{name}: {value:?} is refused {place}: expected {expected}"));
    };
    check("db.pool_size_max", "many", "an integer from 1 to 1000");
    check("http.request_timeout_ms", "1.5", "an integer from 1 to 600000 (milliseconds)");
    check("cache.enabled", "yes", "true or false");
    check("http.listen", "localhost:8080", "an IP address and port such as 127.0.0.1:8080");
    check("telemetry.log_format", "xml", "\"json\" or \"text\"");
    check("telemetry.log_filter", "a=b=c", "log directives such as info,paystrata_app=debug");
}

#[test]
fn numbers_past_their_bounds_are_refused() {
    let zero = refusals(&[DEVELOPMENT, PRIMARY, ("PAYSTRATA__ENGINE__LANES", "0")]);
    let place = "(environment variable PAYSTRATA__ENGINE__LANES)";
    assert_eq!(only(&zero), format!("engine.lanes: 0 is refused {place}: expected an integer from 1 to 64"));
    let retention = refusals(&[DEVELOPMENT, PRIMARY, ("PAYSTRATA__IDEMPOTENCY__RETENTION_DAYS", "0")]);
    assert!(only(&retention).contains("expected an integer from 1 to 3650 (days)"), "{retention:?}");
}

#[test]
fn blocklist_entries_are_checked() {
    for entry in [
        "bin:41111",
        "bin:411111111",
        "bin:4111x1",
        "account:pay_1",
        "account:acc_mallory",
        "account:acc_0193000000007000800000000000000A",
        "account:acc_01930000-0000-7000-8000-00000000000a",
        "account:acc_0193000000007000800000000000000a0",
        "pay_0193000000007000800000000000000a",
        "customer:x",
        "bin:4111111",
        "mallory",
        "ip:1",
        "",
    ] {
        let place = Place::with_file(&format!("[fraud]\nblocklist = [{entry:?}]\n"));
        let refusals = place.refusals(&[DEVELOPMENT, PRIMARY]);
        assert!(only(&refusals).starts_with("fraud.blocklist: "), "{refusals:?}");
    }
}

#[test]
fn the_file_is_not_coerced() {
    let place = Place::with_file(
        "cache = 5\n[db]\npool_size_max = \"16\"\nreplica_urls = \"postgres://a/b\"\n[engine]\nlanes = 2.0\n\
         [fraud]\nblocklist = [1]\nenabled = 1\n[targets]\np50_ms = { value = 1 }\n",
    );
    let refusals = place.refusals(&[DEVELOPMENT, PRIMARY]);
    let starts = [
        "cache: the value is refused (file DIR/paystrata.toml): expected a section [cache]",
        "db.pool_size_max: \"16\" is refused (file DIR/paystrata.toml): expected an integer from 1 to 1000",
        "db.replica_urls: the value is refused",
        "engine.lanes: a number with a fraction is refused",
        "fraud.blocklist: a list with entries that are not text is refused",
        "fraud.enabled: 1 is refused (file DIR/paystrata.toml): expected true or false",
        "targets.p50_ms: a table is refused",
    ];
    assert_eq!(refusals.len(), starts.len(), "{refusals:#?}");
    for start in starts {
        assert!(refusals.iter().any(|refusal| refusal.starts_with(start)), "{start} in {refusals:#?}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let place = Place::with_file("[engine]\nlanes = 0\nlanse = 1\n[db]\npool_size_min = 40\n");
    let environment = [("PAYSTRATA__HTTP__LISTEN", "nowhere"), ("PAYSTRATA__DB__POOL", "1")];
    let text = place.load(&environment).expect_err("many mistakes").to_string();
    assert!(text.starts_with("7 problems in the configuration\n"), "{text}");
    for part in [
        "engine.lanse: no such setting",
        "engine.lanes: 0 is refused",
        "http.listen: \"nowhere\" is refused",
        "db.pool: no such setting",
        "db.primary_url: missing: set it in the file or by PAYSTRATA__DB__PRIMARY_URL",
        "security.fingerprint_key: missing in the production profile",
        "db.pool_size_min = 40 (file ",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_bad_value_is_refused_even_when_it_is_overridden() {
    let place = Place::with_file("[engine]\nlanes = 0\n");
    let refusals = place.refusals(&[DEVELOPMENT, PRIMARY, ("PAYSTRATA__ENGINE__LANES", "2")]);
    assert!(only(&refusals).starts_with("engine.lanes: 0 is refused (file"), "{refusals:?}");
}

#[test]
fn settings_that_contradict_each_other_are_both_named() {
    let check = |environment: &[(&str, &str)], left: &str, right: &str| {
        let environment: Vec<_> = [DEVELOPMENT, PRIMARY].iter().chain(environment).copied().collect();
        let refusals = refusals(&environment);
        let refusal = only(&refusals);
        assert!(refusal.starts_with(left) && refusal.contains(right), "{refusal}");
    };
    check(
        &[("PAYSTRATA__DB__POOL_SIZE_MIN", "20")],
        "db.pool_size_min = 20 (environment variable PAYSTRATA__DB__POOL_SIZE_MIN) must not exceed",
        "db.pool_size_max = 16 (default)",
    );
    check(&[("PAYSTRATA__TARGETS__P95_MS", "200")], "targets.p95_ms = 200", "targets.p99_ms = 100 (default)");
    check(&[("PAYSTRATA__TARGETS__P50_MS", "90")], "targets.p50_ms = 90", "targets.p95_ms = 80 (default)");
    check(&[("PAYSTRATA__ENGINE__QUEUE_MAX", "10")], "engine.batch_max = 1000", "engine.queue_max = 10");
    check(
        &[("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__TIMEOUT_MS", "30001")],
        "gateways.authorize_net.timeout_ms = 30001",
        "http.request_timeout_ms = 30000",
    );
    check(
        &[("PAYSTRATA__RESOLVER__INTERVAL_MS", "30001")],
        "resolver.interval_ms = 30001",
        "resolver.not_found_after_ms = 30000",
    );
    check(
        &[("PAYSTRATA__HTTP__BODIES_BYTES_MAX", "67108863")],
        "http.batch_body_bytes_max = 67108864 (default) must not exceed",
        "http.bodies_bytes_max = 67108863",
    );
    check(
        &[("PAYSTRATA__HTTP__LISTEN", "0.0.0.0:9100")],
        "http.listen = \"0.0.0.0:9100\"",
        "must differ from http.operator_listen = \"127.0.0.1:9100\" (default)",
    );
}

/// What would be refused when the service is built is refused where it was written.
#[test]
fn a_gateway_is_told_nothing_in_clear_and_nothing_too_long() {
    const CARD: &str = "PAYSTRATA__GATEWAYS__AUTHORIZE_NET__";
    const TRANSFER: &str = "PAYSTRATA__GATEWAYS__VELOCITY_PAY__";
    let with = |prefix: &str, name: &str, value: &str| {
        let (variable, endpoint) = (format!("{prefix}{name}"), format!("{prefix}ENDPOINT"));
        let mut given = vec![DEVELOPMENT, PRIMARY, (&variable, value)];
        if variable != endpoint {
            given.push((&endpoint, "https://gateway.example"));
        }
        Place::empty().load(&given).map(|_| ()).map_err(|error| error.to_string())
    };
    let refused = |prefix: &str, name: &str, value: &str, expected: &str| {
        let told = with(prefix, name, value).unwrap_err();
        let setting = format!("{prefix}{name}").replace("PAYSTRATA__", "").replace("__", ".").to_lowercase();
        assert!(told.contains(&format!("\n  {setting}: the value is refused")), "{told}");
        assert!(told.contains(expected), "{told}");
    };
    for (name, characters_max) in [("LOGIN", 25), ("TRANSACTION_KEY", 16)] {
        let expected = format!("expected a secret of 1 to {characters_max} letters");
        assert_eq!(with(CARD, name, &"x".repeat(characters_max)), Ok(()));
        refused(CARD, name, &"x".repeat(characters_max + 1), &expected);
        refused(CARD, name, "two words", &expected);
        refused(CARD, name, "schl\u{fc}ssel", &expected);
    }
    refused(TRANSFER, "API_KEY", "two words", "expected a secret of 1 to 4096 letters");
    refused(TRANSFER, "API_KEY", "a\u{7f}", "expected a secret of 1 to 4096 letters");
    for prefix in [CARD, TRANSFER] {
        for clear in
            ["http://gateway.example", "http://simulator:9900/velocity", "http://10.0.0.1", "ftp://x"]
        {
            refused(prefix, "ENDPOINT", clear, "expected an https:// URL");
        }
        for safe in
            ["https://a", "http://127.0.0.1:9000/velocity", "http://[::1]:9000", "http://localhost", ""]
        {
            assert_eq!(with(prefix, "ENDPOINT", safe), Ok(()), "{safe}");
        }
    }
}

/// What passes is what the gateways can be built with.
#[test]
fn what_is_accepted_for_a_gateway_builds_it() {
    let (login, transaction_key, api_key) = ("L".repeat(25), "~".repeat(16), "!".repeat(4_096));
    let config = load(&[
        DEVELOPMENT,
        PRIMARY,
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", "http://[::1]:9000/xml/v1/request.api"),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__LOGIN", &login),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__TRANSACTION_KEY", &transaction_key),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", "http://localhost/velocity/"),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__API_KEY", &api_key),
    ]);
    let gateways = config.unwrap().gateways;
    let card = gateways.authorize_net.expect("it has an endpoint");
    let secret = |secret: &paystrata_app::config::Secret| paystrata_gateway::Secret::new(secret.expose());
    let card = AuthorizeNetConfig::new(card.endpoint, secret(&card.login), secret(&card.transaction_key));
    AuthorizeNet::new(card, Arc::new(NoObserver)).unwrap();
    let transfer = gateways.velocity_pay.expect("it has an endpoint");
    let transfer = VelocityPayConfig::new(transfer.endpoint, secret(&transfer.api_key));
    VelocityPay::new(transfer, Arc::new(NoObserver)).unwrap();
}

#[test]
fn both_listeners_may_take_free_ports() {
    let public = ("PAYSTRATA__HTTP__LISTEN", "127.0.0.1:0");
    let operator = ("PAYSTRATA__HTTP__OPERATOR_LISTEN", "127.0.0.1:0");
    load(&[DEVELOPMENT, PRIMARY, public, operator]).unwrap();
}

#[test]
fn memcached_servers_are_named_once_each_and_need_redis() {
    const HOSTS: &str = "PAYSTRATA__CACHE__MEMCACHED_HOSTS";
    const REDIS: (&str, &str) = ("PAYSTRATA__CACHE__REDIS_URL", "redis://127.0.0.1");
    let alone = refusals(&[DEVELOPMENT, PRIMARY, (HOSTS, "a:11211")]);
    assert!(only(&alone).contains("needs a value of cache.redis_url"), "{alone:?}");
    for wrong in ["a,a", "memcached://a", "a:port", "a b", "::1"] {
        let refused = refusals(&[DEVELOPMENT, PRIMARY, REDIS, (HOSTS, wrong)]);
        assert!(only(&refused).contains("expected a list of different servers"), "{refused:?}");
    }
    let config = load(&[DEVELOPMENT, PRIMARY, REDIS, (HOSTS, "a:11211, b,[::1]:5")]).unwrap();
    assert_eq!(config.cache.memcached_hosts, ["a:11211", "b", "[::1]:5"]);
    assert!(load(&[DEVELOPMENT, PRIMARY, (HOSTS, "")]).unwrap().cache.memcached_hosts.is_empty());
}

#[test]
fn a_value_that_is_no_text_is_refused_and_others_are_left_alone() {
    let odd = || OsString::from_vec(vec![0xff]);
    let load = |name: OsString| {
        let ours = [DEVELOPMENT, PRIMARY].map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let environment = ours.into_iter().chain([(name, odd())]);
        Config::load(LoadOptions { file: None, directory: Place::empty().path("nowhere"), environment })
    };
    load(odd()).unwrap();
    let error = load("PAYSTRATA__TELEMETRY__LOG_FILTER".into()).unwrap_err();
    assert!(error.to_string().contains("expected UTF-8 text"), "{error}");
}
