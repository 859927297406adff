//! The TOML file as written values.
//!
//! Refuses unknown keys and sections; never quotes a line of the file, because it may hold a secret.

use std::path::Path;

use config::{ConfigError as ParseError, File, FileFormat, Map, Source, Value, ValueKind};

use super::bounded_read::read_text;
use super::error::{Place, Problem};
use super::raw::{Completeness, FileChoice, Literal, RawConfig, Written};
use super::sections;

/// Adds what the file says to `raw`.
pub(crate) fn read(choice: &FileChoice<'_>, raw: &mut RawConfig) {
    let (FileChoice::Named(path) | FileChoice::IfPresent(path)) = *choice;
    let place = Place::File(path.to_owned());
    match read_text(path) {
        Ok(text) => parse(&text, path, raw),
        Err(error) if error.is_not_found() && matches!(choice, FileChoice::IfPresent(_)) => {}
        Err(source) => {
            raw.completeness = Completeness::Partial;
            raw.problems.push(Problem::Unreadable { place, source });
        }
    }
}

fn parse(text: &str, path: &Path, raw: &mut RawConfig) {
    match File::from_str(text, FileFormat::Toml).collect() {
        Ok(root) => walk("", root, path, raw),
        Err(error) => {
            raw.completeness = Completeness::Partial;
            let place = Place::File(path.to_owned());
            raw.problems.push(Problem::Syntax { place, detail: syntax_detail(&error) });
        }
    }
}

/// Visits one table. The depth is bounded by that of the settings: deeper tables are unknown names.
fn walk(parent: &str, table: Map<String, Value>, path: &Path, raw: &mut RawConfig) {
    // Sorted, because the parser's map has no order and the problems should come in the same one each time.
    let mut entries: Vec<(String, Value)> = table.into_iter().collect();
    entries.sort_by(|left, right| left.0.cmp(&right.0));
    for (name, value) in entries {
        let key = join(parent, &name);
        let place = Place::File(path.to_owned());
        if let Some(setting) = sections::find(&key) {
            raw.written.push(Written { setting, literal: literal(value.kind), place });
        } else if !sections::is_section(&key) {
            let nearest = sections::nearest(&key).map(|setting| setting.key.to_owned());
            raw.problems.push(Problem::Unknown { name: key, place, nearest });
        } else if let ValueKind::Table(inner) = value.kind {
            walk(&key, inner, path, raw);
        } else {
            let expected = format!("a section [{key}]");
            raw.problems.push(Problem::BadValue { name: key, place, found: "the value".into(), expected });
        }
    }
}

/// The dotted name. A quoted part stays quoted, so that `"http.listen" = ..` is not taken for `http.listen`.
fn join(parent: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let shown = if bare { name.to_owned() } else { format!("{name:?}") };
    if parent.is_empty() { shown } else { format!("{parent}.{shown}") }
}

fn literal(kind: ValueKind) -> Literal {
    match kind {
        ValueKind::Boolean(flag) => Literal::Flag(flag),
        ValueKind::I64(number) => Literal::Integer(number),
        ValueKind::String(text) => Literal::Text(text),
        ValueKind::Array(entries) => list(entries),
        ValueKind::Float(_) => Literal::Other("a number with a fraction"),
        ValueKind::Table(_) => Literal::Other("a table"),
        _ => Literal::Other("a value of another type"),
    }
}

fn list(entries: Vec<Value>) -> Literal {
    let texts: Option<Vec<String>> = entries
        .into_iter()
        .map(|entry| match entry.kind {
            ValueKind::String(text) => Some(text),
            _ => None,
        })
        .collect();
    texts.map_or(Literal::Other("a list with entries that are not text"), Literal::List)
}

/// The parser shows the offending line between its first and its last line: only those two are kept.
fn syntax_detail(error: &ParseError) -> String {
    let message = match error {
        ParseError::FileParse { cause, .. } | ParseError::Foreign(cause) => cause.to_string(),
        other => other.to_string(),
    };
    let mut lines = message.lines().filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("no reason given");
    match (first.strip_prefix("TOML parse error at "), lines.next_back()) {
        (Some(position), Some(reason)) => format!("{position}: {reason}"),
        _ => first.to_owned(),
    }
}
