//! Writes that travel together: what each caller is told, and whether it is true.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use futures_util::future::join_all;
use paystrata_db::{
    BatchError, Batcher, CoalesceOptions, Committed, Db, Error, Observer, Statement, TransactionEnd,
    TransactionError, TransactionOptions, TransactionSeen, Type,
};

use crate::support::{Bed, count, until_count, with_database};

/// One row per item; each gives its own id.
static ADD: Statement = Statement::new(
    "INSERT INTO note (body) SELECT body FROM unnest($1::int4[]) WITH ORDINALITY AS v (body, place) ORDER BY place
     RETURNING id",
    &[Type::INT4_ARRAY],
);
static READ: Statement = Statement::new("SELECT body FROM note WHERE id = $1", &[Type::INT8]);

const NOTES: &str = "SELECT count(*) FROM note";
/// Batches that are waiting for a lock.
const BLOCKED: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND wait_event_type = 'Lock' AND query LIKE '%INTO note%'";

/// Counts transactions by their end.
#[derive(Debug, Default)]
struct Ends {
    committed: AtomicUsize,
    rolled_back: AtomicUsize,
}

impl Observer for Ends {
    fn transaction(&self, seen: &TransactionSeen) {
        let counter = if seen.end == TransactionEnd::Committed { &self.committed } else { &self.rolled_back };
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

struct Scene {
    db: Db,
    ends: Arc<Ends>,
}

impl Scene {
    /// Notes that refuse a negative body at once, a second one of the same body at once, and 7 777 at the commit.
    async fn open(bed: &Bed) -> Self {
        let make = "CREATE TABLE bad (body int4 PRIMARY KEY); INSERT INTO bad VALUES (7777); \
             CREATE TABLE note (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body int4 UNIQUE CHECK (body >= 0)); \
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF EXISTS (SELECT FROM bad WHERE bad.body = new.body) THEN \
                     RAISE integrity_constraint_violation USING MESSAGE = 'refused at the commit'; END IF; \
                 RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION refuse()";
        bed.admin().await.client.batch_execute(make).await.expect("make the tables");
        let ends = Arc::new(Ends::default());
        let observer = Arc::clone(&ends);
        Self { db: Db::connect_observed(bed.config(), observer).await.expect("connect"), ends }
    }

    fn batcher(&self, options: CoalesceOptions) -> Batcher<i32, i64> {
        Batcher::new(&self.db, options, TransactionOptions::default(), |tx, bodies| async move {
            let rows = tx.query(&ADD, &[&&*bodies]).await?;
            rows.iter().map(|row| Ok(row.get(0))).collect()
        })
        .expect("a batcher")
    }

    fn ends(&self) -> (usize, usize) {
        (self.ends.committed.load(Ordering::SeqCst), self.ends.rolled_back.load(Ordering::SeqCst))
    }

    /// Asserts that an answer is true: the row stands where it says.
    async fn check(&self, body: i32, answer: Result<Committed<i64>, BatchError>) {
        let Committed { value, token } = answer.unwrap_or_else(|error| panic!("{body}: {error:?}"));
        let row = self.db.read_after(token).await.expect("a connection").query_one(&READ, &[&value]).await;
        assert_eq!(row.expect("the row").get::<_, i32>(0), body);
    }
}

fn of(batch_max: usize, lanes_max: usize, waiting_max: usize) -> CoalesceOptions {
    CoalesceOptions { batch_max, lanes_max, waiting_max }
}

/// The server's code for why a write was rolled back.
fn code(answer: Result<Committed<i64>, BatchError>) -> String {
    let error = answer.expect_err("it was refused");
    assert!(!error.outcome_is_unknown(), "{error:?}");
    let BatchError::RolledBack(error) = error else { panic!("{error:?}") };
    match &*error {
        TransactionError::Work(error) | TransactionError::Database(error) => {
            error.sqlstate().map(|state| state.code().to_owned()).unwrap_or_default()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn writes_of_one_turn_share_commits_and_each_gets_its_own_outcome() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let notes = scene.batcher(of(100, 1, 1_000));
        let answers = join_all((0..300).map(|body| notes.submit(body))).await;
        for (body, answer) in (0..).zip(answers) {
            scene.check(body, answer).await;
        }
        assert_eq!(scene.ends(), (3, 0));
    });
}

#[test]
fn what_the_server_refuses_fails_alone_at_once_or_at_the_commit() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let notes = scene.batcher(CoalesceOptions::default());
        // A check, a deferred trigger, and the second of two alike.
        let bodies: Vec<i32> = (0..40).chain([-1, 7_777, 5]).chain(40..60).collect();
        let answers = join_all(bodies.iter().map(|body| notes.submit(*body))).await;
        for (index, (body, answer)) in bodies.iter().zip(answers).enumerate() {
            match (index, body) {
                (_, -1) => assert_eq!(code(answer), "23514"),
                (_, 7_777) => assert_eq!(code(answer), "23000"),
                (42, 5) => assert_eq!(code(answer), "23505"),
                _ => scene.check(*body, answer).await,
            }
        }
        assert_eq!(count(&bed.admin().await, NOTES).await, 60);
    });
}

#[test]
fn however_many_values_are_bad_each_good_one_is_written() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let notes = scene.batcher(of(256, 1, 1_000));
        // Every other one: there is no half without one.
        let bodies: Vec<i32> =
            (0..256).map(|number| if number % 2 == 0 { number } else { -number }).collect();
        let answers = join_all(bodies.iter().map(|body| notes.submit(*body))).await;
        for (body, answer) in bodies.iter().zip(answers) {
            if *body < 0 { assert_eq!(code(answer), "23514") } else { scene.check(*body, answer).await }
        }
        assert_eq!(count(&bed.admin().await, NOTES).await, 128);
    });
}

#[test]
fn a_failure_of_all_is_not_tried_in_parts() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let notes = scene.batcher(CoalesceOptions::default());
        bed.admin().await.client.batch_execute("ALTER TABLE note RENAME TO gone").await.expect("rename");
        for answer in join_all((0..50).map(|body| notes.submit(body))).await {
            assert_eq!(code(answer), "42P01");
        }
        assert_eq!(scene.ends(), (0, 1));
    });
}

#[test]
fn who_leaves_before_the_batch_begins_withdraws() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let (notes, admin) = (scene.batcher(of(8, 1, 100)), bed.admin().await);
        admin.client.batch_execute("BEGIN; LOCK TABLE note").await.expect("lock");
        let first = tokio::spawn({
            let notes = notes.clone();
            async move { notes.submit(1).await }
        });
        until_count(&bed.admin().await, BLOCKED, 1).await;
        {
            let mut leaver = pin!(notes.submit(2));
            assert!(leaver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let mut stays = pin!(notes.submit(3));
        assert!(stays.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        scene.check(1, first.await.expect("a task")).await;
        scene.check(3, stays.await).await;
        assert_eq!(count(&admin, NOTES).await, 2);
    });
}

#[test]
fn the_order_of_callers_is_the_order_of_their_rows() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let notes = scene.batcher(of(7, 1, 1_000));
        let answers = join_all((0..100).map(|body| notes.submit(body))).await;
        let ids: Vec<i64> = answers.into_iter().map(|answer| answer.expect("a commit").value).collect();
        assert!(ids.is_sorted(), "{ids:?}");
    });
}

#[test]
fn a_closure_that_forgets_an_item_commits_nothing() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let forgetful: Batcher<i32, i64> = Batcher::new(
            &scene.db,
            CoalesceOptions::default(),
            TransactionOptions::default(),
            |tx, bodies| async move {
                let rows = tx.query(&ADD, &[&&*bodies]).await?;
                rows.iter().skip(1).map(|row| Ok(row.get(0))).collect()
            },
        )
        .expect("a batcher");
        for answer in join_all((0..3).map(|body| forgetful.submit(body))).await {
            let Err(BatchError::RolledBack(error)) = answer else { panic!("{answer:?}") };
            assert!(matches!(*error, TransactionError::Work(Error::RowCount { found: 2, .. })), "{error:?}");
        }
        assert_eq!(count(&bed.admin().await, NOTES).await, 0);
    });
}

#[test]
fn a_panic_ends_with_its_batch_and_leaves_nothing() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let notes: Batcher<i32, i64> =
            Batcher::new(&scene.db, of(8, 1, 100), TransactionOptions::default(), |tx, bodies| async move {
                let rows = tx.query(&ADD, &[&&*bodies]).await?;
                assert_ne!(bodies[0], 13, "this panic belongs to the test");
                rows.iter().map(|row| Ok(row.get(0))).collect()
            })
            .expect("a batcher");
        let given_up = notes.submit(13).await.expect_err("the closure panicked");
        assert!(given_up.outcome_is_unknown() && !given_up.is_retryable(), "{given_up:?}");
        scene.check(14, notes.submit(14).await).await;
        assert_eq!(count(&bed.admin().await, NOTES).await, 1);
    });
}

#[test]
fn who_comes_when_as_many_wait_as_may_is_refused_and_nothing_is_written() {
    with_database(|bed| async move {
        let scene = Scene::open(&bed).await;
        let (notes, admin) = (scene.batcher(of(8, 1, 1)), bed.admin().await);
        admin.client.batch_execute("BEGIN; LOCK TABLE note").await.expect("lock");
        let first = tokio::spawn({
            let notes = notes.clone();
            async move { notes.submit(1).await }
        });
        until_count(&bed.admin().await, BLOCKED, 1).await;
        let mut second = pin!(notes.submit(2));
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let refused = notes.submit(3).await.expect_err("one may wait");
        assert!(matches!(refused, BatchError::Overloaded) && refused.is_retryable());
        admin.client.batch_execute("COMMIT").await.expect("unlock");
        scene.check(1, first.await.expect("a task")).await;
        scene.check(2, second.await).await;
        assert_eq!(count(&admin, NOTES).await, 2);
    });
}

/// A batch whose rows collide with each other, or with a policy, is no caller's own fault but one's.
#[test]
fn two_of_one_key_in_an_upsert_and_a_row_against_a_policy_fail_nobody_else() {
    static KEEP: Statement = Statement::new(
        "INSERT INTO latest (id, hits) SELECT id, 1 FROM unnest($1::int4[]) id \
         ON CONFLICT (id) DO UPDATE SET hits = latest.hits + 1 RETURNING hits::int8",
        &[Type::INT4_ARRAY],
    );
    with_database(|bed| async move {
        let role = format!("r_{}", uuid::Uuid::new_v4().simple());
        let make = format!(
            "CREATE TABLE latest (id int4 PRIMARY KEY, hits int4 NOT NULL); ALTER TABLE latest ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY small ON latest USING (true) WITH CHECK (id < 1000); CREATE ROLE {role}; \
             GRANT ALL ON latest TO {role}"
        );
        let admin = bed.admin().await;
        admin.client.batch_execute(&make).await.expect("make the table");
        let mut config = bed.config();
        let as_role = format!("{}?options=-c%20role%3D{role}", bed.primary_url());
        config.primary_url = as_role.parse().expect("a URL");
        let db = Db::connect(config).await.expect("connect");
        let batcher: Batcher<i32, i64> = Batcher::new(
            &db,
            CoalesceOptions { lanes_max: 1, ..CoalesceOptions::default() },
            TransactionOptions::default(),
            |tx, ids| async move {
                let rows = tx.query(&KEEP, &[&&*ids]).await?;
                rows.iter().map(|row| Ok(row.get(0))).collect()
            },
        )
        .expect("a batcher");
        let ids = [1, 2, 3, 2, 5_000, 4];
        let told = join_all(ids.map(|id| batcher.submit(id))).await;
        for (id, told) in ids.into_iter().zip(told) {
            match told {
                Ok(_) => assert!(id < 1_000),
                Err(BatchError::RolledBack(error)) => {
                    let TransactionError::Work(error) = &*error else { panic!("{id}: {error:?}") };
                    assert_eq!((id, error.sqlstate().map(|code| code.code())), (5_000, Some("42501")));
                }
                Err(error) => panic!("{id}: {error:?}"),
            }
        }
        assert_eq!(count(&admin, "SELECT sum(hits) FROM latest").await, 5);
        drop((batcher, db));
        let away = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
        admin.client.batch_execute(&away).await.expect("drop the role");
    });
}
