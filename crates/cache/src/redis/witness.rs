//! Who is at the other end of a connection, and what time it is there: asked when a connection is made
//! and again every second, because nothing that one server remembers may be believed by another.
//!
//! A server is known by its run id together with its replication id: the first changes when it is
//! restarted, the second when it is promoted. Whatever was lost with a restart or a failover was lost
//! under another witness, and so nothing that is read under this one can be older than it looks.
//! Refuses to use any clock but the server's and this process's monotonic one. Called by `link`.

use std::{sync::LazyLock, time::Duration};

use redis::{
    Pipeline, Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::time::Instant;

use super::failure::Failure;

/// From when this process counts.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Names one life of one server as a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ServerId(pub(super) [u8; 8]);

impl ServerId {
    /// FNV-1a of both: every node must come to the same, whichever release it runs.
    fn of(run_id: &str, history: &str) -> Self {
        let bytes = run_id.bytes().chain(Some(0)).chain(history.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash.to_be_bytes())
    }
}

/// Whether a claim takes a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claiming {
    /// `SET .. NX GET`, which reads or claims: Redis 7.
    Native,
    /// Redis 6.
    Script,
}

/// What a server tells about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) id: ServerId,
    pub(super) claiming: Claiming,
    /// For how long it has been running.
    pub(super) uptime: Duration,
    /// It took over from another, at a time that it does not tell.
    pub(super) was_promoted: bool,
    /// What to add to this process's time to have the server's, in milliseconds. Never too little.
    pub(super) offset_ms: u64,
}

/// Milliseconds of this process.
pub(super) fn local_ms() -> u64 {
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Witness {
    /// Asks. One round trip.
    ///
    /// # Errors
    ///
    /// If there is no answer, or if this is no primary that is ready to serve.
    pub(super) async fn ask(connection: &mut MultiplexedConnection) -> Result<Self, Failure> {
        let mut questions = Pipeline::with_capacity(4);
        questions.cmd("TIME");
        for section in ["server", "replication", "persistence"] {
            questions.cmd("INFO").arg(section);
        }
        // The server reads its clock later than this, so that the sum is never too early.
        let sent_ms = local_ms();
        let answers = connection.req_packed_commands(&questions, 0, 4).await?;
        let [time, server, replication, persistence] =
            <[Value; 4]>::try_from(answers).map_err(|_| Failure::Unreadable)?;
        if fact(&text(persistence), "loading").is_some_and(|loading| loading != "0") {
            // It answers this much, and nothing else.
            return Err(Failure::Loading);
        }
        let server_ms = server_ms(time).ok_or(Failure::Unreadable)?;
        Self::from_facts(&text(server), &text(replication), server_ms.saturating_sub(sent_ms))
    }

    fn from_facts(server: &str, replication: &str, offset_ms: u64) -> Result<Self, Failure> {
        if fact(replication, "role").is_some_and(|role| role != "master") {
            return Err(Failure::NotPrimary);
        }
        let run_id = fact(server, "run_id").unwrap_or_else(|| {
            tracing::warn!("redis does not tell its run id, a restart with old data would go unnoticed");
            "unknown"
        });
        let history = fact(replication, "master_replid").unwrap_or("unknown");
        let major =
            fact(server, "redis_version").and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        let uptime = fact(server, "uptime_in_seconds").and_then(|seconds| seconds.parse().ok());
        let former = fact(replication, "master_replid2").unwrap_or_default();
        Ok(Self {
            id: ServerId::of(run_id, history),
            claiming: if major >= Some(7) { Claiming::Native } else { Claiming::Script },
            uptime: Duration::from_secs(uptime.unwrap_or(0)),
            was_promoted: former.bytes().any(|digit| digit != b'0'),
            offset_ms,
        })
    }
}

fn fact<'a>(facts: &'a str, name: &str) -> Option<&'a str> {
    facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn text(value: Value) -> String {
    redis::from_redis_value(value).unwrap_or_default()
}

fn server_ms(time: Value) -> Option<u64> {
    let (seconds, micros): (String, String) = redis::from_redis_value(time).ok()?;
    Some(seconds.parse::<u64>().ok()? * 1_000 + micros.parse::<u64>().ok()? / 1_000 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "redis_version:7.0.15\r\nrun_id:aa\r\nuptime_in_seconds:12\r\n";
    const PRIMARY: &str = "role:master\r\nmaster_replid:bb\r\nmaster_replid2:0000\r\n";

    fn witness(server: &str, replication: &str) -> Witness {
        Witness::from_facts(server, replication, 5).unwrap()
    }

    #[test]
    fn server_is_another_after_a_restart_and_after_a_promotion() {
        let one = witness(SERVER, PRIMARY);
        assert_eq!(
            (one.claiming, one.uptime, one.was_promoted),
            (Claiming::Native, Duration::from_secs(12), false)
        );
        assert_eq!(one.id, witness(SERVER, PRIMARY).id);
        assert_ne!(one.id, witness(&SERVER.replace("aa", "ab"), PRIMARY).id);
        assert_ne!(one.id, witness(SERVER, &PRIMARY.replace("bb", "bc")).id);
        assert!(witness(SERVER, &PRIMARY.replace("0000", "bb00")).was_promoted);
        assert_eq!(witness(&SERVER.replace("7.0", "6.2"), PRIMARY).claiming, Claiming::Script);
    }

    #[test]
    fn replica_is_refused_and_silence_is_taken_for_the_worst() {
        assert!(matches!(
            Witness::from_facts(SERVER, &PRIMARY.replace("master", "slave"), 0),
            Err(Failure::NotPrimary)
        ));
        let silent = witness("", "");
        assert_eq!((silent.claiming, silent.uptime), (Claiming::Script, Duration::ZERO));
    }
}
