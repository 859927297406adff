//! A suite's figures as a text table: medians with their spread, ratios, verdicts. Shows, and decides nothing.

use std::fmt::Write as _;

use crate::report::{CaseReport, Report, SuiteReport, Summary, Target};

/// The machine and the command, which every figure stands with.
#[must_use]
pub fn header(report: &Report) -> String {
    let machine = &report.machine;
    let postgres: Vec<String> =
        machine.postgres.iter().map(|(name, value)| format!("{name} {value}")).collect();
    format!(
        "commit   {}\nmachine  {}, {} cores, {:.1} GiB, Linux {}\npostgres {}\ncommand  {}\n",
        report.commit,
        machine.cpu,
        machine.cores,
        gibibytes(machine.memory_bytes),
        machine.kernel,
        postgres.join(", "),
        report.command
    )
}

/// One suite: a line per case and peer.
#[must_use]
pub fn render(suite: &SuiteReport) -> String {
    let mut rows = vec![["case", "unit", "ours", "peer", "theirs", "ratio", "target"].map(str::to_owned)];
    for case in &suite.cases {
        add_rows(&mut rows, case);
    }
    let mut text = format!("== {}: medians (min-max) ==\n", suite.suite);
    let widths: Vec<usize> =
        (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for row in &rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Names stand left, numbers right.
            let padding = " ".repeat(width - cell.chars().count());
            let gap = if index == 0 { "" } else { "  " };
            let is_name = matches!(index, 0 | 1 | 3 | 6);
            let _ = if is_name {
                write!(line, "{gap}{cell}{padding}")
            } else {
                write!(line, "{gap}{padding}{cell}")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for note in &suite.notes {
        let _ = writeln!(text, "  {note}");
    }
    text
}

fn add_rows(rows: &mut Vec<[String; 7]>, case: &CaseReport) {
    let mut line = [
        case.case.clone(),
        case.unit.to_owned(),
        spread(&case.ours),
        String::new(),
        String::new(),
        String::new(),
        verdict(case),
    ];
    if case.peers.is_empty() {
        rows.push(line);
        return;
    }
    for peer in &case.peers {
        line[3] = peer.name.to_owned();
        line[4] = spread(&peer.figures);
        line[5] = format!("{:.2}x", case.ratio(peer));
        rows.push(line.clone());
        // The case itself is said once.
        line = std::array::from_fn(|_| String::new());
    }
}

fn verdict(case: &CaseReport) -> String {
    let Some((target, met)) = case.target.as_ref().zip(case.met()) else { return "-".to_owned() };
    let met = if met { "met" } else { "MISSED" };
    match target {
        Target::RatioAtLeast { peer, ratio } => format!("{met}: >= {ratio}x {peer}"),
        Target::FigureAtMost(most) => format!("{met}: <= {most} {}", case.unit),
    }
}

/// A case without a usable round has no figure: its notes say why.
fn spread(summary: &Summary) -> String {
    if summary.median().is_nan() {
        return "void".to_owned();
    }
    format!("{} ({}-{})", figure(summary.median()), figure(summary.min()), figure(summary.max()))
}

/// What is not nothing does not look like it: it may have missed a target of nothing.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => grouped(value),
        small if small > 0.0 && small < 0.005 => format!("{value:.0e}"),
        _ => format!("{value:.2}"),
    }
}

/// Whole, with a comma between each three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0.0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "one decimal of gibibytes is shown")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Better, PeerFigures};

    #[test]
    fn thousands_are_grouped() {
        for (value, expected) in
            [(0.0, "0"), (999.0, "999"), (1_000.0, "1,000"), (1_234_567.4, "1,234,567"), (-1_000.0, "-1,000")]
        {
            assert_eq!(grouped(value), expected);
        }
    }

    #[test]
    fn figure_that_is_not_nothing_does_not_look_like_it() {
        for (value, expected) in [(0.0, "0.00"), (0.000_04, "4e-5"), (0.005, "0.01"), (99.5, "99.50")] {
            assert_eq!(figure(value), expected);
        }
    }

    #[test]
    fn case_without_a_usable_round_is_void() {
        for runs in [vec![], vec![f64::NAN]] {
            assert_eq!(spread(&Summary { runs }), "void");
        }
    }

    #[test]
    fn every_case_shows_medians_spread_ratio_and_verdict() {
        let case = |target| CaseReport {
            case: "uniform, 512 callers".to_owned(),
            unit: "payments/s",
            better: Better::Higher,
            ours: Summary { runs: vec![19_000.0, 21_000.0, 20_000.0] },
            peers: vec![PeerFigures { name: "pgbench", figures: Summary { runs: vec![8_000.0] } }],
            target,
        };
        let reach = Target::RatioAtLeast { peer: "pgbench", ratio: 2.5 };
        let over = Target::RatioAtLeast { peer: "pgbench", ratio: 6.0 };
        let suite = SuiteReport {
            suite: "engine",
            cases: vec![case(Some(reach)), case(Some(over)), case(None)],
            notes: vec!["seed 7".to_owned()],
        };
        let lines: Vec<String> = render(&suite).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "== engine: medians (min-max) ==");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["case", "unit", "ours", "peer", "theirs", "ratio", "target"]
        );
        assert!(lines[2].contains("20,000 (19,000-21,000)") && lines[2].contains("2.50x"), "{}", lines[2]);
        assert!(lines[2].ends_with("met: >= 2.5x pgbench"), "{}", lines[2]);
        assert!(lines[3].ends_with("MISSED: >= 6x pgbench"), "{}", lines[3]);
        assert!(lines[4].ends_with('-'), "{}", lines[4]);
        assert_eq!(lines[5], "  seed 7");
    }
}
