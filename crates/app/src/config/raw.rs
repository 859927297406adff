//! First stage: values as they were written, each with its setting and its place, nothing checked yet.
//!
//! Refuses unknown names in either source. Later sources come later in the list; the check lets the last one win.

use std::path::Path;

use super::error::{Place, Problem};
use super::setting::{Kind, Setting};
use super::{environment, file};

/// A value in the shape its source gave it. No `Debug`: it may be a secret.
pub(crate) enum Literal {
    Flag(bool),
    Integer(i64),
    Text(String),
    List(Vec<String>),
    /// A shape that no setting takes, by its name: "a table".
    Other(&'static str),
    /// Written, but its text could not be had. The problem is told already: the check adds none.
    Lost,
}

impl Literal {
    /// Reads text, from the environment or the table of defaults, as the kind asks for. Text that does not fit
    /// stays text, and the check refuses it with what was expected.
    pub(crate) fn from_text(kind: Kind, text: &str) -> Self {
        let as_text = || Self::Text(text.to_owned());
        match kind {
            Kind::Flag => text.parse().map_or_else(|_| as_text(), Self::Flag),
            Kind::Integer { .. } | Kind::Span { .. } => {
                text.parse().map_or_else(|_| as_text(), Self::Integer)
            }
            _ if kind.is_list() && text.is_empty() => Self::List(Vec::new()),
            _ if kind.is_list() => Self::List(text.split(',').map(|entry| entry.trim().to_owned()).collect()),
            _ => as_text(),
        }
    }
}

/// One written value.
pub(crate) struct Written {
    pub(crate) setting: &'static Setting,
    pub(crate) literal: Literal,
    pub(crate) place: Place,
}

/// All written values, weakest source first.
pub(crate) struct RawConfig {
    pub(crate) written: Vec<Written>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) completeness: Completeness,
}

/// Whether every source could be read. After a partial read nothing may be called missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completeness {
    Whole,
    Partial,
}

/// Which TOML file to read.
pub(crate) enum FileChoice<'a> {
    /// Named by the user: it must exist.
    Named(&'a Path),
    /// At its usual place: read if it exists.
    IfPresent(&'a Path),
}

impl RawConfig {
    /// Reads the file, then the variables, which win.
    pub(crate) fn collect(choice: &FileChoice<'_>, variables: Vec<environment::Variable>) -> Self {
        let mut raw = Self { written: Vec::new(), problems: Vec::new(), completeness: Completeness::Whole };
        file::read(choice, &mut raw);
        environment::read(variables, &mut raw);
        raw
    }
}
