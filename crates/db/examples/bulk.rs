//! A hundred thousand rows in, changed, and out again; a bad row named, and a load completed that was cut.
//!
//! `DATABASE_URL=postgres://postgres@127.0.0.1/test cargo run --release -p paystrata-db --example bulk`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use paystrata_db::{BULK_SCHEMA, BadRows, Bulk, BulkOptions, Config, Conflict, Db, TableName};

#[derive(Clone, Debug)]
struct City {
    id: i64,
    name: String,
    people: Option<i32>,
}

paystrata_db::row!(City { id: INT8, name: TEXT, people: INT4 });

fn cities(count: i64) -> impl Iterator<Item = City> {
    (0..count).map(|id| City { id, name: format!("city {id}"), people: None })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let db = Db::connect(Config::new(std::env::var("DATABASE_URL")?.parse()?)).await?;
    let session = db.session("example").await?;
    let make = "DROP TABLE IF EXISTS example_city; \
        CREATE TABLE example_city (id int8 PRIMARY KEY, name text NOT NULL CHECK (name <> ''), people int4)";
    session.client().batch_execute(&format!("{BULK_SCHEMA}; {make}")).await?;

    let table: Bulk<City> = Bulk::open(&db, &TableName::new("example_city")).await?;
    let report = table.insert_many(cities(100_000), &BulkOptions::default()).await?;
    println!("inserted {} in {} chunks of {} bytes", report.affected, report.chunks, report.bytes);

    // One of them is there twice; the last one wins.
    let counted = [1, 2, 100_000, 2].map(|id| City { id, name: format!("town {id}"), people: Some(7) });
    let conflict = Conflict { key: &["id"], update: &["people"] };
    let report = table.upsert_many(counted.clone(), conflict, &BulkOptions::default()).await?;
    println!("upserted {} from {} rows", report.affected, report.accepted);

    let unknown = City { id: -1, name: "nowhere".to_owned(), people: None };
    let report = table.update_many([counted[0].clone(), unknown], &["id"], &BulkOptions::default()).await?;
    println!("updated {}, no match for rows {:?}", report.affected, report.missing);

    let nameless = City { id: 200_001, name: String::new(), people: None };
    let more = [City { id: 200_000, ..counted[0].clone() }, nameless];
    let refused = table.insert_many(more.clone(), &BulkOptions::default()).await;
    println!("refused: {}", refused.err().ok_or("a nameless city was taken")?);
    let options = BulkOptions { bad_rows: BadRows::Report, ..BulkOptions::default() };
    let report = table.insert_many(more, &options).await?;
    println!("inserted {}, rejected {}", report.affected, report.rejected[0]);

    // An input that breaks off, and the same input again, under one job.
    session.client().batch_execute("DELETE FROM paystrata_bulk_job WHERE job = 'example'").await?;
    let job =
        BulkOptions { job: Some("example".to_owned()), chunk_rows_max: 1_000, ..BulkOptions::default() };
    let new = || cities(5_000).map(|city| City { id: city.id + 300_000, ..city });
    let cut = stream::iter(new().take(2_500)).map(Ok).chain(stream::iter([Err("the file is cut off here")]));
    let error = table.insert_stream(cut, &job).await.err().ok_or("the input was cut")?;
    println!("{error}; {} rows stand", error.done.affected);
    let report = table.insert_many(new(), &job).await?;
    println!("skipped {}, inserted {}", report.skipped, report.affected);

    let rows = table.copy_out(Some("people IS NOT NULL"), report.token, &BulkOptions::default()).await?;
    rows.try_for_each(|city| async move {
        println!("  {}: {} ({:?})", city.id, city.name, city.people);
        Ok(())
    })
    .await?;
    session.client().batch_execute("DROP TABLE example_city").await?;
    db.close().await;
    Ok(())
}
