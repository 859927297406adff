//! Second stage: all values checked, with the defaults of the profile for those that nobody wrote.
//!
//! Refuses to stop at the first bad value: a setting whose value was refused stays without one, and the rules
//! that need it are skipped, so that each mistake is told once.

use std::collections::BTreeMap;

use super::check::{check, found};
use super::error::{Place, Problem};
use super::raw::{Literal, RawConfig, Written};
use super::sections::{self, PROFILE_KEY, Profile};
use super::setting::{DefaultValue, Setting};
use super::value::{Take, Value};

/// The last word on one setting.
pub(crate) struct Entry {
    /// `None` when what was written is refused.
    pub(crate) value: Option<Value>,
    pub(crate) place: Place,
}

/// The effective value of each setting.
pub(crate) struct Checked {
    entries: BTreeMap<&'static str, Entry>,
}

impl Checked {
    /// Checks every written value, also one that a stronger source overrides: otherwise it would lie in wait
    /// until the override goes away.
    pub(crate) fn of_written(raw: &mut RawConfig) -> Self {
        let mut entries = BTreeMap::new();
        for Written { setting, literal, place } in std::mem::take(&mut raw.written) {
            let value = check(setting.kind, &literal);
            if let Err(refusal) = &value
                && !matches!(literal, Literal::Lost)
            {
                raw.problems.push(Problem::BadValue {
                    name: setting.key.to_owned(),
                    place: place.clone(),
                    found: found(setting.kind, &literal),
                    expected: refusal.expected.clone(),
                });
            }
            entries.insert(setting.key, Entry { value: value.ok(), place });
        }
        Self { entries }
    }

    /// The profile in force, or `None` when what was written for it is refused.
    pub(crate) fn profile(&self) -> Option<Profile> {
        match self.entries.get(PROFILE_KEY) {
            Some(entry) => entry.value.as_ref().map(Profile::take),
            None => Some(Profile::Production),
        }
    }

    /// Gives each setting that nobody wrote its default in `profile`, where it has one.
    pub(crate) fn fill_defaults(&mut self, profile: Profile) {
        for setting in sections::all() {
            let Some(text) = default_text(setting, profile) else { continue };
            self.entries.entry(setting.key).or_insert_with(|| Entry {
                value: check(setting.kind, &Literal::from_text(setting.kind, text)).ok(),
                place: Place::BuiltIn,
            });
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.entry(key)?.value.as_ref()
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a field. Only called once no problem was found.
    pub(crate) fn take<T: Take>(&self, key: &str) -> T {
        T::take(self.value(key).expect("without problems each setting that a section reads has a value"))
    }
}

/// What stands in for the setting in this profile, as text.
pub(crate) fn default_text(setting: &Setting, profile: Profile) -> Option<&'static str> {
    match (setting.default, profile) {
        (DefaultValue::Fixed(text), _) => Some(text),
        (DefaultValue::ByProfile { production, .. }, Profile::Production) => Some(production),
        (DefaultValue::ByProfile { development, .. }, Profile::Development) => Some(development),
        (DefaultValue::DevelopmentSecret(text), Profile::Development) => Some(text),
        (DefaultValue::DevelopmentSecret(_), Profile::Production) | (DefaultValue::Required, _) => None,
    }
}
