//! Second stage, value by value: is what was written of the right kind and inside its bounds?
//!
//! Refuses to coerce: text is no number, a fraction is no integer. Knows one setting at a time; what must hold
//! between two stands in `rules`.

use std::path::Path;

use paystrata_cache::memcached::{MemcachedOptions, MemcachedTier};
use paystrata_cache::{RedisOptions, RedisServers, RedisTier};
use paystrata_gateway::check_endpoint;
use tracing_subscriber::EnvFilter;

use super::bounded_read::read_text;
use super::raw::Literal;
use super::secret::{Secret, SecretUrl};
use super::setting::{Emptiness, Kind, REDACTED};
use super::value::{BlocklistEntry, Value};

/// A blocklist is looked through for each payment: past this it belongs into a table of its own.
pub(crate) const BLOCKLIST_ENTRIES_MAX: usize = 10_000;

/// Every node keeps a pool and a monitor: more replicas than this are a mistake.
pub(crate) const REPLICAS_MAX: usize = 32;

/// What was written is longer than an error should repeat.
const FOUND_CHARS_MAX: usize = 80;

/// What a good value would have been.
pub(crate) struct Refusal {
    pub(crate) expected: String,
}

/// The checked value, or what was expected instead.
pub(crate) fn check(kind: Kind, literal: &Literal) -> Result<Value, Refusal> {
    let checked = match (kind, literal) {
        (Kind::Flag, Literal::Flag(flag)) => Some(Value::Flag(*flag)),
        (Kind::Integer { min, max, .. }, Literal::Integer(number)) => {
            (min..=max).contains(number).then_some(Value::Integer(*number))
        }
        (Kind::Span { min, max, unit }, Literal::Integer(number)) => match u64::try_from(*number) {
            Ok(count) if (min..=max).contains(number) => Some(Value::Span(unit.span(count))),
            _ => None,
        },
        (Kind::Blocklist, Literal::List(entries)) => return check_blocklist(kind, entries),
        (Kind::DatabaseUrls, Literal::List(entries)) => check_replicas(entries),
        (Kind::MemcachedHosts, Literal::List(entries)) => check_hosts(entries),
        (_, Literal::Text(text)) => check_text(kind, text),
        _ => None,
    };
    checked.ok_or_else(|| Refusal { expected: expected(kind, literal) })
}

/// What a good value would have been, for this bad one.
fn expected(kind: Kind, literal: &Literal) -> String {
    let fault = match (kind, literal) {
        (Kind::DatabaseUrl(_), Literal::Text(text)) => SecretUrl::tls_fault(text).as_deref().map(without),
        (Kind::DatabaseUrls, Literal::List(entries)) => {
            entries.iter().zip(1..).find_map(|(entry, place): (&String, usize)| {
                SecretUrl::tls_fault(entry).map(|fault| format!("entry {place} to be {}", without(&fault)))
            })
        }
        _ => None,
    };
    fault.unwrap_or_else(|| kind.expected())
}

fn without(fault: &str) -> String {
    format!("a PostgreSQL URL without this fault: {fault}")
}

fn check_text(kind: Kind, text: &str) -> Option<Value> {
    if kind.is_secret() && text.contains(REDACTED) {
        // Copied out of a redacted print: it would connect with the wrong password, or sign with a known key.
        return None;
    }
    match kind {
        Kind::Choice(names) => names.contains(&text).then(|| Value::Text(text.to_owned())),
        Kind::Address => text.parse().ok().map(Value::Address),
        Kind::LogFilter => EnvFilter::try_new(text).ok().map(|_| Value::Text(text.to_owned())),
        Kind::Endpoint => (text.is_empty() || is_endpoint(text)).then(|| Value::Text(text.to_owned())),
        Kind::GatewayEndpoint => {
            let fits = text.is_empty() || (is_endpoint(text) && check_endpoint(text).is_ok());
            fits.then(|| Value::Text(text.to_owned()))
        }
        Kind::DatabaseUrl(Emptiness::MeansNone) | Kind::RedisUrl if text.is_empty() => Some(Value::Url(None)),
        Kind::DatabaseUrl(_) => SecretUrl::parse_database(text).map(|url| Value::Url(Some(url))),
        Kind::RedisUrl => SecretUrl::parse_redis(text).map(|url| Value::Url(Some(url))),
        Kind::AuthoritiesPath => {
            (text.is_empty() || holds_authorities(text)).then(|| Value::Text(text.to_owned()))
        }
        Kind::KeptPath => (text.is_empty() || may_be_file(text)).then(|| Value::Text(text.to_owned())),
        Kind::Credential { characters_max } => {
            let fits = (1..=characters_max).contains(&text.len());
            let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
            (fits && printable).then(|| Value::Secret(Secret::new(text)))
        }
        Kind::Secret { bytes_min } => (text.len() >= bytes_min).then(|| Value::Secret(Secret::new(text))),
        _ => None,
    }
}

/// Endpoints are printed and logged, so a place where a secret could stand is refused.
fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<http::Uri>() else { return false };
    let Some(authority) = uri.authority() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && !authority.host().is_empty()
        && !authority.as_str().contains('@')
        && !text.contains(['?', '#'])
}

/// Whether the file is there and holds what the cache takes for authorities.
fn holds_authorities(path: &str) -> bool {
    let Ok(pem) = read_text(Path::new(path)) else { return false };
    let servers = RedisServers::Tls {
        servers: Box::new(RedisServers::Single { url: "rediss://localhost".to_owned() }),
        root_certificates: Some(pem.into_bytes()),
        client_certificate: None,
        client_key: None,
    };
    RedisTier::open(&servers, RedisOptions::default()).is_ok()
}

/// Whether a file can be there: its folder is, and no folder has its name.
fn may_be_file(path: &str) -> bool {
    let path = Path::new(path);
    let Some(folder) = path.parent() else { return false };
    let has_folder = folder.as_os_str().is_empty() || folder.is_dir();
    has_folder && path.file_name().is_some() && !path.is_dir()
}

fn check_replicas(entries: &[String]) -> Option<Value> {
    let repeated = entries.iter().enumerate().any(|(index, entry)| entries[..index].contains(entry));
    let redacted = entries.iter().any(|entry| entry.contains(REDACTED));
    if entries.len() > REPLICAS_MAX || repeated || redacted {
        return None;
    }
    entries.iter().map(|entry| SecretUrl::parse_database(entry)).collect::<Option<Vec<_>>>().map(Value::Urls)
}

fn check_hosts(entries: &[String]) -> Option<Value> {
    let repeated = entries.iter().enumerate().any(|(index, entry)| entries[..index].contains(entry));
    let is_host = |entry: &String| {
        !entry.contains(',') && MemcachedTier::connect(entry, MemcachedOptions::default()).is_ok()
    };
    (!repeated && entries.iter().all(is_host)).then(|| Value::Hosts(entries.to_vec()))
}

fn check_blocklist(kind: Kind, entries: &[String]) -> Result<Value, Refusal> {
    if entries.len() > BLOCKLIST_ENTRIES_MAX {
        return Err(Refusal { expected: format!("at most {BLOCKLIST_ENTRIES_MAX} entries") });
    }
    let parsed: Option<Vec<_>> = entries.iter().map(|entry| BlocklistEntry::parse(entry)).collect();
    parsed.map(Value::Blocklist).ok_or_else(|| Refusal { expected: kind.expected() })
}

/// What was written, for an error: short, and hidden where it may be secret.
pub(crate) fn found(kind: Kind, literal: &Literal) -> String {
    match literal {
        Literal::Other(shape) => (*shape).to_owned(),
        Literal::Flag(flag) => flag.to_string(),
        Literal::Integer(_) | Literal::Text(_) | Literal::List(_) if !kind.may_be_shown() => {
            "the value".into()
        }
        Literal::Integer(number) => number.to_string(),
        Literal::Text(text) => shorten(&format!("{text:?}")),
        Literal::List(entries) => shorten(&format!("{entries:?}")),
        Literal::Lost => "the value".into(),
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(FOUND_CHARS_MAX) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}
