//! The slow log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paystrata_db::plans::{SlowLog, SlowLogOptions, SlowStatement};
use paystrata_db::{Db, Observer, QuerySeen, Statement, Type};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::{Bed, LIMIT, with_database};

const SECRET: i64 = 4_242_424_242;

static SLOW: Statement = Statement::new(
    "SELECT 'literal-secret', note.owner FROM note, pg_sleep(0.3) WHERE owner <> $1",
    &[Type::INT8],
);
static SLOW_TOO: Statement = Statement::new("SELECT note.owner + 1 FROM note, pg_sleep(0.3)", &[]);
static FAST: Statement = Statement::new("SELECT count(*) FROM note", &[]);

fn options() -> SlowLogOptions {
    SlowLogOptions { threshold: Duration::from_millis(200), ..SlowLogOptions::default() }
}

async fn observed(bed: &Bed, log: &Arc<SlowLog>) -> Db {
    bed.admin()
        .await
        .client
        .batch_execute("CREATE TABLE note (owner bigint); INSERT INTO note VALUES (1)")
        .await
        .expect("create");
    Db::connect_observed(bed.config(), Arc::clone(log) as Arc<dyn Observer>).await.expect("connect")
}

async fn ask(db: &Db, times: usize) {
    let connection = db.write().await.expect("connection");
    for _ in 0..times {
        connection.query(&SLOW, &[&SECRET]).await.expect("slow");
        connection.query(&FAST, &[]).await.expect("fast");
    }
}

#[test]
fn a_slow_statement_is_told_once_in_its_window_with_percentiles_and_plan_and_no_value() {
    with_database(|bed| async move {
        let log = SlowLog::new(options());
        let db = observed(&bed, &log).await;
        ask(&db, 3).await;
        let told = log.end_window(&db).await;
        let [SlowStatement { text, calls: 3, slow: 3, p50, p99, longest, plan: Some(plan), .. }] = &told[..]
        else {
            panic!("one statement, three calls, a plan: {told:#?}")
        };
        assert!(*p50 >= Duration::from_millis(300) && p99 >= p50, "{told:#?}");
        assert!(*longest >= Duration::from_millis(300));
        assert_eq!(text, "select ?, note.owner from note, pg_sleep(?) where owner <> $1");
        assert!(plan.contains("Seq Scan on public.note"), "{plan}");
        let all = format!("{told:?}");
        assert!(!all.contains("4242424242") && !all.contains("literal-secret"), "{all}");

        // The window begins again from nothing; a plan that is known is told again.
        assert_eq!(log.end_window(&db).await.len(), 0);
        ask(&db, 1).await;
        let [again] = &log.end_window(&db).await[..] else { panic!("one statement") };
        assert_eq!((again.calls, again.fingerprint, &again.plan), (1, told[0].fingerprint, &told[0].plan));
        // Everything since the start, fast ones too, is a workload.
        let calls: HashMap<String, u64> =
            log.workload().statements.into_iter().map(|one| (one.sql, one.calls)).collect();
        assert_eq!((calls[SLOW.sql()], calls[FAST.sql()]), (4, 4));
    });
}

#[test]
fn statements_beyond_the_bound_are_not_counted_apart_and_all_are_handed_on() {
    #[derive(Debug, Default)]
    struct Counted(std::sync::atomic::AtomicU64);
    impl Observer for Counted {
        fn query(&self, _: &QuerySeen<'_>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    with_database(|bed| async move {
        let next = Arc::new(Counted::default());
        let bounded = SlowLogOptions { fingerprints_max: 1, threshold: Duration::ZERO, ..options() };
        let log = SlowLog::before(bounded, Arc::clone(&next) as Arc<dyn Observer>);
        let db = observed(&bed, &log).await;
        let connection = db.write().await.expect("connection");
        for _ in 0..5 {
            connection.query(&FAST, &[]).await.expect("fast");
            connection.query(&crate::support::ONE, &[]).await.expect("fast");
        }
        let told = log.end_window(&db).await;
        assert_eq!(told.iter().map(|one| one.calls).collect::<Vec<_>>(), [5]);
        assert_eq!(next.0.load(std::sync::atomic::Ordering::Relaxed), 10);
    });
}

/// Keeps what is logged of slow statements, by text.
#[derive(Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("paystrata_db::plans::slow")
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().expect("nobody panics here").push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn the_log_has_one_line_for_a_fingerprint_and_no_value_in_it() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    tracing::subscriber::set_global_default(Lines(Arc::clone(&lines))).expect("no other test sets one");
    with_database(move |bed| async move {
        let log = SlowLog::new(SlowLogOptions { window: Duration::from_millis(20), ..options() });
        let db = observed(&bed, &log).await;
        ask(&db, 2).await;
        let of = |word: &str| {
            let lines = lines.lock().expect("nobody panics here");
            lines.iter().filter(|line| line.contains(word)).cloned().collect::<Vec<String>>()
        };
        let until_told = async |word: &str| {
            while of(word).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let told = async {
            until_told("owner <> $1").await;
            // Many windows later.
            db.write().await.expect("connection").query(&SLOW_TOO, &[]).await.expect("slow");
            until_told("note.owner + ?").await;
        };
        tokio::select! {
            () = log.run(&db) => {}
            told = tokio::time::timeout(LIMIT, told) => told.expect("both are told"),
        }
        let [line] = &of("owner <> $1")[..] else { panic!("{:#?}", of("")) };
        assert!(line.contains("calls=2") && line.contains("slow=2") && line.contains("Seq Scan"), "{line}");
        assert!(line.contains("p99=") && !line.contains("424242") && !line.contains("secret"), "{line}");
    });
}
