//! The text format itself: HELP and TYPE once per family, samples below, everything escaped.
//! Refuses a second family of the same name, which no scraper would accept.

use std::collections::BTreeSet;

use super::name;
use crate::labels::LabelSet;

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What stands above the samples of one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heading<'text> {
    pub(super) name: &'text str,
    pub(super) kind: Kind,
    pub(super) help: &'text str,
}

#[derive(Debug, Default)]
pub(super) struct Writer {
    text: String,
    /// Names of families and of their samples: `a_count` must not be both a counter and a part of histogram `a`.
    written: BTreeSet<String>,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    fn sample_suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter | Self::Gauge => &[""],
            Self::Histogram => &["", "_bucket", "_sum", "_count"],
        }
    }
}

impl Writer {
    /// Begins a family, unless its name is taken; then its samples must not be written.
    #[must_use]
    pub(super) fn begin(&mut self, heading: Heading<'_>) -> bool {
        let Heading { name, kind, help } = heading;
        let names: Vec<String> =
            kind.sample_suffixes().iter().map(|suffix| format!("{name}{suffix}")).collect();
        if names.iter().any(|name| self.written.contains(name)) {
            return false;
        }
        self.written.extend(names);
        self.push(&["# HELP ", name, " "]);
        escape_into(&mut self.text, help, "\\\n");
        self.push(&["\n# TYPE ", name, " ", kind.as_str(), "\n"]);
        true
    }

    /// Writes one sample; `last_label` is the writer's own, such as a bucket's bound.
    pub(super) fn sample(
        &mut self,
        name: &str,
        labels: &LabelSet,
        last_label: Option<(&str, &str)>,
        value: &str,
    ) {
        self.push(&[name]);
        let mut names = Vec::with_capacity(crate::LABELS_MAX);
        let renamed = labels.iter().map(|(name, value)| (name::label(name), value));
        let own = last_label.into_iter().map(|(name, value)| (name.to_owned(), value));
        for (name, value) in renamed.chain(own) {
            // Two names may have become one: a label given twice would make the whole exposition invalid.
            if names.contains(&name) {
                continue;
            }
            self.push(&[if names.is_empty() { "{" } else { "," }, &name, "=\""]);
            escape_into(&mut self.text, value, "\\\n\"");
            self.text.push('"');
            names.push(name);
        }
        self.push(&[if names.is_empty() { " " } else { "} " }, value, "\n"]);
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn push(&mut self, parts: &[&str]) {
        self.text.extend(parts.iter().copied());
    }
}

fn escape_into(text: &mut String, value: &str, special: &str) {
    for character in value.chars() {
        if special.contains(character) {
            text.push('\\');
        }
        text.push(if character == '\n' { 'n' } else { character });
    }
}
