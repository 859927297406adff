//! A report as JSON, schema 1: what `--json` writes. Knows the wire names; numbers that are none become `null`.
//! Beside the schema's fields, the report says with which command it was made, and each suite what was noted.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::report::{Better, CaseReport, Report, Summary, Target};

#[derive(Serialize)]
struct ReportBody<'report> {
    schema: u32,
    commit: &'report str,
    machine: MachineBody<'report>,
    command: &'report str,
    suites: Vec<SuiteBody<'report>>,
}

#[derive(Serialize)]
struct MachineBody<'report> {
    cpu: &'report str,
    cores: usize,
    memory_bytes: u64,
    kernel: &'report str,
    postgres: BTreeMap<&'report str, &'report str>,
}

#[derive(Serialize)]
struct SuiteBody<'report> {
    suite: &'report str,
    cases: Vec<CaseBody<'report>>,
    notes: &'report [String],
}

#[derive(Serialize)]
struct CaseBody<'report> {
    case: &'report str,
    unit: &'report str,
    higher_is_better: bool,
    ours: SummaryBody<'report>,
    peers: BTreeMap<&'report str, SummaryBody<'report>>,
    ratios: BTreeMap<&'report str, f64>,
    target: Option<TargetBody<'report>>,
    met: Option<bool>,
}

#[derive(Serialize)]
struct SummaryBody<'report> {
    median: f64,
    min: f64,
    max: f64,
    runs: &'report [f64],
}

/// `value` is the figure that was judged: the ratio against `peer`, or our own median without one.
#[derive(Serialize)]
struct TargetBody<'report> {
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'report str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_least: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
    value: Option<f64>,
}

/// The report as indented JSON with a line feed at its end.
#[must_use]
pub fn render(report: &Report) -> String {
    let machine = &report.machine;
    let body = ReportBody {
        schema: 1,
        commit: &report.commit,
        machine: MachineBody {
            cpu: &machine.cpu,
            cores: machine.cores,
            memory_bytes: machine.memory_bytes,
            kernel: &machine.kernel,
            postgres: machine.postgres.iter().map(|(name, value)| (*name, value.as_str())).collect(),
        },
        command: &report.command,
        suites: report
            .suites
            .iter()
            .map(|suite| SuiteBody {
                suite: suite.suite,
                cases: suite.cases.iter().map(case_body).collect(),
                notes: &suite.notes,
            })
            .collect(),
    };
    let mut text =
        serde_json::to_string_pretty(&body).expect("strings, numbers and maps with text keys are JSON");
    text.push('\n');
    text
}

fn case_body(case: &CaseReport) -> CaseBody<'_> {
    CaseBody {
        case: &case.case,
        unit: case.unit,
        higher_is_better: case.better == Better::Higher,
        ours: summary_body(&case.ours),
        peers: case.peers.iter().map(|peer| (peer.name, summary_body(&peer.figures))).collect(),
        ratios: case.peers.iter().map(|peer| (peer.name, case.ratio(peer))).collect(),
        target: case.target.as_ref().map(|target| target_body(target, case.judged())),
        met: case.met(),
    }
}

fn summary_body(summary: &Summary) -> SummaryBody<'_> {
    SummaryBody { median: summary.median(), min: summary.min(), max: summary.max(), runs: &summary.runs }
}

fn target_body(target: &Target, value: Option<f64>) -> TargetBody<'_> {
    match target {
        Target::RatioAtLeast { peer, ratio } => {
            TargetBody { peer: Some(peer), at_least: Some(*ratio), at_most: None, value }
        }
        Target::FigureAtMost(most) => TargetBody { peer: None, at_least: None, at_most: Some(*most), value },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::machine::Machine;
    use crate::report::{PeerFigures, SuiteReport};

    fn report() -> Report {
        let rate = CaseReport {
            case: "uniform, 512 callers".to_owned(),
            unit: "payments/s",
            better: Better::Higher,
            ours: Summary { runs: vec![20.0, 30.0, 25.0] },
            peers: vec![PeerFigures { name: "pgbench", figures: Summary { runs: vec![10.0] } }],
            target: Some(Target::RatioAtLeast { peer: "pgbench", ratio: 2.5 }),
        };
        let latency = CaseReport {
            case: "p99".to_owned(),
            unit: "ms",
            better: Better::Lower,
            ours: Summary { runs: vec![f64::NAN] },
            peers: Vec::new(),
            target: Some(Target::FigureAtMost(100.0)),
        };
        Report {
            commit: "abc".to_owned(),
            machine: Machine {
                cpu: "cpu".to_owned(),
                cores: 2,
                memory_bytes: 1024,
                kernel: "6.1".to_owned(),
                postgres: vec![("server_version", "15.1".to_owned())],
            },
            command: "paystrata-bench engine".to_owned(),
            suites: vec![SuiteReport {
                suite: "engine",
                cases: vec![rate, latency],
                notes: vec!["seed 1".to_owned()],
            }],
        }
    }

    #[test]
    fn shape_is_schema_1() {
        let value: Value = serde_json::from_str(&render(&report())).unwrap();
        let expected = json!({
            "schema": 1,
            "commit": "abc",
            "machine": {"cpu": "cpu", "cores": 2, "memory_bytes": 1024, "kernel": "6.1", "postgres": {"server_version": "15.1"}},
            "command": "paystrata-bench engine",
            "suites": [{
                "suite": "engine",
                "notes": ["seed 1"],
                "cases": [
                    {
                        "case": "uniform, 512 callers", "unit": "payments/s", "higher_is_better": true,
                        "ours": {"median": 25.0, "min": 20.0, "max": 30.0, "runs": [20.0, 30.0, 25.0]},
                        "peers": {"pgbench": {"median": 10.0, "min": 10.0, "max": 10.0, "runs": [10.0]}},
                        "ratios": {"pgbench": 2.5},
                        "target": {"peer": "pgbench", "at_least": 2.5, "value": 2.5}, "met": true
                    },
                    {
                        "case": "p99", "unit": "ms", "higher_is_better": false,
                        "ours": {"median": null, "min": null, "max": null, "runs": [null]},
                        "peers": {}, "ratios": {},
                        "target": {"at_most": 100.0, "value": null}, "met": false
                    }
                ]
            }]
        });
        // `min` and `max` of a single NaN are infinities, which JSON writes as null too.
        assert_eq!(value, expected);
    }
}
