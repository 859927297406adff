//! The reference page `docs/configuration.md`, made from the table of settings.
//!
//! Refuses to know a setting by itself: what the page says, the code does. Called by `paystrata config reference`
//! and by the test that compares the page in the repository.

use std::fmt::Write;

use super::migration::FOREIGN;
use super::rules::{LISTENERS, ORDERS};
use super::sections::SECTIONS;
use super::setting::{DefaultValue, Kind, Setting};

/// The whole page, as Markdown.
pub fn reference_page() -> String {
    let mut page = String::from(INTRODUCTION);
    let mut heading = None;
    for section in SECTIONS {
        if heading != Some(section.name) {
            heading = Some(section.name);
            let title =
                if section.name.is_empty() { "Top level".into() } else { format!("`[{}]`", section.name) };
            line(&mut page, &format!("\n### {title}\n\n{}\n\n{TABLE_HEAD}", section.about.trim()));
        }
        for setting in section.settings {
            line(&mut page, &row(setting));
        }
    }
    page.push_str(RELATIONS);
    line(&mut page, &format!("- `{}` must differ from `{}`.", LISTENERS.0, LISTENERS.1));
    for order in ORDERS {
        line(&mut page, &format!("- `{}` must not exceed `{}`: {}.", order.low, order.high, order.reason));
    }
    page.push_str(PRODUCTION);
    page.push_str(MIGRATION);
    for foreign in FOREIGN {
        line(&mut page, &format!("| `{}` | `{}` | {} |", foreign.name, foreign.ours, foreign.conversion));
    }
    page
}

fn row(setting: &Setting) -> String {
    let default = match setting.default {
        DefaultValue::Fixed(text) => written(setting.kind, text),
        DefaultValue::ByProfile { production, development } => {
            let production = written(setting.kind, production);
            format!("{production}, in development {}", written(setting.kind, development))
        }
        DefaultValue::DevelopmentSecret(_) => "none, in development a known one".into(),
        DefaultValue::Required => "required".into(),
    };
    let meaning = setting.meaning.trim();
    format!(
        "| `{}` | {default} | {} | {} | {meaning} |",
        setting.last_name(),
        setting.kind.unit(),
        bounds(setting.kind)
    )
}

/// The default as it would stand in the file.
fn written(kind: Kind, text: &str) -> String {
    match kind {
        Kind::Flag | Kind::Integer { .. } | Kind::Span { .. } => format!("`{text}`"),
        _ if kind.is_list() => "`[]`".into(),
        _ => format!("`\"{text}\"`"),
    }
}

/// The bounds of a number, or what else the value must be.
fn bounds(kind: Kind) -> String {
    match kind {
        Kind::Integer { min, max, .. } | Kind::Span { min, max, .. } => format!("{min} to {max}"),
        _ => kind.expected(),
    }
}

fn line(page: &mut String, text: &str) {
    writeln!(page, "{text}").expect("writing to a String does not fail");
}

const TABLE_HEAD: &str = "| setting | default | unit | bounds | meaning |\n|---|---|---|---|---|";

const INTRODUCTION: &str = "\
# Configuration

<!-- Made from the code by `paystrata config reference`; a test fails when this page differs. Do not edit. -->

Each setting has one value, from the strongest source that gives one:

1. The environment: `PAYSTRATA__SECTION__KEY`, in capitals, with two underscores where the name has a dot, so
   `db.pool_size_max` is `PAYSTRATA__DB__POOL_SIZE_MAX`. Lists are comma separated.
2. A secret, or a URL that may hold a password, may also come from a file: `PAYSTRATA__SECURITY__FINGERPRINT_KEY_FILE`
   holds the path, and white space around the secret is dropped. Setting both forms is refused.
3. A TOML file: the one that `--config FILE` names, else `paystrata.toml` in the current directory if it exists.
4. The default.

Nothing is ignored in silence. A name that is not on this page, in the file or behind `PAYSTRATA__` in the
environment, is refused, as is a bad value, also where a stronger source overrides it. All problems are told at once,
each with the setting, its place and what is expected. Values are not coerced: in the file, a number is written
without quotes.

Secrets are never printed: keys show as `***`, and URLs without their password. Such a print is refused as input.

## Settings
";

const RELATIONS: &str = "\n## Between settings\n\n";

const PRODUCTION: &str = "
## In the production profile

- `security.fingerprint_key` must be set, and so must the keys of each rail whose `endpoint` is set.
- The secrets of the development profile are refused.
- `idempotency.retention_days` must be at least 30: callers are promised as much.
";

const MIGRATION: &str = "
## Coming from other names

These names of the environment are common among payment services. They are not read: this table says what to write
instead.

| name there | setting here | value |
|---|---|---|
";
