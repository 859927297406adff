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
        match outlook {
            _ if !self.is_news(&cause) => tracing::debug!(of, cause, "still no connection"),
            Outlook::Passing => tracing::warn!(of, cause, "no connection, loads go straight to their source"),
            Outlook::Lasting => tracing::error!(of, cause, "no connection until somebody sees to it"),
        }
    }

    /// Takes note of a cause; false if it was told before.
    fn is_news(&mut self, cause: &str) -> bool {
        if self.told.iter().any(|told| told == cause) {
            return false;
        }
        if self.told.len() == TOLD_MAX {
            self.told.remove(0);
        }
        self.told.push(cause.to_owned());
        true
    }

    pub(crate) fn connected(&mut self) {
        self.told.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_until_there_is_a_connection() {
        let mut complaint = Complaint::of("redis");
        let causes = ["refused", "not trusted", "refused", "not trusted"];
        assert_eq!(causes.map(|cause| complaint.is_news(cause)), [true, true, false, false]);
        complaint.connected();
        assert!(complaint.is_news("refused"));
        // Of so many that take turns the oldest is told again.
        assert_eq!((1..=TOLD_MAX).filter(|number| complaint.is_news(&number.to_string())).count(), TOLD_MAX);
        assert!(complaint.is_news("refused"));
    }
}
