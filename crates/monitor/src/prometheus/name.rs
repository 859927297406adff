//! Names as Prometheus takes them: letters, digits and underscores, the unit last, `_total` on counters.

/// A metric's name: `db.client.operation` becomes `db_client_operation`.
pub(super) fn metric(name: &str) -> String {
    valid(name)
}

/// A label's name; those that Prometheus keeps for itself get a prefix.
pub(super) fn label(name: &str) -> String {
    let valid = valid(name);
    if valid.starts_with("__") || valid == "le" || valid == "quantile" {
        format!("exported_{}", valid.trim_start_matches('_'))
    } else {
        valid
    }
}

/// The histogram's name: `db.query` and `db.query.duration` both become `db_query_duration_seconds`.
pub(super) fn duration(name: &str) -> String {
    format!("{}_duration_seconds", without_duration(name))
}

/// What the counters beside the histogram start with.
pub(super) fn without_duration(name: &str) -> String {
    metric(name.strip_suffix(".duration").unwrap_or(name))
}

/// A counter's name: `webhooks.sent` becomes `webhooks_sent_total`.
pub(super) fn counter(name: &str) -> String {
    let name = metric(name);
    if name.ends_with("_total") { name } else { format!("{name}_total") }
}

fn valid(name: &str) -> String {
    // Metrics may have colons, but those are for rules that a Prometheus server computes, not for what is scraped.
    let is_valid = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut valid: String =
        name.chars().map(|character| if is_valid(character) { character } else { '_' }).collect();
    if valid.is_empty() || valid.starts_with(|first: char| first.is_ascii_digit()) {
        valid.insert(0, '_');
    }
    valid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_valid() {
        let check = |name, expected: &str| assert_eq!(metric(name), expected);
        check("http.server.request", "http_server_request");
        check("a:b-c ü", "a_b_c__");
        check("9lives", "_9lives");
        check("", "_");
    }

    #[test]
    fn labels_that_prometheus_keeps_are_prefixed() {
        let check = |name, expected: &str| assert_eq!(label(name), expected);
        check("error.type", "error_type");
        check("a:b", "a_b");
        check("le", "exported_le");
        check("__name__", "exported_name__");
        check("_ok", "_ok");
    }

    #[test]
    fn units_are_not_repeated() {
        assert_eq!(duration("db.query"), "db_query_duration_seconds");
        assert_eq!(duration("http.server.request.duration"), "http_server_request_duration_seconds");
        assert_eq!(counter("webhooks.sent"), "webhooks_sent_total");
        assert_eq!(counter("webhooks.sent.total"), "webhooks_sent_total");
    }
}
