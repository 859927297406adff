//! Why a connection of a tier or a line cannot be made, told so that somebody sees it: each cause once, until there is a connection
//! again. Called by those who keep connections up.

use std::fmt::Display;

/// Causes that take turns and are told once each: the addresses of one name may fail differently.
const TOLD_MAX: usize = 8;

/// What has been told of one connection.
#[derive(Debug)]
pub(crate) struct Complaint {
    of: &'static str,
    told: Vec<String>,
}

/// Whether what is in the way may go by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlook {
    Passing,
    /// Somebody must see to it.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only certificates are known to stay as they are")
    )]
    Lasting,
}

impl Complaint {
    pub(crate) fn of(of: &'static str) -> Self {
        Self { of, told: Vec::new() }
    }

    pub(crate) fn tell(&mut self, cause: &impl Display, outlook: Outlook) {
        let (of, cause) = (self.of, cause.to_string());
        if self.told.contains(&cause) {
            tracing::debug!(of, cause, "still no connection");
            return;
        }
        match outlook {
            Outlook::Passing => tracing::warn!(of, cause, "no connection, loads go straight to their source"),
            Outlook::Lasting => tracing::error!(of, cause, "no connection until somebody sees to it"),
        }
        if self.told.len() == TOLD_MAX {
            self.told.remove(0);
        }
        self.told.push(cause);
    }

    pub(crate) fn connected(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_cause_is_told_once_until_there_is_a_connection() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _heard = tracing::subscriber::set_default(subscriber);
        let mut complaint = Complaint::of("redis");
        for _ in 0..3 {
            complaint.tell(&"refused", Outlook::Passing);
            complaint.tell(&"not trusted", Outlook::Lasting);
        }
        complaint.connected();
        complaint.tell(&"refused", Outlook::Passing);
        let told = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines = |level: &str, cause: &str| {
            told.lines().filter(|line| line.contains(level) && line.contains(cause)).count()
        };
        assert_eq!((lines("WARN", "refused"), lines("ERROR", "not trusted")), (2, 1), "{told}");
        assert_eq!(told.lines().count(), 3, "{told}");
    }
}
