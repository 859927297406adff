//! The texts of all statements of bulk operations, from a checked target. Names are quoted; values never stand in a text.

use std::fmt::Write as _;

use super::table::{TEXTS, Target, quoted};

/// Where rows stand before they are merged; each transaction makes and drops its own.
pub(super) const STAGING: &str = "paystrata_bulk_rows";
/// The column of a row's place in the input there.
const PLACE: &str = "paystrata_bulk_place";

/// The server's bound on parameters of one statement.
pub(super) const PARAMETERS_MAX: usize = 65_535;

fn names(target: &Target) -> String {
    join(target.columns.iter().map(|column| quoted(column.name)), ", ")
}

fn join(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

fn insert_into(target: &Target) -> String {
    // COPY writes such columns unasked, and all methods are to do the same.
    let identity = target.columns.iter().any(|column| column.identity_always);
    let overriding = if identity { " OVERRIDING SYSTEM VALUE" } else { "" };
    format!("INSERT INTO {} ({}){overriding}", target.sql, names(target))
}

pub(super) fn copy_in(target: &Target) -> String {
    format!("COPY {} ({}) FROM STDIN (FORMAT binary)", target.sql, names(target))
}

/// `condition` is the caller's own text.
pub(super) fn copy_out(target: &Target, condition: Option<&str>) -> String {
    let condition = condition.map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
    format!("COPY (SELECT {} FROM {}{condition}) TO STDOUT (FORMAT binary)", names(target), target.sql)
}

/// Reads nothing, and keeps the table from being altered until the end of the transaction, with no more rights than reading takes.
pub(super) fn look_at(target: &Target) -> String {
    format!("SELECT {} FROM {} WHERE false", names(target), target.sql)
}

/// How many columns have another type than they had when they were looked up, or one with other bytes. Asked while the table cannot be
/// altered.
pub(super) fn changed_types(target: &Target) -> String {
    let literal = |name: &str| format!("'{}'", name.replace('\'', "''"));
    let texts = join(TEXTS.iter().map(|text| text.oid().to_string()), ", ");
    let known =
        target.columns.iter().map(|column| format!("({}, {}::oid)", literal(column.name), column.oid));
    format!(
        "SELECT count(*) FROM (VALUES {}) AS known (name, type) LEFT JOIN pg_catalog.pg_attribute a \
         ON a.attrelid = {}::regclass AND a.attname = known.name AND NOT a.attisdropped \
         WHERE a.atttypid IS DISTINCT FROM known.type \
            AND NOT (a.atttypid IN ({texts}) AND known.type IN ({texts}))",
        join(known, ", "),
        literal(&target.sql)
    )
}

/// One parameter per value.
pub(super) fn insert_values(target: &Target, rows: usize) -> String {
    let mut sql = format!("{} VALUES ", insert_into(target));
    let mut number = 0;
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for (index, column) in target.columns.iter().enumerate() {
            number += 1;
            let comma = if index == 0 { "" } else { ", " };
            let cast = column.cast.as_deref().map(|cast| format!("::{cast}")).unwrap_or_default();
            let _infallible = write!(sql, "{comma}${number}{cast}");
        }
        sql.push(')');
    }
    sql
}

/// One array per column.
pub(super) fn insert_unnest(target: &Target) -> String {
    let selected = target.columns.iter().enumerate().map(|(index, column)| match &column.cast {
        Some(cast) => format!("v.c{index}::{cast}"),
        None => format!("v.c{index}"),
    });
    let parameters = (1..=target.columns.len()).map(|number| format!("${number}"));
    let named = (0..target.columns.len()).map(|index| format!("c{index}"));
    format!(
        "{} SELECT {} FROM unnest({}) AS v ({})",
        insert_into(target),
        join(selected, ", "),
        join(parameters, ", "),
        join(named, ", ")
    )
}

/// Makes the staging table: the columns' types without constraints, defaults and indexes, gone at the end of the transaction.
pub(super) fn make_staging(target: &Target) -> String {
    format!(
        "CREATE TEMPORARY TABLE {STAGING} ON COMMIT DROP AS \
         SELECT 0::int8 AS {PLACE}, {} FROM {} WITH NO DATA",
        names(target),
        target.sql
    )
}

pub(super) fn clear_staging() -> String {
    format!("TRUNCATE pg_temp.{STAGING}")
}

pub(super) fn copy_staging(target: &Target) -> String {
    format!("COPY pg_temp.{STAGING} ({PLACE}, {}) FROM STDIN (FORMAT binary)", names(target))
}

/// Of all staged rows with one key the last. Rows with a NULL in the key are no duplicates of each other. Sorted by the
/// key, so that parallel loads lock rows in one order.
fn winners(target: &Target, key: &[usize]) -> String {
    let names_of_key = || key.iter().map(|position| quoted(target.columns[*position].name));
    let any_null = join(names_of_key().map(|name| format!("{name} IS NULL")), " OR ");
    let by = format!("{}, CASE WHEN {any_null} THEN {PLACE} END", join(names_of_key(), ", "));
    format!(
        "SELECT DISTINCT ON ({by}) {PLACE}, {} FROM pg_temp.{STAGING} ORDER BY {by}, {PLACE} DESC",
        names(target)
    )
}

/// Merges the staged rows; without columns to update, those whose key is there are left alone.
pub(super) fn upsert(target: &Target, key: &[usize], update: &[usize]) -> String {
    let name = |position: &usize| quoted(target.columns[*position].name);
    let set = |position: &usize| format!("{0} = EXCLUDED.{0}", name(position));
    let action = if update.is_empty() {
        "NOTHING".to_owned()
    } else {
        format!("UPDATE SET {}", join(update.iter().map(set), ", "))
    };
    format!(
        "{} SELECT {} FROM ({}) AS winner ON CONFLICT ({}) DO {action}",
        insert_into(target),
        names(target),
        winners(target, key),
        join(key.iter().map(name), ", ")
    )
}

/// Updates by the staged rows, and gives the number of rows updated, of rows missing, and the places of the missing.
pub(super) fn update(target: &Target, key: &[usize], update: &[usize], missing_max: usize) -> String {
    let name = |position: &usize| quoted(target.columns[*position].name);
    let set = |position: &usize| format!("{0} = winner.{0}", name(position));
    let same = |position: &usize| format!("target.{0} = winner.{0}", name(position));
    format!(
        "WITH winner AS MATERIALIZED ({winners}), updated AS ( \
            UPDATE {table} AS target SET {set} FROM winner WHERE {same} RETURNING winner.{PLACE} AS place), \
         missing AS (SELECT {PLACE} AS place FROM winner EXCEPT SELECT place FROM updated) \
         SELECT (SELECT count(*) FROM updated), (SELECT count(*) FROM missing), \
            ARRAY(SELECT place FROM missing ORDER BY place LIMIT {missing_max})",
        winners = winners(target, key),
        table = target.sql,
        set = join(update.iter().map(set), ", "),
        same = join(key.iter().map(same), " AND "),
    )
}
