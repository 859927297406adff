//! The arrows between the modules of the app, by the table below. `use` lines and paths are read by
//! `tidy::paths`; this file only judges.

use std::collections::BTreeSet;

use super::finding::Finding;
use super::paths::{module_path, named_modules};

/// Which modules of its crate a module may name, beside itself.
type MayName = &'static [&'static str];

/// The layers inside `crates/app/src`, from below. What stands above these (`payments`, `app`, `serve`, ..) composes them and
/// may name them all.
const RULES: &[(&str, MayName)] = &[
    ("money", &[]),
    ("ids", &[]),
    ("clock", &[]),
    // The write path: others call it, never the other way round.
    ("engine", &["money", "ids", "clock"]),
    ("fraud", &["engine", "money", "ids", "clock"]),
    ("accounts", &["engine", "money", "ids", "clock", "app", "documents", "http"]),
    ("ledger", &["engine", "money", "ids", "clock", "app", "documents", "http"]),
    ("merchants", &["engine", "money", "ids", "clock", "app", "documents", "http", "config"]),
    ("webhooks", &["engine", "money", "ids", "clock", "app", "config", "http"]),
    // What is kept of the engine's work: it is told, and tells nobody.
    ("replies", &["engine"]),
    ("results", &[]),
];

/// The wire. Only these files and folders may name it; what lies behind a handler knows no HTTP.
const HTTP: &str = "http";
const MAY_NAME_HTTP: &[&str] = &["http", "router", "main", "serve", "handler", "wire", "operator"];

/// Judges one file. `file` is its path below `crates/app/src`; `modules` are the crate's top-level ones.
pub(super) fn check(file: &str, syntax: &syn::File, modules: &BTreeSet<String>) -> Vec<Finding> {
    let place = module_path(file);
    let own = place.first().map_or("", String::as_str);
    let rule = RULES.iter().find(|(module, _)| *module == own).map(|(_, rule)| *rule);
    let is_edge = file.trim_end_matches(".rs").split('/').any(|part| MAY_NAME_HTTP.contains(&part));
    let named = named_modules(file, syntax, "paystrata_app").into_iter();
    let forbidden = named.filter(|named| modules.contains(&named.module)).filter_map(|named| {
        let target = named.module.as_str();
        let message = match rule {
            Some([]) => format!("`{own}` names no module of its crate, not even `{target}`"),
            Some(allowed) if target != own && !allowed.contains(&target) => {
                format!("`{own}` may not name `{target}`, only {}", allowed.join(", "))
            }
            _ if target == HTTP && !is_edge => {
                format!("only the router, main, serve, the operator's routes, handlers, wire files and `http` itself name `http`, not {file}")
            }
            _ => return None,
        };
        Some(Finding { path: format!("crates/app/src/{file}"), line: named.line, rule: "arrow", message })
    });
    forbidden.collect()
}

#[cfg(test)]
mod tests {
    use super::check;

    fn findings(file: &str, source: &str) -> usize {
        let modules = ["money", "ids", "engine", "payments", "accounts", "fraud", "ledger", "http", "config"];
        let modules = modules.iter().map(|module| (*module).to_owned()).collect();
        check(file, &syn::parse_file(source).expect("the snippet parses"), &modules).len()
    }

    #[test]
    fn allowed_arrows_pass() {
        for (file, source) in [
            ("payments/create.rs", "use crate::{engine, accounts, ledger, fraud, money};"),
            ("accounts/open.rs", "use crate::engine::Engine; use crate::money::Amount;"),
            ("payments/handler.rs", "use crate::http::Problem;"),
            ("payments/handler/create.rs", "use crate::http::Problem;"),
            ("router.rs", "use crate::{http, payments, accounts};"),
            ("http/error.rs", "use crate::http::Problem;"),
            ("money.rs", "use std::fmt; use super::money::Amount;"),
            ("engine/batch.rs", "use crate::clock::Timestamp; use super::command;"),
        ] {
            assert_eq!(findings(file, source), 0, "{file}: {source}");
        }
    }

    #[test]
    fn forbidden_arrows_are_found() {
        for (file, source) in [
            ("engine/batch.rs", "use crate::payments::Payment;"),
            ("engine/batch.rs", "use crate::config::Engine;"),
            ("engine/mod.rs", "fn f() { crate::http::respond(); }"),
            ("accounts/open.rs", "use crate::ledger::Entry;"),
            ("fraud/score.rs", "use crate::payments;"),
            ("money.rs", "use crate::ids::Id;"),
            ("ids.rs", "use super::config;"),
            ("payments/create.rs", "use crate::http::Problem;"),
            ("accounts/store.rs", "use crate::http::Problem;"),
        ] {
            assert_eq!(findings(file, source), 1, "{file}: {source}");
        }
    }

    #[test]
    fn names_that_are_no_modules_are_left_alone() {
        assert_eq!(findings("money.rs", "use crate::Error;"), 0);
    }
}
