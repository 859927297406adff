//! Other cases of bulk loads: what stands around a table (rules, triggers, partitions, identities, collations), and rows of odd sizes
//! and contents. The usual ones are in `bulk`.

use paystrata_db::{
    BadRows, Bulk, BulkError, BulkOptions, BulkReport, Column, Conflict, Db, FieldError, FieldReader,
    FieldWriter, Method, Row, TableName, Type,
};

use crate::support::{Bed, Plain, count, with_database};

const METHODS: [Method; 3] = [Method::Insert, Method::Unnest, Method::Copy];
const BY_ID: Conflict<'_> = Conflict { key: &["id"], update: &["body"] };

#[derive(Clone, Debug)]
struct Note {
    id: i64,
    body: String,
}

paystrata_db::row!(Note { id: INT8, body: TEXT });

fn notes(ids: std::ops::Range<i64>, body: &'static str) -> impl Iterator<Item = Note> + Clone {
    ids.map(move |id| Note { id, body: body.to_owned() })
}

async fn made(bed: &Bed, make: &str) -> (Db, Plain) {
    let admin = bed.admin().await;
    admin.client.batch_execute(make).await.expect("make the tables");
    (bed.primary_only().await, admin)
}

async fn open<R: Row>(db: &Db, table: &str) -> Bulk<R> {
    Bulk::open(db, &TableName::new(table)).await.expect("the table fits")
}

async fn empty(admin: &Plain, table: &str) {
    admin.client.batch_execute(&format!("DELETE FROM {table}")).await.expect("empty");
}

/// Bad rows are left out and told.
fn reporting(method: Method) -> BulkOptions {
    BulkOptions { bad_rows: BadRows::Report, method, ..BulkOptions::default() }
}

/// Place and code of each row that was left out.
fn codes(report: &BulkReport) -> Vec<(u64, &str)> {
    report.rejected.iter().map(|one| (one.row, one.refusal.sqlstate.code())).collect()
}

/// COPY takes no notice of rules, which `INSERT` obeys: what a rule does must not depend on the number of rows.
#[test]
fn what_a_rule_of_the_table_does_is_the_same_by_every_method() {
    async fn load(db: &Db, method: Method) -> Result<BulkReport, BulkError> {
        let table: Bulk<Note> = Bulk::open(db, &TableName::new("note")).await?;
        let options = BulkOptions { method, ..BulkOptions::default() };
        table.insert_many(notes(0..20, "x"), &options).await
    }
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8, body text); CREATE TABLE log (id int8); \
            CREATE RULE logged AS ON INSERT TO note DO ALSO INSERT INTO log VALUES (new.id)";
        let (db, admin) = made(&bed, make).await;
        for method in METHODS {
            let wanted = if load(&db, method).await.is_ok() { 20 } else { 0 };
            let [noted, logged] = ["SELECT count(*) FROM note", "SELECT count(*) FROM log"];
            assert_eq!(count(&admin, noted).await, wanted, "{method:?}");
            assert_eq!(count(&admin, logged).await, wanted, "{method:?}");
            empty(&admin, "note").await;
            empty(&admin, "log").await;
        }
    });
}

struct Child {
    id: i64,
    parent: Option<i64>,
}

paystrata_db::row!(Child { id: INT8, parent: INT8 });

/// Two rows that refer to each other can only be written together.
#[test]
fn rows_that_refer_to_each_other_are_not_called_bad_for_one_between_them() {
    with_database(|bed| async move {
        let make =
            "CREATE TABLE family (id int8 PRIMARY KEY CHECK (id < 500), parent int8 REFERENCES family)";
        let (db, admin) = made(&bed, make).await;
        let table: Bulk<Child> = open(&db, "family").await;
        let rows = || [(1, Some(2)), (500, None), (2, Some(1))].map(|(id, parent)| Child { id, parent });
        for method in METHODS {
            let report = table.insert_many(rows(), &reporting(method)).await.expect("the two are loaded");
            assert_eq!(codes(&report), [(1, "23514")], "{method:?}");
            assert_eq!((report.accepted, report.affected), (2, 2), "{method:?}");
            assert_eq!(count(&admin, "SELECT count(*) FROM family").await, 2, "{method:?}");
            empty(&admin, "family").await;
        }
    });
}

#[test]
fn rows_that_a_trigger_leaves_out_are_accepted_and_not_counted_as_written() {
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8, body text); \
            CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                IF new.id % 10 = 3 THEN RETURN NULL; END IF; RETURN new; END $$; \
            CREATE TRIGGER t BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION leave_out()";
        let (db, admin) = made(&bed, make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        for method in METHODS {
            let report = table.insert_many(notes(0..100, "x"), &reporting(method)).await.expect("load");
            assert_eq!((report.accepted, report.affected), (100, 90), "{method:?}");
            assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 90, "{method:?}");
            empty(&admin, "note").await;
        }
    });
}

#[test]
fn an_update_that_moves_rows_to_another_partition_counts_them_and_names_those_that_fit_none() {
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8, body text) PARTITION BY LIST (body); \
            CREATE TABLE note_a PARTITION OF note FOR VALUES IN ('a'); \
            CREATE TABLE note_b PARTITION OF note FOR VALUES IN ('b')";
        let (db, admin) = made(&bed, make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        table.insert_many(notes(0..10, "a"), &BulkOptions::default()).await.expect("load");
        let moved = notes(0..9, "b").chain(notes(9..10, "c")).chain(notes(10..12, "b"));
        let report = table.update_many(moved, &["id"], &reporting(Method::Auto)).await.expect("update");
        assert_eq!(codes(&report), [(9, "23514")]);
        assert_eq!((report.affected, report.missing), (9, vec![10, 11]));
        assert_eq!(count(&admin, "SELECT count(*) FROM note_b").await, 9);
        assert_eq!(count(&admin, "SELECT count(*) FROM note_a").await, 1);
    });
}

#[test]
fn an_upsert_by_an_identity_writes_the_numbers_it_is_given() {
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)";
        let (db, admin) = made(&bed, make).await;
        let table: Bulk<Note> = open(&db, "note").await;
        for (ids, body) in [(41..43, "old"), (42..44, "new")] {
            let report = table.upsert_many(notes(ids, body), BY_ID, &BulkOptions::default()).await;
            assert_eq!(report.expect("upsert").affected, 2);
        }
        let stand = "SELECT string_agg(id || body, ' ' ORDER BY id) FROM note";
        let stand: String = admin.client.query_one(stand, &[]).await.expect("read").get(0);
        assert_eq!(stand, "41old 42new 43new");
    });
}

#[test]
fn keys_that_only_their_collation_calls_equal_are_duplicates() {
    struct Person {
        name: String,
        body: String,
    }
    paystrata_db::row!(Person { name: TEXT, body: TEXT });
    with_database(|bed| async move {
        let make = "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
            CREATE TABLE person (name text COLLATE any_case PRIMARY KEY, body text); \
            INSERT INTO person VALUES ('ann', 'old')";
        let (db, admin) = made(&bed, make).await;
        let table: Bulk<Person> = open(&db, "person").await;
        let rows = [("Ann", "first"), ("bob", "only"), ("ANN", "last")];
        let rows = rows.map(|(name, body)| Person { name: name.to_owned(), body: body.to_owned() });
        let by_name = Conflict { key: &["name"], update: &["body"] };
        let report = table.upsert_many(rows, by_name, &BulkOptions::default()).await.expect("upsert");
        assert_eq!((report.accepted, report.affected), (3, 2));
        assert_eq!(count(&admin, "SELECT count(*) FROM person").await, 2);
        assert_eq!(
            count(&admin, "SELECT count(*) FROM person WHERE name = 'aNN' AND body = 'last'").await,
            1
        );
    });
}

#[test]
fn what_an_exclusion_or_a_late_unique_key_refuses_is_named() {
    with_database(|bed| async move {
        for (key, code, constraint) in [
            ("CONSTRAINT apart EXCLUDE (id WITH =)", "23P01", "apart"),
            ("CONSTRAINT late UNIQUE (id) DEFERRABLE INITIALLY DEFERRED", "23505", "late"),
        ] {
            let (db, admin) = made(&bed, &format!("CREATE TABLE note (id int8, body text, {key})")).await;
            let table: Bulk<Note> = open(&db, "note").await;
            let rows = || notes(0..60, "x").chain(notes(3..4, "again")).chain(notes(60..99, "x"));
            for method in METHODS {
                let report = table.insert_many(rows(), &reporting(method)).await.expect("the others");
                assert_eq!(codes(&report), [(60, code)], "{key} {method:?}");
                assert_eq!(report.rejected[0].refusal.constraint.as_deref(), Some(constraint));
                assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 99, "{key} {method:?}");
                empty(&admin, "note").await;
            }
            db.close().await;
            admin.client.batch_execute("DROP TABLE note").await.expect("drop");
        }
    });
}

/// Inside of an array nobody looks before the row is sent.
#[test]
fn a_nul_in_a_text_of_an_array_costs_its_own_row_alone() {
    struct Tagged {
        id: i64,
        tags: Vec<Option<String>>,
    }
    paystrata_db::row!(Tagged { id: INT8, tags: TEXT_ARRAY });
    with_database(|bed| async move {
        let (db, admin) = made(&bed, "CREATE TABLE tagged (id int8, tags text[])").await;
        let table: Bulk<Tagged> = open(&db, "tagged").await;
        let tags = |id| if id == 17 { "a\0b" } else { "ab" };
        let rows = || (0..40).map(move |id| Tagged { id, tags: vec![None, Some(tags(id).to_owned())] });
        for method in METHODS {
            let report = table.insert_many(rows(), &reporting(method)).await.expect("the others");
            assert_eq!(codes(&report), [(17, "22021")], "{method:?}");
            let whole = "SELECT count(*) FROM tagged WHERE tags = ARRAY[NULL, 'ab']";
            assert_eq!(count(&admin, whole).await, 39, "{method:?}");
            empty(&admin, "tagged").await;
        }
    });
}

#[test]
fn a_row_larger_than_a_chunk_is_a_chunk_of_its_own() {
    with_database(|bed| async move {
        let (db, admin) = made(&bed, "CREATE TABLE note (id int8 PRIMARY KEY, body text)").await;
        let table: Bulk<Note> = open(&db, "note").await;
        let options = BulkOptions { chunk_bytes_max: 1_024, ..BulkOptions::default() };
        let large = |id| Note { id, body: "x".repeat(1_000_000) };
        let report = table.insert_many((0..3).map(large), &options).await.expect("load");
        assert_eq!((report.chunks, report.affected), (3, 3));
        let report = table.upsert_many((2..4).map(large), BY_ID, &options).await.expect("upsert");
        assert_eq!((report.chunks, report.affected), (2, 2));
        assert_eq!(count(&admin, "SELECT sum(length(body)) FROM note").await, 4_000_000);
    });
}

#[test]
fn of_columns_that_differ_in_case_alone_the_right_one_is_written_and_named() {
    struct Cased {
        lower: String,
        upper: String,
    }
    impl Row for Cased {
        const COLUMNS: &'static [Column] =
            &[Column::new("code", Type::VARCHAR), Column::new("Code", Type::VARCHAR)];

        fn write(&self, fields: &mut FieldWriter<'_>) -> Result<(), FieldError> {
            fields.put(&self.lower)?;
            fields.put(&self.upper)
        }

        fn read(fields: &mut FieldReader<'_>) -> Result<Self, FieldError> {
            Ok(Self { lower: fields.take()?, upper: fields.take()? })
        }
    }
    with_database(|bed| async move {
        let make = "CREATE TABLE \"Order\" (\"Code\" varchar(2), code varchar(2))";
        let (db, admin) = made(&bed, make).await;
        let table: Bulk<Cased> = open(&db, "Order").await;
        let rows = [("ab", "CD"), ("ab", "CDE")];
        let rows = rows.map(|(lower, upper)| Cased { lower: lower.to_owned(), upper: upper.to_owned() });
        let report = table.insert_many(rows, &reporting(Method::Copy)).await.expect("the other one");
        assert_eq!(codes(&report), [(1, "22001")]);
        assert_eq!(report.rejected[0].refusal.column.as_deref(), Some("Code"));
        let stand = "SELECT count(*) FROM \"Order\" WHERE code = 'ab' AND \"Code\" = 'CD'";
        assert_eq!(count(&admin, stand).await, 1);
    });
}
