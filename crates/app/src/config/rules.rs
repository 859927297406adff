//! What must hold between settings, and what production refuses.
//!
//! Refuses to look at a setting whose own value was refused. Called once per load, after the defaults are filled.

use std::time::Duration;

use super::checked::Checked;
use super::error::{Place, Problem};
use super::print;
use super::sections::{self, AUTHORIZE_NET_ENDPOINT, Profile, VELOCITY_PAY_ENDPOINT};
use super::setting::{DefaultValue, Setting};
use super::value::Value;

/// One setting must not exceed another.
pub(crate) struct Order {
    pub(crate) low: &'static str,
    pub(crate) high: &'static str,
    pub(crate) reason: &'static str,
}

const fn order(low: &'static str, high: &'static str, reason: &'static str) -> Order {
    Order { low, high, reason }
}

/// All orders; the reference page lists them.
pub(crate) const ORDERS: &[Order] = &[
    order("db.pool_size_min", "db.pool_size_max", "a pool cannot keep more connections than it may open"),
    order("engine.batch_max", "engine.queue_max", "a batch is filled from the queue"),
    order("http.body_bytes_max", "http.batch_body_bytes_max", "a batch holds at least one payment"),
    order("http.batch_body_bytes_max", "http.bodies_bytes_max", "the largest batch could never be read"),
    order("db.acquire_timeout_ms", "http.request_timeout_ms", "the request would end before the wait does"),
    order("engine.queue_timeout_ms", "http.request_timeout_ms", "the request would end before the wait does"),
    order(
        "gateways.authorize_net.timeout_ms",
        "http.request_timeout_ms",
        "the request would end before the answer",
    ),
    order(
        "gateways.velocity_pay.timeout_ms",
        "http.request_timeout_ms",
        "the request would end before the answer",
    ),
    order(
        "resolver.interval_ms",
        "resolver.not_found_after_ms",
        "an outcome would be given up before it is asked for",
    ),
    order(
        "db.monitor_interval_ms",
        "db.replica_lag_max_ms",
        "the lag must be looked at within its own bound",
    ),
    order("targets.p50_ms", "targets.p95_ms", "percentiles rise"),
    order("targets.p95_ms", "targets.p99_ms", "percentiles rise"),
];

/// The listeners must differ; the reference page says it too.
pub(crate) const LISTENERS: (&str, &str) = ("http.listen", "http.operator_listen");

/// Secrets that a rail needs once its endpoint is set.
const RAIL_SECRETS: &[(&str, &str)] = &[
    (AUTHORIZE_NET_ENDPOINT, "gateways.authorize_net.login"),
    (AUTHORIZE_NET_ENDPOINT, "gateways.authorize_net.transaction_key"),
    (VELOCITY_PAY_ENDPOINT, "gateways.velocity_pay.api_key"),
];

/// The least retention of keys in production: callers are promised 30 days.
const RETENTION_PROMISED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Adds every broken rule to `problems`.
pub(crate) fn apply(values: &Checked, profile: Profile, problems: &mut Vec<Problem>) {
    problems.extend(sections::all().filter_map(|setting| missing(values, setting)));
    problems.extend(ORDERS.iter().filter_map(|order| out_of_order(values, order)));
    problems.extend(same_listener(values));
    problems.extend(untold_tier(values));
    problems.extend(unasked_authority(values));
    if profile == Profile::Production {
        problems.extend(sections::all().filter_map(|setting| known_secret(values, setting)));
        problems.extend(short_retention(values));
    }
}

fn missing(values: &Checked, setting: &Setting) -> Option<Problem> {
    if values.entry(setting.key).is_some() {
        return None;
    }
    let because = match RAIL_SECRETS.iter().find(|(_, secret)| *secret == setting.key) {
        Some((endpoint, _)) if values.text(endpoint).is_none_or(str::is_empty) => return None,
        Some(_) => " although its rail is enabled",
        None if matches!(setting.default, DefaultValue::Required) => "",
        None => " in the production profile",
    };
    Some(Problem::Missing {
        name: setting.key.to_owned(),
        because,
        variable: setting.variable(),
        expected: setting.kind.expected(),
    })
}

fn out_of_order(values: &Checked, order: &Order) -> Option<Problem> {
    let low = magnitude(values.value(order.low)?)?;
    let high = magnitude(values.value(order.high)?)?;
    (low > high).then(|| Problem::Conflict {
        left: described(values, order.low),
        relation: "must not exceed",
        right: described(values, order.high),
        reason: order.reason,
    })
}

/// Comparable between two integers or two spans; the table never orders one against the other.
fn magnitude(value: &Value) -> Option<i128> {
    match value {
        Value::Integer(number) => Some(i128::from(*number)),
        Value::Span(span) => i128::try_from(span.as_nanos()).ok(),
        _ => None,
    }
}

fn same_listener(values: &Checked) -> Option<Problem> {
    let (Value::Address(public), Value::Address(operator)) =
        (values.value(LISTENERS.0)?, values.value(LISTENERS.1)?)
    else {
        return None;
    };
    // Port 0 takes a free one each time. An unspecified address covers every other one of its port.
    let ports_meet = public.port() == operator.port() && public.port() != 0;
    let addresses_meet =
        public.ip() == operator.ip() || public.ip().is_unspecified() || operator.ip().is_unspecified();
    (ports_meet && addresses_meet).then(|| Problem::Conflict {
        left: described(values, LISTENERS.0),
        relation: "must differ from",
        right: described(values, LISTENERS.1),
        reason: "the operator listener would meet the public one, and must not be public itself",
    })
}

/// What one node changes the others hear through Redis; without it they would read old copies out of memcached.
fn untold_tier(values: &Checked) -> Option<Problem> {
    let (hosts, redis) = ("cache.memcached_hosts", "cache.redis_url");
    match (values.value(hosts)?, values.value(redis)?) {
        (Value::Hosts(named), Value::Url(None)) if !named.is_empty() => Some(Problem::Conflict {
            left: described(values, hosts),
            relation: "needs a value of",
            right: described(values, redis),
            reason: "nodes tell each other through Redis what is void",
        }),
        _ => None,
    }
}

/// Whoever names an authority believes that certificates are checked.
fn unasked_authority(values: &Checked) -> Option<Problem> {
    let (authority, redis) = ("cache.redis_ca_path", "cache.redis_url");
    let is_over_tls = match values.value(redis)? {
        Value::Url(Some(url)) => url.is_redis_over_tls(),
        _ => false,
    };
    match values.value(authority)? {
        Value::Text(path) if !path.is_empty() && !is_over_tls => Some(Problem::Conflict {
            left: described(values, authority),
            relation: "needs a rediss:// URL in",
            right: described(values, redis),
            reason: "without TLS there is no certificate to check",
        }),
        _ => None,
    }
}

/// A secret that stands in this program's source is none.
fn known_secret(values: &Checked, setting: &Setting) -> Option<Problem> {
    let DefaultValue::DevelopmentSecret(known) = setting.default else { return None };
    match values.value(setting.key)? {
        Value::Secret(secret) if secret.expose() == known => Some(refused_in_production(
            values,
            setting.key,
            "it is the development default, which everybody knows",
        )),
        _ => None,
    }
}

fn short_retention(values: &Checked) -> Option<Problem> {
    let key = "idempotency.retention_days";
    match values.value(key)? {
        Value::Span(retention) if *retention < RETENTION_PROMISED => {
            Some(refused_in_production(values, key, "callers are promised 30 days"))
        }
        _ => None,
    }
}

fn refused_in_production(values: &Checked, key: &str, reason: &'static str) -> Problem {
    let place = values.entry(key).map_or(Place::BuiltIn, |entry| entry.place.clone());
    Problem::Production { name: key.to_owned(), place, reason }
}

/// `db.pool_size_min = 20 (environment variable PAYSTRATA__DB__POOL_SIZE_MIN)`
fn described(values: &Checked, key: &str) -> String {
    match (sections::find(key), values.entry(key)) {
        (Some(setting), Some(entry)) => format!("{} ({})", print::assignment(setting, entry), entry.place),
        _ => key.to_owned(),
    }
}
