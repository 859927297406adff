//! What is wrong with a plan: seven kinds of finding, each with the figures that show it and advice in words.
//! A pure function of a plan and the facts about its tables; it asks nobody. The rules stand in `rules`.

use std::fmt;

use super::explain::Explained;
use super::plan::TableName;
use super::rules;

/// From where on something counts as wrong. The defaults are the ones that plan readers in wide use have settled on.
#[derive(Clone, Debug)]
pub struct Thresholds {
    /// A table smaller than this is best read whole, whatever is thrown away: 10,000 rows are some 100 pages.
    pub scan_rows_min: f64,
    /// Share of the rows read that is thrown away again.
    pub scan_discard_min: f64,
    /// Factor between the rows expected and the rows that came. Below 10 the planner's choice is rarely another.
    pub misestimate_factor: f64,
    /// The larger of the two numbers; 1 row instead of 100 costs nothing.
    pub misestimate_rows_min: f64,
    /// Rows that the inner side of a nested loop reads in all loops together.
    pub loop_rows_min: f64,
    /// Rows that it reads in one loop. A look-up in an index reads one or a few.
    pub loop_rows_each_min: f64,
    /// Share of a bitmap's pages that have lost their rows.
    pub lossy_share_min: f64,
    /// Share of a table that changed since it was analyzed. The server's own autoanalyze begins at 0.1.
    pub stale_share_min: f64,
    /// Changed rows, likewise; the server's own begins at 50.
    pub stale_rows_min: f64,
    /// Partitions that are read although none was ruled out.
    pub partitions_min: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            scan_rows_min: 10_000.0,
            scan_discard_min: 0.9,
            misestimate_factor: 10.0,
            misestimate_rows_min: 1_000.0,
            loop_rows_min: 100_000.0,
            loop_rows_each_min: 50.0,
            lossy_share_min: 0.1,
            stale_share_min: 0.2,
            stale_rows_min: 1_000.0,
            partitions_min: 3,
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The node of the plan, or the table.
    pub place: String,
    /// The figures that show it.
    pub evidence: Evidence,
}

/// The kind of a finding, with its figures.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Evidence {
    /// A table is read whole, and most of it thrown away.
    SequentialScan {
        /// The table.
        table: TableName,
        /// Rows read.
        read: f64,
        /// Rows kept.
        kept: f64,
        /// Counted by running it, and not expected by the planner.
        counted: bool,
    },
    /// Far more or fewer rows came than the planner expected.
    Misestimate {
        /// Expected in one loop.
        expected: f64,
        /// Given in one loop.
        given: f64,
    },
    /// A sort or hash did not fit into memory.
    Spill {
        /// KiB on disk; 0 where the server does not say.
        kib: u64,
        /// Parts that the work was cut into.
        batches: u64,
    },
    /// The inner side of a nested loop reads many rows again and again.
    NestedLoop {
        /// Loops.
        loops: f64,
        /// Rows read in each.
        rows_each: f64,
        /// Counted by running it, and not expected by the planner.
        counted: bool,
    },
    /// A bitmap did not fit into memory, so that whole pages were looked at again.
    LossyBitmap {
        /// Pages that still knew their rows.
        exact: u64,
        /// Pages that did not.
        lossy: u64,
    },
    /// The planner works from statistics of a table as it no longer is.
    StaleStatistics {
        /// Rows changed since it was analyzed.
        changed: f64,
        /// Rows at that time; `None` if it never was.
        analyzed: Option<f64>,
    },
    /// Every partition is read although the statement wants a part of the rows.
    MissingPruning {
        /// The partitioned table.
        table: TableName,
        /// Its key.
        key: String,
        /// Partitions read, which are all.
        scanned: u32,
        /// Of which gave a row; `None` if it was not run.
        useful: Option<u32>,
    },
}

impl Explained {
    /// Everything that is wrong by these thresholds: from the top of the plan down, tables last.
    #[must_use]
    pub fn findings(&self, thresholds: &Thresholds) -> Vec<Finding> {
        rules::findings(self, thresholds)
    }
}

impl Finding {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match &self.evidence {
            Evidence::SequentialScan { table, .. } => format!(
                "index the columns of {table} that the filter compares, the ones compared by equality first; if \
                 there is such an index, look whether a cast or a function around the column keeps it from being used"
            ),
            Evidence::Misestimate { .. } => "run ANALYZE on the table; if that does not help, raise the column's \
                 statistics target (ALTER TABLE .. ALTER COLUMN .. SET STATISTICS), or CREATE STATISTICS over columns \
                 that depend on each other"
                .to_owned(),
            Evidence::Spill { kib, .. } => {
                let wanted = if *kib > 0 { format!(" (more than {kib} KiB were needed)") } else { String::new() };
                format!(
                    "give this statement more work_mem{wanted}, or fewer rows or narrower columns to sort or hash, or \
                     an index that already has the order"
                )
            }
            Evidence::NestedLoop { .. } => "index the column that the inner side is joined by; if there is one, the \
                 outer side gives more rows than the planner expected: look for a misestimate there"
                .to_owned(),
            Evidence::LossyBitmap { .. } => "give this statement more work_mem, or an index that leaves fewer rows \
                 to the bitmap"
                .to_owned(),
            Evidence::StaleStatistics { .. } => format!(
                "run ANALYZE {}; if it comes back, lower autovacuum_analyze_scale_factor for this table",
                self.place
            ),
            Evidence::MissingPruning { key, useful, .. } => match useful {
                Some(_) => format!(
                    "compare the bare column of the key ({key}) with a value: a function or cast around it hides it \
                     from the planner"
                ),
                None => format!("add a condition on the key ({key}) to the statement"),
            },
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.evidence)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = |counted: bool| if counted { "" } else { " (expected)" };
        match self {
            Self::SequentialScan { table, read, kept, counted } => {
                let how = how(*counted);
                write!(formatter, "reads {read:.0} rows of {table} to keep {kept:.0}{how}")
            }
            Self::Misestimate { expected, given } => {
                write!(formatter, "gives {given:.0} rows where {expected:.0} were expected")
            }
            Self::Spill { kib, batches } => match kib {
                0 => write!(formatter, "does not fit into memory: {batches} batches"),
                _ => write!(formatter, "does not fit into memory: {kib} KiB on disk"),
            },
            Self::NestedLoop { loops, rows_each, counted } => {
                let how = how(*counted);
                write!(formatter, "reads {rows_each:.0} rows in each of {loops:.0} loops{how}")
            }
            Self::LossyBitmap { exact, lossy } => {
                write!(formatter, "{lossy} of {} pages of the bitmap have lost their rows", exact + lossy)
            }
            Self::StaleStatistics { changed, analyzed: None } => {
                write!(formatter, "never analyzed, {changed:.0} rows changed")
            }
            Self::StaleStatistics { changed, analyzed: Some(rows) } => {
                write!(formatter, "{changed:.0} rows changed since it was analyzed with {rows:.0}")
            }
            Self::MissingPruning { table, key, scanned, useful } => {
                write!(formatter, "reads all {scanned} partitions of {table} by {key}")?;
                match useful {
                    Some(useful) => write!(formatter, ", {useful} of which gave a row"),
                    None => Ok(()),
                }
            }
        }
    }
}
