//! Futures dropped at every poll index: after each, all places of the pool are free, the server runs nothing for us, the
//! next borrowers are served, and no transaction is there by half.

use std::future::poll_fn;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::Poll;

use paystrata_db::tokio_postgres::Row;
use paystrata_db::{Batcher, CoalesceOptions, Db, Error, Loader, Statement, Token, TransactionOptions, Type};

use crate::support::{Bed, ONE, Plain, config, count, until, until_count, with_database};

/// Several reads of the socket, and time on the server.
static ROWS: Statement =
    Statement::new("SELECT i, repeat('x', 100) FROM generate_series(1, 3000) AS i, pg_sleep(0.003)", &[]);
static ADD: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT8]);
static ADD_MANY: Statement =
    Statement::new("INSERT INTO note SELECT unnest($1::bigint[])", &[Type::INT8_ARRAY]);
static FIND: Statement =
    Statement::new("SELECT body, body FROM note WHERE body = ANY($1)", &[Type::INT8_ARRAY]);
const SIZE: usize = 3;
/// More polls than any of these futures takes; a future that takes more never ends.
const POLLS_MAX: usize = 10_000;

/// Drops `future` when it was polled `polls` times without an end. At 0 it is never polled.
pub(crate) async fn dropped_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut polled = 0;
    poll_fn(move |context| {
        if polled < polls {
            polled += 1;
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
        }
        if polled == polls { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// Numbers of polls, one by one up to `dense` and then further and further apart: for futures of many polls, each run of which takes
/// long.
pub(crate) fn strides(dense: usize) -> impl Iterator<Item = usize> {
    let longer = move |polls: &usize| Some(polls + 1 + polls / dense);
    std::iter::successors(Some(0), longer).take_while(|polls| *polls < POLLS_MAX)
}

/// Runs what `begin` makes again and again, each time dropped one poll later, until it ends by itself; `check` looks after
/// each drop.
pub(crate) async fn at_every_poll<Begun: Future, Checked: Future<Output = ()>>(
    db: &Db,
    admin: &Plain,
    begin: impl Fn(i64) -> Begun,
    check: impl Fn(i64, bool) -> Checked,
) {
    at_polls(0..POLLS_MAX, db, admin, begin, check).await;
}

/// As [`at_every_poll`], after so many polls each time.
pub(crate) async fn at_polls<Begun: Future, Checked: Future<Output = ()>>(
    numbers: impl Iterator<Item = usize>,
    db: &Db,
    admin: &Plain,
    begin: impl Fn(i64) -> Begun,
    check: impl Fn(i64, bool) -> Checked,
) {
    for polls in numbers {
        let run = i64::try_from(polls).expect("few polls");
        let is_done = dropped_after(polls, begin(run)).await.is_some();
        whole(db, admin).await;
        check(run, is_done).await;
        if is_done {
            return;
        }
    }
    panic!("it never ended");
}

/// All places are free, the next borrowers are served and meet no cancel, and no server process is busy for us.
pub(crate) async fn whole(db: &Db, admin: &Plain) {
    let mut taken = Vec::new();
    for _ in 0..SIZE {
        let connection = db.write().await.expect("every place is free");
        connection.query_one(&ONE, &[]).await.expect("it meets nothing of what was dropped");
        taken.push(connection);
    }
    drop(taken);
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'paystrata-db' AND state <> 'idle'";
    until_count(admin, busy, 0).await;
    // A batch that its caller left may still be on its way.
    until(db, |status| status.nodes[0].pool.in_use == 0 && status.nodes[0].pool.size <= SIZE).await;
}

async fn written(admin: &Plain, run: i64) -> i64 {
    count(admin, &format!("SELECT count(*) FROM note WHERE body = {run}")).await
}

/// A `Db` with so few places that [`whole`] takes them all.
pub(crate) async fn few(bed: &Bed) -> Db {
    let mut config = bed.config();
    config.pool_size_max = SIZE;
    Db::connect(config).await.expect("connect")
}

/// A `Db` of which only the client's own acts can end what is abandoned.
async fn ground(bed: &Bed) -> Db {
    let url = format!("{}?options=-c%20client_connection_check_interval%3D0", bed.primary_url());
    let mut config = config(&url);
    config.pool_size_max = SIZE;
    let create = "CREATE TABLE note (body bigint)";
    bed.admin().await.client.batch_execute(create).await.expect("create the table");
    Db::connect(config).await.expect("connect")
}

#[test]
fn queries_are_dropped_at_every_poll() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        let begin = |_| async { db.write().await?.query(&ROWS, &[]).await.map(|rows| rows.len()) };
        at_every_poll(&db, &admin, begin, |_, _| async {}).await;
        assert!(db.status().swept > 0, "some were dropped while they ran");
    });
}

#[test]
fn executed_writes_are_dropped_at_every_poll() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        let begin = |run| {
            let db = &db;
            async move { db.write().await?.execute(&ADD, &[&run]).await }
        };
        let check = |run, is_done: bool| {
            let admin = &admin;
            async move {
                let written = written(admin, run).await;
                assert!(written <= 1 && (!is_done || written == 1), "run {run} is there {written} times");
            }
        };
        at_every_poll(&db, &admin, begin, check).await;
    });
}

#[test]
fn transactions_dropped_at_every_poll_are_there_whole_or_not_at_all() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        // The last run whose closure came to its end: without that nothing may be committed.
        let ended = AtomicI64::new(-1);
        let begin = |run| {
            let ended = &ended;
            db.transaction(TransactionOptions::default(), move |tx| async move {
                tx.execute(&ADD, &[&run]).await?;
                tx.execute(&ADD, &[&run]).await?;
                ended.store(run, Ordering::Release);
                Ok::<_, Error>(())
            })
        };
        let check = |run, is_done: bool| {
            let (admin, ended) = (&admin, &ended);
            async move {
                let written = written(admin, run).await;
                let may_be_there = ended.load(Ordering::Acquire) == run;
                assert!(written == 0 || (written == 2 && may_be_there), "run {run} is there {written} times");
                assert!(!is_done || written == 2, "run {run} ended and is there {written} times");
            }
        };
        at_every_poll(&db, &admin, begin, check).await;
    });
}

#[test]
fn causal_reads_are_dropped_at_every_poll() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        // No replica has it: the read takes a permit of the primary besides the connection.
        let token = Token { timeline: db.timeline(), lsn: u64::MAX };
        let begin = |_| async { db.read_after(token).await?.query(&ROWS, &[]).await.map(|rows| rows.len()) };
        let check = |_, _| async {
            db.read_after(token).await.expect("every read permit is free");
        };
        at_every_poll(&db, &admin, begin, check).await;
    });
}

#[test]
fn batched_reads_are_dropped_at_every_poll() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let loader: Loader<i64, i64> =
            Loader::new(&db, &FIND, CoalesceOptions::default(), read).expect("a loader");
        let check = |_, _| async {
            assert_eq!(loader.get(-1).await.expect("the next batch is served"), None);
        };
        at_every_poll(&db, &admin, |run| loader.get(run), check).await;
    });
}

#[test]
fn batched_writes_are_dropped_at_every_poll() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        let options = TransactionOptions::default();
        let batcher: Batcher<i64, ()> =
            Batcher::new(&db, CoalesceOptions::default(), options, |tx, items| async move {
                tx.execute(&ADD_MANY, &[&&*items]).await?;
                Ok(vec![(); items.len()])
            })
            .expect("a batcher");
        let check = |run, is_done: bool| {
            let (admin, batcher) = (&admin, &batcher);
            async move {
                batcher.submit(-1).await.expect("the next batch is written");
                let written = written(admin, run).await;
                assert!(written <= 1 && (!is_done || written == 1), "run {run} is there {written} times");
            }
        };
        at_every_poll(&db, &admin, |run| batcher.submit(run), check).await;
    });
}

#[test]
fn shared_reads_are_dropped_at_every_poll() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        let begin = |_| async { db.query(None, &ROWS, &[]).await.map(|rows| rows.len()) };
        let check = |_, is_done: bool| {
            let db = &db;
            async move {
                // In a lane that somebody has left, or in the next one.
                let row = db.query_one(None, &ONE, &[]).await.expect("the next read is served");
                assert_eq!(row.get::<_, i32>(0), 1, "{is_done}");
            }
        };
        at_every_poll(&db, &admin, begin, check).await;
    });
}

#[test]
fn reads_that_may_run_again_are_dropped_at_every_poll() {
    with_database(|bed| async move {
        let (db, admin) = (ground(&bed).await, bed.admin().await);
        let begin = |_| {
            db.read_with(None, |connection| async move {
                connection.query(&ROWS, &[]).await.map(|rows| rows.len())
            })
        };
        at_every_poll(&db, &admin, begin, |_, _| async {}).await;
        assert!(db.status().swept > 0, "some were dropped while they ran");
    });
}
