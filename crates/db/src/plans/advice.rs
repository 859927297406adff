//! What the advisor says, as values and as a page for people. It weighs nothing; that is `advise`.

use std::fmt;

use super::candidate::IndexColumns;
use crate::node::NodeId;

/// When an index is advised.
#[derive(Clone, Debug)]
pub struct AdviseOptions {
    /// A statement of less cost, in the planner's units, is not looked at: 100 are about a millisecond.
    pub cost_min: f64,
    /// A table with fewer rows is best read whole.
    pub rows_min: f64,
    /// An index has to bring a statement's cost down to this share. A second column has to do the same once more.
    pub cost_share_max: f64,
    /// What one row written costs for each index on its table, in the planner's units: one page somewhere else, as the
    /// planner counts it (`random_page_cost`).
    pub write_cost: f64,
    /// What the workload saves has to be this many times what the writes cost.
    pub benefit_factor: f64,
    /// A table with so many indexes gets no further one.
    pub indexes_max: u32,
    /// An index larger than this, in bytes, is not advised.
    pub size_max: u64,
}

impl Default for AdviseOptions {
    fn default() -> Self {
        Self {
            cost_min: 100.0,
            rows_min: 10_000.0,
            cost_share_max: 0.5,
            write_cost: 4.0,
            benefit_factor: 2.0,
            indexes_max: 10,
            size_max: 64 << 30,
        }
    }
}

/// What the advisor says of a workload.
#[derive(Clone, Debug)]
pub struct Advice {
    /// The server that planned.
    pub node: NodeId,
    /// What it weighed with.
    pub hypopg: HypoPg,
    /// Indexes that would pay, the most saved first.
    pub indexes: Vec<IndexAdvice>,
    /// Indexes that would not, or that are not needed.
    pub rejected: Vec<Rejected>,
    /// Without HypoPG: columns that a scan throws rows away by. Nobody knows yet whether an index on them pays.
    pub unweighed: Vec<IndexColumns>,
    /// Statements that have no plan, and why.
    pub skipped: Vec<String>,
    /// Statements that were planned.
    pub planned: usize,
}

/// Whether hypothetical indexes can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HypoPg {
    /// Installed in this database.
    Installed {
        /// Its version.
        version: String,
    },
    /// Not installed in this database.
    Absent,
}

/// An index that would pay.
#[derive(Clone, Debug)]
pub struct IndexAdvice {
    /// On what.
    pub index: IndexColumns,
    /// How large HypoPG takes it to be, in bytes.
    pub size: u64,
    /// The statements that it helps, with literals redacted.
    pub helps: Vec<Helped>,
    /// The planner's units that all calls together would save.
    pub saves: f64,
    /// The planner's units that all rows written together would have cost.
    pub write_cost: f64,
}

/// A statement that an index would help.
#[derive(Clone, Debug)]
pub struct Helped {
    /// Its text, with `?` for each literal.
    pub text: String,
    /// How often it is called.
    pub calls: u64,
    /// The planner's cost without the index.
    pub cost_without: f64,
    /// And with it.
    pub cost_with: f64,
}

/// An index that is not advised.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// On what.
    pub index: IndexColumns,
    /// Why not.
    pub why: Refusal,
}

/// Why an index is not advised.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// Reading the table whole costs next to nothing.
    SmallTable {
        /// Its rows.
        rows: f64,
    },
    /// An index that stands begins with the same columns.
    Indexed {
        /// Its name.
        by: String,
    },
    /// An index that is advised begins with the same columns.
    Covered {
        /// That one.
        by: IndexColumns,
    },
    /// The writes would cost more than the reads save.
    Writes {
        /// Saved by all calls.
        saves: f64,
        /// Paid by all rows written.
        write_cost: f64,
    },
    /// The table has enough of them.
    ManyIndexes {
        /// How many.
        indexes: u32,
    },
    /// It would be too large.
    Large {
        /// In bytes.
        size: u64,
    },
    /// The table is part of a partitioned one, whose index is a matter for a migration.
    Partitioned,
}

impl IndexAdvice {
    /// What one call saves in the mean, in the planner's units: for [`CreateOptions`](super::CreateOptions), and so for
    /// [`review_indexes`](super::review_indexes).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a weight")]
    pub fn saves_per_call(&self) -> f64 {
        let calls: u64 = self.helps.iter().map(|helped| helped.calls).sum();
        self.saves / (calls.max(1) as f64)
    }
}

impl Helped {
    #[expect(clippy::cast_precision_loss, reason = "a weight")]
    pub(super) fn saves(&self) -> f64 {
        self.calls as f64 * (self.cost_without - self.cost_with)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SmallTable { rows } => write!(formatter, "the table has only {rows:.0} rows"),
            Self::Indexed { by } => write!(formatter, "{by} begins with the same columns"),
            Self::Covered { by } => write!(formatter, "covered by the index advised on {by}"),
            Self::Writes { saves, write_cost } => {
                write!(formatter, "saves {saves:.0}, and the writes would cost {write_cost:.0}")
            }
            Self::ManyIndexes { indexes } => write!(formatter, "the table has {indexes} indexes already"),
            Self::Large { size } => write!(formatter, "it would take {} MiB", size >> 20),
            Self::Partitioned => {
                write!(formatter, "part of a partitioned table: index that one in a migration")
            }
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hypopg {
            HypoPg::Installed { version } => {
                let Self { planned, node, .. } = self;
                writeln!(formatter, "{planned} statements planned by {node}, weighed with HypoPG {version}")?;
            }
            HypoPg::Absent => writeln!(
                formatter,
                "{} statements planned. HypoPG is not installed in this database, so no index can be weighed: install \
                 the package (Debian: postgresql-15-hypopg) and run CREATE EXTENSION hypopg",
                self.planned
            )?,
        }
        if self.indexes.is_empty() && self.unweighed.is_empty() {
            writeln!(formatter, "no index to advise")?;
        }
        for advice in &self.indexes {
            write!(formatter, "{advice}")?;
        }
        for index in &self.unweighed {
            writeln!(formatter, "\nlook at {index}: a scan throws most rows away by it; not weighed")?;
        }
        for Rejected { index, why } in &self.rejected {
            writeln!(formatter, "not {index}: {why}")?;
        }
        for statement in &self.skipped {
            writeln!(formatter, "no plan for {statement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for IndexAdvice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, size, helps, saves, write_cost } = self;
        writeln!(formatter, "\n{};", index.create_sql())?;
        writeln!(
            formatter,
            "  saves {saves:.0} in all, writes would have cost {write_cost:.0} (planner's units); about {} MiB",
            size.div_ceil(1 << 20)
        )?;
        for Helped { text, calls, cost_without, cost_with } in helps {
            writeln!(formatter, "  {calls} calls, cost {cost_without:.0} -> {cost_with:.0}: {text}")?;
        }
        Ok(())
    }
}
