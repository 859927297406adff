//! The effective configuration as TOML, each line with its origin.
//!
//! Refuses to print secrets: a key prints as `***`, a URL without its password.

use std::fmt::Write;

use super::checked::{Checked, Entry};
use super::sections::SECTIONS;
use super::setting::{Kind, REDACTED, Setting};
use super::value::{BlocklistEntry, Value};

/// The whole configuration. It can be read back as TOML, but its secrets are refused then.
pub(crate) fn effective(values: &Checked) -> String {
    let mut page = String::new();
    let mut heading = "";
    for section in SECTIONS {
        if section.name != heading {
            heading = section.name;
            line(&mut page, format_args!("\n[{heading}]"));
        }
        for setting in section.settings {
            match values.entry(setting.key) {
                Some(entry) => {
                    let name = setting.last_name();
                    let value =
                        entry.value.as_ref().map_or_else(String::new, |value| toml(setting.kind, value));
                    line(
                        &mut page,
                        format_args!("{name} = {value}  # {}", comment(&entry.place.to_string())),
                    );
                }
                None => line(&mut page, format_args!("# {} is not set", setting.last_name())),
            }
        }
    }
    page
}

/// `db.pool_size_min = 20`
pub(crate) fn assignment(setting: &Setting, entry: &Entry) -> String {
    let value = entry.value.as_ref().map_or_else(String::new, |value| toml(setting.kind, value));
    format!("{} = {value}", setting.key)
}

/// A path may hold a line break, which would end the comment.
fn comment(place: &str) -> String {
    place.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("writing to a String does not fail");
}

fn toml(kind: Kind, value: &Value) -> String {
    match value {
        Value::Flag(flag) => flag.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Span(span) => match kind {
            Kind::Span { unit, .. } => unit.count(*span).to_string(),
            _ => unreachable!("only a span setting has a span value"),
        },
        Value::Address(address) => quoted(&address.to_string()),
        Value::Text(text) => quoted(text),
        Value::Secret(_) => quoted(REDACTED),
        Value::Url(url) => quoted(&url.as_ref().map(ToString::to_string).unwrap_or_default()),
        Value::Urls(urls) => list(urls.iter().map(ToString::to_string)),
        Value::Hosts(hosts) => list(hosts.iter().cloned()),
        Value::Blocklist(entries) => list(entries.iter().map(BlocklistEntry::to_string)),
    }
}

fn list(entries: impl Iterator<Item = String>) -> String {
    let quoted: Vec<String> = entries.map(|entry| quoted(&entry)).collect();
    format!("[{}]", quoted.join(", "))
}

/// A TOML basic string: the escapes of JSON are among those of TOML, which also asks for one of DEL.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}
