//! Reads that travel together: how many statements they become, and that no caller pays for another.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use futures_util::future::join_all;
use paystrata_db::tokio_postgres;
use paystrata_db::{
    CoalesceOptions, Db, Error, LoadError, Loader, Observer, QuerySeen, Statement, Token, TransactionOptions,
    Type,
};

use crate::support::{Bed, until_count, with_database};

static CITIES: Statement =
    Statement::new("SELECT id, 100 / size FROM city WHERE id = ANY($1)", &[Type::INT8_ARRAY]);
static GROW: Statement = Statement::new("UPDATE city SET size = $2 WHERE id = $1", &[Type::INT8, Type::INT4]);
static TWO: Statement = Statement::new("SELECT $1::int8 + $2::int8", &[Type::INT8, Type::INT8]);
/// Every row twice.
static TWICE: Statement = Statement::new(
    "SELECT id, size FROM city, generate_series(1, 2) WHERE id = ANY($1)",
    &[Type::INT8_ARRAY],
);

/// Statements of [`CITIES`] that are waiting for a lock.
const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock' AND query LIKE '%FROM city%'";

/// Counts the batches.
#[derive(Debug, Default)]
struct Batches(AtomicUsize);

impl Observer for Batches {
    fn query(&self, seen: &QuerySeen<'_>) {
        if seen.sql == CITIES.sql() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Scene {
    db: Db,
    batches: Arc<Batches>,
}

impl Scene {
    /// A thousand cities, each of size 10 but for number 13, whose size 0 no statement can divide by.
    async fn open(bed: &Bed) -> Self {
        let fill = "CREATE TABLE city (id int8 PRIMARY KEY, size int4 NOT NULL); \
                    INSERT INTO city SELECT id, CASE id WHEN 13 THEN 0 ELSE 10 END FROM generate_series(1, 1000) id";
        bed.admin().await.client.batch_execute(fill).await.expect("make the table");
        let batches = Arc::new(Batches::default());
        let observer = Arc::clone(&batches);
        Self { db: Db::connect_observed(bed.config(), observer).await.expect("connect"), batches }
    }

    fn loader(&self, options: CoalesceOptions) -> Loader<i64, i32> {
        Loader::new(&self.db, &CITIES, options, |row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .expect("a loader")
    }

    fn batches(&self) -> usize {
        self.batches.0.load(Ordering::SeqCst)
    }
}

fn of(batch_max: usize, lanes_max: usize, waiting_max: usize) -> CoalesceOptions {
    CoalesceOptions { batch_max, lanes_max, waiting_max }
}

#[test]
fn a_thousand_reads_of_one_turn_are_one_statement_per_full_batch() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let cities = scene.loader(of(300, 2, 10_000));
        // Each fourth key twice, and 200 that do not exist.
        let keys: Vec<i64> = (501..=1_200).chain((501..=1_200).step_by(4).map(|key| key + 1)).collect();
        let sizes = join_all(keys.iter().map(|key| cities.get(*key))).await;
        for (key, size) in keys.iter().zip(sizes) {
            assert_eq!(size.expect("a read"), (*key <= 1_000).then_some(10), "{key}");
        }
        assert_eq!(scene.batches(), keys.len().div_ceil(300));
    });
}

#[test]
fn many_keys_of_one_caller_keep_their_order() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let cities = scene.loader(CoalesceOptions::default());
        let sizes = cities.get_many([7, 2_000, 7, 8]).await.expect("a read");
        assert_eq!((sizes, scene.batches()), (vec![Some(10), None, Some(10), Some(10)], 1));
        assert_eq!(cities.get_many([]).await.expect("nothing to read"), []);
    });
}

/// Polls a future so often at most, then drops it.
async fn poll_and_drop<F: Future>(polls: usize, future: F) {
    let mut future = pin!(future);
    for _ in 0..polls {
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_caller_who_leaves_at_any_poll_takes_nothing_from_the_others() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        for polls in 0..6 {
            // A loader of its own, so that the one who leaves is the one who was to start the batch.
            let cities = scene.loader(of(8, 1, 100));
            let leaver = poll_and_drop(polls, cities.get(1));
            let ((), others) = tokio::join!(leaver, join_all((2..12).map(|key| cities.get(key))));
            for other in others {
                assert_eq!(other.expect("a read"), Some(10), "after {polls} polls");
            }
            assert_eq!(cities.get(1).await.expect("a later read"), Some(10));
        }
    });
}

#[test]
fn a_read_never_joins_a_statement_that_was_sent_before_it() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let (cities, admin) = (scene.loader(of(8, 1, 100)), bed.admin().await);
        admin.client.batch_execute("BEGIN; LOCK TABLE city").await.expect("lock");
        let early = tokio::spawn({
            let cities = cities.clone();
            async move { cities.get(1).await }
        });
        until_count(&bed.admin().await, BLOCKED, 1).await;
        let late = tokio::spawn(async move { cities.get(1).await });
        tokio::task::yield_now().await;
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        for answer in [early.await, late.await] {
            assert_eq!(answer.expect("a task").expect("a read"), Some(10));
        }
        assert_eq!(scene.batches(), 2);
    });
}

#[test]
fn a_token_is_honoured_in_company() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.replica_urls = vec![bed.replica_url().parse().expect("a URL")];
        Scene::open(&bed).await;
        let db = crate::support::connected(config).await;
        let cities: Loader<i64, i32> = Loader::new(&db, &CITIES, CoalesceOptions::default(), |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
        .expect("a loader");
        for size in 1..=100 {
            let written = db.transaction(TransactionOptions::default(), |tx| async move {
                tx.execute(&GROW, &[&1_i64, &size]).await
            });
            let token = written.await.expect("a commit").token;
            let (seen, other) = tokio::join!(cities.get_after(token, 1), cities.get(2));
            assert_eq!((seen.expect("a read"), other.expect("a read")), (Some(100 / size), Some(10)));
        }
    });
}

#[test]
fn a_row_that_the_server_cannot_answer_fails_its_own_callers_only() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let cities = scene.loader(CoalesceOptions::default());
        let answers = join_all((1..=64).chain([13]).map(|key| cities.get(key))).await;
        for (index, answer) in answers.into_iter().enumerate() {
            match (index + 1, answer) {
                (13 | 65, Err(LoadError::Database(error))) => {
                    assert_eq!(error.sqlstate().map(|state| state.code()), Some("22012"));
                }
                (_, answer) => assert_eq!(answer.expect("a read"), Some(10), "{index}"),
            }
        }
        // Halving 64 keys down to one: six times two, beside the first.
        assert_eq!(scene.batches(), 13);
    });
}

#[test]
fn a_failure_of_all_is_sent_once_and_told_to_all() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let cities = scene.loader(CoalesceOptions::default());
        bed.admin().await.client.batch_execute("ALTER TABLE city RENAME TO town").await.expect("rename");
        for answer in join_all((1..=64).map(|key| cities.get(key))).await {
            let Err(LoadError::Database(error)) = answer else { panic!("{answer:?}") };
            assert_eq!(error.sqlstate().map(|state| state.code()), Some("42P01"));
        }
        assert_eq!(scene.batches(), 1);
        bed.admin().await.client.batch_execute("ALTER TABLE town RENAME TO city").await.expect("rename back");
        assert_eq!(cities.get(1).await.expect("a read"), Some(10));
    });
}

#[test]
fn a_row_that_cannot_be_read_and_a_panic_end_with_their_batch() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let text: Loader<i64, String> =
            Loader::new(&scene.db, &CITIES, of(8, 1, 100), |row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .expect("a loader");
        assert!(matches!(text.get(1).await, Err(LoadError::Decode(_))));
        assert_eq!(text.get(2_000).await.expect("no row, nothing to decode"), None);
        let panics: Loader<i64, i32> = Loader::new(&scene.db, &CITIES, of(1, 1, 100), |row| {
            let key: i64 = row.try_get(0)?;
            assert_ne!(key, 5, "this panic belongs to the test");
            Ok((key, row.try_get(1)?))
        })
        .expect("a loader");
        let (given_up, later) = tokio::join!(panics.get(5), panics.get(6));
        assert!(matches!(given_up, Err(LoadError::GivenUp)));
        assert_eq!(later.expect("the next batch, which waited behind"), Some(10));
    });
}

/// Of which key it is, such a row does not say: by itself where every key has one, in halves where a key has none.
#[test]
fn a_row_that_cannot_be_read_fails_the_callers_of_its_key_and_no_others() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let cities: Loader<i64, i32> = Loader::new(&scene.db, &CITIES, CoalesceOptions::default(), |row| {
            let key: i64 = row.try_get(0)?;
            if key == 27 {
                row.try_get::<_, &str>(1)?;
            }
            Ok((key, row.try_get(1)?))
        })
        .expect("a loader");
        let all = (20..=40).chain([27]);
        for keys in [all.clone().collect::<Vec<i64>>(), all.chain([2_000, 2_001]).collect()] {
            for (key, answer) in keys.iter().zip(join_all(keys.iter().map(|key| cities.get(*key))).await) {
                match (*key, answer) {
                    (27, answer) => assert!(matches!(answer, Err(LoadError::Decode(_))), "{answer:?}"),
                    (key, answer) => {
                        assert_eq!(answer.expect("a read"), (key <= 1_000).then_some(10), "{key}");
                    }
                }
            }
            if keys.len() == 22 {
                assert_eq!(scene.batches(), 1);
            }
        }
    });
}

#[test]
fn who_waits_behind_a_runtime_that_ends_is_told_and_the_next_is_answered() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let (cities, admin) = (scene.loader(of(8, 1, 100)), bed.admin().await);
        admin.client.batch_execute("BEGIN; LOCK TABLE city").await.expect("lock");
        let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let other = other.expect("a second runtime");
        let _first = other.spawn({
            let cities = cities.clone();
            async move { cities.get(1).await }
        });
        until_count(&bed.admin().await, BLOCKED, 1).await;
        let mut behind = pin!(cities.get(2));
        assert!(behind.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        other.shutdown_background();
        assert!(matches!(behind.await, Err(LoadError::GivenUp)));
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        assert_eq!(cities.get(3).await.expect("a lane of this runtime"), Some(10));
    });
}

#[test]
fn a_statement_that_gives_a_key_twice_or_takes_other_values_is_refused() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let decode = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let twice: Loader<i64, i32> =
            Loader::new(&scene.db, &TWICE, CoalesceOptions::default(), decode).expect("a loader");
        assert!(matches!(twice.get(1).await, Err(LoadError::StrayRow)));
        let two: Result<Loader<i64, i32>, Error> =
            Loader::new(&scene.db, &TWO, CoalesceOptions::default(), decode);
        assert!(matches!(two, Err(Error::ValueCount { expected: 2, found: 1 })));
        for options in [of(0, 1, 1), of(1, 0, 1), of(1, 1, 0)] {
            let none: Result<Loader<i64, i32>, Error> = Loader::new(&scene.db, &CITIES, options, decode);
            assert!(matches!(none, Err(Error::Settings { .. })));
        }
    });
}

#[test]
fn who_comes_when_as_many_wait_as_may_is_refused_at_once() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let (cities, admin) = (scene.loader(of(8, 1, 2)), bed.admin().await);
        admin.client.batch_execute("BEGIN; LOCK TABLE city").await.expect("lock");
        let first = tokio::spawn({
            let cities = cities.clone();
            async move { cities.get(1).await }
        });
        until_count(&bed.admin().await, BLOCKED, 1).await;
        let waiting = join_all([cities.get(2), cities.get(3)]);
        let refused = async {
            // Polled after those two.
            let too_many = cities.get(4).await;
            assert!(matches!(too_many, Err(LoadError::Overloaded)));
            assert!(matches!(cities.get_many([5, 6]).await, Err(LoadError::Overloaded)));
            admin.client.batch_execute("COMMIT").await.expect("unlock");
        };
        let (waited, ()) = tokio::join!(biased; waiting, refused);
        for answer in waited.into_iter().chain([first.await.expect("a task")]) {
            assert_eq!(answer.expect("a read"), Some(10));
        }
    });
}

#[test]
fn a_token_of_a_timeline_that_nobody_has_seen_fails_its_own_caller_and_delays_no_other() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let cities = scene.loader(of(8, 1, 100));
        let written = scene.db.transaction(TransactionOptions::default(), |tx| async move {
            tx.execute(&GROW, &[&1_i64, &10_i32]).await
        });
        let known = written.await.expect("a commit").token;
        let invented = Token { timeline: known.timeline + 7, ..known };
        let strange = tokio::spawn({
            let cities = cities.clone();
            async move { cities.get_after(invented, 1).await }
        });
        // It waits for a server of that timeline, for as long as the limit of these tests.
        for other in join_all((20..40).map(|key| cities.get_after(known, key))).await {
            assert_eq!(other.expect("a read"), Some(10));
        }
        assert!(!strange.is_finished(), "the others were answered before it");
        strange.abort();
    });
}
