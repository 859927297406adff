//! The file of acknowledged payments: one line each, `key id status`, written the moment the service has answered. What
//! stands in it must be found by `check` whatever happened to the service meanwhile.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, LineWriter, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};

/// One acknowledged payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The idempotency key it came under.
    pub key: String,
    /// The id that was answered.
    pub id: String,
    /// The status that was answered.
    pub status: String,
}

/// Writes them, each line on its own, from many tasks.
#[derive(Debug)]
pub struct Acknowledgements {
    file: Option<Mutex<LineWriter<File>>>,
}

impl Acknowledgements {
    /// Overwrites the file; without a path nothing is written.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?;
        Ok(Self { file: file.map(|file| Mutex::new(LineWriter::new(file))) })
    }

    /// Writes one. A line is under 200 bytes, so this holds its lock for microseconds.
    ///
    /// # Errors
    /// The file cannot be written: the run is worth nothing without it.
    pub fn write(&self, acknowledged: &Acknowledged) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let line = format!("{} {} {}\n", acknowledged.key, acknowledged.id, acknowledged.status);
        file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, a line has another form, or a key or an id stands twice: a key pays once, and a payment has one
/// key. An unfinished last line is an error too: the generator writes whole lines.
pub fn read(path: &Path) -> anyhow::Result<Vec<Acknowledged>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut all = Vec::new();
    let (mut keys, mut ids) = (HashSet::new(), HashSet::new());
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("read {}", path.display()))?;
        let number = index + 1;
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(key), Some(id), Some(status), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            bail!("{}:{number}: not \"key id status\"", path.display());
        };
        if !keys.insert(key.clone()) || !ids.insert(id.clone()) {
            bail!("{}:{number}: this key or this payment stands twice: {line}", path.display());
        }
        all.push(Acknowledged { key, id, status });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(key: &str, id: &str) -> Acknowledged {
        Acknowledged { key: key.to_owned(), id: id.to_owned(), status: "succeeded".to_owned() }
    }

    #[test]
    fn what_is_written_is_read_before_the_writer_is_closed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = Acknowledgements::create(Some(file.path())).unwrap();
        let all = [acknowledged("k1", "pay_1"), acknowledged("k2", "pay_2")];
        for one in &all {
            writer.write(one).unwrap();
        }
        assert_eq!(read(file.path()).unwrap(), all);
        drop(writer);
    }

    #[test]
    fn repeated_keys_payments_and_broken_lines_are_refused() {
        for (text, what) in [
            ("k1 pay_1 succeeded\nk1 pay_2 succeeded\n", ":2: this key"),
            ("k1 pay_1 succeeded\nk2 pay_1 succeeded\n", ":2: this key"),
            ("k1 pay_1\n", ":1: not"),
            ("k1 pay_1 succeeded more\n", ":1: not"),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let error = read(file.path()).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
