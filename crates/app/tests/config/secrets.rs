//! Secrets: read from files, and shown by no print and no refusal.

use crate::place::{DEVELOPMENT, FINGERPRINT, PRIMARY, Place, load, names, only, refusals};

#[test]
fn secrets_come_from_files_and_are_trimmed() {
    let place = Place::empty();
    let key = place.write("key", " 0123456789abcdef0123456789abcdef\n\n");
    let url = place.write("url", "postgres://pay:secret@db/pay\n");
    let config = place
        .load(&[
            ("PAYSTRATA__SECURITY__FINGERPRINT_KEY_FILE", key.to_str().unwrap()),
            ("PAYSTRATA__DB__PRIMARY_URL_FILE", url.to_str().unwrap()),
        ])
        .unwrap();
    assert_eq!(config.security.fingerprint_key.expose(), FINGERPRINT.1);
    assert_eq!(config.db.primary_url.expose(), "postgres://pay:secret@db/pay");
    let origin = "named by environment variable PAYSTRATA__DB__PRIMARY_URL_FILE";
    assert!(config.print_redacted().contains(origin), "{}", config.print_redacted());
}

#[test]
fn a_secret_file_that_gives_no_secret_is_refused_once() {
    let place = Place::empty();
    for (path, reason) in [
        (place.write("empty", "\n"), "empty"),
        (place.write("binary", [0xff, 0xfe]), "not UTF-8 text"),
        (place.write("large", vec![b'x'; 5 * 1024 * 1024]), "larger than"),
        (place.path("missing"), "No such file"),
    ] {
        let variable = ("PAYSTRATA__SECURITY__FINGERPRINT_KEY_FILE", path.to_str().unwrap());
        let refusals = place.refusals(&[PRIMARY, variable]);
        assert!(only(&refusals).contains(reason), "{reason}: {refusals:?}");
    }
}

#[test]
fn a_secret_given_twice_is_refused() {
    let place = Place::empty();
    let key = place.write("key", FINGERPRINT.1);
    let file = ("PAYSTRATA__SECURITY__FINGERPRINT_KEY_FILE", key.to_str().unwrap());
    let refusals = place.refusals(&[PRIMARY, FINGERPRINT, file]);
    assert!(only(&refusals).starts_with("security.fingerprint_key: set by "), "{refusals:?}");
    assert!(only(&refusals).contains("FINGERPRINT_KEY_FILE: keep one of them"), "{refusals:?}");
}

#[test]
fn a_short_fingerprint_key_is_refused_without_being_shown() {
    let refusals = refusals(&[PRIMARY, ("PAYSTRATA__SECURITY__FINGERPRINT_KEY", "hunter2")]);
    assert!(only(&refusals).contains("at least 32 bytes"), "{refusals:?}");
    assert!(!refusals[0].contains("hunter2"));
}

#[test]
fn secrets_are_in_no_print() {
    let config = load(&[
        ("PAYSTRATA__DB__PRIMARY_URL", "postgres://pay:Zq1@db/pay?password=Zq2"),
        ("PAYSTRATA__DB__REPLICA_URLS", "postgres://pay:Zq3@a/pay,postgres://pay:Zq4@b/pay"),
        ("PAYSTRATA__DB__POOLER_URL", "postgres://pay:Zq5@pooler:6432/pay"),
        ("PAYSTRATA__CACHE__REDIS_URL", "redis://:Zq6@redis:6379"),
        ("PAYSTRATA__SECURITY__FINGERPRINT_KEY", "Zq7-0123456789abcdef0123456789abcdef"),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", "https://authorize.example"),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__LOGIN", "Zq8"),
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__TRANSACTION_KEY", "Zq9"),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", "https://velocity.example"),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__API_KEY", "Zq0"),
    ])
    .unwrap();
    let prints = format!("{config:?}\n{config:#?}\n{}", config.print_redacted());
    assert!(!prints.contains("Zq"), "{prints}");
    for line in [
        "primary_url = \"postgres://pay:***@db/pay?password=***\"",
        "replica_urls = [\"postgres://pay:***@a/pay\", \"postgres://pay:***@b/pay\"]",
        "redis_url = \"redis://:***@redis:6379\"",
        "transaction_key = \"***\"",
    ] {
        assert!(prints.contains(line), "{line} in {prints}");
    }
    assert_eq!(config.gateways.authorize_net.unwrap().transaction_key.expose(), "Zq9");
}

#[test]
fn secrets_are_in_no_refusal() {
    // The second line lacks its closing quote, and the parser would quote it.
    let place = Place::with_file("[db]\nprimary_url = \"postgres://pay:Zq1@db/pay\nreplica_urls = []\n");
    let environment = [
        ("PAYSTRATA__DB__POOLER_URL", "mysql://pay:Zq2@db/pay"),
        ("PAYSTRATA__DB__REPLICA_URLS", "postgres://pay:Zq3@db/pay,Zq4"),
        ("PAYSTRATA__CACHE__REDIS_URL", "Zq5"),
        ("PAYSTRATA__SECURITY__FINGERPRINT_KEY", "Zq6"),
        ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", "https://user:Zq7@velocity.example"),
        ("PAYSTRATA__TELEMETRY__OTLP_ENDPOINT", "https://collector/?key=Zq8"),
    ];
    let error = place.load(&environment).unwrap_err();
    assert_eq!(error.problems().len(), 7, "{error}");
    let prints = format!("{error}\n{error:?}");
    assert!(!prints.contains("Zq"), "{prints}");
    assert!(prints.contains("paystrata.toml: is not TOML: line 2, column "), "{prints}");
}

#[test]
fn a_redacted_print_is_toml_but_refused_as_input() {
    let printed = load(&[DEVELOPMENT, PRIMARY]).unwrap().print_redacted();
    assert_eq!(
        names(&Place::with_file(&printed).refusals(&[])),
        [
            "db.primary_url",
            "gateways.authorize_net.login",
            "gateways.authorize_net.transaction_key",
            "gateways.velocity_pay.api_key",
            "security.fingerprint_key",
        ]
    );
}
