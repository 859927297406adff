//! What the figures were measured on. Reads `/proc`; a fact that cannot be read is told as "unknown", never guessed.

use std::fs;
use std::time::Duration;

/// The machine, as far as it matters to a reader of a figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Of memory, in bytes; 0 when not known.
    pub memory_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// Settings of the database that decide what a commit costs, as (name, value); the version stands first.
    pub postgres: Vec<(&'static str, String)>,
}

/// What decides what a durable commit costs.
const POSTGRES_SETTINGS: [&str; 7] = [
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
    "max_wal_size",
];

impl Machine {
    /// Looks at this machine, and at the database behind `client`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn look(client: &tokio_postgres::Client) -> Result<Self, tokio_postgres::Error> {
        let mut postgres = Vec::with_capacity(POSTGRES_SETTINGS.len());
        for name in POSTGRES_SETTINGS {
            let row = client.query_one("SELECT current_setting($1, true)", &[&name]).await?;
            postgres.push((name, row.get::<_, Option<String>>(0).unwrap_or_else(unknown)));
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            cpu: cpu_model(&read("/proc/cpuinfo")).unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: memory_bytes(&read("/proc/meminfo")).unwrap_or(0),
            kernel: Some(read("/proc/sys/kernel/osrelease").trim().to_owned())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(unknown),
            postgres,
        })
    }

    /// A setting of the database, as it was when the run began.
    #[must_use]
    pub fn postgres_setting(&self, name: &str) -> Option<&str> {
        self.postgres.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Asserts that commits are flushed.
    ///
    /// # Errors
    /// When `fsync` is off: figures of writes are void then.
    pub fn ensure_durable(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.postgres_setting("fsync") == Some("on"),
            "fsync is off: a figure without durability is void"
        );
        Ok(())
    }
}

/// Busy and total time of all processors since the start, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorTime {
    busy: u64,
    total: u64,
}

impl ProcessorTime {
    /// Now; `None` where `/proc` does not tell.
    #[must_use]
    pub fn now() -> Option<Self> {
        processor_time(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The part of the time since `earlier` in which processors were busy, in percent.
    #[must_use]
    pub fn busy_percent_since(self, earlier: Self) -> u64 {
        let total = self.total.saturating_sub(earlier.total).max(1);
        self.busy.saturating_sub(earlier.busy) * 100 / total
    }
}

fn processor_time(stat: &str) -> Option<ProcessorTime> {
    // user nice system idle iowait irq softirq steal; guest time is counted in user already.
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    let total: u64 = ticks.iter().sum();
    Some(ProcessorTime { busy: total - idle, total })
}

/// How long the idle machine is looked at.
const QUIET_LOOK: Duration = Duration::from_secs(1);
/// The services' own background work stays under it; a compiler does not.
const OTHERS_BUSY_PERCENT_MAX: u64 = 15;

/// What else this machine is doing, looked at while the suite itself does nothing: a note for the report.
pub async fn others_busy() -> String {
    let before = ProcessorTime::now();
    tokio::time::sleep(QUIET_LOOK).await;
    match before.zip(ProcessorTime::now()) {
        Some((before, after)) => {
            let percent = after.busy_percent_since(before);
            let warning = if percent > OTHERS_BUSY_PERCENT_MAX { ": DO NOT QUOTE these figures" } else { "" };
            format!("before the run other programs kept the processors {percent} % busy{warning}")
        }
        None => "whether other programs kept the processors busy is not known".to_owned(),
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    // "model name" on x86; ARM names no model but a part number.
    let lines = || cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let of = |wanted: &str| {
        lines().find(|(name, _)| name.trim() == wanted).map(|(_, value)| value.trim().to_owned())
    };
    of("model name").or_else(|| of("CPU part").map(|part| format!("ARM part {part}")))
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_is_named_on_both_families() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: Fast CPU @ 2GHz\n").as_deref(),
            Some("Fast CPU @ 2GHz")
        );
        assert_eq!(cpu_model("processor\t: 0\nCPU part\t: 0xd40\n").as_deref(), Some("ARM part 0xd40"));
        assert_eq!(cpu_model(""), None);
    }

    #[test]
    fn waiting_for_disks_is_not_busy() {
        let earlier = processor_time("cpu  10 0 10 80 0 0 0 0 0 0\ncpu0 1 1 1 1\n").unwrap();
        let later = processor_time("cpu  30 0 20 130 20 0 0 0 30 0\n").unwrap();
        // Of the next 100 ticks 20 were user, 10 system, 50 idle, 20 waiting.
        assert_eq!(later.busy_percent_since(earlier), 30);
        assert_eq!(later.busy_percent_since(later), 0);
        assert_eq!(processor_time("cpu0 1 2 3 4 5\n"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(memory_bytes("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16_384));
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
    }
}
