//! The rules behind the findings, one function each. They look at a node, at its place in the plan, and at the facts of
//! the tables; where the statement was not run, they judge by what the planner expects. Called by `Explained::findings`.

use std::collections::BTreeMap;

use super::explain::Explained;
use super::finding::{Evidence, Finding, Thresholds};
use super::plan::{PlanNode, TableName};
use super::table::{PartitionFacts, TableFacts};

/// Everything a rule may look at besides the node.
struct Scene<'a> {
    thresholds: &'a Thresholds,
    tables: &'a [TableFacts],
    findings: Vec<Finding>,
}

/// What stands above a node.
#[derive(Clone, Copy, Default)]
struct Above {
    /// Something above may stop reading early, so that fewer rows than expected say nothing.
    may_stop: bool,
}

pub(super) fn findings(explained: &Explained, thresholds: &Thresholds) -> Vec<Finding> {
    let mut scene = Scene { thresholds, tables: &explained.tables, findings: Vec::new() };
    scene.visit(&explained.plan.root, Above::default());
    for facts in scene.tables {
        scene.findings.extend(stale_statistics(facts, thresholds));
    }
    scene.findings
}

impl Scene<'_> {
    /// Answers whether a misestimate was found at the node or below it: what is above only inherits it.
    fn visit(&mut self, node: &PlanNode, above: Above) -> bool {
        // From the top down: the node's own findings stand before those of its children.
        let place = self.findings.len();
        let mut blamed = false;
        for (index, child) in node.children.iter().enumerate() {
            let is_inner = index == 1;
            let stops = match node.kind.as_str() {
                "Limit" | "Merge Join" => true,
                _ => is_inner && matches!(node.join.as_deref(), Some("Semi" | "Anti")),
            };
            blamed |= self.visit(child, Above { may_stop: above.may_stop || stops });
        }
        let mut own = Vec::new();
        own.extend(self.sequential_scan(node));
        if !blamed && let Some(evidence) = self.misestimate(node, above) {
            own.push(evidence);
            blamed = true;
        }
        own.extend(node.spill.map(|spill| Evidence::Spill { kib: spill.kib, batches: spill.batches }));
        own.extend(self.nested_loop(node));
        own.extend(self.lossy_bitmap(node));
        own.extend(self.missing_pruning(node));
        let own = own.into_iter().map(|evidence| Finding { place: node.label(), evidence });
        self.findings.splice(place..place, own);
        blamed
    }

    fn facts(&self, table: Option<&TableName>) -> Option<&TableFacts> {
        self.tables.iter().find(|facts| Some(&facts.table) == table)
    }

    fn sequential_scan(&self, node: &PlanNode) -> Option<Evidence> {
        if node.kind != "Seq Scan" || node.condition("Filter").is_none() {
            return None;
        }
        let table = node.table.clone()?;
        let (read, kept) = match node.actual {
            Some(actual) => ((actual.rows + actual.removed) * actual.loops, actual.rows * actual.loops),
            None => (self.facts(Some(&table))?.rows(), node.rows_expected * node.processes),
        };
        // Of one loop: a small table that is read again and again is the nested loop's fault.
        let of_one = node.actual.map_or(read, |actual| read / (actual.loops / node.processes).max(1.0));
        let is_large = of_one >= self.thresholds.scan_rows_min;
        let discarded = read - kept >= read * self.thresholds.scan_discard_min;
        let counted = node.actual.is_some();
        (is_large && discarded).then_some(Evidence::SequentialScan { table, read, kept, counted })
    }

    fn misestimate(&self, node: &PlanNode, above: Above) -> Option<Evidence> {
        let actual = node.actual.filter(|actual| actual.loops > 0.0)?;
        // The server does not count these two in the planner's units.
        if matches!(node.kind.as_str(), "BitmapAnd" | "BitmapOr" | "Memoize") {
            return None;
        }
        let (expected, given) = (node.rows_expected, actual.rows);
        if given < expected && above.may_stop {
            return None;
        }
        let (low, high) = if given < expected { (given, expected) } else { (expected, given) };
        let is_far = high >= low.max(1.0) * self.thresholds.misestimate_factor;
        let is_much = high * actual.loops >= self.thresholds.misestimate_rows_min;
        (is_far && is_much).then_some(Evidence::Misestimate { expected, given })
    }

    fn nested_loop(&self, node: &PlanNode) -> Option<Evidence> {
        let [outer, inner] = &node.children[..] else { return None };
        if node.kind != "Nested Loop" {
            return None;
        }
        let (loops, rows_each) = match inner.actual {
            Some(actual) => (actual.loops, rows_read(inner)?),
            None => (outer.rows_expected, self.rows_planned(inner)),
        };
        let is_each = rows_each >= self.thresholds.loop_rows_each_min && loops > 1.0;
        let is_much = loops * rows_each >= self.thresholds.loop_rows_min;
        let counted = inner.actual.is_some();
        (is_each && is_much).then_some(Evidence::NestedLoop { loops, rows_each, counted })
    }

    /// What the planner lets the inner side read in one loop.
    fn rows_planned(&self, inner: &PlanNode) -> f64 {
        let whole = self.facts(inner.table.as_ref()).filter(|_| inner.kind == "Seq Scan");
        whole.map_or(inner.rows_expected, TableFacts::rows)
    }

    fn lossy_bitmap(&self, node: &PlanNode) -> Option<Evidence> {
        let actual = node.actual?;
        let (exact, lossy) = (actual.pages_exact, actual.pages_lossy);
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = lossy as f64 / (exact + lossy).max(1) as f64;
        (lossy > 0 && share >= self.thresholds.lossy_share_min)
            .then_some(Evidence::LossyBitmap { exact, lossy })
    }

    fn missing_pruning(&self, node: &PlanNode) -> Option<Evidence> {
        if !matches!(node.kind.as_str(), "Append" | "Merge Append") || node.partitions_removed > 0 {
            return None;
        }
        let mut scans = BTreeMap::new();
        for child in &node.children {
            let scan = scan_below(child)?;
            scans.insert(scan.table.clone()?, scan);
        }
        let first = scans.keys().next()?;
        let root = self.facts(Some(first))?.partition_of.as_ref()?;
        let scanned = u32::try_from(scans.len()).ok()?;
        let is_wanted_in_part = scans.values().any(|scan| !scan.conditions.is_empty());
        if scanned < root.partitions.max(self.thresholds.partitions_min) || !is_wanted_in_part {
            return None;
        }
        let useful = useful_partitions(&scans, root, scanned)?;
        Some(Evidence::MissingPruning { table: root.root.clone(), key: root.key.clone(), scanned, useful })
    }
}

/// Nothing where the partitions are rightly read. A condition on the key that spans all of them is right unless most gave
/// nothing, which only running it shows.
#[expect(clippy::option_option, reason = "the inner one is the evidence's own")]
fn useful_partitions(
    scans: &BTreeMap<TableName, &PlanNode>,
    root: &PartitionFacts,
    scanned: u32,
) -> Option<Option<u32>> {
    let columns = key_columns(&root.key);
    let names_key = |scan: &PlanNode| {
        let texts = scan.conditions.iter().map(|(_, text)| text);
        texts.into_iter().any(|text| columns.iter().any(|column| names_word(text, column)))
    };
    if !scans.values().any(|scan| names_key(scan)) {
        return Some(None);
    }
    let given: Option<Vec<f64>> = scans.values().map(|scan| scan.total(|actual| actual.rows)).collect();
    let useful = u32::try_from(given?.into_iter().filter(|rows| *rows > 0.0).count()).ok()?;
    (useful * 2 <= scanned).then_some(Some(useful))
}

/// Not as a part of another word.
fn names_word(text: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '$');
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

/// The words of a partition key: of `RANGE (date_trunc('month', at), kind)` all that may be columns.
fn key_columns(key: &str) -> Vec<String> {
    let inner = key.split_once('(').map_or(key, |(_, inner)| inner);
    let words = inner.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The node that reads a table, under nodes that only pass rows on.
fn scan_below(node: &PlanNode) -> Option<&PlanNode> {
    match (&node.table, &node.children[..]) {
        (Some(_), _) => Some(node),
        (None, [only]) => scan_below(only),
        _ => None,
    }
}

/// Rows that a side reads in one of its loops, thrown away or not; below a node that only keeps rows, what it keeps.
fn rows_read(node: &PlanNode) -> Option<f64> {
    node.actual.map(|actual| actual.rows + actual.removed)
}

fn stale_statistics(facts: &TableFacts, thresholds: &Thresholds) -> Option<Finding> {
    let share = facts.rows_analyzed.unwrap_or(0.0) * thresholds.stale_share_min;
    let is_stale = facts.rows_changed >= thresholds.stale_rows_min.max(share);
    is_stale.then(|| Finding {
        place: facts.table.to_string(),
        evidence: Evidence::StaleStatistics { changed: facts.rows_changed, analyzed: facts.rows_analyzed },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_as_a_word_and_not_as_a_part_of_one() {
        for (text, word, is_named) in [
            ("(p_1.at >= '2026-01-01')", "at", true),
            ("(at = $1)", "at", true),
            ("(p_1.status = 5)", "at", false),
            ("(merchant_id = 7)", "id", false),
            ("(id$x = 7)", "id", false),
        ] {
            assert_eq!(names_word(text, word), is_named, "{text}");
        }
    }

    #[test]
    fn the_words_of_a_key_are_found() {
        assert_eq!(key_columns("RANGE (created_at)"), ["created_at"]);
        assert_eq!(key_columns("HASH (a, b)"), ["a", "b"]);
    }
}
