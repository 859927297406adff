//! The control endpoints: faults, effects, settlement, expiry, counters.
//! For tests and people; no gateway has them, and no credentials guard them, so they belong on loopback.

use std::sync::atomic::Ordering;

use hyper::Method;
use serde_json::json;

use super::{
    Shared,
    faults::{Fault, Trigger},
    reply::Reply,
    server::Asked,
};

pub(super) fn answer(shared: &Shared, asked: &Asked<'_>) -> Reply {
    match (asked.method, asked.path) {
        (&Method::POST, "faults") => set_fault(shared, asked.body),
        (&Method::GET, "faults") => Reply::value(200, &shared.faults().all()),
        (&Method::DELETE, "faults") => {
            shared.faults().clear();
            Reply::json(200, "[]")
        }
        (&Method::GET, "effects") => effects(shared, asked.query),
        (&Method::POST, "settle") => {
            shared.ledger().settle_all();
            Reply::json(200, "{}")
        }
        (&Method::POST, "expire") => {
            shared.ledger().expire_authorizations();
            Reply::json(200, "{}")
        }
        (&Method::GET, "stats") => stats(shared),
        _ => Reply::json(404, r#"{"error":"no such control"}"#),
    }
}

fn set_fault(shared: &Shared, body: &[u8]) -> Reply {
    let fault: Fault = match serde_json::from_slice(body) {
        Ok(fault) => fault,
        Err(error) => return Reply::value(400, &json!({ "error": error.to_string() })),
    };
    if let Trigger::Probability(chance) = fault.when
        && !(0.0..=1.0).contains(&chance)
    {
        return Reply::json(400, r#"{"error":"a probability is 0 to 1"}"#);
    }
    shared.faults().set(fault);
    Reply::value(201, &fault)
}

/// References hold letters, digits, hyphens and underscores, so nothing is percent-encoded.
pub(super) fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

fn effects(shared: &Shared, query: &str) -> Reply {
    let ledger = shared.ledger();
    match query_value(query, "reference") {
        None => Reply::value(200, &ledger.all_effects()),
        Some(reference) => {
            let effects = ledger.effects(reference);
            Reply::value(
                200,
                &json!({ "reference": reference, "effects": effects, "total": effects.total() }),
            )
        }
    }
}

fn stats(shared: &Shared) -> Reply {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let served = &shared.served;
    Reply::value(
        200,
        &json!({
            "requests": read(&served.requests),
            "dropped": read(&served.dropped),
            "connections": read(&served.connections),
            "transactions": shared.ledger().transactions_count(),
        }),
    )
}
