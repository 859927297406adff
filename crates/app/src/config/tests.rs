//! The table of settings against itself: defaults pass their checks, bounds hold, names are unique and known.

use proptest::prelude::*;

use super::check::check;
use super::checked::default_text;
use super::migration::FOREIGN;
use super::raw::Literal;
use super::rules::{LISTENERS, ORDERS};
use super::secret::SecretUrl;
use super::sections::{self, Profile, SECTIONS};
use super::setting::{Kind, REDACTED};
use super::{Config, LoadOptions};

/// An authority that vouches for nobody: its key was thrown away.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBXjCCAQSgAwIBAgIUY5QQJNao+PUbj6Qta4Xun1bBNAYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJYXV0aG9yaXR5MCAXDTI2MTEyMzE4NDMxMloYDzIxMjYxMDMw
MTg0MzEyWjAUMRIwEAYDVQQDDAlhdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATh+Vr5f68GhqnqBtz9WG4vTBWQBrwMzLuLHnFvQ4Uy1/X2/d7uonNj
FfVvJJsyrNs0CJMkT0clP3pWIe20WkDRozIwMDAPBgNVHRMBAf8EBTADAQH/MB0G
A1UdDgQWBBQp2QqS0FQNTVIyAY/ghuwxV5rczTAKBggqhkjOPQQDAgNIADBFAiEA
1dSLYocUK4CUXnVjmKlFoXw08Xesy42SOYdzHbbOpPACIDa2ZQkmiCmQ241hUwIv
TyFtIeXYt5q+pCQJbBO3Qpdf
-----END CERTIFICATE-----
";

#[test]
fn every_default_passes_its_own_check() {
    for profile in [Profile::Production, Profile::Development] {
        for setting in sections::all() {
            let Some(text) = default_text(setting, profile) else { continue };
            let literal = Literal::from_text(setting.kind, text);
            assert!(check(setting.kind, &literal).is_ok(), "{} = {text:?} in {profile:?}", setting.key);
        }
    }
}

#[test]
fn every_number_is_accepted_at_its_bounds_and_refused_past_them() {
    let mut numbers = 0;
    for setting in sections::all() {
        let (Kind::Integer { min, max, .. } | Kind::Span { min, max, .. }) = setting.kind else { continue };
        numbers += 1;
        let accepts = |number| check(setting.kind, &Literal::Integer(number)).is_ok();
        assert!(accepts(min) && accepts(max), "{}", setting.key);
        assert!(!accepts(min - 1), "{}", setting.key);
        assert!(max.checked_add(1).is_none_or(|past| !accepts(past)), "{}", setting.key);
    }
    assert!(numbers > 20, "the table was walked");
}

#[test]
fn names_are_unique_and_sections_stand_together() {
    let mut keys: Vec<&str> = sections::all().map(|setting| setting.key).collect();
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count, "two settings of one name");
    let mut names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
    names.dedup();
    let runs = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), runs, "a TOML table may be opened only once");
    assert!(sections::all().all(|setting| !setting.meaning.trim().is_empty()));
}

#[test]
fn no_setting_hides_behind_the_file_form_of_another() {
    for setting in sections::all() {
        assert!(!setting.key.ends_with("_file"), "{} would be read as a file with a secret", setting.key);
    }
}

#[test]
fn rules_and_migration_name_settings_that_exist() {
    let orders = ORDERS.iter().flat_map(|order| [order.low, order.high]);
    let foreign = FOREIGN.iter().map(|foreign| foreign.ours);
    for key in orders.chain(foreign).chain([LISTENERS.0, LISTENERS.1]) {
        assert!(sections::find(key).is_some(), "{key}");
    }
    for order in ORDERS {
        let kinds = (sections::find(order.low).unwrap().kind, sections::find(order.high).unwrap().kind);
        let comparable = matches!(
            kinds,
            (Kind::Integer { .. }, Kind::Integer { .. }) | (Kind::Span { .. }, Kind::Span { .. })
        );
        assert!(comparable, "{} and {}", order.low, order.high);
    }
}

#[test]
fn suggestions_are_near_or_absent() {
    let nearest = |name| sections::nearest(name).map(|setting| setting.key);
    assert_eq!(nearest("http.listne"), Some("http.listen"));
    assert_eq!(nearest("db.pool_max"), None);
    assert_eq!(nearest("db.pool_sise_max"), Some("db.pool_size_max"));
    assert_eq!(nearest("profil"), Some("profile"));
    assert_eq!(nearest("weather"), None);
}

#[test]
fn urls_are_redacted_in_the_password_only() {
    let check = |given: &str, expected: &str| {
        assert_eq!(SecretUrl::parse_database(given).expect(given).redacted(), expected);
    };
    check("postgres://user:pa55@host:5432/db", "postgres://user:***@host:5432/db");
    check("postgres://user@host/db", "postgres://user@host/db");
    check("postgres://host/db?user=u&password=pa55", "postgres://host/db?user=u&password=***");
    check(
        "postgres://host/db?p%61ssword=pa55&sslmode=disable",
        "postgres://host/db?p%61ssword=***&sslmode=disable",
    );
    check("postgresql://user:a:b%2Fc%40d@host/db", "postgresql://user:***@host/db");
    let redis = SecretUrl::parse_redis("redis://:pa55@host:6379/2").unwrap();
    assert_eq!(
        format!("{redis} {redis:?} {}", serde_json::to_string(&redis).unwrap()).matches("pa55").count(),
        0
    );
    assert_eq!(redis.expose(), "redis://:pa55@host:6379/2");
    let secured = SecretUrl::parse_redis("rediss://:pa55@host:6380/2").unwrap();
    assert_eq!(secured.redacted(), "rediss://:***@host:6380/2");
    assert!(secured.is_redis_over_tls() && !redis.is_redis_over_tls());
}

#[test]
fn urls_of_the_wrong_sort_are_refused() {
    let database = [
        "",
        "host=localhost password=x",
        "mysql://host/db",
        "postgres:///db",
        "postgres://a,b/db",
        "postgres://host:port/db",
        "postgres://host/db?no_such_option=1",
        "postgres://user:a@b@host/db",
        "postgres://user:a/b@host/db",
        "postgres://host/db?password=a@b",
        "postgres://host/db?sslmode=allow",
    ];
    for text in database {
        assert!(SecretUrl::parse_database(text).is_none(), "{text}");
    }
    for text in [
        "rediss://host#insecure",
        "redis://host#insecure",
        "rediss://host:port",
        "redis://:%FF@host",
        "redis://host/1?protocol=9",
        "redis://",
        "redis://host:99999",
        "redis://host/zero",
        "host:6379",
        "http://host",
    ] {
        assert!(SecretUrl::parse_redis(text).is_none(), "{text}");
    }
}

/// A file of this text in the directory; its path.
fn written(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn tls_to_each_database_is_taken_and_where_it_cannot_be_had_setting_and_parameter_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let authority = written(&directory, "authority.pem", AUTHORITY);
    let text = written(&directory, "text", "no certificate");
    for name in ["primary_url", "replica_urls", "pooler_url"] {
        let variable = format!("PAYSTRATA__DB__{}", name.to_ascii_uppercase());
        let loaded = |parameters: &str| {
            let url = format!("postgres://pay:pa55@db.example/pay?{parameters}");
            let mut environment = std::collections::BTreeMap::from([
                ("PAYSTRATA__PROFILE", "development"),
                ("PAYSTRATA__DB__PRIMARY_URL", "postgres://user@host/db"),
            ]);
            environment.insert(&variable, &url);
            let directory = directory.path().to_owned();
            let config = Config::load(LoadOptions { file: None, directory, environment });
            config.map(|config| config.print_redacted()).map_err(|error| error.to_string())
        };
        for parameters in ["sslmode=disable", "sslmode=prefer"] {
            assert!(loaded(parameters).is_ok(), "{name} {parameters}");
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            let parameters = format!("sslmode={mode}&sslrootcert={authority}");
            let printed = loaded(&parameters).unwrap();
            assert!(printed.contains(&format!("pay:***@db.example/pay?{parameters}")), "{printed}");
        }
        for (parameters, expected) in [
            ("sslmode=verify-full&sslrootcert=/nonexistent/pem".to_owned(), "sslrootcert"),
            (format!("sslmode=verify-ca&sslrootcert={text}"), "sslrootcert"),
            (format!("sslmode=prefer&sslrootcert={authority}"), "sslrootcert"),
            (format!("sslmode=require&sslrootcert={authority}&sslcert={authority}"), "ssl"),
        ] {
            let told = loaded(&parameters).unwrap_err();
            let refused = format!("1 problem in the configuration\n  db.{name}: the value is refused");
            assert!(told.starts_with(&refused), "{told}");
            let (_, fault) = told.split_once("a PostgreSQL URL without this fault: ").expect(&told);
            assert!(fault.contains(expected), "{told}");
            assert!(!told.contains("pa55") && !told.contains("/nonexistent"), "{told}");
        }
    }
}

#[test]
fn a_file_that_is_kept_is_named_in_a_folder_that_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let accepts = |path: &str| check(Kind::KeptPath, &Literal::Text(path.to_owned())).is_ok();
    let inside = |name: &str| directory.path().join(name).display().to_string();
    let there = written(&directory, "there", "something");
    for path in ["", "hot-keys", &there, &inside("not-yet")] {
        assert!(accepts(path), "{path}");
    }
    for path in ["/", &inside(""), &inside("nowhere/file"), &format!("{there}/file")] {
        assert!(!accepts(path), "{path}");
    }
}

#[test]
fn of_several_urls_the_one_whose_tls_cannot_be_had_is_told() {
    let bad = "postgres://b/db?sslmode=verify-full&sslrootcert=/nonexistent";
    let entries = ["postgres://a/db", bad].map(str::to_owned).to_vec();
    let refused = check(Kind::DatabaseUrls, &Literal::List(entries)).expect_err("no such file");
    let start = "entry 2 to be a PostgreSQL URL without this fault: sslrootcert ";
    let says_why = refused.expected.contains("No such file");
    assert!(refused.expected.starts_with(start) && says_why, "{}", refused.expected);
}

#[test]
fn authorities_are_a_file_of_certificates_beside_a_url_that_asks_for_tls() {
    let directory = tempfile::tempdir().unwrap();
    let loaded = |path: &str, url: &str| {
        let environment = [
            ("PAYSTRATA__PROFILE", "development"),
            ("PAYSTRATA__DB__PRIMARY_URL", "postgres://user@host/db"),
            ("PAYSTRATA__CACHE__REDIS_URL", url),
            ("PAYSTRATA__CACHE__REDIS_CA_PATH", path),
        ];
        let directory = directory.path().to_owned();
        let config = Config::load(LoadOptions { file: None, directory, environment });
        config.map(|config| config.cache.redis_ca_path).map_err(|error| error.to_string())
    };
    let authority = written(&directory, "authority.pem", AUTHORITY);
    let text = written(&directory, "text", "no certificate");
    assert_eq!(loaded(&authority, "rediss://host"), Ok(Some(std::path::PathBuf::from(&authority))));
    assert_eq!(loaded("", "rediss://host"), Ok(None));
    let refused = |path: &str, url: &str, expected: &str| {
        let refusal = loaded(path, url).unwrap_err();
        assert!(refusal.contains("1 problem ") && refusal.contains(expected), "{refusal}");
    };
    for path in [text.as_str(), "/nonexistent"] {
        refused(path, "rediss://host", "expected the path of a file with certificates of authorities");
    }
    for url in ["redis://host", ""] {
        refused(&authority, url, "needs a rediss:// URL in cache.redis_url");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No password is printed, whatever it holds. The letters of the password are in no other part of the URL.
    #[test]
    fn no_password_is_printed(password in "[X-Z0-9:/@?&=#%.-]{1,6}") {
        for text in [
            format!("postgres://user:{password}@host/db"),
            format!("postgres://host/db?password={password}"),
            format!("redis://:{password}@host"),
        ] {
            let parsed = SecretUrl::parse_database(&text).or_else(|| SecretUrl::parse_redis(&text));
            if let Some(url) = parsed {
                let printed = url.redacted().replace(REDACTED, "");
                let leaked = printed.chars().filter(|letter| ('X'..='Z').contains(letter) || letter.is_ascii_digit());
                prop_assert_eq!(leaked.count(), 0, "{}", printed);
            }
        }
    }
}
