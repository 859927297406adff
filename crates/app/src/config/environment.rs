//! Environment variables `PAYSTRATA__SECTION__KEY` as written values, and `.._FILE` for secrets.
//!
//! Refuses a variable of our prefix that names no setting, and a setting given twice. Never reads the process
//! environment by itself: the variables come in as an argument.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::bounded_read::{ReadError, read_text};
use super::error::{Place, Problem};
use super::raw::{Literal, RawConfig, Written};
use super::sections;
use super::setting::{Setting, VARIABLE_PREFIX};

/// Ends the variable that names a file with the secret instead of the secret.
const FILE_SUFFIX: &str = "_FILE";

/// One variable as the operating system gives it.
pub(crate) struct Variable {
    pub(crate) name: OsString,
    pub(crate) value: OsString,
}

/// Adds the variables of our prefix to `raw`; all others are left alone.
pub(crate) fn read(variables: Vec<Variable>, raw: &mut RawConfig) {
    let mut ours: Vec<(String, OsString)> = variables
        .into_iter()
        .map(|variable| (variable.name.to_string_lossy().into_owned(), variable.value))
        .filter(|(name, _)| name.to_ascii_uppercase().starts_with(VARIABLE_PREFIX))
        .collect();
    ours.sort();
    let from_environment = raw.written.len();
    for (name, value) in ours {
        match target(&name) {
            Some(target) => take(&name, target, value, raw),
            None => raw.problems.push(unknown(name)),
        }
    }
    refuse_doubles(from_environment, raw);
}

#[derive(Clone, Copy)]
enum Target {
    Value(&'static Setting),
    SecretFile(&'static Setting),
}

fn target(name: &str) -> Option<Target> {
    if let Some(setting) = by_variable(name) {
        return Some(Target::Value(setting));
    }
    let setting = by_variable(name.strip_suffix(FILE_SUFFIX)?)?;
    setting.kind.is_secret().then_some(Target::SecretFile(setting))
}

/// Exact names only: on most systems a variable in small letters is another variable.
fn by_variable(name: &str) -> Option<&'static Setting> {
    sections::all().find(|setting| setting.variable() == name)
}

fn take(name: &str, target: Target, value: OsString, raw: &mut RawConfig) {
    let (setting, place, text) = match target {
        Target::Value(setting) => {
            let place = Place::Variable(name.to_owned());
            let text = value.into_string().map_err(|_| Problem::BadValue {
                name: setting.key.to_owned(),
                place: place.clone(),
                found: "the value".into(),
                expected: "UTF-8 text".into(),
            });
            (setting, place, text)
        }
        Target::SecretFile(setting) => {
            let path = PathBuf::from(value);
            let place = Place::SecretFile { variable: name.to_owned(), path: path.clone() };
            let text =
                read_secret(&path).map_err(|source| Problem::Unreadable { place: place.clone(), source });
            (setting, place, text)
        }
    };
    let literal = match text {
        Ok(text) => Literal::from_text(setting.kind, &text),
        Err(problem) => {
            raw.problems.push(problem);
            Literal::Lost
        }
    };
    raw.written.push(Written { setting, literal, place });
}

/// Trimmed, because editors and `echo` end a file with a newline that is no part of the secret.
fn read_secret(path: &Path) -> Result<String, ReadError> {
    let text = read_text(path)?;
    match text.trim() {
        "" => Err(ReadError::Empty),
        trimmed => Ok(trimmed.to_owned()),
    }
}

fn refuse_doubles(from_environment: usize, raw: &mut RawConfig) {
    let written = &raw.written[from_environment..];
    for (index, second) in written.iter().enumerate() {
        if let Some(first) = written[..index].iter().find(|first| first.setting.key == second.setting.key) {
            raw.problems.push(Problem::SetTwice {
                name: second.setting.key.to_owned(),
                first: first.place.clone(),
                second: second.place.clone(),
            });
        }
    }
}

fn unknown(variable: String) -> Problem {
    // The prefix was matched without regard to case, so it is cut by length.
    let name =
        variable.get(VARIABLE_PREFIX.len()..).unwrap_or_default().replace("__", ".").to_ascii_lowercase();
    let nearest = sections::nearest(&name).map(Setting::variable);
    // Without its prefix a variable may have no name left.
    let name = if name.is_empty() { variable.clone() } else { name };
    Problem::Unknown { name, place: Place::Variable(variable), nearest }
}
