//! What counts as a test, and what it is called.

use super::{Census, Names};

fn names(files: &[(&str, &str)]) -> Names {
    let mut census = Census::default();
    for (path, source) in files {
        census.read(path, &syn::parse_file(source).expect("the snippet parses"));
    }
    census.names()
}

fn check(files: &[(&str, &str)], there: &[&str], absent: &[&str]) {
    let names = names(files);
    for (name, is_there) in
        there.iter().map(|name| (name, true)).chain(absent.iter().map(|name| (name, false)))
    {
        assert_eq!(names.has(name), is_there, "{name} in {names:?}");
    }
}

#[test]
fn test_is_known_by_crate_binary_module_and_name() {
    check(
        &[
            ("crates/cache/tests/local.rs", "#[test] fn alone() {}"),
            ("crates/cache/tests/redis/main.rs", "mod lines; mod wide; #[test] fn here() {}"),
            ("crates/cache/tests/redis/lines.rs", "#[tokio::test(start_paused = true)] async fn heard() {}"),
            ("crates/cache/tests/redis/wide/mod.rs", "#[test] fn deep() {}"),
            ("xtask/tests/run.rs", "#[test] fn started() {}"),
        ],
        &[
            "cache::local::alone",
            "cache::redis::here",
            "cache::redis::lines::heard",
            "cache::redis::wide::deep",
            "xtask::run::started",
        ],
        &["local::alone", "cache::alone", "cache::redis::heard", "lines::heard", "cache::redis::main::here"],
    );
}

#[test]
fn binary_called_as_its_crate_is_said_once_and_the_service_not_at_all() {
    check(
        &[
            ("crates/db/tests/db/main.rs", "mod pool;"),
            ("crates/db/tests/db/pool.rs", "#[test] fn full() {}"),
            ("crates/app/tests/contract/main.rs", "mod book;"),
            ("crates/app/tests/contract/book.rs", "#[test] fn paid() {}"),
        ],
        &["db::pool::full", "db::db::pool::full", "contract::book::paid", "app::contract::book::paid"],
        &["pool::full", "book::paid"],
    );
}

#[test]
fn unit_test_is_known_by_its_modules_and_by_src() {
    check(
        &[
            ("crates/cache/src/lib.rs", "mod front; mod races;"),
            ("crates/cache/src/front.rs", "#[cfg(test)] mod tests { #[test] fn copied() {} }"),
            ("crates/cache/src/races.rs", "#[test] fn raced() {}"),
        ],
        &[
            "cache::front::tests::copied",
            "cache::src::front::tests::copied",
            "cache::src::front::copied",
            "cache::races::raced",
            "cache::src::races::raced",
        ],
        &["cache::front::copied", "front::tests::copied"],
    );
}

#[test]
fn what_is_no_test_has_no_name() {
    check(
        &[(
            "crates/cache/tests/local.rs",
            "fn plain() {} #[cfg(test)] fn built() {} #[test] fn outer() { #[test] fn inner() {} }
             const TEXT: &str = \"#[test] fn quoted() {}\"; // #[test] fn remarked() {}",
        )],
        &["cache::local::outer"],
        &[
            "cache::local::plain",
            "cache::local::built",
            "cache::local::inner",
            "cache::local::outer::inner",
            "cache::local::quoted",
            "cache::local::remarked",
        ],
    );
}

#[test]
fn test_in_a_file_that_no_module_declares_never_runs() {
    let lost = ("crates/db/tests/db/lost.rs", "#[test] fn found() {}");
    check(&[("crates/db/tests/db/main.rs", "mod pool;"), lost], &[], &["db::lost::found"]);
    check(&[("crates/db/tests/db/main.rs", "mod lost;"), lost], &["db::lost::found"], &[]);
    let inner = ("crates/db/src/pool/tests.rs", "#[test] fn found() {}");
    check(&[("crates/db/src/lib.rs", "mod pool;"), inner], &[], &["db::pool::tests::found"]);
}

#[test]
fn tests_in_macros_are_found() {
    check(
        &[(
            "crates/monitor/tests/recording.rs",
            "proptest! { #![proptest_config(c())] fn helps() {} /// Doc.
             #[test] fn sums(value in 0..9u8) {} fn helps_too() {} }
             macro_rules! made { ($name:ident) => { #[test] fn $name() {} } }",
        )],
        &["monitor::recording::sums"],
        &["monitor::recording::helps", "monitor::recording::helps_too", "monitor::recording::name"],
    );
}

#[test]
fn star_stands_for_any_end_and_for_at_least_one_test() {
    let names = names(&[("crates/cache/tests/local.rs", "#[test] fn change_wins() {}")]);
    for name in ["cache::local::*", "cache::local::change_*", "cache::local::change_wins"] {
        assert!(names.has_like(name), "{name}");
    }
    for name in
        ["cache::local::lost_*", "cache::other::*", "cache::local", "cache::local::change_", "cache::zzz::*"]
    {
        assert!(!names.has_like(name), "{name}");
    }
    assert!(!names.has("cache::local::*"));
}
