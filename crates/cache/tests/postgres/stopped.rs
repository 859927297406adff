//! A listening connection whose server process is stopped, as on a host that hangs: it does not end, it falls silent. What
//! whole caches over it do, that share a line and no tier.

use std::{convert::Infallible, fs, process::Command, sync::Arc, time::Duration};

use paystrata_cache::{
    Cache, LineOptions, Policy, Silence, Version,
    postgres::{PostgresOptions, PostgresTier},
};

use crate::{
    server::{Bed, LIMIT, Plain, Private, until},
    whole::{self, Numbers, read},
};

/// How old a value may be without word of the others.
const BOUND: Duration = Duration::from_secs(10);

/// A connection of its own for a node, under the node's name among those of the server.
fn line(bed: &Bed, node: &str, silence_max: Duration) -> Arc<PostgresTier> {
    let mut config = bed.config.clone();
    config.application_name(node);
    let options = PostgresOptions {
        schema: bed.schema.clone(),
        command_timeout: LIMIT,
        connect_timeout: LIMIT,
        silence_max,
        ..PostgresOptions::default()
    };
    Arc::new(PostgresTier::connect(config, options).unwrap())
}

/// A cache on the line, once it has heard of it.
async fn node(line: &Arc<PostgresTier>, policy: Policy) -> Numbers {
    let ttl = Duration::from_secs(3_600);
    let cache = Cache::builder("stopped")
        .policy(Policy { ttl, load_timeout: LIMIT, ..policy })
        .backplane_with(
            Arc::<PostgresTier>::clone(line),
            LineOptions { timeout: LIMIT, heartbeat: Duration::from_millis(50) },
        )
        .build();
    whole::until("the line is heard", || cache.stats().backplane_silence.is_some()).await;
    cache
}

fn signal(name: &str, process: i32) -> bool {
    let status = Command::new("kill").args([name, &process.to_string()]).status();
    status.is_ok_and(|status| status.success())
}

/// A server process that does nothing until this is dropped.
struct Stopped(i32);

impl Stopped {
    /// The one that serves the listening connection of a node.
    async fn ear_of(bed: &Bed, node: &str) -> Self {
        let plain = bed.plain().await;
        let mut stopped = None;
        until(async || {
            let Some(ear) = ear(&plain, node).await.filter(|ear| signal("-STOP", *ear)).map(Self) else {
                return false;
            };
            until(async || ear.is_stopped()).await;
            // One that is stopped in the middle of its work may hold what everybody waits for: then it is let go on.
            let waits =
                "SELECT coalesce(wait_event = 'ClientRead', false) FROM pg_stat_activity WHERE pid = $1";
            let row = plain.client.query_opt(waits, &[&ear.0]).await.unwrap();
            stopped = row.is_some_and(|row| row.get(0)).then_some(ear);
            stopped.is_some()
        })
        .await;
        stopped.unwrap()
    }

    fn is_stopped(&self) -> bool {
        let facts = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The state comes after the name, which stands in parentheses.
        facts.rsplit_once(") ").is_some_and(|(_, facts)| facts.starts_with('T'))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", self.0);
    }
}

/// The process that serves the listening connection of a node: of the node's connections it is the one that has last been told
/// to listen, or has been asked whether it lives.
async fn ear(plain: &Plain, node: &str) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity \
               WHERE application_name = $1 AND (query LIKE 'LISTEN%' OR query = '')";
    let ears = plain.client.query(sql, &[&node]).await.unwrap();
    let [ear] = &ears[..] else { return None };
    Some(ear.get(0))
}

// T61
#[tokio::test]
async fn node_whose_ear_hangs_serves_nothing_older_than_the_bound_as_if_it_were_fresh() {
    let server = Private::start().await;
    let bed = Bed::on(server.config()).await;
    // The connection is given up long after the bound, and after the end of this test.
    let (here, there) = (line(&bed, "here", LIMIT), line(&bed, "there", LIMIT));
    let bounded = || Policy { max_stale: BOUND, ..Policy::default() };
    let refuses = node(&here, bounded()).await;
    let serves = node(&here, Policy { on_silence: Silence::Serve, ..bounded() }).await;
    let other = node(&there, bounded()).await;
    for cache in [&refuses, &serves] {
        assert_eq!(read(cache, "k", 1).await, Some(1));
    }
    let hangs = Stopped::ear_of(&bed, "here").await;
    drop(other.invalidate_many(["k"], Version(5)));
    whole::until("it is announced", || other.stats().pending_invalidations == 0).await;
    whole::until("what nobody vouches for is refused", || refuses.get("k").is_none()).await;
    whole::until("or flagged", || serves.get_stale("k").is_some_and(|found| found.is_stale)).await;
    for cache in [&refuses, &serves] {
        let stats = cache.stats();
        assert_eq!(stats.remote_invalidations, 0, "nobody has told it");
        assert!(stats.backplane_silence >= Some(BOUND), "{:?}", stats.backplane_silence);
    }
    let load = |_| async { Ok::<_, Infallible>(Some(9)) };
    let found = serves.get_or_load_entry("k", load).await.unwrap();
    assert_eq!((found.value, found.is_stale), (Some(1), true));
    assert_eq!(read(&refuses, "k", 2).await, Some(2));

    assert!(hangs.is_stopped());
    drop(hangs);
    for cache in [&refuses, &serves] {
        whole::until("what was missed is heard", || cache.stats().remote_invalidations == 1).await;
        whole::until("pulses go round", || cache.stats().backplane_silence < Some(BOUND)).await;
        assert_eq!(read(cache, "k", 3).await, Some(3));
    }
}

// T61
#[tokio::test]
async fn ear_that_hangs_is_replaced_and_what_it_has_missed_and_what_is_new_are_heard() {
    let server = Private::start().await;
    let bed = Bed::on(server.config()).await;
    let (here, there) = (line(&bed, "here", BOUND / 2), line(&bed, "there", LIMIT));
    // The bound is not what voids anything here.
    let patient = || Policy { max_stale: LIMIT, ..Policy::default() };
    let (one, other) = (node(&here, patient()).await, node(&there, patient()).await);
    for key in ["missed", "new", "left"] {
        assert_eq!(read(&one, key, 1).await, Some(1));
    }
    let hangs = Stopped::ear_of(&bed, "here").await;
    drop(other.invalidate_many(["missed"], Version(5)));
    whole::until("what was missed is heard", || one.stats().remote_invalidations == 1).await;
    assert_eq!((one.get("missed"), one.get("new")), (None, Some(1)));
    drop(other.invalidate_many(["new"], Version(6)));
    whole::until("what is new is heard", || one.stats().remote_invalidations == 2).await;
    assert_eq!((one.get("new"), one.get("left")), (None, Some(1)));
    assert!(hangs.is_stopped(), "it was another connection");
    assert_eq!(one.stats().gaps, 0);
}
