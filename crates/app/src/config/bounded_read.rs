//! Reading a small text file with a bound on its size.
//!
//! Refuses to load what cannot be a configuration: a file over the bound or not UTF-8. Called for the TOML file,
//! for files with secrets, and by `hot_keys` for the file that it keeps.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A configuration of every setting is under 10 KiB, and a long blocklist under 1 MiB; a larger file is a
/// mistake, such as a device.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why a file gave no text.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is larger than any configuration.
    #[error("larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It holds bytes that are not text.
    #[error("not UTF-8 text")]
    NotText,
    /// It holds nothing, which a file with a secret never does on purpose.
    #[error("empty")]
    Empty,
}

impl ReadError {
    /// Whether there is no such file, as against one that cannot be used.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// The text of the file.
pub(crate) fn read_text(path: &Path) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(read).is_ok_and(|read| read > FILE_BYTES_MAX) {
        return Err(ReadError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| ReadError::NotText)
}
