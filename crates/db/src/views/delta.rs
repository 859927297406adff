//! A plain table that acts as a view: only the rows of keys that changed are made anew. Who changes a row below notes its
//! key in a log, in the same transaction; a refresh takes keys from the log, deletes their rows, and inserts what the caller's
//! query gives for them. It writes no triggers. Called by `refresh`.

use postgres_types::Type;

use super::error::ViewError;
use super::refresh::{Run, Written};
use super::{View, is_plain_name, is_plain_path, quoted_path};

/// How a table is kept as a view by keys.
///
/// The log is a table `(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL)`, and whatever changes a row below
/// adds its key there, before and after the change if the change moves the row from one key to another:
///
/// ```sql
/// CREATE TABLE city_sizes (country text PRIMARY KEY, cities bigint NOT NULL);
/// CREATE TABLE city_sizes_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL);
/// CREATE FUNCTION log_city() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
///     IF TG_OP <> 'INSERT' THEN INSERT INTO city_sizes_log (key) VALUES (OLD.country); END IF;
///     IF TG_OP <> 'DELETE' THEN INSERT INTO city_sizes_log (key) VALUES (NEW.country); END IF;
///     RETURN NULL; END $$;
/// CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON city FOR EACH ROW EXECUTE FUNCTION log_city();
/// ```
///
/// The first refresh makes the whole table; so does the next one after the view's row in `view_refreshes` was deleted, which is
/// what to do when `select` has changed, or after `TRUNCATE` below.
#[derive(Clone, Debug)]
pub struct Delta {
    /// The table of changed keys.
    pub log: String,
    /// The view's key column. Rows of one key are made together; an index over it is what makes a refresh cheap.
    pub key: String,
    /// The type of that column: `int8`, `uuid`, `text`.
    pub key_type: String,
    /// Gives the rows of the keys in the array `$1`, which is of type `text[]` (`$1::int8[]`), with all columns of the view, in their
    /// order: `SELECT country, count(*) FROM city WHERE country = ANY($1) GROUP BY country`.
    pub select: &'static str,
    /// Gives every key there is, as text: `SELECT DISTINCT country FROM city`.
    pub all_keys: &'static str,
}

/// Entries of the log taken together. An array of so many keys is some hundred kilobytes.
const KEYS_MAX: i64 = 10_000;

impl Delta {
    pub(super) fn check(&self, view: &View) -> Result<(), ViewError> {
        let names = [("refresh.key", &self.key), ("refresh.key_type", &self.key_type)];
        for (field, name) in names {
            if !is_plain_name(name) {
                return Err(view.no_name(field, name));
            }
        }
        if is_plain_path(&self.log) { Ok(()) } else { Err(view.no_name("refresh.log", &self.log)) }
    }

    /// Makes the rows of all keys anew that the log holds now. Keys that are logged meanwhile stay for the next refresh.
    pub(super) async fn refresh(&self, run: &Run<'_>, extent: Extent) -> Result<Written, ViewError> {
        if !run.is_relation(&["r", "p"]).await? {
            return Err(ViewError::Missing { view: run.view.name.clone(), expected: "table" });
        }
        if extent == Extent::Whole {
            self.log_everything(run).await?;
        }
        let Self { key_type, select, .. } = self;
        let (view, log, key) = (quoted_path(&run.view.name), quoted_path(&self.log), quoted_path(&self.key));
        let last = run.query_one(&format!("SELECT coalesce(max(id), 0) FROM {log}"), &[]).await?;
        let last: i64 = run.decode(|| last.try_get(0))?;
        // Each statement sees what was committed before it. The keys are taken first, so that whatever was noted by a key
        // that is taken is seen by the queries after it; what comes later has an entry of its own.
        let take = format!(
            "WITH taken AS (DELETE FROM {log} WHERE id IN (SELECT id FROM {log} WHERE id <= $1 ORDER BY id LIMIT $2) RETURNING key) \
             SELECT array_agg(DISTINCT key) FROM taken"
        );
        let delete = format!("DELETE FROM {view} WHERE {key} = ANY($1::{key_type}[])");
        let insert = format!("INSERT INTO {view} {select}");
        let mut written = Written { rows: Some(0), is_changed: extent == Extent::Whole };
        loop {
            let taken = run.query_one(&take, &[(&last, Type::INT8), (&KEYS_MAX, Type::INT8)]).await?;
            let Some(keys) = run.decode(|| taken.try_get::<_, Option<Vec<String>>>(0))? else {
                return Ok(written);
            };
            run.execute(&delete, &[(&keys, Type::TEXT_ARRAY)]).await?;
            let rows = run.execute(&insert, &[(&keys, Type::TEXT_ARRAY)]).await?;
            written.is_changed = true;
            written.rows = written.rows.map(|before| before.saturating_add(rows));
        }
    }

    /// Empties the view and notes every key, as if all had changed.
    async fn log_everything(&self, run: &Run<'_>) -> Result<(), ViewError> {
        let (log, all_keys) = (quoted_path(&self.log), self.all_keys);
        run.execute(&format!("DELETE FROM {}", quoted_path(&run.view.name)), &[]).await?;
        run.execute(&format!("DELETE FROM {log}"), &[]).await?;
        let note = format!("INSERT INTO {log} (key) SELECT every.key FROM ({all_keys}) AS every (key)");
        run.execute(&note, &[]).await.map(drop)
    }
}

/// How much of a delta view is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    ChangedKeys,
}
