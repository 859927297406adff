//! What a run found, as values: suites of cases, each with our figures, the peers' figures and a verdict. Judges, and
//! prints nothing: `table` and `json` show it.

use crate::machine::Machine;

/// Everything one run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Revision that was measured.
    pub commit: String,
    /// What it ran on.
    pub machine: Machine,
    /// How it was started, without secrets.
    pub command: String,
    /// In the order they ran.
    pub suites: Vec<SuiteReport>,
}

/// What one suite found.
#[derive(Clone, Debug)]
pub struct SuiteReport {
    /// Its name on the command line.
    pub suite: &'static str,
    /// In the order they are shown.
    pub cases: Vec<CaseReport>,
    /// Facts that a reader of the figures needs: seeds, sizes, what was verified.
    pub notes: Vec<String>,
}

/// Which way a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    Higher,
    /// Latencies.
    Lower,
}

/// What was measured once on one side, all rounds together.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One figure per round, in order.
    pub runs: Vec<f64>,
}

impl Summary {
    /// The middle figure; of an even number, the mean of the two in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The smallest figure.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.runs.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest figure.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.runs.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The figures of one peer.
#[derive(Clone, Debug)]
pub struct PeerFigures {
    /// Who.
    pub name: &'static str,
    /// What it did.
    pub figures: Summary,
}

/// What a case must reach.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// The ratio against this peer, where above 1 means that we are better.
    RatioAtLeast {
        /// Who.
        peer: &'static str,
        /// How much.
        ratio: f64,
    },
    /// Our own figure, in the case's unit.
    FigureAtMost(f64),
}

/// One measured thing.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// What, in words.
    pub case: String,
    /// Of every figure in it.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
    /// Our side.
    pub ours: Summary,
    /// The others.
    pub peers: Vec<PeerFigures>,
    /// What it must reach, if anything.
    pub target: Option<Target>,
}

impl CaseReport {
    /// Ours against a peer, from the medians; above 1 always means that ours is better.
    #[must_use]
    pub fn ratio(&self, peer: &PeerFigures) -> f64 {
        let (ours, theirs) = (self.ours.median(), peer.figures.median());
        match self.better {
            Better::Higher => ours / theirs,
            Better::Lower => theirs / ours,
        }
    }

    /// The figure that the target is about: a ratio, or our own median.
    #[must_use]
    pub fn judged(&self) -> Option<f64> {
        match self.target.as_ref()? {
            Target::RatioAtLeast { peer, .. } => {
                self.peers.iter().find(|figures| figures.name == *peer).map(|figures| self.ratio(figures))
            }
            Target::FigureAtMost(_) => Some(self.ours.median()),
        }
    }

    /// Whether the target was reached; `None` without one. A figure that is missing or no number misses it.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let target = self.target.as_ref()?;
        let judged = self.judged().unwrap_or(f64::NAN);
        Some(match target {
            Target::RatioAtLeast { ratio, .. } => judged >= *ratio,
            Target::FigureAtMost(most) => judged <= *most,
        })
    }
}

impl Report {
    /// Suite and case of every target that was missed.
    pub fn missed(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.suites.iter().flat_map(|suite| {
            let missed = suite.cases.iter().filter(|case| case.met() == Some(false));
            missed.map(|case| (suite.suite, case.case.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(runs: &[f64]) -> Summary {
        Summary { runs: runs.to_vec() }
    }

    fn case(better: Better, ours: f64, theirs: f64, target: Option<Target>) -> CaseReport {
        let peers = vec![PeerFigures { name: "peer", figures: summary(&[theirs]) }];
        CaseReport { case: "case".to_owned(), unit: "unit", better, ours: summary(&[ours]), peers, target }
    }

    #[test]
    fn median_is_the_middle_whatever_the_order() {
        for (runs, expected) in
            [(vec![3.0], 3.0), (vec![9.0, 1.0, 5.0], 5.0), (vec![4.0, 1.0, 2.0, 100.0], 3.0)]
        {
            assert!((summary(&runs).median() - expected).abs() < 1e-9, "{runs:?}");
        }
        assert!(summary(&[]).median().is_nan());
        let spread = summary(&[2.0, 8.0, 5.0]);
        assert!((spread.min() - 2.0).abs() < 1e-9 && (spread.max() - 8.0).abs() < 1e-9);
    }

    #[test]
    fn ratio_above_one_means_ours_is_better_both_ways() {
        for better in [Better::Higher, Better::Lower] {
            let (good, bad) = match better {
                Better::Higher => (20.0, 10.0),
                Better::Lower => (10.0, 20.0),
            };
            let won = case(better, good, bad, None);
            assert!((won.ratio(&won.peers[0]) - 2.0).abs() < 1e-9, "{better:?}");
        }
    }

    #[test]
    fn target_is_met_from_its_bound_on() {
        let at_least = |ratio| Some(Target::RatioAtLeast { peer: "peer", ratio });
        assert_eq!(case(Better::Higher, 25.0, 10.0, at_least(2.5)).met(), Some(true));
        assert_eq!(case(Better::Higher, 24.9, 10.0, at_least(2.5)).met(), Some(false));
        assert_eq!(case(Better::Lower, 100.0, 1.0, Some(Target::FigureAtMost(100.0))).met(), Some(true));
        assert_eq!(case(Better::Lower, 100.1, 1.0, Some(Target::FigureAtMost(100.0))).met(), Some(false));
        assert_eq!(case(Better::Higher, 1.0, 1.0, None).met(), None);
    }

    #[test]
    fn figure_that_is_missing_misses_its_target() {
        let absent = Some(Target::RatioAtLeast { peer: "nobody", ratio: 0.1 });
        assert_eq!(case(Better::Higher, 9.0, 1.0, absent).met(), Some(false));
        assert_eq!(case(Better::Lower, f64::NAN, 1.0, Some(Target::FigureAtMost(1.0))).met(), Some(false));
    }
}
