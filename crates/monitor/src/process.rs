//! Figures of this process from `/proc/self`: processor time, memory, descriptors, threads, start.
//! Elsewhere than on Linux, or where `/proc` is not mounted, there are none. Called by `monitor` per exposition.

use std::fs;

/// The kernel counts processor time for user space in hundredths of a second, on every architecture Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the kernel says about this process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProcessFigures {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) threads: u64,
    /// Since 1970.
    pub(crate) start_seconds: f64,
    pub(crate) open_descriptors: Option<usize>,
}

/// Reads three files and a directory that the kernel makes up in memory.
pub(crate) fn read() -> Option<ProcessFigures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let figures = parse(&stat, &status, &boot)?;
    // The directory that is being listed is one of them.
    let open_descriptors =
        fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1));
    Some(ProcessFigures { open_descriptors, ..figures })
}

fn parse(stat: &str, status: &str, boot: &str) -> Option<ProcessFigures> {
    // The second field is the program's name in brackets, which may itself hold blanks and brackets.
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    // proc_pid_stat(5) counts from one and the name is the second: `fields[0]` is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let (user_ticks, system_ticks, start_ticks) = (field(14)?, field(15)?, field(22)?);
    Some(ProcessFigures {
        cpu_seconds: (user_ticks + system_ticks) as f64 / TICKS_PER_SECOND,
        resident_bytes: value_of(status, "VmRSS:")? * 1_024,
        virtual_bytes: value_of(status, "VmSize:")? * 1_024,
        threads: value_of(status, "Threads:")?,
        start_seconds: value_of(boot, "btime ")? as f64 + start_ticks as f64 / TICKS_PER_SECOND,
        open_descriptors: None,
    })
}

fn value_of(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_taken_from_the_right_fields_whatever_the_name_of_the_program() {
        let stat = "4711 (pay ) strata) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 6 18 12345 20 21";
        let status = "Name:\tpay\nVmSize:\t    2048 kB\nVmRSS:\t     512 kB\nThreads:\t6\n";
        let boot = "cpu 1 2 3\nbtime 1700000000\nprocesses 5\n";
        let expected = ProcessFigures {
            cpu_seconds: 3.0,
            resident_bytes: 512 * 1_024,
            virtual_bytes: 2_048 * 1_024,
            threads: 6,
            start_seconds: 1_700_000_123.45,
            open_descriptors: None,
        };
        assert_eq!(parse(stat, status, boot), Some(expected));
    }

    #[test]
    fn what_cannot_be_read_gives_no_figures() {
        assert_eq!(parse("", "", ""), None);
        assert_eq!(parse("1 (a) S 1", "Threads: 1", "btime 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_a_thread_and_a_descriptor_more_when_a_file_is_open() {
        let before = read().unwrap();
        assert!(before.resident_bytes > 0 && before.threads > 0 && before.start_seconds > 1.0e9);
        let _files: Vec<_> = (0..50).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        // Others of this process may close some meanwhile, but not fifty.
        assert!(read().unwrap().open_descriptors > before.open_descriptors);
    }
}
