//! What a review says of one index, as a value and as a line for people: a pure function of what was counted. It asks nobody
//! and drops nothing; that is `review`.

use std::fmt;
use std::time::Duration;

use super::plan::TableName;
use super::review::{Review, ReviewOptions};

/// An index that was built here, and what has become of it.
#[derive(Clone, Debug)]
pub struct Reviewed {
    /// Its table, with which it shares the schema.
    pub table: TableName,
    /// Its name.
    pub name: String,
    /// What makes it again.
    pub statement: String,
    /// What was counted.
    pub figures: IndexFigures,
    /// Whether it pays.
    pub verdict: Verdict,
    /// What was done about it.
    pub fate: Fate,
}

/// What was counted of an index since it was built, or since a server's counters began anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IndexFigures {
    /// Its scans on all servers together. One call of a statement may scan it several times.
    pub scans: u64,
    /// How long the server has counted that has counted for the shortest time.
    pub counted: Duration,
    /// What its scans save in a day, in the planner's units; `None` if it was built without
    /// [`CreateOptions::saves_per_call`](super::CreateOptions::saves_per_call). Rather too high: each scan is taken for a call.
    pub saves_a_day: Option<f64>,
    /// What the rows written to its table cost it in a day, in the planner's units.
    pub writes_cost_a_day: f64,
}

/// Whether an index pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It saves more than it costs; or it is used, and what a call saves is not known.
    Pays,
    /// Not every server has counted for long enough: nobody knows yet.
    Young,
    /// It is hardly used.
    Unused,
    /// The writes cost more than the reads save.
    Dear,
}

/// What was done about an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: it stands.
    Stands,
    /// It was dropped.
    TakenBack,
    /// A transaction is in the way: it has been open for longer than [`ReviewOptions::transaction_age_max`] on a server, or a
    /// lock was not to be had in time. The next review with approval goes on; the planner may have ceased to use it.
    Stuck,
}

impl IndexFigures {
    pub(super) fn verdict(&self, options: &ReviewOptions) -> Verdict {
        if self.counted < options.age_min {
            Verdict::Young
        } else if self.scans <= options.scans_unused_max {
            Verdict::Unused
        } else if self.saves_a_day.is_some_and(|saves| saves < self.writes_cost_a_day) {
            Verdict::Dear
        } else {
            Verdict::Pays
        }
    }
}

impl Reviewed {
    /// The figures behind the verdict, for the audit too.
    pub(super) fn why(&self) -> String {
        let IndexFigures { scans, counted, saves_a_day, writes_cost_a_day } = self.figures;
        let saves = saves_a_day.map_or_else(|| "an unknown amount".to_owned(), |saves| format!("{saves:.0}"));
        format!(
            "{scans} scans in {} h at least; a day saves {saves}, and its writes cost {writes_cost_a_day:.0}",
            counted.as_secs() / 3600
        )
    }
}

impl fmt::Display for Reviewed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Pays => "pays",
            Verdict::Young => "too young to be judged",
            Verdict::Unused => "hardly used",
            Verdict::Dear => "costs more than it saves",
        };
        let fate = match self.fate {
            Fate::Stands => "",
            Fate::TakenBack => ", taken back",
            Fate::Stuck => ", not taken back yet: a transaction is in the way",
        };
        write!(formatter, "{} on {}: {verdict}{fate} ({})", self.name, self.table, self.why())
    }
}

impl fmt::Display for Review {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.indexes.is_empty() {
            writeln!(formatter, "no index to review: none that was built here stands")?;
        }
        for index in &self.indexes {
            writeln!(formatter, "{index}")?;
        }
        for name in &self.swept {
            writeln!(formatter, "{name}: what was left of it is dropped")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_secs(7 * 86_400);

    fn check(scans: u64, counted: Duration, saves_a_day: Option<f64>, expected: Verdict) {
        let figures = IndexFigures { scans, counted, saves_a_day, writes_cost_a_day: 1_000.0 };
        assert_eq!(figures.verdict(&ReviewOptions::default()), expected, "{figures:?}");
    }

    #[test]
    fn an_index_pays_that_is_used_and_saves_what_it_costs() {
        let almost = WEEK - Duration::from_millis(1);
        check(0, almost, Some(0.0), Verdict::Young);
        check(1_000_000, almost, Some(1e9), Verdict::Young);
        check(50, WEEK, Some(1e9), Verdict::Unused);
        check(50, WEEK, None, Verdict::Unused);
        check(51, WEEK, None, Verdict::Pays);
        check(51, WEEK, Some(999.9), Verdict::Dear);
        check(51, WEEK, Some(1_000.0), Verdict::Pays);
    }

    #[test]
    fn a_page_names_index_verdict_figures_and_what_was_done() {
        let figures =
            IndexFigures { scans: 3, counted: WEEK, saves_a_day: Some(12.4), writes_cost_a_day: 800.0 };
        let table = TableName { schema: "public".to_owned(), name: "note".to_owned() };
        let (name, statement) = ("advised_note_00000000".to_owned(), String::new());
        let index =
            Reviewed { table, name, statement, figures, verdict: Verdict::Unused, fate: Fate::TakenBack };
        let review = Review { indexes: vec![index], swept: vec!["public.advised_half".to_owned()] };
        let page = "advised_note_00000000 on public.note: hardly used, taken back (3 scans in 168 h at least; a day \
                    saves 12, and its writes cost 800)\npublic.advised_half: what was left of it is dropped\n";
        assert_eq!(review.to_string(), page);
        assert!(Review::default().to_string().starts_with("no index to review"));
    }
}
