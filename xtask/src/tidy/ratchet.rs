//! `xtask/tidy-ratchet.txt`: findings that are tolerated for now, as `RULE path count`. The file can only
//! shrink: a count above what is found is itself a finding, and so is a sum above [`TOLERATED_MAX`].

use std::collections::BTreeMap;

use super::finding::Finding;

/// Where the file is, relative to the workspace root.
pub(super) const RATCHET_FILE: &str = "xtask/tidy-ratchet.txt";

/// The sum of all counts in the file. It started empty; whoever lowers the file lowers this.
const TOLERATED_MAX: usize = 0;

/// What remains of the findings after the tolerated ones, with complaints about the ratchet itself.
pub(super) fn apply(findings: Vec<Finding>, ratchet: &str) -> Vec<Finding> {
    apply_up_to(TOLERATED_MAX, findings, ratchet)
}

fn apply_up_to(tolerated_max: usize, findings: Vec<Finding>, ratchet: &str) -> Vec<Finding> {
    let mut tolerated_sum = 0;
    let mut by_place: BTreeMap<(String, String), Vec<Finding>> = BTreeMap::new();
    for finding in findings {
        by_place.entry((finding.rule.to_owned(), finding.path.clone())).or_default().push(finding);
    }
    let mut remaining = Vec::new();
    for (index, line) in ratchet.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut complain = |message: String| {
            let path = RATCHET_FILE.to_owned();
            remaining.push(Finding { path, line: index + 1, rule: "ratchet", message });
        };
        let Some((rule, path, tolerated)) = parse(line) else {
            complain(format!("write `RULE path count`, not `{line}`"));
            continue;
        };
        tolerated_sum += tolerated;
        if tolerated_sum > tolerated_max {
            complain(format!(
                "tolerates {tolerated_sum} findings, over {tolerated_max}: mend {path} instead"
            ));
        }
        let place = (rule.to_owned(), path.to_owned());
        let found = by_place.get(&place).map_or(0, Vec::len);
        if found < tolerated {
            complain(format!("{rule} {path} is down to {found}: lower it (or remove the line)"));
        }
        if found <= tolerated {
            by_place.remove(&place);
        }
    }
    remaining.extend(by_place.into_values().flatten());
    remaining.sort();
    remaining
}

fn parse(line: &str) -> Option<(&str, &str, usize)> {
    let mut words = line.split_whitespace();
    let parsed = (words.next()?, words.next()?, words.next()?.parse().ok()?);
    words.next().is_none().then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::{Finding, apply as apply_as_it_stands, apply_up_to};

    fn apply(findings: Vec<Finding>, ratchet: &str) -> Vec<Finding> {
        apply_up_to(3, findings, ratchet)
    }

    fn found(count: usize) -> Vec<Finding> {
        (1..=count)
            .map(|line| Finding {
                path: "a.rs".to_owned(),
                line,
                rule: "function-lines",
                message: "too long".to_owned(),
            })
            .collect()
    }

    #[test]
    fn listed_findings_are_tolerated_up_to_their_number() {
        assert_eq!(apply(found(2), "# why\n\nfunction-lines a.rs 2\n"), vec![]);
        assert_eq!(apply(found(3), "function-lines a.rs 2\n").len(), 3);
        assert_eq!(apply(found(1), "").len(), 1);
    }

    #[test]
    fn file_cannot_grow() {
        let remaining = apply(found(4), "function-lines a.rs 4\n");
        assert_eq!(remaining.len(), 1);
        assert!(remaining[0].message.contains("over 3"), "{}", remaining[0]);
        assert_eq!(apply_as_it_stands(found(1), "function-lines a.rs 1\n").len(), 1);
    }

    #[test]
    fn another_file_or_rule_is_not_covered() {
        assert_eq!(apply(found(1), "function-lines b.rs 0\n").len(), 1);
        assert_eq!(apply(found(1), "file-lines a.rs 0\n").len(), 1);
    }

    #[test]
    fn number_above_reality_must_be_lowered() {
        let remaining = apply(found(1), "function-lines a.rs 2\n");
        assert_eq!(remaining.len(), 1);
        assert!(remaining[0].message.contains("lower it"), "{}", remaining[0]);
        assert_eq!(apply(vec![], "function-lines gone.rs 1\n").len(), 1);
    }

    #[test]
    fn line_that_cannot_be_read_is_a_finding() {
        for line in ["function-lines a.rs", "function-lines a.rs many", "function-lines a.rs 1 2"] {
            let remaining = apply(vec![], line);
            assert_eq!(remaining.len(), 1);
            assert!(remaining[0].message.contains("RULE path count"), "{}", remaining[0]);
        }
    }
}
