//! Which accounts and payments are read most, kept in a file over a restart, so that the next process has them in memory before
//! anybody asks. The file holds ids and nothing that was read: documents are read again. Delays nobody and fails nobody: what
//! cannot be written or read is logged, and done without. Called by `serve`, at the end and behind the start.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::app::App;
use crate::config::read_text;
use crate::documents::{Document, HotKeys, ReadError};
use crate::{accounts, payments};

/// The first line of the file.
const TITLE: &str = "paystrata hot keys 1";
/// Of each kind: as many as a cache tells apart.
const KEYS_MAX: usize = 512;
/// Between two reads, one at a time: ten seconds for a full file, and a hundred reads a second are little beside what callers ask.
const EVERY: Duration = Duration::from_millis(10);
/// Longest wait for the shared tiers and the line: documents come from memory, too, while those are away.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// Writes down what is read most, where the configuration names a file. If nothing was read often, the file stays as it is.
pub async fn keep(app: &App) {
    let Some(path) = app.config.cache.hot_keys_path.clone() else { return };
    let keys = app.documents.hot_keys(KEYS_MAX);
    let (accounts, payments) = (keys.accounts.len(), keys.payments.len());
    if accounts + payments == 0 {
        return;
    }
    let shown = path.display().to_string();
    let written = spawn_blocking(move || replace(&path, &spelled(&keys))).await;
    match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(()) => tracing::info!(path = shown, accounts, payments, "hot keys are kept"),
        Err(error) => tracing::warn!(path = shown, %error, "keep hot keys"),
    }
}

/// Reads what the process before has read most, one after the other, at a pace that nobody notices. Dropped, it leaves what it
/// has done.
pub async fn refill(app: &App) {
    let Some(path) = app.config.cache.hot_keys_path.clone().filter(|_| app.config.cache.enabled) else {
        return;
    };
    let Some(keys) = kept(path).await else { return };
    let _all_or_what_is_up = app.documents.ready(READY_LIMIT).await;
    let mut beat = interval(EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = Count::default();
    for id in keys.accounts {
        beat.tick().await;
        count.add(&accounts::get::cached(app, id).await);
    }
    for (merchant, id) in keys.payments {
        beat.tick().await;
        count.add(&payments::get::cached(app, merchant, id).await);
    }
    let Count { found, gone, failed } = count;
    tracing::info!(found, gone, failed, "hot keys are read again");
}

/// What became of the keys of a file.
#[derive(Debug, Default)]
struct Count {
    found: u64,
    gone: u64,
    failed: u64,
}

impl Count {
    fn add(&mut self, read: &Result<Option<Arc<Document>>, ReadError>) {
        match read {
            Ok(Some(_)) => self.found += 1,
            Ok(None) => self.gone += 1,
            Err(_) => self.failed += 1,
        }
    }
}

/// What the file holds, if there is one that this version understands.
async fn kept(path: PathBuf) -> Option<HotKeys> {
    let shown = path.display().to_string();
    let text = match spawn_blocking(move || read_text(&path)).await.ok()? {
        Ok(text) => text,
        Err(error) if error.is_not_found() => {
            tracing::info!(path = shown, "no hot keys are kept yet");
            return None;
        }
        Err(error) => {
            tracing::warn!(path = shown, %error, "read hot keys");
            return None;
        }
    };
    let keys = parsed(&text);
    if keys.is_none() {
        tracing::warn!(path = shown, "the file holds no hot keys of this version");
    }
    keys
}

/// A title, and a line for each key.
fn spelled(keys: &HotKeys) -> String {
    let mut text = format!("{TITLE}\n");
    for id in &keys.accounts {
        writeln!(text, "{id}").expect("a string takes every line");
    }
    for (merchant, id) in &keys.payments {
        writeln!(text, "{merchant} {id}").expect("a string takes every line");
    }
    text
}

/// The keys, or `None` if the file is anything else; those over the bound are left out.
fn parsed(text: &str) -> Option<HotKeys> {
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return None;
    }
    let mut keys = HotKeys::default();
    for line in lines {
        match line.split_once(' ') {
            None => keys.accounts.push(line.parse().ok()?),
            Some((merchant, id)) => keys.payments.push((merchant.parse().ok()?, id.parse().ok()?)),
        }
    }
    keys.accounts.truncate(KEYS_MAX);
    keys.payments.truncate(KEYS_MAX);
    Some(keys)
}

/// In one step: whoever reads meanwhile finds the old file or the new one, and either is whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // Who pays whom is nobody else's business on this machine.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use crate::ids::{AccountId, MerchantId, PaymentId};

    use super::*;

    fn some_keys() -> HotKeys {
        HotKeys {
            accounts: vec![AccountId::new(), AccountId::new()],
            payments: vec![(MerchantId::new(), PaymentId::new())],
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_again_in_its_order_and_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hot");
        assert_eq!(kept(path.clone()).await, None, "there is no file");
        for keys in [some_keys(), HotKeys::default(), some_keys()] {
            replace(&path, &spelled(&keys)).unwrap();
            assert_eq!(kept(path.clone()).await, Some(keys));
        }
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names, ["hot"], "nothing is left beside it");
    }

    #[test]
    fn what_is_no_file_of_ours_is_not_read_in_part() {
        let text = spelled(&some_keys());
        for (wrong, why) in [
            (String::new(), "empty"),
            (text.replacen('1', "2", 1), "another version"),
            (format!("{text}acc_1\n"), "an id that is none"),
            (format!("{text}{} {}\n", MerchantId::new(), AccountId::new()), "an id of another kind"),
            (text[..text.len() - 2].to_owned(), "cut off"),
        ] {
            assert_eq!(parsed(&wrong), None, "{why}");
        }
    }

    #[test]
    fn a_long_file_is_read_up_to_the_bound() {
        let accounts: Vec<AccountId> = (0..=KEYS_MAX).map(|_| AccountId::new()).collect();
        let keys = HotKeys { accounts: accounts.clone(), payments: Vec::new() };
        let read = parsed(&spelled(&keys)).expect("a file of ours");
        assert_eq!(read.accounts, accounts[..KEYS_MAX]);
    }
}
