//! Why Redis did not do what it was asked, and what follows from it for the caller and the connection.
//! Refuses to repeat what a library or a server says about itself: addresses and passwords may be in it.

use std::fmt;

use redis::{RedisError, ServerError};

use super::tls::distrust;
use crate::{complaint::Outlook, tier::TierError};

/// A cause.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client library failed, or the server answered with an error.
    Redis(RedisError),
    /// Took longer than it may.
    Slow,
    /// An answer that is none.
    Unreadable,
    /// The server is a replica.
    NotPrimary,
    /// No one says where the primary is.
    Nowhere,
    /// The server reads its data from disk.
    Loading,
    /// TLS says that this is not who it should be, or the server says so of this end. Why.
    Untrusted(&'static str),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        distrust(&error).map_or(Self::Redis(error), Self::Untrusted)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Redis(error) => error.code().unwrap_or_else(|| error.category()),
            Self::Slow => "no answer in time",
            Self::Unreadable => "unreadable answer",
            Self::NotPrimary => "not a primary",
            Self::Nowhere => "no primary known",
            Self::Loading => "still reading its data",
            Self::Untrusted(why) => why,
        })
    }
}

impl Failure {
    /// What the caller is told.
    pub(super) fn told(&self) -> TierError {
        match self {
            Self::Redis(error) if error.is_timeout() => TierError::TimedOut,
            Self::Slow => TierError::TimedOut,
            Self::Redis(_) | Self::Unreadable | Self::Untrusted(_) => TierError::Failed,
            Self::NotPrimary | Self::Nowhere | Self::Loading => TierError::Down,
        }
    }

    pub(super) fn is_timeout(&self) -> bool {
        self.told() == TierError::TimedOut
    }

    /// True if no later command on the same connection can do better.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            Self::Redis(error) => {
                let unfit = error.code().is_some_and(is_unfit);
                unfit
                    || error.is_io_error()
                    || error.is_connection_dropped()
                    || error.is_unrecoverable_error()
            }
            Self::NotPrimary | Self::Loading | Self::Untrusted(_) => true,
            Self::Slow | Self::Unreadable | Self::Nowhere => false,
        }
    }

    /// Whether a connection that fails so may be made in a moment: a server that is not trusted stays so until somebody looks.
    pub(super) fn outlook(&self) -> Outlook {
        if matches!(self, Self::Untrusted(_)) { Outlook::Lasting } else { Outlook::Passing }
    }
}

/// Of the error itself: before Redis 7 what fails within a script is told as an `ERR` in whose words the code stands.
pub(super) fn code_of(error: &ServerError) -> &str {
    const NESTED: [&str; 6] = ["OOM", "NOREPLICAS", "MISCONF", "READONLY", "LOADING", "MASTERDOWN"];
    let details = error.details().filter(|_| error.code() == "ERR").unwrap_or_default();
    let Some((_, told)) = details.split_once("Error running script") else { return error.code() };
    let is_told = |code: &&&str| told.contains(&format!(" -{code} "));
    NESTED.iter().find(is_told).copied().unwrap_or_else(|| error.code())
}

/// True if a server that says so has been demoted, or is not ready to serve.
pub(super) fn is_unfit(code: &str) -> bool {
    matches!(code, "READONLY" | "LOADING" | "MASTERDOWN")
}

/// Where the server sends a caller who asked the wrong one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) kind: Turn,
    /// Empty if it is the host that was asked.
    pub(super) host: String,
    pub(super) port: u16,
}

/// For how long a redirection holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// For good.
    Moved,
    /// This once: the slot is on its way.
    Ask,
}

impl Redirect {
    pub(super) fn from_error(error: &ServerError) -> Option<Self> {
        let kind = match error.code() {
            "MOVED" => Turn::Moved,
            "ASK" => Turn::Ask,
            _ => return None,
        };
        let (host, port) = error.details()?.split(' ').nth(1)?.rsplit_once(':')?;
        Some(Self { kind, host: host.to_owned(), port: port.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn code_is_that_of_the_command_in_the_script_in_the_words_of_any_release() {
        let check = |line: &str, expected| {
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            let Value::ServerError(error) = value else { panic!("{value:?}") };
            assert_eq!(code_of(&error), expected, "{line}");
        };
        let nested = "ERR Error running script (call to f_0): @user_script:5: @user_script: 5: ";
        check(&format!("{nested}-OOM command not allowed when used memory > 'maxmemory'."), "OOM");
        check(&format!("{nested}-READONLY You can't write against a read only replica."), "READONLY");
        check(&format!("{nested}attempt to compare nil with number"), "ERR");
        check("OOM command not allowed when used memory > 'maxmemory'. script: 0, on @user_script:5.", "OOM");
        check("ERR unknown command '-OOM '", "ERR");
        check("WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE");
        check("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT");
    }
}
