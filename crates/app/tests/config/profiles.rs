//! The two profiles: what development may do, and what production refuses to start without.

use paystrata_app::config::{LogFormat, Profile};

use crate::place::{DEVELOPMENT, FINGERPRINT, PRIMARY, Place, load, names, only, refusals};

#[test]
fn production_is_the_profile_of_whoever_says_nothing() {
    let config = load(&[PRIMARY, FINGERPRINT]).unwrap();
    assert_eq!(config.profile, Profile::Production);
    assert_eq!(config.profile.known_api_key(), None);
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert!(config.print_redacted().contains("# transaction_key is not set"));
}

#[test]
fn the_profile_decides_the_defaults_from_any_source() {
    let config = Place::with_file("profile = \"development\"\n").load(&[PRIMARY]).unwrap();
    assert_eq!(config.profile, Profile::Development);
    let refusals = refusals(&[PRIMARY, ("PAYSTRATA__PROFILE", "staging")]);
    assert!(only(&refusals).starts_with("profile: \"staging\" is refused"), "{refusals:?}");
}

#[test]
fn production_refuses_to_start_without_secrets() {
    let card =
        ("PAYSTRATA__GATEWAYS__AUTHORIZE_NET__ENDPOINT", "https://api.authorize.net/xml/v1/request.api");
    let transfer = ("PAYSTRATA__GATEWAYS__VELOCITY_PAY__ENDPOINT", "https://velocity.example");
    let refusals = refusals(&[PRIMARY, card, transfer]);
    assert_eq!(
        names(&refusals),
        [
            "gateways.authorize_net.login",
            "gateways.authorize_net.transaction_key",
            "gateways.velocity_pay.api_key",
            "security.fingerprint_key",
        ]
    );
    assert!(refusals.iter().all(|refusal| refusal.contains(": missing ")), "{refusals:?}");
    let development = load(&[DEVELOPMENT, PRIMARY, card, transfer]).unwrap();
    assert!(development.gateways.authorize_net.is_some() && development.gateways.velocity_pay.is_some());
}

#[test]
fn production_refuses_what_only_development_may_do() {
    let known = load(&[DEVELOPMENT, PRIMARY]).unwrap().security.fingerprint_key;
    let check = |environment: &[(&str, &str)], name: &str| {
        let environment: Vec<_> = [PRIMARY].iter().chain(environment).copied().collect();
        let refusals = refusals(&environment);
        assert!(
            only(&refusals).starts_with(&format!("{name}: refused in the production profile")),
            "{refusals:?}"
        );
    };
    check(&[("PAYSTRATA__SECURITY__FINGERPRINT_KEY", known.expose())], "security.fingerprint_key");
    check(&[FINGERPRINT, ("PAYSTRATA__IDEMPOTENCY__RETENTION_DAYS", "29")], "idempotency.retention_days");
    load(&[DEVELOPMENT, PRIMARY, ("PAYSTRATA__IDEMPOTENCY__RETENTION_DAYS", "1")]).unwrap();
}
