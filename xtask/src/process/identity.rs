//! Which process is meant: a process id alone is reused by the kernel, so it is kept together with the
//! process's start time from `/proc/PID/stat`. Reads `/proc` only; starts and stops nothing.

use std::fs;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// Clock ticks since boot at which the process started.
    pub(crate) start_ticks: u64,
}

impl Identity {
    /// The process that has this number now; `None` when there is none, or only its corpse.
    pub(crate) fn of(pid: u32) -> Option<Identity> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_ticks) = parse_stat(&stat)?;
        (state != 'Z' && state != 'X').then_some(Identity { pid, start_ticks })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        Identity::of(self.pid) == Some(self)
    }
}

/// The arguments the process was started with (or its title, if it set one); empty when it is gone.
pub(crate) fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// State letter and start time of one `/proc/PID/stat` line. The name in parentheses may itself hold
/// spaces and parentheses, so fields are counted from the last `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; the state is field 3.
    let start_ticks = fields.nth(18)?.parse().ok()?;
    Some((state, start_ticks))
}

#[cfg(test)]
mod tests {
    use super::{Identity, command_line, parse_stat};

    #[test]
    fn stat_line_with_a_hostile_name_is_read() {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2000";
        assert_eq!(parse_stat(line), Some(('S', 987_654)));
    }

    #[test]
    fn cut_stat_line_is_refused() {
        assert_eq!(parse_stat("42 (name) S 1 42"), None);
        assert_eq!(parse_stat("garbage"), None);
    }

    #[test]
    fn own_process_is_alive_and_a_reused_number_is_not_taken_for_it() {
        let own = Identity::of(std::process::id()).expect("this process runs");
        assert!(own.is_alive());
        let earlier = Identity { start_ticks: own.start_ticks + 1, ..own };
        assert!(!earlier.is_alive());
        assert!(!command_line(own.pid).is_empty());
    }
}
