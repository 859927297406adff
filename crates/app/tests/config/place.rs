//! A directory and an environment of its own for each test. Nothing here reads those of the process.

use std::fs;
use std::path::{Path, PathBuf};

use paystrata_app::config::{Config, ConfigError, FILE_NAME, LoadOptions};
use tempfile::TempDir;

pub(crate) const PRIMARY: (&str, &str) =
    ("PAYSTRATA__DB__PRIMARY_URL", "postgres://pay:pa55word@db.internal/pay");
pub(crate) const DEVELOPMENT: (&str, &str) = ("PAYSTRATA__PROFILE", "development");
pub(crate) const FINGERPRINT: (&str, &str) =
    ("PAYSTRATA__SECURITY__FINGERPRINT_KEY", "0123456789abcdef0123456789abcdef");

/// The directory in which the service would be started.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn empty() -> Self {
        Self { directory: TempDir::new().expect("make a directory") }
    }

    /// With the file that a service started there would read.
    pub(crate) fn with_file(text: &str) -> Self {
        let place = Self::empty();
        place.write(FILE_NAME, text);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("write a file");
        path
    }

    pub(crate) fn load(&self, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        self.load_file(None, environment)
    }

    pub(crate) fn load_file(
        &self,
        file: Option<&Path>,
        environment: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        Config::load(LoadOptions {
            file: file.map(Path::to_owned),
            directory: self.directory.path().to_owned(),
            environment: environment.iter().copied(),
        })
    }

    /// The problems, one per entry, with `DIR` for the path of the directory.
    pub(crate) fn refusals(&self, environment: &[(&str, &str)]) -> Vec<String> {
        let error = self.load(environment).expect_err("the configuration is refused");
        let directory = self.directory.path().display().to_string();
        error.problems().iter().map(|problem| problem.to_string().replace(&directory, "DIR")).collect()
    }
}

/// Loads from the environment alone.
pub(crate) fn load(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Place::empty().load(environment)
}

/// What is wrong with the environment alone.
pub(crate) fn refusals(environment: &[(&str, &str)]) -> Vec<String> {
    Place::empty().refusals(environment)
}

/// The only refusal there must be.
pub(crate) fn only(refusals: &[String]) -> &str {
    assert_eq!(refusals.len(), 1, "{refusals:#?}");
    &refusals[0]
}

/// The settings that refusals are about.
pub(crate) fn names(refusals: &[String]) -> Vec<&str> {
    refusals.iter().map(|refusal| refusal.split(':').next().unwrap_or(refusal)).collect()
}
