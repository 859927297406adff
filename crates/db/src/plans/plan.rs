//! A plan as a value: what the server's `EXPLAIN (FORMAT JSON)` says of each node, typed.
//! It judges nothing and asks nobody. Made by `explain`, read by `finding` and by the advisor.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

/// Deeper plans than this are refused: the server writes none, and a tree is walked by recursion.
const DEPTH_MAX: usize = 256;

/// A statement's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its topmost node.
    pub root: PlanNode,
    /// How long planning took; only of a statement that was run.
    pub planning: Option<Duration>,
    /// How long running it took; only of a statement that was run.
    pub execution: Option<Duration>,
}

/// One node. Everything that the server counts "per loop" is kept so; [`PlanNode::total`] multiplies.
#[derive(Clone, Debug)]
pub struct PlanNode {
    /// The server's name for what it does: `Seq Scan`, `Hash Join`.
    pub kind: String,
    /// The table that is read, if one is.
    pub table: Option<TableName>,
    /// The table's alias in the statement.
    pub alias: Option<String>,
    /// The index that is used, if one is.
    pub index: Option<String>,
    /// How a join treats rows without a partner: `Inner`, `Left`, `Semi`, `Anti`.
    pub join: Option<String>,
    /// Conditions, as the server writes them, by their names there: `Filter`, `Index Cond`, `Hash Cond`.
    /// With values given for the parameters they may show those.
    pub conditions: Vec<(String, String)>,
    /// What is sorted or grouped by.
    pub keys: Vec<String>,
    /// The planner's units until the last row.
    pub cost: f64,
    /// Rows that the planner expects in one loop.
    pub rows_expected: f64,
    /// Processes that work on it below a `Gather`, the leader included.
    pub processes: f64,
    /// What was counted; only of a statement that was run.
    pub actual: Option<Actual>,
    /// Disk that was used for want of memory.
    pub spill: Option<Spill>,
    /// Partitions that were ruled out before the first row.
    pub partitions_removed: u64,
    /// The nodes it reads from.
    pub children: Vec<PlanNode>,
}

/// A table by schema and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for TableName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.schema, self.name)
    }
}

/// What running a node counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Actual {
    /// Rows given, per loop.
    pub rows: f64,
    /// Rows read and thrown away by a condition, per loop.
    pub removed: f64,
    /// How often it was run; 0 if never.
    pub loops: f64,
    /// Pages of a bitmap that still knew their rows.
    pub pages_exact: u64,
    /// Pages of a bitmap of which every row had to be looked at again, for want of memory.
    pub pages_lossy: u64,
}

/// Disk used by a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spill {
    /// How much of it, in KiB; 0 where the server does not say (a hash in several batches).
    pub kib: u64,
    /// Into how many parts the work was cut; 1 for a sort.
    pub batches: u64,
}

impl Plan {
    /// Reads the JSON text of the server; `None` when it has another form.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let answer: Value = serde_json::from_str(text).ok()?;
        let plan = answer.get(0)?;
        let time = |name: &str| {
            let millis = plan.get(name)?.as_f64()?;
            Duration::try_from_secs_f64(millis / 1e3).ok()
        };
        let root = read_node(plan.get("Plan")?, 1.0, 0)?;
        Some(Self { root, planning: time("Planning Time"), execution: time("Execution Time") })
    }

    /// All nodes, each before those it reads from.
    pub fn nodes(&self) -> impl Iterator<Item = &PlanNode> {
        let mut waiting = vec![&self.root];
        std::iter::from_fn(move || {
            let node = waiting.pop()?;
            waiting.extend(node.children.iter().rev());
            Some(node)
        })
    }

    /// The plan in a few words and without any condition, so without any value: `Limit > Sort > Seq Scan on public.t`
    /// with cost and expected rows. For logs.
    #[must_use]
    pub fn outline(&self) -> String {
        let mut text = format!("cost={:.0} rows={:.0} ", self.root.cost, self.root.rows_expected);
        outline(&self.root, &mut text);
        text
    }
}

fn outline(node: &PlanNode, text: &mut String) {
    text.push_str(&node.label());
    match &node.children[..] {
        [] => {}
        [only] => {
            text.push_str(" > ");
            outline(only, text);
        }
        several => {
            for (index, child) in several.iter().enumerate() {
                text.push_str(if index == 0 { " (" } else { ", " });
                outline(child, text);
            }
            text.push(')');
        }
    }
}

impl PlanNode {
    /// `Seq Scan on public.t`, or `Index Scan on public.t by t_pkey`.
    #[must_use]
    pub fn label(&self) -> String {
        let mut label = self.kind.clone();
        if let Some(table) = &self.table {
            let _infallible = write!(label, " on {table}");
        }
        if let Some(index) = &self.index {
            let _infallible = write!(label, " by {index}");
        }
        label
    }

    /// A figure per loop, over all loops.
    #[must_use]
    pub fn total(&self, per_loop: impl Fn(&Actual) -> f64) -> Option<f64> {
        self.actual.map(|actual| per_loop(&actual) * actual.loops)
    }

    /// The text of a condition.
    #[must_use]
    pub fn condition(&self, name: &str) -> Option<&str> {
        self.conditions.iter().find(|(found, _)| found == name).map(|(_, text)| text.as_str())
    }
}

const CONDITIONS: [&str; 8] = [
    "Filter",
    "Index Cond",
    "Recheck Cond",
    "Hash Cond",
    "Merge Cond",
    "Join Filter",
    "One-Time Filter",
    "TID Cond",
];

fn read_node(value: &Value, processes: f64, depth: usize) -> Option<PlanNode> {
    if depth > DEPTH_MAX {
        return None;
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| value.get(name).and_then(Value::as_f64);
    let whole = |name: &str| value.get(name).and_then(Value::as_u64);
    let below = number("Workers Planned").map_or(processes, |workers| workers + 1.0);
    let children = value.get("Plans").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let keys = ["Sort Key", "Group Key"].iter().filter_map(|name| value.get(*name)?.as_array());
    let condition = |name: &&str| Some(((*name).to_owned(), text(name)?));
    Some(PlanNode {
        kind: text("Node Type")?,
        table: text("Relation Name")
            .map(|name| TableName { schema: text("Schema").unwrap_or_default(), name }),
        alias: text("Alias"),
        index: text("Index Name"),
        join: text("Join Type"),
        conditions: CONDITIONS.iter().filter_map(condition).collect(),
        keys: keys.flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        cost: number("Total Cost")?,
        rows_expected: number("Plan Rows")?,
        processes,
        actual: number("Actual Loops").map(|loops| Actual {
            rows: number("Actual Rows").unwrap_or(0.0),
            removed: ["Rows Removed by Filter", "Rows Removed by Join Filter"]
                .iter()
                .filter_map(|name| number(name))
                .sum(),
            loops,
            pages_exact: whole("Exact Heap Blocks").unwrap_or(0),
            pages_lossy: whole("Lossy Heap Blocks").unwrap_or(0),
        }),
        spill: read_spill(value),
        partitions_removed: whole("Subplans Removed").unwrap_or(0),
        children: children
            .iter()
            .map(|child| read_node(child, below, depth + 1))
            .collect::<Option<Vec<_>>>()?,
    })
}

fn read_spill(value: &Value) -> Option<Spill> {
    let whole = |name: &str| value.get(name).and_then(Value::as_u64);
    if value.get("Sort Space Type").and_then(Value::as_str) == Some("Disk") {
        return Some(Spill { kib: whole("Sort Space Used").unwrap_or(0), batches: 1 });
    }
    let batches = whole("Hash Batches").or_else(|| whole("HashAgg Batches")).unwrap_or(1);
    let kib = whole("Disk Usage").unwrap_or(0);
    (batches > 1 || kib > 0).then_some(Spill { kib, batches })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = r#"[{"Plan": {"Node Type": "Gather", "Total Cost": 20.5, "Plan Rows": 3, "Workers Planned": 2,
        "Actual Rows": 4, "Actual Loops": 1, "Plans": [
            {"Node Type": "Sort", "Total Cost": 9, "Plan Rows": 1, "Sort Key": ["t.id"], "Sort Space Used": 640,
             "Sort Space Type": "Disk", "Plans": [
                {"Node Type": "Seq Scan", "Relation Name": "t", "Schema": "public", "Alias": "x", "Total Cost": 8,
                 "Plan Rows": 1, "Filter": "(x.k = 7)", "Actual Rows": 1, "Actual Loops": 3,
                 "Rows Removed by Filter": 99}]}]},
        "Planning Time": 0.5, "Execution Time": 12.25}]"#;

    #[test]
    fn every_figure_finds_its_place() {
        let plan = Plan::read(RUN).expect("it is the server's form");
        assert_eq!(plan.execution, Some(Duration::from_micros(12_250)));
        let [gather, sort, scan] = plan.nodes().collect::<Vec<_>>()[..] else { panic!("three nodes") };
        assert_eq!((gather.processes.round(), scan.processes.round()), (1.0, 3.0));
        assert_eq!(sort.spill, Some(Spill { kib: 640, batches: 1 }));
        assert_eq!(scan.condition("Filter"), Some("(x.k = 7)"));
        assert_eq!(scan.total(|actual| actual.removed), Some(297.0));
        assert_eq!(scan.label(), "Seq Scan on public.t");
    }

    #[test]
    fn the_outline_shows_no_condition() {
        let outline = Plan::read(RUN).expect("it is the server's form").outline();
        assert_eq!(outline, "cost=20 rows=3 Gather > Sort > Seq Scan on public.t");
    }

    #[test]
    fn another_form_is_refused() {
        let deep = format!("{}{}", r#"[{"Plan":{"Node Type":"A","Plans":["#.repeat(300), "]}}]".repeat(300));
        for text in ["", "{}", "[]", r#"[{"Plan": {}}]"#, r#"[{"Plan": {"Node Type": 1}}]"#, deep.as_str()] {
            assert!(Plan::read(text).is_none(), "{text:.60}");
        }
    }
}
