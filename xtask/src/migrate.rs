//! `cargo xtask migrate up|status|new NAME`: runs the service's own migrator, or makes the file of a new
//! migration. Knows no SQL.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;

use crate::process;
use crate::run::environment;
use crate::run::options::Profile;
use crate::services::Running;
use crate::services::host::Host;
use crate::workspace;

const PRIMARY_URL: &str = "PAYSTRATA__DB__PRIMARY_URL";
const PRIMARY_URL_FILE: &str = "PAYSTRATA__DB__PRIMARY_URL_FILE";
/// Read by the service from the current directory.
const SERVICE_FILE: &str = "paystrata.toml";
const MIGRATIONS: &str = "crates/app/migrations";

/// Runs the command.
pub(crate) fn run(mut arguments: lexopt::Parser) -> Result<i32> {
    let mut words = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(word) if words.len() < 2 => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["up"] => migrator(&["migrate"]),
        ["status"] => migrator(&["migrate", "--status"]),
        ["new", name] => {
            let directory = workspace::root()?.join(MIGRATIONS);
            let file = create(&directory, name)?;
            println!("{MIGRATIONS}/{file}");
            println!("list it in crates/app/src/migrations.rs: only listed migrations are applied");
            Ok(0)
        }
        ["new"] => bail!("say what it does: migrate new add_payment_note"),
        _ => bail!("migrate knows up, status and new NAME"),
    }
}

fn migrator(arguments: &[&str]) -> Result<i32> {
    let mut settings = Vec::new();
    if !names_a_database() {
        settings = running_services()?;
    }
    if env::var_os("PAYSTRATA__PROFILE").is_none() {
        settings.push(("PAYSTRATA__PROFILE", "development".to_owned()));
    }
    let programs = environment::build(Profile::Release)?;
    let mut command = Command::new(programs.service);
    let status = process::foreground(command.args(arguments).envs(settings))?;
    Ok(status.code().unwrap_or(1))
}

/// Whether the service would be told of a database by somebody else: then that one is meant, and no private one.
fn names_a_database() -> bool {
    let by_environment = [PRIMARY_URL, PRIMARY_URL_FILE].iter().any(|name| env::var_os(name).is_some());
    by_environment || Path::new(SERVICE_FILE).exists()
}

fn running_services() -> Result<Vec<(&'static str, String)>> {
    let directory = workspace::services_directory()?;
    let running =
        if directory.is_dir() { Running::find(&Host::locate(&directory)?) } else { Running::default() };
    if running.primary.is_none() {
        bail!("no database: set {PRIMARY_URL}, or start one with `cargo xtask services up`");
    }
    Ok(running.service_environment())
}

/// Makes the file with the next number and returns its name.
fn create(directory: &Path, name: &str) -> Result<String> {
    let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    if name.is_empty() || !name.chars().all(plain) {
        bail!("name a migration in lower case letters, digits and underscores, not `{name}`");
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let mut last = 0;
    for entry in fs::read_dir(directory)?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let number = file.split_once('_').and_then(|(number, _)| number.parse::<u32>().ok());
        last = last.max(number.unwrap_or(0));
    }
    let file = format!("{:04}_{name}.sql", last + 1);
    let sentence = name.replace('_', " ");
    // `create_new`: two calls at once get an error, not one file.
    let mut created = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(directory.join(&file))
        .with_context(|| format!("create {file}"))?;
    write!(
        created,
        "-- {sentence}: what changes, and why.\n\
         -- Forward only. An applied migration is never edited (its checksum is kept); fix it in the next one.\n\
         -- Takes which locks, for how long, on a table of what size?\n\n"
    )?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::create;
    use std::fs;

    #[test]
    fn new_migration_takes_the_next_number() {
        let directory = std::env::temp_dir().join(format!("xtask-migrate-{}", std::process::id()));
        assert_eq!(create(&directory, "first").expect("directory is made"), "0001_first.sql");
        fs::write(directory.join("0041_by_hand.sql"), "").unwrap();
        fs::write(directory.join("README"), "").unwrap();
        assert_eq!(create(&directory, "add_note").expect("directory can be written"), "0042_add_note.sql");
        let text = fs::read_to_string(directory.join("0042_add_note.sql")).unwrap();
        assert!(text.starts_with("-- add note: "), "{text}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn names_that_make_odd_files_are_refused() {
        for name in ["", "Add", "a b", "../a"] {
            let error = create(std::path::Path::new("/nonexistent"), name).unwrap_err().to_string();
            assert!(error.contains("lower case"), "{error}");
        }
    }
}
