//! The composition in `deploy`: the settings that it hands to the service are ones that the service starts with, and what
//! they name is where they say it is.

use std::fs;
use std::path::Path;

use crate::place::load;

/// The text of `deploy/compose.yaml`.
fn composition() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/compose.yaml");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `${NAME:-word}` as compose reads it when the variable is not set.
fn with_defaults(value: &str) -> String {
    let Some((before, rest)) = value.split_once("${") else { return value.to_owned() };
    let (variable, after) = rest.split_once('}').expect("a variable ends");
    let (_, word) = variable.split_once(":-").expect("each variable has a default");
    format!("{before}{word}{}", with_defaults(after))
}

/// The lines of one service, by its name.
fn service<'text>(text: &'text str, name: &str) -> Vec<&'text str> {
    let is_head =
        |line: &&str| line.strip_prefix("  ").is_some_and(|line| line.starts_with(char::is_alphabetic));
    let lines = text.lines().skip_while(|line| *line != format!("  {name}:")).skip(1);
    lines.take_while(|line| !is_head(line)).collect()
}

#[test]
fn the_service_starts_with_the_settings_of_the_composition() {
    let text = composition();
    let settings: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| name.starts_with("PAYSTRATA__"))
        .map(|(name, value)| (name.to_owned(), with_defaults(value)))
        .collect();
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert!(settings.len() >= 6, "{settings:?}");
    let config = load(&settings).unwrap();
    let endpoints = [
        config.gateways.authorize_net.expect("both rails are on").endpoint,
        config.gateways.velocity_pay.expect("both rails are on").endpoint,
    ];
    assert!(endpoints.iter().all(|endpoint| endpoint.starts_with("http://127.0.0.1:9900/")), "{endpoints:?}");
}

/// The loopback that the endpoints name is shared: a network of its own would lead the service to itself.
#[test]
fn service_and_simulator_have_one_loopback() {
    let text = composition();
    let (paystrata, simulator) = (service(&text, "paystrata"), service(&text, "simulator"));
    assert!(paystrata.contains(&"    network_mode: \"service:simulator\""), "{paystrata:#?}");
    assert!(!paystrata.contains(&"    ports:"), "who joins a network cannot publish: {paystrata:#?}");
    for port in ["8080", "9100", "9900"] {
        let published = format!("      - \"127.0.0.1:{port}:{port}\"");
        assert!(simulator.contains(&published.as_str()), "{port}: {simulator:#?}");
    }
}

/// What the cache keeps in Redis besides values says what must not be believed any more. All of it ends by itself, so a
/// Redis that is full refuses for a while, which costs speed; one that evicts would forget.
#[test]
fn redis_of_the_composition_is_bounded_and_evicts_nothing() {
    let text = composition();
    let redis = service(&text, "redis");
    let command = redis.iter().find(|line| line.trim_start().starts_with("command:")).expect("it has one");
    for setting in ["\"--maxmemory\", \"256mb\"", "\"--maxmemory-policy\", \"noeviction\""] {
        assert!(command.contains(setting), "{setting}: {command}");
    }
}
