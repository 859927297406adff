//! Why a configuration was refused: every problem at once, each with the setting, its place and what is expected.
//!
//! Refuses to quote what may be a secret: a refused URL or key is named, never shown.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use super::bounded_read::ReadError;

/// All problems of one load, in the order file, environment, missing, relations.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    /// `problems` must not be empty: an error without a cause helps nobody.
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "an error names at least one problem");
        Self { problems }
    }

    /// Every problem found.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(
            formatter,
            "{count} {} in the configuration",
            if count == 1 { "problem" } else { "problems" }
        )?;
        for problem in &self.problems {
            write!(formatter, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nobody wrote it.
    BuiltIn,
    /// The TOML file.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
    /// The file that a `.._FILE` variable names.
    SecretFile {
        /// Name of the variable.
        variable: String,
        /// The file it names.
        path: PathBuf,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => formatter.write_str("default"),
            Self::File(path) => write!(formatter, "file {}", path.display()),
            Self::Variable(name) => write!(formatter, "environment variable {name}"),
            Self::SecretFile { variable, path } => {
                write!(formatter, "file {} named by environment variable {variable}", path.display())
            }
        }
    }
}

/// One reason to refuse the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The TOML file, or a file with a secret, cannot be read.
    #[error("{place}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        place: Place,
        /// What reading it met.
        source: ReadError,
    },
    /// The file is not TOML. The offending line is left out: it may hold a secret.
    #[error("{place}: is not TOML: {detail}")]
    Syntax {
        /// The file.
        place: Place,
        /// Line, column and what the parser expected there.
        detail: String,
    },
    /// No setting has this name.
    #[error("{name}: no such setting ({place}){}", suggestion(.nearest.as_deref()))]
    Unknown {
        /// The name as it was written, with dots.
        name: String,
        /// Where it was written.
        place: Place,
        /// The setting with the most similar name, as it would be written at that place.
        nearest: Option<String>,
    },
    /// The value has the wrong type or lies out of bounds.
    #[error("{name}: {found} is refused ({place}): expected {expected}")]
    BadValue {
        /// The setting.
        name: String,
        /// Where it was written.
        place: Place,
        /// What was written, or `the value` when it may be secret.
        found: String,
        /// What a good value looks like.
        expected: String,
    },
    /// A setting without default was not written.
    #[error("{name}: missing{because}: set it in the file or by {variable}: expected {expected}")]
    Missing {
        /// The setting.
        name: String,
        /// Why it is needed, with a leading space, or empty when it always is.
        because: &'static str,
        /// The environment variable that sets it.
        variable: String,
        /// What a good value looks like.
        expected: String,
    },
    /// Both `KEY` and `KEY_FILE` are set.
    #[error("{name}: set by {first} and by {second}: keep one of them")]
    SetTwice {
        /// The setting.
        name: String,
        /// One of the two.
        first: Place,
        /// The other.
        second: Place,
    },
    /// Two settings exclude each other.
    #[error("{left} {relation} {right}: {reason}")]
    Conflict {
        /// One setting, with value and place.
        left: String,
        /// What must hold between the two.
        relation: &'static str,
        /// The other setting, with value and place.
        right: String,
        /// Why.
        reason: &'static str,
    },
    /// The value is good in development only.
    #[error("{name}: refused in the production profile ({place}): {reason}")]
    Production {
        /// The setting.
        name: String,
        /// Where it was written.
        place: Place,
        /// Why.
        reason: &'static str,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(": did you mean {name}?")).unwrap_or_default()
}
