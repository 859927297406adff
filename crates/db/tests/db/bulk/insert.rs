//! Rows in: every method writes the same, from inputs of any kind, and what does not fit is named before anything is sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use paystrata_db::tokio_postgres::types::Timestamp;
use paystrata_db::{
    BadRows, Bulk, BulkCause, BulkOptions, BulkReport, Column, Conflict, FieldError, FieldProblem,
    FieldReader, FieldWriter, Method, Row, Statement, TableName, Type,
};

use super::{Note, chunks_of, made, notes, open};
use crate::support::{count, with_database};

/// One of everything that has its own way to be written.
#[derive(Clone, Debug, PartialEq)]
struct Odd {
    id: i64,
    mood: Option<String>,
    code: Option<String>,
    at: Option<Timestamp<SystemTime>>,
    body: Option<Vec<u8>>,
    weight: Option<f64>,
}

impl Row for Odd {
    const COLUMNS: &'static [Column] = &[
        Column::new("Id \"x\"", Type::INT8),
        Column::new("mood", Type::TEXT),
        Column::new("code", Type::VARCHAR),
        Column::new("at", Type::TIMESTAMPTZ),
        Column::new("body", Type::BYTEA),
        Column::new("weight", Type::FLOAT8),
    ];

    fn write(&self, fields: &mut FieldWriter<'_>) -> Result<(), FieldError> {
        fields.put(&self.id)?;
        fields.put(&self.mood)?;
        fields.put(&self.code)?;
        fields.put(&self.at)?;
        fields.put(&self.body)?;
        fields.put(&self.weight)
    }

    fn read(fields: &mut FieldReader<'_>) -> Result<Self, FieldError> {
        Ok(Self {
            id: fields.take()?,
            mood: fields.take()?,
            code: fields.take()?,
            at: fields.take()?,
            body: fields.take()?,
            weight: fields.take()?,
        })
    }
}

const ODD: &str = "CREATE TYPE \"Mood\" AS ENUM ('fine', 'Ünwell'); CREATE DOMAIN code AS varchar(12) CHECK (value <> 'x'); \
    CREATE SCHEMA \"My; Schema\"; CREATE TABLE \"My; Schema\".\"Odd, line 5\" (\"Id \"\"x\"\"\" int8 GENERATED ALWAYS AS IDENTITY, \
    mood \"Mood\", code code, at timestamptz, body bytea, weight float8, rest text DEFAULT 'kept')";
static ODDS: Statement =
    Statement::new("SELECT rest, o.* FROM \"My; Schema\".\"Odd, line 5\" o ORDER BY 2", &[]);

fn odds() -> Vec<Odd> {
    let empty = Odd { id: 0, mood: None, code: None, at: None, body: None, weight: None };
    let year = Duration::from_secs(365 * 24 * 3600);
    let times = [
        Timestamp::PosInfinity,
        Timestamp::NegInfinity,
        Timestamp::Value(SystemTime::UNIX_EPOCH),
        Timestamp::Value(SystemTime::UNIX_EPOCH - year * 100),
        Timestamp::Value(SystemTime::UNIX_EPOCH + year * 200),
    ];
    let mut odds = vec![empty.clone(), Odd { id: 1, mood: Some("Ünwell".into()), ..empty.clone() }];
    odds.extend(
        ["", "žluťoučký 🐎", "\\N\t\n\"'"].map(|code| Odd { code: Some(code.into()), ..empty.clone() }),
    );
    odds.extend(times.map(|at| Odd { at: Some(at), ..empty.clone() }));
    odds.push(Odd {
        body: Some((0..3_000_000_u32).map(|index| index.to_le_bytes()[0]).collect()),
        ..empty.clone()
    });
    odds.push(Odd { weight: Some(f64::NEG_INFINITY), mood: Some("fine".into()), ..empty });
    for (id, odd) in (0..).zip(&mut odds) {
        odd.id = id;
    }
    odds
}

#[test]
fn every_method_writes_the_same_and_reads_it_back() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, ODD).await;
        let name = TableName::in_schema("My; Schema", "Odd, line 5");
        let table: Bulk<Odd> = Bulk::open(&db, &name).await.expect("the table fits");
        for method in [Method::Auto, Method::Insert, Method::Unnest, Method::Copy] {
            let options = BulkOptions { method, ..BulkOptions::default() };
            let report = table.insert_many(odds(), &options).await.expect("load");
            let (all, token) = (odds().len() as u64, report.token);
            assert_eq!((report.accepted, report.affected, report.chunks), (all, all, 1), "{method:?}");
            let connection = db.read_after(token.expect("a token")).await.expect("a connection");
            let rows = connection.query(&ODDS, &[]).await.expect("read");
            let read: Vec<Odd> = rows.iter().map(|row| Odd::from_row(row).expect("an odd row")).collect();
            assert_eq!(read, odds(), "{method:?}");
            assert!(rows.iter().all(|row| row.get::<_, &str>(0) == "kept"), "{method:?}");
            let copied = table.copy_out(None, token, &options).await.expect("copy out");
            let mut copied: Vec<Odd> = copied.try_collect().await.expect("all rows");
            copied.sort_by_key(|odd| odd.id);
            assert_eq!(copied, odds(), "{method:?}");
            bed.admin()
                .await
                .client
                .batch_execute("TRUNCATE \"My; Schema\".\"Odd, line 5\"")
                .await
                .expect("empty");
        }
    });
}

#[derive(Clone, Debug)]
struct Wide {
    a: i64,
    b: i32,
    c: Option<String>,
    d: bool,
    e: Vec<i32>,
}

paystrata_db::row!(Wide { a: INT8, b: INT4, c: TEXT, d: BOOL, e: INT4_ARRAY });

#[test]
fn more_values_than_a_statement_takes_find_another_way() {
    with_database(|bed| async move {
        let make = "CREATE TABLE wide (a int8, b int4, c text, d bool, e int4[]); CREATE TABLE note (id int8, body text)";
        let (db, copies) = made(&bed, make).await;
        let insert = BulkOptions { method: Method::Insert, ..BulkOptions::default() };
        // 32,767 rows of two columns are 65,534 parameters.
        let table: Bulk<Note> = open(&db, "note").await;
        for rows in [32_767, 32_768, 80_000] {
            assert_eq!(
                table.insert_many(notes(0..rows), &insert).await.expect("load").affected,
                rows.cast_unsigned()
            );
        }
        assert_eq!(copies.take(), 0, "arrays do it");
        // Arrays of arrays cannot be taken apart again, so COPY does it.
        let table: Bulk<Wide> = open(&db, "wide").await;
        for (rows, copied) in [(1, 0), (13_107, 0), (13_108, 1)] {
            let wide = (0..rows).map(|a| Wide { a, b: 1, c: None, d: true, e: vec![1, 2, 3] });
            assert_eq!(table.insert_many(wide, &insert).await.expect("load").affected, rows.cast_unsigned());
            assert_eq!(copies.take(), copied, "{rows}");
        }
        let whole = "SELECT count(*) FROM wide WHERE e = '{1,2,3}' AND d AND c IS NULL";
        assert_eq!(count(&bed.admin().await, whole).await, 1 + 13_107 + 13_108);
    });
}

#[test]
fn an_empty_input_writes_nothing() {
    with_database(|bed| async move {
        let (db, copies) = made(&bed, "CREATE TABLE note (id int8 PRIMARY KEY, body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let report = table.insert_many(Vec::new(), &BulkOptions::default()).await.expect("nothing to do");
        assert_eq!((report.chunks, report.accepted, report.token, copies.take()), (0, 0, None, 0));
    });
}

#[test]
fn an_input_that_fails_keeps_full_chunks_and_no_part_of_one() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8 PRIMARY KEY, body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let rows = stream::iter(notes(0..2_500)).map(Ok).chain(stream::iter([Err("the file ends here")]));
        let error = table.insert_stream(rows, &chunks_of(1_000)).await.expect_err("the input failed");
        let BulkCause::Input { row, source } = &error.cause else { panic!("{error:?}") };
        assert_eq!((*row, source.to_string().as_str()), (2_500, "the file ends here"));
        assert_eq!((error.done.chunks, error.done.affected), (2, 2_000));
        assert_eq!(count(&bed.admin().await, "SELECT count(*) FROM note").await, 2_000);
    });
}

#[test]
fn no_more_is_taken_from_the_input_than_the_lanes_and_one_chunk_hold() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8 PRIMARY KEY, body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        for lanes_max in [1, 3] {
            let taken = Arc::new(AtomicU64::new(0));
            let ahead = Arc::new(Mutex::new(Vec::new()));
            let seen = (Arc::clone(&taken), Arc::clone(&ahead));
            let progress = move |report: &BulkReport| {
                let taken = seen.0.load(Ordering::SeqCst);
                seen.1.lock().expect("nobody panics").push(taken - report.accepted);
            };
            let options = BulkOptions { lanes_max, progress: Some(Arc::new(progress)), ..chunks_of(500) };
            let from = 1_000_000 * i64::try_from(lanes_max).expect("small");
            let rows = notes(from..from + 20_000).inspect(|_| {
                taken.fetch_add(1, Ordering::SeqCst);
            });
            let report = table.insert_many(rows, &options).await.expect("load");
            let ahead = ahead.lock().expect("nobody panics").clone();
            assert_eq!((report.chunks, ahead.len()), (40, 40), "one call per commit");
            // Those under way, less the one just committed, and the one that is filled.
            assert!(ahead.iter().all(|rows| *rows <= 500 * lanes_max as u64), "{lanes_max}: {ahead:?}");
        }
    });
}

#[derive(Debug)]
struct Stray;

impl Row for Stray {
    const COLUMNS: &'static [Column] = &[Column::new("id", Type::INT8), Column::new("bodi", Type::TEXT)];

    fn write(&self, fields: &mut FieldWriter<'_>) -> Result<(), FieldError> {
        fields.put(&"no number")
    }

    fn read(_: &mut FieldReader<'_>) -> Result<Self, FieldError> {
        Ok(Self)
    }
}

#[test]
fn what_does_not_fit_is_named_before_anything_is_sent() {
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8, body text); CREATE TABLE short (id int4, body text); \
            CREATE TABLE made (id int8, body text GENERATED ALWAYS AS ('x') STORED); \
            CREATE VIEW seen AS SELECT * FROM note; CREATE TABLE stray (id int8, bodi text)";
        let (db, _) = made(&bed, make).await;
        let refused = async |table: &str| {
            let name = TableName::new(table);
            Bulk::<Note>::open(&db, &name).await.expect_err("it does not fit").to_string()
        };
        assert_eq!(refused("Note").await, "bulk refused: there is no table \"Note\"");
        assert_eq!(refused("seen").await, "bulk refused: \"seen\" is not a table");
        let wrong_type =
            "bulk refused: column \"id\" of table \"short\" is integer, and the row declares int8";
        assert_eq!(refused("short").await, wrong_type);
        let missing = Bulk::<Stray>::open(&db, &TableName::new("note")).await.expect_err("no such column");
        assert_eq!(missing.to_string(), "bulk refused: table \"note\" has no column \"bodi\"");
        let table: Bulk<Note> = open(&db, "made").await;
        let error = table.insert_many(notes(0..1), &BulkOptions::default()).await.expect_err("generated");
        assert_eq!(error.to_string(), "bulk refused: column \"body\" is generated");
        let table: Bulk<Stray> = open(&db, "stray").await;
        let error = table.insert_many([Stray], &BulkOptions::default()).await.expect_err("no number");
        let BulkCause::Value { row: 0, source } = error.cause else { panic!("{error:?}") };
        assert_eq!((source.column, source.problem), ("id", FieldProblem::WrongType));
    });
}

#[test]
fn settings_that_cannot_work_are_refused_by_name() {
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8, body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let refused = async |options: BulkOptions| {
            table.insert_many(notes(0..1), &options).await.expect_err("it cannot work").to_string()
        };
        assert!(refused(chunks_of(0)).await.contains("chunk_rows_max"));
        assert!(refused(BulkOptions { lanes_max: 0, ..chunks_of(1) }).await.contains("lanes_max"));
        let quarantine = BulkOptions { bad_rows: BadRows::Quarantine, ..chunks_of(1) };
        assert!(refused(quarantine).await.contains("needs a job"));
        assert_eq!(count(&bed.admin().await, "SELECT count(*) FROM note").await, 0);
    });
}

/// The bytes of a whole number are those of another numeric.
#[test]
fn a_column_that_is_given_another_type_meanwhile_is_refused_and_never_misread() {
    struct Amount {
        id: i64,
        amount: i64,
    }
    paystrata_db::row!(Amount { id: INT8, amount: INT8 });
    let rows = |from: i64, to: i64| (from..to).map(|id| Amount { id, amount: id });
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE ledger (id int8 PRIMARY KEY, amount int8)").await;
        let table: Bulk<Amount> = open(&db, "ledger").await;
        let options = BulkOptions { bad_rows: BadRows::Report, ..BulkOptions::default() };
        table.insert_many(rows(0, 3_000), &options).await.expect("load");
        let admin = bed.admin().await;
        let alter = "ALTER TABLE ledger ALTER amount TYPE numeric(20, 2)";
        admin.client.batch_execute(alter).await.expect("alter");
        let conflict = Conflict { key: &["id"], update: &["amount"] };
        let large = 1 << 40;
        for told in [
            table.insert_many(rows(3_000, 6_000), &options).await,
            table.insert_many(rows(large, large + 3_000), &options).await,
            table.upsert_many(rows(3_000, 3_010), conflict, &options).await,
        ] {
            let error = told.expect_err("the types differ");
            let BulkCause::Settings { problem } = &error.cause else { panic!("{error:?}") };
            assert!(problem.contains("ledger") && problem.contains("changed"), "{problem}");
        }
        let read = table.copy_out(None, None, &options).await.map(drop);
        assert!(matches!(read, Err(BulkCause::Settings { .. })), "{read:?}");
        // Parameters have types of their own, and are converted.
        table.insert_many(rows(3_000, 3_010), &options).await.expect("few rows");
        let stand = "SELECT count(*) FILTER (WHERE amount = id) FROM ledger";
        assert_eq!(count(&admin, stand).await, 3_010);
        assert_eq!(count(&admin, "SELECT count(*) FROM ledger").await, 3_010);
        let anew = Bulk::<Amount>::open(&db, &TableName::new("ledger")).await.map(drop);
        assert!(
            anew.as_ref().is_err_and(|error| matches!(error.cause, BulkCause::Settings { .. })),
            "{anew:?}"
        );
    });
}

#[test]
fn blanks_at_the_end_are_kept_by_every_method_whatever_text_the_row_declares() {
    struct Padded {
        id: i64,
        body: String,
    }
    paystrata_db::row!(Padded { id: INT8, body: BPCHAR });
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE note (id int8, body text)").await;
        let table: Bulk<Padded> = open(&db, "note").await;
        for (id, method) in (0..).zip([Method::Insert, Method::Unnest, Method::Copy]) {
            let options = BulkOptions { method, ..BulkOptions::default() };
            let row = Padded { id, body: "a  ".to_owned() };
            table.insert_many([row], &options).await.expect("load");
        }
        let kept = "SELECT count(*) FROM note WHERE body = 'a  '";
        assert_eq!(count(&bed.admin().await, kept).await, 3);
    });
}

#[test]
fn a_column_may_be_named_like_a_word_of_the_language_and_json_is_read_as_text() {
    #[derive(Debug, PartialEq)]
    struct Event {
        r#type: i64,
        body: Option<String>,
    }
    paystrata_db::row!(Event { r#type: INT8, body: TEXT });
    static READ: Statement = Statement::new("SELECT body, type FROM event ORDER BY type", &[]);
    with_database(|bed| async move {
        let (db, _) = made(&bed, "CREATE TABLE event (type int8, body json)").await;
        let table: Bulk<Event> = open(&db, "event").await;
        let events =
            || [Event { r#type: 1, body: Some("{\"a\": 1}".to_owned()) }, Event { r#type: 2, body: None }];
        let report = table.insert_many(events(), &BulkOptions::default()).await.expect("load");
        let rows = db.query(report.token, &READ, &[]).await.expect("read");
        let read: Vec<Event> = rows.iter().map(|row| Event::from_row(row).expect("an event")).collect();
        assert_eq!(read, events());
    });
}
